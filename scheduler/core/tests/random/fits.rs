//! Whether a job could run if it were alone: tried out, member by member, on the nodes as they are.

use std::collections::BTreeMap;

use dure_core::Cluster;
use dure_core::ids::{NodeIndex, PoolIndex};
use dure_core::job::Job;
use dure_core::node::Node;
use dure_core::request::{Level, Part, Request};

/// Whether some pool and domain holds the whole gang of `job` when nothing else runs.
pub(crate) fn fits_alone(cluster: &Cluster, job: &Job) -> bool {
    let request = &job.spec.request;
    if request.part != Part::Whole {
        return parts_fit_alone(cluster, request);
    }
    let domain = |node: &Node| match job.spec.request.required {
        Some(Level::Leaf) => (node.pool, node.location.leaf.clone()),
        _ => (node.pool, "".into()),
    };
    let mut domains: BTreeMap<(PoolIndex, Box<str>), BTreeMap<NodeIndex, u32>> = BTreeMap::new();
    for node in cluster.nodes().iter().filter(|node| job.spec.request.pools.contains(&node.pool)) {
        domains.entry(domain(node)).or_default().insert(node.index, node.capacity.whole_gpus().len());
    }
    domains.values().any(|free| fits(job, 0, free))
}

/// As many parts as members are there in one domain, on nodes of their own where that is asked for.
fn parts_fit_alone(cluster: &Cluster, request: &Request) -> bool {
    let mut domains: BTreeMap<_, u32> = BTreeMap::new();
    for node in cluster.nodes().iter().filter(|node| request.pools.contains(&node.pool)) {
        let leaf = request.required.map(|_| node.location.leaf.clone());
        let parts = node.capacity.slots(node.capacity.gpus, request.part, 1);
        *domains.entry((node.pool, leaf)).or_default() += if request.distinct_nodes { parts.min(1) } else { parts };
    }
    domains.values().any(|parts| *parts >= request.shape.members())
}

fn fits(job: &Job, rank: usize, free: &BTreeMap<NodeIndex, u32>) -> bool {
    let request = &job.spec.request;
    if rank == request.shape.members() as usize {
        return true;
    }
    let want = u32::from(request.shape.gpus_of(rank));
    free.iter().filter(|(_, gpus)| **gpus >= want).any(|(node, gpus)| {
        let mut rest = free.clone();
        rest.insert(*node, if request.distinct_nodes { 0 } else { gpus - want });
        fits(job, rank + 1, &rest)
    })
}
