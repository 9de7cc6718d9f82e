//! What will happen: a copy of the state, run forward by the plan that the scheduler really follows.
//!
//! Comes in: a copy of a cluster, the time, learned run times. Goes out: when and where each waiting job starts (P50 by
//! learned run times, P90 as if every job ran to its limit), and what each mission gets before and after a change. What has
//! not been submitted yet is not in it.

use std::collections::BTreeMap;

use dure_core::Cluster;
use dure_core::event::Event;
use dure_core::ids::{JobId, NodeIndex, TenantIndex};
use dure_core::input::{Input, JobDraft, NodeDraft, TenantDraft};
use dure_core::job::{Job, Outcome, Phase};
use dure_core::rejected::Rejected;
use dure_core::reply::Reply;
use dure_core::units::{GpuTime, Gpus, Span, Time};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::forward::{Forward, Story};
use crate::learned::{Kind, Learned};
use crate::report::{Spread, hours, spread};

/// Instants of one run forward: bounds its time.
const MAX_INSTANTS: u32 = 200_000;
/// How far a forecast looks.
pub const HORIZON: Span = Span::seconds(90 * 86_400);

/// What a job is told apart by when run times are learned.
pub fn kind_of<'a>(cluster: &'a Cluster, job: &'a Job) -> Kind<'a> {
    let spec = &job.spec;
    let (tenant, user) = (&*cluster.tenant(spec.tenant).name, cluster.user(spec.user));
    Kind { tenant, user, name: &spec.name, gpus: job.gpus().rounded_up() }
}

/// Learns from what `event` says, which has just been applied: a run that ended by itself.
pub fn learn(learned: &mut Learned, cluster: &Cluster, event: &Event) {
    let Event::AttemptEnded { job, outcome: Outcome::Completed | Outcome::Failed, .. } = event else { return };
    let Some(job) = cluster.job(*job) else { return };
    let span = job.attempt.as_deref().and_then(|attempt| Some(attempt.ended_at?.since(attempt.started_at?)));
    if let Some(span) = span {
        learned.add(kind_of(cluster, job), span);
    }
}

/// The first start of a job that waits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Start {
    /// When.
    pub time: Time,
    /// On which nodes, by rank.
    pub nodes: Vec<NodeIndex>,
}

/// What happens to one mission on the way.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Course {
    waits: Vec<Span>,
    evictions: u64,
    lost: GpuTime,
}

/// What is noted on the way.
#[derive(Debug)]
struct Look<'l> {
    learned: Option<&'l Learned>,
    /// Jobs that wait and have not started on the way.
    left: usize,
    starts: BTreeMap<JobId, Option<Start>>,
    courses: BTreeMap<TenantIndex, Course>,
}

impl Story for Look<'_> {
    fn run_time(&mut self, cluster: &Cluster, job: &Job, elapsed: Span) -> Span {
        let learned = self.learned.and_then(|learned| learned.run_time(kind_of(cluster, job), elapsed));
        learned.unwrap_or(job.spec.time_limit)
    }

    fn saw(&mut self, cluster: &Cluster, now: Time, event: &Event) {
        match event {
            Event::JobPlaced { job, members, .. } => {
                let Some(entry) = cluster.job(*job) else { return };
                // An index of an array starts for its array, which starts with its first.
                let asked = entry.index_of.map_or(*job, |(array, _)| array);
                let Some(slot @ None) = self.starts.get_mut(&asked) else { return };
                *slot = Some(Start { time: now, nodes: members.iter().map(|placed| placed.node).collect() });
                self.left -= 1;
                if let Some(mission) = cluster.mission(entry.spec.tenant) {
                    let waited = now.since(entry.submitted_at);
                    self.courses.entry(mission).or_default().waits.push(waited);
                }
            }
            Event::AttemptEnded { job, outcome: Outcome::Evicted, .. } => {
                let Some(entry) = cluster.job(*job) else { return };
                let Some(mission) = cluster.mission(entry.spec.tenant) else { return };
                let ran = entry.attempt.as_deref().map_or(Span::ZERO, |attempt| now.since(attempt.placed_at));
                let course = self.courses.entry(mission).or_default();
                course.evictions += 1;
                course.lost += entry.gpus().over(ran);
            }
            // Nothing else is asked for.
            _ => {}
        }
    }
}

