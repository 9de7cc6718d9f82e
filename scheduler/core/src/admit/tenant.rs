//! Defining tenants and changing what they may have.

use crate::admit::calendar::{self, Edit};
use crate::admit::{MAX_NAME, domains, find_tenant};
use crate::budget::Grant;
use crate::calendar::{DatedKey, DatedQuota};
use crate::cluster::Cluster;
use crate::decide::{Events, emit};
use crate::event::{Event, TenantChange};
use crate::idle::IdleRule;
use crate::ids::{PoolIndex, TenantIndex};
use crate::input::{QuotaDraft, TenantDraft};
use crate::rejected::{Refusal, Rejected};
use crate::reply::Reply;
use crate::tenant::Quota;
use crate::units::{Span, Time};

/// GPUs are looked at about once a second: less than this says nothing.
const MIN_IDLE: Span = Span::seconds(5);

/// Defines or changes a tenant.
pub(crate) fn set(cluster: &mut Cluster, draft: &TenantDraft, now: Time, out: &mut Events) -> Result<Reply, Rejected> {
    let known = cluster.find_tenant(&draft.name);
    let parent = match known {
        Some(TenantIndex::ROOT) => {
            return Err(Refusal::BadTenantName { name: "".into(), why: "the root is not set; name a tenant" }.into());
        }
        Some(tenant) => cluster.tenant(tenant).parent.unwrap_or(TenantIndex::ROOT),
        None if draft.create => check_new(cluster, &draft.name)?,
        None => return Err(Refusal::UnknownTenant { name: draft.name.clone() }.into()),
    };
    if draft.weight == Some(0) {
        return Err(Refusal::ZeroWeight.into());
    }
    let (mut quotas, mut dated, mut named) = (Vec::new(), Vec::new(), Vec::new());
    for draft in &draft.quotas {
        let (pool, quota) = check_quota(cluster, known, parent, draft, now)?;
        if named.contains(&pool) {
            return Err(Refusal::PoolNamedTwice { name: cluster.pool(pool).name.clone() }.into());
        }
        named.push(pool);
        match draft.dates {
            None => quotas.push((pool, quota)),
            Some(dates) => dated.push((pool, quota, dates)),
        }
    }
    let TenantDraft { weight, default_time_limit, min_run, reclaim_within, idle, caps, budget, forecast, .. } = *draft;
    let shortest = cluster.policy.min_budget_period;
    if let Some(Some(Grant { period, .. })) = budget
        && period < shortest
    {
        return Err(Refusal::BudgetPeriodTooShort { period, shortest }.into());
    }
    if let Some(IdleRule { after, .. }) = idle
        && after < MIN_IDLE
    {
        return Err(Refusal::IdleTooShort { after, shortest: MIN_IDLE }.into());
    }
    let change =
        TenantChange { weight, default_time_limit, min_run, reclaim_within, idle, caps, budget, quotas, forecast };
    let tenant = known.unwrap_or(TenantIndex::of(cluster.tenants.len()));
    if known.is_none() {
        emit(cluster, now, Event::TenantDefined { tenant, parent, name: draft.name.clone() }, out);
    }
    if change != TenantChange::default() {
        emit(cluster, now, Event::TenantChanged { tenant, change }, out);
    }
    for (pool, quota, dates) in dated {
        let dated = DatedQuota::new(DatedKey { tenant, pool, from: dates.from }, dates.until, quota);
        emit(cluster, now, Event::QuotaDated { dated }, out);
        if dates.from <= now {
            calendar::begin(cluster, dated.key, now, out);
        }
    }
    Ok(Reply::Tenant(tenant))
}

/// The parent of a new tenant, if it may be defined.
fn check_new(cluster: &Cluster, name: &str) -> Result<TenantIndex, Refusal> {
    let bad = |why: &'static str| Refusal::BadTenantName { name: name.into(), why };
    for part in name.split('/') {
        if part.is_empty() || part.len() > MAX_NAME {
            return Err(bad("each part of the path has 1 to 128 characters"));
        }
        if !part.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c)) {
            return Err(bad("letters, digits, '-', '_' and '.' only, parts separated by '/'"));
        }
    }
    let policy = &cluster.policy;
    if name.split('/').count() > policy.max_tenant_depth as usize {
        return Err(bad("the path is deeper than the tenant tree may be"));
    }
    if cluster.tenants.len() > policy.max_tenants as usize {
        return Err(Refusal::TooManyTenants { limit: policy.max_tenants });
    }
    let parent = find_tenant(cluster, name.rsplit_once('/').map_or("", |(parent, _)| parent))?;
    let above = cluster.tenant(parent);
    if parent != TenantIndex::ROOT && (above.queue.len > 0 || !above.users.is_empty()) {
        return Err(Refusal::TenantHasJobs { name: above.name.clone() });
    }
    Ok(parent)
}

/// The pool with this name; the first one where none is named.
pub(super) fn find_pool(cluster: &Cluster, name: &str) -> Result<PoolIndex, Refusal> {
    if name.is_empty() && !cluster.pools.is_empty() {
        return Ok(PoolIndex(0));
    }
    cluster.find_pool(name).ok_or_else(|| Refusal::UnknownPool {
        name: name.into(),
        known: cluster.pools.iter().map(|pool| pool.name.clone()).collect(),
    })
}

fn check_quota(
    cluster: &Cluster,
    tenant: Option<TenantIndex>,
    parent: TenantIndex,
    draft: &QuotaDraft,
    now: Time,
) -> Result<(PoolIndex, Quota), Refusal> {
    let pool = find_pool(cluster, &draft.pool)?;
    let most = cluster.policy.max_quota;
    for gpus in [Some(draft.quota), draft.limit].into_iter().flatten() {
        if gpus > most {
            return Err(Refusal::QuotaTooLarge { gpus, limit: most });
        }
    }
    if let Some(limit) = draft.limit
        && limit < draft.quota
    {
        return Err(Refusal::LimitBelowQuota { limit, quota: draft.quota });
    }
    if let Some(lend_limit) = draft.lend_limit
        && lend_limit > draft.quota
    {
        return Err(Refusal::LendLimitAboveQuota { lend_limit, quota: draft.quota });
    }
    let domains = domains::check(cluster, tenant, pool, draft)?;
    let quota = Quota { quota: Some(draft.quota), limit: draft.limit, lend_limit: draft.lend_limit, domains };
    let edit = Edit::of(cluster, tenant, parent, pool);
    let edit = match draft.dates {
        None => edit.standing(quota),
        Some(dates) => {
            calendar::check_dates(cluster, tenant, pool, dates, now)?;
            let key = DatedKey { tenant: tenant.unwrap_or_default(), pool, from: dates.from };
            edit.with(DatedQuota::new(key, dates.until, quota))
        }
    };
    calendar::check_sums(cluster, &edit, now)?;
    domains::check_sums(cluster, &edit, now)?;
    Ok((pool, quota))
}
