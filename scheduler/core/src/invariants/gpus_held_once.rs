//! No GPU is held twice, and what a node says is taken is what its residents hold, no more and no less.
//!
//! A member holds its GPUs, CPU and memory while its attempt is charged, and beyond that until it is proven gone.
//! Source: design, promise 2.

use std::collections::BTreeMap;

use super::{Check, ensure};
use crate::cluster::Cluster;
use crate::gpu::GpuSet;
use crate::ids::{MemberIndex, NodeIndex};
use crate::job::{MemberPhase, Phase};
use crate::mig::Layout;
use crate::node::{Resident, Residents};
use crate::parts::{Cut, WHOLE};
use crate::placement::{Placed, Portion};
use crate::units::{CpuMilli, MemoryMib};

#[derive(Default)]
struct Sum {
    taken: GpuSet,
    parts: Vec<Placed>,
    cpu: CpuMilli,
    memory: MemoryMib,
    residents: Residents,
}

pub(super) fn check(cluster: &Cluster) -> Check {
    let mut sums: BTreeMap<NodeIndex, Sum> = BTreeMap::new();
    for job in cluster.jobs.iter() {
        let Some(attempt) = job.live_attempt() else { continue };
        for (rank, member) in attempt.members.iter().enumerate() {
            if matches!(job.phase, Phase::AwaitingProof(_)) && member.phase == MemberPhase::Gone {
                continue;
            }
            let placed = member.placed;
            let sum = sums.entry(placed.node).or_default();
            ensure(!placed.gpus.is_empty(), || format!("member {rank} of job {} holds no GPU", job.id))?;
            let parts = sum.parts.iter().filter(|part| !part.gpus.and(placed.gpus).is_empty());
            ensure(
                sum.taken.and(placed.gpus).is_empty() && parts.clone().all(|part| may_share(part, &placed)),
                || {
                    let node = &cluster.node(placed.node).name;
                    format!("GPUs {:?} of node {node} are held twice, once by job {}", placed.gpus, job.id)
                },
            )?;
            sum.taken = sum.taken.with(placed.whole_gpus());
            if placed.shared_gpu().is_some() {
                sum.parts.push(placed);
            }
            sum.cpu += job.spec.request.cpu;
            sum.memory += job.spec.request.memory;
            sum.residents.push(Resident { job: job.id, member: MemberIndex::of(rank) });
        }
    }
    for node in &cluster.nodes {
        let mut sum = sums.remove(&node.index).unwrap_or_default();
        sum.residents.sort_unstable();
        let parts = held_parts(&sum.parts, &node.capacity.layouts);
        let said = (
            node.taken,
            node.parts.iter().copied().collect::<Vec<_>>(),
            node.cpu_taken,
            node.memory_taken,
            &node.residents,
        );
        let counted = (sum.taken, parts, sum.cpu, sum.memory, &sum.residents);
        ensure(said == counted, || format!("node {} says {said:?}, its members hold {counted:?}", node.name))?;
    }
    ensure(sums.is_empty(), || "a member lies on a node that does not exist".into())
}

/// Whether two members may hold something of one GPU: shares beside shares, slices beside slices that they do not overlap.
fn may_share(one: &Placed, other: &Placed) -> bool {
    match (one.portion, other.portion) {
        (Portion::Milli(_), Portion::Milli(_)) => one.gpus == other.gpus,
        (Portion::Slice { slice, start }, Portion::Slice { slice: beside, start: at }) => {
            one.gpus == other.gpus && slice.mask(start) & beside.mask(at) == 0
        }
        (Portion::Whole | Portion::Milli(_) | Portion::Slice { .. }, _) => false,
    }
}

/// What the parts come to on each GPU; more than a GPU has is shown as it is, and equals nothing that a node can say.
fn held_parts(parts: &[Placed], layouts: &[Layout]) -> Vec<Cut> {
    let cut = layouts.iter().enumerate().filter(|(_, layout)| layout.is_cut());
    let mut cuts: BTreeMap<u8, Cut> =
        cut.map(|(gpu, layout)| (gpu as u8, Cut { layout: *layout, ..Cut::none(gpu) })).collect();
    for placed in parts {
        let Some(gpu) = placed.shared_gpu() else { continue };
        let cut = cuts.entry(gpu as u8).or_insert(Cut::none(gpu));
        *cut = cut.with(placed.portion);
    }
    cuts.into_values().map(|cut| Cut { milli: if cut.milli > WHOLE { u16::MAX } else { cut.milli }, ..cut }).collect()
}
