//! Reading beside the leader: pages of entries in order, blobs, snapshots; and following the journal with its chain proven.
//!
//! In: positions. Out: what is durable, checked. The head and the page are read in one transaction, so that a short page
//! means the end of the journal and nothing else.

use std::collections::BTreeSet;

use dure_proto::etcd::{KeyValue, TxnRequest, response_op::Response};

use super::super::chain::{ChainCheck, Depth, Row, genesis};
use super::super::{
    Batch, BlobId, Finding, FoundSnapshot, Head, JournalError, ReadLimit, Reader, Snapshot, SnapshotInfo, StoreId,
};
use super::layout::{self, Entry, Facts, Unreadable};
use super::{PATIENCE, storage};
use crate::etcd::keys::Range;
use crate::etcd::{Etcd, EtcdError, Keys, Patience};

/// Entries of one page; each is below a megabyte.
const PAGE_ENTRIES: usize = 64;
/// How far back an entry is looked for that contains a position: so many positions, then many more, then all.
const LOOK_BACK: [u64; 3] = [1 << 10, 1 << 17, u64::MAX];

/// A read-only view of a journal in etcd. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ReplicatedReader {
    etcd: Etcd,
    keys: Keys,
    facts: Facts,
}

impl ReplicatedReader {
    /// Opens the journal for reading, whether or not somebody leads on it.
    ///
    /// # Errors
    /// [`JournalError::NoStore`] when there is none; [`JournalError::Damaged`] when its facts do not hold.
    pub fn open(etcd: &Etcd) -> Result<Self, JournalError> {
        Self::open_or_new(etcd)?.ok_or_else(|| JournalError::NoStore { dir: etcd.place() })
    }

    /// As [`Self::open`]; `None` where nobody has led yet.
    pub(crate) fn open_or_new(etcd: &Etcd) -> Result<Option<Self>, JournalError> {
        let keys = etcd.keys();
        let found = one(etcd, keys.facts())?;
        let Some(found) = found else { return Ok(None) };
        if let Some(moved) = one(etcd, keys.moved())? {
            let to = String::from_utf8_lossy(&moved.value).into_owned();
            return Err(JournalError::Moved { dir: etcd.place(), to });
        }
        let facts = layout::read_facts(&found.value).map_err(|why| match why {
            Unreadable::Newer(format) => JournalError::NewerFormat {
                dir: etcd.place(),
                found: i64::from(format),
                known: i64::from(layout::FORMAT),
            },
            Unreadable::Damaged => JournalError::facts(&etcd.place(), "the store's facts fail their checksum"),
        })?;
        Ok(Some(Self { etcd: etcd.clone(), keys, facts }))
    }

    pub(in crate::journal) fn facts(&self) -> Facts {
        self.facts
    }

    /// The newest epoch that any leader may have been given: no leader key was created after the present revision.
    ///
    /// # Errors
    /// Those of reading.
    pub fn newest_epoch(&self) -> Result<u64, JournalError> {
        let (etcd, range) = (self.etcd.clone(), Range::one(self.keys.leader()));
        let asked = self.etcd.block(async move { etcd.range(range, 0, true, Patience::of(PATIENCE)).await });
        let answer = asked.map_err(|err| storage(&self.etcd, "reading the revision", err))?;
        Ok(self.facts.epoch_of(answer.header.map_or(0, |header| header.revision)))
    }

    fn damaged(&self, findings: Vec<Finding>) -> JournalError {
        JournalError::damaged(&self.etcd.place(), findings)
    }

    fn get(&self, range: Range, limit: i64, keys_only: bool) -> Result<Vec<KeyValue>, JournalError> {
        let etcd = self.etcd.clone();
        let asked = self.etcd.block(async move { etcd.range(range, limit, keys_only, Patience::of(PATIENCE)).await });
        asked.map(|answer| answer.kvs).map_err(|err| storage(&self.etcd, "reading", err))
    }

