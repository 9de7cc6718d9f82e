//! TLS: nodes join once by a token and then speak with a certificate of their own, for themselves alone.

use std::error::Error as _;
use std::path::Path;

use dure_proto::v1::agents_client::AgentsClient;
use dure_proto::v1::{
    AgentMessage, GpuInventory, Hello, Inventory, JobPhase, JoinRequest, ListNodesRequest, SchedulerMessage,
    agent_message, scheduler_message,
};
use dure_tests::client::{Authed, Bearer, Caller};
use dure_tests::cluster::Cluster;
use dure_tests::drafts::script;
use dure_tests::setup::{Setup, Who, join_token};
use dure_tests::wait::{soon, until};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use tonic::transport::{Channel, Identity};
use tonic::{Code, Status};

/// Two nodes; a one-time token, good for any node, in the hands of the first.
async fn start() -> (Cluster, String) {
    let mut cluster = Cluster::prepare(crate::DURE, Setup { nodes: 2, tls: true, ..Setup::default() });
    let token = join_token(&cluster.path("tokens.toml"), "n*");
    std::fs::write(cluster.path("join.token"), &token).expect("writes");
    for node in 0..2 {
        let (token, authority) = (cluster.path("join.token"), cluster.authority());
        let config = cluster.agent(node);
        (config.token_file, config.ca) = (Some(token), Some(authority));
    }
    cluster.start_scheduler();
    cluster.serving().await;
    cluster.start_agent(0);
    cluster.ready().await;
    (cluster, token)
}

/// The first node's own certificate.
fn certificate(cluster: &Cluster) -> Identity {
    let read = |name: &str| std::fs::read(cluster.path("agents/n0/identity").join(name)).expect("the node has joined");
    Identity::from_pem(read("node.crt"), read("node.key"))
}

/// The scheduler's answer to a session that says it is `node`.
async fn session(channel: Channel, bearer: Bearer, node: &str) -> Result<Option<SchedulerMessage>, Status> {
    let gpu = |index| GpuInventory { index, model: "NVIDIA H200".to_owned(), ..GpuInventory::default() };
    let inventory = Some(Inventory { gpus: (0..8).map(gpu).collect(), ..Inventory::default() });
    let mut hello = Hello { node: node.to_owned(), boot_id: "b".to_owned(), inventory, ..Hello::default() };
    let mut client: AgentsClient<Authed> = AgentsClient::with_interceptor(channel, bearer);
    let (say, said) = tokio::sync::mpsc::channel(1);
    let stream = tokio_stream::wrappers::ReceiverStream::new(said);
    let mut answer = soon("the session opens", client.session(stream)).await?.into_inner();
    let challenge = soon("the challenge", answer.message()).await?.and_then(|word| word.kind);
    let Some(scheduler_message::Kind::Challenge(challenge)) = challenge else { panic!("{challenge:?}") };
    hello.session = challenge.session;
    let hello = AgentMessage { kind: Some(agent_message::Kind::Hello(hello)) };
    say.send(hello).await.expect("the session is open");
    soon("the first word", answer.message()).await
}

#[tokio::test]
async fn a_node_joins_once_and_runs_jobs_with_a_certificate_of_its_own() {
    let (mut cluster, token) = start().await;
    let caller = cluster.caller(Who::Ana);
    let id = caller.submit(script("fusion", 1, 8, "echo over TLS")).await;
    assert_eq!(caller.ended(id).await.phase(), JobPhase::Completed);
    let said = cluster.dure(Who::Ana, &["logs", &id.to_string()]).await;
    assert_eq!((said.code, said.out.as_str()), (0, "over TLS\n"), "{}", said.err);
    // Its token is spent; its certificate serves from now on.
    cluster.kill_agent(0);
    cluster.node_is("n0", "is cut off", |node| !node.connected).await;
    cluster.start_agent(0);
    cluster.node_is("n0", "is back", |node| node.connected).await;
    // The same token in another node's hands.
    cluster.start_agent(1);
    let agent = cluster.agent_process(1);
    until("n1 is refused", || agent.log().contains("was spent already")).await;
    assert!(!agent.log().contains(&token), "no log shows a token");
    let nodes = cluster.nodes().await.expect("listed");
    assert_eq!(nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["n0"]);
    assert!(!cluster.path("agents/n1/identity/node.crt").exists());
}

#[tokio::test]
async fn a_nodes_certificate_speaks_for_that_node_and_nothing_else() {
    let (cluster, token) = start().await;
    let channel = || cluster.endpoint(Some(certificate(&cluster))).connect_lazy();
    let node = Caller { channel: channel(), bearer: Bearer::default() };
    let status = node.try_submit("", vec![script("fusion", 1, 1, "true")]).await.expect_err("a node is no user");
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    let status = node.nodes().list(ListNodesRequest::default()).await.expect_err("nor does it look around");
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    match session(channel(), Bearer::default(), "n1").await {
        Err(status) => assert_eq!(status.code(), Code::PermissionDenied, "{status:?}"),
        Ok(word) => {
            let kind = word.and_then(|word| word.kind);
            assert!(matches!(kind, Some(scheduler_message::Kind::Refusal(_))), "{kind:?}");
        }
    }
    for who in [Who::Ana, Who::Op, Who::Auditor] {
        let bearer = Bearer::of(cluster.token(who));
        let status = session(cluster.channel(), bearer, "n1").await.expect_err("a user is no node");
        assert_eq!(status.code(), Code::PermissionDenied, "{who:?}: {status:?}");
    }
    let status = session(cluster.channel(), Bearer::default(), "n0").await.expect_err("nobody is no node");
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    let status = session(cluster.channel(), Bearer::of(&token), "n0").await.expect_err("a token joins, no more");
    assert!(status.message().contains("the node's own certificate"), "{status:?}");
    assert_eq!(cluster.nodes().await.expect("listed").len(), 1, "no node was made up");
}

