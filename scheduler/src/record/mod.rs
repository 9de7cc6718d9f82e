//! Events <-> bytes: the payload of one row of the journal, and snapshots.
//!
//! In: events with their time, or bytes from a disk. Out: the other. What was written once decodes for ever: fields are
//! added, never renumbered, and golden files prove it. Bytes never panic here, whatever they hold: every index, word and
//! missing part is an error that names it. Nothing here knows whether an event fits the state.
//!
//! `encode` and `decode` are one match each over all events, `parts` and `words` go both ways, `snapshot` frames the
//! events of a whole state.

mod bookings;
mod calendar;
mod calls;
mod constraints;
mod decode;
mod encode;
mod fault;
mod ledgers;
mod parts;
mod restored;
mod snapshot;
mod words;

use dure_core::event::Event;
use dure_core::units::Time;
use dure_proto::journal::v1;
use prost::Message as _;

pub use calls::CallRecord;
pub use fault::{Fault, RecordError};
pub use snapshot::{SNAPSHOT_FORMAT, SnapshotError, SnapshotHeader, SnapshotReader, SnapshotTooLarge, encode_snapshot};

/// Bytes that one event takes more often than not: what the first allocation of a payload reckons with.
const USUAL_EVENT_BYTES: usize = 32;

/// The payload of one turn: all `events` happened at `time`.
pub fn encode(time: Time, events: &[Event]) -> Vec<u8> {
    let mut batch = BatchEncoder::new(time, events.len());
    events.iter().for_each(|event| batch.push(event));
    batch.bytes
}

/// The time and the events of a payload.
///
/// # Errors
/// [`RecordError`] names the event and the field that cannot be read; the payload was changed, or a newer version wrote it.
pub fn decode(payload: &[u8]) -> Result<(Time, Vec<Event>), RecordError> {
    let batch = v1::Batch::decode(payload).map_err(RecordError::Malformed)?;
    Ok((Time(batch.time_ms), decode::events(batch.events)?))
}

/// What a payload holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recorded {
    /// When it happened.
    pub time: Time,
    /// What happened.
    pub events: Vec<Event>,
    /// The calls that led to some of it.
    pub calls: Vec<CallRecord>,
}

/// The payload of one turn, with the calls that led to its events.
pub fn encode_with_calls(time: Time, events: &[Event], calls: &[CallRecord]) -> Vec<u8> {
    let mut bytes = encode(time, events);
    for call in calls {
        prost::encoding::message::encode(CALLS_TAG, &calls::to_wire(call), &mut bytes);
    }
    bytes
}

/// Everything that a payload holds.
///
/// # Errors
/// As [`decode`].
pub fn decode_with_calls(payload: &[u8]) -> Result<Recorded, RecordError> {
    let batch = v1::Batch::decode(payload).map_err(RecordError::Malformed)?;
    let calls = batch.calls.into_iter().map(calls::from_wire).collect();
    Ok(Recorded { time: Time(batch.time_ms), events: decode::events(batch.events)?, calls })
}

/// Writes a `Batch` event by event, without ever holding all its records.
struct BatchEncoder {
    bytes: Vec<u8>,
    events: u64,
}

impl BatchEncoder {
    fn new(time: Time, events: usize) -> Self {
        let head = v1::Batch { time_ms: time.0, ..v1::Batch::default() };
        let mut bytes = Vec::with_capacity(16 + events * USUAL_EVENT_BYTES);
        head.encode(&mut bytes).expect("a vector takes whatever comes");
        Self { bytes, events: 0 }
    }

    fn push(&mut self, event: &Event) {
        prost::encoding::encode_key(EVENTS_TAG, prost::encoding::WireType::LengthDelimited, &mut self.bytes);
        encode::record(event).encode_length_delimited(&mut self.bytes).expect("a vector takes whatever comes");
        self.events += 1;
    }
}

/// The number of `Batch.events`.
const EVENTS_TAG: u32 = 2;
/// The number of `Batch.calls`.
const CALLS_TAG: u32 = 3;

#[cfg(test)]
mod tests;
