//! The verdict on a GPU: ok, suspect or bad, with the reason.
//!
//! Comes in: one observation per sample. Goes out: the verdict. Bad comes at once and stays; suspect passes when
//! nothing was seen for a while. Pure: counts samples, reads no clock.
//! The codes are those of NVIDIA's XID catalogue, by its immediate action.

/// Samples without any sign after which a suspect GPU is ok again.
pub const CLEAN_SAMPLES: u32 = 60;

/// XIDs after which a GPU must be reset, or its node restarted, before it is used again: RESET_GPU, RESTART_BM and the
/// workflows for double-bit errors and NVLink.
const FATAL_XIDS: &[u64] =
    &[46, 48, 62, 64, 74, 79, 95, 109, 110, 119, 120, 136, 140, 143, 151, 155, 156, 158, 167, 169, 171, 172];
/// XIDs that an application brings on itself (RESTART_APP) or that only inform (IGNORE).
const HARMLESS_XIDS: &[u64] = &[
    8, 11, 13, 14, 25, 31, 32, 37, 38, 39, 40, 41, 43, 44, 60, 63, 66, 67, 68, 69, 70, 71, 72, 75, 76, 77, 80, 82, 83,
    84, 85, 86, 88, 89, 92, 93, 94, 96, 97, 98, 99, 100, 101, 102, 103, 104, 105, 106, 107, 108, 121, 126, 127, 128,
    129, 130, 131, 132, 133, 134, 135, 137, 139, 141, 152, 153, 157, 160, 161,
];

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
    /// XIDs since the last sample.
    pub xids: Vec<u64>,
    /// Uncorrectable memory errors since the driver came up.
    pub uncorrected: u64,
}

/// Follows one GPU.
#[derive(Clone, Debug, Default)]
pub struct Judge {
    health: Health,
    /// Uncorrectable errors of the last sample; what was there before the first is no news.
    uncorrected: Option<u64>,
    clean: u32,
}

impl Judge {
    /// Takes one observation and gives the verdict.
    pub fn judge(&mut self, seen: &Observation) -> &Health {
        let grown = seen.uncorrected.saturating_sub(self.uncorrected.unwrap_or(seen.uncorrected));
        self.uncorrected = Some(seen.uncorrected);
        let xid = seen.xids.iter().map(|xid| (of_xid(*xid), *xid)).max();
        let sign = match (&seen.lost, xid) {
            (Some(why), _) => Some((Verdict::Bad, format!("lost: {why}"))),
            (None, Some((verdict, xid))) if verdict > Verdict::Ok => Some((verdict, format!("XID {xid}"))),
            _ if grown > 0 => Some((Verdict::Suspect, format!("{grown} uncorrectable memory errors"))),
            _ => None,
        };
        match sign {
            Some((verdict, reason)) => {
                self.clean = 0;
                if verdict >= self.health.verdict {
                    self.health = Health { verdict, reason };
                }
            }
            None => self.clean = self.clean.saturating_add(1),
        }
        if self.health.verdict == Verdict::Suspect && self.clean >= CLEAN_SAMPLES {
            self.health = Health::default();
        }
        &self.health
    }
}

/// The verdict on a GPU that has just shown this XID. Codes that the catalogue does not rate are suspect.
pub fn of_xid(xid: u64) -> Verdict {
    if FATAL_XIDS.contains(&xid) {
        Verdict::Bad
    } else if HARMLESS_XIDS.contains(&xid) {
        Verdict::Ok
    } else {
        Verdict::Suspect
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xid(code: u64) -> Observation {
        Observation { xids: vec![code], ..Observation::default() }
    }

    #[test]
    fn bad_stays_suspect_passes_and_an_applications_fault_is_none() {
        let mut judge = Judge::default();
        assert_eq!(judge.judge(&xid(31)).verdict, Verdict::Ok);
        assert_eq!(judge.judge(&xid(54)), &Health { verdict: Verdict::Suspect, reason: "XID 54".to_owned() });
        for _ in 1..CLEAN_SAMPLES {
            assert_eq!(judge.judge(&Observation::default()).verdict, Verdict::Suspect);
        }
        assert_eq!(judge.judge(&Observation::default()), &Health::default());
        assert_eq!(judge.judge(&Observation { xids: vec![13, 79, 54], ..Observation::default() }).reason, "XID 79");
        for _ in 0..2 * CLEAN_SAMPLES {
            assert_eq!(judge.judge(&Observation::default()).verdict, Verdict::Bad);
        }
        assert_eq!(judge.judge(&xid(54)).reason, "XID 79", "a lesser sign does not hide the reason");
    }

    #[test]
    fn only_new_memory_errors_count() {
        let mut judge = Judge::default();
        let errors = |uncorrected| Observation { uncorrected, ..Observation::default() };
        assert_eq!(judge.judge(&errors(7)).verdict, Verdict::Ok);
        assert_eq!(judge.judge(&errors(9)).reason, "2 uncorrectable memory errors");
    }
}
