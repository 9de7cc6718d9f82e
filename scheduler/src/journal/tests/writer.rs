//! The writer thread: groups, order, limits, failure, close.

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::*;
use crate::journal::memory::Fault;

const BOUND: Duration = Duration::from_secs(30);

fn start(engine: Box<dyn Engine>, limits: WriterLimits) -> (JournalWriter, Receiver<Report>) {
    let (sender, reports) = channel();
    let report = move |report| drop(sender.send(report));
    (JournalWriter::start(engine, limits, report).expect("a thread"), reports)
}

fn next(reports: &Receiver<Report>) -> Report {
    reports.recv_timeout(BOUND).expect("a report in time")
}

fn durable(reports: &Receiver<Report>) -> Durable {
    match next(reports) {
        Report::Durable(durable) => durable,
        other => panic!("expected a durable head: {other:?}"),
    }
}

/// `n` batches that follow each other from the start, of epoch 1.
fn batches(n: usize) -> Vec<Batch> {
    batches_of(1, n)
}

fn batches_of(epoch: u64, n: usize) -> Vec<Batch> {
    let mut seq = 0;
    (0..n)
        .map(|_| {
            let batch = batch_at(seq + 1, epoch);
            seq = batch.last_seq();
            batch
        })
        .collect()
}

/// A store whose every write says that it waits, and waits to be let on.
fn gated() -> (MemoryStore, Receiver<()>, std::sync::mpsc::Sender<()>) {
    let store = MemoryStore::new(StoreId([2; 16]));
    let (arrived, at_gate) = channel();
    let (open_gate, gate) = channel();
    store.slow(move || {
        arrived.send(()).unwrap_or_default();
        gate.recv_timeout(BOUND).unwrap_or_default();
    });
    (store, at_gate, open_gate)
}

#[test]
fn whatever_waits_during_a_commit_goes_into_the_next() {
    let (store, at_gate, open_gate) = gated();
    let (writer, reports) = start(store.lead(), WriterLimits::default());
    let batches = batches(41);
    writer.append(batches[0].clone(), vec![]).expect("queued");
    at_gate.recv_timeout(BOUND).expect("the first commit has begun");
    for batch in &batches[1..] {
        writer.append(batch.clone(), vec![]).expect("queued");
    }
    open_gate.send(()).expect("the first goes on");
    open_gate.send(()).expect("the second too");
    assert_eq!(durable(&reports).batches, 1);
    let second = durable(&reports);
    assert_eq!((second.batches, second.head.seq), (40, batches[40].last_seq()));
    let stats = writer.stats();
    assert_eq!((stats.commits, stats.batches, stats.events), (2, 41, batches[40].last_seq()));
    assert_eq!(writer.close().expect("closed"), second.head);
    assert_whole(&*store.lead(), second.head.seq);
}

#[test]
fn a_commit_is_bounded_in_batches_and_bytes() {
    for limits in [
        WriterLimits { group_batches: 4, ..WriterLimits::default() },
        WriterLimits { group_bytes: 700, ..WriterLimits::default() },
    ] {
        let (store, at_gate, open_gate) = gated();
        let (writer, reports) = start(store.lead(), limits);
        let batches = batches(20);
        for batch in &batches {
            writer.append(batch.clone(), vec![]).expect("queued");
        }
        at_gate.recv_timeout(BOUND).expect("begun");
        drop(open_gate); // all gates open
        let mut seq = 0;
        while seq < batches[19].last_seq() {
            let commit = durable(&reports);
            assert!(commit.batches <= 5, "{commit:?}");
            seq = commit.head.seq;
        }
    }
}

