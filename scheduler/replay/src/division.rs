//! Who has which part of the GPUs, as inputs for the core.

use std::collections::{BTreeMap, BTreeSet};

use dure_core::Cluster;
use dure_core::budget::Grant;
use dure_core::input::{QuotaDraft, TenantDraft};
use dure_core::units::{GpuTime, Gpus, Span};

use crate::trace::{Mission, TraceNode};

/// An hour of one GPU.
const HOUR: Span = Span::seconds(3600);
/// Budgets of a missions file are for so long.
const BUDGET_PERIOD: Span = Span::seconds(30 * 86_400);

/// Who has which part of the GPUs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Division {
    /// Every tenant that the jobs name the same.
    Equal,
    /// As a missions file says; tenants that it does not name have nothing guaranteed.
    Missions(Vec<Mission>),
    /// Each tenant the GPUs of the nodes whose pool has its name, in proportion where some of those nodes are left out.
    Pools,
}

/// What each tenant has of all pools together.
///
/// `all` are the nodes of the file, `used` those that are replayed; `names` are the tenants of the jobs.
pub fn missions(division: &Division, names: &BTreeSet<&str>, all: &[TraceNode], used: &[TraceNode]) -> Vec<Mission> {
    let gpus = |nodes: &[TraceNode]| nodes.iter().map(|node| u64::from(node.gpus)).sum::<u64>();
    let (of_file, installed) = (gpus(all), gpus(used));
    let with = |name: &str, quota: u64| Mission {
        tenant: name.into(),
        quota: Gpus::whole(u32::try_from(quota).unwrap_or(u32::MAX)),
        ..Mission::default()
    };
    let of = |name: &&str| match division {
        Division::Equal => with(name, installed / names.len().max(1) as u64),
        Division::Pools => {
            let own: u64 = all.iter().filter(|node| node.pool == **name).map(|node| u64::from(node.gpus)).sum();
            with(name, (own * installed).checked_div(of_file).unwrap_or(0))
        }
        Division::Missions(missions) => {
            missions.iter().find(|mission| mission.tenant == **name).cloned().unwrap_or_else(|| with(name, 0))
        }
    };
    names.iter().map(of).collect()
}

/// The tenants as the core defines them: each with its part of every pool in proportion to the pool's size. Without
/// `borrowing` the quota is the limit as well.
pub fn drafts(missions: &[Mission], cluster: &Cluster, borrowing: bool) -> Vec<TenantDraft> {
    let installed = || cluster.pools().iter().map(|pool| u64::from(pool.installed.rounded_up()));
    let all: u64 = installed().sum();
    let part =
        |gpus: Gpus, pool: u64| Gpus::whole((u64::from(gpus.rounded_up()) * pool).checked_div(all).unwrap_or(0) as u32);
    let draft = |mission: &Mission| {
        let ceiling =
            if borrowing { mission.limit } else { Some(mission.limit.unwrap_or(mission.quota).min(mission.quota)) };
        let in_pool = |(at, pool): (usize, u64)| QuotaDraft {
            pool: cluster.pools()[at].name.clone(),
            quota: part(mission.quota, pool),
            limit: ceiling.map(|limit| part(limit, pool)),
            lend_limit: mission.lend_limit.map(|lent| part(lent, pool)),
            domains: mission.domains.filter(|_| at == 0),
            dates: None,
        };
        TenantDraft {
            name: mission.tenant.as_str().into(),
            create: true,
            weight: mission.weight,
            budget: mission
                .budget_hours
                .map(|hours| Some(Grant { gpu_time: GpuTime(hours.saturating_mul(HOUR.0)), period: BUDGET_PERIOD })),
            quotas: installed().enumerate().map(in_pool).collect(),
            ..TenantDraft::default()
        }
    };
    missions.iter().map(draft).collect()
}

/// The quotas by tenant.
pub fn quotas(missions: &[Mission]) -> BTreeMap<String, Gpus> {
    missions.iter().map(|mission| (mission.tenant.clone(), mission.quota)).collect()
}
