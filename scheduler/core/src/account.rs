//! Who holds what, and what it costs: GPUs held per tenant and user, own and borrowed, and GPU-time charged.
//!
//! Own and borrowed are recomputed, never events: within a mission the attempts count in the order of `RunningKey`
//! (those that must not be evicted first, then by start); one that does not fit into what is left of the quota is
//! borrowed whole. Called by `apply` alone.

use crate::cluster::Cluster;
use crate::ids::{JobId, PoolIndex, PriorityIndex, TenantIndex, UserIndex};
use crate::tenant::RunningKey;
use crate::units::{Gpus, Time};

/// What an attempt holds, and in whose name.
#[derive(Clone, Copy, Debug)]
struct Holding {
    tenant: TenantIndex,
    user: UserIndex,
    mission: Option<TenantIndex>,
    pool: PoolIndex,
    gpus: Gpus,
    /// `gpus`, when it must not be evicted.
    fixed: Gpus,
    priority: PriorityIndex,
    key: RunningKey,
}

impl Cluster {
    /// A job's new attempt holds its GPUs from now on.
    pub(crate) fn begin_charge(&mut self, id: JobId, now: Time) {
        let holding = self.holding(id);
        self.add_held(&holding, now);
        let Some(mission) = holding.mission else { return };
        let tenant = &mut self.tenants[mission.at()];
        let is_last = tenant.attempts.last().is_none_or(|last| *last < holding.key);
        tenant.attempts.insert(holding.key);
        let held = tenant.held[holding.pool.at()];
        if !is_last || held.promised > Gpus::ZERO {
            self.classify(mission, now);
            return;
        }
        let own = held.used - held.borrowed;
        let is_outside = self.attempt_mut(id).is_outside();
        let tenant = &mut self.tenants[mission.at()];
        if is_outside || own > tenant.quota_in(holding.pool).quota.unwrap_or_default() {
            tenant.held[holding.pool.at()].borrowed += holding.gpus;
            self.set_borrowed(id, true);
        }
    }

    /// The GPUs of an attempt are given back: `freed` of them now (the rest lies on lost nodes), the charge ends here.
    pub(crate) fn end_charge(&mut self, id: JobId, now: Time) {
        self.charge(id, now);
        let holding = self.holding(id);
        let was_borrowed = self.attempt_mut(id).borrowed;
        if was_borrowed {
            self.count_lent(id, false);
        }
        self.sub_held(&holding, now);
        let Some(mission) = holding.mission else { return };
        let tenant = &mut self.tenants[mission.at()];
        tenant.attempts.remove(&holding.key);
        let held = &mut tenant.held[holding.pool.at()];
        if was_borrowed {
            held.borrowed -= holding.gpus;
        } else if held.borrowed + held.promised > Gpus::ZERO {
            self.classify(mission, now);
        }
    }

    /// Puts the attempt of a restored job back where it was, charging nothing.
    pub(crate) fn restore_charge(&mut self, id: JobId, now: Time) {
        let holding = self.holding(id);
        self.add_held(&holding, now);
        let borrowed = self.attempt_mut(id).borrowed;
        if let Some(mission) = holding.mission {
            let tenant = &mut self.tenants[mission.at()];
            tenant.attempts.insert(holding.key);
            if borrowed {
                tenant.held[holding.pool.at()].borrowed += holding.gpus;
                self.count_lent(id, true);
            }
        }
    }

    /// As `classify`, for the mission of a job.
    pub(crate) fn classify_mission_of(&mut self, id: JobId, now: Time) {
        let tenant = self.jobs.get(id).expect("an event names a job that exists").spec.tenant;
        if let Some(mission) = self.mission(tenant) {
            self.classify(mission, now);
        }
    }

    /// Finds out anew which attempts of a mission lie above its quota, and charges those that change sides.
    pub(crate) fn classify(&mut self, mission: TenantIndex, now: Time) {
        let pools = self.pools.len();
        let mut left: Vec<Gpus> = (0..pools)
            .map(|p| self.tenants[mission.at()].quota_in(PoolIndex::of(p)).quota.unwrap_or_default())
            .collect();
        let mut borrowed_now = vec![Gpus::ZERO; pools];
        let mut flips = Vec::new();
        for key in self.tenants[mission.at()].attempts.iter() {
            if let Some(promise) = self.promises.get(&key.job) {
                let left = &mut left[promise.pool.at()];
                *left = if promise.gpus() <= *left { *left - promise.gpus() } else { *left };
                continue;
            }
            let job = self.jobs.get(key.job).expect("an attempt that holds GPUs has its job");
            let attempt = job.attempt.as_deref().expect("a job that holds GPUs has an attempt");
            let (gpus, pool) = (attempt.gpus(), attempt.pool.at());
            let borrowed = gpus > left[pool] || attempt.is_outside();
            if borrowed {
                borrowed_now[pool] += gpus;
            } else {
                left[pool] -= gpus;
            }
            if borrowed != attempt.borrowed {
                flips.push(key.job);
            }
        }
        for job in flips {
            self.charge(job, now);
            let is_borrowed = !self.attempt_mut(job).borrowed;
            if is_borrowed {
                // It leaves room in the quota, which others may have been refused for.
                let pool = self.attempt_mut(job).pool;
                self.divided(pool);
            }
            self.set_borrowed(job, is_borrowed);
        }
        for (pool, borrowed) in borrowed_now.into_iter().enumerate() {
            self.tenants[mission.at()].held[pool].borrowed = borrowed;
        }
    }

