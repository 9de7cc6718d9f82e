//! What a cycle started on GPUs that are set aside for another is over, by its own limit, before they are wanted; but for
//! what starts inside its quota, which comes before every borrower, for what the other may take back by then, and for a
//! share beside which the other has room.
//!
//! Source: design 5.2, "only jobs later in the order may be said to delay it, and they may not".

use super::{Check, ensure};
use crate::cluster::Cluster;
use crate::event::Event;
use crate::placement::Placed;
use crate::plan::{self, latest_end};
use crate::units::Time;

pub(super) fn check(cluster: &Cluster, events: &[Event]) -> Check {
    for event in events {
        let Event::JobPlaced { job: id, members, .. } = event else { continue };
        let Some(job) = cluster.job(*id) else { continue };
        let Some(attempt) = job.live_attempt() else { continue };
        let end = latest_end(cluster, job, attempt.placed_at);
        let meets =
            |placed: &Placed, other: &Placed| placed.node == other.node && !placed.gpus.and(other.gpus).is_empty();
        for other in cluster.reservations() {
            let in_way = |set: &Placed| {
                members.iter().any(|placed| meets(placed, set))
                    && !has_room(cluster, set, other.from, attempt.placed_at)
            };
            let overlaps = other.members.iter().any(in_way);
            let comes_first = !attempt.borrowed && !other.is_own;
            let lent = || plan::returns(cluster, other.job, other.pool, attempt.placed_at);
            let comes_back =
                overlaps && other.reclaims && (attempt.borrowed || lent().iter().any(|(_, job)| job == id));
            ensure(!overlaps || comes_first || comes_back || end.is_some_and(|end| end <= other.from), || {
                let what = if attempt.borrowed { "borrowed" } else { "own" };
                format!("job {id} ({what}) runs until {end:?} on what is set aside: {other:?}")
            })?;
        }
    }
    Ok(())
}

/// Whether a share or an instance has its part of the GPU by then, beside what is still there by its limit: then nothing
/// that shares the GPU with it is in its way.
fn has_room(cluster: &Cluster, set: &Placed, by: Time, now: Time) -> bool {
    let (node, Some(gpu)) = (cluster.node(set.node), set.shared_gpu()) else { return false };
    let mut parts = node.parts.clone();
    for resident in &node.residents {
        let Some(job) = cluster.job(resident.job) else { continue };
        let Some(attempt) = job.attempt.as_deref() else { continue };
        let held = &attempt.members[resident.member.at()].placed;
        let is_over = latest_end(cluster, job, now).is_some_and(|end| end <= by);
        if held.gpus.and(set.gpus).is_empty() {
            continue;
        }
        if held.shared_gpu().is_none() && !is_over {
            return false;
        }
        if held.shared_gpu().is_some() && is_over {
            parts.give_back(held);
        }
    }
    parts.of(gpu).admits(set.portion)
}
