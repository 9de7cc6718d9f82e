//! Idle, heard and installed GPUs of each pool, what evictions could free, and the placement index, are what the nodes and
//! the attempts say.
//!
//! Source: the definitions of the fields.

use super::{Check, ensure};
use crate::cluster::Cluster;
use crate::ids::PoolIndex;
use crate::job::Phase;
use crate::node::{Contact, Node};
use crate::place::check_index;
use crate::plan::Reach;
use crate::pools::Widest;
use crate::topology::Topology;
use crate::units::Gpus;

pub(super) fn check(cluster: &Cluster) -> Check {
    for (at, pool) in cluster.pools.iter().enumerate() {
        let sum = |count: &dyn Fn(&Node) -> Gpus| -> Gpus {
            cluster.nodes.iter().filter(|node| node.pool == PoolIndex::of(at)).map(count).sum()
        };
        let heard = |node: &Node| match node.contact {
            Contact::Lost => Gpus::ZERO,
            Contact::Ready | Contact::Suspect => node.capacity.gpus.without(node.bad).count(),
        };
        let counted = (sum(&|node| node.idle()), sum(&heard), sum(&|node| node.capacity.gpus.count()));
        let said = (pool.idle, pool.capacity, pool.installed);
        ensure(said == counted, || {
            format!("pool {}: idle, heard, installed {said:?}, counted {counted:?}", pool.name)
        })?;
    }
    for node in &cluster.nodes {
        let (has, of_pool) = (node.capacity.gpus.len(), u32::from(cluster.pool(node.pool).gpus_per_node));
        ensure(has == of_pool, || format!("node {} has {has} GPUs, those of its pool have {of_pool}", node.name))?;
    }
    let (mut reach, mut counted) = (cluster.reach.clone(), Reach::default());
    reach.catch_up(&cluster.nodes);
    cluster.nodes.iter().for_each(|node| counted.add(node));
    for job in cluster.jobs.iter().filter(|job| !matches!(job.phase, Phase::AwaitingProof(_))) {
        let borrowed = job.live_attempt().filter(|attempt| attempt.borrowed);
        for member in borrowed.iter().flat_map(|attempt| &attempt.members) {
            counted.lend(member.placed.node, member.placed.gpus.len(), true);
        }
    }
    counted.catch_up(&cluster.nodes);
    // A pool that its last node has left is counted still.
    reach.forget_empty_pools();
    counted.forget_empty_pools();
    ensure(reach == counted, || format!("within reach {reach:?}, counted {counted:?}"))?;
    if !cluster.index_is_stale {
        let topology = Topology::compile(&cluster.nodes).map_err(|why| why.to_string())?;
        let of = |at| Widest::of(&topology, PoolIndex::of(at), &cluster.nodes);
        let widest: Vec<Widest> = (0..topology.pools()).map(of).collect();
        ensure(cluster.widest == widest, || format!("widest domains {:?}, counted {widest:?}", cluster.widest))?;
        check_index(&cluster.index, &cluster.nodes);
    }
    Ok(())
}
