//! How a trace is replayed: run times, rules that are switched off, and the policy that follows from them.

use dure_core::Policy;
use dure_core::units::Span;

use crate::faults::Fault;

/// Ended jobs in memory: nobody asks for them here.
const MAX_ENDED: u32 = 256;
/// Longer than any job runs: 1,000 years.
const NO_LIMIT: Span = Span::seconds(1000 * 365 * 86_400);

/// How long jobs are taken to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RunTimes {
    /// As they ran.
    #[default]
    Exact,
    /// To their limits.
    Limit,
    /// As those like them ran that ended before; to their limits where too few are known.
    Learned,
}

/// Rules that are switched off, to see what each is worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Without {
    /// Nobody has more than its quota.
    pub borrowing: bool,
    /// What is lent is never taken back before it ends, and no class of priority evicts a lower one.
    pub reclaim: bool,
    /// Nothing is set aside for blocked jobs, and what starts delays whom it will.
    pub plan: bool,
    /// What is set aside for a blocked job is used by nobody until it starts.
    pub backfill: bool,
    /// Nothing is remembered of what was tried in vain.
    pub classes: bool,
    /// The core does not know where nodes stand.
    pub topology: bool,
}

/// How a trace is replayed.
#[derive(Clone, Debug, Default)]
pub struct DriveOptions {
    /// How long jobs are taken to run.
    pub run_times: RunTimes,
    /// Rules that are switched off.
    pub without: Without,
    /// Nodes and GPUs that break, by time; nodes by their places in the node file.
    pub faults: Vec<Fault>,
}

/// The rules for virtual time: nothing is refused for want of memory, and a trace's jobs are tried for ever.
pub(super) fn policy(without: Without) -> Policy {
    let standard = Policy::standard();
    Policy {
        max_time_limit: NO_LIMIT,
        default_time_limit: NO_LIMIT,
        keep_ended: NO_LIMIT,
        max_ended: MAX_ENDED,
        max_attempts: u32::MAX,
        plan_interval: Span::ZERO,
        plan_reasons: None,
        plan_in_time: standard.plan_in_time && !without.plan,
        max_backfill_per_cycle: if without.backfill { 0 } else { standard.max_backfill_per_cycle },
        max_promises: if without.reclaim { 0 } else { standard.max_promises },
        remember_refusals: !without.classes,
        ..standard
    }
}
