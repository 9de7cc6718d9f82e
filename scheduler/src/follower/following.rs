//! The second core: turns in, snapshots out when they are due. Synchronous; the follower's thread pumps it, and a standby
//! follows the journal with one before it leads.

use std::collections::BTreeSet;

use dure_core::Cluster;
use dure_core::event::Event;
use dure_core::ids::Seq;
use dure_core::units::{Span, Time};

use super::{DurableBatch, FollowerConfig, FollowerError, News};
use crate::history::{Historian, HistoryError};
use crate::journal::{BlobId, Snapshot};
use crate::record::encode_snapshot;
use crate::recover::{RecoverError, Recovered, apply_seen};
use crate::terms::Terms;

/// A leader that has just taken over makes no snapshot for so long: agents and clients come back meanwhile.
const SETTLE: Span = Span::seconds(10);
/// Unless so many times the usual number of events lie behind the last one: leaders that never last so long must not keep
/// the journal from being cut.
const MOST_UNSAVED: u64 = 4;

/// A copy of the state.
#[derive(Debug)]
pub struct Copied {
    /// The state.
    pub cluster: Cluster,
    /// Position of its last event.
    pub head: Seq,
    /// When that happened.
    pub time: Time,
    /// What has happened since the last copy with it; empty where it was not asked for.
    pub news: News,
}

/// A state that follows the journal.
#[derive(Debug)]
pub struct Following {
    cluster: Cluster,
    news: News,
    head: Seq,
    time: Time,
    terms: Terms,
    /// Where the last snapshot stands, and since when the next one is waited for; an empty journal has no time.
    last: (Seq, Option<Time>),
    /// No snapshot is made before.
    settled_at: Time,
    config: FollowerConfig,
    historian: Option<Historian>,
}

impl Following {
    /// Goes on from where recovery ended.
    pub fn new(recovered: &Recovered, config: FollowerConfig) -> Self {
        Self::with(recovered.cluster.clone(), recovered, config)
    }

    fn with(cluster: Cluster, recovered: &Recovered, config: FollowerConfig) -> Self {
        let snapshot = recovered.from_snapshot.unwrap_or(Seq(0));
        let last = (snapshot, (recovered.head > Seq(0)).then_some(recovered.time));
        let (head, time, news, terms) = (recovered.head, recovered.time, News::default(), recovered.terms.clone());
        Self { cluster, news, head, time, terms, last, settled_at: Time(0), config, historian: None }
    }

    /// As `new`, where there is no first core yet.
    pub(crate) fn alone(mut recovered: Recovered, config: FollowerConfig) -> Self {
        let cluster = std::mem::replace(&mut recovered.cluster, Cluster::new(dure_core::Policy::standard()));
        Self::with(cluster, &recovered, config)
    }

    /// A scheduler begins to lead here; the newest snapshot stands at `snapshot`.
    pub(crate) fn leads(&mut self, snapshot: Seq) {
        self.last = (snapshot.max(self.last.0), Some(self.time));
        self.settled_at = self.time + SETTLE;
    }

    /// Keeps the history as well. It must stand where this state does, or beyond.
    pub fn keeps(&mut self, historian: Historian) {
        self.historian = Some(historian);
    }

    /// Writes down what the history holds so far; one that cannot be written is given up until the next start.
    pub fn write_history(&mut self) {
        self.with_history(Historian::write);
    }

    /// Whether a history is kept.
    pub(crate) fn keeps_history(&self) -> bool {
        self.historian.is_some()
    }

    /// What the history has written: position, and when that happened. None when no history is kept.
    pub fn history_written(&self) -> Option<(Seq, Time)> {
        self.historian.as_ref().map(Historian::written)
    }

    fn with_history(&mut self, work: impl FnOnce(&mut Historian) -> Result<(), HistoryError>) {
        if let Some(historian) = &mut self.historian
            && let Err(err) = work(historian)
        {
            tracing::error!(error = %err, "the history stands still until the next start");
            self.historian = None;
        }
    }

