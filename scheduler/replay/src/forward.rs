//! Virtual time around the unchanged core: what is placed runs for as long as the story says, and is gone then.
//!
//! Comes in: a cluster as it is at some moment, inputs with their times, a story that knows run times. Goes out: every event,
//! to the story. Members are prepared and started at once; what is being stopped goes at once. It must never read a clock,
//! and never decide anything that the core decides.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use dure_core::cycle::cycle;
use dure_core::event::Event;
use dure_core::ids::{AttemptNumber, JobId, MemberIndex, NodeIndex};
use dure_core::input::{Input, MemberReport};
use dure_core::job::{Exit, ExitHow, Job, MemberPhase, Phase};
use dure_core::rejected::Rejected;
use dure_core::reply::Reply;
use dure_core::units::{Span, Time};
use dure_core::{Cluster, decide};
use smallvec::SmallVec;

/// The signal by which what is stopped ends.
const TERM: i32 = 15;

/// What virtual time is told by whoever runs it, and tells back.
pub trait Story {
    /// How long the current attempt of `job` runs altogether, of which `elapsed` is over: at least that.
    fn run_time(&mut self, cluster: &Cluster, job: &Job, elapsed: Span) -> Span;

    /// `event` has just become part of the state.
    fn saw(&mut self, cluster: &Cluster, now: Time, event: &Event);
}

/// An attempt's end on the way, and whether its limit is what ends it.
type End = Reverse<(Time, JobId, AttemptNumber, bool)>;

/// A cluster in virtual time.
#[derive(Debug)]
pub struct Forward<S> {
    cluster: Cluster,
    story: S,
    ends: BinaryHeap<End>,
    events: Vec<Event>,
    batch: Vec<Event>,
}

impl<S: Story> Forward<S> {
    /// Goes on from `cluster` as it is at `now`: what runs there runs on, what is being stopped is gone at once.
    pub fn new(cluster: Cluster, now: Time, story: S) -> Self {
        let mut forward = Self { cluster, story, ends: BinaryHeap::new(), events: Vec::new(), batch: Vec::new() };
        let active: Vec<(JobId, AttemptNumber, Phase, Option<Time>)> = forward
            .cluster
            .jobs()
            .iter()
            .filter_map(|job| {
                let attempt = job.live_attempt()?;
                Some((job.id, attempt.number, job.phase, attempt.started_at))
            })
            .collect();
        for (job, attempt, phase, started) in active {
            match phase {
                Phase::Launching => forward.start(job, attempt, now),
                Phase::Running => forward.end_later(job, attempt, started.unwrap_or(now), now),
                Phase::Stopping(_) => forward.ends.push(Reverse((now, job, attempt, false))),
                // Nobody can say when it is proven dead.
                Phase::AwaitingProof(_) => {}
                Phase::Waiting | Phase::Spread | Phase::Ended(_) => {}
            }
        }
        forward.follow(now);
        forward
    }

    /// The state.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// What the story has come to.
    pub fn story(&self) -> &S {
        &self.story
    }

    /// The same, to be changed.
    pub fn story_mut(&mut self) -> &mut S {
        &mut self.story
    }

    /// The story and the last state.
    pub fn into_parts(self) -> (S, Cluster) {
        (self.story, self.cluster)
    }

    /// When the next attempt ends, if one runs.
    pub fn next_end(&self) -> Option<Time> {
        self.ends.peek().map(|Reverse((time, ..))| *time)
    }

    /// When something happens though nothing comes in.
    pub fn next_time(&self) -> Option<Time> {
        self.next_end().into_iter().chain(self.cluster.next_timer()).min()
    }

    /// Lets time pass until `now`: timers fire, and what has run its time is gone.
    pub fn pass(&mut self, now: Time) {
        if self.cluster.next_timer().is_some_and(|due| due <= now) || self.has_too_many_ended() {
            decide(&mut self.cluster, Input::Tick, None, now, &mut self.events).expect("a tick is never refused");
            self.follow(now);
        }
        while let Some(Reverse((time, job, attempt, timed_out))) = self.ends.peek().copied()
            && time <= now
        {
            self.ends.pop();
            self.report(job, attempt, &MemberReport::Gone(Exit { timed_out, ..Exit::of(ExitHow::Code(0)) }), now);
        }
        self.follow(now);
    }

