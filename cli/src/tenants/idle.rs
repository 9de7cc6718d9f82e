//! What a tenant does about jobs whose GPUs do no work: the flags of `dure quota set`, and how it is shown.

use clap::{Args, ValueEnum};
use dure_proto::v1::{IdleAction, IdleRule};

use crate::failure::Failure;
use crate::span::{self, UserSpan};

/// From the notice to the action, where no other is named.
const DEFAULT_NOTICE_MS: u64 = 10 * 60_000;

/// The rule; a flag that is left out keeps its part.
#[derive(Debug, Default, Args)]
pub(super) struct IdleArgs {
    /// A job none of whose GPUs has done any work for so long is told so
    #[arg(long, value_name = "SPAN")]
    idle_after: Option<UserSpan>,
    /// From that notice to what follows [default: 10m]
    #[arg(long, value_name = "SPAN")]
    idle_notice: Option<UserSpan>,
    /// What follows: nothing more, back into the queue, its end; ignore: no notice either [default: notify]
    #[arg(long, value_enum, value_name = "ACTION")]
    idle_action: Option<IdleWord>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum IdleWord {
    Ignore,
    Notify,
    Requeue,
    Cancel,
}

impl From<IdleWord> for IdleAction {
    fn from(word: IdleWord) -> Self {
        match word {
            IdleWord::Ignore => Self::Ignore,
            IdleWord::Notify => Self::Notify,
            IdleWord::Requeue => Self::Requeue,
            IdleWord::Cancel => Self::Cancel,
        }
    }
}

impl IdleArgs {
    pub(super) fn says_something(&self) -> bool {
        self.idle_after.is_some() || self.idle_notice.is_some() || self.idle_action.is_some()
    }

    /// The rule that is asked for, over the one that was there; none when nothing was said.
    pub(super) fn over(&self, before: Option<IdleRule>) -> Result<Option<IdleRule>, Failure> {
        if !self.says_something() {
            return Ok(None);
        }
        let after_ms = self.idle_after.map(|span| span.0).or(before.map(|rule| rule.after_ms));
        let notice_ms = self.idle_notice.map(|span| span.0).or(before.map(|rule| rule.notice_ms));
        let action = self.idle_action.map(IdleAction::from).or(before.map(|rule| rule.action()));
        let action = action.unwrap_or(IdleAction::Notify);
        // Nothing follows, whatever the time.
        let ignored = (action == IdleAction::Ignore).then_some(u64::MAX);
        let Some(after_ms) = after_ms.or(ignored) else {
            return Err(Failure::Usage("--idle-after is missing: after which time without GPU work?".to_owned()));
        };
        let notice_ms = notice_ms.unwrap_or(DEFAULT_NOTICE_MS);
        Ok(Some(IdleRule { after_ms, notice_ms, action: action.into() }))
    }
}

/// As `requeue after 30m + 10m`.
pub(super) fn shown(rule: Option<IdleRule>) -> String {
    let Some(rule) = rule else { return "-".to_owned() };
    let after = || span::human(rule.after_ms);
    match rule.action() {
        IdleAction::Unspecified => "-".to_owned(),
        IdleAction::Ignore => "ignore".to_owned(),
        IdleAction::Notify => format!("notify after {}", after()),
        IdleAction::Requeue => format!("requeue after {} + {}", after(), span::human(rule.notice_ms)),
        IdleAction::Cancel => format!("cancel after {} + {}", after(), span::human(rule.notice_ms)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_is_left_out_stays_and_a_rule_needs_its_time() {
        let args = |after, action| IdleArgs { idle_after: after, idle_notice: None, idle_action: action };
        let rule = args(Some(UserSpan(1_800_000)), None).over(None).expect("a rule");
        assert_eq!(shown(rule), "notify after 30m00s");
        let rule = args(None, Some(IdleWord::Cancel)).over(rule).expect("a rule");
        assert_eq!(shown(rule), "cancel after 30m00s + 10m00s");
        assert_eq!(shown(args(None, Some(IdleWord::Ignore)).over(None).expect("a rule")), "ignore");
        assert_eq!(args(None, None).over(rule).expect("nothing is said"), None);
        assert!(args(None, Some(IdleWord::Cancel)).over(None).is_err());
        assert_eq!(shown(None), "-");
    }
}
