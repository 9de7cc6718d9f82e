//! The journal from one engine to the other, proven by the hash of its head: the chain goes on as if nothing had happened.
//!
//! In: a journal that nobody leads, and an empty place. Out: the same store (same id, same head, higher epochs) there, and a
//! mark here that keeps anybody from leading on what was left. Only what recovery needs goes to etcd: the newest snapshot,
//! the batches after it, and the blobs; the rest stays readable where it was.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dure_proto::etcd::{RequestOp, TxnRequest};

use super::anchor::{ANCHOR_FILE, Anchor, create_anchor, sync_dir};
use super::backup::is_empty;
use super::chain::{Hash, seal};
use super::embedded::{Lock, MOVED_FILE};
use super::replicated::{
    Facts, Followed, created_at, delete, groups, put, put_entries, put_facts, put_snapshot, storage,
};
use super::schema::{self, each_row, head_at};
use super::snapshot::{self, Stored};
use super::{Batch, Blob, Head, JournalError, JournalReader, ReplicatedReader, StoreId};
use crate::etcd::keys::Range;
use crate::etcd::{Etcd, Patience};
use crate::leadership::{HeldKey, hold};

/// The lease of a move; it is renewed while it lasts.
const LEASE: Duration = Duration::from_secs(10);
/// How long one write may be tried.
const PATIENCE: Duration = Duration::from_secs(30);

/// What was moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Which store.
    pub store_id: StoreId,
    /// The head, the same here and there.
    pub head: Head,
    /// Batches that were copied: those after the newest snapshot.
    pub batches: u64,
    /// Blobs that were copied.
    pub blobs: u64,
}

/// Moves the journal of a directory into etcd.
///
/// # Errors
/// [`JournalError::AlreadyLed`] while a scheduler runs on either; [`JournalError::Damaged`] when the journal does not hold;
/// [`JournalError::NotEmpty`] when there is a journal in etcd; [`JournalError::Moved`] when this one has gone elsewhere;
/// those of writing. Nobody ever leads on both: where etcd does
/// not say whether the last write was made, nobody leads here any more, and the move is to be tried again.
pub fn to_etcd(from: &Path, etcd: &Etcd) -> Result<Moved, JournalError> {
    let _lock = Lock::take(from)?;
    // A mark of this move is of a try that was cut off; any other one says that this journal is an old one.
    if let Ok(there) = std::fs::read_to_string(from.join(MOVED_FILE))
        && Path::new(there.trim()) != etcd.place()
    {
        return Err(JournalError::Moved { dir: from.to_owned(), to: there.trim().to_owned() });
    }
    let source = JournalReader::open(from)?;
    let proven = source.verify_all()?;
    let key = hold(etcd, LEASE, "a move", "").map_err(|err| err.into_journal(etcd))?;
    let moved = copy_to_etcd(&source, etcd, &key).and_then(|(batches, blobs)| {
        mark_moved(from, &etcd.place())?;
        // Last: without them there is no store.
        let (store_id, epoch_base, restore_floor) = (source.store_id(), proven.epoch, source.restore_floor());
        let facts = Facts { store_id, epoch_base, restore_floor };
        put_facts(etcd, &etcd.keys(), &key, &facts, &proven.head).or_else(|err| {
            // Etcd has said no. Of any other answer, or none, nobody knows.
            if matches!(err, JournalError::DiskFull { .. }) {
                unmark_moved(from)?;
            }
            Err(err)
        })?;
        let Some(reader) = ReplicatedReader::open_or_new(etcd)? else {
            unmark_moved(from)?;
            return Err(run_out(etcd));
        };
        let mut copy = Followed::cold(reader)?;
        copy.catch_up(|_| Ok::<_, JournalError>(()))?;
        if copy.head() != proven.head {
            return Err(JournalError::facts(&etcd.place(), "the copy has another head than the journal"));
        }
        Ok(Moved { store_id, head: proven.head, batches, blobs })
    });
    key.give_up();
    moved
}

fn mark_moved(dir: &Path, to: &Path) -> Result<(), JournalError> {
    let mark = || {
        let mut file = std::fs::File::create(dir.join(MOVED_FILE))?;
        writeln!(file, "{}", to.display())?;
        file.sync_all()
    };
    mark().map_err(|err| JournalError::file(dir, "marking the journal as moved", &err))?;
    sync_dir(dir)
}