    /// Has `input` decided at `now`.
    ///
    /// # Errors
    /// As `decide`.
    pub fn input(&mut self, input: Input, now: Time) -> Result<Reply, Rejected> {
        let decided = decide(&mut self.cluster, input, None, now, &mut self.events);
        self.follow(now);
        decided
    }

    /// The attempt of a job is lost to a fault: all its members are gone, and how is not known.
    pub fn lose(&mut self, job: JobId, why: &str, now: Time) {
        let Some(attempt) = self.cluster.job(job).and_then(Job::live_attempt).map(|attempt| attempt.number) else {
            return;
        };
        let exit = Exit::of(ExitHow::Unknown(why.into()));
        self.report(job, attempt, &MemberReport::Gone(exit), now);
        self.follow(now);
    }

    /// Lets the core place what it can.
    pub fn cycle(&mut self, now: Time) {
        while {
            let cycled = cycle(&mut self.cluster, now, &mut self.events);
            self.follow(now);
            cycled.more
        } {}
    }

    /// Ended jobs that nobody asks for cost memory: they are forgotten in portions.
    fn has_too_many_ended(&self) -> bool {
        let limit = self.cluster.policy().max_ended as usize;
        self.cluster.ended() > limit + limit / 2
    }

    /// Reads what the core did, until nothing follows from it.
    fn follow(&mut self, now: Time) {
        while !self.events.is_empty() {
            let mut batch = std::mem::take(&mut self.batch);
            std::mem::swap(&mut batch, &mut self.events);
            for event in &batch {
                self.story.saw(&self.cluster, now, event);
                match event {
                    Event::JobPlaced { job, attempt, .. } => self.start(*job, *attempt, now),
                    // What is evicted goes at once, and does all its work again.
                    Event::AttemptStopping { job, attempt, .. } => {
                        let exit = Exit::of(ExitHow::Signal(TERM));
                        self.report(*job, *attempt, &MemberReport::Gone(exit), now);
                    }
                    // Nothing of the world outside follows from any other event.
                    _ => {}
                }
            }
            batch.clear();
            self.batch = batch;
        }
    }

    fn start(&mut self, job: JobId, attempt: AttemptNumber, now: Time) {
        self.report(job, attempt, &MemberReport::Prepared, now);
        self.report(job, attempt, &MemberReport::Started, now);
        self.end_later(job, attempt, now, now);
    }

    /// An attempt that has run since `started` goes on from `now`.
    fn end_later(&mut self, id: JobId, attempt: AttemptNumber, started: Time, now: Time) {
        let Some(job) = self.cluster.job(id) else { return };
        let span = self.story.run_time(&self.cluster, job, now.since(started));
        // The agent ends it at its limit.
        let limit = job.live_attempt().map_or(job.spec.time_limit, |attempt| job.limit_of(attempt));
        let end = started + span.min(limit);
        self.ends.push(Reverse((end.max(now), id, attempt, span > limit)));
    }

    /// All members of an attempt say the same; those that are gone say nothing.
    fn report(&mut self, job: JobId, attempt: AttemptNumber, report: &MemberReport, now: Time) {
        let current = self.cluster.job(job).and_then(Job::live_attempt).filter(|current| current.number == attempt);
        let Some(current) = current else { return };
        let members = current.members.iter().enumerate().filter(|(_, member)| member.phase != MemberPhase::Gone);
        let members: SmallVec<[(MemberIndex, NodeIndex); 4]> =
            members.map(|(rank, member)| (MemberIndex::of(rank), member.placed.node)).collect();
        for (member, node) in members {
            let input = Input::MemberReported { node, job, attempt, member, report: report.clone() };
            decide(&mut self.cluster, input, None, now, &mut self.events).expect("a report is never refused");
        }
    }
}
