//! Bookings: made, taken back, cleared and begun; and which nodes of a pool cost least.
//!
//! In: a draft with names. Out: the booking, or a `Refusal`. Two bookings never keep one node at once. What runs on the nodes
//! and is not over by its limit before the begin is stopped in time, with its grace, and waits again; where that must not be
//! evicted the booking is refused, unless it is forced. Who books inside the own quota takes nothing from what others run
//! inside theirs.

use std::collections::BTreeSet;

use crate::admit::{MAX_NAME, find_tenant, fits, tenant};
use crate::booking::{Booking, Purpose, Stage};
use crate::classes::ClassKey;
use crate::cluster::Cluster;
use crate::decide::{Events, emit};
use crate::event::Event;
use crate::finish;
use crate::ids::{BookingId, JobId, NodeIndex, PoolIndex, TenantIndex};
use crate::input::BookingDraft;
use crate::job::{Job, Phase, StopReason};
use crate::node::{Contact, Node};
use crate::plan::latest_end;
use crate::rejected::{BookingRefusal, Refusal, Rejected};
use crate::reply::Reply;
use crate::units::{GpuTime, Gpus, Span, Time};

/// Keeps nodes for a period to come.
pub(crate) fn book(
    cluster: &mut Cluster,
    draft: &BookingDraft,
    now: Time,
    out: &mut Events,
) -> Result<Reply, Rejected> {
    check_name(cluster, &draft.name)?;
    check_dates(cluster, draft, now)?;
    let limit = cluster.policy.max_bookings;
    if cluster.bookings.len() >= limit as usize {
        return Err(BookingRefusal::TooMany { limit }.into());
    }
    let purpose = purpose(cluster, draft)?;
    // Which nodes it has is not known yet; whom it would stop is the same whatever they are.
    let mut booking = Booking {
        id: cluster.bookings.next_id(),
        name: draft.name.clone(),
        nodes: Box::default(),
        from: draft.from,
        until: draft.until,
        purpose,
        evicts: !draft.spares_running,
        clears_at: draft.from,
        made_at: now,
        stage: Stage::Ahead,
    };
    booking.nodes = match &draft.nodes[..] {
        [] => cheapest(cluster, draft, &booking, now)?,
        names => named(cluster, draft, &booking, names, now)?,
    };
    if draft.inside_quota {
        check_quota(cluster, &booking, now)?;
    }
    booking.clears_at = clears_at(cluster, &booking, now);
    let id = booking.id;
    for node in booking.nodes.iter().copied().filter(|node| cluster.node(*node).spare).collect::<Vec<_>>() {
        emit(cluster, now, Event::NodeSpared { node, spare: false }, out);
    }
    emit(cluster, now, Event::BookingMade { booking: Box::new(booking) }, out);
    Ok(Reply::Booking(id))
}

/// Takes a booking back.
pub(crate) fn cancel(cluster: &mut Cluster, name: &str, now: Time, out: &mut Events) -> Result<Reply, Rejected> {
    let booking = find(cluster, name)?.id;
    emit(cluster, now, Event::BookingCancelled { booking }, out);
    Ok(Reply::Booking(booking))
}

/// The booking of this name.
pub(super) fn find<'c>(cluster: &'c Cluster, name: &str) -> Result<&'c Booking, BookingRefusal> {
    cluster.find_booking(name).ok_or_else(|| {
        let known = cluster.bookings().map(|booking| booking.name.clone()).collect();
        BookingRefusal::Unknown { name: name.into(), known }
    })
}

/// The booking that a job of `of` names; none where it names none.
pub(super) fn of_job(cluster: &Cluster, name: &str, of: TenantIndex) -> Result<Option<BookingId>, Refusal> {
    if name.is_empty() {
        return Ok(None);
    }
    let booking = find(cluster, name)?;
    match booking.purpose {
        Purpose::Maintenance => Err(BookingRefusal::ForNobody { name: name.into() }.into()),
        Purpose::Jobs { tenant, .. } if !cluster.is_within(of, tenant) => {
            let tenant = cluster.tenant(tenant).name.clone();
            Err(BookingRefusal::ForOthers { name: name.into(), tenant }.into())
        }
        Purpose::Jobs { .. } => Ok(Some(booking.id)),
    }
}

