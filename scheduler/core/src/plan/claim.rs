//! What a blocked job may claim, and from whom.
//!
//! In: what a job asks for and a pool. Out: a plan, or why there is none. A job claims inside quota only: at every tenant above it that
//! has a quota, what lies inside it there and the job together must not pass it once the victims are gone. Reclaim takes
//! attempts that lie above the quota of a branch that the job is not in, from the lowest common ancestor with guaranteed
//! branches upwards, and never from outside a tenant whose own quota is full. Preemption takes lower classes of the job's
//! own tenant.
//! It must never take what must not be evicted, what has not run its minimum, or what may lie on a node that is not heard.

use smallvec::SmallVec;

use super::asked::{Asked, TrialIndex};
use super::victims::{self, Candidate, Found, Where};
use super::{NoPlan, Plan};
use crate::admit::lending::{self, Breach};
use crate::blocked::Blocked;
use crate::cluster::Cluster;
use crate::ids::{JobId, PoolIndex, TenantIndex};
use crate::job::{Job, Phase};
use crate::node::Contact;
use crate::tenant::Tenant;
use crate::units::{GpuTime, Gpus, Span, Time};

/// How many GPUs victims must give back below certain tenants, by level: quota first, then limit. Tenant trees are flat.
pub(super) type Relief = SmallVec<[Gpus; 4]>;

/// What the job would pass, and by how much.
#[derive(Clone, Copy, Debug)]
struct Shortage {
    of: Bound,
    gpus: Gpus,
}

/// A bound that only certain victims help to keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Bound {
    /// The quota of a tenant: what counts against it, not what is borrowed there.
    Quota(TenantIndex),
    /// The limit of a tenant: whatever is held below it.
    Limit(TenantIndex),
    /// What may be borrowed for longer than a deadline.
    Lent(Span),
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
    let Some(shortages) = shortages(cluster, asked, pool) else { return Err(NoPlan::default()) };
    let lenders = lenders(cluster, asked.tenant, pool, &shortages);
    let mut taken_back = lent(cluster, asked.tenant, pool, &lenders);
    taken_back.extend(scavengers(cluster, asked.tenant, pool));
    taken_back.extend(leaving(cluster, pool));
    taken_back.sort_unstable();
    taken_back.dedup();
    let mut none = NoPlan::default();
    if let Some(due) = asked.waits_until(pool).filter(|due| *due > now && !lenders.is_empty()) {
        none.ripe_at = Some(due);
    } else if !lenders.is_empty() {
        match attempt(cluster, trial, asked, pool, taken_back, &shortages, now) {
            Ok(plan) => return Ok(plan),
            Err(reclaim) => none = reclaim,
        }
    }
    let lower = lower_classes(cluster, asked, pool);
    if !lower.is_empty() {
        match attempt(cluster, trial, asked, pool, lower, &shortages, now) {
            Ok(plan) => return Ok(plan),
            Err(preempt) => {
                none.is_tried |= preempt.is_tried;
                none.ripe_at = none.ripe_at.into_iter().chain(preempt.ripe_at).min();
            }
        }
    }
    Err(none)
}

/// Whether the job waits inside every quota above it, and may therefore have lent GPUs taken back.
pub(super) fn is_claim(cluster: &Cluster, asked: &Asked, pool: PoolIndex) -> bool {
    let shortages = shortages(cluster, asked, pool);
    shortages.is_some_and(|shortages| !lenders(cluster, asked.tenant, pool, &shortages).is_empty())
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
        let candidate = candidate(cluster, id, pool, &shortages, now)?;
        let grace = cluster.job(id)?.spec.grace;
        Some((candidate.ripe_at.max(now) + grace + cluster.policy.kill_bound, id))
    };
    lent(cluster, asked.tenant, pool, &lenders).into_iter().filter_map(gone).collect()
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
    Some(found)
}

