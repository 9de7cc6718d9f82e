//! Recovery of a journal of a million events: from the first event, and from a snapshot near the end.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use clap::Args;
use dure_core::{Policy, ids::Seq};
use dure_scheduler::{
    journal::{Batch, EmbeddedEngine, Engine, OpenOptions, Snapshot},
    record,
    recover::recover,
};

use super::{disk, failed, folder, history::History, report::Report};
use crate::failure::Failure;

/// Jobs of one turn.
const JOBS_PER_TURN: usize = 500;
/// Nodes of 8 GPUs: as large as the pool that Dure is made for.
const NODES: usize = 1_000;

/// How long the journal is.
#[derive(Debug, Args)]
pub(crate) struct RecoveryArgs {
    /// Events of the journal
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    /// Events after the snapshot
    #[arg(long, default_value_t = 50_000)]
    tail: u64,
    /// Where to write it
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs it.
pub(super) fn run(args: &RecoveryArgs) -> Result<Report, Failure> {
    let mut report = Report::default();
    let folder = folder(args.dir.as_deref())?;
    disk::measure(folder.path(), &mut report)?;
    let snapshot = write(folder.path(), args)?;
    timed(folder.path(), &mut report, "without a snapshot")?;
    {
        let mut engine = EmbeddedEngine::open(folder.path(), OpenOptions::default()).map_err(failed)?;
        report.add("snapshot", snapshot.bytes.len() as f64 / (1 << 20) as f64, "MiB");
        engine.put_snapshot(&snapshot).map_err(failed)?;
        Box::new(engine).close().map_err(failed)?;
    }
    timed(folder.path(), &mut report, "with a snapshot")?;
    Ok(report)
}

/// Writes the journal; gives a snapshot from near its end.
fn write(dir: &Path, args: &RecoveryArgs) -> Result<Snapshot, Failure> {
    let mut engine = EmbeddedEngine::open(dir, OpenOptions::default()).map_err(failed)?;
    let mut history = History::new(NODES)?;
    let mut snapshot = None;
    while engine.head().seq < args.events {
        append(&mut engine, &mut history)?;
        history.submit(JOBS_PER_TURN)?;
        append(&mut engine, &mut history)?;
        history.run_all()?;
        append(&mut engine, &mut history)?;
        let head = engine.head().seq;
        if snapshot.is_none() && head + args.tail >= args.events {
            let bytes = record::encode_snapshot(&history.cluster, Seq(head), history.now).map_err(failed)?;
            snapshot = Some(Snapshot { seq: head, created_ms: history.now.0, bytes });
        }
    }
    Box::new(engine).close().map_err(failed)?;
    snapshot.ok_or_else(|| failed("--tail is longer than the journal: name fewer events"))
}

/// The events of a turn become one batch.
fn append(engine: &mut EmbeddedEngine, history: &mut History) -> Result<(), Failure> {
    if history.events.is_empty() {
        return Ok(());
    }
    let payload = record::encode(history.now, &history.events);
    let count = u32::try_from(history.events.len()).map_err(failed)?;
    let batch = Batch { first_seq: engine.head().seq + 1, count, epoch: engine.epoch(), payload };
    history.events.clear();
    engine.append(&[batch], &[]).map(drop).map_err(failed)
}

/// Adds the seconds from opening the store to the state at its end.
fn timed(dir: &Path, report: &mut Report, what: &str) -> Result<(), Failure> {
    let started = Instant::now();
    let engine = EmbeddedEngine::open(dir, OpenOptions::default()).map_err(failed)?;
    let recovered = recover(&engine, Policy::standard()).map_err(failed)?;
    let took = started.elapsed().as_secs_f64();
    report.add(format!("recovery {what}"), took, "s");
    report.add(format!("replayed {what}"), recovered.events_replayed as f64, "events");
    Box::new(engine).close().map(drop).map_err(failed)
}
