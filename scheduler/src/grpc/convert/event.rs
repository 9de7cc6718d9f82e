//! Core events -> what watchers see. Kind and phase follow from the event itself, so that an event that is read from the
//! journal later looks as it did when it happened.

use std::fmt::Write as _;

use dure_core::Cluster;
use dure_core::event::Event;
use dure_core::idle::{IdleAction, IdleNotice};
use dure_core::ids::{AttemptNumber, JobId, MemberIndex};
use dure_core::job::{Outcome, StopReason};
use dure_core::placement::Members;
use dure_core::units::Time;
use dure_proto::v1;
use dure_proto::v1::JobPhase;

use super::{drop_text, ended_phase, outcome_word, stop_text};
use crate::grpc::text::moment;

/// No attempt is meant.
const NONE: AttemptNumber = AttemptNumber(0);
/// The phase of most that is told.
const RUNS: JobPhase = JobPhase::Running;

/// Nodes of a placement that are written out; the rest is counted.
const MAX_NODES_SHOWN: usize = 8;

/// What watchers see of `event`; none when it says nothing of a job, or its job has left memory. `cluster` stands at the
/// event or later.
pub fn job_event(cluster: &Cluster, seq: u64, time: Time, event: &Event) -> Option<v1::JobEvent> {
    let Shown { job, kind, phase, attempt, detail } = shown(cluster, time, event)?;
    let entry = cluster.job(job)?;
    Some(v1::JobEvent {
        seq,
        time_ms: time.0,
        job_id: job.0,
        tenant: super::tenant_name(cluster, entry.spec.tenant).to_owned(),
        user: cluster.user(entry.spec.user).to_owned(),
        kind: kind.to_owned(),
        phase: phase.into(),
        attempt: attempt.0,
        detail,
    })
}

struct Shown {
    job: JobId,
    kind: &'static str,
    phase: JobPhase,
    attempt: AttemptNumber,
    detail: String,
}

fn submitted(held: bool) -> JobPhase {
    if held { JobPhase::Held } else { JobPhase::Pending }
}

/// What becomes of the job is an event of its own; only a lost node may keep it from coming at once.
fn after_attempt(outcome: Outcome) -> JobPhase {
    if outcome == Outcome::NodeLost { JobPhase::AwaitingProof } else { JobPhase::Stopping }
}

fn of(job: &JobId, kind: &'static str, phase: JobPhase, attempt: &AttemptNumber, detail: String) -> Option<Shown> {
    Some(Shown { job: *job, kind, phase, attempt: *attempt, detail })
}

fn shown(cluster: &Cluster, time: Time, event: &Event) -> Option<Shown> {
    let waits = |job: &JobId, kind, detail: String| of(job, kind, JobPhase::Pending, &NONE, detail);
    let at = |members: &Members| places(cluster, members);
    match event {
        Event::JobSubmitted { job, held, .. } => of(job, "submitted", submitted(*held), &NONE, String::new()),
        Event::ArrayIndexStarted { array, index, job } => waits(job, "submitted", of_array(*array, *index)),
        Event::JobHeld { job } => of(job, "held", JobPhase::Held, &NONE, String::new()),
        Event::JobReleased { job } => waits(job, "released", String::new()),
        Event::JobPlaced { job, attempt, members, .. } => of(job, "placed", JobPhase::Launching, attempt, at(members)),
        Event::MemberStarted { job, attempt, member } => {
            all_run(cluster, *job, *attempt, *member, time).then(|| of(job, "running", RUNS, attempt, String::new()))?
        }
        Event::JobCheckpointed { job, attempt, step } => of(job, "checkpointed", RUNS, attempt, saved(*step)),
        Event::JobIdle { job, attempt, notice } => of(job, "idle", RUNS, attempt, idle(*notice)),
        Event::JobBusy { job, attempt } => of(job, "busy", RUNS, attempt, String::new()),
        Event::Promised { job, members, .. } => waits(job, "promised", at(members)),
        Event::SurvivorsHeld { job, lost, until } => waits(job, "survivors_held", held_text(lost, *until)),
        Event::PromiseRenewed { job, due, .. } => waits(job, "promise_renewed", renewed_text(*due)),
        Event::PromiseDropped { job, why } => waits(job, "promise_dropped", drop_text(*why).to_owned()),
        Event::AttemptStopping { job, attempt, reason, beneficiary, keeps } => {
            of(job, "stopping", JobPhase::Stopping, attempt, stopping(*reason, *beneficiary, *keeps))
        }
        Event::AttemptEnded { job, attempt, outcome } => {
            of(job, "attempt_ended", after_attempt(*outcome), attempt, word(outcome))
        }
        Event::JobRequeued { job, not_before, .. } => waits(job, "requeued", wait_text(*not_before)),
        Event::JobEnded { job, outcome } => of(job, "ended", ended_phase(*outcome), &NONE, word(outcome)),
        Event::PoolDefined { .. }
        | Event::BudgetPeriodBegan { .. }
        | Event::BudgetCarried { .. }
        | Event::QuotaDated { .. }
        | Event::QuotaBegan { .. }
        | Event::QuotaEnded { .. }
        | Event::BookingMade { .. }
        | Event::BookingCleared { .. }
        | Event::BookingBegan { .. }
        | Event::BookingEnded { .. }
        | Event::BookingCancelled { .. }
        | Event::TenantDefined { .. }
        | Event::TenantChanged { .. }
        | Event::Paused { .. }
        | Event::UserSeen { .. }
        | Event::NodeJoined { .. }
        | Event::NodeChanged { .. }
        | Event::NodeContact { .. }
        | Event::NodeRebooted { .. }
        | Event::NodeCordoned { .. }
        | Event::NodeSpared { .. }
        | Event::GpusFenced { .. }
        | Event::JobEligible { .. }
        | Event::ArrayStopped { .. }
        | Event::MemberPrepared { .. }
        | Event::GangReleased { .. }
        | Event::MemberGone { .. }
        | Event::MemberProven { .. }
        | Event::JobForgotten { .. }
        | Event::RequestAnswered { .. }
        | Event::CountedAnew { .. }
        | Event::CountersRestored { .. }
        | Event::TenantRestored { .. }
        | Event::UserRestored { .. }
        | Event::NodeRestored { .. }
        | Event::JobRestored { .. }
        | Event::PromiseRestored { .. }
        | Event::WorkloadRestored { .. }
        | Event::Planned { .. }
        | Event::WantedBack { .. }
        | Event::AvoidanceLifted { .. } => None,
    }
}

