//! Could a gang ever have room, if nothing else ran? What the nodes have, not what is free.
//!
//! Comes in: a request and the nodes. Goes out: yes, or the bound that it passes. Asked for every job that is submitted,
//! so that it must never go through the nodes for that.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::Cluster;
use crate::ids::{NodeIndex, PoolIndex};
use crate::mig::Slice;
use crate::node::Node;
use crate::parts::Cut;
use crate::rejected::Refusal;
use crate::request::{Level, Part, Request, Shape};
use crate::units::Gpus;

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

/// O(1) for most: all nodes of a pool have the same number of GPUs, and how many stand together is known.
fn fits_in(cluster: &Cluster, request: &Request, index: PoolIndex) -> Result<(), Refusal> {
    let Some(widest) = cluster.widest.get(index.at()).filter(|widest| widest.pool > 0) else { return Ok(()) };
    let (pool, shape) = (cluster.pool(index), &request.shape);
    let largest = u32::from(pool.gpus_per_node);
    if u32::from(shape.largest()) > largest {
        return Err(Refusal::MemberTooLarge { gpus: shape.largest().into(), largest });
    }
    if request.least_gpus() > pool.installed {
        return Err(Refusal::GangTooLarge { want: request.least_gpus(), capacity: pool.installed });
    }
    if request.only.says_which_nodes() || widest.is_cut || matches!(request.part, Part::Slice(_)) {
        return check_counted(cluster, request, index);
    }
    let Shape::Equal { gpus, .. } = *shape else { return Ok(()) };
    let members = request.least_members();
    // Of parts several lie on one GPU.
    let on_one = Cut::none(0).fit(request.part);
    let per_node = if request.distinct_nodes { 1 } else { (largest / u32::from(gpus)).saturating_mul(on_one) };
    let best = widest.nodes(request.required).saturating_mul(per_node);
    if best < members {
        return Err(Refusal::GangNeverFits { want: members, best, level: request.required });
    }
    Ok(())
}

/// Whether the nodes that match have enough. O(nodes), for those that say which nodes, want MIG instances, or whole GPUs
/// where some are cut.
fn check_counted(cluster: &Cluster, request: &Request, index: PoolIndex) -> Result<(), Refusal> {
    let matching = cluster.nodes.iter().filter(|node| node.pool == index && request.only.matches(node));
    let mut by_domain: BTreeMap<_, (u32, Gpus)> = BTreeMap::new();
    for node in matching {
        let slots = node.capacity.slots(node.capacity.gpus, request.part, request.shape.largest());
        let slots = if request.distinct_nodes { slots.min(1) } else { slots };
        let (sum, gpus) = by_domain.entry(domain_of(node, request.required)).or_default();
        *sum += slots;
        *gpus += node.capacity.whole_gpus().count();
    }
    let Some((best, gpus)) = by_domain.values().copied().max() else {
        let rules: Vec<String> = request.only.labels.iter().map(ToString::to_string).collect();
        let why = "no node of the pool matches it";
        return Err(Refusal::BadConstraint { field: "constraint", value: rules.join(",").into(), why });
    };
    let (want, all) = match &request.shape {
        Shape::Equal { .. } => (request.least_members(), Gpus::ZERO),
        Shape::Unequal(list) => {
            let largest = request.shape.largest();
            (list.iter().filter(|gpus| **gpus == largest).count() as u32, request.total())
        }
    };
    if gpus == Gpus::ZERO && !matches!(request.part, Part::Slice(_)) {
        return Err(only_instances(cluster, index));
    }
    if best < want {
        return Err(Refusal::GangNeverFits { want, best, level: request.required });
    }
    if gpus < all {
        return Err(Refusal::GangTooLarge { want: all, capacity: gpus });
    }
    Ok(())
}

/// All GPUs that it may use are cut: what they are cut into.
fn only_instances(cluster: &Cluster, index: PoolIndex) -> Refusal {
    let pool = cluster.pool(index);
    let layouts = cluster.nodes.iter().filter(|node| node.pool == index).flat_map(|node| &node.capacity.layouts);
    let slices: BTreeSet<Slice> = layouts.flat_map(|layout| layout.instances()).map(|(slice, _)| slice).collect();
    let known = slices.into_iter().filter_map(|slice| slice.name(&pool.model)).map(Into::into).collect();
    Refusal::OnlyInstances { pool: pool.name.clone(), known }
}

/// Whether the open nodes but those of `avoid` surely hold the gang when nothing else runs: every member counted as the
/// largest. O(nodes).
pub(crate) fn without(cluster: &Cluster, request: &Request, avoid: &[NodeIndex]) -> bool {
    hold(cluster, request, |node| node.is_open() && !node.spare && !avoid.contains(&node.index))
}

/// Whether these nodes, rising, surely hold the gang when nothing else runs and all are open, counted alike.
pub(super) fn on(cluster: &Cluster, request: &Request, nodes: &[NodeIndex]) -> bool {
    hold(cluster, request, |node| nodes.binary_search(&node.index).is_ok())
}

fn hold(cluster: &Cluster, request: &Request, is_usable: impl Fn(&Node) -> bool) -> bool {
    let beside = |have: u64, want: u64| if have == 0 { u64::MAX } else { have.checked_div(want).unwrap_or(u64::MAX) };
    let slots = |node: &Node| {
        let whole = node.capacity.gpus.without(node.bad);
        let gpus = node.capacity.slots(whole, request.part, request.shape.largest());
        let cpu = beside(node.capacity.cpu.0, request.cpu.0);
        let memory = beside(node.capacity.memory.0, request.memory.0);
        let slots = u64::from(gpus).min(cpu).min(memory);
        if request.distinct_nodes { slots.min(1) } else { slots }
    };
    let mut by_domain = BTreeMap::new();
    let is_usable = |node: &&Node| request.pools.contains(&node.pool) && request.only.matches(node) && is_usable(node);
    for node in cluster.nodes.iter().filter(is_usable) {
        *by_domain.entry((node.pool, domain_of(node, request.required))).or_insert(0) += slots(node);
    }
    by_domain.values().any(|slots| *slots >= u64::from(request.least_members()))
}

/// What identifies the domain of `level` that a node lies in.
pub(crate) fn domain_of(node: &Node, level: Option<Level>) -> (&str, &str, &str, &str) {
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
