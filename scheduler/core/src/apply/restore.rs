//! What only snapshots hold: the state as it was.

use smallvec::SmallVec;

use crate::cluster::Cluster;
use crate::event::Event;
use crate::gpu::GpuSet;
use crate::ids::MemberIndex;
use crate::job::{Job, Phase};
use crate::node::{Node, Residents};
use crate::parts::Parts;
use crate::tenant::UserLedger;
use crate::timers::Timer;
use crate::units::{CpuMilli, MemoryMib, Time};

impl Cluster {
    pub(super) fn restore(&mut self, now: Time, event: &Event) {
        match event {
            Event::CountersRestored { next_job, next_start, skipped_attempts } => {
                self.skipped_attempts = *skipped_attempts;
                self.next_job = *next_job;
                self.next_start = *next_start;
                self.restore_dependents();
            }
            Event::TenantRestored { tenant, total, excess, budget } => {
                let entry = &mut self.tenants[tenant.at()];
                entry.total = *total;
                entry.excess = *excess;
                if budget.is_some() {
                    self.restore_budget(*tenant, *budget);
                }
            }
            Event::UserRestored { tenant, user, ledger } => {
                let entry = self.tenants[tenant.at()].users.entry(*user).or_default();
                // What is counted from the jobs is there already.
                let (running, submitted) = (entry.running, entry.submitted);
                *entry = UserLedger { running, submitted, ..ledger.clone() };
            }
            Event::NodeRestored { node } => {
                let bare = Node {
                    taken: GpuSet::EMPTY,
                    parts: Parts::laid_out(&node.capacity.layouts),
                    cpu_taken: CpuMilli::ZERO,
                    memory_taken: MemoryMib::ZERO,
                    residents: Residents::new(),
                    promised: crate::node::SetAside::default(),
                    reserved: crate::node::SetAside::default(),
                    booked: crate::node::Booked::default(),
                    ..(**node).clone()
                };
                self.add_node(bare);
            }
            Event::JobRestored { job } => self.restore_job(job, now),
            Event::PromiseRestored { job, promise } => self.hold_promise(*job, (**promise).clone(), now),
            Event::WorkloadRestored { kinds } => self.index.workload.restore(kinds),
            _ => unreachable!("only events of snapshots come here"),
        }
    }

    pub(super) fn restore_job(&mut self, job: &Job, now: Time) {
        let id = job.id;
        if !matches!(job.phase, Phase::Ended(_)) {
            self.tenants[job.spec.tenant.at()].users.entry(job.spec.user).or_default().submitted += 1;
        }
        let mut job = job.clone();
        job.queued = None;
        let keep = self.policy.keep_ended;
        if let Some(time) = job.not_before {
            self.timers.insert(time, Timer::NotBefore(id));
        }
        let mut still_holds: SmallVec<[MemberIndex; 4]> = SmallVec::new();
        let mut is_charged = false;
        match (job.phase, job.attempt.as_deref()) {
            (Phase::Waiting, _) => self.waiting += 1,
            (Phase::Launching | Phase::Running | Phase::Stopping(_), Some(attempt)) => {
                is_charged = true;
                still_holds.extend((0..attempt.members.len()).map(MemberIndex::of));
                match (job.phase, attempt.started_at) {
                    (Phase::Launching, _) => {
                        self.timers.insert(self.launch_due(attempt.placed_at), Timer::Launch(id, attempt.number));
                    }
                    (Phase::Running, Some(started)) => {
                        self.timers.insert(self.limit_of(&job, started), Timer::TimeLimit(id, attempt.number));
                    }
                    (Phase::Stopping(_), _) => {
                        self.leaving.insert(id);
                    }
                    _ => {}
                }
            }
            (Phase::AwaitingProof(_), Some(attempt)) => still_holds.extend(attempt.alive().map(|(member, _)| member)),
            (Phase::Ended(_), _) => {
                let ended_at = job.ended_at.expect("an ended job has its end");
                self.timers.insert(ended_at + keep, Timer::Forget(id));
                self.ended.push_back(id);
            }
            _ => {}
        }
        // Snapshots of older versions do not say what else was asked for.
        self.expect_more_of(&job, now);
        self.jobs.insert(job);
        self.occupy(id, still_holds.iter().copied());
        if is_charged {
            self.restore_charge(id, now);
            self.note_size(id);
        }
        self.enqueue_if_eligible(id);
    }

    /// The counters come after all jobs: now it is known which of those that a job waits for have not ended.
    fn restore_dependents(&mut self) {
        for job in self.jobs.iter().filter(|job| job.phase == Phase::Waiting) {
            for dependency in &job.spec.after {
                let on = self.jobs.get(dependency.job);
                if on.is_some_and(|on| !matches!(on.phase, Phase::Ended(_))) {
                    self.dependents.add_edge(dependency.job, job.id, dependency.kind);
                }
            }
        }
    }
}
