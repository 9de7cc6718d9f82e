//! The parts that only snapshots hold, both ways: nodes, jobs, ledgers as they are.
//!
//! What `apply` derives anyway (what members hold on a node, a job's place in the queue) is not written.

use dure_core::decay::Meter;
use dure_core::gpu::{GpuSet, MAX_GPUS_PER_NODE};
use dure_core::ids::{AttemptNumber, JobId, MemberIndex, NodeIndex};
use dure_core::job::{ArrayProgress, Attempt, Checkpoint, Job, Member, MemberPhase, Outcome, Phase, StopReason, Usage};
use dure_core::node::{Contact, Node, SetAside};
use dure_core::place::{Faded, Need};
use dure_core::promise::Promise;
use dure_core::reserve::Reservation;
use dure_core::tenant::UserLedger;
use dure_core::units::{CpuMilli, GpuTime, Gpus, MemoryMib, Span, Time};
use dure_core::wanted::Wanted;
use dure_proto::journal::v1;
use dure_proto::journal::v1::phase;

use super::fault::{Fault, needed, within};
use super::parts::{
    capacity_from_wire, capacity_to_wire, exit_from_wire, exit_to_wire, idle_notice_from_wire, idle_notice_to_wire,
    location_from_wire, location_to_wire, members_from_wire, placed_from_wire, placed_to_wire, pool, spec_from_wire,
    spec_to_wire, tenant,
};
use super::words::{Word, or_none};

pub(super) fn usage_to_wire(usage: Usage) -> v1::Usage {
    v1::Usage { own_gpu_ms: usage.own.0, borrowed_gpu_ms: usage.borrowed.0 }
}

pub(super) fn usage_from_wire(wire: v1::Usage) -> Usage {
    Usage { own: GpuTime(wire.own_gpu_ms), borrowed: GpuTime(wire.borrowed_gpu_ms) }
}

/// Whole GPUs, and the thousandths of the one of which only a part is counted.
pub(super) fn gpus_to_wire(gpus: Gpus) -> (u32, u32) {
    let whole = u32::try_from(gpus.in_milli() / Gpus::MILLI).unwrap_or(u32::MAX);
    (whole, (gpus.in_milli() % Gpus::MILLI) as u32)
}

fn gpus_from_wire(whole: u32, part_milli: u32) -> Gpus {
    Gpus::milli(u64::from(whole) * Gpus::MILLI + u64::from(part_milli))
}

pub(super) fn meter_to_wire(meter: Meter) -> v1::Meter {
    let (rate_gpus, rate_part_milli) = gpus_to_wire(meter.rate);
    v1::Meter { amount: meter.amount, rate_gpus, at_ms: meter.at.0, rate_part_milli }
}

pub(super) fn meter_from_wire(wire: v1::Meter) -> Meter {
    let rate = gpus_from_wire(wire.rate_gpus, wire.rate_part_milli);
    Meter { amount: wire.amount, rate, at: Time(wire.at_ms) }
}

pub(super) fn ledger_from_wire(wire: &v1::UserRestored) -> Result<UserLedger, Fault> {
    Ok(UserLedger {
        used: gpus_from_wire(wire.used_gpus, wire.used_part_milli),
        recent: meter_from_wire(needed("UserRestored.recent", wire.recent)?),
        total: usage_from_wire(needed("UserRestored.total", wire.total)?),
        jobs: wire.jobs,
        running: 0,
        submitted: 0,
    })
}

pub(super) fn node_to_wire(node: &Node) -> v1::NodeRestored {
    v1::NodeRestored {
        node: node.index.0,
        name: (*node.name).to_owned(),
        pool: u32::from(node.pool.0),
        location: Some(location_to_wire(&node.location)),
        capacity: Some(capacity_to_wire(&node.capacity)),
        boot_id: (*node.boot_id).to_owned(),
        contact: node.contact.to_wire(),
        contact_since_ms: node.contact_since.0,
        cordoned: node.cordoned,
        draining: node.draining,
        spare: node.spare,
        bad: node.bad.0,
    }
}

