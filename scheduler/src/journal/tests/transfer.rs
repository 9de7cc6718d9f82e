//! The journal moved to etcd and back.

use super::*;
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
