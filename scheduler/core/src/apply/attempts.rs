//! Attempts: from the placement to the end, member by member.

use smallvec::SmallVec;

use crate::cluster::Cluster;
use crate::ids::{AttemptNumber, JobId, MemberIndex, PoolIndex};
use crate::job::{Attempt, Checkpoint, Exit, Job, Member, MemberPhase, Outcome, Phase, StopReason};
use crate::placement::Members;
use crate::timers::Timer;
use crate::units::{Span, Time};

impl Cluster {
    pub(super) fn place_job(
        &mut self,
        id: JobId,
        number: AttemptNumber,
        pool: PoolIndex,
        placed: &Members,
        (scavenger, guest, lowered): (bool, bool, Option<Span>),
        now: Time,
    ) {
        let start_order = match self.take_promise(id, now) {
            Some(promise) => promise.start_order,
            None => {
                self.dequeue(id);
                self.next_start += 1;
                self.next_start - 1
            }
        };
        let deadline = now + self.policy.launch_deadline;
        let blank = self.blank_attempts.take(placed.len());
        let job = self.job_mut(id);
        assert_eq!(job.phase, Phase::Waiting, "only a waiting job is placed");
        job.phase = Phase::Launching;
        job.front = false;
        job.attempts += 1;
        let mut attempt = blank.unwrap_or_else(|| Box::new(Attempt::blank(placed.len())));
        attempt.number = number;
        attempt.pool = pool;
        attempt.members.extend(placed.iter().map(|placed| Member {
            placed: *placed,
            phase: MemberPhase::Ordered,
            exit: None,
        }));
        attempt.scavenger = scavenger;
        attempt.guest = guest;
        attempt.lowered = lowered;
        attempt.placed_at = now;
        attempt.start_order = start_order;
        attempt.released = placed.len() == 1;
        attempt.charged_at = now;
        job.attempt = Some(attempt);
        self.waiting -= 1;
        self.occupy(id, (0..placed.len()).map(MemberIndex::of));
        self.timers.insert(deadline, Timer::Launch(id, number));
        self.begin_charge(id, now);
        self.commit_budget(id);
        if self.whole.keeps(pool) {
            // Which domains who may break into is another question now.
            self.divided(pool);
        }
    }

    pub(super) fn note_started(&mut self, id: JobId, now: Time) {
        let job = self.job_mut(id);
        let attempt = job.attempt.as_deref_mut().expect("a member has its attempt");
        let all = attempt.members.iter().all(|m| m.phase >= MemberPhase::Running);
        if job.phase != Phase::Launching || !all {
            return;
        }
        job.phase = Phase::Running;
        attempt.started_at = Some(now);
        let (number, placed_at) = (attempt.number, attempt.placed_at);
        let limit = self.limit_of(self.jobs.get(id).expect("it was just found"), now);
        self.timers.remove(self.launch_due(placed_at), Timer::Launch(id, number));
        self.timers.insert(limit, Timer::TimeLimit(id, number));
        self.ends_sooner();
        self.note_size(id);
    }

    pub(super) fn end_member(&mut self, id: JobId, member: MemberIndex, exit: Option<&Exit>, now: Time) {
        let placed = self.member_mut(id, member).placed;
        let is_fenced = !self.nodes[placed.node.at()].bad.and(placed.gpus).is_empty();
        let job = self.job_mut(id);
        let phase = job.phase;
        let attempt = job.attempt.as_deref_mut().expect("a member has its attempt");
        let entry = &mut attempt.members[member.at()];
        entry.phase = MemberPhase::Gone;
        entry.exit = exit.cloned();
        let outcome = match exit.map_or(Outcome::NodeLost, Exit::outcome) {
            // Its GPU is at fault, not the job.
            Outcome::Failed if is_fenced => Outcome::GpuFault,
            outcome => outcome,
        };
        // What a batch job's script was given ends because the script has.
        let is_told = phase == Phase::Stopping(StopReason::ScriptEnded);
        if outcome != Outcome::Completed && attempt.broken.is_none() && !is_told {
            attempt.broken = Some(outcome);
            attempt.broken_by = Some(member);
            if outcome == Outcome::LaunchFailed && attempt.suspect.is_none() {
                attempt.suspect = Some(attempt.members[member.at()].placed.node);
            }
        }
        match phase {
            Phase::AwaitingProof(_) => self.vacate(id, std::iter::once(member)),
            Phase::Launching if outcome == Outcome::Completed => self.note_started(id, now),
            _ => {}
        }
    }

    pub(super) fn checkpoint(&mut self, id: JobId, attempt: AttemptNumber, step: u64, now: Time) {
        self.job_mut(id).checkpoint = Some(Checkpoint { attempt, step, at: now });
    }

