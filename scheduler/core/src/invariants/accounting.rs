//! GPU-time adds up: users to their tenant, tenants to the one above, attempts to their job, and jobs to their tenant
//! while none has been forgotten.
//!
//! Source: design 5.2, three separate ledgers; a GPU-second is charged once.

use std::collections::BTreeMap;

use super::{Check, ensure};
use crate::cluster::Cluster;
use crate::ids::TenantIndex;
use crate::job::{Job, Phase, Usage};

pub(super) fn check(cluster: &Cluster) -> Check {
    let nothing_forgotten = cluster.jobs.len() as u64 + 1 == cluster.next_job.0;
    let mut of_jobs: BTreeMap<TenantIndex, Usage> = BTreeMap::new();
    for job in cluster.jobs.iter() {
        add(of_jobs.entry(job.spec.tenant).or_default(), job.usage);
        check_job(job)?;
    }
    for tenant in &cluster.tenants {
        let mut below = Usage::default();
        tenant.users.values().for_each(|ledger| add(&mut below, ledger.total));
        let of_own_jobs = of_jobs.get(&tenant.index).copied().unwrap_or_default();
        ensure(!nothing_forgotten || below == of_own_jobs, || {
            format!("the users of {:?} have {below:?}, its jobs {of_own_jobs:?}", tenant.name)
        })?;
        tenant.children.iter().for_each(|child| add(&mut below, cluster.tenant(*child).total));
        ensure(tenant.total == below, || {
            format!("tenant {:?} has {:?}, those below it {below:?}", tenant.name, tenant.total)
        })?;
    }
    Ok(())
}

/// A job that ran once was charged for exactly that time.
fn check_job(job: &Job) -> Check {
    let Some(attempt) = job.attempt.as_deref().filter(|attempt| attempt.number.0 == 1) else { return Ok(()) };
    let is_charged = matches!(job.phase, Phase::Launching | Phase::Running | Phase::Stopping(_));
    let until = if is_charged { attempt.charged_at } else { attempt.ended_at.unwrap_or(attempt.charged_at) };
    let want = attempt.gpus().over(until.since(attempt.placed_at));
    let got = job.usage.own + job.usage.borrowed;
    ensure(want == got, || format!("job {} held its GPUs for {want:?} and was charged {got:?}", job.id))
}

fn add(sum: &mut Usage, more: Usage) {
    sum.own += more.own;
    sum.borrowed += more.borrowed;
}
