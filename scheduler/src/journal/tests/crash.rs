//! kill -9 of a process that appends: everything it acknowledged is there.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::*;

const DIR: &str = "DURE_JOURNAL_CRASH_DIR";
const ROUNDS: u64 = 8;

/// The process to kill: the parent starts this test alone, with the variable set. Without it there is nothing to do.
#[test]
fn appends_until_killed() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let engine = EmbeddedEngine::open(Path::new(&dir), OpenOptions::default()).expect("opens after every kill");
    let (epoch, mut seq) = (engine.epoch(), engine.head().seq);
    let writer = JournalWriter::start(Box::new(engine), WriterLimits::default(), |report| {
        if let Report::Durable(durable) = report {
            let mut out = std::io::stdout().lock();
            writeln!(out, "\nacked {}", durable.head.seq).and_then(|()| out.flush()).expect("the parent listens");
        }
    })
    .expect("a thread");
    for round in 0.. {
        let batch = batch_at(seq + 1, epoch);
        seq = batch.last_seq();
        writer.append(batch, vec![blob_at(seq)]).expect("queued");
        if round % 64 == 63 {
            let snapshot = Snapshot { seq, created_ms: round, bytes: bytes_of(seq, 2 * SNAPSHOT_CHUNK_BYTES) };
            writer.snapshot(snapshot).expect("queued");
        }
    }
}

/// Starts a child on the directory, kills it after some acknowledgements, answers with the highest acknowledged position.
fn append_and_kill(dir: &Path, after: u64) -> u64 {
    let mut child = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "journal::tests::crash::appends_until_killed", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a child");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let (mut acked, mut seen) = (0, 0);
    // After the kill the pipe still holds what was acknowledged before it: read to its end.
    for line in lines {
        let Some(seq) = line.ok().and_then(|line| line.strip_prefix("acked ")?.parse().ok()) else { continue };
        (acked, seen) = (seq, seen + 1);
        if seen == after {
            child.kill().expect("killed");
        }
    }
    child.wait().expect("reaped");
    assert!(seen >= after, "the child ended by itself after {seen} acknowledgements");
    acked
}

#[test]
fn nothing_acknowledged_is_lost_by_kill_9() {
    let disk = Disk::new();
    let mut random = Random(42);
    for round in 1..=ROUNDS {
        let acked = append_and_kill(disk.dir(), 5 + random.below(120));
        let engine = EmbeddedEngine::open(disk.dir(), OpenOptions { witness: Some(acked) }).expect("opens");
        assert_whole(&engine, acked);
        assert!(engine.epoch() >= 2 * round, "the child's epoch and this one");
        assert_eq!(engine.newest_snapshot().expect("readable").damaged, Vec::<u64>::new());
        drop(engine);
        let report = JournalReader::open(disk.dir()).expect("readable").verify_all().expect("sound");
        assert!(report.head.seq >= acked);
    }
}