    /// The head, and entries of a range, at one moment.
    fn head_and(&self, range: Range, limit: usize) -> Result<(Head, Vec<KeyValue>), JournalError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let success = vec![layout::get(self.keys.head()), layout::range(range, limit)];
        let request = TxnRequest { compare: Vec::new(), success, failure: Vec::new() };
        let etcd = self.etcd.clone();
        let asked = self.etcd.block(async move { etcd.txn(request, Patience::of(PATIENCE)).await });
        let answer = asked.map_err(|err| storage(&self.etcd, "reading", err))?;
        let mut found = answer.responses.into_iter().map(|answer| match answer.response {
            Some(Response::ResponseRange(range)) => range.kvs,
            Some(Response::ResponsePut(_) | Response::ResponseDeleteRange(_)) | None => Vec::new(),
        });
        let (head, entries) = (found.next().unwrap_or_default(), found.next().unwrap_or_default());
        let head = head.first().and_then(|head| layout::read_head(&head.value));
        let head = head.ok_or_else(|| {
            JournalError::facts(&self.etcd.place(), "the head of the journal is missing or cannot be read")
        })?;
        Ok((head, entries))
    }

    /// The durable head.
    pub(super) fn durable_head(&self) -> Result<Head, JournalError> {
        self.head_and(Range::one(self.keys.head()), 1).map(|(head, _)| head)
    }

    /// Rows from the one that contains `from` on, a page of them, and the head; no rows past the head.
    fn page(&self, from: u64, entries: usize) -> Result<(Head, Vec<Row>), JournalError> {
        let (mut head, mut found) = self.head_and(self.keys.entries(from, u64::MAX), entries)?;
        if from > head.seq {
            return Ok((head, Vec::new()));
        }
        let starts_here = found.first().and_then(|entry| self.keys.position_of(&entry.key)) == Some(from);
        if !starts_here {
            let start = self.entry_containing(from)?;
            (head, found) = self.head_and(self.keys.entries(start, u64::MAX), entries)?;
        }
        let mut rows = Vec::new();
        for entry in found {
            rows.extend(self.rows_of(&entry)?);
        }
        Ok((head, rows))
    }

    /// The first position of the entry that contains `seq`, which is not beyond the head.
    fn entry_containing(&self, seq: u64) -> Result<u64, JournalError> {
        for back in LOOK_BACK {
            let range = self.keys.entries(seq.saturating_sub(back), seq + 1);
            if let Some(found) = self.get(range, 0, true)?.last() {
                return Ok(self.keys.position_of(&found.key).unwrap_or(seq));
            }
        }
        let first = self.get(self.keys.entries(0, u64::MAX), 1, true)?;
        match first.first().and_then(|entry| self.keys.position_of(&entry.key)) {
            Some(kept_from) => Err(JournalError::Truncated { kept_from }),
            None => Err(self.damaged(vec![Finding::Missing { from: seq, to: seq, proof: "the head is beyond them" }])),
        }
    }

    fn rows_of(&self, entry: &KeyValue) -> Result<Vec<Row>, JournalError> {
        let first = self.keys.position_of(&entry.key).unwrap_or(0);
        let broken = || {
            let why = "the entry cannot be read";
            self.damaged(vec![Finding::Broken { from: first, to: first, why }])
        };
        match layout::read_entry(&entry.value).ok_or_else(broken)? {
            Entry::Rows(rows) => Ok(rows),
            Entry::Parts(parts) => {
                let mut whole = Vec::new();
                for index in 0..parts {
                    let part = one(&self.etcd, self.keys.part(first, index))?;
                    whole.extend_from_slice(&part.ok_or_else(broken)?.value);
                }
                match layout::read_entry(&whole).ok_or_else(broken)? {
                    Entry::Rows(rows) => Ok(rows),
                    Entry::Parts(_) => Err(broken()),
                }
            }
        }
    }

    pub(super) fn batches(&self, from_seq: u64, limit: ReadLimit) -> Result<Vec<Batch>, JournalError> {
        let from = from_seq.max(1);
        let (_, rows) = self.page(from, limit.batches.clamp(1, PAGE_ENTRIES))?;
        let mut check: Option<ChainCheck> = None;
        let (mut batches, mut bytes) = (Vec::new(), 0);
        for row in rows.into_iter().filter(|row| row.batch.last_seq() >= from) {
            if batches.len() >= limit.batches.max(1) || (!batches.is_empty() && bytes >= limit.bytes) {
                break;
            }
            let first = row.batch.first_seq.min(from);
            check.get_or_insert_with(|| ChainCheck::from_position(first, Depth::Checksum)).follow(&row);
            bytes += row.batch.payload.len();
            batches.push(row.batch);
        }
        match check {
            Some(check) if !check.findings.is_empty() => Err(self.damaged(check.findings)),
            Some(_) | None => Ok(batches),
        }
    }

    /// The row that ends at `seq`, as a head.
    pub(super) fn head_at(&self, seq: u64) -> Result<Option<Head>, JournalError> {
        let (_, rows) = self.page(seq.max(1), 1)?;
        Ok(rows.iter().find(|row| row.batch.last_seq() == seq).map(super::head_of))
    }

    /// The first position of the oldest entry that is kept.
    fn oldest_position(&self) -> Result<Option<u64>, JournalError> {
        let found = self.get(self.keys.entries(0, u64::MAX), 1, true)?;
        Ok(found.first().and_then(|entry| self.keys.position_of(&entry.key)))
    }

    /// The ids of all blobs.
    pub(in crate::journal) fn blob_ids(&self) -> Result<BTreeSet<BlobId>, JournalError> {
        let found = self.get(self.keys.blobs(), 0, true)?;
        Ok(found.iter().filter_map(|chunk| self.keys.blob_of(&chunk.key)).collect())
    }

    /// The ids of the next blobs, in order, at most so many.
    pub(super) fn blob_ids_after(&self, after: Option<BlobId>, limit: usize) -> Result<Vec<BlobId>, JournalError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let found = self.get(self.keys.blobs_after(after), limit, true)?;
        let ids: BTreeSet<BlobId> = found.iter().filter_map(|chunk| self.keys.blob_of(&chunk.key)).collect();
        Ok(ids.into_iter().collect())
    }

    pub(in crate::journal) fn blob(&self, id: BlobId) -> Result<Option<Vec<u8>>, JournalError> {
        let chunks = self.get(self.keys.blob(id), 0, false)?;
        if chunks.is_empty() {
            return Ok(None);
        }
        let bytes: Vec<u8> = chunks.iter().flat_map(|chunk| chunk.value.iter().copied()).collect();
        if BlobId::of(&bytes) != id {
            return Err(self.damaged(vec![Finding::Blob { id: id.to_string() }]));
        }
        Ok(Some(bytes))
    }

    /// The newest snapshot that holds.
    pub(super) fn snapshot(&self, up_to: u64) -> Result<FoundSnapshot, JournalError> {
        let (found, damaged) = self.newest_stored(up_to)?;
        let snapshot = found.map(|((info, _), bytes)| Snapshot { seq: info.seq, created_ms: info.created_ms, bytes });
        Ok(FoundSnapshot { snapshot, damaged })
    }

    /// The newest snapshot that holds with the head at its place and its content, and newer ones that do not hold.
    #[allow(clippy::type_complexity)]
    fn newest_stored(&self, up_to: u64) -> Result<(Option<((SnapshotInfo, Head), Vec<u8>)>, Vec<u64>), JournalError> {
        let mut damaged = Vec::new();
        for found in self.get(self.keys.snapshots(), 0, false)?.iter().rev() {
            if super::snapshot::position_of(&found.key).is_none_or(|seq| seq > up_to) {
                continue;
            }
            let stored = layout::read_snapshot(&found.value);
            let Some(stored) = stored else {
                damaged.extend(super::snapshot::position_of(&found.key));
                continue;
            };
            let (info, mut bytes) = (stored.info, Vec::new());
            for index in 0..info.chunks {
                let Some(chunk) = one(&self.etcd, self.keys.snapshot_chunk(info.seq, index))? else { break };
                bytes.extend_from_slice(&chunk.value);
            }
            if bytes.len() as u64 == info.bytes && crc32fast::hash(&bytes) == info.content_crc {
                return Ok((Some(((info, stored.head), bytes)), damaged));
            }
            damaged.push(info.seq);
        }
        Ok((None, damaged))
    }
}

