//! What the agents' telemetry leads to: idle allocations, one GPU fenced and seven kept, a fleet that is not fenced whole.

use std::path::PathBuf;

use dure_agent::fake::{LIBRARY_NAME, write_conf};
use dure_proto::v1::{Job, JobPhase};
use dure_tests::cluster::Cluster;
use dure_tests::drafts::{await_file, script};
use dure_tests::setup::{MODEL, Setup, Who};

/// Changes what the fake NVML of a node shows.
fn play(cluster: &mut Cluster, node: usize, gpus: u32, lines: &str) {
    let library: PathBuf = cluster.agent(node).state_dir.join("fake-nvml").join(LIBRARY_NAME);
    let conf = format!("seed n{node}\ngpus {gpus} model=\"{MODEL}\" memory_mib=143771\n{lines}\n");
    write_conf(&library, &conf).expect("writes");
}

/// A cluster whose agents look at their GPUs ten times a second.
async fn watched(nodes: u32) -> Cluster {
    let mut cluster = Cluster::prepare(crate::DURE, Setup { nodes, ..Setup::default() });
    for node in 0..nodes as usize {
        cluster.agent(node).health.sample_ms = 100;
    }
    cluster.start_scheduler();
    cluster.serving().await;
    cluster.start_agents();
    cluster.ready().await;
    cluster
}

async fn set(cluster: &Cluster, tenant: &str, action: &str) {
    let args = ["quota", "set", tenant, "--idle-after", "5s", "--idle-notice", "1s", "--idle-action", action];
    let said = cluster.dure(Who::Op, &args).await;
    assert_eq!(said.code, 0, "{said:?}");
}

#[tokio::test]
async fn who_does_not_use_its_gpus_is_told_and_then_stopped_as_its_mission_chose() {
    let mut cluster = watched(2).await;
    set(&cluster, "fusion", "requeue").await;
    set(&cluster, "solar", "cancel").await;
    let said = cluster.dure(Who::Op, &["quota", "set", "solar", "--idle-after", "1s"]).await;
    assert!(said.code != 0 && said.err.contains("idle.after_ms") && said.err.contains("the shortest is"), "{said:?}");
    let caller = cluster.caller(Who::Ana);
    let go = cluster.path("go");
    // One GPU of the gang works: all of it does. The other mission's job does nothing.
    let lazy = caller.submit(script("solar", 1, 8, &await_file(&go))).await;
    let place = caller.phase(lazy, JobPhase::Running).await.attempt.expect("it runs").members[0].node.clone();
    let other = usize::from(place == "n0");
    play(&mut cluster, other, 8, "gpu 3 util=40");
    let gang = caller.submit(script("fusion", 2, 4, &await_file(&go))).await;
    caller.phase(gang, JobPhase::Running).await;
    let idle = |job: &Job| job.idle.is_some();
    let job = caller.job_is(lazy, "is told", idle).await;
    assert_eq!((job.phase(), job.idle.expect("it was told").action.as_str()), (JobPhase::Running, "cancel"));
    let shown = cluster.dure(Who::Ana, &["job", &lazy.to_string()]).await.out;
    assert!(shown.contains("its GPUs have done no work for") && shown.contains("cancel at"), "{shown}");
    let job = caller.ended(lazy).await;
    assert_eq!((job.phase(), job.reason_code.as_str()), (JobPhase::Cancelled, "IDLE"), "{job:#?}");
    assert!(job.reason.contains("did no work"), "{job:#?}");
    let job = caller.job(gang).await.expect("it is there");
    assert_eq!((job.phase(), job.idle, job.attempts), (JobPhase::Running, None, 1), "one that works is left alone");
    // It stops to work, is told, and works again in time; then it does not.
    set_notice(&cluster, "fusion", "30s").await;
    play(&mut cluster, other, 8, "");
    caller.job_is(gang, "is told", idle).await;
    play(&mut cluster, other, 8, "gpu 0 util=1");
    caller.job_is(gang, "works again", |job| job.idle.is_none()).await;
    set_notice(&cluster, "fusion", "1s").await;
    play(&mut cluster, other, 8, "");
    let job = caller.job_is(gang, "starts again", |job| job.attempts == 2).await;
    assert!(job.idle.is_none(), "a new attempt begins anew: {job:#?}");
    std::fs::write(&go, "").expect("writes");
    assert_eq!(caller.ended(gang).await.phase(), JobPhase::Completed);
    let events = cluster.dure(Who::Op, &["history", "evictions", "--output", "json"]).await.out;
    assert!(events.contains("idle"), "the history has it: {events}");
}

