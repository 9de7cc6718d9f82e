//! Could a gang ever have room, if nothing else ran? What the nodes have, not what is free.
//!
//! Comes in: a request and the nodes. Goes out: yes, or the bound that it passes. Asked for every job that is submitted,
//! so that it must never go through the nodes for that.

use std::collections::BTreeMap;

use crate::cluster::Cluster;
use crate::ids::{NodeIndex, PoolIndex};
use crate::node::Node;
use crate::rejected::Refusal;
use crate::request::{Level, Request, Shape};

/// Refuses a gang that no pool could hold even if nothing else ran. A cluster without nodes refuses nothing.
pub(super) fn check_somewhere(cluster: &Cluster, request: &Request) -> Result<(), Refusal> {
    let mut worst = None;
    for pool in &request.pools {
        match fits_in(cluster, request, *pool) {
            Ok(()) => return Ok(()),
            Err(why) => worst = worst.or(Some(why)),
        }
    }
    worst.map_or(Ok(()), Err)
}

/// O(1): all nodes of a pool have the same number of GPUs, and how many stand together is known.
fn fits_in(cluster: &Cluster, request: &Request, index: PoolIndex) -> Result<(), Refusal> {
    let Some(widest) = cluster.widest.get(index.at()).filter(|widest| widest.pool > 0) else { return Ok(()) };
    let (pool, shape) = (cluster.pool(index), &request.shape);
    let largest = u32::from(pool.gpus_per_node);
    if u32::from(shape.largest()) > largest {
        return Err(Refusal::MemberTooLarge { gpus: shape.largest().into(), largest });
    }
    if shape.total() > pool.installed {
        return Err(Refusal::GangTooLarge { want: shape.total(), capacity: pool.installed });
    }
    let Shape::Equal { members, gpus } = *shape else { return Ok(()) };
    let per_node = if request.distinct_nodes { 1 } else { largest / u32::from(gpus) };
    let best = widest.nodes(request.required) * per_node;
    if best < members {
        return Err(Refusal::GangNeverFits { want: members, best, level: request.required });
    }
    Ok(())
}

/// Whether the open nodes but those of `avoid` surely hold the gang when nothing else runs: every member counted as the
/// largest. O(nodes).
pub(crate) fn without(cluster: &Cluster, request: &Request, avoid: &[NodeIndex]) -> bool {
    let beside = |have: u64, want: u64| if have == 0 { u64::MAX } else { have.checked_div(want).unwrap_or(u64::MAX) };
    let slots = |node: &Node| {
        let gpus = node.capacity.gpus.without(node.bad).len() / u32::from(request.shape.largest());
        let cpu = beside(node.capacity.cpu.0, request.cpu.0);
        let memory = beside(node.capacity.memory.0, request.memory.0);
        let slots = u64::from(gpus).min(cpu).min(memory);
        if request.distinct_nodes { slots.min(1) } else { slots }
    };
    let mut by_domain = BTreeMap::new();
    let is_other = |node: &&Node| node.is_open() && request.pools.contains(&node.pool) && !avoid.contains(&node.index);
    for node in cluster.nodes.iter().filter(is_other) {
        *by_domain.entry((node.pool, domain_of(node, request.required))).or_insert(0) += slots(node);
    }
    by_domain.values().any(|slots| *slots >= u64::from(request.shape.members()))
}

/// What identifies the domain of `level` that a node lies in.
fn domain_of(node: &Node, level: Option<Level>) -> (&str, &str, &str, &str) {
    let place = &node.location;
    match level {
        None => ("", "", "", ""),
        Some(Level::Site) => (&place.site, "", "", ""),
        Some(Level::Spine) => (&place.site, &place.spine, "", ""),
        Some(Level::Leaf) => (&place.site, &place.spine, &place.leaf, ""),
        Some(Level::Nvlink) if !place.nvlink.is_empty() => (&place.site, &place.spine, &place.leaf, &place.nvlink),
        Some(Level::Nvlink | Level::Node) => ("", "", "", &node.name),
    }
}
