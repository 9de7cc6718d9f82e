//! Backfill: jobs that start on what is set aside, because they are over before it is wanted.
//!
//! In: the queue in its order, after the plain cycle. Out: starts. A job sees its own reservation, and of the others those
//! that begin after it is over at the latest. The first blocked jobs are tried first, then the rest in order, a bounded
//! number of them. A job whose limit may be lowered gets the longest one with which it starts now.
//! Who starts inside its quota may have what another mission has set aside if the plan, made anew around it, gives nobody a
//! later time. It must never let a job overlap a reservation of another.

use std::collections::{BTreeMap, BTreeSet};

use crate::admit::start::{self, Found, Pay, Refused, Site, Wish};
use crate::blocked::Blocked;
use crate::cluster::Cluster;
use crate::cycle::{self, Cycled};
use crate::decide::{Events, emit};
use crate::event::Event;
use crate::ids::{ClassIndex, JobId, PoolIndex, TenantIndex};
use crate::job::{Job, JobSpec};
use crate::order::Order;
use crate::place::PlaceIndex;
use crate::placement::Members;
use crate::request::Request;
use crate::reserve::{Comer, Reservation, heads, over_by, vain};
use crate::units::{Span, Time};

/// Looks at the order for each job that is tried.
const STEPS_PER_TRY: u32 = 4;

/// Times in one cycle that the plan is tried anew around a start.
const MAX_MOVES: u32 = 4;

/// What came of a try.
enum Tried {
    Started,
    /// It stays refused until something happens.
    InVain(Refused),
    /// The plan cannot be made anew around it in this cycle any more.
    Undecided,
}

/// Starts what may start beside the reservations.
pub(crate) fn fill(cluster: &mut Cluster, now: Time, cycled: &mut Cycled, out: &mut Events) {
    let (jobs, mut moves) = (cycled.jobs, MAX_MOVES);
    invited(cluster, &mut moves, now, cycled, out);
    if !is_plain(cluster) && vain::begin(cluster, now) {
        let is_known = heads(cluster, &mut moves, now, cycled, out);
        let is_settled = rest(cluster, &mut moves, now, cycled, out) && is_known;
        vain::settle(cluster, is_settled);
    }
    if cycled.jobs > jobs {
        // What could have started where these did may now have others evicted.
        cluster.plans.look_again();
        cycled.more = true;
    }
}

/// Whether nothing is set aside or booked: the plain cycle has tried all.
pub(super) fn is_plain(cluster: &Cluster) -> bool {
    cluster.reservations().is_empty() && cluster.bookings.is_empty()
}

/// The jobs that name a booking which has begun, in their order: of a class and tenant that found no place none is tried again.
fn invited(cluster: &mut Cluster, moves: &mut u32, now: Time, cycled: &mut Cycled, out: &mut Events) {
    if cluster.bookings.is_empty() || cluster.bookings.seen == Some(cluster.versions()) {
        return;
    }
    let most = cluster.policy.max_placements_per_cycle;
    let mut in_vain: BTreeMap<(ClassIndex, TenantIndex), Span> = BTreeMap::new();
    let invited: Vec<JobId> = cluster.bookings.invited().collect();
    for id in invited {
        let Some((class, limit)) = kind_of(cluster, id) else { continue };
        if in_vain.get(&class).is_some_and(|shortest| *shortest <= limit) {
            continue;
        }
        // An array starts one index after the other.
        while kind_of(cluster, id).is_some() {
            if cycled.jobs >= most {
                cycled.more = true;
                return;
            }
            match start(cluster, id, moves, now, cycled, out) {
                Tried::Started => {}
                Tried::InVain(why) => {
                    if vain::speaks_for_class(job_of(cluster, id), why) {
                        in_vain.insert(class, limit);
                    }
                    if let Refused::Placement(why) = why {
                        cluster.refused.note_no_room(class.0, why);
                    }
                    break;
                }
                Tried::Undecided => break,
            }
        }
    }
    cluster.bookings.seen = Some(cluster.versions());
}

