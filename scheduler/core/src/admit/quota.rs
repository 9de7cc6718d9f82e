//! May a tenant take this many GPUs now? Its quota left, plus what the others lend, bounded by its limit.
//!
//! After Kueue's hierarchical cohorts (KEP-79), with Dure's words: a tenant keeps back the idle part of its quota that it
//! does not lend; everything else that is idle lies with the tenant above; what a tenant may take is its own reserve
//! plus what lies above beyond the reserves of its siblings, at every step bounded by its limit.

use crate::admit::calendar;
use crate::blocked::Blocked;
use crate::cluster::Cluster;
use crate::ids::{PoolIndex, TenantIndex};
use crate::rejected::Refusal;
use crate::tenant::{Quota, Tenant};
use crate::units::Gpus;

/// What `tenant` could take of `pool` now, its quota and the idle quota of others together. O(depth x siblings).
pub(crate) fn available(cluster: &Cluster, tenant: TenantIndex, pool: PoolIndex) -> Gpus {
    available_with(cluster, tenant, pool, cluster.pool(pool).idle, &|tenant| tenant.held_in(pool).used)
}

/// The same where so much is idle, and tenants hold what `used` says.
pub(crate) fn available_with(
    cluster: &Cluster,
    tenant: TenantIndex,
    pool: PoolIndex,
    idle: Gpus,
    used: &impl Fn(&Tenant) -> Gpus,
) -> Gpus {
    let node = cluster.tenant(tenant);
    let Some(parent) = node.parent else { return idle };
    let reserve = |tenant: &Tenant| idle_reserve(tenant, pool, used(tenant));
    let kept_back: Gpus = cluster.tenant(parent).children.iter().map(|child| reserve(cluster.tenant(*child))).sum();
    let all = reserve(node) + available_with(cluster, parent, pool, idle, used).less(kept_back);
    node.quota_in(pool).limit.map_or(all, |limit| all.min(limit.less(used(node))))
}

/// How many of `want` GPUs a tenant could not have though they are idle, because others keep them back.
pub(crate) fn kept_back(cluster: &Cluster, tenant: TenantIndex, pool: PoolIndex, want: Gpus) -> Gpus {
    let keeps = |tenant: &Tenant| idle_reserve(tenant, pool, tenant.held_in(pool).used) > Gpus::ZERO;
    let others = || cluster.tenants.iter().filter(|other| !cluster.is_within(tenant, other.index));
    if !others().any(keeps) {
        return Gpus::ZERO;
    }
    let idle = cluster.pool(pool).idle.min(want);
    idle.less(available(cluster, tenant, pool))
}

/// The part of its quota that a tenant neither lends nor uses.
fn idle_reserve(tenant: &Tenant, pool: PoolIndex, used: Gpus) -> Gpus {
    let quota = tenant.quota_in(pool);
    match (quota.quota, quota.lend_limit) {
        (Some(guaranteed), Some(lent)) => guaranteed.less(lent).less(used),
        _ => Gpus::ZERO,
    }
}

/// What jobs that must not be evicted may hold together, if the tenant sets a bound: a mission without a quota has none
/// guaranteed; any other tenant shares what is guaranteed to the one above.
pub(crate) fn guaranteed(tenant: &Tenant, quota: Quota) -> Option<Gpus> {
    if tenant.depth == 1 { Some(quota.quota.unwrap_or_default()) } else { quota.quota }
}

/// Whether `tenant` may start `want` GPUs in `pool` now.
///
/// # Errors
/// The binding tenant on the way up, with its numbers.
pub(crate) fn may_start(
    cluster: &Cluster,
    tenant: TenantIndex,
    pool: PoolIndex,
    want: Gpus,
    preemptible: bool,
) -> Result<(), Blocked> {
    refusals(cluster, tenant, pool, want, preemptible).next().map_or(Ok(()), Err)
}

/// All reasons why `tenant` may not start `want` GPUs in `pool` now, from the tenant upwards.
#[inline]
pub(crate) fn refusals(
    cluster: &Cluster,
    tenant: TenantIndex,
    pool: PoolIndex,
    want: Gpus,
    preemptible: bool,
) -> impl Iterator<Item = Blocked> {
    let of_tenant = move |above: &Tenant| {
        [paused(above), over_limit(above, pool, want), fixed_over_quota(above, pool, want, preemptible)]
    };
    let of_chain = cluster.chain(tenant).flat_map(of_tenant).flatten();
    of_chain.chain(std::iter::once_with(move || over_quota(cluster, tenant, pool, want)).flatten())
}

fn paused(tenant: &Tenant) -> Option<Blocked> {
    tenant.paused.then_some(Blocked::Paused { tenant: tenant.index })
}

fn over_limit(tenant: &Tenant, pool: PoolIndex, want: Gpus) -> Option<Blocked> {
    let (limit, used) = (tenant.quota_in(pool).limit?, tenant.held_in(pool).used);
    (used + want > limit).then_some(Blocked::OverLimit { tenant: tenant.index, pool, limit, used, want })
}

fn fixed_over_quota(tenant: &Tenant, pool: PoolIndex, want: Gpus, preemptible: bool) -> Option<Blocked> {
    let (quota, used) =
        (guaranteed(tenant, tenant.quota_in(pool)).filter(|_| !preemptible)?, tenant.held_in(pool).fixed);
    let why = Blocked::NonPreemptibleOverQuota { tenant: tenant.index, pool, quota, used, want };
    (used + want > quota).then_some(why)
}

/// Where there are not enough GPUs for anyone, no division helps: placement says so, once for all tenants.
fn over_quota(cluster: &Cluster, tenant: TenantIndex, pool: PoolIndex, want: Gpus) -> Option<Blocked> {
    let available = available(cluster, tenant, pool);
    if want <= available || want > cluster.pool(pool).idle {
        return None;
    }
    let payer = cluster.chain(tenant).find(|tenant| tenant.quota_in(pool).quota.is_some());
    let payer = payer.unwrap_or(cluster.tenant(tenant));
    Some(Blocked::OverQuota {
        tenant: payer.index,
        pool,
        quota: payer.quota_in(pool).quota.unwrap_or_default(),
        used: payer.held_in(pool).used,
        available,
        want,
    })
}

/// Whether `want` GPUs could start if nothing else ran.
pub(crate) fn could_ever(
    cluster: &Cluster,
    tenant: TenantIndex,
    pool: PoolIndex,
    want: Gpus,
    preemptible: bool,
) -> Result<(), Refusal> {
    for above in cluster.chain(tenant) {
        // A job may wait for a date of the calendar.
        let quota = calendar::most_ever(cluster, above.index, pool);
        if let Some(limit) = quota.limit
            && want > limit
        {
            return Err(Refusal::OverLimitForEver { tenant: above.name.clone(), want, limit });
        }
        if let Some(quota) = guaranteed(above, quota)
            && !preemptible
            && want > quota
        {
            return Err(Refusal::NonPreemptibleOverQuota { tenant: above.name.clone(), want, quota });
        }
    }
    Ok(())
}
