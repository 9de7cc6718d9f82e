//! The discrete-event driver: virtual time around the unchanged core.
//!
//! Comes in: nodes, jobs in the order of their times, the division. Goes out: who ran where and when. At each instant first
//! what ends ends, then what is due is submitted, then the core cycles until it has nothing more to place; members are
//! prepared and started at once, and are gone after the job's duration. It must never read a clock, and never decide
//! anything that the core decides.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use dure_core::cycle::cycle;
use dure_core::event::Event;
use dure_core::gpu::{GpuSet, MAX_GPUS_PER_NODE};
use dure_core::ids::{AttemptNumber, BlobId, JobId, MemberIndex, NodeIndex};
use dure_core::input::{Input, JobDraft, MemberReport, NodeDraft, QuotaDraft, TenantDraft};
use dure_core::job::{Exit, ExitHow, Outcome};
use dure_core::node::{Capacity, Location};
use dure_core::rejected::Rejected;
use dure_core::units::{Gpus, Span, Time};
use dure_core::{Cluster, Policy, decide};

use crate::shape::{ShapeError, gang};
use crate::trace::{Mission, Moment, Row, TraceJob, TraceNode};

/// The tenant of jobs whose file names none.
const NOBODY: &str = "unnamed";
/// The user of jobs whose file names none.
const SOMEONE: &str = "someone";
/// The GPU model of nodes whose file names none.
const ANY_MODEL: &str = "gpu";
/// How long the core remembers ended jobs: nobody asks for them here.
const KEEP_ENDED: Span = Span::seconds(1);
/// Longer than any job runs: 1,000 years.
const NO_LIMIT: Span = Span::seconds(1000 * 365 * 86_400);

