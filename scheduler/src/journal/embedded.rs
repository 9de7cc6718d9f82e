//! The embedded engine: SQLite in one directory, one leader at a time.
//!
//! In: batches, blobs, snapshot chunks. Out: a durable head after each commit, and after every opening a proven chain
//! and a new epoch. Before it leads it takes the lock and proves the store through a connection that cannot write; after
//! the first failed write it writes nothing more. It never repairs a damaged store.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::anchor::{Anchor, AnchorFile, create_anchor, read_anchor, sync_dir};
use super::chain::{self, Hash, genesis};
use super::reader::{read_batches, read_checked_blob, read_snapshot};
use super::retention::{self, Named};
use super::schema::{self, Facts};
use super::snapshot::{self, Stored};
use super::verify::{Extent, verify_store};
use super::{
    Batch, Blob, BlobId, Engine, Finding, FoundSnapshot, Head, JournalError, Kept, OpenOptions, ReadLimit,
    SnapshotInfo, StoreId,
};

/// Name of the lock file in the store's directory.
pub(crate) const LOCK_FILE: &str = "lock";
/// Name of the file that says where the journal was moved; nobody leads on what was left.
pub(crate) const MOVED_FILE: &str = "moved";
/// Bytes appended after which the log is moved into the main file.
pub const CHECKPOINT_BYTES: u64 = 16 << 20;
/// Old batches that one step of housekeeping removes.
const BATCHES_A_STEP: usize = 256;
/// Blobs that one step of housekeeping looks at.
const BLOBS_A_STEP: usize = 64;
/// What a commit costs in the log beside its payload: the pages around it.
const COMMIT_OVERHEAD_BYTES: u64 = 8 << 10;

/// The exclusive right to lead on a directory, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Lock {
    dir: PathBuf,
    file: File,
}

impl Lock {
    pub(crate) fn take(dir: &Path) -> Result<Self, JournalError> {
        let fault = |err: std::io::Error| JournalError::file(dir, "taking the lock", &err);
        let path = dir.join(LOCK_FILE);
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(fault)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let read = (&file).take(32).read_to_string(&mut holder);
                let holder = read.ok().and_then(|_| holder.trim().parse().ok());
                return Err(JournalError::AlreadyLed { dir: dir.to_owned(), holder });
            }
            Err(std::fs::TryLockError::Error(err)) => return Err(fault(err)),
        }
        // Only for the message above: a full disk must not keep a store from being looked at.
        if file.set_len(0).is_ok() {
            drop(writeln!(file, "{}", std::process::id()));
        }
        Ok(Lock { dir: dir.to_owned(), file })
    }

    /// Somebody who removes the lock file lets a second leader in; notice it.
    fn check(&self) -> Result<(), JournalError> {
        let lost = |detail: String| JournalError::LeadershipLost { dir: self.dir.clone(), detail };
        let ours = self.file.metadata().map_err(|err| lost(format!("lock file: {err}")))?;
        let named = std::fs::metadata(self.dir.join(LOCK_FILE)).map_err(|err| lost(format!("lock file: {err}")))?;
        if (ours.dev(), ours.ino()) != (named.dev(), named.ino()) {
            return Err(lost("the lock file has been replaced".to_owned()));
        }
        Ok(())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a child that another thread is just starting holds the same open file until its exec.
        drop(self.file.unlock());
    }
}

/// The SQLite engine, leading.
#[derive(Debug)]
pub struct EmbeddedEngine {
    // Dropped in this order: the connection closes before the lock is given up.
    conn: Connection,
    anchor: AnchorFile,
    lock: Lock,
    dir: PathBuf,
    facts: Facts,
    head: Head,
    poison: Option<Arc<JournalError>>,
    log_bytes: u64,
    hidden_chunks: bool,
    damaged_snapshots: Vec<u64>,
    kept: Kept,
    /// Rows of batches up to this position are superfluous.
    trim_to: u64,
    blobs: Named,
}

