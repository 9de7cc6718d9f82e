//! Events -> what agents are told. An order's identity is (job, attempt, member, sequence); whoever sends it again sends
//! the same.

use dure_core::Cluster;
use dure_core::event::Event;
use dure_core::ids::{BlobId, JobId, MemberIndex, NodeIndex};
use dure_core::job::{Attempt, Job, MemberPhase, Phase, StopReason};
use dure_proto::v1;
use dure_proto::v1::order::What;

use crate::effect::Effect;
use crate::grpc::convert::job::{mig_slice, part_milli};
use crate::live::Live;

const LAUNCH: u32 = 1;
const GO: u32 = 2;
const STOP: u32 = 3;

/// The leadership under which orders are given.
#[derive(Clone, Copy, Debug)]
pub struct Term {
    /// The leader's epoch.
    pub epoch: u64,
    /// The position that makes the order durable.
    pub seq: u64,
}

/// What agents are told because of `event`, which has just been applied.
pub fn of_event(cluster: &Cluster, live: &Live, event: &Event, term: Term, out: &mut Vec<Effect>) {
    let job = match event {
        Event::JobPlaced { job, .. } | Event::GangReleased { job, .. } | Event::AttemptStopping { job, .. } => *job,
        _ => return,
    };
    let Some(entry) = cluster.job(job) else { return };
    // A gang of one starts with its launch; its release is no event.
    let Some(attempt) = entry.live_attempt() else { return };
    for (member, state) in attempt.alive() {
        let (order, payload) = order(cluster, live, entry, attempt, member, term);
        out.push(Effect::Order(state.placed.node, Box::new(order), payload));
    }
}

/// What the scheduler wants of a member that is not gone, as the state stands, and what it is to run.
pub fn of_member(cluster: &Cluster, live: &Live, job: JobId, member: MemberIndex, term: Term) -> Option<Ordered> {
    let entry = cluster.job(job)?;
    let attempt = entry.live_attempt()?;
    attempt.members.get(member.at()).filter(|state| state.phase != MemberPhase::Gone)?;
    Some(order(cluster, live, entry, attempt, member, term))
}

/// The order without what it is to run, for an agent that has obeyed it.
pub fn kept((order, _): Ordered) -> Ordered {
    (v1::Order { what: Some(What::Keep(v1::Keep {})), ..order }, None)
}

/// An order and the payload that it lacks.
pub type Ordered = (v1::Order, Option<BlobId>);

fn order(cluster: &Cluster, live: &Live, job: &Job, attempt: &Attempt, member: MemberIndex, term: Term) -> Ordered {
    let bare = |sequence, what| v1::Order {
        epoch: term.epoch,
        seq: term.seq,
        job_id: job.id.0,
        attempt: attempt.number.0,
        member: member.0,
        sequence,
        what: Some(what),
    };
    if let Phase::Stopping(_) | Phase::AwaitingProof(_) = job.phase {
        let (reason, grace_ms) = stop_of(job);
        let stop = What::Stop(v1::Stop { reason: reason.into(), grace_ms });
        return (bare(STOP, stop), None);
    }
    let launch = launch(cluster, live, job, attempt, member);
    let order = if attempt.released && attempt.members.len() > 1 {
        bare(GO, What::Go(launch))
    } else {
        bare(LAUNCH, What::Launch(launch))
    };
    (order, Some(job.spec.payload))
}

fn stop_of(job: &Job) -> (&'static str, u64) {
    let grace = job.spec.grace.0;
    match job.phase {
        Phase::Stopping(StopReason::Cancelled) => ("cancelled", grace),
        Phase::Stopping(StopReason::TimeLimit) => ("time_limit", grace),
        Phase::Stopping(StopReason::GangBroken) => ("gang_broken", grace),
        Phase::Stopping(StopReason::ScriptEnded) => ("script_ended", grace),
        Phase::Stopping(StopReason::LaunchDeadline) => ("launch_deadline", 0),
        Phase::Stopping(StopReason::NodeLost) => ("node_lost", grace),
        Phase::Stopping(StopReason::Evicted) => ("evicted", grace),
        Phase::Stopping(StopReason::Drained) => ("drained", grace),
        Phase::Stopping(StopReason::Resized) => ("resized", grace),
        Phase::Stopping(StopReason::Idle) => ("idle", grace),
        _ => ("node_lost", grace),
    }
}

fn launch(cluster: &Cluster, live: &Live, job: &Job, attempt: &Attempt, member: MemberIndex) -> v1::Launch {
    let placed = attempt.members[member.at()].placed;
    let peer = |node: NodeIndex, gpus: u32| {
        let name = cluster.node(node).name.to_string();
        let address = live.nodes.get(&node).map(|live| live.address.clone()).filter(|address| !address.is_empty());
        v1::Peer { address: address.unwrap_or_else(|| name.clone()), node: name, gpus }
    };
    let array = job.index_of.map(|(array, index)| (array.0, index));
    let array_size = job.index_of.and_then(|(array, _)| cluster.job(array)?.spec.array).map_or(0, |array| array.size);
    v1::Launch {
        payload: None,
        gpus: placed.gpus.iter().map(|gpu| gpu as u32).collect(),
        peers: attempt.members.iter().map(|m| peer(m.placed.node, m.placed.gpus.len())).collect(),
        time_limit_ms: job.limit_of(attempt).0,
        grace_ms: job.spec.grace.0,
        job_name: job.spec.name.to_string(),
        tenant: cluster.tenant(job.spec.tenant).name.to_string(),
        user: cluster.user(job.spec.user).to_owned(),
        array_job_id: array.map_or(0, |(array, _)| array),
        array_index: array.map(|(_, index)| index),
        array_size,
        cpu_milli: job.spec.request.cpu.0,
        memory_mib: job.spec.request.memory.0,
        gpu_milli: part_milli(&placed),
        mig: mig_slice(cluster, &placed),
        start_at_once: attempt.members.len() == 1,
        restarts: job.attempts.saturating_sub(1),
        resume_step: job.checkpoint.map(|checkpoint| checkpoint.step),
    }
}
