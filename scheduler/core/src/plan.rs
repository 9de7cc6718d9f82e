//! Making room: at the end of a cycle, for the blocked jobs in their order, GPUs that were lent are taken back (reclaim),
//! and within a tenant a higher class takes from a lower one (preemption). One planner, one proof.
//!
//! In: the state after everything that fits was placed. Out: a promise and the evictions that it needs, as one set of
//! events; or why there is no such set, and when to look again. Every plan is tried on the index of free GPUs first:
//! nobody is evicted unless the whole gang then fits where it must, and nobody whose GPUs are not needed for that.
//!
//! No two jobs evict each other in turn. What a job takes by reclaim it holds inside its quota, and what it takes it from
//! are attempts above the quota of theirs: so each plan raises the GPUs held inside quota and lowers them for nobody. By
//! preemption a job of a higher class comes inside its quota, and only jobs of lower classes leave it. Count GPUs inside
//! quota by class, highest class first: every plan makes that list greater in the order of words, and it is bounded by the
//! quotas. Between two submits, ends or changes of quotas there are therefore finitely many evictions, and none that
//! brings back an earlier state.

mod asked;
mod claim;
mod eager;
mod ends;
mod lent;
mod reach;
mod victims;
mod when;

use std::collections::{BTreeMap, BTreeSet};

use smallvec::SmallVec;

pub(crate) use self::asked::{Asked, TrialIndex};
use self::claim::Claim;
pub(crate) use self::claim::{own, would_borrow};
pub(crate) use self::ends::{by_ends, latest_end};
pub(crate) use self::lent::min_run;
pub(crate) use self::reach::Reach;
pub(crate) use self::when::{deadline, deadlines, returns};
use crate::admit::{budget, caps};
use crate::blocked::Blocked;
use crate::cluster::Cluster;
use crate::cycle::Cycled;
use crate::decide::{Events, emit};
use crate::event::Event;
use crate::finish;
use crate::ids::{ClassIndex, JobId, PoolIndex, TenantIndex};
use crate::job::Job;
use crate::news::Versions;
use crate::order::Order;
use crate::placement::Members;
use crate::refused::Refused;
use crate::reserve::{self, Kept, Reservation};
use crate::units::{Span, Time};
use crate::wanted::Wanted;

/// What was planned, and what is remembered of it. Derived: no fact depends on it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plans {
    /// When a cycle is to look again though nothing happened.
    pub(crate) wake: Option<Time>,
    /// The state that was last looked at, if nothing has changed since that it does not tell.
    seen: Option<Versions>,
    /// When that was.
    looked_at: Option<Time>,
    /// Looking stopped at its limit then: there is more to see.
    is_cut_off: bool,
    /// Classes and tenants for which there is no plan in that state.
    without: BTreeMap<(ClassIndex, TenantIndex), Refusal>,
    /// The same in the state before.
    before: BTreeMap<(ClassIndex, TenantIndex), Refusal>,
    /// When one of them may have a plan though nothing happened.
    ripe_at: Option<Time>,
    /// What was met that is wanted back, since looking last began.
    met: BTreeSet<Wanted>,
}

/// What is remembered of a class of a tenant for which there is no plan.
#[derive(Clone, Copy, Debug)]
struct Refusal {
    /// Why, if there is more to say than placement said.
    why: Option<Blocked>,
    /// When that was worked out.
    told_at: Time,
    /// A plan did not pay: no other is sought before then.
    rests_until: Option<Time>,
}

impl Plans {
    /// No job waits in the class any more: its index may come to mean another.
    pub(crate) fn forget_class(&mut self, class: ClassIndex) {
        while let Some((&(of, tenant), _)) = self.without.range((class, TenantIndex(0))..).next()
            && of == class
        {
            self.without.remove(&(of, tenant));
        }
        self.before.retain(|(of, _), _| *of != class);
    }

    /// What was looked at has changed though nothing was freed: what started may be taken back.
    pub(crate) fn look_again(&mut self) {
        self.seen = None;
    }

