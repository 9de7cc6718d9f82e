//! The writer thread: pumps what waits to the committer, and what became of it back.
//!
//! In: batches with their blobs, and snapshots, through one bounded queue. Out: reports, in order, from the thread
//! itself: what became durable, or the one failure after which nothing more is written. Whatever waits while a commit
//! runs goes into the next one. What is written when is the committer's to say.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::committer::{Committer, Durable, Report, Write, WriterLimits};
use super::{Batch, Blob, BlobId, Engine, Head, JournalError, Snapshot};

/// How long the thread waits for work before it does its housekeeping (syncing the anchor, among others).
const IDLE_TICK: Duration = Duration::from_secs(1);

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
    Write(Write),
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
        let (report, committer) = (Box::new(report), Committer::new(engine, limits));
        let pump = Pump { committer, jobs, report, counters: counters.clone(), closing: false };
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
        self.send(Job::Write(Write::Append(batch, blobs)))
    }

    /// Queues a batch unless the queue is full; then the batch comes back as `Ok(Some(..))`, for the caller to keep.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn try_append(&self, batch: Batch, blobs: Vec<Blob>) -> Result<Option<(Batch, Vec<Blob>)>, JournalError> {
        let Some(queue) = &self.queue else { return Err(self.gone()) };
        match queue.try_send(Job::Write(Write::Append(batch, blobs))) {
            Ok(()) => Ok(None),
            Err(TrySendError::Full(Job::Write(Write::Append(batch, blobs)))) => Ok(Some((batch, blobs))),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(self.gone()),
        }
    }

    /// Hands a snapshot over. While one is being written one more waits; a newer one takes its place.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn snapshot(&self, snapshot: Snapshot) -> Result<(), JournalError> {
        self.send(Job::Write(Write::Snapshot(snapshot)))
    }

    /// As `snapshot`, with the blobs that its state names: those that nobody names any more are removed.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn snapshot_naming(&self, snapshot: Snapshot, named: BTreeSet<BlobId>) -> Result<(), JournalError> {
        let seq = snapshot.seq;
        self.snapshot(snapshot)?;
        self.send(Job::Write(Write::Naming(seq, named)))
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

struct Pump {
    committer: Committer,
    jobs: Receiver<Job>,
    report: Box<dyn FnMut(Report) + Send>,
    counters: Arc<Counters>,
    closing: bool,
}

impl Pump {
    fn run(mut self, failure: &OnceLock<JournalError>) -> Result<Head, JournalError> {
        let outcome = self.serve();
        let outcome = match outcome {
            Ok(()) => self.committer.close(),
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
            self.gather();
            let began = Instant::now();
            if let Some(mut durable) = self.committer.commit()? {
                durable.commit_micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
                self.counters.count(&durable);
                (self.report)(Report::Durable(durable));
            }
            if self.closing {
                break;
            }
            if let Some(report) = self.committer.keep_house()? {
                if let Report::SnapshotDone { .. } = report {
                    self.counters.snapshots.fetch_add(1, Ordering::Relaxed);
                }
                (self.report)(report);
            }
        }
        Ok(())
    }

    /// Waits for work, unless there is something to do without any, and takes what goes into one commit with it.
    fn gather(&mut self) {
        let mut next = if self.committer.has_work() {
            self.jobs.try_recv()
        } else {
            self.jobs.recv_timeout(IDLE_TICK).map_err(|err| match err {
                RecvTimeoutError::Timeout => TryRecvError::Empty,
                RecvTimeoutError::Disconnected => TryRecvError::Disconnected,
            })
        };
        loop {
            match next {
                Ok(Job::Write(write)) => {
                    if let Some(report) = self.committer.push(write) {
                        (self.report)(report);
                    }
                }
                Ok(Job::Close) | Err(TryRecvError::Disconnected) => {
                    self.closing = true;
                    return;
                }
                Err(TryRecvError::Empty) => return,
            }
            if self.committer.is_full() {
                return;
            }
            next = self.jobs.try_recv();
        }
    }
}
