//! `[policy]`: single rules and limits that differ from the standard ones.

use dure_core::Policy;
use dure_core::policy::PriorityClass;
use dure_core::units::{Gpus, Span};
use serde::Deserialize;

use super::{ConfigError, bad, span};

/// What differs; absent: as in `Policy::standard`. The fields are those of `Policy`, where they are described.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PolicyConfig {
    /// Names, lowest first.
    priorities: Option<Vec<String>>,
    /// Name of the class of jobs that name none.
    default_priority: Option<String>,
    max_jobs_per_submit: Option<u32>,
    max_pending_jobs: Option<u32>,
    max_members: Option<u32>,
    max_array_size: Option<u32>,
    max_dependencies: Option<u32>,
    max_classes: Option<u32>,
    max_placements_per_cycle: Option<u32>,
    max_members_per_cycle: Option<u32>,
    #[serde(deserialize_with = "span::optional")]
    max_time_limit: Option<Span>,
    #[serde(deserialize_with = "span::optional")]
    default_time_limit: Option<Span>,
    #[serde(deserialize_with = "span::optional")]
    default_grace: Option<Span>,
    #[serde(deserialize_with = "span::optional")]
    max_grace: Option<Span>,
    #[serde(deserialize_with = "span::optional")]
    max_hold_survivors: Option<Span>,
    max_attempts: Option<u32>,
    #[serde(deserialize_with = "span::optional")]
    launch_deadline: Option<Span>,
    #[serde(deserialize_with = "span::optional")]
    time_limit_slack: Option<Span>,
    #[serde(deserialize_with = "span::optional")]
    backoff: Option<Span>,
    #[serde(deserialize_with = "span::optional")]
    max_backoff: Option<Span>,
    #[serde(deserialize_with = "span::optional")]
    keep_ended: Option<Span>,
    max_ended: Option<u32>,
    max_requests: Option<u32>,
    #[serde(deserialize_with = "span::optional")]
    half_life: Option<Span>,
    #[serde(deserialize_with = "span::optional")]
    learn_half_life: Option<Span>,
    search_steps: Option<u32>,
    max_evicting_failures: Option<u32>,
    #[serde(deserialize_with = "span::optional")]
    min_budget_period: Option<Span>,
    #[serde(deserialize_with = "span::optional")]
    default_min_run: Option<Span>,
    plan_in_time: Option<bool>,
    #[serde(deserialize_with = "span::optional")]
    reserve_after: Option<Span>,
    #[serde(deserialize_with = "span::optional")]
    reserve_interval: Option<Span>,
    #[serde(deserialize_with = "span::optional")]
    reserve_refresh: Option<Span>,
    max_reservations: Option<u32>,
    max_backfill_per_cycle: Option<u32>,
    #[serde(deserialize_with = "span::optional")]
    default_reclaim_within: Option<Span>,
    #[serde(deserialize_with = "span::optional")]
    reclaim_patience: Option<Span>,
    #[serde(deserialize_with = "span::optional")]
    restart_cost: Option<Span>,
    #[serde(deserialize_with = "span::optional")]
    grow_after: Option<Span>,
    max_tenant_depth: Option<u32>,
    max_tenants: Option<u32>,
    max_dated_quotas: Option<u32>,
    max_bookings: Option<u32>,
    #[serde(deserialize_with = "span::optional")]
    max_booking_ahead: Option<Span>,
    max_users: Option<u32>,
    max_quota: Option<u32>,
}

/// Sets the named fields of `$policy` that `$config` states.
macro_rules! overlay {
    ($config:expr, $policy:expr, $($field:ident),* $(,)?) => {
        $(if let Some(value) = $config.$field { $policy.$field = value; })*
    };
}

