//! An array knows its started indices: those under way are within its cap, each index was started once, and what has ended
//! is counted as completed or failed.
//!
//! Source: design 5.3, "arrays with a concurrency cap are one object in memory until an index starts".

use std::collections::BTreeSet;

use super::{Check, ensure};
use crate::cluster::Cluster;
use crate::ids::JobId;
use crate::job::Phase;

pub(super) fn check(cluster: &Cluster) -> Check {
    for job in cluster.jobs.iter() {
        let (Some(array), Some(progress)) = (job.spec.array, job.progress.as_deref()) else {
            ensure(job.spec.array.is_none() && job.progress.is_none(), || format!("job {} is half an array", job.id))?;
            continue;
        };
        let of = |what: String| format!("array {}: {what}", job.id);
        let is_live = |index: &&crate::job::Job| !matches!(index.phase, Phase::Ended(_));
        let indices = || cluster.jobs.iter().filter(|index| index.index_of.is_some_and(|(of, _)| of == job.id));
        let live: BTreeSet<JobId> = indices().filter(is_live).map(|index| index.id).collect();
        ensure(live == progress.live, || of(format!("lists {:?}, under way are {live:?}", progress.live)))?;
        ensure(array.cap == 0 || live.len() <= array.cap as usize, || {
            of(format!("{live:?} pass its cap {}", array.cap))
        })?;
        ensure(progress.next <= array.size, || of(format!("started {} of {}", progress.next, array.size)))?;
        let ended = progress.completed + progress.failed;
        ensure(ended + live.len() as u32 == progress.next, || {
            of(format!("started {}, ended {ended}, under way {}", progress.next, live.len()))
        })?;
        let numbers: Vec<u32> = indices().filter_map(|index| Some(index.index_of?.1)).collect();
        let distinct: BTreeSet<u32> = numbers.iter().copied().collect();
        ensure(distinct.len() == numbers.len(), || of("an index was started twice".into()))?;
        let is_spread = progress.cancelled || progress.next == array.size;
        let is_over = is_spread && live.is_empty();
        let fits = match job.phase {
            Phase::Waiting => !is_spread,
            Phase::Spread => is_spread && !is_over,
            Phase::Ended(_) => live.is_empty(),
            _ => false,
        };
        ensure(fits, || of(format!("is {:?}, {progress:?}", job.phase)))?;
    }
    Ok(())
}
