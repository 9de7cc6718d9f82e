//! TLS: nodes join once by a token and then speak with a certificate of their own, for themselves alone.

use std::error::Error as _;

use dure_proto::v1::agents_client::AgentsClient;
use dure_proto::v1::{
    AgentMessage, GpuInventory, Hello, Inventory, JobPhase, ListNodesRequest, SchedulerMessage, agent_message,
    scheduler_message,
};
use dure_tests::client::{Authed, Bearer, Caller};
use dure_tests::cluster::Cluster;
use dure_tests::drafts::script;
use dure_tests::setup::{Setup, Who, join_token};
use dure_tests::wait::{soon, until};
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

/// The scheduler's first word to a session that says it is `node`.
async fn session(channel: Channel, bearer: Bearer, node: &str) -> Result<Option<SchedulerMessage>, Status> {
    let gpu = |index| GpuInventory { index, model: "NVIDIA H200".to_owned(), ..GpuInventory::default() };
    let inventory = Some(Inventory { gpus: (0..8).map(gpu).collect(), ..Inventory::default() });
    let hello = Hello { node: node.to_owned(), boot_id: "b".to_owned(), inventory, ..Hello::default() };
    let hello = AgentMessage { kind: Some(agent_message::Kind::Hello(hello)) };
    let mut client: AgentsClient<Authed> = AgentsClient::with_interceptor(channel, bearer);
    let stream = tokio_stream::StreamExt::chain(tokio_stream::once(hello), tokio_stream::pending());
    let mut answer = soon("the session opens", client.session(stream)).await?.into_inner();
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
