//! What will happen: a copy of the state, run forward by the rules that the scheduler follows, but for what it sets aside.
//!
//! Comes in: a copy of a cluster, and how far to look. Goes out: when and where each waiting job starts (P50 by learned run
//! times, P90 as if every job ran to its limit), and what each mission gets before and after a change. What has not been
//! submitted yet is not in it.

mod look;

use std::collections::BTreeMap;

use dure_core::Cluster;
use dure_core::event::Event;
use dure_core::explain::Blocker;
use dure_core::ids::{JobId, TenantIndex};
use dure_core::input::{Input, JobDraft, NodeDraft, TenantDraft};
use dure_core::job::{Job, Outcome, Phase};
use dure_core::rejected::Rejected;
use dure_core::reply::Reply;
use dure_core::units::{Span, Time};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::learned::{Kind, Learned};
use crate::report::{Spread, hours, spread};
use look::{Looked, look};

/// The farthest that a forecast looks.
pub const HORIZON: Span = Span::seconds(90 * 86_400);

/// From where, how far, by which run times, and for how long a forecast may be computed.
#[derive(Clone, Copy)]
pub struct Ahead<'a> {
    /// The moment of the state.
    pub now: Time,
    /// How far to look from there.
    pub horizon: Span,
    /// Run times of what has ended.
    pub learned: &'a Learned,
    /// Asked at every instant: false ends the look where it is.
    pub go_on: &'a (dyn Fn() -> bool + Sync),
}

impl<'a> Ahead<'a> {
    /// As far as forecasts look, however long it takes.
    pub fn whole(now: Time, learned: &'a Learned) -> Self {
        Self { now, horizon: HORIZON, learned, go_on: &|| true }
    }
}

/// What a job is told apart by when run times are learned.
pub fn kind_of<'a>(cluster: &'a Cluster, job: &'a Job) -> Kind<'a> {
    let spec = &job.spec;
    let (tenant, user) = (&*cluster.tenant(spec.tenant).name, cluster.user(spec.user));
    Kind { tenant, user, name: &spec.name, gpus: job.gpus().rounded_up() }
}

/// What `event` says, which has just been applied, of a run that ended by itself: its kind, and how long it took.
pub fn run_of<'a>(cluster: &'a Cluster, event: &Event) -> Option<(Kind<'a>, Span)> {
    let Event::AttemptEnded { job, outcome: Outcome::Completed | Outcome::Failed, .. } = event else { return None };
    let job = cluster.job(*job)?;
    let attempt = job.attempt.as_deref()?;
    Some((kind_of(cluster, job), attempt.ended_at?.since(attempt.started_at?)))
}

/// Learns from what `event` says, which has just been applied.
pub fn learn(learned: &mut Learned, cluster: &Cluster, event: &Event) {
    if let Some((kind, run)) = run_of(cluster, event) {
        learned.add(kind, run);
    }
}

/// When a job starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Estimate {
    /// As likely before as after, by learned run times; none: not within the horizon, or held.
    pub p50: Option<Time>,
    /// Hardly later: as if every job ran to its limit.
    pub p90: Option<Time>,
}

/// When the jobs start that wait.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Estimates {
    /// By job; arrays stand for their first index.
    pub of: BTreeMap<JobId, Estimate>,
    /// It was told to stop before the horizon was reached: what has no time may still start within it.
    pub is_cut: bool,
}

/// When each waiting job starts. Two copies are run forward, one after the other, which takes as long as so many placements.
pub fn estimates(cluster: &Cluster, ahead: &Ahead<'_>) -> Estimates {
    let half = look(cluster.clone(), ahead, true);
    let most = look(cluster.clone(), ahead, false);
    let estimate = |job: &JobId| (*job, both(*job, &half, &most));
    Estimates { of: half.starts().map(estimate).collect(), is_cut: half.is_cut || most.is_cut }
}

/// A shorter run elsewhere can make a start later: then the later of the two is the safer promise.
fn both(job: JobId, half: &Looked<'_>, most: &Looked<'_>) -> Estimate {
    let time = |looked: &Looked<'_>| looked.start(job).map(|start| start.time);
    let (p50, p90) = (time(half), time(most));
    Estimate { p50, p90: p90.map(|p90| p90.max(p50.unwrap_or(p90))) }
}

/// Whether, when and where a job would start that is not submitted.
#[derive(Clone, PartialEq, Debug)]
pub struct Trial {
    /// When.
    pub estimate: Estimate,
    /// The names of the nodes of the earlier of the two forecasts, by rank; empty where it does not start.
    pub nodes: Vec<Box<str>>,
    /// Why it does not, at the end of what was looked at.
    pub never: Option<Blocker>,
}

/// The trials of some jobs, by their places.
#[derive(Debug)]
pub struct Trials {
    /// One for each job.
    pub list: Vec<Trial>,
    /// The state at the end of the earlier forecast: reasons name what is in it.
    pub after: Cluster,
    /// As in [`Estimates`].
    pub is_cut: bool,
}

