//! Joining with a token, and the session over TLS with the node's own certificate.

use std::{fs, os::unix::fs::PermissionsExt as _};

use dure_agent::{
    AgentConfig,
    config::GpuSource,
    join::{IdentityFiles, JoinError, join},
};
use dure_proto::v1::{
    AgentMessage, JoinRequest, JoinResponse, SchedulerMessage,
    agents_server::{Agents, AgentsServer},
};
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Certificate, Identity, Server, ServerTlsConfig},
};

use crate::harness::soon;

/// Signs whoever shows the token; tells which certificate a session was opened with.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    seen: mpsc::Sender<Vec<u8>>,
}

#[tonic::async_trait]
impl Agents for Authority {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let token = request.metadata().get("authorization").and_then(|token| token.to_str().ok());
        if token != Some("Bearer once") {
            return Err(Status::unauthenticated("the join token is not valid"));
        }
        let der = request.into_inner().certificate_request.into();
        let csr = CertificateSigningRequestParams::from_der(&der).map_err(|err| Status::internal(err.to_string()))?;
        let certificate = csr.signed_by(&self.issuer).map_err(|err| Status::internal(err.to_string()))?;
        Ok(Response::new(JoinResponse { certificate_pem: certificate.pem(), authority_pem: self.pem.clone() }))
    }

    type SessionStream = ReceiverStream<Result<SchedulerMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let certificates = request.peer_certs().ok_or_else(|| Status::unauthenticated("no certificate"))?;
        self.seen.send(certificates[0].to_vec()).await.map_err(|_| Status::unavailable("the test is over"))?;
        let (to, answers) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut from = request.into_inner();
            while from.message().await.is_ok_and(|message| message.is_some()) {}
            drop(to);
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

/// Its address, its authority (PEM), and the certificates that sessions were opened with.
async fn serve() -> (String, String, mpsc::Receiver<Vec<u8>>) {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let pem = params.self_signed(&key).expect("signs itself").pem();
    let issuer = Issuer::new(params, key);
    let server_key = KeyPair::generate().expect("a key");
    let server = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let server = server.signed_by(&server_key, &issuer).expect("is signed").pem();
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(server, server_key.serialize_pem()))
        .client_ca_root(Certificate::from_pem(&pem))
        .client_auth_optional(true);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("https://localhost:{}", listener.local_addr().expect("bound").port());
    let (seen, sessions) = mpsc::channel(8);
    let service = AgentsServer::new(Authority { issuer, pem: pem.clone(), seen });
    let builder = Server::builder().tls_config(tls).expect("TLS").add_service(service);
    tokio::spawn(async move { builder.serve_with_incoming(TcpListenerStream::new(listener)).await.expect("serves") });
    (endpoint, pem, sessions)
}

#[tokio::test]
async fn a_node_joins_once_and_then_speaks_with_its_own_certificate() {
    let (endpoint, authority, mut sessions) = serve().await;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).expect("writes");
        path
    };
    let mut config = AgentConfig::new("n7", endpoint, dir.path().join("state"));
    config.gpus = GpuSource::None;
    let message = join(&config).await.expect_err("needs a token").to_string();
    assert!(message.contains("token_file"), "{message}");
    config.token_file = Some(write("token", "wrong"));
    let message = join(&config).await.expect_err("needs an authority").to_string();
    assert!(message.contains("cannot join without ca"), "{message}");
    config.ca = Some(write("ca.pem", &authority));
    assert!(matches!(join(&config).await, Err(JoinError::Refused { .. })));
    config.token_file = Some(write("token", "once\n"));
    let files = join(&config).await.expect("joins");
    assert!(files.are_complete());
    let mode = fs::metadata(files.key()).expect("is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // The token is of no use any more and not needed any more.
    config.token_file = None;
    tokio::spawn(dure_agent::run(config, std::future::pending()));
    let shown = soon("a session", sessions.recv()).await.expect("the server runs");
    let own = fs::read_to_string(IdentityFiles::under(&dir.path().join("state")).certificate()).expect("is there");
    assert_eq!(pem_body(&own), shown);
}

#[tokio::test]
async fn a_scheduler_that_the_authority_does_not_vouch_for_is_not_believed() {
    let (endpoint, _, _sessions) = serve().await;
    let (_, stranger, _) = serve().await;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let [token, ca] = ["token", "ca.pem"].map(|name| dir.path().join(name));
    fs::write(&token, "once").expect("writes");
    fs::write(&ca, stranger).expect("writes");
    let mut config = AgentConfig::new("n7", endpoint, dir.path().join("state"));
    (config.token_file, config.ca) = (Some(token), Some(ca));
    let err = join(&config).await.expect_err("must not show its token to a stranger");
    assert!(matches!(&err, JoinError::Unreachable(why) if why.contains("certificate")), "{err}");
}

/// The DER inside a PEM of one block.
fn pem_body(pem: &str) -> Vec<u8> {
    use rustls_pki_types::pem::PemObject as _;
    rustls_pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate").to_vec()
}
