//! The way to etcd: three members, of which any may be dead, paused or slow at any moment.
//!
//! In: requests that may be repeated without harm (reads, and transactions whose compare makes a repetition visible). Out:
//! an answer of some member, or why there is none within the patience given. It has a thread of its own, so that a lease is
//! renewed whatever the other threads do. It never decides what an answer means, and never repeats a request that is not
//! safe to repeat.

mod call;
pub mod keys;
pub mod local;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dure_proto::etcd::{self, kv_client::KvClient, lease_client::LeaseClient, watch_client::WatchClient};
use tokio::runtime::Runtime;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

pub use call::Patience;
pub use keys::Keys;

/// Largest answer that is taken, in bytes: a page of entries, each below [`MAX_REQUEST_BYTES`].
const MAX_ANSWER_BYTES: usize = 128 << 20;
/// Bytes of one request: etcd refuses more than 1.5 MiB unless it is configured otherwise.
pub const MAX_REQUEST_BYTES: usize = 1 << 20;
/// Operations in one transaction: etcd refuses more than 128 unless it is configured otherwise.
pub const MAX_TXN_OPS: usize = 100;
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);
/// A member that answers no ping for so long is given up; a paused one takes connections but answers nothing.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(2);

/// Where etcd is and who speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdConfig {
    /// Addresses of the members: `http://host:port`, or `https://` with `ca`.
    pub endpoints: Vec<String>,
    /// What every key begins with.
    pub prefix: String,
    /// Authority that signed the members' certificates, PEM.
    pub ca: Option<PathBuf>,
    /// Our own certificate, PEM, and its key, where the members ask for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Why etcd gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EtcdError {
    /// Fix the settings.
    #[error("etcd {what}: {why}")]
    Config {
        /// Which setting, and its value.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// No member answered in time; whether the request took effect is unknown. Try again.
    #[error("no member of etcd answered: {0}")]
    Silent(String),
    /// The request did not take effect: no space left.
    #[error("etcd has no space left: {0}")]
    NoSpace(String),
    /// The request did not take effect, and a repetition will not either.
    #[error("etcd refuses: {0}")]
    Refused(String),
    /// This process ends.
    #[error("the way to etcd is closed")]
    Closed,
}

/// A way to the members. Cheap to clone; the last clone closes it.
#[derive(Clone)]
pub struct Etcd {
    inner: Arc<Inner>,
}

struct Inner {
    config: EtcdConfig,
    channels: Vec<Channel>,
    /// The member that answered last.
    preferred: AtomicUsize,
    runtime: Option<Runtime>,
}

