//! What a cycle started lies within every limit above it, and what must not be evicted lies within every quota above it.
//!
//! Source: design 5.2. A later cut of a limit or quota may leave an overhang, so that only a cycle's own starts are judged;
//! within a cycle usage only grows, so that its end is the worst moment. What is promised is not held yet: its GPUs may be
//! those of a victim in the same tenant, which counts until it is gone.

use super::{Check, ensure};
use crate::cluster::Cluster;
use crate::event::Event;

pub(super) fn check(cluster: &Cluster, events: &[Event]) -> Check {
    for event in events {
        let Event::JobPlaced { job, pool, .. } = event else { continue };
        let Some(job) = cluster.job(*job) else { continue };
        for tenant in cluster.chain(job.spec.tenant) {
            let (held, quota) = (tenant.held_in(*pool), tenant.quota_in(*pool));
            ensure(!tenant.paused, || format!("job {} started in paused {:?}", job.id, tenant.name))?;
            let holds = held.used - held.promised;
            ensure(quota.limit.is_none_or(|limit| holds <= limit), || {
                format!("job {} started, and {:?} holds {holds} of {:?}", job.id, tenant.name, quota.limit)
            })?;
            ensure(job.spec.preemptible || quota.quota.is_none_or(|quota| held.fixed <= quota), || {
                format!("job {} started for good, and {:?} holds {held:?} of {quota:?}", job.id, tenant.name)
            })?;
        }
        let borrowed = job.live_attempt().is_some_and(|attempt| attempt.borrowed);
        ensure(job.spec.preemptible || !borrowed, || format!("job {} must not be evicted, and borrows", job.id))?;
    }
    Ok(())
}
