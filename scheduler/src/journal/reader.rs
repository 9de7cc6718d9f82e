//! Reading a journal beside its leader: followers, exports, blobs, backups, scrubs.
//!
//! In: a directory, positions, blob ids. Out: batches whose checksums hold, blobs that match their ids, snapshots. It
//! holds a read-only connection of its own, sees only what is durable, and never blocks the writer nor changes a byte.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::anchor::{ANCHOR_FILE, read_anchor};
use super::chain::{ChainCheck, Depth, genesis};
use super::schema::{base, blob, db_path, each_row, last_head, open_reader, read_facts};
use super::snapshot::{Content, damaged, newest};
use super::verify::{Extent, verify_store};
use super::{Batch, BlobId, Finding, FoundSnapshot, Head, JournalError, MAX_SEQ, ReadLimit, Reader, Snapshot, StoreId};

/// A read-only view of a journal. `Send`; open another one for another thread.
#[derive(Debug)]
pub struct JournalReader {
    dir: PathBuf,
    pub(crate) conn: Connection,
    store_id: StoreId,
    restore_floor: u64,
}

/// What a full verification has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyReport {
    /// Which store it is.
    pub store_id: StoreId,
    /// The proven head.
    pub head: Head,
    /// The newest epoch granted.
    pub epoch: u64,
    /// Batches proven.
    pub batches: u64,
    /// Blobs proven.
    pub blobs: u64,
    /// Snapshots proven.
    pub snapshots: u64,
}

/// Where a slow scrub stands; made with `Scrub::default()`, it starts at the first event.
#[derive(Debug, Default)]
pub struct Scrub {
    check: Option<ChainCheck>,
}

impl JournalReader {
    /// Opens the journal in a directory for reading, whether or not somebody leads on it.
    ///
    /// # Errors
    /// [`JournalError::NoStore`] when there is none; [`JournalError::Damaged`] when its facts do not hold.
    pub fn open(dir: &Path) -> Result<Self, JournalError> {
        if !db_path(dir).exists() {
            return Err(JournalError::NoStore { dir: dir.to_owned() });
        }
        let conn = open_reader(dir)?;
        let facts = match read_facts(dir, &conn) {
            Ok(Some(facts)) => facts,
            // Without an anchor the store is still being made, and nobody has led on it.
            Ok(None) | Err(JournalError::Damaged { .. }) if !dir.join(ANCHOR_FILE).exists() => {
                return Err(JournalError::NoStore { dir: dir.to_owned() });
            }
            Ok(None) => return Err(JournalError::facts(dir, "the store's facts are missing")),
            Err(err) => return Err(err),
        };
        let (store_id, restore_floor) = (facts.store_id, facts.restore_floor);
        Ok(JournalReader { dir: dir.to_owned(), conn, store_id, restore_floor })
    }

    /// Another reader of the same journal, for another thread.
    ///
    /// # Errors
    /// Those of [`JournalReader::open`].
    pub fn reopen(&self) -> Result<Self, JournalError> {
        Self::open(&self.dir)
    }

    /// Directory of the store.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Which store this is.
    pub fn store_id(&self) -> StoreId {
        self.store_id
    }

    /// As [`super::Engine::restore_floor`].
    pub(super) fn restore_floor(&self) -> u64 {
        self.restore_floor
    }

    /// The durable head at this moment.
    ///
    /// # Errors
    /// Those of reading.
    pub fn head(&self) -> Result<Head, JournalError> {
        let head = last_head(&self.conn).map_err(|err| JournalError::sqlite(&self.dir, "reading the head", 0, &err))?;
        let base = base(&self.conn).map_err(|err| JournalError::sqlite(&self.dir, "reading the base", 0, &err))?;
        Ok(head.or(base).unwrap_or(genesis(self.store_id)))
    }

    /// As [`super::Engine::read`].
    ///
    /// # Errors
    /// As [`super::Engine::read`].
    pub fn read(&self, from_seq: u64, limit: ReadLimit) -> Result<Vec<Batch>, JournalError> {
        read_batches(&self.dir, &self.conn, from_seq, limit)
    }

    /// As [`super::Engine::read_blob`].
    ///
    /// # Errors
    /// As [`super::Engine::read_blob`].
    pub fn read_blob(&self, id: BlobId) -> Result<Option<Vec<u8>>, JournalError> {
        read_checked_blob(&self.dir, &self.conn, id)
    }

