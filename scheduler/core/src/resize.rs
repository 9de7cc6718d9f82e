//! Elastic gangs change their size while they run: they give members up for others, and grow again on idle GPUs.
//!
//! In: a gang that was stopped so that others get a part of its GPUs, or one that runs with fewer members than it may have. Out:
//! what it keeps promised to it, so that it starts again there; or a stop after which it starts anew with more. A change of
//! size is a restart from the last checkpoint: that is what elastic launchers do too when members come or go (all workers
//! start again with new ranks and a new world size).
//! It must never take anything from anybody: a gang grows only while nobody waits.

use crate::admit::start::{self, Wish};
use crate::admit::whole;
use crate::cluster::Cluster;
use crate::decide::{Events, emit};
use crate::event::Event;
use crate::finish;
use crate::ids::JobId;
use crate::job::{Job, Phase, StopReason};
use crate::placement::{Members, Placed};
use crate::plan::latest_end;
use crate::units::{Gpus, Span, Time};

/// After its attempt ended because others got a part of its GPUs: the rest is promised to the gang, if it is free still.
pub(crate) fn keep_least(cluster: &mut Cluster, id: JobId, now: Time, out: &mut Events) {
    let Some(job) = cluster.job(id).filter(|job| job.is_eligible()) else { return };
    // A guest starts again wherever it may.
    let Some(attempt) = job.attempt.as_deref().filter(|attempt| attempt.keeps > 0 && !attempt.guest) else { return };
    let (pool, request) = (attempt.pool, &job.spec.request);
    let members: Members = attempt.members.iter().take(attempt.keeps as usize).map(|member| member.placed).collect();
    let is_free = |placed: &Placed| {
        let node = cluster.node(placed.node);
        let beside = members.iter().filter(|other| other.node == placed.node).count() as u64;
        let has_cpu = node.cpu_free().0 >= request.cpu.0.saturating_mul(beside);
        let has_memory = node.memory_free().0 >= request.memory.0.saturating_mul(beside);
        node.free().contains(placed.gpus) && has_cpu && has_memory
    };
    if members.iter().all(is_free) {
        let due = now + cluster.policy.kill_bound;
        emit(cluster, now, Event::Promised { job: id, pool, members, due }, out);
    }
}

/// While nobody waits: stops the first gang that would start again with so many more members that it is worth a restart.
/// Returns when to look again.
pub(crate) fn grow(cluster: &mut Cluster, now: Time, out: &mut Events) -> Option<Time> {
    let mut again = None;
    for id in cluster.short_gangs.iter().copied().collect::<Vec<_>>() {
        let Some(job) = cluster.job(id).filter(|job| job.phase == Phase::Running) else { continue };
        let Some(attempt) = job.live_attempt() else { continue };
        let ripe_at = attempt.started_at.unwrap_or(attempt.placed_at) + cluster.policy.grow_after;
        if now < ripe_at {
            again = again.into_iter().chain([ripe_at]).min();
        } else if let Some(more) = could_have_more(cluster, id)
            && pays(cluster, id, more, now)
        {
            finish::stop(cluster, id, StopReason::Resized, now, out);
            return again;
        }
    }
    again
}

/// The GPUs that a gang would get more if it started again now.
fn could_have_more(cluster: &mut Cluster, id: JobId) -> Option<Gpus> {
    // In a booking it stays as it is: what else is free is not for it.
    let job = cluster.job(id).filter(|job| job.spec.booking.is_none())?;
    let attempt = job.live_attempt()?;
    let (has, pool) = (attempt.members.len() as u32, attempt.pool);
    if cluster.pool(pool).idle == Gpus::ZERO {
        return None;
    }
    let most = start::most_beside(cluster, job, has);
    let size = u32::from(job.spec.request.shape.largest());
    let bars = whole::bars(cluster, &Wish::of(job), pool);
    let held: Vec<Placed> = attempt.members.iter().map(|member| member.placed).collect();
    let Cluster { jobs, index, policy, scratch, .. } = cluster;
    let job = jobs.get(id)?;
    let mark = index.checkpoint();
    index.release(&held, &job.spec.request);
    if let Some(bars) = bars {
        index.bar(pool, &bars);
    }
    let found = index.place_most(&job.spec.request, most, pool, &job.avoid, policy.search_steps, scratch);
    index.unbar(pool);
    index.rollback(mark);
    let gets = found.ok()?.len() as u32;
    (gets > has).then(|| Gpus::whole((gets - has) * size))
}

/// Whether what more members do until the limit is more than what the restart costs.
fn pays(cluster: &Cluster, id: JobId, more: Gpus, now: Time) -> bool {
    let Some(job) = cluster.job(id) else { return false };
    let Some(attempt) = job.live_attempt() else { return false };
    let left = latest_end(&cluster.policy, job, now).map_or(Span::ZERO, |end| end.since(now));
    let lost = now.since(job.kept_until(attempt)) + cluster.policy.restart_cost;
    attempt.gpus().over(lost) < more.over(left)
}

impl Cluster {
    /// `apply`: a gang runs, or does not any more; those that have fewer members than they may have are remembered.
    pub(crate) fn note_size(&mut self, id: JobId) {
        let is_short = |job: &Job| {
            let has =
                job.live_attempt().filter(|_| job.phase == Phase::Running).map(|attempt| attempt.members.len() as u32);
            has.is_some_and(|has| has < job.spec.request.shape.members())
        };
        if self.jobs.get(id).is_some_and(is_short) {
            self.short_gangs.insert(id);
        } else {
            self.short_gangs.remove(&id);
        }
    }
}
