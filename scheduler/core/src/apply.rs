//! Event -> state. The only code that changes state; it cannot fail and reads nothing but its arguments.
//!
//! Replay of a journal is this function and no other, so that nothing in here may depend on anything that is not in the
//! events: no rule of the policy but half-lives, timers and limits of memory.

use smallvec::SmallVec;

use crate::cluster::{Answer, Cluster, Pool, Timer};
use crate::event::{Event, TenantChange};
use crate::gpu::GpuSet;
use crate::ids::{AttemptNumber, JobId, MemberIndex, NodeIndex, PoolIndex, TenantIndex};
use crate::job::{
    ArrayProgress, Attempt, Exit, Job, JobSpec, MAX_AVOIDED_NODES, Member, MemberPhase, Outcome, Phase, StopReason, Usage,
};
use crate::node::{Node, Resident};
use crate::placement::Members;
use crate::tenant::{Held, Quota, Tenant};
use crate::units::{CpuMilli, Gpus, MemoryMib, Time};

impl Cluster {
    /// Makes `event`, which happened at `now`, part of the state.
    ///
    /// # Panics
    /// When the event contradicts the state: it was not decided on this state, and going on would lose track.
    pub fn apply(&mut self, now: Time, event: &Event) {
        match event {
            Event::PoolDefined { name, model, gpus_per_node, .. } => self.add_pool(name, model, *gpus_per_node),
            Event::TenantDefined { tenant, parent, name } => self.add_tenant(*tenant, *parent, name),
            Event::TenantChanged { tenant, change } => self.change_tenant(*tenant, change, now),
            Event::Paused { tenant, paused } => {
                self.tenants[tenant.at()].paused = *paused;
                self.division_version += 1;
            }
            Event::UserSeen { user, name } => {
                self.users.push(name.clone());
                self.user_names.insert(name.clone(), *user);
            }
            Event::NodeJoined { .. }
            | Event::NodeChanged { .. }
            | Event::NodeContact { .. }
            | Event::NodeRebooted { .. }
            | Event::NodeCordoned { .. }
            | Event::GpusFenced { .. } => self.apply_to_node(now, event),
            Event::JobSubmitted { job, spec, held, not_before } => {
                let mut new = new_job(*job, spec, now);
                new.held = *held;
                new.not_before = *not_before;
                self.add_job(new);
            }
            Event::JobHeld { job } => {
                self.dequeue(*job);
                self.job_mut(*job).held = true;
            }
            Event::JobReleased { job } => {
                self.job_mut(*job).held = false;
                self.enqueue_if_eligible(*job);
            }
            Event::JobEligible { job } => {
                if let Some(time) = self.job_mut(*job).not_before.take() {
                    self.timers.remove(&(time, Timer::NotBefore(*job)));
                }
                self.enqueue_if_eligible(*job);
            }
            Event::ArrayIndexStarted { array, index, job } => self.start_index(*array, *index, *job, now),
            Event::ArrayStopped { array } => self.stop_array(*array),
            Event::JobPlaced { job, attempt, pool, members } => self.place_job(*job, *attempt, *pool, members, now),
            Event::MemberPrepared { job, member, .. } => self.member_mut(*job, *member).phase = MemberPhase::Prepared,
            Event::GangReleased { job, .. } => self.attempt_of(*job).released = true,
            Event::MemberStarted { job, member, .. } => {
                self.member_mut(*job, *member).phase = MemberPhase::Running;
                self.note_started(*job, now);
            }
            Event::MemberGone { job, member, exit, .. } => self.end_member(*job, *member, Some(exit), now),
            Event::MemberProven { job, member, .. } => self.end_member(*job, *member, None, now),
            Event::AttemptStopping { job, reason, .. } => self.stop_attempt(*job, *reason),
            Event::AttemptEnded { job, outcome, .. } => self.end_attempt(*job, *outcome, now),
            Event::JobRequeued { job, front, not_before, avoid, own_fault } => {
                self.requeue(*job, *front, *not_before, *avoid, *own_fault);
            }
            Event::JobEnded { job, outcome } => self.end_job(*job, *outcome, now),
            Event::JobForgotten { job } => self.forget_job(*job),
            Event::RequestAnswered { user, id, digest, reply } => {
                self.remember(user, id, Answer { digest: *digest, reply: *reply });
            }
            Event::CountersRestored { .. }
            | Event::TenantRestored { .. }
            | Event::UserRestored { .. }
            | Event::NodeRestored { .. }
            | Event::JobRestored { .. } => self.restore(now, event),
        }
    }

