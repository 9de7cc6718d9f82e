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

/// How many leaves gangs lie under, and how many they need.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spread {
    /// Gangs of several members.
    pub(super) gangs: u32,
    /// Leaves under which they lie, together.
    pub(super) leaves: u32,
    /// Leaves without which none of them would do, given what was free when it started.
    pub(super) needed: u32,
    /// Gangs under more leaves than needed.
    pub(super) wide: u32,
}

/// Follows the placements and recounts every leaf.
pub(super) struct Leaves {
    free: Vec<u32>,
    leaf: usize,
    gpus: usize,
    /// For each leaf the places for members of 1 GPU, 2 GPUs and so on.
    slots: Vec<Vec<u32>>,
    /// What was found so far.
    pub(super) spread: Spread,
}

impl Leaves {
    /// Nodes with `free` GPUs each, at most `gpus`, `leaf` of them under a leaf.
    pub(super) fn new(free: &[u32], leaf: usize, gpus: usize) -> Self {
        let count = |nodes: &[u32]| (1..=gpus).map(|need| nodes.iter().map(|free| free / need as u32).sum()).collect();
        let slots = free.chunks(leaf).map(count).collect();
        Self { free: free.to_vec(), leaf, gpus, slots, spread: Spread::default() }
    }

    /// A gang started with a member of `need` GPUs on each of `nodes`.
    pub(super) fn start(&mut self, nodes: &[usize], need: usize) {
        if nodes.len() > 1 {
            let mut most: Vec<u32> =
                self.slots.iter().map(|slots| slots[need - 1]).filter(|slots| *slots > 0).collect();
            most.sort_unstable_by_key(|slots| std::cmp::Reverse(*slots));
            let (mut left, mut needed) = (nodes.len() as u32, 0);
            for slots in most {
                needed += u32::from(left > 0);
                left = left.saturating_sub(slots);
            }
            let leaves = nodes.iter().map(|node| node / self.leaf).collect::<BTreeSet<_>>().len() as u32;
            self.spread.gangs += 1;
            self.spread.leaves += leaves;
            self.spread.needed += needed;
            self.spread.wide += u32::from(leaves > needed);
        }
        for node in nodes {
            let (before, after) = (self.free[*node], self.free[*node] - need as u32);
            self.free[*node] = after;
            for gpus in 1..=self.gpus as u32 {
                self.slots[node / self.leaf][gpus as usize - 1] -= before / gpus - after / gpus;
            }
        }
    }
}
