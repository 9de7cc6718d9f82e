//! From whom a job may take: the attempts that its claim reaches, and what each of them would give and lose.
//!
//! In: the lenders of a claim. Out: attempts above the quotas of other branches, attempts that are being stopped anyhow,
//! scavengers of the own mission, lower classes of the own tenant; each as a candidate with its loss and its earliest time.
//! It must never offer what must not be evicted, what has not run its minimum, or what may lie on a node that is not heard.

use std::ops::Range;

use smallvec::{SmallVec, smallvec};

use super::asked::Asked;
use super::claim::{Bound, Shortage, above_quota, is_outside, is_scavenger};
use super::victims::Candidate;
use crate::admit::lending;
use crate::cluster::Cluster;
use crate::ids::{JobId, PoolIndex, PriorityIndex, TenantIndex};
use crate::job::{Job, Member, Phase};
use crate::node::Contact;
use crate::survivors;
use crate::tenant::Tenant;
use crate::units::{GpuTime, Gpus, Span, Time};

/// All that may be taken back by a claim on `lenders`.
pub(super) fn taken_back(
    cluster: &Cluster,
    tenant: TenantIndex,
    pool: PoolIndex,
    lenders: &[TenantIndex],
) -> Vec<JobId> {
    let mut found = lent(cluster, tenant, pool, lenders);
    found.extend(outside(cluster, tenant, pool));
    found.extend(leaving(cluster, pool));
    found.sort_unstable();
    found.dedup();
    found
}

/// Attempts that are being stopped anyhow: what they leave and is promised to nobody costs no eviction.
fn leaving(cluster: &Cluster, pool: PoolIndex) -> impl Iterator<Item = JobId> {
    let is_there = move |id: &JobId| {
        let attempt = cluster.job(*id).and_then(Job::live_attempt);
        attempt.is_some_and(|attempt| attempt.pool == pool)
    };
    cluster.leaving.iter().copied().filter(is_there)
}

/// Whether it is being stopped, whatever for.
pub(super) fn is_leaving(job: &Job) -> bool {
    matches!(job.phase, Phase::Stopping(_))
}

/// Attempts of the job's own mission that lie outside every budget, and its guests where it has domains to claim: whoever is
/// inside quota and budget goes before them.
fn outside(cluster: &Cluster, tenant: TenantIndex, pool: PoolIndex) -> Vec<JobId> {
    let has_domains = cluster.has_unused_domains(tenant, pool);
    let has_any = cluster.has_budgets || has_domains;
    let Some(mission) = cluster.mission(tenant).filter(|_| has_any) else { return Vec::new() };
    let is_taken = |job: &Job| if has_domains { is_outside(job) } else { is_scavenger(job) };
    let is_there = |job: &&Job| is_taken(job) && job.live_attempt().is_some_and(|attempt| attempt.pool == pool);
    let keys = cluster.tenant(mission).attempts.iter().rev();
    keys.filter_map(|key| cluster.job(key.job)).filter(is_there).map(|job| job.id).collect()
}

