//! `[tenant.budget]`, `[tenant.caps]` and `[tenant.idle]`.

use dure_core::budget::Grant;
use dure_core::caps::Caps;
use dure_core::idle::{IdleAction, IdleRule};
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

/// What is done about attempts whose GPUs do no work.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IdleConfig {
    /// So long without work.
    #[serde(deserialize_with = "span::required")]
    after: Span,
    /// From the notice to the action.
    #[serde(default, deserialize_with = "span::optional")]
    notice: Option<Span>,
    action: IdleWord,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum IdleWord {
    Ignore,
    Notify,
    Requeue,
    Cancel,
}

impl IdleConfig {
    pub(super) fn rule(&self) -> IdleRule {
        let action = match self.action {
            IdleWord::Ignore => IdleAction::Ignore,
            IdleWord::Notify => IdleAction::Notify,
            IdleWord::Requeue => IdleAction::Requeue,
            IdleWord::Cancel => IdleAction::Cancel,
        };
        IdleRule { after: self.after, notice: self.notice.unwrap_or(Span::ZERO), action }
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
