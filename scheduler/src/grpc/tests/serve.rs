//! The server as a whole, over real connections: TLS, tokens, joining, sessions, and what is turned away.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use dure_proto::v1;
use dure_proto::v1::agents_client::AgentsClient;
use dure_proto::v1::agents_server::Agents;
use dure_proto::v1::jobs_client::JobsClient;
use rcgen::{CertificateParams, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_stream::Stream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::{World, identity};
use crate::auth::ca::{Authority, KeyedCertificate};
use crate::auth::{AuthPolicy, Authenticator, Credential, Guard, Identity, Role, Tokens, node_of, token::TokenDigest};
use crate::grpc::join::Joiner;
use crate::grpc::server::{ServerTls, serve};
use crate::metrics::Metrics;

const BOUND: Duration = Duration::from_secs(20);

/// Joins for real; a session says whom it was taken for.
struct EchoAgents(Joiner);

type Said = Pin<Box<dyn Stream<Item = Result<v1::SchedulerMessage, Status>> + Send>>;

#[tonic::async_trait]
impl Agents for EchoAgents {
    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::JoinResponse>, Status> {
        self.0.join(request).await
    }

    type SessionStream = Said;

    async fn session(&self, request: Request<Streaming<v1::AgentMessage>>) -> Result<Response<Said>, Status> {
        let refusal = v1::Refusal { reason: node_of(&request)?.to_string(), retry_after_ms: 0 };
        let kind = Some(v1::scheduler_message::Kind::Refusal(refusal));
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(v1::SchedulerMessage { kind })))))
    }
}

struct Served {
    address: SocketAddr,
    tokens: Tokens,
    authority: Arc<Authority>,
    metrics: Arc<Metrics>,
    stop: oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<Result<(), crate::grpc::server::ServeError>>,
    _dir: tempfile::TempDir,
}

async fn served(tls: bool, policy: AuthPolicy) -> Served {
    let world = World::new().await;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let authority = Arc::new(Authority::open(&dir.path().join("ca")).expect("it is made"));
    let (tokens, metrics) = (Tokens::in_memory(), Arc::new(Metrics::new()));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let server_tls = tls.then(|| {
        let own = authority.server(&["localhost".to_owned()]).expect("it is made");
        let KeyedCertificate { certificate_pem, key_pem } = own;
        ServerTls { certificate_pem, key_pem, node_authority_pem: authority.pem().to_owned() }
    });
    let agents = EchoAgents(Joiner::new(authority.clone(), tokens.clone()));
    let guard = Guard::new(Authenticator::new(tokens.clone(), policy), metrics.clone());
    let (stop, stopped) = oneshot::channel();
    let until = async { drop(stopped.await) };
    let ended = tokio::spawn(serve(world.services, agents, guard, listener, server_tls, until));
    Served { address, tokens, authority, metrics, stop, ended, _dir: dir }
}

impl Served {
    fn tls(&self) -> ClientTlsConfig {
        ClientTlsConfig::new().domain_name("localhost").ca_certificate(Certificate::from_pem(self.authority.pem()))
    }

    async fn connect(&self, tls: Option<ClientTlsConfig>) -> Channel {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{}", self.address)).expect("an address");
        if let Some(tls) = tls {
            endpoint = endpoint.tls_config(tls).expect("good certificates");
        }
        endpoint.connect().await.expect("it answers")
    }

    fn token(&self, identity: Identity) -> String {
        self.tokens.add(identity).expect("random bytes")
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        tokio::time::timeout(BOUND, self.ended).await.expect("it ends in time").expect("no panic").expect("no error");
    }
}

fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    let header = format!("Bearer {token}").parse().expect("visible ASCII");
    request.metadata_mut().insert("authorization", header);
    request
}

fn join_token(node: &str, one_time: bool) -> Identity {
    let credential = Credential::Token { digest: TokenDigest([0; 32]), one_time };
    Identity { credential, ..identity(node, Role::Agent, &[]) }
}

fn list() -> v1::ListJobsRequest {
    v1::ListJobsRequest::default()
}

#[tokio::test]
async fn a_call_needs_a_good_token() {
    let served = served(true, AuthPolicy::Credentials).await;
    let channel = served.connect(Some(served.tls())).await;
    let mut jobs = JobsClient::new(channel.clone());
    let token = served.token(identity("ana", Role::Member, &["fusion"]));
    jobs.list(with_token(list(), &token)).await.expect("a good token");
    let nobody = jobs.list(list()).await.expect_err("no token");
    assert_eq!(nobody.code(), Code::Unauthenticated, "{nobody}");
    let wrong = jobs.list(with_token(list(), "dure_nonsense")).await.expect_err("a wrong token");
    assert_eq!(wrong.code(), Code::Unauthenticated, "{wrong}");
    let agent = served.token(identity("n1", Role::Agent, &[]));
    let other_role = jobs.list(with_token(list(), &agent)).await.expect_err("an agent's token");
    assert_eq!(other_role.code(), Code::PermissionDenied, "{other_role}");
    HealthClient::new(channel).check(HealthCheckRequest::default()).await.expect("health is public");
    let text = served.metrics.text();
    assert!(text.contains("dure_rpcs_total{method=\"/dure.v1.Jobs/List\",code=\"Unauthenticated\"} 2"), "{text}");
    drop(jobs);
    served.stop().await;
}

