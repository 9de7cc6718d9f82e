//! When it is worth to take back what was lent.
//!
//! In: a job that is blocked inside its quota, and since when its class is. Out: the time from which on others may be
//! evicted for it. The rule: lent GPUs are back within the tenant's `reclaim_within` of the moment at which its jobs came
//! to wait inside its quota. Until then what runs may end by itself; where the plan in time says that the job starts by
//! then anyhow, nobody is evicted. Where it does not, victims are told so early that they are gone in time.
//! It must never hold a job back from GPUs that are free.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::asked::Asked;
use super::claim;
use crate::cluster::Cluster;
use crate::ids::{ClassIndex, JobId, PoolIndex, TenantIndex};
use crate::job::Job;
use crate::reserve;
use crate::units::{Span, Time};

/// A class of a tenant that waits inside its quota in a pool.
type Key = (ClassIndex, TenantIndex, PoolIndex);

/// Since when classes wait inside their quota. Derived: after a restart all of them wait anew.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims {
    since: BTreeMap<Key, Claim>,
}

#[derive(Clone, Copy, Debug)]
struct Claim {
    since: Time,
    /// It was met since `keep_seen`.
    is_seen: bool,
}

impl Claims {
    pub(super) fn since(&mut self, key: Key, now: Time) -> Time {
        let claim = self.since.entry(key).or_insert(Claim { since: now, is_seen: true });
        claim.is_seen = true;
        claim.since
    }

    /// The same, where it is known.
    pub(super) fn known_since(&self, key: Key) -> Option<Time> {
        self.since.get(&key).map(|claim| claim.since)
    }

    /// After all blocked classes were looked at: forgets those that do not wait inside their quota any more.
    pub(super) fn keep_seen(&mut self, is_cut_off: bool) {
        if !is_cut_off {
            self.since.retain(|_, claim| std::mem::replace(&mut claim.is_seen, false));
        }
    }

    /// No job waits in the class any more.
    pub(super) fn forget_class(&mut self, class: ClassIndex) {
        self.since.retain(|key, _| key.0 != class);
    }
}

/// By pool in which a job waits inside its quota, the time from which on others may be evicted for it.
pub(super) fn patience(cluster: &mut Cluster, id: JobId, asked: &Asked, now: Time) -> SmallVec<[(PoolIndex, Time); 1]> {
    let within = reclaim_within(cluster, asked.tenant);
    if within == Span::ZERO || !cluster.policy.plan_in_time {
        return SmallVec::new();
    }
    let due = |pool: &PoolIndex| Some((*pool, due(cluster, id, asked, *pool, within, now)?));
    asked.request.pools.iter().filter_map(due).collect()
}

fn due(cluster: &mut Cluster, id: JobId, asked: &Asked, pool: PoolIndex, within: Span, now: Time) -> Option<Time> {
    if !claim::is_claim(cluster, asked, pool) {
        return None;
    }
    let job = cluster.job(id)?;
    let class = job.queued?.class;
    let since = cluster.plans.claims.since((class, job.spec.tenant, pool), now);
    let deadline = since + within;
    let notice = cluster.policy.default_grace + cluster.policy.kill_bound;
    let in_time = |time: Time| Time(time.0.saturating_sub(notice.0));
    // What ends by itself needs no notice; where it has not ended by then, it is not waited for any longer.
    Some(match cluster.reservation(id).filter(|reservation| reservation.from <= deadline) {
        Some(reservation) if reserve::is_lent(cluster, reservation, now) => in_time(reservation.from),
        Some(reservation) => reservation.from,
        None => in_time(deadline),
    })
}

/// What may be taken back for a job in the queue that waits inside its quota, each with the time by which it is back: at the
/// deadline, or when it has run its minimum.
pub(crate) fn returns(cluster: &Cluster, id: JobId, pool: PoolIndex, now: Time) -> Vec<(Time, JobId)> {
    let Some(job) = cluster.job(id).filter(|_| !super::has_failed_too_often(cluster, id)) else { return Vec::new() };
    let mut found = claim::returns(cluster, &Asked::of(job), pool, now);
    let deadline = deadline(cluster, job, pool, now);
    found.iter_mut().for_each(|(time, _)| *time = deadline.max(*time));
    found
}

/// Until when lent GPUs need not be back for a job in the queue that waits inside its quota.
pub(crate) fn deadline(cluster: &Cluster, job: &Job, pool: PoolIndex, now: Time) -> Time {
    let class = job.queued.map(|queued| queued.class);
    let since = class.and_then(|class| cluster.plans.claims.since.get(&(class, job.spec.tenant, pool)));
    since.map_or(now, |claim| claim.since) + reclaim_within(cluster, job.spec.tenant)
}

/// How long jobs of a tenant wait inside its quota before others are evicted for them.
pub(super) fn reclaim_within(cluster: &Cluster, tenant: TenantIndex) -> Span {
    let stated = cluster.chain(tenant).find_map(|tenant| tenant.reclaim_within);
    stated.unwrap_or(cluster.policy.default_reclaim_within)
}