impl Reader for ReplicatedReader {
    fn store_id(&self) -> StoreId {
        self.facts.store_id
    }

    fn head(&self) -> Result<Head, JournalError> {
        self.durable_head()
    }

    fn read(&self, from_seq: u64, limit: ReadLimit) -> Result<Vec<Batch>, JournalError> {
        self.batches(from_seq, limit)
    }

    fn read_blob(&self, id: BlobId) -> Result<Option<Vec<u8>>, JournalError> {
        self.blob(id)
    }

    fn snapshot_up_to(&self, seq: u64) -> Result<FoundSnapshot, JournalError> {
        self.snapshot(seq)
    }

    fn beginning(&self) -> Result<Option<Snapshot>, JournalError> {
        if self.oldest_position()?.is_none_or(|first| first <= 1) {
            return Ok(None);
        }
        for key in self.get(self.keys.snapshots(), 0, true)? {
            let Some(seq) = super::snapshot::position_of(&key.key) else { continue };
            if let Some(snapshot) = self.snapshot(seq)?.snapshot {
                return Ok(Some(snapshot));
            }
        }
        Err(JournalError::facts(&self.etcd.place(), "no snapshot holds at which the kept batches begin"))
    }

    fn reopen(&self) -> Result<Box<dyn Reader>, JournalError> {
        Ok(Box::new(self.clone()))
    }
}

