//! Durable turns -> rows. Sees each event right after it was applied, with the state of that moment.

use std::collections::BTreeMap;

use dure_core::Cluster;
use dure_core::calendar::{DatedKey, DatedQuota};
use dure_core::event::{Event, TenantChange};
use dure_core::ids::{AttemptNumber, JobId, PoolIndex, Seq};
use dure_core::job::{Job, Outcome, StopReason, Usage};
use dure_core::tenant::{DomainQuota, Quota};
use dure_core::units::Time;

use super::refusals::Refusals;
use super::rewind::rewind;
use super::rows::{AttemptRow, GpuMs, JobRow, Owner, Row, write_refusal};
use super::store::{HistoryError, HistoryStore, failed, signed};
use super::{DAY_MS, Retention};
use crate::grpc::convert::outcome_word;
use crate::grpc::text::moment;
use crate::grpc::text::rules::{rules, whole};
use crate::source::DurableBatch;

/// Rows that wait; then they are written.
const MAX_WAITING_ROWS: usize = 4096;
/// Turns whose rows wait; then they are written.
const MAX_WAITING_TURNS: usize = 256;

/// Fills a history.
#[derive(Debug)]
pub struct Historian {
    store: HistoryStore,
    retention: Retention,
    refusals: Refusals,
    rows: Vec<Row>,
    /// What of a job's usage is in the table of days already, for jobs that have not ended.
    charged: BTreeMap<JobId, GpuMs>,
    turns: usize,
    seq: Seq,
    time: Time,
    /// The day up to which old rows were removed.
    swept: u64,
}

impl Historian {
    /// Goes on where the history ends.
    ///
    /// # Errors
    /// Those of reading it.
    pub fn new(store: HistoryStore, retention: Retention, refusals: Refusals) -> Result<Self, HistoryError> {
        let charged = store.charged()?;
        let (seq, time) = (store.position(), store.time());
        Ok(Self { store, retention, refusals, rows: Vec::new(), charged, turns: 0, seq, time, swept: 0 })
    }

    /// What is written: up to which position, and when the turn there happened (0 where that is not known).
    pub fn written(&self) -> (Seq, Time) {
        (self.store.position(), self.store.time())
    }

    /// Forgets everything that was not so yet when `cluster` was the state, at `seq` and `time`.
    ///
    /// # Errors
    /// Those of writing.
    pub(super) fn go_back(&mut self, cluster: &Cluster, seq: Seq, time: Time) -> Result<(), HistoryError> {
        if seq == Seq(0) {
            return self.clear();
        }
        self.rows.clear();
        self.store.write(seq, time, |change| rewind(change, cluster, seq, time))?;
        (self.charged, self.seq, self.time) = (self.store.charged()?, seq, time);
        Ok(())
    }

    /// Everything up to here is in the history, or waits to be.
    pub fn position(&self) -> Seq {
        self.seq
    }

    /// What lies between its end and `seq` cannot be told any more: it goes on from the state there.
    pub(super) fn skip_to(&mut self, cluster: &Cluster, seq: Seq, time: Time) {
        self.rows.push(Row::Gap { from: self.seq.0 + 1, to: seq.0, from_ms: self.time.0, to_ms: time.0 });
        self.charged.clear();
        for job in cluster.jobs().iter().filter(|job| job.ended_at.is_none()) {
            let used = pair(job.usage);
            if used != (0, 0) {
                self.charged.insert(job.id, used);
                self.rows.push(Row::Charged { job: job.id, used });
            }
        }
        (self.seq, self.time) = (seq, time);
    }

    /// The state right after `event`, which stands at `seq`.
    pub fn see(&mut self, cluster: &Cluster, seq: u64, time: Time, event: &Event) {
        if seq <= self.seq.0 {
            return;
        }
        match event {
            Event::JobEnded { job, outcome } => self.job_ended(cluster, *job, *outcome, time),
            Event::AttemptEnded { job, outcome, .. } => self.attempt_ended(cluster, *job, *outcome, time),
            Event::AttemptStopping { job, attempt, reason, beneficiary, .. } => {
                self.stopping(cluster, (seq, time), (*job, *attempt), *reason, *beneficiary);
            }
            Event::TenantDefined { name, .. } => {
                let (tenant, what) = (name.clone(), "defined".to_owned());
                self.rows.push(Row::Quota { seq, time: time.0, tenant, what, forecast: None });
            }
            Event::TenantChanged { tenant, change } => {
                let (tenant, what) = (cluster.tenant(*tenant).name.clone(), change_words(cluster, change));
                let forecast = change.forecast.map(|forecast| hex::encode(forecast.0));
                self.rows.push(Row::Quota { seq, time: time.0, tenant, what, forecast });
            }
            Event::QuotaDated { dated: DatedQuota { key, until, quota, .. } } => {
                let until = until.map(|until| format!(" until {}", moment(until))).unwrap_or_default();
                let what = format!("{} from {}{until}", quota_words(cluster, key.pool, *quota), moment(key.from));
                self.dated(cluster, *key, what, (seq, time));
            }
            Event::QuotaBegan { key } => self.dated(cluster, *key, in_force("began", cluster, *key), (seq, time)),
            Event::QuotaEnded { key } => {
                let how = if time < key.from { "is cancelled" } else { "is over" };
                self.dated(cluster, *key, in_force(how, cluster, *key), (seq, time));
            }
            // Everything else is on its way to one of these, or concerns what is no history.
            _ => {}
        }
    }

