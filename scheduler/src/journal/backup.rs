//! Backup beside a running leader, and restore into a fresh directory.
//!
//! In: a reader and an empty directory, or a backup and a target. Out: a proven copy with its own anchor. A copy without
//! an anchor is unfinished and never leads. A restore keeps the store's id, jumps its epoch past every epoch an agent may
//! have seen since the backup, and never deletes what it replaces.

use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use super::anchor::{ANCHOR_FILE, Anchor, create_anchor, read_anchor, sync_dir};
use super::chain::genesis;
use super::embedded::{LOCK_FILE, Lock};
use super::schema::{DB_FILE, Facts, db_path, last_head, read_facts, write_facts};
use super::{Head, JournalError, JournalReader, StoreId, VerifyReport};

/// How far a restore moves the epoch past the highest one known: further than any leader elections since the backup.
pub const EPOCH_JUMP: u64 = 1_000_000;
/// How many replaced stores may lie in one directory.
const MAX_REPLACED: u32 = 100;

/// How to restore.
#[derive(Debug, Clone, Copy, Default)]
pub struct RestoreOptions {
    /// Replace a store that is there; its files are moved to `replaced-N` beside.
    pub force: bool,
    /// Highest epoch known to any agent, where the operator knows it; the restored store jumps past this one too.
    pub min_epoch: u64,
}

/// What a restore has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreReport {
    /// The store's id, unchanged.
    pub store_id: StoreId,
    /// The head restored: everything after it is lost.
    pub head: Head,
    /// The next leader's epoch is higher than this.
    pub epoch_floor: u64,
    /// Where the files that were there before lie now.
    pub replaced: Option<PathBuf>,
}

impl JournalReader {
    /// Copies the journal as it is at this moment into an empty (or new) directory, while the leader goes on, and proves
    /// the copy whole. The log of the leader grows for as long as this takes.
    ///
    /// # Errors
    /// [`JournalError::NotEmpty`]; [`JournalError::Damaged`] when the copy does not hold; [`JournalError::DiskFull`].
    pub fn backup(&self, to: &Path) -> Result<VerifyReport, JournalError> {
        std::fs::create_dir_all(to).map_err(|err| JournalError::file(to, "creating the directory", &err))?;
        if !is_empty(to)? {
            return Err(JournalError::NotEmpty { dir: to.to_owned() });
        }
        let anchored = read_anchor(self.dir())?;
        let conn = copy(&self.conn, to)?;
        let facts = read_facts(to, &conn)?.ok_or_else(|| JournalError::facts(to, "the copy holds no facts"))?;
        let anchor = anchor_of(to, &conn, &facts)?;
        drop(conn);
        create_anchor(to, &anchor)?;
        let report = JournalReader::open(to)?.verify_all()?;
        match anchored {
            Some(before) if before.head.seq > report.head.seq => {
                let (have, want) = (report.head.seq, before.head.seq);
                Err(JournalError::facts(
                    to,
                    format!("the copy ends at position {have}, the journal's anchor at {want}"),
                ))
            }
            Some(_) | None => Ok(report),
        }
    }
}

/// Restores a backup (or any store nobody leads on) into a directory.
///
/// # Errors
/// [`JournalError::Damaged`] when `from` does not hold; [`JournalError::NotEmpty`] without `force`;
/// [`JournalError::AlreadyLed`] when a scheduler runs on `to`; [`JournalError::DiskFull`].
pub fn restore(from: &Path, to: &Path, options: RestoreOptions) -> Result<RestoreReport, JournalError> {
    let source = JournalReader::open(from)?;
    let proven = source.verify_all()?;
    std::fs::create_dir_all(to).map_err(|err| JournalError::file(to, "creating the directory", &err))?;
    if !is_empty(to)? && !options.force {
        return Err(JournalError::NotEmpty { dir: to.to_owned() });
    }
    let _lock = Lock::take(to)?;
    // The epochs granted on the store that is replaced have been seen by agents as well.
    let seen = read_anchor(to).ok().flatten().map_or(0, |anchor| anchor.epoch);
    let replaced = move_aside(to)?;
    // Leaders that came after the backup are given up as well: the leap goes beyond all of them.
    let newest = proven.epoch.max(seen).max(options.min_epoch);
    let epoch_floor = newest.saturating_add(EPOCH_JUMP).min(super::MAX_SEQ / 2);

    let conn = copy(&source.conn, to)?;
    let facts = Facts { store_id: proven.store_id, epoch: epoch_floor, restore_floor: epoch_floor + 1 };
    write_facts(to, &conn, &facts)?;
    let anchor = anchor_of(to, &conn, &facts)?;
    drop(conn);
    create_anchor(to, &anchor)?;
    let restored = JournalReader::open(to)?.verify_all()?;
    Ok(RestoreReport { store_id: restored.store_id, head: restored.head, epoch_floor, replaced })
}

/// Copies the database in one step, which sees one moment of the source, into a single file without a log.
fn copy(from: &Connection, to: &Path) -> Result<Connection, JournalError> {
    let fault = |err: rusqlite::Error| JournalError::sqlite(to, "copying the database", 0, &err);
    let mut conn = Connection::open(db_path(to)).map_err(fault)?;
    let step = Backup::new(from, &mut conn).and_then(|backup| backup.step(-1)).map_err(fault)?;
    if step != StepResult::Done {
        let detail = format!("the source is locked ({step:?})");
        return Err(JournalError::Storage { dir: to.to_owned(), doing: "copying the database", detail });
    }
    conn.query_row("PRAGMA journal_mode=DELETE", [], |_| Ok(())).map_err(fault)?;
    conn.execute_batch("PRAGMA synchronous=FULL").map_err(fault)?;
    sync_dir(to)?;
    Ok(conn)
}

fn anchor_of(dir: &Path, conn: &Connection, facts: &Facts) -> Result<Anchor, JournalError> {
    let head = last_head(conn).map_err(|err| JournalError::sqlite(dir, "reading the head", 0, &err))?;
    Ok(Anchor { store_id: facts.store_id, head: head.unwrap_or(genesis(facts.store_id)), epoch: facts.epoch })
}

/// Whether a directory holds nothing but a lock file.
pub(super) fn is_empty(dir: &Path) -> Result<bool, JournalError> {
    let fault = |err: std::io::Error| JournalError::file(dir, "listing the directory", &err);
    for entry in std::fs::read_dir(dir).map_err(fault)? {
        if entry.map_err(fault)?.file_name() != LOCK_FILE {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Moves the store's files into the first free `replaced-N`; `None` when there are none.
fn move_aside(dir: &Path) -> Result<Option<PathBuf>, JournalError> {
    let fault = |err: std::io::Error| JournalError::file(dir, "moving the old store aside", &err);
    let log = format!("{DB_FILE}-wal");
    let index = format!("{DB_FILE}-shm");
    let names = [DB_FILE, &log, &index, ANCHOR_FILE];
    if !names.iter().any(|name| dir.join(name).exists()) {
        return Ok(None);
    }
    let aside = (1..=MAX_REPLACED)
        .map(|n| dir.join(format!("replaced-{n}")))
        .find(|path| !path.exists())
        .ok_or_else(|| fault(std::io::Error::other(format!("there are {MAX_REPLACED} of them: remove some"))))?;
    std::fs::create_dir(&aside).map_err(fault)?;
    for name in names {
        let path = dir.join(name);
        if path.exists() {
            std::fs::rename(&path, aside.join(name)).map_err(fault)?;
        }
    }
    sync_dir(dir)?;
    Ok(Some(aside))
}
