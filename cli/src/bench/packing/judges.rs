//! The policies that the scheduler's own is measured against: FGD as published, and best fit.
//!
//! Source: Weng et al., "Beware of Fragmentation: Scheduling GPU-Sharing Workloads with Fragmentation Gradient Descent",
//! USENIX ATC'23. They are here and not in the core because they compute with floats, as their originals do.

use std::collections::BTreeMap;

use dure_core::place::{Judge, Space};
use dure_core::request::{Part, Request};

/// Of the kinds of pods the most frequent are looked at until they are so much of the list.
const TYPICAL: f64 = 0.95;

/// A kind of pod, and its part of the list.
struct Typical {
    gpus: u32,
    milli: u16,
    cpu: i64,
    pools: u64,
    part: f64,
}

/// Fragmentation gradient descent: the node on which the expected fragments grow least, as a score of 0 to 100 cut to an
/// integer; memory is not looked at, and ties go to the smallest node name.
pub(super) struct Fgd {
    typical: Vec<Typical>,
}

impl Fgd {
    /// For the distribution of these pods.
    pub(super) fn of(pods: &[Request]) -> Self {
        let mut counts: BTreeMap<(u8, u16, u64, u64), u32> = BTreeMap::new();
        for pod in pods {
            let gpus = pod.shape.largest();
            let milli = match pod.part {
                _ if gpus == 0 => 0,
                Part::Milli(milli) => milli,
                Part::Whole | Part::Slice(_) => 1000,
            };
            let pools = pod.pools.iter().fold(0, |mask, pool| mask | 1u64 << (pool.at() % 64));
            *counts.entry((gpus, milli, pod.cpu.0, pools)).or_default() += 1;
        }
        let mut sorted: Vec<_> = counts.into_iter().collect();
        // Which of those that are as frequent still count as typical decides more than it seems: the published code takes
        // those with most CPU first, then by thousandths and number of GPUs.
        sorted
            .sort_by_key(|((gpus, milli, cpu, pools), count)| std::cmp::Reverse((*count, *cpu, *milli, *gpus, *pools)));
        let want = pods.len() as f64 * TYPICAL;
        let mut seen = 0.0;
        let mut typical = Vec::new();
        for ((gpus, milli, cpu, pools), count) in sorted {
            if seen >= want {
                break;
            }
            seen += f64::from(count);
            let cpu = i64::try_from(cpu).unwrap_or(i64::MAX);
            typical.push(Typical { gpus: gpus.into(), milli, cpu, pools, part: f64::from(count) });
        }
        typical.iter_mut().for_each(|kind| kind.part /= seen);
        Self { typical }
    }

    /// What of the GPUs is useless for a pod drawn from the list, in thousandths.
    fn fragments(&self, space: &Space) -> f64 {
        let total = space.total() as f64;
        let of = |kind: &Typical| {
            let may_use = kind.pools >> (space.pool.at() % 64) & 1 == 1;
            let has_gpus = kind.gpus > 0 && space.with_left(kind.milli) >= kind.gpus;
            if !(may_use && has_gpus && space.cpu >= kind.cpu) {
                return total;
            }
            space.lefts().iter().filter(|left| **left < kind.milli).map(|left| f64::from(*left)).sum()
        };
        self.typical.iter().map(|kind| kind.part * of(kind)).sum()
    }
}

impl Judge for Fgd {
    fn version(&self) -> u64 {
        0
    }

    fn cost(&self, before: &Space, after: &Space) -> i64 {
        let less = self.fragments(before) - self.fragments(after);
        -((100.0 / (1.0 + (-less / 1000.0).exp())) as i64)
    }
}

/// The node with the least left: GPUs and CPU, each as a part of the largest node.
pub(super) struct BestFit;

/// GPUs and CPU of the largest node, in thousandths.
const LARGEST: (f64, f64) = (8_000.0, 128_000.0);

impl Judge for BestFit {
    fn version(&self) -> u64 {
        0
    }

    fn cost(&self, _: &Space, after: &Space) -> i64 {
        let left = after.total() as f64 / LARGEST.0 + after.cpu as f64 / LARGEST.1;
        // On the node the GPU with the least left: what is left of the others stays in one piece.
        let pieces: i64 = after.lefts().iter().map(|left| i64::from(*left) * i64::from(*left)).sum();
        ((left * 1e6) as i64) * 1_024 - pieces / 40_000
    }
}
