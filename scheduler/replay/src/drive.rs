//! The discrete-event driver: a trace against the unchanged core, in virtual time.
//!
//! Comes in: nodes, jobs in the order of their times, the division, faults, and what of the rules is switched off. Goes out:
//! who ran where and when. At each instant first timers fire and what ends ends, then nodes break and come back, then what
//! is due is submitted, then the core cycles until it has nothing more to place.

mod draft;
mod error;
mod notes;
mod options;

use dure_core::Cluster;
use dure_core::ids::JobId;
use dure_core::input::Input;
use dure_core::job::Usage;
use dure_core::rejected::Rejected;
use dure_core::units::{Span, Time};

use crate::breakage::Breakage;
use crate::division::{self, Division};
use crate::forward::Forward;
use crate::learned::Kind;
use crate::shape::gang;
use crate::trace::{Mission, Row, TraceJob, TraceNode};
use draft::{Largest, NOBODY, SOMEONE, draft, hello, or};
use notes::Notes;
use options::policy;

#[cfg(test)]
pub(crate) use draft::draft_of;
pub use draft::{limit_of, tenant_names};
pub use error::DriveError;
pub use options::{DriveOptions, RunTimes, Without};

/// Instants in a row in which only timers fire and nothing runs: then nothing ever will.
const MAX_IDLE_INSTANTS: u32 = 10_000;

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
        let notes = Notes::new(jobs, options.run_times, nodes.len());
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
