//! The state after recovery is the state before the crash, wherever the crash falls and whatever the start.

use std::collections::BTreeSet;

use dure_core::ids::Seq;
use dure_core::{Cluster, Policy};

use super::*;
use crate::journal::memory::Fault;
use crate::journal::{
    Batch, EmbeddedEngine, Engine, JournalReader, MemoryEngine, MemoryStore, OpenOptions, Snapshot, StoreId,
};
use crate::random_turns::{RandomTurns, small_policy};
use crate::record::{encode, encode_snapshot};

const NODES: u32 = 12;
const TURNS: usize = 300;

/// A history in a journal, with the live state's digest after each batch.
struct History {
    turns: RandomTurns,
    /// Position and digest after each batch.
    digests: Vec<(Seq, u64)>,
}

fn append(engine: &mut dyn Engine, time: Time, events: &[Event]) {
    let payload = encode(time, events);
    let (first_seq, epoch) = (engine.head().seq + 1, engine.epoch());
    let batch = Batch { first_seq, count: events.len() as u32, epoch, payload };
    engine.append(&[batch], &[]).expect("appended");
}

fn snapshot(cluster: &Cluster, seq: Seq, time: Time) -> Snapshot {
    Snapshot { seq: seq.0, created_ms: time.0, bytes: encode_snapshot(cluster, seq, time).expect("small enough") }
}

impl History {
    fn write(engine: &mut dyn Engine, seed: u64, turns: usize, snapshots: &[usize]) -> Self {
        Self::write_by(small_policy(), engine, seed, turns, snapshots)
    }

    fn write_by(policy: Policy, engine: &mut dyn Engine, seed: u64, turns: usize, snapshots: &[usize]) -> Self {
        let mut history = Self { turns: RandomTurns::new(seed, NODES, policy), digests: Vec::new() };
        for at in 0..turns {
            let events = if at == 0 { history.turns.opening() } else { history.turns.turn() };
            if !events.is_empty() {
                append(engine, history.turns.now, &events);
                let seq = Seq(engine.head().seq);
                history.digests.push((seq, history.turns.cluster.digest()));
            }
            if snapshots.contains(&at) {
                let (seq, _) = *history.digests.last().expect("the opening is not empty");
                let snapshot = snapshot(&history.turns.cluster, seq, history.turns.now);
                engine.put_snapshot(&snapshot).expect("a snapshot");
            }
        }
        history
    }

    fn end(&self) -> (Seq, u64) {
        *self.digests.last().expect("the opening is not empty")
    }
}

fn memory() -> (MemoryStore, MemoryEngine) {
    let store = MemoryStore::new(StoreId([3; 16]));
    let engine = MemoryEngine::open(&store, OpenOptions::default()).expect("opened");
    (store, engine)
}

fn state(recovered: &Recovered) -> (Seq, u64) {
    (recovered.head, recovered.cluster.digest())
}

#[test]
fn an_empty_journal_is_an_empty_cluster() {
    let (_store, engine) = memory();
    let recovered = recover(&engine, Policy::standard()).expect("recovered");
    assert_eq!((recovered.head, recovered.time, recovered.events_replayed), (Seq(0), Time(0), 0));
    assert_eq!(recovered.cluster.digest(), Cluster::new(Policy::standard()).digest());
}

#[test]
fn snapshot_and_tail_are_the_full_replay() {
    for seed in 1..=8 {
        let (_store, mut engine) = memory();
        let full = History::write(&mut engine, seed, TURNS, &[]);
        let replayed = recover(&engine, small_policy()).expect("recovered");
        assert_eq!(state(&replayed), full.end(), "seed {seed}");
        assert_eq!((replayed.events_replayed, replayed.from_snapshot), (full.end().0.0, None));

        let (_store, mut engine) = memory();
        let with = History::write(&mut engine, seed, TURNS, &[TURNS / 3, TURNS * 2 / 3]);
        let shortened = recover(&engine, small_policy()).expect("recovered");
        let from = shortened.from_snapshot.expect("a snapshot was made");
        assert_eq!(state(&shortened), with.end(), "seed {seed}");
        assert_eq!(state(&shortened), state(&replayed), "seed {seed}");
        assert_eq!(shortened.events_replayed, with.end().0.0 - from.0);
        assert_eq!(shortened.time, replayed.time);
        assert_eq!(shortened.cluster.next_timer(), replayed.cluster.next_timer(), "seed {seed}");
        dure_core::invariants::check_all(&shortened.cluster).expect("whatever holds of a live state");
    }
}

