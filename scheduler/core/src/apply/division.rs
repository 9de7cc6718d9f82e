//! Pools and tenants.

use crate::admit::lending;
use crate::cluster::{Cluster, Pool};
use crate::event::TenantChange;
use crate::ids::TenantIndex;
use crate::tenant::{Held, Quota, Tenant};
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

    pub(super) fn add_tenant(&mut self, index: TenantIndex, parent: TenantIndex, name: &str) {
        let depth = self.tenants[parent.at()].depth + 1;
        self.tenants.push(Tenant::new(index, name.into(), Some(parent), depth, self.pools.len()));
        self.tenants[parent.at()].children.push(index);
        self.tenant_names.insert(name.into(), index);
    }

    pub(super) fn change_tenant(&mut self, index: TenantIndex, change: &TenantChange, now: Time) {
        let half_life = self.policy.half_life;
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
            tenant.quotas[pool.at()] = *quota;
        }
        let above = tenant.above_quota();
        tenant.excess.set_rate(above, now, half_life);
        if tenant.depth == 1 {
            self.classify(index, now);
        }
        if let Some(grant) = change.budget {
            self.set_budget(index, grant, now);
        }
        let has_deadlines = self.missions().any(|mission| lending::deadline_of(self, mission).is_some());
        self.has_deadlines = has_deadlines;
        self.has_caps = self.tenants.iter().any(|tenant| !tenant.caps.is_empty());
        self.division_version += 1;
    }
}
