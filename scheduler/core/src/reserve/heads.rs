//! Which jobs hold reservations, and the plan made anew.
//!
//! In: the queue in its order. Out: the list of reservations: first those that hold one already, so that a job that was
//! told a time keeps it or gets an earlier one; then the first blocked jobs of all, then the first of each mission.

use crate::admit::start::{self, Pay, Wish};
use crate::cluster::Cluster;
use crate::decide::{Events, emit};
use crate::event::Event;
use crate::ids::{JobId, PoolIndex};
use crate::job::{Job, JobSpec};
use crate::news::Versions;
use crate::node::SetAside;
use crate::order::Order;
use crate::plan;
use crate::refused::Refused;
use crate::reserve::timeline::{self, Ends, Question};
use crate::reserve::{Reservation, booked, over_by};
use crate::units::{Span, Time};

/// When the plan was made, of what state, and when it is made again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    made: Option<(Versions, Time)>,
    pub(super) wake: Option<Time>,
    /// Nobody has left it.
    pub(super) is_whole: bool,
}

/// What lies ahead is planned anew after such a part of its distance.
const FAR: u64 = 64;

/// Plans the reservations anew if something changed and it is time to.
pub(crate) fn replan(cluster: &mut Cluster, now: Time, out: &mut Events) {
    let versions = cluster.versions();
    cluster.reserved.plan.wake = None;
    if let Some((made_of, at)) = cluster.reserved.plan.made {
        let refresh = cluster.policy.reserve_refresh;
        let next = at + if made_of == versions { refresh } else { interval(cluster, at) };
        if now < next {
            cluster.reserved.plan.wake = (made_of != versions || !cluster.reserved.list.is_empty()).then_some(next);
            return;
        }
    }
    let reservations = plan(cluster, now);
    if reservations != cluster.reserved.list {
        emit(cluster, now, Event::Planned { reservations }, out);
    }
    cluster.reserved.vain.planned();
    cluster.reserved.plan.is_whole = true;
    // What the plan itself lifted is no reason to plan again.
    cluster.reserved.plan.made = Some((Versions { free: cluster.versions().free, ..versions }, now));
    let refresh = Some(cluster.policy.reserve_refresh).filter(|refresh| *refresh > Span::ZERO);
    cluster.reserved.plan.wake = refresh.filter(|_| !cluster.reserved.list.is_empty()).map(|refresh| now + refresh);
}

/// How long a plan made `at` some time holds though something happened: the longer, the further ahead what it sets aside lies.
/// What could start before is tried in every cycle.
fn interval(cluster: &Cluster, at: Time) -> Span {
    let (least, most) = (cluster.policy.reserve_interval, cluster.policy.reserve_refresh);
    let ahead = cluster.reserved.list.iter().map(|reservation| reservation.from.since(at)).min();
    let far = ahead.filter(|_| cluster.reserved.plan.is_whole).map_or(Span::ZERO, |ahead| Span(ahead.0 / FAR));
    far.min(most).max(least)
}

/// The reservations of a new plan.
fn plan(cluster: &mut Cluster, now: Time) -> Vec<Reservation> {
    let heads = heads(cluster, now);
    let mark = cluster.index.checkpoint();
    for node in cluster.reserved.nodes() {
        cluster.index.set_aside(&cluster.nodes[node.at()], &SetAside::default());
    }
    booked::show_all(cluster);
    let mut ends: Vec<Option<Ends>> = vec![None; cluster.pools.len()];
    let mut list: Vec<Reservation> = Vec::with_capacity(heads.len());
    for job in heads {
        let found = earliest(cluster, job, &list, &mut ends, now);
        list.extend(found);
    }
    cluster.index.rollback(mark);
    list
}

/// The reservations as they are beside a start; none if one of them comes later by it.
pub(super) fn around(cluster: &mut Cluster, start: Reservation, now: Time) -> Option<Vec<Reservation>> {
    let mut ends: Vec<Option<Ends>> = vec![None; cluster.pools.len()];
    beside(cluster, start, &mut ends, |_| true, now)
}