    fn add_pool(&mut self, name: &str, model: &str, gpus_per_node: u8) {
        self.pools.push(Pool {
            name: name.into(),
            model: model.into(),
            gpus_per_node,
            capacity: Gpus::ZERO,
            installed: Gpus::ZERO,
        });
        for tenant in &mut self.tenants {
            tenant.quotas.push(Quota::default());
            tenant.held.push(Held::default());
        }
    }

    fn add_tenant(&mut self, index: TenantIndex, parent: TenantIndex, name: &str) {
        let depth = self.tenants[parent.at()].depth + 1;
        self.tenants.push(Tenant::new(index, name.into(), Some(parent), depth, self.pools.len()));
        self.tenants[parent.at()].children.push(index);
        self.tenant_names.insert(name.into(), index);
    }

    fn change_tenant(&mut self, index: TenantIndex, change: &TenantChange, now: Time) {
        let half_life = self.policy.half_life;
        let tenant = &mut self.tenants[index.at()];
        if let Some(weight) = change.weight {
            tenant.weight = weight;
        }
        if change.default_time_limit.is_some() {
            tenant.default_time_limit = change.default_time_limit;
        }
        for (pool, quota) in &change.quotas {
            tenant.quotas[pool.at()] = *quota;
        }
        let above = tenant.above_quota();
        tenant.excess.set_rate(above, now, half_life);
        if tenant.depth == 1 {
            self.classify(index, now);
        }
        self.division_version += 1;
    }

    fn apply_to_node(&mut self, now: Time, event: &Event) {
        let (index, old_pool) = match event {
            Event::NodeJoined { node, name, pool, location, capacity, boot_id } => {
                self.add_node(Node {
                    index: *node,
                    name: name.clone(),
                    pool: *pool,
                    location: location.clone(),
                    capacity: capacity.clone(),
                    boot_id: boot_id.clone(),
                    contact: crate::node::Contact::Ready,
                    contact_since: now,
                    cordoned: false,
                    draining: false,
                    bad: GpuSet::EMPTY,
                    taken: GpuSet::EMPTY,
                    cpu_taken: CpuMilli::ZERO,
                    memory_taken: MemoryMib::ZERO,
                    residents: Vec::new(),
                });
                return;
            }
            Event::NodeChanged { node, pool, location, capacity } => {
                let entry = &mut self.nodes[node.at()];
                let old = entry.pool;
                entry.pool = *pool;
                entry.location = location.clone();
                entry.capacity = capacity.clone();
                self.index_is_stale = true;
                (*node, old)
            }
            Event::NodeContact { node, contact } => {
                let entry = &mut self.nodes[node.at()];
                entry.contact = *contact;
                entry.contact_since = now;
                (*node, entry.pool)
            }
            Event::NodeRebooted { node, boot_id } => {
                self.nodes[node.at()].boot_id = boot_id.clone();
                return;
            }
            Event::NodeCordoned { node, cordoned, draining } => {
                let entry = &mut self.nodes[node.at()];
                entry.cordoned = *cordoned;
                entry.draining = *draining;
                (*node, entry.pool)
            }
            Event::GpusFenced { node, bad } => {
                let entry = &mut self.nodes[node.at()];
                entry.bad = *bad;
                (*node, entry.pool)
            }
            _ => unreachable!("only events of nodes come here"),
        };
        self.node_changed(index);
        self.freed();
        let pool = self.nodes[index.at()].pool;
        self.count_capacity(pool);
        if old_pool != pool {
            self.count_capacity(old_pool);
        }
    }

    fn add_node(&mut self, node: Node) {
        let pool = node.pool;
        assert_eq!(node.index.at(), self.nodes.len(), "nodes are numbered as they appear");
        self.node_names.insert(node.name.clone(), node.index);
        self.nodes.push(node);
        self.index_is_stale = true;
        self.freed();
        self.count_capacity(pool);
    }