/// Who has which part of the GPUs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Division {
    /// Every tenant that the jobs name the same.
    Equal,
    /// As a missions file says; tenants that it does not name have nothing guaranteed.
    Missions(Vec<Mission>),
    /// Each tenant the GPUs of the nodes whose pool has its name.
    Pools,
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
    /// The core refused a part of the trace.
    #[error("{what} is refused: {why:?}")]
    Refused {
        /// Which node, tenant or job.
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

/// A replay under way.
#[derive(Debug)]
pub struct Drive<'t> {
    cluster: Cluster,
    jobs: &'t [TraceJob],
    drafts: Vec<Option<JobDraft>>,
    /// The next job to submit.
    next: usize,
    /// What runs, by its end.
    running: BinaryHeap<Reverse<(Time, JobId, AttemptNumber)>>,
    /// The trace's job of each of the core's.
    places: BTreeMap<JobId, usize>,
    ended: usize,
    rows: Vec<Row>,
    /// The trace's node of each of the core's.
    nodes: Vec<usize>,
    events: Vec<Event>,
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
        assert!(jobs.is_sorted_by_key(|job| job.submit), "jobs come in the order of their times");
        let policy = Policy {
            max_time_limit: NO_LIMIT,
            default_time_limit: NO_LIMIT,
            keep_ended: KEEP_ENDED,
            plan_interval: Span::ZERO,
            ..Policy::standard()
        };
        let drafts = jobs.iter().map(|job| draft(job, nodes).map(Some)).collect::<Result<_, _>>()?;
        let mut drive = Self {
            cluster: Cluster::new(policy),
            jobs,
            drafts,
            next: 0,
            running: BinaryHeap::new(),
            places: BTreeMap::new(),
            ended: 0,
            rows: Vec::new(),
            nodes: Vec::new(),
            events: Vec::new(),
            turns: 0,
        };
        for (place, node) in nodes.iter().enumerate().filter(|(_, node)| node.gpus > 0) {
            drive.decide(|| format!("node {}", node.name), hello(node)?, Time(0))?;
            drive.nodes.push(place);
        }
        for tenant in tenants(nodes, jobs, division, &drive.cluster) {
            drive.decide(|| format!("tenant {}", tenant.name), Input::SetTenant(tenant.clone()), Time(0))?;
        }
        Ok(drive)
    }

    /// The state of the core.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// What happened so far.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Instants so far.
    pub fn turns(&self) -> u64 {
        self.turns
    }

    /// Goes on until every job has ended.
    ///
    /// # Errors
    /// As `turn`.
    pub fn run(mut self) -> Result<Vec<Row>, DriveError> {
        while self.turn()? {}
        Ok(self.rows)
    }

    /// The next instant; false: every job has ended.
    ///
    /// # Errors
    /// A job that the core refuses, or jobs that wait for ever.
    pub fn turn(&mut self) -> Result<bool, DriveError> {
        if self.ended == self.jobs.len() {
            return Ok(false);
        }
        let due = self.jobs.get(self.next).map(|job| job.submit);
        let end = self.running.peek().map(|Reverse((time, ..))| *time);
        // A timer alone moves nothing but what was lost or refused; it is handled when something else happens.
        let now = due.into_iter().chain(end).min().or_else(|| self.cluster.next_timer()).ok_or_else(|| self.stuck())?;
        self.turns += 1;
        if self.cluster.next_timer().is_some_and(|time| time <= now) {
            self.decide(|| "the time".into(), Input::Tick, now)?;
        }
        self.end_due(now)?;
        self.submit_due(now)?;
        while {
            let cycled = cycle(&mut self.cluster, now, &mut self.events);
            self.follow(now)?;
            cycled.more
        } {}
        Ok(true)
    }

    /// What has run its time is gone.
    fn end_due(&mut self, now: Time) -> Result<(), DriveError> {
        while let Some(Reverse((time, job, attempt))) = self.running.peek().copied()
            && time <= now
        {
            self.running.pop();
            let exit = Exit { how: ExitHow::Code(0), timed_out: false };
            self.report(job, attempt, &MemberReport::Gone(exit), now)?;
        }
        Ok(())
    }

    fn submit_due(&mut self, now: Time) -> Result<(), DriveError> {
        while let Some(job) = self.jobs.get(self.next)
            && job.submit <= now
        {
            let draft = self.drafts[self.next].take().expect("each job is submitted once");
            let place = self.next;
            self.next += 1;
            let mut events = std::mem::take(&mut self.events);
            let answer = decide(&mut self.cluster, Input::Submit(vec![draft]), None, now, &mut events);
            self.places.extend(events.iter().filter_map(|event| match event {
                Event::JobSubmitted { job, .. } => Some((*job, place)),
                _ => None,
            }));
            events.clear();
            self.events = events;
            answer.map_err(|why| DriveError::Refused { what: format!("job {}", job.id), why })?;
        }
        Ok(())
    }

    /// Reads what the core did: notes rows, and starts what was placed.
    fn follow(&mut self, now: Time) -> Result<(), DriveError> {
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            match event {
                Event::JobPlaced { job, attempt, members, .. } => {
                    let members = members.iter().map(|placed| (self.nodes[placed.node.at()], placed.gpus)).collect();
                    self.note(now, job, attempt, Moment::Start(members));
                    let duration = self.jobs[self.places[&job]].duration;
                    self.running.push(Reverse((now + duration, job, attempt)));
                    self.report(job, attempt, &MemberReport::Prepared, now)?;
                    self.report(job, attempt, &MemberReport::Started, now)?;
                }
                // What is evicted goes at once, and does all its work again.
                Event::AttemptStopping { job, attempt, .. } => {
                    let exit = Exit { how: ExitHow::Signal(15), timed_out: false };
                    self.report(job, attempt, &MemberReport::Gone(exit), now)?;
                }
                Event::AttemptEnded { job, attempt, outcome } => {
                    let moment = match outcome {
                        Outcome::Completed | Outcome::Failed | Outcome::Cancelled | Outcome::TimedOut => Moment::End,
                        Outcome::Evicted | Outcome::Drained => Moment::Preempt,
                        Outcome::NodeLost | Outcome::LaunchFailed | Outcome::DependencyFailed => Moment::Fail,
                    };
                    self.note(now, job, attempt, moment);
                }
                Event::JobEnded { job, .. } => {
                    self.places.remove(&job);
                    self.ended += 1;
                }
                _ => {}
            }
        }
        // The reports above may have led to events of their own, none of which matters here: they only start members.
        self.events = events;
        Ok(())
    }

    fn note(&mut self, time: Time, job: JobId, attempt: AttemptNumber, moment: Moment) {
        self.rows.push(Row { time, job: self.places[&job], attempt: attempt.0, moment });
    }

    /// All members of an attempt say the same.
    fn report(
        &mut self,
        job: JobId,
        attempt: AttemptNumber,
        report: &MemberReport,
        now: Time,
    ) -> Result<(), DriveError> {
        let Some(current) = self.cluster.job(job).and_then(|job| job.live_attempt()).filter(|a| a.number == attempt)
        else {
            return Ok(());
        };
        let nodes: Vec<NodeIndex> = current.members.iter().map(|member| member.placed.node).collect();
        for (rank, node) in nodes.into_iter().enumerate() {
            let (member, report) = (MemberIndex::of(rank), report.clone());
            self.decide(|| format!("{job}"), Input::MemberReported { node, job, attempt, member, report }, now)?;
        }
        Ok(())
    }

    /// Lets the core decide, and follows what it did.
    fn decide(&mut self, what: impl FnOnce() -> String, input: Input, now: Time) -> Result<(), DriveError> {
        let mut events = Vec::new();
        decide(&mut self.cluster, input, None, now, &mut events)
            .map_err(|why| DriveError::Refused { what: what(), why })?;
        let outer = std::mem::replace(&mut self.events, events);
        let followed = self.follow(now);
        self.events = outer;
        followed
    }

    fn stuck(&self) -> DriveError {
        let waiting = self.places.iter().filter(|(_, place)| **place < self.next);
        let first = waiting.clone().next();
        DriveError::Stuck {
            jobs: waiting.count(),
            first: first.map(|(_, place)| self.jobs[*place].id.clone()).unwrap_or_default(),
            why: first
                .and_then(|(job, _)| self.cluster.first_blocker(*job))
                .map(|why| format!("{why:?}"))
                .unwrap_or_default(),
        }
    }
}

