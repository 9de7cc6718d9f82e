//! Rows on their way to the tables.

use dure_core::ids::JobId;
use rusqlite::{Transaction, params};

use super::refusals::Refusal;
use super::store::signed;
use crate::record::CallRecord;

/// Own and borrowed GPU-time, in GPU-milliseconds.
pub(super) type GpuMs = (u64, u64);

/// Whose.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Owner {
    pub(super) tenant: Box<str>,
    pub(super) user: Box<str>,
}

/// A job that ended.
#[derive(Debug)]
pub(super) struct JobRow {
    pub(super) id: u64,
    pub(super) of: Owner,
    pub(super) name: Box<str>,
    pub(super) gpu_milli: u64,
    pub(super) members: u32,
    pub(super) index_of: Option<(u64, u32)>,
    pub(super) submitted: u64,
    pub(super) ended: u64,
    pub(super) outcome: &'static str,
    pub(super) attempts: u32,
    pub(super) used: GpuMs,
}

/// An attempt that ended.
#[derive(Debug)]
pub(super) struct AttemptRow {
    pub(super) job: u64,
    pub(super) number: u32,
    pub(super) of: Owner,
    pub(super) placed: u64,
    pub(super) started: Option<u64>,
    pub(super) ended: u64,
    pub(super) outcome: &'static str,
    pub(super) gpu_milli: u64,
    pub(super) nodes: String,
    pub(super) used: GpuMs,
}

/// One row, or one addition to one.
#[derive(Debug)]
pub(super) enum Row {
    Job(JobRow),
    Attempt(AttemptRow),
    Eviction {
        seq: u64,
        time: u64,
        job: u64,
        attempt: u32,
        of: Owner,
        reason: &'static str,
        beneficiary: Option<(u64, Box<str>)>,
    },
    Usage {
        day: u64,
        of: Owner,
        used: GpuMs,
    },
    /// What of a running job is in the table of days already.
    Charged {
        job: JobId,
        used: GpuMs,
    },
    /// It needs no such note any more.
    Settled(JobId),
    Quota {
        seq: u64,
        time: u64,
        tenant: Box<str>,
        what: String,
        forecast: Option<String>,
    },
    Call {
        seq: u64,
        place: usize,
        time: u64,
        call: CallRecord,
    },
    Gap {
        from: u64,
        to: u64,
        from_ms: u64,
        to_ms: u64,
    },
}

impl Row {
    pub(super) fn write(&self, change: &Transaction<'_>) -> rusqlite::Result<()> {
        match self {
            Row::Job(row) => write_job(row, change),
            Row::Attempt(row) => write_attempt(row, change),
            Row::Eviction { seq, time, job, attempt, of, reason, beneficiary } => change
                .prepare_cached("INSERT OR REPLACE INTO evictions VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9)")?
                .execute(params![
                    signed(*seq),
                    signed(*time),
                    signed(*job),
                    attempt,
                    of.tenant,
                    of.user,
                    reason,
                    beneficiary.as_ref().map(|(job, _)| signed(*job)),
                    beneficiary.as_ref().map(|(_, tenant)| tenant),
                ]),
            Row::Usage { day, of, used } => change
                .prepare_cached(
                    "INSERT INTO usage VALUES (?1,?2,?3,?4,?5) ON CONFLICT DO UPDATE SET
                     own_gpu_ms = own_gpu_ms + excluded.own_gpu_ms,
                     borrowed_gpu_ms = borrowed_gpu_ms + excluded.borrowed_gpu_ms",
                )?
                .execute(params![signed(*day), of.tenant, of.user, signed(used.0), signed(used.1)]),
            Row::Charged { job, used } => change
                .prepare_cached("INSERT OR REPLACE INTO charged VALUES (?1,?2,?3)")?
                .execute(params![signed(job.0), signed(used.0), signed(used.1)]),
            Row::Settled(job) => {
                change.prepare_cached("DELETE FROM charged WHERE job_id = ?1")?.execute([signed(job.0)])
            }
            Row::Quota { seq, time, tenant, what, forecast } => change
                .prepare_cached("INSERT OR REPLACE INTO quota_changes VALUES (?1,?2,?3,?4,?5,'')")?
                .execute(params![signed(*seq), signed(*time), tenant, what, forecast]),
            Row::Call { seq, place, time, call } => write_call(*seq, *place, *time, call, change),
            Row::Gap { from, to, from_ms, to_ms } => change
                .prepare_cached("INSERT OR REPLACE INTO gaps VALUES (?1,?2,?3,?4)")?
                .execute(params![signed(*from), signed(*to), signed(*from_ms), signed(*to_ms)]),
        }
        .map(drop)
    }
}

fn write_job(row: &JobRow, change: &Transaction<'_>) -> rusqlite::Result<usize> {
    change
        .prepare_cached("INSERT OR REPLACE INTO jobs VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14)")?
        .execute(params![
            signed(row.id),
            row.of.tenant,
            row.of.user,
            row.name,
            signed(row.gpu_milli),
            row.members,
            row.index_of.map(|(array, _)| signed(array)),
            row.index_of.map(|(_, index)| index),
            signed(row.submitted),
            signed(row.ended),
            row.outcome,
            row.attempts,
            signed(row.used.0),
            signed(row.used.1),
        ])
}

fn write_attempt(row: &AttemptRow, change: &Transaction<'_>) -> rusqlite::Result<usize> {
    change.prepare_cached("INSERT OR REPLACE INTO attempts VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12)")?.execute(
        params![
            signed(row.job),
            row.number,
            row.of.tenant,
            row.of.user,
            signed(row.placed),
            row.started.map(signed),
            signed(row.ended),
            row.outcome,
            signed(row.gpu_milli),
            row.nodes,
            signed(row.used.0),
            signed(row.used.1),
        ],
    )
}

/// Also says, beside the changes of quotas that the turn brought, who made them.
fn write_call(
    seq: u64,
    place: usize,
    time: u64,
    call: &CallRecord,
    change: &Transaction<'_>,
) -> rusqlite::Result<usize> {
    if &*call.method == "Tenants/Set" {
        change
            .prepare_cached("UPDATE quota_changes SET user = ?1 WHERE time_ms = ?2 AND tenant = ?3 AND seq <= ?4")?
            .execute(params![call.user, signed(time), call.tenant, signed(seq)])?;
    }
    change
        .prepare_cached(
            "INSERT INTO audit (seq, place, time_ms, user, role, origin, method, tenant, job_id, what, reason, events,
             refused, count) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,'',1)",
        )?
        .execute(params![
            signed(seq),
            signed(place as u64),
            signed(time),
            call.user,
            call.role,
            call.origin,
            call.method,
            call.tenant,
            signed(call.job),
            call.what,
            call.reason,
            call.events,
        ])
}

/// Adds refusals to those of the same minute.
pub(super) fn write_refusal(refusal: &Refusal, change: &Transaction<'_>) -> rusqlite::Result<()> {
    change
        .prepare_cached(
            "INSERT INTO audit (seq, place, time_ms, user, role, origin, method, tenant, job_id, what, reason, events,
             refused, count) VALUES (0,0,?1,?2,?3,?4,?5,'',0,?6,'',0,?7,?8)
             ON CONFLICT (time_ms, user, role, method, refused) WHERE refused <> '' DO UPDATE SET
             origin = excluded.origin, what = excluded.what, count = count + excluded.count",
        )?
        .execute(params![
            signed(refusal.minute_ms),
            refusal.user,
            refusal.role,
            refusal.origin,
            refusal.method,
            refusal.why,
            refusal.code,
            signed(refusal.count),
        ])
        .map(drop)
}
