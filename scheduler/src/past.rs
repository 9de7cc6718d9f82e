//! What has happened, read back from the journal for watchers that come late.

use std::sync::{Mutex, PoisonError};

use dure_core::ids::Seq;

use crate::grpc::watch::{Past, Recorded};
use crate::journal::{JournalError, ReadLimit, Reader};
use crate::record;

/// Batches that one step reads: a watcher catches up in many small steps.
const STEP: ReadLimit = ReadLimit { batches: 256, bytes: 1 << 20 };

/// The journal as watchers see it.
pub struct JournalPast {
    reader: Mutex<Box<dyn Reader>>,
}

impl JournalPast {
    /// Reads with a reader of its own.
    pub fn new(reader: Box<dyn Reader>) -> Self {
        Self { reader: Mutex::new(reader) }
    }
}

impl Past for JournalPast {
    fn events(&self, after: Seq, limit: usize) -> Result<Vec<Recorded>, JournalError> {
        let from = after.0 + 1;
        let batches = self.reader.lock().unwrap_or_else(PoisonError::into_inner).read(from, STEP)?;
        let mut out = Vec::new();
        for batch in batches {
            let unreadable = |err: record::RecordError| JournalError::Storage {
                dir: Default::default(),
                doing: "decoding a batch for a watcher",
                detail: format!("positions {} to {}: {err}", batch.first_seq, batch.last_seq()),
            };
            let (time, events) = record::decode(&batch.payload).map_err(unreadable)?;
            for (at, event) in events.into_iter().enumerate() {
                let seq = batch.first_seq + at as u64;
                if seq >= from && out.len() < limit {
                    out.push(Recorded { seq: Seq(seq), time, event });
                }
            }
            if out.len() >= limit {
                break;
            }
        }
        Ok(out)
    }
}
