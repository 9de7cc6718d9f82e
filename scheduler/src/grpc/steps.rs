//! Steps: what srun, `dure exec` and `dure shell` run beside the members of a job.
//!
//! In: the start and the end of each program. Out: the steps of a job, each with its programs, in the order of their starts.
//! A step is a call and lives no longer than the scheduler through which it goes: therefore none is in the journal, and a new
//! leader begins with none. What has ended is remembered up to a limit, the oldest is forgotten first.
//! It must never hold up a program.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dure_proto::v1;
use dure_proto::v1::StepPhase;

use crate::clock::Clock;

/// Steps that are remembered of one job, those that run not counted.
const MAX_ENDED: usize = 256;
/// Jobs of which steps are remembered; those with the lowest ids are forgotten first, unless a step of theirs runs.
const MAX_JOBS: usize = 4_096;
/// Characters of a name.
const MAX_NAME: usize = 64;

/// The steps of all jobs. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Steps {
    jobs: Arc<Mutex<BTreeMap<u64, OfJob>>>,
}

#[derive(Debug, Default)]
struct OfJob {
    steps: Vec<v1::Step>,
    left_out: u64,
}

/// A program that is about to be a step, or a part of one.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    job: u64,
    step: v1::Step,
}

impl Asked {
    /// What `start` asks for on `node`, in the name of `user`.
    pub(super) fn new(start: &v1::ExecStart, attempt: u32, node: &str, user: String) -> Self {
        let program = start.args.first().map_or("shell", |program| program.rsplit('/').next().unwrap_or(program));
        let name = start.step.as_ref().map(|step| step.name.as_str()).filter(|name| !name.is_empty());
        let runs = StepPhase::Running.into();
        let own = v1::StepProgram { member: start.member, node: node.to_owned(), phase: runs, ..Default::default() };
        let step = v1::Step {
            number: start.step.as_ref().map(|step| step.number),
            attempt,
            name: name.unwrap_or(program).chars().take(MAX_NAME).collect(),
            user,
            phase: runs,
            programs: vec![own],
            ..Default::default()
        };
        Self { job: start.job_id, step }
    }
}

/// The place of one program; dropping it says that the call is over.
#[derive(Debug)]
pub(super) struct Ticket {
    steps: Steps,
    clock: Clock,
    job: u64,
    /// Of its step, while it runs: the moment of its start and its number tell it from all others of the job.
    key: Key,
    member: u32,
    is_over: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Key {
    attempt: u32,
    number: Option<u32>,
    started_ms: u64,
}

impl Key {
    fn of(step: &v1::Step) -> Self {
        Self { attempt: step.attempt, number: step.number, started_ms: step.started_ms }
    }
}

impl Steps {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, OfJob>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A program has started.
    pub(super) fn begin(&self, asked: Asked, clock: Clock) -> Ticket {
        let Asked { job, mut step } = asked;
        let mut jobs = self.lock();
        let of_job = jobs.entry(job).or_default();
        let member = step.programs[0].member;
        step.started_ms = clock.now().0;
        let is_part_of = |known: &&mut v1::Step| {
            let is_same = known.number.is_some() && (known.attempt, known.number) == (step.attempt, step.number);
            is_same && known.programs.iter().all(|program| program.member != member)
        };
        let key = match of_job.steps.iter_mut().find(is_part_of) {
            // Another member of a step; the first may have ended by now.
            Some(known) => {
                known.programs.append(&mut step.programs);
                (known.ended_ms, known.exit_code) = (0, None);
                known.set_phase(StepPhase::Running);
                Key::of(known)
            }
            None => {
                // Two programs of one moment are told apart by it.
                while of_job.steps.iter().any(|known| Key::of(known) == Key::of(&step)) {
                    step.started_ms += 1;
                }
                let key = Key::of(&step);
                of_job.steps.push(step);
                key
            }
        };
        of_job.forget(MAX_ENDED);
        while jobs.len() > MAX_JOBS
            && let Some(oldest) = jobs.iter().find(|(_, of)| of.is_over()).map(|(job, _)| *job)
        {
            jobs.remove(&oldest);
        }
        drop(jobs);
        Ticket { steps: self.clone(), clock, job, key, member, is_over: false }
    }

    /// The steps of a job, the first first.
    pub(super) fn of(&self, job: u64) -> v1::StepsResponse {
        let jobs = self.lock();
        let of_job = jobs.get(&job);
        let steps = of_job.map(|of| of.steps.clone()).unwrap_or_default();
        v1::StepsResponse { steps, left_out: of_job.map_or(0, |of| of.left_out) }
    }
}

impl OfJob {
    fn is_over(&self) -> bool {
        self.steps.iter().all(|step| step.ended_ms > 0)
    }

