//! Nodes and GPUs that break and come back, while a trace is replayed.
//!
//! A node that breaks is lost and at once proven dead; it comes back from another boot. A GPU that breaks is fenced, and the
//! attempt that held it is lost. Faults that overlap end with the last of them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use dure_core::gpu::GpuSet;
use dure_core::ids::{JobId, NodeIndex};
use dure_core::input::{Input, NodeDraft};
use dure_core::units::Time;

use crate::faults::Fault;
use crate::forward::{Forward, Story};

/// What is broken.
#[derive(Debug)]
pub(crate) struct Breakage {
    /// By time, the next one last.
    coming: Vec<Fault>,
    /// Repairs: when, of which node, of which GPU.
    repairs: BinaryHeap<Reverse<(Time, usize, Option<u8>)>>,
    nodes: Vec<State>,
}

/// A node of the trace.
#[derive(Clone, Debug, Default)]
struct State {
    draft: Option<NodeDraft>,
    /// Faults of the whole node under way.
    down: u32,
    /// Faults of each GPU under way.
    bad: Vec<u32>,
    boots: u64,
}

impl Breakage {
    pub(crate) fn new(mut faults: Vec<Fault>, nodes: usize) -> Self {
        faults.sort_unstable_by_key(|fault| Reverse(*fault));
        Self { coming: faults, repairs: BinaryHeap::new(), nodes: vec![State::default(); nodes] }
    }

    /// The core knows the node at `place` as `draft`.
    pub(crate) fn joins(&mut self, place: usize, draft: NodeDraft) {
        let bad = vec![0; draft.capacity.gpus.len() as usize];
        self.nodes[place] = State { draft: Some(draft), bad, ..State::default() };
    }

    /// When something breaks or comes back next.
    pub(crate) fn next(&self) -> Option<Time> {
        let repair = self.repairs.peek().map(|Reverse((time, ..))| *time);
        self.coming.last().map(|fault| fault.time).into_iter().chain(repair).min()
    }

    /// What is due comes back, and then breaks.
    pub(crate) fn pass(&mut self, forward: &mut Forward<impl Story>, now: Time) {
        while let Some(Reverse((time, node, gpu))) = self.repairs.peek().copied()
            && time <= now
        {
            self.repairs.pop();
            self.repair(forward, node, gpu, now);
        }
        while let Some(fault) = self.coming.last().copied()
            && fault.time <= now
        {
            self.coming.pop();
            self.break_down(forward, fault, now);
        }
    }

    fn break_down(&mut self, forward: &mut Forward<impl Story>, fault: Fault, now: Time) {
        let state = &mut self.nodes[fault.node];
        let Some(draft) = &state.draft else { return };
        let Some(node) = forward.cluster().find_node(&draft.name) else { return };
        self.repairs.push(Reverse((now + fault.span, fault.node, fault.gpu)));
        match fault.gpu {
            None => {
                state.down += 1;
                if state.down == 1 {
                    let name = draft.name.clone();
                    tell(forward, Input::NodeLost(node), now);
                    tell(forward, Input::ConfirmDead { node: name }, now);
                }
            }
            Some(gpu) => {
                let Some(faults) = state.bad.get_mut(usize::from(gpu)) else { return };
                *faults += 1;
                let bad = state.bad();
                if state.down == 0 {
                    tell(forward, Input::NodeHealth { node, bad }, now);
                    lose_on(forward, node, gpu, now);
                }
            }
        }
    }

    fn repair(&mut self, forward: &mut Forward<impl Story>, node: usize, gpu: Option<u8>, now: Time) {
        let state = &mut self.nodes[node];
        match gpu {
            None => state.down -= 1,
            Some(gpu) => state.bad[usize::from(gpu)] -= 1,
        }
        if state.down > 0 {
            return;
        }
        let bad = state.bad();
        let Some(draft) = &mut state.draft else { return };
        if gpu.is_none() {
            state.boots += 1;
            draft.boot_id = state.boots.to_string().into();
            tell(forward, Input::NodeHello(NodeDraft { bad, ..draft.clone() }), now);
        } else if let Some(node) = forward.cluster().find_node(&draft.name) {
            tell(forward, Input::NodeHealth { node, bad }, now);
        }
    }
}

impl State {
    fn bad(&self) -> GpuSet {
        self.bad.iter().enumerate().filter(|(_, faults)| **faults > 0).map(|(gpu, _)| gpu).collect()
    }
}

fn tell(forward: &mut Forward<impl Story>, input: Input, now: Time) {
    forward.input(input, now).expect("the core knows the node, and lets it break and return");
}

/// Attempts that hold a GPU are lost with it.
fn lose_on(forward: &mut Forward<impl Story>, node: NodeIndex, gpu: u8, now: Time) {
    let (cluster, broken) = (forward.cluster(), GpuSet::single(usize::from(gpu)));
    let residents = cluster.node(node).residents.iter();
    let holds = |job: JobId, member: usize| {
        let attempt = cluster.job(job).and_then(|job| job.live_attempt());
        attempt.is_some_and(|attempt| attempt.members[member].placed.gpus.contains(broken))
    };
    let lost: Vec<JobId> = residents.filter(|at| holds(at.job, at.member.at())).map(|at| at.job).collect();
    for job in lost {
        forward.lose(job, "its GPU broke", now);
    }
}
