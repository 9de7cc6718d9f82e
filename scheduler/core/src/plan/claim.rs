//! What a blocked job may claim, and from whom.
//!
//! In: what a job asks for and a pool. Out: a plan, or why there is none. A job claims inside quota only: at every tenant above it that
//! has a quota, what lies inside it there and the job together must not pass it once the victims are gone. Reclaim takes
//! attempts that lie above the quota of a branch that the job is not in, from the lowest common ancestor with guaranteed
//! branches upwards, and never from outside a tenant whose own quota is full. Preemption takes lower classes of the job's
//! own tenant.
//! It must never claim more than the quotas above the job guarantee.

use smallvec::SmallVec;

use super::asked::{Asked, TrialIndex};
use super::eager::{self, Worth};
use super::lent;
use super::victims::{self, Candidate, Found, Where};
use super::{NoPlan, Plan};
use crate::admit::lending::{self, Breach};
use crate::admit::quota;
use crate::admit::whole::Way;
use crate::blocked::Blocked;
use crate::cluster::Cluster;
use crate::ids::{JobId, PoolIndex, TenantIndex};
use crate::job::Job;
use crate::reserve;
use crate::tenant::Tenant;
use crate::units::{Gpus, Span, Time};

/// How many GPUs victims must give back below certain tenants, by level: quota first, then limit. Tenant trees are flat.
pub(super) type Relief = SmallVec<[Gpus; 4]>;

/// What the job would pass, and by how much.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shortage {
    pub(super) of: Bound,
    pub(super) gpus: Gpus,
}

/// A bound that only certain victims help to keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Bound {
    /// The quota of a tenant: what counts against it, not what is borrowed there.
    Quota(TenantIndex),
    /// The limit of a tenant: whatever is held below it.
    Limit(TenantIndex),
    /// What may be borrowed for longer than a deadline.
    Lent(Span),
    /// What others do not keep back of what is idle.
    KeptBack,
}

/// What a job may claim in a pool.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    shortages: SmallVec<[Shortage; 4]>,
    /// The tenants below which others may have taken what is the job's; empty: it has nothing to claim by.
    lenders: SmallVec<[TenantIndex; 4]>,
}

impl Claim {
    /// None where no eviction can help.
    pub(super) fn of(cluster: &Cluster, asked: &Asked, pool: PoolIndex) -> Option<Self> {
        let shortages = shortages(cluster, asked, pool)?;
        let lenders = lenders(cluster, asked.tenant, pool, &shortages);
        Some(Self { shortages, lenders })
    }

    /// Whether the job waits inside every quota above it, and may therefore have lent GPUs taken back.
    pub(super) fn is_inside_quota(&self) -> bool {
        !self.lenders.is_empty()
    }

    /// Whether attempts could be taken for the job at all: by its claim, as far as what is within reach would hold it, or
    /// from lower classes. Cheap; `cluster.reach` is up to date. What rests is not claimed now.
    pub(super) fn may_take(&self, cluster: &Cluster, asked: &Asked, pool: PoolIndex, rests: bool) -> bool {
        if rests || lent::has_lower_classes(cluster, asked.tenant, asked.priority) {
            return lent::has_lower_classes(cluster, asked.tenant, asked.priority);
        }
        // What branches of one mission took from each other, and what is on its way, is not counted in what is within reach.
        let is_counted = self.lenders.iter().all(|lender| *lender == TenantIndex::ROOT) && cluster.leaving.is_empty();
        self.is_inside_quota() && (!is_counted || cluster.reach.could_hold(&asked.request, pool))
    }
}

/// Whether the job waits inside every quota above it, and may therefore have lent GPUs taken back.
pub(super) fn is_claim(cluster: &Cluster, asked: &Asked, pool: PoolIndex) -> bool {
    Claim::of(cluster, asked, pool).is_some_and(|claim| claim.is_inside_quota())
}

