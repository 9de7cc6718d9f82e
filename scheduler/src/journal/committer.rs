//! Turns waiting batches into as few commits as possible.
//!
//! In: batches with their blobs, and snapshots. Out: reports, in order. What waits when a commit begins goes into it, up to
//! the limits of a group. Snapshots are written chunk by chunk between commits and never hold one up for longer than a
//! chunk. It never retries, never reorders and never reports a batch before the engine has it durable. Synchronous: the
//! writer's thread pumps it, and so does the simulator.

use std::collections::{BTreeSet, VecDeque};

use super::{Batch, Blob, BlobId, Engine, Head, JournalError, SNAPSHOT_CHUNK_BYTES, Snapshot};

/// Bounds of the writer.
#[derive(Debug, Clone, Copy)]
pub struct WriterLimits {
    /// Most jobs waiting in the queue; one more blocks or is refused.
    pub queue: usize,
    /// Most batches in one commit.
    pub group_batches: usize,
    /// Payload and blob bytes after which a commit takes no further batch.
    pub group_bytes: usize,
}

impl Default for WriterLimits {
    fn default() -> Self {
        WriterLimits { queue: 256, group_batches: 256, group_bytes: 8 << 20 }
    }
}

/// What one commit made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durable {
    /// The new head: every position up to `head.seq` is on disk.
    pub head: Head,
    /// Batches in this commit.
    pub batches: u32,
    /// Events in this commit.
    pub events: u64,
    /// Payload and blob bytes in this commit.
    pub bytes: u64,
    /// How long the commit took, sync included, in microseconds.
    pub commit_micros: u64,
}

/// What the thread tells, in the order of the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// A commit has ended.
    Durable(Durable),
    /// A snapshot is visible now.
    SnapshotDone {
        /// Its position.
        seq: u64,
    },
    /// A snapshot was not taken (a newer one came first, or its place does not fit); nothing is lost.
    SnapshotRefused {
        /// Its position.
        seq: u64,
        /// Why.
        why: String,
    },
    /// The last report: a write failed. Whatever was not reported durable may or may not be on disk.
    Failed(JournalError),
}

/// What is to be written.
#[derive(Debug)]
pub enum Write {
    /// The events of a turn and the blobs that they name.
    Append(Batch, Vec<Blob>),
    /// The whole state at a position.
    Snapshot(Snapshot),
    /// The blobs that the state of the snapshot at this position names, handed over right after it.
    Naming(u64, BTreeSet<BlobId>),
}

/// Writes through an engine, in groups.
pub struct Committer {
    engine: Box<dyn Engine>,
    limits: WriterLimits,
    batches: VecDeque<(Batch, Vec<Blob>)>,
    bytes: usize,
    more_housekeeping: bool,
    writing: Option<Writing>,
    waiting: Option<Snapshot>,
    naming: Option<(u64, BTreeSet<BlobId>)>,
}

struct Writing {
    snapshot: Snapshot,
    next: u32,
}

impl Committer {
    /// Nothing waits yet.
    pub fn new(engine: Box<dyn Engine>, limits: WriterLimits) -> Self {
        let (batches, bytes, more_housekeeping) = (VecDeque::new(), 0, true);
        Self { engine, limits, batches, bytes, more_housekeeping, writing: None, waiting: None, naming: None }
    }

    /// The durable end of the journal.
    pub fn head(&self) -> Head {
        self.engine.head()
    }

    /// Something is to be done even if nothing more comes.
    pub fn has_work(&self) -> bool {
        self.has_batches() || self.more_housekeeping || self.writing.is_some() || self.waiting.is_some()
    }

    /// A commit has something to write.
    pub fn has_batches(&self) -> bool {
        !self.batches.is_empty()
    }

    /// The next commit takes no further batch.
    pub fn is_full(&self) -> bool {
        self.batches.len() >= self.limits.group_batches || self.bytes >= self.limits.group_bytes
    }

