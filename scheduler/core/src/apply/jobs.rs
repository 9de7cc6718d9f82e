//! Jobs: from submit to the end, but for what happens in an attempt.

use crate::cluster::{Answer, Cluster};
use crate::ids::{JobId, NodeIndex};
use crate::job::{ArrayProgress, Job, JobSpec, MAX_AVOIDED_NODES, Outcome, Phase, Usage};
use crate::reply::Reply;
use crate::timers::Timer;
use crate::units::Time;
use smallvec::SmallVec;

impl Cluster {
    pub(super) fn add_job(&mut self, mut job: Job, now: Time) {
        let id = job.id;
        assert_eq!(id, self.next_job, "job ids are given in order");
        self.next_job = JobId(id.0 + 1);
        if let Some(time) = job.not_before {
            self.timers.insert(time, Timer::NotBefore(id));
        }
        for dependency in &job.spec.after {
            if self.is_open(dependency.job, id) {
                self.dependents.add_edge(dependency.job, id, dependency.kind);
                job.open_dependencies += 1;
            }
        }
        let ledger = self.tenants[job.spec.tenant.at()].users.entry(job.spec.user).or_default();
        ledger.jobs += 1;
        ledger.submitted += 1;
        self.waiting += 1;
        self.expect_more_of(&job, now);
        self.jobs.insert(job);
        self.enqueue_if_eligible(id);
    }

    /// What was asked for is expected again; what an array starts is counted with the array.
    pub(super) fn expect_more_of(&mut self, job: &Job, now: Time) {
        if job.index_of.is_none() {
            let count = job.spec.array.map_or(1, |array| array.size);
            let members = job.spec.request.shape.members().saturating_mul(count);
            self.index.expect(&job.spec.request, members, self.learning_step(now));
        }
    }

    pub(super) fn start_index(&mut self, array: JobId, index: u32, id: JobId, now: Time) {
        self.drop_reservation(array);
        assert_eq!(id, self.next_job, "job ids are given in order");
        self.next_job = JobId(id.0 + 1);
        let parent = self.job_mut(array);
        let mut spec = parent.spec.clone();
        let size = spec.array.take().expect("only an array has indices").size;
        spec.after = Box::default();
        let mut child = new_job(id, &spec, parent.submitted_at.max(now));
        child.submitted_at = parent.submitted_at;
        child.index_of = Some((array, index));
        let progress = parent.progress.as_deref_mut().expect("an array has its progress");
        progress.next = index + 1;
        progress.live.insert(id);
        let is_last = progress.next >= size;
        if parent.is_capped() {
            self.dequeue(array);
        }
        if is_last {
            self.job_mut(array).phase = Phase::Spread;
            self.waiting -= 1;
        }
        self.waiting += 1;
        self.tenants[spec.tenant.at()].users.entry(spec.user).or_default().submitted += 1;
        self.jobs.insert(child);
    }

    pub(super) fn stop_array(&mut self, array: JobId) {
        self.dequeue(array);
        let job = self.job_mut(array);
        job.progress.as_deref_mut().expect("an array has its progress").cancelled = true;
        if job.phase == Phase::Waiting {
            job.phase = Phase::Spread;
            self.waiting -= 1;
        }
    }

    pub(super) fn requeue(
        &mut self,
        id: JobId,
        front: bool,
        not_before: Option<Time>,
        avoid: Option<NodeIndex>,
        own_fault: bool,
    ) {
        let job = self.job_mut(id);
        job.phase = Phase::Waiting;
        job.front = front;
        job.not_before = not_before;
        job.failures += u32::from(own_fault);
        if let Some(node) = avoid
            && !job.avoid.contains(&node)
        {
            if job.avoid.len() == MAX_AVOIDED_NODES {
                job.avoid.remove(0);
            }
            job.avoid.push(node);
        }
        if let Some(time) = not_before {
            self.timers.insert(time, Timer::NotBefore(id));
        }
        self.waiting += 1;
        self.enqueue_if_eligible(id);
    }

    pub(super) fn end_job(&mut self, id: JobId, outcome: Outcome, now: Time) {
        self.dequeue(id);
        let keep = self.policy.keep_ended;
        let job = self.job_mut(id);
        let was_waiting = job.phase == Phase::Waiting;
        job.phase = Phase::Ended(outcome);
        job.ended_at = Some(now);
        let (index_of, tenant, user) = (job.index_of, job.spec.tenant, job.spec.user);
        if let Some(time) = job.not_before.take() {
            self.timers.remove(time, Timer::NotBefore(id));
        }
        self.waiting -= u32::from(was_waiting);
        self.tenants[tenant.at()].users.entry(user).or_default().submitted -= 1;
        self.ended.push_back(id);
        self.timers.insert(now + keep, Timer::Forget(id));
        self.release_dependents(id, outcome);
        if let Some((array, _)) = index_of {
            let parent = self.job_mut(array);
            let progress = parent.progress.as_deref_mut().expect("an array has its progress");
            progress.live.remove(&id);
            *if outcome == Outcome::Completed { &mut progress.completed } else { &mut progress.failed } += 1;
            self.enqueue_if_eligible(array);
        }
    }

    pub(super) fn release_dependents(&mut self, id: JobId, outcome: Outcome) {
        let edges: Vec<_> = self.dependents.edges(id).map(|(_, waits, kind)| (waits, *kind)).collect();
        self.dependents.remove_node(id);
        for (waits, kind) in edges {
            if kind.satisfied_by(outcome)
                && let Some(job) = self.jobs.get_mut(waits)
            {
                job.open_dependencies -= 1;
                self.enqueue_if_eligible(waits);
            }
        }
    }

    pub(super) fn forget_job(&mut self, id: JobId) {
        let job = self.jobs.remove(id).expect("an event names a job that exists");
        let ended_at = job.ended_at.expect("only ended jobs are forgotten");
        self.timers.remove(ended_at + self.policy.keep_ended, Timer::Forget(id));
        if self.ended.front() == Some(&id) {
            self.ended.pop_front();
        } else {
            self.ended.retain(|ended| *ended != id);
        }
    }

    pub(super) fn remember(&mut self, user: &str, id: &str, digest: u64, reply: Reply) {
        let key: (Box<str>, Box<str>) = (user.into(), id.into());
        self.requests.insert(key.clone(), Answer { digest, reply });
        self.request_order.push_back(key);
        while self.request_order.len() > self.policy.max_requests as usize {
            let oldest = self.request_order.pop_front().expect("it is not empty");
            self.requests.remove(&oldest);
        }
    }

    /// Whether `on`, for which the new job `id` waits, has not ended. One that is unknown was forgotten when it is older,
    /// and comes later in the same call when it is younger.
    fn is_open(&self, on: JobId, id: JobId) -> bool {
        self.jobs.get(on).map_or(on > id, |on| !matches!(on.phase, Phase::Ended(_)))
    }
}

pub(super) fn new_job(id: JobId, spec: &JobSpec, now: Time) -> Job {
    Job {
        id,
        progress: spec.array.map(|_| Box::new(ArrayProgress::default())),
        spec: spec.clone(),
        phase: Phase::Waiting,
        submitted_at: now,
        ended_at: None,
        held: false,
        not_before: None,
        open_dependencies: 0,
        front: false,
        queued: None,
        attempts: 0,
        failures: 0,
        displaced: 0,
        attempt: None,
        avoid: SmallVec::new(),
        index_of: None,
        usage: Usage::default(),
        checkpoint: None,
    }
}
