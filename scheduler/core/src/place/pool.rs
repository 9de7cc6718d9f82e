//! The index of one pool: its nodes in topology order, what is free on each, and the domains above them.
//!
//! In: what is free on a node now. Out: the node that fits most tightly, the nodes of a range by their free GPUs, the
//! domains of each level. All of it is a function of the rooms alone: the same rooms always give the same index, bit for
//! bit, however they came about.
//! It must never know of jobs.

use std::ops::Range;

use super::ask::{Ask, clamp};
use super::bits::{BitRows, Buckets};
use super::devices;
use super::domains::{Change, Domains, Shares};
use super::eligible::LabelRows;
use crate::gpu::GpuSet;
use crate::ids::{NodeIndex, PoolIndex};
use crate::node::{Node, SetAside};
use crate::request::Level;
use crate::topology::Topology;

/// How finely the lowest domains are sorted by what is free in them, for the choice between nodes that fit equally.
const ROOM_CLASSES: usize = 64;

/// CPU or memory that is not counted.
pub(super) const UNCOUNTED: i64 = i64::MAX;

/// What is free on one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Room {
    /// GPUs on which something may start.
    pub(super) free: GpuSet,
    /// GPUs on which something may start once nothing runs there: none when the node is closed, and none that is held whole
    /// and was cut meanwhile, of which nothing is left before it is given back.
    pub(super) usable: GpuSet,
    /// Thousandths of a CPU left, below 0 where more is held than there is.
    pub(super) cpu: i64,
    /// MiB left, likewise.
    pub(super) memory: i64,
}

impl Room {
    /// What `node` has now.
    pub(super) fn of(node: &Node) -> Self {
        let room = Self::beside(node, &node.reserved);
        // What is booked is shown to one job at a time.
        if node.booked.kept { Self { free: GpuSet::EMPTY, usable: GpuSet::EMPTY, ..room } } else { room }
    }

    /// What `node` has beside what is set aside there, booked or not.
    pub(super) fn beside(node: &Node, aside: &SetAside) -> Self {
        let left = |capacity: u64, taken: u64| if capacity == 0 { UNCOUNTED } else { clamp(capacity) - clamp(taken) };
        Self {
            free: node.free().without(aside.gpus),
            usable: node.usable().without(node.taken.and(node.parts.gpus())).without(aside.gpus),
            cpu: left(node.capacity.cpu.0, node.cpu_taken.0 + node.promised.cpu.0 + aside.cpu.0),
            memory: left(node.capacity.memory.0, node.memory_taken.0 + node.promised.memory.0 + aside.memory.0),
        }
    }

    /// What a node with this capacity has when nothing runs there.
    pub(super) fn empty(gpus: GpuSet, cpu: u64, memory: u64) -> Self {
        let all = |capacity: u64| if capacity == 0 { UNCOUNTED } else { clamp(capacity) };
        Self { free: gpus, usable: gpus, cpu: all(cpu), memory: all(memory) }
    }

    /// Free GPUs.
    #[inline]
    pub(super) fn count(&self) -> u32 {
        self.free.len()
    }
}

/// One pool.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Pool {
    /// Most GPUs of a node.
    pub(super) width: usize,
    /// For each position its node.
    pub(super) order: Vec<NodeIndex>,
    /// For each position what is free there.
    pub(super) rooms: Vec<Room>,
    /// For each position its place in `island_lists`.
    island_list_of: Vec<u32>,
    /// The different lists of NVLink islands.
    island_lists: Vec<Vec<GpuSet>>,
    /// What a node adds to the counters.
    shares: Shares,
    /// Row k: the positions with exactly k free GPUs, for k from 1.
    by_free: BitRows,
    /// Bit k: some node has exactly k free GPUs.
    mask: u64,
    /// The same for each of the lowest domains.
    masks: Vec<u64>,
    /// The levels whose domains differ from those of the level below, lowest first, and at last the whole pool.
    pub(super) levels: Vec<Domains>,
    /// For each `Level` its place in `levels`; `None` where each node is a domain by itself.
    heights: [Option<usize>; Level::ALL.len()],
    /// For k from 0: those of the lowest domains that have a node with exactly k free GPUs, by room class + 1.
    by_room: Vec<Buckets>,
    /// Free GPUs of a domain, shifted right by this, are its room class.
    room_shift: u32,
    /// CPU or memory is counted on some node.
    pub(super) counted: bool,
    /// The labels of the nodes.
    pub(super) labels: LabelRows,
    /// Some node has several NVLink islands of more than one GPU.
    pub(super) has_islands: bool,
    /// One bit for each position that placements leave alone for now; empty: none.
    pub(super) barred: Vec<u64>,
}

