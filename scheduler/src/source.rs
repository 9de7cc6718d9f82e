//! A journal as a stream of turns: what recovery, the follower and exports read.
//!
//! In: a leading engine or a reader beside it. Out: decoded turns in order, a page of them in memory at a time. A gap, a
//! wrong count or an unreadable record is an error with its position, never a shorter stream.

use dure_core::event::Event;
use dure_core::ids::{Epoch, Seq};
use dure_core::units::Time;

use crate::journal::{Batch, Engine, FoundSnapshot, JournalError, JournalReader, ReadLimit, Reader, Snapshot};
use crate::record::{self, CallRecord, RecordError};

/// One durable turn.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DurableBatch {
    /// Position of the first event.
    pub first_seq: u64,
    /// Under which leader.
    pub epoch: Epoch,
    /// When it happened.
    pub time: Time,
    /// What happened; never empty.
    pub events: Vec<Event>,
    /// The calls that led to some of it.
    pub calls: Vec<CallRecord>,
}

impl DurableBatch {
    /// Position of the last event.
    pub fn last(&self) -> Seq {
        Seq((self.first_seq + self.events.len() as u64).saturating_sub(1))
    }
}

/// Something that a journal can be read from.
pub trait Source {
    /// Position of the last durable event.
    ///
    /// # Errors
    /// Those of reading.
    fn last_position(&self) -> Result<Seq, JournalError>;

    /// Batches from the one that contains `from` on, oldest first; empty past the end.
    ///
    /// # Errors
    /// As [`Engine::read`].
    fn batches_from(&self, from: Seq, limit: ReadLimit) -> Result<Vec<Batch>, JournalError>;

    /// The newest snapshot whose checksum holds.
    ///
    /// # Errors
    /// As [`Engine::newest_snapshot`].
    fn sound_snapshot(&self) -> Result<FoundSnapshot, JournalError>;

    /// The newest snapshot whose checksum holds, among those at `seq` or before it.
    ///
    /// # Errors
    /// As [`Engine::newest_snapshot`].
    fn snapshot_up_to(&self, seq: Seq) -> Result<Option<Snapshot>, JournalError> {
        Ok(self.sound_snapshot()?.snapshot.filter(|found| found.seq <= seq.0))
    }

    /// The state before the first batch that is kept; none where that is the first batch of all.
    ///
    /// # Errors
    /// As [`Reader::beginning`].
    fn beginning(&self) -> Result<Option<Snapshot>, JournalError> {
        Ok(None)
    }
}

impl<E: Engine + ?Sized> Source for E {
    fn last_position(&self) -> Result<Seq, JournalError> {
        Ok(Seq(self.head().seq))
    }

    fn batches_from(&self, from: Seq, limit: ReadLimit) -> Result<Vec<Batch>, JournalError> {
        self.read(from.0, limit)
    }

    fn sound_snapshot(&self) -> Result<FoundSnapshot, JournalError> {
        self.newest_snapshot()
    }
}

impl Source for JournalReader {
    fn last_position(&self) -> Result<Seq, JournalError> {
        Ok(Seq(self.head()?.seq))
    }

    fn batches_from(&self, from: Seq, limit: ReadLimit) -> Result<Vec<Batch>, JournalError> {
        self.read(from.0, limit)
    }

    fn sound_snapshot(&self) -> Result<FoundSnapshot, JournalError> {
        self.newest_snapshot()
    }

    fn snapshot_up_to(&self, seq: Seq) -> Result<Option<Snapshot>, JournalError> {
        Ok(Reader::snapshot_up_to(self, seq.0)?.snapshot)
    }

    fn beginning(&self) -> Result<Option<Snapshot>, JournalError> {
        Reader::beginning(self)
    }
}

impl Source for Box<dyn Reader> {
    fn last_position(&self) -> Result<Seq, JournalError> {
        Ok(Seq(self.head()?.seq))
    }

    fn batches_from(&self, from: Seq, limit: ReadLimit) -> Result<Vec<Batch>, JournalError> {
        self.read(from.0, limit)
    }

    fn sound_snapshot(&self) -> Result<FoundSnapshot, JournalError> {
        self.newest_snapshot()
    }

