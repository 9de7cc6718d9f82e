//! Budgets: set, carried over, renewed; attempts commit and spend.

use crate::budget::{Budget, Grant};
use crate::cluster::Cluster;
use crate::ids::{JobId, TenantIndex};
use crate::job::Outcome;
use crate::promise::Promise;
use crate::timers::Timer;
use crate::units::{GpuTime, Time};

impl Cluster {
    /// Sets, changes or takes away the budget of a tenant.
    pub(super) fn set_budget(&mut self, tenant: TenantIndex, grant: Option<Grant>, now: Time) {
        self.forget_period(tenant);
        let entry = &mut self.tenants[tenant.at()];
        entry.budget = match (entry.budget, grant) {
            (Some(budget), Some(grant)) => Some(Budget { grant, ..budget }),
            (None, Some(grant)) => Some(Budget::new(grant, now)),
            (_, None) => None,
        };
        self.budget_changed(tenant);
    }

    /// As it was, from a snapshot.
    pub(super) fn restore_budget(&mut self, tenant: TenantIndex, budget: Option<Budget>) {
        self.forget_period(tenant);
        self.tenants[tenant.at()].budget = budget;
        self.budget_changed(tenant);
    }

    pub(super) fn carry_budget(&mut self, tenant: TenantIndex, gpu_time: GpuTime) {
        if let Some(budget) = &mut self.tenants[tenant.at()].budget {
            budget.carried = GpuTime(budget.carried.0.saturating_add(gpu_time.0));
            budget.unspent = budget.unspent.less(gpu_time);
        }
        self.relieved(tenant);
    }

    pub(super) fn begin_period(&mut self, tenant: TenantIndex) {
        self.forget_period(tenant);
        // Attempts that go on take their use so far out of the old period, and the rest into the new one.
        let used = self.used_by_running(tenant);
        let entry = &mut self.tenants[tenant.at()];
        if let Some(budget) = &mut entry.budget {
            budget.begin_period(used);
        }
        self.budget_changed(tenant);
    }

    /// What attempts that go on have used up to the end of the period.
    fn used_by_running(&self, tenant: TenantIndex) -> GpuTime {
        let Some(budget) = self.tenants[tenant.at()].budget else { return GpuTime::ZERO };
        let used = |job: &JobId| {
            let job = self.job(*job)?;
            let attempt = job.live_attempt()?;
            Some(budget.used(job, attempt, budget.ends_at(), Outcome::Completed).0)
        };
        self.committing(tenant).iter().filter_map(used).sum()
    }

    /// Attempts below a tenant that count against its budget.
    fn committing(&self, tenant: TenantIndex) -> Vec<JobId> {
        let missions: Vec<TenantIndex> = match self.mission(tenant) {
            Some(mission) => vec![mission],
            None => self.tenants[0].children.clone(),
        };
        let keys = missions.iter().flat_map(|mission| &self.tenants[mission.at()].attempts);
        let counts = |job: &&crate::job::Job| {
            let is_paid = job.live_attempt().is_some_and(|attempt| !attempt.scavenger);
            is_paid && self.is_within(job.spec.tenant, tenant)
        };
        keys.filter_map(|key| self.job(key.job)).filter(counts).map(|job| job.id).collect()
    }

    /// What jobs below a tenant could use of the GPUs that are promised to them.
    pub(crate) fn promised_below(&self, tenant: TenantIndex) -> GpuTime {
        let of = |(job, promise): (JobId, &Promise)| {
            let spec = &self.job(job).filter(|job| self.is_within(job.spec.tenant, tenant))?.spec;
            Some(promise.gpus().over(spec.time_limit))
        };
        self.promises().filter_map(of).sum()
    }

    fn forget_period(&mut self, tenant: TenantIndex) {
        if let Some(budget) = &self.tenants[tenant.at()].budget {
            self.timers.remove(budget.ends_at(), Timer::BudgetPeriod(tenant));
        }
    }

    fn budget_changed(&mut self, tenant: TenantIndex) {
        let committed = match self.tenants[tenant.at()].budget {
            Some(budget) => {
                self.timers.insert(budget.ends_at(), Timer::BudgetPeriod(tenant));
                let jobs = self.committing(tenant);
                let of = |job: &JobId| {
                    let job = self.job(*job)?;
                    Some(budget.commitment(job, job.live_attempt()?))
                };
                jobs.iter().filter_map(of).sum::<GpuTime>() + self.promised_below(tenant)
            }
            None => GpuTime::ZERO,
        };
        self.tenants[tenant.at()].committed = committed;
        self.has_budgets = self.tenants.iter().any(|tenant| tenant.budget.is_some());
        self.relieved(tenant);
    }

    /// A job's new attempt commits what it could use.
    pub(crate) fn commit_budget(&mut self, id: JobId) {
        self.each_budget(id, |tenant, job, attempt| {
            if let Some(budget) = &tenant.budget {
                tenant.committed += budget.commitment(job, attempt);
            }
        });
    }

    /// Its attempt is over: what it used is spent, but for what the hardware destroyed.
    pub(crate) fn spend_budget(&mut self, id: JobId, outcome: Outcome, now: Time) {
        self.each_budget(id, |tenant, job, attempt| {
            if let Some(budget) = &mut tenant.budget {
                tenant.committed = tenant.committed.less(budget.commitment(job, attempt));
                let (spent, lost) = budget.used(job, attempt, now, outcome);
                budget.spent = GpuTime(budget.spent.0.saturating_add(spent.0));
                budget.refunded = GpuTime(budget.refunded.0.saturating_add(lost.0));
            }
        });
    }

    fn each_budget(
        &mut self,
        id: JobId,
        mut change: impl FnMut(&mut crate::tenant::Tenant, &crate::job::Job, &crate::job::Attempt),
    ) {
        if !self.has_budgets {
            return;
        }
        let job = self.jobs.get(id).expect("an event names a job that exists");
        let attempt = job.attempt.as_deref().expect("a job that holds GPUs has an attempt");
        let mut next = Some(job.spec.tenant).filter(|_| !attempt.scavenger);
        while let Some(tenant) = next {
            let tenant = &mut self.tenants[tenant.at()];
            change(tenant, job, attempt);
            next = tenant.parent;
        }
    }
}
