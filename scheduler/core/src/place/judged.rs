//! A place chosen by what it leaves for others: for shares and slices of a GPU, and for single members whose CPU and memory
//! decide with their GPUs.
//!
//! In: a request, pools that are equally good, a judge. Out: the node and the GPU (or the part of it) that cost least;
//! between equal ones the lowest node. Nodes are looked at from the tightest on (cut GPUs first, then by free GPUs), at most
//! `MAX_JUDGED` of them; what was judged is remembered until node or judge changes.
//! It must never be on the way of whole GPUs without CPU and memory beside them.

use super::ask::Ask;
use super::pool::{Pool, Room};
use super::space::{Judge, Space};
use super::{PlaceIndex, devices};
use crate::gpu::GpuSet;
use crate::ids::{NodeIndex, PoolIndex};
use crate::parts::{Cut, Parts};
use crate::placement::{Placed, Portion};
use crate::request::Part;

/// Nodes judged for one member; those that fit most tightly come first.
pub const MAX_JUDGED: usize = 2_048;

/// Kinds of members whose judgements are remembered.
const MAX_KINDS: usize = 256;

/// What a member needs: members alike in it are judged alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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

/// Judgements, by kind of member and position. Derived: forgotten at any time without a difference.
#[derive(Clone, Debug, Default)]
pub struct Memo {
    version: u64,
    kinds: Vec<(Kind, Vec<Option<Judged>>)>,
}

impl Memo {
    /// The judgements of one kind.
    fn of(&mut self, kind: Kind, positions: usize, version: u64) -> &mut Vec<Option<Judged>> {
        if self.version != version || self.kinds.len() > MAX_KINDS {
            self.kinds.clear();
            self.version = version;
        }
        let known = self.kinds.iter().position(|(known, _)| *known == kind);
        let at = known.unwrap_or_else(|| {
            self.kinds.push((kind, vec![None; positions]));
            self.kinds.len() - 1
        });
        let judged = &mut self.kinds[at].1;
        if judged.len() != positions {
            *judged = vec![None; positions];
        }
        judged
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
    /// The cheapest place for one member in `inside`: its cost, and the place.
    pub(super) fn cheapest(
        &self,
        ask: &Ask<'_>,
        part: Part,
        inside: &Where<'_>,
        judge: &dyn Judge,
        memo: &mut Memo,
    ) -> Option<(i64, Placed)> {
        let pool = &self.pools[inside.pool.at()];
        let kind = Kind { pool: inside.pool, part, gpus: ask.gpus as u8, cpu: ask.cpu, memory: ask.memory };
        let judged = memo.of(kind, pool.order.len(), judge.version());
        let mut best: Option<(i64, NodeIndex, Judged)> = None;
        let mut looked_at = 0;
        self.each_with_room(kind, inside, |at| {
            let node = pool.order[at];
            let (room, parts) = (&pool.rooms[at], &self.parts[node.at()]);
            if inside.avoid.contains(&node) || self.fit(ask, part, inside.pool, at) < inside.members {
                return true;
            }
            looked_at += 1;
            let digest = digest(parts);
            let known = judged[at].filter(|known| known.room == *room && known.parts == digest);
            let verdict = known.unwrap_or_else(|| judge_node(pool, at, &kind, room, parts, judge));
            judged[at] = Some(verdict);
            if best.as_ref().is_none_or(|(cost, other, _)| (verdict.cost, node) < (*cost, *other)) {
                best = Some((verdict.cost, node, verdict));
            }
            looked_at < MAX_JUDGED
        });
        best.map(|(cost, node, verdict)| (cost, Placed { node, gpus: verdict.gpus, portion: verdict.portion }))
    }

    /// Calls `look` with the positions that may have room, tightest first, until it says no.
    fn each_with_room(&self, kind: Kind, inside: &Where<'_>, mut look: impl FnMut(usize) -> bool) {
        let pool = &self.pools[inside.pool.at()];
        if kind.gpus == 0 {
            (inside.from..inside.end).all(look);
            return;
        }
        if kind.part != Part::Whole {
            let (from, end) = (inside.from as u32, inside.end as u32);
            let cut = self.cut_nodes.range((inside.pool, from)..(inside.pool, end));
            for (_, at) in cut {
                if !look(*at as usize) {
                    return;
                }
            }
        }
        if matches!(kind.part, Part::Slice(_)) {
            return;
        }
        for free in kind.gpus as usize..=pool.width {
            let mut next = pool.next_with(free, inside.from, inside.end);
            while let Some(at) = next {
                let is_cut = kind.part != Part::Whole && self.cut_nodes.contains(&(inside.pool, at as u32));
                if !is_cut && !look(at) {
                    return;
                }
                next = pool.next_with(free, at + 1, inside.end);
            }
        }
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
