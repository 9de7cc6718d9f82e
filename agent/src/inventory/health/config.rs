//! The `[health]` section of `agent.toml`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::xid::Overrides;

/// How verdicts on GPUs are found.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct HealthConfig {
    /// Between two samples, in milliseconds.
    pub sample_ms: u64,
    /// Seconds without an answer of NVML after which the GPUs are suspect: it hangs.
    pub hang_s: u64,
    /// Seconds without an answer after which the GPU that NVML was asked about is bad; all are where it was none.
    pub hang_bad_s: u64,
    /// Seconds without any sign after which a suspect GPU is ok again.
    pub suspect_for_s: u64,
    /// A GPU that becomes suspect so often within `repeat_within_s` is bad: somebody has to look at it. 0: never.
    pub repeat_limit: u32,
    /// See `repeat_limit`.
    pub repeat_within_s: u64,
    /// Seconds of slowdown by the hardware on end after which a GPU is suspect.
    pub slowdown_for_s: u64,
    /// New NVLink errors in one sample from which on a GPU is suspect.
    pub nvlink_errors: u64,
    /// The kernel's log, where some faults are told first or alone; empty: not read.
    pub kernel_log: PathBuf,
    /// Another action than the catalogue's, by XID: `79 = "reset-gpu"`.
    pub xids: Overrides,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            sample_ms: 1_000,
            hang_s: 10,
            hang_bad_s: 120,
            suspect_for_s: 60,
            repeat_limit: 3,
            repeat_within_s: 24 * 3_600,
            slowdown_for_s: 300,
            nvlink_errors: 100,
            kernel_log: PathBuf::from("/dev/kmsg"),
            xids: Overrides::new(),
        }
    }
}

impl HealthConfig {
    /// A span in samples, at least one.
    pub(super) fn samples(&self, seconds: u64) -> u64 {
        (seconds.saturating_mul(1_000) / self.sample_ms.max(1)).max(1)
    }
}