impl std::fmt::Debug for Etcd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Etcd").field("endpoints", &self.inner.config.endpoints).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Etcd {
    /// A way to the members; connections are made when they are needed.
    ///
    /// # Errors
    /// [`EtcdError::Config`] for an address or a file that cannot be used.
    pub fn new(config: EtcdConfig) -> Result<Self, EtcdError> {
        let wrong = |what: &str, why: String| EtcdError::Config { what: what.to_owned(), why };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("etcd")
            .enable_all()
            .build()
            .map_err(|err| wrong("thread", err.to_string()))?;
        let tls = tls(&config)?;
        let mut channels = Vec::with_capacity(config.endpoints.len());
        {
            let _inside = runtime.enter();
            for address in &config.endpoints {
                channels.push(channel(address, tls.as_ref())?);
            }
        }
        if channels.is_empty() {
            return Err(wrong("endpoints", "name at least one member, better three".to_owned()));
        }
        let (preferred, runtime) = (AtomicUsize::new(0), Some(runtime));
        Ok(Self { inner: Arc::new(Inner { config, channels, preferred, runtime }) })
    }

    /// The keys of this store.
    pub fn keys(&self) -> Keys {
        Keys::new(&self.inner.config.prefix)
    }

    /// The store in an error's text, where a directory stands for other stores.
    pub fn place(&self) -> PathBuf {
        PathBuf::from(format!("etcd:{}{}", self.inner.config.endpoints.join(","), self.inner.config.prefix))
    }

    /// Starts work on the thread of this way.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.inner.runtime.as_ref().expect("it is there until the last clone is dropped").spawn(work)
    }

    /// Does work on the thread of this way and waits for it; for threads that may block, whatever runtime they belong to.
    ///
    /// # Errors
    /// Those of the work; [`EtcdError::Closed`].
    pub fn block<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, EtcdError>> + Send + 'static,
    ) -> Result<T, EtcdError> {
        let (done, answer) = std::sync::mpsc::sync_channel(1);
        self.spawn(async move { drop(done.send(work.await)) });
        answer.recv().unwrap_or(Err(EtcdError::Closed))
    }

    /// How many members there are.
    pub fn members(&self) -> usize {
        self.inner.channels.len()
    }

    fn channel(&self, turn: usize) -> (usize, Channel) {
        let at = (self.inner.preferred.load(Ordering::Relaxed) + turn) % self.inner.channels.len();
        (at, self.inner.channels[at].clone())
    }

    fn answered(&self, member: usize) {
        self.inner.preferred.store(member, Ordering::Relaxed);
    }

    fn kv(channel: Channel) -> KvClient<Channel> {
        KvClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    fn lease(channel: Channel) -> LeaseClient<Channel> {
        LeaseClient::new(channel)
    }

    /// Opens a watch on a range at the member that answered last, from the next change on. What comes is only a reason to
    /// look: it may come twice, late or not at all.
    ///
    /// # Errors
    /// [`EtcdError::Silent`]; then the next call asks another member.
    pub async fn watch(&self, range: keys::Range) -> Result<tonic::Streaming<etcd::WatchResponse>, EtcdError> {
        let (member, channel) = self.channel(0);
        let create = etcd::WatchCreateRequest { key: range.key.into(), range_end: range.end.into(), start_revision: 0 };
        let request =
            etcd::WatchRequest { request_union: Some(etcd::watch_request::RequestUnion::CreateRequest(create)) };
        // The stream of requests stays open: its end would end the watch.
        let requests = tokio_stream::StreamExt::chain(tokio_stream::once(request), tokio_stream::pending());
        let opened = tokio::time::timeout(CONNECT_DEADLINE, WatchClient::new(channel).watch(requests)).await;
        match opened {
            Ok(Ok(stream)) => Ok(stream.into_inner()),
            Ok(Err(status)) => {
                self.answered(member + 1);
                Err(EtcdError::Silent(status.to_string()))
            }
            Err(_) => {
                self.answered(member + 1);
                Err(EtcdError::Silent(format!("no watch within {CONNECT_DEADLINE:?}")))
            }
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, EtcdError> {
    let unreadable = |err: std::io::Error| EtcdError::Config { what: path.display().to_string(), why: err.to_string() };
    std::fs::read(path).map_err(unreadable)
}

fn tls(config: &EtcdConfig) -> Result<Option<ClientTlsConfig>, EtcdError> {
    let Some(ca) = &config.ca else { return Ok(None) };
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca)?));
    if let Some((cert, key)) = &config.identity {
        tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
    }
    Ok(Some(tls))
}

fn channel(address: &str, tls: Option<&ClientTlsConfig>) -> Result<Channel, EtcdError> {
    let wrong = |err: tonic::transport::Error| EtcdError::Config {
        what: format!("endpoint {address:?}"),
        why: format!("{err}; write http://host:2379, or https:// with ca"),
    };
    let mut endpoint = Endpoint::from_shared(address.to_owned())
        .map_err(wrong)?
        .connect_timeout(CONNECT_DEADLINE)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_EVERY)
        .keep_alive_while_idle(true);
    if let Some(tls) = tls {
        endpoint = endpoint.tls_config(tls.clone()).map_err(wrong)?;
    }
    Ok(endpoint.connect_lazy())
}
