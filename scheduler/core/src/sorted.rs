//! A sorted list that grows at its end and shrinks from its front: queues, running attempts, deadlines.
//!
//! In: keys, nearly always rising. Out: the first, the last, all in order. Adding at the end and taking from the front touch
//! one entry; a key taken out of the middle leaves a gap that is closed when gaps are half of all.
//! It must never allocate while it has room for one more.

use std::collections::VecDeque;

/// Fewer gaps than this are not worth closing.
const FEW_GAPS: usize = 16;

/// One key, or the gap that it left.
#[derive(Clone, Copy, Debug)]
struct Entry<K> {
    key: K,
    is_gap: bool,
}

/// A set of keys in their order. The first and the last entry are never gaps.
#[derive(Clone, Debug)]
pub struct Sorted<K> {
    entries: VecDeque<Entry<K>>,
    gaps: usize,
}

impl<K> Default for Sorted<K> {
    fn default() -> Self {
        Self { entries: VecDeque::new(), gaps: 0 }
    }
}

impl<K: Copy + Ord> Sorted<K> {
    /// How many keys there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.entries.len() - self.gaps
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The lowest key.
    #[inline]
    pub fn first(&self) -> Option<&K> {
        self.entries.front().map(|entry| &entry.key)
    }

    /// The highest key.
    #[inline]
    pub fn last(&self) -> Option<&K> {
        self.entries.back().map(|entry| &entry.key)
    }

    /// All keys, rising.
    pub fn iter(&self) -> Iter<'_, K> {
        Iter { entries: self.entries.iter() }
    }

    /// The keys from `key` on, rising. O(log n) to the first.
    pub fn iter_from(&self, key: &K) -> Iter<'_, K> {
        let below = self.entries.partition_point(|entry| entry.key < *key);
        Iter { entries: self.entries.range(below..) }
    }

    /// How many keys are lower than `key`. O(n) where there are gaps.
    pub fn count_below(&self, key: &K) -> usize {
        let below = self.entries.partition_point(|entry| entry.key < *key);
        if self.gaps == 0 { below } else { self.entries.range(..below).filter(|entry| !entry.is_gap).count() }
    }

    /// Whether `key` is in here.
    pub fn contains(&self, key: &K) -> bool {
        self.find(key).is_ok_and(|at| !self.entries[at].is_gap)
    }

    /// Makes room for `more` keys, so that adding them at the end allocates nothing.
    pub fn reserve(&mut self, more: usize) {
        self.entries.reserve(more);
    }

    /// Adds a key; says whether it is new. O(1) at the ends, else O(n) in the shorter direction.
    #[inline]
    pub fn insert(&mut self, key: K) -> bool {
        let entry = Entry { key, is_gap: false };
        if self.entries.back().is_none_or(|last| last.key < key) {
            self.entries.push_back(entry);
            return true;
        }
        match self.find(&key) {
            Err(at) => self.entries.insert(at, entry),
            Ok(at) if self.entries[at].is_gap => {
                self.entries[at] = entry;
                self.gaps -= 1;
            }
            Ok(_) => return false,
        }
        true
    }

    /// Takes a key out; says whether it was there. O(1) at the front, else O(log n) but for the closing of gaps.
    #[inline]
    pub fn remove(&mut self, key: &K) -> bool {
        if self.entries.front().is_some_and(|first| first.key == *key) {
            self.entries.pop_front();
        } else {
            match self.find(key) {
                Ok(at) if !self.entries[at].is_gap => self.entries[at].is_gap = true,
                Ok(_) | Err(_) => return false,
            }
            self.gaps += 1;
        }
        self.trim();
        true
    }

    fn find(&self, key: &K) -> Result<usize, usize> {
        self.entries.binary_search_by(|entry| entry.key.cmp(key))
    }

    /// Takes the gaps off both ends, and closes all when there are too many.
    #[inline]
    fn trim(&mut self) {
        if self.gaps == 0 {
            return;
        }
        while self.entries.front().is_some_and(|first| first.is_gap) {
            self.entries.pop_front();
            self.gaps -= 1;
        }
        while self.entries.back().is_some_and(|last| last.is_gap) {
            self.entries.pop_back();
            self.gaps -= 1;
        }
        if self.gaps > FEW_GAPS && self.gaps * 2 > self.entries.len() {
            self.entries.retain(|entry| !entry.is_gap);
            self.gaps = 0;
        }
    }
}

/// The keys of a `Sorted`, rising.
#[derive(Clone, Debug)]
pub struct Iter<'s, K> {
    entries: std::collections::vec_deque::Iter<'s, Entry<K>>,
}

impl<'s, K> Iterator for Iter<'s, K> {
    type Item = &'s K;

    fn next(&mut self) -> Option<Self::Item> {
        self.entries.find(|entry| !entry.is_gap).map(|entry| &entry.key)
    }
}

impl<K> DoubleEndedIterator for Iter<'_, K> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.entries.rfind(|entry| !entry.is_gap).map(|entry| &entry.key)
    }
}

impl<'s, K: Copy + Ord> IntoIterator for &'s Sorted<K> {
    type Item = &'s K;
    type IntoIter = Iter<'s, K>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_a_sorted_set(steps in prop::collection::vec((any::<bool>(), 0..60u32), 0..400)) {
            let (mut sorted, mut model) = (Sorted::default(), BTreeSet::new());
            for (insert, key) in steps {
                if insert {
                    prop_assert_eq!(sorted.insert(key), model.insert(key));
                } else {
                    prop_assert_eq!(sorted.remove(&key), model.remove(&key));
                }
                prop_assert_eq!(sorted.iter().collect::<Vec<_>>(), model.iter().collect::<Vec<_>>());
                prop_assert_eq!((sorted.first(), sorted.last()), (model.first(), model.last()));
                prop_assert_eq!((sorted.len(), sorted.is_empty()), (model.len(), model.is_empty()));
                prop_assert_eq!(sorted.contains(&key), model.contains(&key));
                prop_assert!(sorted.iter_from(&key).eq(model.range(key..)));
                prop_assert_eq!(sorted.count_below(&key), model.range(..key).count());
            }
        }
    }
}
