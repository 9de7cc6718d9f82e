//! The discrete-event driver: a trace against the unchanged core, in virtual time.
//!
//! Comes in: nodes, jobs in the order of their times, the division, faults, and what of the rules is switched off. Goes out:
//! who ran where and when. At each instant first timers fire and what ends ends, then nodes break and come back, then what
//! is due is submitted, then the core cycles until it has nothing more to place.

use std::collections::BTreeSet;

use dure_core::event::Event;
use dure_core::gpu::{GpuSet, MAX_GPUS_PER_NODE};
use dure_core::ids::{BlobId, JobId};
use dure_core::input::{Input, JobDraft, NodeDraft};
use dure_core::job::{Job, Outcome, Usage};
use dure_core::node::{Capacity, Location};
use dure_core::rejected::Rejected;
use dure_core::units::{Span, Time};
use dure_core::{Cluster, Policy};

use crate::breakage::Breakage;
use crate::division::{self, Division};
use crate::faults::Fault;
use crate::forward::{Forward, Story};
use crate::learned::{Kind, Learned};
use crate::limits;
use crate::shape::{ShapeError, gang};
use crate::trace::{Mission, Moment, Row, TraceJob, TraceNode};

/// The tenant of jobs whose file names none.
const NOBODY: &str = "unnamed";
/// The user of jobs whose file names none.
const SOMEONE: &str = "someone";
/// The GPU model of nodes whose file names none.
const ANY_MODEL: &str = "gpu";
/// Ended jobs in memory: nobody asks for them here.
const MAX_ENDED: u32 = 256;
/// Longer than any job runs: 1,000 years.
const NO_LIMIT: Span = Span::seconds(1000 * 365 * 86_400);
/// Instants in a row in which only timers fire and nothing runs: then nothing ever will.
const MAX_IDLE_INSTANTS: u32 = 10_000;

/// How long jobs are taken to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RunTimes {
    /// As they ran.
    #[default]
    Exact,
    /// To their limits.
    Limit,
    /// As those like them ran that ended before; to their limits where too few are known.
    Learned,
}

/// Rules that are switched off, to see what each is worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Without {
    /// Nobody has more than its quota.
    pub borrowing: bool,
    /// What is lent is never taken back before it ends, and no class of priority evicts a lower one.
    pub reclaim: bool,
    /// Nothing is remembered of what was tried in vain.
    pub classes: bool,
    /// The core does not know where nodes stand.
    pub topology: bool,
}

/// How a trace is replayed.
#[derive(Clone, Debug, Default)]
pub struct DriveOptions {
    /// How long jobs are taken to run.
    pub run_times: RunTimes,
    /// Rules that are switched off.
    pub without: Without,
    /// Nodes and GPUs that break, by time; nodes by their places in the node file.
    pub faults: Vec<Fault>,
}

/// A replay that cannot go on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DriveError {
    /// A job that is no gang.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// No node has what a job names.
    #[error("job {job}: no node has a GPU of the models {models:?}: leave the job out, or add nodes")]
    NoNode {
        /// Which job.
        job: String,
        /// The models that it names; none: any.
        models: Vec<String>,
    },
    /// A node that is larger than nodes may be.
    #[error("node {node} has {gpus} GPUs: at most {MAX_GPUS_PER_NODE} are possible; divide it")]
    NodeTooLarge {
        /// Which node.
        node: String,
        /// Its GPUs.
        gpus: u32,
    },
    /// The core refused a node or a tenant of the trace.
    #[error("{what} is refused: {why:?}")]
    Refused {
        /// Which node or tenant.
        what: String,
        /// Why.
        why: Rejected,
    },
    /// Nothing runs and nothing comes, and yet jobs wait.
    #[error("{jobs} jobs wait for ever, among them {first}: {why}")]
    Stuck {
        /// How many.
        jobs: usize,
        /// One of them.
        first: String,
        /// What keeps it.
        why: String,
    },
}

