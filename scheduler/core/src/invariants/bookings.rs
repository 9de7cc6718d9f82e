//! No two bookings keep a node at once; what was placed on a booked node since the booking was made is over by its limit
//! before the begin, or may run in it, or came after its end; while it holds nobody else runs there whom it was to stop; who
//! names a booking lies in it; nodes say of themselves what the bookings say.
//!
//! Source: Slurm's reservations (scontrol create reservation); design 5.2, "advance reservations (maintenance, a campaign) are
//! the same object".

use std::collections::BTreeMap;

use super::{Check, ensure};
use crate::booking::{Booking, Purpose, Stage};
use crate::cluster::Cluster;
use crate::ids::NodeIndex;
use crate::job::{Job, Phase};
use crate::node::Booked;
use crate::plan::latest_end;
use crate::reserve::over_by;

pub(super) fn check(cluster: &Cluster) -> Check {
    let mut kept: BTreeMap<NodeIndex, Vec<&Booking>> = BTreeMap::new();
    for booking in cluster.bookings() {
        ensure(!booking.nodes.is_empty(), || format!("{:?} keeps nothing", booking.name))?;
        for node in &booking.nodes {
            let others = kept.entry(*node).or_default();
            let met = others.iter().find(|other| {
                let begins = booking.from.max(other.from);
                [booking.until, other.until].iter().all(|end| end.is_none_or(|end| begins < end))
            });
            ensure(met.is_none(), || format!("{:?} and another keep node {node} at once", booking.name))?;
            others.push(booking);
        }
    }
    for node in &cluster.nodes {
        let of = kept.get(&node.index).map(Vec::as_slice).unwrap_or_default();
        let maintained = of.iter().any(|one| one.purpose == Purpose::Maintenance && one.stage == Stage::Begun);
        let said = Booked { kept: !of.is_empty(), maintained };
        ensure(node.booked == said, || format!("node {} is {:?}, booked {said:?}", node.name, node.booked))?;
        let jobs = node.residents.iter().filter_map(|resident| cluster.job(resident.job));
        jobs.filter(|job| matches!(job.phase, Phase::Launching | Phase::Running))
            .try_for_each(|job| of.iter().try_for_each(|booking| check_job(cluster, booking, job)))?;
    }
    cluster.jobs.iter().try_for_each(|job| check_invited(cluster, job))
}

/// What runs on a booked node.
fn check_job(cluster: &Cluster, booking: &Booking, job: &Job) -> Check {
    let Some(attempt) = job.live_attempt() else { return Ok(()) };
    let limit = over_by(&cluster.policy, job.limit_of(attempt), job.spec.grace, attempt.placed_at);
    let is_for = booking.is_for(cluster, job);
    let is_before = limit <= booking.from || attempt.placed_at <= booking.made_at;
    // Its end may have come while the scheduler was away.
    let is_after = booking.until.is_some_and(|end| end <= attempt.placed_at);
    ensure(is_for || is_before || is_after, || {
        format!("job {} runs until {limit:?} on nodes that {:?} keeps from {:?}", job.id, booking.name, booking.from)
    })?;
    let end = latest_end(cluster, job, attempt.placed_at);
    let is_gone = end.is_none_or(|end| end <= booking.from);
    ensure(is_for || is_gone || is_after || booking.stage != Stage::Begun || !booking.evicts, || {
        format!("job {} runs on in {:?}, which has begun", job.id, booking.name)
    })
}

/// A job that names a booking.
fn check_invited(cluster: &Cluster, job: &Job) -> Check {
    let Some(id) = job.spec.booking else { return Ok(()) };
    let Some(booking) = cluster.booking(id) else { return Err(format!("job {} names a booking that is over", job.id)) };
    let nodes = job.live_attempt().into_iter().flat_map(|attempt| &attempt.members).map(|member| member.placed.node);
    let is_inside = nodes.into_iter().all(|node| booking.nodes.contains(&node));
    ensure(is_inside, || format!("job {} runs outside {:?}, which it names", job.id, booking.name))
}