fn unmark_moved(dir: &Path) -> Result<(), JournalError> {
    std::fs::remove_file(dir.join(MOVED_FILE))
        .map_err(|err| JournalError::file(dir, "taking back that the journal was moved", &err))?;
    sync_dir(dir)
}

fn run_out(etcd: &Etcd) -> JournalError {
    let detail = "the lease ran out while the journal was copied".to_owned();
    JournalError::LeadershipLost { dir: etcd.place(), detail }
}

/// Writes under the leader key, in as many transactions as it takes.
fn write(etcd: &Etcd, key: &HeldKey, ops: Vec<RequestOp>) -> Result<(), JournalError> {
    for success in groups(ops) {
        let compare = vec![created_at(etcd.keys().leader(), key.revision)];
        let request = TxnRequest { compare, success, failure: Vec::new() };
        let asking = etcd.clone();
        let answer = etcd.block(async move { asking.txn(request, Patience::of(PATIENCE)).await });
        if !answer.map_err(|err| storage(etcd, "copying", err))?.succeeded {
            return Err(run_out(etcd));
        }
    }
    Ok(())
}

fn copy_to_etcd(source: &JournalReader, etcd: &Etcd, key: &HeldKey) -> Result<(u64, u64), JournalError> {
    if ReplicatedReader::open_or_new(etcd)?.is_some() {
        return Err(JournalError::NotEmpty { dir: etcd.place() });
    }
    let keys = etcd.keys();
    // What an earlier try left behind.
    for range in [keys.entries(0, u64::MAX), keys.parts(0, u64::MAX), keys.snapshots(), keys.all_snapshot_chunks()] {
        write(etcd, key, vec![delete(range)])?;
    }
    write(etcd, key, vec![delete(keys.blobs())])?;
    let mut blobs = 0;
    source.each_blob(|bytes| {
        blobs += 1;
        write(etcd, key, super::replicated::blob_ops(&keys, &Blob::new(bytes)?))
    })?;
    let fault = |err: rusqlite::Error| JournalError::sqlite(source.dir(), "reading", 0, &err);
    let mut start = 0;
    if let Some(snapshot) = source.newest_snapshot()?.snapshot {
        start = snapshot.seq;
        let head = head_at(&source.conn, start).map_err(fault)?;
        let head = head.ok_or_else(|| JournalError::facts(source.dir(), "no batch ends at the newest snapshot"))?;
        for (index, chunk) in snapshot.chunks() {
            write(etcd, key, vec![put(keys.snapshot_chunk(start, index), chunk.to_vec())])?;
        }
        write(etcd, key, vec![put_snapshot(&keys, &Stored { info: snapshot.info(), head })])?;
    }
    let (mut batches, mut page, mut outcome) = (0, Vec::new(), Ok(()));
    each_row(&source.conn, start + 1, |row| {
        if row.batch.last_seq() > start {
            batches += 1;
            page.push(row);
        }
        if page.len() >= PAGE_ROWS {
            outcome = write(etcd, key, put_entries(&keys, std::mem::take(&mut page)));
        }
        outcome.is_ok()
    })
    .map_err(fault)?;
    outcome?;
    write(etcd, key, put_entries(&keys, page))?;
    Ok((batches, blobs))
}

/// Rows that are cut into entries at a time.
const PAGE_ROWS: usize = 1024;

/// Moves the journal from etcd into an empty directory.
///
/// # Errors
/// As [`to_etcd`].
pub fn to_sqlite(etcd: &Etcd, to: &Path) -> Result<Moved, JournalError> {
    let key = hold(etcd, LEASE, "a move", "").map_err(|err| err.into_journal(etcd))?;
    let mark = || write(etcd, &key, vec![put(etcd.keys().moved(), to.display().to_string().into_bytes())]);
    // Before there is an anchor only: whoever may lead there is never joined by one here.
    let unmark = || write(etcd, &key, vec![delete(Range::one(etcd.keys().moved()))]);
    let moved = (|| {
        if let Err(JournalError::Moved { to: there, .. }) = ReplicatedReader::open(etcd)
            && Path::new(&there) == to
            && !to.join(ANCHOR_FILE).exists()
        {
            // An earlier try was cut off before there was a store.
            remove_unfinished(to)?;
            unmark()?;
        }
        let copied = Copied::of(&ReplicatedReader::open(etcd)?, to)?;
        // First the mark here, then the anchor there: nobody ever leads on both.
        mark()?;
        copied.finish()
    })();
    key.give_up();
    moved
}