/// What the driver notes of the core's events.
#[derive(Debug)]
struct Notes<'t> {
    jobs: &'t [TraceJob],
    run_times: RunTimes,
    learned: Learned,
    /// The trace's job of each of the core's, whose ids rise by one from 1.
    places: Vec<u32>,
    /// How long each job of the trace is taken to run; known once it has started.
    durations: Vec<Span>,
    ended: usize,
    rows: Vec<Row>,
    /// The trace's node of each of the core's.
    nodes: Vec<u32>,
}

impl Notes<'_> {
    fn place(&self, job: JobId) -> usize {
        self.places[job.0 as usize - 1] as usize
    }

    fn note(&mut self, time: Time, job: JobId, attempt: u32, moment: Moment) {
        let job = self.place(job);
        self.rows.push(Row { time, job, attempt, moment });
    }

    fn kind<'a>(job: &'a TraceJob) -> Kind<'a> {
        Kind { tenant: &job.tenant, user: &job.user, name: &job.name, gpus: job.gpus }
    }
}

impl Story for Notes<'_> {
    fn run_time(&mut self, _cluster: &Cluster, job: &Job, _elapsed: Span) -> Span {
        let place = self.place(job.id);
        // What a job is taken to run is settled when it first starts: it does the same work in each attempt.
        if job.attempts <= 1 {
            let row = &self.jobs[place];
            let limit = job.spec.time_limit;
            self.durations[place] = match self.run_times {
                RunTimes::Exact => row.duration.min(limit),
                RunTimes::Limit => limit,
                RunTimes::Learned => {
                    self.learned.run_time(Self::kind(row), Span::ZERO).map_or(limit, |run| run.min(limit))
                }
            };
        }
        self.durations[place]
    }

    fn saw(&mut self, _cluster: &Cluster, now: Time, event: &Event) {
        match event {
            Event::JobPlaced { job, attempt, members, .. } => {
                let members = members.iter().map(|placed| (self.nodes[placed.node.at()], placed.gpus)).collect();
                self.note(now, *job, attempt.0, Moment::Start(members));
            }
            Event::AttemptEnded { job, attempt, outcome } => {
                let moment = match outcome {
                    Outcome::Completed | Outcome::Failed | Outcome::Cancelled | Outcome::TimedOut => Moment::End,
                    Outcome::Evicted | Outcome::Drained => Moment::Preempt,
                    Outcome::NodeLost | Outcome::GpuFault | Outcome::LaunchFailed | Outcome::DependencyFailed => {
                        Moment::Fail
                    }
                };
                if moment == Moment::End && self.run_times == RunTimes::Learned {
                    // What is learned is how long it really ran.
                    let row = &self.jobs[self.place(*job)];
                    self.learned.add(Self::kind(row), row.duration);
                }
                self.note(now, *job, attempt.0, moment);
            }
            Event::JobEnded { .. } => self.ended += 1,
            // The rest moves no GPU.
            _ => {}
        }
    }
}

/// What a replay has come to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replayed {
    /// What happened, in its order.
    pub rows: Vec<Row>,
    /// How long each job of the trace was taken to run; zero where it never started.
    pub durations: Vec<Span>,
    /// Places of the jobs that the core refused to take, each with the reason.
    pub refused: Vec<(usize, Rejected)>,
    /// What each tenant had, by the core's own account; empty where no core was asked.
    pub usage: Vec<(String, Usage)>,
    /// Instants in which something happened.
    pub turns: u64,
    /// The digest of the core's last state; 0 where no core was asked.
    pub state_digest: u64,
}

/// A replay under way.
#[derive(Debug)]
pub struct Drive<'t> {
    forward: Forward<Notes<'t>>,
    /// The drafts of equal jobs differ in little: what nodes can hold is looked up once.
    largest: Largest,
    jobs: &'t [TraceJob],
    missions: Vec<Mission>,
    /// The next job to submit.
    next: usize,
    refused: Vec<(usize, Rejected)>,
    breakage: Breakage,
    idle_instants: u32,
    now: Time,
    turns: u64,
}