impl Pool {
    /// The index of a pool all of whose GPUs are taken.
    pub(super) fn new(topology: &Topology, pool: PoolIndex, nodes: &[Node]) -> Self {
        let order = topology.order(pool);
        let width = order.iter().map(|node| nodes[node.at()].capacity.gpus.len() as usize).max().unwrap_or(0);
        let width = width.max(1);
        let count = order.len() as u32;
        let mut levels: Vec<Domains> = Vec::new();
        let mut heights = [None; Level::ALL.len()];
        let mut below: Vec<u32> = (0..=count).collect();
        for level in &Level::ALL[1..] {
            let starts = topology.starts(pool, *level);
            let is_whole_pool = starts.len() <= 2;
            if starts != below && !is_whole_pool {
                levels.push(Domains::new(starts, levels.last(), width));
                below = starts.to_vec();
            }
            let one_node_each = starts.len() == order.len() + 1;
            heights[*level as usize] = match (one_node_each, is_whole_pool) {
                (true, _) => None,
                (false, true) => Some(usize::MAX),
                (false, false) => Some(levels.len() - 1),
            };
        }
        levels.push(Domains::new(&[0, count], levels.last(), width));
        let top = levels.len() - 1;
        heights.iter_mut().flatten().for_each(|height| *height = top.min(*height));
        let lowest = &levels[0];
        let most = (0..lowest.count()).map(|domain| lowest.positions(domain).len() * width).max().unwrap_or(0);
        let mut made = Self {
            width,
            order: order.to_vec(),
            rooms: vec![Room::default(); order.len()],
            shares: Shares::new(width),
            by_free: BitRows::new(width + 1, order.len()),
            masks: vec![0; lowest.count()],
            by_room: vec![Buckets::new(lowest.count(), ROOM_CLASSES); width + 1],
            room_shift: (0..32)
                .find(|shift| most >> shift < ROOM_CLASSES)
                .expect("the shift leaves nothing in the end"),
            levels,
            heights,
            ..Self::default()
        };
        made.read_capacities(nodes);
        made
    }

    /// Takes over what never changes of the nodes.
    fn read_capacities(&mut self, nodes: &[Node]) {
        self.labels = LabelRows::of(self.order.iter().map(|index| &nodes[index.at()]));
        for index in &self.order {
            let capacity = &nodes[index.at()].capacity;
            self.counted |= capacity.cpu.0 != 0 || capacity.memory.0 != 0;
            let islands = devices::distinct(&capacity.islands);
            let known = self.island_lists.iter().position(|list| *list == islands);
            let list = known.unwrap_or_else(|| {
                self.island_lists.push(islands);
                self.island_lists.len() - 1
            });
            self.island_list_of.push(list as u32);
        }
        let joins = |list: &Vec<GpuSet>| list.len() > 1 && list.iter().any(|island| island.len() > 1);
        self.has_islands = self.island_lists.iter().any(joins);
    }

    /// The place in `levels` of a level; `None` for single nodes.
    #[inline]
    pub(super) fn height(&self, level: Level) -> Option<usize> {
        self.heights[level as usize]
    }

    /// The whole pool as one domain.
    #[inline]
    pub(super) fn whole(&self) -> &Domains {
        &self.levels[self.levels.len() - 1]
    }

    /// The NVLink islands of a node.
    #[inline]
    pub(super) fn islands(&self, at: usize) -> &[GpuSet] {
        &self.island_lists[self.island_list_of[at] as usize]
    }

    /// The most GPUs that are free on one node.
    pub(super) fn most_free(&self) -> usize {
        if self.mask == 0 { 0 } else { self.mask.ilog2() as usize }
    }

    /// The free GPUs of the pool.
    #[inline]
    pub(super) fn free(&self) -> u32 {
        self.whole().slots(0, 1)
    }

    /// The numbers of free GPUs that at least one node of one of the lowest domains has: bit k for exactly k.
    #[inline]
    pub(super) fn mask_of(&self, domain: usize) -> u64 {
        self.masks[domain]
    }

    /// The next position from `from` on, below `end`, with exactly `gpus` free.
    #[inline]
    pub(super) fn next_with(&self, gpus: usize, from: usize, end: usize) -> Option<usize> {
        self.by_free.next_in(gpus, from, end)
    }

    /// The node with the fewest free GPUs, `need` at least, that can take `members` members; between equal ones that in
    /// the lowest domain with the least room, so that empty domains stay whole. Where nodes have several NVLink islands,
    /// one on which no member lies across them comes first, however tight the others are.
    #[inline]
    pub(super) fn tightest(&self, need: usize, members: u32, ask: &Ask) -> Option<usize> {
        if need > self.width {
            return None;
        }
        let prefers_islands = self.has_islands && ask.gpus > 1 && ask.total == ask.members * ask.gpus as u32;
        let whole = prefers_islands.then(|| self.tightest_of(need, members, ask, true)).flatten();
        whole.or_else(|| self.tightest_of(need, members, ask, false))
    }

    /// Members of `gpus` each that a node has room for without one that lies across NVLink islands.
    pub(super) fn island_slots(&self, at: usize, gpus: usize) -> u32 {
        let free = self.rooms[at].free;
        self.islands(at).iter().map(|island| free.and(*island).len() / gpus as u32).sum()
    }

