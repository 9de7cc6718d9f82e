//! How much evictions could free at most, kept as attempts come and go: most plans that cannot be are refused by it in a
//! few steps, without looking at a single attempt.
//!
//! In: which nodes changed, and every attempt that begins or ceases to be borrowed. Out: by pool, how many nodes have so
//! many GPUs that are free or lent, brought up to date for the changed nodes when it is asked for. It is an upper bound:
//! what has not run its minimum, what must not be evicted, and what the claimant's own mission borrows count as lent too.
//! It must never be less than what a plan could use.

use crate::gpu::MAX_GPUS_PER_NODE;
use crate::ids::{NodeIndex, PoolIndex};
use crate::node::Node;
use crate::request::{Part, Request, Shape};
use crate::units::Gpus;

/// What one node counts as.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Counted {
    pool: PoolIndex,
    gpus: u8,
    /// GPUs of borrowed attempts; GPUs that several share count once for each.
    lent: u32,
}

/// By pool, how many nodes have how many GPUs that are free or lent.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Reach {
    /// By node.
    counted: Vec<Counted>,
    /// By pool, then by GPUs.
    nodes: Vec<[u32; MAX_GPUS_PER_NODE + 1]>,
    /// One bit for each node that is to be counted anew.
    changed: Vec<u64>,
}

impl Reach {
    /// A node joined.
    pub(crate) fn add(&mut self, node: &Node) {
        debug_assert_eq!(node.index.at(), self.counted.len(), "nodes join in the order of their indices");
        self.counted.push(Counted { pool: node.pool, gpus: 0, lent: 0 });
        self.changed.resize(node.index.at() / 64 + 1, 0);
        self.grow(node.pool);
        self.nodes[node.pool.at()][0] += 1;
        self.touch(node.index);
    }

    /// Something on the node changed.
    #[inline]
    pub(crate) fn touch(&mut self, node: NodeIndex) {
        self.changed[node.at() / 64] |= 1 << (node.at() % 64);
    }

    /// A borrowed attempt holds so many GPUs on the node from now on, or no more.
    pub(crate) fn lend(&mut self, node: NodeIndex, gpus: u32, is_lent: bool) {
        let lent = &mut self.counted[node.at()].lent;
        *lent = if is_lent { *lent + gpus } else { lent.checked_sub(gpus).expect("what is lent comes back once") };
        self.touch(node);
    }

    /// Counts the nodes that changed. O(nodes / 64 + changed nodes).
    pub(crate) fn catch_up(&mut self, nodes: &[Node]) {
        for word in 0..self.changed.len() {
            let mut left = std::mem::take(&mut self.changed[word]);
            while left != 0 {
                self.count(&nodes[word * 64 + left.trailing_zeros() as usize]);
                left &= left - 1;
            }
        }
    }

    fn count(&mut self, node: &Node) {
        let counted = &mut self.counted[node.index.at()];
        let gpus = (node.free().len() + counted.lent).min(node.usable().len()) as u8;
        let before = std::mem::replace(&mut counted.gpus, gpus);
        let pool = std::mem::replace(&mut counted.pool, node.pool);
        self.nodes[pool.at()][usize::from(before)] -= 1;
        self.grow(node.pool);
        self.nodes[node.pool.at()][usize::from(gpus)] += 1;
    }

    fn grow(&mut self, pool: PoolIndex) {
        if pool.at() >= self.nodes.len() {
            self.nodes.resize(pool.at() + 1, [0; MAX_GPUS_PER_NODE + 1]);
        }
    }

    /// Takes away the last pools as far as they have no node; nothing depends on them.
    pub(crate) fn forget_empty_pools(&mut self) {
        while self.nodes.last().is_some_and(|nodes| nodes.iter().all(|count| *count == 0)) {
            self.nodes.pop();
        }
    }

    /// Whether the gang could fit into `pool` if everything lent came back; where that is not counted, it could.
    pub(crate) fn could_hold(&self, request: &Request, pool: PoolIndex) -> bool {
        if request.part != Part::Whole {
            return true;
        }
        let Some(nodes) = self.nodes.get(pool.at()) else { return false };
        let room_for = |gpus: u8| -> u32 {
            let of_node = |has: usize| {
                if request.distinct_nodes {
                    u32::from(has >= usize::from(gpus))
                } else {
                    (has / usize::from(gpus.max(1))) as u32
                }
            };
            nodes.iter().enumerate().map(|(has, count)| count * of_node(has)).sum()
        };
        match &request.shape {
            Shape::Equal { gpus, .. } => room_for(*gpus) >= request.least_members(),
            Shape::Unequal(list) => {
                let largest = request.shape.largest();
                let of_largest = list.iter().filter(|gpus| **gpus == largest).count() as u32;
                let all: u32 = nodes.iter().enumerate().map(|(has, count)| count * has as u32).sum();
                room_for(largest) >= of_largest && Gpus::whole(all) >= request.least_gpus()
            }
        }
    }
}
