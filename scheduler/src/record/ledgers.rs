//! Caps and budgets, both ways, and what a change was approved on.

use dure_core::budget::{Budget, Grant};
use dure_core::caps::Caps;
use dure_core::ids::ForecastId;
use dure_core::units::{GpuTime, Gpus, Span, Time};
use dure_proto::journal::v1;

use super::fault::{Fault, needed};

pub(super) fn caps_to_wire(caps: Caps) -> v1::Caps {
    v1::Caps {
        user_gpus: caps.user_gpus.map(Gpus::rounded_up),
        user_running: caps.user_running,
        user_submitted: caps.user_submitted,
        job_gpus: caps.job_gpus.map(Gpus::rounded_up),
        job_time_ms: caps.job_time.map(|span| span.0),
    }
}

pub(super) fn caps_from_wire(wire: v1::Caps) -> Caps {
    Caps {
        user_gpus: wire.user_gpus.map(Gpus::whole),
        user_running: wire.user_running,
        user_submitted: wire.user_submitted,
        job_gpus: wire.job_gpus.map(Gpus::whole),
        job_time: wire.job_time_ms.map(Span),
    }
}

fn grant_to_wire(grant: Grant) -> v1::Grant {
    v1::Grant { gpu_ms: grant.gpu_time.0, period_ms: grant.period.0 }
}

/// No period: no budget any more.
pub(super) fn grant_change_to_wire(grant: Option<Grant>) -> v1::Grant {
    grant.map(grant_to_wire).unwrap_or_default()
}

pub(super) fn grant_change_from_wire(wire: v1::Grant) -> Option<Grant> {
    (wire.period_ms > 0).then_some(Grant { gpu_time: GpuTime(wire.gpu_ms), period: Span(wire.period_ms) })
}

/// No bytes: none was named.
pub(super) fn forecast_from_wire(wire: &[u8]) -> Result<Option<ForecastId>, Fault> {
    let (field, value) = ("TenantChanged.forecast", wire.len() as u64);
    match wire.try_into() {
        Ok(bytes) => Ok(Some(ForecastId(bytes))),
        Err(_) if wire.is_empty() => Ok(None),
        Err(_) => Err(Fault::OutOfRange { field, value, least: 32, most: 32 }),
    }
}

pub(super) fn budget_to_wire(budget: &Budget) -> v1::Budget {
    v1::Budget {
        grant: Some(grant_to_wire(budget.grant)),
        began_at_ms: budget.began_at.0,
        spent_gpu_ms: budget.spent.0,
        refunded_gpu_ms: budget.refunded.0,
        carried_gpu_ms: budget.carried.0,
        unspent_gpu_ms: budget.unspent.0,
    }
}

pub(super) fn budget_from_wire(wire: &v1::Budget) -> Result<Budget, Fault> {
    Ok(Budget {
        grant: needed("Budget.grant", grant_change_from_wire(wire.grant.unwrap_or_default()))?,
        began_at: Time(wire.began_at_ms),
        spent: GpuTime(wire.spent_gpu_ms),
        refunded: GpuTime(wire.refunded_gpu_ms),
        carried: GpuTime(wire.carried_gpu_ms),
        unspent: GpuTime(wire.unspent_gpu_ms),
    })
}
