//! What the core hears and what it asks for, as data.
//!
//! Comes in: nothing. Goes out: the types of inputs, actions, notes and views. This part must never hold logic.

use std::sync::Arc;

use crate::model::{
    Epoch, EpochMark, Exit, Launch, LeaseRecord, MemberId, Millis, Order, Report, StopRequest, Welcome,
};

/// What the core is told.
#[derive(Clone, PartialEq, Debug)]
pub enum Input {
    /// The scheduler's first word on a stream.
    Welcome(Welcome),
    /// An order.
    Order(Order),
    /// These reports are recorded.
    Acked(Vec<u64>),
    /// This epoch is on disk.
    EpochSynced(EpochMark),
    /// The epoch could not be written.
    EpochFailed(String),
    /// This version of a lease is on disk.
    LeaseSynced {
        /// Whose lease.
        id: MemberId,
        /// The version that `Action::WriteLease` carried.
        version: u64,
    },
    /// This version of a lease could not be written.
    LeaseFailed {
        /// Whose lease.
        id: MemberId,
        /// The version that `Action::WriteLease` carried.
        version: u64,
        /// Why.
        error: String,
        /// What was on disk before surely stands; false: the disk may hold either.
        untouched: bool,
    },
    /// What the member needs before its gang starts is here.
    Staged(MemberId),
    /// It cannot be had here: why.
    Unstaged(MemberId, String),
    /// The shim has started the process, or was found to have.
    Started {
        /// Whose process.
        id: MemberId,
        /// Its process id.
        pid: u32,
    },
    /// The job says how far it has saved its work.
    Checkpoint {
        /// Whose.
        id: MemberId,
        /// In its own count.
        step: u64,
        /// When it said so.
        at: Millis,
    },
    /// The answer to `Action::Adopt` without a seal: no shim has begun with it. A sealed adoption says `Gone` instead.
    NotStarted(MemberId),
    /// Process group and cgroup are gone, or it could not be started at all.
    Gone {
        /// Whose process.
        id: MemberId,
        /// How it ended.
        exit: Exit,
    },
    /// Time passes.
    Tick,
}

/// What the core wants done, in this order.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Sync the mark to disk, then say `EpochSynced` or `EpochFailed`.
    PersistEpoch(EpochMark),
    /// Sync the lease to disk, then say `LeaseSynced` or `LeaseFailed` with this version.
    WriteLease {
        /// The lease.
        record: LeaseRecord,
        /// Counts the writes of this lease.
        version: u64,
    },
    /// Bring here what the member needs before its gang starts, then say `Staged` or `Unstaged`. May be asked again.
    Stage {
        /// Whom.
        id: MemberId,
        /// What.
        launch: Arc<Launch>,
    },
    /// Start the member under a shim, then say `Started` and later `Gone`. Asked again for a member that has been
    /// started already, the shim must notice and start nothing.
    StartShim {
        /// Whom.
        id: MemberId,
        /// What.
        launch: Arc<Launch>,
    },
    /// Find out what became of a member of an earlier life of this agent; say `Started`, `Gone` or `NotStarted`.
    Adopt {
        /// Whom.
        id: MemberId,
        /// The node has not been restarted since: its processes may live.
        same_boot: bool,
        /// When it was never started, make sure that no shim can start it any more, and say `Gone`.
        seal: bool,
    },
    /// Ask the shim to end the member.
    Stop {
        /// Whom.
        id: MemberId,
        /// How.
        request: StopRequest,
    },
    /// Send a report, if there is a session. Unacknowledged ones come again.
    Send(Report),
    /// Remove the lease and what lies beside it.
    RemoveLease(MemberId),
    /// End the session and connect again.
    HangUp(String),
    /// Tell a human.
    Note(Note),
}

/// Things worth a line in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Note {
    /// A leader of the past.
    EpochRefused {
        /// Its epoch.
        got: Epoch,
        /// The highest obeyed.
        highest: Epoch,
    },
    /// An order that was obeyed before, or comes after a later one.
    OrderRepeated(MemberId),
    /// The scheduler does not know this lease; it is left alone.
    Quarantined(MemberId),
    /// The node holds `MAX_LEASES` leases; the order is not obeyed.
    TooManyLeases(MemberId),
    /// A lease could not be written.
    WriteFailed(MemberId, String),
}

/// One lease as the scheduler is told about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseView {
    /// Whose.
    pub id: MemberId,
    /// The highest order obeyed for it.
    pub sequence: u32,
    /// How far it is.
    pub phase: ViewPhase,
    /// Its GPUs, by index on this node.
    pub gpus: Vec<u32>,
    /// The scheduler's last welcome did not name it.
    pub quarantined: bool,
}

/// How far a lease is, as the scheduler is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ViewPhase {
    /// What it needs is being brought here: not ready for the barrier.
    Staging,
    /// Waits at the barrier.
    Prepared,
    /// Runs or is about to.
    Running,
    /// Being stopped.
    Stopping,
    /// Gone; the end waits to be acknowledged.
    Gone(Exit),
}
