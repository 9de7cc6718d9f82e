//! The history's own file: SQLite beside the journal.
//!
//! In: rows of durable turns and the position that they go up to, in one transaction. The tables are for everybody to
//! read: ARCHITECTURE.md explains the columns. Times are milliseconds since the Unix epoch, GPU-time GPU-milliseconds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dure_core::ids::{JobId, Seq};
use dure_core::units::Time;
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

/// The schema's version; a file of another one is set aside and made anew.
const VERSION: i64 = 1;
/// What a file that was set aside ends in, in place of its own ending; there is one at most.
const ASIDE: &str = "aside.sqlite";

const SCHEMA: &str = "
    CREATE TABLE meta (version INTEGER NOT NULL, store_id TEXT NOT NULL, seq INTEGER NOT NULL);
    CREATE TABLE gaps (from_seq INTEGER PRIMARY KEY, to_seq INTEGER NOT NULL, from_ms INTEGER NOT NULL,
        to_ms INTEGER NOT NULL);
    CREATE TABLE jobs (
        job_id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, user TEXT NOT NULL, name TEXT NOT NULL,
        gpu_milli INTEGER NOT NULL, members INTEGER NOT NULL, array_id INTEGER, array_index INTEGER,
        submitted_ms INTEGER NOT NULL, ended_ms INTEGER NOT NULL, outcome TEXT NOT NULL, attempts INTEGER NOT NULL,
        own_gpu_ms INTEGER NOT NULL, borrowed_gpu_ms INTEGER NOT NULL);
    CREATE INDEX jobs_by_end ON jobs (ended_ms);
    CREATE TABLE attempts (
        job_id INTEGER NOT NULL, attempt INTEGER NOT NULL, tenant TEXT NOT NULL, user TEXT NOT NULL,
        placed_ms INTEGER NOT NULL, started_ms INTEGER, ended_ms INTEGER NOT NULL, outcome TEXT NOT NULL,
        gpu_milli INTEGER NOT NULL, nodes TEXT NOT NULL, own_gpu_ms INTEGER NOT NULL, borrowed_gpu_ms INTEGER NOT NULL,
        PRIMARY KEY (job_id, attempt)) WITHOUT ROWID;
    CREATE INDEX attempts_by_end ON attempts (ended_ms);
    CREATE TABLE evictions (
        seq INTEGER PRIMARY KEY, time_ms INTEGER NOT NULL, job_id INTEGER NOT NULL, attempt INTEGER NOT NULL,
        tenant TEXT NOT NULL, user TEXT NOT NULL, reason TEXT NOT NULL, beneficiary INTEGER, beneficiary_tenant TEXT);
    CREATE INDEX evictions_by_time ON evictions (time_ms);
    CREATE TABLE usage (
        day INTEGER NOT NULL, tenant TEXT NOT NULL, user TEXT NOT NULL, own_gpu_ms INTEGER NOT NULL,
        borrowed_gpu_ms INTEGER NOT NULL, PRIMARY KEY (day, tenant, user)) WITHOUT ROWID;
    CREATE TABLE charged (job_id INTEGER PRIMARY KEY, own_gpu_ms INTEGER NOT NULL, borrowed_gpu_ms INTEGER NOT NULL);
    CREATE TABLE quota_changes (
        seq INTEGER PRIMARY KEY, time_ms INTEGER NOT NULL, tenant TEXT NOT NULL, what TEXT NOT NULL, forecast TEXT,
        user TEXT NOT NULL);
    CREATE TABLE audit (
        id INTEGER PRIMARY KEY, seq INTEGER NOT NULL, place INTEGER NOT NULL, time_ms INTEGER NOT NULL,
        user TEXT NOT NULL, role TEXT NOT NULL, origin TEXT NOT NULL, method TEXT NOT NULL, tenant TEXT NOT NULL,
        job_id INTEGER NOT NULL, what TEXT NOT NULL, reason TEXT NOT NULL, events INTEGER NOT NULL,
        refused TEXT NOT NULL, count INTEGER NOT NULL);
    CREATE UNIQUE INDEX audit_calls ON audit (seq, place) WHERE refused = '';
    CREATE UNIQUE INDEX audit_refusals ON audit (time_ms, user, role, method, refused) WHERE refused <> '';
    CREATE INDEX audit_by_time ON audit (time_ms);
