//! Warm spares: nodes of each pool that are kept free for gangs that lost one.
//!
//! In: how many the policy wants. Out: free nodes that become spares, and spares that are none any more because they are too
//! many or not fit for it. A spare is in nobody's index: only a gang whose survivors are held gets it (`survivors`).
//! It must never take anything from anybody: a node becomes a spare only while nothing is held, promised or set aside on it.

use std::collections::BTreeMap;

use crate::admit::fits::domain_of;
use crate::cluster::Cluster;
use crate::decide::{Events, emit};
use crate::event::Event;
use crate::ids::{NodeIndex, PoolIndex};
use crate::node::Node;
use crate::request::Level;
use crate::units::Time;

/// Sees to it that each pool has as many spares as it shall have, as far as nodes are free. O(nodes) where there are to be
/// any.
pub(crate) fn keep(cluster: &mut Cluster, now: Time, out: &mut Events) {
    if cluster.policy.spares.is_empty() && cluster.spare_nodes == 0 {
        return;
    }
    for pool in (0..cluster.pools.len()).map(PoolIndex::of) {
        for (node, spare) in changes(cluster, pool) {
            emit(cluster, now, Event::NodeSpared { node, spare }, out);
        }
    }
}

/// Which nodes of a pool become spares, or are none any more.
fn changes(cluster: &Cluster, pool: PoolIndex) -> Vec<(NodeIndex, bool)> {
    let name = &cluster.pool(pool).name;
    let wanted = cluster.policy.spares.iter().find(|(of, _)| of == name).map_or(0, |(_, nodes)| *nodes as usize);
    let of_pool = || cluster.nodes.iter().filter(|node| node.pool == pool);
    let (fit, unfit): (Vec<&Node>, Vec<&Node>) = of_pool().filter(|node| node.spare).partition(|node| is_fit(node));
    let mut changes: Vec<(NodeIndex, bool)> = unfit.iter().map(|node| (node.index, false)).collect();
    changes.extend(fit.iter().skip(wanted).map(|node| (node.index, false)));
    if fit.len() >= wanted {
        return changes;
    }
    // Spread over the leaves, so that one is near whoever loses a node.
    fn leaf(node: &Node) -> (&str, &str, &str, &str) {
        domain_of(node, Some(Level::Leaf))
    }
    let mut in_leaf = BTreeMap::new();
    fit.iter().for_each(|node| *in_leaf.entry(leaf(node)).or_insert(0_u32) += 1);
    let mut free: Vec<&Node> = of_pool().filter(|node| !node.spare && is_fit(node)).collect();
    for _ in fit.len()..wanted {
        let poorest = |node: &&Node| (in_leaf.get(&leaf(node)).copied().unwrap_or(0), std::cmp::Reverse(node.index));
        let Some(next) = free.iter().copied().min_by_key(poorest) else { break };
        *in_leaf.entry(leaf(next)).or_insert(0) += 1;
        free.retain(|node| node.index != next.index);
        changes.push((next.index, true));
    }
    changes
}

/// Whether all of a node is there for whoever needs it.
fn is_fit(node: &Node) -> bool {
    let is_idle = node.residents.is_empty() && node.promised.gpus.is_empty() && node.reserved.gpus.is_empty();
    node.is_open() && !node.booked.kept && node.bad.is_empty() && is_idle
}