impl<'t> Drive<'t> {
    /// A cluster of `nodes`, divided by `division`, before the first of `jobs`, which come in the order of their times.
    ///
    /// # Errors
    /// What of the trace cannot be replayed.
    ///
    /// # Panics
    /// When the jobs are out of order.
    pub fn new(nodes: &[TraceNode], jobs: &'t [TraceJob], division: &Division) -> Result<Self, DriveError> {
        let names = tenant_names(jobs);
        let missions = division::missions(division, &names, nodes, nodes);
        Self::with(nodes, jobs, missions, DriveOptions::default())
    }

    /// As `new`, with the missions as they are and everything that can be chosen.
    ///
    /// # Errors
    /// As `new`.
    ///
    /// # Panics
    /// When the jobs are out of order.
    pub fn with(
        nodes: &[TraceNode],
        jobs: &'t [TraceJob],
        missions: Vec<Mission>,
        options: DriveOptions,
    ) -> Result<Self, DriveError> {
        assert!(jobs.is_sorted_by_key(|job| job.submit), "jobs come in the order of their times");
        let largest = Largest::of(nodes);
        for job in jobs {
            gang(job, largest.of_job(job)?)?;
        }
        let notes = Notes {
            jobs,
            run_times: options.run_times,
            learned: Learned::default(),
            places: Vec::with_capacity(jobs.len()),
            durations: vec![Span::ZERO; jobs.len()],
            ended: 0,
            rows: Vec::with_capacity(jobs.len() * 2),
            nodes: Vec::with_capacity(nodes.len()),
        };
        let forward = Forward::new(Cluster::new(policy(options.without)), Time(0), notes);
        let breakage = Breakage::new(options.faults, nodes.len());
        let (next, refused, idle_instants, turns, now) = (0, Vec::new(), 0, 0, Time(0));
        let mut drive = Self { forward, largest, jobs, missions, next, refused, breakage, idle_instants, now, turns };
        drive.install(nodes, options.without)?;
        Ok(drive)
    }

    /// The nodes and the tenants.
    fn install(&mut self, nodes: &[TraceNode], without: Without) -> Result<(), DriveError> {
        let refused = |what: String| move |why| DriveError::Refused { what, why };
        for (place, node) in nodes.iter().enumerate().filter(|(_, node)| node.gpus > 0) {
            let draft = hello(node, !without.topology)?;
            self.breakage.joins(place, draft.clone());
            let hello = self.forward.input(Input::NodeHello(draft), Time(0));
            hello.map_err(refused(format!("node {}", node.name)))?;
            self.forward.story_mut().nodes.push(place as u32);
        }
        for tenant in division::drafts(&self.missions, self.forward.cluster(), !without.borrowing) {
            let name = tenant.name.clone();
            self.forward.input(Input::SetTenant(tenant), Time(0)).map_err(refused(format!("tenant {name}")))?;
        }
        Ok(())
    }

    /// The state of the core.
    pub fn cluster(&self) -> &Cluster {
        self.forward.cluster()
    }

    /// What the tenants have.
    pub fn missions(&self) -> &[Mission] {
        &self.missions
    }

    /// What happened so far.
    pub fn rows(&self) -> &[Row] {
        &self.forward.story().rows
    }

    /// The last instant.
    pub fn now(&self) -> Time {
        self.now
    }

    /// The place in the trace of a job of the core.
    pub fn place(&self, job: JobId) -> usize {
        self.forward.story().place(job)
    }

    /// What the job at `place` is told apart by, as the core knows it, and how long it runs.
    pub fn kind(&self, place: usize) -> (Kind<'_>, Span) {
        let job = &self.jobs[place];
        let (tenant, user) = (or(&job.tenant, NOBODY), or(&job.user, SOMEONE));
        (Kind { tenant, user, name: &job.name, gpus: job.gpus }, job.duration)
    }

    /// Instants so far.
    pub fn turns(&self) -> u64 {
        self.turns
    }

