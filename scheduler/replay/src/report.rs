//! What came of a replay, in figures: waits per tenant, use of the GPUs.

use std::collections::BTreeMap;
use std::fmt;

use dure_core::units::{Gpus, Span, Time};

use crate::trace::{Moment, Row, TraceJob, TraceNode};

/// The figures of one tenant, or of all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Waits {
    /// Jobs that started.
    pub jobs: usize,
    /// From submit to the first start, on average.
    pub mean: Span,
    /// 95 of 100 jobs waited no longer.
    pub p95: Span,
    /// The longest.
    pub longest: Span,
    /// From submit to the end, on average.
    pub mean_completion: Span,
}

/// The figures of a replay.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// Of all jobs.
    pub all: Waits,
    /// By tenant.
    pub tenants: BTreeMap<String, Waits>,
    /// Attempts that were evicted or lost.
    pub lost_attempts: usize,
    /// From the first start to the last end.
    pub makespan: Span,
    /// Of all GPUs over the makespan the part that was held, in thousandths.
    pub utilisation_milli: u64,
}

/// Adds up the rows of a replay.
pub fn report(rows: &[Row], jobs: &[TraceJob], nodes: &[TraceNode]) -> Report {
    let mut first_start: BTreeMap<usize, Time> = BTreeMap::new();
    let mut started: BTreeMap<usize, Time> = BTreeMap::new();
    let mut ended: BTreeMap<usize, Time> = BTreeMap::new();
    let (mut held, mut lost_attempts) = (0u128, 0);
    for row in rows {
        if let Moment::Start(_) = row.moment {
            first_start.entry(row.job).or_insert(row.time);
            started.insert(row.job, row.time);
            continue;
        }
        let since = started.remove(&row.job).unwrap_or(row.time);
        held += u128::from(Gpus::whole(jobs[row.job].gpus).over(row.time.since(since)).0);
        if row.moment == Moment::End {
            ended.insert(row.job, row.time);
        } else {
            lost_attempts += 1;
        }
    }
    let makespan = rows.last().map_or(Span::ZERO, |last| last.time.since(rows[0].time));
    let capacity: u128 = nodes.iter().map(|node| u128::from(node.gpus)).sum();
    let mut by_tenant: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for job in first_start.keys() {
        by_tenant.entry(jobs[*job].tenant.clone()).or_default().push(*job);
    }
    let waits = |of: &[usize]| waits(of, jobs, &first_start, &ended);
    Report {
        all: waits(&first_start.keys().copied().collect::<Vec<_>>()),
        tenants: by_tenant.into_iter().map(|(tenant, of)| (tenant, waits(&of))).collect(),
        lost_attempts,
        makespan,
        utilisation_milli: (held * 1000).checked_div(capacity * u128::from(makespan.0)).unwrap_or(0) as u64,
    }
}

fn waits(of: &[usize], jobs: &[TraceJob], started: &BTreeMap<usize, Time>, ended: &BTreeMap<usize, Time>) -> Waits {
    let mut waits: Vec<Span> = of.iter().map(|job| started[job].since(jobs[*job].submit)).collect();
    waits.sort_unstable();
    let completions: Vec<Span> = of.iter().filter_map(|job| Some(ended.get(job)?.since(jobs[*job].submit))).collect();
    let mean = |of: &[Span]| {
        let sum: u128 = of.iter().map(|span| u128::from(span.0)).sum();
        Span(sum.checked_div(of.len() as u128).unwrap_or(0) as u64)
    };
    let p95 = (waits.len() * 95).div_ceil(100).saturating_sub(1);
    Waits {
        jobs: of.len(),
        mean: mean(&waits),
        p95: waits.get(p95).copied().unwrap_or_default(),
        longest: waits.last().copied().unwrap_or_default(),
        mean_completion: mean(&completions),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |span: Span| span.0 as f64 / 1000.0;
        writeln!(
            f,
            "{:<24} {:>8} {:>12} {:>12} {:>12} {:>14}",
            "tenant", "jobs", "wait", "p95", "longest", "completion"
        )?;
        let of_all = [("(all)".to_owned(), &self.all)];
        let rows = self.tenants.iter().map(|(name, waits)| (name.clone(), waits)).chain(of_all);
        for (name, waits) in rows {
            let [mean, p95, longest, completion] =
                [waits.mean, waits.p95, waits.longest, waits.mean_completion].map(seconds);
            writeln!(
                f,
                "{name:<24} {:>8} {mean:>10.1} s {p95:>10.1} s {longest:>10.1} s {completion:>12.1} s",
                waits.jobs
            )?;
        }
        let (milli, makespan) = (self.utilisation_milli, seconds(self.makespan));
        write!(
            f,
            "{}.{} % of the GPUs held over {makespan} s, {} attempts lost",
            milli / 10,
            milli % 10,
            self.lost_attempts
        )
    }
}