    fn add_job(&mut self, mut job: Job) {
        let id = job.id;
        assert_eq!(id, self.next_job, "job ids are given in order");
        self.next_job = JobId(id.0 + 1);
        if let Some(time) = job.not_before {
            self.timers.insert((time, Timer::NotBefore(id)));
        }
        for dependency in &job.spec.after {
            if self.is_open(dependency.job, id) {
                self.dependents.add_edge(dependency.job, id, dependency.kind);
                job.open_dependencies += 1;
            }
        }
        self.tenants[job.spec.tenant.at()].users.entry(job.spec.user).or_default().jobs += 1;
        self.waiting += 1;
        self.jobs.insert(job);
        self.enqueue_if_eligible(id);
    }

    fn start_index(&mut self, array: JobId, index: u32, id: JobId, now: Time) {
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
        self.jobs.insert(child);
    }

    fn stop_array(&mut self, array: JobId) {
        self.dequeue(array);
        let job = self.job_mut(array);
        job.progress.as_deref_mut().expect("an array has its progress").cancelled = true;
        if job.phase == Phase::Waiting {
            job.phase = Phase::Spread;
            self.waiting -= 1;
        }
    }

    fn place_job(&mut self, id: JobId, number: AttemptNumber, pool: PoolIndex, placed: &Members, now: Time) {
        self.dequeue(id);
        let start_order = self.next_start;
        self.next_start += 1;
        let deadline = now + self.policy.launch_deadline;
        let job = self.job_mut(id);
        assert_eq!(job.phase, Phase::Waiting, "only a waiting job is placed");
        job.phase = Phase::Launching;
        job.front = false;
        job.attempts = number.0;
        job.attempt = Some(Box::new(Attempt {
            number,
            pool,
            members: placed
                .iter()
                .map(|placed| Member { placed: *placed, phase: MemberPhase::Ordered, exit: None })
                .collect::<SmallVec<_>>(),
            placed_at: now,
            start_order,
            started_at: None,
            ended_at: None,
            released: placed.len() == 1,
            borrowed: false,
            charged_at: now,
            broken: None,
            outcome: None,
        }));
        self.waiting -= 1;
        for rank in 0..placed.len() {
            self.occupy(id, MemberIndex::of(rank));
        }
        self.timers.insert((deadline, Timer::Launch(id, number)));
        self.begin_charge(id, now);
    }

    /// A member takes its GPUs, CPU and memory on its node.
    fn occupy(&mut self, id: JobId, member: MemberIndex) {
        let job = self.jobs.get(id).expect("an event names a job that exists");
        let placed = job.attempt.as_deref().expect("it was placed").members[member.at()].placed;
        let (cpu, memory) = (job.spec.request.cpu, job.spec.request.memory);
        let node = &mut self.nodes[placed.node.at()];
        assert!(node.taken.and(placed.gpus).is_empty(), "no GPU is held twice");
        node.taken = node.taken.with(placed.gpus);
        node.cpu_taken += cpu;
        node.memory_taken += memory;
        let resident = Resident { job: id, member };
        let at = node.residents.binary_search(&resident).expect_err("a member takes its place once");
        node.residents.insert(at, resident);
        self.node_changed(placed.node);
    }

    /// A member gives back what it took.
    fn vacate(&mut self, id: JobId, member: MemberIndex) {
        let job = self.jobs.get(id).expect("an event names a job that exists");
        let placed = job.attempt.as_deref().expect("it was placed").members[member.at()].placed;
        let (cpu, memory) = (job.spec.request.cpu, job.spec.request.memory);
        let node = &mut self.nodes[placed.node.at()];
        node.taken = node.taken.without(placed.gpus);
        node.cpu_taken -= cpu;
        node.memory_taken -= memory;
        let at = node.residents.binary_search(&Resident { job: id, member }).expect("it is there");
        node.residents.remove(at);
        self.node_changed(placed.node);
        self.freed();
    }