    /// A class of a tenant for which no plan paid is looked at again.
    pub(crate) fn rest_no_more(&mut self, class: ClassIndex, tenant: TenantIndex) {
        for refusals in [&mut self.without, &mut self.before] {
            let rested = refusals.get_mut(&(class, tenant)).and_then(|refusal| refusal.rests_until.take());
            if rested.is_some() {
                self.seen = None;
            }
        }
    }

    /// Why there was no plan for a class of a tenant when it was last looked for.
    pub(crate) fn why(&self, class: ClassIndex, tenant: TenantIndex) -> Option<Blocked> {
        self.without.get(&(class, tenant)).and_then(|refusal| refusal.why)
    }
}

/// A proven plan.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) pool: PoolIndex,
    pub(crate) members: Members,
    /// Some of them may be on their way already.
    pub(crate) victims: Vec<JobId>,
    /// Those of them that are elastic and keep so many of their first members. Sorted.
    pub(crate) shrinks: Vec<(JobId, u32)>,
}

/// Why there is no plan.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NoPlan {
    /// What to tell, if it says more than the refusal by admission or placement.
    pub(crate) why: Option<Blocked>,
    /// When there may be one though nothing happens.
    pub(crate) ripe_at: Option<Time>,
    /// There is one that does not pay: no other is sought before then.
    rests_until: Option<Time>,
    /// Whether anything was tried: that is what is bounded.
    is_tried: bool,
    /// Whether `why` was worked out, and not only left out.
    is_told: bool,
}

/// Makes promises to blocked jobs, and evicts for them.
pub(crate) fn make_room(cluster: &mut Cluster, now: Time, cycled: &mut Cycled, out: &mut Events) {
    let versions = cluster.versions();
    let plans = &mut cluster.plans;
    let is_ripe = plans.ripe_at.is_some_and(|at| at <= now);
    let is_new = is_ripe || plans.seen != Some(versions);
    if !is_new && !plans.is_cut_off {
        return wake_at(cluster, cluster.plans.ripe_at);
    }
    if is_new {
        let next = plans.looked_at.map_or(now, |at| at + cluster.policy.plan_interval);
        if now < next {
            return wake_at(cluster, Some(next));
        }
        plans.before = std::mem::take(&mut plans.without);
        plans.ripe_at = None;
        plans.met.clear();
    }
    let is_cut_off = look(cluster, now, cycled, out);
    note_wanted(cluster, is_cut_off, now, out);
    // What a plan changed is seen as news: a tenant that is promised what it waits for keeps nothing back from others.
    (cluster.plans.seen, cluster.plans.looked_at) = (Some(versions), Some(now));
    cluster.plans.is_cut_off = is_cut_off;
    cycled.more |= is_cut_off;
    wake_at(cluster, cluster.plans.ripe_at);
}

/// The next cycle that is due though nothing happens: at `at`, or when a promise is overdue.
pub(crate) fn wake_at(cluster: &mut Cluster, at: Option<Time>) {
    let due = cluster.promises.values().map(|promise| promise.due);
    cluster.plans.wake = due.chain(at).min();
}

/// As well as when it is due already, a cycle is due at `at`.
pub(crate) fn wake_by(cluster: &mut Cluster, at: Option<Time>) {
    cluster.plans.wake = cluster.plans.wake.into_iter().chain(at).min();
}