/// The reservations as they are once a job that waits inside its quota gets what others, who are evicted, give back; none if
/// one of those that come before it, of jobs inside their quota, is later by that and its claim `is_due` only later.
pub(crate) fn made_anew(
    cluster: &mut Cluster,
    id: JobId,
    plan: &plan::Plan,
    is_due: bool,
    now: Time,
) -> Option<Vec<Reservation>> {
    let job = cluster.job(id)?;
    let (cpu, memory) = (job.spec.request.cpu, job.spec.request.memory);
    let due = plan::due(cluster, plan, now);
    let until = over_by(&cluster.policy, job.spec.time_limit, job.spec.grace, due);
    let (pool, members) = (plan.pool, plan.members.clone());
    let start = Reservation { job: id, pool, members, cpu, memory, from: now, until, is_own: true, reclaims: false };
    let is_whole = |victim: &JobId| plan.shrinks.binary_search_by_key(victim, |(job, _)| *job).is_err();
    let gone: Vec<(Time, JobId)> = plan.victims.iter().copied().filter(is_whole).map(|victim| (due, victim)).collect();
    let mut ends: Vec<Option<Ends>> = vec![None; cluster.pools.len()];
    ends[pool.at()] = Some(timeline::sooner(&timeline::ends(cluster, pool, now), &gone));
    let list = &cluster.reserved.list;
    let first: Vec<JobId> =
        list.iter().take_while(|other| other.job != id).filter(|other| other.is_own).map(|other| other.job).collect();
    beside(cluster, start, &mut ends, |other| !is_due && first.contains(&other), now)
}

/// The reservations planned anew beside a start, in their order; none if one that `is_fixed` comes later.
fn beside(
    cluster: &mut Cluster,
    start: Reservation,
    ends: &mut [Option<Ends>],
    is_fixed: impl Fn(JobId) -> bool,
    now: Time,
) -> Option<Vec<Reservation>> {
    let before: Vec<(JobId, Time)> =
        cluster.reserved.list.iter().map(|old| (old.job, old.from)).filter(|(job, _)| *job != start.job).collect();
    let mark = cluster.index.checkpoint();
    for node in cluster.reserved.nodes() {
        cluster.index.set_aside(&cluster.nodes[node.at()], &SetAside::default());
    }
    booked::show_all(cluster);
    let mut taken = vec![start];
    let mut is_late = false;
    for (job, from) in before {
        let found = earliest(cluster, job, &taken, ends, now);
        let is_kept = found.as_ref().is_some_and(|found| found.from <= from.max(now));
        is_late = !is_kept && is_fixed(job);
        if is_late {
            break;
        }
        taken.extend(found);
    }
    cluster.index.rollback(mark);
    (!is_late).then(|| taken.split_off(1))
}

/// The earliest reservation for a job in any of its pools: with its least limit only where it comes earlier by that.
fn earliest(
    cluster: &mut Cluster,
    job: JobId,
    taken: &[Reservation],
    ends: &mut [Option<Ends>],
    now: Time,
) -> Option<Reservation> {
    let JobSpec { time_limit, time_min, .. } = cluster.job(job)?.spec;
    let found = earliest_lasting(cluster, job, time_limit, taken, ends, now);
    // Only before what is set aside or booked makes its length a difference.
    let is_free = taken.is_empty() && cluster.bookings.is_empty();
    let Some(least) = time_min.filter(|_| !is_free) else { return found };
    let earlier = earliest_lasting(cluster, job, least, taken, ends, now);
    let is_earlier = |with_least: &Reservation| found.as_ref().is_none_or(|found| with_least.from < found.from);
    earlier.filter(is_earlier).or(found)
}

