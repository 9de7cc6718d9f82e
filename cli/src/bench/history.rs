//! Histories for benches: a cluster of the core alone, with jobs that wait, or that run and end.

use dure_core::{
    Cluster, Event, Input, Policy, cycle, decide,
    gpu::GpuSet,
    ids::{BlobId, MemberIndex, NodeIndex},
    input::{JobDraft, MemberReport, NodeDraft, QuotaDraft, TenantDraft},
    job::{Exit, ExitHow},
    node::{Capacity, Location},
    request::Shape,
    units::{CpuMilli, Gpus, MemoryMib, Span, Time},
};

use crate::failure::Failure;

/// The missions of the histories.
const MISSIONS: usize = 12;
/// GPUs of a node.
const GPUS: usize = 8;
/// GPUs that one mission is promised, out of plenty.
const QUOTA: u32 = 600;

/// A cluster and the events of its last turn.
pub(super) struct History {
    /// The state.
    pub(super) cluster: Cluster,
    /// Now.
    pub(super) now: Time,
    /// Events since they were last taken.
    pub(super) events: Vec<Event>,
    submitted: u64,
}

impl History {
    /// Twelve missions and this many nodes of 8 GPUs.
    pub(super) fn new(nodes: usize) -> Result<Self, Failure> {
        let mut history =
            Self { cluster: Cluster::new(Policy::standard()), now: Time(1_000_000), events: Vec::new(), submitted: 0 };
        history.decide(Input::DefinePool {
            name: "h200".into(),
            model: "NVIDIA H200".into(),
            gpus_per_node: GPUS as u8,
        })?;
        for node in 0..nodes {
            history.decide(Input::NodeHello(draft_node(node)))?;
        }
        for mission in 0..MISSIONS {
            let quota = QuotaDraft { quota: Gpus::whole(QUOTA), ..QuotaDraft::default() };
            let name = format!("mission-{mission}").into();
            history.decide(Input::SetTenant(TenantDraft {
                name,
                create: true,
                quotas: vec![quota],
                ..TenantDraft::default()
            }))?;
        }
        Ok(history)
    }

    fn decide(&mut self, input: Input) -> Result<(), Failure> {
        let decided = decide(&mut self.cluster, input, None, self.now, &mut self.events);
        decided.map(drop).map_err(|why| Failure::Failed(format!("the core refused the bench's own input: {why:?}")))
    }

    /// Submits so many jobs of one GPU in one call.
    pub(super) fn submit(&mut self, count: usize) -> Result<(), Failure> {
        let drafts = (0..count).map(|_| self.next_job()).collect();
        self.decide(Input::Submit(drafts))
    }

    fn next_job(&mut self) -> JobDraft {
        self.submitted += 1;
        let mut payload = [0; 16];
        payload[..8].copy_from_slice(&self.submitted.to_le_bytes());
        JobDraft {
            part: dure_core::input::PartDraft::Whole,
            tenant: format!("mission-{}", self.submitted % MISSIONS as u64).into(),
            user: format!("user-{}", self.submitted % 120).into(),
            name: format!("job-{}", self.submitted).into(),
            shape: Shape::Equal { members: 1, gpus: 1 },
            gpu_models: Vec::new(),
            cpu: CpuMilli(0),
            memory: MemoryMib(0),
            required: None,
            preferred: None,
            distinct_nodes: false,
            only: Default::default(),
            priority: "".into(),
            preemptible: true,
            time_limit: Span(3_600_000),
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
            payload: BlobId(payload),
        }
    }

    /// Places what waits, has every member prepared, started and ended, and lets a second pass.
    pub(super) fn run_all(&mut self) -> Result<(), Failure> {
        let before = self.events.len();
        cycle(&mut self.cluster, self.now, &mut self.events);
        let placed: Vec<_> = self.events[before..]
            .iter()
            .filter_map(|event| match event {
                Event::JobPlaced { job, attempt, members, .. } => {
                    Some((*job, *attempt, members.iter().map(|member| member.node).collect::<Vec<NodeIndex>>()))
                }
                _ => None,
            })
            .collect();
        self.now = Time(self.now.0 + 1_000);
        let exit = || MemberReport::Gone(Exit::of(ExitHow::Code(0)));
        for report in [|| MemberReport::Prepared, || MemberReport::Started, exit] {
            for (job, attempt, nodes) in &placed {
                for (at, node) in nodes.iter().enumerate() {
                    let member = MemberIndex::of(at);
                    let (job, attempt, node) = (*job, *attempt, *node);
                    self.decide(Input::MemberReported { node, job, attempt, member, report: report() })?;
                }
            }
        }
        Ok(())
    }
}

fn draft_node(node: usize) -> NodeDraft {
    let all = GpuSet::first(GPUS);
    let leaf = format!("leaf-{}", node / 32).into();
    NodeDraft {
        name: format!("n{node:05}").into(),
        model: "NVIDIA H200".into(),
        location: Location { leaf, ..Location::default() },
        capacity: Capacity {
            gpus: all,
            islands: vec![all; GPUS].into(),
            layouts: Box::default(),
            cpu: CpuMilli(0),
            memory: MemoryMib(0),
            labels: Default::default(),
        },
        bad: GpuSet::default(),
        boot_id: "boot".into(),
    }
}
