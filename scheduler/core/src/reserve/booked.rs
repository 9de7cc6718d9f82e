//! What is booked, as a job sees it that asks for a place now, or at a time to come.
//!
//! In: a start that is thought of. Out: the index with those booked nodes on which it may lie; the request narrowed to the
//! nodes of the booking that it names; and the bookings as something set aside that the walk forward in time takes and gives
//! back. Nothing of it is done where nothing is booked.

use std::borrow::Cow;

use smallvec::SmallVec;

use crate::admit::start::Wish;
use crate::blocked::Blocked;
use crate::booking::Stage;
use crate::cluster::Cluster;
use crate::ids::{JobId, PoolIndex};
use crate::node::SetAside;
use crate::place::PlaceIndex;
use crate::placement::{Members, Placed};
use crate::request::{Constraints, Request};
use crate::reserve::Reservation;
use crate::units::{CpuMilli, MemoryMib, Time};

/// No job has this id: what is booked is set aside for nobody.
const NOBODY: JobId = JobId(0);

/// Shows a job that would start at `at` those booked nodes of `pool` on which it may lie, beside what is set aside there. For
/// trial changes.
pub(crate) fn show(cluster: &Cluster, index: &mut PlaceIndex, wish: &Wish<'_>, pool: PoolIndex, at: Time) {
    for node in cluster.bookings.nodes().map(|node| cluster.node(node)) {
        if node.pool == pool && cluster.admits(node.index, wish, at) {
            index.set_aside(node, &node.reserved);
        }
    }
}

/// Shows all booked nodes, whoever may lie there: what is not open to a job is taken away again in time. For trial changes.
pub(super) fn show_all(cluster: &mut Cluster) {
    let Cluster { bookings, nodes, index, .. } = cluster;
    for node in bookings.nodes() {
        index.set_aside(&nodes[node.at()], &SetAside::default());
    }
}

/// What a job asks for, where it names a booking of the nodes of that alone.
///
/// # Errors
/// The booking has not begun, or no node of it is among those that the job names.
pub(crate) fn narrowed<'r>(
    cluster: &Cluster,
    request: &'r Request,
    wish: &Wish<'_>,
    pool: PoolIndex,
) -> Result<Cow<'r, Request>, Blocked> {
    let Some(booking) = wish.booking.and_then(|id| cluster.booking(id)) else { return Ok(Cow::Borrowed(request)) };
    if booking.stage != Stage::Begun {
        return Err(Blocked::AwaitsBooking { booking: booking.id, from: booking.from });
    }
    let named = &request.only.include;
    let is_open = |node: &crate::ids::NodeIndex| named.is_empty() || named.contains(node);
    let include: Box<[_]> = booking.nodes.iter().copied().filter(is_open).collect();
    if include.is_empty() {
        return Err(Blocked::NotEnoughMatching { pool, want: request.least_members(), fit: 0, nodes: 0 });
    }
    let only = Constraints { include, ..request.only.clone() };
    Ok(Cow::Owned(Request { only, ..request.clone() }))
}

/// What is booked in `pool` and not open to a job, as reservations that it must not overlap; then what is set aside already.
pub(super) fn with_booked<'t>(
    cluster: &Cluster,
    wish: &Wish<'_>,
    pool: PoolIndex,
    taken: &'t [Reservation],
) -> Cow<'t, [Reservation]> {
    if cluster.bookings.is_empty() {
        return Cow::Borrowed(taken);
    }
    let closed = cluster.bookings().filter(|booking| !booking.is_open_to(cluster, wish.tenant, wish.booking));
    let booked = closed.filter_map(|booking| {
        let nodes = booking.nodes.iter().map(|node| cluster.node(*node)).filter(|node| node.pool == pool);
        let members: Members = nodes.map(|node| Placed::whole(node.index, node.capacity.gpus)).collect();
        let (from, until) = (booking.from, booking.until.unwrap_or(Time(u64::MAX)));
        let (cpu, memory) = (CpuMilli::ZERO, MemoryMib::ZERO);
        let is_there = !members.is_empty();
        let kept = Reservation { job: NOBODY, pool, members, cpu, memory, from, until, is_own: true, reclaims: false };
        is_there.then_some(kept)
    });
    Cow::Owned(booked.chain(taken.iter().cloned()).collect())
}

impl Cluster {
    /// What bookings say to a job that waits: the one that it names and that has not begun, or the first that keeps idle GPUs
    /// from it, in each of its pools.
    pub(crate) fn kept_from(&self, wish: &Wish<'_>, now: Time) -> SmallVec<[Blocked; 1]> {
        if let Some(own) = wish.booking.and_then(|id| self.booking(id)) {
            let awaits = Blocked::AwaitsBooking { booking: own.id, from: own.from };
            return (own.stage != Stage::Begun).then_some(awaits).into_iter().collect();
        }
        if self.bookings.is_empty() {
            return SmallVec::new();
        }
        let first = |pool: &PoolIndex| {
            let (booking, idle) = self.booked_from(wish, *pool, now).into_iter().next()?;
            let (booking, from, until) = (booking.id, booking.from, booking.until);
            Some(Blocked::Booked { booking, pool: *pool, idle, from, until })
        };
        wish.request.pools.iter().filter_map(first).collect()
    }
}