/// Submits `drafts` to a copy, and runs it forward: one answer for each.
///
/// # Errors
/// As a submit.
pub fn trial(cluster: &Cluster, drafts: Vec<JobDraft>, ahead: &Ahead<'_>) -> Result<Trials, Rejected> {
    let mut copy = cluster.clone();
    let jobs = submit(&mut copy, drafts, ahead.now)?;
    let (half, most) = together(|| look(copy.clone(), ahead, true), || look(copy.clone(), ahead, false));
    Ok(trials(jobs, half, &most))
}

fn submit(cluster: &mut Cluster, drafts: Vec<JobDraft>, now: Time) -> Result<Vec<JobId>, Rejected> {
    if drafts.is_empty() {
        return Ok(Vec::new());
    }
    let Reply::Submitted { first, count } = decide(cluster, Input::Submit(drafts), now)? else { return Ok(Vec::new()) };
    Ok((first.0..).take(count as usize).map(JobId).collect())
}

fn trials(jobs: Vec<JobId>, half: Looked<'_>, most: &Looked<'_>) -> Trials {
    let answer = |job: JobId| {
        let start = half.start(job).or(most.start(job));
        let nodes = start.iter().flat_map(|start| &start.nodes);
        Trial {
            estimate: both(job, &half, most),
            nodes: nodes.map(|node| half.cluster.node(*node).name.clone()).collect(),
            never: half.cluster.first_blocker(job).filter(|_| start.is_none()),
        }
    };
    let list = jobs.into_iter().map(answer).collect();
    Trials { list, is_cut: half.is_cut || most.is_cut, after: half.cluster }
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
    /// It was told to stop before the horizon was reached: what starts later counts as not started.
    pub is_cut: bool,
    /// SHA-256 over all of this but itself: names this forecast in an audit.
    pub digest: String,
}

impl WhatIf {
    /// Both, under the digest of all of it.
    pub fn new(before: BTreeMap<String, Outlook>, after: BTreeMap<String, Outlook>, is_cut: bool) -> Self {
        let mut both = Self { before, after, is_cut, digest: String::new() };
        let json = serde_json::to_vec(&both).expect("a forecast is plain data");
        both.digest = hex::encode(Sha256::digest(json));
        both
    }
}

/// Runs `cluster` forward as it is and with `change`, at once. The trials are those of the change's jobs.
///
/// # Errors
/// A part of the change that the core refuses.
pub fn what_if(cluster: &Cluster, change: Change, ahead: &Ahead<'_>) -> Result<(WhatIf, Trials), Rejected> {
    let mut changed = cluster.clone();
    let jobs = apply(&mut changed, change, ahead.now)?;
    let waits = (waiting(cluster), waiting(&changed));
    let limits = (!jobs.is_empty()).then(|| changed.clone());
    let ((before, after), most) = together(
        || together(|| look(cluster.clone(), ahead, true), || look(changed, ahead, true)),
        || limits.map(|changed| look(changed, ahead, false)),
    );
    let is_cut = before.is_cut || after.is_cut;
    let (before, _) = outlooks(before, &waits.0);
    let (gets, after) = outlooks(after, &waits.1);
    let trials = match most {
        Some(most) => trials(jobs, after, &most),
        None => Trials { list: Vec::new(), is_cut, after: after.cluster },
    };
    Ok((WhatIf::new(before, gets, is_cut), trials))
}

/// Two looks at once, on two threads.
fn together<A: Send, B: Send>(one: impl FnOnce() -> A + Send, other: impl FnOnce() -> B) -> (A, B) {
    std::thread::scope(|scope| {
        let one = scope.spawn(one);
        let other = other();
        (one.join().expect("a look does not panic"), other)
    })
}

fn decide(cluster: &mut Cluster, input: Input, now: Time) -> Result<Reply, Rejected> {
    dure_core::decide(cluster, input, None, now, &mut Vec::new())
}

/// The ids of the further jobs.
fn apply(cluster: &mut Cluster, change: Change, now: Time) -> Result<Vec<JobId>, Rejected> {
    let tenants = change.tenants.into_iter().map(Input::SetTenant);
    let nodes_in = change.nodes_in.into_iter().map(Input::NodeHello);
    let nodes_out = change.nodes_out.into_iter().map(|node| Input::Drain { node, evict: true });
    for input in nodes_in.chain(nodes_out).chain(tenants) {
        decide(cluster, input, now)?;
    }
    submit(cluster, change.jobs, now)
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

/// What each mission gets, and the look without its courses.
fn outlooks<'l>(mut seen: Looked<'l>, waiting: &BTreeMap<TenantIndex, u64>) -> (BTreeMap<String, Outlook>, Looked<'l>) {
    let mut courses = seen.take_courses();
    let missions = seen.cluster.missions();
    let outlook = |mission: &dure_core::tenant::Tenant| {
        let mut course = courses.remove(&mission.index).unwrap_or_default();
        let of = Outlook {
            quota: mission.quota().rounded_up(),
            waiting: waiting.get(&mission.index).copied().unwrap_or(0),
            started: course.waits.len() as u64,
            wait_s: spread(&mut course.waits),
            evictions: course.evictions,
            lost_gpu_hours: hours(course.lost),
        };
        (mission.name.to_string(), of)
    };
    let of = missions.map(outlook).collect();
    (of, seen)
}

#[cfg(test)]
mod tests;