";

/// Where it ends, and when that turn happened: a file that an older version has made has no such table.
const ENDS: &str = "CREATE TABLE IF NOT EXISTS ends (seq INTEGER NOT NULL, time_ms INTEGER NOT NULL)";

/// The tables that follow from the journal; refusals are in none.
const FOLDED: [&str; 7] = ["gaps", "jobs", "attempts", "evictions", "usage", "charged", "quota_changes"];

/// Why the history cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The file cannot be used.
    #[error("history {}: {doing}: {error}; with the scheduler stopped, `dure history rebuild` makes it anew from the journal", path.display())]
    Storage {
        /// The file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What SQLite says.
        error: rusqlite::Error,
    },
    /// The folder cannot be made, or its lock not be taken.
    #[error("history {}: {error}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
}

/// The history, open for writing.
#[derive(Debug)]
pub struct HistoryStore {
    pub(super) path: PathBuf,
    pub(super) db: Connection,
    seq: Seq,
    /// When the turn happened with which it ends; 0 where that is not known.
    time: Time,
}

impl HistoryStore {
    /// The file inside a scheduler's folder.
    pub fn path_in(data_dir: &Path) -> PathBuf {
        data_dir.join("history").join("history.sqlite")
    }

    /// Opens the history of a store, or makes it. One of another store or another version is set aside first.
    ///
    /// # Errors
    /// [`HistoryError`] when neither is possible.
    pub fn open(path: &Path, store_id: &str) -> Result<Self, HistoryError> {
        if let Some(folder) = path.parent() {
            let folder_error = |error| HistoryError::Folder { path: folder.to_owned(), error };
            std::fs::create_dir_all(folder).map_err(folder_error)?;
        }
        let (mut db, mut known) = connect(path)?;
        if let Some((version, store, _)) = known.take_if(|(version, store, _)| *version != VERSION || store != store_id)
        {
            let aside = path.with_extension(ASIDE);
            tracing::warn!(
                path = %path.display(), aside = %aside.display(), version, store, wanted = store_id,
                "the history is of another store, or of another version: it is set aside, and made anew from the journal"
            );
            set_aside(db, path, &aside)?;
            (db, known) = connect(path)?;
        }
        let seq = match known {
            Some((_, _, seq)) => Seq(unsigned(seq)),
            None => {
                make_anew(&db, store_id).map_err(failed(path, "making the tables"))?;
                Seq(0)
            }
        };
        db.execute_batch(ENDS).map_err(failed(path, "making the tables"))?;
        let ends = "SELECT time_ms FROM ends WHERE seq = ?1";
        let time = db.query_row(ends, [signed(seq.0)], |row| row.get(0)).optional().map_err(failed(path, "reading"))?;
        Ok(Self { path: path.to_owned(), db, seq, time: Time(unsigned(time.unwrap_or(0))) })
    }

    /// Everything up to here is in it.
    pub fn position(&self) -> Seq {
        self.seq
    }

    /// When the turn happened with which it ends; 0 where that is not known.
    pub fn time(&self) -> Time {
        self.time
    }

    /// Forgets everything that the journal can tell again.
    ///
    /// # Errors
    /// Those of writing.
    pub fn clear(&mut self) -> Result<(), HistoryError> {
        self.write(Seq(0), Time(0), |change| {
            for table in FOLDED {
                change.execute(&format!("DELETE FROM {table}"), [])?;
            }
            change.execute("DELETE FROM audit WHERE refused = ''", []).map(drop)
        })
    }

