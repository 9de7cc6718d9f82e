//! What the cycle is compared with: slow, obvious, and without a line of the scheduler.

use std::collections::BTreeSet;

use super::work::Line;

/// The jobs that start when each, in its turn, takes the tightest nodes that fit. `free` are the free GPUs of each node.
///
/// Which of two nodes with as many free GPUs is taken changes nothing for those that follow, so nodes are counted by their
/// free GPUs.
pub(super) fn greedy(lines: &[Line], free: &[u32]) -> BTreeSet<usize> {
    let most = free.iter().copied().max().unwrap_or(0) as usize;
    let mut nodes = vec![0_u32; most + 1];
    free.iter().for_each(|free| nodes[*free as usize] += 1);
    let mut started = BTreeSet::new();
    for (at, line) in lines.iter().enumerate() {
        let need = usize::from(line.gpus);
        let slots: usize = (need..=most).map(|free| nodes[free] as usize * (free / need)).sum();
        if slots < line.members as usize {
            continue;
        }
        for _ in 0..line.members {
            let tightest = (need..=most).find(|free| nodes[*free] > 0).expect("the slots were counted");
            nodes[tightest] -= 1;
            nodes[tightest - need] += 1;
        }
        started.insert(at);
    }
    started
}

/// The domains of one level under which gangs lie.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spread {
    /// Those used, added up over all gangs.
    pub(super) used: u32,
    /// Those without which none of them would do, given what was free when it started.
    pub(super) needed: u32,
    /// Gangs under more than they need.
    pub(super) wide: u32,
}

/// The domains of one level, recounted.
struct Level {
    /// Nodes of each.
    nodes: usize,
    /// For each the places for members of 1 GPU, 2 GPUs and so on.
    slots: Vec<Vec<u32>>,
    spread: Spread,
}

/// Follows the placements and recounts every domain.
pub(super) struct Follower {
    free: Vec<u32>,
    gpus: usize,
    levels: Vec<Level>,
    /// Gangs of several members so far.
    pub(super) gangs: u32,
}

impl Level {
    fn start(&mut self, nodes: &[usize], need: usize) {
        let mut most: Vec<u32> = self.slots.iter().map(|slots| slots[need - 1]).filter(|slots| *slots > 0).collect();
        most.sort_unstable_by_key(|slots| std::cmp::Reverse(*slots));
        let (mut left, mut needed) = (nodes.len() as u32, 0);
        for slots in most {
            needed += u32::from(left > 0);
            left = left.saturating_sub(slots);
        }
        let used = nodes.iter().map(|node| node / self.nodes).collect::<BTreeSet<_>>().len() as u32;
        self.spread.used += used;
        self.spread.needed += needed;
        self.spread.wide += u32::from(used > needed);
    }
}

impl Follower {
    /// Nodes with `free` GPUs each, at most `gpus`; for each level how many of them are in a domain.
    pub(super) fn new(free: &[u32], gpus: usize, domains: &[usize]) -> Self {
        let count = |nodes: &[u32]| (1..=gpus).map(|need| nodes.iter().map(|free| free / need as u32).sum()).collect();
        let level = |nodes: &usize| {
            let slots = free.chunks(*nodes).map(count).collect();
            Level { nodes: *nodes, slots, spread: Spread::default() }
        };
        Self { free: free.to_vec(), gpus, levels: domains.iter().map(level).collect(), gangs: 0 }
    }

    /// A gang started with a member of `need` GPUs on each of `nodes`.
    pub(super) fn start(&mut self, nodes: &[usize], need: usize) {
        if nodes.len() > 1 {
            self.gangs += 1;
            self.levels.iter_mut().for_each(|level| level.start(nodes, need));
        }
        for node in nodes {
            let (before, after) = (self.free[*node], self.free[*node] - need as u32);
            self.free[*node] = after;
            for level in &mut self.levels {
                for gpus in 1..=self.gpus as u32 {
                    level.slots[node / level.nodes][gpus as usize - 1] -= before / gpus - after / gpus;
                }
            }
        }
    }

    /// What was found so far, for each level.
    pub(super) fn spreads(&self) -> impl Iterator<Item = Spread> {
        self.levels.iter().map(|level| level.spread)
    }
}
