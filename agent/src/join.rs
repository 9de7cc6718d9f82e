//! Joining: how a node gets its own certificate, once, and renews it by itself from then on.
//!
//! Comes in: the join token and the authority's certificate. Goes out: key, certificate and authority in the state
//! folder, readable by the owner only. The key is made here and never leaves the node.
//! This part must never speak to a scheduler whose certificate it cannot check, nor replace an identity that is there.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use dure_proto::v1::{JoinRequest, JoinResponse, agents_client::AgentsClient};
use rcgen::{CertificateParams, DnType, KeyPair};
use tonic::{
    Code, Request,
    transport::{Certificate, ClientTlsConfig, Endpoint, Identity},
};

use crate::{
    config::{AgentConfig, ConfigError, is_tls},
    durable,
};

/// Between two looks at how long the certificate still holds.
const LOOK_EVERY: Duration = Duration::from_secs(6 * 3600);

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
    /// The certificate on disk cannot be read.
    #[error("the node's certificate: {why}: remove the folder identity and join again with a new token")]
    Damaged {
        /// What is wrong with it.
        why: String,
    },
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
    let answer = first_answer(config, &tls, Some(&token), &request(&config.node, &key)?).await?;
    write(&files.authority(), answer.authority_pem.as_bytes())?;
    write(&files.certificate(), answer.certificate_pem.as_bytes())?;
    Ok(files)
}

/// Asks for another certificate while there is plenty of time, for ever. The key stays: one file is replaced, at once.
pub(crate) async fn keep_renewed(config: &AgentConfig) {
    let files = IdentityFiles::under(&config.state_dir);
    loop {
        if files.are_complete() && config.scheduler.iter().any(|endpoint| is_tls(endpoint)) {
            match renew(config, &files, SystemTime::now()).await {
                Ok(true) => tracing::info!("the node's certificate is renewed"),
                Ok(false) => {}
                Err(err) => tracing::warn!(error = %err, "the node's certificate is not renewed; it is tried again"),
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Renews the certificate where it is time to; says whether it was.
///
/// # Errors
/// As [`join`]; the old certificate stays.
pub async fn renew(config: &AgentConfig, files: &IdentityFiles, now: SystemTime) -> Result<bool, JoinError> {
    if !is_due(&read(&files.certificate())?, now)? {
        return Ok(false);
    }
    let key = fs::read_to_string(files.key()).map_err(|source| JoinError::Io { path: files.key(), source })?;
    let request = request(&config.node, &KeyPair::from_pem(&key)?)?;
    let answer = first_answer(config, &files.client()?, None, &request).await?;
    write(&files.authority(), answer.authority_pem.as_bytes())?;
    write(&files.certificate(), answer.certificate_pem.as_bytes())?;
    Ok(true)
}

/// Whether two thirds of a certificate's time are over.
fn is_due(pem: &[u8], now: SystemTime) -> Result<bool, JoinError> {
    let damaged = |why: String| JoinError::Damaged { why };
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).map_err(|err| damaged(err.to_string()))?;
    let certificate = pem.parse_x509().map_err(|err| damaged(err.to_string()))?;
    let validity = certificate.validity();
    let (from, until) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Ok(i64::try_from(now).unwrap_or(i64::MAX) >= from + (until - from) / 3 * 2)
}

fn request(node: &str, key: &KeyPair) -> Result<Vec<u8>, JoinError> {
    let mut params = CertificateParams::new(vec![node.to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, node.to_owned());
    Ok(params.serialize_request(key)?.der().to_vec())
}

/// What the first scheduler says that answers.
async fn first_answer(
    config: &AgentConfig,
    tls: &ClientTlsConfig,
    token: Option<&str>,
    request: &[u8],
) -> Result<JoinResponse, JoinError> {
    let mut last = String::new();
    for endpoint in config.scheduler.iter().filter(|endpoint| is_tls(endpoint)) {
        match ask(endpoint, tls.clone(), &config.node, token, request.to_vec()).await {
            Err(JoinError::Unreachable(why)) => last = format!("{endpoint}: {why}"),
            other => return other,
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
    token: Option<&str>,
    certificate_request: Vec<u8>,
) -> Result<JoinResponse, JoinError> {
    let unreachable = |err: tonic::transport::Error| JoinError::Unreachable(chain(&err));
    let endpoint = Endpoint::from_shared(endpoint.to_owned()).and_then(|endpoint| endpoint.tls_config(tls));
    let endpoint = endpoint.map_err(unreachable)?.connect_timeout(JOIN_DEADLINE).timeout(JOIN_DEADLINE);
    let mut client = AgentsClient::new(endpoint.connect().await.map_err(unreachable)?);
    let mut request = Request::new(JoinRequest { node: node.to_owned(), certificate_request });
    if let Some(token) = token {
        let bearer = format!("Bearer {token}").parse().expect("a token is visible ASCII, which was checked");
        request.metadata_mut().insert("authorization", bearer);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_while_a_third_of_its_time_is_left() {
        let (begin, day) = (UNIX_EPOCH + Duration::from_secs(1_700_000_000), Duration::from_secs(86_400));
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = (begin.into(), (begin + day * 90).into());
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("signed").pem();
        let due = |days: u32| is_due(pem.as_bytes(), begin + day * days).expect("it reads");
        assert!(!due(0) && !due(59) && due(60) && due(91));
        let damaged = is_due(b"no certificate", begin).expect_err("it is none");
        assert!(damaged.to_string().contains("join again"), "{damaged}");
    }
}
