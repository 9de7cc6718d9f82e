//! What the index can say of a pool as a whole, for metrics and explanations.
//!
//! In: the counters. Out: numbers of GPUs, nodes and places. It must never look at single nodes.

use super::ask::Ask;
use super::pool::Pool;
use super::{PlaceIndex, explain};
use crate::blocked::Blocked;
use crate::ids::PoolIndex;
use crate::request::{Level, Part, Request};
use crate::units::Gpus;

impl PlaceIndex {
    /// The free GPUs of a pool.
    pub fn free(&self, pool: PoolIndex) -> Gpus {
        Gpus::whole(self.pools.get(pool.at()).map_or(0, Pool::free))
    }

    /// Whether the counters of a pool leave hope for the least of a request; of parts of GPUs they know nothing. O(1).
    ///
    /// # Errors
    /// `NotEnoughGpus`, `NotEnoughSlots`: it has surely no place.
    pub(crate) fn has_hope(&self, request: &Request, index: PoolIndex) -> Result<(), Blocked> {
        let Some(pool) = self.pools.get(index.at()).filter(|_| request.part == Part::Whole) else { return Ok(()) };
        let ask = Ask::of(request, request.least_members(), pool.counted, None);
        explain::check_counters(pool, index, &ask, request)
    }

    /// The nodes of a pool with at least `gpus` free GPUs.
    pub fn nodes_with(&self, pool: PoolIndex, gpus: u8) -> u32 {
        self.pools.get(pool.at()).filter(|_| gpus > 0).map_or(0, |pool| pool.whole().at_least(0, gpus as usize))
    }

    /// The members of `gpus` GPUs each that a pool has room for, CPU and memory apart.
    pub fn slots(&self, pool: PoolIndex, gpus: u8) -> u32 {
        self.pools.get(pool.at()).filter(|_| gpus > 0).map_or(0, |pool| pool.whole().slots(0, gpus as usize))
    }

    /// The most free GPUs that one domain of `level` has: the largest gang of single GPUs that would lie inside one.
    pub fn largest_block(&self, pool: PoolIndex, level: Level) -> Gpus {
        let largest = |pool: &Pool| match pool.height(level) {
            None => pool.most_free() as u32,
            Some(height) => pool.levels[height].most_slots(1),
        };
        Gpus::whole(self.pools.get(pool.at()).map_or(0, largest))
    }

    /// Of the free GPUs of a pool those that no member of `gpus` GPUs can use, in thousandths; 0 when none is free.
    pub fn fragmentation(&self, pool: PoolIndex, gpus: u8) -> u32 {
        let free = u64::from(self.free(pool).rounded_up());
        let usable = u64::from(self.slots(pool, gpus)) * u64::from(gpus);
        ((free - usable) * 1000).checked_div(free).unwrap_or(0) as u32
    }
}
