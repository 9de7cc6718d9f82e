//! What of a tenant is set, in the words of the command line: for the audit, and for the history of quotas.

use dure_core::budget::Grant;
use dure_core::caps::Caps;
use dure_core::event::TenantChange;

use super::{hours, level_name, span};
use crate::grpc::convert::idle_word;

/// Everything but the quotas, one entry each.
pub fn rules(change: &TenantChange) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    words.extend(change.weight.map(|weight| format!("weight {weight}")));
    words.extend(change.default_time_limit.map(|limit| format!("default time {}", span(limit))));
    words.extend(change.min_run.map(|run| format!("min run {}", span(run))));
    words.extend(change.reclaim_within.map(|within| format!("reclaim within {}", span(within))));
    words.extend(change.idle.map(|rule| format!("idle: {} after {}", idle_word(rule.action), span(rule.after))));
    words.extend(change.caps.map(|caps| self::caps(&caps)));
    words.extend(change.budget.map(|budget| budget.map_or_else(|| "no budget".to_owned(), grant)));
    words
}

fn grant(grant: Grant) -> String {
    format!("budget {} GPU-hours in {}", hours(grant.gpu_time), span(grant.period))
}

fn caps(caps: &Caps) -> String {
    let Caps { user_gpus, user_running, user_submitted, job_gpus, job_time } = *caps;
    let mut words: Vec<String> = Vec::new();
    words.extend(user_gpus.map(|gpus| format!("user GPUs {gpus}")));
    words.extend(user_running.map(|jobs| format!("user running {jobs}")));
    words.extend(user_submitted.map(|jobs| format!("user submitted {jobs}")));
    words.extend(job_gpus.map(|gpus| format!("job GPUs {gpus}")));
    words.extend(job_time.map(|time| format!("job time {}", span(time))));
    if words.is_empty() { "no caps".to_owned() } else { format!("caps: {}", words.join(", ")) }
}

/// So many whole domains, as in a quota.
pub fn whole(count: u32, level: dure_core::request::Level) -> String {
    format!("{count} whole {}{}", level_name(level), if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use dure_core::idle::{IdleAction, IdleRule};
    use dure_core::units::{Gpus, Span};

    use super::*;

    #[test]
    fn rules_read_as_they_are_set() {
        let change = TenantChange {
            weight: Some(3),
            min_run: Some(Span::seconds(1_800)),
            reclaim_within: Some(Span::seconds(86_400)),
            idle: Some(IdleRule { after: Span::seconds(600), notice: Span::ZERO, action: IdleAction::Requeue }),
            caps: Some(Caps {
                user_gpus: Some(Gpus::whole(64)),
                job_time: Some(Span::seconds(259_200)),
                ..Caps::default()
            }),
            budget: Some(Some(Grant {
                gpu_time: Gpus::whole(1).over(Span::seconds(3_600 * 50)),
                period: Span::seconds(30 * 86_400),
            })),
            ..TenantChange::default()
        };
        let said = rules(&change).join("; ");
        let expected = "weight 3; min run 30m; reclaim within 1d; idle: requeue after 10m; caps: user GPUs 64, job time 3d; \
                        budget 50.0 GPU-hours in 30d";
        assert_eq!(said, expected);
        let none = TenantChange { caps: Some(Caps::default()), budget: Some(None), ..TenantChange::default() };
        assert_eq!(rules(&none).join("; "), "no caps; no budget");
        assert_eq!(
            (whole(1, dure_core::request::Level::Leaf), whole(4, dure_core::request::Level::Node)),
            ("1 whole leaf".to_owned(), "4 whole nodes".to_owned())
        );
    }
}
