//! How long what is kept, and how much one caller may ask.

use dure_core::units::Span;
use serde::Deserialize;

use super::{Config, ConfigError, bad, span};
use crate::auth::bucket::Rate;
use crate::history::{DAY_MS, Retention};
use crate::journal;

/// A GiB in bytes.
const GIB: u64 = 1 << 30;

/// How long the history is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HistoryConfig {
    /// Jobs, attempts, evictions, audit.
    #[serde(deserialize_with = "span::required")]
    pub keep: Span,
    /// Usage by day and changes of quotas.
    #[serde(deserialize_with = "span::required")]
    pub keep_usage: Span,
}

impl Default for HistoryConfig {
    fn default() -> Self {
        let Retention { keep, keep_usage } = Retention::standard();
        Self { keep, keep_usage }
    }
}

/// How much of the journal is kept once snapshots have replaced it: what a what-if or a rebuilt history can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JournalConfig {
    /// So long.
    #[serde(deserialize_with = "span::required")]
    pub keep: Span,
    /// But no more than so many GiB, where that is less.
    pub keep_gib: u64,
    /// While fewer MiB are left on the disk nothing new is taken; 0: until it is full.
    pub reserve_mib: u64,
}

impl Default for JournalConfig {
    fn default() -> Self {
        Self { keep: Span(90 * DAY_MS), keep_gib: 64, reserve_mib: 256 }
    }
}

/// How much one caller may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Calls of one user in a second; operators and auditors have ten times as many, agents are not counted. 0: no limit.
    pub calls_per_second: u32,
    /// Calls that may come at once after a pause.
    pub burst: u32,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self { calls_per_second: 500, burst: 2_000 }
    }
}

impl Config {
    /// How long the history is kept.
    pub fn retention(&self) -> Retention {
        Retention { keep: self.history.keep, keep_usage: self.history.keep_usage }
    }

    /// How much of the journal is kept.
    pub fn journal_kept(&self) -> journal::Kept {
        journal::Kept { span_ms: self.journal.keep.0, bytes: self.journal.keep_gib.saturating_mul(GIB) }
    }

    /// How much one caller may ask; none where there is no limit.
    pub fn rate(&self) -> Option<Rate> {
        let LimitsConfig { calls_per_second, burst } = self.limits;
        (calls_per_second > 0).then_some(Rate { per_second: calls_per_second, burst })
    }

    pub(super) fn check_kept(&self) -> Result<(), ConfigError> {
        for (field, span) in [
            ("history.keep", self.history.keep),
            ("history.keep_usage", self.history.keep_usage),
            ("journal.keep", self.journal.keep),
        ] {
            if span.0 < DAY_MS {
                return Err(bad(field, span.0, "use at least a day, as \"1d\""));
            }
        }
        if self.journal.keep_gib == 0 {
            return Err(bad("journal.keep_gib", 0, "use at least 1"));
        }
        if self.limits.calls_per_second > 0 && self.limits.burst == 0 {
            return Err(bad("limits.burst", 0, "use at least 1, or calls_per_second = 0 for no limit"));
        }
        Ok(())
    }
}
