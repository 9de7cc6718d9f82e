//! The follower's thread: takes commands one by one, reads again what it missed, hands snapshots over.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::time::Duration;

use dure_core::Policy;
use dure_core::ids::Seq;

use super::{Copied, DurableBatch, FollowerError, Following, Shared};
use crate::history::{self, Historian};
use crate::journal::{BlobId, JournalError, Snapshot};
use crate::source::{Source, SourceError, Turns};

/// When nothing comes for so long, what the history holds back is written.
const WRITE_HISTORY_EVERY: Duration = Duration::from_millis(500);

/// Between two tries of a journal that cannot be read.
const READ_AGAIN: Duration = Duration::from_millis(100);

/// What the thread is told.
pub(super) enum Command {
    /// A durable turn.
    Turn(Arc<DurableBatch>),
    /// Compare the state.
    Verify { seq: Seq, digest: u64, reply: SyncSender<Result<(), FollowerError>> },
    /// Make a snapshot now.
    Snapshot { reply: SyncSender<Result<Seq, FollowerError>> },
    /// Give a copy of the state.
    Copy {
        /// With what has happened since the last copy with it.
        with_news: bool,
        /// Where it goes.
        reply: SyncSender<Copied>,
    },
    /// Stop.
    Stop,
}

/// Takes snapshots, each with the blobs that its state names: the journal writer's `snapshot_naming`.
pub type Sink = Box<dyn FnMut(Snapshot, BTreeSet<BlobId>) -> Result<(), JournalError> + Send>;

/// The thread's own.
pub(super) struct Pump {
    pub(super) following: Following,
    pub(super) source: Box<dyn Source + Send>,
    pub(super) sink: Sink,
    pub(super) shared: Arc<Shared>,
    pub(super) keeping: Option<Keeping>,
    /// The journal could not be read the last time.
    pub(super) is_behind: bool,
}

/// A history to be filled.
#[derive(Debug)]
pub struct Keeping {
    /// Fills it.
    pub historian: Historian,
    /// The policy under which the journal is folded.
    pub policy: Policy,
}

impl Keeping {
    /// Brings the history to where a core stands, or beyond. One that does not get there is given up, not waited for.
    pub(crate) fn begin<S: Source + ?Sized>(self, source: &S) -> Option<Historian> {
        let Self { mut historian, policy } = self;
        match history::catch_up(&mut historian, source, policy) {
            Ok(()) => Some(historian),
            Err(err) => {
                tracing::error!(error = %err, "no history is kept until the next start");
                None
            }
        }
    }
}

impl Pump {
    pub(super) fn run(mut self, commands: &Receiver<Command>) -> Result<Following, FollowerError> {
        if let Some(historian) = self.keeping.take().and_then(|keeping| keeping.begin(self.source.as_ref())) {
            self.following.keeps(historian);
        }
        let outcome = self.serve(commands);
        self.following.write_history();
        if let Err(err) = &outcome {
            tracing::error!(error = %err, position = self.following.head().0, "follower stopped, no more snapshots are made");
            self.shared.failure.get_or_init(|| err.to_string());
        }
        outcome.map(|()| self.following)
    }

    fn serve(&mut self, commands: &Receiver<Command>) -> Result<(), FollowerError> {
        loop {
            self.tell_of_history();
            let command = match commands.try_recv() {
                Ok(command) => command,
                Err(TryRecvError::Disconnected) => return Ok(()),
                Err(TryRecvError::Empty) => {
                    // Turns that found the queue full leave nothing behind in it but this.
                    self.catch_up()?;
                    match commands.recv_timeout(WRITE_HISTORY_EVERY) {
                        Ok(command) => command,
                        Err(RecvTimeoutError::Disconnected) => return Ok(()),
                        Err(RecvTimeoutError::Timeout) => {
                            self.following.write_history();
                            continue;
                        }
                    }
                }
            };
            match command {
                Command::Turn(turn) => self.take(&turn)?,
                Command::Verify { seq, digest, reply } => {
                    self.catch_up()?;
                    // Whoever asked may have gone away.
                    drop(reply.send(self.following.compare(seq, digest)));
                }
                Command::Snapshot { reply } => {
                    self.catch_up()?;
                    let made = self.following.snapshot().and_then(|snapshot| self.hand_over(snapshot));
                    drop(reply.send(made.map(|()| self.following.head())));
                }
                Command::Copy { with_news, reply } => {
                    self.catch_up()?;
                    drop(reply.send(self.following.copied(with_news)));
                }
                Command::Stop => return self.catch_up(),
            }
        }
    }

    fn tell_of_history(&self) {
        let Some((seq, time)) = self.following.history_written() else { return };
        self.shared.history_ms.store(time.0, Ordering::SeqCst);
        self.shared.history.store(seq.0, Ordering::SeqCst);
    }

    /// Applies a turn that was fed; one that is known already is passed over, one too far ahead waits for the journal.
    fn take(&mut self, turn: &DurableBatch) -> Result<(), FollowerError> {
        if turn.last() <= self.following.head() {
            return Ok(());
        }
        if turn.first_seq == self.following.head().0 + 1 { self.apply(turn) } else { self.catch_up() }
    }

    /// Reads again whatever is durable and was not applied.
    fn catch_up(&mut self) -> Result<(), FollowerError> {
        match self.read_on() {
            // That the store is silent passes; what is missing is read the next time.
            Err(FollowerError::Source(SourceError::Journal(err @ JournalError::Storage { .. }))) => {
                if !std::mem::replace(&mut self.is_behind, true) {
                    tracing::warn!(error = %err, "the journal cannot be read: the follower waits");
                }
                std::thread::sleep(READ_AGAIN);
                Ok(())
            }
            read => {
                self.is_behind = false;
                read
            }
        }
    }

    fn read_on(&mut self) -> Result<(), FollowerError> {
        while self.following.head().0 < self.shared.durable.load(Ordering::SeqCst) {
            let before = self.following.head();
            let limit = crate::journal::ReadLimit::default();
            for turn in Turns::page(self.source.as_ref(), Seq(before.0 + 1), limit)? {
                self.apply(&turn)?;
            }
            if self.following.head() == before {
                // It is durable by the writer's word, and a reader must see it.
                let durable = self.shared.durable.load(Ordering::SeqCst);
                return Err(crate::recover::RecoverError::Short { head: durable, end: before.0 }.into());
            }
        }
        Ok(())
    }

    fn apply(&mut self, turn: &DurableBatch) -> Result<(), FollowerError> {
        let due = self.following.apply(turn);
        self.shared.applied.store(self.following.head().0, Ordering::SeqCst);
        match due {
            Ok(snapshot) => self.hand_over(snapshot),
            Err(FollowerError::TooLarge(err)) => {
                tracing::error!(error = %err, "snapshot not made");
                Ok(())
            }
            Err(err) => Err(err),
        }
    }

    fn hand_over(&mut self, snapshot: Option<Snapshot>) -> Result<(), FollowerError> {
        let Some(snapshot) = snapshot else { return Ok(()) };
        let seq = snapshot.seq;
        match (self.sink)(snapshot, self.following.named_blobs()) {
            // The leadership is over: the next one makes its own.
            Err(JournalError::Closed) => return Ok(()),
            handed_over => handed_over?,
        }
        self.shared.snapshot.store(seq, Ordering::SeqCst);
        Ok(())
    }
}
