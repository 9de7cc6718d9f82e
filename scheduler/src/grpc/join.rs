//! Join: a join token and a signing request in, the node's own certificate out. A node that has one renews it by that.
//!
//! A one-time token is spent on disk before the certificate is given. The certificate names the node that the token
//! allows, whatever the request asks for.

use std::sync::Arc;

use dure_proto::v1;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tonic::{Request, Response, Status};

use super::status::Violation;
use crate::auth::ca::{Authority, CaError, NodeRequest};
use crate::auth::token::Checked;
use crate::auth::{self, Credential, Identity, Target, Tokens, Verb};

/// Longest name of a node, in bytes.
const MAX_NODE_NAME: usize = 128;

/// Gives nodes their certificates.
#[derive(Clone, Debug)]
pub struct Joiner {
    authority: Arc<Authority>,
    tokens: Tokens,
}

impl Joiner {
    /// Signs with `authority`, spends tokens in `tokens`.
    pub fn new(authority: Arc<Authority>, tokens: Tokens) -> Self {
        Self { authority, tokens }
    }

    /// Joins one node.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` without TLS; `PERMISSION_DENIED` for a token that does not allow the node or was spent on
    /// another; `INVALID_ARGUMENT` for the node's name or its request.
    pub async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::JoinResponse>, Status> {
        let identity = auth::of(&request)?;
        if request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>().is_none() {
            let why = "nodes join over TLS; on a plaintext loopback address the token itself serves for the session";
            return Err(Status::failed_precondition(why));
        }
        let joiner = self.clone();
        let request = request.into_inner();
        let signed = tokio::task::spawn_blocking(move || joiner.sign(&identity, &request)).await;
        signed.map_err(|err| Status::internal(format!("joining failed: {err}")))?.map(Response::new)
    }

    /// Whether a node's certificate was revoked since the session with it began; `checked` is the session's own.
    ///
    /// # Errors
    /// `UNAUTHENTICATED`, with the way back.
    pub fn check(&self, node: &str, credential: Credential, checked: &mut Checked) -> Result<(), Status> {
        let Credential::Certificate { issued } = credential else { return Ok(()) };
        self.tokens.check_again(node, issued, checked).map_err(|revoked| Status::unauthenticated(revoked.to_string()))
    }

    fn sign(&self, identity: &Identity, request: &v1::JoinRequest) -> Result<v1::JoinResponse, Status> {
        let node = request.node.as_str();
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if node.is_empty() || node.len() > MAX_NODE_NAME || !node.chars().all(is_name) {
            let problem = format!("{node:?}; use 1 to {MAX_NODE_NAME} letters, digits, '-', '.' or '_'");
            return Err(Violation::new("node", problem).into());
        }
        identity.may(Verb::Join, Target::Node(node))?;
        let asked = NodeRequest::parse(&request.certificate_request)?;
        match identity.credential {
            Credential::Token { digest, one_time } => {
                let spend = || self.tokens.spend(digest, node, asked.key());
                if one_time && !spend().map_err(|err| Status::unavailable(err.to_string()))? {
                    let why =
                        "this join token was spent already, on another node or key; ask an operator for a new one";
                    return Err(Status::permission_denied(why));
                }
                tracing::info!(node, token = ?digest, "a node has joined");
            }
            Credential::Certificate { .. } => tracing::info!(node, "a node has renewed its certificate"),
            Credential::Local => {
                return Err(Status::permission_denied("a node joins with a join token; this call carries none"));
            }
        }
        let certificate_pem = self.authority.node(node, &asked)?.certificate_pem;
        Ok(v1::JoinResponse { certificate_pem, authority_pem: self.authority.pem().to_owned() })
    }
}

impl From<CaError> for Status {
    fn from(error: CaError) -> Self {
        match error {
            CaError::BadRequest(_) => Status::invalid_argument(error.to_string()),
            CaError::Io { .. } | CaError::Incomplete { .. } | CaError::Certificate(_) | CaError::NoRandom(_) => {
                Status::internal(error.to_string())
            }
        }
    }
}
