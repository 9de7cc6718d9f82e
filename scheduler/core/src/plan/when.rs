//! By when what was lent is back.
//!
//! In: a job that waits inside its quota, and since when jobs like it do. Out: the time by which lent GPUs are back for it
//! whatever that costs: `reclaim_within` after the later of that moment and the one at which the oldest job of its class
//! came to wait; where no tenant above it states one, `policy.reclaim_patience` after it. Before that time others are
//! evicted for it only where that pays (`eager`).
//! It must never hold a job back from GPUs that are free.

use smallvec::SmallVec;

use super::asked::Asked;
use super::claim;
use crate::cluster::Cluster;
use crate::ids::{JobId, PoolIndex, TenantIndex};
use crate::job::Job;
use crate::units::{Span, Time};
use crate::wanted::Wanted;

/// By pool in which a job waits inside its quota, the time by which lent GPUs are back for it.
pub(crate) fn deadlines(cluster: &Cluster, job: &Job, now: Time) -> SmallVec<[(PoolIndex, Time); 1]> {
    let asked = Asked::of(job);
    let is_claim = |pool: &PoolIndex| claim::is_claim(cluster, &asked, *pool);
    let pools = asked.request.pools.iter().copied().filter(is_claim);
    pools.map(|pool| (pool, deadline(cluster, job, pool, now))).collect()
}

/// By when lent GPUs are back for a job that waits inside its quota.
pub(crate) fn deadline(cluster: &Cluster, job: &Job, pool: PoolIndex, now: Time) -> Time {
    let waits = |job: &Job| {
        let over = job.attempt.as_deref().and_then(|attempt| attempt.ended_at);
        over.unwrap_or(job.submitted_at)
    };
    let tenant = cluster.tenant(job.spec.tenant);
    let of_class = job.queued.into_iter().flat_map(|queued| tenant.queue.oldest_of(queued.class));
    let oldest = of_class.filter_map(|job| cluster.job(job)).map(waits).min();
    let since = cluster.wanted.get(&Wanted::by(job, pool)).copied().unwrap_or(now);
    let since = oldest.map_or(since, |oldest| oldest.max(since));
    since + reclaim_within(cluster, job.spec.tenant)
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

/// How long jobs of a tenant wait inside its quota at most before what is lent is back.
fn reclaim_within(cluster: &Cluster, tenant: TenantIndex) -> Span {
    let stated = cluster.chain(tenant).find_map(|tenant| tenant.reclaim_within);
    match stated.unwrap_or(cluster.policy.default_reclaim_within) {
        Span::ZERO => cluster.policy.reclaim_patience + cluster.policy.default_grace + cluster.policy.kill_bound,
        within => within,
    }
}
