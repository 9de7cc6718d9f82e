//! What tenants want back of what is lent, and since when.
//!
//! A deadline counts from the moment at which a tenant's jobs came to wait inside its quota, so that this moment is a fact:
//! it is in the journal, and no restart and no change of leader moves a deadline.

use crate::cluster::Cluster;
use crate::ids::{PoolIndex, TenantIndex};
use crate::job::Job;
use crate::units::{Gpus, Time};

/// Jobs of a tenant that wait for so many GPUs, and lie inside its quota with them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Wanted {
    /// Whose jobs.
    pub tenant: TenantIndex,
    /// Where they could run.
    pub pool: PoolIndex,
    /// What one of them needs at least.
    pub gpus: Gpus,
    /// Whether they may be evicted: what may not has less of the quota.
    pub preemptible: bool,
}

impl Wanted {
    /// By a job in a pool.
    pub(crate) fn by(job: &Job, pool: PoolIndex) -> Self {
        Self { tenant: job.spec.tenant, pool, gpus: job.gpus(), preemptible: job.spec.preemptible }
    }
}

impl Cluster {
    /// All that is wanted back, and since when.
    pub fn wanted_back(&self) -> impl Iterator<Item = (Wanted, Time)> {
        self.wanted.iter().map(|(wanted, since)| (*wanted, *since))
    }

    /// `apply`: from now on these are wanted back too, and those not any more.
    pub(crate) fn change_wanted(&mut self, begun: &[(Wanted, Time)], over: &[Wanted]) {
        self.wanted.retain(|wanted, _| !over.contains(wanted));
        self.wanted.extend(begun.iter().copied());
    }
}
