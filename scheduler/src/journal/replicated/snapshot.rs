//! Snapshots in etcd: chunks under keys of their own, visible once the snapshot's own key is there.

use std::time::Duration;

use super::super::snapshot::{Stored, check_size};
use super::super::{JournalError, SNAPSHOTS_KEPT, SnapshotInfo};
use super::{PATIENCE, ReplicatedEngine, layout, storage};
use crate::etcd::Patience;
use crate::etcd::keys::Range;

/// The position in the key of a snapshot.
pub(super) fn position_of(key: &[u8]) -> Option<u64> {
    let digits = key.rsplit(|byte| *byte == b'/').next()?;
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

impl ReplicatedEngine {
    /// Positions of the visible snapshots, oldest first.
    pub(super) fn visible_snapshots(&self) -> Result<Vec<u64>, JournalError> {
        let found = self.keys_of(self.keys.snapshots(), 0)?;
        Ok(found.iter().filter_map(|key| position_of(key)).collect())
    }

    pub(super) fn keys_of(&self, range: Range, limit: i64) -> Result<Vec<Vec<u8>>, JournalError> {
        let (etcd, left) = (self.etcd.clone(), self.patience());
        let asked = self.etcd.block(async move { etcd.range(range, limit, true, Patience::of(left)).await });
        let found = asked.map_err(|err| storage(&self.etcd, "listing keys", err))?;
        Ok(found.kvs.into_iter().map(|found| found.key.to_vec()).collect())
    }

    /// Housekeeping is not tried for longer than the leadership is known to last.
    fn patience(&self) -> Duration {
        self.key.tenure.left().min(PATIENCE)
    }

    pub(super) fn write_chunk(&mut self, seq: u64, index: u32, bytes: &[u8]) -> Result<(), JournalError> {
        if index == 0 {
            self.put("starting a snapshot", vec![layout::delete(self.keys.snapshot_chunks(seq))])?;
        }
        let chunk = layout::put(self.keys.snapshot_chunk(seq, index), bytes.to_vec());
        self.put("writing a snapshot", vec![chunk])?;
        self.chores.look_for_hidden();
        Ok(())
    }

    /// Everything that can be refused without a write having failed.
    pub(super) fn stored_snapshot(&self, info: &SnapshotInfo) -> Result<Stored, JournalError> {
        check_size(info)?;
        let bad = |why: String| Err(JournalError::BadSnapshot { seq: info.seq, why });
        let head = match self.reader.head_at(info.seq) {
            Ok(head) => head,
            Err(JournalError::Truncated { kept_from }) => return bad(format!("positions before {kept_from} are gone")),
            Err(err) => return Err(err),
        };
        let Some(head) = head else { return bad(format!("no batch ends there (head {})", self.head.seq)) };
        if let Some(newest) = self.visible_snapshots()?.last().filter(|newest| **newest >= info.seq) {
            return bad(format!("there is one at position {newest} already"));
        }
        let chunks = self.keys_of(self.keys.snapshot_chunks(info.seq), 0)?.len();
        if chunks != info.chunks as usize {
            return bad(format!("{chunks} chunks are stored, {} belong to it", info.chunks));
        }
        Ok(Stored { info: *info, head })
    }

    pub(super) fn publish(&mut self, stored: &Stored) -> Result<(), JournalError> {
        let mut ops = vec![layout::put(self.keys.snapshot(stored.info.seq), layout::snapshot(stored))];
        let visible = self.visible_snapshots()?;
        let surplus = (visible.len() + 1).saturating_sub(SNAPSHOTS_KEPT);
        ops.extend(visible[..surplus].iter().map(|seq| layout::delete(Range::one(self.keys.snapshot(*seq)))));
        // What the older of those kept does not need for its recovery.
        let oldest = visible[surplus..].first().copied();
        self.put("publishing a snapshot", ops)?;
        self.chores.published(oldest);
        Ok(())
    }
}
