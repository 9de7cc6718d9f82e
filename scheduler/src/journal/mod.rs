//! The journal: an ordered, durable, checked log of batches, and the blobs and snapshots that lie beside it.
//!
//! In: batches of encoded events (one batch per turn), blobs, snapshots. Out: the durable head, and on recovery the
//! newest sound snapshot and every batch after it. The journal never looks inside a payload, never answers before
//! the disk has the batch, never writes again after a failed write, and never serves a damaged batch in silence: what
//! cannot be proven whole is `JournalError::Damaged`, with the positions and the remedy.
//!
//! Read in this order: this file (words, limits, the traits), `chain` (what is proven), `anchor`, `schema`, `snapshot`,
//! `reader`, `verify` (what is checked before leading), `embedded` (SQLite), `replicated` (etcd), `committer` (groups),
//! `writer` (its thread), `backup`, `transfer`, `memory`.

pub mod anchor;
pub mod backup;
pub mod chain;
pub mod committer;
pub mod embedded;
mod error;
pub mod memory;
pub mod reader;
pub mod replicated;
mod retention;
mod schema;
pub mod snapshot;
pub mod transfer;
mod verify;
pub mod writer;

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

pub use backup::{RestoreOptions, RestoreReport, restore};
pub use chain::Hash;
pub use committer::{Committer, Durable, Report, Write, WriterLimits};
pub use embedded::EmbeddedEngine;
pub use error::{Finding, JournalError};
pub use memory::{MemoryEngine, MemoryStore};
pub use reader::{JournalReader, VerifyReport};
pub use replicated::{ReplicatedEngine, ReplicatedReader};
pub use snapshot::{FoundSnapshot, Snapshot, SnapshotInfo};
pub use writer::{JournalWriter, WriterStats};

/// Largest payload of one batch, in bytes: SQLite's own bound is far higher, memory during recovery is not.
pub const MAX_BATCH_BYTES: usize = 64 << 20;
/// Largest blob, in bytes. What a user may send is bounded lower, at the edge.
pub const MAX_BLOB_BYTES: usize = 16 << 20;
/// Largest snapshot, in bytes.
pub const MAX_SNAPSHOT_BYTES: usize = 2 << 30;
/// Bytes of one snapshot chunk: what one small transaction between two batches writes.
pub const SNAPSHOT_CHUNK_BYTES: usize = 512 << 10;
/// How many finished snapshots are kept: the newest, and one to fall back to.
pub const SNAPSHOTS_KEPT: usize = 2;
/// Highest position and epoch: SQLite's integers are signed.
pub const MAX_SEQ: u64 = i64::MAX as u64;

/// The events of one turn, as one row of the journal.
///
/// Positions count events from 1 without gaps: the batch covers `first_seq ..= first_seq + count - 1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Position of the first event.
    pub first_seq: u64,
    /// How many events the payload holds; at least 1.
    pub count: u32,
    /// The epoch of the leader that decided these events.
    pub epoch: u64,
    /// The encoded events; opaque here. At most [`MAX_BATCH_BYTES`].
    pub payload: Vec<u8>,
}

impl Batch {
    /// Position of the last event. Meaningful only for a batch with `count >= 1`, which every engine demands.
    pub fn last_seq(&self) -> u64 {
        self.first_seq.saturating_add(u64::from(self.count)).saturating_sub(1)
    }
}

/// The name of a blob: the first 16 bytes of the SHA-256 of its content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobId(pub [u8; 16]);

impl BlobId {
    /// The id that content has.
    pub fn of(bytes: &[u8]) -> Self {
        let digest = Sha256::digest(bytes);
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        BlobId(id)
    }
}

impl std::fmt::Debug for BlobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", hex::encode(self.0))
    }
}

impl std::fmt::Display for BlobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", hex::encode(self.0))
    }
}

/// Content that events name by its id (scripts, environments). Written once, in the transaction of the batch that
/// first names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    id: BlobId,
    bytes: Vec<u8>,
}

impl Blob {
    /// Wraps content and computes its id.
    ///
    /// # Errors
    /// [`JournalError::TooLarge`] above [`MAX_BLOB_BYTES`].
    pub fn new(bytes: Vec<u8>) -> Result<Self, JournalError> {
        if bytes.len() > MAX_BLOB_BYTES {
            return Err(JournalError::TooLarge { what: "blob", bytes: bytes.len(), limit: MAX_BLOB_BYTES });
        }
        Ok(Blob { id: BlobId::of(&bytes), bytes })
    }