#[test]
fn a_recovered_core_decides_as_the_live_one() {
    // How far a bounded search had come is in no journal: a core that takes over begins it anew.
    let policy = || Policy { max_plans_per_cycle: u32::MAX, ..small_policy() };
    for seed in 70..76 {
        let (_store, mut engine) = memory();
        let mut live = History::write_by(policy(), &mut engine, seed, TURNS, &[TURNS / 2]).turns;
        let cluster = recover(&engine, policy()).expect("recovered").cluster;
        let mut recovered = live.clone();
        recovered.cluster = cluster;
        for _ in 0..TURNS {
            assert_eq!(recovered.turn(), live.turn(), "seed {seed}");
        }
        assert_eq!(recovered.cluster.digest(), live.cluster.digest());
    }
}

#[test]
fn a_crash_between_any_two_batches_loses_nothing() {
    let store = MemoryStore::new(StoreId([3; 16]));
    let mut turns = RandomTurns::new(5, NODES, small_policy());
    for at in 0..150 {
        let before = turns.cluster.digest();
        let events = if at == 0 { turns.opening() } else { turns.turn() };
        let mut engine = MemoryEngine::open(&store, OpenOptions::default()).expect("opened again");
        assert_eq!(recover(&engine, small_policy()).expect("recovered").cluster.digest(), before);
        if !events.is_empty() {
            append(&mut engine, turns.now, &events);
        }
        if at % 40 == 39 {
            let made = snapshot(&turns.cluster, Seq(engine.head().seq), turns.now);
            engine.put_snapshot(&made).expect("a snapshot");
        }
    }
}

#[test]
fn a_batch_that_did_not_become_durable_never_was() {
    let (store, mut engine) = memory();
    let mut history = History::write(&mut engine, 6, 50, &[20]);
    store.fail_after(0, Fault::Refused);
    let events = std::iter::repeat_with(|| history.turns.turn()).find(|events| !events.is_empty());
    let payload = encode(history.turns.now, &events.expect("the dice lead to something"));
    let batch = Batch { first_seq: engine.head().seq + 1, count: 1, epoch: engine.epoch(), payload };
    engine.append(&[batch], &[]).expect_err("the disk refuses");
    drop(engine);
    let engine = MemoryEngine::open(&store, OpenOptions::default()).expect("opened again");
    assert_eq!(state(&recover(&engine, small_policy()).expect("recovered")), history.end());
}

#[test]
fn a_damaged_snapshot_is_passed_over_and_named() {
    let (store, mut engine) = memory();
    let history = History::write(&mut engine, 9, TURNS, &[100, 200]);
    let newest = engine.newest_snapshot().expect("read").snapshot.expect("one").seq;
    store.flip_snapshot(newest);
    let recovered = recover(&engine, small_policy()).expect("the older one serves");
    assert_eq!(state(&recovered), history.end());
    assert!(recovered.from_snapshot.is_some_and(|seq| seq.0 < newest));
    assert_eq!(recovered.passed_over, [(Seq(newest), "its checksum does not hold".to_owned())]);
}

