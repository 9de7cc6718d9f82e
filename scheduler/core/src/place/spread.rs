//! Members dealt out over as many domains as possible, and in groups that stay together.
//!
//! In: the index of a pool, and a gang that asks for one of the two. Out: spots, as for any gang. Spreading never makes a
//! gang wait: it lies wherever it would fit, but no domain takes more of it than it must. Segments do: each group lies
//! inside one domain of its level.
//! It must never change the index, and it finds a place whenever there is one.

use super::ask::Ask;
use super::gang::{self, Span, Spot, Spots};
use super::pool::Pool;
use crate::request::{Level, Segment};

/// The domains of one level inside a larger domain: nodes where there is no such level.
struct Parts<'p> {
    pool: &'p Pool,
    /// The place of their level; `None` for single nodes.
    height: Option<usize>,
    /// The first of them, and how many.
    first: usize,
    count: usize,
}

impl<'p> Parts<'p> {
    /// Those of the level at `height` inside `domain` of the level at `above`.
    fn of(pool: &'p Pool, height: Option<usize>, above: usize, domain: usize) -> Self {
        let positions = pool.levels[above].positions(domain);
        match height {
            None => Self { pool, height, first: positions.start, count: positions.len() },
            Some(height) => {
                let first = pool.levels[height].domain_of(positions.start);
                let last = pool.levels[height].domain_of(positions.end - 1);
                Self { pool, height: Some(height), first, count: last + 1 - first }
            }
        }
    }

    /// The members that a part has room for.
    fn room(&self, ask: &Ask, part: usize) -> u32 {
        match self.height {
            None => ask.fit(self.pool, self.first + part, ask.gpus),
            Some(height) => gang::room(self.pool, ask, height, self.first + part, u32::MAX),
        }
    }

    /// Puts `members` into a part that has room for them.
    fn fill(&self, ask: &Ask, part: usize, members: u32, spots: &mut Spots) {
        match self.height {
            None => spots.list.push(Spot { at: (self.first + part) as u32, members }),
            Some(height) => {
                let from = spots.list.len();
                gang::pack(self.pool, ask, height, self.first + part, members, spots);
                spots.list[from..].sort_unstable_by_key(|spot| spot.at);
            }
        }
    }
}

/// The most members that one part must take when `members` are dealt out evenly over parts with these rooms; none when
/// they have not room for all.
fn least_heap(rooms: &[u32], members: u32) -> Option<u32> {
    let total: u64 = rooms.iter().map(|room| u64::from(*room)).sum();
    if total < u64::from(members) {
        return None;
    }
    let holds = |heap: u32| rooms.iter().map(|room| u64::from(heap.min(*room))).sum::<u64>() >= u64::from(members);
    let (mut below, mut enough) = (0, members);
    while below + 1 < enough {
        let middle = below + (enough - below) / 2;
        *if holds(middle) { &mut enough } else { &mut below } = middle;
    }
    Some(enough)
}

/// Deals the members out over the domains of `level` inside one domain of the widest level that the gang may lie in: the
/// one where the largest heap is smallest, the first of equals.
pub(super) fn find(pool: &Pool, ask: &Ask, level: Level, span: &Span, spots: &mut Spots) -> bool {
    let Some(above) = span.wide.clone().next_back() else { return false };
    let height = pool.height(level).filter(|height| *height <= above);
    let mut best: Option<(u32, usize)> = None;
    let mut rooms = std::mem::take(&mut spots.rooms);
    for domain in 0..pool.levels[above].count() {
        if gang::room(pool, ask, above, domain, ask.members) < ask.members {
            continue;
        }
        read(&mut rooms, ask, &Parts::of(pool, height, above, domain));
        let heap = least_heap(&rooms, ask.members);
        best = heap.map(|heap| (heap, domain)).into_iter().chain(best).min();
    }
    if let Some((heap, domain)) = best {
        let parts = Parts::of(pool, height, above, domain);
        read(&mut rooms, ask, &parts);
        deal(&parts, ask, heap, &rooms, spots);
    }
    spots.rooms = rooms;
    best.is_some()
}

fn read(rooms: &mut Vec<u32>, ask: &Ask, parts: &Parts) {
    rooms.clear();
    rooms.extend((0..parts.count).map(|part| parts.room(ask, part)));
}

/// Every part takes its heap, but where that is more than there are members the last of the full heaps are one lower.
fn deal(parts: &Parts, ask: &Ask, heap: u32, rooms: &[u32], spots: &mut Spots) {
    let all: u32 = rooms.iter().map(|room| heap.min(*room)).sum();
    let full = rooms.iter().filter(|room| **room >= heap).count() as u32;
    let mut high = full - (all - ask.members);
    for (part, room) in rooms.iter().enumerate() {
        let members = match *room {
            room if room < heap => room,
            _ if high > 0 => {
                high -= 1;
                heap
            }
            _ => heap - 1,
        };
        if members > 0 {
            parts.fill(ask, part, members, spots);
        }
    }
}

