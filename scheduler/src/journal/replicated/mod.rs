//! The replicated engine: the journal in etcd, one leader at a time, any number of readers.
//!
//! In: batches, blobs, snapshot chunks, under a leadership that somebody else renews. Out: a durable head after each
//! transaction `the leader key is mine and the head is what I left => put the next entry and the next head`; so a deposed
//! leader acknowledges nothing. A try without an answer is repeated, since the head tells whether it went through. What a
//! snapshot replaces is deleted and compacted within minutes. Nothing is ever taken from a watch but a reason to read.
//!
//! Reading order: `layout` (what the values are), `reader`, `snapshot`, this file, `tidy` (what is removed).

mod layout;
mod reader;
mod snapshot;
mod tidy;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use dure_proto::etcd::{KeyValue, RequestOp, TxnRequest, response_op::Response};

use super::chain::{self, Row, genesis};
use super::retention::Named;
use super::{
    Batch, Blob, BlobId, Engine, FoundSnapshot, Head, JournalError, MAX_SEQ, OpenOptions, ReadLimit, SnapshotInfo,
    StoreId,
};
use crate::etcd::{Etcd, EtcdError, Keys, MAX_REQUEST_BYTES, MAX_TXN_OPS, Patience};
use crate::leadership::{HeldKey, hold};
use layout::{CHUNK_BYTES, ENTRY_BYTES};
pub(super) use layout::{Facts, groups};
pub(crate) use layout::{created_at, delete, get, put};
pub use reader::{Followed, ReplicatedReader};

/// How long a leader that is opened by hand (a tool, a test) holds without renewal.
const TOOL_LEASE: Duration = Duration::from_secs(5);
/// How long a read or a piece of housekeeping may be tried.
const PATIENCE: Duration = Duration::from_secs(5);
/// Ids of blobs that were put lately and need not be put again.
const MAX_KNOWN_BLOBS: usize = 100_000;

/// The etcd engine, leading.
#[derive(Debug)]
pub struct ReplicatedEngine {
    etcd: Etcd,
    keys: Keys,
    key: HeldKey,
    facts: Facts,
    head: Head,
    reader: ReplicatedReader,
    poison: Option<Arc<JournalError>>,
    damaged_snapshots: Vec<u64>,
    known_blobs: BTreeSet<BlobId>,
    chores: tidy::Chores,
    named: Named,
}

/// What a fenced transaction came to.
enum Fenced {
    /// It went through.
    Done { revision: i64 },
    /// The head is another one than was expected: this one.
    HeadIs(Vec<u8>),
}

impl ReplicatedEngine {
    /// Takes the leadership if nobody holds it, and proves the store from its newest snapshot on: for tools and tests.
    ///
    /// # Errors
    /// As [`super::EmbeddedEngine::open`].
    pub fn open(etcd: &Etcd, options: OpenOptions) -> Result<Self, JournalError> {
        let key = hold(etcd, TOOL_LEASE, "a tool", "").map_err(|err| err.into_journal(etcd))?;
        let followed = ReplicatedReader::open_or_new(etcd).and_then(|reader| reader.map(Followed::cold).transpose());
        match followed {
            Ok(followed) => Self::lead(etcd, key, followed, options),
            Err(err) => {
                key.give_up();
                Err(err)
            }
        }
    }

    /// Leads under a key that is held. `followed` is what a standby has proven of the journal so far, and is brought to
    /// its end here: nobody else appends any more. Without a store there, one is made.
    ///
    /// # Errors
    /// As [`super::EmbeddedEngine::open`]; the key is given up then.
    pub fn lead(
        etcd: &Etcd,
        key: HeldKey,
        followed: Option<Followed>,
        options: OpenOptions,
    ) -> Result<Self, JournalError> {
        let led = Self::try_lead(etcd, &key, followed, options);
        if led.is_err() {
            key.give_up();
        }
        led
    }

