//! What taking over costs, by what is touched and not by time; and the order: the successor is ready, then the leader lets go.

use std::time::Duration;

use dure_core::ids::Seq;
use tokio::sync::watch;

use super::warm::{Making, follow};
use crate::etcd::Etcd;
use crate::etcd::local::{LocalError, LocalEtcd};
use crate::follower::FollowerConfig;
use crate::journal::{Batch, Engine as _, OpenOptions, ReplicatedEngine, Snapshot};
use crate::leadership::{Candidate, Others, Readiness, Standing, await_ready};
use crate::random_turns::{RandomTurns, small_policy};
use crate::record::{encode, encode_snapshot};
use crate::start::Left;

const LEASE: Duration = Duration::from_secs(2);
/// Whatever is waited for comes sooner, or the test fails.
const BOUND: Duration = Duration::from_secs(30);

/// One member of etcd; none where it is not installed.
fn local() -> Option<(tempfile::TempDir, LocalEtcd)> {
    let dir = tempfile::tempdir().expect("a folder");
    match LocalEtcd::start(dir.path(), 1) {
        Err(LocalError::NotInstalled) => {
            println!("skipped: etcd is not installed");
            None
        }
        started => Some((dir, started.expect("it starts"))),
    }
}

fn making(etcd: &Etcd) -> Making {
    let (policy, config) = (small_policy(), FollowerConfig::standard());
    Making { etcd: etcd.clone(), policy, config, keep: Box::new(|_| None) }
}

fn wait_until_ready(ready: &watch::Receiver<Readiness>) {
    let began = std::time::Instant::now();
    while *ready.borrow() != Readiness::Ready {
        assert!(began.elapsed() < BOUND, "the cores are not ready");
        std::thread::yield_now();
    }
}

/// Appends so many turns of a random life; the events in them.
fn live(engine: &mut ReplicatedEngine, turns: &mut RandomTurns, count: usize) -> u64 {
    let before = engine.head().seq;
    for _ in 0..count {
        let events = if engine.head().seq == 0 { turns.opening() } else { turns.turn() };
        if !events.is_empty() {
            let batch = Batch {
                first_seq: engine.head().seq + 1,
                count: events.len() as u32,
                epoch: engine.epoch(),
                payload: encode(turns.now, &events),
            };
            engine.append(&[batch], &[]).expect("appended");
        }
    }
    engine.head().seq - before
}

#[test]
fn a_standby_that_is_ready_has_both_cores_at_the_end_and_reads_only_what_came_since() {
    let Some((_dir, cluster)) = local() else { return };
    let etcd = cluster.client("/dure").expect("a way");
    let mut leader = ReplicatedEngine::open(&etcd, OpenOptions::default()).expect("it leads");
    let mut turns = RandomTurns::new(7, 8, small_policy());
    let long = live(&mut leader, &mut turns, 400);
    let (ready, is_ready) = watch::channel(Readiness::Behind);
    let following = follow(making(&etcd), None, ready).expect("a thread");
    wait_until_ready(&is_ready);
    let (making_back, warm) = following.end().expect("it lives");
    assert_eq!(warm.touched(), Some((true, long)), "the first core is made, from all events, before it says ready");
    let begun = warm.finish(&making_back).expect("sound");
    assert_eq!((begun.recovered.head, begun.second.head()), (Seq(long), Seq(long)));
    assert_eq!(begun.recovered.cluster.digest(), turns.cluster.digest());
    assert_eq!(begun.second.cluster().digest(), turns.cluster.digest());

    // It leads, and hands over: what it has is where it goes on, however much that was.
    let head = leader.head();
    let left = Some(Left { head, following: begun.second });
    let few = live(&mut leader, &mut turns, 5);
    let (ready, is_ready) = watch::channel(Readiness::Behind);
    let following = follow(making(&etcd), left, ready).expect("a thread");
    wait_until_ready(&is_ready);
    let (making_back, warm) = following.end().expect("it lives");
    assert_eq!(warm.touched(), Some((true, few)), "nothing is read twice");
    let begun = warm.finish(&making_back).expect("sound");
    assert_eq!(begun.recovered.cluster.digest(), turns.cluster.digest());
    assert_eq!(begun.second.cluster().digest(), turns.cluster.digest());
}

