//! One scheduling turn: take the jobs in order, admit, place, and go on until every class that is left was refused.

use smallvec::{SmallVec, smallvec};

use crate::admit::lending::{self, Start};
use crate::admit::{budget, caps, quota};
use crate::blocked::Blocked;
use crate::cluster::Cluster;
use crate::decide::{Events, emit};
use crate::event::Event;
use crate::ids::{AttemptNumber, JobId, PoolIndex};
use crate::job::{Job, JobSpec};
use crate::order::Order;
use crate::placement::Members;
use crate::plan;
use crate::policy::Flaw;
use crate::promise;
use crate::reserve;
use crate::resize;
use crate::units::{Gpus, Time};

/// What a cycle came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cycled {
    /// Jobs placed.
    pub jobs: u32,
    /// Members placed.
    pub members: u32,
    /// Classes tried, placed or not.
    pub tried: u32,
    /// It stopped at its limit: another cycle may place more.
    pub more: bool,
}

/// Places what can start now.
pub fn cycle(cluster: &mut Cluster, now: Time, out: &mut Events) -> Cycled {
    let mut cycled = Cycled::default();
    plan::wake_at(cluster, None);
    if !cluster.has_queued() {
        grow(cluster, now, &mut cycled, out);
        return cycled;
    }
    cluster.refresh_index();
    cluster.index.learn();
    promise::keep(cluster, now, &mut cycled, out);
    if !cluster.policy.remember_refusals {
        cluster.refused = crate::refused::Refused::fresh(cluster.tenants.len());
    }
    let sees_freed = cluster.policy.flaw != Some(Flaw::LostWakeUp);
    let free_version = if sees_freed { cluster.free_version } else { 0 };
    cluster.refused.begin(free_version, cluster.division_version, cluster.tenants.len());
    let before = cluster.free_version;
    fill(cluster, Pay::FromBudget, now, &mut cycled, out);
    if !cycled.more {
        plan::make_room(cluster, now, &mut cycled, out);
    }
    if !cycled.more && cluster.refused.lift_budgets() {
        fill(cluster, Pay::IfItFits, now, &mut cycled, out);
    }
    if !cycled.more && cluster.policy.plan_in_time {
        reserve::replan(cluster, now, out);
        reserve::fill(cluster, now, &mut cycled, out);
    }
    // A reservation that was not needed any more, or moved, leaves room for what was refused before.
    cycled.more |= cluster.free_version != before;
    if cycled.more {
        // The scavengers' turn did not come: the budgets hold nobody back for good.
        cluster.refused.lift_budgets();
    }
    cycled
}

/// Nobody waits: what is idle is for gangs that may have more members.
fn grow(cluster: &mut Cluster, now: Time, cycled: &mut Cycled, out: &mut Events) {
    if cluster.short_gangs.is_empty() {
        return;
    }
    cluster.refresh_index();
    let before = out.len();
    let again = resize::grow(cluster, now, out);
    cycled.more |= out.len() > before;
    plan::wake_at(cluster, again);
}

/// The most members that a gang may have which runs with `has` of them: what its tenant may start beside what it holds.
pub(crate) fn most_beside(cluster: &Cluster, job: &Job, has: u32) -> u32 {
    let (spec, Some(attempt)) = (&job.spec, job.live_attempt()) else { return has };
    let allowed = |more: u32| {
        let want = Gpus::whole(more * u32::from(spec.request.shape.largest()));
        let is_paid = attempt.scavenger || budget::over(cluster, spec.tenant, want, spec.time_limit).is_none();
        let is_capped = caps::of_user(cluster, spec.tenant, spec.user, want).is_some();
        let start = Start { tenant: spec.tenant, gpus: want, grace: spec.grace, scavenger: attempt.scavenger };
        let is_lent = lending::refusal(cluster, start, attempt.pool).is_none();
        let may_start = quota::may_start(cluster, spec.tenant, attempt.pool, want, spec.preemptible).is_ok();
        is_paid && !is_capped && is_lent && may_start
    };
    let most = spec.request.shape.members();
    has + (1..=most.saturating_sub(has)).take_while(|more| allowed(*more)).count() as u32
}

/// Whether a job must fit into the budgets above it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pay {
    /// It must.
    FromBudget,
    /// What does not fit runs as a scavenger, if it may be evicted.
    IfItFits,
}

