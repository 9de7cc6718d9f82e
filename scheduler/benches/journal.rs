//! What the journal costs on this disk: `cargo bench -p dure-scheduler --bench journal`.
//!
//! Prints the disk's own fdatasync beside the engine's commits (one batch of n events of 400 bytes each), the writer
//! thread with everything it can group, and the time to open a journal of a million events, with and without a
//! snapshot. `DURE_BENCH_DIR` names the disk to measure (default: the system's temporary directory).

use std::io::Write;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use dure_scheduler::journal::{
    Batch, EmbeddedEngine, Engine, JournalReader, JournalWriter, OpenOptions, ReadLimit, Report, Snapshot, WriterLimits,
};

const EVENT_BYTES: usize = 400;
const RUN: Duration = Duration::from_secs(2);
const EVENTS_TO_RECOVER: u64 = 1_000_000;

fn main() {
    if std::env::args().any(|arg| arg == "--test") {
        return; // `cargo test --benches`: built, not run
    }
    let place = tempfile::tempdir_in(std::env::var_os("DURE_BENCH_DIR").unwrap_or_else(|| std::env::temp_dir().into()))
        .expect("a directory to measure in");
    fdatasync(place.path());
    for events in [1, 16, 128, 1024] {
        engine(&place.path().join(format!("engine-{events}")), events);
    }
    for events in [1, 16, 128] {
        writer(&place.path().join(format!("writer-{events}")), events);
    }
    recovery(&place.path().join("recovery"));
}

/// Half of it incompressible, as events are.
fn payload(events: u32) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    (0..events as usize * EVENT_BYTES)
        .map(|i| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            if i % 2 == 0 { state as u8 } else { 7 }
        })
        .collect()
}

fn percentiles(mut micros: Vec<u128>) -> (u128, u128) {
    micros.sort_unstable();
    let at = |part: usize| micros.get((micros.len() * part / 100).min(micros.len() - 1)).copied().unwrap_or(0);
    (at(50), at(99))
}

fn bytes_written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok()).unwrap_or(0)
}

fn fdatasync(dir: &Path) {
    let mut file = std::fs::File::create(dir.join("raw")).expect("created");
    let block = payload(10);
    let began = Instant::now();
    let mut micros = Vec::new();
    while began.elapsed() < RUN {
        file.write_all(&block).expect("written");
        let at = Instant::now();
        file.sync_data().expect("synced");
        micros.push(at.elapsed().as_micros());
    }
    let (p50, p99) = percentiles(micros);
    println!("fdatasync after 4000 bytes: p50 {p50} us, p99 {p99} us");
}

fn engine(dir: &Path, events: u32) {
    let mut engine = EmbeddedEngine::open(dir, OpenOptions::default()).expect("opened");
    let payload = payload(events);
    let (began, wrote) = (Instant::now(), bytes_written());
    let mut micros = Vec::new();
    while began.elapsed() < RUN {
        let batch =
            Batch { first_seq: engine.head().seq + 1, count: events, epoch: engine.epoch(), payload: payload.clone() };
        let at = Instant::now();
        engine.append(&[batch], &[]).expect("appended");
        micros.push(at.elapsed().as_micros());
        engine.maintain(None).expect("housekeeping");
    }
    let (seconds, total) = (began.elapsed().as_secs_f64(), engine.head().seq);
    let (p50, p99) = percentiles(micros);
    println!(
        "engine, {events:>4} events a commit: {:>8.0} events/s, commit p50 {p50} us, p99 {p99} us, {} bytes an event",
        total as f64 / seconds,
        (bytes_written() - wrote) / total.max(1),
    );
}

fn writer(dir: &Path, events: u32) {
    let engine = EmbeddedEngine::open(dir, OpenOptions::default()).expect("opened");
    let (epoch, payload) = (engine.epoch(), payload(events));
    let (sender, reports) = channel();
    let report = move |report| drop(sender.send(report));
    let writer = JournalWriter::start(Box::new(engine), WriterLimits::default(), report).expect("a thread");
    let began = Instant::now();
    let mut seq = 0;
    while began.elapsed() < RUN {
        let batch = Batch { first_seq: seq + 1, count: events, epoch, payload: payload.clone() };
        seq = batch.last_seq();
        writer.append(batch, vec![]).expect("queued");
    }
    let stats_before_close = writer.stats();
    let head = writer.close().expect("closed");
    let seconds = began.elapsed().as_secs_f64();
    let micros = reports.iter().filter_map(|report| match report {
        Report::Durable(durable) => Some(u128::from(durable.commit_micros)),
        Report::SnapshotDone { .. } | Report::SnapshotRefused { .. } | Report::Failed(_) => None,
    });
    let (p50, p99) = percentiles(micros.collect());
    println!(
        "writer, {events:>4} events a batch:  {:>8.0} events/s, {:.0} batches a commit, commit p50 {p50} us, p99 {p99} us",
        head.seq as f64 / seconds,
        stats_before_close.batches as f64 / stats_before_close.commits.max(1) as f64,
    );
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let result = work();
    println!("{what}: {:.3} s", began.elapsed().as_secs_f64());
    result
}

fn recovery(dir: &Path) {
    let events = 128;
    let mut engine = EmbeddedEngine::open(dir, OpenOptions::default()).expect("opened");
    let payload = payload(events);
    let mut snapshot_at = 0;
    while engine.head().seq < EVENTS_TO_RECOVER {
        let (first_seq, epoch) = (engine.head().seq + 1, engine.epoch());
        let batch = Batch { first_seq, count: events, epoch, payload: payload.clone() };
        engine.append(&[batch], &[]).expect("appended");
        engine.maintain(None).expect("housekeeping");
        if engine.head().seq < EVENTS_TO_RECOVER * 9 / 10 {
            snapshot_at = engine.head().seq;
        }
    }
    drop(engine);
    let open = || EmbeddedEngine::open(dir, OpenOptions::default()).expect("opened");
    let mut engine = timed("open, 1,000,000 events, no snapshot (hash of every batch)", open);
    timed("read them all (checksums)", || {
        let mut next = 1;
        while let Some(last) = engine.read(next, ReadLimit::default()).expect("read").last() {
            next = last.last_seq() + 1;
        }
    });
    let bytes = vec![5; 100 << 20];
    timed("write a snapshot of 100 MiB", || {
        engine.put_snapshot(&Snapshot { seq: snapshot_at, created_ms: 0, bytes }).expect("written");
    });
    drop(engine);
    let engine = timed("open, 1,000,000 events, snapshot of 100 MiB at 90%", open);
    timed("read the snapshot", || engine.newest_snapshot().expect("read"));
    let reader = JournalReader::open(dir).expect("opened");
    timed("backup of all that, proven", || reader.backup(&dir.join("copy")).expect("a backup"));
}
