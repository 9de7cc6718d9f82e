//! Backups beside a running leader, and restores.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::journal::backup::EPOCH_JUMP;

#[test]
fn a_backup_taken_while_writing_holds_and_restores() {
    let disk = Disk::new();
    let engine = EmbeddedEngine::open(disk.dir(), OpenOptions::default()).expect("opens");
    let (epoch, store_id) = (engine.epoch(), engine.store_id());
    let acked = Arc::new(AtomicU64::new(0));
    let seen = acked.clone();
    let writer = JournalWriter::start(Box::new(engine), WriterLimits::default(), move |report| {
        if let Report::Durable(durable) = report {
            seen.store(durable.head.seq, Ordering::SeqCst);
        }
    })
    .expect("a thread");
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let feeder = std::thread::spawn(move || {
        let mut seq = 0;
        while !stopped.load(Ordering::SeqCst) {
            let batch = batch_at(seq + 1, epoch);
            seq = batch.last_seq();
            writer.append(batch, vec![blob_at(seq)]).expect("queued");
        }
        writer.close().expect("closed")
    });

    let reader = JournalReader::open(disk.dir()).expect("readable");
    let backups = Disk::new();
    while acked.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    let mut last = 0;
    for round in 0..4 {
        let before = acked.load(Ordering::SeqCst);
        let to = backups.dir().join(round.to_string());
        let report = reader.backup(&to).expect("a backup");
        assert!(report.head.seq >= before.max(last), "{} acknowledged, {report:?}", before);
        assert!(matches!(reader.backup(&to), Err(JournalError::NotEmpty { .. })));
        last = report.head.seq;
    }
    stop.store(true, Ordering::SeqCst);
    let head = feeder.join().expect("fed");
    assert!(head.seq >= last && last > 0);

    let target = Disk::new();
    let from = backups.dir().join("3");
    let report = restore(&from, target.dir(), RestoreOptions::default()).expect("restored");
    assert_eq!((report.store_id, report.head.seq, report.replaced), (store_id, last, None));
    let mut engine = target.lead();
    assert!(engine.epoch() > epoch + EPOCH_JUMP);
    assert_whole(&*engine, last);
    append(&mut *engine, 5);
}

fn store_with_backup() -> (Disk, Disk) {
    let (disk, copy) = (Disk::new(), Disk::new());
    let mut engine = disk.lead();
    append(&mut *engine, 20);
    JournalReader::open(disk.dir()).expect("readable").backup(copy.dir()).expect("a backup");
    append(&mut *engine, 20);
    engine.close().expect("closed");
    (disk, copy)
}

#[test]
fn a_restore_over_a_store_needs_force_and_keeps_the_old_files() {
    let (disk, copy) = store_with_backup();
    let plain = restore(copy.dir(), disk.dir(), RestoreOptions::default());
    assert!(matches!(plain, Err(JournalError::NotEmpty { .. })), "{plain:?}");
    let force = RestoreOptions { force: true, min_epoch: 0 };
    let leader = disk.lead();
    let (epoch, head) = (leader.epoch(), leader.head());
    let beside = restore(copy.dir(), disk.dir(), force);
    assert!(matches!(beside, Err(JournalError::AlreadyLed { .. })), "{beside:?}");
    drop(leader);

    let first = restore(copy.dir(), disk.dir(), force).expect("restored");
    assert!(first.epoch_floor >= epoch + EPOCH_JUMP && first.head.seq < head.seq);
    let old = JournalReader::open(&first.replaced.expect("kept")).expect("readable");
    assert_eq!(old.verify_all().expect("still sound").head, head);
    let second_leader = disk.lead().epoch();
    assert!(second_leader > first.epoch_floor);

    // The same backup once more: the epochs granted in between have been seen by agents as well.
    let second = restore(copy.dir(), disk.dir(), force).expect("restored again");
    assert!(second.epoch_floor >= second_leader + EPOCH_JUMP);
    let high = RestoreOptions { force: true, min_epoch: 9 * EPOCH_JUMP };
    let third = restore(copy.dir(), disk.dir(), high).expect("restored once more");
    assert!(disk.lead().epoch() > 10 * EPOCH_JUMP && third.epoch_floor >= 10 * EPOCH_JUMP);
}

#[test]
fn a_damaged_or_unfinished_backup_is_refused_before_anything_is_touched() {
    let (_disk, copy) = store_with_backup();
    let target = Disk::new();
    let anchor = copy.dir().join(anchor::ANCHOR_FILE);
    let kept = std::fs::read(&anchor).expect("readable");
    std::fs::remove_file(&anchor).expect("removed");
    let unfinished = restore(copy.dir(), target.dir(), RestoreOptions::default()).expect_err("no anchor");
    assert!(unfinished.is_damage(), "{unfinished}");
    std::fs::write(&anchor, kept).expect("back");
    let conn = rusqlite::Connection::open(copy.dir().join("journal.db")).expect("opens");
    conn.execute("UPDATE blobs SET bytes = zeroblob(9) WHERE rowid = 1", []).expect("set");
    drop(conn);
    let damaged = restore(copy.dir(), target.dir(), RestoreOptions::default()).expect_err("a wrong blob");
    assert!(damaged.is_damage() && damaged.to_string().contains("blob"), "{damaged}");
    assert_eq!(std::fs::read_dir(target.dir()).expect("listed").count(), 0);
    let nothing = restore(target.dir(), copy.dir(), RestoreOptions::default());
    assert!(matches!(nothing, Err(JournalError::NoStore { .. })), "{nothing:?}");
}