/// Runs `cluster` forward from `now` until all that waits has started, the horizon is reached or nothing happens any more.
fn look<'l>(cluster: Cluster, now: Time, learned: Option<&'l Learned>, horizon: Span) -> (Look<'l>, Cluster) {
    let waiting = cluster.jobs().iter().filter(|job| job.phase == Phase::Waiting && job.index_of.is_none());
    let starts: BTreeMap<JobId, Option<Start>> = waiting.map(|job| (job.id, None)).collect();
    let story = Look { learned, left: starts.len(), starts, courses: BTreeMap::new() };
    let mut forward = Forward::new(cluster, now, story);
    forward.cycle(now);
    for _ in 0..MAX_INSTANTS {
        let next = forward.next_time().filter(|next| *next <= now + horizon);
        let Some(next) = next.filter(|_| forward.story().left > 0) else { break };
        let next = next.max(now);
        forward.pass(next);
        forward.cycle(next);
    }
    forward.into_parts()
}

/// When a job starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Estimate {
    /// As likely before as after, by learned run times; none: not within the horizon, or held.
    pub p50: Option<Time>,
    /// Hardly later: as if every job ran to its limit.
    pub p90: Option<Time>,
}

/// When each waiting job starts. Two copies are run forward, which takes as long as so many placements.
pub fn estimates(cluster: &Cluster, now: Time, learned: &Learned) -> BTreeMap<JobId, Estimate> {
    let (half, _) = look(cluster.clone(), now, Some(learned), HORIZON);
    let (most, _) = look(cluster.clone(), now, None, HORIZON);
    let time = |start: Option<&Option<Start>>| start.and_then(Option::as_ref).map(|start| start.time);
    let estimate = |(job, start): (&JobId, &Option<Start>)| {
        let p50 = time(Some(start));
        // A shorter run elsewhere can make a start later: then the later of the two is the safer promise.
        (*job, Estimate { p50, p90: time(most.starts.get(job)).max(p50) })
    };
    half.starts.iter().map(estimate).collect()
}

/// Whether, when and where a job would start that is not submitted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trial {
    /// When.
    pub estimate: Estimate,
    /// The names of the nodes of the earlier of the two forecasts, by rank; empty where it does not start.
    pub nodes: Vec<Box<str>>,
}

/// Submits `drafts` to a copy, and runs it forward: one answer for each.
///
/// # Errors
/// As a submit.
pub fn trial(cluster: &Cluster, drafts: Vec<JobDraft>, now: Time, learned: &Learned) -> Result<Vec<Trial>, Rejected> {
    let mut copy = cluster.clone();
    let reply = dure_core::decide(&mut copy, Input::Submit(drafts), None, now, &mut Vec::new())?;
    let Reply::Submitted { first, count } = reply else { return Ok(Vec::new()) };
    let (half, after) = look(copy.clone(), now, Some(learned), HORIZON);
    let (most, _) = look(copy, now, None, HORIZON);
    let answer = |job: u64| {
        let of = |look: &Look<'_>| look.starts.get(&JobId(job)).cloned().flatten();
        let (half, most) = (of(&half), of(&most));
        let p50 = half.as_ref().map(|start| start.time);
        let nodes = half.iter().flat_map(|start| &start.nodes).map(|node| after.node(*node).name.clone()).collect();
        Trial { estimate: Estimate { p50, p90: most.map(|start| start.time).max(p50) }, nodes }
    };
    Ok((first.0..first.0 + u64::from(count)).map(answer).collect())
}

/// What is changed in a forecast.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Change {
    /// Tenants as they are to be.
    pub tenants: Vec<TenantDraft>,
    /// Nodes that are taken away at once, with what runs on them.
    pub nodes_out: Vec<Box<str>>,
    /// Nodes that are there as well.
    pub nodes_in: Vec<NodeDraft>,
    /// Jobs that are submitted as well.
    pub jobs: Vec<JobDraft>,
}