impl EmbeddedEngine {
    /// Takes the lock, proves the store (creating it where there is none) and begins a new epoch, durable on return.
    ///
    /// # Errors
    /// [`JournalError::AlreadyLed`]; [`JournalError::Damaged`] when anything acknowledged is missing or changed;
    /// [`JournalError::DiskFull`] and [`JournalError::Storage`] when the disk does not serve.
    pub fn open(dir: &Path, options: OpenOptions) -> Result<Self, JournalError> {
        std::fs::create_dir_all(dir).map_err(|err| JournalError::file(dir, "creating the directory", &err))?;
        let lock = Lock::take(dir)?;
        if let Ok(to) = std::fs::read_to_string(dir.join(MOVED_FILE)) {
            return Err(JournalError::Moved { dir: dir.to_owned(), to: to.trim().to_owned() });
        }
        let anchor = match read_anchor(dir)? {
            Some(anchor) => anchor,
            None => create(dir)?,
        };
        if std::fs::metadata(schema::db_path(dir)).map_or(0, |file| file.len()) == 0 {
            return Err(database_gone(dir, &anchor));
        }
        let proven = {
            let reader = schema::open_reader(dir)?;
            verify_store(dir, &reader, &anchor, options.witness, Extent::SinceSnapshot)?
        };
        let conn = schema::open_writer(dir)?;
        let epoch = proven.facts.epoch.max(anchor.epoch).max(proven.head.epoch) + 1;
        let facts = Facts { epoch, ..proven.facts };
        let mut engine = EmbeddedEngine {
            conn,
            anchor: AnchorFile::open(dir)?,
            lock,
            dir: dir.to_owned(),
            facts,
            head: proven.head,
            poison: None,
            log_bytes: CHECKPOINT_BYTES,
            hidden_chunks: true,
            damaged_snapshots: proven.damaged_snapshots,
            kept: Kept::ALL,
            trim_to: 0,
            blobs: Named::opened(proven.head.seq),
        };
        engine.trim_to = engine.base()?;
        engine.begin_epoch()?;
        Ok(engine)
    }

    /// The same, but keeping no more than this of what snapshots have replaced.
    pub fn keeping(self, kept: Kept) -> Self {
        Self { kept, ..self }
    }

    /// Where the kept batches begin: 0 at the very beginning.
    fn base(&self) -> Result<u64, JournalError> {
        let base = schema::base(&self.conn);
        let base = base.map_err(|err| JournalError::sqlite(&self.dir, "reading the base", self.head.seq, &err))?;
        Ok(base.map_or(0, |base| base.seq))
    }

    fn begin_epoch(&mut self) -> Result<(), JournalError> {
        let damaged = self.damaged_snapshots.clone();
        let facts = self.facts;
        let dir = self.dir.clone();
        self.transaction("beginning an epoch", |conn| snapshot::hide(conn, &damaged))?;
        schema::write_facts(&dir, &self.conn, &facts)?;
        self.anchor.write(&self.anchored())?;
        self.anchor.sync()
    }

