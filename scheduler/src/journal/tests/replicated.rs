//! What only the replicated engine promises: fencing, warm following, truncation, damage found.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::etcd::{Patience, keys::Range};
use crate::journal::replicated::{Followed, delete, put};
use crate::leadership::hold;

/// Runs a test where etcd is installed.
fn on_etcd(test: impl Fn(&Remote)) {
    if let Some(remote) = Remote::new() {
        test(&remote);
    }
}

fn engine_of(remote: &Remote) -> ReplicatedEngine {
    ReplicatedEngine::open(&remote.etcd, OpenOptions::default()).expect("a sound store opens")
}

#[test]
fn a_deposed_leader_appends_nothing() {
    on_etcd(|remote| {
        let mut old = engine_of(remote);
        append(&mut old, 3);
        let head = old.head();
        // Its lease is gone, and it does not know.
        let key = remote.etcd.keys().leader();
        let asking = remote.etcd.clone();
        let found = remote.etcd.block(async move {
            let patience = Patience::of(Duration::from_secs(5));
            let found = asking.range(Range::one(key), 1, false, patience).await?;
            asking.revoke(found.kvs[0].lease, patience).await
        });
        found.expect("revoked");
        let mut new = engine_of(remote);
        assert!(new.epoch() > old.epoch());
        append(&mut new, 2);
        let batch = batch_at(head.seq + 1, old.epoch());
        let refused = old.append(&[batch], &[blob_at(99)]).expect_err("deposed");
        assert!(matches!(refused, JournalError::LeadershipLost { .. }), "{refused}");
        assert!(matches!(old.append(&[], &[]), Err(JournalError::Poisoned { .. })));
        assert_whole(&new, head.seq);
        assert_eq!(new.read_blob(blob_at(99).id()).expect("readable"), None, "not even its blobs");
    });
}

#[test]
fn a_leader_whose_lease_has_run_out_by_its_own_clock_does_not_even_try() {
    on_etcd(|remote| {
        let key = hold(&remote.etcd, Duration::from_secs(2), "i", "a").expect("nobody holds it");
        let mut engine =
            ReplicatedEngine::lead(&remote.etcd, key.clone(), None, OpenOptions::default()).expect("leads");
        append(&mut engine, 1);
        key.tenure.end("the test says so");
        let batch = batch_at(engine.head().seq + 1, engine.epoch());
        let refused = engine.append(&[batch], &[]).expect_err("over").to_string();
        assert!(refused.contains("the test says so"), "{refused}");
    });
}

#[test]
fn a_standby_follows_and_takes_over_where_it_stands() {
    on_etcd(|remote| {
        let mut leader = engine_of(remote);
        append(&mut leader, 5);
        let reader = ReplicatedReader::open(&remote.etcd).expect("there is a store");
        let mut followed = Followed::cold(reader).expect("readable");
        let mut seen = 0;
        let mut follow = |followed: &mut Followed| {
            let taken = followed.catch_up(|batch| {
                assert_eq!(batch, batch_at(seen + 1, batch.epoch));
                seen = batch.last_seq();
                Ok::<_, JournalError>(())
            });
            taken.expect("sound")
        };
        assert_eq!(follow(&mut followed), 5);
        append(&mut leader, 200);
        assert_eq!(follow(&mut followed), 200);
        assert_eq!(follow(&mut followed), 0);
        let head = leader.head();
        drop(leader);
        let key = hold(&remote.etcd, Duration::from_secs(2), "i", "a").expect("it was given up");
        let mut engine =
            ReplicatedEngine::lead(&remote.etcd, key, Some(followed), OpenOptions::default()).expect("leads");
        assert_eq!(engine.head(), head);
        append(&mut engine, 1);
        assert_whole(&engine, head.seq);
    });
}

#[test]
fn what_two_snapshots_replace_is_deleted_and_what_is_left_recovers() {
    on_etcd(|remote| {
        let mut engine = engine_of(remote);
        let mut kept_from = 0;
        for round in 1..=3 {
            append(&mut engine, 300);
            let seq = engine.head().seq;
            engine.put_snapshot(&Snapshot { seq, created_ms: round, bytes: vec![7; 2000] }).expect("written");
            kept_from = if round == 2 { seq + 1 } else { kept_from };
        }
        append(&mut engine, 10);
        while engine.maintain(None).expect("housekeeping") {}
        let truncated = engine.read(1, ReadLimit::default()).expect_err("deleted");
        assert_eq!(truncated, JournalError::Truncated { kept_from });
        let head = engine.head();
        drop(engine);
        let engine = engine_of(remote);
        assert_eq!(engine.head(), head);
        assert_whole(&engine, head.seq);
    });
}