    /// The blobs that the state names.
    pub fn named_blobs(&self) -> BTreeSet<BlobId> {
        self.cluster.jobs().iter().map(|job| BlobId(job.spec.payload.0)).collect()
    }

    /// Position of the last event applied.
    pub fn head(&self) -> Seq {
        self.head
    }

    /// When that happened.
    pub fn time(&self) -> Time {
        self.time
    }

    /// Who has written what it followed.
    pub(crate) fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Position of the last snapshot; 0 for none.
    pub(crate) fn last_snapshot(&self) -> Seq {
        self.last.0
    }

    /// Turns that may wait.
    pub(super) fn queue(&self) -> usize {
        self.config.queue
    }

    /// The state there.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// A copy of the state.
    pub fn copied(&mut self, with_news: bool) -> Copied {
        let news = if with_news { std::mem::take(&mut self.news) } else { News::default() };
        Copied { cluster: self.cluster.clone(), head: self.head, time: self.time, news }
    }

    /// Applies the next turn; a snapshot when one is due.
    ///
    /// # Errors
    /// `Recover` when the turn does not fit the state; `TooLarge` when a snapshot was due and cannot be made, the turn is
    /// applied all the same.
    pub fn apply(&mut self, turn: &DurableBatch) -> Result<Option<Snapshot>, FollowerError> {
        self.follow(turn)?;
        if self.is_due() { self.snapshot() } else { Ok(None) }
    }

    /// Applies the next turn and makes no snapshot.
    ///
    /// # Errors
    /// `Contradiction` when the turn does not fit the state.
    pub(crate) fn follow(&mut self, turn: &DurableBatch) -> Result<(), RecoverError> {
        let historian = &mut self.historian;
        let see = &mut |cluster: &Cluster, seq: u64, event: &Event| {
            if let Some(historian) = historian {
                historian.see(cluster, seq, turn.time, event);
            }
        };
        apply_seen(&mut self.cluster, turn.time, turn.first_seq, &turn.events, see)?;
        self.with_history(|historian| historian.turn(turn));
        turn.events.iter().for_each(|event| self.news.read(&self.cluster, turn.time, event));
        self.head = turn.last();
        self.time = turn.time;
        self.terms.wrote(turn.epoch, Seq(turn.first_seq));
        self.last.1.get_or_insert(turn.time);
        Ok(())
    }

    fn is_due(&self) -> bool {
        let (events, limit) = (self.head.0 - self.last.0.0, self.config.snapshot_events);
        if self.time < self.settled_at && events < limit.saturating_mul(MOST_UNSAVED) {
            return false;
        }
        let since = self.last.1.map_or(Span::ZERO, |last| self.time.since(last));
        events >= limit || since >= self.config.snapshot_span
    }

    /// A snapshot of the state, unless the last one stands here.
    ///
    /// # Errors
    /// `TooLarge`.
    pub fn snapshot(&mut self) -> Result<Option<Snapshot>, FollowerError> {
        let (seq, time) = (self.head, self.time);
        if self.last.0 == seq {
            return Ok(None);
        }
        // Also when it turns out too large: the next try comes when the next one is due, not with every turn.
        self.last = (seq, Some(time));
        // The journal may forget what lies before a snapshot: the history has it by then, on disk.
        self.with_history(Historian::sync);
        let bytes = encode_snapshot(&self.cluster, seq, time)?;
        Ok(Some(Snapshot { seq: seq.0, created_ms: time.0, bytes }))
    }

    /// Compares the state with another at `seq`.
    ///
    /// # Errors
    /// `Elsewhere` when it stands at another position, `Differs`.
    pub fn compare(&self, seq: Seq, theirs: u64) -> Result<(), FollowerError> {
        if seq != self.head {
            return Err(FollowerError::Elsewhere { at: self.head.0, seq: seq.0 });
        }
        let ours = self.cluster.digest();
        if ours == theirs { Ok(()) } else { Err(FollowerError::Differs { seq: seq.0, ours, theirs }) }
    }
}
