//! What waiting jobs were told first, and when they started: a file beside the journal, from which the calibration is made.
//!
//! It is no part of the state: whoever leads keeps what it told itself, and a file that is lost takes nothing with it but
//! the record of how good the estimates were.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use dure_core::ids::JobId;
use dure_core::units::{Span, Time};
use dure_proto::v1;
use dure_replay::forecast::Estimate;
use rusqlite::{Connection, params};

/// Records older than this are dropped.
const KEPT: Span = Span::seconds(400 * 86_400);
/// Records at once; the oldest go first.
const MAX_KEPT: i64 = 2_000_000;

const CREATE: &str = "
PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;
CREATE TABLE IF NOT EXISTS told (
  job INTEGER PRIMARY KEY, mission TEXT NOT NULL, told_ms INTEGER NOT NULL, p50_ms INTEGER, p90_ms INTEGER,
  started_ms INTEGER);
CREATE INDEX IF NOT EXISTS told_by_start ON told (started_ms);
";

/// Why the record cannot be kept or read.
#[derive(Debug, thiserror::Error)]
#[error("{}: {error}: move the file away, and a new one is begun", path.display())]
pub struct ToldError {
    path: PathBuf,
    error: rusqlite::Error,
}

/// The record.
pub struct Told {
    path: PathBuf,
    file: Connection,
}

/// What a job is told.
pub(super) struct Telling<'a> {
    pub(super) job: JobId,
    pub(super) mission: &'a str,
    pub(super) at: Time,
    pub(super) estimate: Estimate,
}

impl Told {
    /// The record in a folder.
    ///
    /// # Errors
    /// [`ToldError`] when it cannot be opened.
    pub fn open(folder: &Path) -> Result<Self, ToldError> {
        let path = folder.join("estimates.db");
        let opened = Connection::open(&path).and_then(|file| file.execute_batch(CREATE).map(|()| file));
        match opened {
            Ok(file) => Ok(Self { path, file }),
            Err(error) => Err(ToldError { path, error }),
        }
    }

    /// A record that ends with the process.
    ///
    /// # Errors
    /// [`ToldError`] when there is no memory.
    pub fn in_memory() -> Result<Self, ToldError> {
        let path = PathBuf::from(":memory:");
        let opened = Connection::open_in_memory().and_then(|file| file.execute_batch(CREATE).map(|()| file));
        match opened {
            Ok(file) => Ok(Self { path, file }),
            Err(error) => Err(ToldError { path, error }),
        }
    }

    fn fault(&self) -> impl Fn(rusqlite::Error) -> ToldError {
        |error| ToldError { path: self.path.clone(), error }
    }

    /// Keeps what jobs are told that were told nothing before, and the first starts of those that were.
    pub(super) fn keep<'a>(
        &mut self,
        tellings: impl Iterator<Item = Telling<'a>>,
        starts: &[(JobId, Time)],
    ) -> Result<(), ToldError> {
        let path = self.path.clone();
        let kept = (|| {
            let all = self.file.transaction()?;
            {
                let mut started =
                    all.prepare("UPDATE told SET started_ms = ?2 WHERE job = ?1 AND started_ms IS NULL")?;
                for (job, at) in starts {
                    started.execute(params![job.0 as i64, at.0 as i64])?;
                }
                let mut told = all.prepare(
                    "INSERT OR IGNORE INTO told (job, mission, told_ms, p50_ms, p90_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
                )?;
                let ms = |time: Option<Time>| time.map(|time| time.0 as i64);
                for Telling { job, mission, at, estimate } in tellings {
                    told.execute(params![job.0 as i64, mission, at.0 as i64, ms(estimate.p50), ms(estimate.p90)])?;
                }
            }
            all.commit()
        })();
        kept.map_err(|error| ToldError { path, error })
    }

    /// Drops what is old.
    pub(super) fn tidy(&mut self, now: Time) -> Result<(), ToldError> {
        let before = now.0.saturating_sub(KEPT.0) as i64;
        let old = self.file.execute("DELETE FROM told WHERE told_ms < ?1", [before]).map(drop);
        old.and_then(|()| {
            let most = "DELETE FROM told WHERE job <= (SELECT job FROM told ORDER BY job DESC LIMIT 1 OFFSET ?1)";
            self.file.execute(most, [MAX_KEPT]).map(drop)
        })
        .map_err(self.fault())
    }

    /// Jobs that were told something and have not started.
    pub(super) fn open_jobs(&self) -> Result<BTreeSet<JobId>, ToldError> {
        let read = || {
            let mut open = self.file.prepare("SELECT job FROM told WHERE started_ms IS NULL")?;
            let jobs = open.query_map([], |row| row.get::<_, i64>(0))?;
            jobs.map(|job| Ok(JobId(job? as u64))).collect::<rusqlite::Result<_>>()
        };
        read().map_err(self.fault())
    }

    /// How what was told has fared of the jobs that started from `since` on: one row for each mission, and one for all.
    pub(super) fn fared(&self, since: Time) -> Result<Vec<v1::CalibrationRow>, ToldError> {
        let mut of: BTreeMap<String, Tally> = BTreeMap::new();
        let mut read = || {
            let mut rows = self
                .file
                .prepare("SELECT mission, told_ms, p50_ms, p90_ms, started_ms FROM told WHERE started_ms >= ?1")?;
            let mut rows = rows.query([since.0 as i64])?;
            while let Some(row) = rows.next()? {
                let ms = |at: usize| row.get::<_, Option<i64>>(at).map(|ms| ms.map(|ms| ms as u64));
                let (told, p50, p90, started) = (ms(1)?, ms(2)?, ms(3)?, ms(4)?);
                let (told, started) = (told.unwrap_or(0), started.unwrap_or(0));
                let mission: String = row.get(0)?;
                for name in [mission, String::new()] {
                    of.entry(name).or_default().add(told, p50.zip(p90), started);
                }
            }
            Ok(())
        };
        read().map_err(self.fault())?;
        Ok(of.into_iter().map(|(tenant, tally)| tally.row(tenant)).collect())
    }
}

#[derive(Default)]
struct Tally {
    by: (u64, u64),
    untold: u64,
    p50_off: Vec<u64>,
    p90_off: Vec<u64>,
    waits: Vec<u64>,
}

impl Tally {
    fn add(&mut self, told: u64, said: Option<(u64, u64)>, started: u64) {
        let Some((p50, p90)) = said else {
            self.untold += 1;
            return;
        };
        self.by.0 += u64::from(started <= p50);
        self.by.1 += u64::from(started <= p90);
        self.p50_off.push(started.abs_diff(p50));
        self.p90_off.push(started.abs_diff(p90));
        self.waits.push(started.saturating_sub(told));
    }

    fn row(mut self, tenant: String) -> v1::CalibrationRow {
        let jobs = self.waits.len() as u64;
        v1::CalibrationRow {
            tenant,
            jobs,
            by_p50: self.by.0,
            by_p90: self.by.1,
            p50_median_error_ms: median(&mut self.p50_off),
            limits_median_error_ms: median(&mut self.p90_off),
            median_wait_ms: median(&mut self.waits),
            untold: self.untold,
        }
    }
}

fn median(of: &mut [u64]) -> u64 {
    of.sort_unstable();
    of.get(of.len() / 2).copied().unwrap_or(0)
}
