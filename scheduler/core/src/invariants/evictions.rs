//! Nobody is evicted without a beneficiary that gets what he leaves: a cycle that evicts has promised GPUs to the one it
//! names, all of them free, held by those evicted for it, or left by what is being stopped anyhow, and the evicted were preemptible and had run their minimum.
//!
//! Source: design 5.2, "freed GPUs are held for the beneficiary, who is named on every eviction".

use super::{Check, ensure};
use crate::admit::lending;
use crate::cluster::Cluster;
use crate::event::Event;
use crate::gpu::GpuSet;
use crate::ids::JobId;
use crate::job::{Job, StopReason};
use crate::promise::Promise;

pub(super) fn check(cluster: &Cluster, events: &[Event]) -> Check {
    for event in events {
        match event {
            Event::AttemptStopping { job, reason: StopReason::Evicted, beneficiary, .. } => {
                let Some(beneficiary) = *beneficiary else { return Err(format!("job {job} was evicted for nobody")) };
                ensure(cluster.job(*job).is_some_and(|job| job.spec.preemptible), || {
                    format!("job {job} must not be evicted, and was")
                })?;
                let promise = cluster.promise(beneficiary);
                ensure(promise.is_some_and(|promise| frees(cluster, *job, beneficiary, promise)), || {
                    format!("job {job} was evicted for {beneficiary}, which is not promised what it leaves")
                })?;
            }
            Event::Promised { job, members, .. } if cluster.promise(*job).is_some() => {
                for placed in members {
                    let node = cluster.node(placed.node);
                    // What is cut has room beside what is held, or it is given back.
                    let cut = if placed.shared_gpu().is_some() { GpuSet::EMPTY } else { node.parts.gpus() };
                    let taken = node.taken.with(cut).and(placed.gpus);
                    let freed = evicted_for(*job, events).filter_map(|victim| cluster.job(victim));
                    let freed = freed.map(|victim| on_node(victim, placed.node)).fold(GpuSet::EMPTY, GpuSet::with);
                    let freed = freed.with(leaving_on(cluster, placed.node));
                    ensure(freed.contains(taken), || {
                        format!("job {job} is promised {placed:?}, of which {taken:?} are held and not given back")
                    })?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn evicted_for(beneficiary: JobId, events: &[Event]) -> impl Iterator<Item = JobId> {
    events.iter().filter_map(move |event| match event {
        Event::AttemptStopping { job, beneficiary: Some(of), .. } if *of == beneficiary => Some(*job),
        _ => None,
    })
}

/// What attempts that are being stopped hold there.
fn leaving_on(cluster: &Cluster, node: crate::ids::NodeIndex) -> GpuSet {
    let leaves = |job: &&Job| matches!(job.phase, crate::job::Phase::Stopping(_));
    cluster.jobs.iter().filter(leaves).map(|job| on_node(job, node)).fold(GpuSet::EMPTY, GpuSet::with)
}

fn on_node(job: &Job, node: crate::ids::NodeIndex) -> GpuSet {
    let members = job.live_attempt().into_iter().flat_map(|attempt| attempt.members.iter());
    members.filter(|member| member.placed.node == node).fold(GpuSet::EMPTY, |all, member| all.with(member.placed.gpus))
}

/// Whether the beneficiary gets something of what a victim leaves: GPUs, CPU or memory beside them, room in the quota of
/// the mission that both are in, room in what may be lent for longer than some lender can wait, or room beside what others
/// keep back of what is idle.
fn frees(cluster: &Cluster, victim: JobId, beneficiary: JobId, promise: &Promise) -> bool {
    let (Some(victim), Some(job)) = (cluster.job(victim), cluster.job(beneficiary)) else { return false };
    let request = &job.spec.request;
    let is_narrow = request.cpu.0 > 0 || request.memory.0 > 0;
    let gets = promise.members.iter().any(|placed| {
        let left = on_node(victim, placed.node);
        !left.and(placed.gpus).is_empty() || (is_narrow && !left.is_empty())
    });
    let is_same_mission = || cluster.mission(job.spec.tenant) == cluster.mission(victim.spec.tenant);
    let keeps_back = || cluster.tenants.iter().any(|tenant| tenant.quota_in(promise.pool).lend_limit.is_some());
    gets || lending::is_late(cluster, victim) || is_same_mission() || keeps_back()
}
