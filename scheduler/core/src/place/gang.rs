//! A place for a gang of equal members: the lowest level one of whose domains holds it, there the domain with the least
//! room, in it the fewest domains below, in those the tightest nodes.
//!
//! In: the index of a pool and what the members need. Out: nodes, each with how many members it takes.
//! It must never change the index, and it finds a place whenever there is one.

use std::cmp::Reverse;
use std::ops::Range;

use super::ask::Ask;
use super::pool::Pool;
use super::spread;
use crate::request::{Level, Request};

/// Members on one node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    /// Position of the node.
    pub(super) at: u32,
    /// How many members it takes.
    pub(super) members: u32,
}

/// The levels that a gang may be tried at.
#[derive(Clone, Debug)]
pub(super) struct Span {
    /// Whether all may lie on one node.
    pub(super) node: bool,
    /// Places in `Pool::levels`, lowest first; may be empty.
    pub(super) wide: Range<usize>,
}

impl Span {
    /// From the preferred level (single nodes else) to the required one (the whole pool else).
    #[inline]
    pub(super) fn of(request: &Request, pool: &Pool) -> Self {
        let top = pool.levels.len() - 1;
        let widest = request.required.map_or(Some(top), |level| pool.height(level));
        let preferred = request.preferred.unwrap_or(Level::Node);
        let start = pool.height(request.required.map_or(preferred, |required| required.min(preferred)));
        match (start, widest) {
            (_, None) => Self { node: true, wide: 0..0 },
            (None, Some(widest)) => Self { node: true, wide: 0..widest + 1 },
            (Some(start), Some(widest)) => Self { node: false, wide: start..widest + 1 },
        }
    }
}

/// Buffers of one placement, reused by the next.
#[derive(Clone, Debug, Default)]
pub(super) struct Spots {
    /// What was found.
    pub(super) list: Vec<Spot>,
    /// Domains to spread over: room and domain; a stack, one part per level.
    candidates: Vec<(u32, u32)>,
    /// The room of each domain to deal members out over.
    pub(super) rooms: Vec<u32>,
}

impl Spots {
    /// Makes room for gangs of `members` spread over domains of `nodes` nodes in all.
    pub(super) fn reserve(&mut self, members: usize, nodes: usize) {
        self.list.reserve(members.saturating_sub(self.list.len()));
        self.candidates.reserve(nodes.saturating_sub(self.candidates.len()));
    }
}

/// Finds a place for all members of `ask` and leaves it in `spots`, in the order of positions.
#[inline]
pub(super) fn find(pool: &Pool, ask: &Ask, span: &Span, spots: &mut Spots) -> bool {
    spots.list.clear();
    let may_share = span.node && !ask.distinct;
    let wide = !span.wide.is_empty();
    if let (Some(level), true) = (ask.spread, wide && ask.members > 1) {
        return spread::find(pool, ask, level, span, spots);
    }
    if ask.members == 1 || may_share {
        if let Some(at) = pool.tightest(ask.total as usize, ask.members, ask) {
            spots.list.push(Spot { at: at as u32, members: ask.members });
            return true;
        }
        if ask.members == 1 {
            return false;
        }
    }
    match ask.segment {
        Some(segment) => spread::find_segments(pool, ask, segment, span, spots),
        None => find_wide(pool, ask, span.wide.clone(), spots),
    }
}

/// Whether `find` would find a place: what fits into a domain fits into those above it.
pub(super) fn exists(pool: &Pool, ask: &Ask, span: &Span) -> bool {
    let on_one = ask.members == 1 || (span.node && !ask.distinct);
    if on_one && pool.tightest(ask.total as usize, ask.members, ask).is_some() {
        return true;
    }
    if ask.members == 1 {
        return false;
    }
    if let Some(segment) = ask.segment {
        return spread::exist_segments(pool, ask, segment, span);
    }
    let verify = ask.narrow || ask.distinct;
    span.wide.clone().next_back().is_some_and(|height| {
        let accept = |domain: usize| !verify || room(pool, ask, height, domain, ask.members) >= ask.members;
        pool.levels[height].best_fit(ask.gpus, ask.members, accept).is_some()
    })
}

/// A place on several nodes.
pub(super) fn find_wide(pool: &Pool, ask: &Ask, wide: Range<usize>, spots: &mut Spots) -> bool {
    for height in wide {
        let verify = ask.narrow || ask.distinct;
        let accept = |domain: usize| !verify || room(pool, ask, height, domain, ask.members) >= ask.members;
        if let Some(domain) = pool.levels[height].best_fit(ask.gpus, ask.members, accept) {
            spots.candidates.clear();
            pack(pool, ask, height, domain, ask.members, spots);
            spots.list.sort_unstable_by_key(|spot| spot.at);
            return true;
        }
    }
    false
}