/// Goes through the blocked jobs in their order. True when it stopped at its limit.
fn look(cluster: &mut Cluster, now: Time, cycled: &mut Cycled, out: &mut Events) -> bool {
    let fresh = Refused::fresh(cluster.tenants.len());
    let refused = std::mem::replace(&mut cluster.refused, fresh);
    for (class, tenant) in cluster.plans.without.keys() {
        cluster.refused.pass_over(*class, *tenant);
    }
    let mut order = Order::begin(cluster, now);
    let (mut tries, most) = (0, cluster.policy.max_plans_per_cycle);
    let mut is_cut_off = false;
    while let Some(id) = order.next(cluster) {
        if tries >= most {
            is_cut_off = true;
            break;
        }
        if cluster.promises.len() >= cluster.policy.max_promises as usize {
            break;
        }
        let id = holder_before(cluster, id);
        if has_failed_too_often(cluster, id) {
            order.skip(cluster, id);
            continue;
        }
        if cluster.is_invited(id) {
            // Only what is free in its booking is for it.
            let job = cluster.jobs.get(id).expect("the order gives jobs that exist");
            let (class, tenant) = (job.queued.expect("the order gives queued jobs").class, job.spec.tenant);
            cluster.refused.pass_over(class, tenant);
            order.refused(cluster);
            continue;
        }
        if is_held_back(cluster, id) {
            order.refused(cluster);
            continue;
        }
        match plan_for(cluster, id, now) {
            Ok((plan, reservations)) => {
                tries += 1;
                if let Some(reservations) = reservations {
                    emit(cluster, now, Event::Planned { reservations }, out);
                }
                carry_out(cluster, id, plan, now, out);
                order.placed(cluster);
                // What the beneficiary's tenants kept back until now may be for others.
                cycled.more = true;
            }
            Err(none) => {
                tries += u32::from(none.is_tried);
                note(cluster, &mut order, id, none, now);
            }
        }
    }
    order.end(cluster);
    // The promises took what was idle, and dequeued jobs: what was refused before them stays refused.
    cluster.refused = refused;
    cluster.refused.keep_only(&cluster.classes);
    is_cut_off
}

/// The job that holds a reservation, if it is of the class, tenant and user of this one: it goes first, since whoever is like
/// it is behind it, and a refusal of one holds for all.
fn holder_before(cluster: &Cluster, id: JobId) -> JobId {
    let kind = |job: &Job| job.queued.map(|queued| (queued.class, job.spec.tenant, job.spec.user));
    let Some(kind_of_job) = cluster.job(id).filter(|job| job.avoid.is_empty()).and_then(kind) else { return id };
    let is_like = |holder: &&Job| {
        let is_tried = holder.avoid.is_empty() && !has_failed_too_often(cluster, holder.id);
        is_tried && kind(holder) == Some(kind_of_job)
    };
    let holders = cluster.reservations().iter().filter_map(|reservation| cluster.job(reservation.job));
    holders.into_iter().find(is_like).map_or(id, |holder| holder.id)
}

/// After looking: what is wanted back now and was not before, and what is not any more.
fn note_wanted(cluster: &mut Cluster, is_cut_off: bool, now: Time, out: &mut Events) {
    let (met, known) = (&cluster.plans.met, &cluster.wanted);
    let begun: Vec<(Wanted, Time)> =
        met.iter().filter(|wanted| !known.contains_key(wanted)).map(|wanted| (*wanted, now)).collect();
    let over = known.keys().filter(|wanted| !is_cut_off && !met.contains(wanted)).copied().collect::<Vec<_>>();
    if !begun.is_empty() || !over.is_empty() {
        emit(cluster, now, Event::WantedBack { begun, over }, out);
    }
}

/// Whether a job has failed so often by itself that it takes nothing from others any more.
pub(crate) fn has_failed_too_often(cluster: &Cluster, id: JobId) -> bool {
    cluster.job(id).is_some_and(|job| job.failures >= cluster.policy.max_evicting_failures)
}

/// Whether a cap or a budget refuses a job: then no eviction helps it. What is refused is passed over from here on.
fn is_held_back(cluster: &mut Cluster, id: JobId) -> bool {
    let job = cluster.jobs.get(id).expect("the order gives jobs that exist");
    let class = job.queued.expect("the order gives queued jobs").class;
    let (tenant, user) = (job.spec.tenant, job.spec.user);
    if let Some(why) = caps::of_user(cluster, tenant, user, job.gpus()) {
        cluster.refused.note_over_cap(class, tenant, user, why);
        return true;
    }
    let is_over = budget::over(cluster, tenant, job.gpus(), job.spec.time_limit).is_some();
    if is_over {
        cluster.refused.pass_over(class, tenant);
    }
    is_over
}

