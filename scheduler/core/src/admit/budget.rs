//! Does a job fit into the budgets above it? If not, it may run as a scavenger: on what nobody else wants.
//!
//! Operators bring over what was left of the period before; the next period begins by itself.

use crate::blocked::Blocked;
use crate::cluster::Cluster;
use crate::decide::{Events, emit};
use crate::event::Event;
use crate::ids::TenantIndex;
use crate::rejected::{Refusal, Rejected};
use crate::reply::Reply;
use crate::units::{GpuTime, Gpus, Span, Time};

/// Why a job of `gpus` and `time_limit` does not fit into a budget above `tenant`, if so.
pub(crate) fn over(cluster: &Cluster, tenant: TenantIndex, gpus: Gpus, time_limit: Span) -> Option<Blocked> {
    if !cluster.has_budgets {
        return None;
    }
    let want = gpus.over(time_limit);
    cluster.chain(tenant).find_map(|above| {
        let budget = above.budget.as_ref()?;
        let left = budget.left(above.committed);
        (want > left).then_some(Blocked::OverBudget { tenant: above.index, left, want, until: budget.ends_at() })
    })
}

/// Whether more is committed of a budget above `tenant` than is left of it: it was cut.
pub(crate) fn is_overdrawn(cluster: &Cluster, tenant: TenantIndex) -> bool {
    cluster.has_budgets
        && cluster
            .chain(tenant)
            .any(|above| above.budget.as_ref().is_some_and(|budget| budget.is_over(above.committed)))
}

/// Brings over what was left of the period before: `gpu_time` of it, or all.
pub(crate) fn carry(
    cluster: &mut Cluster,
    name: &str,
    gpu_time: Option<GpuTime>,
    now: Time,
    out: &mut Events,
) -> Result<Reply, Rejected> {
    let tenant = super::find_tenant(cluster, name)?;
    let Some(budget) = cluster.tenant(tenant).budget else {
        return Err(Refusal::NoBudget { tenant: name.into() }.into());
    };
    let gpu_time = gpu_time.unwrap_or(budget.unspent);
    if gpu_time > budget.unspent {
        return Err(Refusal::NothingToCarry { tenant: name.into(), want: gpu_time, unspent: budget.unspent }.into());
    }
    if gpu_time > GpuTime::ZERO {
        emit(cluster, now, Event::BudgetCarried { tenant, gpu_time }, out);
    }
    Ok(Reply::Tenant(tenant))
}

/// The period of a tenant's budget is over.
pub(crate) fn next_period(cluster: &mut Cluster, tenant: TenantIndex, now: Time, out: &mut Events) {
    emit(cluster, now, Event::BudgetPeriodBegan { tenant }, out);
}