fn of_array(array: JobId, index: u32) -> String {
    format!("index {index} of array {array}")
}

fn word(outcome: &Outcome) -> String {
    outcome_word(*outcome).to_owned()
}

fn saved(step: u64) -> String {
    format!("step {step}")
}

fn held_text(lost: &[MemberIndex], until: Time) -> String {
    let ranks: Vec<String> = lost.iter().map(ToString::to_string).collect();
    format!("all places but those of {} until {}", ranks.join(","), until.0)
}

fn renewed_text(due: Time) -> String {
    format!("the same places until {}: who is in the way may hear of it only now", moment(due))
}

fn wait_text(not_before: Option<Time>) -> String {
    not_before.map_or_else(String::new, |time| format!("not before {}", moment(time)))
}

/// Since when, and what follows.
fn idle(notice: IdleNotice) -> String {
    let since = format!("no GPU work since {}", moment(notice.since));
    match notice.action {
        IdleAction::Ignore | IdleAction::Notify => since,
        IdleAction::Requeue => format!("{since}: it is put back into the queue at {}", moment(notice.due)),
        IdleAction::Cancel => format!("{since}: it is cancelled at {}", moment(notice.due)),
    }
}

/// Why an attempt is stopped, and who gets what it held.
fn stopping(reason: StopReason, beneficiary: Option<JobId>, keeps: u32) -> String {
    let why = stop_text(reason);
    match (beneficiary, keeps) {
        (None, _) => why.to_owned(),
        (Some(job), 0) => format!("{why}: job {job} gets them"),
        (Some(job), keeps) => format!("{why}: job {job} gets a part of them, {keeps} members start again"),
    }
}

/// Whether the start of `member` was that of the last one. Of an attempt that is no longer remembered the first member
/// stands for all.
fn all_run(cluster: &Cluster, job: JobId, attempt: AttemptNumber, member: MemberIndex, time: Time) -> bool {
    match cluster.job(job).and_then(|job| job.attempt.as_deref()) {
        Some(known) if known.number == attempt => known.started_at == Some(time),
        Some(_) | None => member == MemberIndex(0),
    }
}

/// As `n0[0-3] n1[0-7]`.
fn places(cluster: &Cluster, members: &Members) -> String {
    let mut text = String::new();
    for placed in members.iter().take(MAX_NODES_SHOWN) {
        let separator = if text.is_empty() { "" } else { " " };
        let _ = write!(text, "{separator}{}[{:?}]", cluster.node(placed.node).name, placed.gpus);
    }
    if members.len() > MAX_NODES_SHOWN {
        let _ = write!(text, " and {} more", members.len() - MAX_NODES_SHOWN);
    }
    text
}
