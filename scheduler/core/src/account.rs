//! Who holds what, and what it costs: GPUs held per tenant and user, own and borrowed, and GPU-time charged.
//!
//! Own and borrowed are recomputed, never events: within a mission the attempts count in the order of `RunningKey`
//! (those that must not be evicted first, then by start); one that does not fit into what is left of the quota is
//! borrowed whole. Called by `apply` alone.

use crate::cluster::Cluster;
use crate::ids::{JobId, PoolIndex, TenantIndex};
use crate::tenant::{Held, RunningKey};
use crate::units::{Gpus, Time};

impl Cluster {
    /// A job's new attempt holds its GPUs from now on.
    pub(crate) fn begin_charge(&mut self, id: JobId, now: Time) {
        self.add_held(id, now);
        let (mission, key, pool) = self.running_key(id);
        let gpus = self.live_gpus(id);
        let Some(mission) = mission else { return };
        let tenant = &mut self.tenants[mission.at()];
        let is_last = tenant.attempts.last().is_none_or(|last| *last < key);
        tenant.attempts.insert(key);
        if !is_last || tenant.held[pool.at()].promised > Gpus::ZERO {
            self.classify(mission, now);
            return;
        }
        let held = tenant.held[pool.at()];
        let own = held.used - held.borrowed - gpus;
        let borrowed = own + gpus > tenant.quota_in(pool).quota.unwrap_or_default();
        if borrowed {
            self.tenants[mission.at()].held[pool.at()].borrowed += gpus;
        }
        self.attempt_mut(id).borrowed = borrowed;
    }

    /// The GPUs of an attempt are given back: `freed` of them now (the rest lies on lost nodes), the charge ends here.
    pub(crate) fn end_charge(&mut self, id: JobId, now: Time) {
        self.charge(id, now);
        let (mission, key, pool) = self.running_key(id);
        let gpus = self.live_gpus(id);
        let was_borrowed = self.attempt_mut(id).borrowed;
        self.sub_held(id, now);
        let Some(mission) = mission else { return };
        let tenant = &mut self.tenants[mission.at()];
        tenant.attempts.remove(&key);
        if was_borrowed {
            tenant.held[pool.at()].borrowed -= gpus;
        } else if tenant.held[pool.at()].borrowed + tenant.held[pool.at()].promised > Gpus::ZERO {
            self.classify(mission, now);
        }
    }

    /// Puts the attempt of a restored job back where it was, charging nothing.
    pub(crate) fn restore_charge(&mut self, id: JobId, now: Time) {
        self.add_held(id, now);
        let (mission, key, pool) = self.running_key(id);
        let gpus = self.live_gpus(id);
        let borrowed = self.attempt_mut(id).borrowed;
        if let Some(mission) = mission {
            let tenant = &mut self.tenants[mission.at()];
            tenant.attempts.insert(key);
            if borrowed {
                tenant.held[pool.at()].borrowed += gpus;
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
        for key in &self.tenants[mission.at()].attempts {
            if let Some(promise) = self.promises.get(&key.job) {
                let left = &mut left[promise.pool.at()];
                *left = if promise.gpus() <= *left { *left - promise.gpus() } else { *left };
                continue;
            }
            let job = self.jobs.get(key.job).expect("an attempt that holds GPUs has its job");
            let attempt = job.attempt.as_deref().expect("a job that holds GPUs has an attempt");
            let (gpus, pool) = (attempt.gpus(), attempt.pool.at());
            let borrowed = gpus > left[pool];
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
            let attempt = self.attempt_mut(job);
            attempt.borrowed = !attempt.borrowed;
        }
        for (pool, borrowed) in borrowed_now.into_iter().enumerate() {
            self.tenants[mission.at()].held[pool].borrowed = borrowed;
        }
    }

    /// Charges the GPU-time of a job's attempt up to now.
    fn charge(&mut self, id: JobId, now: Time) {
        let job = self.job_mut(id);
        let (tenant, user) = (job.spec.tenant, job.spec.user);
        let attempt = job.attempt.as_deref_mut().expect("a job that is charged has an attempt");
        let gpu_time = attempt.gpus().over(now.since(attempt.charged_at));
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

    fn add_held(&mut self, id: JobId, now: Time) {
        self.change_held(id, now, |held, gpus, fixed| {
            held.used += gpus;
            held.fixed += fixed;
        });
        self.count_running(id, 1);
    }

    fn sub_held(&mut self, id: JobId, now: Time) {
        self.change_held(id, now, |held, gpus, fixed| {
            held.used -= gpus;
            held.fixed -= fixed;
        });
        self.count_running(id, -1);
        self.division_version += 1;
    }

    fn change_held(&mut self, id: JobId, now: Time, change: impl Fn(&mut Held, Gpus, Gpus)) {
        let half_life = self.policy.half_life;
        let job = self.jobs.get(id).expect("an event names a job that exists");
        let pool = job.attempt.as_deref().expect("a job that holds GPUs has an attempt").pool;
        let gpus = self.live_gpus(id);
        let fixed = if job.spec.preemptible { Gpus::ZERO } else { gpus };
        let (tenant, user) = (job.spec.tenant, job.spec.user);
        let mut user_held = Held::default();
        let ledger = self.tenants[tenant.at()].users.entry(user).or_default();
        user_held.used = ledger.used;
        user_held.fixed = fixed;
        change(&mut user_held, gpus, fixed);
        ledger.used = user_held.used;
        ledger.recent.set_rate(user_held.used, now, half_life);
        let mut next = Some(tenant);
        while let Some(tenant) = next {
            let tenant = &mut self.tenants[tenant.at()];
            change(&mut tenant.held[pool.at()], gpus, fixed);
            let above = tenant.above_quota();
            if above != tenant.excess.rate {
                tenant.excess.set_rate(above, now, half_life);
            }
            next = tenant.parent;
        }
    }

    fn count_running(&mut self, id: JobId, by: i32) {
        let mut next = self.jobs.get(id).map(|job| job.spec.tenant);
        while let Some(tenant) = next {
            let tenant = &mut self.tenants[tenant.at()];
            tenant.running = tenant.running.checked_add_signed(by).expect("an attempt ends once");
            next = tenant.parent;
        }
    }

    fn live_gpus(&self, id: JobId) -> Gpus {
        self.jobs.get(id).and_then(|job| job.attempt.as_deref()).map(|attempt| attempt.gpus()).unwrap_or_default()
    }

    fn attempt_mut(&mut self, id: JobId) -> &mut crate::job::Attempt {
        self.job_mut(id).attempt.as_deref_mut().expect("a job that holds GPUs has an attempt")
    }

    fn running_key(&self, id: JobId) -> (Option<TenantIndex>, RunningKey, PoolIndex) {
        let job = self.jobs.get(id).expect("an event names a job that exists");
        let attempt = job.attempt.as_deref().expect("a job that holds GPUs has an attempt");
        let key = RunningKey { preemptible: job.spec.preemptible, start_order: attempt.start_order, job: id };
        (self.mission(job.spec.tenant), key, attempt.pool)
    }
}
