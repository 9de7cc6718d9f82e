//! A disk that is full: a clear error, no acknowledgement, nothing lost.

use std::process::Command;

use super::*;

/// A small file system of its own, where this process may mount one.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn mount(bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().expect("temporary directory");
        let options = format!("size={bytes}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir.path()).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Tmpfs(dir))
    }

    fn grow(&self, bytes: u64) {
        let options = format!("remount,size={bytes}");
        let status = Command::new("mount").args(["-o", &options]).arg(self.0.path()).status().expect("mount runs");
        assert!(status.success());
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        drop(Command::new("umount").arg(self.0.path()).status());
    }
}

#[test]
fn a_full_disk_is_named_poisons_and_loses_nothing() {
    let Some(disk) = Tmpfs::mount(6 << 20) else {
        println!("skipped: a tmpfs cannot be mounted here (needs root)");
        return;
    };
    let dir = disk.0.path();
    let mut engine = EmbeddedEngine::open(dir, OpenOptions::default()).expect("opens");
    let mut acked = 0;
    let err = loop {
        let batch = Batch { payload: bytes_of(engine.head().seq + 1, 40_000), ..batch_at(engine.head().seq + 1, 1) };
        match engine.append(&[batch], &[]) {
            Ok(head) => acked = head.seq,
            Err(err) => break err,
        }
    };
    assert!(matches!(err, JournalError::DiskFull { .. }), "{err:?}");
    assert!(err.to_string().contains("free some space"), "{err}");
    let again = engine.append(&[batch_at(acked + 1, 1)], &[]).expect_err("poisoned");
    assert!(matches!(again, JournalError::Poisoned { .. }));
    assert_eq!(engine.head().seq, acked);
    drop(engine);

    match EmbeddedEngine::open(dir, OpenOptions { witness: Some(acked) }) {
        Ok(engine) => assert!(engine.head().seq >= acked),
        Err(err) => assert!(matches!(err, JournalError::DiskFull { .. }), "{err:?}"),
    }
    disk.grow(64 << 20);
    let mut engine = EmbeddedEngine::open(dir, OpenOptions { witness: Some(acked) }).expect("opens");
    let batches = read_all(&engine).expect("readable");
    for batch in batches.iter().filter(|batch| batch.last_seq() <= acked) {
        assert_eq!(batch.payload, bytes_of(batch.first_seq, 40_000));
    }
    append(&mut engine, 10);
    assert!(engine.maintain(None).is_ok());
}