    /// As [`super::Engine::newest_snapshot`].
    ///
    /// # Errors
    /// As [`super::Engine::newest_snapshot`].
    pub fn newest_snapshot(&self) -> Result<FoundSnapshot, JournalError> {
        read_snapshot(&self.dir, &self.conn, MAX_SEQ)
    }

    /// As [`Reader::beginning`].
    ///
    /// # Errors
    /// As [`Reader::beginning`].
    pub fn beginning(&self) -> Result<Option<Snapshot>, JournalError> {
        let base = base(&self.conn).map_err(|err| JournalError::sqlite(&self.dir, "reading the base", 0, &err))?;
        let Some(base) = base else { return Ok(None) };
        let found = read_snapshot(&self.dir, &self.conn, base.seq)?.snapshot.filter(|found| found.seq == base.seq);
        let gone = || JournalError::facts(&self.dir, "the snapshot at which the kept batches begin does not hold");
        found.ok_or_else(gone).map(Some)
    }

    /// Proves everything: the whole chain, the anchor, every blob, every snapshot, SQLite's own structure. Takes time in
    /// proportion to the store; may run beside the leader.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] with what does not hold.
    pub fn verify_all(&self) -> Result<VerifyReport, JournalError> {
        let anchor = read_anchor(&self.dir)?.ok_or_else(|| {
            JournalError::facts(&self.dir, "the anchor file is missing: copied in part, or not finished")
        })?;
        let proven = verify_store(&self.dir, &self.conn, &anchor, None, Extent::Whole)?;
        let blobs = self.verify_blobs()?;
        let (snapshots, bad) = damaged(&self.dir, &self.conn)?;
        if !bad.is_empty() {
            return Err(JournalError::facts(&self.dir, format!("snapshots at positions {bad:?} fail their checksums")));
        }
        let check: String = self
            .conn
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(|err| JournalError::sqlite(&self.dir, "checking the file", proven.head.seq, &err))?;
        if check != "ok" {
            return Err(JournalError::facts(&self.dir, format!("the file's structure does not hold: {check}")));
        }
        let epoch = proven.facts.epoch.max(anchor.epoch);
        let (store_id, head, batches) = (self.store_id, proven.head, proven.batches);
        Ok(VerifyReport { store_id, head, epoch, batches, blobs, snapshots })
    }

    /// Hands the content of every blob to `take`, in no order.
    ///
    /// # Errors
    /// Those of reading, and of `take`.
    pub(crate) fn each_blob(
        &self,
        mut take: impl FnMut(Vec<u8>) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        let fault = |err: rusqlite::Error| JournalError::sqlite(&self.dir, "reading the blobs", 0, &err);
        let mut statement = self.conn.prepare("SELECT bytes FROM blobs").map_err(fault)?;
        let mut rows = statement.query([]).map_err(fault)?;
        while let Some(row) = rows.next().map_err(fault)? {
            take(row.get(0).map_err(fault)?)?;
        }
        Ok(())
    }

    fn verify_blobs(&self) -> Result<u64, JournalError> {
        let fault = |err: rusqlite::Error| JournalError::sqlite(&self.dir, "reading the blobs", 0, &err);
        let mut statement = self.conn.prepare("SELECT id, bytes FROM blobs").map_err(fault)?;
        let mut rows = statement.query([]).map_err(fault)?;
        let mut blobs = 0;
        while let Some(row) = rows.next().map_err(fault)? {
            let (id, bytes): (Vec<u8>, Vec<u8>) = row.get(0).and_then(|id| Ok((id, row.get(1)?))).map_err(fault)?;
            if BlobId::of(&bytes).0[..] != id[..] {
                return Err(JournalError::damaged(&self.dir, vec![Finding::Blob { id: hex::encode(id) }]));
            }
            blobs += 1;
        }
        Ok(blobs)
    }

