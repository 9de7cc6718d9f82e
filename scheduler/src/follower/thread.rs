//! The follower's thread: takes commands one by one, reads again what it missed, makes snapshots when they are due.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};

use dure_core::Cluster;
use dure_core::ids::Seq;
use dure_core::units::Time;

use super::{DurableBatch, FollowerConfig, FollowerError, Shared};
use crate::journal::{JournalError, Snapshot};
use crate::record::encode_snapshot;
use crate::recover::apply_all;
use crate::source::{Source, Turns};

/// What the thread is told.
pub(super) enum Command {
    /// A durable turn.
    Turn(Arc<DurableBatch>),
    /// Compare the state.
    Verify { seq: Seq, digest: u64, reply: SyncSender<Result<(), FollowerError>> },
    /// Make a snapshot now.
    Snapshot { reply: SyncSender<Result<Seq, FollowerError>> },
    /// Stop.
    Stop,
}

/// Takes snapshots: the journal writer's `snapshot`.
pub type Sink = Box<dyn FnMut(Snapshot) -> Result<(), JournalError> + Send>;

/// The thread's own.
pub(super) struct Pump {
    pub(super) cluster: Cluster,
    pub(super) head: Seq,
    pub(super) time: Time,
    /// Where the last snapshot stands, and since when the next one is waited for; an empty journal has no time.
    pub(super) last: (Seq, Option<Time>),
    pub(super) config: FollowerConfig,
    pub(super) source: Box<dyn Source + Send>,
    pub(super) sink: Sink,
    pub(super) shared: Arc<Shared>,
}

impl Pump {
    pub(super) fn run(mut self, commands: &Receiver<Command>) -> Result<(), FollowerError> {
        let outcome = self.serve(commands);
        if let Err(err) = &outcome {
            tracing::error!(error = %err, position = self.head.0, "follower stopped, no more snapshots are made");
            self.shared.failure.get_or_init(|| err.to_string());
        }
        outcome
    }

    fn serve(&mut self, commands: &Receiver<Command>) -> Result<(), FollowerError> {
        loop {
            let command = match commands.try_recv() {
                Ok(command) => command,
                Err(TryRecvError::Disconnected) => return Ok(()),
                Err(TryRecvError::Empty) => {
                    // Turns that found the queue full leave nothing behind in it but this.
                    self.catch_up()?;
                    match commands.recv() {
                        Ok(command) => command,
                        Err(_) => return Ok(()),
                    }
                }
            };
            match command {
                Command::Turn(turn) => self.take(&turn)?,
                Command::Verify { seq, digest, reply } => {
                    self.catch_up()?;
                    // Whoever asked may have gone away.
                    drop(reply.send(self.compare(seq, digest)));
                }
                Command::Snapshot { reply } => {
                    self.catch_up()?;
                    let made = self.snapshot();
                    drop(reply.send(made));
                }
                Command::Stop => return self.catch_up(),
            }
        }
    }

    /// Applies a turn that was fed; one that is known already is passed over, one too far ahead waits for the journal.
    fn take(&mut self, turn: &DurableBatch) -> Result<(), FollowerError> {
        if turn.last() <= self.head {
            return Ok(());
        }
        if turn.first_seq == self.head.0 + 1 { self.apply(turn) } else { self.catch_up() }
    }

    /// Reads again whatever is durable and was not applied.
    fn catch_up(&mut self) -> Result<(), FollowerError> {
        while self.head.0 < self.shared.durable.load(Ordering::SeqCst) {
            let before = self.head;
            let limit = crate::journal::ReadLimit::default();
            for turn in Turns::page(self.source.as_ref(), Seq(before.0 + 1), limit)? {
                self.apply(&turn)?;
            }
            if self.head == before {
                // It is durable by the writer's word, and a reader must see it.
                let durable = self.shared.durable.load(Ordering::SeqCst);
                return Err(crate::recover::RecoverError::Short { head: durable, end: before.0 }.into());
            }
        }
        Ok(())
    }

    fn apply(&mut self, turn: &DurableBatch) -> Result<(), FollowerError> {
        apply_all(&mut self.cluster, turn.time, turn.first_seq, &turn.events)?;
        self.head = turn.last();
        self.time = turn.time;
        self.shared.applied.store(self.head.0, Ordering::SeqCst);
        let (seq, time) = (self.last.0, *self.last.1.get_or_insert(turn.time));
        if self.head.0 - seq.0 >= self.config.snapshot_events || self.time.since(time) >= self.config.snapshot_span {
            match self.snapshot() {
                Ok(_) => {}
                Err(FollowerError::TooLarge(err)) => tracing::error!(error = %err, "snapshot not made"),
                Err(err) => return Err(err),
            }
        }
        Ok(())
    }

    /// Hands a snapshot of the state to the journal, unless the last one stands here.
    fn snapshot(&mut self) -> Result<Seq, FollowerError> {
        let (seq, time) = (self.head, self.time);
        if self.last.0 == seq {
            return Ok(seq);
        }
        // Also when it turns out too large: the next try comes when the next one is due, not with every turn.
        self.last = (seq, Some(time));
        let bytes = encode_snapshot(&self.cluster, seq, time)?;
        (self.sink)(Snapshot { seq: seq.0, created_ms: time.0, bytes })?;
        self.shared.snapshot.store(seq.0, Ordering::SeqCst);
        Ok(seq)
    }

    fn compare(&self, seq: Seq, theirs: u64) -> Result<(), FollowerError> {
        if seq != self.head {
            return Err(FollowerError::Elsewhere { at: self.head.0, seq: seq.0 });
        }
        let ours = self.cluster.digest();
        if ours == theirs { Ok(()) } else { Err(FollowerError::Differs { seq: seq.0, ours, theirs }) }
    }
}