fn note(cluster: &mut Cluster, order: &mut Order, id: JobId, none: NoPlan, now: Time) {
    let job = cluster.jobs.get(id).expect("the order gives jobs that exist");
    let (class, tenant) = (job.queued.expect("the order gives queued jobs").class, job.spec.tenant);
    let at = &mut cluster.plans.ripe_at;
    *at = at.iter().copied().chain(none.ripe_at).min();
    if !job.avoid.is_empty() {
        return order.skip(cluster, id);
    }
    cluster.refused.pass_over(class, tenant);
    let before = cluster.plans.before.get(&(class, tenant)).filter(|_| !none.is_told);
    let (why, told_at) = before.map_or((none.why, now), |before| (none.why.or(before.why), before.told_at));
    cluster.plans.without.insert((class, tenant), Refusal { why, told_at, rests_until: none.rests_until });
    order.refused(cluster);
}

/// A plan for a job in the queue, and the reservations made anew around it where it takes from them.
fn plan_for(cluster: &mut Cluster, id: JobId, now: Time) -> Result<(Plan, Option<Vec<Reservation>>), NoPlan> {
    let asked = ask(cluster, id, now)?;
    // What is set aside for others inside their quota is left alone where that can be; but what was lent comes back.
    let (_, found) = find_beside(cluster, &asked, Kept::Own, now);
    let none = match found {
        Err(none) if none.is_tried && cluster.policy.plan_in_time => none,
        found => return found.map(|plan| (plan, None)),
    };
    let (is_lifted, found) = find_beside(cluster, &asked, Kept::Nothing, now);
    match found {
        _ if !is_lifted => Err(none),
        // From the deadline of its claim on it waits for nobody's shape any more.
        Ok(plan) => match reserve::made_anew(cluster, id, &plan, is_due(cluster, &asked, &plan, now), now) {
            Some(reservations) => Ok((plan, Some(reservations))),
            None => Err(none),
        },
        Err(also) => Err(NoPlan { ripe_at: none.ripe_at.into_iter().chain(also.ripe_at).min(), ..also }),
    }
}

/// A plan among what is free, and what is set aside for itself or for those that are not `kept`; and whether there are any
/// of those.
fn find_beside(cluster: &mut Cluster, asked: &Asked, kept: Kept, now: Time) -> (bool, Result<Plan, NoPlan>) {
    let (mut index, mut scratch) = (std::mem::take(&mut cluster.index), std::mem::take(&mut cluster.scratch));
    let mark = index.checkpoint();
    let is_lifted = reserve::lift(cluster, &mut index, asked, kept, now);
    let found = if kept == Kept::Own || is_lifted {
        find_plan(cluster, &mut TrialIndex { index: &mut index, scratch: &mut scratch }, asked, now)
    } else {
        Err(NoPlan::default())
    };
    index.rollback(mark);
    (cluster.index, cluster.scratch) = (index, scratch);
    (is_lifted, found)
}