    /// Writes rows and the position that they go up to, with the time of the turn there, all or none.
    pub(super) fn write(
        &mut self,
        seq: Seq,
        time: Time,
        rows: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()>,
    ) -> Result<(), HistoryError> {
        let path = &self.path;
        let change = self.db.transaction().map_err(failed(path, "beginning"))?;
        rows(&change).map_err(failed(path, "writing"))?;
        change.execute("UPDATE meta SET seq = ?1", [signed(seq.0)]).map_err(failed(path, "writing"))?;
        change.execute("DELETE FROM ends", []).map_err(failed(path, "writing"))?;
        let ends = params![signed(seq.0), signed(time.0)];
        change.execute("INSERT INTO ends VALUES (?1, ?2)", ends).map_err(failed(path, "writing"))?;
        change.commit().map_err(failed(path, "committing"))?;
        (self.seq, self.time) = (seq, time);
        Ok(())
    }

    /// Everything written is on disk when this returns.
    pub(super) fn sync(&mut self) -> Result<(), HistoryError> {
        let moved = self.db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        moved.map_err(failed(&self.path, "syncing"))
    }

    /// What of each job that has not ended is in the table of days.
    pub(super) fn charged(&self) -> Result<BTreeMap<JobId, (u64, u64)>, HistoryError> {
        let read = || {
            let mut statement = self.db.prepare("SELECT job_id, own_gpu_ms, borrowed_gpu_ms FROM charged")?;
            let row = |row: &rusqlite::Row<'_>| {
                Ok((JobId(unsigned(row.get(0)?)), (unsigned(row.get(1)?), unsigned(row.get(2)?))))
            };
            statement.query_map([], row)?.collect::<rusqlite::Result<_>>()
        };
        read().map_err(failed(&self.path, "reading"))
    }
}

/// Version, store and position, as the file says them; nothing where it is new.
type Known = Option<(i64, String, i64)>;

fn connect(path: &Path) -> Result<(Connection, Known), HistoryError> {
    let db = Connection::open(path).map_err(failed(path, "opening"))?;
    // What a crash takes from it is filled again from the journal: only snapshots wait for it to be on disk.
    db.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;").map_err(failed(path, "opening"))?;
    let read = || {
        // A new file has no such table, and whoever was killed while making one has written no row.
        let is_new = "SELECT count(*) = 0 FROM sqlite_schema WHERE name = 'meta'";
        if db.query_row(is_new, [], |row| row.get(0))? {
            return Ok(None);
        }
        let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        db.query_row("SELECT version, store_id, seq FROM meta", [], row).optional()
    };
    let known = read().map_err(failed(path, "reading who it is of"))?;
    Ok((db, known))
}

/// Moves the whole file to `aside`, in the place of what lies there.
fn set_aside(db: Connection, path: &Path, aside: &Path) -> Result<(), HistoryError> {
    // What is still in its log belongs to it.
    let whole = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    whole.map_err(failed(path, "setting it aside"))?;
    db.close().map_err(|(_, error)| failed(path, "setting it aside")(error))?;
    std::fs::rename(path, aside).map_err(|error| HistoryError::Folder { path: aside.to_owned(), error })
}

fn make_anew(db: &Connection, store_id: &str) -> rusqlite::Result<()> {
    let tables: Vec<String> = db
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for table in tables {
        db.execute_batch(&format!("DROP TABLE \"{table}\";"))?;
    }
    db.execute_batch(SCHEMA)?;
    db.execute("INSERT INTO meta VALUES (?1, ?2, 0)", params![VERSION, store_id]).map(drop)
}

pub(super) fn failed(path: &Path, doing: &'static str) -> impl FnOnce(rusqlite::Error) -> HistoryError {
    let path = path.to_owned();
    move |error| HistoryError::Storage { path, doing, error }
}

/// SQLite's integers are signed; nothing here comes near the difference.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
