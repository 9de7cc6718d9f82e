//! History: what outlives the state. Finished jobs, attempts, evictions, usage by day, changes of quotas, the audit.
//!
//! In: durable turns, each event with the state right after it. Out: rows of an SQLite file beside the journal, and
//! answers from it. It is filled by the follower (and by the warm core of a standby), never by the turn: a history that
//! stands still, is lost or cannot be written stops nothing. What is in it follows from the journal alone, but for the
//! refusals, which are counted here. It goes on from where it ends, however it ended: rows and position are one
//! transaction, and no snapshot is handed to the journal before the history holds everything up to it.
//!
//! Reading order: `store` (the tables), `rows`, `fold`, `refusals`, `catch_up`, `rewind`, `read`.

mod catch_up;
mod fold;
mod read;
mod refusals;
mod rewind;
mod rows;
mod store;

pub(crate) use catch_up::joins;
pub use catch_up::{CatchUpError, catch_up};
pub use fold::Historian;
pub use read::{AuditFilter, Filter, HistoryReader, Page, UsageFilter};
pub use refusals::{Refusal, Refusals};
pub use store::{HistoryError, HistoryStore};

use dure_core::units::Span;

/// A day in milliseconds: usage is kept per day of UTC.
pub const DAY_MS: u64 = 86_400_000;

/// How long what is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retention {
    /// Jobs, attempts, evictions, audit.
    pub keep: Span,
    /// Usage by day and changes of quotas, which are few.
    pub keep_usage: Span,
}

impl Retention {
    /// A little more than a year, and ten years.
    pub fn standard() -> Self {
        Self { keep: Span(400 * DAY_MS), keep_usage: Span(3_653 * DAY_MS) }
    }
}

#[cfg(test)]
mod tests;
