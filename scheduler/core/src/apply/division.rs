//! Pools and tenants.

use crate::admit::lending;
use crate::calendar::{DatedKey, DatedQuota};
use crate::cluster::Cluster;
use crate::event::TenantChange;
use crate::ids::{JobId, PoolIndex, TenantIndex, UserIndex};
use crate::pools::Pool;
use crate::tenant::{Held, Quota, Tenant};
use crate::timers::Timer;
use crate::units::{Gpus, Time};

impl Cluster {
    pub(super) fn add_pool(&mut self, name: &str, model: &str, gpus_per_node: u8) {
        self.pools.push(Pool {
            name: name.into(),
            model: model.into(),
            gpus_per_node,
            capacity: Gpus::ZERO,
            installed: Gpus::ZERO,
            idle: Gpus::ZERO,
        });
        for tenant in &mut self.tenants {
            tenant.quotas.push(Quota::default());
            tenant.held.push(Held::default());
        }
    }

    pub(super) fn add_user(&mut self, user: UserIndex, name: &str) {
        self.users.push(name.into());
        self.user_names.insert(name.into(), user);
    }

    pub(super) fn add_tenant(&mut self, index: TenantIndex, parent: TenantIndex, name: &str) {
        let depth = self.tenants[parent.at()].depth + 1;
        self.tenants.push(Tenant::new(index, name.into(), Some(parent), depth, self.pools.len()));
        self.tenants[parent.at()].children.push(index);
        self.tenant_names.insert(name.into(), index);
    }

    pub(super) fn change_tenant(&mut self, index: TenantIndex, change: &TenantChange, now: Time) {
        let tenant = &mut self.tenants[index.at()];
        if let Some(weight) = change.weight {
            tenant.weight = weight;
        }
        if change.default_time_limit.is_some() {
            tenant.default_time_limit = change.default_time_limit;
        }
        if change.min_run.is_some() {
            tenant.min_run = change.min_run;
        }
        if let Some(caps) = change.caps {
            tenant.caps = caps;
        }
        if change.reclaim_within.is_some() {
            tenant.reclaim_within = change.reclaim_within;
        }
        if change.idle.is_some() {
            tenant.idle = change.idle;
        }
        for (pool, quota) in &change.quotas {
            self.set_standing(index, *pool, *quota);
        }
        self.division_changed(index, now);
        self.domains_changed(now);
        if let Some(grant) = change.budget {
            self.set_budget(index, grant, now);
        }
        let has_deadlines = self.missions().any(|mission| lending::deadline_of(self, mission).is_some());
        self.has_deadlines = has_deadlines;
        self.has_caps = self.tenants.iter().any(|tenant| !tenant.caps.is_empty());
    }

    /// The quota of a tenant; where a dated one is in force it holds once that is over.
    fn set_standing(&mut self, tenant: TenantIndex, pool: PoolIndex, quota: Quota) {
        match self.calendar.in_force(tenant, pool) {
            Some(dated) => dated.standing = Some(quota),
            None => self.tenants[tenant.at()].quotas[pool.at()] = quota,
        }
    }

    /// What follows from a tenant's quotas is worked out anew.
    fn division_changed(&mut self, index: TenantIndex, now: Time) {
        let half_life = self.policy.half_life;
        let tenant = &mut self.tenants[index.at()];
        let above = tenant.above_quota();
        tenant.excess.set_rate(above, now, half_life);
        if tenant.depth == 1 {
            self.classify(index, now);
        }
        self.divided_anew();
    }

    /// After quotas changed: who is promised whole domains. Where nobody is any more nobody is a guest.
    fn domains_changed(&mut self, now: Time) {
        let before = self.whole.clone();
        if !self.recount_kinds() {
            return;
        }
        if !self.index_is_stale {
            self.count_domains();
        }
        let is_over = |pool: PoolIndex| before.keeps(pool) && !self.whole.keeps(pool);
        let over: Vec<PoolIndex> = (0..self.pools.len()).map(PoolIndex::of).filter(|pool| is_over(*pool)).collect();
        if over.is_empty() {
            return;
        }
        let guests = self
            .jobs
            .iter()
            .filter(|job| job.attempt.as_deref().is_some_and(|attempt| attempt.guest && over.contains(&attempt.pool)));
        let guests: Vec<JobId> = guests.map(|job| job.id).collect();
        guests.into_iter().for_each(|job| self.attempt_of(job).guest = false);
        let missions: Vec<TenantIndex> = self.missions().map(|mission| mission.index).collect();
        missions.into_iter().for_each(|mission| self.classify(mission, now));
    }

    pub(super) fn add_dated(&mut self, dated: DatedQuota) {
        match (dated.standing, dated.until) {
            (Some(_), Some(until)) => self.timers.insert(until, Timer::QuotaEnd(dated.key)),
            (Some(_), None) | (None, _) => self.timers.insert(dated.key.from, Timer::QuotaBegin(dated.key)),
        }
        self.calendar.insert(dated);
    }

    pub(super) fn begin_dated(&mut self, key: DatedKey, now: Time) {
        let DatedKey { tenant, pool, from } = key;
        let Some(dated) = self.calendar.remove(key) else { return };
        self.timers.remove(from, Timer::QuotaBegin(key));
        if dated.until.is_some() {
            let quota = &mut self.tenants[tenant.at()].quotas[pool.at()];
            let standing = std::mem::replace(quota, dated.quota);
            self.add_dated(DatedQuota { standing: Some(standing), ..dated });
        } else {
            self.set_standing(tenant, pool, dated.quota);
        }
        self.division_changed(tenant, now);
        self.domains_changed(now);
    }

    pub(super) fn end_dated(&mut self, key: DatedKey, now: Time) {
        let Some(dated) = self.calendar.remove(key) else { return };
        self.timers.remove(key.from, Timer::QuotaBegin(key));
        if let Some(until) = dated.until {
            self.timers.remove(until, Timer::QuotaEnd(key));
        }
        if let Some(standing) = dated.standing {
            self.tenants[key.tenant.at()].quotas[key.pool.at()] = standing;
        }
        self.division_changed(key.tenant, now);
        self.domains_changed(now);
    }
}