/// What a mission gets.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Outlook {
    /// Its quota, in GPUs.
    pub quota: u32,
    /// Jobs that wait.
    pub waiting: u64,
    /// Those of them that start within the horizon.
    pub started: u64,
    /// From submit to start of those.
    pub wait_s: Spread,
    /// Attempts that are evicted.
    pub evictions: u64,
    /// GPU-hours that they lose.
    pub lost_gpu_hours: f64,
}

/// Before and after a change, by mission.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct WhatIf {
    /// As it is.
    pub before: BTreeMap<String, Outlook>,
    /// With the change.
    pub after: BTreeMap<String, Outlook>,
    /// SHA-256 over both: names this forecast in an audit.
    pub digest: String,
}

/// Runs `cluster` forward as it is and with `change`; the two at once, on two threads.
///
/// # Errors
/// A part of the change that the core refuses.
pub fn what_if(
    cluster: &Cluster,
    change: Change,
    now: Time,
    learned: &Learned,
    horizon: Span,
) -> Result<WhatIf, Rejected> {
    let mut changed = cluster.clone();
    apply(&mut changed, change, now)?;
    let run = |cluster: Cluster| {
        let waiting = waiting(&cluster);
        let (seen, cluster) = look(cluster, now, Some(learned), horizon);
        outlooks(seen, &cluster, &waiting)
    };
    let (before, after) = std::thread::scope(|scope| {
        let before = scope.spawn(|| run(cluster.clone()));
        let after = run(changed);
        (before.join().expect("a run forward does not panic"), after)
    });
    let mut both = WhatIf { before, after, digest: String::new() };
    let json = serde_json::to_vec(&both).expect("a forecast is plain data");
    both.digest = hex::encode(Sha256::digest(json));
    Ok(both)
}

fn apply(cluster: &mut Cluster, change: Change, now: Time) -> Result<(), Rejected> {
    let mut events = Vec::new();
    let tenants = change.tenants.into_iter().map(Input::SetTenant);
    let nodes_in = change.nodes_in.into_iter().map(Input::NodeHello);
    let nodes_out = change.nodes_out.into_iter().map(|node| Input::Drain { node, evict: true });
    let jobs = (!change.jobs.is_empty()).then_some(Input::Submit(change.jobs));
    for input in tenants.chain(nodes_in).chain(nodes_out).chain(jobs) {
        dure_core::decide(cluster, input, None, now, &mut events)?;
    }
    Ok(())
}

/// Waiting jobs by mission.
fn waiting(cluster: &Cluster) -> BTreeMap<TenantIndex, u64> {
    let mut count = BTreeMap::new();
    for job in cluster.jobs().iter().filter(|job| job.phase == Phase::Waiting && job.index_of.is_none()) {
        if let Some(mission) = cluster.mission(job.spec.tenant) {
            *count.entry(mission).or_default() += 1;
        }
    }
    count
}

fn outlooks(seen: Look<'_>, cluster: &Cluster, waiting: &BTreeMap<TenantIndex, u64>) -> BTreeMap<String, Outlook> {
    let mut courses = seen.courses;
    let missions = cluster.tenants().iter().filter(|tenant| tenant.depth == 1);
    let outlook = |mission: &dure_core::tenant::Tenant| {
        let mut course = courses.remove(&mission.index).unwrap_or_default();
        let quota: Gpus = mission.quota();
        let of = Outlook {
            quota: quota.rounded_up(),
            waiting: waiting.get(&mission.index).copied().unwrap_or(0),
            started: course.waits.len() as u64,
            wait_s: spread(&mut course.waits),
            evictions: course.evictions,
            lost_gpu_hours: hours(course.lost),
        };
        (mission.name.to_string(), of)
    };
    missions.map(outlook).collect()
}

#[cfg(test)]
mod tests;
