//! Shares and slices of GPUs in the index: what is cut on each node, and a place for gangs whose members hold parts.
//!
//! In: members that take or give back portions; a request for parts. Out: an index in which cut GPUs are no free ones, and
//! nodes and portions for each member. Equal parts never stand in each other's way: whatever order they are placed in, a
//! node takes as many, so that counting is proof.
//! It must never cut a GPU that is held whole, and it cuts another one only where that costs less.

use super::ask::Ask;
use super::gang::Span;
use super::judged::Where;
use super::space::Judge;
use super::{PlaceIndex, Scratch};
use crate::blocked::Blocked;
use crate::ids::{NodeIndex, PoolIndex};
use crate::node::Node;
use crate::parts::Cut;
use crate::placement::{Members, Placed};
use crate::request::{Part, Request};
use crate::units::Gpus;

/// A cut as it was before a change.
#[derive(Clone, Copy, Debug)]
pub(super) struct UndoCut {
    node: NodeIndex,
    cut: Cut,
}

impl PlaceIndex {
    /// Takes over what is cut on a node.
    #[inline]
    pub(super) fn sync_parts(&mut self, node: &Node) {
        let at = node.index.at();
        if self.parts[at] != node.parts {
            self.parts[at].clone_from(&node.parts);
            self.judgements.note(self.homes[at]);
            self.note_cut(node.index);
        }
    }

    /// Keeps the list of nodes with cut GPUs.
    fn note_cut(&mut self, node: NodeIndex) {
        let home = self.homes[node.at()];
        if self.parts[node.at()].is_empty() {
            self.cut_nodes.remove(&(home.pool, home.at));
        } else {
            self.cut_nodes.insert((home.pool, home.at));
        }
    }

    /// Puts down what is held of one GPU, so that it can be taken back.
    pub(super) fn set_cut(&mut self, node: NodeIndex, cut: Cut) {
        if self.open > 0 {
            self.cut_log.push(UndoCut { node, cut: self.parts[node.at()].of(cut.gpu as usize) });
        }
        self.parts[node.at()].set(cut);
        self.judgements.note(self.homes[node.at()]);
        self.note_cut(node);
    }

    /// Takes back the changes of cuts down to `length` of the log.
    pub(super) fn undo_cuts(&mut self, length: usize) {
        while self.cut_log.len() > length {
            let Some(UndoCut { node, cut }) = self.cut_log.pop() else { break };
            self.parts[node.at()].set(cut);
            self.judgements.note(self.homes[node.at()]);
            self.note_cut(node);
        }
    }

    /// As `take`, for members that hold parts.
    pub(super) fn take_parts(&mut self, placed: &[Placed], request: &Request) {
        for member in placed {
            self.change_part(member, request, true);
        }
    }

    /// As `release`, for members that hold parts.
    pub(super) fn release_parts(&mut self, placed: &[Placed], request: &Request) {
        for member in placed {
            self.change_part(member, request, false);
        }
    }

    fn change_part(&mut self, member: &Placed, request: &Request, is_taken: bool) {
        let Some(gpu) = member.shared_gpu() else { return };
        let home = self.homes[member.node.at()];
        let mut parts = self.parts[member.node.at()].clone();
        if is_taken {
            parts.take(member)
        } else {
            parts.give_back(member)
        };
        let cut = parts.of(gpu);
        self.set_cut(member.node, cut);
        let mut room = self.pools[home.pool.at()].rooms[home.at as usize];
        room.free = room.free.without(member.gpus);
        if cut.is_whole() {
            room.free = room.free.with(member.gpus.and(room.usable));
        }
        room.change_beside(request, is_taken);
        self.set(home, room);
    }

    /// A place for members that hold parts, or for one member whose CPU and memory decide, in one pool.
    ///
    /// # Errors
    /// `NotEnoughGpus`, `NoDomain`, `NoShare`: there is no place, with exact numbers.
    pub(super) fn place_parts(
        &mut self,
        request: &Request,
        pool: PoolIndex,
        avoid: &[NodeIndex],
        scratch: &mut Scratch,
    ) -> Result<Members, Blocked> {
        let Some(of_pool) = self.pools.get(pool.at()) else {
            return Err(Blocked::NotEnoughGpus { pool, want: request.total(), free: Gpus::ZERO });
        };
        let mask = &mut scratch.mask;
        let is_masked = of_pool.fill_mask(&request.only, pool, &self.homes, mask);
        let ask = Ask::of(request, request.shape.members(), of_pool.counted, is_masked.then_some(mask));
        let span = Span::of(request, of_pool);
        let nodes = of_pool.order.len();
        if ask.members == 1 || (span.node && !ask.distinct) {
            let inside = Where { pool, from: 0, end: nodes, avoid, members: ask.members };
            if let Some(members) = self.fill_where(request, &ask, inside) {
                return Ok(members);
            }
        }
        if ask.members > 1 {
            for height in span.wide.clone() {
                if let Some((from, end)) = self.tightest_domain(&ask, request, pool, avoid, height) {
                    let inside = Where { pool, from, end, avoid, members: 1 };
                    let members = self.fill_where(request, &ask, inside);
                    return Ok(members.expect("the domain was chosen because it has room for them"));
                }
            }
        }
        Err(self.why_no_part(request, &ask, pool, avoid, &span))
    }

