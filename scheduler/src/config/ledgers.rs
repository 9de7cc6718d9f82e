//! `[tenant.budget]` and `[tenant.caps]`.

use dure_core::budget::Grant;
use dure_core::caps::Caps;
use dure_core::units::{GpuTime, Gpus, Span};
use serde::Deserialize;

use super::span;

/// GPU-hours that a tenant may use in each period.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BudgetConfig {
    gpu_hours: u64,
    #[serde(deserialize_with = "span::required")]
    period: Span,
}

impl BudgetConfig {
    pub(super) fn grant(&self) -> Grant {
        Grant { gpu_time: GpuTime(self.gpu_hours.saturating_mul(3_600_000)), period: self.period }
    }
}

/// The fields are those of `Caps`, where they are described.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct CapsConfig {
    user_gpus: Option<u32>,
    user_running: Option<u32>,
    user_submitted: Option<u32>,
    job_gpus: Option<u32>,
    #[serde(deserialize_with = "span::optional")]
    job_time: Option<Span>,
}

impl CapsConfig {
    pub(super) fn caps(&self) -> Caps {
        Caps {
            user_gpus: self.user_gpus.map(Gpus::whole),
            user_running: self.user_running,
            user_submitted: self.user_submitted,
            job_gpus: self.job_gpus.map(Gpus::whole),
            job_time: self.job_time,
        }
    }
}
