//! What is lent comes back in time: how long borrowers may keep GPUs, counted against how long their owners can wait.
//!
//! The return time of an attempt is its minimum run + its grace + the kill bound, as at its start: it is never more. A
//! mission's deadline is its `reclaim_within`; without one it has promised nobody anything. The rule, for every deadline d
//! of a mission: the GPUs borrowed by attempts with a longer return time never exceed what missions with a longer deadline
//! (or none) leave idle of what they lend, together with the GPUs that are in nobody's quota, less the overhang (what
//! fixed attempts hold above their quotas, which nobody gets back).
//!
//! The rule holds for starts inside quota as well. Where a lender took idle GPUs of another instead of its own lent ones,
//! the slow borrower would be left to a lender that cannot wait for it. Such a start is refused (`LentTooLong`), and the
//! planner takes back from slow borrowers first.
//! Nothing here costs anything where no mission has a deadline.

use smallvec::SmallVec;

use crate::blocked::Blocked;
use crate::cluster::Cluster;
use crate::ids::{JobId, PoolIndex, TenantIndex};
use crate::job::{Job, Phase};
use crate::promise::Promise;
use crate::tenant::Tenant;
use crate::units::{Gpus, Span};

/// A start that is thought of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) tenant: TenantIndex,
    pub(crate) gpus: Gpus,
    pub(crate) grace: Span,
    /// It may be evicted; what may not counts against the quota first.
    pub(crate) preemptible: bool,
    /// It would lie above every quota.
    pub(crate) scavenger: bool,
}

/// Where the rule would be broken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Breach {
    /// Return times above this are too long for what is left.
    pub(crate) deadline: Span,
    /// What may be borrowed for longer.
    pub(crate) lendable: Gpus,
    /// What would be.
    pub(crate) lent: Gpus,
}

/// How soon an attempt of a tenant can be gone, counted from any moment of it.
pub(crate) fn return_time(cluster: &Cluster, tenant: TenantIndex, grace: Span) -> Span {
    let min_run = cluster.chain(tenant).find_map(|above| above.min_run).unwrap_or(cluster.policy.default_min_run);
    min_run + grace + cluster.policy.kill_bound
}

/// Why `start` may not be in `pool` now, if so.
pub(crate) fn refusal(cluster: &Cluster, start: Start, pool: PoolIndex) -> Option<Blocked> {
    if !cluster.has_deadlines {
        return None;
    }
    let Breach { deadline, lendable, lent } = breaches(cluster, start, pool).first().copied()?;
    Some(Blocked::LentTooLong { pool, deadline, lendable, lent, want: start.gpus })
}

/// The deadlines for which `start` would break the rule; empty where no mission has one.
pub(crate) fn breaches(cluster: &Cluster, start: Start, pool: PoolIndex) -> SmallVec<[Breach; 2]> {
    let mission = cluster.mission(start.tenant).filter(|_| cluster.has_deadlines);
    let Some(mission) = mission.map(|mission| cluster.tenant(mission)) else { return SmallVec::new() };
    breaches_after(cluster, mission, &after(cluster, start, mission, pool), pool)
}

/// Whether a promise, made when the job lay inside its quota, would start as a loan that breaks the rule: the quota was cut.
pub(crate) fn refuses_promise(cluster: &Cluster, job: &Job, promise: &Promise) -> bool {
    let mission = cluster.mission(job.spec.tenant).filter(|_| cluster.has_deadlines);
    let Some(mission) = mission.map(|mission| cluster.tenant(mission)) else { return false };
    let (pool, gpus) = (promise.pool, promise.gpus());
    if counts_as_own(cluster, mission, job.id, pool) {
        return false;
    }
    let itself = (gpus, return_time(cluster, job.spec.tenant, job.spec.grace));
    let after = After { own: own(mission, pool).less(gpus), borrows: SmallVec::from_iter([itself]) };
    !breaches_after(cluster, mission, &after, pool).is_empty()
}