    /// Lets a write wait. While one snapshot is written one more waits: a newer one takes its place, and the report says so.
    pub fn push(&mut self, write: Write) -> Option<Report> {
        match write {
            Write::Append(batch, blobs) => {
                self.bytes += batch.payload.len() + blobs.iter().map(|blob| blob.bytes().len()).sum::<usize>();
                self.batches.push_back((batch, blobs));
                None
            }
            Write::Naming(seq, named) => {
                self.naming = Some((seq, named));
                None
            }
            Write::Snapshot(snapshot) => self.waiting.replace(snapshot).map(|older| {
                let why = "a newer one came before its turn".to_owned();
                Report::SnapshotRefused { seq: older.seq, why }
            }),
        }
    }

    /// Writes all that waits, as one commit; what became durable, if anything waited. Its `commit_micros` are for the
    /// caller to fill in: nothing in here reads a clock.
    ///
    /// # Errors
    /// As [`Engine::append`]: then nothing more may be written.
    pub fn commit(&mut self) -> Result<Option<Durable>, JournalError> {
        if self.batches.is_empty() {
            return Ok(None);
        }
        let (batches, blobs): (Vec<Batch>, Vec<Vec<Blob>>) = self.batches.drain(..).unzip();
        let blobs: Vec<Blob> = blobs.into_iter().flatten().collect();
        let bytes = std::mem::take(&mut self.bytes) as u64;
        let head = self.engine.append(&batches, &blobs)?;
        let count = u32::try_from(batches.len()).unwrap_or(u32::MAX);
        let events = batches.iter().map(|batch| u64::from(batch.count)).sum();
        Ok(Some(Durable { head, batches: count, events, bytes, commit_micros: 0 }))
    }

    /// What is done between two commits: a step of the snapshot in hand, and a step of the engine's housekeeping.
    ///
    /// # Errors
    /// As [`Engine::maintain`]: then nothing more may be written.
    pub fn keep_house(&mut self) -> Result<Option<Report>, JournalError> {
        let report = self.write_snapshot_step()?;
        let unfinished = self.writing.as_ref().map(|writing| writing.snapshot.seq);
        self.more_housekeeping = self.engine.maintain(unfinished)?;
        Ok(report)
    }

    /// Syncs everything and gives the leadership up. An unfinished snapshot is dropped.
    ///
    /// # Errors
    /// As [`Engine::close`].
    pub fn close(self) -> Result<Head, JournalError> {
        self.engine.close()
    }

    /// Writes one chunk of the snapshot in hand, or makes it visible when all are written.
    fn write_snapshot_step(&mut self) -> Result<Option<Report>, JournalError> {
        let waiting = &mut self.waiting;
        if self.writing.is_none() {
            self.writing = waiting.take().map(|snapshot| Writing { snapshot, next: 0 });
        }
        let Some(writing) = &mut self.writing else { return Ok(None) };
        let seq = writing.snapshot.seq;
        let start = writing.next as usize * SNAPSHOT_CHUNK_BYTES;
        if start < writing.snapshot.bytes.len() {
            let end = writing.snapshot.bytes.len().min(start + SNAPSHOT_CHUNK_BYTES);
            self.engine.put_snapshot_chunk(seq, writing.next, &writing.snapshot.bytes[start..end])?;
            writing.next += 1;
            return Ok(None);
        }
        let info = writing.snapshot.info();
        self.writing = None;
        match self.engine.publish_snapshot(&info) {
            Ok(()) => {
                if let Some((_, named)) = self.naming.take_if(|(at, _)| *at == seq) {
                    self.engine.release_blobs(seq, named);
                    self.more_housekeeping = true;
                }
                Ok(Some(Report::SnapshotDone { seq }))
            }
            Err(JournalError::BadSnapshot { seq, why }) => Ok(Some(Report::SnapshotRefused { seq, why })),
            Err(err) => Err(err),
        }
    }
}
