//! A job that is passed over because its class was refused would be refused if it were tried; and a cycle that ran to its
//! end leaves no job behind that could start.
//!
//! Source: design 5.1, "in debug builds and the simulator every skipped class is retried". Both are tried on a copy.

use super::{Check, ensure};
use crate::cluster::Cluster;
use crate::cycle::{Cycled, could_start};
use crate::ids::JobId;

/// Retries what the refusals that still hold would pass over.
///
/// # Errors
/// The first job that is passed over and could start.
pub fn check(cluster: &Cluster) -> Check {
    if !cluster.refused.still_hold(cluster.free_version, cluster.division_version) {
        return Ok(());
    }
    let skipped = cluster.jobs.iter().filter(|job| {
        job.queued.is_some_and(|queued| cluster.refused.rules_out(queued.class, job.spec.tenant, job.spec.user))
    });
    retry(cluster, skipped.map(|job| job.id))
}

/// Tries all that is left in the queue right after a cycle that did not stop at its limit.
///
/// # Errors
/// The first job that could start.
pub fn check_cycle(cluster: &Cluster, cycled: Cycled) -> Check {
    if cycled.more {
        return Ok(());
    }
    retry(cluster, cluster.jobs.iter().filter(|job| job.queued.is_some()).map(|job| job.id))
}

fn retry(cluster: &Cluster, mut jobs: impl Iterator<Item = JobId>) -> Check {
    let Some(first) = jobs.next() else { return Ok(()) };
    let mut copy = cluster.clone();
    copy.refresh_index();
    std::iter::once(first)
        .chain(jobs)
        .try_for_each(|job| ensure(!could_start(&mut copy, job), || format!("job {job} waits, and could start")))
}
