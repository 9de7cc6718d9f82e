//! One lease: how far its member is, and what of it is on disk.
//!
//! Comes in: a record from the disk, or the first order for a member. Goes out: records and views.
//! This part must never decide; `orders.rs` moves the phases.

use std::sync::Arc;

use super::orders::is_contained;
use super::{LeaseView, ViewPhase};
use crate::model::{Exit, JournalSeq, Launch, LeaseRecord, MemberId, Recorded, StopRequest};

/// How far a member is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Waits at the barrier; nothing was started.
    Prepared,
    /// Shall run. The shim is asked once the lease says so on disk.
    Starting {
        /// The shim has been asked, in this life of the agent or perhaps in an earlier one.
        asked: bool,
    },
    /// Runs.
    Running,
    /// Shall end; the shim had been asked to start it.
    Stopping(StopRequest),
    /// Gone.
    Gone(Exit),
}

/// One lease in memory.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Lease {
    pub(super) id: MemberId,
    pub(super) sequence: u32,
    pub(super) seq: JournalSeq,
    pub(super) launch: Option<Arc<Launch>>,
    pub(super) phase: Phase,
    /// Counts the writes; what was said about an older one is stale.
    pub(super) version: u64,
    /// Some version of it is, or may be, on disk: a restart would find it.
    pub(super) on_disk: bool,
    /// The disk has refused the newest version, and it must get there before anybody is told.
    pub(super) owed: bool,
    /// The scheduler's last welcome did not know it.
    pub(super) quarantined: bool,
    /// The scheduler has recorded its end already: it needs no report.
    pub(super) settled: bool,
    /// What it needs was brought here.
    pub(super) staged: bool,
}

impl Lease {
    pub(super) fn new(id: MemberId, sequence: u32, seq: JournalSeq, launch: Option<Arc<Launch>>, phase: Phase) -> Self {
        let (version, on_disk, owed, quarantined, settled, staged) = (0, false, false, false, false, false);
        Self { id, sequence, seq, launch, phase, version, on_disk, owed, quarantined, settled, staged }
    }

    pub(super) fn from_record(record: &LeaseRecord) -> Self {
        let phase = match &record.state {
            Recorded::Prepared => Phase::Prepared,
            Recorded::Started => Phase::Starting { asked: true },
            Recorded::Stopping(request) => Phase::Stopping(request.clone()),
            Recorded::Gone(exit) => Phase::Gone(exit.clone()),
        };
        let lease = Self::new(record.id, record.sequence, record.seq, record.launch.clone(), phase);
        Self { on_disk: true, ..lease }
    }

    pub(super) fn record(&self, id: MemberId, boot_id: &str) -> LeaseRecord {
        let state = match &self.phase {
            Phase::Prepared => Recorded::Prepared,
            Phase::Starting { .. } | Phase::Running => Recorded::Started,
            Phase::Stopping(request) => Recorded::Stopping(request.clone()),
            Phase::Gone(exit) => Recorded::Gone(exit.clone()),
        };
        // The end needs no payload any more: scripts and environments do not stay on disk longer than they must.
        let launch = if matches!(state, Recorded::Gone(_)) { None } else { self.launch.clone() };
        LeaseRecord { id, sequence: self.sequence, seq: self.seq, boot_id: boot_id.to_owned(), launch, state }
    }

    /// True when `version` is the newest one: the disk and the memory agree.
    pub(super) fn sync(&mut self, version: u64) -> bool {
        self.on_disk = true;
        self.version == version
    }

    /// True when `version` is the newest one: memory is ahead of the disk.
    pub(super) fn fail(&mut self, version: u64, untouched: bool) -> bool {
        self.on_disk |= !untouched;
        self.version == version
    }

    pub(super) fn gpus(&self) -> &[u32] {
        self.launch.as_ref().map_or(&[], |launch| &launch.gpus)
    }

    /// Its GPUs are taken.
    pub(super) fn holds(&self) -> bool {
        !matches!(self.phase, Phase::Gone(_))
    }

    pub(super) fn runs(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Stopping(_))
    }

    /// What it needs is being brought here: it is not ready for the barrier.
    fn is_staging(&self) -> bool {
        !self.staged && self.launch.as_ref().is_some_and(|launch| is_contained(launch))
    }

    pub(super) fn view(&self) -> LeaseView {
        let phase = match &self.phase {
            Phase::Prepared if self.is_staging() => ViewPhase::Staging,
            Phase::Prepared => ViewPhase::Prepared,
            Phase::Starting { .. } | Phase::Running => ViewPhase::Running,
            Phase::Stopping(_) => ViewPhase::Stopping,
            Phase::Gone(exit) => ViewPhase::Gone(exit.clone()),
        };
        LeaseView {
            id: self.id,
            sequence: self.sequence,
            phase,
            gpus: self.gpus().to_vec(),
            quarantined: self.quarantined,
        }
    }
}
