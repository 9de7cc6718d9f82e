//! What the history answers. Every answer is one page of rows as the API has them.

use std::path::{Path, PathBuf};

use dure_proto::v1;
use rusqlite::{Connection, OpenFlags, Row, ToSql};

use super::DAY_MS;
use super::store::{HistoryError, HistoryStore, failed, signed, unsigned};
use crate::auth::Visible;

/// How long a reader waits for a lock of the writer.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);

/// Which rows; empty and 0 do not narrow.
#[derive(Clone, Debug)]
pub struct Filter {
    /// What the caller may see.
    pub visible: Visible,
    /// A tenant and everything below it.
    pub tenant: String,
    /// A user.
    pub user: String,
    /// A job.
    pub job: u64,
    /// The first moment, in milliseconds.
    pub since_ms: u64,
    /// The moment after the last one.
    pub until_ms: u64,
}

/// How usage is summed.
#[derive(Clone, Copy, Debug)]
pub struct UsageFilter {
    /// One row per day.
    pub by_day: bool,
    /// One row per user.
    pub by_user: bool,
}

/// Which part of the audit.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// Only refusals.
    pub refused: bool,
    /// Only this method.
    pub method: String,
}

/// Which of them: so many, after so many.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// At most so many.
    pub size: usize,
    /// So many are passed over.
    pub from: u64,
}

/// Rows of a page, and whether there are more.
type Rows<T> = Result<(Vec<T>, bool), HistoryError>;

/// The history, open for reading; it may be written meanwhile.
#[derive(Debug)]
pub struct HistoryReader {
    path: PathBuf,
    db: Connection,
}

impl HistoryReader {
    /// Opens the history of a scheduler's folder.
    ///
    /// # Errors
    /// [`HistoryError`] when there is none.
    pub fn open(data_dir: &Path) -> Result<Self, HistoryError> {
        let path = HistoryStore::path_in(data_dir);
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(&path, flags).map_err(failed(&path, "opening"))?;
        db.busy_timeout(PATIENCE).map_err(failed(&path, "opening"))?;
        Ok(Self { path, db })
    }

    /// How far it reaches.
    ///
    /// # Errors
    /// Those of reading.
    pub fn reach(&self) -> Result<v1::Reach, HistoryError> {
        let read = || {
            let seq = self.db.query_row("SELECT seq FROM meta", [], |row| number(row, 0))?;
            let mut gaps = self.db.prepare("SELECT from_ms, to_ms FROM gaps ORDER BY from_seq")?;
            let gaps = gaps.query_map([], |row| Ok(v1::Gap { from_ms: number(row, 0)?, to_ms: number(row, 1)? }))?;
            Ok(v1::Reach { seq, gaps: gaps.collect::<rusqlite::Result<_>>()? })
        };
        read().map_err(failed(&self.path, "reading"))
    }

    /// Jobs that ended, the last one first.
    ///
    /// # Errors
    /// Those of reading.
    pub fn jobs(&self, filter: &Filter, page: Page) -> Rows<v1::PastJob> {
        let wanted = Wanted::new(filter, "ended_ms").job(filter.job, "job_id");
        let sql =
            "SELECT job_id, tenant, user, name, gpu_milli, members, array_id, array_index, submitted_ms, ended_ms,
                   outcome, attempts, own_gpu_ms, borrowed_gpu_ms FROM jobs";
        self.page(sql, "ORDER BY ended_ms DESC, job_id DESC", wanted, page, |row| {
            Ok(v1::PastJob {
                id: number(row, 0)?,
                tenant: row.get(1)?,
                user: row.get(2)?,
                name: row.get(3)?,
                gpu_milli: number(row, 4)?,
                members: row.get(5)?,
                array_id: row.get::<_, Option<i64>>(6)?.map_or(0, unsigned),
                array_index: row.get::<_, Option<u32>>(7)?.unwrap_or(0),
                submitted_ms: number(row, 8)?,
                ended_ms: number(row, 9)?,
                outcome: row.get(10)?,
                attempts: row.get(11)?,
                total: Some(total(row, 12)?),
            })
        })
    }

