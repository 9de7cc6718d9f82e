//! Input -> events: one match, one function per arm. What is decided is applied as it goes.

use crate::admit;
use crate::cluster::{Answer, Cluster};
use crate::contact;
use crate::defrag;
use crate::event::Event;
use crate::finish;
use crate::idle;
use crate::ids::{AttemptNumber, JobId};
use crate::input::{Input, RequestKey};
use crate::job::{Outcome, Phase, StopReason};
use crate::promise;
use crate::rejected::{Refusal, Rejected};
use crate::reply::Reply;
use crate::timers::Timer;
use crate::units::Time;

/// The events of a turn, each with the state that it left behind already in place.
pub type Events = Vec<Event>;

/// Makes an event part of the state and of the turn.
pub(crate) fn emit(cluster: &mut Cluster, now: Time, event: Event, out: &mut Events) {
    cluster.apply(now, &event);
    out.push(event);
}

/// Decides what `input` leads to.
///
/// With a `key`, a repetition of an earlier accepted input is answered as the first time and leads to nothing.
///
/// # Errors
/// `Rejected` says which field, which value and what it would take; then nothing was done.
pub fn decide(
    cluster: &mut Cluster,
    input: Input,
    key: Option<&RequestKey>,
    now: Time,
    out: &mut Events,
) -> Result<Reply, Rejected> {
    if let Some(answer) = key.and_then(|key| answered(cluster, key)) {
        return answer;
    }
    let reply = match input {
        Input::DefinePool { name, model, gpus_per_node } => {
            admit::define_pool(cluster, &name, &model, gpus_per_node, now, out);
            Reply::Done
        }
        Input::SetTenant(draft) => admit::tenant::set(cluster, &draft, now, out)?,
        Input::CancelDatedQuota { tenant, pool, from } => {
            admit::calendar::cancel(cluster, &tenant, &pool, from, now, out)?
        }
        Input::Book(draft) => admit::booking::book(cluster, &draft, now, out)?,
        Input::CancelBooking { name } => admit::booking::cancel(cluster, &name, now, out)?,
        Input::Pause { tenant, paused } => pause(cluster, &tenant, paused, now, out)?,
        Input::CarryBudget { tenant, gpu_time } => admit::budget::carry(cluster, &tenant, gpu_time, now, out)?,
        Input::Submit(drafts) => admit::submit(cluster, &drafts, now, out)?,
        Input::Cancel(job) => cancel(cluster, job, now, out)?,
        Input::Hold(job) => hold(cluster, job, now, out)?,
        Input::Release(job) => release(cluster, job, now, out)?,
        Input::Cordon { node } => contact::cordon(cluster, &node, now, out)?,
        Input::Drain { node, evict } => contact::drain(cluster, &node, evict, now, out)?,
        Input::Defragment(moves) => defrag::apply(cluster, &moves, now, out)?,
        Input::Resume { node } => contact::resume(cluster, &node, now, out)?,
        Input::ConfirmDead { node } => contact::confirm_dead(cluster, &node, now, out)?,
        Input::NodeHello(draft) => contact::hello(cluster, &draft, now, out)?,
        Input::NodeHealth { node, bad } => {
            contact::health(cluster, node, bad, now, out);
            Reply::Node(node)
        }
        Input::NodeSilent(node) => {
            contact::silent(cluster, node, now, out);
            Reply::Node(node)
        }
        Input::NodeLost(node) => {
            contact::lost(cluster, node, now, out);
            Reply::Node(node)
        }
        Input::MemberReported { node, job, attempt, member, report } => {
            finish::reported(cluster, node, job, attempt, member, report, now, out);
            Reply::Job(job)
        }
        Input::NoGpuWork { job, attempt, since } => {
            idle::seen(cluster, job, attempt, since, now, out);
            Reply::Job(job)
        }
        Input::Tick => {
            tick(cluster, now, out);
            Reply::Done
        }
        Input::TickDates => tick_dates(cluster, now, out),
        Input::CameBack => came_back(cluster, now, out),
        Input::SkipIds { next_job, attempts } => skip_ids(cluster, next_job, attempts, now, out),
    };
    if let Some(RequestKey { user, id, digest }) = key {
        let (user, id, digest) = (user.clone(), id.clone(), *digest);
        emit(cluster, now, Event::RequestAnswered { user, id, digest, reply }, out);
    }
    Ok(reply)
}

/// Goes on with these numbers, or with the cluster's own where they are further.
fn skip_ids(cluster: &mut Cluster, next_job: JobId, attempts: AttemptNumber, now: Time, out: &mut Events) -> Reply {
    let next_job = cluster.next_job.max(next_job);
    let skipped_attempts = cluster.skipped_attempts.max(attempts);
    let next_start = cluster.next_start;
    emit(cluster, now, Event::CountersRestored { next_job, next_start, skipped_attempts }, out);
    Reply::Done
}

/// The answer to an earlier request of this id; refused when that was another request.
fn answered(cluster: &Cluster, key: &RequestKey) -> Option<Result<Reply, Rejected>> {
    let Answer { digest, reply } = *cluster.requests.get(&(key.user.clone(), key.id.clone()))?;
    let is_same = digest == key.digest;
    Some(if is_same { Ok(reply) } else { Err(Refusal::RequestIdReused { id: key.id.clone() }.into()) })
}

fn pause(cluster: &mut Cluster, name: &str, paused: bool, now: Time, out: &mut Events) -> Result<Reply, Rejected> {
    let tenant = admit::find_tenant(cluster, name)?;
    if cluster.tenant(tenant).paused != paused {
        emit(cluster, now, Event::Paused { tenant, paused }, out);
    }
    Ok(Reply::Tenant(tenant))
}

