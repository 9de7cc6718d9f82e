//! The GPUs of a node as the scheduler hears of them: a driver that hangs, memory that does not hold, and real ones.

use std::collections::BTreeMap;

use dure_agent::{config::GpuSource, fake};
use dure_proto::v1::{Heartbeat, exit::How};

use crate::harness::{Node, Scheduler, Session, how, launch, lives, script, soon};

/// Verdicts and reasons by GPU, as telemetry says them.
fn verdicts(heartbeat: &Heartbeat) -> BTreeMap<u32, (String, String)> {
    let telemetry = heartbeat.telemetry.iter().flat_map(|telemetry| &telemetry.gpus);
    telemetry.map(|gpu| (gpu.index, (gpu.health.clone(), gpu.health_reason.clone()))).collect()
}

/// The first heartbeat that shows it.
async fn once(session: &mut Session, what: &str, so: impl Fn(&BTreeMap<u32, (String, String)>) -> bool) -> Heartbeat {
    soon(what, async {
        loop {
            let heartbeat = session.heartbeat().await;
            if so(&verdicts(&heartbeat)) {
                return heartbeat;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_driver_that_hangs_stops_neither_the_agent_nor_its_members_and_the_gpu_it_hangs_on_is_bad() {
    let mut scheduler = Scheduler::start().await;
    let mut node = Node::new(&scheduler);
    (node.config.health.hang_s, node.config.health.hang_bad_s, node.config.health.sample_ms) = (1, 2, 50);
    let _agent = node.start();
    let mut session = scheduler.welcome().await;
    let go = node.dir.path().join("go");
    let text = format!("while ! test -e {}; do sleep 0.01; done; exit 4", go.display());
    session.order(launch(1, script(&text))).await;
    let pid = session.started().await;
    let library = node.config.state_dir.join("fake-nvml").join(fake::LIBRARY_NAME);
    fake::write_conf(&library, "seed n0\ngpus 8\nslow nvmlDeviceGetPowerUsage 3600000 3").expect("writes");
    let all = |gpus: &BTreeMap<u32, (String, String)>, of: &str| gpus.values().all(|(verdict, _)| verdict == of);
    let hung = once(&mut session, "all are suspect", |gpus| all(gpus, "suspect")).await;
    let said = verdicts(&hung);
    assert!(said[&0].1.starts_with("NVML has not answered for 1 s when it was asked about GPU 3"), "{said:?}");
    assert!(hung.telemetry.iter().flat_map(|told| &told.gpus).all(|gpu| gpu.idle_ms.is_none()), "nothing is known");
    let bad = once(&mut session, "one is bad", |gpus| gpus.get(&3).is_some_and(|gpu| gpu.0 == "bad")).await;
    let suspect = verdicts(&bad).into_values().filter(|(verdict, _)| verdict == "suspect").count();
    assert_eq!(suspect, 7, "it alone is bad");
    // Work goes on: what runs runs on, and new work on another GPU starts.
    assert!(lives(pid));
    let mut other = script("exit 5");
    other.gpus = vec![1];
    session.order(launch(2, other)).await;
    assert_eq!(how(&session.gone().await), How::Code(5));
    std::fs::write(&go, "").expect("writes");
    assert_eq!(how(&session.gone().await), How::Code(4));
}

#[tokio::test]
async fn a_gpu_whose_memory_does_not_hold_is_bad_before_its_first_use_and_what_is_in_use_is_not_tested() {
    let mut scheduler = Scheduler::start().await;
    let mut node = Node::new(&scheduler);
    let conf = "seed n0\ngpus 4 cuda_mib=64\ngpu 2 flip=4096\ngpu 3 cuda_mib=0";
    node.config.gpus = GpuSource::Fake { conf: conf.to_owned() };
    node.config.checks.libcuda = node.config.state_dir.join("fake-nvml").join(fake::LIBRARY_NAME);
    let agent = node.start();
    let mut session = scheduler.accept().await;
    let inventory = session.hello.inventory.clone().expect("it is stated");
    assert_eq!(health(&session), ["ok", "ok", "bad", "ok"], "one is fenced; where CUDA sees none it is skipped");
    let why = &inventory.gpus[2].health_reason;
    assert!(why.starts_with("its memory does not hold what is written (MiB 0 of 16 tested)"), "{why}");
    session.welcome(1, Vec::new(), Vec::new()).await;
    session.order(launch(1, script("sleep 1000"))).await;
    session.started().await;
    agent.crash().await;
    // It runs on GPU 0, whose memory is broken now: the new agent does not look while it does.
    let conf = "seed n0\ngpus 4 cuda_mib=64 flip=4096";
    node.config.gpus = GpuSource::Fake { conf: conf.to_owned() };
    let _agent = node.start();
    let session = scheduler.accept().await;
    assert_eq!(health(&session), ["ok", "bad", "bad", "bad"]);
    session.welcome(1, vec![launch(1, script("sleep 1000")), crate::harness::stop(1, 0)], Vec::new()).await;
}

#[tokio::test]
async fn a_failed_test_of_gpu_memory_outlives_the_agent_until_the_node_boots_anew_or_its_file_is_removed() {
    let mut scheduler = Scheduler::start().await;
    let mut node = Node::new(&scheduler);
    let broken = "seed n0\ngpus 4 cuda_mib=64\ngpu 1 flip=4096\ngpu 2 flip=4096";
    node.config.gpus = GpuSource::Fake { conf: broken.to_owned() };
    node.config.checks.libcuda = node.config.state_dir.join("fake-nvml").join(fake::LIBRARY_NAME);
    node.config.boot_id = Some("boot-1".to_owned());
    let agent = node.start();
    let session = scheduler.accept().await;
    assert_eq!(health(&session), ["ok", "bad", "bad", "ok"]);
    agent.crash().await;
    // From now on every test passes: a fault that comes and goes is not gone.
    node.config.gpus = GpuSource::Fake { conf: "seed n0\ngpus 4 cuda_mib=64".to_owned() };
    let agent = node.start();
    let session = scheduler.accept().await;
    assert_eq!(health(&session), ["ok", "bad", "bad", "ok"]);
    let inventory = session.hello.inventory.clone().expect("it is stated");
    let why = &inventory.gpus[1].health_reason;
    assert!(why.starts_with("its memory does not hold what is written"), "{why}");
    agent.crash().await;
    // A person has reset one of them, and says so.
    let file = node.config.state_dir.join("health").join(format!("{}.memory", inventory.gpus[1].uuid));
    std::fs::remove_file(&file).expect("it is there");
    let agent = node.start();
    assert_eq!(health(&scheduler.accept().await), ["ok", "ok", "bad", "ok"]);
    agent.crash().await;
    // After a reboot everything is tested again.
    node.config.boot_id = Some("boot-2".to_owned());
    let _agent = node.start();
    assert_eq!(health(&scheduler.accept().await), ["ok", "ok", "ok", "ok"]);
}

fn health(session: &Session) -> Vec<String> {
    let inventory = session.hello.inventory.as_ref().expect("it is stated");
    inventory.gpus.iter().map(|gpu| gpu.health.clone()).collect()
}
