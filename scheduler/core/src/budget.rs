//! Budgets: GPU-time that a tenant may use in a period, everything below it included. A ledger of its own, beside the
//! guarantee (quota) and the decayed share.
//!
//! What an attempt could use by its time limit is committed when it gets its GPUs; when it ends, what it has used is
//! spent and the rest of the commitment is free again. What the hardware destroyed is not spent. An attempt whose job did
//! not fit into what was left runs as a scavenger: it commits and spends nothing, lies above every quota, and goes first.

use crate::job::{Attempt, Job, Outcome};
use crate::units::{GpuTime, Span, Time};

/// What a tenant may use in each period.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Grant {
    /// GPU-time in each period.
    pub gpu_time: GpuTime,
    /// How long a period is; more than 0.
    pub period: Span,
}

/// A tenant's budget and what has become of it in this period.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Budget {
    /// What it may use in each period.
    pub grant: Grant,
    /// When this period began.
    pub began_at: Time,
    /// Used in this period by attempts that are over.
    pub spent: GpuTime,
    /// Destroyed by hardware in this period, and therefore not spent.
    pub refunded: GpuTime,
    /// Brought over from the period before, by an operator.
    pub carried: GpuTime,
    /// What was left of the period before, and was not brought over.
    pub unspent: GpuTime,
}

impl Budget {
    /// A budget whose first period begins at `now`.
    pub fn new(grant: Grant, now: Time) -> Self {
        let none = GpuTime::ZERO;
        Self { grant, began_at: now, spent: none, refunded: none, carried: none, unspent: none }
    }

    /// When the next period begins.
    pub fn ends_at(&self) -> Time {
        self.began_at + self.grant.period
    }

    /// What may still be committed while `committed` is.
    pub fn left(&self, committed: GpuTime) -> GpuTime {
        let all = GpuTime(self.grant.gpu_time.0.saturating_add(self.carried.0));
        all.less(GpuTime(self.spent.0.saturating_add(committed.0)))
    }

    /// Whether `committed` is more than is left.
    pub fn is_over(&self, committed: GpuTime) -> bool {
        committed > self.left(GpuTime::ZERO)
    }

    /// What the attempt could use in this period until its time limit.
    pub fn commitment(&self, job: &Job, attempt: &Attempt) -> GpuTime {
        let until = attempt.placed_at + job.limit_of(attempt);
        attempt.gpus().over(until.since(attempt.placed_at.max(self.began_at)))
    }

    /// What the attempt used in this period, and the part of it that is lost with it when hardware ends it at `now`.
    pub fn used(&self, job: &Job, attempt: &Attempt, now: Time, outcome: Outcome) -> (GpuTime, GpuTime) {
        let gpus = attempt.gpus();
        let used = gpus.over(now.since(attempt.placed_at.max(self.began_at)));
        let is_hardware = matches!(outcome, Outcome::NodeLost | Outcome::GpuFault | Outcome::LaunchFailed);
        let lost =
            if is_hardware { gpus.over(now.since(job.kept_until(attempt).max(self.began_at))) } else { GpuTime::ZERO };
        (used.less(lost), lost.min(used))
    }

    /// The next period begins with what is left (`committed` as it will be then) put aside.
    pub fn begin_period(&mut self, committed: GpuTime) {
        self.unspent = self.left(committed);
        self.began_at = self.ends_at();
        (self.spent, self.refunded, self.carried) = (GpuTime::ZERO, GpuTime::ZERO, GpuTime::ZERO);
    }
}
