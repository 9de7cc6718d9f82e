//! The tables, and how a connection to them is opened.
//!
//! In: a directory. Out: connections with the settings that durability rests on, the store's small facts (id, epoch),
//! and rows. Only [`open_writer`] makes a connection that can write; the log is moved into the main file by that one
//! alone, on demand, so that a failed sync is seen and never tried again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params};

use super::chain::{Hash, Row};
use super::{Batch, BlobId, Head, JournalError, StoreId};

/// Name of the database file in the store's directory.
pub(crate) const DB_FILE: &str = "journal.db";
/// Newest format of the tables this binary knows.
pub(crate) const FORMAT: i64 = 1;
/// How long a connection waits for another one's short lock.
const BUSY_WAIT: Duration = Duration::from_secs(5);

const CREATE: &str = "
CREATE TABLE IF NOT EXISTS facts (
  one INTEGER PRIMARY KEY CHECK (one = 1), format INTEGER NOT NULL, store_id BLOB NOT NULL,
  epoch INTEGER NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS batches (
  first_seq INTEGER PRIMARY KEY, count INTEGER NOT NULL, epoch INTEGER NOT NULL, crc INTEGER NOT NULL,
  prev_hash BLOB NOT NULL, hash BLOB NOT NULL, payload BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS blobs (id BLOB PRIMARY KEY, bytes BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS base (
  one INTEGER PRIMARY KEY CHECK (one = 1), seq INTEGER NOT NULL, hash BLOB NOT NULL, epoch INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS restored (one INTEGER PRIMARY KEY CHECK (one = 1), floor INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS snapshots (
  seq INTEGER PRIMARY KEY, hash BLOB NOT NULL, epoch INTEGER NOT NULL, created_ms INTEGER NOT NULL,
  bytes INTEGER NOT NULL, chunks INTEGER NOT NULL, content_crc INTEGER NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS snapshot_chunks (
  seq INTEGER NOT NULL, part INTEGER NOT NULL, bytes BLOB NOT NULL, PRIMARY KEY (seq, part));
";

/// The columns of a row, payload last: SQLite then reads the numbers without touching the payload's pages.
const ROW: &str = "first_seq, count, epoch, crc, prev_hash, hash, payload";

/// Path of the database file.
pub(crate) fn db_path(dir: &Path) -> PathBuf {
    dir.join(DB_FILE)
}

/// A connection that can only read, beside whoever leads. It changes nothing, not even a damaged log.
pub(crate) fn open_reader(dir: &Path) -> Result<Connection, JournalError> {
    let fault = |err: rusqlite::Error| JournalError::sqlite(dir, "opening for reading", 0, &err);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(db_path(dir), flags).map_err(fault)?;
    conn.busy_timeout(BUSY_WAIT).map_err(fault)?;
    conn.execute_batch("PRAGMA trusted_schema=OFF; PRAGMA cell_size_check=ON;").map_err(fault)?;
    Ok(conn)
}

/// The one connection that writes: log ahead, every commit synced, no moving of the log behind our back.
pub(crate) fn open_writer(dir: &Path) -> Result<Connection, JournalError> {
    let fault = |err: rusqlite::Error| JournalError::sqlite(dir, "opening for writing", 0, &err);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(db_path(dir), flags).map_err(fault)?;
    conn.busy_timeout(BUSY_WAIT).map_err(fault)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(fault)?;
    let mode: String = conn.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0)).map_err(fault)?;
    if !mode.eq_ignore_ascii_case("wal") {
        let detail = format!("journal mode is {mode}, write-ahead logging is needed (network file system?)");
        return Err(JournalError::Storage { dir: dir.to_owned(), doing: "opening for writing", detail });
    }
    conn.execute_batch(
        "PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=0; PRAGMA trusted_schema=OFF;
         PRAGMA cell_size_check=ON; PRAGMA temp_store=MEMORY; PRAGMA cache_size=-16384; PRAGMA journal_size_limit=67108864;",
    )
    .map_err(fault)?;
    Ok(conn)
}

/// Creates what is not there yet.
pub(crate) fn create_tables(dir: &Path, conn: &Connection) -> Result<(), JournalError> {
    conn.execute_batch(CREATE).map_err(|err| JournalError::sqlite(dir, "creating the tables", 0, &err))
}

/// The store's small facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) store_id: StoreId,
    /// The newest epoch granted.
    pub(crate) epoch: u64,
    /// Epochs below this one belong to what a restore gave up; 0: nothing was.
    pub(crate) restore_floor: u64,
}

impl Facts {
    /// The checksum of the row; this row keeps its shape in every format, so that any binary can read the format. The floor
    /// lies in a table of its own, and is covered where there is one.
    fn crc(&self, format: i64) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&format.to_le_bytes());
        crc.update(&self.store_id.0);
        crc.update(&self.epoch.to_le_bytes());
        if self.restore_floor > 0 {
            crc.update(&self.restore_floor.to_le_bytes());
        }
        crc.finalize()
    }
}

/// Reads the facts; `None` when the tables hold none (a store that was never finished).
pub(crate) fn read_facts(dir: &Path, conn: &Connection) -> Result<Option<Facts>, JournalError> {
    let fault = |err: rusqlite::Error| JournalError::sqlite(dir, "reading the facts", 0, &err);
    let row = conn
        .query_row("SELECT format, store_id, epoch, crc FROM facts WHERE one = 1", [], |row| {
            let id: Vec<u8> = row.get(1)?;
            Ok((row.get::<_, i64>(0)?, id, row.get::<_, i64>(2)?, row.get::<_, i64>(3)?))
        })
        .optional()
        .map_err(fault)?;
    let Some((format, id, epoch, crc)) = row else { return Ok(None) };
    let restore_floor = restore_floor(conn).map_err(fault)?;
    let facts = <[u8; 16]>::try_from(id).ok().zip(u64::try_from(epoch).ok());
    match facts.map(|(id, epoch)| Facts { store_id: StoreId(id), epoch, restore_floor }) {
        Some(facts) if i64::from(facts.crc(format)) == crc && format <= FORMAT => Ok(Some(facts)),
        Some(facts) if i64::from(facts.crc(format)) == crc => {
            Err(JournalError::NewerFormat { dir: dir.to_owned(), found: format, known: FORMAT })
        }
        Some(_) | None => Err(JournalError::facts(dir, "the store's facts (id, epoch) fail their checksum")),
    }
}

fn restore_floor(conn: &Connection) -> rusqlite::Result<u64> {
    if !has_table(conn, "restored")? {
        return Ok(0);
    }
    let floor = conn.query_row("SELECT floor FROM restored WHERE one = 1", [], |row| number_at(row, 0));
    floor.optional().map(Option::unwrap_or_default)
}

/// A journal of before there was such a table has none.
fn has_table(conn: &Connection, name: &str) -> rusqlite::Result<bool> {
    conn.query_row("SELECT count(*) > 0 FROM sqlite_master WHERE name = ?1", [name], |row| row.get(0))
}

/// Writes the facts, durable on return.
pub(crate) fn write_facts(dir: &Path, conn: &Connection, facts: &Facts) -> Result<(), JournalError> {
    let write = || {
        let both = Transaction::new_unchecked(conn, TransactionBehavior::Immediate)?;
        if facts.restore_floor > 0 {
            both.execute_batch(CREATE)?;
            let floor = [to_sql(facts.restore_floor)];
            both.execute("INSERT OR REPLACE INTO restored (one, floor) VALUES (1, ?1)", floor)?;
        }
        both.execute(
            "INSERT OR REPLACE INTO facts (one, format, store_id, epoch, crc) VALUES (1, ?1, ?2, ?3, ?4)",
            params![FORMAT, facts.store_id.0, to_sql(facts.epoch), facts.crc(FORMAT)],
        )?;
        both.commit()
    };
    write().map_err(|err| JournalError::sqlite(dir, "writing the facts", 0, &err))
}

/// The head before the first batch of a journal that came from elsewhere with a snapshot; `None` where it began here. What
/// it says is proven by the batch that follows it, and by the snapshot that stands there.
pub(crate) fn base(conn: &Connection) -> rusqlite::Result<Option<Head>> {
    if !has_table(conn, "base")? {
        return Ok(None);
    }
    conn.query_row("SELECT seq, hash, epoch FROM base WHERE one = 1", [], |row| {
        Ok(Head { seq: number_at(row, 0)?, hash: hash_at(row, 1)?, epoch: number_at(row, 2)? })
    })
    .optional()
}

/// Writes the head before the first batch.
pub(crate) fn write_base(conn: &Connection, head: &Head) -> rusqlite::Result<()> {
    let values = params![to_sql(head.seq), head.hash.0, to_sql(head.epoch)];
    conn.execute("INSERT OR REPLACE INTO base (one, seq, hash, epoch) VALUES (1, ?1, ?2, ?3)", values).map(drop)
}

/// Removes at most `limit` batches up to a position, oldest first; how many.
pub(crate) fn remove_batches(conn: &Connection, to: u64, limit: usize) -> rusqlite::Result<usize> {
    conn.execute(
        "DELETE FROM batches WHERE first_seq IN (SELECT first_seq FROM batches WHERE first_seq <= ?1 ORDER BY first_seq LIMIT ?2)",
        params![to_sql(to), to_sql(limit as u64)],
    )
}

/// Bytes of the file that are in use.
pub(crate) fn bytes_used(conn: &Connection) -> rusqlite::Result<u64> {
    let pragma = |name: &str| conn.query_row(&format!("PRAGMA {name}"), [], |row| number_at::<u64>(row, 0));
    Ok(pragma("page_count")?.saturating_sub(pragma("freelist_count")?) * pragma("page_size")?)
}

/// The next ids of blobs, in order.
pub(crate) fn blob_ids(conn: &Connection, after: Option<BlobId>, limit: usize) -> rusqlite::Result<Vec<BlobId>> {
    let mut statement = conn.prepare("SELECT id FROM blobs WHERE ?1 IS NULL OR id > ?1 ORDER BY id LIMIT ?2")?;
    let after = after.map(|id| id.0);
    let ids = statement.query_map(params![after, to_sql(limit as u64)], |row| row.get(0).map(BlobId))?;
    ids.collect()
}

/// Removes blobs.
pub(crate) fn remove_blobs(conn: &Connection, ids: &[BlobId]) -> rusqlite::Result<()> {
    let mut statement = conn.prepare("DELETE FROM blobs WHERE id = ?1")?;
    ids.iter().try_for_each(|id| statement.execute([id.0]).map(drop))
}

/// SQLite's integers are signed. What is appended is bounded by [`super::MAX_SEQ`] before it gets here; a number above
/// it can only be asked for, and is clamped: nothing is stored there.
pub(crate) fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn hash_at(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Hash> {
    row.get::<_, [u8; 32]>(column).map(Hash)
}

pub(crate) fn number_at<T: TryFrom<i64>>(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<T> {
    let value: i64 = row.get(column)?;
    T::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

fn row_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    let batch = Batch {
        first_seq: number_at(row, 0)?,
        count: number_at(row, 1)?,
        epoch: number_at(row, 2)?,
        payload: row.get(6)?,
    };
    Ok(Row { batch, crc: number_at(row, 3)?, prev_hash: hash_at(row, 4)?, hash: hash_at(row, 5)? })
}

/// The head according to the last row, unproven; `None` when there is no row.
pub(crate) fn last_head(conn: &Connection) -> rusqlite::Result<Option<Head>> {
    head_where(conn, "ORDER BY first_seq DESC LIMIT 1", [])
}

/// The head after the batch that ends at `seq`, unproven; `None` when no batch ends there.
pub(crate) fn head_at(conn: &Connection, seq: u64) -> rusqlite::Result<Option<Head>> {
    let tail = "WHERE first_seq <= ?1 ORDER BY first_seq DESC LIMIT 1";
    Ok(head_where(conn, tail, [to_sql(seq)])?.filter(|head| head.seq == seq))
}

fn head_where(conn: &Connection, tail: &str, params: impl rusqlite::Params) -> rusqlite::Result<Option<Head>> {
    conn.query_row(&format!("SELECT first_seq, count, epoch, hash FROM batches {tail}"), params, |row| {
        let (first_seq, count): (u64, u32) = (number_at(row, 0)?, number_at(row, 1)?);
        let seq = first_seq.saturating_add(u64::from(count)).saturating_sub(1);
        Ok(Head { seq, epoch: number_at(row, 2)?, hash: hash_at(row, 3)? })
    })
    .optional()
}

/// Hands every row from the one that contains `from_seq` on to `take`, in order, until it answers false.
pub(crate) fn each_row(conn: &Connection, from_seq: u64, mut take: impl FnMut(Row) -> bool) -> rusqlite::Result<()> {
    let mut statement = conn.prepare(&format!(
        "SELECT {ROW} FROM batches WHERE first_seq >= \
         ifnull((SELECT max(first_seq) FROM batches WHERE first_seq <= ?1), 0) ORDER BY first_seq"
    ))?;
    let mut rows = statement.query([to_sql(from_seq)])?;
    while let Some(row) = rows.next()? {
        if !take(row_of(row)?) {
            break;
        }
    }
    Ok(())
}

/// Inserts sealed rows and blobs; to be called inside a transaction.
pub(crate) fn insert(
    conn: &Connection,
    rows: &[(&Batch, u32, Hash, Hash)],
    blobs: &[super::Blob],
) -> rusqlite::Result<()> {
    let mut insert = conn.prepare(&format!("INSERT INTO batches ({ROW}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)"))?;
    for (batch, crc, prev_hash, hash) in rows {
        let (first_seq, epoch) = (to_sql(batch.first_seq), to_sql(batch.epoch));
        insert.execute(params![first_seq, batch.count, epoch, crc, prev_hash.0, hash.0, batch.payload])?;
    }
    if !blobs.is_empty() {
        let mut insert = conn.prepare("INSERT INTO blobs (id, bytes) VALUES (?1, ?2) ON CONFLICT (id) DO NOTHING")?;
        for blob in blobs {
            insert.execute(params![blob.id().0, blob.bytes()])?;
        }
    }
    Ok(())
}

/// The content under a blob id, unproven. Events name only blobs that were written, so a miss is either a fault of the
/// caller or a damaged index: before it is believed, all ids are looked through. O(log blobs) when found, O(blobs) else.
pub(crate) fn blob(conn: &Connection, id: &[u8; 16]) -> rusqlite::Result<Option<Vec<u8>>> {
    let find = |table: &str| {
        conn.query_row(&format!("SELECT bytes FROM {table} WHERE id = ?1"), [id], |row| row.get(0)).optional()
    };
    match find("blobs")? {
        None => find("blobs NOT INDEXED"),
        found => Ok(found),
    }
}