fn request_of(key: &KeyPair) -> Vec<u8> {
    CertificateParams::new(vec!["n0".to_owned()])
        .and_then(|params| params.serialize_request(key))
        .expect("it is made")
        .der()
        .to_vec()
}

#[tokio::test]
async fn a_node_renews_its_own_certificate_and_no_other() {
    let (mut cluster, _) = start().await;
    let key = KeyPair::generate().expect("a key");
    let join = async |node: &str| {
        let mut client = AgentsClient::new(cluster.endpoint(Some(certificate(&cluster))).connect_lazy());
        let request = JoinRequest { node: node.to_owned(), certificate_request: request_of(&key) };
        client.join(request).await
    };
    assert!(join("n0").await.expect("its own").into_inner().certificate_pem.contains("BEGIN CERTIFICATE"));
    assert_eq!(join("n1").await.expect_err("another's").code(), Code::PermissionDenied);
    // Its certificate grows old: the agent has another one by itself.
    cluster.kill_agent(0);
    let identity = cluster.path("agents/n0/identity");
    let read = |path: &Path| std::fs::read_to_string(path).expect("it is there");
    let own = KeyPair::from_pem(&read(&identity.join("node.key"))).expect("a key");
    let authority = cluster.authority();
    let signing = KeyPair::from_pem(&read(&authority.with_file_name("ca.key"))).expect("a key");
    let issuer = Issuer::from_ca_cert_pem(&read(&authority), signing).expect("the authority");
    let mut params = CertificateParams::default();
    let uri = "spiffe://dure/node/n0".try_into().expect("a name");
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    // Of some 2,200 days 300 are left.
    let now = std::time::SystemTime::now();
    let days = |count: u64| std::time::Duration::from_secs(count * 86_400);
    (params.not_before, params.not_after) = ((now - days(1_900)).into(), (now + days(300)).into());
    let old = params.signed_by(&own, &issuer).expect("signed").pem();
    std::fs::write(identity.join("node.crt"), &old).expect("writes");
    cluster.start_agent(0);
    until("another certificate is there", || read(&identity.join("node.crt")) != old).await;
    cluster.node_is("n0", "is back", |node| node.connected).await;
}

#[tokio::test]
async fn a_revoked_node_is_cut_off_and_joins_anew() {
    let (mut cluster, _) = start().await;
    let tokens = cluster.path("tokens.toml");
    let said = cluster.dure(Who::Op, &["token", "revoke", "n0", "--file", &tokens.display().to_string()]).await;
    assert_eq!(said.code, 0, "{}", said.err);
    cluster.node_is("n0", "is cut off", |node| !node.connected).await;
    let agent = cluster.agent_process(0);
    until("the agent says why", || agent.log().contains("was revoked")).await;
    let refused = session(cluster.endpoint(Some(certificate(&cluster))).connect_lazy(), Bearer::default(), "n0").await;
    assert_eq!(refused.expect_err("with that certificate nobody").code(), Code::Unauthenticated);
    cluster.kill_agent(0);
    std::fs::remove_dir_all(cluster.path("agents/n0/identity")).expect("removes");
    std::fs::write(cluster.path("join.token"), join_token(&tokens, "n0")).expect("writes");
    cluster.start_agent(0);
    cluster.node_is("n0", "is back", |node| node.connected).await;
}

#[tokio::test]
async fn plaintext_and_strangers_certificates_get_nowhere() {
    let (cluster, _) = start().await;
    let plain = tonic::transport::Endpoint::from_shared(format!("http://{}", cluster.socket())).expect("an address");
    let caller = Caller { channel: plain.connect_lazy(), bearer: Bearer::of(cluster.token(Who::Op)) };
    let status = caller.try_submit("", vec![script("fusion", 1, 1, "true")]).await.expect_err("no TLS, no answer");
    assert!(status.source().is_some(), "it never came to an answer: {status:?}");
    // Another cluster's authority signs for nobody here.
    let (other, _) = start().await;
    let channel = cluster.endpoint(Some(certificate(&other))).connect_lazy();
    let refused = session(channel, Bearer::default(), "n0").await;
    assert!(refused.is_err(), "{refused:?}");
    let said = cluster.command(Who::Op, &["queue"]).env("DURE_CA", other.authority()).output().await.expect("runs");
    assert_eq!(said.status.code(), Some(3), "the client trusts its own authority only: {said:?}");
}
