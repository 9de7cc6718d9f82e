//! A placer that is slow and obvious: what the index is compared with.
//!
//! In: the nodes themselves and a request. Out: whether there is a place, and the lowest level that has one. It uses
//! neither the topology nor the index, only the names of the domains and the state of the nodes, and it tries everything:
//! for tiny clusters.

use std::collections::BTreeMap;

use crate::ids::{NodeIndex, PoolIndex};
use crate::node::Node;
use crate::request::{Level, Request, Shape};

/// A level, or the whole pool above all of them. Rising with the number of nodes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Width {
    /// Inside one domain of this level.
    Inside(Level),
    /// Only the whole pool.
    Pool,
}

impl Width {
    /// All widths, narrowest first.
    pub fn all() -> impl Iterator<Item = Width> {
        Level::ALL.into_iter().map(Width::Inside).chain([Width::Pool])
    }
}

/// The narrowest width, from the preferred to the required level, at which there is a place; `None`: there is none.
/// Exponential in the members where they are unequal.
pub fn narrowest(nodes: &[Node], request: &Request, pool: PoolIndex, avoid: &[NodeIndex]) -> Option<Width> {
    // An elastic gang has a place when its least members have.
    let request = &with_members(request, request.least_members());
    let usable = usable(nodes, request, pool, avoid);
    let widest = request.required.map_or(Width::Pool, Width::Inside);
    let start = Width::Inside(request.preferred.unwrap_or(Level::Node)).min(widest);
    Width::all()
        .filter(|width| (start..=widest).contains(width))
        .find(|width| domains(&usable, *width).values().any(|inside| has_room(inside, request)))
}

fn usable<'n>(nodes: &'n [Node], request: &Request, pool: PoolIndex, avoid: &[NodeIndex]) -> Vec<&'n Node> {
    let may_use = |node: &&Node| node.pool == pool && !avoid.contains(&node.index) && request.only.matches(node);
    nodes.iter().filter(may_use).collect()
}

/// The same request for so many equal members, no more and no fewer.
pub fn with_members(request: &Request, members: u32) -> Request {
    let mut request = request.clone();
    if let Shape::Equal { gpus, .. } = request.shape {
        request.shape = Shape::Equal { members, gpus };
    }
    request.only.least = None;
    request
}

/// The most members of an elastic gang that have a place.
pub fn most_members(nodes: &[Node], request: &Request, pool: PoolIndex, avoid: &[NodeIndex]) -> Option<u32> {
    let counts = request.least_members()..=request.shape.members();
    counts.rev().find(|members| narrowest(nodes, &with_members(request, *members), pool, avoid).is_some())
}

/// The smallest number of members that the fullest domain of `level` must take, in the best of the widest domains.
pub fn least_heap(
    nodes: &[Node],
    request: &Request,
    pool: PoolIndex,
    avoid: &[NodeIndex],
    level: Level,
) -> Option<u64> {
    let Shape::Equal { members, gpus } = request.shape else { return None };
    let widest = request.required.map_or(Width::Pool, Width::Inside);
    let mut best = None;
    for around in domains(&usable(nodes, request, pool, avoid), widest).into_values() {
        let parts = domains(&around, Width::Inside(level)).into_values();
        let rooms: Vec<u64> = parts.map(|inside| room(&inside, request, gpus)).collect();
        let holds = |heap: &u64| rooms.iter().map(|room| room.min(heap)).sum::<u64>() >= u64::from(members);
        best = (1..=u64::from(members)).find(holds).into_iter().chain(best).min();
    }
    best
}

/// How many members lie in the fullest domain of `level`.
pub fn heap(nodes: &[Node], used: &[NodeIndex], level: Level) -> usize {
    let used: Vec<&Node> = used.iter().map(|node| &nodes[node.at()]).collect();
    domains(&used, Width::Inside(level)).values().map(Vec::len).max().unwrap_or(0)
}

/// The narrowest width that holds all these nodes.
pub fn width_of(nodes: &[Node], used: &[NodeIndex]) -> Width {
    let used: Vec<&Node> = used.iter().map(|node| &nodes[node.at()]).collect();
    Width::all().find(|width| domains(&used, *width).len() <= 1).unwrap_or(Width::Pool)
}

/// How many domains of `level` these nodes lie in.
pub fn spread(nodes: &[Node], used: &[NodeIndex], level: Level) -> usize {
    let used: Vec<&Node> = used.iter().map(|node| &nodes[node.at()]).collect();
    domains(&used, Width::Inside(level)).len()
}