/// What is guaranteed to a tenant, if anything is: a mission without a quota has nothing.
fn guaranteed(tenant: &Tenant, pool: PoolIndex) -> Option<Gpus> {
    let quota = tenant.quota_in(pool).quota;
    if tenant.depth == 1 { Some(quota.unwrap_or_default()) } else { quota }
}

/// GPUs that count against a tenant's quota.
fn own(cluster: &Cluster, tenant: &Tenant, pool: PoolIndex) -> Gpus {
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
fn above_quota(
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
        if gpus <= left && !is_scavenger(job) {
            left -= gpus;
        } else if promise.is_none() {
            above.push(job.id);
        }
    }
    (quota - left, above)
}

fn is_scavenger(job: &Job) -> bool {
    job.live_attempt().is_some_and(|attempt| attempt.scavenger)
}

/// Attempts that are being stopped anyhow: what they leave and is promised to nobody costs no eviction.
fn leaving(cluster: &Cluster, pool: PoolIndex) -> impl Iterator<Item = JobId> {
    let keys = cluster.missions().flat_map(|mission| mission.attempts.iter());
    let jobs = keys.filter_map(|key| cluster.job(key.job)).filter(|job| is_leaving(job));
    jobs.filter(move |job| job.live_attempt().is_some_and(|attempt| attempt.pool == pool)).map(|job| job.id)
}

/// Whether it is being stopped, whatever for.
pub(super) fn is_leaving(job: &Job) -> bool {
    matches!(job.phase, Phase::Stopping(_))
}

