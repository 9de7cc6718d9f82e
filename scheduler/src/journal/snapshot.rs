//! Snapshots: the state at a position, kept in chunks, so that recovery need not start from the first event.
//!
//! In: an encoded state and its position. Out: the newest one whose checksums hold. A snapshot is written chunk by
//! chunk in small transactions and becomes visible with the last of them only; a damaged one is passed over for the
//! older one and reported, never used and never a reason to lose events.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, params};

use super::chain::Hash;
use super::schema::{number_at, to_sql};
use super::{Head, JournalError, MAX_SNAPSHOT_BYTES, SNAPSHOT_CHUNK_BYTES};

/// The state after the event at `seq`, encoded; opaque here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Position of the last event it contains; the end of a batch.
    pub seq: u64,
    /// When it was made, in milliseconds since the epoch of the clock that the caller uses.
    pub created_ms: u64,
    /// The encoded state, at most [`MAX_SNAPSHOT_BYTES`].
    pub bytes: Vec<u8>,
}

impl Snapshot {
    /// The chunks in order, each with its index, all but the last of [`SNAPSHOT_CHUNK_BYTES`].
    pub fn chunks(&self) -> impl Iterator<Item = (u32, &[u8])> {
        (0u32..).zip(self.bytes.chunks(SNAPSHOT_CHUNK_BYTES))
    }

    /// What is stored about it beside the chunks. Reads all of it once, for the checksum.
    pub fn info(&self) -> SnapshotInfo {
        SnapshotInfo {
            seq: self.seq,
            created_ms: self.created_ms,
            bytes: self.bytes.len() as u64,
            chunks: u32::try_from(self.bytes.len().div_ceil(SNAPSHOT_CHUNK_BYTES)).unwrap_or(u32::MAX),
            content_crc: crc32fast::hash(&self.bytes),
        }
    }
}

/// A snapshot without its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Position of the last event it contains.
    pub seq: u64,
    /// When it was made, in the caller's milliseconds.
    pub created_ms: u64,
    /// Size of the content in bytes.
    pub bytes: u64,
    /// How many chunks it was cut into.
    pub chunks: u32,
    /// CRC-32 of the content.
    pub content_crc: u32,
}

/// The answer to "where can recovery start".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FoundSnapshot {
    /// The newest sound snapshot; `None` means: start from the first event.
    pub snapshot: Option<Snapshot>,
    /// Positions of newer snapshots that were passed over because they are damaged. Worth a warning.
    pub damaged: Vec<u64>,
}

/// A visible snapshot as stored: with the head of the chain at its position.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stored {
    pub(crate) info: SnapshotInfo,
    pub(crate) head: Head,
}

impl Stored {
    pub(crate) fn crc(&self) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        for number in [self.info.seq, self.info.created_ms, self.info.bytes, self.head.epoch] {
            crc.update(&number.to_le_bytes());
        }
        crc.update(&self.info.chunks.to_le_bytes());
        crc.update(&self.info.content_crc.to_le_bytes());
        crc.update(&self.head.hash.0);
        crc.finalize()
    }
}

/// The newest snapshot that holds, and the newer ones that do not.
#[derive(Debug, Default)]
pub(crate) struct Newest {
    pub(crate) found: Option<(Stored, Vec<u8>)>,
    pub(crate) damaged: Vec<u64>,
}

/// Whether the content is wanted, or only that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    Keep,
    CheckOnly,
}

/// Walks the visible snapshots that stand at `up_to` or before it, from the newest down to the first that holds.
pub(crate) fn newest(dir: &Path, conn: &Connection, content: Content, up_to: u64) -> Result<Newest, JournalError> {
    let mut newest = Newest::default();
    for (seq, stored) in stored(dir, conn)?.into_iter().filter(|(seq, _)| *seq <= up_to) {
        let bytes = match stored {
            Some(stored) => read_content(dir, conn, &stored, content)?.map(|bytes| (stored, bytes)),
            None => None,
        };
        match bytes {
            Some(found) => {
                newest.found = Some(found);
                break;
            }
            None => newest.damaged.push(seq),
        }
    }
    Ok(newest)
}

