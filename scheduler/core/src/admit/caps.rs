//! May a user have this much, and may one job be this large? Caps of the tenant and of all above it.
//!
//! A cap of a user is counted over everything below the tenant that sets it, GPUs that are promised to the user's jobs
//! included. A cap of a job holds for what is submitted while it is set.

use crate::blocked::Blocked;
use crate::caps::Has;
use crate::cluster::Cluster;
use crate::ids::{TenantIndex, UserIndex};
use crate::input::JobDraft;
use crate::rejected::Refusal;
use crate::tenant::Tenant;
use crate::units::{Gpus, Span};

/// Why `user` may not start `want` GPUs more in `tenant`, if so. O(depth) where no cap is set.
pub(crate) fn of_user(cluster: &Cluster, tenant: TenantIndex, user: UserIndex, want: Gpus) -> Option<Blocked> {
    if !cluster.has_caps {
        return None;
    }
    cluster.chain(tenant).find_map(|above| {
        let caps = above.caps;
        if (caps.user_gpus, caps.user_running) == (None, None) {
            return None;
        }
        let has = has(cluster, above, user);
        let over = |limit: &Gpus| has.gpus + want > *limit;
        if let Some(limit) = caps.user_gpus.filter(over) {
            return Some(Blocked::OverUserGpus { tenant: above.index, limit, used: has.gpus, want });
        }
        let limit = caps.user_running.filter(|limit| has.running >= *limit)?;
        Some(Blocked::OverUserJobs { tenant: above.index, limit, running: has.running })
    })
}

/// What a user has below a tenant; what is promised to the user counts as running.
pub(crate) fn has(cluster: &Cluster, above: &Tenant, user: UserIndex) -> Has {
    let mut sum = Has::default();
    let mut todo = vec![above.index];
    while let Some(tenant) = todo.pop() {
        let tenant = cluster.tenant(tenant);
        sum.add(Has::in_one(tenant, user));
        todo.extend(&tenant.children);
    }
    for (job, promise) in cluster.promises() {
        let job = cluster.job(job).filter(|job| job.spec.user == user);
        if job.is_some_and(|job| cluster.is_within(job.spec.tenant, above.index)) {
            sum.add(Has { gpus: promise.gpus(), running: 1, submitted: 0 });
        }
    }
    sum
}

/// Refuses a job that is larger than one may be, and one too many of its user; `in_call` are those of the same call.
pub(super) fn check(
    cluster: &Cluster,
    tenant: TenantIndex,
    user: UserIndex,
    draft: &JobDraft,
    time_limit: Span,
    in_call: u32,
) -> Result<(), Refusal> {
    if !cluster.has_caps {
        return Ok(());
    }
    for above in cluster.chain(tenant) {
        let (caps, name) = (above.caps, || above.name.clone());
        let want = draft.shape.total();
        if let Some(limit) = caps.job_gpus.filter(|limit| want > *limit) {
            return Err(Refusal::OverJobGpus { tenant: name(), want, limit });
        }
        if let Some(longest) = caps.job_time.filter(|longest| time_limit > *longest) {
            return Err(Refusal::OverJobTime { tenant: name(), limit: time_limit, longest });
        }
        if let Some(limit) = caps.user_submitted {
            let submitted = has(cluster, above, user).submitted + in_call;
            if submitted >= limit {
                return Err(Refusal::OverUserSubmitted { tenant: name(), submitted, limit });
            }
        }
    }
    Ok(())
}
