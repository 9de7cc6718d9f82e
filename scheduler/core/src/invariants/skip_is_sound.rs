//! A job that is passed over because its class was refused would be refused if it were tried; and a cycle that ran to its
//! end leaves no job behind that could start.
//!
//! Source: design 5.1, "in debug builds and the simulator every skipped class is retried". Both are tried on a copy.

use super::{Check, ensure};
use crate::cluster::Cluster;
use crate::cycle::{Cycled, could_start, wake};
use crate::ids::JobId;
use crate::reserve;

/// Retries what the next cycle would pass over, once the refusals have heard what has happened since the last one.
///
/// # Errors
/// The first job that is passed over and could start.
pub fn check(cluster: &Cluster) -> Check {
    if cluster.refused.is_empty() && cluster.reservations().is_empty() {
        return Ok(());
    }
    let mut copy = cluster.clone();
    copy.refresh_index();
    retry_beside(&mut copy)?;
    wake(&mut copy);
    let skipped = copy.jobs.iter().filter(|job| {
        job.queued.is_some_and(|queued| copy.refused.rules_out(queued.class, job.spec.tenant, job.spec.user))
    });
    let skipped: Vec<JobId> = skipped.map(|job| job.id).collect();
    retry(&mut copy, skipped.into_iter())
}

/// Tries all that is left in the queue right after a cycle that did not stop at its limit.
///
/// # Errors
/// The first job that could start.
pub fn check_cycle(cluster: &Cluster, cycled: Cycled) -> Check {
    if cycled.more {
        return Ok(());
    }
    let queued: Vec<JobId> = cluster.jobs.iter().filter(|job| job.queued.is_some()).map(|job| job.id).collect();
    if queued.is_empty() {
        return Ok(());
    }
    let mut copy = cluster.clone();
    copy.refresh_index();
    retry_beside(&mut copy)?;
    retry(&mut copy, queued.into_iter())
}

/// What is passed over beside the reservations.
fn retry_beside(copy: &mut Cluster) -> Check {
    let passed = reserve::passed_over(copy);
    passed.map_or(Ok(()), |id| Err(format!("job {id} is passed over, and could start beside the reservations")))
}

fn retry(copy: &mut Cluster, mut jobs: impl Iterator<Item = JobId>) -> Check {
    jobs.try_for_each(|id| {
        let why = copy.job(id).and_then(|job| copy.refused.why(job, job.queued?.class));
        ensure(!could_start(copy, id), || format!("job {id} waits, refused for {why:?}, and could start"))
    })
}