pub(super) fn node_from_wire(wire: v1::NodeRestored) -> Result<Node, Fault> {
    Ok(Node {
        index: NodeIndex(wire.node),
        name: wire.name.into(),
        pool: pool("NodeRestored.pool", wire.pool)?,
        location: location_from_wire(needed("NodeRestored.location", wire.location)?),
        capacity: capacity_from_wire(needed("NodeRestored.capacity", wire.capacity)?)?,
        boot_id: wire.boot_id.into(),
        contact: Contact::from_wire("NodeRestored.contact", wire.contact)?,
        contact_since: Time(wire.contact_since_ms),
        cordoned: wire.cordoned,
        draining: wire.draining,
        spare: wire.spare,
        booked: dure_core::node::Booked::default(),
        bad: GpuSet(wire.bad),
        taken: GpuSet::EMPTY,
        parts: dure_core::parts::Parts::default(),
        cpu_taken: CpuMilli::ZERO,
        memory_taken: MemoryMib::ZERO,
        residents: dure_core::node::Residents::new(),
        promised: SetAside::default(),
        reserved: SetAside::default(),
    })
}

fn member_to_wire(member: &Member) -> v1::Member {
    v1::Member {
        placed: Some(placed_to_wire(&member.placed)),
        phase: member.phase.to_wire(),
        exit: member.exit.as_ref().map(exit_to_wire),
    }
}

fn member_from_wire(wire: v1::Member) -> Result<Member, Fault> {
    Ok(Member {
        placed: placed_from_wire(&needed("Member.placed", wire.placed)?)?,
        phase: MemberPhase::from_wire("Member.phase", wire.phase)?,
        exit: wire.exit.map(exit_from_wire).transpose()?,
    })
}

fn attempt_to_wire(attempt: &Attempt) -> v1::Attempt {
    v1::Attempt {
        number: attempt.number.0,
        pool: u32::from(attempt.pool.0),
        members: attempt.members.iter().map(member_to_wire).collect(),
        placed_at_ms: attempt.placed_at.0,
        start_order: attempt.start_order,
        started_at_ms: attempt.started_at.map(|time| time.0),
        ended_at_ms: attempt.ended_at.map(|time| time.0),
        released: attempt.released,
        borrowed: attempt.borrowed,
        charged_at_ms: attempt.charged_at.0,
        broken: or_none(attempt.broken),
        outcome: or_none(attempt.outcome),
        suspect: attempt.suspect.map(|node| node.0),
        broken_by: attempt.broken_by.map(|member| member.0),
        keeps: attempt.keeps,
        idle: attempt.idle.map(idle_notice_to_wire),
        scavenger: attempt.scavenger,
        guest: attempt.guest,
        lowered_ms: attempt.lowered.map(|limit| limit.0),
    }
}

fn attempt_from_wire(wire: v1::Attempt) -> Result<Attempt, Fault> {
    Ok(Attempt {
        number: AttemptNumber(wire.number),
        pool: pool("Attempt.pool", wire.pool)?,
        members: members_from_wire("Attempt.members", wire.members, member_from_wire)?,
        placed_at: Time(wire.placed_at_ms),
        start_order: wire.start_order,
        started_at: wire.started_at_ms.map(Time),
        ended_at: wire.ended_at_ms.map(Time),
        released: wire.released,
        borrowed: wire.borrowed,
        charged_at: Time(wire.charged_at_ms),
        broken: Outcome::optional("Attempt.broken", wire.broken)?,
        outcome: Outcome::optional("Attempt.outcome", wire.outcome)?,
        suspect: wire.suspect.map(NodeIndex),
        broken_by: wire.broken_by.map(MemberIndex),
        keeps: wire.keeps,
        idle: wire.idle.map(idle_notice_from_wire).transpose()?,
        scavenger: wire.scavenger,
        guest: wire.guest,
        lowered: wire.lowered_ms.map(Span),
    })
}

fn phase_to_wire(phase: Phase) -> v1::Phase {
    let nothing = v1::Nothing {};
    let phase = match phase {
        Phase::Waiting => phase::Phase::Waiting(nothing),
        Phase::Launching => phase::Phase::Launching(nothing),
        Phase::Running => phase::Phase::Running(nothing),
        Phase::Stopping(reason) => phase::Phase::Stopping(reason.to_wire()),
        Phase::AwaitingProof(outcome) => phase::Phase::AwaitingProof(outcome.to_wire()),
        Phase::Spread => phase::Phase::Spread(nothing),
        Phase::Ended(outcome) => phase::Phase::Ended(outcome.to_wire()),
    };
    v1::Phase { phase: Some(phase) }
}