    fn try_lead(
        etcd: &Etcd,
        key: &HeldKey,
        followed: Option<Followed>,
        options: OpenOptions,
    ) -> Result<Self, JournalError> {
        let keys = etcd.keys();
        let mut followed = match followed {
            Some(followed) => followed,
            None => Followed::cold(create(etcd, &keys, key)?)?,
        };
        followed.catch_up(|_| Ok(()))?;
        let (head, damaged_snapshots) = (followed.head(), followed.damaged_snapshots());
        let reader = followed.into_reader();
        if let Some(finding) = options.witness.and_then(|seen| super::Finding::behind_witness(head.seq, seen)) {
            return Err(JournalError::damaged(&etcd.place(), vec![finding]));
        }
        let facts = reader.facts();
        let epoch = facts.epoch_of(key.revision);
        if epoch <= head.epoch || epoch >= MAX_SEQ {
            let why = format!(
                "the new epoch {epoch} is not above the last batch's {}: etcd was restored from a backup; move the journal \
                 with `dure store move`, which sets the base of its epochs anew",
                head.epoch
            );
            return Err(JournalError::facts(&etcd.place(), why));
        }
        Ok(Self {
            etcd: etcd.clone(),
            keys,
            key: key.clone(),
            facts,
            head,
            reader,
            poison: None,
            damaged_snapshots,
            known_blobs: BTreeSet::new(),
            chores: tidy::Chores::all(),
            named: Named::opened(head.seq),
        })
    }

    /// Position of the newest snapshot; 0 for none.
    ///
    /// # Errors
    /// Those of reading.
    pub(crate) fn last_snapshot(&self) -> Result<u64, JournalError> {
        Ok(self.visible_snapshots()?.last().copied().unwrap_or(0))
    }

    /// Runs something that writes; its first failure is the last thing this engine ever tries.
    fn guarded<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, JournalError>) -> Result<T, JournalError> {
        if let Some(cause) = &self.poison {
            return Err(JournalError::Poisoned { cause: cause.clone() });
        }
        work(self).inspect_err(|err| self.poison = Some(Arc::new(err.clone())))
    }

    fn lost(&self, detail: String) -> JournalError {
        JournalError::LeadershipLost { dir: self.etcd.place(), detail }
    }

    /// Runs a transaction that goes through only while the leader key is this engine's (and, with `head`, only while the
    /// head has this value). It is tried for as long as the leadership holds.
    fn fenced(&self, doing: &'static str, head: Option<Vec<u8>>, ops: Vec<RequestOp>) -> Result<Fenced, JournalError> {
        let mut compare = vec![layout::created_at(self.keys.leader(), self.key.revision)];
        compare.extend(head.map(|value| layout::has_value(self.keys.head(), value)));
        let failure = vec![layout::get(self.keys.leader()), layout::get(self.keys.head())];
        let request = TxnRequest { compare, success: ops, failure };
        let (etcd, tenure) = (self.etcd.clone(), self.key.tenure.clone());
        let answer = self.etcd.block(async move {
            loop {
                let left = tenure.left();
                if !tenure.holds() {
                    return Ok(None);
                }
                match etcd.txn(request.clone(), Patience::of(left.min(PATIENCE))).await {
                    Err(EtcdError::Silent(_)) => {}
                    other => return other.map(Some),
                }
            }
        });
        let answer = match answer {
            Ok(Some(answer)) => answer,
            Ok(None) => return Err(self.lost(self.key.tenure.why_lost())),
            Err(err) => return Err(storage(&self.etcd, doing, err)),
        };
        if answer.succeeded {
            return Ok(Fenced::Done { revision: answer.header.map_or(0, |header| header.revision) });
        }
        let mut found = answer.responses.into_iter().map(|answer| match answer.response {
            Some(Response::ResponseRange(range)) => range.kvs.into_iter().next(),
            Some(Response::ResponsePut(_) | Response::ResponseDeleteRange(_)) | None => None,
        });
        let (leader, head): (Option<KeyValue>, _) = (found.next().flatten(), found.next().flatten());
        if leader.is_none_or(|leader| leader.create_revision != self.key.revision) {
            self.key.tenure.end("another scheduler leads");
            return Err(self.lost("another scheduler has taken it".to_owned()));
        }
        Ok(Fenced::HeadIs(head.map(|head| head.value.to_vec()).unwrap_or_default()))
    }

    /// Puts what no head depends on; to be called before the entry that names it.
    fn put(&self, doing: &'static str, ops: Vec<RequestOp>) -> Result<(), JournalError> {
        match self.fenced(doing, None, ops)? {
            Fenced::Done { .. } => Ok(()),
            Fenced::HeadIs(_) => Err(self.lost("the transaction was refused without a reason".to_owned())),
        }
    }

    fn commit(&mut self, batches: &[Batch], blobs: &[Blob]) -> Result<Head, JournalError> {
        super::check_append(&self.head, self.epoch(), batches)?;
        let mut head = self.head;
        let rows: Vec<Row> = batches
            .iter()
            .map(|batch| {
                let (crc, after) = chain::seal(&head, batch);
                let prev_hash = std::mem::replace(&mut head, after).hash;
                Row { batch: batch.clone(), crc, prev_hash, hash: after.hash }
            })
            .collect();
        let mut beside = self.blob_ops(blobs);
        for rows in layout::cut(rows) {
            self.put_entry(rows, std::mem::take(&mut beside))?;
        }
        if self.known_blobs.len() > MAX_KNOWN_BLOBS {
            self.known_blobs.clear();
        }
        self.known_blobs.extend(blobs.iter().map(Blob::id));
        self.named.note(blobs, self.head.seq);
        Ok(self.head)
    }

    /// The puts of blobs that were not put lately.
    fn blob_ops(&self, blobs: &[Blob]) -> Vec<RequestOp> {
        let mut new = BTreeSet::new();
        let unknown = blobs.iter().filter(|blob| !self.known_blobs.contains(&blob.id()) && new.insert(blob.id()));
        unknown.flat_map(|blob| blob_ops(&self.keys, blob)).collect()
    }

    /// Puts rows as one entry and moves the head. `beside` goes into the same transaction where it fits, else before it.
    fn put_entry(&mut self, rows: Vec<Row>, mut beside: Vec<RequestOp>) -> Result<(), JournalError> {
        let head = rows.last().map(head_of).expect("an entry has rows");
        let mut ops = entry_ops(&self.keys, &rows);
        let entry = ops.pop().expect("the entry itself comes last");
        beside.extend(ops);
        let size = layout::size(std::slice::from_ref(&entry)) + layout::OVERHEAD;
        let fits = |ops: &[RequestOp]| ops.len() + 2 <= MAX_TXN_OPS && layout::size(ops) + size <= MAX_REQUEST_BYTES;
        if !fits(&beside) {
            for ops in layout::groups(std::mem::take(&mut beside)) {
                self.put("writing blobs", ops)?;
            }
        }
        let (old, new) = (layout::head(&self.head), layout::head(&head));
        beside.push(entry);
        beside.push(layout::put(self.keys.head(), new.clone()));
        match self.fenced("appending", Some(old), beside)? {
            Fenced::Done { revision } => self.chores.wrote(revision),
            // An earlier try went through, and its answer was lost.
            Fenced::HeadIs(found) if found == new => {}
            Fenced::HeadIs(_) => return Err(self.lost("the journal has another end than this leader left".to_owned())),
        }
        self.head = head;
        Ok(())
    }
}

