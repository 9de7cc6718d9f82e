//! What the placement says: there is no place.

use dure_core::ids::PoolIndex;
use dure_core::request::{Level, Part};
use dure_core::units::Gpus;

use super::{Names, Reason, are, gpus, level_name, plural};

pub(super) fn gpus_short(names: Names<'_>, pool: PoolIndex, want: Gpus, free: Gpus) -> Reason {
    let pool = names.pool(pool);
    let message = format!("it needs {}, {} free in pool {pool}", gpus(want), are(free));
    let remedy = "wait for running jobs to end, ask for fewer GPUs, or allow other GPU models";
    Reason::new(message, remedy).gpus("want", want).gpus("free", free)
}

pub(super) fn slots_short(names: Names<'_>, pool: PoolIndex, want: u32, free: u32, each: u8) -> Reason {
    let (pool, members, of) = (names.pool(pool), plural(want, "member"), gpus(Gpus::whole(each.into())));
    let message = format!("it needs room for {members} of {of} each, there is room for {free} in pool {pool}");
    let remedy = "ask for smaller members, which fit more nodes, or wait for nodes to empty";
    Reason::new(message, remedy).number("want", want).number("free", free).number("gpus_per_member", each)
}

pub(super) fn no_share(names: Names<'_>, pool: PoolIndex, want: u32, fit: u32, part: Part) -> Reason {
    let (asked, members, at) = (part_of(names, pool, part), plural(want, "member"), names.pool(pool));
    let message = format!("it needs {asked} of one GPU for {members}, pool {at} has GPUs with so much left for {fit}");
    let remedy = "ask for a smaller part, allow other GPU models, or wait for running jobs to end";
    Reason::new(message, remedy).number("want", want).number("fit", fit).number("part_milli", part.counted().in_milli())
}

pub(super) fn no_domain(names: Names<'_>, pool: PoolIndex, level: Level, want: u32, best: u32) -> Reason {
    let (pool, members, level) = (names.pool(pool), plural(want, "member"), level_name(level));
    let message =
        format!("it needs room for {members} inside one {level}, the best one of pool {pool} has room for {best}");
    let remedy = "prefer the level instead of requiring it, or require a wider one";
    Reason::new(message, remedy).number("want", want).number("best", best)
}

pub(super) fn no_match(names: Names<'_>, pool: PoolIndex, want: u32, fit: u32, nodes: u32) -> Reason {
    let (pool, members, matching) = (names.pool(pool), plural(want, "member"), plural(nodes, "node"));
    let message = format!(
        "it needs room for {members}, the {matching} of pool {pool} that match its labels and node lists have room for {fit}"
    );
    let remedy = "wait for those nodes, or ask for fewer labels or more nodes";
    Reason::new(message, remedy).number("want", want).number("fit", fit).number("nodes", nodes)
}

pub(super) fn segments_short(
    names: Names<'_>,
    pool: PoolIndex,
    level: Level,
    members: u32,
    want: u32,
    fit: u32,
) -> Reason {
    let (segments, of, pool) = (plural(want, "segment"), plural(members, "member"), names.pool(pool));
    let level = level_name(level);
    let message =
        format!("it needs room for {segments} of {of}, each inside one {level}; pool {pool} has room for {fit}");
    let remedy = "make the segments smaller, or let them lie inside a wider level";
    Reason::new(message, remedy).number("want", want).number("fit", fit).number("members", members)
}

pub(super) fn beside_short(names: Names<'_>, pool: PoolIndex, want: u32, fit: u32) -> Reason {
    let (pool, members) = (names.pool(pool), plural(want, "member"));
    let message = format!("it needs CPU and memory beside the GPUs for {members}, pool {pool} has room for {fit}");
    Reason::new(message, "ask for less CPU or memory per member").number("want", want).number("fit", fit)
}

pub(super) fn search_ended(names: Names<'_>, pool: PoolIndex, steps: u32) -> Reason {
    let message =
        format!("the search for a place in pool {} was ended after {}", names.pool(pool), plural(steps, "step"));
    let remedy = "make the members more alike; it is searched for again when something is freed";
    Reason::new(message, remedy).number("steps", steps)
}

/// What a member asks for of one GPU.
fn part_of(names: Names<'_>, pool: PoolIndex, part: Part) -> String {
    match part {
        Part::Whole => "all".to_owned(),
        Part::Milli(milli) => format!("{milli}/1000"),
        Part::Slice(slice) => match slice.name(&names.0.pool(pool).model) {
            Some(name) => format!("a slice {name}"),
            None => format!("a slice of {} compute and {} memory slices", slice.compute, slice.memory),
        },
    }
}
