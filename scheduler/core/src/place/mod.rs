//! The placement loop: a place for a gang among the free GPUs of a pool, or the reason why there is none.
//!
//! In: a request, a pool, nodes to avoid. Out: a node and GPUs for each member. Around it the index that makes this cheap:
//! per pool the nodes in topology order by their free GPUs, and counters for the domains of each level, kept up to date
//! as nodes change. Counters know whole GPUs only; CPU and memory are verified on the nodes.
//! It must never change the state of the cluster, never scan what a counter or a bit set answers, never allocate for
//! gangs of one or two, and never choose differently for the same state.

mod ask;
mod barred;
mod bits;
mod check;
mod devices;
mod domains;
mod eligible;
mod explain;
mod filing;
mod gang;
mod judged;
mod measures;
mod pool;
#[cfg(any(test, feature = "fixture"))]
pub mod reference;
mod shares;
mod space;
mod spread;
mod trial;
mod unequal;
mod workload;

use std::collections::{BTreeMap, BTreeSet};

use smallvec::smallvec;

use self::ask::Ask;
use self::domains::Change;
use self::gang::{Span, Spots};
use self::judged::Judgements;
use self::pool::{Pool, Room};
use self::shares::UndoCut;
use self::trial::Undo;
use self::unequal::{Outcome, Search};
use crate::blanks::Blanks;
use crate::blocked::Blocked;
use crate::gpu::GpuSet;
use crate::ids::{NodeIndex, PoolIndex};
use crate::node::Node;
use crate::parts::Parts;
use crate::placement::{Members, Placed};
use crate::request::{Part, Request, Shape};
use crate::topology::Topology;
use crate::units::Gpus;

pub(crate) use self::barred::Positions;
pub use self::check::check_index;
pub use self::space::{Judge, Space};
pub use self::trial::Mark;
pub(crate) use self::workload::STEPS_PER_HALF_LIFE;
pub use self::workload::{Faded, Need, Workload};

/// Where a node is in the index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Home {
    pool: PoolIndex,
    at: u32,
}

/// Buffers of `PlaceIndex::place`, reused by the next call. Holds nothing that matters between calls.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    spots: Spots,
    search: Search,
    /// The positions that the request may use, when it may not use all.
    mask: Vec<u64>,
    /// Lists of members made ahead.
    pub(crate) blanks: Blanks<Members>,
}

