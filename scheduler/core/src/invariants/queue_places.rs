//! A job is in the queue exactly while it may be tried, in the one bucket of its tenant, priority, user and class; the
//! counters of queued jobs of every tenant are recounted.
//!
//! Source: design 5.1, "pending jobs are bucketed by (tenant, priority, user, class)".

use std::collections::BTreeMap;

use super::{Check, ensure};
use crate::classes::ClassKey;
use crate::cluster::Cluster;
use crate::ids::{ClassIndex, JobId, PriorityIndex, TenantIndex, UserIndex};
use crate::queue::{Bucket, QueueKey};

type Place = (TenantIndex, PriorityIndex, UserIndex, ClassIndex);

pub(super) fn check(cluster: &Cluster) -> Check {
    let mut buckets = buckets(cluster)?;
    let mut counts: BTreeMap<TenantIndex, usize> = BTreeMap::new();
    for job in cluster.jobs.iter() {
        let is_promised = cluster.promise(job.id).is_some();
        ensure((job.is_eligible() && !is_promised) == job.queued.is_some(), || {
            format!("job {}: eligible is {}, queued is {}", job.id, job.is_eligible(), job.queued.is_some())
        })?;
        let Some(queued) = job.queued else { continue };
        let age = job.index_of.map_or(job.id, |(array, _)| array);
        let want = QueueKey { back: !job.front, age, job: job.id };
        let bucket = (job.spec.tenant, job.spec.priority, job.spec.user, queued.class);
        let found = buckets.remove(&(bucket, job.id));
        ensure(found == Some(want) && queued.key == want, || {
            format!("job {} belongs at {want:?} of {bucket:?}, is at {found:?} and says {:?}", job.id, queued.key)
        })?;
        let key = ClassKey::of(&job.spec);
        ensure(cluster.classes.get(queued.class).key == key, || format!("job {} is in another's class", job.id))?;
        for tenant in cluster.chain(job.spec.tenant) {
            *counts.entry(tenant.index).or_default() += 1;
        }
    }
    ensure(buckets.is_empty(), || format!("buckets hold what is not queued: {:?}", buckets.keys()))?;
    for tenant in &cluster.tenants {
        let counted = counts.get(&tenant.index).copied().unwrap_or_default();
        ensure(tenant.queued == counted, || {
            format!("tenant {:?} counts {} queued jobs, there are {counted}", tenant.name, tenant.queued)
        })?;
    }
    Ok(())
}

/// Everything in all buckets, and whether the buckets are as they should be in themselves.
fn buckets(cluster: &Cluster) -> Result<BTreeMap<(Place, JobId), QueueKey>, String> {
    let mut found = BTreeMap::new();
    for tenant in &cluster.tenants {
        let mut count = 0;
        for (priority, users) in &tenant.queue.levels {
            ensure(!users.is_empty(), || format!("tenant {:?} keeps an empty level", tenant.name))?;
            for (user, queue) in users {
                ensure(!queue.buckets.is_empty(), || format!("tenant {:?} keeps an empty user", tenant.name))?;
                let marked: Vec<ClassIndex> = queue.classes.iter().collect();
                let held: Vec<ClassIndex> = queue.buckets.iter().map(|bucket| bucket.class).collect();
                ensure(marked == held, || format!("tenant {:?} marks {marked:?} and holds {held:?}", tenant.name))?;
                let mut heads: Vec<(QueueKey, ClassIndex)> =
                    queue.buckets.iter().filter_map(|bucket| Some((*bucket.keys.first()?, bucket.class))).collect();
                heads.sort_unstable();
                ensure(heads == queue.heads, || {
                    format!("tenant {:?} lists the heads {:?}, they are {heads:?}", tenant.name, queue.heads)
                })?;
                for Bucket { class, keys } in &queue.buckets {
                    ensure(!keys.is_empty(), || format!("tenant {:?} keeps an empty bucket", tenant.name))?;
                    count += keys.len();
                    let place = (tenant.index, *priority, *user, *class);
                    found.extend(keys.iter().map(|key| ((place, key.job), *key)));
                }
            }
        }
        ensure(tenant.queue.len == count, || {
            format!("the queue of {:?} counts {} and holds {count}", tenant.name, tenant.queue.len)
        })?;
    }
    Ok(found)
}
