//! The domains of one level of one pool, with counters of what is free in each.
//!
//! In: by how much the counters of a domain have changed. Out: for each domain the nodes with at least k free GPUs, the
//! places for members of g GPUs, and the domain with the fewest places that are still enough.
//! It must never look at a node: whatever is not a whole GPU (CPU, memory) is checked by its callers.

use std::ops::Range;

use super::bits::Buckets;
use crate::gpu::MAX_GPUS_PER_NODE;

/// Domains with at least this many places share one bucket, which is then gone through: there are few of them, since
/// each is large.
const MAX_SORTED_SLOTS: usize = 511;

/// By how much the counters of a domain change; the first `2 * width` are in use, as in `Domains::counters`.
pub(super) type Change = [i32; 2 * MAX_GPUS_PER_NODE];

/// What nodes add to the counters of the domains that they lie in, by their number of free GPUs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Shares {
    width: usize,
    /// For each number of free GPUs from 0: is it at least 1 to `width`, then how often do 1 to `width` fit into it.
    rows: Vec<i32>,
}

impl Shares {
    /// For nodes of up to `width` GPUs.
    pub(super) fn new(width: usize) -> Self {
        let row = |free: usize| {
            let at_least = (1..=width).map(move |gpus| i32::from(free >= gpus));
            at_least.chain((1..=width).map(move |gpus| (free / gpus) as i32))
        };
        Self { width, rows: (0..=width).flat_map(row).collect() }
    }

    /// A node had `before` free GPUs and has `now`.
    #[inline]
    pub(super) fn add(&self, change: &mut Change, before: u8, now: u8) {
        let length = 2 * self.width;
        let old = &self.rows[before as usize * length..][..length];
        let new = &self.rows[now as usize * length..][..length];
        for ((sum, old), new) in change[..length].iter_mut().zip(old).zip(new) {
            *sum += new - old;
        }
    }
}

/// All domains of one level.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Domains {
    /// Most GPUs of a node of the pool.
    width: usize,
    /// First position of each domain, then the number of nodes.
    starts: Vec<u32>,
    /// For each position its domain; empty where there is only one.
    domain_of: Vec<u32>,
    /// For each domain the first domain inside it of the level below, then their number; empty at the lowest level.
    children: Vec<u32>,
    /// For each domain `at_least[1..=width]`, then `slots[1..=width]`.
    counters: Vec<u32>,
    /// For g from 1: domains by slots(g).
    by_slots: Vec<Buckets>,
}

impl Domains {
    /// Domains that begin at `starts`, above those of `below`; nothing is free.
    pub(super) fn new(starts: &[u32], below: Option<&Domains>, width: usize) -> Self {
        let count = starts.len() - 1;
        let nodes = starts[count];
        let domain_of = |positions: u32| {
            (0..positions).map(|at| starts.partition_point(|start| *start <= at) as u32 - 1).collect::<Vec<_>>()
        };
        let widest = starts.windows(2).map(|pair| (pair[1] - pair[0]) as usize).max().unwrap_or(0);
        let children = below.map_or(Vec::new(), |below| {
            starts.iter().map(|start| below.starts.partition_point(|other| other < start) as u32).collect()
        });
        Self {
            width,
            starts: starts.to_vec(),
            domain_of: if count > 1 { domain_of(nodes) } else { Vec::new() },
            children,
            counters: vec![0; count * 2 * width],
            by_slots: (1..=width)
                // One bucket more than there are numbers of slots: the last one is used only where they are too many.
                .map(|gpus| Buckets::new(count, (widest * (width / gpus) + 1).min(MAX_SORTED_SLOTS)))
                .collect(),
        }
    }

    /// How many there are.
    #[inline]
    pub(super) fn count(&self) -> usize {
        self.starts.len() - 1
    }

    /// The domain of a position.
    #[inline]
    pub(super) fn domain_of(&self, at: usize) -> usize {
        if self.domain_of.is_empty() { 0 } else { self.domain_of[at] as usize }
    }

    /// The positions of a domain.
    #[inline]
    pub(super) fn positions(&self, domain: usize) -> Range<usize> {
        self.starts[domain] as usize..self.starts[domain + 1] as usize
    }

    /// The domains of the level below inside a domain. There must be a level below.
    #[inline]
    pub(super) fn children(&self, domain: usize) -> Range<usize> {
        self.children[domain] as usize..self.children[domain + 1] as usize
    }

    /// Nodes of the domain with at least `gpus` free.
    #[inline]
    pub(super) fn at_least(&self, domain: usize, gpus: usize) -> u32 {
        if gpus > self.width { 0 } else { self.counters[domain * 2 * self.width + gpus - 1] }
    }

    /// Nodes of the domain with exactly `gpus` (at least 1) free.
    #[inline]
    pub(super) fn exactly(&self, domain: usize, gpus: usize) -> u32 {
        self.at_least(domain, gpus) - self.at_least(domain, gpus + 1)
    }

