//! What a reservation needs beside GPUs: that its tenants may have them by then.
//!
//! In: a start that is thought of. Out: the reservation of another that it would push over a limit or out of its quota, or
//! to which it would leave less than it needs of what is lent. What is held then is what runs by its limits until then, and
//! what is promised or set aside before. The plain cycle asks as if a start ran for ever, so that the answer is the same for
//! a whole class; beside the reservations its end counts.
//! Limits and quotas bind what lies below the same tenant. Lend limits bind between missions as well: what some keep back
//! is nobody's, and the rest is for those who come first.

use crate::admit::quota;
use crate::admit::start::Wish;
use crate::blocked::Blocked;
use crate::cluster::Cluster;
use crate::ids::{PoolIndex, TenantIndex};
use crate::job::{Attempt, Job, Phase, StopReason};
use crate::plan;
use crate::reserve::{Comer, Reservation, is_inside_quota};
use crate::tenant::Tenant;
use crate::units::{Gpus, Time};

/// The reservation that `gpus` more of `wish` would delay, if there is one.
pub(crate) fn behind(cluster: &Cluster, wish: &Wish<'_>, pool: PoolIndex, gpus: Gpus) -> Option<Blocked> {
    let list = cluster.reservations();
    if list.is_empty() {
        return None;
    }
    let mission = cluster.mission(wish.tenant)?;
    let until = wish.until(&cluster.policy);
    // Beside the reservations nothing is remembered, and what is known now may be used.
    let latest = if until.is_some() { By::Soonest } else { By::Latest };
    let delays = |other: &&Reservation| {
        let Some(job) = cluster.job(other.job).filter(|_| other.pool == pool) else { return false };
        let is_over = until.is_some_and(|until| until <= other.from);
        let is_met = cluster.mission(job.spec.tenant) == Some(mission);
        if !is_over && takes_loan(cluster, wish, job, other, gpus, is_met, latest) {
            return true;
        }
        let is_fixed = !wish.preemptible && !job.spec.preemptible;
        let delays = |above: &Tenant| {
            let is_above_both = above.depth > 0 && cluster.is_within(job.spec.tenant, above.index);
            let is_in_way = || !is_over && pushes_out(cluster, above, other, gpus, is_fixed, latest);
            is_above_both && (takes_claim(cluster, above, other, gpus) || is_in_way())
        };
        is_met && cluster.chain(wish.tenant).any(delays)
    };
    // What comes later in the list is in nobody's way who holds a reservation before it.
    let other = list.iter().take_while(|other| other.job != wish.job).find(delays)?;
    Some(Blocked::BehindReservation { job: other.job, pool, idle: cluster.idle_of(other), until: other.from })
}

/// Whether `gpus` more below `above` would leave the job of a reservation outside its quota there, where lent GPUs are to
/// come back for it: who is outside takes nothing back, however soon the others end.
fn takes_claim(cluster: &Cluster, above: &Tenant, other: &Reservation, gpus: Gpus) -> bool {
    let Some(quota) = guaranteed(cluster, above, other).filter(|_| other.reclaims) else { return false };
    plan::own(cluster, above, other.pool) + other.gpus() + gpus > quota
}

/// What is guaranteed when a reservation begins.
fn guaranteed(cluster: &Cluster, above: &Tenant, other: &Reservation) -> Option<Gpus> {
    quota::guaranteed(above, cluster.quota_at(above.index, other.pool, other.from))
}

/// Whether `gpus` more below `above` leave too little there for a reservation that has enough without them.
fn pushes_out(cluster: &Cluster, above: &Tenant, other: &Reservation, gpus: Gpus, is_fixed: bool, latest: By) -> bool {
    let limit = cluster.quota_at(above.index, other.pool, other.from).limit;
    let guaranteed = guaranteed(cluster, above, other);
    let (want, held) = (other.gpus(), above.held_in(other.pool));
    let is_short = |bound: Gpus, now: Gpus, is_fixed: bool| {
        let then = |by: By| held_at(cluster, above, other, is_fixed, by) + want;
        // What is held now is the most that is held then.
        now + want + gpus > bound && then(By::Soonest) <= bound && then(latest) + gpus > bound
    };
    let bounds = [limit, guaranteed.filter(|_| other.is_own)];
    bounds.into_iter().flatten().any(|bound| is_short(bound, held.used, false))
        || guaranteed.filter(|_| is_fixed).is_some_and(|bound| is_short(bound, held.fixed, true))
}

/// Whether `gpus` more of `wish` leave less for `job` than its reservation needs of what is lent, where some keep a part of
/// their quota back. What another mission starts inside its quota is its own, and what is gone again by then in nobody's way.
fn takes_loan(
    cluster: &Cluster,
    wish: &Wish<'_>,
    job: &Job,
    other: &Reservation,
    gpus: Gpus,
    is_same_mission: bool,
    latest: By,
) -> bool {
    let pool = other.pool;
    let keeps_back = |tenant: &Tenant| tenant.quota_in(pool).lend_limit.is_some();
    // Where there is no room for it placement says so, for all.
    if gpus > cluster.pool(pool).idle || !cluster.tenants.iter().any(keeps_back) {
        return false;
    }
    let is_own = || is_inside_quota(cluster, wish.tenant, pool, gpus);
    let comer = wish.at.map(|now| Comer { wish: *wish, scavenger: false, moves: false, now });
    let is_gone = || comer.is_some_and(|comer| comer.comes_back(cluster, pool, other));
    if !is_same_mission && (is_own() || is_gone()) {
        return false;
    }
    let (tenant, want) = (job.spec.tenant, other.gpus());
    let enough = |then: &Foreseen| then.available(cluster, tenant, pool) >= want;
    if !enough(&foresee(cluster, other, By::Soonest)) {
        return false;
    }
    let mut then = foresee(cluster, other, latest);
    then.take(cluster, wish.tenant, gpus);
    !enough(&then)
}

