//! Joining: how a node gets its own certificate, once.
//!
//! Comes in: the join token and the authority's certificate. Goes out: key, certificate and authority in the state
//! folder, readable by the owner only. The key is made here and never leaves the node.
//! This part must never speak to a scheduler whose certificate it cannot check, nor replace an identity that is there.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use dure_proto::v1::{JoinRequest, agents_client::AgentsClient};
use rcgen::{CertificateParams, DnType, KeyPair};
use tonic::{
    Code, Request,
    transport::{Certificate, ClientTlsConfig, Endpoint, Identity},
};

use crate::{
    config::{AgentConfig, ConfigError, is_tls},
    durable,
};

/// How long one scheduler may take to answer.
const JOIN_DEADLINE: Duration = Duration::from_secs(30);

/// Why a node could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The settings do not allow it.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Something that joining needs is not configured.
    #[error("cannot join without {0}")]
    Missing(&'static str),
    /// The disk refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The key or the request could not be made.
    #[error("certificate request: {0}")]
    Request(#[from] rcgen::Error),
    /// The scheduler refused; another try will not help.
    #[error("the scheduler refuses node {node}: {why}")]
    Refused {
        /// The node.
        node: String,
        /// Its words.
        why: String,
    },
    /// No scheduler answered; try again.
    #[error("no scheduler answered: {0}")]
    Unreachable(String),
}

/// The files of a node's identity.
#[derive(Clone, Debug)]
pub struct IdentityFiles {
    dir: PathBuf,
}

impl IdentityFiles {
    /// Under a state folder.
    pub fn under(state_dir: &Path) -> Self {
        Self { dir: state_dir.join("identity") }
    }

    /// The node's private key (PEM).
    pub fn key(&self) -> PathBuf {
        self.dir.join("node.key")
    }

    /// The node's certificate (PEM).
    pub fn certificate(&self) -> PathBuf {
        self.dir.join("node.crt")
    }

    /// The authority that signed it (PEM).
    pub fn authority(&self) -> PathBuf {
        self.dir.join("authority.crt")
    }

    /// The node has joined: all three are there. The certificate is written last.
    pub fn are_complete(&self) -> bool {
        [self.key(), self.authority(), self.certificate()].iter().all(|path| path.is_file())
    }

    /// What the TLS side needs.
    pub(crate) fn client(&self) -> Result<ClientTlsConfig, JoinError> {
        let [key, certificate, authority] = [self.key(), self.certificate(), self.authority()].map(|path| read(&path));
        Ok(ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(authority?))
            .identity(Identity::from_pem(certificate?, key?)))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, JoinError> {
    fs::read(path).map_err(|source| JoinError::Io { path: path.to_owned(), source })
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), JoinError> {
    durable::replace(path, bytes).map_err(|source| JoinError::Io { path: path.to_owned(), source })
}

/// Joins, unless the node has joined already.
///
/// # Errors
/// `Refused`: the token or the node's name is wrong. `Unreachable`: try again. Everything else: fix the configuration.
pub async fn join(config: &AgentConfig) -> Result<IdentityFiles, JoinError> {
    let files = IdentityFiles::under(&config.state_dir);
    if files.are_complete() {
        return Ok(files);
    }
    config.check()?;
    let token = config.token()?.ok_or(JoinError::Missing("token_file: ask an operator for a join token"))?;
    let ca = config.ca.as_deref().ok_or(JoinError::Missing("ca: the file with the scheduler's authority"))?;
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca)?));
    durable::create_dir(&files.dir).map_err(|source| JoinError::Io { path: files.dir.clone(), source })?;
    // The key before the request: an answer that arrives must find it on disk.
    let key = match fs::read_to_string(files.key()) {
        Ok(pem) => KeyPair::from_pem(&pem)?,
        Err(_) => KeyPair::generate()?,
    };
    write(&files.key(), key.serialize_pem().as_bytes())?;
    let mut params = CertificateParams::new(vec![config.node.clone()])?;
    params.distinguished_name.push(DnType::CommonName, config.node.clone());
    let request = params.serialize_request(&key)?.der().to_vec();
    let mut last = String::new();
    for endpoint in config.scheduler.iter().filter(|endpoint| is_tls(endpoint)) {
        match ask(endpoint, tls.clone(), &config.node, &token, request.clone()).await {
            Ok(answer) => {
                write(&files.authority(), answer.authority_pem.as_bytes())?;
                write(&files.certificate(), answer.certificate_pem.as_bytes())?;
                return Ok(files);
            }
            Err(JoinError::Unreachable(why)) => last = format!("{endpoint}: {why}"),
            Err(other) => return Err(other),
        }
    }
    if last.is_empty() {
        Err(JoinError::Missing("an https:// address in scheduler"))
    } else {
        Err(JoinError::Unreachable(last))
    }
}

async fn ask(
    endpoint: &str,
    tls: ClientTlsConfig,
    node: &str,
    token: &str,
    certificate_request: Vec<u8>,
) -> Result<dure_proto::v1::JoinResponse, JoinError> {
    let unreachable = |err: tonic::transport::Error| JoinError::Unreachable(chain(&err));
    let endpoint = Endpoint::from_shared(endpoint.to_owned()).and_then(|endpoint| endpoint.tls_config(tls));
    let endpoint = endpoint.map_err(unreachable)?.connect_timeout(JOIN_DEADLINE).timeout(JOIN_DEADLINE);
    let mut client = AgentsClient::new(endpoint.connect().await.map_err(unreachable)?);
    let mut request = Request::new(JoinRequest { node: node.to_owned(), certificate_request });
    let bearer = format!("Bearer {token}").parse().expect("a token is visible ASCII, which was checked");
    request.metadata_mut().insert("authorization", bearer);
    match client.join(request).await {
        Ok(answer) => Ok(answer.into_inner()),
        Err(status) => match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Cancelled | Code::FailedPrecondition => {
                Err(JoinError::Unreachable(status.message().to_owned()))
            }
            _ => Err(JoinError::Refused { node: node.to_owned(), why: status.message().to_owned() }),
        },
    }
}

/// An error with all its causes: transport errors hide theirs.
pub(crate) fn chain(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut source = err.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
