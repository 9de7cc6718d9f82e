//! The values under the keys, and the pieces of transactions. Pure.

use dure_proto::etcd::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, compare, request_op::Request,
};
use dure_proto::journal::v1::{StoredBatch, StoredEntry, StoredFacts, StoredHead, StoredSnapshot};
use prost::Message as _;

use super::super::chain::{Hash, Row};
use super::super::snapshot::Stored;
use super::super::{Batch, Head, SnapshotInfo, StoreId};
use crate::etcd::keys::Range;
use crate::etcd::{MAX_REQUEST_BYTES, MAX_TXN_OPS};

/// Format of the store that this binary writes, and the newest that it knows.
pub(super) const FORMAT: u32 = 1;
/// Bytes that keys, compares and the head add to a transaction, at most.
pub(super) const OVERHEAD: usize = 16 << 10;
/// Bytes of one entry's value; a larger one lies in parts.
pub(super) const ENTRY_BYTES: usize = 900 << 10;
/// Bytes of one chunk of a blob, or of one part of an entry.
pub(super) const CHUNK_BYTES: usize = 512 << 10;
/// What a row adds to its payload.
const ROW_OVERHEAD: usize = 128;

/// What the store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::journal) struct Facts {
    pub(in crate::journal) store_id: StoreId,
    pub(in crate::journal) epoch_base: u64,
    pub(in crate::journal) restore_floor: u64,
}

impl Facts {
    /// The epoch of the leader whose key was created at this revision.
    pub(super) fn epoch_of(&self, revision: i64) -> u64 {
        self.epoch_base.saturating_add(revision.unsigned_abs())
    }

    fn crc(&self, format: u32) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&format.to_le_bytes());
        crc.update(&self.store_id.0);
        crc.update(&self.epoch_base.to_le_bytes());
        crc.update(&self.restore_floor.to_le_bytes());
        crc.finalize()
    }
}

pub(super) fn facts(facts: &Facts) -> Vec<u8> {
    let Facts { store_id, epoch_base, restore_floor } = *facts;
    let crc = facts.crc(FORMAT);
    StoredFacts { format: FORMAT, store_id: store_id.0.to_vec(), epoch_base, restore_floor, crc }.encode_to_vec()
}

/// Why a value is of no use.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// Written by a newer version, with this format.
    Newer(u32),
    /// Changed, or never ours.
    Damaged,
}

pub(super) fn read_facts(value: &[u8]) -> Result<Facts, Unreadable> {
    let stored = StoredFacts::decode(value).map_err(|_| Unreadable::Damaged)?;
    let store_id = StoreId(stored.store_id.try_into().map_err(|_| Unreadable::Damaged)?);
    let facts = Facts { store_id, epoch_base: stored.epoch_base, restore_floor: stored.restore_floor };
    if facts.crc(stored.format) != stored.crc {
        return Err(Unreadable::Damaged);
    }
    if stored.format > FORMAT { Err(Unreadable::Newer(stored.format)) } else { Ok(facts) }
}

pub(super) fn head(head: &Head) -> Vec<u8> {
    StoredHead { seq: head.seq, hash: head.hash.0.to_vec(), epoch: head.epoch }.encode_to_vec()
}

pub(super) fn read_head(value: &[u8]) -> Option<Head> {
    let stored = StoredHead::decode(value).ok()?;
    Some(Head { seq: stored.seq, hash: Hash(stored.hash.try_into().ok()?), epoch: stored.epoch })
}

pub(super) fn entry(rows: &[Row], parts: u32) -> Vec<u8> {
    let batches = rows.iter().map(|row| StoredBatch {
        first_seq: row.batch.first_seq,
        count: row.batch.count,
        epoch: row.batch.epoch,
        crc: row.crc,
        prev_hash: row.prev_hash.0.to_vec(),
        hash: row.hash.0.to_vec(),
        payload: row.batch.payload.clone(),
    });
    StoredEntry { batches: batches.collect(), parts }.encode_to_vec()
}

/// The rows of an entry, or in how many parts it lies.
pub(super) enum Entry {
    Rows(Vec<Row>),
    Parts(u32),
}

pub(super) fn read_entry(value: &[u8]) -> Option<Entry> {
    let stored = StoredEntry::decode(value).ok()?;
    if stored.parts > 0 {
        return Some(Entry::Parts(stored.parts));
    }
    let row = |stored: StoredBatch| {
        let StoredBatch { first_seq, count, epoch, crc, prev_hash, hash, payload } = stored;
        let batch = Batch { first_seq, count, epoch, payload };
        Some(Row { batch, crc, prev_hash: Hash(prev_hash.try_into().ok()?), hash: Hash(hash.try_into().ok()?) })
    };
    let rows: Option<Vec<Row>> = stored.batches.into_iter().map(row).collect();
    rows.filter(|rows| !rows.is_empty()).map(Entry::Rows)
}

pub(super) fn snapshot(stored: &Stored) -> Vec<u8> {
    let Stored { info, head } = stored;
    StoredSnapshot {
        seq: info.seq,
        created_ms: info.created_ms,
        bytes: info.bytes,
        chunks: info.chunks,
        content_crc: info.content_crc,
        hash: head.hash.0.to_vec(),
        epoch: head.epoch,
        crc: stored.crc(),
    }
    .encode_to_vec()
}

pub(super) fn read_snapshot(value: &[u8]) -> Option<Stored> {
    let found = StoredSnapshot::decode(value).ok()?;
    let StoredSnapshot { seq, created_ms, bytes, chunks, content_crc, hash, epoch, crc } = found;
    let info = SnapshotInfo { seq, created_ms, bytes, chunks, content_crc };
    let stored = Stored { info, head: Head { seq, hash: Hash(hash.try_into().ok()?), epoch } };
    (stored.crc() == crc).then_some(stored)
}

