//! The writer thread: turns waiting batches into as few commits as possible.
//!
//! In: batches with their blobs, and snapshots, through one bounded queue. Out: reports, in order, from the thread
//! itself: what became durable, or the one failure after which nothing more is written. Whatever waits while a commit
//! runs goes into the next one. Snapshots are written chunk by chunk between commits and never hold one up for longer
//! than a chunk. It never retries, never reorders and never reports a batch before the engine has it durable.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Batch, Blob, Engine, Head, JournalError, SNAPSHOT_CHUNK_BYTES, Snapshot};

/// How long the thread waits for work before it does its housekeeping (syncing the anchor, among others).
const IDLE_TICK: Duration = Duration::from_secs(1);

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

/// Counts since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WriterStats {
    /// Commits.
    pub commits: u64,
    /// Batches in them.
    pub batches: u64,
    /// Events in them.
    pub events: u64,
    /// Payload and blob bytes in them.
    pub bytes: u64,
    /// Time spent committing, in microseconds.
    pub commit_micros: u64,
    /// The last commit's time, in microseconds.
    pub last_commit_micros: u64,
    /// Snapshots made visible.
    pub snapshots: u64,
}

#[derive(Debug, Default)]
struct Counters {
    commits: AtomicU64,
    batches: AtomicU64,
    events: AtomicU64,
    bytes: AtomicU64,
    commit_micros: AtomicU64,
    last_commit_micros: AtomicU64,
    snapshots: AtomicU64,
}

impl Counters {
    fn count(&self, durable: &Durable) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.batches.fetch_add(u64::from(durable.batches), Ordering::Relaxed);
        self.events.fetch_add(durable.events, Ordering::Relaxed);
        self.bytes.fetch_add(durable.bytes, Ordering::Relaxed);
        self.commit_micros.fetch_add(durable.commit_micros, Ordering::Relaxed);
        self.last_commit_micros.store(durable.commit_micros, Ordering::Relaxed);
    }
}

enum Job {
    Append(Batch, Vec<Blob>),
    Snapshot(Snapshot),
    Close,
}

/// The handle of the writer thread. Dropping it writes what is queued and closes the engine, as [`Self::close`] does.
#[derive(Debug)]
pub struct JournalWriter {
    queue: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<Result<Head, JournalError>>>,
    failure: Arc<OnceLock<JournalError>>,
    counters: Arc<Counters>,
}

impl JournalWriter {
    /// Starts the thread. `report` runs on it, between commits: it must hand on and return, not work.
    ///
    /// # Errors
    /// [`JournalError::Storage`] when the system gives no thread.
    pub fn start(
        engine: Box<dyn Engine>,
        limits: WriterLimits,
        report: impl FnMut(Report) + Send + 'static,
    ) -> Result<Self, JournalError> {
        let (queue, jobs) = sync_channel(limits.queue);
        let failure = Arc::new(OnceLock::new());
        let counters = Arc::new(Counters::default());
        let pump = Pump {
            engine,
            jobs,
            limits,
            report: Box::new(report),
            counters: counters.clone(),
            closing: false,
            more_housekeeping: true,
            writing: None,
            waiting: None,
        };
        let first_failure = failure.clone();
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || pump.run(&first_failure))
            .map_err(|err| JournalError::Storage {
                dir: Default::default(),
                doing: "starting the writer thread",
                detail: err.to_string(),
            })?;
        Ok(JournalWriter { queue: Some(queue), thread: Some(thread), failure, counters })
    }

    /// Queues a batch; waits while the queue is full. `Ok` means queued: durable is what the report says.
    ///
    /// # Errors
    /// [`JournalError::Poisoned`] after a failure, [`JournalError::Closed`] after the thread has ended otherwise.
    pub fn append(&self, batch: Batch, blobs: Vec<Blob>) -> Result<(), JournalError> {
        self.send(Job::Append(batch, blobs))
    }

    /// Queues a batch unless the queue is full; then the batch comes back as `Ok(Some(..))`, for the caller to keep.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn try_append(&self, batch: Batch, blobs: Vec<Blob>) -> Result<Option<(Batch, Vec<Blob>)>, JournalError> {
        let Some(queue) = &self.queue else { return Err(self.gone()) };
        match queue.try_send(Job::Append(batch, blobs)) {
            Ok(()) => Ok(None),
            Err(TrySendError::Full(Job::Append(batch, blobs))) => Ok(Some((batch, blobs))),
            Err(TrySendError::Full(Job::Snapshot(_) | Job::Close) | TrySendError::Disconnected(_)) => Err(self.gone()),
        }
    }

    /// Hands a snapshot over. While one is being written one more waits; a newer one takes its place.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn snapshot(&self, snapshot: Snapshot) -> Result<(), JournalError> {
        self.send(Job::Snapshot(snapshot))
    }

    /// Writes all that is queued, syncs, closes the engine and returns the last head. An unfinished snapshot is dropped.
    ///
    /// # Errors
    /// The first failure, if there was one; else those of closing.
    pub fn close(mut self) -> Result<Head, JournalError> {
        self.stop().unwrap_or(Err(JournalError::Closed))
    }

    /// Counts since the start.
    pub fn stats(&self) -> WriterStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        WriterStats {
            commits: read(&self.counters.commits),
            batches: read(&self.counters.batches),
            events: read(&self.counters.events),
            bytes: read(&self.counters.bytes),
            commit_micros: read(&self.counters.commit_micros),
            last_commit_micros: read(&self.counters.last_commit_micros),
            snapshots: read(&self.counters.snapshots),
        }
    }

    fn send(&self, job: Job) -> Result<(), JournalError> {
        let queue = self.queue.as_ref().ok_or_else(|| self.gone())?;
        queue.send(job).map_err(|_| self.gone())
    }

    fn gone(&self) -> JournalError {
        self.failure.get().map_or(JournalError::Closed, |cause| match cause {
            poisoned @ JournalError::Poisoned { .. } => poisoned.clone(),
            cause => JournalError::Poisoned { cause: Arc::new(cause.clone()) },
        })
    }

    fn stop(&mut self) -> Option<Result<Head, JournalError>> {
        if let Some(queue) = self.queue.take() {
            drop(queue.send(Job::Close)); // a thread that has failed is gone already
        }
        let thread = self.thread.take()?;
        Some(thread.join().unwrap_or(Err(JournalError::Closed)))
    }
}