    fn dated(&mut self, cluster: &Cluster, key: DatedKey, what: String, (seq, time): (u64, Time)) {
        let tenant = cluster.tenant(key.tenant).name.clone();
        self.rows.push(Row::Quota { seq, time: time.0, tenant, what, forecast: None });
    }

    fn job_ended(&mut self, cluster: &Cluster, id: JobId, outcome: Outcome, time: Time) {
        let Some(job) = cluster.job(id) else { return };
        self.rows.push(Row::Job(JobRow {
            id: id.0,
            of: owner(cluster, job),
            name: job.spec.name.clone(),
            gpu_milli: job.gpus().in_milli(),
            members: job.spec.request.shape.members(),
            index_of: job.index_of.map(|(array, index)| (array.0, index)),
            submitted: job.submitted_at.0,
            ended: job.ended_at.unwrap_or(time).0,
            outcome: outcome_word(outcome),
            attempts: job.attempts,
            used: pair(job.usage),
        }));
        if self.charged.remove(&id).is_some() {
            self.rows.push(Row::Settled(id));
        }
    }

    fn attempt_ended(&mut self, cluster: &Cluster, id: JobId, outcome: Outcome, time: Time) {
        let Some(job) = cluster.job(id) else { return };
        let Some(attempt) = job.attempt.as_deref() else { return };
        let total = pair(job.usage);
        let before = self.charged.insert(id, total).unwrap_or_default();
        let used = (total.0.saturating_sub(before.0), total.1.saturating_sub(before.1));
        let of = owner(cluster, job);
        let (placed, ended) = (attempt.placed_at.0, attempt.ended_at.unwrap_or(time).0);
        for (day, used) in spread(used, placed, ended) {
            self.rows.push(Row::Usage { day, of: of.clone(), used });
        }
        let nodes: Vec<&str> = attempt.members.iter().map(|member| &*cluster.node(member.placed.node).name).collect();
        self.rows.push(Row::Attempt(AttemptRow {
            job: id.0,
            number: attempt.number.0,
            of,
            placed,
            started: attempt.started_at.map(|at| at.0),
            ended,
            outcome: outcome_word(outcome),
            gpu_milli: attempt.gpus().in_milli(),
            nodes: nodes.join(","),
            used,
        }));
        self.rows.push(Row::Charged { job: id, used: total });
    }

    fn stopping(
        &mut self,
        cluster: &Cluster,
        (seq, time): (u64, Time),
        (id, attempt): (JobId, AttemptNumber),
        reason: StopReason,
        beneficiary: Option<JobId>,
    ) {
        let reason = match reason {
            StopReason::Evicted => "evicted",
            StopReason::Drained => "drained",
            StopReason::Resized => "resized",
            StopReason::Idle => "idle",
            StopReason::NodeLost => "node_lost",
            StopReason::Cancelled
            | StopReason::TimeLimit
            | StopReason::GangBroken
            | StopReason::ScriptEnded
            | StopReason::LaunchDeadline => {
                return;
            }
        };
        let Some(job) = cluster.job(id) else { return };
        let for_whom = beneficiary.map(|other| {
            let tenant =
                cluster.job(other).map_or_else(Box::default, |job| cluster.tenant(job.spec.tenant).name.clone());
            (other.0, tenant)
        });
        let (time, job, of) = (time.0, id.0, owner(cluster, job));
        self.rows.push(Row::Eviction { seq, time, job, attempt: attempt.0, of, reason, beneficiary: for_whom });
    }

    /// A turn has been seen whole.
    ///
    /// # Errors
    /// Those of writing, when it was time to.
    pub fn turn(&mut self, turn: &DurableBatch) -> Result<(), HistoryError> {
        if turn.last() <= self.seq {
            return Ok(());
        }
        (self.seq, self.time) = (turn.last(), turn.time);
        for (place, call) in turn.calls.iter().enumerate() {
            self.rows.push(Row::Call { seq: self.seq.0, place, time: turn.time.0, call: call.clone() });
        }
        self.turns += 1;
        if self.rows.len() >= MAX_WAITING_ROWS || self.turns >= MAX_WAITING_TURNS { self.write() } else { Ok(()) }
    }