/// Whether the nodes of the booking that jobs of a class name hold one of them when nothing else runs there.
pub(super) fn check_room(cluster: &Cluster, key: &ClassKey) -> Result<(), BookingRefusal> {
    let Some(booking) = key.booking.and_then(|id| cluster.booking(id)) else { return Ok(()) };
    if fits::on(cluster, &key.request, &booking.nodes) {
        return Ok(());
    }
    Err(BookingRefusal::TooSmall { name: booking.name.clone(), nodes: booking.nodes.len() as u32 })
}

fn check_name(cluster: &Cluster, name: &str) -> Result<(), BookingRefusal> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(is_plain) {
        return Err(BookingRefusal::BadName { name: name.into() });
    }
    match cluster.find_booking(name) {
        Some(there) => Err(BookingRefusal::NameTaken { name: name.into(), from: there.from }),
        None => Ok(()),
    }
}

fn check_dates(cluster: &Cluster, draft: &BookingDraft, now: Time) -> Result<(), BookingRefusal> {
    let BookingDraft { from, until, .. } = *draft;
    let latest = now + cluster.policy.max_booking_ahead;
    if from < now {
        return Err(BookingRefusal::InThePast { from, now });
    }
    if from > latest {
        return Err(BookingRefusal::TooFarAhead { from, latest });
    }
    match until {
        Some(until) if until <= from => Err(BookingRefusal::EndsBeforeItBegins { from, until }),
        None if !draft.maintenance => Err(BookingRefusal::WithoutEnd),
        _ => Ok(()),
    }
}

fn purpose(cluster: &Cluster, draft: &BookingDraft) -> Result<Purpose, Refusal> {
    if draft.maintenance && (!draft.tenant.is_empty() || draft.all_jobs) {
        return Err(BookingRefusal::MaintenanceForJobs.into());
    }
    if draft.maintenance {
        return Ok(Purpose::Maintenance);
    }
    let tenant = find_tenant(cluster, &draft.tenant)?;
    if draft.all_jobs && tenant == TenantIndex::ROOT {
        return Err(BookingRefusal::ForAll.into());
    }
    Ok(Purpose::Jobs { tenant, all: draft.all_jobs })
}

/// The nodes that are named.
fn named(
    cluster: &Cluster,
    draft: &BookingDraft,
    booking: &Booking,
    names: &[Box<str>],
    now: Time,
) -> Result<Box<[NodeIndex]>, Refusal> {
    if draft.count > 0 {
        return Err(BookingRefusal::NamedAndCounted.into());
    }
    let unknown = |name: &str| Refusal::UnknownNode { name: name.into() };
    let nodes: BTreeSet<NodeIndex> =
        names.iter().map(|name| cluster.find_node(name).ok_or_else(|| unknown(name))).collect::<Result<_, _>>()?;
    for node in nodes.iter().map(|node| cluster.node(*node)) {
        if let Some(other) = met(cluster, booking, node) {
            let (name, booking) = (node.name.clone(), other.name.clone());
            return Err(BookingRefusal::NodeBooked { node: name, booking, from: other.from, until: other.until }.into());
        }
        if let Some((job, until)) = cost(cluster, draft, booking, node, now).taboo {
            let (node, fixed) = (node.name.clone(), cluster.job(job).is_some_and(|job| !job.spec.preemptible));
            return Err(BookingRefusal::InTheWay { node, job, until, fixed }.into());
        }
    }
    Ok(nodes.into_iter().collect())
}

