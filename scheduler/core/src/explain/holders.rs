//! Whose GPUs a job waits for: those that are being stopped for it, those that would be evicted for it, or those whose
//! ends make room.

use std::cmp::Reverse;

use crate::cluster::Cluster;
use crate::ids::{JobId, TenantIndex};
use crate::job::Phase;
use crate::plan::{self, Asked, TrialIndex};
use crate::promise::Promise;
use crate::units::{Gpus, Time};

/// Holders that are named; the rest is not.
pub const MAX_HOLDERS: usize = 16;

/// How a holder will give its GPUs back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holds {
    /// It is being stopped.
    Stopping,
    /// It borrows, or is of a lower class, and the next plan would evict it.
    Reclaimable,
    /// It runs until its end.
    ToItsEnd,
}

/// Somebody who holds what a job waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holder {
    /// The job that holds it.
    pub job: JobId,
    /// Its tenant.
    pub tenant: TenantIndex,
    /// All GPUs of its attempt.
    pub gpus: Gpus,
    /// How it will give them back.
    pub how: Holds,
    /// By its limit it is over then at the latest; absent where nobody can say.
    pub until: Option<Time>,
}

/// Those that the next plan would evict, and those that it finds being stopped anyhow.
pub(super) fn of_victims(cluster: &Cluster, victims: &[JobId], now: Time) -> Vec<Holder> {
    let mut found = of_jobs(cluster, victims, Holds::Reclaimable, now);
    for holder in &mut found {
        if cluster.job(holder.job).is_some_and(|job| matches!(job.phase, Phase::Stopping(_))) {
            holder.how = Holds::Stopping;
        }
    }
    found
}

fn of_jobs(cluster: &Cluster, jobs: &[JobId], how: Holds, now: Time) -> Vec<Holder> {
    let holder = |id: &JobId| {
        let job = cluster.job(*id)?;
        let (gpus, until) = (job.live_attempt()?.gpus(), plan::latest_end(cluster, job, now));
        Some(Holder { job: *id, tenant: job.spec.tenant, gpus, how, until })
    };
    let mut found: Vec<Holder> = jobs.iter().filter_map(holder).collect();
    found.sort_by_key(|holder| (Reverse(holder.gpus), holder.job));
    found.truncate(MAX_HOLDERS);
    found
}

/// Those that still hold some of what is promised.
pub(super) fn of_promise(cluster: &Cluster, promise: &Promise, now: Time) -> Vec<Holder> {
    let mut jobs = Vec::new();
    for placed in &promise.members {
        for resident in &cluster.node(placed.node).residents {
            let attempt = cluster.job(resident.job).and_then(|job| job.live_attempt());
            let member = attempt.and_then(|attempt| attempt.members.get(resident.member.at()));
            if member.is_some_and(|member| !member.placed.gpus.and(placed.gpus).is_empty()) {
                jobs.push(resident.job);
            }
        }
    }
    jobs.sort_unstable();
    jobs.dedup();
    of_jobs(cluster, &jobs, Holds::Stopping, now)
}

/// Those whose ends, the earliest first, make room: and when by their limits the last of them is over. Of several pools
/// the one in which that is first.
pub(super) fn by_ends(
    cluster: &Cluster,
    trial: &mut TrialIndex<'_>,
    asked: &Asked,
    now: Time,
) -> (Option<Time>, Vec<Holder>) {
    let found = asked.request.pools.iter().filter_map(|pool| plan::by_ends(cluster, trial, asked, *pool, now));
    match found.min() {
        Some((until, jobs)) => (Some(until), of_jobs(cluster, &jobs, Holds::ToItsEnd, now)),
        None => (None, Vec::new()),
    }
}
