//! One what-if over a long queue: how long it takes to run the state forward twice, beside a turn's cycle on the same state.

use std::time::Instant;

use clap::Args;
use dure_core::{
    Cluster,
    cycle::cycle,
    input::{QuotaDraft, TenantDraft},
    units::{Gpus, Span},
};
use dure_replay::{
    division,
    drive::{Drive, DriveOptions},
    forecast::{self, Change},
    generate::{Workload, generate},
    learned::Learned,
};

use super::{failed, report::Report};
use crate::failure::Failure;

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct WhatIfArgs {
    /// GPUs of the cluster
    #[arg(long, default_value_t = 8_000)]
    gpus: u32,
    /// Jobs that wait when the question is asked
    #[arg(long, default_value_t = 10_000)]
    pending: u32,
    /// Seed of the drawn workload
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs it.
pub(super) fn run(args: &WhatIfArgs) -> Result<Report, Failure> {
    // Three times what the cluster can do: the queue grows until there are enough.
    let drawn = generate(Workload { gpus: args.gpus, days: 30, load: 300, seed: args.seed });
    let quotas = division::quotas(&drawn.missions);
    let mut drive = Drive::with(&drawn.nodes, &drawn.jobs, drawn.missions, DriveOptions::default()).map_err(failed)?;
    while drive.cluster().waiting() < args.pending {
        if !drive.turn().map_err(failed)? {
            return Err(failed(format!("the workload never has {} jobs waiting: ask for fewer", args.pending)));
        }
    }
    let (cluster, now) = (drive.cluster().clone(), drive.now());
    let mut learned = Learned::default();
    for row in drive.rows() {
        let (kind, run) = drive.kind(row.job);
        learned.add(kind, run);
    }
    let half = |name: &str| quotas.get(name).map_or(0, |quota| quota.rounded_up() / 2);
    let quota = QuotaDraft { quota: Gpus::whole(half("fusion")), ..QuotaDraft::default() };
    let tenant = TenantDraft { name: "fusion".into(), quotas: vec![quota], ..TenantDraft::default() };
    let change = Change { tenants: vec![tenant], ..Change::default() };
    let (clone_ms, copy) = timed(|| cluster.clone());
    let (what_if_ms, seen) = timed(|| forecast::what_if(&cluster, change, now, &learned, forecast::HORIZON));
    let seen = seen.map_err(|why| failed(format!("{why:?}")))?;
    let (estimates_ms, estimates) = timed(|| forecast::estimates(&cluster, now, &learned));
    let cycle_ms = cycle_of(copy, now);
    let mut report = Report::default();
    report.add("GPUs", f64::from(args.gpus), "");
    report.add("jobs waiting", f64::from(cluster.waiting()), "");
    report.add("copy of the state", clone_ms, "ms");
    report.add("what-if, before and after", what_if_ms, "ms");
    report.add("start estimates, P50 and P90", estimates_ms, "ms");
    report.add("jobs with a P50", estimates.values().filter(|of| of.p50.is_some()).count() as f64, "");
    report.add("jobs that start, before", seen.before.values().map(|of| of.started).sum::<u64>() as f64, "");
    report.add("one cycle on that state", cycle_ms, "ms");
    Ok(report)
}

fn timed<T>(run: impl FnOnce() -> T) -> (f64, T) {
    let started = Instant::now();
    let made = run();
    (started.elapsed().as_secs_f64() * 1_000.0, made)
}

/// A cycle that finds nothing new, as a turn has it.
fn cycle_of(mut cluster: Cluster, now: dure_core::units::Time) -> f64 {
    timed(|| cycle(&mut cluster, now + Span(1), &mut Vec::new())).0
}
