//! Dated quotas: set, cancelled, begun and ended; and whether all quotas agree at every time to come.
//!
//! The quotas of a tenant's children never exceed its own, now or at any date of the calendar. Who moves GPUs from one
//! tenant to another for a time therefore lowers the one first.

use std::collections::BTreeSet;

use crate::admit::domains;
use crate::calendar::{DatedKey, DatedQuota, among};
use crate::cluster::Cluster;
use crate::decide::{Events, emit};
use crate::event::Event;
use crate::ids::{PoolIndex, TenantIndex};
use crate::input::Dates;
use crate::rejected::{CalendarRefusal, Refusal, Rejected};
use crate::reply::Reply;
use crate::tenant::Quota;
use crate::units::{Gpus, Time};

/// The quota of one tenant and pool as it is thought of.
pub(super) struct Edit {
    /// Absent: a tenant that is to be defined.
    pub(super) tenant: Option<TenantIndex>,
    pub(super) parent: TenantIndex,
    pub(super) pool: PoolIndex,
    pub(super) standing: Quota,
    /// In order of time.
    pub(super) dated: Vec<DatedQuota>,
}

impl Edit {
    /// As it is.
    pub(super) fn of(cluster: &Cluster, tenant: Option<TenantIndex>, parent: TenantIndex, pool: PoolIndex) -> Self {
        let dated = tenant.into_iter().flat_map(|tenant| cluster.calendar.of(tenant, pool)).copied().collect();
        let standing = tenant.map(|tenant| cluster.standing(tenant, pool)).unwrap_or_default();
        Self { tenant, parent, pool, standing, dated }
    }

    /// With another standing quota.
    pub(super) fn standing(self, standing: Quota) -> Self {
        Self { standing, ..self }
    }

    /// With one more dated quota.
    pub(super) fn with(mut self, dated: DatedQuota) -> Self {
        self.dated.push(dated);
        self.dated.sort_unstable_by_key(|dated| dated.key);
        self
    }

    /// Without the one that begins then.
    fn without(mut self, from: Time) -> Self {
        self.dated.retain(|dated| dated.key.from != from);
        self
    }
}

/// Whether the dates of a draft can be kept.
pub(super) fn check_dates(
    cluster: &Cluster,
    tenant: Option<TenantIndex>,
    pool: PoolIndex,
    dates: Dates,
    now: Time,
) -> Result<(), Refusal> {
    if dates.from < now {
        return Err(CalendarRefusal::DateInThePast { from: dates.from, now }.into());
    }
    if let Some(until) = dates.until
        && until <= dates.from
    {
        return Err(CalendarRefusal::EndsBeforeItBegins { from: dates.from, until }.into());
    }
    let limit = cluster.policy.max_dated_quotas;
    if cluster.calendar.len() >= limit as usize {
        return Err(CalendarRefusal::TooManyDatedQuotas { limit }.into());
    }
    let Some(tenant) = tenant else { return Ok(()) };
    match cluster.calendar.of(tenant, pool).find(|dated| dated.meets(dates.from, dates.until)) {
        None => Ok(()),
        Some(DatedQuota { key, until, .. }) => {
            let name = cluster.tenant(tenant).name.clone();
            Err(CalendarRefusal::DatedQuotasOverlap { tenant: name, from: key.from, until: *until }.into())
        }
    }
}

/// Whether the children's quotas still never exceed the parent's, from `now` on. The root's is what is installed, and is
/// not checked: nodes come and go.
pub(super) fn check_sums(cluster: &Cluster, edit: &Edit, now: Time) -> Result<(), Refusal> {
    let Edit { tenant, parent, pool, .. } = *edit;
    let in_pool = cluster.calendar().filter(|dated| dated.key.pool == pool).chain(&edit.dated);
    let dates = in_pool.flat_map(|dated| [dated.key.from].into_iter().chain(dated.until));
    let times: BTreeSet<Time> = dates.filter(|time| *time > now).chain([now]).collect();
    let above = [Some(parent), tenant].into_iter().flatten().filter(|above| *above != TenantIndex::ROOT);
    for (at, above) in times.iter().flat_map(|at| above.clone().map(move |above| (*at, above))) {
        let edited = among(edit.dated.iter(), edit.standing, at).quota;
        let quota_of = |of: TenantIndex| {
            if tenant == Some(of) { edited } else { cluster.quota_at(of, pool, at).quota }
        };
        let Some(quota) = quota_of(above) else { continue };
        let known: Gpus = cluster.tenant(above).children.iter().filter_map(|child| quota_of(*child)).sum();
        let new = edited.filter(|_| tenant.is_none()).unwrap_or_default();
        let children = known + new;
        if children > quota {
            let (parent, from) = (cluster.tenant(above).name.clone(), Some(at).filter(|at| *at > now));
            return Err(Refusal::ChildrenAboveParent { parent, children, quota, from });
        }
    }
    Ok(())
}

/// Takes a dated quota off the calendar; one in force ends now.
pub(crate) fn cancel(
    cluster: &mut Cluster,
    name: &str,
    pool: &str,
    from: Time,
    now: Time,
    out: &mut Events,
) -> Result<Reply, Rejected> {
    let tenant = super::find_tenant(cluster, name)?;
    let pool = super::tenant::find_pool(cluster, pool)?;
    let key = DatedKey { tenant, pool, from };
    if cluster.calendar.get(key).is_none() {
        let known = cluster.calendar.of(tenant, pool).map(|dated| dated.key.from).collect();
        return Err(Refusal::from(CalendarRefusal::NoDatedQuota { tenant: name.into(), from, known }).into());
    }
    let parent = cluster.tenant(tenant).parent.unwrap_or(TenantIndex::ROOT);
    let edit = Edit::of(cluster, Some(tenant), parent, pool).without(from);
    check_sums(cluster, &edit, now)?;
    domains::check_sums(cluster, &edit, now)?;
    emit(cluster, now, Event::QuotaEnded { key }, out);
    Ok(Reply::Tenant(tenant))
}

/// The date of a quota has come.
pub(crate) fn begin(cluster: &mut Cluster, key: DatedKey, now: Time, out: &mut Events) {
    emit(cluster, now, Event::QuotaBegan { key }, out);
}

/// The last date of a quota in force has come.
pub(crate) fn end(cluster: &mut Cluster, key: DatedKey, now: Time, out: &mut Events) {
    emit(cluster, now, Event::QuotaEnded { key }, out);
}

/// The most that a tenant may have of a pool now or at any date of the calendar: what is guaranteed, and the ceiling.
pub(super) fn most_ever(cluster: &Cluster, tenant: TenantIndex, pool: PoolIndex) -> Quota {
    let now = cluster.tenant(tenant).quota_in(pool);
    let most = |quota: Quota, other: Quota| Quota {
        quota: quota.quota.max(other.quota),
        limit: quota.limit.zip(other.limit).map(|(limit, other)| limit.max(other)),
        lend_limit: quota.lend_limit,
        domains: quota.domains,
    };
    let dated = cluster.calendar.of(tenant, pool).flat_map(|dated| [Some(dated.quota), dated.standing]).flatten();
    dated.fold(now, most)
}