impl Drop for JournalWriter {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Writing {
    snapshot: Snapshot,
    next: u32,
}

struct Pump {
    engine: Box<dyn Engine>,
    jobs: Receiver<Job>,
    limits: WriterLimits,
    report: Box<dyn FnMut(Report) + Send>,
    counters: Arc<Counters>,
    closing: bool,
    more_housekeeping: bool,
    writing: Option<Writing>,
    waiting: Option<Snapshot>,
}

impl Pump {
    fn run(mut self, failure: &OnceLock<JournalError>) -> Result<Head, JournalError> {
        let outcome = self.serve();
        let outcome = match outcome {
            Ok(()) => self.engine.close(),
            Err(err) => Err(err),
        };
        if let Err(err) = &outcome {
            failure.get_or_init(|| err.clone());
            (self.report)(Report::Failed(err.clone()));
        }
        outcome
    }

    fn serve(&mut self) -> Result<(), JournalError> {
        while !self.closing {
            let (batches, blobs) = self.gather();
            if !batches.is_empty() {
                self.commit(&batches, &blobs)?;
            }
            if self.closing {
                break;
            }
            self.write_snapshot_step()?;
            let unfinished = self.writing.as_ref().map(|writing| writing.snapshot.seq);
            self.more_housekeeping = self.engine.maintain(unfinished)?;
        }
        Ok(())
    }

    /// Waits for a job, unless there is something to do without one, and takes all that goes into one commit with it.
    fn gather(&mut self) -> (Vec<Batch>, Vec<Blob>) {
        let (mut batches, mut blobs, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut next = if self.more_housekeeping || self.writing.is_some() || self.waiting.is_some() {
            self.jobs.try_recv()
        } else {
            self.jobs.recv_timeout(IDLE_TICK).map_err(|err| match err {
                RecvTimeoutError::Timeout => TryRecvError::Empty,
                RecvTimeoutError::Disconnected => TryRecvError::Disconnected,
            })
        };
        loop {
            match next {
                Ok(Job::Append(batch, more)) => {
                    bytes += batch.payload.len() + more.iter().map(|blob| blob.bytes().len()).sum::<usize>();
                    batches.push(batch);
                    blobs.extend(more);
                }
                Ok(Job::Snapshot(snapshot)) => self.await_turn(snapshot),
                Ok(Job::Close) | Err(TryRecvError::Disconnected) => {
                    self.closing = true;
                    break;
                }
                Err(TryRecvError::Empty) => break,
            }
            if batches.len() >= self.limits.group_batches || bytes >= self.limits.group_bytes {
                break;
            }
            next = self.jobs.try_recv();
        }
        (batches, blobs)
    }

    fn commit(&mut self, batches: &[Batch], blobs: &[Blob]) -> Result<(), JournalError> {
        let began = Instant::now();
        let head = self.engine.append(batches, blobs)?;
        let bytes = batches.iter().map(|batch| batch.payload.len()).sum::<usize>()
            + blobs.iter().map(|blob| blob.bytes().len()).sum::<usize>();
        let durable = Durable {
            head,
            batches: u32::try_from(batches.len()).unwrap_or(u32::MAX),
            events: batches.iter().map(|batch| u64::from(batch.count)).sum(),
            bytes: bytes as u64,
            commit_micros: u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
        };
        self.counters.count(&durable);
        (self.report)(Report::Durable(durable));
        Ok(())
    }

    fn await_turn(&mut self, snapshot: Snapshot) {
        if let Some(older) = self.waiting.replace(snapshot) {
            let why = "a newer one came before its turn".to_owned();
            (self.report)(Report::SnapshotRefused { seq: older.seq, why });
        }
    }

    /// Writes one chunk of the snapshot in hand, or makes it visible when all are written.
    fn write_snapshot_step(&mut self) -> Result<(), JournalError> {
        let waiting = &mut self.waiting;
        if self.writing.is_none() {
            self.writing = waiting.take().map(|snapshot| Writing { snapshot, next: 0 });
        }
        let Some(writing) = &mut self.writing else { return Ok(()) };
        let seq = writing.snapshot.seq;
        let start = writing.next as usize * SNAPSHOT_CHUNK_BYTES;
        if start < writing.snapshot.bytes.len() {
            let end = writing.snapshot.bytes.len().min(start + SNAPSHOT_CHUNK_BYTES);
            self.engine.put_snapshot_chunk(seq, writing.next, &writing.snapshot.bytes[start..end])?;
            writing.next += 1;
            return Ok(());
        }
        let info = writing.snapshot.info();
        self.writing = None;
        match self.engine.publish_snapshot(&info) {
            Ok(()) => {
                self.counters.snapshots.fetch_add(1, Ordering::Relaxed);
                (self.report)(Report::SnapshotDone { seq });
                Ok(())
            }
            Err(JournalError::BadSnapshot { seq, why }) => {
                (self.report)(Report::SnapshotRefused { seq, why });
                Ok(())
            }
            Err(err) => Err(err),
        }
    }
}