fn existing(cluster: &Cluster, job: JobId) -> Result<Phase, Rejected> {
    Ok(cluster.job(job).ok_or(Refusal::UnknownJob { job })?.phase)
}

fn cancel(cluster: &mut Cluster, id: JobId, now: Time, out: &mut Events) -> Result<Reply, Rejected> {
    existing(cluster, id)?;
    if let Some(progress) = cluster.job(id).and_then(|job| job.progress.as_deref()) {
        let live: Vec<JobId> = progress.live.iter().copied().collect();
        if !progress.cancelled && !matches!(cluster.job(id).map(|job| job.phase), Some(Phase::Ended(_))) {
            emit(cluster, now, Event::ArrayStopped { array: id }, out);
        }
        for index in live {
            cancel_one(cluster, index, now, out);
        }
        finish::settle_array(cluster, id, now, out);
    } else {
        cancel_one(cluster, id, now, out);
    }
    Ok(Reply::Job(id))
}

fn cancel_one(cluster: &mut Cluster, id: JobId, now: Time, out: &mut Events) {
    let Some(job) = cluster.job(id) else { return };
    match job.phase {
        Phase::Waiting | Phase::Spread => {
            finish::end_job(cluster, id, Outcome::Cancelled, now, out);
        }
        Phase::Stopping(StopReason::Cancelled) | Phase::AwaitingProof(Outcome::Cancelled) | Phase::Ended(_) => {}
        Phase::Launching | Phase::Running | Phase::Stopping(_) | Phase::AwaitingProof(_) => {
            finish::stop(cluster, id, StopReason::Cancelled, now, out);
        }
    }
}

fn hold(cluster: &mut Cluster, job: JobId, now: Time, out: &mut Events) -> Result<Reply, Rejected> {
    match existing(cluster, job)? {
        Phase::Waiting => {
            if !cluster.job(job).is_some_and(|job| job.held) {
                promise::give_up(cluster, job, now, out);
                emit(cluster, now, Event::JobHeld { job }, out);
            }
            Ok(Reply::Job(job))
        }
        phase => Err(Refusal::WrongPhase { job, phase: phase_name(phase), verb: "hold" }.into()),
    }
}

fn release(cluster: &mut Cluster, job: JobId, now: Time, out: &mut Events) -> Result<Reply, Rejected> {
    match existing(cluster, job)? {
        Phase::Waiting => {
            if cluster.job(job).is_some_and(|job| job.held) {
                emit(cluster, now, Event::JobReleased { job }, out);
            }
            Ok(Reply::Job(job))
        }
        phase => Err(Refusal::WrongPhase { job, phase: phase_name(phase), verb: "release" }.into()),
    }
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Waiting => "waiting",
        Phase::Launching => "launching",
        Phase::Running => "running",
        Phase::Stopping(_) => "stopping",
        Phase::AwaitingProof(_) => "awaiting proof that its lost nodes are dead",
        Phase::Spread => "an array whose indices have all started",
        Phase::Ended(_) => "ended",
    }
}

/// Handles every timer that is due, and forgets ended jobs beyond the limit.
fn tick(cluster: &mut Cluster, now: Time, out: &mut Events) {
    // The cycle that follows a tick sets the next one.
    cluster.plans.wake = cluster.plans.wake.filter(|wake| *wake > now);
    cluster.reserved.sleep(now);
    while let Some((time, timer)) = cluster.timers.first()
        && time <= now
    {
        tick_one(cluster, (time, timer), now, out);
    }
    let limit = cluster.policy.max_ended as usize;
    while cluster.ended.len() > limit {
        let oldest = *cluster.ended.front().expect("it is longer than its limit");
        forget(cluster, oldest, now, out);
    }
}

/// Nobody is late by a time at which nobody was there, or by a clock that was another one.
fn came_back(cluster: &mut Cluster, now: Time, out: &mut Events) -> Reply {
    if cluster.timers.has_deadlines() && now > cluster.counted_from {
        emit(cluster, now, Event::CountedAnew { since: now }, out);
    }
    promise::begin_anew(cluster, now, out);
    Reply::Done
}

/// Handles the dates of the calendar that have come.
fn tick_dates(cluster: &mut Cluster, now: Time, out: &mut Events) -> Reply {
    while let Some(timer) = cluster.timers.dated_by(now) {
        tick_one(cluster, timer, now, out);
    }
    Reply::Done
}

fn tick_one(cluster: &mut Cluster, (time, timer): (Time, Timer), now: Time, out: &mut Events) {
    match timer {
        Timer::NotBefore(job) => emit(cluster, now, Event::JobEligible { job }, out),
        Timer::Forget(job) => forget(cluster, job, now, out),
        Timer::BudgetPeriod(tenant) => admit::budget::next_period(cluster, tenant, now, out),
        Timer::QuotaEnd(key) => admit::calendar::end(cluster, key, now, out),
        Timer::QuotaBegin(key) => admit::calendar::begin(cluster, key, now, out),
        Timer::BookingEnd(booking) => emit(cluster, now, Event::BookingEnded { booking }, out),
        Timer::BookingClear(booking) => admit::booking::clear(cluster, booking, now, out),
        Timer::BookingBegin(booking) => admit::booking::begin(cluster, booking, now, out),
        Timer::Launch(job, _) => finish::stop(cluster, job, StopReason::LaunchDeadline, now, out),
        Timer::TimeLimit(job, _) => finish::stop(cluster, job, StopReason::TimeLimit, now, out),
    }
    debug_assert!(!cluster.timers.contains(time, timer), "a timer that was handled is gone");
}

fn forget(cluster: &mut Cluster, job: JobId, now: Time, out: &mut Events) {
    emit(cluster, now, Event::JobForgotten { job }, out);
}
