//! Why a job waits: every gate before it and every refusal of it, with the numbers.

use crate::admit::quota;
use crate::blocked::{Blocked, Gate};
use crate::cluster::Cluster;
use crate::ids::JobId;
use crate::job::Phase;

/// What keeps a job from running.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blocker {
    /// It is not even tried.
    Gate(Gate),
    /// It was tried, or would be refused now.
    Blocked(Blocked),
    /// Nothing but its turn: it has not been tried since something changed.
    NotTried,
}

/// The answer to "why does it wait".
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// Where the job is.
    pub phase: Phase,
    /// All that keeps it; empty when it does not wait.
    pub blockers: Vec<Blocker>,
    /// Jobs of its tenant that are looked at before it, if all users were alike; absent when it is not in the queue.
    pub before: Option<usize>,
    /// Jobs in the queue of its tenant.
    pub queued: usize,
}

impl Cluster {
    /// Why `job` waits; none when it is not in memory.
    pub fn explain(&self, job: JobId) -> Option<Explanation> {
        let job = self.job(job)?;
        let queue = &self.tenant(job.spec.tenant).queue;
        Some(Explanation {
            phase: job.phase,
            blockers: if job.phase == Phase::Waiting { self.blockers(job.id) } else { Vec::new() },
            before: job.queued.map(|queued| queue.before(job.spec.priority, queued)),
            queued: queue.len,
        })
    }

    /// The first of `explain`'s blockers; cheap enough for a listing.
    pub fn first_blocker(&self, job: JobId) -> Option<Blocker> {
        self.blockers(job).into_iter().next()
    }

    fn blockers(&self, id: JobId) -> Vec<Blocker> {
        let Some(job) = self.job(id) else { return Vec::new() };
        let mut found: Vec<Blocker> = Vec::new();
        if job.phase != Phase::Waiting {
            return found;
        }
        if job.held {
            found.push(Blocker::Gate(Gate::Held));
        }
        if job.open_dependencies > 0 {
            found.push(Blocker::Gate(Gate::Dependencies { open: job.open_dependencies }));
        }
        if let Some(time) = job.not_before {
            found.push(Blocker::Gate(Gate::NotBefore { time }));
        }
        if job.is_capped() {
            let cap = job.spec.array.map_or(0, |array| array.cap);
            found.push(Blocker::Gate(Gate::ArrayCap { cap }));
        }
        if let Some(promise) = self.promise(id) {
            let (pool, want, due) = (promise.pool, promise.gpus(), promise.due);
            let free = self.promised_free(promise);
            found.push(Blocker::Blocked(Blocked::ReclaimPending { pool, want, free, due }));
            return found;
        }
        found.extend(job.queued.and_then(|queued| self.plans.why(queued.class, job.spec.tenant)).map(Blocker::Blocked));
        let last = job.queued.and_then(|queued| self.refused.why(id, queued.class, job.spec.tenant));
        for pool in &job.spec.request.pools {
            let now = quota::may_start(self, job.spec.tenant, *pool, job.gpus(), job.spec.preemptible);
            found.extend(now.err().map(Blocker::Blocked));
        }
        let is_of_placement = |why: &Blocked| {
            matches!(
                why,
                Blocked::NotEnoughGpus { .. }
                    | Blocked::NotEnoughSlots { .. }
                    | Blocked::NoDomain { .. }
                    | Blocked::NotEnoughCpuOrMemory { .. }
                    | Blocked::SearchLimit { .. }
            )
        };
        found.extend(last.filter(is_of_placement).map(Blocker::Blocked));
        if found.is_empty() {
            found.push(Blocker::NotTried);
        }
        found
    }
}
