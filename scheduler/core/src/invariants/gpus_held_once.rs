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
use crate::node::{Resident, Residents};
use crate::units::{CpuMilli, MemoryMib};

#[derive(Default)]
struct Sum {
    taken: GpuSet,
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
            ensure(sum.taken.and(placed.gpus).is_empty(), || {
                let node = &cluster.node(placed.node).name;
                format!("GPUs {:?} of node {node} are held twice, once by job {}", placed.gpus, job.id)
            })?;
            sum.taken = sum.taken.with(placed.gpus);
            sum.cpu += job.spec.request.cpu;
            sum.memory += job.spec.request.memory;
            sum.residents.push(Resident { job: job.id, member: MemberIndex::of(rank) });
        }
    }
    for node in &cluster.nodes {
        let mut sum = sums.remove(&node.index).unwrap_or_default();
        sum.residents.sort_unstable();
        let said = (node.taken, node.cpu_taken, node.memory_taken, &node.residents);
        let counted = (sum.taken, sum.cpu, sum.memory, &sum.residents);
        ensure(said == counted, || format!("node {} says {said:?}, its members hold {counted:?}", node.name))?;
    }
    ensure(sums.is_empty(), || "a member lies on a node that does not exist".into())
}