/// How many members a domain has room for; may stop counting at `enough`.
pub(super) fn room(pool: &Pool, ask: &Ask, height: usize, domain: usize, enough: u32) -> u32 {
    let level = &pool.levels[height];
    let by_gpus = if ask.distinct { level.at_least(domain, ask.gpus) } else { level.slots(domain, ask.gpus) };
    if !ask.narrow || by_gpus == 0 {
        return by_gpus;
    }
    let mut found = 0;
    for at in level.positions(domain) {
        found += ask.fit(pool, at, ask.gpus);
        if found >= enough {
            break;
        }
    }
    found
}

/// Puts `members` into a domain that has room for them, in as few of the domains below as possible.
pub(super) fn pack(pool: &Pool, ask: &Ask, height: usize, domain: usize, members: u32, spots: &mut Spots) {
    if height == 0 {
        return fill(pool, ask, domain, members, spots);
    }
    let below = height - 1;
    let base = spots.candidates.len();
    // Where the whole pool is the domain its buckets are at hand; else there are few domains below, or they must be
    // looked into.
    let by_bucket = height == pool.levels.len() - 1 && !ask.narrow && !ask.distinct;
    if by_bucket {
        pool.levels[below].largest_first(ask.gpus, members, |room, child| spots.candidates.push((room, child as u32)));
    } else {
        for child in pool.levels[height].children(domain) {
            let room = room(pool, ask, below, child, members);
            if room > 0 {
                spots.candidates.push((room, child as u32));
            }
        }
    }
    spots.candidates[base..].sort_unstable_by_key(|(room, child)| (Reverse(*room), *child));
    let mut left = members;
    let mut next = base;
    while left > 0 {
        let (room, child) = spots.candidates[next];
        if room < left {
            pack(pool, ask, below, child as usize, room, spots);
            left -= room;
            next += 1;
            continue;
        }
        // One domain holds the rest: the one with the least room of those that do.
        let last = if by_bucket {
            let level = &pool.levels[below];
            let tight = level.best_fit(ask.gpus, left, |_| true).expect("the next candidate has room for them");
            if level.slots(tight, ask.gpus) < room { tight } else { child as usize }
        } else {
            let rest = &spots.candidates[next..];
            let least = rest[rest.partition_point(|(room, _)| *room >= left) - 1].0;
            rest[rest.partition_point(|(room, _)| *room > least)].1 as usize
        };
        pack(pool, ask, below, last, left, spots);
        left = 0;
    }
    spots.candidates.truncate(base);
}

/// Puts `members` onto nodes of one of the lowest domains, which has room for them: tightest nodes first, but those on
/// which a member would lie across NVLink islands last.
fn fill(pool: &Pool, ask: &Ask, domain: usize, members: u32, spots: &mut Spots) {
    let from = spots.list.len();
    let mut left = members;
    if pool.has_islands && ask.gpus > 1 {
        left = fill_from(pool, ask, domain, left, spots, |at, fit| fit.min(pool.island_slots(at, ask.gpus)));
        if left == 0 {
            return;
        }
        // What islands have taken stays; the rest of each node is what the others may have.
        let taken = spots.list[from..].to_vec();
        let rest = |at: usize, fit: u32| match taken.iter().find(|spot| spot.at as usize == at) {
            Some(spot) => fit - spot.members,
            None => fit,
        };
        left = fill_from(pool, ask, domain, left, spots, rest);
        merge(&mut spots.list, from);
    } else {
        left = fill_from(pool, ask, domain, left, spots, |_, fit| fit);
    }
    assert!(left == 0, "the domain was chosen because it has room for {members} members, but {left} found no node");
}

/// Puts members onto nodes of one of the lowest domains, tightest nodes first, as many on each as `bound` allows of those
/// that fit; how many are left.
#[inline]
fn fill_from(
    pool: &Pool,
    ask: &Ask,
    domain: usize,
    members: u32,
    spots: &mut Spots,
    bound: impl Fn(usize, u32) -> u32,
) -> u32 {
    let positions = pool.levels[0].positions(domain);
    let mut left = members;
    let mut sizes = pool.mask_of(domain) >> ask.gpus << ask.gpus;
    while sizes != 0 {
        let gpus = sizes.trailing_zeros() as usize;
        let mut next = pool.next_with(gpus, positions.start, positions.end);
        while let Some(at) = next {
            let fit = bound(at, ask.fit(pool, at, ask.gpus)).min(left);
            if fit > 0 {
                spots.list.push(Spot { at: at as u32, members: fit });
                left -= fit;
                if left == 0 {
                    return 0;
                }
            }
            next = pool.next_with(gpus, at + 1, positions.end);
        }
        sizes &= sizes - 1;
    }
    left
}

/// Makes one spot of several on the same node.
fn merge(list: &mut Vec<Spot>, from: usize) {
    list[from..].sort_unstable_by_key(|spot| spot.at);
    list.dedup_by(|next, kept| {
        let is_same = next.at == kept.at;
        kept.members += if is_same { next.members } else { 0 };
        is_same
    });
}