impl PolicyConfig {
    /// `policy` with what is stated here in place of its own.
    pub(super) fn over(&self, mut policy: Policy) -> Policy {
        if let Some(names) = &self.priorities {
            policy.priorities = names.iter().map(|name| PriorityClass { name: name.as_str().into() }).collect();
            policy.default_priority = 0;
        }
        if let Some(name) = &self.default_priority
            && let Some(at) = policy.priorities.iter().position(|class| *class.name == **name)
        {
            policy.default_priority = u8::try_from(at).unwrap_or(0);
        }
        overlay!(
            self,
            policy,
            max_jobs_per_submit,
            max_pending_jobs,
            max_members,
            max_array_size,
            max_dependencies,
            max_classes,
            max_placements_per_cycle,
            max_members_per_cycle,
            max_time_limit,
            default_time_limit,
            default_grace,
            max_grace,
            max_hold_survivors,
            max_attempts,
            launch_deadline,
            time_limit_slack,
            backoff,
            max_backoff,
            keep_ended,
            max_ended,
            max_requests,
            half_life,
            learn_half_life,
            search_steps,
            max_evicting_failures,
            min_budget_period,
            default_min_run,
            plan_in_time,
            reserve_after,
            reserve_interval,
            reserve_refresh,
            max_reservations,
            max_backfill_per_cycle,
            default_reclaim_within,
            reclaim_patience,
            restart_cost,
            grow_after,
            max_tenant_depth,
            max_tenants,
            max_dated_quotas,
            max_bookings,
            max_booking_ahead,
            max_users,
        );
        if let Some(gpus) = self.max_quota {
            policy.max_quota = Gpus::whole(gpus);
        }
        policy
    }

    /// Refuses what the core could not work with.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let policy = self.over(Policy::standard());
        if policy.priorities.is_empty() || policy.priorities.len() > usize::from(u8::MAX) {
            return Err(bad("policy.priorities", &self.priorities, "name 1 to 255 classes, lowest first"));
        }
        if let Some(name) = &self.default_priority
            && !policy.priorities.iter().any(|class| *class.name == **name)
        {
            return Err(bad("policy.default_priority", name, "name one of policy.priorities"));
        }
        if self.priorities.is_some() && self.default_priority.is_none() {
            return Err(bad(
                "policy.default_priority",
                format_args!("absent"),
                "name the class of jobs that name none",
            ));
        }
        let counts = [
            ("max_jobs_per_submit", policy.max_jobs_per_submit),
            ("max_pending_jobs", policy.max_pending_jobs),
            ("max_members", policy.max_members),
            ("max_array_size", policy.max_array_size),
            ("max_classes", policy.max_classes),
            ("max_placements_per_cycle", policy.max_placements_per_cycle),
            ("max_members_per_cycle", policy.max_members_per_cycle),
            ("max_attempts", policy.max_attempts),
            ("max_tenant_depth", policy.max_tenant_depth),
            ("max_tenants", policy.max_tenants),
            ("max_users", policy.max_users),
        ];
        if let Some((name, _)) = counts.into_iter().find(|(_, count)| *count == 0) {
            return Err(bad(format!("policy.{name}"), 0, "use at least 1"));
        }
        if policy.max_tenants > u32::from(u16::MAX) {
            return Err(bad("policy.max_tenants", policy.max_tenants, "use at most 65535"));
        }
        let spans = [
            ("default_time_limit", policy.default_time_limit, policy.max_time_limit),
            ("default_grace", policy.default_grace, policy.max_grace),
            ("backoff", policy.backoff, policy.max_backoff),
        ];
        if let Some((name, span, longest)) = spans.into_iter().find(|(_, span, longest)| span > longest) {
            return Err(bad(
                format!("policy.{name}"),
                span,
                format!("longer than its maximum of {longest:?}: lower it"),
            ));
        }
        let positive = [
            ("default_time_limit", policy.default_time_limit),
            ("launch_deadline", policy.launch_deadline),
            ("half_life", policy.half_life),
            ("learn_half_life", policy.learn_half_life),
            ("min_budget_period", policy.min_budget_period),
        ];
        match positive.into_iter().find(|(_, span)| *span == Span::ZERO) {
            Some((name, span)) => Err(bad(format!("policy.{name}"), span, "use more than 0")),
            None => Ok(()),
        }
    }
}