/// Goes through the jobs in their order until every class that is left was refused.
fn fill(cluster: &mut Cluster, pay: Pay, now: Time, cycled: &mut Cycled, out: &mut Events) {
    let (most_jobs, most_members) = (cluster.policy.max_placements_per_cycle, cluster.policy.max_members_per_cycle);
    let mut order = Order::begin(cluster, now);
    while let Some(job) = order.next(cluster) {
        if cycled.jobs >= most_jobs || cycled.members >= most_members {
            cycled.more = true;
            break;
        }
        cycled.tried += 1;
        match find_place(cluster, job, pay) {
            Ok(found) => {
                cycled.jobs += 1;
                cycled.members += found.members.len() as u32;
                start(cluster, job, found, now, out);
                order.placed(cluster);
            }
            Err(why) => refuse(cluster, &mut order, job, why),
        }
    }
    order.end(cluster);
}

/// Why a job was refused, and for whom that holds.
pub(crate) enum Refused {
    /// For its class in its tenant.
    Admission(Blocked),
    /// For its class everywhere.
    Placement(Blocked),
    /// For its class in its tenant, but as a scavenger.
    Budget(Blocked),
    /// For its class and user in its tenant.
    Cap(Blocked),
    /// For this job alone: it keeps away from nodes on which its class may find room.
    Alone(Blocked),
}

/// Where a job starts.
pub(crate) struct Found {
    pub(crate) pool: PoolIndex,
    pub(crate) members: Members,
    pub(crate) scavenger: bool,
}

/// Whether caps and budgets let a job start, and whether as a scavenger.
pub(crate) fn may_pay(cluster: &Cluster, job: &Job, pay: Pay) -> Result<bool, Refused> {
    let spec = &job.spec;
    if let Some(why) = caps::of_user(cluster, spec.tenant, spec.user, job.gpus()) {
        return Err(Refused::Cap(why));
    }
    match budget::over(cluster, spec.tenant, job.gpus(), spec.time_limit) {
        None => Ok(false),
        Some(_) if pay == Pay::IfItFits && spec.preemptible => Ok(true),
        // Another job of its class may have a shorter limit.
        Some(why) if pay == Pay::IfItFits => Err(Refused::Alone(why)),
        Some(why) => Err(Refused::Budget(why)),
    }
}

/// Tries the pools of a job in its order of preference.
fn find_place(cluster: &mut Cluster, id: JobId, pay: Pay) -> Result<Found, Refused> {
    let job = cluster.jobs.get(id).expect("the order gives jobs that exist");
    let pools = job.spec.request.pools.len();
    let scavenger = may_pay(cluster, job, pay)?;
    let mut refused: Option<Refused> = None;
    if pools > 1
        && let Some(found) = find_cheapest(cluster, id, scavenger)
    {
        return Ok(found);
    }
    for at in 0..pools {
        let spec = &cluster.jobs.get(id).expect("it was there above").spec;
        let pool = spec.request.pools[at];
        let most = most_allowed(cluster, spec, pool, scavenger);
        if let Err(why) = most {
            // Another tenant may still get what this pool has. But what keeps away from nodes speaks for itself alone.
            refused = Some(match refused {
                Some(Refused::Placement(_)) | None => Refused::Admission(why),
                Some(first) => first,
            });
            continue;
        }
        let most = most.unwrap_or_default();
        let Cluster { jobs, index, policy, scratch, .. } = cluster;
        let job = jobs.get(id).expect("it was there above");
        match index.place_most(&job.spec.request, most, pool, &job.avoid, policy.search_steps, scratch) {
            Ok(members) => return Ok(Found { pool, members, scavenger }),
            Err(why) if !job.avoid.is_empty() => refused = Some(Refused::Alone(why)),
            Err(why) => refused = refused.or(Some(Refused::Placement(why))),
        }
    }
    Err(refused.expect("a request names at least one pool"))
}