#[test]
fn a_changed_or_missing_entry_never_leads() {
    type Damage = fn(&mut Vec<u8>) -> bool;
    let damages: [Damage; 3] = [
        |value| {
            let at = value.len() - 1;
            value[at] ^= 1;
            true
        },
        |value| {
            value.truncate(value.len() / 2);
            true
        },
        |_| false,
    ];
    for damage in damages {
        on_etcd(|remote| {
            let mut engine = engine_of(remote);
            append(&mut engine, 6);
            drop(engine);
            let (keys, asking) = (remote.etcd.keys(), remote.etcd.clone());
            let changed = remote.etcd.block(async move {
                let patience = Patience::of(Duration::from_secs(5));
                let found = asking.range(keys.entries(0, u64::MAX), 0, false, patience).await?;
                let victim = &found.kvs[3];
                let mut value = victim.value.to_vec();
                let op = if damage(&mut value) {
                    put(victim.key.to_vec(), value)
                } else {
                    delete(Range::one(victim.key.to_vec()))
                };
                let request = dure_proto::etcd::TxnRequest { success: vec![op], ..Default::default() };
                asking.txn(request, patience).await
            });
            changed.expect("changed");
            let refused = ReplicatedEngine::open(&remote.etcd, OpenOptions::default()).expect_err("damaged");
            assert!(refused.is_damage(), "{refused}");
        });
    }
}

/// A member that stands still for most of the time, but never long enough to be given up: one that follows, and the one that
/// leads, through which every append goes.
#[test]
fn a_slow_member_costs_time_and_nothing_else() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let cluster = match LocalEtcd::start(dir.path(), 3) {
        Err(LocalError::NotInstalled) => return println!("skipped: etcd is not installed"),
        started => started.expect("it starts"),
    };
    let etcd = cluster.client("/dure").expect("a way");
    let key = hold(&etcd, Duration::from_secs(5), "i", "a").expect("nobody holds it");
    let mut engine = ReplicatedEngine::lead(&etcd, key, None, OpenOptions::default()).expect("leads");
    append(&mut engine, 3);
    let leader = cluster.leader().expect("etcd has a leader");
    for slow in [(leader + 1) % 3, leader] {
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let begun = Instant::now();
                while !is_over.load(Ordering::SeqCst) && begun.elapsed() < Duration::from_secs(60) {
                    cluster.pause(slow);
                    std::thread::sleep(Duration::from_millis(180));
                    cluster.resume(slow);
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
            append(&mut engine, 20);
            is_over.store(true, Ordering::SeqCst);
        });
    }
    let head = engine.head();
    assert_whole(&engine, head.seq);
}

#[test]
fn one_member_dead_or_paused_costs_nothing_but_time() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let cluster = match LocalEtcd::start(dir.path(), 3) {
        Err(LocalError::NotInstalled) => return println!("skipped: etcd is not installed"),
        started => started.expect("it starts"),
    };
    let etcd = cluster.client("/dure").expect("a way");
    let key = hold(&etcd, Duration::from_secs(12), "i", "a").expect("nobody holds it");
    let mut engine = ReplicatedEngine::lead(&etcd, key, None, OpenOptions::default()).expect("leads");
    append(&mut engine, 3);
    let leader = cluster.leader().expect("etcd has a leader");
    let follower = (leader + 1) % 3;
    cluster.kill(follower);
    append(&mut engine, 20);
    cluster.restart(follower).expect("starts");
    cluster.pause(leader);
    append(&mut engine, 20);
    cluster.resume(leader);
    append(&mut engine, 20);
    // Without a quorum nothing is acknowledged, and with the quorum back nothing was lost.
    cluster.kill(0);
    cluster.kill(1);
    let batch = batch_at(engine.head().seq + 1, engine.epoch());
    let refused = engine.append(&[batch], &[]).expect_err("no quorum");
    assert!(matches!(refused, JournalError::LeadershipLost { .. }), "{refused}");
    let head = engine.head();
    drop(engine);
    cluster.restart(0).expect("starts");
    cluster.restart(1).expect("starts");
    let engine = loop {
        match ReplicatedEngine::open(&etcd, OpenOptions::default()) {
            Ok(engine) => break engine,
            Err(JournalError::AlreadyLed { .. } | JournalError::Storage { .. }) => {
                std::thread::sleep(Duration::from_millis(100));
            }
            Err(err) => panic!("{err}"),
        }
    };
    assert_whole(&engine, head.seq);
}