/// Attempts that lie above the quota of a branch of `lenders` which `tenant` is not in.
pub(super) fn lent(cluster: &Cluster, tenant: TenantIndex, pool: PoolIndex, lenders: &[TenantIndex]) -> Vec<JobId> {
    let mut found = Vec::new();
    for lender in lenders {
        let lender = cluster.tenant(*lender);
        let others = lender.children.iter().filter(|child| !cluster.is_within(tenant, **child));
        if lender.depth == 0 {
            others.for_each(|mission| borrowed(cluster, cluster.tenant(*mission), pool, &mut found));
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

/// What a mission borrows and may be evicted, the last to start first. O(attempts that started after the first of them).
fn borrowed(cluster: &Cluster, mission: &Tenant, pool: PoolIndex, found: &mut Vec<JobId>) {
    let mut left = mission.held_in(pool).borrowed;
    for key in mission.attempts.iter().rev().take_while(|key| key.preemptible) {
        if left == Gpus::ZERO {
            break;
        }
        let attempt = cluster.job(key.job).and_then(Job::live_attempt);
        if let Some(attempt) = attempt.filter(|attempt| attempt.borrowed && attempt.pool == pool) {
            left = left.less(attempt.gpus());
            found.push(key.job);
        }
    }
}

/// Whether attempts of a tenant run in classes below `priority`.
pub(super) fn has_lower_classes(cluster: &Cluster, tenant: TenantIndex, priority: PriorityIndex) -> bool {
    let running = &cluster.tenant(tenant).running_in_class;
    running.iter().take(usize::from(priority.0)).any(|running| *running > 0)
}

/// Attempts of the job's own tenant in lower classes.
pub(super) fn lower_classes(cluster: &Cluster, asked: &Asked, pool: PoolIndex) -> Vec<JobId> {
    if !has_lower_classes(cluster, asked.tenant, asked.priority) {
        return Vec::new();
    }
    let Some(mission) = cluster.mission(asked.tenant) else { return Vec::new() };
    let is_lower = |other: &&Job| {
        other.spec.tenant == asked.tenant
            && other.spec.priority < asked.priority
            && other.live_attempt().is_some_and(|attempt| attempt.pool == pool)
    };
    let keys = cluster.tenant(mission).attempts.iter();
    keys.filter_map(|key| cluster.job(key.job)).filter(is_lower).map(|job| job.id).collect()
}

/// An attempt that may be evicted, now or later: of an elastic gang each member that it can do without, the last first, then
/// the rest.
pub(super) fn candidates(
    cluster: &Cluster,
    id: JobId,
    pool: PoolIndex,
    shortages: &[Shortage],
    now: Time,
) -> SmallVec<[Candidate; 2]> {
    let Some(whole) = candidate(cluster, id, pool, shortages, now) else { return SmallVec::new() };
    let least = whole.ranks.start + cluster.job(id).map_or(0, |job| job.spec.request.least_members() as usize);
    // A guest keeps no place, nor does what runs for less than its limit.
    let attempt = cluster.job(id).and_then(Job::live_attempt);
    let keeps_none = attempt.is_some_and(|attempt| attempt.guest || attempt.lowered.is_some());
    if keeps_none || whole.ranks.start > 0 || least >= whole.ranks.end {
        return smallvec![whole];
    }
    let part = |ranks: Range<usize>| {
        let (share, all) = (ranks.len() as u64, whole.ranks.len() as u64);
        // Members of an elastic gang are all alike.
        let of = |gpus: &Gpus| Gpus::milli(gpus.in_milli() * share / all);
        let relief = whole.relief.iter().map(of).collect();
        Candidate { gpus: of(&whole.gpus), relief, ranks, ..whole.clone() }
    };
    let spare = (least..whole.ranks.end).rev().map(|rank| part(rank..rank + 1));
    spare.chain([part(0..least)]).collect()
}

/// An attempt that may be evicted, now or later, or what one that is being stopped leaves.
fn candidate(cluster: &Cluster, id: JobId, pool: PoolIndex, shortages: &[Shortage], now: Time) -> Option<Candidate> {
    let job = cluster.job(id)?;
    let attempt = job.live_attempt()?;
    let leaves = is_leaving(job);
    let may_stop = leaves || job.spec.preemptible && matches!(job.phase, Phase::Launching | Phase::Running);
    let is_heard = |member: &Member| cluster.node(member.placed.node).contact == Contact::Ready;
    // What is to end where a node is being emptied may be the very thing that does not end: nobody waits for it.
    // What survivors will be held for is no way out for others.
    if leaves && survivors::will_hold(job) {
        return None;
    }
    let is_stuck = leaves && attempt.alive().any(|(_, member)| cluster.node(member.placed.node).draining);
    if is_stuck || !may_stop || attempt.pool != pool || !attempt.members.iter().all(is_heard) {
        return None;
    }
    // What a gang keeps that is being stopped already is its own.
    let ranks = (if leaves { attempt.keeps as usize } else { 0 })..attempt.members.len();
    if ranks.is_empty() {
        return None;
    }
    let gpus: Gpus = attempt.members[ranks.clone()].iter().map(|member| member.placed.held()).sum();
    let helps = |short: &Shortage| {
        let counts = match short.of {
            Bound::Quota(tenant) => cluster.is_within(job.spec.tenant, tenant) && !attempt.borrowed,
            Bound::Limit(tenant) => cluster.is_within(job.spec.tenant, tenant),
            Bound::Lent(deadline) => lending::is_slow(cluster, job, deadline),
            // Whatever it leaves is idle then.
            Bound::KeptBack => true,
        };
        if counts { gpus } else { Gpus::ZERO }
    };
    Some(Candidate {
        job: id,
        ranks,
        gpus,
        loss: match attempt.started_at {
            Some(_) if !leaves => attempt.gpus().over(now.since(job.kept_until(attempt))),
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
pub(crate) fn min_run(cluster: &Cluster, tenant: TenantIndex) -> Span {
    cluster.chain(tenant).find_map(|tenant| tenant.min_run).unwrap_or(cluster.policy.default_min_run)
}
