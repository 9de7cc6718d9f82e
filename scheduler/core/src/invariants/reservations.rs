//! A reservation is for a job that is in the queue, each for another; it names one set of GPUs for each member, of the size
//! that the member asks for; no GPU is set aside twice for overlapping times; what nodes set aside is what the
//! reservations say.
//!
//! Source: design 5.2, "holds a reservation of nodes at its earliest feasible time".

use std::collections::BTreeMap;

use super::{Check, ensure};
use crate::cluster::Cluster;
use crate::ids::NodeIndex;
use crate::node::SetAside;
use crate::reserve::Reservation;

pub(super) fn check(cluster: &Cluster) -> Check {
    let mut sums: BTreeMap<NodeIndex, SetAside> = BTreeMap::new();
    for (at, reservation) in cluster.reservations().iter().enumerate() {
        check_members(cluster, reservation)?;
        let before = &cluster.reservations()[..at];
        ensure(before.iter().all(|other| other.job != reservation.job), || {
            format!("job {} holds two reservations", reservation.job)
        })?;
        for other in before {
            let meets = other.from < reservation.until && reservation.from < other.until;
            ensure(!meets || !shares(other, reservation), || {
                format!("jobs {} and {} have the same GPUs at the same time", other.job, reservation.job)
            })?;
        }
        for placed in &reservation.members {
            let sum = sums.entry(placed.node).or_default();
            sum.gpus = sum.gpus.with(placed.gpus);
            sum.cpu += reservation.cpu;
            sum.memory += reservation.memory;
        }
    }
    for node in &cluster.nodes {
        let counted = sums.get(&node.index).copied().unwrap_or_default();
        ensure(node.reserved == counted, || {
            format!("node {} sets aside {:?}, the reservations {counted:?}", node.name, node.reserved)
        })?;
    }
    Ok(())
}

fn check_members(cluster: &Cluster, reservation: &Reservation) -> Check {
    let id = reservation.job;
    let Some(job) = cluster.job(id) else { return Err(format!("GPUs are set aside for {id}, which does not exist")) };
    ensure(job.queued.is_some(), || format!("GPUs are set aside for {id}, which is in no queue"))?;
    ensure(job.spec.request.pools.contains(&reservation.pool), || format!("{id} may not run where it is set aside"))?;
    let shape = &job.spec.request.shape;
    let least = job.spec.request.least_members();
    ensure(least as usize == reservation.members.len(), || format!("{id} starts with {least} members at least"))?;
    reservation.members.iter().enumerate().try_for_each(|(rank, placed)| {
        ensure(placed.gpus.len() == u32::from(shape.gpus_of(rank)), || {
            format!("for member {rank} of {id} {:?} are set aside", placed.gpus)
        })
    })
}

fn shares(one: &Reservation, other: &Reservation) -> bool {
    let meets =
        |a: &crate::placement::Placed| other.members.iter().any(|b| a.node == b.node && !a.gpus.and(b.gpus).is_empty());
    one.members.iter().any(meets)
}
