//! The figures of a replay, for people and programs.

use std::collections::BTreeMap;
use std::io::Write;

use dure_core::units::{GpuTime, Gpus, Span};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::calibrate::Fared;
use crate::drive::Replayed;
use crate::measure::{Measured, Tally, measure};
use crate::trace::{self, TraceJob, TraceNode};

/// Shorter runs count as this long in slowdowns, so that a second's job that waited a minute does not count as sixty.
const SHORTEST: Span = Span::seconds(10);
/// Milliseconds in an hour.
const HOUR: f64 = 3_600_000.0;

/// Many spans, in seconds.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Spread {
    /// On average.
    pub mean: f64,
    /// Half of them are no longer.
    pub p50: f64,
    /// 95 of 100 are no longer.
    pub p95: f64,
    /// 99 of 100 are no longer.
    pub p99: f64,
    /// The longest.
    pub longest: f64,
}

/// The figures of one tenant, or of all.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Figures {
    /// Jobs submitted.
    pub jobs: u64,
    /// Jobs that started.
    pub started: u64,
    /// Jobs that ended.
    pub ended: u64,
    /// Its quota, in GPUs.
    pub quota: u64,
    /// From submit to the first start.
    pub wait_s: Spread,
    /// From submit to the end.
    pub completion_s: Spread,
    /// Completion over run time (of the last attempt, at least 10 s), on average.
    pub mean_slowdown: f64,
    /// GPU-hours held inside quota.
    pub own_gpu_hours: f64,
    /// GPU-hours held above quota.
    pub borrowed_gpu_hours: f64,
    /// GPU-hours of attempts that were evicted.
    pub evicted_gpu_hours: f64,
    /// GPU-hours of attempts that were lost to faults.
    pub faulted_gpu_hours: f64,
    /// GPU-hours of the quota not held while own jobs waited.
    pub quota_breach_gpu_hours: f64,
    /// Attempts that were evicted.
    pub evictions: u64,
    /// Attempts that were lost to faults.
    pub faults: u64,
    /// Gangs on several nodes.
    pub gangs: u64,
    /// Of those the ones inside one leaf.
    pub gangs_in_one_leaf: u64,
}

/// The figures of a replay.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Report {
    /// What was replayed and how, by name.
    pub settings: BTreeMap<String, String>,
    /// Nodes.
    pub nodes: u64,
    /// Their GPUs.
    pub gpus: u64,
    /// From the first submit to the last end, in seconds.
    pub span_s: f64,
    /// Instants in which something happened.
    pub turns: u64,
    /// Part of the GPUs that was held.
    pub utilisation: f64,
    /// Part of the idle GPUs that was on nodes of which a part was taken.
    pub fragmentation: f64,
    /// Part of the gangs on several nodes that lay inside one leaf; absent where the nodes name no leaf.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gangs_in_one_leaf: Option<f64>,
    /// How start estimates fared, where they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimates: Option<Fared>,
    /// Jobs that were refused, up to a number of them, each with the reason.
    pub refused: Vec<(String, String)>,
    /// Jobs that were refused.
    pub refused_jobs: u64,
    /// Of all jobs.
    pub all: Figures,
    /// By tenant.
    pub tenants: BTreeMap<String, Figures>,
    /// SHA-256 over the placements, and over this report without this line: equal input and seed give an equal one.
    pub digest: String,
}

/// Refused jobs that are named.
const NAMED_REFUSALS: usize = 20;

