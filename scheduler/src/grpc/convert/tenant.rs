//! Tenants of the core -> the wire, with what runs and waits counted up the tree.

use std::collections::BTreeMap;

use dure_core::Cluster;
use dure_core::budget::Budget;
use dure_core::calendar::DatedQuota;
use dure_core::caps::Caps;
use dure_core::idle::{IdleAction, IdleRule};
use dure_core::ids::{PoolIndex, TenantIndex, UserIndex};
use dure_core::input::DomainsDraft;
use dure_core::job::Usage;
use dure_core::pools::Pool;
use dure_core::tenant::{Quota, Tenant};
use dure_core::units::{GpuTime, Gpus, Time};
use dure_core::whole::WholeDomains;
use dure_proto::v1;

use super::{accrued, gpu_time};
use crate::grpc::status::Violation;

/// What is not kept per tenant but counted when asked for. O(running attempts + kinds of queued jobs).
pub struct Sums {
    /// When it was counted.
    now: Time,
    /// By tenant: used since it was last charged, everything below included.
    running: Vec<Usage>,
    /// The same by tenant and user, nothing below included.
    by_user: BTreeMap<(TenantIndex, UserIndex), Usage>,
    /// By tenant: GPUs that queued jobs ask for, everything below included; of an array those of one index.
    pending_gpus: Vec<u64>,
    /// By tenant: jobs submitted, everything below included.
    jobs: Vec<u64>,
    /// By pool: how it stands with whole domains.
    domains: Vec<Option<WholeDomains>>,
}

impl Sums {
    /// Counts at `now`.
    pub fn count(cluster: &Cluster, now: Time) -> Self {
        let tenants = cluster.tenants();
        let mut sums = Self {
            now,
            running: vec![Usage::default(); tenants.len()],
            by_user: BTreeMap::new(),
            pending_gpus: vec![0; tenants.len()],
            jobs: vec![0; tenants.len()],
            domains: (0..cluster.pools().len()).map(|pool| cluster.whole_domains(PoolIndex::of(pool))).collect(),
        };
        for key in tenants.iter().flat_map(|tenant| tenant.attempts.iter()) {
            let Some(job) = cluster.job(key.job) else { continue };
            let more = accrued(job, now);
            add(sums.by_user.entry((job.spec.tenant, job.spec.user)).or_default(), more);
            for above in cluster.chain(job.spec.tenant) {
                add(&mut sums.running[above.index.at()], more);
            }
        }
        for tenant in tenants {
            let gpus = queued_gpus(cluster, tenant);
            let jobs: u64 = tenant.users.values().map(|ledger| ledger.jobs).sum();
            for above in cluster.chain(tenant.index) {
                sums.pending_gpus[above.index.at()] += gpus;
                sums.jobs[above.index.at()] += jobs;
            }
        }
        sums
    }
}

fn add(usage: &mut Usage, more: Usage) {
    usage.own += more.own;
    usage.borrowed += more.borrowed;
}

fn queued_gpus(cluster: &Cluster, tenant: &Tenant) -> u64 {
    let users = tenant.queue.levels.values().flat_map(|level| level.values());
    let buckets = users.flat_map(|user| &user.buckets);
    buckets
        .map(|bucket| {
            let request = &cluster.classes().get(bucket.class).key.request;
            u64::from(request.shape.total().rounded_up()) * bucket.keys.len() as u64
        })
        .sum()
}

/// What there is to divide.
pub fn pools(cluster: &Cluster) -> Vec<v1::PoolState> {
    let state = |(at, pool): (usize, &Pool)| {
        let missions = cluster.tenants().iter().filter(|tenant| tenant.depth == 1);
        let guaranteed: Gpus = missions.filter_map(|mission| mission.quota_in(PoolIndex::of(at)).quota).sum();
        v1::PoolState {
            pool: pool.name.to_string(),
            installed: pool.installed.rounded_up(),
            usable: pool.capacity.rounded_up(),
            guaranteed: guaranteed.rounded_up(),
            domains: cluster.whole_domains(PoolIndex::of(at)).map(|whole| v1::WholeDomains {
                level: super::level_on_wire(whole.level).into(),
                nodes: whole.nodes,
                whole: whole.whole,
                clean: whole.clean,
                unused: whole.unused,
            }),
        }
    };
    cluster.pools().iter().enumerate().map(state).collect()
}

