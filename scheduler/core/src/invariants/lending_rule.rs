//! No start breaks the lending rule: what a cycle has placed is not part of what is lent for longer than its owners can
//! wait.
//!
//! Source: design 5.2, "for every r, the GPUs borrowed by attempts with return time >= r never exceed the idle lendable
//! quota of missions with deadline >= r", as `admit/lending.rs` mends it.

use super::{Check, ensure};
use crate::admit::lending;
use crate::cluster::Cluster;
use crate::event::Event;
use crate::ids::PoolIndex;

pub(super) fn check(cluster: &Cluster, events: &[Event]) -> Check {
    for pool in (0..cluster.pools().len()).map(PoolIndex::of) {
        for breach in lending::broken(cluster, pool) {
            for event in events {
                let Event::JobPlaced { job, pool: at, .. } = event else { continue };
                let is_slow = cluster.job(*job).is_some_and(|job| lending::is_slow(cluster, job, breach.deadline));
                ensure(*at != pool || !is_slow, || {
                    format!("job {job} was placed on GPUs that are lent for too long: {breach:?}")
                })?;
            }
        }
    }
    Ok(())
}