/// The class of a queued job in its tenant, and the shortest limit that it may have.
fn kind_of(cluster: &Cluster, id: JobId) -> Option<((ClassIndex, TenantIndex), Span)> {
    let job = cluster.job(id)?;
    Some(((job.queued?.class, job.spec.tenant), job.spec.least_limit()))
}

/// The jobs that hold reservations. Whether each was started or refused.
fn heads(cluster: &mut Cluster, moves: &mut u32, now: Time, cycled: &mut Cycled, out: &mut Events) -> bool {
    let heads: Vec<JobId> = cluster.reserved.list.iter().map(|reservation| reservation.job).collect();
    let mut is_known = true;
    for id in heads {
        if cluster.job(id).is_none_or(|job| job.queued.is_none()) || cluster.reserved.vain.is_refused(id) {
            continue;
        }
        match start(cluster, id, moves, now, cycled, out) {
            Tried::Started => {}
            Tried::InVain(why) => vain::refuse_alone(cluster, id, why),
            Tried::Undecided => is_known = false,
        }
    }
    is_known
}

/// The jobs behind the first ones, in their order. Whether each that may be tried was started or refused.
fn rest(cluster: &mut Cluster, moves: &mut u32, now: Time, cycled: &mut Cycled, out: &mut Events) -> bool {
    let refused = vain::lend(cluster);
    let mut order = Order::begin(cluster, now);
    let (mut tries, most) = (0, cluster.policy.max_backfill_per_cycle);
    let (mut is_settled, mut undecided, mut invited) = (false, Vec::new(), Vec::new());
    for _ in 0..most.saturating_mul(STEPS_PER_TRY) {
        if tries == most {
            break;
        }
        let Some(first) = order.next(cluster) else {
            is_settled = undecided.is_empty();
            break;
        };
        if cluster.is_invited(first) {
            // It was tried in its booking, or waits for it.
            invited.extend(vain::close_for_now(cluster, first));
            order.refused(cluster);
            continue;
        }
        let Some(id) = vain::candidate(cluster, first) else {
            vain::close(cluster, first);
            order.refused(cluster);
            continue;
        };
        if cluster.reserved.vain.is_refused(id) {
            order.skip(cluster, first);
            continue;
        }
        tries += 1;
        match start(cluster, id, moves, now, cycled, out) {
            Tried::Started => order.placed(cluster),
            Tried::InVain(why) => {
                if vain::refuse(cluster, id, why) {
                    order.skip(cluster, id);
                } else {
                    order.again();
                }
            }
            Tried::Undecided => {
                undecided.extend(vain::close_for_now(cluster, id));
                order.refused(cluster);
            }
        }
    }
    order.end(cluster);
    undecided.extend(invited);
    vain::give_back(cluster, refused, &undecided);
    is_settled
}

fn job_of(cluster: &Cluster, id: JobId) -> &Job {
    cluster.job(id).expect("only jobs that exist are tried")
}

/// Starts a job if it finds a place beside the reservations.
fn start(cluster: &mut Cluster, id: JobId, moves: &mut u32, now: Time, cycled: &mut Cycled, out: &mut Events) -> Tried {
    let JobSpec { time_limit, time_min, .. } = job_of(cluster, id).spec;
    let mut looked = look(cluster, id, time_limit, moves, now);
    if let (Err(Tried::InVain(why)), Some(least)) = (&looked, time_min)
        && may_help(*why)
    {
        looked = lowered(cluster, id, least, moves, now);
    }
    let (found, left) = match looked {
        Ok(found) => found,
        Err(tried) => return tried,
    };
    cycled.jobs += 1;
    cycled.members += found.members.len() as u32;
    if let Some(reservations) = left {
        emit(cluster, now, Event::Planned { reservations }, out);
    }
    cycle::begin(cluster, id, found, now, out);
    Tried::Started
}

/// A place beside the reservations, and the reservations as they are then, where they change.
type Start = (Found, Option<Vec<Reservation>>);