    #[inline]
    fn tightest_of(&self, need: usize, members: u32, ask: &Ask, on_islands: bool) -> Option<usize> {
        let mut sizes = self.mask >> need << need;
        while sizes != 0 {
            let gpus = sizes.trailing_zeros() as usize;
            let buckets = &self.by_room[gpus];
            let mut class = buckets.next_number(1);
            while let Some(number) = class {
                let mut domain = buckets.next(number, 0);
                while let Some(inside) = domain {
                    let found = self.accepting(self.levels[0].positions(inside), gpus, members, ask, on_islands);
                    if found.is_some() {
                        return found;
                    }
                    domain = buckets.next(number, inside + 1);
                }
                class = buckets.next_number(number + 1);
            }
            sizes &= sizes - 1;
        }
        None
    }

    /// The first of the positions with exactly `gpus` free that can take `members` members beside their GPUs, and on whole
    /// islands where that is asked for.
    #[inline]
    fn accepting(
        &self,
        positions: Range<usize>,
        gpus: usize,
        members: u32,
        ask: &Ask,
        on_islands: bool,
    ) -> Option<usize> {
        let mut next = self.next_with(gpus, positions.start, positions.end);
        while let Some(at) = next {
            let fits = !ask.narrow || ask.has_beside(self, at, members);
            if fits && (!on_islands || self.island_slots(at, ask.gpus) >= members) {
                return Some(at);
            }
            next = self.next_with(gpus, at + 1, positions.end);
        }
        None
    }

    /// The free GPUs of these nodes have changed, neighbours together. `rooms` is the caller's.
    #[inline]
    pub(super) fn recount(&mut self, changes: &[Change]) {
        for change in changes {
            let at = change.at as usize;
            if change.before > 0 {
                self.by_free.remove(change.before as usize, at);
            }
            if change.now > 0 {
                self.by_free.insert(change.now as usize, at);
            }
        }
        for height in 0..self.levels.len() {
            let mut rest = changes;
            while let Some(first) = rest.first() {
                let domain = self.levels[height].domain_of(first.at as usize);
                let positions = self.levels[height].positions(domain);
                let inside = rest.iter().take_while(|change| positions.contains(&(change.at as usize))).count();
                let (here, others) = rest.split_at(inside);
                if height == 0 {
                    self.recount_lowest(domain, here);
                } else {
                    self.levels[height].recount(domain, here, &self.shares);
                }
                rest = others;
            }
        }
        let whole = &self.levels[self.levels.len() - 1];
        self.mask = changes.iter().fold(self.mask, |mask, change| whole.remask(0, mask, change));
    }

    /// As `recount`, in one of the lowest domains, which are sorted by what is free in them.
    #[inline]
    fn recount_lowest(&mut self, domain: usize, changes: &[Change]) {
        let (old_mask, old_class) = (self.masks[domain], self.room_class(domain));
        self.levels[0].recount(domain, changes, &self.shares);
        let lowest = &self.levels[0];
        let new_mask = changes.iter().fold(old_mask, |mask, change| lowest.remask(domain, mask, change));
        self.masks[domain] = new_mask;
        let new_class = self.room_class(domain);
        let mut sizes = if old_class == new_class { old_mask ^ new_mask } else { old_mask | new_mask };
        while sizes != 0 {
            let gpus = sizes.trailing_zeros() as usize;
            let class_if = |mask: u64, class: usize| if mask >> gpus & 1 == 1 { class + 1 } else { 0 };
            self.by_room[gpus].shift(domain, class_if(old_mask, old_class), class_if(new_mask, new_class));
            sizes &= sizes - 1;
        }
    }

    /// Makes ready for questions about domains with room for members of `gpus` each.
    #[inline]
    pub(super) fn settle(&mut self, gpus: usize) {
        self.levels.iter_mut().for_each(|level| level.settle(gpus));
    }

    /// What is free in one of the lowest domains, roughly.
    #[inline]
    fn room_class(&self, domain: usize) -> usize {
        (self.levels[0].slots(domain, 1) >> self.room_shift) as usize
    }

    /// Whether bits, buckets and mask say of a position and of a lowest domain what rooms and counters say.
    pub(super) fn is_sorted(&self) -> bool {
        let nodes = self.rooms.iter().enumerate().all(|(at, room)| {
            (1..=self.width).all(|gpus| self.by_free.contains(gpus, at) == (room.count() as usize == gpus))
        });
        let domains = (0..self.levels[0].count()).all(|domain| {
            (1..=self.width).all(|gpus| {
                let belongs = self.room_class(domain) + 1;
                let is_there = self.levels[0].exactly(domain, gpus) > 0;
                (1..=ROOM_CLASSES)
                    .all(|class| self.by_room[gpus].contains(class, domain) == (is_there && class == belongs))
            })
        });
        let mask = |level: &Domains, domain: usize| {
            (1..=self.width).map(|gpus| u64::from(level.exactly(domain, gpus) > 0) << gpus).sum::<u64>()
        };
        let masks = self.masks.iter().enumerate().all(|(domain, said)| *said == mask(&self.levels[0], domain));
        nodes && domains && masks && mask(self.whole(), 0) == self.mask
    }
}
