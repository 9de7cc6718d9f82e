//! Nodes: they appear, are silent, lost, come back, are closed, emptied and opened.
//!
//! A lost node proves nothing: what ran there may still run. Only its agent's word, a new boot, or somebody who knows
//! (`ConfirmDead`) frees what it held.

use crate::admit::{MAX_POOLS, define_pool, fits};
use crate::cluster::Cluster;
use crate::decide::{Events, emit};
use crate::event::Event;
use crate::finish;
use crate::gpu::{GpuSet, MAX_GPUS_PER_NODE};
use crate::ids::{JobId, NodeIndex, PoolIndex};
use crate::input::NodeDraft;
use crate::job::{Job, MemberPhase, Phase, StopReason};
use crate::node::{Contact, Node, Resident};
use crate::policy::Flaw;
use crate::promise;
use crate::rejected::{Refusal, Rejected};
use crate::reply::Reply;
use crate::topology;
use crate::units::Time;

/// An agent has connected: its node appears, or is there again.
pub(crate) fn hello(cluster: &mut Cluster, draft: &NodeDraft, now: Time, out: &mut Events) -> Result<Reply, Rejected> {
    check(draft)?;
    let pool = pool_of(cluster, draft, now, out)?;
    let Some(node) = cluster.find_node(&draft.name) else {
        let node = NodeIndex::of(cluster.nodes.len());
        let NodeDraft { name, location, capacity, boot_id, .. } = draft.clone();
        emit(cluster, now, Event::NodeJoined { node, name, pool, location, capacity, boot_id }, out);
        health(cluster, node, draft.bad, now, out);
        return Ok(Reply::Node(node));
    };
    let known = cluster.node(node);
    if known.pool != pool || known.location != draft.location || known.capacity != draft.capacity {
        let NodeDraft { location, capacity, .. } = draft.clone();
        emit(cluster, now, Event::NodeChanged { node, pool, location, capacity }, out);
        lift_vain_avoidance(cluster, now, out);
    }
    if cluster.node(node).boot_id != draft.boot_id {
        emit(cluster, now, Event::NodeRebooted { node, boot_id: draft.boot_id.clone() }, out);
        prove_dead(cluster, node, now, out);
    }
    if cluster.node(node).contact != Contact::Ready {
        emit(cluster, now, Event::NodeContact { node, contact: Contact::Ready }, out);
    }
    health(cluster, node, draft.bad, now, out);
    promise::renew(cluster, node, now, out);
    Ok(Reply::Node(node))
}

/// Jobs that keep away from suspect nodes, and that the other nodes, as they are now, could not hold: the suspect ones are
/// better than none.
fn lift_vain_avoidance(cluster: &mut Cluster, now: Time, out: &mut Events) {
    let is_in_vain = |job: &&Job| !job.avoid.is_empty() && !fits::without(cluster, &job.spec.request, &job.avoid);
    let vain: Vec<JobId> = cluster.jobs.iter().filter(is_in_vain).map(|job| job.id).collect();
    for job in vain {
        emit(cluster, now, Event::AvoidanceLifted { job }, out);
    }
}

fn check(draft: &NodeDraft) -> Result<(), Refusal> {
    let bad = |why: &str| Refusal::BadNode { name: draft.name.clone(), why: why.into() };
    if draft.name.is_empty() || draft.name.len() > crate::admit::MAX_NAME {
        return Err(bad("a node's name has 1 to 128 characters"));
    }
    topology::check(std::iter::once((&*draft.name, &draft.location))).map_err(|why| bad(&why.to_string()))?;
    let gpus = draft.capacity.gpus.0;
    if gpus & gpus.wrapping_add(1) != 0 {
        return Err(bad("its GPUs are not numbered 0, 1, 2, ..."));
    }
    if draft.capacity.islands.len() != gpus.count_ones() as usize {
        return Err(bad("it does not name one NVLink island for each GPU"));
    }
    let layouts = &draft.capacity.layouts;
    if !layouts.is_empty() && layouts.len() != draft.capacity.islands.len() {
        return Err(bad("it does not say of each GPU how it is cut"));
    }
    for (gpu, island) in draft.capacity.islands.iter().enumerate() {
        let closed = island.iter().all(|peer| draft.capacity.islands.get(peer) == Some(island));
        if !island.contains(GpuSet::single(gpu)) || !closed {
            return Err(bad("its NVLink islands overlap"));
        }
    }
    Ok(())
}

/// The pool of this GPU model and shape; a new one, named after the model, when there is none.
fn pool_of(cluster: &mut Cluster, draft: &NodeDraft, now: Time, out: &mut Events) -> Result<PoolIndex, Refusal> {
    let gpus = draft.capacity.gpus.len().min(MAX_GPUS_PER_NODE as u32) as u8;
    let fits = |pool: &crate::pools::Pool| pool.model == draft.model && pool.gpus_per_node == gpus;
    if let Some(known) = cluster.pools.iter().position(fits) {
        return Ok(PoolIndex::of(known));
    }
    let name = format!("{} x{gpus}", draft.model);
    let is_known = cluster.pools.iter().any(|pool| *pool.name == *name);
    if cluster.pools.len() >= MAX_POOLS || is_known {
        let why = if is_known {
            format!("the pool {name:?} has another GPU model: give that pool another name")
        } else {
            format!("it would need a new pool, and there are {MAX_POOLS} already")
        };
        return Err(Refusal::BadNode { name: draft.name.clone(), why: why.into() });
    }
    Ok(define_pool(cluster, &name, &draft.model, gpus, now, out))
}

