//! What is committed of a budget is what the attempts below it that do not scavenge may still use by their limits, and what
//! jobs could use of the GPUs that are promised to them; who scavenges may be evicted.
//!
//! Source: design 5.2, "a job starts only if its time limit fits what is left (committed counted)".

use super::{Check, ensure};
use crate::cluster::Cluster;
use crate::job::{Job, Phase};
use crate::units::GpuTime;

pub(super) fn check(cluster: &Cluster) -> Check {
    ensure(cluster.has_budgets == cluster.tenants.iter().any(|tenant| tenant.budget.is_some()), || {
        "whether there are budgets is not what the tenants say".into()
    })?;
    let is_charged = |job: &&Job| matches!(job.phase, Phase::Launching | Phase::Running | Phase::Stopping(_));
    for tenant in &cluster.tenants {
        let below =
            cluster.jobs.iter().filter(is_charged).filter(|job| cluster.is_within(job.spec.tenant, tenant.index));
        let mut committed = if tenant.budget.is_some() { cluster.promised_below(tenant.index) } else { GpuTime::ZERO };
        for (job, attempt) in below.filter_map(|job| Some((job, job.live_attempt()?))) {
            ensure(!attempt.scavenger || job.spec.preemptible, || format!("job {} scavenges, and is fixed", job.id))?;
            if let Some(budget) = tenant.budget.filter(|_| !attempt.scavenger) {
                committed += budget.commitment(job, attempt);
            }
        }
        ensure(tenant.committed == committed, || {
            format!("tenant {:?} commits {:?}, counted {committed:?}", tenant.name, tenant.committed)
        })?;
    }
    Ok(())
}
