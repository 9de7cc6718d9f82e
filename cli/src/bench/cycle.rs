//! One full cycle over a long queue: the ordered pass that places everything that fits, in the core alone.
//!
//! Comes in: a job file (`id,nodes,gpus_per_node,hours`, in order of priority) and the size of the cluster. Goes out: the
//! medians of several runs, and whether the jobs placed are those that a naive first-to-last greedy places. Measured is
//! the real cycle, its events included; what it placed is judged afterwards.

mod constraint;
mod naive;
mod pending;
mod work;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use dure_core::Cluster;
use dure_core::cycle::{Cycled, cycle};
use dure_core::event::Event;
use dure_core::ids::JobId;
use dure_core::placement::Placed;

use self::constraint::{Constraint, Kinds};
use self::naive::{Follower, Spread};
use self::work::{Fill, LEAVES_PER_SPINE, Line, NOW, Size};
use super::{failed, memory::resident_bytes, report::Report};
use crate::failure::Failure;

/// The sizes of a series, in nodes.
const SERIES: [u32; 5] = [250, 1_000, 4_000, 16_000, 125_000];
/// What the others of a series are compared with.
const BASE: u32 = 1_000;
/// Runs of clusters of at least this many nodes are long enough that few of them do.
const LARGE: u32 = 16_000;

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct CycleArgs {
    /// Nodes
    #[arg(long, default_value_t = 1_000)]
    nodes: u32,
    /// GPUs of each node
    #[arg(long, default_value_t = 8)]
    gpus: u32,
    /// Nodes under one leaf
    #[arg(long, default_value_t = 32)]
    leaf: u32,
    /// The jobs: CSV with the columns id,nodes,gpus_per_node,hours
    #[arg(long, value_name = "CSV")]
    jobs: PathBuf,
    /// How full the cluster is before, in percent
    #[arg(long, value_enum, default_value_t = Fill::Empty)]
    fill: Fill,
    /// Missions to which the jobs go in turn; with more than one the order is that of their shares, not of the file
    #[arg(long, default_value_t = 1)]
    missions: u32,
    /// How often the cycle is run; medians are shown
    #[arg(long, default_value_t = 7)]
    runs: usize,
    /// Also clusters of 250, 1,000, 4,000, 16,000 and 125,000 nodes, as ratios to 1,000
    #[arg(long)]
    series: bool,
    /// Also the same jobs asking for more than GPUs, each kind on a cluster of its own: labels, cpu-memory, leaf, islands,
    /// shares, mig (several with commas), or all
    #[arg(long, value_name = "KINDS", num_args = 0..=1, default_missing_value = "all")]
    constrained: Option<Kinds>,
    /// Also a cycle over this many pending jobs of 600 users in 300 classes on a full cluster
    #[arg(long, value_name = "JOBS")]
    pending: Option<usize>,
}

/// Runs it.
pub(super) fn run(args: &CycleArgs) -> Result<Report, Failure> {
    let lines = work::read(&args.jobs)?;
    let size = Size {
        nodes: args.nodes,
        gpus: args.gpus,
        leaf: args.leaf.max(1),
        fill: args.fill,
        missions: args.missions,
        constraint: Constraint::None,
    };
    let mut report = Report::with_units_in_names();
    let plain = whole(&size, &lines, args.runs, &mut report)?;
    for constraint in args.constrained.iter().flat_map(|kinds| &kinds.0) {
        let measured = measured(&Size { constraint: *constraint, ..size }, &lines, args.runs)?;
        let name = constraint.name();
        report.add(format!("{name}_ns_per_placement"), measured.ns_per_member(), "");
        report.add(format!("{name}_ratio_to_plain"), measured.ns_per_member() / plain, "");
        report.add(format!("{name}_placed_members"), f64::from(measured.cycled.members), "");
        report.add(format!("{name}_placed_gpus"), measured.placed_gpus(), "");
        report.add(format!("{name}_allocations_in_loop"), measured.allocations as f64, "");
    }
    if args.series {
        series(&size, &lines, args.runs, &mut report)?;
    }
    if let Some(jobs) = args.pending {
        pending::measure(jobs, &mut report)?;
    }
    Ok(report)
}

/// One cluster, looked at from all sides. Nanoseconds a member.
fn whole(size: &Size, lines: &[Line], runs: usize, report: &mut Report) -> Result<f64, Failure> {
    let measured = measured(size, lines, runs)?;
    let (cycled, judged) = (measured.cycled, measured.judge(size));
    report.add("nodes", f64::from(size.nodes), "");
    report.add("queued_jobs", measured.queue.len() as f64, "");
    report.add("ns_per_placement", measured.ns_per_member(), "");
    report.add("cycle_us", measured.nanos as f64 / 1_000.0, "");
    report.add("placed_jobs", f64::from(cycled.jobs), "");
    report.add("placed_members", f64::from(cycled.members), "");
    report.add("placed_gpus", measured.placed_gpus(), "");
    report.add("blocked_jobs", measured.queue.len() as f64 - f64::from(cycled.jobs), "");
    report.add("allocations_in_loop", measured.allocations as f64, "");
    judged.report("", report);
    report.add("naive_greedy_jobs", judged.greedy_jobs as f64, "");
    report.add("resident_bytes", resident_bytes()? as f64, "");
    Ok(measured.ns_per_member())
}

