//! The GPUs of one node as a bit set.

use std::fmt;

use crate::units::Gpus;

/// More GPUs than this on one node are refused when the node joins.
pub const MAX_GPUS_PER_NODE: usize = 32;

/// A set of the GPUs of one node, by their index there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GpuSet(pub u32);

impl GpuSet {
    /// No GPU.
    pub const EMPTY: GpuSet = GpuSet(0);

    /// The GPUs 0 to `count` - 1.
    pub fn first(count: usize) -> Self {
        debug_assert!(count <= MAX_GPUS_PER_NODE);
        if count >= 32 { Self(u32::MAX) } else { Self((1 << count) - 1) }
    }

    /// Only the GPU with this index.
    pub fn single(index: usize) -> Self {
        Self(1 << index)
    }

    /// How many there are.
    #[inline]
    pub fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// How many there are, as GPUs.
    #[inline]
    pub fn count(self) -> Gpus {
        Gpus::whole(self.len())
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all of `other` are in here.
    #[inline]
    pub fn contains(self, other: GpuSet) -> bool {
        self.0 & other.0 == other.0
    }

    /// Those in both.
    #[inline]
    pub fn and(self, other: GpuSet) -> GpuSet {
        GpuSet(self.0 & other.0)
    }

    /// Those in either.
    #[inline]
    pub fn with(self, other: GpuSet) -> GpuSet {
        GpuSet(self.0 | other.0)
    }

    /// Those in here and not in `other`.
    #[inline]
    pub fn without(self, other: GpuSet) -> GpuSet {
        GpuSet(self.0 & !other.0)
    }

    /// The lowest `count` of them; all when there are fewer.
    pub fn lowest(self, count: usize) -> GpuSet {
        let mut rest = self.0;
        let mut taken = 0;
        for _ in 0..count {
            let bit = rest & rest.wrapping_neg();
            taken |= bit;
            rest ^= bit;
        }
        GpuSet(taken)
    }

    /// The indices, rising.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            (rest != 0).then(|| {
                let index = rest.trailing_zeros() as usize;
                rest &= rest - 1;
                index
            })
        })
    }
}

impl FromIterator<usize> for GpuSet {
    fn from_iter<I: IntoIterator<Item = usize>>(indices: I) -> Self {
        indices.into_iter().fold(Self::EMPTY, |set, index| set.with(Self::single(index)))
    }
}

impl fmt::Debug for GpuSet {
    /// As `0-3,6`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        let mut start = 0;
        while start < MAX_GPUS_PER_NODE {
            if self.0 >> start & 1 == 0 {
                start += 1;
                continue;
            }
            let mut end = start;
            while end + 1 < MAX_GPUS_PER_NODE && self.0 >> (end + 1) & 1 == 1 {
                end += 1;
            }
            if !first {
                write!(f, ",")?;
            }
            first = false;
            if end == start {
                write!(f, "{start}")?
            } else {
                write!(f, "{start}-{end}")?
            }
            start = end + 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_runs() {
        let set: GpuSet = [0, 1, 2, 5, 7, 31].into_iter().collect();
        assert_eq!(format!("{set:?}"), "0-2,5,7,31");
        assert_eq!(set.lowest(4).iter().collect::<Vec<_>>(), [0, 1, 2, 5]);
        assert_eq!(GpuSet::first(32).count(), Gpus::whole(32));
    }
}
