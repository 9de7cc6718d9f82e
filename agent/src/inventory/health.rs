//! The verdict on a GPU: ok, suspect or bad, with the reason and what is to be done.
//!
//! Comes in: one observation per sample, with the time. Goes out: the verdict. Bad comes at once and stays until the node
//! boots anew, or a person takes its record away after a reset; suspect passes when nothing was seen for a while, and
//! comes back as bad when it comes too often. Pure: reads no clock. What outlives the agent is a `Record`.

mod config;
pub(super) mod history;
pub mod xid;

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

pub use self::{
    config::HealthConfig,
    xid::{Overrides, XidAction},
};

/// NVML's reasons for slow clocks that are the hardware's own: slowdown, thermal slowdown, power brake.
const HARDWARE_SLOWDOWN: u64 = 0x8 | 0x40 | 0x80;

/// How good a GPU is, worse is greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// May be used.
    #[default]
    Ok,
    /// Something is odd; what runs may run on.
    Suspect,
    /// Must not be used.
    Bad,
}

impl Verdict {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Suspect => "suspect",
            Self::Bad => "bad",
        }
    }
}

/// A verdict with its reason; the reason of an ok GPU is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The verdict.
    pub verdict: Verdict,
    /// Why, for people.
    pub reason: String,
}

/// What one sample saw of one GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// NVML says that the GPU is lost, or refuses every call about it: its words.
    pub lost: Option<String>,
    /// XIDs since the last sample, by event or by the kernel's log.
    pub xids: Vec<u64>,
    /// Uncorrectable memory errors since the driver came up.
    pub uncorrected: u64,
    /// What the driver wants done (field 230); 0: nothing.
    pub recovery_action: u32,
    /// Rows wait to be remapped, or pages to be retired.
    pub repair_pending: bool,
    /// There are no rows left to remap to.
    pub repair_failed: bool,
    /// NVLink errors since the driver came up.
    pub nvlink_errors: u64,
    /// NVML's reasons for slow clocks.
    pub throttle_reasons: u64,
}

/// What is kept of a GPU over the lives of the agent.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Record {
    /// It is bad.
    pub bad: Option<BadRecord>,
    /// When it became suspect lately, in seconds since the Unix epoch.
    pub suspected: Vec<u64>,
}

/// Why a GPU is bad, and in which boot of its node that was found.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct BadRecord {
    /// The boot.
    pub boot_id: String,
    /// For people.
    pub reason: String,
}

/// Follows one GPU.
#[derive(Clone, Debug, Default)]
pub struct Judge {
    health: Health,
    /// Counters of the last sample; what was there before the first is no news.
    last: Option<(u64, u64)>,
    clean: u64,
    slow: u64,
    /// When it became suspect, in seconds since the Unix epoch: over all lives of the agent.
    suspected: VecDeque<u64>,
}

impl Judge {
    /// Goes on from what an earlier life of the agent has left, in the same boot of the node or in another one.
    pub fn recover(record: Record, boot_id: &str) -> Self {
        let bad = record.bad.filter(|bad| bad.boot_id == boot_id);
        let health = bad.map_or_else(Health::default, |bad| Health { verdict: Verdict::Bad, reason: bad.reason });
        Self { health, suspected: record.suspected.into(), ..Self::default() }
    }

    /// What is to outlive the agent.
    pub fn record(&self, boot_id: &str) -> Record {
        let (boot_id, reason) = (boot_id.to_owned(), self.health.reason.clone());
        let bad = (self.health.verdict == Verdict::Bad).then_some(BadRecord { boot_id, reason });
        Record { bad, suspected: self.suspected.iter().copied().collect() }
    }