    /// Attempts that ended, the last one first.
    ///
    /// # Errors
    /// Those of reading.
    pub fn attempts(&self, filter: &Filter, page: Page) -> Rows<v1::PastAttempt> {
        let wanted = Wanted::new(filter, "ended_ms").job(filter.job, "job_id");
        let sql = "SELECT job_id, attempt, tenant, user, placed_ms, started_ms, ended_ms, outcome, gpu_milli, nodes,
                   own_gpu_ms, borrowed_gpu_ms FROM attempts";
        self.page(sql, "ORDER BY ended_ms DESC, job_id DESC, attempt DESC", wanted, page, |row| {
            Ok(v1::PastAttempt {
                job_id: number(row, 0)?,
                attempt: row.get(1)?,
                tenant: row.get(2)?,
                user: row.get(3)?,
                placed_ms: number(row, 4)?,
                started_ms: row.get::<_, Option<i64>>(5)?.map_or(0, unsigned),
                ended_ms: number(row, 6)?,
                outcome: row.get(7)?,
                gpu_milli: number(row, 8)?,
                nodes: row.get::<_, String>(9)?.split(',').map(str::to_owned).collect(),
                total: Some(total(row, 10)?),
            })
        })
    }

    /// Attempts that were stopped for others, the last one first.
    ///
    /// # Errors
    /// Those of reading.
    pub fn evictions(&self, filter: &Filter, page: Page) -> Rows<v1::PastEviction> {
        let wanted = Wanted::new(filter, "time_ms").job(filter.job, "job_id");
        let sql = "SELECT seq, time_ms, job_id, attempt, tenant, user, reason, beneficiary, beneficiary_tenant
                   FROM evictions";
        self.page(sql, "ORDER BY time_ms DESC, seq DESC", wanted, page, |row| {
            Ok(v1::PastEviction {
                seq: number(row, 0)?,
                time_ms: number(row, 1)?,
                job_id: number(row, 2)?,
                attempt: row.get(3)?,
                tenant: row.get(4)?,
                user: row.get(5)?,
                reason: row.get(6)?,
                beneficiary: row.get::<_, Option<i64>>(7)?.map_or(0, unsigned),
                beneficiary_tenant: row.get::<_, Option<String>>(8)?.unwrap_or_default(),
            })
        })
    }

    /// What was changed of tenants, the last change first.
    ///
    /// # Errors
    /// Those of reading.
    pub fn quotas(&self, filter: &Filter, page: Page) -> Rows<v1::PastQuota> {
        let wanted = Wanted::new(filter, "time_ms");
        let sql = "SELECT seq, time_ms, tenant, what, ifnull(forecast, ''), user FROM quota_changes";
        self.page(sql, "ORDER BY time_ms DESC, seq DESC", wanted, page, |row| {
            Ok(v1::PastQuota {
                seq: number(row, 0)?,
                time_ms: number(row, 1)?,
                tenant: row.get(2)?,
                what: row.get(3)?,
                forecast: row.get(4)?,
                user: row.get(5)?,
            })
        })
    }

    /// GPU-time of whole days, by tenant, and by day and user where asked for.
    ///
    /// # Errors
    /// Those of reading.
    pub fn usage(&self, filter: &Filter, by: UsageFilter, page: Page) -> Rows<v1::PastUsage> {
        // A day counts when it begins within the time.
        let days = Filter {
            since_ms: filter.since_ms.div_ceil(DAY_MS),
            until_ms: filter.until_ms.div_ceil(DAY_MS),
            ..filter.clone()
        };
        let wanted = Wanted::new(&days, "day");
        let (day, user) = (if by.by_day { "day" } else { "0" }, if by.by_user { "user" } else { "''" });
        let sql = format!(
            "SELECT {day} AS on_day, tenant, {user} AS of_user, sum(own_gpu_ms), sum(borrowed_gpu_ms) FROM usage"
        );
        let tail = "GROUP BY on_day, tenant, of_user ORDER BY on_day, tenant, of_user";
        self.page(&sql, tail, wanted, page, |row| {
            Ok(v1::PastUsage {
                day_ms: number(row, 0)? * DAY_MS,
                tenant: row.get(1)?,
                user: row.get(2)?,
                total: Some(total(row, 3)?),
            })
        })
    }