impl Engine for ReplicatedEngine {
    fn store_id(&self) -> StoreId {
        self.facts.store_id
    }

    fn epoch(&self) -> u64 {
        self.facts.epoch_of(self.key.revision)
    }

    fn head(&self) -> Head {
        self.head
    }

    fn append(&mut self, batches: &[Batch], blobs: &[Blob]) -> Result<Head, JournalError> {
        self.guarded(|engine| engine.commit(batches, blobs))
    }

    fn read(&self, from_seq: u64, limit: ReadLimit) -> Result<Vec<Batch>, JournalError> {
        self.reader.batches(from_seq, limit)
    }

    fn read_blob(&self, id: BlobId) -> Result<Option<Vec<u8>>, JournalError> {
        self.reader.blob(id)
    }

    fn newest_snapshot(&self) -> Result<FoundSnapshot, JournalError> {
        let mut found = self.reader.snapshot(MAX_SEQ)?;
        found.damaged.extend(&self.damaged_snapshots);
        found.damaged.dedup();
        Ok(found)
    }

    fn put_snapshot_chunk(&mut self, seq: u64, index: u32, bytes: &[u8]) -> Result<(), JournalError> {
        self.guarded(|engine| engine.write_chunk(seq, index, bytes))
    }

    fn publish_snapshot(&mut self, info: &SnapshotInfo) -> Result<(), JournalError> {
        let stored = match self.stored_snapshot(info) {
            Err(refused @ JournalError::BadSnapshot { .. }) => return Err(refused),
            checked => checked,
        };
        self.guarded(|engine| engine.publish(&stored?))
    }

    fn release_blobs(&mut self, seq: u64, named: BTreeSet<BlobId>) {
        self.named.begin(seq, named);
    }

    fn maintain(&mut self, unfinished: Option<u64>) -> Result<bool, JournalError> {
        self.guarded(|engine| engine.tidy(unfinished))
    }

    fn restore_floor(&self) -> u64 {
        self.facts.restore_floor
    }

