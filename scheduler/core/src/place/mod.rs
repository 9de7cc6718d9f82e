//! The placement loop: a place for a gang among the free GPUs of a pool, or the reason why there is none.
//!
//! In: a request, a pool, nodes to avoid. Out: a node and GPUs for each member. Around it the index that makes this cheap:
//! per pool the nodes in topology order by their free GPUs, and counters for the domains of each level, kept up to date
//! as nodes change. Counters know whole GPUs only; CPU and memory are verified on the nodes.
//! It must never change the state of the cluster, never scan what a counter or a bit set answers, never allocate for
//! gangs of one or two, and never choose differently for the same state.

mod ask;
mod bits;
mod check;
mod devices;
mod domains;
mod explain;
mod gang;
mod pool;
#[cfg(any(test, feature = "fixture"))]
pub mod reference;
mod unequal;

use smallvec::smallvec;

use self::ask::{Ask, clamp};
use self::gang::{Span, Spots};
use self::pool::{Pool, Room, UNCOUNTED};
use self::unequal::{Outcome, Search};
use crate::blocked::Blocked;
use crate::gpu::GpuSet;
use crate::ids::{NodeIndex, PoolIndex};
use crate::node::Node;
use crate::placement::{Members, Placed};
use crate::request::{Level, Request, Shape};
use crate::topology::Topology;
use crate::units::Gpus;

pub use self::check::check_index;

/// Where a node is in the index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Home {
    pool: PoolIndex,
    at: u32,
}

/// A room as it was before a change.
#[derive(Clone, Copy, Debug)]
struct Undo {
    home: Home,
    room: Room,
}

/// A point to which the index can go back.
#[must_use = "a checkpoint ends with rollback or commit"]
#[derive(Debug)]
pub struct Mark {
    /// Length of the log then.
    length: usize,
    /// Checkpoints open then.
    open: u32,
}

/// Buffers of `PlaceIndex::place`, reused by the next call. Holds nothing that matters between calls.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    spots: Spots,
    search: Search,
}

/// What is free, in all pools.
#[derive(Clone, Debug, Default)]
pub struct PlaceIndex {
    pools: Vec<Pool>,
    /// For each node its place.
    homes: Vec<Home>,
    /// What rollback takes back, oldest first; kept while a checkpoint is open.
    log: Vec<Undo>,
    open: u32,
    /// Buffer of `take` and `release`: position, free GPUs before and after.
    changes: Vec<(u32, u8, u8)>,
}

impl PlaceIndex {
    /// The index of `nodes` (node i at place i), which are those that `topology` was compiled from.
    ///
    /// Build anew when a node joins or when pool, location, GPUs, islands, CPU or memory of one change; for all else
    /// there is `sync`.
    pub fn build(topology: &Topology, nodes: &[Node]) -> Self {
        let pools = (0..topology.pools()).map(PoolIndex::of);
        let mut homes = vec![Home { pool: PoolIndex(0), at: 0 }; nodes.len()];
        for pool in pools.clone() {
            for (at, node) in topology.order(pool).iter().enumerate() {
                homes[node.at()] = Home { pool, at: at as u32 };
            }
        }
        let pools = pools.map(|pool| Pool::new(topology, pool, nodes)).collect();
        let mut index = Self { pools, homes, ..Self::default() };
        nodes.iter().for_each(|node| index.sync(node));
        index
    }

    /// Takes over what is free on `node` now, after any change of its state. O(levels * GPUs of a node).
    ///
    /// # Panics
    /// When the node was not there when the index was built.
    pub fn sync(&mut self, node: &Node) {
        debug_assert!(self.homes.len() > node.index.at(), "node {} joined after the index was built", node.name);
        self.set(self.homes[node.index.at()], Room::of(node));
    }