    /// Directory of the store; open a [`super::JournalReader`] there to read beside this engine.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn anchored(&self) -> Anchor {
        Anchor { store_id: self.facts.store_id, head: self.head, epoch: self.facts.epoch }
    }

    fn transaction<T>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, JournalError> {
        let run = || {
            let transaction = Transaction::new_unchecked(&self.conn, TransactionBehavior::Immediate)?;
            let result = work(&transaction)?;
            transaction.commit()?;
            Ok(result)
        };
        run().map_err(|err| JournalError::sqlite(&self.dir, doing, self.head.seq, &err))
    }

    /// Runs something that writes; its first failure is the last thing this engine ever tries.
    fn guarded<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, JournalError>) -> Result<T, JournalError> {
        if let Some(cause) = &self.poison {
            return Err(JournalError::Poisoned { cause: cause.clone() });
        }
        work(self).inspect_err(|err| self.poison = Some(Arc::new(err.clone())))
    }

    fn commit(&mut self, batches: &[Batch], blobs: &[Blob]) -> Result<Head, JournalError> {
        super::check_append(&self.head, self.facts.epoch, batches)?;
        let mut head = self.head;
        let rows: Vec<(&Batch, u32, Hash, Hash)> = batches
            .iter()
            .map(|batch| {
                let (crc, after) = chain::seal(&head, batch);
                let prev = std::mem::replace(&mut head, after);
                (batch, crc, prev.hash, after.hash)
            })
            .collect();
        self.transaction("appending", |conn| schema::insert(conn, &rows, blobs))?;
        let bytes = batches.iter().map(|b| b.payload.len()).sum::<usize>()
            + blobs.iter().map(|b| b.bytes().len()).sum::<usize>();
        self.log_bytes += bytes as u64 + COMMIT_OVERHEAD_BYTES;
        self.head = head;
        self.blobs.note(blobs, head.seq);
        self.anchor.write(&self.anchored())?;
        Ok(head)
    }

    /// Moves the log into the main file, as far as readers allow. A failed sync is an error here, never swallowed.
    fn checkpoint(&mut self, mode: &str) -> Result<(), JournalError> {
        self.conn
            .query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()))
            .map_err(|err| JournalError::sqlite(&self.dir, "moving the log", self.head.seq, &err))?;
        self.log_bytes = 0;
        Ok(())
    }

    fn housekeep(&mut self, unfinished: Option<u64>) -> Result<bool, JournalError> {
        if self.log_bytes >= CHECKPOINT_BYTES {
            self.checkpoint("PASSIVE")?;
        }
        if self.hidden_chunks {
            self.hidden_chunks =
                self.transaction("removing an old snapshot", |conn| snapshot::remove_hidden_chunk(conn, unfinished))?;
            self.log_bytes += COMMIT_OVERHEAD_BYTES;
        }
        let more = self.trim_batches()? | self.sweep_blobs()?;
        if self.anchor.sync_if_due()? {
            self.lock.check()?;
        }
        Ok(self.hidden_chunks || more)
    }

    /// Makes a snapshot visible, hides those that are kept no longer, and moves the base of the batches.
    fn publish(&mut self, stored: &Stored) -> Result<(), JournalError> {
        // What lies before the base is proven by nothing but the anchor: it must not lie behind.
        self.anchor.sync()?;
        let (kept, before) = (self.kept, self.base()?);
        let base = self.transaction("publishing a snapshot", |conn| {
            snapshot::publish(conn, stored)?;
            let plan = retention::plan(&snapshot::times(conn)?, before, schema::bytes_used(conn)?, kept);
            snapshot::keep_only(conn, &plan.visible)?;
            if let Some(head) = plan.base.and_then(|seq| schema::head_at(conn, seq).transpose()).transpose()? {
                schema::write_base(conn, &head)?;
                return Ok(head.seq);
            }
            Ok(before)
        })?;
        self.trim_to = self.trim_to.max(base);
        self.hidden_chunks = true;
        self.log_bytes += COMMIT_OVERHEAD_BYTES;
        Ok(())
    }

    /// Removes some batches before the base; whether there may be more.
    fn trim_batches(&mut self) -> Result<bool, JournalError> {
        if self.trim_to == 0 {
            return Ok(false);
        }
        let to = self.trim_to;
        let removed =
            self.transaction("removing old batches", |conn| schema::remove_batches(conn, to, BATCHES_A_STEP))?;
        if removed < BATCHES_A_STEP {
            self.trim_to = 0;
        }
        self.log_bytes += COMMIT_OVERHEAD_BYTES;
        Ok(removed > 0)
    }

    /// Removes some blobs that nobody names; whether there may be more.
    fn sweep_blobs(&mut self) -> Result<bool, JournalError> {
        let Some(after) = self.blobs.walk() else { return Ok(false) };
        let fault = |err: rusqlite::Error| JournalError::sqlite(&self.dir, "listing blobs", self.head.seq, &err);
        let next = schema::blob_ids(&self.conn, after, BLOBS_A_STEP).map_err(fault)?;
        let gone = self.blobs.step(&next);
        if !gone.is_empty() {
            self.transaction("removing blobs", |conn| schema::remove_blobs(conn, &gone))?;
            self.log_bytes += COMMIT_OVERHEAD_BYTES;
        }
        Ok(true)
    }

    /// Everything that can be refused without a write having failed.
    fn stored_snapshot(&self, info: &SnapshotInfo) -> Result<Stored, JournalError> {
        snapshot::check_size(info)?;
        let bad = |why: String| JournalError::BadSnapshot { seq: info.seq, why };
        let fault = |err: rusqlite::Error| JournalError::sqlite(&self.dir, "checking a snapshot", 0, &err);
        let Some(head) = schema::head_at(&self.conn, info.seq).map_err(fault)? else {
            return Err(bad(format!("no batch ends there (head {})", self.head.seq)));
        };
        match snapshot::refusal(&self.conn, info).map_err(fault)? {
            Some(why) => Err(bad(why)),
            None => Ok(Stored { info: *info, head }),
        }
    }
}

impl Engine for EmbeddedEngine {
    fn store_id(&self) -> StoreId {
        self.facts.store_id
    }

    fn epoch(&self) -> u64 {
        self.facts.epoch
    }

    fn head(&self) -> Head {
        self.head
    }

