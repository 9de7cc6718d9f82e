//! Memory per pending job: what the core alone holds.

use clap::Args;

use super::{failed, history::History, report::Report};
use crate::failure::Failure;

/// Jobs in one call.
const BATCH: usize = 1_000;

/// How many jobs.
#[derive(Debug, Args)]
pub(crate) struct MemoryArgs {
    /// Jobs that wait
    #[arg(long, default_value_t = 1_000_000)]
    jobs: usize,
}

/// Runs it.
pub(super) fn run(args: &MemoryArgs) -> Result<Report, Failure> {
    let mut report = Report::default();
    let mut history = History::new(1)?;
    let before = resident_bytes()?;
    for _ in 0..args.jobs.div_ceil(BATCH) {
        history.submit(BATCH)?;
        history.events.clear();
    }
    let per_job = resident_bytes()?.saturating_sub(before) as f64 / f64::from(history.cluster.waiting().max(1));
    report.add("pending jobs", f64::from(history.cluster.waiting()), "jobs");
    report.add("core state per pending job", per_job, "bytes");
    Ok(report)
}

/// What this process holds in memory now.
pub(super) fn resident_bytes() -> Result<u64, Failure> {
    let text = std::fs::read_to_string("/proc/self/status").map_err(failed)?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.map(|kib| kib * 1_024).ok_or_else(|| failed("/proc/self/status has no VmRSS"))
}
