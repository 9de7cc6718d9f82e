//! Run times learned from what has ended: by user and name, by user, by size, by tenant.
//!
//! Comes in: runs that ended, in their order. Goes out: the median of the runs most like a job, of those that ran longer than
//! it has run already. The same runs in the same order always give the same answer.

use std::collections::{BTreeMap, VecDeque};

use dure_core::units::Span;

/// Runs that are remembered of each kind: the last ones.
const KEPT: usize = 63;
/// Fewer runs than this say nothing.
const ENOUGH: usize = 3;
/// Kinds that are remembered at once; the one that was not added to for longest is forgotten first.
const MAX_KINDS: usize = 200_000;

/// What a run is told apart by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kind<'a> {
    /// Path of its tenant.
    pub tenant: &'a str,
    /// Its user.
    pub user: &'a str,
    /// As its user calls it.
    pub name: &'a str,
    /// Its GPUs.
    pub gpus: u32,
}

/// A run that ended by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    tenant: Box<str>,
    user: Box<str>,
    name: Box<str>,
    gpus: u32,
    took: Span,
}

impl Run {
    /// A run of this kind that took so long.
    pub fn new(kind: Kind<'_>, took: Span) -> Self {
        let Kind { tenant, user, name, gpus } = kind;
        Self { tenant: tenant.into(), user: user.into(), name: name.into(), gpus, took }
    }

    /// What it is told apart by.
    pub fn kind(&self) -> Kind<'_> {
        Kind { tenant: &self.tenant, user: &self.user, name: &self.name, gpus: self.gpus }
    }

    /// How long it took.
    pub fn took(&self) -> Span {
        self.took
    }
}

/// The last runs of one kind.
#[derive(Clone, Debug, Default)]
struct Runs {
    /// In the order of their ends.
    recent: VecDeque<Span>,
    /// The same, sorted.
    sorted: Vec<Span>,
    /// When it was last added to.
    touched: u64,
}

impl Runs {
    fn add(&mut self, run: Span) {
        if self.recent.len() == KEPT {
            let oldest = self.recent.pop_front().expect("it is full");
            let at = self.sorted.binary_search(&oldest).expect("what is recent is sorted as well");
            self.sorted.remove(at);
        }
        self.recent.push_back(run);
        let at = self.sorted.partition_point(|other| *other < run);
        self.sorted.insert(at, run);
    }

    /// The median of the runs longer than `elapsed`, if there are enough.
    fn median(&self, elapsed: Span) -> Option<Span> {
        let longer = &self.sorted[self.sorted.partition_point(|run| *run <= elapsed)..];
        (longer.len() >= ENOUGH).then(|| longer[longer.len() / 2])
    }
}

/// How a run is looked up, the most telling first.
type Key = (u8, Box<str>, Box<str>, Box<str>, u32);

/// Learned run times.
#[derive(Clone, Debug, Default)]
pub struct Learned {
    kinds: BTreeMap<Key, Runs>,
    runs: u64,
}

impl Learned {
    /// A run of this kind has ended by itself after `run`.
    pub fn add(&mut self, kind: Kind<'_>, run: Span) {
        self.runs += 1;
        for key in keys(kind) {
            let runs = self.kinds.entry(key).or_default();
            runs.touched = self.runs;
            runs.add(run);
        }
        if self.kinds.len() > MAX_KINDS {
            self.forget();
        }
    }

    /// Runs that were learned from.
    pub fn runs(&self) -> u64 {
        self.runs
    }

    /// How long a run of this kind takes altogether that has taken `elapsed`; none where too few like it are known.
    pub fn run_time(&self, kind: Kind<'_>, elapsed: Span) -> Option<Span> {
        keys(kind).find_map(|key| self.kinds.get(&key)?.median(elapsed))
    }

    /// Forgets the half that was not added to for longest.
    fn forget(&mut self) {
        let mut touched: Vec<u64> = self.kinds.values().map(|runs| runs.touched).collect();
        let middle = touched.len() / 2;
        let bound = *touched.select_nth_unstable(middle).1;
        self.kinds.retain(|_, runs| runs.touched > bound);
    }
}

/// The keys of a kind, the most telling first; without a name or a user those that need one are left out.
fn keys(kind: Kind<'_>) -> impl Iterator<Item = Key> {
    let Kind { tenant, user, name, gpus } = kind;
    let named = (!name.is_empty()).then(|| (0, tenant.into(), user.into(), name.into(), gpus));
    let of_user = (!user.is_empty()).then(|| (1, tenant.into(), user.into(), "".into(), gpus));
    let of_size = (2, tenant.into(), "".into(), "".into(), gpus);
    let of_tenant = (3, tenant.into(), "".into(), "".into(), 0);
    let of_all = (4, "".into(), "".into(), "".into(), 0);
    named.into_iter().chain(of_user).chain([of_size, of_tenant, of_all])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind<'a>(user: &'a str, name: &'a str, gpus: u32) -> Kind<'a> {
        Kind { tenant: "fusion", user, name, gpus }
    }

    #[test]
    fn the_most_telling_runs_speak_and_only_the_longer_ones() {
        let mut learned = Learned::default();
        let at = |learned: &Learned, kind, elapsed| learned.run_time(kind, Span(elapsed)).map(|run| run.0);
        assert_eq!(at(&learned, kind("kim", "train", 8), 0), None);
        for run in [10, 20, 30, 40, 50] {
            learned.add(kind("kim", "train", 8), Span(run));
        }
        learned.add(kind("lee", "eval", 1), Span(1));
        assert_eq!(at(&learned, kind("kim", "train", 8), 0), Some(30));
        // Of those that ran longer than 25 the median is 40.
        assert_eq!(at(&learned, kind("kim", "train", 8), 25), Some(40));
        // Too few are left, of any kind.
        assert_eq!(at(&learned, kind("kim", "train", 8), 45), None);
        // Another name of the same user and size, another user of the same size, another size.
        assert_eq!(at(&learned, kind("kim", "other", 8), 0), Some(30));
        assert_eq!(at(&learned, kind("park", "", 8), 0), Some(30));
        assert_eq!(at(&learned, kind("park", "", 2), 0), Some(30));
        assert_eq!(learned.runs(), 6);
    }

    #[test]
    fn old_runs_are_forgotten() {
        let mut learned = Learned::default();
        (0..1000).for_each(|run| learned.add(kind("kim", "", 1), Span(run)));
        let median = learned.run_time(kind("kim", "", 1), Span::ZERO).expect("known");
        assert!(median >= Span(1000 - KEPT as u64), "{median}");
    }
}
