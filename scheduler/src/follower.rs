//! A second core that follows the journal, so that snapshots are made without stopping the first.
//!
//! In: durable turns, in order, through a bounded queue that never blocks the scheduler; what did not fit is read again
//! from the journal. Out: snapshots, every so many events or so much time of the journal. It decides nothing, and a
//! failure of it stops no work: it only means that the next recovery replays more.

mod following;
mod news;
mod thread;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use dure_core::ids::Seq;
use dure_core::units::Span;

use crate::journal::JournalError;
use crate::record::SnapshotTooLarge;
use crate::recover::RecoverError;
pub use crate::source::DurableBatch;
use crate::source::{Source, SourceError};
pub use following::{Copied, Following};
pub use news::News;
use thread::{Command, Pump};
pub use thread::{Keeping, Sink};

/// When to make a snapshot, and how much may wait.
#[derive(Clone, Copy, Debug)]
pub struct FollowerConfig {
    /// Events after which a snapshot is made.
    pub snapshot_events: u64,
    /// Time of the journal after which a snapshot is made, if anything happened at all.
    pub snapshot_span: Span,
    /// Turns that may wait; more are read again from the journal.
    pub queue: usize,
}

impl FollowerConfig {
    /// Recovery replays at most a million events, which takes a few seconds.
    pub fn standard() -> Self {
        Self { snapshot_events: 1_000_000, snapshot_span: Span::seconds(1800), queue: 1024 }
    }
}