async fn set_notice(cluster: &Cluster, tenant: &str, notice: &str) {
    let said = cluster.dure(Who::Op, &["quota", "set", tenant, "--idle-notice", notice]).await;
    assert_eq!(said.code, 0, "{said:?}");
}

#[tokio::test]
async fn one_bad_gpu_is_fenced_and_seven_stay_and_the_fleet_is_never_fenced_whole() {
    let mut cluster = watched(4).await;
    play(&mut cluster, 0, 8, "xid 2 79 1");
    let node = cluster.node_is("n0", "has lost one GPU", |node| node.gpus_bad == 1).await;
    assert_eq!((node.gpus, node.gpus_free), (8, 7), "seven stay: {node:#?}");
    let shown = cluster.dure(Who::Op, &["nodes", "n0"]).await.out;
    assert!(shown.contains("XID 79: restart the node"), "{shown}");
    // A new life of the agent knows what the old one saw, a new boot of the node begins anew.
    for (boot, bad) in [("boot-1", 1), ("boot-2", 0), ("boot-2", 1)] {
        cluster.kill_agent(0);
        cluster.node_is("n0", "is away", |node| !node.connected).await;
        cluster.agent(0).boot_id = Some(boot.to_owned());
        cluster.start_agent(0);
        let what = format!("is there again, in {boot}");
        cluster.node_is("n0", &what, |node| node.connected && node.boot_id == boot && node.gpus_bad == bad).await;
        if bad == 0 {
            play(&mut cluster, 0, 8, "xid 2 79 2");
            cluster.node_is("n0", "has lost it again", |node| node.gpus_bad == 1).await;
        }
    }
    let job = cluster.caller(Who::Ana).submit(script("fusion", 1, 7, "echo $CUDA_VISIBLE_DEVICES")).await;
    assert_eq!(cluster.caller(Who::Ana).ended(job).await.phase(), JobPhase::Completed);
    // A driver that calls every GPU bad: of 32, 16 may be fenced without a person, and 16 go on.
    let all: String = (0..8).map(|gpu| format!("lost {gpu}\n")).collect();
    (1..4).for_each(|node| play(&mut cluster, node, 8, &all));
    let of = |nodes: &[dure_proto::v1::Node]| nodes.iter().map(|node| node.gpus_bad).sum::<u32>();
    let mut most = 0;
    dure_tests::wait::until_some("the breaker has opened", || {
        let nodes = cluster.nodes();
        async move { Some(of(&nodes.await.ok()?)).filter(|bad| *bad == 16) }
    })
    .await;
    // All have said what they see; not one more is fenced.
    for node in 1..4 {
        let name = format!("n{node}");
        let all_lost = |node: &dure_proto::v1::Node| {
            let gpus = node.telemetry.iter().flat_map(|telemetry| &telemetry.gpus);
            gpus.filter(|gpu| gpu.health == "bad").count() == 8
        };
        dure_tests::wait::until_some(&format!("{name} has said so"), || async {
            let request = dure_proto::v1::GetNodeRequest { name: name.clone() };
            let node = cluster.caller(Who::Op).nodes().get(request).await.ok()?.into_inner();
            all_lost(&node).then_some(())
        })
        .await;
        most = most.max(of(&cluster.nodes().await.expect("answers")));
    }
    assert_eq!(most, 16, "beyond the share a person has to look");
    let log = cluster.scheduler().log();
    assert!(log.contains("too much of the fleet is called bad"), "{log}");
    let job = cluster.caller(Who::Ana).submit(script("fusion", 1, 1, "true")).await;
    assert_eq!(cluster.caller(Who::Ana).ended(job).await.phase(), JobPhase::Completed, "the rest goes on");
}