/// The set of bad GPUs of a node is now `bad`.
pub(crate) fn health(cluster: &mut Cluster, node: NodeIndex, bad: GpuSet, now: Time, out: &mut Events) {
    let bad = bad.and(cluster.node(node).capacity.gpus);
    if cluster.node(node).bad != bad {
        emit(cluster, now, Event::GpusFenced { node, bad }, out);
    }
}

/// Nothing new goes to a node that is not heard.
pub(crate) fn silent(cluster: &mut Cluster, node: NodeIndex, now: Time, out: &mut Events) {
    if cluster.node(node).contact == Contact::Ready {
        emit(cluster, now, Event::NodeContact { node, contact: Contact::Suspect }, out);
    }
}

/// A node that is not heard for long: gangs that reach beyond it are broken up, what it alone holds is left in peace.
pub(crate) fn lost(cluster: &mut Cluster, node: NodeIndex, now: Time, out: &mut Events) {
    if cluster.node(node).contact == Contact::Lost {
        return;
    }
    emit(cluster, now, Event::NodeContact { node, contact: Contact::Lost }, out);
    if cluster.policy.flaw == Some(Flaw::NoProofOfDeath) {
        return prove_dead(cluster, node, now, out);
    }
    for job in jobs_on(cluster, node) {
        let Some(entry) = cluster.job(job) else { continue };
        let Some(attempt) = entry.live_attempt() else { continue };
        let elsewhere = |n: NodeIndex| cluster.node(n).contact != Contact::Lost;
        let reaches_beyond = attempt.alive().any(|(_, member)| elsewhere(member.placed.node));
        if reaches_beyond && matches!(entry.phase, Phase::Launching | Phase::Running) {
            finish::stop(cluster, job, StopReason::NodeLost, now, out);
        } else {
            finish::settle(cluster, job, now, out);
        }
    }
}

/// Everything that was held on this node is dead.
fn prove_dead(cluster: &mut Cluster, node: NodeIndex, now: Time, out: &mut Events) {
    for Resident { job, member } in cluster.node(node).residents.clone() {
        let Some(attempt) = cluster.job(job).and_then(crate::job::Job::live_attempt) else { continue };
        if attempt.members[member.at()].phase != MemberPhase::Gone {
            let attempt = attempt.number;
            emit(cluster, now, Event::MemberProven { job, attempt, member }, out);
        }
        finish::settle(cluster, job, now, out);
    }
}

/// An operator or a fence command says that a lost node runs nothing.
pub(crate) fn confirm_dead(cluster: &mut Cluster, name: &str, now: Time, out: &mut Events) -> Result<Reply, Rejected> {
    let node = find(cluster, name)?;
    if cluster.node(node).contact != Contact::Lost {
        return Err(Refusal::NodeNotLost { name: name.into() }.into());
    }
    prove_dead(cluster, node, now, out);
    Ok(Reply::Node(node))
}

/// Nothing new starts there.
pub(crate) fn cordon(cluster: &mut Cluster, name: &str, now: Time, out: &mut Events) -> Result<Reply, Rejected> {
    let node = find(cluster, name)?;
    let draining = cluster.node(node).draining;
    set_closed(cluster, node, true, draining, now, out);
    Ok(Reply::Node(node))
}

/// Nothing new starts there, and what runs there ends, or is stopped and queued again.
pub(crate) fn drain(
    cluster: &mut Cluster,
    name: &str,
    evict: bool,
    now: Time,
    out: &mut Events,
) -> Result<Reply, Rejected> {
    let node = find(cluster, name)?;
    set_closed(cluster, node, true, true, now, out);
    if evict {
        for job in jobs_on(cluster, node) {
            let phase = cluster.job(job).map(|job| job.phase);
            if matches!(phase, Some(Phase::Launching | Phase::Running)) {
                finish::stop(cluster, job, StopReason::Drained, now, out);
            }
        }
    }
    Ok(Reply::Node(node))
}

/// New work may start there again.
pub(crate) fn resume(cluster: &mut Cluster, name: &str, now: Time, out: &mut Events) -> Result<Reply, Rejected> {
    let node = find(cluster, name)?;
    set_closed(cluster, node, false, false, now, out);
    Ok(Reply::Node(node))
}

fn set_closed(cluster: &mut Cluster, node: NodeIndex, cordoned: bool, draining: bool, now: Time, out: &mut Events) {
    let known: &Node = cluster.node(node);
    if (known.cordoned, known.draining) != (cordoned, draining) {
        emit(cluster, now, Event::NodeCordoned { node, cordoned, draining }, out);
    }
}

fn find(cluster: &Cluster, name: &str) -> Result<NodeIndex, Refusal> {
    cluster.find_node(name).ok_or_else(|| Refusal::UnknownNode { name: name.into() })
}

/// The jobs of which something may still run on this node. A member that is gone keeps its GPUs until its gang has ended,
/// but what becomes of the node is nothing to it.
fn jobs_on(cluster: &Cluster, node: NodeIndex) -> Vec<JobId> {
    let lives = |resident: &&Resident| {
        let attempt = cluster.job(resident.job).and_then(crate::job::Job::live_attempt);
        attempt.is_some_and(|attempt| attempt.members[resident.member.at()].phase != MemberPhase::Gone)
    };
    let mut jobs: Vec<JobId> = cluster.node(node).residents.iter().filter(lives).map(|r| r.job).collect();
    jobs.dedup();
    jobs
}
