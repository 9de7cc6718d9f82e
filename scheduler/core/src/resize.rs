//! Elastic gangs change their size while they run: they give members up for others, and grow again on idle GPUs.
//!
//! In: a gang that was stopped so that others get a part of its GPUs, or one that runs with fewer members than it may have. Out:
//! what it keeps promised to it, so that it starts again there; or a stop after which it starts anew with more. A change of
//! size is a restart from the last checkpoint: that is what elastic launchers do too when members come or go (all workers
//! start again with new ranks and a new world size).
//! It must never take anything from anybody: a gang grows on what nobody who waits could start on, where nothing is set aside
//! for others, and what it has it keeps meanwhile.

use crate::admit::start::{self, Wish};
use crate::admit::whole::Way;
use crate::cluster::Cluster;
use crate::decide::{Events, emit};
use crate::event::Event;
use crate::finish;
use crate::ids::JobId;
use crate::job::{Attempt, Job, Outcome, Phase};
use crate::news::Stamp;
use crate::place::PlaceIndex;
use crate::placement::{Members, Placed};
use crate::plan::latest_end;
use crate::reserve;
use crate::units::{Gpus, Span, Time};

/// The last look at gangs that may have more members, if none of them could.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Looked {
    /// The news that were known: of what was freed, of the division, of ends.
    heard: (Stamp, Stamp, Stamp),
    /// When the next of them has run for long enough.
    again: Option<Time>,
}

/// After its attempt ended because others got a part of its GPUs, or because it is to have more: what it keeps is promised to
/// the gang if it is free still, and with it the more that there is.
pub(crate) fn keep_places(cluster: &mut Cluster, id: JobId, outcome: Outcome, now: Time, out: &mut Events) {
    let Some(job) = cluster.job(id).filter(|job| job.is_eligible()) else { return };
    // A guest starts again wherever it may, and what fitted only with a lower limit where it fits then.
    let keeps = |attempt: &&Attempt| attempt.keeps > 0 && !attempt.guest && attempt.lowered.is_none();
    let Some(attempt) = job.attempt.as_deref().filter(keeps) else { return };
    let (pool, request) = (attempt.pool, &job.spec.request);
    let kept: Members = attempt.members.iter().take(attempt.keeps as usize).map(|member| member.placed).collect();
    let is_free = |placed: &Placed| {
        let node = cluster.node(placed.node);
        let beside = kept.iter().filter(|other| other.node == placed.node).count() as u64;
        let has_cpu = node.cpu_free().0 >= request.cpu.0.saturating_mul(beside);
        let has_memory = node.memory_free().0 >= request.memory.0.saturating_mul(beside);
        node.free().contains(placed.gpus) && has_cpu && has_memory
    };
    if kept.iter().all(is_free) {
        let least = kept.len() as u32;
        let larger = if outcome == Outcome::Resized { larger(cluster, id, least) } else { None };
        let (members, due) = (larger.unwrap_or(kept), now + cluster.policy.kill_bound);
        emit(cluster, now, Event::Promised { job: id, pool, members, due }, out);
    }
}

/// A place for more than `has` members of a gang that holds nothing now.
fn larger(cluster: &mut Cluster, id: JobId, has: u32) -> Option<Members> {
    cluster.refresh_index();
    let job = cluster.job(id)?;
    let (wish, pool) = (Wish::of(job), job.attempt.as_deref()?.pool);
    let most = start::most_allowed(cluster, &wish, pool, false).ok()?;
    place_more(cluster, id, (has, most), |_| {})
}

/// Stops the first gang that would start again with so many more members that it is worth a restart, on GPUs on which nobody
/// who waits can start. Returns when to look again.
pub(crate) fn grow(cluster: &mut Cluster, now: Time, out: &mut Events) -> Option<Time> {
    let heard = (cluster.news.free(), cluster.news.division(), cluster.news.sooner());
    if let Some(looked) = cluster.looked_at_size
        && looked.heard == heard
        && looked.again.is_none_or(|again| now < again)
    {
        return looked.again;
    }
    let (mut again, mut is_in_vain) = (None, true);
    for id in cluster.short_gangs.iter().copied().collect::<Vec<_>>() {
        let Some(job) = cluster.job(id).filter(|job| job.phase == Phase::Running) else { continue };
        let Some(attempt) = job.live_attempt() else { continue };
        let (ripe_at, has) = (ripe_at(cluster, attempt), attempt.members.len() as u32);
        if now < ripe_at {
            again = again.into_iter().chain([ripe_at]).min();
        } else if let Some(more) = could_have_more(cluster, id, now) {
            if pays(cluster, id, more, now) {
                finish::resize(cluster, id, has, now, out);
                return again;
            }
            is_in_vain = false;
        }
    }
    cluster.looked_at_size = is_in_vain.then_some(Looked { heard, again });
    again
}