/// Whether what a job holds or is promised fits into its mission's quota, after all that counts before it.
fn counts_as_own(cluster: &Cluster, mission: &Tenant, job: JobId, pool: PoolIndex) -> bool {
    let mut left = mission.quota_in(pool).quota.unwrap_or_default();
    for key in mission.attempts.iter() {
        let promised = cluster.promise(key.job).map(|promise| (promise.pool, promise.gpus()));
        let attempt = cluster.job(key.job).and_then(Job::live_attempt).filter(|attempt| !attempt.is_outside());
        let Some((at, gpus)) = promised.or(attempt.map(|attempt| (attempt.pool, attempt.gpus()))) else { continue };
        let fits = at == pool && gpus <= left;
        if key.job == job {
            return fits;
        }
        left = if fits { left - gpus } else { left };
    }
    false
}

fn breaches_after(cluster: &Cluster, mission: &Tenant, after: &After, pool: PoolIndex) -> SmallVec<[Breach; 2]> {
    let (mut found, own) = (SmallVec::new(), own(mission, pool));
    for deadline in deadlines(cluster, pool) {
        let more: Gpus = after.borrows.iter().filter(|(_, returns)| *returns > deadline).map(|(gpus, _)| *gpus).sum();
        let lends = deadline_of(cluster, mission).is_none_or(|own| own > deadline);
        if more == Gpus::ZERO && (after.own == own || !lends) {
            // It changes nothing for this deadline.
            continue;
        }
        let lendable = lendable(cluster, pool, deadline, Some((mission.index, after.own)));
        if borrowed(cluster, pool) + more <= lendable {
            continue;
        }
        let lent = borrowed_longer(cluster, pool, deadline) + more;
        if lent > lendable {
            found.push(Breach { deadline, lendable, lent });
        }
    }
    found
}

/// What a mission owns after a start, and what it borrows more, each with its return time.
struct After {
    own: Gpus,
    borrows: SmallVec<[(Gpus, Span); 2]>,
}

fn after(cluster: &Cluster, start: Start, mission: &Tenant, pool: PoolIndex) -> After {
    let (quota, own) = (mission.quota_in(pool).quota.unwrap_or_default(), own(mission, pool));
    let itself = (start.gpus, return_time(cluster, start.tenant, start.grace));
    if start.scavenger || start.preemptible && own + start.gpus > quota {
        return After { own, borrows: SmallVec::from_iter([itself]) };
    }
    if own + start.gpus <= quota {
        return After { own: own + start.gpus, borrows: SmallVec::new() };
    }
    // It counts before all that may be evicted: some of that does not fit into the quota any more, and is borrowed from now on.
    let mut after = After { own: Gpus::ZERO, borrows: SmallVec::new() };
    let mut is_counted = false;
    for key in mission.attempts.iter() {
        if key.preemptible && !std::mem::replace(&mut is_counted, true) {
            after.count(quota, itself, true);
        }
        let (job, promise) = (cluster.job(key.job), cluster.promise(key.job));
        let attempt = job.and_then(|job| job.attempt.as_deref());
        let held = promise.map(|promise| (promise.pool, promise.gpus(), false));
        let held = held.or(attempt.map(|attempt| (attempt.pool, attempt.gpus(), attempt.borrowed)));
        let (Some(job), Some((at, gpus, was_borrowed))) = (job, held) else { continue };
        if at == pool && !attempt.is_some_and(|attempt| attempt.is_outside()) {
            after.count(quota, (gpus, return_time(cluster, job.spec.tenant, job.spec.grace)), !was_borrowed);
        }
    }
    if !is_counted {
        after.count(quota, itself, true);
    }
    after
}

impl After {
    /// Counts the next attempt; what does not fit into the quota is borrowed whole.
    fn count(&mut self, quota: Gpus, (gpus, returns): (Gpus, Span), is_new: bool) {
        if self.own + gpus <= quota {
            self.own += gpus;
        } else if is_new {
            self.borrows.push((gpus, returns));
        }
    }
}

