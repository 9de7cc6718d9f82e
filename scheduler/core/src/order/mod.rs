//! Which job is tried next: first the tenant (from the root down), then the job inside it.
//!
//! Comes in: the queues, who holds what, what was refused. Goes out: one job at a time. Within a cycle usage only grows,
//! so that ranks are computed once per cycle and again only for those who got something.

pub(crate) mod share;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::cluster::Cluster;
use crate::ids::{JobId, PriorityIndex, TenantIndex, UserIndex};
use crate::order::share::Rank;
use crate::queue::QueueKey;
use crate::units::Time;

/// The next job of one user: the smallest goes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Turn {
    priority: Reverse<PriorityIndex>,
    back: bool,
    share: u64,
    key: QueueKey,
    user: UserIndex,
    /// How many refusals there had been when it was worked out: it is still right while there are no more.
    refusals: u32,
}

#[derive(Clone, Debug, Default)]
struct Leaf {
    is_built: bool,
    turns: BinaryHeap<Reverse<Turn>>,
}

/// The order of one cycle.
#[derive(Debug)]
pub(crate) struct Order {
    now: Time,
    ranks: Vec<Rank>,
    exhausted: Vec<bool>,
    leaves: Vec<Leaf>,
    /// Jobs that keep away from nodes and found no room, though their class may.
    skipped: Vec<JobId>,
    /// Classes and jobs refused so far.
    refusals: u32,
    /// What `next` gave last.
    current: Option<(TenantIndex, Turn)>,
}

impl Order {
    /// The order as it stands at the start of a cycle.
    pub(crate) fn begin(cluster: &Cluster, now: Time) -> Self {
        let tenants = cluster.tenants.len();
        Self {
            now,
            ranks: cluster.tenants.iter().map(|tenant| share::rank(tenant, now, cluster.policy.half_life)).collect(),
            exhausted: cluster.tenants.iter().map(|tenant| tenant.queued == 0 || tenant.paused).collect(),
            leaves: vec![Leaf::default(); tenants],
            skipped: Vec::new(),
            refusals: 0,
            current: None,
        }
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
            self.ranks[above.index.at()] = share::rank(above, self.now, cluster.policy.half_life);
        }
        self.push(cluster, tenant, turn.priority.0, turn.user);
    }

    /// The class of the job that `next` gave was refused: its user goes on with another.
    pub(crate) fn refused(&mut self, cluster: &Cluster) {
        self.refusals += 1;
        let Some((tenant, turn)) = self.current.take() else { return };
        self.push(cluster, tenant, turn.priority.0, turn.user);
    }

    /// Only this job was refused, not its class.
    pub(crate) fn skip(&mut self, cluster: &Cluster, job: JobId) {
        self.skipped.push(job);
        self.refused(cluster);
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
            self.leaves[tenant.at()].is_built = true;
            for (priority, users) in &cluster.tenant(tenant).queue.levels {
                for user in users.keys() {
                    self.push(cluster, tenant, *priority, *user);
                }
            }
        }
        while let Some(Reverse(turn)) = self.leaves[tenant.at()].turns.pop() {
            let is_fresh = turn.refusals == self.refusals && turn.share == self.share(cluster, tenant, turn.user);
            if is_fresh {
                return Some(turn);
            }
            self.push(cluster, tenant, turn.priority.0, turn.user);
        }
        None
    }

    fn push(&mut self, cluster: &Cluster, tenant: TenantIndex, priority: PriorityIndex, user: UserIndex) {
        if let Some(turn) = self.turn(cluster, tenant, priority, user) {
            self.leaves[tenant.at()].turns.push(Reverse(turn));
        }
    }

    /// The job that a user would start next in this priority class: the oldest of the classes not refused.
    fn turn(&self, cluster: &Cluster, tenant: TenantIndex, priority: PriorityIndex, user: UserIndex) -> Option<Turn> {
        let entry = cluster.tenant(tenant);
        let queue = entry.queue.levels.get(&priority)?.get(&user)?;
        let refused = &cluster.refused;
        let oldest = queue
            .classes
            .without(refused.unplaceable(), refused.inadmissible(tenant))
            .filter_map(|class| queue.buckets[&class].iter().find(|key| !self.skipped.contains(&key.job)))
            .min()?;
        let share = self.share(cluster, tenant, user);
        Some(Turn {
            priority: Reverse(priority),
            back: oldest.back,
            share,
            key: *oldest,
            user,
            refusals: self.refusals,
        })
    }

    /// What a user holds and held in a tenant; it grows with each of the user's starts, whatever their priority.
    fn share(&self, cluster: &Cluster, tenant: TenantIndex, user: UserIndex) -> u64 {
        let ledger = cluster.tenant(tenant).users.get(&user);
        ledger.map_or(0, |ledger| share::of_user(ledger, self.now, cluster.policy.half_life))
    }
}
