//! The list of ended jobs names each of them once, in the order of their ends; remembered answers have one place each.
//!
//! Source: both bound memory, so that what is not in the list would stay for ever.

use std::collections::BTreeSet;

use super::{Check, ensure};
use crate::cluster::Cluster;
use crate::ids::JobId;
use crate::job::Phase;

pub(super) fn check(cluster: &Cluster) -> Check {
    let listed: BTreeSet<JobId> = cluster.ended.iter().copied().collect();
    let ended = cluster.jobs.iter().filter(|job| matches!(job.phase, Phase::Ended(_))).map(|job| job.id);
    let ended: BTreeSet<JobId> = ended.collect();
    ensure(listed.len() == cluster.ended.len(), || "an ended job is listed twice".into())?;
    ensure(listed == ended, || format!("listed as ended are {listed:?}, ended are {ended:?}"))?;
    let times = || cluster.ended.iter().filter_map(|id| cluster.job(*id)?.ended_at);
    ensure(times().zip(times().skip(1)).all(|(first, next)| first <= next), || "an ended job is out of order".into())?;
    let order: BTreeSet<_> = cluster.request_order.iter().collect();
    let remembered: BTreeSet<_> = cluster.requests.keys().collect();
    ensure(order == remembered && order.len() == cluster.request_order.len(), || {
        "the remembered answers and their order differ".into()
    })
}