/// When an attempt has run for long enough to be started again.
fn ripe_at(cluster: &Cluster, attempt: &Attempt) -> Time {
    attempt.started_at.unwrap_or(attempt.placed_at) + cluster.policy.grow_after
}

/// The GPUs that a gang would get more if it started again now.
fn could_have_more(cluster: &mut Cluster, id: JobId, now: Time) -> Option<Gpus> {
    // In a booking it stays as it is: what else is free is not for it.
    let job = cluster.job(id).filter(|job| job.spec.booking.is_none())?;
    let attempt = job.live_attempt()?;
    let (has, pool) = (attempt.members.len() as u32, attempt.pool);
    if cluster.pool(pool).idle == Gpus::ZERO {
        return None;
    }
    let held: Members = attempt.members.iter().map(|member| member.placed).collect();
    if cluster.has_queued() && !keeps_its_places(cluster, job, attempt, &held, now) {
        return None;
    }
    let size = u32::from(job.spec.request.shape.largest());
    let (request, most) = (job.spec.request.clone(), start::most_beside(cluster, job, has));
    let gets = place_more(cluster, id, (has, most), |index| index.release(&held, &request))?.len() as u32;
    Some(Gpus::whole((gets - has) * size))
}

/// Whether a gang has its places again when it starts anew while others wait: they are promised to it, and it holds them for
/// as long as its limit lasts then.
fn keeps_its_places(cluster: &Cluster, job: &Job, attempt: &Attempt, held: &Members, now: Time) -> bool {
    let stopped = now + job.spec.grace + cluster.policy.kill_bound;
    let over_by = reserve::over_by(&cluster.policy, job.spec.time_limit, job.spec.grace, stopped);
    !attempt.is_outside() && attempt.lowered.is_none() && !cluster.is_set_aside(held, over_by)
}

/// A place for more than `has` members of a gang, at most `most`, where it may stay. The index is as before.
fn place_more(
    cluster: &mut Cluster,
    id: JobId,
    (has, most): (u32, u32),
    give_back: impl FnOnce(&mut PlaceIndex),
) -> Option<Members> {
    if most <= has {
        return None;
    }
    let job = cluster.job(id)?;
    let attempt = job.attempt.as_deref()?;
    let pool = attempt.pool;
    // A guest is one again.
    let way = if attempt.guest { None } else { Way::of(cluster, &Wish::of(job), pool) };
    let bars = way.as_ref().map(|way| way.first_bars(cluster));
    let Cluster { jobs, index, policy, scratch, .. } = cluster;
    let job = jobs.get(id)?;
    let mark = index.checkpoint();
    give_back(index);
    if let Some(bars) = bars {
        index.bar(pool, &bars);
    }
    let found = index.place_most(&job.spec.request, most, pool, &job.avoid, policy.search_steps, scratch);
    index.unbar(pool);
    index.rollback(mark);
    let may_stay = |members: &Members| way.is_none_or(|way| way.allows(cluster, &cluster.index, members));
    found.ok().filter(|members| members.len() as u32 > has).filter(may_stay)
}

/// Whether what more members do until the limit is more than what the restart costs.
fn pays(cluster: &Cluster, id: JobId, more: Gpus, now: Time) -> bool {
    let Some(job) = cluster.job(id) else { return false };
    let Some(attempt) = job.live_attempt() else { return false };
    let left = latest_end(cluster, job, now).map_or(Span::ZERO, |end| end.since(now));
    let lost = now.since(job.kept_until(attempt)) + cluster.policy.restart_cost;
    attempt.gpus().over(lost) < more.over(left)
}

impl Cluster {
    /// Whether somebody's reservation on these GPUs begins before `until`.
    fn is_set_aside(&self, members: &Members, until: Time) -> bool {
        let is_set = |members: &Members, other: &Placed| {
            members.iter().any(|placed| placed.node == other.node && !placed.gpus.and(other.gpus).is_empty())
        };
        let mut soon = self.reservations().iter().filter(|reservation| reservation.from < until);
        soon.any(|reservation| reservation.members.iter().any(|placed| is_set(members, placed)))
    }

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
