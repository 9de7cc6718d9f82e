//! What the placement loop reads of a request, once per placement, and whether a node can take a member of it.
//!
//! It must never look at a domain.

use super::eligible;
use super::pool::{Pool, Room};
use crate::request::{Level, Request, Segment, Shape};

/// The needs of each member of a gang.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask<'m> {
    /// Members.
    pub(super) members: u32,
    /// GPUs of each; of the largest where they are unequal.
    pub(super) gpus: usize,
    /// GPUs of all.
    pub(super) total: u32,
    /// Thousandths of a CPU of each.
    pub(super) cpu: i64,
    /// MiB of each.
    pub(super) memory: i64,
    /// No two on one node.
    pub(super) distinct: bool,
    /// More than the counters of free GPUs decides: nodes must be looked at.
    pub(super) narrow: bool,
    /// The positions that may be used; absent: all.
    pub(super) mask: Option<&'m [u64]>,
    /// Dealt out over the domains of this level.
    pub(super) spread: Option<Level>,
    /// Groups that stay together.
    pub(super) segment: Option<Segment>,
}

impl<'m> Ask<'m> {
    /// Reads `request`, of equal members only so many; `counted` says whether CPU or memory is counted on any node of the
    /// pool, `mask` which positions may be used.
    #[inline]
    pub(super) fn of(request: &Request, members: u32, counted: bool, mask: Option<&'m [u64]>) -> Self {
        let (members, gpus, total) = match &request.shape {
            Shape::Equal { gpus, .. } => (members, *gpus, members * u32::from(*gpus)),
            unequal @ Shape::Unequal(_) => (unequal.members(), unequal.largest(), unequal.total().rounded_up()),
        };
        Self {
            members,
            gpus: gpus as usize,
            total,
            cpu: clamp(request.cpu.0),
            memory: clamp(request.memory.0),
            distinct: request.distinct_nodes && members > 1,
            narrow: mask.is_some() || (counted && (request.cpu.0 > 0 || request.memory.0 > 0)),
            mask,
            spread: request.only.spread,
            segment: request.only.segment,
        }
    }

    /// The same without CPU, memory and mask.
    pub(super) fn by_gpus_alone(&self) -> Ask<'m> {
        Ask { narrow: false, mask: None, ..*self }
    }

    /// The same without CPU and memory.
    pub(super) fn without_beside(&self) -> Ask<'m> {
        Ask { narrow: self.mask.is_some(), cpu: 0, memory: 0, ..*self }
    }

    /// How many members of `gpus` (at least 1) each fit on a node.
    #[inline]
    pub(super) fn fit(&self, pool: &Pool, at: usize, gpus: usize) -> u32 {
        self.limit(pool, at, pool.rooms[at].count() / gpus as u32)
    }

    /// Of the members whose GPUs fit on a node those that do so with CPU and memory, if it may be used.
    #[inline]
    pub(super) fn limit(&self, pool: &Pool, at: usize, by_gpus: u32) -> u32 {
        let room = &pool.rooms[at];
        let fit = if self.narrow { self.narrowed(room, at, by_gpus) } else { by_gpus };
        if self.distinct { fit.min(1) } else { fit }
    }

    fn narrowed(&self, room: &Room, at: usize, by_gpus: u32) -> u32 {
        if self.allows(at) { by_gpus.min(self.beside(room)) } else { 0 }
    }

    #[inline]
    fn allows(&self, at: usize) -> bool {
        self.mask.is_none_or(|mask| eligible::allows(mask, at))
    }

    /// Whether a node may be used, and has CPU and memory for so many members, GPUs apart.
    #[inline]
    pub(super) fn has_beside(&self, pool: &Pool, at: usize, members: u32) -> bool {
        let room = &pool.rooms[at];
        let enough = |left: i64, each: i64| each == 0 || left >= each.saturating_mul(i64::from(members));
        self.allows(at) && enough(room.cpu, self.cpu) && enough(room.memory, self.memory)
    }

    /// How many members' CPU and memory fit on a node, GPUs apart.
    #[inline]
    fn beside(&self, room: &Room) -> u32 {
        let by_cpu = room.cpu.max(0).checked_div(self.cpu).unwrap_or(i64::MAX);
        let by_memory = room.memory.max(0).checked_div(self.memory).unwrap_or(i64::MAX);
        by_cpu.min(by_memory).min(i64::from(u32::MAX)) as u32
    }
}

/// Amounts beyond what can be counted are all the same.
pub(super) fn clamp(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}
