//! What agents say of members, and what follows: barrier, stop, end, retry.
//!
//! `settle` is the one place that looks at an attempt and says what is next; everything else only adds a fact and calls
//! it.

use crate::admit::fits;
use crate::cluster::Cluster;
use crate::decide::{Events, emit};
use crate::event::Event;
use crate::idle::IdleAction;
use crate::ids::{AttemptNumber, JobId, MemberIndex, NodeIndex};
use crate::input::MemberReport;
use crate::job::{Attempt, Job, MemberPhase, Outcome, Phase, StopReason};
use crate::node::Contact;
use crate::policy::Flaw;
use crate::promise;
use crate::resize;
use crate::survivors;
use crate::units::{Span, Time};

/// An agent says something of a member. What is old, repeated or from elsewhere leads to nothing.
#[allow(clippy::too_many_arguments)] // They are the fields of one report.
pub(crate) fn reported(
    cluster: &mut Cluster,
    node: NodeIndex,
    job: JobId,
    attempt: AttemptNumber,
    member: MemberIndex,
    report: MemberReport,
    now: Time,
    out: &mut Events,
) {
    let Some(phase) = cluster.member_phase(node, job, attempt, member) else { return };
    let event = match report {
        MemberReport::Prepared if phase < MemberPhase::Prepared => Event::MemberPrepared { job, attempt, member },
        MemberReport::Started if phase < MemberPhase::Running => Event::MemberStarted { job, attempt, member },
        MemberReport::Checkpointed { step } if phase == MemberPhase::Running => {
            return checkpointed(cluster, job, attempt, step, now, out);
        }
        MemberReport::Gone(exit) if phase < MemberPhase::Gone => Event::MemberGone { job, attempt, member, exit },
        _ => return,
    };
    emit(cluster, now, event, out);
    settle(cluster, job, now, out);
}

/// What a job has saved counts when it is further than before: a repetition of an older report leads to nothing.
fn checkpointed(cluster: &mut Cluster, job: JobId, attempt: AttemptNumber, step: u64, now: Time, out: &mut Events) {
    let before = cluster.job(job).and_then(|job| job.checkpoint);
    if before.is_none_or(|before| step > before.step) {
        emit(cluster, now, Event::JobCheckpointed { job, attempt, step }, out);
    }
}

/// Stops an attempt, whatever it is doing.
pub(crate) fn stop(cluster: &mut Cluster, job: JobId, reason: StopReason, now: Time, out: &mut Events) {
    let Some(attempt) = cluster.job(job).and_then(Job::live_attempt) else { return };
    let attempt = attempt.number;
    promise::give_up(cluster, job, now, out);
    emit(cluster, now, Event::AttemptStopping { job, attempt, reason, beneficiary: None, keeps: 0 }, out);
    settle(cluster, job, now, out);
}

/// Stops an attempt that is to start again with more than its `has` members.
pub(crate) fn resize(cluster: &mut Cluster, job: JobId, has: u32, now: Time, out: &mut Events) {
    let Some(attempt) = cluster.job(job).and_then(Job::live_attempt) else { return };
    let (attempt, reason, beneficiary) = (attempt.number, StopReason::Resized, None);
    emit(cluster, now, Event::AttemptStopping { job, attempt, reason, beneficiary, keeps: has }, out);
    settle(cluster, job, now, out);
}

/// Stops an attempt whose GPUs, but for those of the first `keeps` members, are promised to `beneficiary`.
pub(crate) fn evict(cluster: &mut Cluster, job: JobId, beneficiary: JobId, keeps: u32, now: Time, out: &mut Events) {
    let Some(attempt) = cluster.job(job).and_then(Job::live_attempt) else { return };
    let (attempt, reason, beneficiary) = (attempt.number, StopReason::Evicted, Some(beneficiary));
    emit(cluster, now, Event::AttemptStopping { job, attempt, reason, beneficiary, keeps }, out);
    settle(cluster, job, now, out);
}

/// Looks at the attempt of a job and decides what is next, as far as the facts go.
pub(crate) fn settle(cluster: &mut Cluster, id: JobId, now: Time, out: &mut Events) {
    let Some(job) = cluster.job(id) else { return };
    let Some(attempt) = job.live_attempt() else { return };
    let number = attempt.number;
    match job.phase {
        Phase::Launching | Phase::Running => {
            if attempt.is_gone() {
                let outcome = attempt.broken.unwrap_or(Outcome::Completed);
                end_attempt(cluster, id, number, outcome, now, out);
            } else if let Some(broken) = attempt.broken {
                let reason = if broken == Outcome::NodeLost { StopReason::NodeLost } else { StopReason::GangBroken };
                stop(cluster, id, reason, now, out);
            } else if job.spec.batch && attempt.members[0].phase == MemberPhase::Gone {
                stop(cluster, id, StopReason::ScriptEnded, now, out);
            } else if is_ready(attempt, cluster.policy.flaw) {
                emit(cluster, now, Event::GangReleased { job: id, attempt: number }, out);
            }
        }
        Phase::Stopping(reason) => {
            if is_over(cluster, attempt) {
                let outcome = reason.outcome(attempt.broken.unwrap_or(Outcome::Failed));
                end_attempt(cluster, id, number, outcome, now, out);
            }
        }
        Phase::AwaitingProof(outcome) => {
            if attempt.is_gone() {
                after_attempt(cluster, id, outcome, now, out);
            }
        }
        Phase::Waiting | Phase::Spread | Phase::Ended(_) => {}
    }
}

/// Whether the barrier opens: every member is prepared.
fn is_ready(attempt: &Attempt, flaw: Option<Flaw>) -> bool {
    let missing = attempt.members.iter().filter(|member| member.phase < MemberPhase::Prepared).count();
    !attempt.released && missing <= usize::from(flaw == Some(Flaw::GangCountOffByOne))
}