#[test]
fn a_full_queue_gives_the_batch_back() {
    let (store, at_gate, open_gate) = gated();
    let (writer, reports) = start(store.lead(), WriterLimits { queue: 2, ..WriterLimits::default() });
    let batches = batches(4);
    assert_eq!(writer.try_append(batches[0].clone(), vec![]).expect("alive"), None);
    at_gate.recv_timeout(BOUND).expect("begun, so the queue is empty");
    assert_eq!(writer.try_append(batches[1].clone(), vec![]).expect("alive"), None);
    assert_eq!(writer.try_append(batches[2].clone(), vec![]).expect("alive"), None);
    let back = writer.try_append(batches[3].clone(), vec![blob_at(3)]).expect("alive");
    assert_eq!(back, Some((batches[3].clone(), vec![blob_at(3)])));
    drop(open_gate);
    assert_eq!(durable(&reports).head.seq, batches[0].last_seq());
    assert_eq!(writer.close().expect("closed").seq, batches[2].last_seq());
}

#[test]
fn the_first_failure_is_the_last_report() {
    for fault in [Fault::Refused, Fault::DiskFull, Fault::LostAnswer] {
        let store = MemoryStore::new(StoreId([4; 16]));
        store.fail_after(1, fault);
        let (writer, reports) = start(store.lead(), WriterLimits::default());
        let batches = batches(3);
        writer.append(batches[0].clone(), vec![]).expect("queued");
        assert_eq!(durable(&reports).head.seq, batches[0].last_seq());
        writer.append(batches[1].clone(), vec![]).expect("queued");
        let Report::Failed(cause) = next(&reports) else { panic!("expected the failure") };
        assert!(reports.recv_timeout(BOUND).is_err(), "nothing after the failure: the thread has ended");
        let err = writer.append(batches[2].clone(), vec![]).expect_err("gone");
        assert_eq!(err, JournalError::Poisoned { cause: std::sync::Arc::new(cause.clone()) });
        assert_eq!(writer.close().expect_err("failed"), cause);
        assert!(store.lead().head().seq >= batches[0].last_seq());
    }
}

#[test]
fn snapshots_are_written_between_commits() {
    on_each(|place| {
        let engine = place.lead();
        let batches = batches_of(engine.epoch(), 60);
        let (writer, reports) = start(engine, WriterLimits::default());
        writer.append(batches[0].clone(), vec![]).expect("queued");
        let seq = batches[0].last_seq();
        let bytes = bytes_of(1, 5 * SNAPSHOT_CHUNK_BYTES + 1);
        writer.snapshot(Snapshot { seq, created_ms: 1, bytes }).expect("queued");
        for batch in &batches[1..] {
            writer.append(batch.clone(), vec![]).expect("queued");
        }
        let (mut done, mut head) = (false, 0);
        while !done || head < batches[59].last_seq() {
            match next(&reports) {
                Report::Durable(durable) => head = durable.head.seq,
                Report::SnapshotDone { seq: at } => done = at == seq,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(writer.stats().snapshots, 1);
        drop(writer);
        assert_eq!(place.lead().newest_snapshot().expect("readable").snapshot.expect("there").seq, seq);
    });
}

#[test]
fn a_snapshot_out_of_place_is_refused_and_the_journal_goes_on() {
    let store = MemoryStore::new(StoreId([4; 16]));
    let (writer, reports) = start(store.lead(), WriterLimits::default());
    writer.snapshot(Snapshot { seq: 77, created_ms: 0, bytes: vec![1] }).expect("queued");
    assert!(matches!(next(&reports), Report::SnapshotRefused { seq: 77, .. }));
    writer.append(batch_at(1, 1), vec![]).expect("queued");
    assert_eq!(durable(&reports).batches, 1);
}

#[test]
fn dropping_the_handle_writes_what_is_queued() {
    on_each(|place| {
        let engine = place.lead();
        let batches = batches_of(engine.epoch(), 30);
        let (writer, _reports) = start(engine, WriterLimits::default());
        for batch in &batches {
            writer.append(batch.clone(), vec![]).expect("queued");
        }
        drop(writer);
        assert_eq!(place.lead().head().seq, batches[29].last_seq());
    });
}
