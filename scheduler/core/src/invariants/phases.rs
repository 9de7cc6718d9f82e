//! The phase of a job agrees with its attempt: what runs has started, what is over is gone, and nothing that can go on
//! by itself has stopped half way.
//!
//! Source: design 5.3. The last part is why `settle` is called after every fact.

use super::{Check, ensure};
use crate::cluster::Cluster;
use crate::job::{Job, MemberPhase, Phase};
use crate::node::Contact;

pub(super) fn check(cluster: &Cluster) -> Check {
    let waiting = cluster.jobs.iter().filter(|job| job.phase == Phase::Waiting).count();
    ensure(waiting == cluster.waiting as usize, || format!("{waiting} jobs wait, counted {}", cluster.waiting))?;
    let is_leaving = |job: &&Job| matches!(job.phase, Phase::Stopping(_));
    let leaving = cluster.jobs.iter().filter(is_leaving).map(|job| job.id);
    ensure(leaving.eq(cluster.leaving.iter().copied()), || {
        format!("not those that are stopped: {:?}", cluster.leaving)
    })?;
    let is_short = |job: &&Job| {
        let attempt = job.live_attempt().filter(|_| job.phase == Phase::Running);
        attempt.is_some_and(|attempt| (attempt.members.len() as u32) < job.spec.request.shape.members())
    };
    let short = cluster.jobs.iter().filter(is_short).map(|job| job.id);
    ensure(short.eq(cluster.short_gangs.iter().copied()), || {
        format!("not the short gangs: {:?}", cluster.short_gangs)
    })?;
    cluster
        .jobs
        .iter()
        .try_for_each(|job| check_job(cluster, job).map_err(|why| format!("job {} is {:?}: {why}", job.id, job.phase)))
}

fn check_job(cluster: &Cluster, job: &Job) -> Check {
    let attempt = job.attempt.as_deref();
    ensure(job.phase.is_active() <= attempt.is_some(), || "it has no attempt".into())?;
    ensure((job.phase == Phase::Spread) <= job.progress.is_some(), || "it is no array".into())?;
    ensure(job.id < cluster.next_job, || "its id has not been given yet".into())?;
    ensure(matches!(job.phase, Phase::Ended(_)) == job.ended_at.is_some(), || "its end is not its end".into())?;
    let Some(attempt) = attempt else { return Ok(()) };
    ensure(attempt.start_order < cluster.next_start, || "its place in the order is not given yet".into())?;
    let all_started = attempt.members.iter().all(|member| member.phase >= MemberPhase::Running);
    let is_open = attempt.ended_at.is_none() && attempt.outcome.is_none();
    match job.phase {
        Phase::Launching => {
            ensure(is_open && attempt.started_at.is_none(), || "its attempt has started or ended".into())?;
            ensure(!all_started, || "all its members have started".into())?;
            ensure(attempt.broken.is_none(), || "a member is broken, and it is not being stopped".into())
        }
        Phase::Running => {
            ensure(is_open && attempt.started_at.is_some() && all_started, || "it does not run".into())?;
            ensure(attempt.broken.is_none(), || "a member is broken, and it is not being stopped".into())?;
            ensure(!attempt.is_gone(), || "all its members are gone".into())
        }
        Phase::Stopping(_) => {
            ensure(is_open, || "its attempt has ended".into())?;
            let is_heard = |node| cluster.node(node).contact != Contact::Lost;
            let waits = attempt.alive().any(|(_, member)| is_heard(member.placed.node));
            ensure(waits, || "nothing that is heard is left of it".into())
        }
        Phase::AwaitingProof(_) => {
            ensure(!is_open, || "its attempt has not ended".into())?;
            ensure(!attempt.is_gone(), || "all its members are proven gone".into())
        }
        Phase::Waiting | Phase::Spread | Phase::Ended(_) => {
            ensure(!is_open && attempt.is_gone(), || "its last attempt is not over".into())
        }
    }
}