    fn snapshot_up_to(&self, seq: Seq) -> Result<Option<Snapshot>, JournalError> {
        Ok(Reader::snapshot_up_to(self.as_ref(), seq.0)?.snapshot)
    }

    fn beginning(&self) -> Result<Option<Snapshot>, JournalError> {
        Reader::beginning(self.as_ref())
    }
}

/// Why the stream of turns broke off.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The journal could not be read.
    #[error("{0}")]
    Journal(#[from] JournalError),
    /// Positions are missing between two batches.
    #[error("the journal goes on at position {found} where {expected} was expected: restore the newest backup")]
    Gap {
        /// Where the next batch was to start.
        expected: u64,
        /// Where it starts.
        found: u64,
    },
    /// A payload cannot be read.
    #[error("the batch at positions {first} to {last} cannot be read: {error}")]
    Record {
        /// Its first position.
        first: u64,
        /// Its last position.
        last: u64,
        /// Why.
        error: RecordError,
    },
    /// A payload holds another number of events than its row says.
    #[error("the batch at position {first} holds {found} events, its row says {stated}: restore the newest backup")]
    Count {
        /// Its first position.
        first: u64,
        /// What the row says.
        stated: u32,
        /// What the payload holds.
        found: usize,
    },
}

/// The turns of a journal from a position on, to the end as it is when it is reached.
pub struct Turns<'s, S: ?Sized> {
    source: &'s S,
    limit: ReadLimit,
    next: Seq,
    page: std::vec::IntoIter<Batch>,
    over: bool,
}

impl<'s, S: Source + ?Sized> Turns<'s, S> {
    /// The turns that start at `from` or later; a batch must start exactly there unless the journal ends before.
    pub fn from(source: &'s S, from: Seq) -> Self {
        Self { source, limit: ReadLimit::default(), next: from, page: Vec::new().into_iter(), over: false }
    }

    /// One page of turns from `from` on, at most `limit`; empty past the end.
    ///
    /// # Errors
    /// [`SourceError`] with the position of what stands in the way.
    pub fn page(source: &'s S, from: Seq, limit: ReadLimit) -> Result<Vec<DurableBatch>, SourceError> {
        let page = source.batches_from(from, limit)?.into_iter();
        let mut turns = Self { source, limit, next: from, page, over: false };
        let mut page = Vec::new();
        while let Some(batch) = turns.page.next() {
            page.push(turns.decode(&batch)?);
        }
        Ok(page)
    }

    fn read(&mut self) -> Result<Option<DurableBatch>, SourceError> {
        let batch = match self.page.next() {
            Some(batch) => batch,
            None => {
                self.page = self.source.batches_from(self.next, self.limit)?.into_iter();
                match self.page.next() {
                    Some(batch) => batch,
                    None => return Ok(None),
                }
            }
        };
        self.decode(&batch).map(Some)
    }

    fn decode(&mut self, batch: &Batch) -> Result<DurableBatch, SourceError> {
        if batch.first_seq != self.next.0 {
            return Err(SourceError::Gap { expected: self.next.0, found: batch.first_seq });
        }
        let decoded = DurableBatch::decode(batch)?;
        self.next = Seq(batch.last_seq() + 1);
        Ok(decoded)
    }
}

impl DurableBatch {
    /// Decodes a batch.
    ///
    /// # Errors
    /// [`SourceError::Record`] and [`SourceError::Count`].
    pub fn decode(batch: &Batch) -> Result<Self, SourceError> {
        let (first, last) = (batch.first_seq, batch.last_seq());
        let record::Recorded { time, events, calls } =
            record::decode_with_calls(&batch.payload).map_err(|error| SourceError::Record { first, last, error })?;
        if events.len() != batch.count as usize {
            return Err(SourceError::Count { first, stated: batch.count, found: events.len() });
        }
        Ok(Self { first_seq: first, epoch: Epoch(batch.epoch), time, events, calls })
    }
}

impl<S: Source + ?Sized> Iterator for Turns<'_, S> {
    type Item = Result<DurableBatch, SourceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let next = self.read().transpose();
        self.over = !matches!(next, Some(Ok(_)));
        next
    }
}
