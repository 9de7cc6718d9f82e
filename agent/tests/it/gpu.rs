//! With a real GPU: `GPU_TESTS=1 cargo test -p dure-agent --test it gpu -- --nocapture`. Without, it says that it skipped.

use std::{fs, time::Duration};

use dure_agent::{
    config::GpuSource,
    isolation::{IsolationMode, RunAs},
};
use dure_proto::v1::{Launch, LogRead, exit::How};

use crate::harness::{Node, Scheduler, how, launch, script, under_test};

/// How long the sampling thread is watched for its cost.
const WATCHED: Duration = Duration::from_secs(10);

fn wanted() -> bool {
    let wanted = std::env::var("GPU_TESTS").is_ok_and(|value| value == "1");
    if !wanted {
        eprintln!("skipped: it needs an NVIDIA GPU; run it with GPU_TESTS=1");
    }
    wanted
}

/// Clock ticks of CPU that the thread which speaks to NVML has used.
fn nvml_ticks() -> u64 {
    let threads = fs::read_dir("/proc/self/task").expect("is there").flatten();
    let of_thread = |dir: std::path::PathBuf| {
        let stat = fs::read_to_string(dir.join("stat")).ok()?;
        let (head, tail) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
        let ticks = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<u64>().ok());
        head.ends_with("(dure-nvml").then(|| ticks(14).unwrap_or(0) + ticks(15).unwrap_or(0))
    };
    threads.filter_map(|thread| of_thread(thread.path())).sum()
}

#[tokio::test]
async fn a_real_gpu_is_found_measured_and_given_to_one_member_alone() {
    if !wanted() {
        return;
    }
    let mut scheduler = Scheduler::start().await;
    let mut node = Node::new(&scheduler);
    node.config.gpus = GpuSource::Nvml { lib: None };
    if rustix::process::geteuid().is_root() {
        node.config.isolation.mode = IsolationMode::Auto;
        (node.config.isolation.run_as, node.config.isolation.private_tmp) = (RunAs::Agent, false);
    }
    let _agent = node.start();
    let mut session = scheduler.welcome().await;
    let gpus = session.hello.inventory.clone().expect("an inventory").gpus;
    println!("inventory: {gpus:#?}");
    assert!(!gpus.is_empty() && gpus.iter().all(|gpu| gpu.uuid.starts_with("GPU-") && gpu.memory_mib > 0));
    let before = nvml_ticks();
    tokio::time::sleep(WATCHED).await;
    let ticks = nvml_ticks() - before;
    println!("telemetry of {} GPUs at 1 Hz: {ticks} ticks of CPU in {WATCHED:?}", gpus.len());
    assert!(ticks * 100 < WATCHED.as_secs() * 100 * 10, "less than a tenth of a core: {ticks} ticks");
    let beat = session.heartbeat().await.telemetry.expect("telemetry");
    assert!(beat.gpus.iter().all(|gpu| gpu.temperature_c > 0 && gpu.power_mw > 0), "{beat:#?}");
    let last = gpus.last().expect("there is one");
    let text = "echo $CUDA_VISIBLE_DEVICES; nvidia-smi -L | grep -c UUID";
    session.order(launch(1, Launch { gpus: vec![last.index], ..script(text) })).await;
    assert_eq!(how(&session.gone().await), How::Code(0));
    let (out, _) = session.log(LogRead { read_id: 9, job_id: 1, attempt: 1, ..LogRead::default() }).await;
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], last.uuid);
    if rustix::process::geteuid().is_root() {
        assert_eq!(lines[1], "1", "only its own device can be opened: {out}");
    }
}

/// A real CUDA process: the agent's own test of GPU memory, over a small share of what it sees.
fn cuda() -> Launch {
    let program = under_test().display().to_string();
    script(&format!("exec {program} shim --gpu-memory libcuda.so.1 5 60000"))
}

#[tokio::test]
async fn two_members_share_a_real_gpu_and_each_is_a_cuda_process_that_sees_it_alone() {
    if !wanted() {
        return;
    }
    let mut scheduler = Scheduler::start().await;
    let mut node = Node::new(&scheduler);
    node.config.gpus = GpuSource::Nvml { lib: None };
    let _agent = node.start();
    let mut session = scheduler.welcome().await;
    let gpus = session.hello.inventory.clone().expect("an inventory").gpus;
    assert!(gpus.iter().all(|gpu| gpu.health == "ok"), "the test of GPU memory at the start found all well: {gpus:#?}");
    let last = gpus.last().expect("there is one").index;
    for job in 1..=2 {
        session.order(launch(job, Launch { gpus: vec![last], gpu_milli: 500, ..cuda() })).await;
    }
    for _ in 0..2 {
        assert_eq!(how(&session.gone().await), How::Code(0));
    }
    for job in 1..=2 {
        let (out, _) = session.log(LogRead { read_id: job, job_id: job, attempt: 1, ..LogRead::default() }).await;
        let mib: u64 = out.trim().strip_prefix("well ").and_then(|mib| mib.parse().ok()).unwrap_or_default();
        assert!(mib > 0, "job {job}: {out}");
    }
}
