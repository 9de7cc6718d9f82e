//! Wire <-> core: the only place that knows both. Nothing in here decides, reads time or fails but for a request that
//! cannot be understood.

pub mod booking;
mod event;
pub mod explanation;
pub mod job;
pub mod node;
pub mod submit;
pub mod tenant;

pub use event::job_event;

use dure_core::Cluster;
use dure_core::idle::IdleAction;
use dure_core::ids::TenantIndex;
use dure_core::job::{Job, Outcome, Phase, StopReason, Usage};
use dure_core::promise::DropCause;
use dure_core::request::Level;
use dure_core::units::Time;
use dure_proto::v1;

use crate::handle::Position;

/// Where an answer rests.
pub fn position(position: Position) -> v1::Position {
    v1::Position { seq: position.seq.0, epoch: position.epoch.0 }
}

/// The phase of a job as users see it.
pub fn phase(job: &Job) -> v1::JobPhase {
    match job.phase {
        Phase::Waiting if job.held => v1::JobPhase::Held,
        Phase::Waiting if job.progress.as_ref().is_some_and(|progress| progress.next > 0) => v1::JobPhase::Array,
        Phase::Waiting => v1::JobPhase::Pending,
        Phase::Launching => v1::JobPhase::Launching,
        Phase::Running => v1::JobPhase::Running,
        Phase::Stopping(_) => v1::JobPhase::Stopping,
        Phase::AwaitingProof(_) => v1::JobPhase::AwaitingProof,
        Phase::Spread => v1::JobPhase::Array,
        Phase::Ended(outcome) => ended_phase(outcome),
    }
}

/// The phase of a job that ended so.
pub fn ended_phase(outcome: Outcome) -> v1::JobPhase {
    match outcome {
        Outcome::Completed => v1::JobPhase::Completed,
        Outcome::Cancelled | Outcome::DependencyFailed | Outcome::Idle => v1::JobPhase::Cancelled,
        Outcome::TimedOut => v1::JobPhase::TimedOut,
        Outcome::Failed
        | Outcome::LaunchFailed
        | Outcome::NodeLost
        | Outcome::GpuFault
        | Outcome::Evicted
        | Outcome::Drained
        | Outcome::Resized => v1::JobPhase::Failed,
    }
}

/// How something ended, in one word.
pub fn outcome_word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Completed => "completed",
        Outcome::Failed => "failed",
        Outcome::Cancelled => "cancelled",
        Outcome::TimedOut => "timed_out",
        Outcome::LaunchFailed => "launch_failed",
        Outcome::NodeLost => "node_lost",
        Outcome::GpuFault => "gpu_fault",
        Outcome::Evicted => "evicted",
        Outcome::Drained => "drained",
        Outcome::Resized => "resized",
        Outcome::DependencyFailed => "dependency_failed",
        Outcome::Idle => "idle",
    }
}

/// Why a promise was not kept, in a sentence.
pub fn drop_text(why: DropCause) -> &'static str {
    match why {
        DropCause::NotWanted => "the job cannot use it now",
        DropCause::NodeClosed => "a node or GPU of it is closed",
        DropCause::NotAllowed => "quotas, limits or a pause do not allow it any more",
        DropCause::Late => "something did not stop in time: other GPUs are looked for",
        DropCause::Booked => "it would run into a booking of its nodes: others are looked for",
        DropCause::NoSpare => "nothing came in time to take the place of what was lost: it is placed anew",
    }
}

/// Why an attempt is being stopped, in a sentence.
pub fn stop_text(reason: StopReason) -> &'static str {
    match reason {
        StopReason::Cancelled => "it was cancelled",
        StopReason::TimeLimit => "its time limit is over",
        StopReason::GangBroken => "a member ended badly",
        StopReason::ScriptEnded => "its script has ended",
        StopReason::LaunchDeadline => "the gang did not come together in time",
        StopReason::NodeLost => "a node under it is lost",
        StopReason::Evicted => "its GPUs go back to their owner",
        StopReason::Drained => "an operator empties its node",
        StopReason::Resized => "it starts again with more members",
        StopReason::Idle => "its GPUs did no work for longer than its mission allows",
    }
}

/// What becomes of what does not work, in one word.
pub fn idle_word(action: IdleAction) -> &'static str {
    match action {
        IdleAction::Ignore => "ignore",
        IdleAction::Notify => "notify",
        IdleAction::Requeue => "requeue",
        IdleAction::Cancel => "cancel",
    }
}

fn level(level: v1::TopologyLevel) -> Option<Level> {
    match level {
        v1::TopologyLevel::Unspecified => None,
        v1::TopologyLevel::Node => Some(Level::Node),
        v1::TopologyLevel::NvlinkDomain => Some(Level::Nvlink),
        v1::TopologyLevel::Leaf => Some(Level::Leaf),
        v1::TopologyLevel::Spine => Some(Level::Spine),
        v1::TopologyLevel::Site => Some(Level::Site),
    }
}

fn level_on_wire(level: Level) -> v1::TopologyLevel {
    match level {
        Level::Node => v1::TopologyLevel::Node,
        Level::Nvlink => v1::TopologyLevel::NvlinkDomain,
        Level::Leaf => v1::TopologyLevel::Leaf,
        Level::Spine => v1::TopologyLevel::Spine,
        Level::Site => v1::TopologyLevel::Site,
    }
}

fn gpu_time(usage: Usage) -> v1::GpuTime {
    v1::GpuTime { own_gpu_ms: usage.own.0, borrowed_gpu_ms: usage.borrowed.0 }
}

fn ms(time: Option<Time>) -> u64 {
    time.map_or(0, |time| time.0)
}

/// What a job has used up to `now`, the attempt under way included.
pub fn usage_of(job: &Job, now: Time) -> Usage {
    let mut usage = job.usage;
    let accrued = accrued(job, now);
    usage.own += accrued.own;
    usage.borrowed += accrued.borrowed;
    usage
}

/// What the attempt under way has used since it was last charged.
fn accrued(job: &Job, now: Time) -> Usage {
    let mut usage = Usage::default();
    if let Some(attempt) = job.live_attempt().filter(|attempt| attempt.ended_at.is_none()) {
        usage.add(attempt.gpus().over(now.since(attempt.charged_at)), attempt.borrowed);
    }
    usage
}

/// Whether tenant `name` is `above` or lies below it; everything is within the empty path.
pub fn is_within(name: &str, above: &str) -> bool {
    above.is_empty() || name.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The path of a tenant.
pub fn tenant_name(cluster: &Cluster, tenant: TenantIndex) -> &str {
    &cluster.tenant(tenant).name
}