/// Whether nothing of it is left but what lies on lost nodes.
fn is_over(cluster: &Cluster, attempt: &Attempt) -> bool {
    attempt.alive().all(|(_, member)| cluster.node(member.placed.node).contact == Contact::Lost)
}

fn end_attempt(
    cluster: &mut Cluster,
    job: JobId,
    attempt: AttemptNumber,
    outcome: Outcome,
    now: Time,
    out: &mut Events,
) {
    emit(cluster, now, Event::AttemptEnded { job, attempt, outcome }, out);
    survivors::hold(cluster, job, outcome, now, out);
    settle(cluster, job, now, out);
}

/// The attempt is over and all its members are proven gone: the job ends, or waits again.
fn after_attempt(cluster: &mut Cluster, id: JobId, outcome: Outcome, now: Time, out: &mut Events) {
    let policy = &cluster.policy;
    let job = cluster.job(id).expect("its attempt was just looked at");
    // What others took from it is no try of its own.
    let tries = job.attempts - job.displaced;
    let more = tries < policy.max_attempts;
    let suspect = job.attempt.as_deref().and_then(|attempt| suspect(attempt, outcome)).filter(|node| {
        // Where no other nodes could hold it, the suspect one is better than none.
        let avoid: Vec<NodeIndex> = job.avoid.iter().copied().chain([*node]).collect();
        fits::without(cluster, &job.spec.request, &avoid)
    });
    let back_off = |tries: u32| {
        let doubled = policy.backoff.0.saturating_mul(1u64 << tries.saturating_sub(1).min(32));
        Some(now + Span(doubled).min(policy.max_backoff))
    };
    let again =
        |front, not_before, avoid, own_fault| Event::JobRequeued { job: id, front, not_before, avoid, own_fault };
    let event = match outcome {
        Outcome::Failed if more && job.failures < job.spec.max_retries => {
            again(false, back_off(job.failures + 1), None, true)
        }
        Outcome::LaunchFailed if more => again(false, back_off(tries), suspect, false),
        Outcome::GpuFault if more => again(true, None, suspect, false),
        Outcome::Idle if more && job.attempt.as_deref().is_some_and(waits_after_idling) => {
            again(false, back_off(tries), None, false)
        }
        Outcome::NodeLost | Outcome::Drained | Outcome::Evicted | Outcome::Resized if more => {
            again(true, None, None, false)
        }
        Outcome::Completed
        | Outcome::Failed
        | Outcome::Cancelled
        | Outcome::TimedOut
        | Outcome::LaunchFailed
        | Outcome::NodeLost
        | Outcome::GpuFault
        | Outcome::Evicted
        | Outcome::Drained
        | Outcome::Resized
        | Outcome::Idle
        | Outcome::DependencyFailed => return end_job(cluster, id, outcome, now, out),
    };
    emit(cluster, now, event, out);
    if matches!(outcome, Outcome::Evicted | Outcome::Resized) {
        resize::keep_places(cluster, id, outcome, now, out);
    }
}

/// Whether its tenant lets it try again.
fn waits_after_idling(attempt: &Attempt) -> bool {
    attempt.idle.is_some_and(|notice| notice.action == IdleAction::Requeue)
}

/// The node to keep away from after the attempt: where its launch went wrong, or under whose GPU it broke.
fn suspect(attempt: &Attempt, outcome: Outcome) -> Option<NodeIndex> {
    let faulty = attempt.broken_by.filter(|_| outcome == Outcome::GpuFault);
    attempt.suspect.or_else(|| Some(attempt.members.get(faulty?.at())?.placed.node))
}

/// A job is over: those that waited for it go on, or can never run and end as well, in the order of their dependencies.
pub(crate) fn end_job(cluster: &mut Cluster, id: JobId, outcome: Outcome, now: Time, out: &mut Events) {
    let mut todo = std::collections::VecDeque::from([(id, outcome)]);
    while let Some((job, outcome)) = todo.pop_front() {
        if cluster.job(job).is_none_or(|job| matches!(job.phase, Phase::Ended(_))) {
            continue;
        }
        let mut never: Vec<JobId> = cluster
            .dependents
            .edges(job)
            .filter(|(_, _, kind)| !kind.satisfied_by(outcome))
            .map(|(_, waits, _)| waits)
            .collect();
        // The order of the edges depends on the history of the graph, which is no part of the state.
        never.sort_unstable();
        let array = cluster.job(job).and_then(|job| job.index_of).map(|(array, _)| array);
        promise::give_up(cluster, job, now, out);
        emit(cluster, now, Event::JobEnded { job, outcome }, out);
        todo.extend(never.into_iter().map(|waits| (waits, Outcome::DependencyFailed)));
        if let Some(array) = array {
            todo.extend(array_outcome(cluster, array).map(|outcome| (array, outcome)));
        }
    }
}

/// Ends an array if nothing of it is left.
pub(crate) fn settle_array(cluster: &mut Cluster, array: JobId, now: Time, out: &mut Events) {
    if let Some(outcome) = array_outcome(cluster, array) {
        end_job(cluster, array, outcome, now, out);
    }
}

/// How an array ended, when nothing of it is left.
fn array_outcome(cluster: &Cluster, array: JobId) -> Option<Outcome> {
    let job = cluster.job(array)?;
    let progress = job.progress.as_deref()?;
    if job.phase != Phase::Spread || !progress.live.is_empty() {
        return None;
    }
    Some(match (progress.cancelled, progress.failed) {
        (true, _) => Outcome::Cancelled,
        (false, 0) => Outcome::Completed,
        (false, _) => Outcome::Failed,
    })
}
