//! A server of its own: its listener, its TLS, its runtime.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::net::TcpListener;

use super::StartError;
use crate::auth::ca::Authority;
use crate::config::{Config, ConfigError};
use crate::grpc::server::{ServeError, ServerTls};

/// A server on a runtime of its own, which ends with it: no connection of one leadership lives on in the next.
pub(crate) struct Served {
    runtime: Option<tokio::runtime::Runtime>,
    serving: tokio::task::JoinHandle<Result<(), ServeError>>,
}

impl Served {
    pub(super) fn start<F>(
        listener: std::net::TcpListener,
        serve: impl FnOnce(TcpListener) -> F,
    ) -> Result<Self, StartError>
    where
        F: Future<Output = Result<(), ServeError>> + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("grpc").build();
        let runtime = runtime.map_err(StartError::Thread)?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener).map_err(StartError::Thread)?
        };
        let serving = runtime.spawn(serve(listener));
        Ok(Self { runtime: Some(runtime), serving })
    }

    /// Waits for the last answers, at most so long, and closes all connections.
    pub(crate) async fn end(mut self, within: Duration) {
        if let Ok(Ok(Err(err))) = tokio::time::timeout(within, &mut self.serving).await {
            tracing::error!(error = %err, "the server had ended");
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub(super) async fn listen(field: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|error| StartError::Listen { field, address, error })
}

pub(super) fn server_tls(config: &Config, authority: &Authority) -> Result<Option<ServerTls>, StartError> {
    if !config.uses_tls() {
        return Ok(None);
    }
    let given = config.tls.as_ref().and_then(|tls| Some((tls.cert.as_ref()?, tls.key.as_ref()?)));
    let (certificate_pem, key_pem) = match given {
        Some((cert, key)) => (read_pem(cert)?, read_pem(key)?),
        None => {
            let own = authority.server(&config.server_names())?;
            (own.certificate_pem, own.key_pem)
        }
    };
    Ok(Some(ServerTls { certificate_pem, key_pem, node_authority_pem: authority.pem().to_owned() }))
}

fn read_pem(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })
}