    /// Members of `gpus` each that the domain has room for when they may share nodes.
    #[inline]
    pub(super) fn slots(&self, domain: usize, gpus: usize) -> u32 {
        if gpus > self.width { 0 } else { self.counters[(domain * 2 + 1) * self.width + gpus - 1] }
    }

    /// The numbers of free GPUs that at least one node of the domain has: bit k for exactly k.
    #[inline]
    pub(super) fn mask(&self, domain: usize) -> u64 {
        let at_least = &self.counters[domain * 2 * self.width..][..self.width];
        let mut mask = 0;
        let mut more = 0;
        for (below, count) in at_least.iter().enumerate().rev() {
            mask |= u64::from(*count != more) << (below + 1);
            more = *count;
        }
        mask
    }

    /// The counters of a domain change.
    #[inline]
    pub(super) fn shift(&mut self, domain: usize, change: &Change) {
        let width = self.width;
        let counters = &mut self.counters[domain * 2 * width..][..2 * width];
        for (counter, delta) in counters.iter_mut().zip(change) {
            *counter = counter.wrapping_add_signed(*delta);
        }
        let deltas = &change[width..2 * width];
        for ((slots, delta), buckets) in counters[width..].iter().zip(deltas).zip(&mut self.by_slots) {
            if *delta != 0 {
                let highest = buckets.highest();
                let old = slots.wrapping_add_signed(-delta) as usize;
                buckets.shift(domain, highest.min(old), highest.min(*slots as usize));
            }
        }
    }

    /// The domain with the fewest slots for members of `gpus` each, `want` at least, that `accept` takes; between equal
    /// ones the first. `accept` is asked in rising order of slots where those are few.
    #[inline]
    pub(super) fn best_fit(&self, gpus: usize, want: u32, mut accept: impl FnMut(usize) -> bool) -> Option<usize> {
        if gpus > self.width {
            return None;
        }
        let buckets = &self.by_slots[gpus - 1];
        let highest = buckets.highest();
        let mut from = highest.min(want as usize);
        while let Some(number) = buckets.next_number(from) {
            if number == highest {
                return self.best_of_largest(gpus, want, accept);
            }
            let mut next = buckets.next(number, 0);
            while let Some(domain) = next {
                if accept(domain) {
                    return Some(domain);
                }
                next = buckets.next(number, domain + 1);
            }
            from = number + 1;
        }
        None
    }

    /// As `best_fit` in the bucket of the largest domains, which is not sorted.
    fn best_of_largest(&self, gpus: usize, want: u32, mut accept: impl FnMut(usize) -> bool) -> Option<usize> {
        let mut best: Option<(u32, usize)> = None;
        for domain in self.largest(gpus) {
            let slots = self.slots(domain, gpus);
            if slots >= want && best.is_none_or(|(fewest, _)| slots < fewest) && accept(domain) {
                best = Some((slots, domain));
            }
        }
        best.map(|(_, domain)| domain)
    }

    /// The domains of the highest bucket.
    fn largest(&self, gpus: usize) -> impl Iterator<Item = usize> {
        let buckets = &self.by_slots[gpus - 1];
        let highest = buckets.highest();
        std::iter::successors(buckets.next(highest, 0), move |domain| buckets.next(highest, domain + 1))
    }

    /// The most slots that one domain has.
    pub(super) fn most_slots(&self, gpus: usize) -> u32 {
        if gpus > self.width {
            return 0;
        }
        let buckets = &self.by_slots[gpus - 1];
        match buckets.last_number() {
            None => 0,
            Some(number) if number < buckets.highest() => number as u32,
            Some(_) => self.largest(gpus).map(|domain| self.slots(domain, gpus)).max().unwrap_or(0),
        }
    }

    /// Domains with most slots first, whole buckets, until together they have `want`: what a gang wider than any of them
    /// is spread over. Calls `add` with the slots and the domain.
    pub(super) fn largest_first(&self, gpus: usize, want: u32, mut add: impl FnMut(u32, usize)) {
        let buckets = &self.by_slots[gpus - 1];
        let mut found = 0;
        let mut number = buckets.last_number();
        while let Some(at) = number {
            let mut next = buckets.next(at, 0);
            while let Some(domain) = next {
                let slots = self.slots(domain, gpus);
                found += slots;
                add(slots, domain);
                next = buckets.next(at, domain + 1);
            }
            number = if found < want { buckets.previous_number(at) } else { None };
        }
    }

    /// Whether `domain` lies in the bucket of `gpus` where it belongs, and in no other.
    pub(super) fn is_sorted(&self, domain: usize, gpus: usize) -> bool {
        let buckets = &self.by_slots[gpus - 1];
        let belongs = buckets.highest().min(self.slots(domain, gpus) as usize);
        (1..=buckets.highest()).all(|number| buckets.contains(number, domain) == (number == belongs))
    }
}
