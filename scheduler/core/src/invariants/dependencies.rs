//! The graph of dependents holds exactly the open dependencies of waiting jobs, their counts agree, and there is no
//! circle, so that every job that waits for others can start or end one day.
//!
//! Source: design 4, "cycles refused at submit".

use std::collections::BTreeSet;

use petgraph::algo::is_cyclic_directed;

use super::{Check, ensure};
use crate::cluster::Cluster;
use crate::ids::JobId;
use crate::job::Phase;

pub(super) fn check(cluster: &Cluster) -> Check {
    let mut counted = BTreeSet::new();
    for job in cluster.jobs.iter().filter(|job| job.phase == Phase::Waiting) {
        let is_open = |on: JobId| cluster.job(on).is_some_and(|on| !matches!(on.phase, Phase::Ended(_)));
        let open: Vec<_> = job.spec.after.iter().filter(|dependency| is_open(dependency.job)).collect();
        ensure(open.len() == job.open_dependencies as usize, || {
            format!("job {} counts {} open dependencies, there are {}", job.id, job.open_dependencies, open.len())
        })?;
        counted.extend(open.into_iter().map(|dependency| (dependency.job, job.id, dependency.kind)));
    }
    let said: BTreeSet<_> = cluster.dependents.all_edges().map(|(on, waits, kind)| (on, waits, *kind)).collect();
    ensure(said == counted, || format!("the graph holds {said:?}, open are {counted:?}"))?;
    ensure(!is_cyclic_directed(&cluster.dependents), || format!("jobs wait for each other in a circle: {said:?}"))
}