/// Adds up a replay.
pub fn report(
    replayed: &Replayed,
    jobs: &[TraceJob],
    nodes: &[TraceNode],
    quotas: &BTreeMap<String, Gpus>,
    settings: BTreeMap<String, String>,
    step: Option<Span>,
) -> (Report, Measured) {
    let measured = measure(&replayed.rows, jobs, nodes, quotas, step);
    let quota_of = |name: &str| quotas.get(name).map_or(0, |quota| u64::from(quota.rounded_up()));
    let usage: BTreeMap<&str, _> = replayed.usage.iter().map(|(name, usage)| (name.as_str(), *usage)).collect();
    let mut tenants: BTreeMap<String, Figures> = BTreeMap::new();
    for (name, tally) in &measured.tenants {
        let mut figures = figures(&[tally], quota_of(name));
        if let Some(usage) = usage.get(name.as_str()) {
            // The core's own account counts attempts whole: the one that crosses the quota is borrowed.
            (figures.own_gpu_hours, figures.borrowed_gpu_hours) = (hours(usage.own), hours(usage.borrowed));
        }
        tenants.insert(name.clone(), figures);
    }
    let mut all = figures(&measured.tenants.values().collect::<Vec<_>>(), tenants.values().map(|of| of.quota).sum());
    all.own_gpu_hours = round(tenants.values().map(|of| of.own_gpu_hours).sum());
    all.borrowed_gpu_hours = round(tenants.values().map(|of| of.borrowed_gpu_hours).sum());
    let held: u64 = measured.tenants.values().map(|tally| tally.held.0).sum();
    let ratio = |part: u64, whole: u64| if whole == 0 { 0.0 } else { fine(part as f64 / whole as f64) };
    let named = |(place, why): &(usize, _)| (jobs[*place].id.clone(), format!("{why:?}"));
    let mut report = Report {
        settings,
        nodes: nodes.len() as u64,
        gpus: u64::from(measured.gpus.rounded_up()),
        span_s: seconds(measured.span),
        turns: replayed.turns,
        utilisation: ratio(held, held + measured.idle.0),
        fragmentation: ratio(measured.idle_in_parts.0, measured.idle.0),
        gangs_in_one_leaf: nodes
            .iter()
            .any(|node| !node.location.leaf.is_empty())
            .then(|| ratio(all.gangs_in_one_leaf, all.gangs)),
        estimates: None,
        refused: replayed.refused.iter().take(NAMED_REFUSALS).map(named).collect(),
        refused_jobs: replayed.refused.len() as u64,
        all,
        tenants,
        digest: String::new(),
    };
    report.digest = digest(&report, replayed, jobs, nodes);
    (report, measured)
}

/// SHA-256 over the placements and the report without its digest.
fn digest(report: &Report, replayed: &Replayed, jobs: &[TraceJob], nodes: &[TraceNode]) -> String {
    struct Sink(Sha256);
    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.update(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut sink = Sink(Sha256::new());
    trace::write_placements(&mut sink, &replayed.rows, jobs, nodes).expect("a digest takes every byte");
    sink.0.update(replayed.state_digest.to_le_bytes());
    serde_json::to_writer(&mut sink, report).expect("a report is plain data");
    hex::encode(sink.0.finalize())
}

fn figures(of: &[&Tally], quota: u64) -> Figures {
    let sum = |part: fn(&Tally) -> u64| of.iter().map(|tally| part(tally)).sum::<u64>();
    let time = |part: fn(&Tally) -> GpuTime| hours(of.iter().map(|tally| part(tally)).sum());
    let mut waits: Vec<Span> = of.iter().flat_map(|tally| tally.waits.iter().copied()).collect();
    let mut completions: Vec<Span> =
        of.iter().flat_map(|tally| tally.completions.iter().map(|(all, _)| *all)).collect();
    let slowdowns = of.iter().flat_map(|tally| &tally.completions);
    let slowdown: f64 = slowdowns.map(|(all, ran)| (all.0 as f64 / ran.0.max(SHORTEST.0) as f64).max(1.0)).sum();
    Figures {
        jobs: sum(|tally| tally.jobs),
        started: waits.len() as u64,
        ended: completions.len() as u64,
        quota,
        mean_slowdown: if completions.is_empty() { 0.0 } else { round(slowdown / completions.len() as f64) },
        wait_s: spread(&mut waits),
        completion_s: spread(&mut completions),
        own_gpu_hours: time(|tally| tally.own),
        borrowed_gpu_hours: time(|tally| tally.held.less(tally.own)),
        evicted_gpu_hours: time(|tally| tally.evicted),
        faulted_gpu_hours: time(|tally| tally.faulted),
        quota_breach_gpu_hours: time(|tally| tally.owed),
        evictions: sum(|tally| tally.evictions),
        faults: sum(|tally| tally.losses),
        gangs: sum(|tally| tally.gangs.0),
        gangs_in_one_leaf: sum(|tally| tally.gangs.1),
    }
}

/// Percentiles are values that occurred.
pub(crate) fn spread(spans: &mut [Span]) -> Spread {
    spans.sort_unstable();
    let total: u128 = spans.iter().map(|span| u128::from(span.0)).sum();
    let mean = if spans.is_empty() { 0.0 } else { round(total as f64 / spans.len() as f64 / 1000.0) };
    let at = |percent: usize| {
        let place = (spans.len() * percent).div_ceil(100).saturating_sub(1);
        spans.get(place).map_or(0.0, |span| seconds(*span))
    };
    Spread { mean, p50: at(50), p95: at(95), p99: at(99), longest: at(100) }
}

fn seconds(span: Span) -> f64 {
    span.0 as f64 / 1000.0
}

pub(crate) fn hours(time: GpuTime) -> f64 {
    round(time.0 as f64 / HOUR)
}

/// To three places: what a reader can use.
fn round(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

/// To six places: parts of one.
fn fine(number: f64) -> f64 {
    (number * 1_000_000.0).round() / 1_000_000.0
}