fn phase_from_wire(wire: v1::Phase) -> Result<Phase, Fault> {
    Ok(match needed("Phase.phase", wire.phase)? {
        phase::Phase::Waiting(v1::Nothing {}) => Phase::Waiting,
        phase::Phase::Launching(v1::Nothing {}) => Phase::Launching,
        phase::Phase::Running(v1::Nothing {}) => Phase::Running,
        phase::Phase::Stopping(reason) => Phase::Stopping(StopReason::from_wire("Phase.stopping", reason)?),
        phase::Phase::AwaitingProof(outcome) => {
            Phase::AwaitingProof(Outcome::from_wire("Phase.awaiting_proof", outcome)?)
        }
        phase::Phase::Spread(v1::Nothing {}) => Phase::Spread,
        phase::Phase::Ended(outcome) => Phase::Ended(Outcome::from_wire("Phase.ended", outcome)?),
    })
}

fn progress_to_wire(progress: &ArrayProgress) -> v1::ArrayProgress {
    v1::ArrayProgress {
        next: progress.next,
        live: progress.live.iter().map(|job| job.0).collect(),
        completed: progress.completed,
        failed: progress.failed,
        cancelled: progress.cancelled,
    }
}

fn progress_from_wire(wire: v1::ArrayProgress) -> ArrayProgress {
    ArrayProgress {
        next: wire.next,
        live: wire.live.into_iter().map(JobId).collect(),
        completed: wire.completed,
        failed: wire.failed,
        cancelled: wire.cancelled,
    }
}

fn checkpoint_to_wire(checkpoint: Checkpoint) -> v1::Checkpoint {
    v1::Checkpoint { attempt: checkpoint.attempt.0, step: checkpoint.step, at_ms: checkpoint.at.0 }
}

fn checkpoint_from_wire(wire: v1::Checkpoint) -> Checkpoint {
    Checkpoint { attempt: AttemptNumber(wire.attempt), step: wire.step, at: Time(wire.at_ms) }
}

pub(super) fn job_to_wire(job: &Job) -> v1::JobRestored {
    v1::JobRestored {
        job: job.id.0,
        spec: Some(spec_to_wire(&job.spec)),
        phase: Some(phase_to_wire(job.phase)),
        submitted_at_ms: job.submitted_at.0,
        ended_at_ms: job.ended_at.map(|time| time.0),
        held: job.held,
        not_before_ms: job.not_before.map(|time| time.0),
        open_dependencies: job.open_dependencies,
        front: job.front,
        attempts: job.attempts,
        failures: job.failures,
        displaced: job.displaced,
        attempt: job.attempt.as_deref().map(attempt_to_wire),
        avoid: job.avoid.iter().map(|node| node.0).collect(),
        progress: job.progress.as_deref().map(progress_to_wire),
        index_of: job.index_of.map(|(array, index)| v1::ArrayIndex { array: array.0, index }),
        usage: Some(usage_to_wire(job.usage)),
        checkpoint: job.checkpoint.map(checkpoint_to_wire),
    }
}

pub(super) fn job_from_wire(wire: v1::JobRestored) -> Result<Job, Fault> {
    Ok(Job {
        id: JobId(wire.job),
        spec: spec_from_wire(needed("JobRestored.spec", wire.spec)?)?,
        phase: phase_from_wire(needed("JobRestored.phase", wire.phase)?)?,
        submitted_at: Time(wire.submitted_at_ms),
        ended_at: wire.ended_at_ms.map(Time),
        held: wire.held,
        not_before: wire.not_before_ms.map(Time),
        open_dependencies: wire.open_dependencies,
        front: wire.front,
        queued: None,
        attempts: wire.attempts,
        failures: wire.failures,
        displaced: wire.displaced,
        attempt: wire.attempt.map(attempt_from_wire).transpose()?.map(Box::new),
        avoid: wire.avoid.into_iter().map(NodeIndex).collect(),
        progress: wire.progress.map(|progress| Box::new(progress_from_wire(progress))),
        index_of: wire.index_of.map(|of| (JobId(of.array), of.index)),
        usage: usage_from_wire(needed("JobRestored.usage", wire.usage)?),
        checkpoint: wire.checkpoint.map(checkpoint_from_wire),
    })
}

