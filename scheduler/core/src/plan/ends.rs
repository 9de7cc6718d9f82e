//! When what runs is over by its limits, and whose ends make room for a job.
//!
//! In: what a job asks for and a pool. Out: those attempts without which it would fit, the earliest ends first, and when
//! the last of them is over at the latest. Nobody is evicted for that; it is what a wait without any plan comes to.

use super::asked::{Asked, TrialIndex};
use super::claim::Relief;
use super::victims::{Candidate, Trial, Where};
use crate::cluster::Cluster;
use crate::ids::{JobId, PoolIndex, TenantIndex};
use crate::job::{Job, Phase, StopReason};
use crate::tenant::Tenant;
use crate::units::{GpuTime, Gpus, Span, Time};

/// When an attempt is over at the latest, by its limit; none when nobody can say.
pub(crate) fn latest_end(cluster: &Cluster, job: &Job, now: Time) -> Option<Time> {
    let policy = &cluster.policy;
    let attempt = job.live_attempt()?;
    let slack = policy.time_limit_slack;
    match job.phase {
        Phase::Launching | Phase::Running => {
            let start = attempt.started_at.unwrap_or_else(|| cluster.launch_due(attempt.placed_at));
            Some(start + job.limit_of(attempt) + job.spec.grace + slack)
        }
        // It starts again in its places.
        Phase::Stopping(StopReason::Resized) => None,
        Phase::Stopping(_) => Some(now + job.spec.grace + slack),
        Phase::AwaitingProof(_) | Phase::Waiting | Phase::Spread | Phase::Ended(_) => None,
    }
}

/// Those whose ends make room for `asked` in `pool`, none of whom can be spared, and when the last of them is over. None
/// when no end helps. The index is as before.
pub(crate) fn by_ends(
    cluster: &Cluster,
    index: &mut TrialIndex<'_>,
    asked: &Asked,
    pool: PoolIndex,
    now: Time,
) -> Option<(Time, Vec<JobId>)> {
    let missions = cluster.tenants().iter().filter(|tenant| tenant.depth == 1);
    let jobs = missions.flat_map(|mission| &mission.attempts).filter_map(|key| cluster.job(key.job));
    let short = over_limits(cluster, asked, pool);
    let candidate = |job: &Job| {
        let attempt = job.live_attempt().filter(|attempt| attempt.pool == pool)?;
        let until = latest_end(cluster, job, now)?;
        let helps = |over: &(TenantIndex, Gpus)| {
            if cluster.is_within(job.spec.tenant, over.0) { attempt.gpus() } else { Gpus::ZERO }
        };
        let (gpus, relief) = (attempt.gpus(), short.iter().map(helps).collect());
        // The later the end the dearer: the search spares the dearest first.
        let ranks = 0..attempt.members.len();
        Some(Candidate { job: job.id, ranks, gpus, loss: GpuTime(until.since(now).0), ripe_at: now, relief })
    };
    let mut candidates: Vec<Candidate> = jobs.filter_map(candidate).collect();
    candidates.sort_unstable_by_key(|candidate| (candidate.loss, candidate.job));
    let missing: Relief = short.iter().map(|(_, gpus)| *gpus).collect();
    let place = Where { asked, pool, now };
    let order: Vec<usize> = (0..candidates.len()).collect();
    let mut trial = Trial::of(cluster, index, &place, &candidates, missing);
    let (_, needed) = trial.victims(&order, &candidates)?;
    let until = needed.iter().map(|at| now + Span(candidates[*at].loss.0)).max()?;
    Some((until, needed.into_iter().map(|at| candidates[at].job).collect()))
}

/// Ceilings above the job that it would pass, and by how much.
fn over_limits(cluster: &Cluster, asked: &Asked, pool: PoolIndex) -> Vec<(TenantIndex, Gpus)> {
    let over = |tenant: &Tenant| {
        let limit = tenant.quota_in(pool).limit?;
        let gpus = (tenant.held_in(pool).used + asked.gpus()).less(limit);
        (gpus > Gpus::ZERO).then_some((tenant.index, gpus))
    };
    cluster.chain(asked.tenant).filter_map(over).collect()
}
