//! What every engine promises.

use super::*;

#[test]
fn an_empty_store_has_head_zero_and_nothing_to_read() {
    on_each(|place| {
        let engine = place.lead();
        assert_eq!(engine.head(), chain::genesis(engine.store_id()));
        assert_eq!(read_all(&*engine).expect("readable"), vec![]);
        assert_eq!(engine.newest_snapshot().expect("readable"), FoundSnapshot::default());
        assert_eq!(engine.read_blob(BlobId([0; 16])).expect("readable"), None);
    });
}

#[test]
fn what_was_appended_reads_back_after_reopening() {
    on_each(|place| {
        let mut engine = place.lead();
        append(&mut *engine, 50);
        let head = engine.head();
        assert_eq!(engine.close().expect("closed"), head);
        let mut engine = place.lead();
        assert_eq!(engine.head(), head);
        append(&mut *engine, 50);
        let head = engine.head();
        drop(engine);
        let engine = place.lead();
        assert_whole(&*engine, head.seq);
        assert_eq!(engine.read_blob(blob_at(3).id()).expect("readable"), Some(blob_at(3).bytes().to_vec()));
    });
}

#[test]
fn several_batches_go_in_one_commit_and_the_same_blob_twice() {
    on_each(|place| {
        let mut engine = place.lead();
        let first = batch_at(1, engine.epoch());
        let second = batch_at(first.last_seq() + 1, engine.epoch());
        let head = engine.append(&[first, second.clone()], &[blob_at(1), blob_at(1)]).expect("appended");
        assert_eq!((head.seq, head.epoch), (second.last_seq(), engine.epoch()));
        let third = batch_at(head.seq + 1, engine.epoch());
        engine.append(&[third], &[blob_at(1)]).expect("appended");
        assert_whole(&*engine, head.seq + 1);
    });
}

#[test]
fn reading_starts_inside_a_batch_and_keeps_its_limits() {
    on_each(|place| {
        let mut engine = place.lead();
        append(&mut *engine, 30);
        let all = read_all(&*engine).expect("readable");
        for from in 1..=engine.head().seq {
            let got = engine.read(from, ReadLimit { batches: 2, bytes: usize::MAX }).expect("readable");
            let want: Vec<Batch> = all.iter().filter(|batch| batch.last_seq() >= from).take(2).cloned().collect();
            assert_eq!(got, want, "from {from}");
        }
        assert_eq!(engine.read(1, ReadLimit { batches: 9, bytes: 1 }).expect("readable"), all[..1]);
        assert_eq!(engine.read(0, ReadLimit { batches: 1, bytes: 1 }).expect("readable"), all[..1]);
        assert_eq!(engine.read(engine.head().seq + 1, ReadLimit::default()).expect("readable"), vec![]);
        assert_eq!(engine.read(u64::MAX, ReadLimit::default()).expect("readable"), vec![]);
    });
}

#[test]
fn a_batch_that_does_not_follow_is_refused_and_poisons() {
    type Change = fn(&mut Batch);
    let changes: [Change; 5] = [
        |batch| batch.first_seq += 1,
        |batch| batch.first_seq -= 1,
        |batch| batch.count = 0,
        |batch| batch.epoch += 1,
        |batch| batch.epoch -= 1,
    ];
    for change in changes {
        on_each(|place| {
            let mut engine = place.lead();
            append(&mut *engine, 3);
            let head = engine.head();
            let good = batch_at(head.seq + 1, engine.epoch());
            let mut bad = good.clone();
            change(&mut bad);
            let cause = engine.append(&[bad], &[]).expect_err("out of step");
            let again = engine.append(&[good], &[]).expect_err("poisoned");
            assert_eq!(again, JournalError::Poisoned { cause: std::sync::Arc::new(cause) });
            assert_eq!(engine.head(), head);
            assert!(matches!(engine.maintain(None), Err(JournalError::Poisoned { .. })));
            assert!(matches!(engine.close(), Err(JournalError::Poisoned { .. })));
            assert_eq!(place.lead().head(), head);
        });
    }
}

