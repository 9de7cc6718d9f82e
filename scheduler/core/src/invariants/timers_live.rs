//! The timers are exactly those that the jobs imply: none is missing, and none is left of something that is over.
//!
//! Source: design 5.3; a timer without its job would be handled for ever, one that is missing never.

use std::collections::BTreeSet;

use super::{Check, ensure};
use crate::cluster::Cluster;
use crate::job::Phase;
use crate::timers::Timer;

pub(super) fn check(cluster: &Cluster) -> Check {
    let policy = &cluster.policy;
    let mut wanted = BTreeSet::new();
    for job in cluster.jobs.iter() {
        if let Some(time) = job.not_before {
            wanted.insert((time, Timer::NotBefore(job.id)));
        }
        let attempt = job.attempt.as_deref();
        match (job.phase, attempt, attempt.and_then(|attempt| attempt.started_at), job.ended_at) {
            (Phase::Launching, Some(attempt), _, _) => {
                let placed = attempt.placed_at.max(cluster.counted_from);
                wanted.insert((placed + policy.launch_deadline, Timer::Launch(job.id, attempt.number)));
            }
            (Phase::Running, Some(attempt), Some(started), _) => {
                let started = started.max(cluster.counted_from);
                let limit = started + job.limit_of(attempt) + job.spec.grace + policy.time_limit_slack;
                wanted.insert((limit, Timer::TimeLimit(job.id, attempt.number)));
            }
            (Phase::Ended(_), _, _, Some(ended)) => {
                wanted.insert((ended + policy.keep_ended, Timer::Forget(job.id)));
            }
            _ => {}
        }
    }
    for tenant in &cluster.tenants {
        wanted.extend(tenant.budget.map(|budget| (budget.ends_at(), Timer::BudgetPeriod(tenant.index))));
    }
    wanted.extend(cluster.calendar().map(|dated| match (dated.standing, dated.until) {
        (Some(_), Some(until)) => (until, Timer::QuotaEnd(dated.key)),
        (Some(_), None) | (None, _) => (dated.key.from, Timer::QuotaBegin(dated.key)),
    }));
    wanted.extend(cluster.bookings().filter_map(crate::booking::Booking::timer));
    let set: BTreeSet<_> = cluster.timers.iter().collect();
    let mut differ = set.symmetric_difference(&wanted);
    match differ.next() {
        None => Ok(()),
        Some(timer) => ensure(false, || {
            let fault = if wanted.contains(timer) { "is missing" } else { "belongs to nothing" };
            format!("timer {timer:?} {fault}")
        }),
    }
}
