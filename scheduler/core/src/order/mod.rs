//! Which job is tried next: first the tenant (from the root down), then the job inside it.
//!
//! Comes in: the queues, who holds what, what was refused. Goes out: one job at a time. Within a cycle usage only grows,
//! so that ranks are computed once per cycle and again only for those who got something.

pub(crate) mod share;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use crate::cluster::Cluster;
use crate::ids::{ClassIndex, JobId, PriorityIndex, TenantIndex, UserIndex};
use crate::order::share::Rank;
use crate::queue::QueueKey;
use crate::tenant::Tenant;
use crate::units::Time;

/// The next job of one user: the smallest goes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Turn {
    priority: Reverse<PriorityIndex>,
    back: bool,
    share: u64,
    key: QueueKey,
    user: UserIndex,
    /// The class of the job: once that is refused it is another's turn.
    class: ClassIndex,
}

#[derive(Clone, Debug, Default)]
struct Leaf {
    is_built: bool,
    /// Jobs of only one user in one priority class wait: nobody's share decides.
    is_alone: bool,
    turns: BinaryHeap<Reverse<Turn>>,
}

/// The order of one cycle. Its memory is kept from cycle to cycle.
#[derive(Clone, Debug, Default)]
pub(crate) struct Order {
    now: Time,
    ranks: Vec<Rank>,
    exhausted: Vec<bool>,
    leaves: Vec<Leaf>,
    /// Jobs that keep away from nodes and found no room, though their class may.
    skipped: BTreeSet<JobId>,
    /// What `next` gave last.
    current: Option<(TenantIndex, Turn)>,
}

impl Order {
    /// The order as it stands at the start of a cycle. `end` gives its memory back.
    pub(crate) fn begin(cluster: &mut Cluster, now: Time) -> Self {
        let mut order = std::mem::take(&mut cluster.order);
        order.now = now;
        order.skipped.clear();
        order.current = None;
        order.ranks.clear();
        order.exhausted.clear();
        for tenant in &cluster.tenants {
            let is_out = tenant.queued == 0 || tenant.paused;
            let rank = || share::rank(tenant, now, cluster.policy.half_life);
            order.ranks.push(if is_out { Rank::NONE } else { rank() });
            order.exhausted.push(is_out);
        }
        order.leaves.resize_with(cluster.tenants.len(), Leaf::default);
        for leaf in &mut order.leaves {
            leaf.is_built = false;
            leaf.turns.clear();
        }
        order
    }

    /// Makes room for the order of a cycle.
    pub(crate) fn reserve(&mut self, tenants: &[Tenant]) {
        self.ranks.reserve(tenants.len().saturating_sub(self.ranks.len()));
        self.exhausted.reserve(tenants.len().saturating_sub(self.exhausted.len()));
        self.leaves.resize_with(tenants.len(), Leaf::default);
        for (leaf, tenant) in self.leaves.iter_mut().zip(tenants) {
            // One turn for each user of each level, and while one is worked out anew one more.
            let turns: usize = tenant.queue.levels.values().map(|users| users.len() + 1).sum();
            leaf.turns.reserve(turns.saturating_sub(leaf.turns.len()));
        }
    }

    /// The cycle is over.
    pub(crate) fn end(self, cluster: &mut Cluster) {
        cluster.order = self;
    }

    /// The job to try next; none when every job that is left was refused.
    pub(crate) fn next(&mut self, cluster: &Cluster) -> Option<JobId> {
        while !self.exhausted[TenantIndex::ROOT.at()] {
            let tenant = self.descend(cluster);
            if let Some(turn) = self.next_in(cluster, tenant) {
                self.current = Some((tenant, turn));
                return Some(turn.key.job);
            }
            self.exhausted[tenant.at()] = true;
        }
        None
    }

    /// The job that `next` gave was placed: its tenant and user move back.
    pub(crate) fn placed(&mut self, cluster: &Cluster) {
        let Some((tenant, turn)) = self.current.take() else { return };
        for above in cluster.chain(tenant) {
            // Who has no siblings is ranked against nobody.
            if above.parent.is_some_and(|parent| cluster.tenant(parent).children.len() > 1) {
                self.ranks[above.index.at()] = share::rank(above, self.now, cluster.policy.half_life);
            }
        }
        self.push(cluster, tenant, turn.priority.0, turn.user, Some(&turn.key));
    }

