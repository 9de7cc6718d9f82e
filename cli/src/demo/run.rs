//! Submits the workload, plays its users, follows it to its end and asks for what the jobs printed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use dure_proto::v1::{
    CancelRequest, Job, JobPhase, ListJobsRequest, ListTenantsRequest, LogsRequest, PageRequest, ReleaseRequest,
    SubmitRequest, Tenant, UsageRequest,
};
use tokio::time::sleep;

use super::{
    plan::{LAST_WORD, MISSIONS, Planned, Play, workload},
    summary, verify,
    verify::Seen,
};
use crate::{dev::session::Session, failure::Failure, jobid, phase, progress::Progress, show::Out, submit::request_id};

/// The whole demo must be over by then.
const DEADLINE: Duration = Duration::from_secs(180);
/// How often the jobs are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// More jobs than the workload makes.
const PAGE: u32 = 1_000;
/// Output of a member that is read, at most.
const MAX_OUTPUT: usize = 64 << 10;

/// A planned job and its id.
struct Submitted {
    planned: Planned,
    id: u64,
}

/// Runs the demo as `user` of every mission; fails when anything is not as it should be.
pub(crate) async fn run(session: &Session, user: &str, out: Out) -> Result<(), Failure> {
    let mut progress = Progress::new();
    let submitted = submit(session, user, &mut progress).await?;
    let jobs = follow(session, user, &submitted, &mut progress).await?;
    progress.note("all jobs have ended; reading what they printed");
    let mut wrong = Vec::new();
    let mut seen = Vec::new();
    for Submitted { planned, id } in &submitted {
        let of_it = look(session, planned, *id, &jobs).await?;
        wrong.extend(of_it.iter().flat_map(|seen| verify::job(planned, seen)));
        if planned.array > 0 {
            wrong.extend(verify::array(planned, &of_it.iter().collect::<Vec<_>>()));
        }
        seen.extend(of_it);
    }
    wrong.extend(verify::shared_gpus(&seen));
    progress.done();
    let usage = session.tenants().usage(UsageRequest::default()).await.map_err(|status| session.refused(status))?;
    out.text(&summary::table(&seen, &usage.into_inner(), out))?;
    let members: usize = seen.iter().map(|seen| seen.outputs.len()).sum();
    if wrong.is_empty() {
        let took = progress.elapsed().as_secs();
        return out.line(&format!(
            "every one of {} jobs ended as it should, and {members} members saw the GPUs and ranks that they should ({took} s)",
            seen.len()
        ));
    }
    Err(Failure::Failed(format!("{} things are not as they should be:\n  {}", wrong.len(), wrong.join("\n  "))))
}

/// One call per mission: its jobs and what they wait for become durable together.
async fn submit(session: &Session, user: &str, progress: &mut Progress) -> Result<Vec<Submitted>, Failure> {
    let list = session.tenants().list(ListTenantsRequest::default()).await.map_err(|status| session.refused(status))?;
    let tenants = list.into_inner().tenants;
    let all = workload();
    let mut submitted = Vec::new();
    for mission in MISSIONS {
        let tenant = leaf_of(mission, &tenants)?;
        let jobs: Vec<&Planned> = all.iter().filter(|job| job.mission == mission).collect();
        let specs = jobs.iter().enumerate().map(|(at, job)| job.spec(tenant, &jobs[..at])).collect();
        let request = SubmitRequest { request_id: request_id()?, jobs: specs };
        let answer = session.jobs_as(mission, user)?.submit(request).await.map_err(|status| session.refused(status))?;
        let first = answer.into_inner().first_job_id;
        let names: Vec<&str> = jobs.iter().map(|job| job.name).collect();
        progress.note(&format!("{mission} submits {}", names.join(", ")));
        submitted.extend((first..).zip(jobs).map(|(id, job)| Submitted { planned: job.clone(), id }));
    }
    Ok(submitted)
}

/// The first tenant of a mission that has none below it: only leaves hold jobs.
fn leaf_of<'a>(mission: &str, tenants: &'a [Tenant]) -> Result<&'a str, Failure> {
    let below = |name: &str, of: &str| name.strip_prefix(of).is_some_and(|rest| rest.starts_with('/'));
    let is_leaf = |name: &str| !tenants.iter().any(|tenant| below(&tenant.name, name));
    let mut names = tenants.iter().map(|tenant| tenant.name.as_str());
    names
        .find(|name| (*name == mission || below(name, mission)) && is_leaf(name))
        .ok_or_else(|| Failure::Failed(format!("the cluster has no mission {mission}: define it in its configuration")))
}

