//! The invariant of the index: it says what the nodes say.
//!
//! Source: the definitions themselves. Every counter is recounted node by node, without the code that keeps it.

use super::PlaceIndex;
use super::pool::{Pool, Room};
use crate::node::Node;

/// Panics unless every bit and counter of `index` is what the state of `nodes` says. Slow: O(nodes * levels * GPUs).
/// Not to be called while trial changes are in the index.
///
/// # Panics
/// When the index is wrong; says which node or which domain.
pub fn check_index(index: &PlaceIndex, nodes: &[Node]) {
    assert_eq!(index.homes.len(), nodes.len(), "the index was built for other nodes");
    for node in nodes {
        let home = index.homes[node.index.at()];
        assert_eq!(home.pool, node.pool, "node {} has changed its pool since the index was built", node.name);
        let room = index.pools[home.pool.at()].rooms[home.at as usize];
        assert_eq!(room, Room::of(node), "node {} has changed and was not synced", node.name);
        assert_eq!(index.parts[node.index.at()], node.parts, "parts on node {} were not synced", node.name);
        let is_listed = index.cut_nodes.contains(&(home.pool, home.at));
        assert_eq!(is_listed, !node.parts.is_empty(), "node {} is listed wrongly as one with cut GPUs", node.name);
    }
    for (number, pool) in index.pools.iter().enumerate() {
        check_counters(number, pool);
        assert!(pool.is_sorted(), "pool {number}: bits, buckets and counters differ");
    }
}

/// Recounts all domains of a pool from its rooms.
fn check_counters(number: usize, pool: &Pool) {
    for (height, level) in pool.levels.iter().enumerate() {
        for domain in 0..level.count() {
            let free: Vec<usize> =
                pool.rooms[level.positions(domain)].iter().map(|room| room.count() as usize).collect();
            for gpus in 1..=pool.width {
                let nodes = free.iter().filter(|free| **free >= gpus).count();
                let slots: usize = free.iter().map(|free| free / gpus).sum();
                let place = (number, height, domain, gpus);
                assert_eq!(level.at_least(domain, gpus) as usize, nodes, "nodes at (pool, level, domain, k) {place:?}");
                assert_eq!(level.slots(domain, gpus) as usize, slots, "slots at (pool, level, domain, g) {place:?}");
                assert!(level.is_sorted(domain, gpus), "bucket at (pool, level, domain, g) {place:?}");
            }
        }
    }
}
