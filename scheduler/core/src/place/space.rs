//! What is left on one node, as those see it who judge where a member leaves the most room for others.
//!
//! In: the index. Out: what is left of each GPU, CPU and memory, before and after a member. It must never be kept: it is
//! made for one comparison.

use super::pool::Room;
use crate::gpu::{GpuSet, MAX_GPUS_PER_NODE};
use crate::ids::PoolIndex;
use crate::parts::{Parts, WHOLE};

/// What is left on a node.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// Its pool.
    pub pool: PoolIndex,
    /// GPUs that are looked at: those from this one on have nothing left.
    pub gpus: u8,
    /// For each GPU what is left of it, in thousandths; a GPU on which nothing may start has nothing left.
    pub left: [u16; MAX_GPUS_PER_NODE],
    /// Thousandths of a CPU; `i64::MAX` where it is not counted.
    pub cpu: i64,
    /// MiB, likewise.
    pub memory: i64,
}

impl Space {
    pub(super) fn of(pool: PoolIndex, room: &Room, parts: &Parts) -> Self {
        let mut left = [0; MAX_GPUS_PER_NODE];
        room.free.iter().for_each(|gpu| left[gpu] = WHOLE);
        for cut in parts.iter().filter(|cut| room.usable.contains(GpuSet::single(cut.gpu as usize))) {
            left[cut.gpu as usize] = cut.left_for_shares();
        }
        let gpus = left.iter().rposition(|left| *left > 0).map_or(0, |last| last + 1);
        Self { pool, gpus: gpus as u8, left, cpu: room.cpu, memory: room.memory }
    }

    /// What is left of each GPU that is looked at.
    #[inline]
    pub fn lefts(&self) -> &[u16] {
        &self.left[..self.gpus as usize]
    }

    /// What is left of all GPUs together, in thousandths.
    #[inline]
    pub fn total(&self) -> i64 {
        self.lefts().iter().map(|left| i64::from(*left)).sum()
    }

    /// GPUs of which at least so much is left.
    #[inline]
    pub fn with_left(&self, milli: u16) -> u32 {
        self.lefts().iter().filter(|left| **left >= milli).count() as u32
    }
}

/// Says what a place costs those who come later.
pub trait Judge {
    /// Changes whenever the same places may be judged differently.
    fn version(&self) -> u64;

    /// The cost of a node going from `before` to `after`; of several places the one with the least cost is taken.
    fn cost(&self, before: &Space, after: &Space) -> i64;
}