/// So many nodes of a pool, those first on which least is lost; of equals neighbours.
fn cheapest(
    cluster: &Cluster,
    draft: &BookingDraft,
    booking: &Booking,
    now: Time,
) -> Result<Box<[NodeIndex]>, Refusal> {
    if draft.count == 0 {
        return Err(BookingRefusal::WithoutNodes.into());
    }
    let pool = tenant::find_pool(cluster, &draft.pool)?;
    let of_pool = || cluster.nodes.iter().filter(|node| node.pool == pool);
    let (want, all) = (draft.count, of_pool().count() as u32);
    let is_maintenance = booking.purpose == Purpose::Maintenance;
    let is_there = |node: &&Node| node.contact != Contact::Lost && !node.draining && (is_maintenance || !node.cordoned);
    let mut found: Vec<(Cost, &Node)> = of_pool()
        .filter(is_there)
        .filter(|node| met(cluster, booking, node).is_none())
        .map(|node| (cost(cluster, draft, booking, node, now), node))
        .filter(|(cost, _)| cost.taboo.is_none())
        .collect();
    let have = found.len() as u32;
    if have < want {
        let pool = cluster.pool(pool).name.clone();
        return Err(BookingRefusal::TooFewNodes { pool, want, all, have }.into());
    }
    found.sort_unstable_by(|(a, left), (b, right)| {
        let key = |cost: &Cost| (cost.own, cost.loss, cost.running);
        key(a).cmp(&key(b)).then_with(|| (&left.location, left.index).cmp(&(&right.location, right.index)))
    });
    let mut nodes: Vec<NodeIndex> = found.into_iter().take(want as usize).map(|(_, node)| node.index).collect();
    nodes.sort_unstable();
    Ok(nodes.into())
}

/// The booking of a node that would hold at the same time.
fn met<'c>(cluster: &'c Cluster, booking: &Booking, node: &Node) -> Option<&'c Booking> {
    cluster.bookings_of(node.index).find(|other| other.meets(booking.from, booking.until))
}

/// What a booking would take on a node.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    /// Attempts inside their quota that would be stopped.
    own: u32,
    /// What all that would be stopped would lose.
    loss: GpuTime,
    /// Attempts that run there now, whenever they end.
    running: u32,
    /// One that must not be stopped for it, and when that is over.
    taboo: Option<(JobId, Time)>,
}

fn cost(cluster: &Cluster, draft: &BookingDraft, booking: &Booking, node: &Node, now: Time) -> Cost {
    let mut cost = Cost::default();
    let jobs: BTreeSet<JobId> = node.residents.iter().map(|resident| resident.job).collect();
    for job in jobs.into_iter().filter_map(|job| cluster.job(job)) {
        let Some(attempt) = job.live_attempt() else { continue };
        cost.running += 1;
        let Some(until) = in_way(cluster, booking, job, now).filter(|_| booking.evicts) else { continue };
        let lost = now.since(job.kept_until(attempt).min(now));
        let loss = attempt.gpus().over(lost);
        cost.loss = GpuTime(cost.loss.0.saturating_add(loss.0));
        cost.own += u32::from(!attempt.borrowed);
        let is_fixed = !job.spec.preemptible && !draft.force;
        let is_of_others = draft.inside_quota && !attempt.borrowed && !is_of_mission(cluster, booking, job);
        if is_fixed || is_of_others {
            cost.taboo = cost.taboo.or(Some((job.id, until)));
        }
    }
    cost
}

fn is_of_mission(cluster: &Cluster, booking: &Booking, job: &Job) -> bool {
    match booking.purpose {
        Purpose::Maintenance => false,
        Purpose::Jobs { tenant, .. } => cluster.mission(tenant) == cluster.mission(job.spec.tenant),
    }
}

/// When an attempt is over by its limit that would run into a booking and may not run in it; none of any other, and of what is
/// being stopped.
fn in_way(cluster: &Cluster, booking: &Booking, job: &Job, now: Time) -> Option<Time> {
    if !matches!(job.phase, Phase::Launching | Phase::Running) || booking.is_for(cluster, job) {
        return None;
    }
    latest_end(cluster, job, now).filter(|end| *end > booking.from)
}

/// What runs on the nodes of a booking and would run into it.
fn all_in_way(cluster: &Cluster, booking: &Booking, now: Time) -> Vec<JobId> {
    let residents = booking.nodes.iter().flat_map(|node| &cluster.node(*node).residents);
    let jobs: BTreeSet<JobId> = residents.map(|resident| resident.job).collect();
    let is_in_way = |id: &JobId| cluster.job(*id).is_some_and(|job| in_way(cluster, booking, job, now).is_some());
    jobs.into_iter().filter(is_in_way).collect()
}

