//! A job of the core -> the wire.

use dure_core::Cluster;
use dure_core::blocked::Gate;
use dure_core::explain::Blocker;
use dure_core::idle::IdleNotice;
use dure_core::ids::{JobId, NodeIndex};
use dure_core::job::{Attempt, DependencyKind, Exit, ExitHow, Job, Member, MemberPhase, Outcome, Phase, StopReason};
use dure_core::mig::Slice;
use dure_core::placement::{Placed, Portion};
use dure_core::request::{Part, Shape};
use dure_core::units::Time;
use dure_proto::v1;
use dure_proto::v1::dependency::On;

use super::{gpu_time, idle_word, ms, outcome_word, phase, stop_text, tenant_name, usage_of};
use crate::grpc::text;

/// A job as it is at `now`. Its position and estimate are for the caller to fill in.
pub fn job(cluster: &Cluster, job: &Job, now: Time) -> v1::Job {
    let spec = &job.spec;
    let (reason, reason_code) = reason(cluster, job);
    let exit = if matches!(job.phase, Phase::Ended(_)) { job.exit() } else { None };
    let attempt = job.attempt.as_deref();
    v1::Job {
        id: job.id.0,
        array_job_id: job.index_of.map_or(0, |(array, _)| array.0),
        array_index: job.index_of.map(|(_, index)| index),
        tenant: tenant_name(cluster, spec.tenant).to_owned(),
        user: cluster.user(spec.user).to_owned(),
        name: spec.name.to_string(),
        phase: phase(job).into(),
        shape: Some(shape(cluster, job)),
        gpus: job.gpus().rounded_up(),
        priority: text::priority(cluster, spec.priority).to_owned(),
        time_limit_ms: spec.time_limit.0,
        time_min_ms: spec.time_min.map_or(0, |least| least.0),
        submitted_ms: job.submitted_at.0,
        started_ms: ms(attempt.and_then(|attempt| attempt.started_at)),
        ended_ms: ms(job.ended_at),
        attempt: attempt.map(|attempt| self::attempt(cluster, job, attempt)),
        attempts: job.attempts,
        reason,
        reason_code,
        usage: Some(gpu_time(usage_of(job, now))),
        array: array(job),
        dependencies: spec.after.iter().map(|on| dependency(on.job, on.kind)).collect(),
        non_preemptible: !spec.preemptible,
        exit_code: exit.and_then(|exit| code_of(&exit.how)),
        signal: exit.and_then(|exit| signal_of(&exit.how)),
        position: None,
        payload: None,
        estimate: None,
        booking: spec.booking.and_then(|id| cluster.booking(id)).map_or_else(String::new, |of| of.name.to_string()),
        idle: attempt.filter(|_| job.phase == Phase::Running).and_then(|attempt| attempt.idle).map(idle),
    }
}

fn idle(notice: IdleNotice) -> v1::IdleNotice {
    v1::IdleNotice { since_ms: notice.since.0, action: idle_word(notice.action).to_owned(), due_ms: notice.due.0 }
}

fn shape(cluster: &Cluster, job: &Job) -> v1::Shape {
    let request = &job.spec.request;
    let slice = match request.part {
        Part::Slice(slice) => Some(slice),
        Part::Whole | Part::Milli(_) => None,
    };
    let name = slice.and_then(|slice| slice.name(&cluster.pool(*request.pools.first()?).model));
    let mut shape = v1::Shape {
        cpu_milli_per_member: request.cpu.0,
        memory_mib_per_member: request.memory.0,
        distinct_nodes: request.distinct_nodes,
        gpu_milli: match request.part {
            Part::Whole => 0,
            Part::Milli(milli) => milli.into(),
            Part::Slice(slice) => slice.milli().into(),
        },
        mig_profile: name.unwrap_or_default().to_owned(),
        ..Default::default()
    };
    match &request.shape {
        Shape::Equal { members, gpus } => {
            shape.members = *members;
            shape.gpus_per_member = u32::from(*gpus);
        }
        Shape::Unequal(list) => shape.unequal = list.iter().map(|gpus| u32::from(*gpus)).collect(),
    }
    shape
}

fn attempt(cluster: &Cluster, job: &Job, attempt: &Attempt) -> v1::Attempt {
    v1::Attempt {
        number: attempt.number.0,
        members: attempt.members.iter().map(|member| self::member(cluster, member)).collect(),
        placed_ms: attempt.placed_at.0,
        started_ms: ms(attempt.started_at),
        ended_ms: ms(attempt.ended_at),
        outcome: attempt.outcome.map_or("", outcome_word).to_owned(),
        borrowed: attempt.borrowed,
        failed_first: attempt.broken_by.map(|member| member.0),
        time_limit_ms: job.limit_of(attempt).0,
    }
}

fn member(cluster: &Cluster, member: &Member) -> v1::MemberPlacement {
    let phase = match member.phase {
        MemberPhase::Ordered => "ordered",
        MemberPhase::Prepared => "prepared",
        MemberPhase::Running => "running",
        MemberPhase::Gone => "gone",
    };
    let exit = member.exit.as_ref();
    v1::MemberPlacement {
        node: cluster.node(member.placed.node).name.to_string(),
        gpus: member.placed.gpus.iter().map(|gpu| gpu as u32).collect(),
        gpu_milli: part_milli(&member.placed),
        mig: mig_slice(cluster, &member.placed),
        phase: phase.to_owned(),
        exit_code: exit.and_then(|exit| code_of(&exit.how)),
        signal: exit.and_then(|exit| signal_of(&exit.how)),
        timed_out: exit.is_some_and(|exit| exit.timed_out),
        out_of_memory: exit.is_some_and(|exit| exit.out_of_memory),
        detail: exit.map(detail_of).unwrap_or_default(),
    }
}

