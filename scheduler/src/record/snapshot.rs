//! A whole state as bytes: a header, its events in batches, an end that counts them.
//!
//! In: a cluster, or the bytes of a snapshot. Out: the bytes, or its events batch by batch, so that neither way holds all
//! events at once. A snapshot whose header, count or end does not hold is an error, never a smaller state.

use dure_core::Cluster;
use dure_core::event::Event;
use dure_core::ids::Seq;
use dure_core::units::Time;
use dure_proto::journal::v1;
use dure_proto::journal::v1::snapshot_part::Part;
use prost::Message as _;
use prost::bytes::Buf as _;

use super::{BatchEncoder, RecordError, decode};
use crate::journal::MAX_SNAPSHOT_BYTES;

/// The format that this version writes, and the highest that it reads.
pub const SNAPSHOT_FORMAT: u32 = 1;

/// Bytes after which a batch of a snapshot takes no further event: bounds what reading holds at once.
const BATCH_BYTES: usize = 256 << 10;

/// A state too large for one snapshot. The journal goes on without; recovery replays more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the state takes more than {MAX_SNAPSHOT_BYTES} bytes as a snapshot: lower max_ended or max_pending_jobs")]
pub struct SnapshotTooLarge;

/// What a snapshot says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotHeader {
    /// Position of the last event that the state contains.
    pub seq: Seq,
    /// Time of that event.
    pub time: Time,
}

/// The bytes of a snapshot of `cluster`, which stands at `seq` since `time`.
///
/// # Errors
/// [`SnapshotTooLarge`] above the journal's limit.
pub fn encode_snapshot(cluster: &Cluster, seq: Seq, time: Time) -> Result<Vec<u8>, SnapshotTooLarge> {
    let mut out = Vec::new();
    let header = v1::SnapshotHeader { format: SNAPSHOT_FORMAT, seq: seq.0, time_ms: time.0 };
    push_part(&mut out, Part::Header(header));
    let (mut events, mut batch) = (0, BatchEncoder::new(time, 0));
    for event in cluster.snapshot() {
        batch.push(&event);
        if batch.bytes.len() >= BATCH_BYTES {
            events += push_batch(&mut out, &batch)?;
            batch = BatchEncoder::new(time, 0);
        }
    }
    events += push_batch(&mut out, &batch)?;
    push_part(&mut out, Part::End(v1::SnapshotEnd { events }));
    Ok(out)
}

fn push_part(out: &mut Vec<u8>, part: Part) {
    v1::SnapshotPart { part: Some(part) }.encode_length_delimited(out).expect("a vector takes whatever comes");
}

/// Writes the part around bytes that are an encoded batch already.
fn push_batch(out: &mut Vec<u8>, batch: &BatchEncoder) -> Result<u64, SnapshotTooLarge> {
    use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
    let length = batch.bytes.len() as u64;
    encode_varint((key_len(BATCH_TAG) + encoded_len_varint(length)) as u64 + length, out);
    encode_key(BATCH_TAG, WireType::LengthDelimited, out);
    encode_varint(length, out);
    out.extend_from_slice(&batch.bytes);
    if out.len() > MAX_SNAPSHOT_BYTES { Err(SnapshotTooLarge) } else { Ok(batch.events) }
}

/// The number of `SnapshotPart.batch`.
const BATCH_TAG: u32 = 2;

/// Why a snapshot whose checksum holds cannot be read.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SnapshotError {
    /// A newer version wrote it.
    #[error("the snapshot has format {found}, this binary knows up to {SNAPSHOT_FORMAT}: use the newer binary")]
    NewerFormat {
        /// Its format.
        found: u32,
    },
    /// It is not a sequence of a header, batches and an end.
    #[error("the snapshot is malformed: {why}")]
    Malformed {
        /// What does not hold.
        why: &'static str,
    },
    /// One of its batches cannot be read.
    #[error("batch {batch} of the snapshot: {error}")]
    Batch {
        /// Which, from 0.
        batch: u64,
        /// Why.
        error: RecordError,
    },
}

/// Reads a snapshot batch by batch. Ends after the end part, or after the first error.
#[derive(Debug)]
pub struct SnapshotReader<'b> {
    rest: &'b [u8],
    batches: u64,
    events: u64,
    over: bool,
}

impl<'b> SnapshotReader<'b> {
    /// Reads the header.
    ///
    /// # Errors
    /// [`SnapshotError`] when there is none, or it is of a newer format.
    pub fn open(bytes: &'b [u8]) -> Result<(SnapshotHeader, Self), SnapshotError> {
        let mut reader = Self { rest: bytes, batches: 0, events: 0, over: false };
        let Some(Part::Header(header)) = reader.part()? else {
            return Err(SnapshotError::Malformed { why: "it does not begin with a header" });
        };
        if header.format != SNAPSHOT_FORMAT {
            return Err(SnapshotError::NewerFormat { found: header.format });
        }
        Ok((SnapshotHeader { seq: Seq(header.seq), time: Time(header.time_ms) }, reader))
    }

    fn part(&mut self) -> Result<Option<Part>, SnapshotError> {
        let malformed = |why| SnapshotError::Malformed { why };
        let length = prost::decode_length_delimiter(&mut self.rest)
            .map_err(|_| malformed("it ends before its end part, or a length is wrong"))?;
        if length > self.rest.remaining() {
            return Err(malformed("a part is longer than what is left"));
        }
        let (part, rest) = self.rest.split_at(length);
        self.rest = rest;
        let part = v1::SnapshotPart::decode(part)
            .map_err(|error| SnapshotError::Batch { batch: self.batches, error: RecordError::Malformed(error) })?;
        Ok(part.part)
    }

    fn next_batch(&mut self) -> Result<Option<Vec<Event>>, SnapshotError> {
        let malformed = |why| Err(SnapshotError::Malformed { why });
        match self.part()? {
            Some(Part::Batch(batch)) => {
                let events = decode::events(batch.events)
                    .map_err(|error| SnapshotError::Batch { batch: self.batches, error })?;
                self.batches += 1;
                self.events += events.len() as u64;
                Ok(Some(events))
            }
            Some(Part::End(end)) if end.events != self.events => malformed("its end counts other events than it holds"),
            Some(Part::End(_)) if !self.rest.is_empty() => malformed("something follows its end"),
            Some(Part::End(_)) => Ok(None),
            Some(Part::Header(_)) => malformed("a second header"),
            None => malformed("a part of an unknown kind: a newer version wrote it"),
        }
    }
}

impl Iterator for SnapshotReader<'_> {
    type Item = Result<Vec<Event>, SnapshotError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let next = self.next_batch().transpose();
        self.over = !matches!(next, Some(Ok(_)));
        next
    }
}
