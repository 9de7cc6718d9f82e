//! The cluster and the queue of the published comparison.
//!
//! In: how many nodes, how full, which jobs. Out: a cluster whose taken GPUs are held by running jobs, and whose queue
//! holds the file as often as it takes to ask for more than there is.

use std::path::Path;

use dure_core::cycle::cycle;
use dure_core::event::Event;
use dure_core::gpu::GpuSet;
use dure_core::ids::{AttemptNumber, BlobId, JobId, MemberIndex, NodeIndex, PoolIndex};
use dure_core::input::{JobDraft, MemberReport, NodeDraft, QuotaDraft, TenantDraft};
use dure_core::job::{Exit, ExitHow};
use dure_core::node::{Capacity, Location};
use dure_core::placement::Placed;
use dure_core::request::Shape;
use dure_core::units::{CpuMilli, Gpus, MemoryMib, Span, Time};
use dure_core::{Cluster, Input, Policy, decide};

use super::constraint::{Constraint, MODEL};
use crate::bench::failed;
use crate::failure::Failure;

/// Leaves under one spine.
pub(super) const LEAVES_PER_SPINE: u32 = 32;
/// The file is repeated until the demand is above the capacity, but not more often than this.
const MAX_REPEATS: usize = 1_000;
/// Everything happens at one moment.
pub(super) const NOW: Time = Time(1_000_000);
/// Jobs in one call.
const JOBS_PER_SUBMIT: usize = 10_000;

/// How full a cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Fill {
    /// Nothing is taken.
    #[value(name = "0")]
    Empty,
    /// Four nodes of five are full, the others in part: about 90 %.
    #[value(name = "90")]
    Nearly,
}

/// A cluster to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) nodes: u32,
    pub(super) gpus: u32,
    pub(super) leaf: u32,
    pub(super) fill: Fill,
    /// Jobs go to this many missions in turn; 1 keeps the order of the file.
    pub(super) missions: u32,
    pub(super) constraint: Constraint,
}

/// A line of the job file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) members: u32,
    pub(super) gpus: u8,
    pub(super) hours: u64,
}