/// A plan for `asked` in `pool`. The index is as before.
///
/// # Errors
/// Why there is none, and when to look again.
pub(super) fn find(
    cluster: &Cluster,
    trial: &mut TrialIndex<'_>,
    asked: &Asked,
    pool: PoolIndex,
    now: Time,
) -> Result<Plan, NoPlan> {
    let Some(claim) = Claim::of(cluster, asked, pool) else { return Err(NoPlan::default()) };
    let mut none = NoPlan::default();
    if let Some(until) = asked.rests_until.filter(|until| *until > now && claim.is_inside_quota()) {
        none.ripe_at = Some(until);
    } else if claim.is_inside_quota() && is_behind(cluster, asked, pool) {
        // The gate before placement says so, as long as it is so.
        none.is_told = true;
    } else if claim.is_inside_quota() {
        let taken_back = lent::taken_back(cluster, asked.tenant, pool, &claim.lenders);
        match attempt(cluster, trial, asked, pool, taken_back, &claim.shortages, now) {
            Ok(plan) => match too_dear(cluster, asked, &plan, now) {
                None => return Ok(plan),
                Some(dear) => none = dear,
            },
            Err(reclaim) => none = reclaim,
        }
    }
    let lower = lent::lower_classes(cluster, asked, pool);
    if !lower.is_empty() {
        match attempt(cluster, trial, asked, pool, lower, &claim.shortages, now) {
            Ok(plan) => return Ok(plan),
            Err(preempt) => {
                none.is_tried |= preempt.is_tried;
                none.ripe_at = none.ripe_at.into_iter().chain(preempt.ripe_at).min();
            }
        }
    }
    Err(none)
}

/// Whether the quota is reserved for another of its mission, which needs it by its time.
fn is_behind(cluster: &Cluster, asked: &Asked, pool: PoolIndex) -> bool {
    reserve::behind(cluster, &asked.wish(), pool, asked.gpus()).is_some()
}

/// Why a plan to take back is not carried out yet: it would lose more than it brings, and its deadline is not over.
fn too_dear(cluster: &Cluster, asked: &Asked, plan: &Plan, now: Time) -> Option<NoPlan> {
    let (pool, want) = (plan.pool, asked.gpus());
    let last_call = eager::last_call(cluster, asked, pool, &plan.victims)?;
    if last_call <= now {
        return None;
    }
    let worth = eager::worth(cluster, asked, pool, &plan.victims, now);
    if worth.pays() {
        return None;
    }
    let Worth { loss, saved } = worth;
    let why = Blocked::TooDear { pool, want, loss, saved, until: last_call };
    let again = eager::look_again_at(last_call, now);
    Some(NoPlan { why: Some(why), ripe_at: Some(again), rests_until: Some(again), is_tried: true, ..NoPlan::default() })
}

/// Whether a job of a tenant that starts now lies above the quota of its mission.
pub(crate) fn would_borrow(cluster: &Cluster, tenant: TenantIndex, pool: PoolIndex, want: Gpus) -> bool {
    let mission = cluster.chain(tenant).find(|tenant| tenant.depth == 1);
    mission.is_some_and(|mission| own(cluster, mission, pool) + want > guaranteed(mission, pool).unwrap_or_default())
}

/// What may be taken back for a job, each with the time by which it can be gone.
pub(super) fn returns(cluster: &Cluster, asked: &Asked, pool: PoolIndex, now: Time) -> Vec<(Time, JobId)> {
    let Some(shortages) = shortages(cluster, asked, pool) else { return Vec::new() };
    let lenders = lenders(cluster, asked.tenant, pool, &shortages);
    let gone = |id: JobId| {
        let candidate = lent::candidates(cluster, id, pool, &shortages, now).pop()?;
        let grace = cluster.job(id)?.spec.grace;
        Some((candidate.ripe_at.max(now) + grace + cluster.policy.kill_bound, id))
    };
    lent::lent(cluster, asked.tenant, pool, &lenders).into_iter().filter_map(gone).collect()
}