/// Positions of all visible snapshots that do not hold.
pub(crate) fn damaged(dir: &Path, conn: &Connection) -> Result<(u64, Vec<u64>), JournalError> {
    let (mut sound, mut bad) = (0, Vec::new());
    for (seq, stored) in stored(dir, conn)? {
        match stored {
            Some(stored) if read_content(dir, conn, &stored, Content::CheckOnly)?.is_some() => sound += 1,
            Some(_) | None => bad.push(seq),
        }
    }
    Ok((sound, bad))
}

/// The visible snapshots, newest first; `None` beside the position where the row itself fails its checksum.
fn stored(dir: &Path, conn: &Connection) -> Result<Vec<(u64, Option<Stored>)>, JournalError> {
    let list = || -> rusqlite::Result<Vec<(u64, Option<Stored>)>> {
        let mut statement = conn.prepare(
            "SELECT seq, created_ms, bytes, chunks, content_crc, hash, epoch, crc FROM snapshots ORDER BY seq DESC",
        )?;
        let rows = statement.query_map([], |row| {
            let seq: i64 = row.get(0)?;
            Ok((seq.unsigned_abs(), stored_row(row).ok().flatten()))
        })?;
        rows.collect()
    };
    list().map_err(|err| JournalError::sqlite(dir, "listing the snapshots", 0, &err))
}

fn stored_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Option<Stored>> {
    let info = SnapshotInfo {
        seq: number_at(row, 0)?,
        created_ms: number_at(row, 1)?,
        bytes: number_at(row, 2)?,
        chunks: number_at(row, 3)?,
        content_crc: number_at(row, 4)?,
    };
    let head = Head { seq: info.seq, hash: Hash(row.get(5)?), epoch: number_at(row, 6)? };
    let stored = Stored { info, head };
    Ok((stored.crc() == number_at::<u32>(row, 7)?).then_some(stored))
}

/// The content, empty when it is only to be checked; `None` when it does not hold.
fn read_content(
    dir: &Path,
    conn: &Connection,
    stored: &Stored,
    content: Content,
) -> Result<Option<Vec<u8>>, JournalError> {
    match try_read_content(conn, stored, content) {
        Ok(bytes) => Ok(bytes),
        Err(err) => match JournalError::sqlite(dir, "reading a snapshot", stored.info.seq, &err) {
            err if err.is_damage() => Ok(None),
            err => Err(err),
        },
    }
}

fn try_read_content(conn: &Connection, stored: &Stored, content: Content) -> rusqlite::Result<Option<Vec<u8>>> {
    let mut statement = conn.prepare("SELECT part, bytes FROM snapshot_chunks WHERE seq = ?1 ORDER BY part")?;
    let mut rows = statement.query([to_sql(stored.info.seq)])?;
    let (mut crc, mut length, mut parts) = (crc32fast::Hasher::new(), 0u64, 0u32);
    let mut bytes = Vec::new();
    while let Some(row) = rows.next()? {
        let chunk: &[u8] = row.get_ref(1)?.as_blob().unwrap_or_default();
        if number_at::<u32>(row, 0)? != parts || chunk.len() > SNAPSHOT_CHUNK_BYTES || parts == stored.info.chunks {
            return Ok(None);
        }
        crc.update(chunk);
        length += chunk.len() as u64;
        parts += 1;
        if content == Content::Keep {
            bytes.extend_from_slice(chunk);
        }
    }
    let whole = (parts, length, crc.finalize()) == (stored.info.chunks, stored.info.bytes, stored.info.content_crc);
    Ok(whole.then_some(bytes))
}

/// Puts one chunk; chunk 0 first removes what an earlier try left for this position. Inside a transaction.
pub(crate) fn put_chunk(conn: &Connection, seq: u64, index: u32, bytes: &[u8]) -> rusqlite::Result<()> {
    if index == 0 {
        conn.execute("DELETE FROM snapshot_chunks WHERE seq = ?1", [to_sql(seq)])?;
    }
    conn.execute(
        "INSERT INTO snapshot_chunks (seq, part, bytes) VALUES (?1, ?2, ?3)",
        params![to_sql(seq), index, bytes],
    )
    .map(drop)
}