async fn list(session: &Session) -> Result<Vec<Job>, Failure> {
    let page = Some(PageRequest { page_size: PAGE, page_token: String::new() });
    let request = ListJobsRequest { page, ..ListJobsRequest::default() };
    Ok(session.jobs().list(request).await.map_err(|status| session.refused(status))?.into_inner().jobs)
}

/// Until every job has ended; cancels and releases as the plan says.
async fn follow(
    session: &Session,
    user: &str,
    submitted: &[Submitted],
    progress: &mut Progress,
) -> Result<Vec<Job>, Failure> {
    let names: BTreeMap<u64, &Planned> = submitted.iter().map(|job| (job.id, &job.planned)).collect();
    let mut told = BTreeSet::new();
    let mut played = BTreeSet::new();
    loop {
        let jobs = list(session).await?;
        for job in jobs.iter().filter(|job| phase::ended(job.phase())) {
            let planned = names.get(&job.id).or_else(|| names.get(&job.array_job_id));
            if let Some(planned) = planned.filter(|_| told.insert(job.id)) {
                let end = phase::name(job.phase());
                progress.note(&format!(
                    "{}/{} job {} {end}{}",
                    planned.mission,
                    planned.name,
                    jobid::shown(job),
                    phase::how(job)
                ));
            }
        }
        let ended = |id: u64| told.contains(&id);
        let waiting: Vec<&Submitted> = submitted.iter().filter(|job| !ended(job.id)).collect();
        if waiting.is_empty() {
            return Ok(jobs);
        }
        let running = jobs.iter().filter(|job| job.phase() == JobPhase::Running).map(|job| job.gpus).sum::<u32>();
        progress.state(&format!(
            "{} of {} jobs have ended, {running} GPUs run",
            submitted.len() - waiting.len(),
            submitted.len()
        ));
        if progress.elapsed() > DEADLINE {
            let left: Vec<String> = waiting.iter().map(|job| describe(job, &jobs)).collect();
            return Err(Failure::Failed(format!("not over after {} s: {}", DEADLINE.as_secs(), left.join("; "))));
        }
        for job in waiting {
            let now = jobs.iter().find(|seen| seen.id == job.id).map(Job::phase);
            let due = match job.planned.play {
                Play::Watch => false,
                // Once it has said all that it is going to say.
                Play::Cancel => now == Some(JobPhase::Running) && output(session, job.id, 0).await?.contains(LAST_WORD),
                Play::Release => !told.is_empty(),
            };
            if due && played.insert(job.id) {
                play(session, user, job, progress).await?;
            }
        }
        sleep(LOOK_EVERY).await;
    }
}

fn describe(job: &Submitted, jobs: &[Job]) -> String {
    let seen = jobs.iter().find(|seen| seen.id == job.id);
    let (now, why) = seen.map_or(("unknown", ""), |seen| (phase::name(seen.phase()), seen.reason.as_str()));
    format!("{}/{} is {now} {why}", job.planned.mission, job.planned.name)
}

async fn play(session: &Session, user: &str, job: &Submitted, progress: &mut Progress) -> Result<(), Failure> {
    let mut client = session.jobs_as(job.planned.mission, user)?;
    let (request_id, job_id) = (request_id()?, job.id);
    let (verb, answer) = match job.planned.play {
        Play::Watch => return Ok(()),
        Play::Cancel => ("cancels", client.cancel(CancelRequest { request_id, job_id }).await),
        Play::Release => ("releases", client.release(ReleaseRequest { request_id, job_id }).await),
    };
    answer.map_err(|status| session.refused(status))?;
    progress.note(&format!("{} {verb} {}", job.planned.mission, job.planned.name));
    Ok(())
}

/// A job, or the indices of an array, with all output.
async fn look(session: &Session, planned: &Planned, id: u64, jobs: &[Job]) -> Result<Vec<Seen>, Failure> {
    let is_it = |job: &&Job| if planned.array > 0 { job.array_job_id == id } else { job.id == id };
    let mut seen = Vec::new();
    for job in jobs.iter().filter(is_it) {
        let members =
            if planned.reports() { job.attempt.as_ref().map_or(0, |attempt| attempt.members.len()) } else { 0 };
        let mut outputs = Vec::new();
        for member in (0..).take(members) {
            outputs.push(output(session, job.id, member).await?);
        }
        seen.push(Seen { job: job.clone(), outputs });
    }
    Ok(seen)
}

async fn output(session: &Session, job_id: u64, member: u32) -> Result<String, Failure> {
    let request = LogsRequest { job_id, member, ..LogsRequest::default() };
    let mut stream = session.jobs().logs(request).await.map_err(|status| session.refused(status))?.into_inner();
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.message().await.map_err(|status| session.refused(status))? {
        bytes.extend(chunk.data);
        if bytes.len() > MAX_OUTPUT {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