#[test]
fn two_leaders_on_one_store_are_refused() {
    on_each(|place| {
        let engine = place.lead();
        let second = place.open(OpenOptions::default()).err();
        assert!(matches!(second, Some(JournalError::AlreadyLed { .. })), "{second:?}");
        drop(engine);
        place.lead();
    });
}

#[test]
fn every_leadership_has_a_higher_epoch() {
    on_each(|place| {
        let mut last = 0;
        for round in 0..5 {
            let mut engine = place.lead();
            assert!(engine.epoch() > last);
            last = engine.epoch();
            append(&mut *engine, round);
            if round % 2 == 0 {
                engine.close().expect("closed");
            }
        }
    });
}

#[test]
fn a_journal_behind_its_witness_never_leads() {
    on_each(|place| {
        let mut engine = place.lead();
        append(&mut *engine, 4);
        let seq = engine.head().seq;
        drop(engine);
        assert!(place.open(OpenOptions { witness: Some(seq) }).is_ok());
        let err = place.open(OpenOptions { witness: Some(seq + 2) }).err().expect("behind");
        assert!(err.is_damage());
        assert!(err.to_string().contains(&format!("positions {} to {} are missing", seq + 1, seq + 2)), "{err}");
        assert!(err.to_string().contains("dure restore"), "{err}");
    });
}

fn snapshot(seq: u64, bytes: usize) -> Snapshot {
    Snapshot { seq, created_ms: 7 * seq, bytes: bytes_of(seq, bytes) }
}

#[test]
fn the_newest_snapshot_is_found_and_older_ones_go() {
    on_each(|place| {
        let mut engine = place.lead();
        for round in 1..=4 {
            append(&mut *engine, 3);
            let snapshot = snapshot(engine.head().seq, round * SNAPSHOT_CHUNK_BYTES - round % 2);
            engine.put_snapshot(&snapshot).expect("written");
            let found = engine.newest_snapshot().expect("readable");
            assert_eq!(found, FoundSnapshot { snapshot: Some(snapshot), damaged: vec![] });
        }
        while engine.maintain(None).expect("housekeeping") {}
        drop(engine);
        let engine = place.lead();
        let seq = engine.newest_snapshot().expect("readable").snapshot.expect("there").seq;
        assert_eq!(seq, engine.head().seq);
        assert_whole(&*engine, seq);
    });
}

#[test]
fn an_unfinished_snapshot_is_invisible_and_removed() {
    on_each(|place| {
        let mut engine = place.lead();
        append(&mut *engine, 3);
        let old = snapshot(engine.head().seq, 1000);
        engine.put_snapshot(&old).expect("written");
        append(&mut *engine, 3);
        let new = snapshot(engine.head().seq, 3 * SNAPSHOT_CHUNK_BYTES);
        engine.put_snapshot_chunk(new.seq, 0, &new.bytes[..SNAPSHOT_CHUNK_BYTES]).expect("written");
        drop(engine);
        let mut engine = place.lead();
        assert_eq!(engine.newest_snapshot().expect("readable").snapshot, Some(old));
        while engine.maintain(None).expect("housekeeping") {}
        let refused = engine.publish_snapshot(&new.info()).expect_err("its chunks are gone");
        assert!(matches!(refused, JournalError::BadSnapshot { .. }));
        engine.put_snapshot(&new).expect("written whole");
        assert_eq!(engine.newest_snapshot().expect("readable").snapshot, Some(new));
    });
}