/// Cuts rows into entries that fit into one value each; a row that alone is too large makes one of its own.
pub(super) fn cut(rows: Vec<Row>) -> Vec<Vec<Row>> {
    let mut entries: Vec<Vec<Row>> = Vec::new();
    let mut bytes = 0;
    for row in rows {
        let size = row.batch.payload.len() + ROW_OVERHEAD;
        bytes += size;
        match entries.last_mut() {
            Some(entry) if bytes <= ENTRY_BYTES => entry.push(row),
            Some(_) | None => {
                bytes = size;
                entries.push(vec![row]);
            }
        }
    }
    entries
}

/// Cuts operations into transactions that etcd takes.
pub(in crate::journal) fn groups(ops: Vec<RequestOp>) -> Vec<Vec<RequestOp>> {
    let mut groups: Vec<Vec<RequestOp>> = Vec::new();
    let mut bytes = 0;
    for op in ops {
        let size = op.encoded_len();
        bytes += size;
        match groups.last_mut() {
            Some(group) if group.len() < MAX_TXN_OPS && bytes + OVERHEAD <= MAX_REQUEST_BYTES => group.push(op),
            Some(_) | None => {
                bytes = size;
                groups.push(vec![op]);
            }
        }
    }
    groups
}

pub(super) fn size(ops: &[RequestOp]) -> usize {
    ops.iter().map(|op| op.encoded_len()).sum()
}

pub(crate) fn put(key: Vec<u8>, value: Vec<u8>) -> RequestOp {
    let put = PutRequest { key: key.into(), value: value.into(), lease: 0 };
    RequestOp { request: Some(Request::RequestPut(put)) }
}

pub(crate) fn get(key: Vec<u8>) -> RequestOp {
    range(Range::one(key), 0)
}

pub(super) fn range(range: Range, limit: i64) -> RequestOp {
    let range = RangeRequest { key: range.key.into(), range_end: range.end.into(), limit, keys_only: false };
    RequestOp { request: Some(Request::RequestRange(range)) }
}

pub(crate) fn delete(range: Range) -> RequestOp {
    let delete = DeleteRangeRequest { key: range.key.into(), range_end: range.end.into() };
    RequestOp { request: Some(Request::RequestDeleteRange(delete)) }
}

/// The key was created at this revision; 0: it does not exist.
pub(crate) fn created_at(key: Vec<u8>, revision: i64) -> Compare {
    Compare {
        result: compare::CompareResult::Equal.into(),
        target: compare::CompareTarget::Create.into(),
        key: key.into(),
        target_union: Some(compare::TargetUnion::CreateRevision(revision)),
    }
}

/// The key has this value.
pub(super) fn has_value(key: Vec<u8>, value: Vec<u8>) -> Compare {
    Compare {
        result: compare::CompareResult::Equal.into(),
        target: compare::CompareTarget::Value.into(),
        key: key.into(),
        target_union: Some(compare::TargetUnion::Value(value.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::chain::{genesis, seal};
    use super::*;

    fn rows(sizes: &[usize]) -> Vec<Row> {
        let mut head = genesis(StoreId([3; 16]));
        let row = |size: &usize| {
            let batch = Batch { first_seq: head.seq + 1, count: 2, epoch: 5, payload: vec![7; *size] };
            let (crc, after) = seal(&head, &batch);
            let prev_hash = std::mem::replace(&mut head, after).hash;
            Row { batch, crc, prev_hash, hash: after.hash }
        };
        sizes.iter().map(row).collect()
    }

    #[test]
    fn entries_read_back_and_keep_below_their_limit() {
        let rows = rows(&[10, 500 << 10, 500 << 10, 3 << 20, 1]);
        let entries = cut(rows.clone());
        let lengths: Vec<usize> = entries.iter().map(Vec::len).collect();
        assert_eq!(lengths, [2, 1, 1, 1]);
        assert_eq!(entries.concat(), rows);
        for rows in entries {
            match read_entry(&entry(&rows, 0)) {
                Some(Entry::Rows(read)) => assert_eq!(read, rows),
                Some(Entry::Parts(_)) | None => panic!("not what was written"),
            }
        }
        assert!(matches!(read_entry(&entry(&[], 4)), Some(Entry::Parts(4))));
        assert!(read_entry(&entry(&[], 0)).is_none() && read_entry(b"nonsense").is_none());
    }

    #[test]
    fn facts_and_heads_read_back_and_a_changed_byte_is_seen() {
        let known = Facts { store_id: StoreId([1; 16]), epoch_base: 77, restore_floor: 5 };
        let value = facts(&known);
        assert_eq!(read_facts(&value), Ok(known));
        for at in 0..value.len() {
            let mut changed = value.clone();
            changed[at] ^= 1;
            assert!(read_facts(&changed).is_err(), "byte {at}");
        }
        let end = genesis(StoreId([1; 16]));
        assert_eq!(read_head(&head(&end)), Some(end));
        assert_eq!(known.epoch_of(9), 86);
    }

    #[test]
    fn groups_keep_the_limits_of_a_transaction() {
        let ops: Vec<RequestOp> = (0..250).map(|n| put(vec![n], vec![0; 20 << 10])).collect();
        let groups = groups(ops.clone());
        assert!(groups.iter().all(|group| group.len() <= MAX_TXN_OPS && size(group) <= MAX_REQUEST_BYTES));
        assert_eq!(groups.concat(), ops);
    }
}