impl Scratch {
    /// Makes room for gangs of `members` among `nodes` nodes.
    pub(crate) fn reserve(&mut self, members: usize, nodes: usize) {
        self.spots.reserve(members, nodes);
    }
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
    /// For each node the GPUs on it of which members hold parts.
    parts: Vec<Parts>,
    /// The nodes that have such GPUs, by pool and position.
    cut_nodes: BTreeSet<(PoolIndex, u32)>,
    /// What rollback takes back of cut GPUs.
    cut_log: Vec<UndoCut>,
    /// What work is expected.
    pub(crate) workload: Workload,
    /// Buffer for the changes of a gang; empty between calls.
    changes: Vec<Change>,
    /// What nodes cost kinds of members.
    judgements: Judgements,
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
        let parts = vec![Parts::default(); nodes.len()];
        let mut index = Self { pools, homes, parts, ..Self::default() };
        index.workload.set_kinds(kinds(nodes));
        nodes.iter().for_each(|node| index.sync(node));
        index
    }

    /// Makes room for gangs of so many members.
    pub(crate) fn reserve(&mut self, members: usize) {
        self.changes.reserve(members);
    }

    /// Takes over what is free on `node` now, after any change of its state. O(levels * GPUs of a node).
    ///
    /// # Panics
    /// When the node was not there when the index was built.
    pub fn sync(&mut self, node: &Node) {
        debug_assert!(self.homes.len() > node.index.at(), "node {} joined after the index was built", node.name);
        self.set(self.homes[node.index.at()], Room::of(node));
        self.sync_parts(node);
    }

    /// A place for `request` in `pool` away from the nodes of `avoid`; only found, not taken. Ranks follow the topology,
    /// so that neighbouring ranks are near each other; unequal members do so among those of one size.
    ///
    /// The gang goes to the lowest level one of whose domains holds it (from the preferred level up to the required one),
    /// there to the domain with the least room, in it to as few domains below as possible and to the tightest nodes; one
    /// that asks to be spread to as many domains as possible instead. An elastic gang gets its least members here.
    /// `steps` bounds the search for unequal members where the greedy placement finds nothing.
    ///
    /// # Errors
    /// `NotEnoughGpus`, `NotEnoughSlots`, `NoDomain`, `NotEnoughMatching`, `NotEnoughSegments`, `NotEnoughCpuOrMemory`: there is no place, and for equal members the
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
        if self.is_judged(request, pool) {
            return self.place_parts(request, pool, avoid, scratch);
        }
        let least = request.least_members();
        self.without(avoid, request, pool, |index| index.find(request, least, pool, steps, scratch))
    }

    /// As `place`, with the largest number of members that has a place: at most `most`, of an elastic gang down to its
    /// least.
    ///
    /// # Errors
    /// Those of `place` for the least number of members.
    pub fn place_most(
        &mut self,
        request: &Request,
        most: u32,
        pool: PoolIndex,
        avoid: &[NodeIndex],
        steps: u32,
        scratch: &mut Scratch,
    ) -> Result<Members, Blocked> {
        if self.is_judged(request, pool) {
            return self.place_parts(request, pool, avoid, scratch);
        }
        let least = request.least_members();
        self.without(avoid, request, pool, |index| {
            let found = index.find(request, most, pool, steps, scratch);
            if found.is_ok() || least >= most {
                return found;
            }
            // What fits also fits with fewer members.
            let (mut fits, mut too_many) = (least, most);
            if !index.has_place(request, least, pool, scratch) {
                return index.find(request, least, pool, steps, scratch);
            }
            while fits + 1 < too_many {
                let middle = fits + (too_many - fits) / 2;
                let has_place = index.has_place(request, middle, pool, scratch);
                *if has_place { &mut fits } else { &mut too_many } = middle;
            }
            index.find(request, fits, pool, steps, scratch)
        })
    }

    /// Whether `place` would find a place; for equal members without looking for it. The arguments are those of `place`.
    pub fn fits(
        &mut self,
        request: &Request,
        pool: PoolIndex,
        avoid: &[NodeIndex],
        steps: u32,
        scratch: &mut Scratch,
    ) -> bool {
        if request.part != Part::Whole {
            return self.place_parts(request, pool, avoid, scratch).is_ok();
        }
        let least = request.least_members();
        self.without(avoid, request, pool, |index| match &request.shape {
            Shape::Equal { .. } => index.has_place(request, least, pool, scratch),
            Shape::Unequal(_) => index.find(request, least, pool, steps, scratch).is_ok(),
        })
    }

    /// Whether the place of a request is chosen by what it leaves for others: parts of GPUs always, single members with CPU
    /// or memory where parts are expected.
    #[inline]
    pub(crate) fn is_judged(&self, request: &Request, pool: PoolIndex) -> bool {
        if request.part != Part::Whole {
            return true;
        }
        let is_narrow = request.cpu.0 > 0 || request.memory.0 > 0;
        is_narrow
            && request.shape.members() == 1
            && self.workload.expects_parts()
            && self.pools.get(pool.at()).is_some_and(|pool| pool.counted)
    }

    /// Whether so many equal members have a place, without looking for it.
    fn has_place(&self, request: &Request, members: u32, index: PoolIndex, scratch: &mut Scratch) -> bool {
        let Some(pool) = self.pools.get(index.at()) else { return false };
        let is_masked = pool.fill_mask(&request.only, index, &self.homes, &mut scratch.mask);
        let ask = Ask::of(request, members, pool.counted, is_masked.then_some(&scratch.mask));
        gang::exists(pool, &ask, &Span::of(request, pool))
    }

    /// What `look` says of the index without these nodes, made ready for `request` in `pool`.
    #[inline]
    fn without<T>(
        &mut self,
        avoid: &[NodeIndex],
        request: &Request,
        pool: PoolIndex,
        look: impl FnOnce(&Self) -> T,
    ) -> T {
        if avoid.is_empty() {
            self.settle(request, pool);
            return look(self);
        }
        let mark = self.checkpoint();
        for node in avoid {
            let home = self.homes[node.at()];
            let room = self.pools[home.pool.at()].rooms[home.at as usize];
            self.set(home, Room { free: GpuSet::EMPTY, usable: GpuSet::EMPTY, ..room });
        }
        self.settle(request, pool);
        let found = look(self);
        self.rollback(mark);
        found
    }

    /// Files the domains for members of the size by which a gang looks for them; a single member looks for nodes.
    #[inline]
    fn settle(&mut self, request: &Request, pool: PoolIndex) {
        let Some(pool) = self.pools.get_mut(pool.at()) else { return };
        match &request.shape {
            Shape::Equal { members: 1, .. } => {}
            Shape::Equal { gpus, .. } => pool.settle(*gpus as usize),
            Shape::Unequal(_) => pool.settle(1),
        }
    }

    /// As `place`, with nothing to avoid.
    #[inline]
    fn find(
        &self,
        request: &Request,
        members: u32,
        index: PoolIndex,
        steps: u32,
        scratch: &mut Scratch,
    ) -> Result<Members, Blocked> {
        let Some(pool) = self.pools.get(index.at()) else {
            return Err(Blocked::NotEnoughGpus { pool: index, want: request.least_gpus(), free: Gpus::ZERO });
        };
        let Scratch { spots, search, mask, blanks } = scratch;
        let is_masked = pool.fill_mask(&request.only, index, &self.homes, mask);
        let ask = Ask::of(request, members, pool.counted, is_masked.then_some(mask));
        explain::check_counters(pool, index, &ask, request)?;
        let span = Span::of(request, pool);
        match &request.shape {
            Shape::Equal { .. } if gang::find(pool, &ask, &span, spots) => {
                let members = blanks.take(members as usize);
                let members = members.unwrap_or_else(|| Members::with_capacity(ask.members as usize));
                Ok(hand_out(pool, &ask, spots, members))
            }
            Shape::Equal { .. } => Err(explain::equal(pool, index, &ask, request.required)),
            Shape::Unequal(sizes) => match search.find(pool, &ask, sizes, &span, steps) {
                Outcome::Found => Ok(hand_out_unequal(pool, sizes, &mut search.homes)),
                Outcome::Nowhere => Err(explain::unequal(pool, index, &ask, request, sizes, search)),
                Outcome::Limit => Err(Blocked::SearchLimit { pool: index, steps }),
            },
        }
    }
}