/// The earliest reservation for a job with this limit in any of its pools.
fn earliest_lasting(
    cluster: &mut Cluster,
    job: JobId,
    limit: Span,
    taken: &[Reservation],
    ends: &mut [Option<Ends>],
    now: Time,
) -> Option<Reservation> {
    let entry = cluster.job(job)?;
    let length = over_by(&cluster.policy, limit, entry.spec.grace, Time(0)).since(Time(0));
    let pools: Vec<PoolIndex> = entry.spec.request.pools.to_vec();
    let wish = Wish::of(entry).lasting(limit).starting_at(now);
    let refused: Vec<bool> = pools.iter().map(|pool| !start::is_allowed(cluster, &wish, *pool)).collect();
    let mut best: Option<Reservation> = None;
    for (pool, is_refused) in pools.into_iter().zip(refused) {
        let ends = &*ends[pool.at()].get_or_insert_with(|| timeline::ends(cluster, pool, now));
        let returns = plan::returns(cluster, job, pool, now);
        let sooner = (!returns.is_empty()).then(|| timeline::sooner(ends, &returns));
        let ends = sooner.as_ref().unwrap_or(ends);
        let taken = &*booked::with_booked(cluster, &Wish::of(cluster.job(job)?), pool, taken);
        let question = Question { job, pool, ends, taken, now, is_refused, length };
        if let Some(found) = timeline::earliest(cluster, &question)
            && best.as_ref().is_none_or(|best| found.from < best.from)
        {
            let mut reservation = timeline::reservation(cluster, &question, found);
            // What may have others evicted for it comes before every borrower.
            reservation.reclaims = !returns.is_empty();
            reservation.is_own |= reservation.reclaims;
            best = Some(reservation);
        }
    }
    best
}

/// The jobs that are to hold reservations, those first that hold one. A mission keeps the reservation that it has until
/// its job starts, or one of a higher class comes before it.
fn heads(cluster: &mut Cluster, now: Time) -> Vec<JobId> {
    let (first, firsts) = blocked(cluster, now);
    let mission = |job: JobId| cluster.job(job).map(|job| cluster.mission(job.spec.tenant));
    // What lost its GPUs through no fault of its own goes before the rest of its class.
    let class = |job: JobId| cluster.job(job).map(|job| (job.spec.priority, job.front));
    let is_outdone = |job: JobId| {
        let before = firsts.iter().find(|other| mission(**other) == mission(job));
        before.is_some_and(|before| class(*before) > class(job))
    };
    let may_pay = |job: &Job| start::may_pay(cluster, &Wish::of(job), Pay::IfItFits).is_ok();
    let can_pay = |id: &JobId| cluster.job(*id).is_some_and(may_pay);
    let kept = cluster.reserved.list.iter().map(|reservation| reservation.job);
    let mut found: Vec<JobId> = kept.filter(|job| !is_outdone(*job) && can_pay(job)).collect();
    let after = cluster.policy.reserve_after;
    let has_waited = |id: &JobId| {
        let job = cluster.job(*id).filter(|job| now.since(job.submitted_at) >= after);
        job.is_some_and(may_pay)
    };
    for job in first.into_iter().filter(has_waited) {
        if found.len() < cluster.policy.max_reservations as usize && !found.contains(&job) {
            found.push(job);
        }
    }
    for job in firsts.into_iter().filter(has_waited) {
        if !found.iter().any(|other| mission(*other) == mission(job)) {
            found.push(job);
        }
    }
    found
}

/// The first blocked jobs of all in their order, and the first of each mission.
fn blocked(cluster: &mut Cluster, now: Time) -> (Vec<JobId>, Vec<JobId>) {
    let fresh = Refused::fresh(cluster.tenants.len());
    let refused = std::mem::replace(&mut cluster.refused, fresh);
    let mut order = Order::begin(cluster, now);
    let (mut first, mut firsts, mut met) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(id) = order.next(cluster) {
        let job = cluster.jobs.get(id).expect("the order gives jobs that exist");
        let tenant = job.spec.tenant;
        if job.spec.booking.is_some() {
            // Its booking is its reservation.
            let class = job.queued.expect("the order gives queued jobs").class;
            cluster.refused.pass_over(class, tenant);
            order.refused(cluster);
            continue;
        }
        let mission = cluster.mission(tenant).unwrap_or(tenant);
        if !met.contains(&mission) {
            met.push(mission);
            firsts.push(id);
        }
        if first.len() < cluster.policy.max_reservations as usize {
            first.push(id);
            order.skip(cluster, id);
        } else {
            order.leave(mission);
        }
    }
    order.end(cluster);
    cluster.refused = refused;
    (first, firsts)
}