/// What a move left that was cut off before the anchor.
fn remove_unfinished(dir: &Path) -> Result<(), JournalError> {
    let fault = |err: std::io::Error| JournalError::file(dir, "removing what an earlier move has left", &err);
    for entry in std::fs::read_dir(dir).map_err(fault)? {
        let entry = entry.map_err(fault)?;
        let name = entry.file_name();
        let ours = |name: &str| name.starts_with(schema::DB_FILE) || name.starts_with(ANCHOR_FILE);
        if name.to_str().is_some_and(ours) {
            std::fs::remove_file(entry.path()).map_err(fault)?;
        }
    }
    Ok(())
}

/// Copies the journal as it is now from etcd into an empty directory, while a leader goes on: a backup, once proven.
///
/// # Errors
/// [`JournalError::NotEmpty`]; [`JournalError::Damaged`] when the copy does not hold; those of reading and writing.
pub fn copy_to_sqlite(reader: &ReplicatedReader, to: &Path) -> Result<Moved, JournalError> {
    Copied::of(reader, to)?.finish()
}

/// A copy without its anchor: nobody leads on it yet.
struct Copied {
    to: PathBuf,
    anchor: Anchor,
    batches: u64,
    blobs: u64,
    _lock: Lock,
}

impl Copied {
    fn of(reader: &ReplicatedReader, to: &Path) -> Result<Self, JournalError> {
        std::fs::create_dir_all(to).map_err(|err| JournalError::file(to, "creating the directory", &err))?;
        if !is_empty(to)? {
            return Err(JournalError::NotEmpty { dir: to.to_owned() });
        }
        let lock = Lock::take(to)?;
        let fault = |err: rusqlite::Error| JournalError::sqlite(to, "writing the copy", 0, &err);
        let conn = schema::open_writer(to)?;
        schema::create_tables(to, &conn)?;
        let mut followed = Followed::cold(reader.clone())?;
        let base = followed.head();
        if let Some(snapshot) = followed.take_snapshot() {
            schema::write_base(&conn, &base).map_err(fault)?;
            for (index, chunk) in snapshot.chunks() {
                snapshot::put_chunk(&conn, snapshot.seq, index, chunk).map_err(fault)?;
            }
            snapshot::publish(&conn, &Stored { info: snapshot.info(), head: base }).map_err(fault)?;
        }
        let mut head = base;
        let batches = followed.catch_up(|batch: Batch| {
            let (crc, after) = seal(&head, &batch);
            let prev = std::mem::replace(&mut head, after).hash;
            let rows: [(&Batch, u32, Hash, Hash); 1] = [(&batch, crc, prev, after.hash)];
            schema::insert(&conn, &rows, &[]).map_err(fault)
        })?;
        if head != followed.head() {
            return Err(JournalError::facts(to, "the copy has another head than the journal"));
        }
        let mut blobs = 0;
        for id in reader.blob_ids()? {
            if let Some(bytes) = reader.blob(id)? {
                schema::insert(&conn, &[], &[Blob::new(bytes)?]).map_err(fault)?;
                blobs += 1;
            }
        }
        let (store_id, epoch) = (super::Reader::store_id(reader), reader.newest_epoch()?);
        let restore_floor = reader.facts().restore_floor;
        schema::write_facts(to, &conn, &schema::Facts { store_id, epoch, restore_floor })?;
        let anchor = Anchor { store_id, head, epoch };
        Ok(Self { to: to.to_owned(), anchor, batches, blobs, _lock: lock })
    }

    fn finish(self) -> Result<Moved, JournalError> {
        let Self { to, anchor, batches, blobs, .. } = &self;
        create_anchor(to, anchor)?;
        let proven = JournalReader::open(to)?.verify_all()?;
        if proven.head != anchor.head {
            return Err(JournalError::facts(to, "the copy has another head than the journal"));
        }
        Ok(Moved { store_id: anchor.store_id, head: anchor.head, batches: *batches, blobs: *blobs })
    }
}
