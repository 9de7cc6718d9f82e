//! Records made ahead: between cycles, while the journal writes, what the next cycle will fill in.
//!
//! In: how many of which size will be needed. Out: one at a time, empty, with room for so many members. A cycle that finds
//! none left makes its own.

use crate::cluster::Cluster;
use crate::job::Attempt;
use crate::placement::Members;

/// Size s holds up to 2^s members; the largest size holds any number.
const SIZES: usize = 16;

/// Empty records by the number of members that they have room for.
#[derive(Clone, Debug)]
pub(crate) struct Blanks<T> {
    by_size: [Vec<T>; SIZES],
}

impl<T> Default for Blanks<T> {
    fn default() -> Self {
        Self { by_size: std::array::from_fn(|_| Vec::new()) }
    }
}

impl<T> Blanks<T> {
    /// One with room for `members`, if any is left.
    #[inline]
    pub(crate) fn take(&mut self, members: usize) -> Option<T> {
        self.by_size[size_of(members)].pop()
    }

    /// Makes them up to `want` of a size.
    fn fill(&mut self, size: usize, want: usize, make: impl Fn(usize) -> T) {
        let have = &mut self.by_size[size];
        have.extend((have.len()..want).map(|_| make(1 << size)));
    }
}

/// The size that has room for so many members.
fn size_of(members: usize) -> usize {
    let size = usize::BITS - members.saturating_sub(1).leading_zeros();
    (size as usize).min(SIZES - 1)
}

impl Cluster {
    /// Makes room for all that the next cycle may place, so that it allocates nothing: to be called between cycles, when
    /// nobody waits. Never changes what is decided. O(classes + tenants + what was used up).
    pub fn provision(&mut self) {
        self.refresh_index();
        let idle: usize = self.pools.iter().map(|pool| pool.idle.rounded_up() as usize).sum();
        let most_jobs = idle.min(self.policy.max_placements_per_cycle as usize).min(self.tenants[0].queued);
        let most_members = idle.min(self.policy.max_members_per_cycle as usize);
        let mut want = [0; SIZES];
        let mut largest = 0;
        for (_, class) in self.classes.iter() {
            let (shape, total) = (&class.key.request.shape, class.key.request.total());
            let most = (class.jobs as usize).min(idle / (total.rounded_up() as usize).max(1));
            want[size_of(shape.members() as usize)] += most;
            largest = largest.max(shape.members() as usize);
        }
        for (size, want) in want.into_iter().enumerate() {
            // More than half of the room of a record is used, or it would be smaller.
            let want = want.min(most_jobs).min(most_members / ((1 << size) / 2 + 1));
            self.blank_attempts.fill(size, want, |members| Box::new(Attempt::blank(members)));
            // Two members need no room of their own.
            let of_event = if size > 1 { want } else { 0 };
            self.scratch.blanks.fill(size, of_event, Members::with_capacity);
        }
        self.timers.reserve_launches(most_jobs);
        self.refused.reserve(self.classes.bound(), self.tenants.len());
        for tenant in &mut self.tenants {
            tenant.attempts.reserve(if tenant.depth == 1 { most_jobs.min(tenant.queued) } else { 0 });
        }
        self.order.reserve(&self.tenants);
        self.index.reserve(largest);
        self.scratch.reserve(largest, self.nodes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_room() {
        for members in 1..5000 {
            assert!(1 << size_of(members) >= members && (members == 1 || 1 << (size_of(members) - 1) < members));
        }
    }
}
