//! The calendar: quotas that hold from a date on, and until another.
//!
//! A dated quota lies over the standing one of its tenant and pool while it is in force; without an end it becomes the
//! standing one. What a change means for what runs is the same whether an operator or the calendar makes it. It must
//! never be read to learn what is in force now: that is `Tenant::quotas`.

use std::collections::BTreeMap;

use crate::cluster::Cluster;
use crate::ids::{PoolIndex, TenantIndex};
use crate::tenant::Quota;
use crate::units::Time;

/// Names a dated quota: no two of a tenant and pool begin at the same time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DatedKey {
    /// Whose.
    pub tenant: TenantIndex,
    /// Of which pool.
    pub pool: PoolIndex,
    /// From when on.
    pub from: Time,
}

/// What a tenant may have of a pool from a date on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DatedQuota {
    /// Whose, and from when on.
    pub key: DatedKey,
    /// Until then; absent: for good.
    pub until: Option<Time>,
    /// What it may have.
    pub quota: Quota,
    /// While it is in force: what holds again when it is over.
    pub standing: Option<Quota>,
}

impl DatedQuota {
    /// One that is not in force yet.
    pub fn new(key: DatedKey, until: Option<Time>, quota: Quota) -> Self {
        Self { key, until, quota, standing: None }
    }

    /// Whether it has an end, and holds at `time` by its dates.
    pub(crate) fn covers(&self, time: Time) -> bool {
        self.key.from <= time && self.until.is_some_and(|until| time < until)
    }

    /// Whether two that have ends would hold at the same time.
    pub(crate) fn meets(&self, from: Time, until: Option<Time>) -> bool {
        let is_before = |end: Option<Time>, begin: Time| end.is_some_and(|end| end <= begin);
        let both_end = self.until.is_some() && until.is_some();
        self.key.from == from || (both_end && !is_before(self.until, from) && !is_before(until, self.key.from))
    }
}

/// All dated quotas that are not over.
#[derive(Clone, Debug, Default)]
pub(crate) struct Calendar {
    entries: BTreeMap<DatedKey, DatedQuota>,
}

impl Calendar {
    pub(crate) fn insert(&mut self, dated: DatedQuota) {
        self.entries.insert(dated.key, dated);
    }

    pub(crate) fn remove(&mut self, key: DatedKey) -> Option<DatedQuota> {
        self.entries.remove(&key)
    }

    pub(crate) fn get(&self, key: DatedKey) -> Option<&DatedQuota> {
        self.entries.get(&key)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// All, by tenant, pool and time.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &DatedQuota> {
        self.entries.values()
    }

    /// Those of one tenant and pool, in order of time.
    pub(crate) fn of(&self, tenant: TenantIndex, pool: PoolIndex) -> impl Iterator<Item = &DatedQuota> {
        let at = |from| DatedKey { tenant, pool, from };
        self.entries.range(at(Time(0))..=at(Time(u64::MAX))).map(|(_, dated)| dated)
    }

    /// The one in force of a tenant and pool.
    pub(crate) fn in_force(&mut self, tenant: TenantIndex, pool: PoolIndex) -> Option<&mut DatedQuota> {
        let at = |from| DatedKey { tenant, pool, from };
        let mut range = self.entries.range_mut(at(Time(0))..=at(Time(u64::MAX)));
        range.find_map(|(_, dated)| dated.standing.is_some().then_some(dated))
    }
}

impl Cluster {
    /// Dated quotas that are not over, by tenant, pool and time.
    pub fn calendar(&self) -> impl Iterator<Item = &DatedQuota> {
        self.calendar.iter()
    }

    /// What a tenant may have of a pool at a time to come, as the calendar is now.
    pub(crate) fn quota_at(&self, tenant: TenantIndex, pool: PoolIndex, time: Time) -> Quota {
        if self.calendar.len() == 0 {
            return self.tenant(tenant).quota_in(pool);
        }
        among(self.calendar.of(tenant, pool), self.standing(tenant, pool), time)
    }

    /// What a tenant may have of a pool beside its dated quotas.
    pub(crate) fn standing(&self, tenant: TenantIndex, pool: PoolIndex) -> Quota {
        let in_force = self.calendar.of(tenant, pool).find_map(|dated| dated.standing);
        in_force.unwrap_or_else(|| self.tenant(tenant).quota_in(pool))
    }
}

/// What holds at `time` of dated quotas in order of time, beside a standing one: who has an end goes before who has none.
pub(crate) fn among<'d>(dated: impl Iterator<Item = &'d DatedQuota>, standing: Quota, time: Time) -> Quota {
    let mut for_good = standing;
    for one in dated.take_while(|one| one.key.from <= time) {
        if one.covers(time) {
            return one.quota;
        }
        if one.until.is_none() {
            for_good = one.quota;
        }
    }
    for_good
}