    pub(super) fn start_member(&mut self, id: JobId, member: MemberIndex, now: Time) {
        self.member_mut(id, member).phase = MemberPhase::Running;
        self.note_started(id, now);
    }

    pub(super) fn stop_attempt(&mut self, id: JobId, reason: StopReason, keeps: u32) {
        // What is being stopped is lent no longer and will be free: both may let others start, or be promised it.
        self.divided(self.pool_of(id));
        self.drop_attempt_timers(id);
        let job = self.job_mut(id);
        if reason == StopReason::LaunchDeadline
            && let Some(attempt) = job.attempt.as_deref_mut()
        {
            // Those that wait at the barrier have done their part.
            let latest = attempt.members.iter().filter(|member| member.phase < MemberPhase::Running);
            attempt.suspect = latest.min_by_key(|member| member.phase).map(|member| member.placed.node);
        }
        if let Some(attempt) = job.attempt.as_deref_mut() {
            attempt.keeps = keeps;
        }
        let broken = job.attempt.as_deref().and_then(|attempt| attempt.broken).unwrap_or(Outcome::Failed);
        job.phase = match job.phase {
            Phase::AwaitingProof(_) => Phase::AwaitingProof(reason.outcome(broken)),
            _ => Phase::Stopping(reason),
        };
        if job.phase == Phase::Stopping(reason) {
            self.leaving.insert(id);
        }
        self.short_gangs.remove(&id);
    }

    pub(super) fn end_attempt(&mut self, id: JobId, outcome: Outcome, now: Time) {
        self.leaving.remove(&id);
        self.short_gangs.remove(&id);
        self.drop_attempt_timers(id);
        self.spend_budget(id, outcome, now);
        self.end_charge(id, now);
        let attempt = self.attempt_of(id);
        attempt.ended_at = Some(now);
        attempt.outcome = Some(outcome);
        let gone: SmallVec<[MemberIndex; 4]> = attempt
            .members
            .iter()
            .enumerate()
            .filter(|(_, member)| member.phase == MemberPhase::Gone)
            .map(|(rank, _)| MemberIndex::of(rank))
            .collect();
        self.vacate(id, gone.into_iter());
        let is_displaced = matches!(outcome, Outcome::Evicted | Outcome::Drained | Outcome::Resized);
        let job = self.job_mut(id);
        job.displaced += u32::from(is_displaced);
        job.phase = Phase::AwaitingProof(outcome);
    }

    pub(super) fn drop_attempt_timers(&mut self, id: JobId) {
        let job = self.jobs.get(id).expect("an event names a job that exists");
        let attempt = job.attempt.as_deref().expect("an attempt has its record");
        let launch = self.launch_due(attempt.placed_at);
        let number = attempt.number;
        let limit = attempt.started_at.map(|started| self.limit_of(job, started));
        self.timers.remove(launch, Timer::Launch(id, number));
        if let Some(limit) = limit {
            self.timers.remove(limit, Timer::TimeLimit(id, number));
        }
    }

    /// By when what was placed at `placed_at` must run: after an absence its time is counted anew.
    pub(crate) fn launch_due(&self, placed_at: Time) -> Time {
        placed_at.max(self.counted_from) + self.policy.launch_deadline
    }

    /// By when what has started at `started` must be over.
    pub(super) fn limit_of(&self, job: &Job, started: Time) -> Time {
        let limit = job.attempt.as_deref().map_or(job.spec.time_limit, |attempt| job.limit_of(attempt));
        started.max(self.counted_from) + limit + job.spec.grace + self.policy.time_limit_slack
    }

    /// All that has a deadline has it anew, counted from `since`. O(attempts).
    pub(super) fn count_anew(&mut self, since: Time) {
        let old: Vec<(Time, Timer)> =
            self.timers.iter().filter(|(_, timer)| timer.job_with_deadline().is_some()).collect();
        self.counted_from = since;
        for (time, timer) in old {
            self.timers.remove(time, timer);
            let job = timer.job_with_deadline().and_then(|id| self.jobs.get(id)).expect("a deadline is a job's");
            let attempt = job.attempt.as_deref().expect("a deadline is an attempt's");
            let due = match attempt.started_at {
                Some(started) => self.limit_of(job, started),
                None => self.launch_due(attempt.placed_at),
            };
            self.timers.insert(due, timer);
        }
    }

    pub(super) fn attempt_of(&mut self, id: JobId) -> &mut Attempt {
        self.job_mut(id).attempt.as_deref_mut().expect("an event names an attempt that exists")
    }

    pub(super) fn member_mut(&mut self, id: JobId, member: MemberIndex) -> &mut Member {
        &mut self.attempt_of(id).members[member.at()]
    }
}
