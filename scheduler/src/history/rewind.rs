//! A history that is not the journal's: it ends beyond the journal, or in a turn that the journal does not hold. The journal
//! was restored from a backup, or the history was.
//!
//! In: the history, and the state at the beginning of what the journal keeps. Out: the history as it was there, from where the
//! journal tells it again. What is older than that beginning is nowhere else, and stays.

use dure_core::Cluster;
use dure_core::ids::{JobId, Seq};
use dure_core::units::Time;
use rusqlite::{Transaction, params};

use super::fold::spread;
use super::rows::GpuMs;
use super::store::{signed, unsigned};
use crate::journal::{JournalError, ReadLimit};
use crate::source::{DurableBatch, Source, SourceError};

/// How a history is not the journal's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Parted {
    /// It ends beyond the journal.
    #[error("it ends at position {at}, and the journal at {head}")]
    Ahead {
        /// Its end.
        at: u64,
        /// The journal's.
        head: u64,
    },
    /// It ends with a turn that is not in the journal.
    #[error("it ends with a turn at position {at} that is not the journal's")]
    Other {
        /// Its end.
        at: u64,
    },
}

/// Whether a history that ends at `at`, with a turn of that time (0: not known), is one of this journal. Where the journal
/// does not hold that position any more it is taken for one.
///
/// # Errors
/// Those of reading the journal.
pub(super) fn parted<S: Source + ?Sized>(
    source: &S,
    head: Seq,
    at: Seq,
    time: Time,
) -> Result<Option<Parted>, SourceError> {
    if at > head {
        return Ok(Some(Parted::Ahead { at: at.0, head: head.0 }));
    }
    if at == Seq(0) || time == Time(0) {
        return Ok(None);
    }
    let batches = match source.batches_from(at, ReadLimit { batches: 1, ..ReadLimit::default() }) {
        Ok(batches) => batches,
        Err(JournalError::Truncated { .. }) => return Ok(None),
        Err(err) => return Err(err.into()),
    };
    let Some(batch) = batches.first() else { return Ok(None) };
    let turn = DurableBatch::decode(batch)?;
    let is_same = turn.last() == at && turn.time == time;
    Ok((!is_same).then_some(Parted::Other { at: at.0 }))
}

/// Takes everything out of the tables that was not so yet when `cluster` was the state, at `seq` and `time`.
pub(super) fn rewind(change: &Transaction<'_>, cluster: &Cluster, seq: Seq, time: Time) -> rusqlite::Result<()> {
    take_back_attempts(change, cluster, time)?;
    take_back_jobs(change, cluster, time)?;
    let seq = [signed(seq.0)];
    change.execute("DELETE FROM evictions WHERE seq > ?1", seq)?;
    change.execute("DELETE FROM quota_changes WHERE seq > ?1", seq)?;
    change.execute("DELETE FROM audit WHERE seq > ?1 AND refused = ''", seq)?;
    change.execute("DELETE FROM gaps WHERE from_seq > ?1", seq)?;
    change.execute("UPDATE gaps SET to_seq = ?1 WHERE to_seq > ?1", seq)?;
    change.execute("DELETE FROM charged", [])?;
    for job in cluster.jobs().iter().filter(|job| job.ended_at.is_none()) {
        change.execute(
            "INSERT INTO charged SELECT job_id, sum(own_gpu_ms), sum(borrowed_gpu_ms) FROM attempts WHERE job_id = ?1
             GROUP BY job_id",
            [signed(job.id.0)],
        )?;
    }
    Ok(())
}

/// An attempt that ended later is no row, and its usage is in no day.
fn take_back_attempts(change: &Transaction<'_>, cluster: &Cluster, time: Time) -> rusqlite::Result<()> {
    let found: Vec<AttemptKept> = change
        .prepare("SELECT job_id, attempt, tenant, user, placed_ms, ended_ms, own_gpu_ms, borrowed_gpu_ms FROM attempts WHERE ended_ms >= ?1")?
        .query_map([signed(time.0)], AttemptKept::read)?
        .collect::<rusqlite::Result<_>>()?;
    let is_over = |kept: &&AttemptKept| {
        let was_over = |job: &dure_core::job::Job| {
            kept.attempt <= job.attempts && job.live_attempt().is_none_or(|live| live.number.0 != kept.attempt)
        };
        kept.ended == time.0 && cluster.job(kept.job).is_some_and(was_over)
    };
    for kept in found.iter().filter(|kept| !is_over(kept)) {
        for (day, used) in spread(kept.used, kept.placed, kept.ended) {
            change.execute(
                "UPDATE usage SET own_gpu_ms = own_gpu_ms - ?4, borrowed_gpu_ms = borrowed_gpu_ms - ?5
                 WHERE day = ?1 AND tenant = ?2 AND user = ?3",
                params![signed(day), kept.tenant, kept.user, signed(used.0), signed(used.1)],
            )?;
        }
        let key = params![signed(kept.job.0), kept.attempt];
        change.execute("DELETE FROM attempts WHERE job_id = ?1 AND attempt = ?2", key)?;
    }
    change.execute("DELETE FROM usage WHERE own_gpu_ms = 0 AND borrowed_gpu_ms = 0", []).map(drop)
}

fn take_back_jobs(change: &Transaction<'_>, cluster: &Cluster, time: Time) -> rusqlite::Result<()> {
    let found: Vec<(i64, u64)> = change
        .prepare("SELECT job_id, ended_ms FROM jobs WHERE ended_ms >= ?1")?
        .query_map([signed(time.0)], |row| Ok((row.get(0)?, unsigned(row.get(1)?))))?
        .collect::<rusqlite::Result<_>>()?;
    let had_ended = |id: i64| cluster.job(JobId(unsigned(id))).is_some_and(|job| job.ended_at.is_some());
    for (id, _) in found.into_iter().filter(|(id, ended)| *ended > time.0 || !had_ended(*id)) {
        change.execute("DELETE FROM jobs WHERE job_id = ?1", [id])?;
    }
    Ok(())
}

struct AttemptKept {
    job: JobId,
    attempt: u32,
    tenant: String,
    user: String,
    placed: u64,
    ended: u64,
    used: GpuMs,
}

impl AttemptKept {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            job: JobId(unsigned(row.get(0)?)),
            attempt: row.get(1)?,
            tenant: row.get(2)?,
            user: row.get(3)?,
            placed: unsigned(row.get(4)?),
            ended: unsigned(row.get(5)?),
            used: (unsigned(row.get(6)?), unsigned(row.get(7)?)),
        })
    }
}