/// Why it never ran or what became of it, then what its agent said besides.
fn detail_of(exit: &Exit) -> String {
    let why = match &exit.how {
        ExitHow::Code(_) | ExitHow::Signal(_) => "",
        ExitHow::LaunchFailed(why) | ExitHow::Unknown(why) => why,
    };
    let words = [why, &exit.detail].into_iter().filter(|words| !words.is_empty());
    words.collect::<Vec<_>>().join("; ")
}

/// Thousandths of the one GPU of which a member holds a part; 0 where its GPUs are whole.
pub fn part_milli(placed: &Placed) -> u32 {
    if placed.portion == Portion::Whole { 0 } else { placed.held().in_milli() as u32 }
}

/// The MIG instance that a member holds, by its name on its node's model.
pub fn mig_slice(cluster: &Cluster, placed: &Placed) -> Option<v1::MigSlice> {
    match placed.portion {
        Portion::Slice { slice, start } => Some(named(cluster, placed.node, slice, start)),
        Portion::Whole | Portion::Milli(_) => None,
    }
}

/// A MIG instance of a node by its name there.
pub fn named(cluster: &Cluster, node: NodeIndex, slice: Slice, start: u8) -> v1::MigSlice {
    let model = &cluster.pool(cluster.node(node).pool).model;
    // Only what has a name was taken from the node.
    let profile = slice.name(model).map_or_else(|| format!("{slice:?}"), str::to_owned);
    v1::MigSlice { profile, first_slice: start.into() }
}

fn array(job: &Job) -> Option<v1::ArrayStatus> {
    let (array, progress) = (job.spec.array?, job.progress.as_deref()?);
    Some(v1::ArrayStatus {
        size: array.size,
        max_running: array.cap,
        waiting: job.waiting_count(),
        active: u32::try_from(progress.live.len()).unwrap_or(u32::MAX),
        completed: progress.completed,
        failed: progress.failed,
    })
}

fn dependency(job: JobId, kind: DependencyKind) -> v1::Dependency {
    let kind = match kind {
        DependencyKind::AfterOk => v1::DependencyKind::AfterOk,
        DependencyKind::AfterAny => v1::DependencyKind::AfterAny,
        DependencyKind::AfterNotOk => v1::DependencyKind::AfterNotOk,
    };
    v1::Dependency { kind: kind.into(), on: Some(On::JobId(job.0)) }
}

fn code_of(how: &ExitHow) -> Option<i32> {
    match how {
        ExitHow::Code(code) => Some(*code),
        ExitHow::Signal(_) | ExitHow::LaunchFailed(_) | ExitHow::Unknown(_) => None,
    }
}

fn signal_of(how: &ExitHow) -> Option<i32> {
    match how {
        ExitHow::Signal(signal) => Some(*signal),
        ExitHow::Code(_) | ExitHow::LaunchFailed(_) | ExitHow::Unknown(_) => None,
    }
}

/// Why a job is where it is, in one line and as a token; both empty when there is nothing to say.
fn reason(cluster: &Cluster, job: &Job) -> (String, String) {
    match job.phase {
        Phase::Waiting => cluster.first_blocker(job.id).map_or_else(Default::default, |blocker| {
            let found = blocker_of(cluster, job, &blocker);
            (found.message, found.code)
        }),
        Phase::Stopping(reason) => (stop_text(reason).to_owned(), String::new()),
        Phase::AwaitingProof(outcome) => (
            format!("its attempt is over ({}), but a lost node under it is not proven dead", outcome_word(outcome)),
            "AWAITING_PROOF".to_owned(),
        ),
        Phase::Ended(outcome) => (end_text(job, outcome), outcome_word(outcome).to_uppercase()),
        Phase::Launching | Phase::Running | Phase::Spread => Default::default(),
    }
}

/// What stands in the way of a job. One that waits for its next try is told how the last one went.
pub(super) fn blocker_of(cluster: &Cluster, job: &Job, blocker: &Blocker) -> v1::Blocker {
    let found = text::blocker(cluster, blocker);
    let Blocker::Gate(Gate::NotBefore { time }) = blocker else { return found };
    let how = how_it_ended(job);
    if job.attempts == 0 || how.is_empty() {
        return found;
    }
    let message = format!("try {} failed: {how}; it is tried again at {}", job.attempts, text::moment(*time));
    v1::Blocker { message, remedy: "mend what made it fail, or cancel it: it goes on by itself".to_owned(), ..found }
}

/// How an ended job ended, when it did not complete.
fn end_text(job: &Job, outcome: Outcome) -> String {
    if outcome == Outcome::DependencyFailed {
        return "a job that it depends on ended in the other way".to_owned();
    }
    if outcome == Outcome::Idle {
        return stop_text(StopReason::Idle).to_owned();
    }
    if outcome == Outcome::Completed {
        return String::new();
    }
    how_it_ended(job)
}

/// How the last attempt of a job ended, when it did not complete.
fn how_it_ended(job: &Job) -> String {
    let said = job.exit().map(|exit| exit.detail.as_ref()).filter(|words| !words.is_empty());
    let how = match job.exit().map(|exit| &exit.how) {
        Some(ExitHow::Code(0)) | None => String::new(),
        Some(ExitHow::Code(code)) => format!("a member ended with exit code {code}"),
        Some(ExitHow::Signal(signal)) => format!("a member was ended by signal {signal}"),
        Some(ExitHow::LaunchFailed(why)) => format!("a member could not be started: {why}"),
        Some(ExitHow::Unknown(why)) => format!("a member is gone: {why}"),
    };
    [how.as_str()].into_iter().filter(|words| !words.is_empty()).chain(said).collect::<Vec<_>>().join("; ")
}
