//! The follower keeps step whatever reaches it, and makes the snapshots that recovery needs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use dure_core::event::Event;
use dure_core::units::Time;

use super::*;
use crate::journal::{
    Batch, Engine as _, FoundSnapshot, JournalError, MemoryEngine, MemoryStore, OpenOptions, ReadLimit, Snapshot,
    StoreId,
};
use crate::random_turns::{RandomTurns, small_policy};
use crate::record::encode;
use crate::recover::recover;

/// A journal that writer and follower share.
#[derive(Clone)]
struct Shelf(Arc<Mutex<MemoryEngine>>, Arc<AtomicBool>);

impl Shelf {
    fn with<T>(&self, work: impl FnOnce(&mut MemoryEngine) -> T) -> T {
        work(&mut self.0.lock().expect("nobody panics while holding it"))
    }

    fn append(&self, time: Time, events: &[Event]) -> Arc<DurableBatch> {
        self.with(|engine| {
            let first_seq = engine.head().seq + 1;
            let (count, epoch) = (events.len() as u32, engine.epoch());
            let batch = Batch { first_seq, count, epoch, payload: encode(time, events) };
            engine.append(&[batch], &[]).expect("appended");
            let (epoch, events, calls) = (dure_core::ids::Epoch(epoch), events.to_vec(), Vec::new());
            Arc::new(DurableBatch { first_seq, epoch, time, events, calls })
        })
    }
}

impl Source for Shelf {
    fn last_position(&self) -> Result<Seq, JournalError> {
        self.with(|engine| engine.last_position())
    }

    fn batches_from(&self, from: Seq, limit: ReadLimit) -> Result<Vec<Batch>, JournalError> {
        if self.1.load(Ordering::SeqCst) {
            let (dir, doing, detail) = ("shelf".into(), "reading", "it is silent".to_owned());
            return Err(JournalError::Storage { dir, doing, detail });
        }
        self.with(|engine| engine.batches_from(from, limit))
    }

    fn sound_snapshot(&self) -> Result<FoundSnapshot, JournalError> {
        self.with(|engine| engine.sound_snapshot())
    }
}

struct Bench {
    shelf: Shelf,
    turns: RandomTurns,
    follower: Follower,
    snapshots: Receiver<u64>,
    opened: bool,
}

impl Bench {
    fn new(config: FollowerConfig) -> Self {
        let engine = MemoryEngine::open(&MemoryStore::new(StoreId([5; 16])), OpenOptions::default()).expect("opened");
        let shelf = Shelf(Arc::new(Mutex::new(engine)), Arc::default());
        let recovered = recover(&shelf, small_policy()).expect("an empty one");
        let (made, snapshots): (Sender<u64>, _) = channel();
        let store = shelf.clone();
        let sink = move |snapshot: Snapshot, _| {
            made.send(snapshot.seq).expect("the bench listens");
            store.with(|engine| engine.put_snapshot(&snapshot))
        };
        let following = Following::new(&recovered, config);
        let follower = Follower::start(following, Box::new(shelf.clone()), Box::new(sink), None).expect("a thread");
        let turns = RandomTurns::new(11, 8, small_policy());
        Self { shelf, turns, follower, snapshots, opened: false }
    }

    /// The next durable turn, not fed yet.
    fn next(&mut self) -> Arc<DurableBatch> {
        loop {
            let events = if self.opened { self.turns.turn() } else { self.turns.opening() };
            self.opened = true;
            if !events.is_empty() {
                return self.shelf.append(self.turns.now, &events);
            }
        }
    }

    fn head(&self) -> Seq {
        self.shelf.last_position().expect("read")
    }

    fn agrees(&self) {
        self.follower.feed().verify(self.head(), self.turns.cluster.digest()).expect("the same state");
        assert_eq!((self.follower.position(), self.follower.lag()), (self.head(), 0));
    }
}

fn config(events: u64, queue: usize) -> FollowerConfig {
    FollowerConfig { snapshot_events: events, snapshot_span: Span::seconds(1_000_000), queue }
}