    fn note_started(&mut self, id: JobId, now: Time) {
        let slack = self.policy.time_limit_slack;
        let job = self.job_mut(id);
        let attempt = job.attempt.as_deref_mut().expect("a member has its attempt");
        let all = attempt.members.iter().all(|m| m.phase >= MemberPhase::Running);
        if job.phase != Phase::Launching || !all {
            return;
        }
        job.phase = Phase::Running;
        attempt.started_at = Some(now);
        let number = attempt.number;
        let launch_deadline = attempt.placed_at;
        let limit = now + job.spec.time_limit + job.spec.grace + slack;
        self.timers.remove(&(launch_deadline + self.policy.launch_deadline, Timer::Launch(id, number)));
        self.timers.insert((limit, Timer::TimeLimit(id, number)));
    }

    fn end_member(&mut self, id: JobId, member: MemberIndex, exit: Option<&Exit>, now: Time) {
        let job = self.job_mut(id);
        let phase = job.phase;
        let attempt = job.attempt.as_deref_mut().expect("a member has its attempt");
        let entry = &mut attempt.members[member.at()];
        entry.phase = MemberPhase::Gone;
        entry.exit = exit.cloned();
        let outcome = exit.map_or(Outcome::NodeLost, Exit::outcome);
        if outcome != Outcome::Completed && attempt.broken.is_none() {
            attempt.broken = Some(outcome);
        }
        match phase {
            Phase::AwaitingProof(_) => self.vacate(id, member),
            Phase::Launching if outcome == Outcome::Completed => self.note_started(id, now),
            _ => {}
        }
    }

    fn stop_attempt(&mut self, id: JobId, reason: StopReason) {
        self.drop_attempt_timers(id);
        let job = self.job_mut(id);
        let broken = job.attempt.as_deref().and_then(|attempt| attempt.broken).unwrap_or(Outcome::Failed);
        job.phase = match job.phase {
            Phase::AwaitingProof(_) => Phase::AwaitingProof(reason.outcome(broken)),
            _ => Phase::Stopping(reason),
        };
    }

    fn end_attempt(&mut self, id: JobId, outcome: Outcome, now: Time) {
        self.drop_attempt_timers(id);
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
        for member in gone {
            self.vacate(id, member);
        }
        self.job_mut(id).phase = Phase::AwaitingProof(outcome);
    }

    fn drop_attempt_timers(&mut self, id: JobId) {
        let (launch, slack) = (self.policy.launch_deadline, self.policy.time_limit_slack);
        let job = self.jobs.get(id).expect("an event names a job that exists");
        let attempt = job.attempt.as_deref().expect("an attempt has its record");
        let launch = (attempt.placed_at + launch, Timer::Launch(id, attempt.number));
        let limit = attempt.started_at.map(|started| {
            (started + job.spec.time_limit + job.spec.grace + slack, Timer::TimeLimit(id, attempt.number))
        });
        self.timers.remove(&launch);
        if let Some(limit) = limit {
            self.timers.remove(&limit);
        }
    }