/// The lines of a job file: CSV with the columns id,nodes,gpus_per_node,hours.
pub(super) fn read(path: &Path) -> Result<Vec<Line>, Failure> {
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

impl Size {
    /// GPUs of a node that are taken before, whole ones: the formula of the published comparison.
    pub(super) fn taken(&self, node: u32) -> u32 {
        self.wanted(node).min(self.constraint.uncut(node, self.gpus))
    }

    fn wanted(&self, node: u32) -> u32 {
        let hash = (u64::from(node) * 2_654_435_761) % (1 << 32);
        match self.fill {
            Fill::Empty => 0,
            Fill::Nearly if hash % 100 < 80 => self.gpus,
            Fill::Nearly => ((2 + (hash / 100) % 5) as u32).min(self.gpus),
        }
    }

    /// The file, repeated until it asks for more than there is.
    pub(super) fn queue(&self, lines: &[Line]) -> Vec<Line> {
        let demand: u64 = lines.iter().map(|line| u64::from(line.members) * u64::from(line.gpus)).sum();
        let capacity = u64::from(self.nodes) * u64::from(self.gpus);
        let repeats = usize::try_from(capacity / demand.max(1)).unwrap_or(MAX_REPEATS).min(MAX_REPEATS) + 1;
        std::iter::repeat_n(lines, repeats).flatten().copied().collect()
    }

    fn mission(&self, job: usize) -> Box<str> {
        format!("m{}", job % self.missions.max(1) as usize).into()
    }
}

/// The cluster with all that runs, and with the queue behind it.
pub(super) fn build(size: &Size, queue: &[Line]) -> Result<Cluster, Failure> {
    let policy = Policy {
        max_placements_per_cycle: u32::MAX,
        max_members_per_cycle: u32::MAX,
        max_jobs_per_submit: u32::MAX,
        // Strict order: nothing is set aside for whoever is blocked.
        plan_in_time: false,
        ..Policy::standard()
    };
    let mut cluster = Cluster::new(policy);
    let pool = Input::DefinePool { name: "gpu".into(), model: MODEL.into(), gpus_per_node: size.gpus as u8 };
    input(&mut cluster, pool)?;
    for mission in 0..size.missions.max(1) {
        let quota =
            QuotaDraft { quota: Gpus::whole(size.nodes * size.gpus / size.missions.max(1)), ..QuotaDraft::default() };
        let name = size.mission(mission as usize);
        input(
            &mut cluster,
            Input::SetTenant(TenantDraft { name, create: true, quotas: vec![quota], ..TenantDraft::default() }),
        )?;
    }
    for node in 0..size.nodes {
        input(&mut cluster, Input::NodeHello(node_draft(size, node)))?;
    }
    occupy(&mut cluster, size)?;
    warm(&mut cluster, size)?;
    for (at, lines) in queue.chunks(JOBS_PER_SUBMIT).enumerate() {
        let numbered = lines.iter().enumerate().map(|(place, line)| (at * JOBS_PER_SUBMIT + place, line));
        let drafts = numbered.map(|(job, line)| draft(size, job, line)).collect();
        input(&mut cluster, Input::Submit(drafts))?;
    }
    Ok(cluster)
}

/// Gives an input that the core must accept.
pub(super) fn input(cluster: &mut Cluster, input: Input) -> Result<(), Failure> {
    let decided = decide(cluster, input, None, NOW, &mut Vec::new());
    decided.map(drop).map_err(|rejected| failed(format!("the core refused the cluster of the bench: {rejected:?}")))
}

/// What is taken is held by running jobs, one on each node.
fn occupy(cluster: &mut Cluster, size: &Size) -> Result<(), Failure> {
    for node in (0..size.nodes).filter(|node| size.taken(*node) > 0) {
        let gpus = size.taken(node);
        let line = Line { members: 1, gpus: gpus as u8, hours: 24 };
        let before = cluster.jobs().iter().next_back().map_or(0, |job| job.id.0);
        input(cluster, Input::Submit(vec![draft(size, node as usize, &line)]))?;
        let (job, attempt, member) = (JobId(before + 1), AttemptNumber(1), MemberIndex(0));
        let placed = Placed::whole(NodeIndex(node), GpuSet::first(gpus as usize));
        let members = [placed].into_iter().collect();
        for event in [
            Event::JobPlaced {
                job,
                attempt,
                pool: PoolIndex(0),
                members,
                scavenger: false,
                guest: false,
                lowered: None,
            },
            Event::MemberPrepared { job, attempt, member },
            Event::MemberStarted { job, attempt, member },
        ] {
            cluster.apply(NOW, &event);
        }
    }
    Ok(())
}

/// One job that starts and ends, so that the index of free GPUs is built before anything is measured.
fn warm(cluster: &mut Cluster, size: &Size) -> Result<(), Failure> {
    input(cluster, Input::Submit(vec![draft(size, 0, &Line { members: 1, gpus: 1, hours: 1 })]))?;
    let mut events = Vec::new();
    cycle(cluster, NOW, &mut events);
    let placed = events.iter().find_map(|event| match event {
        Event::JobPlaced { job, members, .. } => Some((*job, members.first().copied()?)),
        _ => None,
    });
    let (job, placed) = placed.ok_or_else(|| failed("the cluster of the bench has no free GPU"))?;
    let report = MemberReport::Gone(Exit::of(ExitHow::Code(0)));
    let (attempt, member) = (AttemptNumber(1), MemberIndex(0));
    input(cluster, Input::MemberReported { node: placed.node, job, attempt, member, report })
}

fn node_draft(size: &Size, node: u32) -> NodeDraft {
    let all = GpuSet::first(size.gpus as usize);
    let leaf = node / size.leaf.max(1);
    let mut capacity = Capacity {
        gpus: all,
        islands: all.iter().map(|_| all).collect(),
        layouts: Box::default(),
        cpu: CpuMilli::ZERO,
        memory: MemoryMib::ZERO,
        labels: Default::default(),
    };
    size.constraint.equip(node, &mut capacity);
    NodeDraft {
        name: format!("n{node}").into(),
        model: MODEL.into(),
        location: Location {
            spine: format!("s{}", leaf / LEAVES_PER_SPINE).into(),
            leaf: format!("l{leaf}").into(),
            ..Location::default()
        },
        capacity,
        bad: GpuSet::EMPTY,
        boot_id: "bench".into(),
    }
}

/// A job of the queue.
pub(super) fn draft(size: &Size, job: usize, line: &Line) -> JobDraft {
    let mut draft = JobDraft {
        tenant: size.mission(job),
        shape: Shape::Equal { members: line.members, gpus: line.gpus },
        time_limit: Span::seconds(line.hours * 3600),
        time_min: None,
        ..plain()
    };
    size.constraint.ask(size, job, line, &mut draft);
    draft
}

/// A job of one GPU that asks for nothing special.
pub(super) fn plain() -> JobDraft {
    JobDraft {
        part: dure_core::input::PartDraft::Whole,
        tenant: "".into(),
        user: "bench".into(),
        name: "".into(),
        shape: Shape::Equal { members: 1, gpus: 1 },
        gpu_models: Vec::new(),
        cpu: CpuMilli::ZERO,
        memory: MemoryMib::ZERO,
        required: None,
        preferred: None,
        distinct_nodes: false,
        only: Default::default(),
        priority: "".into(),
        preemptible: true,
        time_limit: Span::seconds(3600),
        time_min: None,
        grace: None,
        array: None,
        after: Vec::new(),
        held: false,
        not_before: None,
        max_retries: 0,
        batch: false,
        hold_survivors: Span::ZERO,
        booking: "".into(),
        payload: BlobId::default(),
    }
}