/// The most members of a job that its tenant may start in a pool now; caps and budget let its least start.
#[inline]
fn most_allowed(cluster: &Cluster, spec: &JobSpec, pool: PoolIndex, scavenger: bool) -> Result<u32, Blocked> {
    let (request, all) = (&spec.request, spec.request.shape.members());
    let may_start = |gpus: Gpus| {
        quota::may_start(cluster, spec.tenant, pool, gpus, spec.preemptible)?;
        let start = Start { tenant: spec.tenant, gpus, grace: spec.grace, scavenger };
        lending::refusal(cluster, start, pool).map_or(Ok(()), Err)
    };
    may_start(request.least_gpus())?;
    if request.least_members() == all {
        return Ok(all);
    }
    let allowed = |members: u32| {
        let want = Gpus::whole(members * u32::from(request.shape.largest()));
        let is_paid = scavenger || budget::over(cluster, spec.tenant, want, spec.time_limit).is_none();
        let is_capped = caps::of_user(cluster, spec.tenant, spec.user, want).is_some();
        is_paid && !is_capped && may_start(want).is_ok()
    };
    if allowed(all) {
        return Ok(all);
    }
    let (mut fits, mut too_many) = (request.least_members(), all);
    while fits + 1 < too_many {
        let middle = fits + (too_many - fits) / 2;
        *if allowed(middle) { &mut fits } else { &mut too_many } = middle;
    }
    Ok(fits)
}

/// For a single member that names no pool and is placed by what it leaves for others: the cheapest place of all pools in
/// which its tenant may start it.
fn find_cheapest(cluster: &mut Cluster, id: JobId, scavenger: bool) -> Option<Found> {
    let job = cluster.jobs.get(id).expect("the order gives jobs that exist");
    let (spec, request) = (&job.spec, &*job.spec.request);
    let all = (0..cluster.pools.len()).map(PoolIndex::of);
    let has_no_wish = request.shape.members() == 1 && all.eq(request.pools.iter().copied());
    if !has_no_wish || !request.pools.iter().all(|pool| cluster.index.is_judged(request, *pool)) {
        return None;
    }
    let may_start = |pool: &PoolIndex| most_allowed(cluster, spec, *pool, scavenger).is_ok();
    let pools: SmallVec<[PoolIndex; 8]> = request.pools.iter().copied().filter(may_start).collect();
    let Cluster { index, scratch, .. } = cluster;
    let job = cluster.jobs.get(id).expect("it was there above");
    let (pool, placed) = index.place_judged(&job.spec.request, &pools, &job.avoid, None, scratch)?;
    Some(Found { pool, members: smallvec![placed], scavenger })
}

/// Whether a queued job could start now.
pub(crate) fn could_start(cluster: &mut Cluster, job: JobId) -> bool {
    find_place(cluster, job, Pay::IfItFits).is_ok()
}

fn refuse(cluster: &mut Cluster, order: &mut Order, id: JobId, why: Refused) {
    let job = cluster.jobs.get(id).expect("the order gives jobs that exist");
    let class = job.queued.expect("the order gives queued jobs").class;
    match why {
        Refused::Placement(why) => cluster.refused.note_no_room(class, why),
        Refused::Admission(why) => cluster.refused.note_no_quota(class, job.spec.tenant, why),
        Refused::Budget(why) => cluster.refused.note_over_budget(class, job.spec.tenant, why),
        Refused::Cap(why) => cluster.refused.note_over_cap(class, job.spec.tenant, job.spec.user, why),
        Refused::Alone(why) => {
            cluster.refused.note_alone(id, why);
            return order.skip(cluster, id);
        }
    }
    order.refused(cluster);
}

/// The job, or the next index of the array, gets its GPUs.
pub(crate) fn start(cluster: &mut Cluster, id: JobId, found: Found, now: Time, out: &mut Events) {
    let Found { pool, members, scavenger } = found;
    let is_array = cluster.jobs.get(id).expect("the order gives jobs that exist").progress.is_some();
    let started = if is_array { start_index(cluster, id, now, out) } else { id };
    let attempts = cluster.jobs.get(started).expect("it exists by now").attempts;
    let attempt = AttemptNumber(attempts + 1);
    emit(cluster, now, Event::JobPlaced { job: started, attempt, pool, members, scavenger }, out);
}

/// The next index of an array becomes a job of its own.
pub(crate) fn start_index(cluster: &mut Cluster, array: JobId, now: Time, out: &mut Events) -> JobId {
    let progress = cluster.jobs.get(array).and_then(|job| job.progress.as_deref());
    let index = progress.expect("only an array has indices").next;
    let job = cluster.next_job;
    emit(cluster, now, Event::ArrayIndexStarted { array, index, job }, out);
    job
}