/// Why the follower follows no more.
#[derive(Debug, thiserror::Error)]
pub enum FollowerError {
    /// The journal could not be read again.
    #[error("the follower cannot read the journal: {0}")]
    Source(#[from] SourceError),
    /// A turn does not fit its state.
    #[error("the follower's state has parted from the journal: {0}")]
    Recover(#[from] RecoverError),
    /// The writer takes no snapshot any more.
    #[error("the journal takes no snapshot: {0}")]
    Sink(#[from] JournalError),
    /// The follower's state is another one than the scheduler's: one of the two is wrong.
    #[error("at position {seq} the follower's state has digest {ours:016x}, the scheduler's {theirs:016x}")]
    Differs {
        /// Where.
        seq: u64,
        /// The follower's digest.
        ours: u64,
        /// The scheduler's.
        theirs: u64,
    },
    /// The position asked for lies behind the follower, or beyond the journal.
    #[error("the follower stands at position {at} and cannot compare at {seq}: ask right after feeding that turn")]
    Elsewhere {
        /// Where the follower stands.
        at: u64,
        /// Where it was asked to compare.
        seq: u64,
    },
    /// The state is too large for a snapshot.
    #[error("{0}")]
    TooLarge(#[from] SnapshotTooLarge),
    /// The system gave no thread.
    #[error("no thread for the follower: {0}")]
    Thread(std::io::Error),
    /// It has stopped; the cause was given to whoever stopped it.
    #[error("the follower has stopped")]
    Stopped,
}

/// What feed and thread share.
#[derive(Debug, Default)]
struct Shared {
    /// The last position that is durable.
    durable: AtomicU64,
    /// When that happened.
    durable_ms: AtomicU64,
    /// The last position that the follower has applied.
    applied: AtomicU64,
    /// The last position whose rows are written in the history, and when that happened.
    history: AtomicU64,
    history_ms: AtomicU64,
    /// Position of the last snapshot handed over.
    snapshot: AtomicU64,
    /// Why it stopped, if it did.
    failure: OnceLock<String>,
}

impl Shared {
    fn history_lag(&self) -> HistoryLag {
        let read = |number: &AtomicU64| number.load(Ordering::SeqCst);
        // First what grows behind the other: a turn that becomes durable in between is no lag below zero.
        let (written, written_ms) = (read(&self.history), read(&self.history_ms));
        let events = read(&self.durable).saturating_sub(written);
        let span = if events == 0 { Span::ZERO } else { Span(read(&self.durable_ms).saturating_sub(written_ms)) };
        HistoryLag { events, span }
    }
}

/// How far the history is behind the journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HistoryLag {
    /// Durable events that are not in it yet.
    pub events: u64,
    /// Between the last turn in it and the last of the journal; zero when no event is missing.
    pub span: Span,
}

/// The scheduler's end: takes durable turns and never waits.
#[derive(Clone, Debug)]
pub struct FollowerFeed {
    queue: SyncSender<Command>,
    shared: Arc<Shared>,
}

impl FollowerFeed {
    /// Hands on a turn that has become durable. Never waits: what finds no room is read again from the journal.
    pub fn feed(&self, batch: Arc<DurableBatch>) {
        // Before the queue: whoever empties it sees that there is more.
        self.shared.durable_ms.fetch_max(batch.time.0, Ordering::SeqCst);
        self.shared.durable.fetch_max(batch.last().0, Ordering::SeqCst);
        drop(self.queue.try_send(Command::Turn(batch)));
    }

    /// Compares the state at `seq`, which must not lie behind the follower, with the scheduler's. Waits for the answer.
    ///
    /// # Errors
    /// [`FollowerError::Differs`], [`FollowerError::Elsewhere`], [`FollowerError::Stopped`].
    pub fn verify(&self, seq: Seq, digest: u64) -> Result<(), FollowerError> {
        let (reply, answer) = sync_channel(1);
        self.ask(Command::Verify { seq, digest, reply })?;
        answer.recv().unwrap_or(Err(FollowerError::Stopped))
    }

    /// Makes a snapshot now of all that was fed, unless there is one already, and answers its position.
    ///
    /// # Errors
    /// [`FollowerError::TooLarge`], [`FollowerError::Stopped`].
    pub fn snapshot_now(&self) -> Result<Seq, FollowerError> {
        let (reply, answer) = sync_channel(1);
        self.ask(Command::Snapshot { reply })?;
        answer.recv().unwrap_or(Err(FollowerError::Stopped))
    }

    /// How far the history is behind. One that cannot be written falls behind for good. Asks nobody.
    pub fn history_lag(&self) -> HistoryLag {
        self.shared.history_lag()
    }

    /// A copy of the state as it is at the last durable position; with what has happened since the last copy that was given
    /// with it. The scheduler is not asked, and no turn waits. Waits for the answer.
    ///
    /// # Errors
    /// [`FollowerError::Stopped`].
    pub fn copy(&self, with_news: bool) -> Result<Copied, FollowerError> {
        let (reply, answer) = sync_channel(1);
        self.ask(Command::Copy { with_news, reply })?;
        answer.recv().map_err(|_| FollowerError::Stopped)
    }

    fn ask(&self, command: Command) -> Result<(), FollowerError> {
        self.queue.send(command).map_err(|_| FollowerError::Stopped)
    }
}

/// The follower's thread.
#[derive(Debug)]
pub struct Follower {
    feed: FollowerFeed,
    thread: Option<JoinHandle<Result<Following, FollowerError>>>,
}

impl Follower {
    /// Starts to follow, from where `following` stands. `source` is what is read again when the queue was full; `sink` takes
    /// snapshots (the journal writer's `snapshot`). A history to be filled from where it ends comes in `keeping`, unless
    /// `following` keeps one already.
    ///
    /// # Errors
    /// [`FollowerError::Thread`].
    pub fn start(
        following: Following,
        source: Box<dyn Source + Send>,
        sink: Sink,
        keeping: Option<Keeping>,
    ) -> Result<Self, FollowerError> {
        let (queue, commands) = sync_channel(following.queue());
        let shared = Arc::new(Shared::default());
        let (head, now) = (following.head(), following.time());
        shared.durable.store(head.0, Ordering::SeqCst);
        shared.durable_ms.store(now.0, Ordering::SeqCst);
        let written = keeping.as_ref().map(|keeping| keeping.historian.written());
        let (history, time) = written.or_else(|| following.history_written()).unwrap_or_default();
        shared.history.store(history.0, Ordering::SeqCst);
        let is_known = time > dure_core::units::Time(0);
        shared.history_ms.store(if is_known { time.0 } else { now.0 }, Ordering::SeqCst);
        shared.applied.store(head.0, Ordering::SeqCst);
        shared.snapshot.store(following.last_snapshot().0, Ordering::SeqCst);
        let pump = Pump { following, source, sink, shared: shared.clone(), keeping, is_behind: false };
        let thread = std::thread::Builder::new()
            .name("follower".to_owned())
            .spawn(move || pump.run(&commands))
            .map_err(FollowerError::Thread)?;
        Ok(Self { feed: FollowerFeed { queue, shared }, thread: Some(thread) })
    }

    /// The end that the scheduler feeds.
    pub fn feed(&self) -> FollowerFeed {
        self.feed.clone()
    }

    /// The last position that it has applied.
    pub fn position(&self) -> Seq {
        Seq(self.feed.shared.applied.load(Ordering::SeqCst))
    }

    /// How many durable events it has still to apply.
    pub fn lag(&self) -> u64 {
        self.feed.shared.durable.load(Ordering::SeqCst).saturating_sub(self.position().0)
    }

    /// Position of the last snapshot that it handed over.
    pub fn last_snapshot(&self) -> Seq {
        Seq(self.feed.shared.snapshot.load(Ordering::SeqCst))
    }

    /// Why it stopped, if it did by itself.
    pub fn failure(&self) -> Option<&str> {
        self.feed.shared.failure.get().map(String::as_str)
    }

    /// Applies what was fed and stops; the second core as it is then.
    ///
    /// # Errors
    /// Why it had stopped before, if it had.
    pub fn stop(mut self) -> Result<Following, FollowerError> {
        self.join().unwrap_or(Err(FollowerError::Stopped))
    }

    fn join(&mut self) -> Option<Result<Following, FollowerError>> {
        let thread = self.thread.take()?;
        drop(self.feed.ask(Command::Stop)); // a thread that has failed is gone already
        Some(thread.join().unwrap_or(Err(FollowerError::Stopped)))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        drop(self.join());
    }
}

#[cfg(test)]
mod tests;