#[test]
fn a_snapshot_in_the_wrong_place_is_refused_without_harm() {
    on_each(|place| {
        let mut engine = place.lead();
        append(&mut *engine, 6);
        let head = engine.head().seq;
        engine.put_snapshot(&snapshot(head, 100)).expect("written");
        let inside = read_all(&*engine).expect("readable").iter().find(|b| b.count > 1).map(|b| b.first_seq);
        for seq in [head, head + 1, inside.expect("a batch of several events"), 0] {
            let refused = engine.put_snapshot(&snapshot(seq, 100)).expect_err("wrong place");
            assert!(matches!(refused, JournalError::BadSnapshot { .. }), "{refused}");
        }
        append(&mut *engine, 2);
        engine.put_snapshot(&snapshot(engine.head().seq, 0)).expect("an empty state is a state");
        assert_whole(&*engine, head + 1);
    });
}

#[test]
fn a_large_batch_passes_and_a_larger_one_is_refused() {
    on_each(|place| {
        let mut engine = place.lead();
        let mut batch = batch_at(1, engine.epoch());
        batch.payload = bytes_of(1, 3 << 20);
        engine.append(std::slice::from_ref(&batch), &[]).expect("below the limit");
        assert_eq!(engine.read(1, ReadLimit { batches: 9, bytes: 1 }).expect("readable"), vec![batch]);
        let mut batch = batch_at(engine.head().seq + 1, engine.epoch());
        batch.payload = vec![0; MAX_BATCH_BYTES + 1];
        assert!(matches!(engine.append(&[batch], &[]), Err(JournalError::TooLarge { .. })));
    });
    assert!(matches!(Blob::new(vec![0; MAX_BLOB_BYTES + 1]), Err(JournalError::TooLarge { .. })));
}

#[test]
fn readers_see_what_is_durable_while_the_engine_leads() {
    let disk = Disk::new();
    assert!(matches!(JournalReader::open(disk.dir()), Err(JournalError::NoStore { .. })));
    let mut engine = disk.lead();
    let reader = JournalReader::open(disk.dir()).expect("readable");
    let mut scrub = reader::Scrub::default();
    for _ in 0..20 {
        append(&mut *engine, 5);
        assert_eq!(reader.head().expect("head"), engine.head());
        let batches = reader.read(engine.head().seq, ReadLimit::default()).expect("readable");
        assert_eq!(batches.last().map(Batch::last_seq), Some(engine.head().seq));
        assert!(!reader.scrub(&mut scrub, 3).expect("sound") || engine.head().seq < 20);
    }
    while !reader.scrub(&mut scrub, 7).expect("sound") {}
    let report = reader.reopen().expect("another").verify_all().expect("sound");
    assert_eq!((report.head, report.batches, report.epoch), (engine.head(), 100, engine.epoch()));
    assert!(report.blobs > 20);
}

#[test]
fn memory_faults_behave_as_a_disk_would() {
    use crate::journal::memory::Fault;
    for (fault, durable) in [(Fault::Refused, 2), (Fault::DiskFull, 2), (Fault::LostAnswer, 3)] {
        let store = MemoryStore::new(StoreId([1; 16]));
        let mut engine = store.lead();
        store.fail_after(2, fault);
        append(&mut *engine, 2);
        let head = engine.head();
        let err = engine.append(&[batch_at(head.seq + 1, engine.epoch())], &[]).expect_err("planted");
        assert_eq!(matches!(err, JournalError::DiskFull { .. }), fault == Fault::DiskFull);
        assert_eq!(engine.head(), head);
        drop(engine);
        assert_eq!(read_all(&*store.lead()).expect("readable").len(), durable);
    }
    let store = MemoryStore::new(StoreId([1; 16]));
    append(&mut *store.lead(), 5);
    store.cut_tail(2);
    assert!(store.open(OpenOptions::default()).err().expect("shorter than the anchor").is_damage());
    let store = MemoryStore::new(StoreId([1; 16]));
    append(&mut *store.lead(), 5);
    store.flip_batch(3);
    assert!(store.open(OpenOptions::default()).err().expect("broken").is_damage());
}