#[test]
fn a_leader_that_has_just_taken_over_makes_no_snapshot_at_once() {
    let mut turns = RandomTurns::new(9, 8, small_policy());
    let config = FollowerConfig { snapshot_events: 50, ..FollowerConfig::standard() };
    let recovered = crate::recover::Recovered::from_snapshot(Default::default(), small_policy()).expect("empty");
    let mut second = crate::follower::Following::new(&recovered, config);
    let mut first_seq = 1;
    let mut next = |turns: &mut RandomTurns| loop {
        let events = if first_seq == 1 { turns.opening() } else { turns.turn() };
        if !events.is_empty() {
            let (epoch, time, calls) = (dure_core::ids::Epoch(1), turns.now, Vec::new());
            let turn = crate::source::DurableBatch { first_seq, epoch, time, events, calls };
            first_seq += turn.events.len() as u64;
            return turn;
        }
    };
    while second.head() < Seq(60) {
        second.follow(&next(&mut turns)).expect("it fits");
    }
    second.leads(Seq(0));
    let led_at = second.head();
    let snapshot: Snapshot = loop {
        if let Some(snapshot) = second.apply(&next(&mut turns)).expect("it fits") {
            break snapshot;
        }
    };
    let (unsaved, settled) = (snapshot.seq, snapshot.created_ms);
    assert!(snapshot.seq > led_at.0, "one is made in the end");
    assert!(unsaved >= 200 || settled >= 10_000, "not before it has settled, or four times the events lie unsaved");
    assert_eq!(snapshot.bytes, encode_snapshot(&turns.cluster, second.head(), turns.now).expect("small"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_not_ready_leaves_the_leadership_to_one_that_is() {
    let Some((_dir, cluster)) = local() else { return };
    let etcd = cluster.client("/dure").expect("a way");
    let (cold, warm) =
        (Candidate::new(etcd.clone(), LEASE, "cold", "cold"), Candidate::new(etcd.clone(), LEASE, "warm", "warm"));
    let (becomes_ready, is_ready) = watch::channel(Readiness::Behind);
    let (_always, ready) = watch::channel(Readiness::Ready);
    let cold_stands = tokio::spawn(async move { cold.stand(None, is_ready).await });
    // It has stood alone for a while by then.
    tokio::time::timeout(Duration::from_millis(400), std::future::pending::<()>()).await.expect_err("it waits");
    assert!(!cold_stands.is_finished(), "nobody leads, and it is not ready");
    let held = tokio::time::timeout(BOUND, warm.stand(None, ready)).await.expect("the one that is ready leads");
    becomes_ready.send_replace(Readiness::Ready);
    tokio::task::spawn_blocking(move || held.give_up()).await.expect("given up");
    let held = tokio::time::timeout(BOUND, cold_stands).await.expect("now it leads").expect("it lives");
    tokio::task::spawn_blocking(move || held.give_up()).await.expect("given up");
    tokio::task::spawn_blocking(move || drop((etcd, warm))).await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_sees_who_could_take_over() {
    let Some((_dir, cluster)) = local() else { return };
    let etcd = cluster.client("/dure").expect("a way");
    let seen = async |within| {
        let asking = etcd.clone();
        let seen = etcd.spawn(async move { await_ready(&asking, "me", within).await }).await;
        seen.expect("it lives").expect("etcd answers")
    };
    assert_eq!(seen(BOUND).await, Others::None, "nobody is waited for where nobody stands by");
    let (becomes_ready, ready) = watch::channel(Readiness::Behind);
    let (_own_ready, own) = watch::channel(Readiness::Ready);
    let mine = Standing::announce(&etcd, LEASE, "me", own);
    let other = Standing::announce(&etcd, LEASE, "other", ready);
    while seen(Duration::ZERO).await == Others::None {
        tokio::task::yield_now().await;
    }
    assert_eq!(seen(Duration::from_millis(200)).await, Others::Behind, "its own word counts for nothing");
    becomes_ready.send_replace(Readiness::Ready);
    assert_eq!(seen(BOUND).await, Others::Ready);
    drop((mine, other));
    let began = std::time::Instant::now();
    while seen(Duration::ZERO).await != Others::None {
        assert!(began.elapsed() < BOUND, "the words go when they are over");
        tokio::task::yield_now().await;
    }
    tokio::task::spawn_blocking(move || drop(etcd)).await.expect("closed");
}