/// A tenant. Its position is for the caller to fill in.
pub fn tenant(cluster: &Cluster, tenant: &Tenant, sums: &Sums) -> v1::Tenant {
    let mut total = tenant.total;
    add(&mut total, sums.running[tenant.index.at()]);
    let pools = || cluster.pools().iter().enumerate().map(|(at, pool)| (PoolIndex::of(at), pool.name.to_string()));
    let usage = pools().map(|(at, pool)| {
        let held = tenant.held_in(at);
        // What is promised is nobody's yet.
        let used = held.used.less(held.promised);
        let own = used.less(held.borrowed);
        let overhang = held.fixed.less(tenant.quota_in(at).quota.unwrap_or_default());
        v1::PoolUsage {
            pool,
            used: used.rounded_up(),
            own: own.rounded_up(),
            borrowed: held.borrowed.rounded_up(),
            overhang: if tenant.depth == 1 { overhang.rounded_up() } else { 0 },
            domains_used: sums.domains[at.at()].as_ref().map_or(0, |whole| whole.used[tenant.index.at()]),
        }
    });
    v1::Tenant {
        name: tenant.name.to_string(),
        weight: tenant.weight,
        default_time_limit_ms: tenant.default_time_limit.map_or(0, |limit| limit.0),
        quotas: pools().filter_map(|(at, pool)| quota(pool, tenant.quota_in(at))).collect(),
        usage: usage.collect(),
        min_run_ms: tenant.min_run.map(|span| span.0),
        reclaim_within_ms: tenant.reclaim_within.map(|span| span.0),
        idle: tenant.idle.map(idle_rule),
        paused: tenant.paused,
        pending_jobs: tenant.queued as u64,
        pending_gpus: sums.pending_gpus[tenant.index.at()],
        running_jobs: u64::from(tenant.running),
        total: Some(gpu_time(total)),
        position: None,
        caps: (!tenant.caps.is_empty()).then(|| caps(tenant.caps)),
        budget: tenant.budget.as_ref().map(|budget| self::budget(budget, tenant.committed)),
        calendar: cluster
            .calendar()
            .filter(|dated| dated.key.tenant == tenant.index)
            .map(|it| dated(cluster, it))
            .collect(),
        above_quota_milli: tenant.above_quota_milli(sums.now, cluster.policy().half_life),
    }
}

fn idle_rule(rule: IdleRule) -> v1::IdleRule {
    let action = match rule.action {
        IdleAction::Ignore => v1::IdleAction::Ignore,
        IdleAction::Notify => v1::IdleAction::Notify,
        IdleAction::Requeue => v1::IdleAction::Requeue,
        IdleAction::Cancel => v1::IdleAction::Cancel,
    };
    v1::IdleRule { after_ms: rule.after.0, notice_ms: rule.notice.0, action: action.into() }
}

fn caps(caps: Caps) -> v1::Caps {
    v1::Caps {
        user_gpus: caps.user_gpus.map(Gpus::rounded_up),
        user_running: caps.user_running,
        user_submitted: caps.user_submitted,
        job_gpus: caps.job_gpus.map(Gpus::rounded_up),
        job_time_ms: caps.job_time.map(|span| span.0),
    }
}

fn budget(budget: &Budget, committed: GpuTime) -> v1::Budget {
    v1::Budget {
        grant_gpu_ms: budget.grant.gpu_time.0,
        period_ms: budget.grant.period.0,
        began_ms: budget.began_at.0,
        spent_gpu_ms: budget.spent.0,
        committed_gpu_ms: committed.0,
        left_gpu_ms: budget.left(committed).0,
        refunded_gpu_ms: budget.refunded.0,
        carried_gpu_ms: budget.carried.0,
        unspent_gpu_ms: budget.unspent.0,
    }
}

fn dated(cluster: &Cluster, dated: &DatedQuota) -> v1::DatedQuota {
    let of_pool = |of: Quota| quota(cluster.pool(dated.key.pool).name.to_string(), of);
    v1::DatedQuota {
        quota: of_pool(dated.quota),
        from_ms: dated.key.from.0,
        until_ms: dated.until.map(|until| until.0),
        standing: dated.standing.and_then(of_pool),
    }
}

/// None where nothing is set.
fn quota(pool: String, quota: Quota) -> Option<v1::PoolQuota> {
    (quota != Quota::default()).then(|| v1::PoolQuota {
        pool,
        quota: quota.quota.unwrap_or_default().rounded_up(),
        limit: quota.limit.map(|limit| limit.rounded_up()),
        lend_limit: quota.lend_limit.map(|limit| limit.rounded_up()),
        domains: quota.domains.map(|domains| v1::DomainQuota {
            level: super::level_on_wire(domains.level).into(),
            count: domains.count,
            nodes: domains.nodes,
        }),
    })
}

/// Whole domains as they are asked for.
///
/// # Errors
/// No level.
pub fn domains(wire: v1::DomainQuota) -> Result<DomainsDraft, Violation> {
    let bad = || Violation::new("quotas.domains.level", "none; use 1 (node) to 5 (site)");
    let level = super::level(wire.level()).ok_or_else(bad)?;
    Ok(DomainsDraft { level, count: wire.count, nodes: (wire.nodes > 0).then_some(wire.nodes) })
}

/// The row of a tenant, everything below it included.
pub fn usage(tenant: &Tenant, sums: &Sums) -> v1::UsageRow {
    let mut total = tenant.total;
    add(&mut total, sums.running[tenant.index.at()]);
    v1::UsageRow {
        tenant: tenant.name.to_string(),
        user: String::new(),
        total: Some(gpu_time(total)),
        jobs: sums.jobs[tenant.index.at()],
        gpus_now: tenant.used().rounded_up(),
    }
}

/// The rows of a tenant's own users.
pub fn usage_by_user<'a>(
    cluster: &'a Cluster,
    tenant: &'a Tenant,
    sums: &'a Sums,
) -> impl Iterator<Item = v1::UsageRow> + 'a {
    tenant.users.iter().map(move |(user, ledger)| {
        let mut total = ledger.total;
        add(&mut total, sums.by_user.get(&(tenant.index, *user)).copied().unwrap_or_default());
        v1::UsageRow {
            tenant: tenant.name.to_string(),
            user: cluster.user(*user).to_owned(),
            total: Some(gpu_time(total)),
            jobs: ledger.jobs,
            gpus_now: ledger.used.rounded_up(),
        }
    })
}
