//! What is due when.
//!
//! In: moments and what they are for. Out: the earliest. Launch deadlines all lie equally far ahead when they are set, so
//! that they come in order and need no tree; every placement sets one.

use std::collections::BTreeSet;

use crate::calendar::DatedKey;
use crate::ids::{AttemptNumber, BookingId, JobId, TenantIndex};
use crate::sorted::Sorted;
use crate::units::Time;

/// What a timer is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Timer {
    /// A gang must have started.
    Launch(JobId, AttemptNumber),
    /// An attempt must be over.
    TimeLimit(JobId, AttemptNumber),
    /// A job may be tried.
    NotBefore(JobId),
    /// An ended job leaves memory.
    Forget(JobId),
    /// The period of a tenant's budget is over.
    BudgetPeriod(TenantIndex),
    /// A dated quota is over: before another begins.
    QuotaEnd(DatedKey),
    /// A dated quota begins.
    QuotaBegin(DatedKey),
    /// A booking is over: before another begins on the same nodes.
    BookingEnd(BookingId),
    /// What would run into a booking must be told to go.
    BookingClear(BookingId),
    /// A booking begins.
    BookingBegin(BookingId),
}

impl Timer {
    /// The job that must have started, or be over.
    pub(crate) fn job_with_deadline(self) -> Option<JobId> {
        match self {
            Timer::Launch(job, _) | Timer::TimeLimit(job, _) => Some(job),
            Timer::NotBefore(_)
            | Timer::Forget(_)
            | Timer::BudgetPeriod(_)
            | Timer::QuotaEnd(_)
            | Timer::QuotaBegin(_)
            | Timer::BookingEnd(_)
            | Timer::BookingClear(_)
            | Timer::BookingBegin(_) => None,
        }
    }
}

/// All timers of a cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timers {
    launches: Sorted<(Time, Timer)>,
    limits: BTreeSet<(Time, Timer)>,
    others: BTreeSet<(Time, Timer)>,
}

impl Timers {
    /// The earliest; between equal ones in the order of `Timer`.
    pub(crate) fn first(&self) -> Option<(Time, Timer)> {
        self.launches.first().into_iter().chain(self.limits.first()).chain(self.others.first()).min().copied()
    }

    /// Whether anything is to start, or to end, by a deadline.
    pub(crate) fn has_deadlines(&self) -> bool {
        !self.launches.is_empty() || !self.limits.is_empty()
    }

    /// Sets one; it may be set already.
    pub(crate) fn insert(&mut self, time: Time, timer: Timer) {
        match timer {
            Timer::Launch(..) => self.launches.insert((time, timer)),
            Timer::TimeLimit(..) => self.limits.insert((time, timer)),
            Timer::NotBefore(_)
            | Timer::Forget(_)
            | Timer::BudgetPeriod(_)
            | Timer::QuotaEnd(_)
            | Timer::QuotaBegin(_)
            | Timer::BookingEnd(_)
            | Timer::BookingClear(_)
            | Timer::BookingBegin(_) => self.others.insert((time, timer)),
        };
    }

    /// Takes one away; it need not be set.
    pub(crate) fn remove(&mut self, time: Time, timer: Timer) {
        match timer {
            Timer::Launch(..) => self.launches.remove(&(time, timer)),
            Timer::TimeLimit(..) => self.limits.remove(&(time, timer)),
            Timer::NotBefore(_)
            | Timer::Forget(_)
            | Timer::BudgetPeriod(_)
            | Timer::QuotaEnd(_)
            | Timer::QuotaBegin(_)
            | Timer::BookingEnd(_)
            | Timer::BookingClear(_)
            | Timer::BookingBegin(_) => self.others.remove(&(time, timer)),
        };
    }

    /// Whether it is set.
    pub(crate) fn contains(&self, time: Time, timer: Timer) -> bool {
        let key = (time, timer);
        self.launches.contains(&key) || self.limits.contains(&key) || self.others.contains(&key)
    }

    /// The attempts that run, the first to be over by its limit first, each with that time.
    pub(crate) fn limits(&self) -> impl Iterator<Item = (Time, JobId)> {
        self.limits.iter().filter_map(|(time, timer)| match timer {
            Timer::TimeLimit(job, _) => Some((*time, *job)),
            Timer::Launch(..)
            | Timer::NotBefore(_)
            | Timer::Forget(_)
            | Timer::BudgetPeriod(_)
            | Timer::QuotaEnd(_)
            | Timer::QuotaBegin(_)
            | Timer::BookingEnd(_)
            | Timer::BookingClear(_)
            | Timer::BookingBegin(_) => None,
        })
    }

    /// The first date of the calendar that has come by `now`. O(timers that are due).
    pub(crate) fn dated_by(&self, now: Time) -> Option<(Time, Timer)> {
        let is_dated = |timer: &Timer| match timer {
            Timer::QuotaEnd(_) | Timer::QuotaBegin(_) => true,
            Timer::Launch(..)
            | Timer::TimeLimit(..)
            | Timer::NotBefore(_)
            | Timer::Forget(_)
            | Timer::BudgetPeriod(_)
            // What is to be gone by then may have gone long ago.
            | Timer::BookingEnd(_)
            | Timer::BookingClear(_)
            | Timer::BookingBegin(_) => false,
        };
        self.others.iter().take_while(|(time, _)| *time <= now).find(|(_, timer)| is_dated(timer)).copied()
    }

    /// All of them, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Time, Timer)> {
        self.launches.iter().chain(&self.limits).chain(&self.others).copied()
    }

    /// Makes room for so many launches.
    pub(crate) fn reserve_launches(&mut self, more: usize) {
        self.launches.reserve(more);
    }
}
