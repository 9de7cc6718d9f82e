//! A place chosen by what it leaves for others: for shares and slices of a GPU, and for single members whose CPU and memory
//! decide with their GPUs.
//!
//! In: a request, pools that are equally good, a judge. Out: the node and the GPU (or the part of it) that cost least;
//! between equal ones the lowest node. For each kind of member the nodes that have room are kept sorted by what they cost;
//! a node is judged anew when it has changed, so that a placement costs what has changed since the last one of its kind.
//! It must never be on the way of whole GPUs without CPU and memory beside them.

use std::collections::BTreeSet;

use super::ask::Ask;
use super::pool::{Pool, Room};
use super::space::{Judge, Space};
use super::{Home, PlaceIndex, devices};
use crate::gpu::GpuSet;
use crate::ids::{NodeIndex, PoolIndex};
use crate::parts::{Cut, Parts};
use crate::placement::{Placed, Portion};
use crate::request::Part;

/// Judgements that are kept, of all kinds together; at least those of `FEWEST_KINDS`, at most those of `MOST_KINDS`.
const MAX_KEPT: usize = 4_000_000;
const FEWEST_KINDS: usize = 8;
const MOST_KINDS: usize = 512;

/// Changes of nodes that are kept for kinds that have not heard of them yet; with more all nodes are judged anew.
const MAX_CHANGES: usize = 1 << 16;

/// What a member needs: members alike in it are judged alike.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Kind {
    pub(super) pool: PoolIndex,
    pub(super) part: Part,
    pub(super) gpus: u8,
    pub(super) cpu: i64,
    pub(super) memory: i64,
}

/// A judgement and the state of the node that it is about.
#[derive(Clone, Copy, Debug)]
struct Judged {
    room: Room,
    parts: u64,
    cost: i64,
    gpus: GpuSet,
    portion: Portion,
}

/// The nodes that have room for one kind of member.
#[derive(Debug)]
struct OfKind {
    kind: Kind,
    /// By position; none where there is no room.
    judged: Vec<Option<Judged>>,
    /// Cost, node, position.
    sorted: BTreeSet<(i64, NodeIndex, u32)>,
    /// Changes heard of.
    heard: usize,
}

/// Judgements by kind of member. Derived: forgotten at any time without a difference.
#[derive(Debug, Default)]
pub(super) struct Judgements {
    version: u64,
    /// Sorted by kind.
    kinds: Vec<OfKind>,
    /// What has changed since the first of them was made.
    changes: Vec<Home>,
}

impl Clone for Judgements {
    /// A copy begins without any: most copies are asked little.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Judgements {
    /// What is left on a node has changed.
    #[inline]
    pub(super) fn note(&mut self, home: Home) {
        if self.kinds.is_empty() {
            return;
        }
        self.changes.push(home);
        if self.changes.len() > MAX_CHANGES {
            self.kinds.clear();
        }
    }

    /// Where the judgements of a kind are, or would be.
    fn find(&mut self, kind: &Kind, positions: usize, version: u64) -> Result<usize, usize> {
        if self.version != version {
            self.kinds.clear();
            self.version = version;
        }
        let most = (MAX_KEPT / positions.max(1)).clamp(FEWEST_KINDS, MOST_KINDS);
        let found = self.kinds.binary_search_by(|of| of.kind.cmp(kind));
        if found.is_err() && self.kinds.len() >= most {
            self.kinds.clear();
            self.changes.clear();
            return Err(0);
        }
        if self.kinds.is_empty() {
            self.changes.clear();
        }
        found
    }
}

/// Where members may go: positions of a pool, and nodes that they keep away from.
#[derive(Clone, Debug)]
pub(super) struct Where<'a> {
    pub(super) pool: PoolIndex,
    pub(super) from: usize,
    pub(super) end: usize,
    pub(super) avoid: &'a [NodeIndex],
    /// At least so many members must fit on the node.
    pub(super) members: u32,
}

impl PlaceIndex {
    /// The cheapest place for one member in `inside`, as `judge` says (without one: by the work that is expected): its cost,
    /// and the place.
    pub(super) fn cheapest(
        &mut self,
        ask: &Ask<'_>,
        part: Part,
        inside: &Where<'_>,
        judge: Option<&dyn Judge>,
    ) -> Option<(i64, Placed)> {
        let kind = Kind { pool: inside.pool, part, gpus: ask.gpus as u8, cpu: ask.cpu, memory: ask.memory };
        let mut judgements = std::mem::take(&mut self.judgements);
        let judge = judge.unwrap_or(&self.workload);
        let found = judgements.find(&kind, self.pools[kind.pool.at()].order.len(), judge.version());
        let at = found.unwrap_or_else(|at| {
            judgements.kinds.insert(at, self.judge_all(kind, ask, judge, judgements.changes.len()));
            at
        });
        let Judgements { kinds, changes, .. } = &mut judgements;
        let of_kind = &mut kinds[at];
        for change in changes[of_kind.heard..].iter().filter(|change| change.pool == kind.pool) {
            self.judge_anew(of_kind, ask, judge, change.at as usize);
        }
        of_kind.heard = changes.len();
        let chosen = self.first_allowed(of_kind, ask, inside);
        self.judgements = judgements;
        chosen
    }