    fn append(&mut self, batches: &[Batch], blobs: &[Blob]) -> Result<Head, JournalError> {
        self.guarded(|engine| engine.commit(batches, blobs))
    }

    fn read(&self, from_seq: u64, limit: ReadLimit) -> Result<Vec<Batch>, JournalError> {
        read_batches(&self.dir, &self.conn, from_seq, limit)
    }

    fn read_blob(&self, id: BlobId) -> Result<Option<Vec<u8>>, JournalError> {
        read_checked_blob(&self.dir, &self.conn, id)
    }

    fn newest_snapshot(&self) -> Result<FoundSnapshot, JournalError> {
        let mut found = read_snapshot(&self.dir, &self.conn, super::MAX_SEQ)?;
        found.damaged.extend(&self.damaged_snapshots);
        Ok(found)
    }

    fn put_snapshot_chunk(&mut self, seq: u64, index: u32, bytes: &[u8]) -> Result<(), JournalError> {
        self.guarded(|engine| {
            engine.transaction("writing a snapshot", |conn| snapshot::put_chunk(conn, seq, index, bytes))?;
            engine.hidden_chunks = true;
            engine.log_bytes += bytes.len() as u64 + COMMIT_OVERHEAD_BYTES;
            Ok(())
        })
    }

    fn publish_snapshot(&mut self, info: &SnapshotInfo) -> Result<(), JournalError> {
        let stored = match self.stored_snapshot(info) {
            Err(refused @ JournalError::BadSnapshot { .. }) => return Err(refused),
            checked => checked,
        };
        self.guarded(|engine| {
            let stored = stored?;
            engine.publish(&stored)
        })
    }

    fn release_blobs(&mut self, seq: u64, named: BTreeSet<BlobId>) {
        self.blobs.begin(seq, named);
    }

    fn maintain(&mut self, unfinished: Option<u64>) -> Result<bool, JournalError> {
        self.guarded(|engine| engine.housekeep(unfinished))
    }

    fn restore_floor(&self) -> u64 {
        self.facts.restore_floor
    }

    fn close(mut self: Box<Self>) -> Result<Head, JournalError> {
        self.guarded(|engine| {
            // Without waiting for readers: what they keep from being moved stays in the log, which is as durable.
            engine
                .conn
                .busy_timeout(Duration::ZERO)
                .map_err(|err| JournalError::sqlite(&engine.dir, "closing", engine.head.seq, &err))?;
            engine.checkpoint("TRUNCATE")?;
            engine.anchor.sync()?;
            Ok(engine.head)
        })
    }
}

/// Makes an empty store, or finishes one whose making was cut short. The anchor comes last: a store without one has
/// never led, and if it holds anything all the same, its anchor has been lost.
fn create(dir: &Path) -> Result<Anchor, JournalError> {
    let conn = schema::open_writer(dir)?;
    schema::create_tables(dir, &conn)?;
    let facts = schema::read_facts(dir, &conn)?;
    let head = schema::last_head(&conn).map_err(|err| JournalError::sqlite(dir, "looking for batches", 0, &err))?;
    if head.is_some() || facts.is_some_and(|facts| facts.epoch > 0) {
        let seq = head.map_or(0, |head| head.seq);
        let why = format!("the anchor file is gone although the store holds positions up to {seq}");
        return Err(JournalError::facts(dir, why));
    }
    let store_id = match facts {
        Some(facts) => facts.store_id,
        None => {
            let mut id = [0; 16];
            getrandom::fill(&mut id).map_err(|err| JournalError::Storage {
                dir: dir.to_owned(),
                doing: "making a store id",
                detail: err.to_string(),
            })?;
            StoreId(id)
        }
    };
    schema::write_facts(dir, &conn, &Facts { store_id, epoch: 0, restore_floor: 0 })?;
    sync_dir(dir)?;
    let anchor = Anchor { store_id, head: genesis(store_id), epoch: 0 };
    create_anchor(dir, &anchor)?;
    Ok(anchor)
}

fn database_gone(dir: &Path, anchor: &Anchor) -> JournalError {
    let gone = Finding::Facts { why: "the database file is gone or empty".to_owned() };
    let missing = (anchor.head.seq > 0).then_some(Finding::Missing {
        from: 1,
        to: anchor.head.seq,
        proof: "the anchor has seen them",
    });
    JournalError::damaged(dir, [gone].into_iter().chain(missing).collect())
}