#[test]
fn a_store_that_is_silent_for_a_while_is_read_on_later() {
    let mut bench = Bench::new(config(u64::MAX, 64));
    let feed = bench.follower.feed();
    feed.feed(bench.next());
    bench.agrees();
    bench.shelf.1.store(true, Ordering::SeqCst);
    let at = bench.head();
    drop(bench.next()); // lost on the way
    feed.feed(bench.next());
    let elsewhere = feed.verify(bench.head(), bench.turns.cluster.digest());
    assert!(matches!(elsewhere, Err(FollowerError::Elsewhere { at: stands, .. }) if stands == at.0), "{elsewhere:?}");
    bench.shelf.1.store(false, Ordering::SeqCst);
    bench.agrees();
}

#[test]
fn follows_turn_by_turn() {
    let mut bench = Bench::new(config(u64::MAX, 64));
    let feed = bench.follower.feed();
    for _ in 0..100 {
        feed.feed(bench.next());
        bench.agrees();
    }
    assert!(bench.snapshots.try_recv().is_err(), "no snapshot is due");
    bench.follower.stop().expect("nothing went wrong");
}

#[test]
fn reads_again_what_found_no_room() {
    let mut bench = Bench::new(config(u64::MAX, 1));
    let feed = bench.follower.feed();
    for round in 0..10 {
        for at in 0..30 {
            let turn = bench.next();
            // Some never reach the queue at all, the last of a round least of all.
            if (at + round) % 3 == 0 && at < 29 {
                feed.feed(turn);
            } else {
                feed.shared.durable.fetch_max(turn.last().0, Ordering::SeqCst);
            }
        }
        bench.agrees();
    }
    bench.follower.stop().expect("nothing went wrong");
}

#[test]
fn takes_repeated_turns_once() {
    let mut bench = Bench::new(config(u64::MAX, 64));
    let feed = bench.follower.feed();
    for _ in 0..20 {
        let turn = bench.next();
        feed.feed(turn.clone());
        feed.feed(turn);
        bench.agrees();
    }
}

#[test]
fn makes_snapshots_by_events_that_recovery_uses() {
    let mut bench = Bench::new(config(200, 64));
    let feed = bench.follower.feed();
    for _ in 0..200 {
        feed.feed(bench.next());
        bench.agrees();
    }
    let made: Vec<u64> = bench.snapshots.try_iter().collect();
    assert!(made.len() as u64 >= bench.head().0 / 400, "{made:?} of {}", bench.head());
    assert!(made.windows(2).all(|pair| pair[1] - pair[0] >= 200));
    assert_eq!(bench.follower.last_snapshot(), Seq(*made.last().expect("some")));
    let recovered = recover(&bench.shelf, small_policy()).expect("recovered");
    assert_eq!(recovered.from_snapshot, Some(bench.follower.last_snapshot()));
    assert_eq!(recovered.cluster.digest(), bench.turns.cluster.digest());
}

#[test]
fn makes_snapshots_by_time_of_the_journal() {
    let span = Span::seconds(120);
    let mut bench = Bench::new(FollowerConfig { snapshot_events: u64::MAX, snapshot_span: span, queue: 64 });
    let feed = bench.follower.feed();
    feed.feed(bench.next());
    let start = bench.turns.now;
    for _ in 0..100 {
        feed.feed(bench.next());
    }
    bench.agrees();
    let made = bench.snapshots.try_iter().count() as u64;
    let most = bench.turns.now.since(start).0 / span.0;
    assert!(made >= 1 && made <= most, "{made} in {most} spans");
}

#[test]
fn makes_a_snapshot_when_asked_and_not_twice() {
    let mut bench = Bench::new(config(u64::MAX, 64));
    let feed = bench.follower.feed();
    (0..10).for_each(|_| feed.feed(bench.next()));
    let first = feed.snapshot_now().expect("made");
    assert_eq!(first, bench.head());
    assert_eq!(feed.snapshot_now().expect("there is one"), first);
    assert_eq!(bench.snapshots.try_iter().collect::<Vec<_>>(), [first.0]);
}