    /// Jobs that have ended so far, or were refused.
    pub fn done(&self) -> usize {
        self.forward.story().ended + self.refused.len()
    }

    /// Goes on until every job has ended.
    ///
    /// # Errors
    /// As `turn`.
    pub fn run(mut self) -> Result<Replayed, DriveError> {
        while self.turn()? {}
        Ok(self.finish())
    }

    /// What the replay has come to.
    pub fn finish(self) -> Replayed {
        let Self { forward, refused, turns, .. } = self;
        let (notes, cluster) = forward.into_parts();
        let missions = cluster.tenants().iter().filter(|tenant| tenant.depth == 1);
        let usage = missions.map(|tenant| (tenant.name.to_string(), tenant.total)).collect();
        let state_digest = cluster.digest();
        Replayed { rows: notes.rows, durations: notes.durations, refused, usage, turns, state_digest }
    }

    /// The next instant; false: every job has ended.
    ///
    /// # Errors
    /// Jobs that wait for ever.
    pub fn turn(&mut self) -> Result<bool, DriveError> {
        if self.done() == self.jobs.len() {
            return Ok(false);
        }
        let due = self.jobs.get(self.next).map(|job| job.submit);
        let (end, fault) = (self.forward.next_end(), self.breakage.next());
        let timer = self.forward.cluster().next_timer();
        let now = due.into_iter().chain(end).chain(fault).chain(timer).min().ok_or_else(|| self.stuck())?;
        self.idle_instants = if due.is_none() && end.is_none() { self.idle_instants + 1 } else { 0 };
        if self.idle_instants > MAX_IDLE_INSTANTS {
            return Err(self.stuck());
        }
        self.turns += 1;
        self.now = now;
        self.forward.pass(now);
        if fault.is_some_and(|time| time <= now) {
            self.breakage.pass(&mut self.forward, now);
        }
        self.submit_due(now);
        self.forward.cycle(now);
        Ok(true)
    }

    fn submit_due(&mut self, now: Time) {
        while let Some(job) = self.jobs.get(self.next)
            && job.submit <= now
        {
            let place = self.next;
            self.next += 1;
            let priority = if job.priority.is_empty() {
                let mission = self.missions.iter().find(|mission| mission.tenant == or(&job.tenant, NOBODY));
                mission.map_or("", |mission| mission.priority.as_str())
            } else {
                &job.priority
            };
            let draft = draft(job, priority, &self.largest);
            // The id is the next one; it must be known to the story before its events are.
            self.forward.story_mut().places.push(place as u32);
            if let Err(why) = self.forward.input(Input::Submit(vec![draft]), now) {
                self.forward.story_mut().places.pop();
                self.refused.push((place, why));
            }
        }
    }

    fn stuck(&self) -> DriveError {
        let waiting = || self.cluster().jobs().iter().filter(|job| job.phase == dure_core::job::Phase::Waiting);
        let first = waiting().next();
        DriveError::Stuck {
            jobs: waiting().count(),
            first: first.map(|job| self.jobs[self.forward.story().place(job.id)].id.clone()).unwrap_or_default(),
            why: first
                .and_then(|job| self.cluster().first_blocker(job.id))
                .map(|why| format!("{why:?}"))
                .unwrap_or_default(),
        }
    }
}

/// The tenants that the jobs name.
pub fn tenant_names(jobs: &[TraceJob]) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    let mut last = "";
    for job in jobs {
        let name = or(&job.tenant, NOBODY);
        if name != last {
            names.insert(name);
            last = name;
        }
    }
    names
}

/// The rules for virtual time: nothing is refused for want of memory, and a trace's jobs are tried for ever.
fn policy(without: Without) -> Policy {
    let standard = Policy::standard();
    Policy {
        max_time_limit: NO_LIMIT,
        default_time_limit: NO_LIMIT,
        keep_ended: NO_LIMIT,
        max_ended: MAX_ENDED,
        max_attempts: u32::MAX,
        plan_interval: Span::ZERO,
        plan_reasons: None,
        max_promises: if without.reclaim { 0 } else { standard.max_promises },
        remember_refusals: !without.classes,
        ..standard
    }
}

