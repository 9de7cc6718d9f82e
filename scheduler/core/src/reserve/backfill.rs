//! Backfill: jobs that start on what is set aside, because they are over before it is wanted.
//!
//! In: the queue in its order, after the plain cycle. Out: starts. A job sees its own reservation, and of the others those
//! that begin after it is over at the latest. The first blocked jobs are tried first, then the rest in order, a bounded
//! number of them.
//! It must never let a job overlap a reservation of another.

use std::collections::BTreeMap;

use crate::admit::quota;
use crate::cluster::Cluster;
use crate::cycle::{self, Cycled, Found, Pay};
use crate::decide::{Events, emit};
use crate::event::Event;
use crate::ids::{ClassIndex, JobId, PoolIndex, TenantIndex};
use crate::job::Job;
use crate::order::Order;
use crate::placement::Members;
use crate::refused::Refused;
use crate::reserve::{Reservation, is_inside_quota, over_by};
use crate::units::{Gpus, Span, Time};

/// Jobs passed over for each one that is tried.
const STEPS_PER_TRY: u32 = 4;

/// The state that was searched in vain.
pub(super) type Seen = (u64, u64, u64);

/// Starts what may start beside the reservations.
pub(crate) fn fill(cluster: &mut Cluster, now: Time, cycled: &mut Cycled, out: &mut Events) {
    let seen = (cluster.free_version, cluster.division_version, cluster.queue_version);
    if cluster.reserved.filled == Some(seen) || !holds_idle(cluster) {
        return;
    }
    let jobs = cycled.jobs;
    let heads: Vec<JobId> = cluster.reserved.list.iter().map(|reservation| reservation.job).collect();
    for job in heads {
        if cluster.job(job).is_some_and(|job| job.queued.is_some()) {
            start(cluster, job, now, cycled, out);
        }
    }
    rest(cluster, now, cycled, out);
    if cycled.jobs > jobs {
        // What could have started where these did may now have others evicted.
        cluster.plans.look_again();
        cycled.more = true;
    }
    cluster.reserved.filled = Some((cluster.free_version, cluster.division_version, cluster.queue_version));
}

fn holds_idle(cluster: &Cluster) -> bool {
    cluster.reserved.nodes().any(|node| !super::idle_aside(cluster, node).is_empty())
}

/// The jobs behind the first ones, in their order.
fn rest(cluster: &mut Cluster, now: Time, cycled: &mut Cycled, out: &mut Events) {
    let fresh = Refused::fresh(cluster.tenants.len());
    let refused = std::mem::replace(&mut cluster.refused, fresh);
    let mut order = Order::begin(cluster, now);
    let (mut tries, most) = (0, cluster.policy.max_backfill_per_cycle);
    // By class and tenant the shortest limit that found no place: longer ones find none either.
    let mut in_vain: BTreeMap<(ClassIndex, TenantIndex), Span> = BTreeMap::new();
    for _ in 0..most.saturating_mul(STEPS_PER_TRY) {
        let Some(id) = order.next(cluster).filter(|_| tries < most) else { break };
        let job = cluster.job(id).expect("the order gives jobs that exist");
        let class = (job.queued.expect("the order gives queued jobs").class, job.spec.tenant);
        let limit = job.spec.time_limit;
        if job.avoid.is_empty() && in_vain.get(&class).is_some_and(|shortest| *shortest <= limit) {
            order.skip(cluster, id);
            continue;
        }
        tries += 1;
        if start(cluster, id, now, cycled, out) {
            order.placed(cluster);
        } else {
            in_vain.insert(class, limit);
            order.skip(cluster, id);
        }
    }
    order.end(cluster);
    cluster.refused = refused;
    cluster.refused.keep_only(&cluster.classes);
}

fn job_of(cluster: &Cluster, id: JobId) -> &Job {
    cluster.job(id).expect("only jobs that exist are tried")
}

/// Starts a job if it finds a place beside the reservations. What starts inside its quota comes before every borrower; a
/// borrower that can be gone in time may overlap what a job inside its quota waits for: that eviction is planned.
fn start(cluster: &mut Cluster, id: JobId, now: Time, cycled: &mut Cycled, out: &mut Events) -> bool {
    let job = job_of(cluster, id);
    let Ok(scavenger) = cycle::may_pay(cluster, job, Pay::IfItFits) else { return false };
    let (request, tenant, preemptible) = (job.spec.request.clone(), job.spec.tenant, job.spec.preemptible);
    let (want, over_by) = (job.gpus(), over_by(&cluster.policy, &job.spec, now));
    for &pool in &request.pools {
        if quota::may_start(cluster, tenant, pool, want, preemptible).is_err() {
            continue;
        }
        let is_own = is_inside_quota(cluster, tenant, pool, want);
        let Some(members) = place_beside(cluster, id, pool, now) else { continue };
        cycled.jobs += 1;
        cycled.members += members.len() as u32;
        let is_passed = |other: &Reservation| is_own && !other.is_own && other.from < over_by && other.job != id;
        if let Some(left) = cluster.without_overlapped(&members, is_passed) {
            emit(cluster, now, Event::Planned { reservations: left }, out);
        }
        cycle::start(cluster, id, Found { pool, members, scavenger }, now, out);
        return true;
    }
    false
}

/// A place for a job among what is free and what is set aside for itself, for later, or for those that it passes.
fn place_beside(cluster: &mut Cluster, id: JobId, pool: PoolIndex, now: Time) -> Option<Members> {
    let mut index = std::mem::take(&mut cluster.index);
    let mark = index.checkpoint();
    let lifted = super::lift_for(cluster, &mut index, job_of(cluster, id), pool, now);
    let job = cluster.jobs.get(id).expect("only jobs that exist are tried");
    let (request, steps) = (&job.spec.request, cluster.policy.search_steps);
    let found = (lifted > Gpus::ZERO).then(|| index.place(request, pool, &job.avoid, steps, &mut cluster.scratch).ok());
    index.rollback(mark);
    cluster.index = index;
    found.flatten()
}