/// The deadlines for which the rule does not hold as things are: nodes were lost, or quotas were changed.
pub(crate) fn broken(cluster: &Cluster, pool: PoolIndex) -> Vec<Breach> {
    let found = deadlines(cluster, pool).into_iter().filter(|_| cluster.has_deadlines).map(|deadline| Breach {
        deadline,
        lendable: lendable(cluster, pool, deadline, None),
        lent: borrowed_longer(cluster, pool, deadline),
    });
    found.filter(|breach| breach.lent > breach.lendable).collect()
}

/// Whether an attempt is borrowed, stays, and returns later than `deadline`.
pub(crate) fn is_slow(cluster: &Cluster, job: &Job, deadline: Span) -> bool {
    let stays = job.spec.preemptible && matches!(job.phase, Phase::Launching | Phase::Running);
    let is_borrowed = job.live_attempt().is_some_and(|attempt| attempt.borrowed);
    stays && is_borrowed && return_time(cluster, job.spec.tenant, job.spec.grace) > deadline
}

/// Whether an attempt borrows for longer than some lender can wait.
pub(crate) fn is_late(cluster: &Cluster, job: &Job) -> bool {
    let Some(attempt) = job.live_attempt().filter(|attempt| attempt.borrowed) else { return false };
    let returns = return_time(cluster, job.spec.tenant, job.spec.grace);
    cluster.has_deadlines && deadlines(cluster, attempt.pool).iter().any(|deadline| returns > *deadline)
}

/// How soon a mission is to have back what it lent; none where it was promised nothing.
pub(crate) fn deadline_of(cluster: &Cluster, mission: &Tenant) -> Option<Span> {
    let within = mission.reclaim_within.unwrap_or(cluster.policy.default_reclaim_within);
    (within > Span::ZERO).then_some(within)
}

/// The deadlines of missions that lend in `pool`, each once.
pub(super) fn deadlines(cluster: &Cluster, pool: PoolIndex) -> SmallVec<[Span; 4]> {
    let lends = |mission: &&Tenant| mission.quota_in(pool).quota.is_some_and(|quota| quota > Gpus::ZERO);
    let mut found: SmallVec<[Span; 4]> =
        cluster.missions().filter(lends).filter_map(|mission| deadline_of(cluster, mission)).collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn own(mission: &Tenant, pool: PoolIndex) -> Gpus {
    let held = mission.held_in(pool);
    held.used.less(held.borrowed)
}

/// What may be borrowed for longer than `deadline`, or could be once a mission owns so much.
fn lendable(cluster: &Cluster, pool: PoolIndex, deadline: Span, once: Option<(TenantIndex, Gpus)>) -> Gpus {
    let (mut guaranteed, mut lends, mut overhang) = (Gpus::ZERO, Gpus::ZERO, Gpus::ZERO);
    for mission in cluster.missions() {
        let quota = mission.quota_in(pool);
        let all = quota.quota.unwrap_or_default();
        guaranteed += all;
        overhang += mission.held_in(pool).fixed.less(all);
        if deadline_of(cluster, mission).is_none_or(|own| own > deadline) {
            let once = once.filter(|(index, _)| *index == mission.index).map(|(_, own)| own);
            let idle = all.less(once.unwrap_or_else(|| own(mission, pool)));
            lends += quota.lend_limit.map_or(idle, |limit| idle.min(limit));
        }
    }
    (lends + cluster.pool(pool).capacity.less(guaranteed)).less(overhang)
}

fn borrowed(cluster: &Cluster, pool: PoolIndex) -> Gpus {
    cluster.missions().map(|mission| mission.held_in(pool).borrowed).sum()
}

/// What is borrowed, stays, and returns later than `deadline`. O(attempts).
fn borrowed_longer(cluster: &Cluster, pool: PoolIndex, deadline: Span) -> Gpus {
    let attempts = cluster.missions().flat_map(|mission| mission.attempts.iter());
    let slow = attempts.filter_map(|key| cluster.job(key.job)).filter(|job| is_slow(cluster, job, deadline));
    slow.filter_map(Job::live_attempt).filter(|attempt| attempt.pool == pool).map(|attempt| attempt.gpus()).sum()
}