    /// A place for `request` in `pool` away from the nodes of `avoid`; only found, not taken. Ranks follow the topology,
    /// so that neighbouring ranks are near each other; unequal members do so among those of one size.
    ///
    /// The gang goes to the lowest level one of whose domains holds it (from the preferred level up to the required one),
    /// there to the domain with the least room, in it to as few domains below as possible and to the tightest nodes.
    /// `steps` bounds the search for unequal members where the greedy placement finds nothing.
    ///
    /// # Errors
    /// `NotEnoughGpus`, `NotEnoughSlots`, `NoDomain`, `NotEnoughCpuOrMemory`: there is no place, and for equal members the
    /// numbers are exact; for unequal ones they count the members placed from the largest down until one finds no place.
    /// `SearchLimit`: none was found in `steps` (unequal members only).
    pub fn place(
        &mut self,
        request: &Request,
        pool: PoolIndex,
        avoid: &[NodeIndex],
        steps: u32,
        scratch: &mut Scratch,
    ) -> Result<Members, Blocked> {
        if avoid.is_empty() {
            return self.find(request, pool, steps, scratch);
        }
        let mark = self.checkpoint();
        for node in avoid {
            let home = self.homes[node.at()];
            let room = self.pools[home.pool.at()].rooms[home.at as usize];
            self.set(home, Room { free: GpuSet::EMPTY, usable: GpuSet::EMPTY, ..room });
        }
        let found = self.find(request, pool, steps, scratch);
        self.rollback(mark);
        found
    }

    /// As `place`, with nothing to avoid.
    #[inline]
    fn find(&self, request: &Request, index: PoolIndex, steps: u32, scratch: &mut Scratch) -> Result<Members, Blocked> {
        let Some(pool) = self.pools.get(index.at()) else {
            return Err(Blocked::NotEnoughGpus { pool: index, want: request.shape.total(), free: Gpus::ZERO });
        };
        let ask = Ask::of(request, pool.counted);
        explain::check_counters(pool, index, &ask, request)?;
        let span = Span::of(request, pool);
        match &request.shape {
            Shape::Equal { .. } if gang::find(pool, &ask, &span, &mut scratch.spots) => {
                Ok(hand_out(pool, &ask, &scratch.spots))
            }
            Shape::Equal { .. } => Err(explain::equal(pool, index, &ask, request.required)),
            Shape::Unequal(sizes) => match scratch.search.find(pool, &ask, sizes, &span, steps) {
                Outcome::Found => Ok(hand_out_unequal(pool, sizes, &mut scratch.search.homes)),
                Outcome::Nowhere => Err(explain::unequal(pool, index, &ask, request, sizes, &mut scratch.search)),
                Outcome::Limit => Err(Blocked::SearchLimit { pool: index, steps }),
            },
        }
    }

    /// The GPUs, CPU and memory of these members are held now. For trial changes: what is so for good comes by `sync`.
    pub fn take(&mut self, placed: &[Placed], request: &Request) {
        self.change(placed, |room, gpus| {
            debug_assert!(room.free.contains(gpus), "GPUs {gpus:?} are taken, but only {:?} are free", room.free);
            room.free = room.free.without(gpus);
            room.cpu = held_less(room.cpu, -clamp(request.cpu.0));
            room.memory = held_less(room.memory, -clamp(request.memory.0));
        });
    }

    /// The GPUs, CPU and memory of these members are held no more; GPUs that are fenced or on a closed node do not become
    /// free. For trial changes.
    pub fn release(&mut self, placed: &[Placed], request: &Request) {
        self.change(placed, |room, gpus| {
            room.free = room.free.with(gpus.and(room.usable));
            room.cpu = held_less(room.cpu, clamp(request.cpu.0));
            room.memory = held_less(room.memory, clamp(request.memory.0));
        });
    }

    /// From here on changes can be taken back. Checkpoints nest; the last is the first to end.
    pub fn checkpoint(&mut self) -> Mark {
        self.open += 1;
        Mark { length: self.log.len(), open: self.open }
    }

    /// Takes back all changes since `mark`, also those of checkpoints made after it.
    pub fn rollback(&mut self, mark: Mark) {
        debug_assert!(mark.open <= self.open, "the checkpoint has ended before");
        // What is undone needs no undoing.
        self.open = 0;
        while self.log.len() > mark.length {
            let Some(Undo { home, room }) = self.log.pop() else { break };
            self.set(home, room);
        }
        self.open = mark.open - 1;
    }