/// Groups of a gang that can start in parts with these rooms, and whether the members left over find a place as well.
fn groups(rooms: impl Iterator<Item = u32>, segment: Segment, left: u32) -> (u32, bool) {
    let mut whole = 0;
    let mut fits_left = left == 0;
    for room in rooms {
        whole += room / segment.members;
        fits_left |= room % segment.members >= left;
    }
    (whole, fits_left)
}

/// How many whole segments of the gang one domain has room for, the members left over counted as one more.
pub(super) fn segments_in(pool: &Pool, ask: &Ask, segment: Segment, above: usize, domain: usize) -> u32 {
    let (want, left) = (ask.members / segment.members, ask.members % segment.members);
    let height = pool.height(segment.level).filter(|height| *height <= above);
    let parts = Parts::of(pool, height, above, domain);
    let (whole, fits_left) = groups((0..parts.count).map(|part| parts.room(ask, part)), segment, left);
    match left {
        0 => whole,
        _ if whole > want => whole.max(want + 1),
        _ => whole + u32::from(whole == want && fits_left),
    }
}

/// Segments that the gang needs room for, the members left over counted as one more.
pub(super) fn segments_of(ask: &Ask, segment: Segment) -> u32 {
    ask.members.div_ceil(segment.members)
}

/// Puts each segment into one domain of its level, all of them into the lowest domain that holds them. Ranks of a segment
/// follow each other; members left over come last.
pub(super) fn find_segments(pool: &Pool, ask: &Ask, segment: Segment, span: &Span, spots: &mut Spots) -> bool {
    let want = segments_of(ask, segment);
    let lowest = pool.height(segment.level).unwrap_or(0);
    // A domain that lies inside one of the segments' level keeps all of them together.
    let below = span.wide.start..lowest.clamp(span.wide.start, span.wide.end);
    if gang::find_wide(pool, ask, below, spots) {
        return true;
    }
    for above in span.wide.clone().filter(|above| *above >= lowest) {
        let accept = |domain: usize| segments_in(pool, ask, segment, above, domain) >= want;
        if let Some(domain) = pool.levels[above].best_fit(ask.gpus, ask.members, accept) {
            let height = pool.height(segment.level).filter(|height| *height <= above);
            place_segments(&Parts::of(pool, height, above, domain), ask, segment, spots);
            return true;
        }
    }
    false
}

/// Whether `find_segments` would find a place.
pub(super) fn exist_segments(pool: &Pool, ask: &Ask, segment: Segment, span: &Span) -> bool {
    let want = segments_of(ask, segment);
    let Some(above) = span.wide.clone().next_back() else { return false };
    let accept = |domain: usize| segments_in(pool, ask, segment, above, domain) >= want;
    pool.levels[above].best_fit(ask.gpus, ask.members, accept).is_some()
}

/// The parts with room for most segments first, so that they are few; the last one is the tightest that will do.
fn place_segments(parts: &Parts, ask: &Ask, segment: Segment, spots: &mut Spots) {
    let mut rooms: Vec<(u32, usize)> = (0..parts.count).map(|part| (parts.room(ask, part), part)).collect();
    rooms.sort_unstable_by_key(|(room, part)| (std::cmp::Reverse(*room / segment.members), *part));
    let mut chosen: Vec<(usize, u32)> = Vec::new();
    let mut groups = ask.members / segment.members;
    let mut rest = &rooms[..];
    while groups > 0 {
        let (room, part) = rest[0];
        if room / segment.members < groups {
            chosen.push((part, room / segment.members));
            groups -= room / segment.members;
            rest = &rest[1..];
            continue;
        }
        let enough = rest.iter().take_while(|(room, _)| *room / segment.members >= groups);
        let (_, part) = *enough.min_by_key(|(room, part)| (*room, *part)).unwrap_or(&(room, part));
        chosen.push((part, groups));
        groups = 0;
    }
    chosen.sort_unstable();
    let left = ask.members % segment.members;
    let last = (left > 0).then(|| place_of_left(&rooms, &chosen, segment, left));
    let groups_of = |part: usize| chosen.iter().find(|(other, _)| *other == part).map_or(0, |(_, groups)| *groups);
    for (part, groups) in chosen.iter().filter(|(part, _)| Some(*part) != last) {
        parts.fill(ask, *part, groups * segment.members, spots);
    }
    if let Some(part) = last {
        parts.fill(ask, part, groups_of(part) * segment.members + left, spots);
    }
}

/// The part for the members left over: the one with the least room beside what was chosen.
fn place_of_left(rooms: &[(u32, usize)], chosen: &[(usize, u32)], segment: Segment, left: u32) -> usize {
    let beside = |(room, part): &(u32, usize)| {
        let groups = chosen.iter().find(|(other, _)| other == part).map_or(0, |(_, groups)| *groups);
        (room - groups * segment.members, *part)
    };
    let enough = rooms.iter().map(beside).filter(|(room, _)| *room >= left);
    enough.min().expect("the domain was chosen because the members left over find room, too").1
}