#[tokio::test]
async fn without_credentials_a_local_call_is_the_operators_where_that_was_configured() {
    let served = served(false, AuthPolicy::LocalOperator { user: "me".into() }).await;
    let channel = served.connect(None).await;
    let mut jobs = JobsClient::new(channel.clone());
    jobs.list(list()).await.expect("the local operator");
    let wrong = jobs.list(with_token(list(), "dure_nonsense")).await.expect_err("a wrong token is never passed over");
    assert_eq!(wrong.code(), Code::Unauthenticated);
    let mut unknown = tonic::client::Grpc::new(channel);
    unknown.ready().await.expect("it is ready");
    let codec = tonic_prost::ProstCodec::<v1::ListJobsRequest, v1::ListJobsResponse>::default();
    let path = http::uri::PathAndQuery::from_static("/dure.v1.Jobs/Destroy");
    let refused = unknown.unary(Request::new(list()), path, codec).await.expect_err("no such method");
    assert_eq!(refused.code(), Code::Unimplemented);
    let text = served.metrics.text();
    assert!(text.contains("method=\"unknown\",code=\"Unimplemented\"") && !text.contains("Destroy"), "{text}");
}

#[tokio::test]
async fn a_node_joins_once_and_speaks_for_itself_alone() {
    let served = served(true, AuthPolicy::Credentials).await;
    let token = served.token(join_token("n*", true));
    let mut agents = AgentsClient::new(served.connect(Some(served.tls())).await);
    let key = KeyPair::generate().expect("a key");
    let asked = |node: &str, key: &KeyPair| {
        let params = CertificateParams::new(vec![node.to_owned()]).expect("a good name");
        let certificate_request = params.serialize_request(key).expect("it is signed").der().to_vec();
        v1::JoinRequest { node: node.to_owned(), certificate_request }
    };
    let code = async |agents: &mut AgentsClient<Channel>, request| agents.join(request).await.map_err(|why| why.code());
    let elsewhere = code(&mut agents, with_token(asked("m1", &key), &token)).await;
    assert_eq!(elsewhere.expect_err("not its node"), Code::PermissionDenied);
    let bad_name = code(&mut agents, with_token(asked("n1", &key), &token)).await.expect("it joins").into_inner();
    let again = code(&mut agents, with_token(asked("n1", &key), &token)).await;
    again.expect("an answer that was lost is given again");
    let other_key = KeyPair::generate().expect("a key");
    let stolen = code(&mut agents, with_token(asked("n1", &other_key), &token)).await;
    assert_eq!(stolen.expect_err("it was spent"), Code::PermissionDenied);
    let second = code(&mut agents, with_token(asked("n2", &key), &token)).await;
    assert_eq!(second.expect_err("it was spent"), Code::PermissionDenied);
    let with_token_only = agents.session(with_token(tokio_stream::empty(), &token)).await.expect_err("no certificate");
    assert_eq!(with_token_only.code(), Code::Unauthenticated);

    let own = tonic::transport::Identity::from_pem(&bad_name.certificate_pem, key.serialize_pem());
    let channel = served.connect(Some(served.tls().identity(own))).await;
    let mut node = AgentsClient::new(channel.clone());
    let mut session = node.session(tokio_stream::empty()).await.expect("its certificate").into_inner();
    let said = session.message().await.expect("it answers").expect("it says something").kind;
    let Some(v1::scheduler_message::Kind::Refusal(refusal)) = said else { panic!("{said:?}") };
    assert_eq!(refusal.reason, "n1");
    let as_user = JobsClient::new(channel).list(list()).await.expect_err("a node submits and sees no jobs");
    assert_eq!(as_user.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_certificate_of_another_authority_opens_nothing() {
    let served = served(true, AuthPolicy::Credentials).await;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let rogue = Authority::open(dir.path()).expect("it is made");
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["n1".to_owned()]).expect("a good name");
    let request = params.serialize_request(&key).expect("it is signed").der().to_vec();
    let request = crate::auth::ca::NodeRequest::parse(&request).expect("a good request");
    let signed = rogue.node("n1", &request).expect("it is signed");
    let own = tonic::transport::Identity::from_pem(signed.certificate_pem, key.serialize_pem());
    let endpoint = Endpoint::from_shared(format!("https://{}", served.address)).expect("an address");
    let endpoint = endpoint.tls_config(served.tls().identity(own)).expect("good certificates");
    let refused = match endpoint.connect().await {
        Ok(channel) => AgentsClient::new(channel).session(tokio_stream::empty()).await.map(drop).is_err(),
        Err(_) => true,
    };
    assert!(refused, "the handshake or the first call fails");
}

#[tokio::test]
async fn on_plaintext_loopback_a_token_serves_for_a_session_and_nobody_joins() {
    let served = served(false, AuthPolicy::LocalOperator { user: "me".into() }).await;
    let mut agents = AgentsClient::new(served.connect(None).await);
    let token = served.token(join_token("n1", false));
    let mut session = agents.session(with_token(tokio_stream::empty(), &token)).await.expect("its token").into_inner();
    session.message().await.expect("it answers").expect("it says something");
    let join = v1::JoinRequest { node: "n1".into(), certificate_request: Vec::new() };
    let refused = agents.join(with_token(join, &token)).await.expect_err("no TLS");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let operator = agents.session(tokio_stream::empty()).await.expect_err("an operator is no agent");
    assert_eq!(operator.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn garbage_and_too_large_messages_are_turned_away() {
    let served = served(false, AuthPolicy::LocalOperator { user: "me".into() }).await;
    let mut raw = TcpStream::connect(served.address).await.expect("it listens");
    raw.write_all(b"\x16\x03\x01\x02\x00garbage on the port\r\n\r\n").await.expect("it is sent");
    let mut answer = Vec::new();
    // Closed or reset: both are an end.
    let _ = tokio::time::timeout(BOUND, raw.read_to_end(&mut answer)).await.expect("the connection is ended");
    let mut jobs = JobsClient::new(served.connect(None).await);
    let payload = v1::Payload { script: vec![b'x'; 5 << 20], ..Default::default() };
    let job = v1::JobSpec { tenant: "fusion/plasma".into(), payload: Some(payload), ..Default::default() };
    let refused =
        jobs.submit(v1::SubmitRequest { request_id: String::new(), jobs: vec![job] }).await.expect_err("5 MiB");
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    jobs.list(list()).await.expect("the server goes on");
}

#[tokio::test]
async fn metrics_are_scraped_over_http() {
    let world = World::new().await;
    let ana = identity("ana", Role::Member, &["fusion"]);
    let jobs = super::submit([8, 4, 8].map(|gpus| super::spec("fusion/plasma", gpus)).to_vec());
    let operator = super::operator();
    dure_proto::v1::jobs_server::Jobs::submit(&world.services, super::by(&operator, jobs)).await.expect("accepted");
    let held = v1::JobSpec { hold: true, ..super::spec("fusion/plasma", 1) };
    let request = super::by(&ana, super::submit(vec![held]));
    dure_proto::v1::jobs_server::Jobs::submit(&world.services, request).await.expect("accepted");
    let metrics = Arc::new(Metrics::new());
    let observed = metrics.clone();
    world.services.handle.read(move |cluster, live| observed.observe(cluster, live)).await.expect("it is read");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(crate::metrics::serve(metrics, listener, std::future::pending()));
    let get = async |path: &str| {
        let mut raw = TcpStream::connect(address).await.expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        raw.write_all(request.as_bytes()).await.expect("it is sent");
        let mut answer = String::new();
        tokio::time::timeout(BOUND, raw.read_to_string(&mut answer)).await.expect("in time").expect("it is text");
        answer
    };
    assert!(get("/healthz").await.ends_with("ok\n"));
    let answer = get("/metrics").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("application/openmetrics-text"), "{answer}");
    for line in [
        "dure_tenant_gpus{tenant=\"fusion\",pool=\"h200\",state=\"quota\"} 8",
        "dure_tenant_gpus{tenant=\"fusion\",pool=\"h200\",state=\"own\"} 8",
        "dure_tenant_gpus{tenant=\"fusion\",pool=\"h200\",state=\"borrowed\"} 4",
        "dure_pool_gpus{pool=\"h200\",state=\"taken\"} 12",
        "dure_pool_gpus{pool=\"h200\",state=\"free\"} 4",
        "dure_nodes{state=\"ready\"} 2",
        "dure_jobs{state=\"running\"} 2",
        "dure_pending_jobs{reason=\"NOT_ENOUGH_GPUS\"} 1",
        "dure_pending_jobs{reason=\"GATED\"} 1",
    ] {
        assert!(answer.lines().any(|found| found == line), "{line} is missing in\n{answer}");
    }
    assert!(!answer.contains("ana") && !answer.contains("train"), "no label names a user or a job");
}