/// A place with this limit. What starts inside its quota comes before every borrower; a borrower that can be gone in time may
/// overlap what a job inside its quota waits for: that eviction is planned.
fn look(cluster: &mut Cluster, id: JobId, limit: Span, moves: &mut u32, now: Time) -> Result<Start, Tried> {
    match start::find(&mut Beside { cluster, job: id, limit, moves: false, now }, Pay::IfItFits) {
        Ok(found) => {
            let left = left_by(cluster, id, &found, now);
            Ok((found, left))
        }
        Err(why @ (Refused::Placement(_) | Refused::Alone(_))) => match amid(cluster, id, limit, moves, now) {
            Amid::Found(found, left) => Ok((found, Some(left))),
            Amid::Nowhere => Err(Tried::InVain(why)),
            Amid::Unknown => Err(Tried::Undecided),
        },
        Err(why) => Err(Tried::InVain(why)),
    }
}

/// Whether a shorter limit may help: caps and budgets are asked with the job's own.
pub(super) fn may_help(why: Refused) -> bool {
    match why {
        Refused::Cap(_) | Refused::Budget(_) => false,
        Refused::Admission(why) | Refused::Placement(why) | Refused::Alone(why) => {
            !matches!(why, Blocked::OverBudget { .. })
        }
    }
}

/// A place with the longest limit from `least` up to the job's own, which has none: it ends when the first begins that would
/// be in its way. The shorter the limit, the less is: O(log(reservations + bookings)) searches.
fn lowered(cluster: &mut Cluster, id: JobId, least: Span, moves: &mut u32, now: Time) -> Result<Start, Tried> {
    let (mut best, mut left) = look(cluster, id, least, moves, now)?;
    let limits = limits_above(cluster, id, least, now);
    let (mut fit, mut too_long) = (0, limits.len());
    while fit < too_long {
        let (middle, job) = (fit + (too_long - fit) / 2, id);
        match start::find(&mut Beside { cluster, job, limit: limits[middle], moves: false, now }, Pay::IfItFits) {
            Ok(found) => {
                left = left_by(cluster, id, &found, now);
                (best, fit) = (found, middle + 1);
            }
            Err(_) => too_long = middle,
        }
    }
    Ok((best, left))
}

/// The limits above `least` and below its own with which a job that starts now is over just when something set aside or
/// booked begins, the shortest first.
fn limits_above(cluster: &Cluster, id: JobId, least: Span, now: Time) -> Vec<Span> {
    let spec = &job_of(cluster, id).spec;
    let without = over_by(&cluster.policy, Span::ZERO, spec.grace, now);
    let begins = cluster.reservations().iter().map(|other| other.from);
    let begins = begins.chain(cluster.bookings().map(|booking| booking.from));
    let limits: BTreeSet<Span> = begins.filter(|from| *from > without).map(|from| from.since(without)).collect();
    limits.into_iter().filter(|limit| *limit > least && *limit < spec.time_limit).collect()
}

/// The reservations without those of borrowers that a start inside its quota passes.
fn left_by(cluster: &Cluster, id: JobId, found: &Found, now: Time) -> Option<Vec<Reservation>> {
    let wish = Wish::of(job_of(cluster, id)).lasting(found.limit);
    let over_by = over_by(&cluster.policy, wish.time_limit, wish.grace, now);
    let comer = Comer { wish, scavenger: found.scavenger, moves: false, now };
    let is_own = comer.is_own(cluster, found.pool);
    let is_passed = |other: &Reservation| is_own && !other.is_own && other.from < over_by && other.job != id;
    cluster.without_overlapped(&found.members, is_passed)
}

/// What came of the search for a start amid the reservations of other missions.
enum Amid {
    /// The reservations planned anew around it, none of them later than before.
    Found(Found, Vec<Reservation>),
    Nowhere,
    /// The plan was made anew too often in this cycle.
    Unknown,
}

