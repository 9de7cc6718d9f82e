//! The wall clock of real processes jumps: nothing that waits for a span of time waits for longer, or for less.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dure_proto::v1::{JobPhase, JobSpec, ListNodesRequest, NodeState};
use dure_tests::cluster::Cluster;
use dure_tests::drafts::{note, noted, script};
use dure_tests::process::lives;
use dure_tests::setup::{Setup, Who};
use dure_tests::wait::{until, until_some};
use dure_tests::wall::WallClock;

const HOUR: i64 = 3_600;

/// Scheduler and agents under a clock that can be set; none where that cannot be.
async fn under_a_clock(nodes: u32) -> Option<(Cluster, WallClock)> {
    let liveness = "heartbeat = \"100ms\"\nsuspect_after = \"3s\"\nlost_after = \"9s\"";
    let policy = "default_grace = \"2s\"\nbackoff = \"100ms\"\ntime_limit_slack = \"5s\"";
    let mut cluster = Cluster::prepare(crate::DURE, Setup { nodes, liveness, policy, ..Setup::default() });
    let Some(clock) = WallClock::right(&cluster.path("")) else {
        eprintln!("skipped: this needs libfaketime (package faketime)");
        return None;
    };
    cluster.put_all_behind(&clock.enter());
    cluster.start_scheduler();
    cluster.serving().await;
    cluster.start_agents();
    cluster.ready().await;
    Some((cluster, clock))
}

/// How far something is ahead of this process's clock, in seconds.
fn ahead(ms: u64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
    (i64::try_from(ms).expect("a time") - i64::try_from(now).expect("a time")) / 1_000
}

/// Waits until the agents read the clock so.
async fn agents_read(cluster: &Cluster, off: i64) {
    until_some("the agents' clocks have jumped", || async {
        let request = ListNodesRequest { with_telemetry: true, ..ListNodesRequest::default() };
        let nodes = cluster.caller(Who::Op).nodes().list(request).await.ok()?.into_inner().nodes;
        let reads = |ms: u64| (ahead(ms) - off).abs() < 60;
        nodes.iter().all(|node| node.telemetry.as_ref().is_some_and(|told| reads(told.sampled_ms))).then_some(())
    })
    .await;
}

async fn all_are_well(cluster: &Cluster) {
    for node in cluster.nodes().await.expect("the scheduler answers") {
        assert!(node.connected && node.state() == NodeState::Ready, "{node:#?}");
    }
}

#[tokio::test]
async fn a_wall_clock_that_jumps_moves_no_deadline() {
    let Some((cluster, clock)) = under_a_clock(2).await else { return };
    let ana = cluster.caller(Who::Ana);
    let notes = cluster.path("notes");
    let text = format!("{}\nwhile :; do sleep 0.1; done", note(&notes));
    let limit = Duration::from_secs(8);
    let limited = JobSpec { time_limit_ms: 8_000, ..script("fusion", 1, 2, &text) };
    let (long, begun) = (ana.submit(script("solar", 1, 2, &text)).await, Instant::now());
    let short = ana.submit(limited).await;
    until("both run", || noted(&notes).len() == 2).await;
    for off in [HOUR, -HOUR, 0] {
        clock.set(off);
        agents_read(&cluster, off).await;
        all_are_well(&cluster).await;
        let last = ana.job(short).await.expect("it is there");
        assert!(last.phase() == JobPhase::Running || begun.elapsed() >= limit, "{last:#?}");
        // A gang starts through its barrier, and what is submitted is dated as before.
        let gang = ana.submit(script("fusion", 2, 4, "true")).await;
        let job = ana.ended(gang).await;
        assert_eq!((job.phase(), job.attempts), (JobPhase::Completed, 1), "{job:#?}");
        assert!(ahead(job.submitted_ms).abs() < 60, "the scheduler's time has jumped: {job:#?}");
    }
    let job = ana.ended(short).await;
    assert_eq!(job.phase(), JobPhase::TimedOut, "{job:#?}");
    let took = begun.elapsed();
    assert!(took >= limit && took < limit + Duration::from_secs(20), "{took:?}");
    let job = ana.job(long).await.expect("it is there");
    assert_eq!((job.phase(), job.attempts), (JobPhase::Running, 1), "{job:#?}");
}

#[tokio::test]
async fn a_scheduler_that_starts_under_another_clock_ends_nobody_early() {
    let Some((mut cluster, clock)) = under_a_clock(1).await else { return };
    let ana = cluster.caller(Who::Ana);
    let notes = cluster.path("notes");
    let text = format!("{}\nwhile :; do sleep 0.1; done", note(&notes));
    let begun = Instant::now();
    let id = ana.submit(JobSpec { time_limit_ms: 25_000, ..script("fusion", 1, 2, &text) }).await;
    until("it runs", || noted(&notes).len() == 1).await;
    for off in [HOUR, -HOUR] {
        cluster.kill_scheduler();
        clock.set(off);
        cluster.start_scheduler();
        cluster.serving().await;
        cluster.ready().await;
        // Whatever was due by the new clock would be done by the time that another job has run.
        let other = ana.ended(ana.submit(script("solar", 1, 1, "true")).await).await;
        assert_eq!(other.phase(), JobPhase::Completed, "{other:#?}");
        let job = ana.job(id).await.expect("it is there");
        assert_eq!((job.phase(), job.attempts), (JobPhase::Running, 1), "{job:#?}");
        assert!(lives(noted(&notes)[0].pid));
    }
    let job = ana.ended(id).await;
    assert_eq!((job.phase(), job.attempts), (JobPhase::TimedOut, 1), "{job:#?}");
    assert!(begun.elapsed() >= Duration::from_secs(25), "{:?}", begun.elapsed());
}
