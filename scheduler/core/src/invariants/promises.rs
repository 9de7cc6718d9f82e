//! A promise is for a job that waits and could be tried; it names one set of GPUs for each member, of the size that the
//! member asks for; no GPU is promised twice; what nodes hold back is what the promises say.
//!
//! Source: design 5.2, "freed GPUs are held for the beneficiary".

use std::collections::BTreeMap;

use super::{Check, ensure};
use crate::cluster::Cluster;
use crate::gpu::GpuSet;
use crate::ids::NodeIndex;
use crate::node::SetAside;

pub(super) fn check(cluster: &Cluster) -> Check {
    let mut sums: BTreeMap<NodeIndex, SetAside> = BTreeMap::new();
    for (id, promise) in cluster.promises() {
        let Some(job) = cluster.job(id) else { return Err(format!("job {id} is promised GPUs and does not exist")) };
        ensure(job.is_eligible() && job.progress.is_none(), || {
            format!("job {id} is promised GPUs in {:?}", job.phase)
        })?;
        ensure(promise.start_order < cluster.next_start, || format!("the promise for {id} is out of the order"))?;
        let shape = &job.spec.request.shape;
        let (least, most) = (job.spec.request.least_members() as usize, shape.members() as usize);
        ensure((least..=most).contains(&promise.members.len()), || format!("job {id} is promised other members"))?;
        for (rank, placed) in promise.members.iter().enumerate() {
            ensure(placed.gpus.len() == u32::from(shape.gpus_of(rank)), || {
                format!("member {rank} of job {id} is promised {:?}", placed.gpus)
            })?;
            let sum = sums.entry(placed.node).or_default();
            ensure(sum.gpus.and(placed.gpus) == GpuSet::EMPTY, || {
                format!("{placed:?} is promised twice, once to {id}")
            })?;
            sum.gpus = sum.gpus.with(placed.gpus);
            sum.cpu += job.spec.request.cpu;
            sum.memory += job.spec.request.memory;
        }
    }
    for node in &cluster.nodes {
        let counted = sums.get(&node.index).copied().unwrap_or_default();
        ensure(node.promised == counted, || {
            format!("node {} holds back {:?}, promised {counted:?}", node.name, node.promised)
        })?;
    }
    Ok(())
}
