//! One full cycle over a long queue: the ordered pass that places everything that fits, in the core alone.
//!
//! Comes in: a job file (`id,nodes,gpus_per_node,hours`, in order of priority) and the size of the cluster. Goes out: the
//! medians of several runs, and whether the jobs placed are those that a naive first-to-last greedy places.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use dure_core::cycle::{Cycled, cycle};
use dure_core::event::Event;
use dure_core::gpu::GpuSet;
use dure_core::ids::{AttemptNumber, BlobId, JobId, MemberIndex};
use dure_core::input::{JobDraft, MemberReport, NodeDraft, QuotaDraft, TenantDraft};
use dure_core::job::{Exit, ExitHow};
use dure_core::node::{Capacity, Location};
use dure_core::request::Shape;
use dure_core::units::{CpuMilli, Gpus, MemoryMib, Span, Time};
use dure_core::{Cluster, Input, Policy, decide};

use super::{failed, memory::resident_bytes, report::Report};
use crate::failure::Failure;

/// Leaves under one spine.
const LEAVES_PER_SPINE: u32 = 32;
/// The file is repeated until the demand is above the capacity, but not more often than this.
const MAX_REPEATS: usize = 1_000;
/// Everything happens at one moment.
const NOW: Time = Time(1_000_000);

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
    /// How often the cycle is run; medians are shown
    #[arg(long, default_value_t = 7)]
    runs: usize,
}

/// How full a cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Fill {
    /// Nothing is taken.
    #[value(name = "0")]
    Empty,
    /// Four nodes of five are full, the others in part: about 90 %.
    #[value(name = "90")]
    Nearly,
}

/// A line of the job file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line {
    members: u32,
    gpus: u8,
    hours: u64,
}

/// Runs it.
pub(super) fn run(args: &CycleArgs) -> Result<Report, Failure> {
    let lines = queue(&read(&args.jobs)?, u64::from(args.nodes) * u64::from(args.gpus));
    let free: Vec<u32> = (0..args.nodes).map(|node| args.gpus - taken(node, args)).collect();
    let cluster = build(args, &lines)?;
    let mut runs: Vec<(u64, Cycled, Placed)> = Vec::new();
    for _ in 0..args.runs.max(1) {
        runs.push(measure(&cluster, lines.len()));
    }
    runs.sort_by_key(|(nanos, ..)| *nanos);
    let (nanos, cycled, placed) = &runs[runs.len() / 2];
    let greedy = greedy(&lines, free);
    let mut report = Report::with_units_in_names();
    report.add("nodes", f64::from(args.nodes), "");
    report.add("queued_jobs", lines.len() as f64, "");
    report.add("ns_per_placement", *nanos as f64 / f64::from(cycled.members.max(1)), "");
    report.add("cycle_us", *nanos as f64 / 1_000.0, "");
    report.add("placed_jobs", f64::from(cycled.jobs), "");
    report.add("placed_members", f64::from(cycled.members), "");
    report.add("placed_gpus", f64::from(placed.gpus), "");
    report.add("blocked_jobs", lines.len() as f64 - f64::from(cycled.jobs), "");
    report.add("gangs_wider_than_needed", f64::from(placed.wide), "");
    report.add("same_jobs_as_naive_greedy", f64::from(u8::from(placed.jobs == greedy)), "");
    report.add("naive_greedy_jobs", greedy.len() as f64, "");
    report.add("resident_bytes", resident_bytes()? as f64, "");
    Ok(report)
}

/// What one cycle placed.
struct Placed {
    jobs: BTreeSet<usize>,
    gpus: u32,
    /// Gangs that one leaf could have held by size alone when it was empty, and that lie in several.
    wide: u32,
}

fn measure(cluster: &Cluster, jobs: usize) -> (u64, Cycled, Placed) {
    let mut cluster = cluster.clone();
    let mut events = Vec::with_capacity(jobs * 2);
    let started = Instant::now();
    let cycled = cycle(&mut cluster, NOW, &mut events);
    let nanos = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let mut placed = Placed { jobs: BTreeSet::new(), gpus: 0, wide: 0 };
    for event in &events {
        if let Event::JobPlaced { job, members, .. } = event {
            // The first job was there to build the index.
            placed.jobs.insert((job.0 - 2) as usize);
            placed.gpus += members.iter().map(|member| member.gpus.len()).sum::<u32>();
            let leaf = |member: &dure_core::placement::Placed| cluster.node(member.node).location.leaf.clone();
            let leaves: BTreeSet<_> = members.iter().map(leaf).collect();
            placed.wide += u32::from(members.len() <= 4 && leaves.len() > 1);
        }
    }
    (nanos, cycled, placed)
}

fn read(path: &Path) -> Result<Vec<Line>, Failure> {
    let mut reader = csv::Reader::from_path(path).map_err(|err| failed(format!("{}: {err}", path.display())))?;
    let mut lines = Vec::new();
    for row in reader.deserialize() {
        let (_, members, gpus, hours): (u64, u32, u8, u64) =
            row.map_err(|err| failed(format!("{}: {err}", path.display())))?;
        lines.push(Line { members, gpus, hours });
    }
    if lines.is_empty() {
        return Err(failed(format!("{}: no jobs", path.display())));
    }
    Ok(lines)
}

