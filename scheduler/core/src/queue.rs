//! The pending jobs of one tenant, bucketed by priority, user and class.
//!
//! A job is in here exactly while it may be tried. A class that cannot start now takes all its buckets out of the order
//! by one bit, so that a cycle costs what the classes cost and not what the jobs cost.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{ClassIndex, JobId, PriorityIndex, UserIndex};
use crate::sorted::Sorted;

/// The place of a job in its bucket: front before back, then by age.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct QueueKey {
    /// False goes first: the job lost its GPUs through no fault of its own.
    pub back: bool,
    /// The id of the job or of its array: older first.
    pub age: JobId,
    /// The job.
    pub job: JobId,
}

/// Where a job waits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Queued {
    /// Its place in the bucket.
    pub key: QueueKey,
    /// Its class.
    pub class: ClassIndex,
}

/// A set of classes as a bit set.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClassSet {
    words: Vec<u64>,
}

impl ClassSet {
    /// Adds a class.
    pub fn insert(&mut self, class: ClassIndex) {
        let word = class.at() / 64;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (class.at() % 64);
    }

    /// Takes a class out.
    pub fn remove(&mut self, class: ClassIndex) {
        if let Some(word) = self.words.get_mut(class.at() / 64) {
            *word &= !(1 << (class.at() % 64));
        }
    }

    /// Whether the class is in here.
    pub fn contains(&self, class: ClassIndex) -> bool {
        self.words.get(class.at() / 64).is_some_and(|word| word >> (class.at() % 64) & 1 == 1)
    }

    /// Keeps only those for which `keep` says so, asked in rising order.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(ClassIndex) -> bool) {
        for (at, word) in self.words.iter_mut().enumerate() {
            for bit in bits(*word) {
                if !keep(ClassIndex::of(at * 64 + bit)) {
                    *word &= !(1 << bit);
                }
            }
        }
    }

    /// Makes room for classes below `classes`, so that adding them allocates nothing.
    pub fn reserve(&mut self, classes: usize) {
        let words = classes.div_ceil(64);
        self.words.reserve(words.saturating_sub(self.words.len()));
    }

    /// All in here, rising.
    pub fn iter(&self) -> impl Iterator<Item = ClassIndex> + '_ {
        self.words.iter().enumerate().flat_map(|(at, word)| bits(*word).map(move |bit| ClassIndex::of(at * 64 + bit)))
    }

    /// Whether nothing is in here.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Takes all out and keeps the memory.
    pub fn clear(&mut self) {
        self.words.clear();
    }
}

fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        (word != 0).then(|| {
            let bit = word.trailing_zeros() as usize;
            word &= word - 1;
            bit
        })
    })
}

/// The pending jobs of one class of one user.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// Their class.
    pub class: ClassIndex,
    /// In their order; never empty.
    pub keys: Sorted<QueueKey>,
}

/// The pending jobs of one user in one priority class of one tenant.
#[derive(Clone, Debug, Default)]
pub struct UserQueue {
    /// The classes that have a bucket.
    pub classes: ClassSet,
    /// By class.
    pub buckets: Vec<Bucket>,
    /// The first job of each bucket and its class, in the order of the jobs.
    pub heads: Vec<(QueueKey, ClassIndex)>,
}

impl UserQueue {
    /// The oldest job of the classes that are in none of `closed`, and its class. Nothing before `from` is looked at: the
    /// caller knows that it is closed. O(words of the class set) where nothing is open; else O(log buckets + closed ones).
    #[inline]
    pub(crate) fn oldest_without(
        &self,
        closed: [Option<&ClassSet>; 3],
        from: Option<&QueueKey>,
    ) -> Option<(QueueKey, ClassIndex)> {
        if !self.has_open(closed) {
            return None;
        }
        let start = from.map_or(0, |from| self.heads.partition_point(|(key, _)| key < from));
        let is_open = |(_, class): &&(QueueKey, ClassIndex)| !closed.iter().flatten().any(|set| set.contains(*class));
        self.heads[start..].iter().find(is_open).copied()
    }

    /// As `oldest_without`, but without these jobs: others of their buckets come in their place. Those before `from` are among
    /// them, or closed. O(buckets x log jobs).
    pub(crate) fn oldest_beside(
        &self,
        closed: [Option<&ClassSet>; 3],
        from: Option<&QueueKey>,
        skipped: &BTreeSet<JobId>,
    ) -> Option<(QueueKey, ClassIndex)> {
        let open = self.buckets.iter().filter(|b| !closed.iter().flatten().any(|set| set.contains(b.class)));
        let oldest = |bucket: &Bucket| {
            let mut keys = from.map_or_else(|| bucket.keys.iter(), |from| bucket.keys.iter_from(from));
            let key = keys.find(|key| !skipped.contains(&key.job))?;
            Some((*key, bucket.class))
        };
        open.filter_map(oldest).min()
    }

    /// Whether a class with a bucket is in none of `closed`.
    #[inline]
    fn has_open(&self, closed: [Option<&ClassSet>; 3]) -> bool {
        self.classes.words.iter().enumerate().any(|(at, &word)| {
            let of = |set: &ClassSet| set.words.get(at).copied().unwrap_or(0);
            closed.into_iter().flatten().fold(word, |open, set| open & !of(set)) != 0
        })
    }