/// A job as it is submitted.
fn draft(job: &TraceJob, nodes: &[TraceNode]) -> Result<JobDraft, DriveError> {
    let will_do = |node: &&TraceNode| job.models.is_empty() || job.models.contains(&node.model);
    let per_node = nodes.iter().filter(will_do).map(|node| node.gpus).max().filter(|gpus| *gpus > 0);
    let per_node = per_node.ok_or_else(|| DriveError::NoNode { job: job.id.clone(), models: job.models.clone() })?;
    let gang = gang(job, per_node)?;
    let known = |model: &&String| nodes.iter().any(|node| node.model == **model && node.gpus > 0);
    Ok(JobDraft {
        tenant: or(&job.tenant, NOBODY).into(),
        user: or(&job.user, SOMEONE).into(),
        name: "".into(),
        shape: gang.shape,
        gpu_models: job.models.iter().filter(known).map(|model| or(model, ANY_MODEL).into()).collect(),
        cpu: gang.cpu,
        memory: gang.memory,
        required: None,
        preferred: None,
        distinct_nodes: gang.distinct_nodes,
        priority: "".into(),
        preemptible: true,
        time_limit: NO_LIMIT,
        grace: None,
        array: None,
        after: Vec::new(),
        held: false,
        not_before: None,
        max_retries: 0,
        payload: BlobId::default(),
    })
}

fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

fn hello(node: &TraceNode) -> Result<Input, DriveError> {
    if node.gpus as usize > MAX_GPUS_PER_NODE {
        return Err(DriveError::NodeTooLarge { node: node.name.clone(), gpus: node.gpus });
    }
    let gpus = GpuSet::first(node.gpus as usize);
    Ok(Input::NodeHello(NodeDraft {
        name: node.name.as_str().into(),
        model: or(&node.model, ANY_MODEL).into(),
        location: Location::default(),
        capacity: Capacity { gpus, islands: gpus.iter().map(|_| gpus).collect(), cpu: node.cpu, memory: node.memory },
        bad: GpuSet::EMPTY,
        boot_id: "".into(),
    }))
}

/// The tenants, each with its part of every pool in proportion to the pool's size.
fn tenants(nodes: &[TraceNode], jobs: &[TraceJob], division: &Division, cluster: &Cluster) -> Vec<TenantDraft> {
    let names: BTreeSet<&str> = jobs.iter().map(|job| or(&job.tenant, NOBODY)).collect();
    let installed = cluster.pools().iter().map(|pool| u64::from(pool.installed.rounded_up()));
    let all: u64 = installed.clone().sum();
    let of = |name: &str| -> (u64, Option<u64>) {
        match division {
            Division::Equal => (all / names.len() as u64, None),
            Division::Pools => {
                (nodes.iter().filter(|node| node.pool == name).map(|node| u64::from(node.gpus)).sum(), None)
            }
            Division::Missions(missions) => match missions.iter().find(|mission| mission.tenant == name) {
                Some(mission) => {
                    (mission.quota.rounded_up().into(), mission.limit.map(|limit| limit.rounded_up().into()))
                }
                None => (0, None),
            },
        }
    };
    let draft = |name: &&str| {
        let (quota, limit) = of(name);
        let part = |gpus: u64, pool: u64| Gpus::whole((gpus * pool).checked_div(all).unwrap_or(0) as u32);
        let in_pool = |(at, pool): (usize, u64)| QuotaDraft {
            pool: cluster.pools()[at].name.clone(),
            quota: part(quota, pool),
            limit: limit.map(|limit| part(limit, pool)),
            lend_limit: None,
        };
        TenantDraft {
            name: (*name).into(),
            create: true,
            quotas: installed.clone().enumerate().map(in_pool).collect(),
            ..TenantDraft::default()
        }
    };
    names.iter().map(draft).collect()
}