/// The file, repeated until it asks for more than there is.
fn queue(lines: &[Line], capacity: u64) -> Vec<Line> {
    let demand: u64 = lines.iter().map(|line| u64::from(line.members) * u64::from(line.gpus)).sum();
    let repeats = usize::try_from(capacity / demand.max(1)).unwrap_or(MAX_REPEATS).min(MAX_REPEATS) + 1;
    std::iter::repeat_n(lines, repeats).flatten().copied().collect()
}

/// GPUs of a node that are taken before: the formula of the published comparison.
fn taken(node: u32, args: &CycleArgs) -> u32 {
    let hash = (u64::from(node) * 2_654_435_761) % (1 << 32);
    match args.fill {
        Fill::Empty => 0,
        Fill::Nearly if hash % 100 < 80 => args.gpus,
        Fill::Nearly => (2 + (hash / 100) % 5) as u32,
    }
}

fn build(args: &CycleArgs, lines: &[Line]) -> Result<Cluster, Failure> {
    let policy = Policy {
        max_placements_per_cycle: u32::MAX,
        max_members_per_cycle: u32::MAX,
        max_jobs_per_submit: u32::MAX,
        ..Policy::standard()
    };
    let mut cluster = Cluster::new(policy);
    let pool = Input::DefinePool { name: "gpu".into(), model: "GPU".into(), gpus_per_node: args.gpus as u8 };
    input(&mut cluster, pool)?;
    let quota = QuotaDraft { quota: Gpus::whole(args.nodes * args.gpus), ..QuotaDraft::default() };
    let tenant = TenantDraft { name: "all".into(), create: true, quotas: vec![quota], ..TenantDraft::default() };
    input(&mut cluster, Input::SetTenant(tenant))?;
    for node in 0..args.nodes {
        input(&mut cluster, Input::NodeHello(node_draft(node, args)))?;
    }
    warm(&mut cluster)?;
    let drafts = lines.iter().map(|line| draft(line.members, line.gpus, line.hours)).collect();
    input(&mut cluster, Input::Submit(drafts))?;
    Ok(cluster)
}

fn input(cluster: &mut Cluster, input: Input) -> Result<(), Failure> {
    let decided = decide(cluster, input, None, NOW, &mut Vec::new());
    decided.map(drop).map_err(|rejected| failed(format!("the core refused the cluster of the bench: {rejected:?}")))
}

/// One job that starts and ends, so that the index of free GPUs is built before anything is measured.
fn warm(cluster: &mut Cluster) -> Result<(), Failure> {
    input(cluster, Input::Submit(vec![draft(1, 1, 1)]))?;
    let mut events = Vec::new();
    cycle(cluster, NOW, &mut events);
    let placed = events.iter().find_map(|event| match event {
        Event::JobPlaced { members, .. } => members.first().copied(),
        _ => None,
    });
    let node = placed.ok_or_else(|| failed("the cluster of the bench has no free GPU"))?.node;
    let report = MemberReport::Gone(Exit { how: ExitHow::Code(0), timed_out: false });
    let (job, attempt, member) = (JobId(1), AttemptNumber(1), MemberIndex(0));
    input(cluster, Input::MemberReported { node, job, attempt, member, report })
}

fn node_draft(node: u32, args: &CycleArgs) -> NodeDraft {
    let all = GpuSet::first(args.gpus as usize);
    let leaf = node / args.leaf.max(1);
    NodeDraft {
        name: format!("n{node}").into(),
        model: "GPU".into(),
        location: Location {
            spine: format!("s{}", leaf / LEAVES_PER_SPINE).into(),
            leaf: format!("l{leaf}").into(),
            ..Location::default()
        },
        capacity: Capacity {
            gpus: all,
            islands: vec![all; args.gpus as usize].into_boxed_slice(),
            cpu: CpuMilli::ZERO,
            memory: MemoryMib::ZERO,
        },
        // What is taken before the cycle is no business of any job of it.
        bad: GpuSet::first(taken(node, args) as usize),
        boot_id: "bench".into(),
    }
}

fn draft(members: u32, gpus: u8, hours: u64) -> JobDraft {
    JobDraft {
        tenant: "all".into(),
        user: "bench".into(),
        name: "".into(),
        shape: Shape::Equal { members, gpus },
        gpu_models: Vec::new(),
        cpu: CpuMilli::ZERO,
        memory: MemoryMib::ZERO,
        required: None,
        preferred: None,
        distinct_nodes: false,
        priority: "".into(),
        preemptible: true,
        time_limit: Span::seconds(hours * 3600),
        grace: None,
        array: None,
        after: Vec::new(),
        held: false,
        not_before: None,
        max_retries: 0,
        payload: BlobId::default(),
    }
}

/// The jobs that start when each takes, in its turn, the tightest nodes that fit: slow and obvious.
fn greedy(lines: &[Line], mut free: Vec<u32>) -> BTreeSet<usize> {
    let mut started = BTreeSet::new();
    // Nothing is freed, so what did not fit once does not fit later.
    let mut failed: BTreeSet<(u32, u8)> = BTreeSet::new();
    for (at, line) in lines.iter().enumerate() {
        let need = u32::from(line.gpus);
        if failed.contains(&(line.members, line.gpus)) {
            continue;
        }
        let slots: u32 = free.iter().map(|free| free / need).sum();
        if slots < line.members {
            failed.insert((line.members, line.gpus));
            continue;
        }
        for _ in 0..line.members {
            let node = (0..free.len()).filter(|node| free[*node] >= need).min_by_key(|node| free[*node]);
            free[node.expect("the slots were counted")] -= need;
        }
        started.insert(at);
    }
    started
}