/// A place for a job that starts inside its quota on what other missions have set aside. Around each job a plan is made anew
/// once with each limit: that costs as much as the plan.
fn amid(cluster: &mut Cluster, id: JobId, limit: Span, moves: &mut u32, now: Time) -> Amid {
    let is_own = |cluster: &Cluster, pool: PoolIndex, scavenger: bool| {
        Comer { wish: Wish::of(job_of(cluster, id)), scavenger, moves: true, now }.is_own(cluster, pool)
    };
    let pools = &job_of(cluster, id).spec.request.pools;
    if !pools.iter().any(|pool| is_own(cluster, *pool, false)) {
        return Amid::Nowhere;
    }
    let Ok(found) = start::find(&mut Beside { cluster, job: id, limit, moves: true, now }, Pay::FromBudget) else {
        return Amid::Nowhere;
    };
    if !is_own(cluster, found.pool, found.scavenger) {
        return Amid::Nowhere;
    }
    if *moves == 0 {
        return Amid::Unknown;
    }
    if cluster.reserved.vain.is_moved(id, limit) {
        return Amid::Nowhere;
    }
    *moves -= 1;
    let job = job_of(cluster, id);
    let (cpu, memory) = (job.spec.request.cpu, job.spec.request.memory);
    let until = over_by(&cluster.policy, limit, job.spec.grace, now);
    let (pool, members) = (found.pool, found.members.clone());
    let start = Reservation { job: id, pool, members, cpu, memory, from: now, until, is_own: true, reclaims: false };
    heads::around(cluster, start, now).map_or(Amid::Nowhere, |left| Amid::Found(found, left))
}

/// A job of the queue, tried among what is free and what is set aside for itself, for later, or for those that it passes.
struct Beside<'c> {
    cluster: &'c mut Cluster,
    job: JobId,
    limit: Span,
    /// What other missions set aside is planned anew around it.
    moves: bool,
    now: Time,
}

impl Site for Beside<'_> {
    fn cluster(&self) -> &Cluster {
        self.cluster
    }

    fn wish(&self) -> Wish<'_> {
        Wish::of(job_of(self.cluster, self.job)).lasting(self.limit).starting_at(self.now)
    }

    fn is_choosy(&self) -> bool {
        !job_of(self.cluster, self.job).avoid.is_empty()
    }

    fn index(&mut self) -> &mut PlaceIndex {
        &mut self.cluster.index
    }

    fn place(&mut self, pool: PoolIndex, most: u32, scavenger: bool) -> Result<Members, Blocked> {
        let Self { job, limit, moves, now, .. } = *self;
        let (mut index, mut scratch) =
            (std::mem::take(&mut self.cluster.index), std::mem::take(&mut self.cluster.scratch));
        let cluster = &*self.cluster;
        let entry = job_of(cluster, job);
        let comer = Comer { wish: Wish::of(entry).lasting(limit), scavenger, moves, now };
        let most = comer.most(cluster, pool, most);
        let mark = index.checkpoint();
        super::lift_for(cluster, &mut index, &comer, pool);
        let steps = cluster.policy.search_steps;
        let request = super::narrowed(cluster, &entry.spec.request, &comer.wish, pool);
        let mut place = |request: &Request| index.place_most(request, most, pool, &entry.avoid, steps, &mut scratch);
        let found = request.and_then(|request| place(&request));
        index.rollback(mark);
        (self.cluster.index, self.cluster.scratch) = (index, scratch);
        found
    }
}

/// Whether a job that waits would find a place beside the reservations, as they are and as things stood when backfill looked
/// last, though it is passed over.
pub(super) fn could_start(cluster: &mut Cluster, job: JobId, at: Time) -> bool {
    let JobSpec { time_limit, time_min, .. } = job_of(cluster, job).spec;
    let mut tries =
        |limit| start::find(&mut Beside { cluster, job, limit, moves: false, now: at }, Pay::IfItFits).map(|_| ());
    match (tries(time_limit), time_min) {
        (Err(why), Some(least)) if may_help(why) => tries(least).is_ok(),
        (tried, _) => tried.is_ok(),
    }
}
