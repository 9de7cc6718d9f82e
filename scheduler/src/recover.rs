//! The state from the journal: the newest snapshot that holds, then every later turn.
//!
//! In: a journal and the policy. Out: the cluster at the journal's end. A page of turns is in memory at a time. Nothing is
//! skipped: what cannot be read or does not follow from the state stops recovery with its position. A snapshot is only
//! a shortcut: one that cannot be used is passed over for the whole journal, and named.

use std::panic::{AssertUnwindSafe, catch_unwind};

use dure_core::event::Event;
use dure_core::ids::Seq;
use dure_core::units::Time;
use dure_core::{Cluster, Policy};

use crate::journal::{FoundSnapshot, JournalError, Snapshot};
use crate::record::{SnapshotError, SnapshotReader};
use crate::source::{DurableBatch, Source, SourceError, Turns};
use crate::terms::Terms;

/// What recovery came to.
#[derive(Debug)]
pub struct Recovered {
    /// The state after the last event.
    pub cluster: Cluster,
    /// Position of the last event; 0 for an empty journal.
    pub head: Seq,
    /// Time of the last event; nothing may happen before it.
    pub time: Time,
    /// Events applied after the snapshot.
    pub events_replayed: u64,
    /// Where the snapshot stood that was used.
    pub from_snapshot: Option<Seq>,
    /// Who has written what lies after the snapshot.
    pub terms: Terms,
    /// Newer snapshots that could not be used, each with the reason. Worth a warning.
    pub passed_over: Vec<(Seq, String)>,
}

/// Why there is no state.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The journal could not be read.
    #[error("{0}")]
    Source(#[from] SourceError),
    /// The newest snapshot was written by a newer version: so was the journal after it.
    #[error("snapshot at position {seq}: {error}")]
    NewerSnapshot {
        /// Where it stands.
        seq: u64,
        /// Its format.
        error: SnapshotError,
    },
    /// An event does not follow from the state that the events before it built.
    #[error(
        "the event at position {seq} contradicts all before it ({why}): {event}; another version decided it, or the \
         journal was put together from two; restore the newest backup"
    )]
    Contradiction {
        /// Its position.
        seq: u64,
        /// The event.
        event: String,
        /// What does not hold.
        why: String,
    },
    /// The turns end before the journal's head.
    #[error("the journal's head is at {head}, its turns end at {end}: restore the newest backup")]
    Short {
        /// Where the journal ends by its own word.
        head: u64,
        /// Where its turns end.
        end: u64,
    },
}

impl From<JournalError> for RecoverError {
    fn from(err: JournalError) -> Self {
        Self::Source(SourceError::Journal(err))
    }
}

/// Builds the state that `source` holds, under `policy`.
///
/// # Errors
/// [`RecoverError`] with the position of what stands in the way.
pub fn recover<S: Source + ?Sized>(source: &S, policy: Policy) -> Result<Recovered, RecoverError> {
    let head = source.last_position()?;
    let mut recovered = Recovered::from_snapshot(source.sound_snapshot()?, policy)?;
    for turn in Turns::from(source, Seq(recovered.head.0 + 1)) {
        recovered.take(&turn?)?;
    }
    if recovered.head < head {
        return Err(RecoverError::Short { head: head.0, end: recovered.head.0 });
    }
    Ok(recovered)
}

impl Recovered {
    /// The state of a snapshot, or the empty one.
    ///
    /// # Errors
    /// [`RecoverError::NewerSnapshot`].
    pub fn from_snapshot(found: FoundSnapshot, policy: Policy) -> Result<Self, RecoverError> {
        start(found, policy)
    }

    /// The state before the first turn that `source` keeps: the empty one where that is the first of all.
    ///
    /// # Errors
    /// [`RecoverError`] when it cannot be read.
    pub fn beginning<S: Source + ?Sized>(source: &S, policy: Policy) -> Result<Self, RecoverError> {
        let found = FoundSnapshot { snapshot: source.beginning()?, damaged: Vec::new() };
        Self::from_snapshot(found, policy)
    }

    /// Applies the next turn.
    ///
    /// # Errors
    /// [`RecoverError::Contradiction`]; then the state is of no use any more.
    pub fn take(&mut self, turn: &DurableBatch) -> Result<(), RecoverError> {
        self.take_seen(turn, &mut |_, _, _| ())
    }