fn one(etcd: &Etcd, key: Vec<u8>) -> Result<Option<KeyValue>, JournalError> {
    let asking = etcd.clone();
    let asked = etcd.block(async move { asking.range(Range::one(key), 1, false, Patience::of(PATIENCE)).await });
    let answer: Result<_, EtcdError> = asked;
    answer.map(|answer| answer.kvs.into_iter().next()).map_err(|err| storage(etcd, "reading", err))
}

/// The journal followed from a snapshot on, every hash computed anew: what a leader must have done before it leads, and a
/// standby does all the time.
#[derive(Debug)]
pub struct Followed {
    reader: ReplicatedReader,
    check: ChainCheck,
    damaged_snapshots: Vec<u64>,
    start: Option<Snapshot>,
}

impl Followed {
    /// From the newest sound snapshot (which [`Self::take_snapshot`] gives), or the first event; nothing is followed yet.
    ///
    /// # Errors
    /// Those of reading; a damaged snapshot is none.
    pub fn cold(reader: ReplicatedReader) -> Result<Self, JournalError> {
        let (found, damaged_snapshots) = reader.newest_stored(super::MAX_SEQ)?;
        let (head, start) = match found {
            None => (genesis(reader.facts.store_id), None),
            Some(((info, head), bytes)) => (head, Some(Snapshot { seq: info.seq, created_ms: info.created_ms, bytes })),
        };
        Ok(Self { reader, check: ChainCheck::after(head, Depth::Hash), damaged_snapshots, start })
    }

    /// From `head` on, to which this process has written the journal itself.
    pub fn after(reader: ReplicatedReader, head: Head) -> Self {
        Self { reader, check: ChainCheck::after(head, Depth::Hash), damaged_snapshots: Vec::new(), start: None }
    }

    /// The snapshot from which it follows, once.
    pub fn take_snapshot(&mut self) -> Option<Snapshot> {
        self.start.take()
    }

    /// Follows to the present end and hands on every batch. Answers how many there were.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] for what does not follow; those of reading, after which it may be called again; those of
    /// `take`.
    pub fn catch_up<E: From<JournalError>>(&mut self, mut take: impl FnMut(Batch) -> Result<(), E>) -> Result<u64, E> {
        let mut taken = 0;
        loop {
            let from = self.check.head().seq + 1;
            let (head, rows) = self.reader.page(from, PAGE_ENTRIES)?;
            let none = rows.is_empty();
            for row in rows.into_iter().filter(|row| row.batch.last_seq() >= from) {
                self.check.follow(&row);
                if !self.check.findings.is_empty() {
                    return Err(self.reader.damaged(std::mem::take(&mut self.check.findings)).into());
                }
                taken += 1;
                take(row.batch)?;
            }
            let at = self.check.head();
            if at.seq == head.seq && at != head {
                let why = "does not match the head of the store";
                return Err(self.reader.damaged(vec![Finding::Broken { from: at.seq, to: at.seq, why }]).into());
            }
            if at.seq > head.seq {
                let why = format!("the store ends at position {}, it was followed to {}", head.seq, at.seq);
                return Err(JournalError::facts(&self.reader.etcd.place(), why).into());
            }
            if none || at == head {
                return Ok(taken);
            }
        }
    }

    /// The end of what was followed.
    pub fn head(&self) -> Head {
        self.check.head()
    }

    /// To read beside it.
    pub fn reader(&self) -> &ReplicatedReader {
        &self.reader
    }

    pub(super) fn damaged_snapshots(&self) -> Vec<u64> {
        self.damaged_snapshots.clone()
    }

    pub(super) fn into_reader(self) -> ReplicatedReader {
        self.reader
    }
}