/// The same at several sizes, as ratios to one of them.
fn series(size: &Size, lines: &[Line], runs: usize, report: &mut Report) -> Result<(), Failure> {
    let mut figures = Vec::new();
    for nodes in SERIES {
        let runs = if nodes >= LARGE { runs.min(3) } else { runs };
        let size = Size { nodes, ..*size };
        let measured = measured(&size, lines, runs)?;
        report.add(format!("ns_per_placement_{nodes}"), measured.ns_per_member(), "");
        report.add(format!("allocations_in_loop_{nodes}"), measured.allocations as f64, "");
        measured.judge(&size).report(&format!("_{nodes}"), report);
        figures.push((nodes, measured.ns_per_member()));
    }
    let base = figures.iter().find(|(nodes, _)| *nodes == BASE).map_or(1.0, |(_, figure)| *figure);
    for (nodes, figure) in figures {
        report.add(format!("ratio_to_{BASE}_nodes_{nodes}"), figure / base, "");
    }
    Ok(())
}

/// The median of several runs, all of which place the same.
struct Measured {
    queue: Vec<Line>,
    nanos: u64,
    allocations: u64,
    cycled: Cycled,
    events: Vec<Event>,
}

/// What one cycle placed, against what it could have.
struct Judged {
    gangs: u32,
    leaves: Spread,
    spines: Spread,
    greedy_jobs: usize,
    /// The jobs are those of the naive greedy.
    is_greedy: bool,
}

impl Judged {
    /// Adds how gangs lie, with `suffix` behind the names.
    fn report(&self, suffix: &str, report: &mut Report) {
        report.add(format!("gangs{suffix}"), f64::from(self.gangs), "");
        for (level, spread) in [("leaf", self.leaves), ("spine", self.spines)] {
            report.add(format!("{level}_domains_used{suffix}"), f64::from(spread.used), "");
            report.add(format!("{level}_domains_needed{suffix}"), f64::from(spread.needed), "");
            report.add(format!("gangs_over_more_{level}_domains_than_needed{suffix}"), f64::from(spread.wide), "");
        }
        report.add(format!("same_jobs_as_naive_greedy{suffix}"), f64::from(u8::from(self.is_greedy)), "");
    }
}

fn measured(size: &Size, lines: &[Line], runs: usize) -> Result<Measured, Failure> {
    let queue = size.queue(lines);
    let cluster = work::build(size, &queue)?;
    let mut measured: Vec<(u64, u64, Cycled, Vec<Event>)> = Vec::new();
    for _ in 0..runs.max(1) {
        measured.push(measure(&cluster, queue.len()));
        measured.sort_by_key(|(nanos, ..)| *nanos);
        // The events of one run are enough.
        measured.iter_mut().skip(1).for_each(|(.., events)| *events = Vec::new());
    }
    let events = std::mem::take(&mut measured[0].3);
    let (nanos, allocations, cycled, _) = measured.swap_remove(measured.len() / 2);
    if cycled.jobs == 0 {
        return Err(failed("nothing was placed: the file asks for nodes that are larger than those of the bench"));
    }
    Ok(Measured { queue, nanos, allocations, cycled, events })
}

/// One cycle on a copy: nanoseconds, allocations, what it did.
fn measure(cluster: &Cluster, jobs: usize) -> (u64, u64, Cycled, Vec<Event>) {
    let mut cluster = cluster.clone();
    // As the scheduler does while the journal writes.
    cluster.provision();
    let mut events = Vec::with_capacity(jobs * 2);
    let before = dure_alloc::count();
    let started = Instant::now();
    let cycled = cycle(&mut cluster, NOW, &mut events);
    let nanos = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
    (nanos, dure_alloc::count() - before, cycled, events)
}

impl Measured {
    fn ns_per_member(&self) -> f64 {
        self.nanos as f64 / f64::from(self.cycled.members.max(1))
    }

    /// What was placed, jobs and members.
    fn placed(&self) -> impl Iterator<Item = (JobId, &[Placed])> {
        self.events.iter().filter_map(|event| match event {
            Event::JobPlaced { job, members, .. } => Some((*job, &members[..])),
            _ => None,
        })
    }

    fn placed_gpus(&self) -> f64 {
        let milli: u64 = self.placed().flat_map(|(_, members)| members).map(|member| member.held().in_milli()).sum();
        milli as f64 / 1_000.0
    }

    /// Follows what was placed on a cluster of whole GPUs.
    fn judge(&self, size: &Size) -> Judged {
        let free: Vec<u32> = (0..size.nodes).map(|node| size.gpus - size.taken(node)).collect();
        let domains = [size.leaf, size.leaf * LEAVES_PER_SPINE].map(|nodes| nodes as usize);
        let mut follower = Follower::new(&free, size.gpus as usize, &domains);
        let mut jobs = BTreeSet::new();
        // The jobs that run were there first, and the one that built the index.
        let first = 2 + free.iter().filter(|free| **free < size.gpus).count() as u64;
        for (job, members) in self.placed() {
            jobs.insert((job.0 - first) as usize);
            let nodes: Vec<usize> = members.iter().map(|member| member.node.at()).collect();
            let each = members.iter().map(|member| member.gpus.len()).max();
            follower.start(&nodes, each.unwrap_or(1) as usize);
        }
        let greedy = naive::greedy(&self.queue, &free);
        let mut spreads = follower.spreads();
        let (leaves, spines) = (spreads.next().unwrap_or_default(), spreads.next().unwrap_or_default());
        Judged { gangs: follower.gangs, leaves, spines, greedy_jobs: greedy.len(), is_greedy: jobs == greedy }
    }
}