/// What a job in the queue asks for, and when it may have it from others.
///
/// # Errors
/// Where it is clear without a search that there is no plan.
fn ask(cluster: &mut Cluster, id: JobId, now: Time) -> Result<Asked, NoPlan> {
    let job = cluster.jobs.get(id).expect("the order gives jobs that exist");
    let (class, tenant) = (job.queued.expect("the order gives queued jobs").class, job.spec.tenant);
    let mut asked = Asked::of(job);
    cluster.reach.catch_up(&cluster.nodes);
    let before = cluster.plans.before.get(&(class, tenant)).copied();
    let rests_until = before.and_then(|before| before.rests_until).filter(|until| *until > now);
    let (mut may_take, mut claimed) = (false, SmallVec::<[PoolIndex; 1]>::new());
    for &pool in &asked.request.pools {
        let Some(claim) = Claim::of(cluster, &asked, pool) else { continue };
        if claim.is_inside_quota() {
            claimed.push(pool);
            cluster.plans.met.insert(Wanted::by(job, pool));
        }
        may_take |= claim.may_take(cluster, &asked, pool, rests_until.is_some());
    }
    let is_told = |before: &Refusal| cluster.policy.plan_reasons.is_none_or(|age| before.told_at + age > now);
    asked.tells = cluster.policy.plan_reasons.is_some() && !before.as_ref().is_some_and(is_told);
    if may_take || asked.tells && rests_until.is_none() {
        asked.rests_until = rests_until;
        asked.deadlines = claimed.into_iter().map(|pool| (pool, when::deadline(cluster, job, pool, now))).collect();
        // What the plan in time takes back is back at the deadline at the earliest: what it has before ends by itself.
        let ends_by_itself = |own: &&reserve::Reservation| asked.deadline(own.pool).is_some_and(|at| own.from < at);
        asked.room_by = cluster.reservation(id).filter(ends_by_itself).map(|own| (own.pool, own.from));
        return Ok(asked);
    }
    let why = before.and_then(|before| before.why);
    Err(NoPlan { why, ripe_at: rests_until, rests_until, ..NoPlan::default() })
}

/// A plan in one of the pools that would do, in their order. The index is as before.
///
/// # Errors
/// Why there is none, and when to look again.
pub(crate) fn find_plan(
    cluster: &Cluster,
    trial: &mut TrialIndex<'_>,
    asked: &Asked,
    now: Time,
) -> Result<Plan, NoPlan> {
    let mut none = NoPlan { is_told: asked.tells, ..NoPlan::default() };
    for (at, &pool) in asked.request.pools.iter().enumerate() {
        match claim::find(cluster, trial, asked, pool, now) {
            Ok(plan) => return Ok(plan),
            Err(here) => {
                none.why = none.why.or(here.why);
                none.ripe_at = none.ripe_at.into_iter().chain(here.ripe_at).min();
                // Only where no pool has a plan that pays is it in vain to look.
                let both = none.rests_until.zip(here.rests_until).map(|(a, b)| a.min(b));
                none.rests_until = if at == 0 { here.rests_until } else { both };
                none.is_tried |= here.is_tried;
                none.is_told |= here.is_told;
            }
        }
    }
    Err(none)
}

/// Whether the victims must go now to be gone by the deadline.
fn is_due(cluster: &Cluster, asked: &Asked, plan: &Plan, now: Time) -> bool {
    asked.deadline(plan.pool).is_some_and(|deadline| deadline <= due(cluster, plan, now))
}

/// By when all victims are gone.
pub(crate) fn due(cluster: &Cluster, plan: &Plan, now: Time) -> Time {
    let grace = |victim: &JobId| cluster.job(*victim).map_or(Span::ZERO, |job| job.spec.grace);
    now + plan.victims.iter().map(grace).max().unwrap_or_default() + cluster.policy.kill_bound
}

/// The promise first, then the evictions: from then on nobody else can get what they leave.
fn carry_out(cluster: &mut Cluster, id: JobId, plan: Plan, now: Time, out: &mut Events) {
    let due = due(cluster, &plan, now);
    let is_array = cluster.job(id).is_some_and(|job| job.progress.is_some());
    let job = if is_array { crate::cycle::start_index(cluster, id, now, out) } else { id };
    emit(cluster, now, Event::Promised { job, pool: plan.pool, members: plan.members, due }, out);
    let is_leaving = |victim: &JobId| cluster.job(*victim).is_some_and(lent::is_leaving);
    let evicted: Vec<JobId> = plan.victims.iter().copied().filter(|victim| !is_leaving(victim)).collect();
    for victim in evicted {
        let shrinks = plan.shrinks.binary_search_by_key(&victim, |(job, _)| *job);
        let keeps = shrinks.map_or(0, |at| plan.shrinks[at].1);
        finish::evict(cluster, victim, job, keeps, now, out);
    }
}