    /// Writes what waits, refusals as well, and removes once a day what is old.
    ///
    /// # Errors
    /// Those of writing.
    pub fn write(&mut self) -> Result<(), HistoryError> {
        let refusals = self.refusals.take();
        if self.seq == self.store.position() && refusals.is_empty() {
            return Ok(());
        }
        let rows = std::mem::take(&mut self.rows);
        self.turns = 0;
        let (today, retention, swept) = (self.time.0 / DAY_MS, self.retention, self.swept);
        self.store.write(self.seq, self.time, |change| {
            rows.iter().try_for_each(|row| row.write(change))?;
            refusals.iter().try_for_each(|refusal| write_refusal(refusal, change))?;
            if today > swept { sweep(change, today, retention) } else { Ok(()) }
        })?;
        self.swept = today;
        Ok(())
    }

    /// Writes what waits; it is on disk when this returns.
    ///
    /// # Errors
    /// Those of writing.
    pub fn sync(&mut self) -> Result<(), HistoryError> {
        self.write()?;
        self.store.sync()
    }

    /// Forgets what the journal can tell, to be told it again.
    ///
    /// # Errors
    /// Those of writing.
    pub fn clear(&mut self) -> Result<(), HistoryError> {
        self.rows.clear();
        self.charged.clear();
        self.store.clear()?;
        (self.seq, self.time) = (Seq(0), Time(0));
        Ok(())
    }

    /// Where the last row stands in time, for a historian that has seen no turn yet.
    pub(super) fn recall(&mut self) -> Result<(), HistoryError> {
        let newest = self.store.db.query_row("SELECT ifnull(max(ended_ms), 0) FROM attempts", [], |row| row.get(0));
        let newest: i64 = newest.map_err(failed(&self.store.path, "reading"))?;
        self.time = self.time.max(Time(super::store::unsigned(newest)));
        Ok(())
    }
}

/// Removes what is older than it is to be kept on the day `today`.
fn sweep(change: &rusqlite::Transaction<'_>, today: u64, retention: Retention) -> rusqlite::Result<()> {
    let before = signed((today * DAY_MS).saturating_sub(retention.keep.0));
    change.execute("DELETE FROM jobs WHERE ended_ms < ?1", [before])?;
    change.execute("DELETE FROM attempts WHERE ended_ms < ?1", [before])?;
    change.execute("DELETE FROM evictions WHERE time_ms < ?1", [before])?;
    change.execute("DELETE FROM audit WHERE time_ms < ?1", [before])?;
    let before = (today * DAY_MS).saturating_sub(retention.keep_usage.0);
    change.execute("DELETE FROM quota_changes WHERE time_ms < ?1", [signed(before)])?;
    change.execute("DELETE FROM usage WHERE day < ?1", [signed(before / DAY_MS)])?;
    Ok(())
}

fn owner(cluster: &Cluster, job: &Job) -> Owner {
    Owner { tenant: cluster.tenant(job.spec.tenant).name.clone(), user: cluster.user(job.spec.user).into() }
}

fn pair(usage: Usage) -> GpuMs {
    (usage.own.0, usage.borrowed.0)
}

fn quota_words(cluster: &Cluster, pool: PoolIndex, quota: Quota) -> String {
    let limit = quota.limit.map_or("none".to_owned(), |limit| limit.to_string());
    let lends = quota.lend_limit.map_or("all".to_owned(), |lends| lends.to_string());
    let pool = &cluster.pool(pool).name;
    let granted = quota.quota.map_or("shared".to_owned(), |quota| quota.to_string());
    let domains =
        quota.domains.map(|DomainQuota { level, nodes, count }| format!(", {} of {nodes}", whole(count, level)));
    format!("quota {granted} in {pool}, limit {limit}, lends {lends}{}", domains.unwrap_or_default())
}

/// What holds now that a dated quota has begun or is over.
fn in_force(how: &str, cluster: &Cluster, key: DatedKey) -> String {
    let now = cluster.tenant(key.tenant).quota_in(key.pool);
    format!("{} since the quota from {} {how}", quota_words(cluster, key.pool, now), moment(key.from))
}

/// What of a tenant changed, in words.
fn change_words(cluster: &Cluster, change: &TenantChange) -> String {
    let mut words: Vec<String> = Vec::new();
    words.extend(change.quotas.iter().map(|(pool, quota)| quota_words(cluster, *pool, *quota)));
    words.extend(rules(change));
    words.join("; ")
}

/// GPU-time spread evenly over the days that an attempt touched, the rest on the last; whole GPU-milliseconds.
pub(super) fn spread(used: GpuMs, from: u64, to: u64) -> Vec<(u64, GpuMs)> {
    let span = u128::from(to.saturating_sub(from).max(1));
    let part = |whole: u64, ms: u64| u64::try_from(u128::from(whole) * u128::from(ms) / span).unwrap_or(whole);
    let (mut left, mut days) = (used, Vec::new());
    for day in from / DAY_MS..to / DAY_MS {
        let ms = ((day + 1) * DAY_MS).min(to) - (day * DAY_MS).max(from);
        let share = (part(used.0, ms), part(used.1, ms));
        left = (left.0 - share.0, left.1 - share.1);
        days.push((day, share));
    }
    days.push((to / DAY_MS, left));
    days.retain(|(_, used)| *used != (0, 0));
    days
}
