//! Positions that placements leave alone for a while, and where nodes and domains lie among the positions.
//!
//! In: the positions of domains that are kept whole for others. Out: placements outside them. The counters know nothing of
//! it: they stay an upper bound, and nodes are looked at one by one.
//! It must never outlive the placements that it is for.

use std::ops::Range;

use super::pool::Pool;
use super::{Home, PlaceIndex};
use crate::ids::{NodeIndex, PoolIndex};
use crate::request::{Constraints, Level};
use crate::units::Gpus;

/// Bits of a word.
const WORD: usize = u64::BITS as usize;

/// A set of positions of one pool.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Positions(Vec<u64>);

impl Positions {
    /// Adds a range.
    pub(crate) fn add(&mut self, range: Range<usize>) {
        if self.0.len() * WORD < range.end {
            self.0.resize(range.end.div_ceil(WORD), 0);
        }
        for at in range {
            self.0[at / WORD] |= 1 << (at % WORD);
        }
    }
}

impl Pool {
    /// Fills `mask` with the positions that may be used; false where all may.
    #[inline]
    pub(super) fn fill_mask(&self, only: &Constraints, index: PoolIndex, homes: &[Home], mask: &mut Vec<u64>) -> bool {
        let is_masked = self.labels.fill(only, index, homes, mask);
        if self.barred.is_empty() {
            return is_masked;
        }
        if !is_masked {
            mask.resize(self.order.len().div_ceil(WORD), u64::MAX);
        }
        mask.iter_mut().zip(&self.barred).for_each(|(word, barred)| *word &= !barred);
        true
    }
}

impl PlaceIndex {
    /// Until `unbar` nothing is placed on these positions of a pool. For trials.
    pub(crate) fn bar(&mut self, pool: PoolIndex, positions: &Positions) {
        if let Some(pool) = self.pools.get_mut(pool.at()) {
            pool.barred.clone_from(&positions.0);
        }
    }

    /// All positions of a pool may be used again.
    pub(crate) fn unbar(&mut self, pool: PoolIndex) {
        if let Some(pool) = self.pools.get_mut(pool.at()) {
            pool.barred.clear();
        }
    }

    /// The pool of a node, and its position there.
    pub(crate) fn position(&self, node: NodeIndex) -> (PoolIndex, usize) {
        let home = self.homes[node.at()];
        (home.pool, home.at as usize)
    }

    /// The first position of each domain of a level, then the number of nodes.
    pub(crate) fn starts(&self, pool: PoolIndex, level: Level) -> Vec<usize> {
        let Some(pool) = self.pools.get(pool.at()) else { return vec![0] };
        match pool.height(level).map(|height| &pool.levels[height]) {
            None => (0..=pool.order.len()).collect(),
            Some(level) => (0..level.count()).map(|at| level.positions(at).start).chain([pool.order.len()]).collect(),
        }
    }

    /// The nodes of a pool in the order of positions.
    pub(crate) fn nodes_of(&self, pool: PoolIndex) -> &[NodeIndex] {
        self.pools.get(pool.at()).map_or(&[], |pool| &pool.order)
    }

    /// The free GPUs on these positions.
    pub(crate) fn free_in(&self, pool: PoolIndex, positions: Range<usize>) -> Gpus {
        let Some(pool) = self.pools.get(pool.at()) else { return Gpus::ZERO };
        pool.rooms[positions].iter().map(|room| room.free.count()).sum()
    }
}
