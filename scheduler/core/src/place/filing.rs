//! The domains of one level sorted by their slots, filed only when somebody looks for a domain.
//!
//! In: whose slots have changed. Out: the domains that have a given number of slots. Most placements are single members,
//! which change counters and never ask for a domain: they leave a mark here, and the next gang files what is marked.
//! It must never be read while a mark is left for the size that is asked for.

use super::bits::{BitRows, Buckets};

/// Domains with at least this many slots share one bucket, which is then gone through: there are few of them, since
/// each is large.
const MAX_SORTED_SLOTS: usize = 511;

/// For each size of a member from 1 GPU the domains by their slots.
#[derive(Clone, Debug, Default)]
pub(super) struct Filing {
    width: usize,
    /// For g from 1: domains by slots(g), as filed.
    by_slots: Vec<Buckets>,
    /// For each domain and g from 1 the bucket in which it is filed.
    filed: Vec<u16>,
    /// Row g - 1: the domains whose slots(g) may have changed since.
    stale: BitRows,
}

/// How far the filing has come says nothing about the domains; that it is right is checked by `is_sorted`.
impl PartialEq for Filing {
    fn eq(&self, other: &Self) -> bool {
        (self.width, self.filed.len()) == (other.width, other.filed.len())
    }
}

impl Eq for Filing {}

impl Filing {
    /// `count` domains of at most `widest` nodes with up to `width` GPUs; none has a slot.
    pub(super) fn new(count: usize, widest: usize, width: usize) -> Self {
        // One bucket more than there are numbers of slots: the last one is used only where they are too many.
        let highest = |gpus: usize| (widest * (width / gpus) + 1).min(MAX_SORTED_SLOTS);
        Self {
            width,
            by_slots: (1..=width).map(|gpus| Buckets::new(count, highest(gpus))).collect(),
            filed: vec![0; count * width],
            stale: BitRows::new(width, count),
        }
    }

    /// The slots of a domain have changed for members of these sizes: bit g for g GPUs.
    #[inline]
    pub(super) fn mark(&mut self, domain: usize, mut sizes: u64) {
        while sizes != 0 {
            self.stale.insert(sizes.trailing_zeros() as usize - 1, domain);
            sizes &= sizes - 1;
        }
    }

    /// Files what is marked for members of `gpus` each; `slots` says what a domain has now.
    #[inline]
    pub(super) fn settle(&mut self, gpus: usize, slots: impl Fn(usize) -> u32) {
        let buckets = &mut self.by_slots[gpus - 1];
        let (filed, width) = (&mut self.filed, self.width);
        self.stale.drain(gpus - 1, |domain| {
            let filed = &mut filed[domain * width + gpus - 1];
            let now = buckets.highest().min(slots(domain) as usize);
            buckets.shift(domain, usize::from(*filed), now);
            *filed = now as u16;
        });
    }

    /// The domains by slots(`gpus`). Only when settled.
    #[inline]
    pub(super) fn by_slots(&self, gpus: usize) -> &Buckets {
        debug_assert!(self.stale.is_row_empty(gpus - 1), "looks for {gpus} GPUs before what has changed is filed");
        &self.by_slots[gpus - 1]
    }

    /// Whether `domain`, which has `slots` for members of `gpus`, lies where it belongs and nowhere else, or is marked.
    pub(super) fn is_sorted(&self, domain: usize, gpus: usize, slots: u32) -> bool {
        let buckets = &self.by_slots[gpus - 1];
        let filed = usize::from(self.filed[domain * self.width + gpus - 1]);
        let lies_there = (1..=buckets.highest()).all(|number| buckets.contains(number, domain) == (number == filed));
        let belongs = buckets.highest().min(slots as usize);
        lies_there && (filed == belongs || self.stale.contains(gpus - 1, domain))
    }
}