pub(super) fn promise_to_wire(job: JobId, promise: &Promise) -> v1::PromiseRestored {
    v1::PromiseRestored {
        job: job.0,
        pool: u32::from(promise.pool.0),
        members: promise.members.iter().map(placed_to_wire).collect(),
        made_at_ms: promise.made_at.0,
        start_order: promise.start_order,
        due_ms: promise.due.0,
        sought: promise.sought.iter().map(|rank| rank.0).collect(),
        span_ms: Some(promise.span.0),
        latest_ms: Some(promise.latest.0),
    }
}

pub(super) fn promise_from_wire(wire: v1::PromiseRestored) -> Result<Promise, Fault> {
    let made_at = Time(wire.made_at_ms);
    let span = wire.span_ms.map_or(Time(wire.due_ms).since(made_at), Span);
    let latest = wire.latest_ms.map_or(Promise::latest(made_at, span), Time);
    Ok(Promise {
        pool: pool("PromiseRestored.pool", wire.pool)?,
        members: members_from_wire("PromiseRestored.members", wire.members, |placed| placed_from_wire(&placed))?,
        made_at,
        start_order: wire.start_order,
        due: Time(wire.due_ms),
        span,
        latest,
        sought: wire.sought.into_iter().map(MemberIndex).collect(),
    })
}

pub(super) fn workload_to_wire(kinds: &[(Need, Faded)]) -> v1::WorkloadRestored {
    let kind = |(need, count): &(Need, Faded)| v1::ExpectedMembers {
        gpus: need.gpus.into(),
        milli: need.milli.into(),
        cpu_milli: need.cpu,
        memory_mib: need.memory,
        pools: need.pools,
        amount: count.amount,
        step: count.step,
    };
    v1::WorkloadRestored { kinds: kinds.iter().map(kind).collect() }
}

pub(super) fn workload_from_wire(wire: &v1::WorkloadRestored) -> Result<Vec<(Need, Faded)>, Fault> {
    let kind = |wire: &v1::ExpectedMembers| {
        let gpus = within("ExpectedMembers.gpus", wire.gpus.into(), 0, MAX_GPUS_PER_NODE as u64)?;
        let milli = within("ExpectedMembers.milli", wire.milli.into(), 0, Gpus::MILLI)?;
        let need = Need {
            gpus: gpus as u8,
            milli: milli as u16,
            cpu: wire.cpu_milli,
            memory: wire.memory_mib,
            pools: wire.pools,
        };
        Ok((need, Faded { amount: wire.amount, step: wire.step }))
    };
    wire.kinds.iter().map(kind).collect()
}

pub(super) fn reservation_to_wire(reservation: &Reservation) -> v1::Reservation {
    v1::Reservation {
        job: reservation.job.0,
        pool: u32::from(reservation.pool.0),
        members: reservation.members.iter().map(placed_to_wire).collect(),
        cpu_milli: reservation.cpu.0,
        memory_mib: reservation.memory.0,
        from_ms: reservation.from.0,
        until_ms: reservation.until.0,
        is_own: reservation.is_own,
        reclaims: reservation.reclaims,
    }
}

pub(super) fn reservation_from_wire(wire: v1::Reservation) -> Result<Reservation, Fault> {
    Ok(Reservation {
        job: JobId(wire.job),
        pool: pool("Reservation.pool", wire.pool)?,
        members: members_from_wire("Reservation.members", wire.members, |placed| placed_from_wire(&placed))?,
        cpu: CpuMilli(wire.cpu_milli),
        memory: MemoryMib(wire.memory_mib),
        from: Time(wire.from_ms),
        until: Time(wire.until_ms),
        is_own: wire.is_own,
        reclaims: wire.reclaims,
    })
}

pub(super) fn wanted_to_wire(wanted: &Wanted, since: Time) -> v1::Wanted {
    v1::Wanted {
        tenant: wanted.tenant.0.into(),
        pool: u32::from(wanted.pool.0),
        gpu_milli: wanted.gpus.in_milli(),
        preemptible: wanted.preemptible,
        since_ms: since.0,
    }
}

pub(super) fn wanted_from_wire(wire: &v1::Wanted) -> Result<(Wanted, Time), Fault> {
    let wanted = Wanted {
        tenant: tenant("Wanted.tenant", wire.tenant)?,
        pool: pool("Wanted.pool", wire.pool)?,
        gpus: Gpus::milli(wire.gpu_milli),
        preemptible: wire.preemptible,
    };
    Ok((wanted, Time(wire.since_ms)))
}