    /// Calls that changed something and calls that were refused, the last first.
    ///
    /// # Errors
    /// Those of reading.
    pub fn audit(&self, filter: &Filter, which: &AuditFilter, page: Page) -> Rows<v1::AuditRow> {
        let mut wanted = Wanted::new(filter, "time_ms").job(filter.job, "job_id");
        if which.refused {
            wanted.add("refused <> ''", None);
        }
        if !which.method.is_empty() {
            wanted.add("method = ?", Some(Box::new(which.method.clone())));
        }
        let sql =
            "SELECT seq, time_ms, user, role, origin, method, tenant, job_id, what, reason, events, refused, count
                   FROM audit";
        self.page(sql, "ORDER BY time_ms DESC, id DESC", wanted, page, |row| {
            Ok(v1::AuditRow {
                seq: number(row, 0)?,
                time_ms: number(row, 1)?,
                user: row.get(2)?,
                role: row.get(3)?,
                origin: row.get(4)?,
                method: row.get(5)?,
                tenant: row.get(6)?,
                job_id: number(row, 7)?,
                what: row.get(8)?,
                reason: row.get(9)?,
                events: row.get(10)?,
                refused: row.get(11)?,
                count: number(row, 12)?,
            })
        })
    }

    /// Writes a copy of all of it, as it is at one moment, to a new file.
    ///
    /// # Errors
    /// Those of reading and writing.
    pub fn copy_to(&self, path: &Path) -> Result<(), HistoryError> {
        let text = path.to_string_lossy().into_owned();
        self.db.execute("VACUUM INTO ?1", [text]).map(drop).map_err(failed(&self.path, "copying"))
    }

    fn page<T>(
        &self,
        select: &str,
        tail: &str,
        wanted: Wanted,
        page: Page,
        take: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Rows<T> {
        let Wanted { clauses, mut values } = wanted;
        let sql = format!("{select} WHERE {} {tail} LIMIT ? OFFSET ?", clauses.join(" AND "));
        values.push(Box::new(signed(page.size as u64 + 1)));
        values.push(Box::new(signed(page.from)));
        let read = || {
            let mut statement = self.db.prepare(&sql)?;
            let values = rusqlite::params_from_iter(values.iter().map(|value| &**value as &dyn ToSql));
            statement.query_map(values, take)?.collect::<rusqlite::Result<Vec<T>>>()
        };
        let mut rows = read().map_err(failed(&self.path, "reading"))?;
        let more = rows.len() > page.size;
        rows.truncate(page.size);
        Ok((rows, more))
    }
}

/// Conditions and their values; values never stand in the text.
struct Wanted {
    clauses: Vec<String>,
    values: Vec<Box<dyn ToSql>>,
}

impl Wanted {
    fn new(filter: &Filter, time: &str) -> Self {
        let mut wanted = Self { clauses: vec!["1".to_owned()], values: Vec::new() };
        if let Visible::Missions(missions) = &filter.visible {
            let own = vec!["(tenant = ? OR substr(tenant, 1, length(?) + 1) = ? || '/')"; missions.len()];
            wanted.clauses.push(if own.is_empty() { "0".to_owned() } else { format!("({})", own.join(" OR ")) });
            for mission in missions {
                (0..3).for_each(|_| wanted.values.push(Box::new(mission.to_string())));
            }
        }
        if !filter.tenant.is_empty() {
            wanted.clauses.push("(tenant = ? OR substr(tenant, 1, length(?) + 1) = ? || '/')".to_owned());
            (0..3).for_each(|_| wanted.values.push(Box::new(filter.tenant.clone())));
        }
        if !filter.user.is_empty() {
            wanted.add("user = ?", Some(Box::new(filter.user.clone())));
        }
        if filter.since_ms > 0 {
            wanted.add(&format!("{time} >= ?"), Some(Box::new(signed(filter.since_ms))));
        }
        if filter.until_ms > 0 {
            wanted.add(&format!("{time} < ?"), Some(Box::new(signed(filter.until_ms))));
        }
        wanted
    }

    fn job(mut self, job: u64, column: &str) -> Self {
        if job > 0 {
            self.add(&format!("{column} = ?"), Some(Box::new(signed(job))));
        }
        self
    }

    fn add(&mut self, clause: &str, value: Option<Box<dyn ToSql>>) {
        self.clauses.push(clause.to_owned());
        self.values.extend(value);
    }
}

fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(unsigned)
}

/// Own in this column, borrowed in the next.
fn total(row: &Row<'_>, column: usize) -> rusqlite::Result<v1::GpuTime> {
    Ok(v1::GpuTime { own_gpu_ms: number(row, column)?, borrowed_gpu_ms: number(row, column + 1)? })
}