/// Attempts of the job's own mission that lie outside every budget: whoever is inside quota and budget goes before them.
fn scavengers(cluster: &Cluster, tenant: TenantIndex, pool: PoolIndex) -> Vec<JobId> {
    let Some(mission) = cluster.mission(tenant).filter(|_| cluster.has_budgets) else { return Vec::new() };
    let is_there = |job: &&Job| is_scavenger(job) && job.live_attempt().is_some_and(|attempt| attempt.pool == pool);
    let keys = cluster.tenant(mission).attempts.iter().rev();
    keys.filter_map(|key| cluster.job(key.job)).filter(is_there).map(|job| job.id).collect()
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

/// Attempts that lie above the quota of a branch of `lenders` which `tenant` is not in.
fn lent(cluster: &Cluster, tenant: TenantIndex, pool: PoolIndex, lenders: &[TenantIndex]) -> Vec<JobId> {
    let mut found = Vec::new();
    for lender in lenders {
        let lender = cluster.tenant(*lender);
        let others = lender.children.iter().filter(|child| !cluster.is_within(tenant, **child));
        if lender.depth == 0 {
            for mission in others {
                let keys = cluster.tenant(*mission).attempts.iter().rev();
                let borrows = |job: &JobId| {
                    let attempt = cluster.job(*job).and_then(Job::live_attempt);
                    attempt.is_some_and(|attempt| attempt.borrowed && attempt.pool == pool)
                };
                found.extend(keys.take_while(|key| key.preemptible).map(|key| key.job).filter(borrows));
            }
            continue;
        }
        let quota_of = |child: &TenantIndex| cluster.tenant(*child).quota_in(pool).quota;
        for child in others.filter(|child| quota_of(child).is_some()) {
            let quota = quota_of(child).unwrap_or_default();
            found.extend(above_quota(cluster, pool, quota, *child, |job| cluster.is_within(job.spec.tenant, *child)).1);
        }
        // Branches without a quota share what the others leave of the lender's.
        let shared = lender.quota_in(pool).quota.unwrap_or_default();
        let rest = shared.less(lender.children.iter().filter_map(quota_of).sum());
        let in_rest = |job: &Job| {
            let branch = cluster.chain(job.spec.tenant).find(|above| above.parent == Some(lender.index));
            branch.is_some_and(|branch| branch.quota_in(pool).quota.is_none())
        };
        found.extend(above_quota(cluster, pool, rest, lender.index, in_rest).1);
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Attempts of the job's own tenant in lower classes.
fn lower_classes(cluster: &Cluster, asked: &Asked, pool: PoolIndex) -> Vec<JobId> {
    let Some(mission) = cluster.mission(asked.tenant) else { return Vec::new() };
    let is_lower = |other: &&Job| {
        other.spec.tenant == asked.tenant
            && other.spec.priority < asked.priority
            && other.live_attempt().is_some_and(|attempt| attempt.pool == pool)
    };
    let keys = cluster.tenant(mission).attempts.iter();
    keys.filter_map(|key| cluster.job(key.job)).filter(is_lower).map(|job| job.id).collect()
}

/// Looks for victims among `jobs`.
fn attempt(
    cluster: &Cluster,
    trial: &mut TrialIndex<'_>,
    asked: &Asked,
    pool: PoolIndex,
    jobs: Vec<JobId>,
    shortages: &[Shortage],
    now: Time,
) -> Result<Plan, NoPlan> {
    let want = asked.gpus();
    let candidates: Vec<Candidate> =
        jobs.iter().filter_map(|victim| candidate(cluster, *victim, pool, shortages, now)).collect();
    let missing = shortages.iter().map(|short| short.gpus).collect();
    match victims::search(cluster, trial, &Where { asked, pool, now }, candidates, missing) {
        Found::Victims { members, victims } if stays_inside(cluster, asked, pool, &victims) => {
            Ok(Plan { pool, members, victims })
        }
        Found::Victims { .. } => Err(NoPlan { is_tried: true, ..NoPlan::default() }),
        Found::Ripening { until } => {
            let why = Blocked::MinimumRun { pool, want, until };
            Err(NoPlan { why: Some(why), ripe_at: Some(until), is_tried: true })
        }
        Found::InTheWay { reclaimable, until } => {
            let why = Blocked::Fragmented { pool, want, reclaimable, until };
            Err(NoPlan { why: Some(why), ripe_at: None, is_tried: true })
        }
        Found::Nothing => Err(NoPlan { why: None, ripe_at: None, is_tried: true }),
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

/// An attempt that may be evicted, now or later.
fn candidate(cluster: &Cluster, id: JobId, pool: PoolIndex, shortages: &[Shortage], now: Time) -> Option<Candidate> {
    let job = cluster.job(id)?;
    let attempt = job.live_attempt()?;
    let leaves = is_leaving(job);
    let may_stop = leaves || job.spec.preemptible && matches!(job.phase, Phase::Launching | Phase::Running);
    let is_heard = |member: &crate::job::Member| cluster.node(member.placed.node).contact == Contact::Ready;
    if !may_stop || attempt.pool != pool || !attempt.members.iter().all(is_heard) {
        return None;
    }
    let gpus = attempt.gpus();
    let helps = |short: &Shortage| {
        let counts = match short.of {
            Bound::Quota(tenant) => cluster.is_within(job.spec.tenant, tenant) && !attempt.borrowed,
            Bound::Limit(tenant) => cluster.is_within(job.spec.tenant, tenant),
            Bound::Lent(deadline) => lending::is_slow(cluster, job, deadline),
        };
        if counts { gpus } else { Gpus::ZERO }
    };
    Some(Candidate {
        job: id,
        gpus,
        loss: match attempt.started_at {
            Some(_) if !leaves => gpus.over(now.since(job.kept_until(attempt))),
            _ => GpuTime::ZERO,
        },
        ripe_at: match attempt.started_at {
            Some(started) if !leaves => started + min_run(cluster, job.spec.tenant),
            _ => now,
        },
        relief: shortages.iter().map(helps).collect(),
    })
}

/// How long attempts of a tenant run before they may be evicted.
fn min_run(cluster: &Cluster, tenant: TenantIndex) -> Span {
    cluster.chain(tenant).find_map(|tenant| tenant.min_run).unwrap_or(cluster.policy.default_min_run)
}