    /// The id that events carry.
    pub fn id(&self) -> BlobId {
        self.id
    }

    /// The content.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Which store this is; made once, kept by backups and restores. Two stores never share a chain.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoreId(pub [u8; 16]);

impl std::fmt::Debug for StoreId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", hex::encode(self.0))
    }
}

/// The end of the durable journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Position of the last event; 0 when the journal is empty.
    pub seq: u64,
    /// Chain hash of the last batch (of the store id when empty).
    pub hash: Hash,
    /// Epoch of the last batch; 0 when empty.
    pub epoch: u64,
}

/// How much one read may return. At least one batch is returned when there is one, however large.
#[derive(Debug, Clone, Copy)]
pub struct ReadLimit {
    /// Most batches.
    pub batches: usize,
    /// Most payload bytes.
    pub bytes: usize,
}

impl Default for ReadLimit {
    fn default() -> Self {
        ReadLimit { batches: 4096, bytes: 8 << 20 }
    }
}

/// How much is kept behind the snapshots; whichever is less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// What is younger than this, in milliseconds, by the times of the snapshots.
    pub span_ms: u64,
    /// So many bytes.
    pub bytes: u64,
}

impl Kept {
    /// Everything, for ever.
    pub const ALL: Kept = Kept { span_ms: u64::MAX, bytes: u64::MAX };
}

/// What must hold before an engine may lead.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenOptions {
    /// Highest position that any agent is known to have obeyed; a journal that ends before it has lost something.
    pub witness: Option<u64>,
}

/// An engine that holds the leadership over one journal. It is opened for leading; dropping or closing it gives the
/// leadership up. Reading beside a leader is [`JournalReader`]'s part.
pub trait Engine: Send {
    /// Which store this is.
    fn store_id(&self) -> StoreId;

    /// The epoch of this leadership: higher than that of every earlier one, and durable since before it was returned.
    fn epoch(&self) -> u64;

    /// The durable end of the journal.
    fn head(&self) -> Head;

    /// Appends batches and blobs as one transaction and returns the new head once it is durable.
    ///
    /// # Errors
    /// Any error poisons the engine: the outcome may be unknown, so every later call that writes answers
    /// [`JournalError::Poisoned`]. [`JournalError::WrongPosition`] when the first batch does not start at head + 1 or a
    /// later one does not follow; [`JournalError::WrongEpoch`] when a batch is of another epoch.
    fn append(&mut self, batches: &[Batch], blobs: &[Blob]) -> Result<Head, JournalError>;

    /// Batches from the one that contains `from_seq` on, oldest first; empty past the head.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] when a checksum fails or a batch is missing in between.
    fn read(&self, from_seq: u64, limit: ReadLimit) -> Result<Vec<Batch>, JournalError>;

    /// The content of a blob, `None` when there is none of that id.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] when the content does not hash to the id.
    fn read_blob(&self, id: BlobId) -> Result<Option<Vec<u8>>, JournalError>;

    /// The newest snapshot whose checksum holds, and which newer ones had to be passed over.
    ///
    /// # Errors
    /// Those of reading; a damaged snapshot is no error, it is listed.
    fn newest_snapshot(&self) -> Result<FoundSnapshot, JournalError>;

    /// Writes one chunk of a snapshot that is not visible yet. Chunk 0 starts over whatever was there for `seq`.
    ///
    /// # Errors
    /// As [`Engine::append`]; poisons.
    fn put_snapshot_chunk(&mut self, seq: u64, index: u32, bytes: &[u8]) -> Result<(), JournalError>;

    /// Makes a snapshot visible whose chunks have all been put, and hides all but the newest [`SNAPSHOTS_KEPT`] and those
    /// that the past needs (see [`Kept`]).
    ///
    /// # Errors
    /// [`JournalError::BadSnapshot`] (does not poison) when `seq` is not the end of a durable batch or the snapshot is
    /// not newer than the newest; else as [`Engine::append`].
    fn publish_snapshot(&mut self, info: &SnapshotInfo) -> Result<(), JournalError>;

    /// The state at the visible snapshot `seq` names these blobs and no others: further steps of [`Engine::maintain`] remove
    /// those that no later event names either.
    fn release_blobs(&mut self, seq: u64, named: BTreeSet<BlobId>);

