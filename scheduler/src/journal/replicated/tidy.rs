//! What is removed, a little at a time: entries before the older snapshot, chunks of snapshots that are not visible, old
//! versions of keys.

use std::time::{Duration, Instant};

use super::super::JournalError;
use super::{PATIENCE, ReplicatedEngine, layout, storage};
use crate::etcd::Patience;

/// Entries that one step deletes.
const ENTRIES_A_STEP: usize = 256;
/// Blobs that one step looks at.
const BLOBS_A_STEP: usize = 64;
/// Every append leaves an old version of the head behind; they are forgotten at least so often.
const COMPACT_EVERY: Duration = Duration::from_secs(120);

/// What is left to do.
#[derive(Debug)]
pub(super) struct Chores {
    /// Entries that end before this position may go.
    cut: Option<u64>,
    hidden: bool,
    /// The revision of the last write.
    revision: i64,
    compacted: (i64, Instant),
}

impl Chores {
    /// Look for everything.
    pub(super) fn all() -> Self {
        Self { cut: None, hidden: true, revision: 0, compacted: (0, Instant::now()) }
    }

    pub(super) fn wrote(&mut self, revision: i64) {
        self.revision = self.revision.max(revision);
    }

    pub(super) fn look_for_hidden(&mut self) {
        self.hidden = true;
    }

    pub(super) fn published(&mut self, oldest_kept: Option<u64>) {
        self.cut = oldest_kept.map(|seq| seq + 1).max(self.cut);
        self.hidden = true;
    }

    fn compaction_due(&self) -> bool {
        self.revision > self.compacted.0 && self.compacted.1.elapsed() >= COMPACT_EVERY
    }
}

impl ReplicatedEngine {
    /// One step; whether more can be done at once.
    pub(super) fn tidy(&mut self, unfinished: Option<u64>) -> Result<bool, JournalError> {
        if !self.key.tenure.holds() {
            return Err(self.lost(self.key.tenure.why_lost()));
        }
        if self.drop_entries()? {
            return Ok(true);
        }
        if self.chores.hidden {
            self.chores.hidden = self.drop_hidden(unfinished)?;
            return Ok(self.chores.hidden);
        }
        if self.sweep_blobs()? {
            return Ok(true);
        }
        if self.chores.compaction_due() {
            self.compact();
        }
        Ok(false)
    }

    /// Deletes some entries that the older snapshot makes superfluous.
    fn drop_entries(&mut self) -> Result<bool, JournalError> {
        let Some(cut) = self.chores.cut else { return Ok(false) };
        // An entry ends where the next one begins.
        let listed = i64::try_from(ENTRIES_A_STEP + 1).unwrap_or(i64::MAX);
        let keys = self.keys_of(self.keys.entries(0, cut + 1), listed)?;
        let begins: Vec<u64> = keys.iter().filter_map(|key| self.keys.position_of(key)).collect();
        let (Some(from), Some(to)) = (begins.first(), begins.get(1..).and_then(<[u64]>::last)) else {
            self.chores.cut = None;
            self.compact();
            return Ok(false);
        };
        let ops = vec![layout::delete(self.keys.entries(*from, *to)), layout::delete(self.keys.parts(*from, *to))];
        self.put("deleting old batches", ops)?;
        Ok(true)
    }

    /// Deletes some blobs that nobody names; whether there may be more.
    fn sweep_blobs(&mut self) -> Result<bool, JournalError> {
        let Some(after) = self.named.walk() else { return Ok(false) };
        let next = self.reader.blob_ids_after(after, BLOBS_A_STEP)?;
        let gone = self.named.step(&next);
        if !gone.is_empty() {
            let ops = gone.iter().map(|id| layout::delete(self.keys.blob(*id))).collect();
            self.put("deleting blobs", ops)?;
            // One that is named again is put again.
            self.known_blobs.retain(|id| !gone.contains(id));
        }
        Ok(true)
    }

    /// Deletes the chunks of one snapshot that is neither visible nor being written.
    fn drop_hidden(&mut self, unfinished: Option<u64>) -> Result<bool, JournalError> {
        let visible = self.visible_snapshots()?;
        let chunks = self.keys_of(self.keys.all_snapshot_chunks(), 0)?;
        let hidden = chunks
            .iter()
            .filter_map(|key| self.keys.snapshot_of(key))
            .find(|seq| !visible.contains(seq) && Some(*seq) != unfinished);
        let Some(seq) = hidden else { return Ok(false) };
        self.put("removing an old snapshot", vec![layout::delete(self.keys.snapshot_chunks(seq))])?;
        Ok(true)
    }

    /// Forgets old versions. That it fails loses nothing: it comes again.
    fn compact(&mut self) {
        let revision = self.chores.revision;
        if revision <= self.chores.compacted.0 {
            return;
        }
        let etcd = self.etcd.clone();
        let asked = self.etcd.block(async move { etcd.compact(revision, Patience::of(PATIENCE)).await });
        self.chores.compacted = (revision, Instant::now());
        if let Err(err) = asked.map_err(|err| storage(&self.etcd, "compacting", err)) {
            tracing::warn!(error = %err, "old versions were not compacted");
        }
    }
}