    /// Keeps all changes since `mark`; an older checkpoint can still take them back.
    pub fn commit(&mut self, mark: Mark) {
        debug_assert!(mark.open <= self.open, "the checkpoint has ended before");
        self.open = mark.open - 1;
        if self.open == 0 {
            self.log.clear();
        }
    }

    /// The free GPUs of a pool.
    pub fn free(&self, pool: PoolIndex) -> Gpus {
        Gpus(self.pools.get(pool.at()).map_or(0, Pool::free))
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
        Gpus(self.pools.get(pool.at()).map_or(0, largest))
    }

    /// Of the free GPUs of a pool those that no member of `gpus` GPUs can use, in thousandths; 0 when none is free.
    pub fn fragmentation(&self, pool: PoolIndex, gpus: u8) -> u32 {
        let free = u64::from(self.free(pool).0);
        let usable = u64::from(self.slots(pool, gpus)) * u64::from(gpus);
        ((free - usable) * 1000).checked_div(free).unwrap_or(0) as u32
    }

    /// Sets what is free on one node.
    fn set(&mut self, home: Home, room: Room) {
        let pool = &mut self.pools[home.pool.at()];
        let old = std::mem::replace(&mut pool.rooms[home.at as usize], room);
        if self.open > 0 {
            self.log.push(Undo { home, room: old });
        }
        if old.count() != room.count() {
            pool.recount(&[(home.at, old.count() as u8, room.count() as u8)]);
        }
    }

    /// Changes the rooms of these members, and each counter of a domain once.
    fn change(&mut self, placed: &[Placed], mut edit: impl FnMut(&mut Room, GpuSet)) {
        let mut rest = placed;
        while let Some(first) = rest.first() {
            let index = self.homes[first.node.at()].pool;
            let pool = &mut self.pools[index.at()];
            let same_pool = rest.iter().take_while(|member| self.homes[member.node.at()].pool == index).count();
            self.changes.clear();
            for member in &rest[..same_pool] {
                let home = self.homes[member.node.at()];
                let room = &mut pool.rooms[home.at as usize];
                if self.open > 0 {
                    self.log.push(Undo { home, room: *room });
                }
                let before = room.count() as u8;
                edit(room, member.gpus);
                if before != room.count() as u8 {
                    self.changes.push((home.at, before, room.count() as u8));
                }
            }
            pool.recount(&self.changes);
            rest = &rest[same_pool..];
        }
    }
}

/// `left` when `more` of it is given back (taken, when negative). What is not counted stays so.
#[inline]
fn held_less(left: i64, more: i64) -> i64 {
    // Sums of amounts below the mark for uncounted never reach it.
    if left == UNCOUNTED { UNCOUNTED } else { left.saturating_add(more).min(UNCOUNTED - 1) }
}

/// The GPUs of equal members, in rank order.
#[inline]
fn hand_out(pool: &Pool, ask: &Ask, spots: &Spots) -> Members {
    let mut members = Members::with_capacity(ask.members as usize);
    for spot in &spots.list {
        let at = spot.at as usize;
        let mut free = pool.rooms[at].free;
        for _ in 0..spot.members {
            let gpus = devices::choose(free, pool.islands(at), ask.gpus);
            free = free.without(gpus);
            members.push(Placed { node: pool.order[at], gpus });
        }
    }
    members
}

/// The GPUs of unequal members, in rank order; `homes` are sorted by node on the way.
fn hand_out_unequal(pool: &Pool, sizes: &[u8], homes: &mut [(u32, u32)]) -> Members {
    // On one node the largest first, which has the choice of islands.
    homes.sort_unstable_by_key(|(at, rank)| (*at, std::cmp::Reverse(sizes[*rank as usize]), *rank));
    let mut members: Members = smallvec![Placed { node: NodeIndex(0), gpus: GpuSet::EMPTY }; sizes.len()];
    let mut free = GpuSet::EMPTY;
    let mut last = None;
    for (at, rank) in homes.iter() {
        let (at, rank) = (*at as usize, *rank as usize);
        if last.replace(at) != Some(at) {
            free = pool.rooms[at].free;
        }
        let gpus = devices::choose(free, pool.islands(at), sizes[rank] as usize);
        free = free.without(gpus);
        members[rank] = Placed { node: pool.order[at], gpus };
    }
    members
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