/// The GPUs of equal members, in rank order, into an empty list.
#[inline]
fn hand_out(pool: &Pool, ask: &Ask, spots: &Spots, mut members: Members) -> Members {
    for spot in &spots.list {
        let at = spot.at as usize;
        let mut free = pool.rooms[at].free;
        for _ in 0..spot.members {
            let gpus = devices::choose(free, pool.islands(at), ask.gpus);
            free = free.without(gpus);
            members.push(Placed::whole(pool.order[at], gpus));
        }
    }
    members
}

/// The GPUs of unequal members, in rank order; `homes` are sorted by node on the way.
fn hand_out_unequal(pool: &Pool, sizes: &[u8], homes: &mut [(u32, u32)]) -> Members {
    // On one node the largest first, which has the choice of islands.
    homes.sort_unstable_by_key(|(at, rank)| (*at, std::cmp::Reverse(sizes[*rank as usize]), *rank));
    let mut members: Members = smallvec![Placed::whole(NodeIndex(0), GpuSet::EMPTY); sizes.len()];
    let mut free = GpuSet::EMPTY;
    let mut last = None;
    for (at, rank) in homes.iter() {
        let (at, rank) = (*at as usize, *rank as usize);
        if last.replace(at) != Some(at) {
            free = pool.rooms[at].free;
        }
        let gpus = devices::choose(free, pool.islands(at), sizes[rank] as usize);
        free = free.without(gpus);
        members[rank] = Placed::whole(pool.order[at], gpus);
    }
    members
}

/// The nodes by what they have when nothing runs.
fn kinds(nodes: &[Node]) -> Vec<workload::Kind> {
    let mut counts: BTreeMap<(PoolIndex, GpuSet, u64, u64), u32> = BTreeMap::new();
    for node in nodes {
        let capacity = &node.capacity;
        *counts.entry((node.pool, capacity.whole_gpus(), capacity.cpu.0, capacity.memory.0)).or_default() += 1;
    }
    let kind = |((pool, gpus, cpu, memory), nodes): (&(PoolIndex, GpuSet, u64, u64), &u32)| {
        let room = Room::empty(*gpus, *cpu, *memory);
        workload::Kind { space: Space::of(*pool, &room, &Parts::default()), nodes: *nodes }
    };
    counts.iter().map(kind).collect()
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod share_properties;
#[cfg(test)]
mod tests;
