//! What a gang loses with a node, and what takes its place: places that are held, and a spare.

use dure_proto::v1::{Job, JobPhase, JobSpec, Node, NodeState};
use dure_tests::cluster::Cluster;
use dure_tests::drafts::{await_file, note, noted, script};
use dure_tests::process::{self, lives};
use dure_tests::setup::{Setup, Who};
use dure_tests::wait::{until, until_some};

/// Five nodes: one is kept free, three are fusion's, one is solar's.
const TENANTS: &str = "
[[pool]]
name = \"h200\"
model = \"NVIDIA H200\"
gpus_per_node = 8
spares = 1
[[tenant]]
name = \"fusion\"
quota = 24
[[tenant]]
name = \"solar\"
quota = 8
";

fn setup() -> Setup {
    let liveness = "heartbeat = \"100ms\"\nsuspect_after = \"1s\"\nlost_after = \"3s\"";
    Setup { nodes: 5, liveness, tenants: TENANTS, ..Setup::default() }
}

fn nodes_of(job: &Job) -> Vec<String> {
    job.attempt.iter().flat_map(|attempt| &attempt.members).map(|member| member.node.clone()).collect()
}

async fn spare_of(cluster: &Cluster) -> String {
    until_some("a node is kept free", || async {
        let nodes = cluster.nodes().await.ok()?;
        nodes.into_iter().find(|node| node.spare).map(|node| node.name)
    })
    .await
}

#[tokio::test]
async fn survivors_keep_their_nodes_and_a_spare_takes_the_place_of_the_lost_one() {
    let mut cluster = Cluster::start(crate::DURE, setup()).await;
    let ana = cluster.caller(Who::Ana);
    let (notes, end, others) = (cluster.path("notes"), cluster.path("end"), cluster.path("others"));
    let text = format!("{}\nif [ $DURE_ATTEMPT = 1 ]; then {}; fi", note(&notes), await_file(&end));
    let gang = JobSpec { hold_survivors_ms: 600_000, ..script("fusion", 3, 8, &text) };
    let id = ana.submit(gang).await;
    until("all members run", || noted(&notes).len() == 3).await;
    let first = nodes_of(&ana.phase(id, JobPhase::Running).await);
    let spare = spare_of(&cluster).await;
    assert!(!first.contains(&spare), "a spare is for nobody yet: {first:?}");
    // Somebody else fills the last node, and more of his work waits for any that becomes free.
    let greedy = format!("{}\n{}", note(&others), await_file(&end));
    ana.phase(ana.submit(script("solar", 1, 8, &greedy)).await, JobPhase::Running).await;
    let waiting = ana.submit(script("solar", 1, 8, &greedy)).await;

    let lost: usize = first[1][1..].parse().expect("nodes are named n0, n1, ...");
    cluster.kill_agent(lost);
    process::kill_all(&cluster.path(&format!("agents/n{lost}")));
    cluster.node_is(&first[1], "is lost", |node| node.state() == NodeState::Lost).await;
    ana.phase(id, JobPhase::AwaitingProof).await;
    let run_of = |member| noted(&notes).into_iter().find(|run| run.member == member).expect("it ran");
    until("the survivors are stopped", || [0, 2].into_iter().all(|member| !lives(run_of(member).pid))).await;
    // Their GPUs are idle, and nobody else gets them.
    let is_held = |node: &Node| node.gpus_free == 0 && node.jobs.is_empty();
    for name in [&first[0], &first[2]] {
        cluster.node_is(name, "is held for the gang", is_held).await;
    }
    let job = ana.job(waiting).await.expect("it is there");
    assert_eq!((job.phase(), job.attempts), (JobPhase::Pending, 0), "{job:#?}");

    let said = cluster.dure(Who::Op, &["node", "confirm-dead", &first[1], "--reason", "switched off"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let job = ana.ended(id).await;
    assert_eq!((job.phase(), job.attempts), (JobPhase::Completed, 2), "{job:#?}");
    assert_eq!(nodes_of(&job), [&*first[0], &*spare, &*first[2]], "each survivor where it was");
    let mut runs: Vec<_> = noted(&notes).iter().map(|run| (run.attempt, run.member)).collect();
    runs.sort_unstable();
    assert_eq!(runs, [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]);
    // What was held is free again.
    ana.phase(waiting, JobPhase::Running).await;
    std::fs::write(&end, "").expect("writes");
    assert_eq!(ana.ended(waiting).await.phase(), JobPhase::Completed);
}
