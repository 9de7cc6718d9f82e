//! Of a tenant's dated quotas of a pool one at most is in force; no two that end hold at once; the quotas in force of a
//! tenant's children never exceed its own.
//!
//! Source: design 5.2, "a quota change may have a start and an end"; "sum of the children's quotas <= the parent's".

use super::{Check, ensure};
use crate::calendar::DatedQuota;
use crate::cluster::Cluster;
use crate::ids::{PoolIndex, TenantIndex};
use crate::units::Gpus;

pub(super) fn check(cluster: &Cluster) -> Check {
    for tenant in cluster.tenants.iter().filter(|tenant| tenant.index != TenantIndex::ROOT) {
        for pool in (0..cluster.pools.len()).map(PoolIndex::of) {
            let dated: Vec<_> =
                cluster.calendar().filter(|d| (d.key.tenant, d.key.pool) == (tenant.index, pool)).collect();
            let in_force: Vec<_> = dated.iter().filter(|dated| dated.standing.is_some()).collect();
            ensure(in_force.len() <= 1, || {
                format!("{} quotas of {:?} are in force at once", in_force.len(), tenant.name)
            })?;
            let holds = in_force.iter().all(|dated| dated.until.is_some() && dated.quota == tenant.quota_in(pool));
            ensure(holds, || format!("the quota of {:?} is not what its calendar says", tenant.name))?;
            for (at, one) in dated.iter().enumerate() {
                let meets = dated[at + 1..].iter().any(|other| both_hold(one, other));
                ensure(!meets, || format!("two dated quotas of {:?} hold at once", tenant.name))?;
            }
            let Some(quota) = tenant.quota_in(pool).quota else { continue };
            let of_children = |child: &TenantIndex| cluster.tenant(*child).quota_in(pool).quota;
            let children: Gpus = tenant.children.iter().filter_map(of_children).sum();
            ensure(children <= quota, || format!("{:?} has {quota}, and its children {children}", tenant.name))?;
        }
    }
    Ok(())
}

/// Whether two hold at one moment, or begin at one. One without an end lies below those that have one.
fn both_hold(one: &DatedQuota, other: &DatedQuota) -> bool {
    let (begins, ends) = ((one.key.from, other.key.from), one.until.zip(other.until));
    begins.0 == begins.1 || ends.is_some_and(|(end, other)| begins.0.max(begins.1) < end.min(other))
}