/// Where the job would pass a quota or a limit; none where no eviction can help.
fn shortages(cluster: &Cluster, asked: &Asked, pool: PoolIndex) -> Option<SmallVec<[Shortage; 4]>> {
    let want = asked.gpus();
    let mut found = SmallVec::new();
    for above in cluster.chain(asked.tenant) {
        let (quota, held) = (above.quota_in(pool), above.held_in(pool));
        if above.paused {
            return None;
        }
        if let Some(guaranteed) = guaranteed(above, pool) {
            if want > guaranteed || (!asked.preemptible && held.fixed + want > guaranteed) {
                return None;
            }
            let own = own(cluster, above, pool);
            if own + want > guaranteed {
                let gpus = (own + want).less(guaranteed);
                found.push(Shortage { of: Bound::Quota(above.index), gpus });
            }
        }
        if let Some(limit) = quota.limit
            && held.used + want > limit
        {
            let gpus = (held.used + want).less(limit);
            found.push(Shortage { of: Bound::Limit(above.index), gpus });
        }
    }
    for Breach { deadline, lendable, lent } in lending::breaches(cluster, asked.start(false), pool) {
        found.push(Shortage { of: Bound::Lent(deadline), gpus: lent.less(lendable) });
    }
    let kept_back = quota::kept_back(cluster, asked.tenant, pool, want);
    if kept_back > Gpus::ZERO {
        found.push(Shortage { of: Bound::KeptBack, gpus: kept_back });
    }
    Some(found)
}

/// What is guaranteed to a tenant, if anything is: a mission without a quota has nothing.
fn guaranteed(tenant: &Tenant, pool: PoolIndex) -> Option<Gpus> {
    quota::guaranteed(tenant, tenant.quota_in(pool))
}

/// GPUs that count against a tenant's quota.
pub(crate) fn own(cluster: &Cluster, tenant: &Tenant, pool: PoolIndex) -> Gpus {
    let held = tenant.held_in(pool);
    if tenant.depth == 1 {
        return held.used - held.borrowed - unfit(cluster, tenant, pool);
    }
    let quota = tenant.quota_in(pool).quota.unwrap_or_default();
    above_quota(cluster, pool, quota, tenant.index, |job| cluster.is_within(job.spec.tenant, tenant.index)).0
}

/// Promised GPUs that do not fit into the mission's quota until the victims are gone.
fn unfit(cluster: &Cluster, mission: &Tenant, pool: PoolIndex) -> Gpus {
    if mission.held_in(pool).promised == Gpus::ZERO {
        return Gpus::ZERO;
    }
    let quota = mission.quota_in(pool).quota.unwrap_or_default();
    let (own, _) = above_quota(cluster, pool, quota, mission.index, |_| true);
    let held = mission.held_in(pool);
    (held.used - held.borrowed).less(own)
}

/// Within `quota`, counted in the order of starts: the GPUs that fit, and the attempts that do not.
pub(super) fn above_quota(
    cluster: &Cluster,
    pool: PoolIndex,
    quota: Gpus,
    tenant: TenantIndex,
    counts: impl Fn(&Job) -> bool,
) -> (Gpus, Vec<JobId>) {
    let mut left = quota;
    let mut above = Vec::new();
    let Some(mission) = cluster.mission(tenant) else { return (Gpus::ZERO, above) };
    for key in cluster.tenant(mission).attempts.iter() {
        let Some(job) = cluster.job(key.job).filter(|job| counts(job)) else { continue };
        let promise = cluster.promise(job.id);
        let attempt = job.live_attempt().map(|attempt| (attempt.pool, attempt.gpus()));
        let Some((at, gpus)) = promise.map(|promise| (promise.pool, promise.gpus())).or(attempt) else { continue };
        if at != pool {
            continue;
        }
        if gpus <= left && !is_outside(job) {
            left -= gpus;
        } else if promise.is_none() {
            above.push(job.id);
        }
    }
    (quota - left, above)
}

pub(super) fn is_scavenger(job: &Job) -> bool {
    job.live_attempt().is_some_and(|attempt| attempt.scavenger)
}

/// Whether what a job runs is borrowed whatever is left of its mission's quota.
pub(super) fn is_outside(job: &Job) -> bool {
    job.live_attempt().is_some_and(|attempt| attempt.is_outside())
}

