//! What can be wrong with the bytes of a record.

/// Why a payload cannot be read. The remedy is never to skip it: use the newer binary, or restore a backup.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RecordError {
    /// The bytes are no message at all.
    #[error("the payload is malformed: {0}; restore the newest backup")]
    Malformed(prost::DecodeError),
    /// One event cannot be read.
    #[error("event {index} of the payload: {fault}")]
    Event {
        /// Its place in the payload, from 0.
        index: usize,
        /// What is wrong with it.
        fault: Fault,
    },
}

/// What is wrong with one event. Fields are named as in the schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A kind of event that this version does not know.
    #[error("its kind is unknown: a newer version wrote it; use the newer binary")]
    UnknownEvent,
    /// A part without which it means nothing.
    #[error("{field} is missing: a newer version wrote it, or it is damaged; use the newer binary or restore a backup")]
    Missing {
        /// Which part.
        field: &'static str,
    },
    /// A word that this version does not know.
    #[error("{field} has the unknown value {value}: a newer version wrote it; use the newer binary")]
    UnknownWord {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: i32,
    },
    /// A number that is too large for what it counts, or 0 where there is at least one.
    #[error("{field} is {value}, it must lie between {least} and {most}: it is damaged; restore a backup")]
    OutOfRange {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// The least that it may be.
        least: u64,
        /// The most that it may be.
        most: u64,
    },
}

/// A part that must be there.
pub(super) fn needed<T>(field: &'static str, part: Option<T>) -> Result<T, Fault> {
    part.ok_or(Fault::Missing { field })
}

/// A number that must lie between two others.
pub(super) fn within(field: &'static str, value: u64, least: u64, most: u64) -> Result<u64, Fault> {
    if (least..=most).contains(&value) { Ok(value) } else { Err(Fault::OutOfRange { field, value, least, most }) }
}