    fn set_borrowed(&mut self, id: JobId, is_borrowed: bool) {
        self.attempt_mut(id).borrowed = is_borrowed;
        self.count_lent(id, is_borrowed);
    }

    /// An attempt counts as lent from now on, or no more.
    fn count_lent(&mut self, id: JobId, is_lent: bool) {
        let Self { jobs, reach, .. } = self;
        let job = jobs.get(id).expect("an event names a job that exists");
        for member in job.attempt.as_deref().into_iter().flat_map(|attempt| &attempt.members) {
            reach.lend(member.placed.node, member.placed.gpus.len(), is_lent);
        }
    }

    /// Charges the GPU-time of a job's attempt up to now.
    fn charge(&mut self, id: JobId, now: Time) {
        let job = self.job_mut(id);
        let (tenant, user) = (job.spec.tenant, job.spec.user);
        let attempt = job.attempt.as_deref_mut().expect("a job that is charged has an attempt");
        let gpu_time = attempt.gpus().between(attempt.placed_at, attempt.charged_at, now);
        let borrowed = attempt.borrowed;
        attempt.charged_at = now;
        job.usage.add(gpu_time, borrowed);
        self.tenants[tenant.at()].users.entry(user).or_default().total.add(gpu_time, borrowed);
        let mut next = Some(tenant);
        while let Some(tenant) = next {
            let tenant = &mut self.tenants[tenant.at()];
            tenant.total.add(gpu_time, borrowed);
            next = tenant.parent;
        }
    }

    fn add_held(&mut self, holding: &Holding, now: Time) {
        self.change_held(holding, now, |held, gpus| *held += gpus, |running| running + 1);
    }

    fn sub_held(&mut self, holding: &Holding, now: Time) {
        let fewer = |running: u32| running.checked_sub(1).expect("an attempt ends once");
        self.change_held(holding, now, |held, gpus| *held -= gpus, fewer);
        self.relieved_all(holding.tenant);
        self.divided(holding.pool);
    }

    fn change_held(
        &mut self,
        holding: &Holding,
        now: Time,
        change: impl Fn(&mut Gpus, Gpus),
        count: impl Fn(u32) -> u32,
    ) {
        let half_life = self.policy.half_life;
        let class = usize::from(holding.priority.0);
        let in_class = &mut self.tenants[holding.tenant.at()].running_in_class;
        if class >= in_class.len() {
            in_class.resize(class + 1, 0);
        }
        in_class[class] = count(in_class[class]);
        let ledger = self.tenants[holding.tenant.at()].users.entry(holding.user).or_default();
        change(&mut ledger.used, holding.gpus);
        ledger.recent.set_rate(ledger.used, now, half_life);
        ledger.running = count(ledger.running);
        let mut next = Some(holding.tenant);
        while let Some(tenant) = next {
            let tenant = &mut self.tenants[tenant.at()];
            let held = &mut tenant.held[holding.pool.at()];
            change(&mut held.used, holding.gpus);
            change(&mut held.fixed, holding.fixed);
            tenant.running = count(tenant.running);
            let above = tenant.above_quota();
            if above != tenant.excess.rate {
                tenant.excess.set_rate(above, now, half_life);
            }
            next = tenant.parent;
        }
    }

    /// What the attempt of a job holds.
    fn holding(&self, id: JobId) -> Holding {
        let job = self.jobs.get(id).expect("an event names a job that exists");
        let attempt = job.attempt.as_deref().expect("a job that holds GPUs has an attempt");
        let (tenant, gpus) = (job.spec.tenant, attempt.gpus());
        Holding {
            tenant,
            user: job.spec.user,
            mission: self.mission(tenant),
            pool: attempt.pool,
            gpus,
            fixed: if job.spec.preemptible { Gpus::ZERO } else { gpus },
            priority: job.spec.priority,
            key: RunningKey { preemptible: job.spec.preemptible, start_order: attempt.start_order, job: id },
        }
    }

    fn attempt_mut(&mut self, id: JobId) -> &mut crate::job::Attempt {
        self.job_mut(id).attempt.as_deref_mut().expect("a job that holds GPUs has an attempt")
    }
}