    /// All nodes of a pool, judged for one kind of member.
    fn judge_all(&self, kind: Kind, ask: &Ask<'_>, judge: &dyn Judge, heard: usize) -> OfKind {
        let positions = self.pools[kind.pool.at()].order.len();
        let mut of_kind = OfKind { kind, judged: vec![None; positions], sorted: BTreeSet::new(), heard };
        (0..positions).for_each(|at| self.judge_anew(&mut of_kind, ask, judge, at));
        of_kind
    }

    /// Judges a node that has changed; whoever may use it and keeps away from it is asked later.
    fn judge_anew(&self, of_kind: &mut OfKind, ask: &Ask<'_>, judge: &dyn Judge, at: usize) {
        let kind = of_kind.kind;
        let pool = &self.pools[kind.pool.at()];
        let node = pool.order[at];
        let (room, parts) = (&pool.rooms[at], &self.parts[node.at()]);
        let anybody = Ask { mask: None, distinct: false, ..*ask };
        let has_room = self.fit(&anybody, kind.part, kind.pool, at) > 0;
        let old = of_kind.judged[at];
        let digest = digest(parts);
        if old.is_some_and(|old| has_room && old.room == *room && old.parts == digest) {
            return;
        }
        if let Some(old) = old {
            of_kind.sorted.remove(&(old.cost, node, at as u32));
        }
        of_kind.judged[at] = has_room.then(|| judge_node(pool, at, &kind, room, parts, judge));
        if let Some(new) = of_kind.judged[at] {
            of_kind.sorted.insert((new.cost, node, at as u32));
        }
    }

    /// The cheapest of the nodes that a member may use.
    fn first_allowed(&self, of_kind: &OfKind, ask: &Ask<'_>, inside: &Where<'_>) -> Option<(i64, Placed)> {
        let is_allowed = |(_, node, at): &&(i64, NodeIndex, u32)| {
            (inside.from..inside.end).contains(&(*at as usize))
                && !inside.avoid.contains(node)
                && ask.mask.is_none_or(|mask| super::eligible::allows(mask, *at as usize))
                && (inside.members <= 1
                    || self.fit(ask, of_kind.kind.part, of_kind.kind.pool, *at as usize) >= inside.members)
        };
        let (cost, node, at) = *of_kind.sorted.iter().find(is_allowed)?;
        let judged = of_kind.judged[at as usize].expect("what is sorted was judged");
        Some((cost, Placed { node, gpus: judged.gpus, portion: judged.portion }))
    }

    /// How many members fit on a node.
    pub(super) fn fit(&self, ask: &Ask<'_>, part: Part, pool: PoolIndex, at: usize) -> u32 {
        let of_pool = &self.pools[pool.at()];
        let room = &of_pool.rooms[at];
        let by_gpus = match (ask.gpus, part) {
            (0, _) => u32::MAX,
            (gpus, Part::Whole) => room.count() / gpus as u32,
            (_, part) => {
                let is_usable = |cut: &&Cut| room.usable.contains(GpuSet::single(cut.gpu as usize));
                let cuts = self.parts[of_pool.order[at].at()].iter().filter(is_usable);
                let beside: u32 = cuts.map(|cut| cut.fit(part)).sum();
                beside + room.count() * Cut::none(0).fit(part)
            }
        };
        ask.limit(of_pool, at, by_gpus)
    }
}

/// The best GPUs of a node for a member that fits there, and what that costs.
fn judge_node(pool: &Pool, at: usize, kind: &Kind, room: &Room, parts: &Parts, judge: &dyn Judge) -> Judged {
    let before = Space::of(kind.pool, room, parts);
    let less = |left: i64, taken: i64| if left == i64::MAX { left } else { left - taken };
    let mut after = before;
    after.cpu = less(before.cpu, kind.cpu);
    after.memory = less(before.memory, kind.memory);
    let digest = digest(parts);
    if kind.part == Part::Whole {
        let gpus = devices::choose(room.free, pool.islands(at), kind.gpus as usize);
        gpus.iter().for_each(|gpu| after.left[gpu] = 0);
        let cost = judge.cost(&before, &after);
        return Judged { room: *room, parts: digest, cost, gpus, portion: Portion::Whole };
    }
    let fresh = (!room.free.is_empty()).then(|| devices::choose(room.free, pool.islands(at), 1));
    let fresh = fresh.map(|gpus| Cut::none(gpus.0.trailing_zeros() as usize));
    let usable = parts.iter().copied().filter(|cut| room.usable.contains(GpuSet::single(cut.gpu as usize)));
    let mut best: Option<Judged> = None;
    for cut in usable.chain(fresh) {
        let Some(portion) = cut.portion(kind.part) else { continue };
        let gpu = cut.gpu as usize;
        let mut then = after;
        then.left[gpu] = cut.with(portion).left_for_shares();
        let cost = judge.cost(&before, &then);
        if best.is_none_or(|best| cost < best.cost) {
            best = Some(Judged { room: *room, parts: digest, cost, gpus: GpuSet::single(gpu), portion });
        }
    }
    best.expect("the node was looked at because the member fits there")
}

/// Tells apart what is held of cut GPUs.
fn digest(parts: &Parts) -> u64 {
    parts.iter().fold(0, |sum, cut| {
        let word = u64::from(cut.gpu) << 24 | u64::from(cut.milli) << 8 | u64::from(cut.slices);
        (sum ^ word ^ cut.layout.digest()).wrapping_mul(0x0100_0000_01b3).rotate_left(17)
    })
}