    /// Takes one observation, made `now_s` seconds after the Unix epoch, and gives the verdict.
    pub fn judge(&mut self, config: &HealthConfig, now_s: u64, seen: &Observation) -> &Health {
        let sign = self.worst_sign(config, seen);
        self.last = Some((seen.uncorrected, seen.nvlink_errors));
        match sign {
            Some((verdict, reason)) => {
                self.clean = 0;
                let sign = self.escalate(config, now_s, verdict, reason);
                if sign.verdict >= self.health.verdict {
                    self.health = sign;
                }
            }
            None => self.clean += 1,
        }
        if self.health.verdict == Verdict::Suspect && self.clean >= config.samples(config.suspect_for_s) {
            self.health = Health::default();
        }
        &self.health
    }

    /// The worst of what this sample shows; the first of equals.
    fn worst_sign(&mut self, config: &HealthConfig, seen: &Observation) -> Option<(Verdict, String)> {
        let (uncorrected, nvlink) = self.last.unwrap_or((seen.uncorrected, seen.nvlink_errors));
        let grown = seen.uncorrected.saturating_sub(uncorrected);
        let linked = seen.nvlink_errors.saturating_sub(nvlink);
        self.slow = if seen.throttle_reasons & HARDWARE_SLOWDOWN == 0 { 0 } else { self.slow + 1 };
        let mut signs = Vec::new();
        if let Some(why) = &seen.lost {
            signs.push((Verdict::Bad, format!("lost: {why}")));
        }
        signs.extend(of_recovery_action(seen.recovery_action));
        if seen.repair_failed {
            signs.push((Verdict::Bad, "no memory rows are left to remap to: have the GPU inspected".to_owned()));
        }
        for xid in &seen.xids {
            let action = xid::action(&config.xids, *xid);
            signs.push((action.verdict(), format!("XID {xid}: {}", action.remedy())));
        }
        if seen.repair_pending {
            signs.push((Verdict::Suspect, "memory waits to be remapped: reset the GPU when it is idle".to_owned()));
        }
        if grown > 0 {
            signs.push((Verdict::Suspect, format!("{grown} uncorrectable memory errors")));
        }
        if linked >= config.nvlink_errors.max(1) {
            signs.push((Verdict::Suspect, format!("{linked} NVLink errors in a sample")));
        }
        if self.slow >= config.samples(config.slowdown_for_s) {
            signs
                .push((Verdict::Suspect, format!("slowed down by its hardware: reasons {:#x}", seen.throttle_reasons)));
        }
        let worst = signs.iter().map(|(verdict, _)| *verdict).max().filter(|verdict| *verdict > Verdict::Ok)?;
        signs.into_iter().find(|(verdict, _)| *verdict == worst)
    }

    /// A GPU that is suspect again and again is bad.
    fn escalate(&mut self, config: &HealthConfig, now_s: u64, verdict: Verdict, reason: String) -> Health {
        if verdict != Verdict::Suspect || self.health.verdict != Verdict::Ok || config.repeat_limit == 0 {
            return Health { verdict, reason };
        }
        self.suspected.push_back(now_s);
        // A clock that was set back must not make it an offender for ever.
        self.suspected.retain(|at| now_s.abs_diff(*at) < config.repeat_within_s);
        let times = self.suspected.len();
        if times >= config.repeat_limit as usize {
            let reason = format!("{reason}, and suspect {times} times within {} s", config.repeat_within_s);
            return Health { verdict: Verdict::Bad, reason };
        }
        Health { verdict, reason }
    }
}

/// NVML's recovery actions, by number.
fn of_recovery_action(action: u32) -> Option<(Verdict, String)> {
    let (verdict, words) = match action {
        0 => return None,
        1 => (Verdict::Bad, "reset the GPU"),
        2 => (Verdict::Bad, "restart the node"),
        3 => (Verdict::Suspect, "drain jobs that speak over NVLink"),
        4 => (Verdict::Bad, "drain and reset the GPU"),
        5 => (Verdict::Suspect, "restart the IMEX daemon"),
        6 => (Verdict::Bad, "reset the GPU's bus"),
        7 => (Verdict::Bad, "restart the system"),
        _ => (Verdict::Suspect, "an action that this version does not know"),
    };
    Some((verdict, format!("the driver asks: {words} (recovery action {action})")))
}

#[cfg(test)]
mod tests;