/// The largest node of each model, and of all.
#[derive(Clone, Debug)]
struct Largest {
    models: Vec<(String, u32)>,
    any: u32,
}

impl Largest {
    fn of(nodes: &[TraceNode]) -> Self {
        let mut models: Vec<(String, u32)> = Vec::new();
        for node in nodes.iter().filter(|node| node.gpus > 0) {
            match models.iter_mut().find(|(model, _)| *model == node.model) {
                Some((_, gpus)) => *gpus = (*gpus).max(node.gpus),
                None => models.push((node.model.clone(), node.gpus)),
            }
        }
        let any = models.iter().map(|(_, gpus)| *gpus).max().unwrap_or(0);
        Self { models, any }
    }

    fn knows(&self, model: &str) -> bool {
        self.models.iter().any(|(known, _)| known == model)
    }

    /// GPUs of the largest node that a job may use.
    fn of_job(&self, job: &TraceJob) -> Result<u32, DriveError> {
        let of_models = || self.models.iter().filter(|(model, _)| job.models.contains(model)).map(|(_, gpus)| *gpus);
        let largest = if job.models.is_empty() { self.any } else { of_models().max().unwrap_or(0) };
        match largest {
            0 => Err(DriveError::NoNode { job: job.id.clone(), models: job.models.clone() }),
            gpus => Ok(gpus),
        }
    }
}

/// The time limit of a job: its own, or one by the rule of `limits`.
pub fn limit_of(job: &TraceJob) -> Span {
    job.limit.unwrap_or_else(|| limits::derived(job.duration))
}

/// A job as it is submitted.
fn draft(job: &TraceJob, priority: &str, largest: &Largest) -> JobDraft {
    let per_node = largest.of_job(job).expect("it was looked at before the first instant");
    let gang = gang(job, per_node).expect("it was looked at before the first instant");
    let known = |model: &&String| largest.knows(model);
    JobDraft {
        part: dure_core::input::PartDraft::Whole,
        tenant: or(&job.tenant, NOBODY).into(),
        user: or(&job.user, SOMEONE).into(),
        name: job.name.as_str().into(),
        shape: gang.shape,
        gpu_models: job.models.iter().filter(known).map(|model| or(model, ANY_MODEL).into()).collect(),
        cpu: gang.cpu,
        memory: gang.memory,
        required: None,
        preferred: None,
        distinct_nodes: gang.distinct_nodes,
        only: Default::default(),
        priority: priority.into(),
        preemptible: true,
        time_limit: limit_of(job),
        grace: Some(Span::ZERO),
        array: None,
        after: Vec::new(),
        held: false,
        not_before: None,
        max_retries: 0,
        payload: BlobId::default(),
    }
}

/// A job as it is submitted where every node has `per_node` GPUs of one model; for tests.
#[cfg(test)]
pub(crate) fn draft_of(job: &TraceJob, per_node: u32) -> JobDraft {
    draft(job, "", &Largest { models: Vec::new(), any: per_node })
}

fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

/// A node as its agent would describe it.
fn hello(node: &TraceNode, topology: bool) -> Result<NodeDraft, DriveError> {
    if node.gpus as usize > MAX_GPUS_PER_NODE {
        return Err(DriveError::NodeTooLarge { node: node.name.clone(), gpus: node.gpus });
    }
    let gpus = GpuSet::first(node.gpus as usize);
    Ok(NodeDraft {
        name: node.name.as_str().into(),
        model: or(&node.model, ANY_MODEL).into(),
        location: if topology { node.location.clone() } else { Location::default() },
        capacity: Capacity {
            gpus,
            islands: gpus.iter().map(|_| gpus).collect(),
            cpu: node.cpu,
            memory: node.memory,
            labels: Default::default(),
        },
        bad: GpuSet::EMPTY,
        boot_id: "0".into(),
    })
}