/// The tenants below which others may have taken what is the job's: from its parent up to the first whose own quota is
/// full, or to the root. Empty when the job has no guarantee to claim by.
fn lenders(
    cluster: &Cluster,
    tenant: TenantIndex,
    pool: PoolIndex,
    shortages: &[Shortage],
) -> SmallVec<[TenantIndex; 4]> {
    let mut found = SmallVec::new();
    let mut has_guarantee = false;
    for above in cluster.chain(tenant) {
        if has_guarantee {
            found.push(above.index);
        }
        if shortages.iter().any(|short| short.of == Bound::Quota(above.index)) {
            break;
        }
        has_guarantee |= guaranteed(above, pool).is_some();
    }
    found
}

/// Looks for victims among `jobs`, outside the domains that are kept whole for others.
fn attempt(
    cluster: &Cluster,
    trial: &mut TrialIndex<'_>,
    asked: &Asked,
    pool: PoolIndex,
    jobs: Vec<JobId>,
    shortages: &[Shortage],
    now: Time,
) -> Result<Plan, NoPlan> {
    let Some(way) = Way::of(cluster, &asked.wish(), pool) else {
        return attempt_in(cluster, trial, asked, pool, &jobs, shortages, now);
    };
    trial.index.bar(pool, &way.first_bars(cluster));
    let mut found = attempt_in(cluster, trial, asked, pool, &jobs, shortages, now);
    if found.as_ref().is_ok_and(|plan| !way.allows(cluster, trial.index, &plan.members)) {
        let bars = way.closer_bars(cluster, trial.index);
        trial.index.bar(pool, &bars);
        found = attempt_in(cluster, trial, asked, pool, &jobs, shortages, now);
    }
    trial.index.unbar(pool);
    found
}

/// Looks for victims among `jobs`.
fn attempt_in(
    cluster: &Cluster,
    trial: &mut TrialIndex<'_>,
    asked: &Asked,
    pool: PoolIndex,
    jobs: &[JobId],
    shortages: &[Shortage],
    now: Time,
) -> Result<Plan, NoPlan> {
    let want = asked.gpus();
    let candidates: Vec<Candidate> =
        jobs.iter().flat_map(|victim| lent::candidates(cluster, *victim, pool, shortages, now)).collect();
    let missing = shortages.iter().map(|short| short.gpus).collect();
    match victims::search(cluster, trial, &Where { asked, pool, now }, candidates, missing) {
        Found::Victims { members, victims, shrinks } if stays_inside(cluster, asked, pool, &victims) => {
            Ok(Plan { pool, members, victims, shrinks })
        }
        Found::Victims { .. } => Err(NoPlan { is_tried: true, ..NoPlan::default() }),
        Found::Ripening { until } => {
            let why = Blocked::MinimumRun { pool, want, until };
            Err(NoPlan { why: Some(why), ripe_at: Some(until), is_tried: true, ..NoPlan::default() })
        }
        Found::InTheWay { reclaimable, until } => {
            let why = Blocked::Fragmented { pool, want, reclaimable, until };
            Err(NoPlan { why: Some(why), is_tried: true, ..NoPlan::default() })
        }
        Found::Nothing => Err(NoPlan { is_tried: true, ..NoPlan::default() }),
    }
}

/// Whether, with the victims gone, the job lies inside every quota above it, and nothing that lay inside does so no more:
/// where an attempt leaves, one that was above the quota may come inside and push out what started after it.
fn stays_inside(cluster: &Cluster, asked: &Asked, pool: PoolIndex, victims: &[JobId]) -> bool {
    let is_in = |tenant: &Tenant, job: &Job| cluster.is_within(job.spec.tenant, tenant.index);
    let loses = |tenant: &&Tenant| victims.iter().filter_map(|v| cluster.job(*v)).any(|victim| is_in(tenant, victim));
    let mut touched = cluster.chain(asked.tenant).filter(|tenant| tenant.depth > 0).filter(loses);
    touched.all(|tenant| {
        let Some(quota) = guaranteed(tenant, pool) else { return true };
        let (_, before) = above_quota(cluster, pool, quota, tenant.index, |job| is_in(tenant, job));
        let stays = |job: &Job| is_in(tenant, job) && !victims.contains(&job.id);
        let (own, after) = above_quota(cluster, pool, quota, tenant.index, stays);
        own + asked.gpus() <= quota && after.iter().all(|job| before.contains(job))
    })
}