#[test]
fn says_when_states_differ() {
    let mut bench = Bench::new(config(u64::MAX, 64));
    let feed = bench.follower.feed();
    feed.feed(bench.next());
    let (head, digest) = (bench.head(), bench.turns.cluster.digest());
    let differs = feed.verify(head, digest ^ 1);
    assert!(matches!(differs, Err(FollowerError::Differs { ours, .. }) if ours == digest), "{differs:?}");
    let behind = feed.verify(Seq(head.0 - 1), digest);
    assert!(matches!(behind, Err(FollowerError::Elsewhere { at, .. }) if at == head.0), "{behind:?}");
}

#[test]
fn stops_on_a_turn_that_does_not_fit_and_says_why() {
    let mut bench = Bench::new(config(u64::MAX, 64));
    let feed = bench.follower.feed();
    feed.feed(bench.next());
    bench.agrees();
    let job = dure_core::ids::JobId(1 << 40);
    let wrong = DurableBatch {
        first_seq: bench.head().0 + 1,
        epoch: dure_core::ids::Epoch(1),
        time: bench.turns.now,
        events: vec![Event::JobForgotten { job }],
        calls: Vec::new(),
    };
    feed.feed(Arc::new(wrong));
    assert!(matches!(feed.verify(bench.head(), 0), Err(FollowerError::Stopped)));
    // Feeding goes on without harm: the scheduler does not wait for a follower.
    feed.feed(bench.next());
    let err = bench.follower.stop().expect_err("it stopped by itself");
    assert!(matches!(err, FollowerError::Recover(RecoverError::Contradiction { .. })), "{err}");
}

#[test]
fn stops_when_the_journal_lacks_what_is_durable() {
    let mut bench = Bench::new(config(u64::MAX, 64));
    let feed = bench.follower.feed();
    feed.feed(bench.next());
    bench.agrees();
    feed.shared.durable.fetch_max(bench.head().0 + 5, Ordering::SeqCst);
    assert!(matches!(feed.verify(bench.head(), 0), Err(FollowerError::Stopped)));
    let err = bench.follower.stop().expect_err("it stopped by itself").to_string();
    assert!(err.contains("the journal's head is at"), "{err}");
}

#[test]
fn how_far_the_history_is_behind_is_known() {
    let shared = Shared::default();
    let set = |number: &AtomicU64, to: u64| number.store(to, Ordering::SeqCst);
    set(&shared.durable, 12);
    set(&shared.durable_ms, 95_000);
    set(&shared.history, 5);
    set(&shared.history_ms, 5_000);
    assert_eq!(shared.history_lag(), HistoryLag { events: 7, span: Span::seconds(90) });
    set(&shared.history, 12);
    assert_eq!(shared.history_lag(), HistoryLag::default(), "the time alone is no lag");
    // One that a follower fills has caught up soon.
    let store = MemoryStore::new(StoreId([5; 16]));
    let engine = MemoryEngine::open(&store, OpenOptions::default()).expect("opened");
    let shelf = Shelf(Arc::new(Mutex::new(engine)), Arc::default());
    let recovered = recover(&shelf, small_policy()).expect("an empty one");
    let dir = tempfile::tempdir().expect("a folder");
    let path = crate::history::HistoryStore::path_in(dir.path());
    let history = crate::history::HistoryStore::open(&path, "store").expect("it opens");
    let retention = crate::history::Retention::standard();
    let historian = crate::history::Historian::new(history, retention, Default::default()).expect("it goes on");
    let keeping = Some(Keeping { historian, policy: small_policy() });
    let (source, sink): (_, Sink) = (Box::new(shelf.clone()), Box::new(|_, _| Ok(())));
    let following = Following::new(&recovered, config(u64::MAX, 64));
    let follower = Follower::start(following, source, sink, keeping).expect("a thread");
    let mut turns = RandomTurns::new(11, 8, small_policy());
    follower.feed().feed(shelf.append(turns.now, &turns.opening()));
    assert!(follower.feed().shared.durable.load(Ordering::SeqCst) > 0);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while follower.feed().history_lag().events > 0 {
        assert!(std::time::Instant::now() < deadline, "{:?}", follower.feed().history_lag());
        std::thread::yield_now();
    }
    follower.stop().expect("nothing went wrong");
}