    /// Puts all members into `inside`, each where it costs least; onto one node where that must take them all.
    fn fill_where(&mut self, request: &Request, ask: &Ask<'_>, mut inside: Where<'_>) -> Option<Members> {
        let mut members = Members::with_capacity(ask.members as usize);
        let mut used: Vec<NodeIndex> = inside.avoid.to_vec();
        let one_node = inside.members > 1;
        let mark = self.checkpoint();
        for _ in 0..ask.members {
            let here = Where { avoid: &used, ..inside.clone() };
            let Some((_, placed)) = self.cheapest(ask, request.part, &here, None) else { break };
            if one_node {
                let at = self.homes[placed.node.at()].at as usize;
                (inside.from, inside.end, inside.members) = (at, at + 1, 1);
            }
            if ask.distinct {
                used.push(placed.node);
            }
            if ask.members > 1 {
                self.take(&[placed], request);
            }
            members.push(placed);
        }
        self.rollback(mark);
        (members.len() == ask.members as usize).then(|| {
            members.sort_by_key(|placed| (self.homes[placed.node.at()].at, placed.gpus, placed.portion));
            members
        })
    }

    /// Of the domains of a level that have room for all the one with the least: its positions.
    fn tightest_domain(
        &self,
        ask: &Ask<'_>,
        request: &Request,
        pool: PoolIndex,
        avoid: &[NodeIndex],
        height: usize,
    ) -> Option<(usize, usize)> {
        let level = &self.pools[pool.at()].levels[height];
        let room = |domain: usize| self.room_for(ask, request, pool, avoid, level.positions(domain));
        let best =
            (0..level.count()).map(|domain| (room(domain), domain)).filter(|(room, _)| *room >= ask.members.into());
        let (_, domain) = best.min()?;
        let positions = level.positions(domain);
        Some((positions.start, positions.end))
    }

    /// How many members fit on these positions.
    fn room_for(
        &self,
        ask: &Ask<'_>,
        request: &Request,
        pool: PoolIndex,
        avoid: &[NodeIndex],
        positions: std::ops::Range<usize>,
    ) -> u64 {
        let order = &self.pools[pool.at()].order;
        let open = positions.filter(|at| !avoid.contains(&order[*at]));
        open.map(|at| u64::from(self.fit(ask, request.part, pool, at))).sum()
    }

    fn why_no_part(
        &self,
        request: &Request,
        ask: &Ask<'_>,
        pool: PoolIndex,
        avoid: &[NodeIndex],
        span: &Span,
    ) -> Blocked {
        let of_pool = &self.pools[pool.at()];
        let left = |at: usize| {
            let (node, room) = (of_pool.order[at], &of_pool.rooms[at]);
            let is_open = !avoid.contains(&node);
            let cut = self.parts[node.at()].left(room.usable);
            if is_open { room.free.count() + cut } else { Gpus::ZERO }
        };
        let free: Gpus = (0..of_pool.order.len()).map(left).sum();
        // What is idle and not cut is of no use to slices.
        if !matches!(request.part, Part::Slice(_)) && free < request.total() {
            return Blocked::NotEnoughGpus { pool, want: request.total(), free };
        }
        let bare = ask.without_beside();
        let all = |ask: &Ask<'_>| {
            self.room_for(ask, request, pool, avoid, 0..of_pool.order.len()).min(u32::MAX.into()) as u32
        };
        let most_in = |ask: &Ask<'_>| {
            let Some(height) = span.wide.clone().next_back() else {
                return (0..of_pool.order.len()).map(|at| self.fit(ask, request.part, pool, at)).max().unwrap_or(0);
            };
            let level = &of_pool.levels[height];
            let rooms =
                (0..level.count()).map(|domain| self.room_for(ask, request, pool, avoid, level.positions(domain)));
            rooms.max().unwrap_or(0).min(u32::MAX.into()) as u32
        };
        let want = ask.members;
        if all(&bare) < want {
            return Blocked::NoShare { pool, want, fit: all(&bare), part: request.part };
        }
        match request.required {
            Some(level) if most_in(&bare) < want => Blocked::NoDomain { pool, level, want, best: most_in(&bare) },
            _ => Blocked::NotEnoughCpuOrMemory { pool, want, fit: most_in(ask) },
        }
    }

    /// The cheapest place for one member in any of these pools, which are equally good, as `judge` says (without one: by the
    /// work that is expected); only found, not taken. A member without GPUs asks for CPU and memory alone.
    pub fn place_judged(
        &mut self,
        request: &Request,
        pools: &[PoolIndex],
        avoid: &[NodeIndex],
        judge: Option<&dyn Judge>,
        scratch: &mut Scratch,
    ) -> Option<(PoolIndex, Placed)> {
        let mut best: Option<(i64, NodeIndex, PoolIndex, Placed)> = None;
        for &pool in pools {
            let Some(of_pool) = self.pools.get(pool.at()) else { continue };
            let mask = &mut scratch.mask;
            let is_masked = of_pool.fill_mask(&request.only, pool, &self.homes, mask);
            let ask = Ask::of(request, 1, of_pool.counted, is_masked.then_some(mask));
            let inside = Where { pool, from: 0, end: of_pool.order.len(), avoid, members: 1 };
            let found = self.cheapest(&ask, request.part, &inside, judge);
            if let Some((cost, placed)) = found
                && best.is_none_or(|(least, node, _, _)| (cost, placed.node) < (least, node))
            {
                best = Some((cost, placed.node, pool, placed));
            }
        }
        best.map(|(_, _, pool, placed)| (pool, placed))
    }

    /// So many members of `request` are asked for in `step`: they are expected again.
    pub fn expect(&mut self, request: &Request, members: u32, step: u64) {
        self.workload.note(request, members, step);
    }

    /// From now on places are judged by all that is expected in `step`.
    pub fn learn(&mut self, step: u64) {
        self.workload.refresh(step);
    }

    /// Takes one member of a request that asks for no GPU: CPU and memory alone.
    pub fn take_beside(&mut self, node: NodeIndex, request: &Request) {
        let home = self.homes[node.at()];
        let mut room = self.pools[home.pool.at()].rooms[home.at as usize];
        room.change_beside(request, true);
        self.set(home, room);
    }
}
