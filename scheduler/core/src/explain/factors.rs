//! What a job's place in the order follows from, in the order in which it counts: its tenants from the mission down, its
//! priority, its user, its age.

use crate::cluster::Cluster;
use crate::ids::{PriorityIndex, TenantIndex, UserIndex};
use crate::job::Job;
use crate::order::share::{self, Rank};
use crate::tenant::Tenant;
use crate::units::{Gpus, Span, Time};

/// Where a tenant stands among its siblings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Which tenant.
    pub tenant: TenantIndex,
    /// GPUs held in all pools.
    pub used: Gpus,
    /// GPUs guaranteed in all pools.
    pub quota: Gpus,
    /// Under its quota: such tenants go first, the one that uses the smallest part of it before the others.
    pub is_under_quota: bool,
    /// For a borrower: GPUs above quota, now and decayed, in thousandths; over `weight` this orders borrowers.
    pub above_milli: u64,
    /// Share of the surplus.
    pub weight: u32,
    /// From 1: its place among the siblings in which jobs wait.
    pub place: usize,
    /// How many those are.
    pub of: usize,
}

/// What a job's place in the order follows from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Factors {
    /// From the mission down to the job's own tenant.
    pub tenants: Vec<Standing>,
    /// Its class of priority: the highest goes first.
    pub priority: PriorityIndex,
    /// It goes before the others of its priority: it lost its GPUs through no fault of its own.
    pub is_front: bool,
    /// What its user holds in the tenant, now and decayed, in thousandths of a GPU: the smallest goes first.
    pub user_milli: u64,
    /// From 1: the user's place among those whose jobs wait here in the same priority.
    pub user_place: usize,
    /// How many those are.
    pub users: usize,
    /// How long it has waited: the oldest goes first.
    pub age: Span,
}

pub(super) fn of(cluster: &Cluster, job: &Job, now: Time) -> Factors {
    let mut tenants: Vec<Standing> =
        cluster.chain(job.spec.tenant).filter(|tenant| tenant.depth > 0).map(|t| standing(cluster, t, now)).collect();
    tenants.reverse();
    let half_life = cluster.policy.half_life;
    let tenant = cluster.tenant(job.spec.tenant);
    let share = |user: &UserIndex| tenant.users.get(user).map_or(0, |ledger| share::of_user(ledger, now, half_life));
    let user_milli = share(&job.spec.user);
    let waiting = tenant.queue.levels.get(&job.spec.priority).into_iter().flat_map(|users| users.keys());
    let (mut users, mut before) = (0, 0);
    for user in waiting.filter(|user| **user != job.spec.user) {
        users += 1;
        before += usize::from((share(user), *user) < (user_milli, job.spec.user));
    }
    Factors {
        tenants,
        priority: job.spec.priority,
        is_front: job.front,
        user_milli,
        user_place: before + 1,
        users: users + 1,
        age: now.since(job.submitted_at),
    }
}

fn standing(cluster: &Cluster, tenant: &Tenant, now: Time) -> Standing {
    let half_life = cluster.policy.half_life;
    let rank = |tenant: &Tenant| (share::rank(tenant, now, half_life), tenant.index);
    let own = rank(tenant);
    let siblings = tenant.parent.map(|parent| cluster.tenant(parent).children.as_slice()).unwrap_or_default();
    let others = siblings.iter().map(|sibling| cluster.tenant(*sibling));
    let waiting = others.filter(|other| other.queued > 0 && !other.paused && other.index != tenant.index);
    let (mut of, mut before) = (1, 0);
    for other in waiting {
        of += 1;
        before += usize::from(rank(other) < own);
    }
    Standing {
        tenant: tenant.index,
        used: tenant.used(),
        quota: tenant.quota(),
        is_under_quota: matches!(own.0, Rank::UnderQuota(_)),
        above_milli: share::of_borrower(tenant, now, half_life),
        weight: tenant.weight,
        place: before + 1,
        of,
    }
}
