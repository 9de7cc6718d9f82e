//! Where leases lie: on disk for a node that runs processes, in memory for a simulated one.
//!
//! Comes in: records and marks of the pure core. Goes out: the same, after a restart. A write that has returned is
//! durable: file and folder are synced, and a reader sees the old record or the new one, never half of one.
//! This part must never decide what a record means, and never drop one that it cannot read.

mod disk;
mod memory;
mod record;

use std::{io, path::PathBuf};

pub use self::{disk::DiskStore, memory::MemoryStore};
use crate::model::{EpochMark, LeaseRecord, MemberId};

/// What a store holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stored {
    /// The highest epoch obeyed.
    pub mark: EpochMark,
    /// All leases, in the order of their members.
    pub leases: Vec<LeaseRecord>,
}

/// Why a store does not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk refused.
    #[error("{path}: {source}: free space or fix the file system, then start the agent again")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk took it and could not say that it is durable: after a restart it may be there or not.
    #[error("{path}: {source}: what is on disk now is not known; check the file system")]
    InDoubt {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is there and cannot be understood. Dropping it could lose a running process.
    #[error("{path} is damaged ({why}): see what still runs on this node, then move the file away")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl StoreError {
    /// What was there before surely stands.
    pub fn is_untouched(&self) -> bool {
        !matches!(self, Self::InDoubt { .. })
    }
}

/// Keeps the leases and the epoch of one node.
pub trait LeaseStore: Send + Sync + 'static {
    /// Everything, at the start of the agent.
    fn load(&self) -> Result<Stored, StoreError>;
    /// Makes the mark durable.
    fn write_mark(&self, mark: &EpochMark) -> Result<(), StoreError>;
    /// Makes the lease durable, in place of an earlier one of the same member.
    fn write(&self, record: &LeaseRecord) -> Result<(), StoreError>;
    /// Removes the lease and the member's folder.
    fn remove(&self, id: MemberId) -> Result<(), StoreError>;
    /// Never waits for anything: may be called from an asynchronous task.
    fn is_immediate(&self) -> bool;
}