/// The fewest domains of `level` that could hold `want` members of `gpus` each, inside the narrowest domain around `used`.
pub fn fewest_domains(
    nodes: &[Node],
    request: &Request,
    (gpus, want): (u8, u32),
    used: &[NodeIndex],
    avoid: &[NodeIndex],
    level: Level,
) -> usize {
    let width = width_of(nodes, used);
    let first = &nodes[used[0].at()];
    let usable = usable(nodes, request, first.pool, avoid);
    let around =
        domains(&usable, width).into_values().find(|inside| inside.iter().any(|node| node.index == first.index));
    let parts = domains(&around.unwrap_or_default(), Width::Inside(level)).into_values();
    let mut rooms: Vec<u64> = parts.map(|inside| room(&inside, request, gpus)).collect();
    rooms.sort_unstable_by(|one, other| other.cmp(one));
    let mut held = 0;
    let enough = rooms.iter().position(|room| {
        held += room;
        held >= u64::from(want)
    });
    enough.map_or(usize::MAX, |last| last + 1)
}

/// The nodes by their domain: the names from the site down to the level.
fn domains<'a>(nodes: &[&'a Node], width: Width) -> BTreeMap<Vec<String>, Vec<&'a Node>> {
    let mut domains: BTreeMap<Vec<String>, Vec<&Node>> = BTreeMap::new();
    for node in nodes {
        let location = &node.location;
        let names = [&location.site, &location.spine, &location.leaf, &location.nvlink, &node.name];
        let mut path: Vec<String> = names.iter().map(|name| name.to_string()).collect();
        let has_nvlink = !location.nvlink.is_empty();
        path.truncate(match width {
            Width::Pool => 0,
            Width::Inside(Level::Site) => 1,
            Width::Inside(Level::Spine) => 2,
            Width::Inside(Level::Leaf) => 3,
            Width::Inside(Level::Nvlink) if has_nvlink => 4,
            Width::Inside(Level::Nvlink | Level::Node) => 5,
        });
        domains.entry(path).or_default().push(node);
    }
    domains
}

/// What is left of a node: GPUs, CPU, memory.
type Left = (u64, u64, u64);

fn left_of(node: &Node) -> Left {
    (u64::from(node.free().len()), node.cpu_free().0, node.memory_free().0)
}

/// How many members of one size fit on these nodes.
fn room(nodes: &[&Node], request: &Request, gpus: u8) -> u64 {
    nodes.iter().map(|node| places(left_of(node), request, u64::from(gpus))).sum()
}

/// Whether all members fit on these nodes.
fn has_room(nodes: &[&Node], request: &Request) -> bool {
    match &request.shape {
        Shape::Equal { members, gpus } => match request.only.segment {
            None => room(nodes, request, *gpus) >= u64::from(*members),
            Some(segment) => {
                let parts = domains(nodes, Width::Inside(segment.level)).into_values();
                let mut rooms: Vec<u64> = parts.map(|inside| room(&inside, request, *gpus)).collect();
                let starts = (0..*members).step_by(segment.members as usize);
                let groups: Vec<u64> = starts.map(|at| u64::from(segment.members.min(members - at))).collect();
                try_groups(&mut rooms, &groups)
            }
        },
        Shape::Unequal(sizes) => {
            let mut left: Vec<Left> = nodes.iter().map(|node| left_of(node)).collect();
            try_all(&mut left, request, sizes)
        }
    }
}

/// Tries every domain for every group.
fn try_groups(rooms: &mut [u64], groups: &[u64]) -> bool {
    let Some((members, others)) = groups.split_first() else { return true };
    (0..rooms.len()).any(|part| {
        if rooms[part] < *members {
            return false;
        }
        rooms[part] -= members;
        let found = try_groups(rooms, others);
        rooms[part] += members;
        found
    })
}

/// How many members of one size fit on a node.
fn places(left: Left, request: &Request, gpus: u64) -> u64 {
    let mut left = left;
    let mut count = 0;
    while let Some(rest) = after(left, request, gpus) {
        left = rest;
        count += 1;
    }
    count
}

/// What is left of a node after one more member; `None` when it does not fit.
fn after(left: Left, request: &Request, gpus: u64) -> Option<Left> {
    let cpu = if request.cpu.0 == 0 { left.1 } else { left.1.checked_sub(request.cpu.0)? };
    let memory = if request.memory.0 == 0 { left.2 } else { left.2.checked_sub(request.memory.0)? };
    let gpus_left = left.0.checked_sub(gpus)?;
    // A node that may take one member only is closed by it.
    Some(if request.distinct_nodes { (0, 0, 0) } else { (gpus_left, cpu, memory) })
}

/// Tries every node for every member.
fn try_all(left: &mut [Left], request: &Request, sizes: &[u8]) -> bool {
    let Some((gpus, others)) = sizes.split_first() else { return true };
    (0..left.len()).any(|node| {
        let before = left[node];
        let Some(rest) = after(before, request, u64::from(*gpus)) else { return false };
        left[node] = rest;
        let found = try_all(left, request, others);
        left[node] = before;
        found
    })
}
