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

pub(super) fn check(cluster: &Cluster, events: &[Event]) -> Check {
    for event in events {
        let Event::JobPlaced { job: id, members, .. } = event else { continue };
        let Some(job) = cluster.job(*id) else { continue };
        let Some(attempt) = job.live_attempt() else { continue };
        let end = latest_end(&cluster.policy, job, attempt.placed_at);
        let meets =
            |placed: &Placed, other: &Placed| placed.node == other.node && !placed.gpus.and(other.gpus).is_empty();
        // Two shares of one GPU are in nobody's way where both have room.
        let has_room = |set: &Placed| {
            let node = cluster.node(set.node);
            let fits_beside = |gpu| node.parts.of(gpu).admits(set.portion);
            node.taken.and(set.gpus).is_empty() && set.shared_gpu().is_some_and(fits_beside)
        };
        for other in cluster.reservations() {
            let in_way = |set: &Placed| members.iter().any(|placed| meets(placed, set)) && !has_room(set);
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
