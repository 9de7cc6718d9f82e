//! What the driver notes of the core's events, and how long it says that jobs run.

use dure_core::Cluster;
use dure_core::event::Event;
use dure_core::ids::JobId;
use dure_core::job::{Job, Outcome};
use dure_core::units::{Span, Time};

use super::RunTimes;
use crate::forward::Story;
use crate::learned::{Kind, Learned};
use crate::trace::{Moment, Row, TraceJob};

/// What the driver notes of the core's events.
#[derive(Debug)]
pub(super) struct Notes<'t> {
    jobs: &'t [TraceJob],
    run_times: RunTimes,
    learned: Learned,
    /// The trace's job of each of the core's, whose ids rise by one from 1.
    pub(super) places: Vec<u32>,
    /// How long each job of the trace is taken to run; known once it has started.
    pub(super) durations: Vec<Span>,
    pub(super) ended: usize,
    pub(super) rows: Vec<Row>,
    /// The trace's node of each of the core's.
    pub(super) nodes: Vec<u32>,
}

impl<'t> Notes<'t> {
    pub(super) fn new(jobs: &'t [TraceJob], run_times: RunTimes, nodes: usize) -> Self {
        Self {
            jobs,
            run_times,
            learned: Learned::default(),
            places: Vec::with_capacity(jobs.len()),
            durations: vec![Span::ZERO; jobs.len()],
            ended: 0,
            rows: Vec::with_capacity(jobs.len() * 2),
            nodes: Vec::with_capacity(nodes),
        }
    }

    pub(super) fn place(&self, job: JobId) -> usize {
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
                    Outcome::Evicted | Outcome::Drained | Outcome::Resized | Outcome::Idle => Moment::Preempt,
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
