//! What goes once snapshots have replaced it: old batches, old snapshots, blobs that nobody names.

use std::collections::BTreeSet;

use super::*;

const DAY: u64 = 86_400_000;

fn settle(engine: &mut dyn Engine) {
    while engine.maintain(None).expect("housekeeping") {}
}

fn snapshot(engine: &mut dyn Engine, day: u64) -> u64 {
    let seq = engine.head().seq;
    engine.put_snapshot(&Snapshot { seq, created_ms: day * DAY, bytes: bytes_of(seq, 50) }).expect("written");
    settle(engine);
    seq
}

#[test]
fn old_batches_go_and_what_is_left_is_whole_from_its_base_on() {
    let disk = Disk::new();
    let open = || EmbeddedEngine::open(disk.dir(), OpenOptions::default()).expect("opens");
    let mut engine = open().keeping(Kept { span_ms: 8 * DAY, bytes: u64::MAX });
    let mut seqs = Vec::new();
    for day in 1..=20 {
        append(&mut engine, 30);
        seqs.push(snapshot(&mut engine, day));
    }
    append(&mut engine, 5);
    let (head, base) = (engine.head().seq, seqs[11]);
    let reader = JournalReader::open(disk.dir()).expect("opens");
    assert_eq!(
        reader.beginning().expect("it holds").map(|found| found.seq),
        Some(base),
        "eight days before the newest"
    );
    let gone = reader.read(base, ReadLimit::default()).expect_err("it is gone");
    assert_eq!(gone, JournalError::Truncated { kept_from: base + 1 });
    assert_whole(&engine, head);
    let rows: i64 = reader.conn.query_row("SELECT count(*) FROM batches", [], |row| row.get(0)).expect("counted");
    assert_eq!(rows, 8 * 30 + 5);
    let verified = reader.verify_all().expect("sound");
    assert_eq!((verified.batches, verified.head.seq), (8 * 30 + 5, head));
    let middle = Reader::snapshot_up_to(&reader, seqs[15]).expect("it reads").snapshot.expect("one of those between");
    assert_eq!(middle.seq, seqs[15]);
    // A crash in the middle of the removal, another opening, a backup: all the same.
    drop(engine);
    let copy = Disk::new();
    reader.backup(&copy.dir().join("backup")).expect("a backup");
    assert_whole(&open(), head);
    // By size: the base moves as far as it must, and stops at what recovery needs.
    let mut engine = open().keeping(Kept { span_ms: 8 * DAY, bytes: 1 });
    for day in 21..=40 {
        append(&mut engine, 3);
        snapshot(&mut engine, day);
    }
    let newest = Reader::newest_snapshot(&reader).expect("it reads").snapshot.expect("the newest").seq;
    let before = Reader::snapshot_up_to(&reader, newest - 1).expect("it reads").snapshot.expect("the one before").seq;
    assert_eq!(reader.beginning().expect("it holds").map(|found| found.seq), Some(before));
    assert_whole(&engine, engine.head().seq);
    assert!(reader.verify_all().is_ok());
}

#[test]
fn blobs_that_nobody_names_go_in_both_engines() {
    on_each(|place| {
        let mut engine = place.lead();
        append(&mut *engine, 12);
        let has = |engine: &dyn Engine, seq: u64| engine.read_blob(blob_at(seq).id()).expect("it reads").is_some();
        let with_blob: Vec<u64> = read_all(&*engine)
            .expect("readable")
            .iter()
            .map(|batch| batch.first_seq)
            .filter(|first| first.is_multiple_of(3))
            .collect();
        let (kept, gone, again) = (with_blob[0], with_blob[1], with_blob[2]);
        let seq = snapshot(&mut *engine, 1);
        // Named once more after the snapshot: the state there does not know it, and it stays.
        let batch = batch_at(engine.head().seq + 1, engine.epoch());
        engine.append(&[batch], &[blob_at(again)]).expect("appended");
        engine.release_blobs(seq, BTreeSet::from([blob_at(kept).id()]));
        settle(&mut *engine);
        assert!(has(&*engine, kept) && has(&*engine, again));
        let is_memory = has(&*engine, gone);
        // What went comes back when it is named again.
        let batch = batch_at(engine.head().seq + 1, engine.epoch());
        engine.append(&[batch], &[blob_at(gone)]).expect("appended");
        assert!(has(&*engine, gone));
        let seq = snapshot(&mut *engine, 2);
        engine.release_blobs(seq, BTreeSet::new());
        settle(&mut *engine);
        let left = [kept, gone, again].map(|seq| has(&*engine, seq));
        assert_eq!(left, [is_memory; 3], "nobody names them any more");
    });
    // The engines with a disk of their own do remove them.
    let mut engine = Disk::new().lead();
    append(&mut *engine, 3);
    let seq = snapshot(&mut *engine, 1);
    engine.release_blobs(seq, BTreeSet::new());
    settle(&mut *engine);
    assert_eq!(engine.read_blob(blob_at(3).id()), Ok(None));
}
