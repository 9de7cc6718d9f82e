//! The domains of one level of one pool, with counters of what is free in each.
//!
//! In: by how much the counters of a domain have changed. Out: for each domain the nodes with at least k free GPUs, the
//! places for members of g GPUs, and the domain with the fewest places that are still enough.
//! It must never look at a node: whatever is not a whole GPU (CPU, memory) is checked by its callers.

use std::ops::Range;

use super::filing::Filing;

/// What nodes add to the counters of the domains that they lie in, by their number of free GPUs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Shares {
    width: usize,
    /// For each number of free GPUs from 0: is it at least 1 to `width`, then how often do 1 to `width` fit into it.
    rows: Vec<u32>,
    /// For free GPUs before and after, the sizes of members that then fit another number of times: bit g for g GPUs.
    resized: Vec<u64>,
}

impl Shares {
    /// For nodes of up to `width` GPUs.
    pub(super) fn new(width: usize) -> Self {
        let row = |free: usize| {
            let at_least = (1..=width).map(move |gpus| u32::from(free >= gpus));
            at_least.chain((1..=width).map(move |gpus| (free / gpus) as u32))
        };
        let differ = |(one, other): (usize, usize)| {
            (1..=width).filter(|gpus| one / gpus != other / gpus).fold(0, |sizes, gpus| sizes | 1 << gpus)
        };
        let pairs = (0..=width).flat_map(|one| (0..=width).map(move |other| (one, other)));
        Self { width, rows: (0..=width).flat_map(row).collect(), resized: pairs.map(differ).collect() }
    }

    #[inline]
    fn row(&self, free: u8) -> &[u32] {
        &self.rows[free as usize * 2 * self.width..][..2 * self.width]
    }

    /// The sizes of members for which a node with `now` free GPUs has not as many slots as with `before`.
    #[inline]
    fn resized(&self, before: u8, now: u8) -> u64 {
        self.resized[before as usize * (self.width + 1) + now as usize]
    }
}

/// The free GPUs of a node have changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    /// Its position.
    pub(super) at: u32,
    /// Free GPUs before.
    pub(super) before: u8,
    /// Free GPUs now.
    pub(super) now: u8,
}

/// Counts what is now instead of what was before.
#[inline(always)]
fn exchange(counters: &mut [u32], before: &[u32], now: &[u32]) {
    for ((counter, before), now) in counters.iter_mut().zip(before).zip(now) {
        *counter = counter.wrapping_add(*now).wrapping_sub(*before);
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
    /// The domains by their slots; empty where there is only one.
    filing: Filing,
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
            filing: if count > 1 { Filing::new(count, widest, width) } else { Filing::default() },
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

    /// What a mask of the numbers of free GPUs that at least one node of the domain has (bit k for exactly k) is after a
    /// change that is counted already.
    #[inline]
    pub(super) fn remask(&self, domain: usize, mask: u64, change: &Change) -> u64 {
        let of = |mask: u64, gpus: u8| match gpus {
            0 => mask,
            _ => mask & !(1 << gpus) | u64::from(self.exactly(domain, gpus as usize) > 0) << gpus,
        };
        of(of(mask, change.before), change.now)
    }

    /// What is free on nodes of one domain has changed.
    #[inline]
    pub(super) fn recount(&mut self, domain: usize, changes: &[Change], shares: &Shares) {
        let length = 2 * self.width;
        let counters = &mut self.counters[domain * length..][..length];
        let mut sizes = 0;
        for change in changes {
            let (before, now) = (shares.row(change.before), shares.row(change.now));
            // Nodes of 8 GPUs are the usual ones, and a known length is four steps of vector code.
            match (counters.as_mut_array::<16>(), before.as_array::<16>(), now.as_array::<16>()) {
                (Some(counters), Some(before), Some(now)) => {
                    let (old, before, now) = (*counters, *before, *now);
                    *counters = std::array::from_fn(|at| old[at].wrapping_add(now[at]).wrapping_sub(before[at]));
                }
                _ => exchange(counters, before, now),
            }
            sizes |= shares.resized(change.before, change.now);
        }
        if self.count() > 1 {
            self.filing.mark(domain, sizes);
        }
    }

    /// Makes ready for questions about members of `gpus` each.
    #[inline]
    pub(super) fn settle(&mut self, gpus: usize) {
        if self.count() > 1 && gpus <= self.width {
            let (counters, width) = (&self.counters, self.width);
            self.filing.settle(gpus, |domain| counters[(domain * 2 + 1) * width + gpus - 1]);
        }
    }

    /// The domain with the fewest slots for members of `gpus` each, `want` at least, that `accept` takes; between equal
    /// ones the first. `accept` is asked in rising order of slots where those are few. Only when settled, as all that
    /// follows.
    #[inline]
    pub(super) fn best_fit(&self, gpus: usize, want: u32, mut accept: impl FnMut(usize) -> bool) -> Option<usize> {
        if gpus > self.width {
            return None;
        }
        if self.count() == 1 {
            return (self.slots(0, gpus) >= want && accept(0)).then_some(0);
        }
        let buckets = self.filing.by_slots(gpus);
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
        let buckets = self.filing.by_slots(gpus);
        let highest = buckets.highest();
        std::iter::successors(buckets.next(highest, 0), move |domain| buckets.next(highest, domain + 1))
    }

    /// The most slots that one domain has. Goes through all domains, settled or not.
    pub(super) fn most_slots(&self, gpus: usize) -> u32 {
        (0..self.count()).map(|domain| self.slots(domain, gpus)).max().unwrap_or(0)
    }

    /// Domains with most slots first, whole buckets, until together they have `want`: what a gang wider than any of them
    /// is spread over. Calls `add` with the slots and the domain.
    pub(super) fn largest_first(&self, gpus: usize, want: u32, mut add: impl FnMut(u32, usize)) {
        let buckets = self.filing.by_slots(gpus);
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

    /// Whether `domain` is filed for members of `gpus` where it belongs, and nowhere else.
    pub(super) fn is_sorted(&self, domain: usize, gpus: usize) -> bool {
        self.count() == 1 || self.filing.is_sorted(domain, gpus, self.slots(domain, gpus))
    }
}