/// Why a snapshot cannot be published, if it cannot.
pub(crate) fn refusal(conn: &Connection, info: &SnapshotInfo) -> rusqlite::Result<Option<String>> {
    let newest: Option<i64> = conn.query_row("SELECT max(seq) FROM snapshots", [], |row| row.get(0))?;
    let (chunks, bytes): (i64, i64) = conn.query_row(
        "SELECT count(*), ifnull(sum(length(bytes)), 0) FROM snapshot_chunks WHERE seq = ?1",
        [to_sql(info.seq)],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    Ok(match newest {
        Some(newest) if to_sql(info.seq) <= newest => Some(format!("there is one at position {newest} already")),
        Some(_) | None if chunks != i64::from(info.chunks) || bytes.unsigned_abs() != info.bytes => {
            Some(format!("{chunks} chunks of {bytes} bytes are stored, {} of {} belong to it", info.chunks, info.bytes))
        }
        Some(_) | None => None,
    })
}

/// The checks on a snapshot that need no store.
pub(crate) fn check_size(info: &SnapshotInfo) -> Result<(), JournalError> {
    match usize::try_from(info.bytes) {
        Ok(bytes) if bytes <= MAX_SNAPSHOT_BYTES => Ok(()),
        Ok(_) | Err(_) => {
            let why = format!("{} bytes are above the limit of {MAX_SNAPSHOT_BYTES}", info.bytes);
            Err(JournalError::BadSnapshot { seq: info.seq, why })
        }
    }
}

/// Positions and times of the visible snapshots, newest first.
pub(crate) fn times(conn: &Connection) -> rusqlite::Result<Vec<(u64, u64)>> {
    let mut statement = conn.prepare("SELECT seq, created_ms FROM snapshots ORDER BY seq DESC")?;
    statement.query_map([], |row| Ok((number_at(row, 0)?, number_at(row, 1)?)))?.collect()
}

/// Hides all but these. Inside a transaction.
pub(crate) fn keep_only(conn: &Connection, visible: &[u64]) -> rusqlite::Result<()> {
    let hidden: Vec<u64> = times(conn)?.into_iter().map(|(seq, _)| seq).filter(|seq| !visible.contains(seq)).collect();
    hide(conn, &hidden)
}

/// Makes a snapshot visible. Inside a transaction.
pub(crate) fn publish(conn: &Connection, stored: &Stored) -> rusqlite::Result<()> {
    let info = &stored.info;
    conn.execute(
        "INSERT INTO snapshots (seq, hash, epoch, created_ms, bytes, chunks, content_crc, crc)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            to_sql(info.seq),
            stored.head.hash.0,
            to_sql(stored.head.epoch),
            to_sql(info.created_ms),
            to_sql(info.bytes),
            info.chunks,
            info.content_crc,
            stored.crc()
        ],
    )
    .map(drop)
}

/// Hides snapshots that do not hold, so that they do not count among those kept.
pub(crate) fn hide(conn: &Connection, seqs: &[u64]) -> rusqlite::Result<()> {
    for seq in seqs {
        conn.execute("DELETE FROM snapshots WHERE seq = ?1", [to_sql(*seq)])?;
    }
    Ok(())
}

/// Removes one chunk of a snapshot that is not visible and not `unfinished`; false when there is none.
pub(crate) fn remove_hidden_chunk(conn: &Connection, unfinished: Option<u64>) -> rusqlite::Result<bool> {
    let hidden: Option<i64> = conn
        .query_row(
            "SELECT rowid FROM snapshot_chunks
             WHERE seq NOT IN (SELECT seq FROM snapshots) AND seq IS NOT ?1 LIMIT 1",
            [unfinished.map(to_sql)],
            |row| row.get(0),
        )
        .optional()?;
    match hidden {
        None => Ok(false),
        Some(rowid) => conn.execute("DELETE FROM snapshot_chunks WHERE rowid = ?1", [rowid]).map(|_| true),
    }
}