#[test]
fn an_unreadable_snapshot_gives_way_to_the_whole_journal() {
    let (_store, mut engine) = memory();
    let history = History::write(&mut engine, 9, 100, &[]);
    let seq = history.end().0;
    let wrong = Snapshot { seq: seq.0, created_ms: 0, bytes: vec![1, 2, 3] };
    engine.put_snapshot(&wrong).expect("the journal does not look inside");
    let recovered = recover(&engine, small_policy()).expect("the events are all there");
    assert_eq!(state(&recovered), history.end());
    assert_eq!((recovered.from_snapshot, recovered.passed_over.len()), (None, 1));
    let elsewhere = snapshot(&recovered.cluster, Seq(seq.0 - 1), recovered.time);
    let misplaced = Snapshot { seq: seq.0, ..elsewhere };
    assert!(matches!(restore(&misplaced, small_policy()), Err(Unusable::Broken(why)) if why.contains("position")));
}

#[test]
fn what_contradicts_the_state_is_named_with_its_position() {
    let (_store, mut engine) = memory();
    append(&mut engine, Time(1), &[Event::UserSeen { user: dure_core::ids::UserIndex(0), name: "kim".into() }]);
    let job = dure_core::ids::JobId(9);
    append(
        &mut engine,
        Time(2),
        &[Event::UserSeen { user: dure_core::ids::UserIndex(1), name: "lee".into() }, Event::JobHeld { job }],
    );
    match recover(&engine, Policy::standard()) {
        Err(RecoverError::Contradiction { seq: 3, event, why }) => {
            assert_eq!(event, "JobHeld { job: j9 }");
            assert!(why.contains("only jobs that exist"), "{why}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_payload_that_cannot_be_read_is_named_with_its_positions() {
    let (_store, mut engine) = memory();
    append(&mut engine, Time(1), &[Event::UserSeen { user: dure_core::ids::UserIndex(0), name: "kim".into() }]);
    let epoch = engine.epoch();
    engine.append(&[Batch { first_seq: 2, count: 1, epoch, payload: vec![0xff] }], &[]).expect("appended");
    let err = recover(&engine, Policy::standard()).expect_err("no event in there").to_string();
    assert!(err.starts_with("the batch at positions 2 to 2 cannot be read: the payload is malformed"), "{err}");
}

#[test]
fn a_row_that_counts_wrong_is_named() {
    let (_store, mut engine) = memory();
    let events = [Event::UserSeen { user: dure_core::ids::UserIndex(0), name: "kim".into() }];
    let (payload, epoch) = (encode(Time(1), &events), engine.epoch());
    engine.append(&[Batch { first_seq: 1, count: 2, epoch, payload }], &[]).expect("appended");
    let err = recover(&engine, Policy::standard()).expect_err("two are not one").to_string();
    assert_eq!(err, "the batch at position 1 holds 1 events, its row says 2: restore the newest backup");
}

#[test]
fn sqlite_gives_the_same_state_to_leader_and_reader() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut engine = EmbeddedEngine::open(dir.path(), OpenOptions::default()).expect("opened");
    let history = History::write(&mut engine, 21, 150, &[60]);
    let reader = JournalReader::open(dir.path()).expect("opened");
    assert_eq!(state(&recover(&reader, small_policy()).expect("recovered")), history.end());
    drop(engine);
    let engine: Box<dyn Engine> =
        Box::new(EmbeddedEngine::open(dir.path(), OpenOptions::default()).expect("opened again"));
    let recovered = recover(engine.as_ref(), small_policy()).expect("recovered");
    assert_eq!(state(&recovered), history.end());
    assert!(recovered.from_snapshot.is_some());
}

/// The histories above mean little where they never go.
#[test]
fn random_histories_know_every_kind_of_event() {
    let mut seen = BTreeSet::new();
    for seed in 1..=8 {
        let mut turns = RandomTurns::new(seed, NODES, small_policy());
        let mut events = turns.opening();
        (0..TURNS).for_each(|_| events.extend(turns.turn()));
        events.extend(turns.cluster.snapshot());
        seen.extend(events.iter().map(|event| format!("{event:?}").split(' ').next().unwrap_or_default().to_owned()));
    }
    // All that there are but `NodeChanged`: no dice change what a node has.
    assert!(seen.len() >= 33, "{seen:?}");
}