    /// As `take`, shown to `see`.
    ///
    /// # Errors
    /// As `take`.
    pub(crate) fn take_seen(&mut self, turn: &DurableBatch, see: See<'_>) -> Result<(), RecoverError> {
        apply_seen(&mut self.cluster, turn.time, turn.first_seq, &turn.events, see)?;
        self.events_replayed += turn.events.len() as u64;
        self.terms.wrote(turn.epoch, Seq(turn.first_seq));
        self.head = turn.last();
        self.time = turn.time;
        Ok(())
    }
}

fn start(found: FoundSnapshot, policy: Policy) -> Result<Recovered, RecoverError> {
    let damaged = found.damaged.into_iter().map(|seq| (Seq(seq), "its checksum does not hold".to_owned()));
    let mut passed_over: Vec<(Seq, String)> = damaged.collect();
    if let Some(snapshot) = found.snapshot {
        match restore(&snapshot, policy.clone()) {
            Ok((cluster, time)) => {
                let head = Seq(snapshot.seq);
                let from_snapshot = Some(head);
                let (events_replayed, terms) = (0, Terms::default());
                return Ok(Recovered { cluster, head, time, events_replayed, from_snapshot, terms, passed_over });
            }
            Err(Unusable::Newer(error)) => {
                return Err(RecoverError::NewerSnapshot { seq: snapshot.seq, error });
            }
            Err(Unusable::Broken(why)) => passed_over.push((Seq(snapshot.seq), why)),
        }
    }
    let (head, time, terms) = (Seq(0), Time(0), Terms::default());
    let cluster = Cluster::new(policy);
    Ok(Recovered { cluster, head, time, events_replayed: 0, from_snapshot: None, terms, passed_over })
}

enum Unusable {
    Newer(SnapshotError),
    Broken(String),
}

fn restore(snapshot: &Snapshot, policy: Policy) -> Result<(Cluster, Time), Unusable> {
    let unusable = |error| match error {
        SnapshotError::NewerFormat { .. } => Unusable::Newer(error),
        SnapshotError::Malformed { .. } | SnapshotError::Batch { .. } => Unusable::Broken(error.to_string()),
    };
    let (header, batches) = SnapshotReader::open(&snapshot.bytes).map_err(unusable)?;
    if header.seq.0 != snapshot.seq {
        return Err(Unusable::Broken(format!("it says that it stands at position {}", header.seq)));
    }
    let mut cluster = Cluster::new(policy);
    for events in batches {
        let events = events.map_err(unusable)?;
        apply_all(&mut cluster, header.time, snapshot.seq, &events).map_err(|err| Unusable::Broken(err.to_string()))?;
    }
    Ok((cluster, header.time))
}

/// Applies the events of one turn, the first of which stands at `first`.
///
/// # Errors
/// [`RecoverError::Contradiction`]; then the state is of no use any more.
pub(crate) fn apply_all(cluster: &mut Cluster, time: Time, first: u64, events: &[Event]) -> Result<(), RecoverError> {
    apply_seen(cluster, time, first, events, &mut |_, _, _| ())
}

/// Shown each event with its position and the state right after it.
pub(crate) type See<'a> = &'a mut dyn FnMut(&Cluster, u64, &Event);

/// As `apply_all`, shown to `see`.
///
/// # Errors
/// As `apply_all`.
pub(crate) fn apply_seen(
    cluster: &mut Cluster,
    time: Time,
    first: u64,
    events: &[Event],
    see: See<'_>,
) -> Result<(), RecoverError> {
    let mut done = 0;
    // `apply` asserts instead of failing, because on the events that it decided itself it cannot fail. Those of a disk
    // deserve an answer with a position; the half-changed state is dropped by the callers.
    let applied = catch_unwind(AssertUnwindSafe(|| {
        for event in events {
            cluster.apply(time, event);
            see(cluster, first + done as u64, event);
            done += 1;
        }
    }));
    applied.map_err(|panic| RecoverError::Contradiction {
        seq: first + done as u64,
        event: format!("{:?}", events[done]),
        why: reason(panic.as_ref()),
    })
}

fn reason(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no reason given".to_owned())
}

#[cfg(test)]
mod tests;
