//! The journal moved to etcd and back.

use super::*;
use crate::journal::backup::{EPOCH_JUMP, RestoreOptions, restore};
use crate::journal::transfer::{copy_to_sqlite, to_etcd, to_sqlite};

#[test]
fn a_journal_moved_to_etcd_and_back_has_the_same_head_and_goes_on() {
    let Some(remote) = Remote::new() else { return };
    let disk = Disk::new();
    let mut engine = disk.lead();
    append(&mut *engine, 40);
    let seq = engine.head().seq;
    engine
        .put_snapshot(&Snapshot { seq, created_ms: 1, bytes: bytes_of(1, SNAPSHOT_CHUNK_BYTES + 9) })
        .expect("written");
    append(&mut *engine, 1500);
    let (head, epoch) = (engine.head(), engine.epoch());
    assert!(matches!(to_etcd(disk.dir(), &remote.etcd), Err(JournalError::AlreadyLed { .. })), "it is led");
    drop(engine);

    let moved = to_etcd(disk.dir(), &remote.etcd).expect("moved");
    assert_eq!((moved.head, moved.batches), (head, 1500));
    assert!(
        matches!(disk.open(OpenOptions::default()), Err(JournalError::Moved { .. })),
        "nobody leads on what was left"
    );
    assert!(matches!(to_etcd(disk.dir(), &remote.etcd), Err(JournalError::NotEmpty { .. })), "and it moves once");
    let mut engine = remote.lead();
    assert_eq!(engine.head(), head);
    assert!(engine.epoch() > epoch);
    assert_eq!(engine.newest_snapshot().expect("readable").snapshot.map(|snapshot| snapshot.seq), Some(seq));
    assert_eq!(engine.read_blob(blob_at(3).id()).expect("readable"), Some(blob_at(3).bytes().to_vec()));
    append(&mut *engine, 20);
    let (head, epoch) = (engine.head(), engine.epoch());

    let copy = Disk::new();
    let reader = ReplicatedReader::open(&remote.etcd).expect("readable");
    assert_eq!(copy_to_sqlite(&reader, copy.dir()).expect("a backup beside the leader").head, head);
    let back = Disk::new();
    assert!(matches!(to_sqlite(&remote.etcd, back.dir()), Err(JournalError::AlreadyLed { .. })), "it is led");
    drop(engine);
    assert_eq!(to_sqlite(&remote.etcd, back.dir()).expect("moved back").head, head);
    assert!(matches!(remote.open(OpenOptions::default()), Err(JournalError::Moved { .. })));
    let mut engine = back.lead();
    assert_eq!(engine.head(), head);
    assert!(engine.epoch() > epoch);
    append(&mut *engine, 5);
    assert_whole(&*engine, head.seq);
    let report = JournalReader::open(back.dir()).expect("opens").verify_all().expect("whole from its base on");
    assert_eq!(report.head, engine.head());
}

#[test]
fn what_a_restore_gave_up_is_known_in_the_other_engine_too() {
    let Some(remote) = Remote::new() else { return };
    let (disk, copy) = (Disk::new(), Disk::new());
    let mut engine = disk.lead();
    append(&mut *engine, 20);
    assert_eq!(engine.restore_floor(), 0, "nothing was given up");
    JournalReader::open(disk.dir()).expect("readable").backup(copy.dir()).expect("a backup");
    append(&mut *engine, 20);
    let epoch = engine.epoch();
    drop(engine);
    let force = RestoreOptions { force: true, min_epoch: 0 };
    restore(copy.dir(), disk.dir(), force).expect("restored");
    let floor = disk.lead().restore_floor();
    assert!(epoch + EPOCH_JUMP < floor, "leaders of after the backup are given up too: {floor}");
    assert!(floor <= disk.lead().epoch(), "{floor}");
    assert_eq!(disk.lead().restore_floor(), floor, "whoever leads next");

    to_etcd(disk.dir(), &remote.etcd).expect("moved");
    assert_eq!(remote.lead().restore_floor(), floor);
    let back = Disk::new();
    to_sqlite(&remote.etcd, back.dir()).expect("moved back");
    assert_eq!(back.lead().restore_floor(), floor);
}

#[test]
fn a_move_that_was_cut_off_is_tried_again_and_meanwhile_nobody_leads() {
    let Some(remote) = Remote::new() else { return };
    let disk = Disk::new();
    append(&mut *disk.lead(), 20);
    // Cut off before the facts: the mark is here, and in etcd there is no store.
    let mark = |to: &str| std::fs::write(disk.dir().join("moved"), format!("{to}\n")).expect("written");
    mark("another etcd");
    let stale = to_etcd(disk.dir(), &remote.etcd);
    assert!(matches!(&stale, Err(JournalError::Moved { to, .. }) if to == "another etcd"), "{stale:?}");
    mark(&remote.etcd.place().display().to_string());
    assert!(matches!(disk.open(OpenOptions::default()), Err(JournalError::Moved { .. })));
    assert!(matches!(ReplicatedReader::open(&remote.etcd), Err(JournalError::NoStore { .. })));
    let head = to_etcd(disk.dir(), &remote.etcd).expect("moved").head;

    // Cut off before the anchor: the mark is in etcd, and there is no store in the folder.
    let back = Disk::new();
    for name in ["journal.db", "journal.db-wal", "anchor.new"] {
        std::fs::write(back.dir().join(name), "half of it").expect("written");
    }
    let key = remote.etcd.keys().moved();
    let put = dure_proto::etcd::PutRequest {
        key: key.into(),
        value: back.dir().display().to_string().into_bytes().into(),
        ..Default::default()
    };
    let put = dure_proto::etcd::RequestOp { request: Some(dure_proto::etcd::request_op::Request::RequestPut(put)) };
    let request = dure_proto::etcd::TxnRequest { success: vec![put], ..Default::default() };
    let etcd = remote.etcd.clone();
    let patience = crate::etcd::Patience::of(std::time::Duration::from_secs(5));
    remote.etcd.block(async move { etcd.txn(request, patience).await }).expect("written");
    assert!(matches!(remote.open(OpenOptions::default()), Err(JournalError::Moved { .. })));
    let elsewhere = Disk::new();
    assert!(matches!(to_sqlite(&remote.etcd, elsewhere.dir()), Err(JournalError::Moved { .. })), "it went elsewhere");
    assert_eq!(to_sqlite(&remote.etcd, back.dir()).expect("moved back").head, head);
    assert_eq!(back.lead().head(), head);
}