    fn requeue(&mut self, id: JobId, front: bool, not_before: Option<Time>, avoid: Option<NodeIndex>, own_fault: bool) {
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
            self.timers.insert((time, Timer::NotBefore(id)));
        }
        self.waiting += 1;
        self.enqueue_if_eligible(id);
    }

    fn end_job(&mut self, id: JobId, outcome: Outcome, now: Time) {
        self.dequeue(id);
        let keep = self.policy.keep_ended;
        let job = self.job_mut(id);
        let was_waiting = job.phase == Phase::Waiting;
        job.phase = Phase::Ended(outcome);
        job.ended_at = Some(now);
        let index_of = job.index_of;
        if let Some(time) = job.not_before.take() {
            self.timers.remove(&(time, Timer::NotBefore(id)));
        }
        self.waiting -= u32::from(was_waiting);
        self.ended.push_back(id);
        self.timers.insert((now + keep, Timer::Forget(id)));
        self.release_dependents(id, outcome);
        if let Some((array, _)) = index_of {
            let parent = self.job_mut(array);
            let progress = parent.progress.as_deref_mut().expect("an array has its progress");
            progress.live.remove(&id);
            *if outcome == Outcome::Completed { &mut progress.completed } else { &mut progress.failed } += 1;
            self.enqueue_if_eligible(array);
        }
    }

    fn release_dependents(&mut self, id: JobId, outcome: Outcome) {
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

    fn forget_job(&mut self, id: JobId) {
        let job = self.jobs.remove(id).expect("an event names a job that exists");
        let ended_at = job.ended_at.expect("only ended jobs are forgotten");
        self.timers.remove(&(ended_at + self.policy.keep_ended, Timer::Forget(id)));
        if self.ended.front() == Some(&id) {
            self.ended.pop_front();
        } else {
            self.ended.retain(|ended| *ended != id);
        }
    }

    fn remember(&mut self, user: &str, id: &str, answer: Answer) {
        let key: (Box<str>, Box<str>) = (user.into(), id.into());
        self.requests.insert(key.clone(), answer);
        self.request_order.push_back(key);
        while self.request_order.len() > self.policy.max_requests as usize {
            let oldest = self.request_order.pop_front().expect("it is not empty");
            self.requests.remove(&oldest);
        }
    }

    fn restore(&mut self, now: Time, event: &Event) {
        match event {
            Event::CountersRestored { next_job, next_start } => {
                self.next_job = *next_job;
                self.next_start = *next_start;
            }
            Event::TenantRestored { tenant, total, excess } => {
                let tenant = &mut self.tenants[tenant.at()];
                tenant.total = *total;
                tenant.excess = *excess;
            }
            Event::UserRestored { tenant, user, ledger } => {
                self.tenants[tenant.at()].users.insert(*user, ledger.clone());
            }
            Event::NodeRestored { node } => {
                let bare = Node {
                    taken: GpuSet::EMPTY,
                    cpu_taken: CpuMilli::ZERO,
                    memory_taken: MemoryMib::ZERO,
                    residents: Vec::new(),
                    ..(**node).clone()
                };
                self.add_node(bare);
            }
            Event::JobRestored { job } => self.restore_job(job, now),
            _ => unreachable!("only events of snapshots come here"),
        }
    }

    fn restore_job(&mut self, job: &Job, now: Time) {
        let id = job.id;
        let mut job = job.clone();
        job.queued = None;
        let (keep, launch, slack) = (self.policy.keep_ended, self.policy.launch_deadline, self.policy.time_limit_slack);
        if let Some(time) = job.not_before {
            self.timers.insert((time, Timer::NotBefore(id)));
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
                        self.timers.insert((attempt.placed_at + launch, Timer::Launch(id, attempt.number)));
                    }
                    (Phase::Running, Some(started)) => {
                        let limit = started + job.spec.time_limit + job.spec.grace + slack;
                        self.timers.insert((limit, Timer::TimeLimit(id, attempt.number)));
                    }
                    _ => {}
                }
            }
            (Phase::AwaitingProof(_), Some(attempt)) => still_holds.extend(attempt.alive().map(|(member, _)| member)),
            (Phase::Ended(_), _) => {
                let ended_at = job.ended_at.expect("an ended job has its end");
                self.timers.insert((ended_at + keep, Timer::Forget(id)));
                self.ended.push_back(id);
            }
            _ => {}
        }
        if matches!(job.phase, Phase::Waiting) {
            for dependency in &job.spec.after {
                if self.is_open(dependency.job, id) {
                    self.dependents.add_edge(dependency.job, id, dependency.kind);
                }
            }
        }
        self.jobs.insert(job);
        for member in still_holds {
            self.occupy(id, member);
        }
        if is_charged {
            self.restore_charge(id, now);
        }
        self.enqueue_if_eligible(id);
    }

    /// Whether `on`, for which `id` waits, has not ended. One that is unknown is forgotten when it is older, and comes
    /// later (in the same call, or in the same snapshot) when it is younger.
    fn is_open(&self, on: JobId, id: JobId) -> bool {
        self.jobs.get(on).map_or(on > id, |on| !matches!(on.phase, Phase::Ended(_)))
    }

    fn attempt_of(&mut self, id: JobId) -> &mut Attempt {
        self.job_mut(id).attempt.as_deref_mut().expect("an event names an attempt that exists")
    }

    fn member_mut(&mut self, id: JobId, member: MemberIndex) -> &mut Member {
        &mut self.attempt_of(id).members[member.at()]
    }
}

fn new_job(id: JobId, spec: &JobSpec, now: Time) -> Job {
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
        attempt: None,
        avoid: SmallVec::new(),
        index_of: None,
        usage: Usage::default(),
    }
}