    /// The class of the job that `next` gave was refused: its user goes on with another.
    pub(crate) fn refused(&mut self, cluster: &Cluster) {
        let Some((tenant, turn)) = self.current.take() else { return };
        self.push(cluster, tenant, turn.priority.0, turn.user, Some(&turn.key));
    }

    /// What `next` gave is looked at once more, as things stand now.
    pub(crate) fn again(&mut self) {
        if let Some((tenant, turn)) = self.current.take() {
            self.leaves[tenant.at()].turns.push(Reverse(turn));
        }
    }

    /// Only this job was refused, not its class.
    pub(crate) fn skip(&mut self, cluster: &Cluster, job: JobId) {
        self.skipped.insert(job);
        self.refused(cluster);
    }

    /// Nothing more of this tenant, nor of those below it.
    pub(crate) fn leave(&mut self, tenant: TenantIndex) {
        self.current = None;
        self.exhausted[tenant.at()] = true;
    }

    /// From the root down to the best tenant that is not exhausted: a leaf, or one whose children all are.
    fn descend(&self, cluster: &Cluster) -> TenantIndex {
        let mut at = TenantIndex::ROOT;
        loop {
            let children = cluster.tenant(at).children.iter().copied();
            let open = children.filter(|child| !self.exhausted[child.at()]);
            match open.min_by_key(|child| (self.ranks[child.at()], *child)) {
                Some(child) => at = child,
                None => return at,
            }
        }
    }

    fn next_in(&mut self, cluster: &Cluster, tenant: TenantIndex) -> Option<Turn> {
        if !self.leaves[tenant.at()].is_built {
            let levels = &cluster.tenant(tenant).queue.levels;
            let leaf = &mut self.leaves[tenant.at()];
            leaf.is_built = true;
            leaf.is_alone = levels.len() == 1 && levels.values().all(|users| users.len() == 1);
            for (priority, users) in levels {
                for user in users.keys() {
                    self.push(cluster, tenant, *priority, *user, None);
                }
            }
        }
        while let Some(Reverse(turn)) = self.leaves[tenant.at()].turns.pop() {
            // Within a cycle refusals only grow: the oldest of the classes not refused stays it until it is refused itself.
            let is_fresh = !cluster.refused.passes_over(turn.class, tenant, turn.user);
            if is_fresh && turn.share == self.share(cluster, tenant, turn.user) {
                return Some(turn);
            }
            self.push(cluster, tenant, turn.priority.0, turn.user, Some(&turn.key));
        }
        None
    }

    /// Puts the next job of a user in; `from` is the last that was given: whatever is older was refused.
    fn push(
        &mut self,
        cluster: &Cluster,
        tenant: TenantIndex,
        priority: PriorityIndex,
        user: UserIndex,
        from: Option<&QueueKey>,
    ) {
        if let Some(turn) = self.turn(cluster, tenant, priority, user, from) {
            self.leaves[tenant.at()].turns.push(Reverse(turn));
        }
    }

    /// The job that a user would start next in this priority class: the oldest of the classes not refused. Refusals only
    /// grow and jobs only leave within a cycle, so that it is never older than the last.
    fn turn(
        &self,
        cluster: &Cluster,
        tenant: TenantIndex,
        priority: PriorityIndex,
        user: UserIndex,
        from: Option<&QueueKey>,
    ) -> Option<Turn> {
        let queue = cluster.tenant(tenant).queue.levels.get(&priority)?.get(&user)?;
        let refused = &cluster.refused;
        let closed = [Some(refused.unplaceable()), Some(refused.inadmissible(tenant)), refused.capped(tenant, user)];
        let (key, class) = match self.skipped.is_empty() {
            true => queue.oldest_without(closed, from)?,
            false => queue.oldest_beside(closed, from, &self.skipped)?,
        };
        let share = self.share(cluster, tenant, user);
        Some(Turn { priority: Reverse(priority), back: key.back, share, key, user, class })
    }

    /// What a user holds and held in a tenant; it grows with each of the user's starts, whatever their priority.
    fn share(&self, cluster: &Cluster, tenant: TenantIndex, user: UserIndex) -> u64 {
        if self.leaves[tenant.at()].is_alone {
            return 0;
        }
        let ledger = cluster.tenant(tenant).users.get(&user);
        ledger.map_or(0, |ledger| share::of_user(ledger, self.now, cluster.policy.half_life))
    }
}