    /// One bounded step of housekeeping between commits: removes one hidden chunk (never of the snapshot `unfinished`),
    /// some batches that are kept no longer, some blobs that nobody names,
    /// moves the log into the main file, syncs the anchor when that is due, checks that the leadership still holds.
    /// Returns whether more can be done at once.
    ///
    /// # Errors
    /// [`JournalError::LeadershipLost`], or as [`Engine::append`]; poisons.
    fn maintain(&mut self, unfinished: Option<u64>) -> Result<bool, JournalError>;

    /// Epochs below this one belong to what a restore gave up, knowingly; 0 where nothing was ever restored.
    fn restore_floor(&self) -> u64;

    /// Syncs everything, gives the leadership up and returns the last head.
    ///
    /// # Errors
    /// [`JournalError::Poisoned`] when an earlier write failed; else those of syncing.
    fn close(self: Box<Self>) -> Result<Head, JournalError>;

    /// Writes a whole snapshot at once. The writer thread does the same in steps, between batches.
    ///
    /// # Errors
    /// Those of [`Engine::put_snapshot_chunk`] and [`Engine::publish_snapshot`].
    fn put_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), JournalError> {
        for (index, chunk) in snapshot.chunks() {
            self.put_snapshot_chunk(snapshot.seq, index, chunk)?;
        }
        self.publish_snapshot(&snapshot.info())
    }
}

/// A view of a journal beside whoever leads on it: it sees only what is durable and changes nothing.
pub trait Reader: Send {
    /// Which store this is.
    fn store_id(&self) -> StoreId;

    /// The durable head at this moment.
    ///
    /// # Errors
    /// Those of reading.
    fn head(&self) -> Result<Head, JournalError>;

    /// As [`Engine::read`]. Positions that were given up for a snapshot are [`JournalError::Truncated`].
    ///
    /// # Errors
    /// As [`Engine::read`].
    fn read(&self, from_seq: u64, limit: ReadLimit) -> Result<Vec<Batch>, JournalError>;

    /// As [`Engine::read_blob`].
    ///
    /// # Errors
    /// As [`Engine::read_blob`].
    fn read_blob(&self, id: BlobId) -> Result<Option<Vec<u8>>, JournalError>;

    /// As [`Engine::newest_snapshot`].
    ///
    /// # Errors
    /// As [`Engine::newest_snapshot`].
    fn newest_snapshot(&self) -> Result<FoundSnapshot, JournalError> {
        self.snapshot_up_to(MAX_SEQ)
    }

    /// As [`Engine::newest_snapshot`], among those that stand at `seq` or before it.
    ///
    /// # Errors
    /// As [`Engine::newest_snapshot`].
    fn snapshot_up_to(&self, seq: u64) -> Result<FoundSnapshot, JournalError>;

    /// The state before the first batch that is kept; none where that is the first batch of all.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] when the snapshot there does not hold.
    fn beginning(&self) -> Result<Option<Snapshot>, JournalError>;

    /// Another reader of the same journal, for another thread.
    ///
    /// # Errors
    /// Those of opening.
    fn reopen(&self) -> Result<Box<dyn Reader>, JournalError>;
}

/// Refuses a journal that ends before a position which an agent has obeyed; for witnesses that arrive after opening.
///
/// # Errors
/// [`JournalError::Damaged`] naming the missing positions: step down, do not lead on this journal.
pub fn check_witness(dir: &std::path::Path, head: &Head, witness: u64) -> Result<(), JournalError> {
    match Finding::behind_witness(head.seq, witness) {
        None => Ok(()),
        Some(finding) => Err(JournalError::damaged(dir, vec![finding])),
    }
}

/// Checks that batches may follow `head` under `epoch`; the one rule of every engine.
fn check_append(head: &Head, epoch: u64, batches: &[Batch]) -> Result<(), JournalError> {
    let mut next = head.seq + 1;
    for batch in batches {
        if batch.count == 0 {
            return Err(JournalError::EmptyBatch { first_seq: batch.first_seq });
        }
        if batch.first_seq != next {
            return Err(JournalError::WrongPosition { expected: next, got: batch.first_seq });
        }
        if batch.epoch != epoch {
            return Err(JournalError::WrongEpoch { held: epoch, got: batch.epoch });
        }
        if batch.payload.len() > MAX_BATCH_BYTES {
            let (bytes, limit) = (batch.payload.len(), MAX_BATCH_BYTES);
            return Err(JournalError::TooLarge { what: "batch", bytes, limit });
        }
        if batch.last_seq() >= MAX_SEQ {
            return Err(JournalError::WrongPosition { expected: next, got: batch.last_seq() });
        }
        next = batch.last_seq() + 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