    /// Proves the next few batches of the chain, hashes computed anew. Answers true when the head has been reached;
    /// called again after that it proves what has been appended since.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] with what does not hold.
    pub fn scrub(&self, scrub: &mut Scrub, batches: usize) -> Result<bool, JournalError> {
        let first = base(&self.conn).map_err(|err| JournalError::sqlite(&self.dir, "reading the base", 0, &err))?;
        let first = first.unwrap_or(genesis(self.store_id));
        let check = scrub.check.get_or_insert_with(|| ChainCheck::after(first, Depth::Hash));
        let (start, mut left) = (check.head().seq, batches.max(1));
        let mut more = false;
        let outcome = each_row(&self.conn, start + 1, |row| {
            more = left == 0;
            if !more && row.batch.last_seq() > start {
                check.follow(&row);
                left -= 1;
            }
            !more
        });
        outcome.map_err(|err| JournalError::sqlite(&self.dir, "scrubbing", check.head().seq, &err))?;
        match std::mem::take(&mut check.findings) {
            findings if findings.is_empty() => Ok(!more),
            findings => Err(JournalError::damaged(&self.dir, findings)),
        }
    }
}

impl Reader for JournalReader {
    fn store_id(&self) -> StoreId {
        self.store_id
    }

    fn head(&self) -> Result<Head, JournalError> {
        JournalReader::head(self)
    }

    fn read(&self, from_seq: u64, limit: ReadLimit) -> Result<Vec<Batch>, JournalError> {
        JournalReader::read(self, from_seq, limit)
    }

    fn read_blob(&self, id: BlobId) -> Result<Option<Vec<u8>>, JournalError> {
        JournalReader::read_blob(self, id)
    }

    fn snapshot_up_to(&self, seq: u64) -> Result<FoundSnapshot, JournalError> {
        read_snapshot(&self.dir, &self.conn, seq)
    }

    fn beginning(&self) -> Result<Option<Snapshot>, JournalError> {
        JournalReader::beginning(self)
    }

    fn reopen(&self) -> Result<Box<dyn Reader>, JournalError> {
        Ok(Box::new(JournalReader::reopen(self)?))
    }
}

/// Reads batches and proves their checksums, their order and the links between them.
pub(crate) fn read_batches(
    dir: &Path,
    conn: &Connection,
    from_seq: u64,
    limit: ReadLimit,
) -> Result<Vec<Batch>, JournalError> {
    let from_seq = from_seq.max(1);
    let base = base(conn).map_err(|err| JournalError::sqlite(dir, "reading the base", 0, &err))?;
    if let Some(base) = base.filter(|base| from_seq <= base.seq) {
        return Err(JournalError::Truncated { kept_from: base.seq + 1 });
    }
    let mut check: Option<ChainCheck> = None;
    let (mut batches, mut bytes) = (Vec::new(), 0usize);
    let outcome = each_row(conn, from_seq, |row| {
        if row.batch.last_seq() < from_seq {
            return true; // the last batch of the journal, and it ends before what is asked for
        }
        let first = row.batch.first_seq.min(from_seq);
        check.get_or_insert_with(|| ChainCheck::from_position(first, Depth::Checksum)).follow(&row);
        bytes = bytes.saturating_add(row.batch.payload.len());
        batches.push(row.batch);
        batches.len() < limit.batches && bytes < limit.bytes
    });
    let after = check.as_ref().map_or(from_seq - 1, |check| check.head().seq);
    outcome.map_err(|err| JournalError::sqlite(dir, "reading batches", after, &err))?;
    match check {
        Some(check) if !check.findings.is_empty() => Err(JournalError::damaged(dir, check.findings)),
        Some(_) | None => Ok(batches),
    }
}

/// Reads a blob and proves that it is the one asked for.
pub(crate) fn read_checked_blob(dir: &Path, conn: &Connection, id: BlobId) -> Result<Option<Vec<u8>>, JournalError> {
    let bytes = blob(conn, &id.0).map_err(|err| JournalError::sqlite(dir, "reading a blob", 0, &err))?;
    match bytes {
        Some(bytes) if BlobId::of(&bytes) != id => {
            Err(JournalError::damaged(dir, vec![Finding::Blob { id: id.to_string() }]))
        }
        other => Ok(other),
    }
}

/// Reads the newest snapshot that holds, among those at `seq` or before it.
pub(crate) fn read_snapshot(dir: &Path, conn: &Connection, seq: u64) -> Result<FoundSnapshot, JournalError> {
    let newest = newest(dir, conn, Content::Keep, seq)?;
    let snapshot = newest.found.map(|(stored, bytes)| Snapshot {
        seq: stored.info.seq,
        created_ms: stored.info.created_ms,
        bytes,
    });
    Ok(FoundSnapshot { snapshot, damaged: newest.damaged })
}