    /// Puts a job into its bucket.
    fn insert(&mut self, queued: Queued) {
        let Queued { key, class } = queued;
        let at = self.find(class).unwrap_or_else(|at| {
            self.classes.insert(class);
            self.buckets.insert(at, Bucket { class, keys: Sorted::default() });
            at
        });
        let keys = &mut self.buckets[at].keys;
        let before = keys.first().copied();
        let added = keys.insert(key);
        debug_assert!(added, "a job waits in one place");
        self.head_changed(class, before, Some(key.min(before.unwrap_or(key))));
    }

    /// Takes a job out of its bucket.
    fn remove(&mut self, queued: Queued) {
        let Queued { key, class } = queued;
        let at = self.find(class).expect("a queued job has its bucket");
        let keys = &mut self.buckets[at].keys;
        let before = keys.first().copied();
        let removed = keys.remove(&key);
        debug_assert!(removed, "a queued job is in its bucket");
        let after = keys.first().copied();
        if after.is_none() {
            self.buckets.remove(at);
            self.classes.remove(class);
        }
        self.head_changed(class, before, after);
    }

    /// The first job of a bucket was `before` and is `after`.
    #[inline]
    fn head_changed(&mut self, class: ClassIndex, before: Option<QueueKey>, after: Option<QueueKey>) {
        if before == after {
            return;
        }
        let place = |heads: &[(QueueKey, ClassIndex)], key: QueueKey| heads.partition_point(|(other, _)| *other < key);
        let old = before.map(|key| place(&self.heads, key));
        match (old, after) {
            (Some(old), Some(key)) => {
                self.heads[old].0 = key;
                // Where it belongs now: usually some places further on.
                let beyond = old + 1 + place(&self.heads[old + 1..], key);
                let below = place(&self.heads[..old], key);
                if beyond > old + 1 {
                    self.heads[old..beyond].rotate_left(1);
                } else {
                    self.heads[below..=old].rotate_right(1);
                }
            }
            (Some(old), None) => drop(self.heads.remove(old)),
            (None, Some(key)) => {
                let at = place(&self.heads, key);
                self.heads.insert(at, (key, class));
            }
            (None, None) => {}
        }
    }

    #[inline]
    fn find(&self, class: ClassIndex) -> Result<usize, usize> {
        self.buckets.binary_search_by_key(&class, |bucket| bucket.class)
    }
}

/// The pending jobs of one tenant.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    /// By priority, lowest first; never holds an empty user.
    pub levels: BTreeMap<PriorityIndex, BTreeMap<UserIndex, UserQueue>>,
    /// Jobs in all buckets.
    pub len: usize,
}

impl Queue {
    /// Puts a job in.
    pub fn insert(&mut self, priority: PriorityIndex, user: UserIndex, queued: Queued) {
        self.levels.entry(priority).or_default().entry(user).or_default().insert(queued);
        self.len += 1;
    }

    /// Takes a job out.
    pub fn remove(&mut self, priority: PriorityIndex, user: UserIndex, queued: Queued) {
        let level = self.levels.get_mut(&priority).expect("a queued job has its level");
        let queue = level.get_mut(&user).expect("a queued job has its user");
        queue.remove(queued);
        self.len -= 1;
        if queue.buckets.is_empty() {
            level.remove(&user);
            if level.is_empty() {
                self.levels.remove(&priority);
            }
        }
    }

    /// The jobs behind one, in its class, user and priority.
    pub(crate) fn behind(
        &self,
        priority: PriorityIndex,
        user: UserIndex,
        queued: Queued,
    ) -> impl Iterator<Item = JobId> {
        let user = self.levels.get(&priority).and_then(|users| users.get(&user));
        let bucket = user.and_then(|user| user.find(queued.class).ok().map(|at| &user.buckets[at].keys));
        bucket.into_iter().flat_map(move |keys| keys.iter_from(&queued.key)).map(|key| key.job)
    }

    /// Jobs of a class of whom one is the oldest: of each user and priority the first in its place, and the first of those
    /// that are not at the front.
    pub(crate) fn oldest_of(&self, class: ClassIndex) -> impl Iterator<Item = JobId> + '_ {
        let users = self.levels.values().flat_map(BTreeMap::values);
        let buckets = users.filter_map(move |user| user.find(class).ok().map(|at| &user.buckets[at].keys));
        buckets.flat_map(|keys| keys.first().into_iter().chain(keys.iter().find(|key| key.back))).map(|key| key.job)
    }

    /// How many jobs of this tenant would be looked at before `queued`, if all users were alike: those of a higher
    /// priority, and those of the same that are older.
    pub fn before(&self, priority: PriorityIndex, queued: Queued) -> usize {
        let of = |users: &BTreeMap<UserIndex, UserQueue>, count: &dyn Fn(&Sorted<QueueKey>) -> usize| {
            users.values().flat_map(|user| &user.buckets).map(|bucket| count(&bucket.keys)).sum::<usize>()
        };
        self.levels
            .range(priority..)
            .map(
                |(level, users)| {
                    if *level == priority {
                        of(users, &|b| b.count_below(&queued.key))
                    } else {
                        of(users, &|b| b.len())
                    }
                },
            )
            .sum()
    }
}