    /// Keeps at most so many that have ended.
    fn forget(&mut self, most: usize) {
        let ended = self.steps.iter().filter(|step| step.ended_ms > 0).count();
        let mut surplus = ended.saturating_sub(most);
        self.left_out += surplus as u64;
        self.steps.retain(|step| {
            let goes = step.ended_ms > 0 && surplus > 0;
            surplus -= usize::from(goes);
            !goes
        });
    }
}

impl Ticket {
    /// The program has said its last word.
    pub(super) fn ended(&mut self, end: &v1::ExecEnd) {
        let phase = if end.code == 0 && end.error.is_empty() { StepPhase::Completed } else { StepPhase::Failed };
        self.note(phase, Some(end.code), &end.error);
    }

    fn note(&mut self, phase: StepPhase, code: Option<i32>, error: &str) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        let mut jobs = self.steps.lock();
        let Some(of_job) = jobs.get_mut(&self.job) else { return };
        let Some(step) = of_job.steps.iter_mut().find(|step| Key::of(step) == self.key) else { return };
        if let Some(own) = step.programs.iter_mut().find(|program| program.member == self.member) {
            (own.exit_code, own.error) = (code, error.to_owned());
            own.set_phase(phase);
        }
        if step.programs.iter().all(|program| program.phase() != StepPhase::Running) {
            let phases = || step.programs.iter().map(v1::StepProgram::phase);
            let worst = phases().max_by_key(|phase| i32::from(*phase)).unwrap_or(phase);
            step.exit_code = step.programs.iter().filter_map(|program| program.exit_code).max();
            step.ended_ms = self.clock.now().0.max(1);
            step.set_phase(worst);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.note(StepPhase::CutOff, None, "");
    }
}

#[cfg(test)]
mod tests {
    use dure_core::units::Time;

    use super::*;

    fn asked(member: u32, number: Option<u32>) -> Asked {
        let step = number.map(|number| v1::StepOf { attempt: 1, member: 0, number, name: String::new(), own: false });
        let args = vec!["/usr/bin/python3".to_owned()];
        let start = v1::ExecStart { job_id: 7, member, args, step, ..Default::default() };
        Asked::new(&start, 1, &format!("n{member}"), "kim".to_owned())
    }

    fn end(code: i32) -> v1::ExecEnd {
        v1::ExecEnd { code, error: String::new() }
    }

    #[test]
    fn a_step_is_over_when_its_last_program_is_and_has_the_highest_code() {
        let (steps, clock) = (Steps::default(), Clock::start(Time(0)));
        let [mut first, mut second] = [0, 1].map(|member| steps.begin(asked(member, Some(0)), clock));
        first.ended(&end(0));
        let known = steps.of(7).steps;
        assert_eq!((known.len(), known[0].phase(), known[0].exit_code), (1, StepPhase::Running, None));
        assert_eq!((known[0].name.as_str(), known[0].user.as_str()), ("python3", "kim"));
        second.ended(&end(5));
        drop((first, second));
        let known = steps.of(7).steps;
        assert_eq!((known[0].phase(), known[0].exit_code), (StepPhase::Failed, Some(5)));
        let programs: Vec<_> = known[0].programs.iter().map(|own| (own.member, own.exit_code)).collect();
        assert_eq!(programs, [(0, Some(0)), (1, Some(5))]);
        assert!(known[0].ended_ms >= known[0].started_ms);
    }

    #[test]
    fn who_hangs_up_cuts_off_and_two_programs_of_a_moment_stay_apart() {
        let (steps, clock) = (Steps::default(), Clock::start(Time(0)));
        let (cut, mut whole) = (steps.begin(asked(0, None), clock), steps.begin(asked(0, None), clock));
        drop(cut);
        whole.ended(&end(0));
        let phases: Vec<_> = steps.of(7).steps.iter().map(v1::Step::phase).collect();
        assert_eq!(phases, [StepPhase::CutOff, StepPhase::Completed]);
        assert_eq!(steps.of(8), v1::StepsResponse::default());
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_runs_is_never_forgotten() {
        let (steps, clock) = (Steps::default(), Clock::start(Time(0)));
        let _runs = steps.begin(asked(0, Some(0)), clock);
        for number in 1..=2 * MAX_ENDED as u32 {
            steps.begin(asked(0, Some(number)), clock).ended(&end(0));
        }
        let known = steps.of(7);
        assert_eq!(known.steps[0].number, Some(0));
        assert!(known.steps.len() <= MAX_ENDED + 2, "{}", known.steps.len());
        assert_eq!(known.left_out as usize + known.steps.len(), 2 * MAX_ENDED + 1);
    }
}
