//! What tenants and users hold is what the attempts hold that are charged to them (of tenants also what is promised); a tenant holds what its children hold.
//!
//! Source: design 5.2, "kept incrementally".

use std::collections::BTreeMap;

use super::{Check, ensure};
use crate::cluster::Cluster;
use crate::ids::{PoolIndex, TenantIndex, UserIndex};
use crate::job::Phase;
use crate::tenant::Tenant;
use crate::units::Gpus;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Sum {
    used: Gpus,
    fixed: Gpus,
    promised: Gpus,
}

pub(super) fn check(cluster: &Cluster) -> Check {
    let mut held: BTreeMap<(TenantIndex, PoolIndex), Sum> = BTreeMap::new();
    let mut of_users: BTreeMap<(TenantIndex, UserIndex), Gpus> = BTreeMap::new();
    let mut running: BTreeMap<TenantIndex, u32> = BTreeMap::new();
    let mut in_class: BTreeMap<(TenantIndex, u8), u32> = BTreeMap::new();
    let mut jobs_of_users: BTreeMap<(TenantIndex, UserIndex), (u32, u32)> = BTreeMap::new();
    for job in cluster.jobs.iter() {
        let of_user = jobs_of_users.entry((job.spec.tenant, job.spec.user)).or_default();
        of_user.1 += u32::from(!matches!(job.phase, Phase::Ended(_)));
        let Some(attempt) = job.live_attempt() else { continue };
        if matches!(job.phase, Phase::AwaitingProof(_)) {
            continue;
        }
        of_user.0 += 1;
        *in_class.entry((job.spec.tenant, job.spec.priority.0)).or_default() += 1;
        let gpus = attempt.gpus();
        *of_users.entry((job.spec.tenant, job.spec.user)).or_default() += gpus;
        for tenant in cluster.chain(job.spec.tenant) {
            let sum = held.entry((tenant.index, attempt.pool)).or_default();
            sum.used += gpus;
            sum.fixed += if job.spec.preemptible { Gpus::ZERO } else { gpus };
            *running.entry(tenant.index).or_default() += 1;
        }
    }
    for (id, promise) in cluster.promises() {
        let Some(job) = cluster.job(id) else { continue };
        for tenant in cluster.chain(job.spec.tenant) {
            let sum = held.entry((tenant.index, promise.pool)).or_default();
            sum.used += promise.gpus();
            sum.fixed += if job.spec.preemptible { Gpus::ZERO } else { promise.gpus() };
            sum.promised += promise.gpus();
        }
    }
    for tenant in &cluster.tenants {
        for (at, said) in tenant.held.iter().enumerate() {
            let pool = PoolIndex::of(at);
            let counted = held.get(&(tenant.index, pool)).copied().unwrap_or_default();
            let said = Sum { used: said.used, fixed: said.fixed, promised: said.promised };
            ensure(said == counted, || {
                format!("tenant {:?} in pool {at}: {said:?}, counted {counted:?}", tenant.name)
            })?;
        }
        let counted = running.get(&tenant.index).copied().unwrap_or_default();
        ensure(tenant.running == counted, || {
            format!("tenant {:?}: {} attempts, counted {counted}", tenant.name, tenant.running)
        })?;
        for (class, said) in tenant.running_in_class.iter().enumerate() {
            let counted = in_class.remove(&(tenant.index, class as u8)).unwrap_or_default();
            ensure(*said == counted, || {
                format!("tenant {:?}: {said} in class {class}, counted {counted}", tenant.name)
            })?;
        }
        ensure(tenant.excess.rate == tenant.above_quota(), || {
            let (rate, above) = (tenant.excess.rate, tenant.above_quota());
            format!("tenant {:?} is metered for {rate} GPUs above its quota and holds {above}", tenant.name)
        })?;
        users_are_counted(tenant, &mut of_users, &mut jobs_of_users)?;
    }
    ensure(in_class.is_empty(), || format!("attempts that are not counted in their class: {in_class:?}"))?;
    ensure(of_users.is_empty(), || format!("users without a ledger hold GPUs: {of_users:?}"))
}

/// What users hold in one tenant, against what their jobs hold; what was compared is taken out of the sums.
fn users_are_counted(
    tenant: &Tenant,
    of_users: &mut BTreeMap<(TenantIndex, UserIndex), Gpus>,
    jobs_of_users: &mut BTreeMap<(TenantIndex, UserIndex), (u32, u32)>,
) -> Check {
    for (user, ledger) in &tenant.users {
        let counted = of_users.remove(&(tenant.index, *user)).unwrap_or_default();
        let of_user = jobs_of_users.remove(&(tenant.index, *user)).unwrap_or_default();
        ensure((ledger.running, ledger.submitted) == of_user, || {
            format!(
                "user {user} of {:?}: {} run of {}, counted {of_user:?}",
                tenant.name, ledger.running, ledger.submitted
            )
        })?;
        ensure((ledger.used, ledger.recent.rate) == (counted, counted), || {
            format!(
                "user {user} of {:?}: {} GPUs, metered {}, counted {counted}",
                tenant.name, ledger.used, ledger.recent.rate
            )
        })?;
    }
    Ok(())
}