    fn close(self: Box<Self>) -> Result<Head, JournalError> {
        let head = self.head;
        match &self.poison {
            Some(cause) => Err(JournalError::Poisoned { cause: cause.clone() }),
            None => Ok(head),
        }
    }
}

impl Drop for ReplicatedEngine {
    /// Whoever waits for the leadership need not wait for the lease to run out.
    fn drop(&mut self) {
        self.key.give_up();
    }
}

/// The puts of a blob.
pub(super) fn blob_ops(keys: &Keys, blob: &Blob) -> Vec<RequestOp> {
    // An empty blob is one empty chunk.
    let chunks = if blob.bytes().is_empty() { vec![&[][..]] } else { blob.bytes().chunks(CHUNK_BYTES).collect() };
    let put = |(index, chunk): (u32, &[u8])| layout::put(keys.blob_chunk(blob.id(), index), chunk.to_vec());
    (0u32..).zip(chunks).map(put).collect()
}

/// The puts of rows as entries; a head is not moved.
pub(super) fn put_entries(keys: &Keys, rows: Vec<Row>) -> Vec<RequestOp> {
    layout::cut(rows).into_iter().flat_map(|rows| entry_ops(keys, &rows)).collect()
}

/// The puts of rows as one entry, the entry itself last.
fn entry_ops(keys: &Keys, rows: &[Row]) -> Vec<RequestOp> {
    let first_seq = rows.first().expect("an entry has rows").batch.first_seq;
    let entry = layout::entry(rows, 0);
    if entry.len() <= ENTRY_BYTES {
        return vec![layout::put(keys.entry(first_seq), entry)];
    }
    let part = |(index, part): (u32, &[u8])| layout::put(keys.part(first_seq, index), part.to_vec());
    let mut ops: Vec<RequestOp> = (0u32..).zip(entry.chunks(CHUNK_BYTES)).map(part).collect();
    let parts = u32::try_from(ops.len()).unwrap_or(u32::MAX);
    ops.push(layout::put(keys.entry(first_seq), layout::entry(&[], parts)));
    ops
}

/// The put of a snapshot whose chunks have been put.
pub(super) fn put_snapshot(keys: &Keys, stored: &super::snapshot::Stored) -> RequestOp {
    layout::put(keys.snapshot(stored.info.seq), layout::snapshot(stored))
}

fn head_of(row: &Row) -> Head {
    Head { seq: row.batch.last_seq(), hash: row.hash, epoch: row.batch.epoch }
}

/// Makes an empty store, unless there is one.
fn create(etcd: &Etcd, keys: &Keys, key: &HeldKey) -> Result<ReplicatedReader, JournalError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|err| JournalError::Storage {
        dir: etcd.place(),
        doing: "making a store id",
        detail: err.to_string(),
    })?;
    let facts = Facts { store_id: StoreId(id), epoch_base: 0, restore_floor: 0 };
    put_facts(etcd, keys, key, &facts, &genesis(facts.store_id))?;
    ReplicatedReader::open(etcd)
}

/// Puts the facts and the head of a store that has neither.
pub(super) fn put_facts(
    etcd: &Etcd,
    keys: &Keys,
    key: &HeldKey,
    facts: &Facts,
    head: &Head,
) -> Result<(), JournalError> {
    let request = TxnRequest {
        compare: vec![layout::created_at(keys.leader(), key.revision), layout::created_at(keys.facts(), 0)],
        success: vec![layout::put(keys.facts(), layout::facts(facts)), layout::put(keys.head(), layout::head(head))],
        failure: Vec::new(),
    };
    let sender = etcd.clone();
    let put = etcd.block(async move { sender.txn(request, Patience::of(PATIENCE)).await });
    // That it was refused means that the facts are there, perhaps by an earlier try of ours.
    put.map(drop).map_err(|err| storage(etcd, "making the store", err))
}

/// A failure of etcd as one of the journal.
pub(crate) fn storage(etcd: &Etcd, doing: &'static str, err: EtcdError) -> JournalError {
    match err {
        EtcdError::NoSpace(detail) => {
            JournalError::DiskFull { dir: etcd.place(), detail: format!("{doing}: {detail}") }
        }
        EtcdError::Silent(detail) | EtcdError::Refused(detail) => {
            JournalError::Storage { dir: etcd.place(), doing, detail }
        }
        EtcdError::Config { .. } | EtcdError::Closed => {
            JournalError::Storage { dir: etcd.place(), doing, detail: err.to_string() }
        }
    }
}
