//! A promise is for a job that waits and could be tried; it names one set of GPUs for each member, of the size that the
//! member asks for; no GPU is promised twice, but to members of one gang that share it; what nodes hold back is what the promises say.
//!
//! Source: design 5.2, "freed GPUs are held for the beneficiary".

use std::collections::BTreeMap;

use super::{Check, ensure};
use crate::cluster::Cluster;
use crate::gpu::GpuSet;
use crate::ids::{MemberIndex, NodeIndex};
use crate::node::SetAside;
use crate::parts::Cut;
use crate::survivors;

pub(super) fn check(cluster: &Cluster) -> Check {
    let mut sums: BTreeMap<NodeIndex, SetAside> = BTreeMap::new();
    for (id, promise) in cluster.promises() {
        let Some(job) = cluster.job(id) else { return Err(format!("job {id} is promised GPUs and does not exist")) };
        let is_wanted = job.is_eligible() || (!promise.sought.is_empty() && survivors::awaits_proof(job));
        ensure(is_wanted && job.progress.is_none(), || format!("job {id} is promised GPUs in {:?}", job.phase))?;
        ensure(promise.due <= promise.latest, || format!("the promise for {id} is put off beyond its latest"))?;
        ensure(promise.start_order < cluster.next_start, || format!("the promise for {id} is out of the order"))?;
        let shape = &job.spec.request.shape;
        let (least, most) = (job.spec.request.least_members() as usize, shape.members() as usize);
        let all = promise.members.len() + promise.sought.len();
        ensure((least..=most).contains(&all), || format!("job {id} is promised other members"))?;
        ensure(promise.sought.iter().all(|rank| rank.at() < all), || format!("job {id} seeks places for others"))?;
        let mut shared: BTreeMap<(NodeIndex, GpuSet), Cut> = BTreeMap::new();
        let ranks = (0..all).filter(|rank| !promise.sought.contains(&MemberIndex::of(*rank)));
        for (rank, placed) in ranks.zip(&promise.members) {
            ensure(placed.gpus.len() == u32::from(shape.gpus_of(rank)), || {
                format!("member {rank} of job {id} is promised {:?}", placed.gpus)
            })?;
            let of_gang = shared.get(&(placed.node, placed.gpus)).copied();
            let sum = sums.entry(placed.node).or_default();
            let is_free = match (of_gang, placed.shared_gpu()) {
                (Some(cut), Some(_)) => cut.is_free(placed.portion),
                (None, _) | (_, None) => sum.gpus.and(placed.gpus) == GpuSet::EMPTY,
            };
            ensure(is_free, || format!("{placed:?} is promised twice, once to {id}"))?;
            if let Some(gpu) = placed.shared_gpu() {
                shared.insert((placed.node, placed.gpus), of_gang.unwrap_or(Cut::none(gpu)).with(placed.portion));
            }
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
