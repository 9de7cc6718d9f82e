//! Which GPUs of a node a member gets.
//!
//! In: the free GPUs of a node, its NVLink islands, how many GPUs the member needs. Out: that many of the free ones.
//! It must never hand out a GPU that is not free, and it breaks into a whole island only when it must.

use crate::gpu::GpuSet;

/// `want` of the `free` GPUs (there must be as many): from the island with the fewest free ones that hold the member,
/// else from as few islands as will do. Low indices first, which on usual boards keeps to one NUMA side.
///
/// `islands` are disjoint; free GPUs outside of all of them come last.
#[inline]
pub(super) fn choose(free: GpuSet, islands: &[GpuSet], want: usize) -> GpuSet {
    let count = free.len() as usize;
    debug_assert!(want <= count, "the node was chosen because it has {want} free GPUs, but it has {count}");
    if want == count {
        return free;
    }
    if islands.len() <= 1 {
        return free.lowest(want);
    }
    let mut chosen = GpuSet::EMPTY;
    let mut missing = want;
    while missing > 0 {
        let rest = free.without(chosen);
        let part = best_island(rest, islands, missing);
        let part = if part.is_empty() { rest } else { part }.lowest(missing);
        missing -= part.len() as usize;
        chosen = chosen.with(part);
    }
    chosen
}

/// The free part of the island to take from: the smallest that holds `want`, else the largest; the first of equals.
fn best_island(free: GpuSet, islands: &[GpuSet], want: usize) -> GpuSet {
    let mut best = GpuSet::EMPTY;
    let mut best_count = 0;
    for island in islands {
        let part = free.and(*island);
        let count = part.len() as usize;
        let better = if best_count >= want { count >= want && count < best_count } else { count > best_count };
        if better {
            (best, best_count) = (part, count);
        }
    }
    best
}

/// The different islands of a node, by their lowest GPU, from the island of each GPU.
pub(super) fn distinct(islands: &[GpuSet]) -> Vec<GpuSet> {
    let mut distinct: Vec<GpuSet> = islands.iter().copied().filter(|island| !island.is_empty()).collect();
    distinct.sort_by_key(|island| (island.0.trailing_zeros(), *island));
    distinct.dedup();
    distinct
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> GpuSet {
        text.split(',').filter(|word| !word.is_empty()).map(|word| word.parse::<usize>().unwrap()).collect()
    }

    #[test]
    fn keeps_whole_islands() {
        let halves = [set("0,1,2,3"), set("4,5,6,7")];
        let all = GpuSet::first(8);
        assert_eq!(choose(all, &halves, 4), set("0,1,2,3"));
        assert_eq!(choose(all, &halves, 2), set("0,1"));
        assert_eq!(choose(set("0,1,2,3,6,7"), &halves, 2), set("6,7"));
        assert_eq!(choose(set("1,2,3,6,7"), &halves, 3), set("1,2,3"));
        assert_eq!(choose(set("2,3,4,5,6"), &halves, 4), set("2,4,5,6"));
        assert_eq!(choose(set("0,1,2,3,4,5,6"), &halves, 6), set("0,1,2,3,4,5"));
        assert_eq!(choose(set("0,1,2,3,6,7"), &halves, 6), set("0,1,2,3,6,7"));
    }

    #[test]
    fn works_without_islands() {
        assert_eq!(choose(set("1,3,5"), &[], 2), set("1,3"));
        assert_eq!(choose(set("1,3,5,7"), &[set("1,3")], 3), set("1,3,5"));
        let alone: Vec<GpuSet> = (0..8).map(GpuSet::single).collect();
        assert_eq!(choose(set("1,3,5"), &distinct(&alone), 2), set("1,3"));
    }

    #[test]
    fn islands_are_listed_once() {
        let of_each = [set("0,1"), set("0,1"), set("2,3"), set("2,3"), GpuSet::EMPTY];
        assert_eq!(distinct(&of_each), [set("0,1"), set("2,3")]);
    }
}
