//! A model of the agents: what really runs on each node, whatever the scheduler believes.
//!
//! In: what the scheduler wants of a member, and a choice. Out: the agent's report. Processes live on while their agent is
//! cut off, and die with their node. The truth that is checked: every process that lives is one that the scheduler still
//! counts as holding its GPUs, so that it can neither give them to another nor start the job a second time.

use std::collections::BTreeMap;

use dure_core::Cluster;
use dure_core::ids::{AttemptNumber, JobId, MemberIndex, NodeIndex};
use dure_core::input::{Input, MemberReport};
use dure_core::job::{Exit, ExitHow, MemberPhase, Phase};
use dure_core::node::Resident;

type Id = (JobId, AttemptNumber, MemberIndex);

/// A process on a node.
#[derive(Clone, PartialEq, Debug)]
enum Process {
    Prepared,
    Running,
    /// It ended; its agent has not been able to say so.
    Exited(Exit),
}

/// The agent of one node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Agent {
    pub(crate) connected: bool,
    pub(crate) boot: u32,
    processes: BTreeMap<Id, Process>,
}

fn code(code: i32) -> Exit {
    Exit::of(ExitHow::Code(code))
}

fn never_ran() -> Exit {
    Exit::of(ExitHow::LaunchFailed("it was never started".into()))
}

impl Agent {
    /// Everything on the node is gone, and so is what its agent had to say.
    pub(crate) fn die(&mut self) {
        self.processes.clear();
    }

    /// Does something about the member at `pick` among those that the scheduler has here; `choice` below 200 obeys.
    pub(crate) fn act(&mut self, cluster: &Cluster, node: NodeIndex, pick: usize, choice: u8) -> Option<Input> {
        let residents = &cluster.node(node).residents;
        let Resident { job, member } = *residents.get(pick.checked_rem(residents.len())?)?;
        let entry = cluster.job(job)?;
        let attempt = entry.live_attempt()?;
        let phase = attempt.members[member.at()].phase;
        if phase == MemberPhase::Gone {
            return None;
        }
        let wanted = matches!(entry.phase, Phase::Launching | Phase::Running);
        let id = (job, attempt.number, member);
        let report = if self.connected {
            self.answer(id, phase, wanted, attempt.released, choice)?
        } else {
            return self.go_on_alone(id, choice);
        };
        Some(Input::MemberReported { node, job, attempt: attempt.number, member, report })
    }

    fn answer(&mut self, id: Id, phase: MemberPhase, wanted: bool, released: bool, choice: u8) -> Option<MemberReport> {
        let (state, report) = match (self.processes.get(&id).cloned(), wanted) {
            (Some(Process::Exited(exit)), _) => (None, MemberReport::Gone(exit)),
            (Some(Process::Running), false) => {
                let exit = if choice < 230 { Exit::of(ExitHow::Signal(15)) } else { code(0) };
                (None, MemberReport::Gone(exit))
            }
            (Some(Process::Prepared), false) => (None, MemberReport::Gone(never_ran())),
            (None, true) if phase == MemberPhase::Ordered => match choice {
                0..230 => (Some(Process::Prepared), MemberReport::Prepared),
                _ => (None, MemberReport::Gone(never_ran())),
            },
            (None, _) => {
                let how = ExitHow::Unknown("this agent has never heard of it".into());
                (None, MemberReport::Gone(Exit::of(how)))
            }
            (Some(Process::Prepared), true) if !released => match choice {
                0..240 => (Some(Process::Prepared), MemberReport::Prepared),
                _ => (None, MemberReport::Gone(never_ran())),
            },
            (Some(Process::Prepared), true) => match choice {
                0..200 => (Some(Process::Running), MemberReport::Started),
                200..230 => (None, MemberReport::Gone(code(0))),
                _ => (None, MemberReport::Gone(never_ran())),
            },
            (Some(Process::Running), true) => match choice {
                0..100 if phase < MemberPhase::Running => (Some(Process::Running), MemberReport::Started),
                0..200 => (None, MemberReport::Gone(code(0))),
                200..220 => (None, MemberReport::Gone(code(1))),
                220..235 => (None, MemberReport::Gone(Exit { timed_out: true, ..Exit::of(ExitHow::Signal(15)) })),
                235..245 => (Some(Process::Running), MemberReport::Started),
                _ => (Some(Process::Running), MemberReport::Checkpointed { step: choice.into() }),
            },
        };
        match state {
            Some(state) => self.processes.insert(id, state),
            None => self.processes.remove(&id),
        };
        Some(report)
    }

    /// Cut off, an agent starts what it was told to start, and keeps what it cannot say.
    fn go_on_alone(&mut self, id: Id, choice: u8) -> Option<Input> {
        if let Some(process) = self.processes.get_mut(&id)
            && *process == Process::Running
            && choice < 128
        {
            *process = Process::Exited(code(i32::from(choice % 2)));
        }
        None
    }

    /// Every process that lives holds what the scheduler says that it holds.
    pub(crate) fn check(&self, cluster: &Cluster, node: NodeIndex) {
        for ((job, attempt, member), process) in &self.processes {
            if matches!(process, Process::Exited(_)) {
                continue;
            }
            let resident = Resident { job: *job, member: *member };
            let holds = cluster.node(node).residents.contains(&resident);
            let current = cluster.job(*job).and_then(|job| job.live_attempt()).map(|attempt| attempt.number);
            assert!(
                holds && current == Some(*attempt),
                "{process:?} of job {job} attempt {attempt} lives on node {node}; the scheduler is at {current:?}"
            );
        }
    }
}
