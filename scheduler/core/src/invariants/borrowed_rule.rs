//! Own and borrowed follow from the rule: in each mission and pool the attempts count against the quota, those that must
//! not be evicted first, then in the order of their starts; one that does not fit into what is left is borrowed whole.
//!
//! Source: design 5.2, "own and borrowed are recomputed, not stored".

use super::{Check, ensure};
use crate::cluster::Cluster;
use crate::ids::PoolIndex;
use crate::job::{Job, Phase};
use crate::tenant::Tenant;
use crate::units::Gpus;

pub(super) fn check(cluster: &Cluster) -> Check {
    for mission in &cluster.tenants {
        let counts = |job: &Job| {
            matches!(job.phase, Phase::Launching | Phase::Running | Phase::Stopping(_))
                || cluster.promise(job.id).is_some()
        };
        let mut charged: Vec<&Job> = cluster
            .jobs
            .iter()
            .filter(|job| counts(job))
            .filter(|job| mission.depth == 1 && cluster.mission(job.spec.tenant) == Some(mission.index))
            .collect();
        charged.sort_by_key(|job| (job.spec.preemptible, start_order(cluster, job)));
        let said: Vec<_> = mission.attempts.iter().map(|key| key.job).collect();
        let counted: Vec<_> = charged.iter().map(|job| job.id).collect();
        ensure(said == counted, || format!("tenant {:?} lists {said:?}, counted {counted:?}", mission.name))?;
        for pool in (0..cluster.pools.len()).map(PoolIndex::of) {
            check_pool(cluster, mission, pool, &charged)?;
        }
    }
    Ok(())
}

/// A promise counts in the place that the attempt will have.
fn start_order(cluster: &Cluster, job: &Job) -> Option<u64> {
    let promise = cluster.promise(job.id).map(|promise| promise.start_order);
    promise.or(job.attempt.as_deref().map(|attempt| attempt.start_order))
}

fn check_pool(cluster: &Cluster, mission: &Tenant, pool: PoolIndex, charged: &[&Job]) -> Check {
    let mut left = mission.quota_in(pool).quota.unwrap_or_default();
    let mut borrowed = Gpus::ZERO;
    for job in charged {
        if let Some(promise) = cluster.promise(job.id) {
            if promise.pool == pool && promise.gpus() <= left {
                left -= promise.gpus();
            }
            continue;
        }
        let Some(attempt) = job.live_attempt().filter(|attempt| attempt.pool == pool) else { continue };
        let fits = attempt.gpus() <= left && !attempt.scavenger && !attempt.guest;
        if fits {
            left -= attempt.gpus();
        } else {
            borrowed += attempt.gpus();
        }
        ensure(attempt.borrowed != fits, || {
            format!("job {} of {:?}: borrowed is {}, but {left} GPUs were left", job.id, mission.name, attempt.borrowed)
        })?;
    }
    let said = mission.held_in(pool).borrowed;
    ensure(said == borrowed, || format!("tenant {:?} borrows {said} in pool {pool}, counted {borrowed}", mission.name))
}