/// What is idle and held at a time to come.
struct Foreseen {
    idle: Gpus,
    /// By tenant.
    used: Vec<Gpus>,
}

impl Foreseen {
    fn take(&mut self, cluster: &Cluster, tenant: TenantIndex, gpus: Gpus) {
        self.idle = self.idle.less(gpus);
        cluster.chain(tenant).for_each(|above| self.used[above.index.at()] += gpus);
    }

    fn give_back(&mut self, cluster: &Cluster, job: &Job, attempt: &Attempt) {
        let usable = attempt.members.iter().map(|member| {
            let placed = &member.placed;
            if cluster.node(placed.node).usable().contains(placed.gpus) { placed.held() } else { Gpus::ZERO }
        });
        self.idle += usable.sum();
        let gpus = attempt.gpus();
        cluster.chain(job.spec.tenant).for_each(|above| self.used[above.index.at()] -= gpus);
    }

    /// What a tenant could take then.
    fn available(&self, cluster: &Cluster, tenant: TenantIndex, pool: PoolIndex) -> Gpus {
        quota::available_with(cluster, tenant, pool, self.idle, &|tenant| self.used[tenant.index.at()])
    }
}

/// How things stand when a reservation begins. O(attempts x depth).
fn foresee(cluster: &Cluster, other: &Reservation, by: By) -> Foreseen {
    let used = cluster.tenants.iter().map(|tenant| tenant.held_in(other.pool).used).collect();
    let mut then = Foreseen { idle: cluster.pool(other.pool).idle, used };
    for key in cluster.missions().flat_map(|mission| mission.attempts.iter()) {
        let Some(job) = cluster.job(key.job) else { continue };
        let attempt = job.live_attempt().filter(|attempt| attempt.pool == other.pool);
        if let Some(attempt) = attempt.filter(|attempt| is_over(cluster, job, attempt, other.from, by)) {
            then.give_back(cluster, job, attempt);
        }
    }
    for set in before(cluster, other) {
        if let Some(job) = cluster.job(set.job) {
            then.take(cluster, job.spec.tenant, set.gpus());
        }
    }
    then
}

/// What is set aside when a reservation begins, and comes before it.
fn before<'c>(cluster: &'c Cluster, other: &'c Reservation) -> impl Iterator<Item = &'c Reservation> {
    let meets = |set: &&Reservation| set.pool == other.pool && set.from < other.until && set.until > other.from;
    cluster.reservations().iter().take_while(|set| set.job != other.job).filter(meets)
}

/// By which reckoning what runs is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum By {
    /// By what is known now.
    Soonest,
    /// By what was known when it was placed: a start that is refused by this stays refused while it runs.
    Latest,
}

/// What is held below a tenant when a reservation begins; `fixed`: by what must not be evicted.
fn held_at(cluster: &Cluster, above: &Tenant, other: &Reservation, fixed: bool, by: By) -> Gpus {
    let counts = |job: &&Job| cluster.is_within(job.spec.tenant, above.index) && !(fixed && job.spec.preemptible);
    let mission = cluster.mission(above.index).map(|mission| cluster.tenant(mission));
    let jobs = mission.into_iter().flat_map(|mission| mission.attempts.iter()).filter_map(|key| cluster.job(key.job));
    let runs = jobs.filter(counts).filter_map(|job| {
        if let Some(promise) = cluster.promise(job.id) {
            return (promise.pool == other.pool).then(|| promise.gpus());
        }
        let attempt = job.live_attempt().filter(|attempt| attempt.pool == other.pool)?;
        (!is_over(cluster, job, attempt, other.from, by)).then(|| attempt.gpus())
    });
    let aside = before(cluster, other).filter(|set| cluster.job(set.job).is_some_and(|job| counts(&job)));
    runs.sum::<Gpus>() + aside.map(Reservation::gpus).sum()
}

fn is_over(cluster: &Cluster, job: &Job, attempt: &Attempt, at: Time, by: By) -> bool {
    let latest = super::over_by(&cluster.policy, job.limit_of(attempt), job.spec.grace, attempt.placed_at);
    let started = attempt.started_at.filter(|_| by == By::Soonest);
    let end = started.map_or(latest, |start| start + latest.since(attempt.placed_at + cluster.policy.launch_deadline));
    match job.phase {
        Phase::Stopping(StopReason::Resized) => false,
        Phase::Stopping(_) if by == By::Soonest => true,
        Phase::Launching | Phase::Running | Phase::Stopping(_) => end <= at,
        // Nobody can say.
        Phase::AwaitingProof(_) | Phase::Waiting | Phase::Spread | Phase::Ended(_) => false,
    }
}
