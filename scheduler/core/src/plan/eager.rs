//! Whether it pays to take back early what was lent.
//!
//! In: a proven plan to take GPUs back for a job that waits inside its quota. Out: whether the victims go now. The rule:
//! near the deadline of the claim they go whatever they lose. Before that they go only if the GPU-time that is lost (since
//! the last checkpoint of each, and a restart) is less than what the wait of the beneficiary costs: its GPUs times
//! the time from when the victims would be gone until as many GPUs of its shape end by themselves, by the limits of what
//! runs. A plan that does not pay is not sought again for a part of the time that is left until the deadline.
//! From so early on that the victims are gone by the deadline (`when`) nothing is asked any more; but where the plan in time
//! says that enough ends by itself before it, nobody is evicted who does not pay.
//! It must never keep a quota out of reach beyond its deadline, and never look at anything but times and limits.

use super::asked::Asked;
use crate::cluster::Cluster;
use crate::ids::{JobId, PoolIndex};
use crate::job::{Job, Phase};
use crate::request::{Part, Request, Shape};
use crate::units::{GpuTime, Gpus, Span, Time};

/// A plan that did not pay is sought again after this part of what is left until the deadline.
const LOOKS_UNTIL_DEADLINE: u64 = 4;
/// But not sooner than after this.
const SHORTEST_REST: Span = Span::seconds(60);

/// What a plan costs, and what it brings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Worth {
    /// GPU-time that its victims lose.
    pub(super) loss: GpuTime,
    /// GPU-time that its beneficiary would wait.
    pub(super) saved: GpuTime,
}

impl Worth {
    /// Whether the victims go before the deadline.
    pub(super) fn pays(&self) -> bool {
        self.loss < self.saved
    }
}

/// From when on the victims of a plan go whatever they lose: so early that they are gone by the deadline, or, where enough
/// ends by itself before it, when that has not ended as it should. None without a deadline.
pub(super) fn last_call(cluster: &Cluster, asked: &Asked, pool: PoolIndex, victims: &[JobId]) -> Option<Time> {
    let deadline = asked.deadline(pool)?;
    let graces = victims.iter().filter_map(|victim| cluster.job(*victim)).map(|victim| victim.spec.grace);
    let notice = graces.max().unwrap_or_default() + cluster.policy.kill_bound;
    Some(asked.room_by(pool).unwrap_or(Time(deadline.0.saturating_sub(notice.0))))
}

/// When to look again for a plan that did not pay.
pub(super) fn look_again_at(deadline: Time, now: Time) -> Time {
    let rest = Span(deadline.since(now).0 / LOOKS_UNTIL_DEADLINE).max(SHORTEST_REST);
    deadline.min(now + rest)
}

/// What the eviction of `victims` costs and brings.
pub(super) fn worth(cluster: &Cluster, asked: &Asked, pool: PoolIndex, victims: &[JobId], now: Time) -> Worth {
    let (mut loss, mut gone) = (GpuTime::ZERO, now);
    for victim in victims.iter().filter_map(|victim| cluster.job(*victim)) {
        let Some(attempt) = victim.live_attempt() else { continue };
        gone = gone.max(now + victim.spec.grace);
        if matches!(victim.phase, Phase::Launching | Phase::Running) {
            let lost = attempt.started_at.map_or(Span::ZERO, |_| now.since(victim.kept_until(attempt)));
            loss += attempt.gpus().over(lost + cluster.policy.restart_cost);
        }
    }
    let by_itself = asked.room_by(pool).or_else(|| ends_by_itself(cluster, &asked.request, pool));
    let wait = by_itself.map_or(Span(u64::MAX / 2), |end| end.since(gone));
    Worth { loss, saved: asked.gpus().over(wait) }
}

/// By then so much of what runs in `pool` is over, by its limits, that the nodes have as many GPUs free as the gang needs,
/// in pieces of the sizes of its members; topology and what else a job may ask for are not looked at, so that it is never
/// too late. None when nothing that runs makes room. O(nodes + attempts that end by then).
fn ends_by_itself(cluster: &Cluster, request: &Request, pool: PoolIndex) -> Option<Time> {
    let (size, want) = match (&request.shape, request.part) {
        (_, Part::Milli(_) | Part::Slice(_)) => (1, 1),
        (Shape::Equal { gpus, .. }, Part::Whole) => (u32::from(*gpus).max(1), request.least_members()),
        (Shape::Unequal(list), Part::Whole) => {
            let largest = request.shape.largest();
            (u32::from(largest).max(1), list.iter().filter(|gpus| **gpus == largest).count() as u32)
        }
    };
    let mut free: Vec<u32> =
        cluster.nodes.iter().map(|node| if node.pool == pool { node.free().len() } else { 0 }).collect();
    let (mut slots, mut all): (u32, u32) = (free.iter().map(|gpus| gpus / size).sum(), free.iter().sum());
    let enough = |slots: u32, all: u32| slots >= want && Gpus::whole(all) >= request.least_gpus();
    for (end, job) in cluster.timers.limits() {
        let Some(attempt) = cluster.job(job).and_then(Job::live_attempt).filter(|attempt| attempt.pool == pool) else {
            continue;
        };
        for member in &attempt.members {
            if !cluster.node(member.placed.node).is_open() {
                continue;
            }
            let (node, gpus) = (&mut free[member.placed.node.at()], member.placed.gpus.len());
            slots -= *node / size;
            *node += gpus;
            slots += *node / size;
            all += gpus;
        }
        if enough(slots, all) {
            return Some(end);
        }
    }
    None
}
