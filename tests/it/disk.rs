//! A disk that fills, that fails, that is slow: under a scheduler that runs.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use dure_proto::v1::{JobPhase, JobSpec, ListJobsRequest, NodeState};
use dure_tests::cluster::Cluster;
use dure_tests::disk::SmallDisk;
use dure_tests::drafts::{await_file, note, noted, script};
use dure_tests::process::Process;
use dure_tests::setup::{Setup, Who};
use dure_tests::wait::{until, until_some};
use tonic::Code;
use tonic_types::StatusExt as _;

fn held(salt: u32) -> JobSpec {
    JobSpec { hold: true, ..script("fusion", 1, 1, &format!("# {salt}")) }
}

#[tokio::test]
async fn a_nearly_full_disk_refuses_what_is_new_and_takes_it_again_without_a_restart() {
    let Some(disk) = SmallDisk::mount(48 << 20) else {
        println!("skipped: a tmpfs cannot be mounted here (needs root)");
        return;
    };
    let more = "[journal]\nreserve_mib = 24\n";
    let setup = Setup { nodes: 1, data_dir: Some(disk.path().join("scheduler")), more, ..Setup::default() };
    let mut cluster = Cluster::start(crate::DURE, setup).await;
    let caller = cluster.caller(Who::Ana);
    let (notes, end) = (cluster.path("notes"), cluster.path("end"));
    let running = caller.submit(script("fusion", 1, 1, &format!("{}\n{}", note(&notes), await_file(&end)))).await;
    until("it runs", || noted(&notes).len() == 1).await;
    let waiting = caller.submit(held(0)).await;
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![0; 20 << 20]).expect("there is room for it");
    let status =
        until_some("what is new is refused", || async { caller.try_submit("", vec![held(1)]).await.err() }).await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains("nearly full") && status.get_details_retry_info().is_some(), "{status:?}");
    // What runs ends, and is known to have; what waits can be cancelled; nodes are heard.
    std::fs::write(&end, "").expect("writes");
    assert_eq!(caller.ended(running).await.phase(), JobPhase::Completed);
    assert_eq!(cluster.dure(Who::Ana, &["cancel", &waiting.to_string()]).await.code, 0);
    assert!(cluster.nodes().await.expect("listed").iter().all(|node| node.state() == NodeState::Ready));
    std::fs::remove_file(&ballast).expect("it is there");
    let ids = until_some("there is room again", || async { caller.try_submit("", vec![held(2)]).await.ok() }).await;
    assert!(cluster.scheduler().ended().is_none(), "it is the same process");
    let known = caller.all_jobs(ListJobsRequest::default()).await.expect("listed");
    assert!([running, waiting, ids[0]].iter().all(|id| known.iter().any(|job| job.id == *id)));
}

/// A scheduler whose syncs of the journal's log are tampered with; none where that cannot be done.
fn tampered(cluster: &Cluster, fault: &str) -> Option<(Process, std::path::PathBuf)> {
    let works = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).output();
    if !works.is_ok_and(|output| output.status.success()) {
        println!("skipped: strace is not installed, or may not trace here");
        return None;
    }
    let (trace, log) = (cluster.path("trace"), cluster.data_dir().join("journal/journal.db-wal"));
    let inject = format!("inject=fsync,fdatasync:{fault}");
    let (trace_text, config) = (trace.display().to_string(), cluster.path("scheduler.toml").display().to_string());
    let log = log.display().to_string();
    let binary = cluster.binary().display().to_string();
    let args = ["-f", "-qq", "-o", &trace_text, "-P", &log, "-e", "trace=fsync,fdatasync", "-e", &inject];
    let args: Vec<&str> = args.into_iter().chain([&*binary, "scheduler", "--config", &config]).collect();
    Some((Process::start(Path::new("strace"), &args, &cluster.path("scheduler.log")), trace))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_that_fails_is_the_last_thing_that_is_tried() {
    let mut cluster = Cluster::prepare(crate::DURE, Setup { nodes: 0, ..Setup::default() });
    // Once as it is, so that the folder and its log are there to be watched.
    cluster.start_scheduler();
    cluster.serving().await;
    cluster.kill_scheduler();
    let Some((mut scheduler, trace)) = tampered(&cluster, "error=EIO:when=12+") else { return };
    let caller = cluster.caller(Who::Ana);
    let mut acknowledged = Vec::new();
    let status = until_some("a submit fails for want of a sync", || {
        let (caller, salt) = (caller.clone(), acknowledged.len() as u32);
        let answer = async move { caller.try_submit("", vec![held(salt)]).await };
        let outcome = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(answer));
        let failed = match outcome {
            Ok(ids) => {
                acknowledged.extend(ids);
                None
            }
            Err(status) if status.message().contains("durable") => Some(status),
            Err(_) => None,
        };
        std::future::ready(failed)
    })
    .await;
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let ended = until_some("it gives up by itself", || std::future::ready(scheduler.ended())).await;
    assert_eq!(ended.code(), Some(1), "{}", scheduler.log());
    let injected = std::fs::read_to_string(&trace).expect("a trace").matches("(INJECTED)").count();
    assert_eq!(injected, 1, "a sync that failed is never tried again");
    assert!(!acknowledged.is_empty());
    cluster.start_scheduler();
    cluster.serving().await;
    let known = caller.all_jobs(ListJobsRequest::default()).await.expect("listed");
    let lost: Vec<_> = acknowledged.iter().filter(|id| !known.iter().any(|job| job.id == **id)).collect();
    assert!(lost.is_empty(), "acknowledged and not there: {lost:?}");
}

#[tokio::test]
async fn slow_syncs_cost_time_and_nothing_else() {
    let mut cluster = Cluster::prepare(crate::DURE, Setup { nodes: 1, ..Setup::default() });
    cluster.start_scheduler();
    cluster.serving().await;
    cluster.kill_scheduler();
    let Some((mut scheduler, _)) = tampered(&cluster, "delay_enter=300000") else { return };
    let caller = cluster.caller(Who::Ana);
    cluster.start_agents();
    cluster.ready().await;
    let started = Instant::now();
    let job = caller.submit(script("fusion", 1, 1, "true")).await;
    assert!(started.elapsed() >= Duration::from_millis(300), "an answer waits for its sync");
    let job = caller.ended(job).await;
    assert_eq!((job.phase(), job.attempts), (JobPhase::Completed, 1));
    assert!(
        cluster.nodes().await.expect("listed").iter().all(|node| node.state() == NodeState::Ready && node.connected)
    );
    assert!(scheduler.ended().is_none(), "{}", scheduler.log());
}