/// When what would run into a booking must be told to go: by the longest of their graces before it begins.
fn clears_at(cluster: &Cluster, booking: &Booking, now: Time) -> Time {
    let jobs = if booking.evicts { all_in_way(cluster, booking, now) } else { Vec::new() };
    let graces = jobs.iter().filter_map(|job| cluster.job(*job)).map(|job| job.spec.grace);
    let lead = graces.max().map_or(Span::ZERO, |grace| grace + cluster.policy.kill_bound);
    Time(booking.from.0.saturating_sub(lead.0)).max(now)
}

/// Whether what is booked for the missions above stays inside their quotas, from the begin to the end.
fn check_quota(cluster: &Cluster, booking: &Booking, now: Time) -> Result<(), BookingRefusal> {
    let Purpose::Jobs { tenant, .. } = booking.purpose else { return Err(BookingRefusal::ForNoMission) };
    if tenant == TenantIndex::ROOT {
        return Err(BookingRefusal::ForNoMission);
    }
    let pools: BTreeSet<PoolIndex> = booking.nodes.iter().map(|node| cluster.node(*node).pool).collect();
    let inside = |at: Time| at == booking.from || (booking.from < at && booking.until.is_none_or(|until| at < until));
    for pool in pools {
        let dates = cluster.calendar().flat_map(|dated| [Some(dated.key.from), dated.until]).flatten();
        let begins = cluster.bookings().map(|other| other.from);
        let times: BTreeSet<Time> =
            dates.chain(begins).chain([booking.from.max(now)]).filter(|at| inside(*at)).collect();
        for (at, above) in times.iter().flat_map(|at| cluster.chain(tenant).map(|above| (*at, above))) {
            let quota = cluster.quota_at(above.index, pool, at).quota;
            // Below a mission a tenant without a quota has what its parent has.
            let quota = if above.depth == 1 { Some(quota.unwrap_or_default()) } else { quota };
            let Some(quota) = quota.filter(|_| above.depth > 0) else { continue };
            let is_of = |other: &&Booking| match other.purpose {
                Purpose::Maintenance => false,
                Purpose::Jobs { tenant, .. } => cluster.is_within(tenant, above.index),
            };
            let holds = |other: &&Booking| other.from <= at && other.until.is_none_or(|until| at < until);
            let others = cluster.bookings().filter(is_of).filter(holds);
            let booked: Gpus = others.map(|other| gpus_in(cluster, other, pool)).sum();
            let want = gpus_in(cluster, booking, pool);
            if booked + want > quota {
                let tenant = above.name.clone();
                return Err(BookingRefusal::OverQuota { tenant, want, booked, quota, at });
            }
        }
    }
    Ok(())
}

fn gpus_in(cluster: &Cluster, booking: &Booking, pool: PoolIndex) -> Gpus {
    let nodes = booking.nodes.iter().map(|node| cluster.node(*node)).filter(|node| node.pool == pool);
    nodes.map(|node| node.capacity.gpus.count()).sum()
}

/// What would run into a booking is told to go.
pub(crate) fn clear(cluster: &mut Cluster, id: BookingId, now: Time, out: &mut Events) {
    emit(cluster, now, Event::BookingCleared { booking: id }, out);
    evict(cluster, id, now, out);
}

/// The time of a booking has come. One without an end leaves its nodes drained, and is over.
pub(crate) fn begin(cluster: &mut Cluster, id: BookingId, now: Time, out: &mut Events) {
    emit(cluster, now, Event::BookingBegan { booking: id }, out);
    evict(cluster, id, now, out);
    let Some(booking) = cluster.booking(id).filter(|booking| booking.until.is_none()) else { return };
    for node in booking.nodes.clone() {
        if !cluster.node(node).draining {
            emit(cluster, now, Event::NodeCordoned { node, cordoned: true, draining: true }, out);
        }
    }
    emit(cluster, now, Event::BookingEnded { booking: id }, out);
}

fn evict(cluster: &mut Cluster, id: BookingId, now: Time, out: &mut Events) {
    // What comes to it late, after its end, is in nobody's way any more.
    let is_over = |booking: &Booking| booking.until.is_some_and(|end| end <= now);
    let Some(booking) = cluster.booking(id).filter(|of| of.evicts && !is_over(of)) else { return };
    for job in all_in_way(cluster, booking, now) {
        finish::stop(cluster, job, StopReason::Drained, now, out);
    }
}
