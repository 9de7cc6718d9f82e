//! Backfill: jobs that start on what is set aside, because they are over before it is wanted.
//!
//! In: the queue in its order, after the plain cycle. Out: starts. A job sees its own reservation, and of the others those
//! that begin after it is over at the latest. The first blocked jobs are tried first, then the rest in order, a bounded
//! number of them.
//! Who starts inside its quota may have what another mission has set aside if the plan, made anew around it, gives nobody a
//! later time. It must never let a job overlap a reservation of another.

use std::collections::BTreeMap;

use crate::admit::start::{self, Found, Pay, Refused, Site, Wish};
use crate::blocked::Blocked;
use crate::cluster::Cluster;
use crate::cycle::{self, Cycled};
use crate::decide::{Events, emit};
use crate::event::Event;
use crate::ids::{ClassIndex, JobId, PoolIndex, TenantIndex};
use crate::job::Job;
use crate::order::Order;
use crate::placement::Members;
use crate::refused;
use crate::reserve::{Comer, Reservation, heads, over_by};
use crate::units::{Span, Time};

/// Jobs passed over for each one that is tried.
const STEPS_PER_TRY: u32 = 4;

/// Times in one cycle that the plan is tried anew around a start.
const MAX_MOVES: u32 = 4;

/// Starts what may start beside the reservations.
pub(crate) fn fill(cluster: &mut Cluster, now: Time, cycled: &mut Cycled, out: &mut Events) {
    if cluster.reserved.filled == Some(cluster.versions()) || cluster.reservations().is_empty() {
        return;
    }
    let (jobs, mut moves) = (cycled.jobs, MAX_MOVES);
    let heads: Vec<JobId> = cluster.reserved.list.iter().map(|reservation| reservation.job).collect();
    for job in heads {
        if cluster.job(job).is_some_and(|job| job.queued.is_some()) {
            start(cluster, job, &mut moves, now, cycled, out);
        }
    }
    rest(cluster, &mut moves, now, cycled, out);
    if cycled.jobs > jobs {
        // What could have started where these did may now have others evicted.
        cluster.plans.look_again();
        cycled.more = true;
    }
    cluster.reserved.filled = Some(cluster.versions());
}

/// The jobs behind the first ones, in their order.
fn rest(cluster: &mut Cluster, moves: &mut u32, now: Time, cycled: &mut Cycled, out: &mut Events) {
    let fresh = refused::Refused::fresh(cluster.tenants.len());
    let refused = std::mem::replace(&mut cluster.refused, fresh);
    let mut order = Order::begin(cluster, now);
    let (mut tries, most) = (0, cluster.policy.max_backfill_per_cycle);
    // By class and tenant the shortest limit that found no place: longer ones find none either.
    let mut in_vain: BTreeMap<(ClassIndex, TenantIndex), Span> = BTreeMap::new();
    for _ in 0..most.saturating_mul(STEPS_PER_TRY) {
        let Some(id) = order.next(cluster).filter(|_| tries < most) else { break };
        let job = cluster.job(id).expect("the order gives jobs that exist");
        let class = (job.queued.expect("the order gives queued jobs").class, job.spec.tenant);
        let limit = job.spec.time_limit;
        if job.avoid.is_empty() && in_vain.get(&class).is_some_and(|shortest| *shortest <= limit) {
            order.skip(cluster, id);
            continue;
        }
        tries += 1;
        if start(cluster, id, moves, now, cycled, out) {
            order.placed(cluster);
        } else {
            in_vain.insert(class, limit);
            order.skip(cluster, id);
        }
    }
    order.end(cluster);
    cluster.refused = refused;
    cluster.refused.keep_only(&cluster.classes);
}

fn job_of(cluster: &Cluster, id: JobId) -> &Job {
    cluster.job(id).expect("only jobs that exist are tried")
}

/// Starts a job if it finds a place beside the reservations. What starts inside its quota comes before every borrower; a
/// borrower that can be gone in time may overlap what a job inside its quota waits for: that eviction is planned.
fn start(cluster: &mut Cluster, id: JobId, moves: &mut u32, now: Time, cycled: &mut Cycled, out: &mut Events) -> bool {
    let found = start::find(&mut Beside { cluster, job: id, moves: false, now }, Pay::IfItFits);
    let (found, left) = match found {
        Ok(found) => {
            let left = left_by(cluster, id, &found, now);
            (found, left)
        }
        Err(Refused::Placement(_) | Refused::Alone(_)) if *moves > 0 => {
            let Some((found, left)) = amid(cluster, id, moves, now) else { return false };
            (found, Some(left))
        }
        Err(_) => return false,
    };
    cycled.jobs += 1;
    cycled.members += found.members.len() as u32;
    if let Some(reservations) = left {
        emit(cluster, now, Event::Planned { reservations }, out);
    }
    cycle::begin(cluster, id, found, now, out);
    true
}

/// The reservations without those of borrowers that a start inside its quota passes.
fn left_by(cluster: &Cluster, id: JobId, found: &Found, now: Time) -> Option<Vec<Reservation>> {
    let wish = Wish::of(job_of(cluster, id));
    let over_by = over_by(&cluster.policy, wish.time_limit, wish.grace, now);
    let comer = Comer { wish, scavenger: found.scavenger, moves: false, now };
    let is_own = comer.is_own(cluster, found.pool);
    let is_passed = |other: &Reservation| is_own && !other.is_own && other.from < over_by && other.job != id;
    cluster.without_overlapped(&found.members, is_passed)
}

/// A place for a job that starts inside its quota on what other missions have set aside, and the reservations planned anew
/// around it, none of them later than before.
fn amid(cluster: &mut Cluster, id: JobId, moves: &mut u32, now: Time) -> Option<(Found, Vec<Reservation>)> {
    let is_own = |cluster: &Cluster, pool: PoolIndex, scavenger: bool| {
        Comer { wish: Wish::of(job_of(cluster, id)), scavenger, moves: true, now }.is_own(cluster, pool)
    };
    let pools = &job_of(cluster, id).spec.request.pools;
    if !pools.iter().any(|pool| is_own(cluster, *pool, false)) {
        return None;
    }
    let found = start::find(&mut Beside { cluster, job: id, moves: true, now }, Pay::FromBudget).ok()?;
    if !is_own(cluster, found.pool, found.scavenger) {
        return None;
    }
    *moves -= 1;
    let job = job_of(cluster, id);
    let (cpu, memory) = (job.spec.request.cpu, job.spec.request.memory);
    let until = over_by(&cluster.policy, job.spec.time_limit, job.spec.grace, now);
    let (pool, members) = (found.pool, found.members.clone());
    let start = Reservation { job: id, pool, members, cpu, memory, from: now, until, is_own: true, reclaims: false };
    let left = heads::around(cluster, start, now)?;
    Some((found, left))
}

/// A job of the queue, tried among what is free and what is set aside for itself, for later, or for those that it passes.
struct Beside<'c> {
    cluster: &'c mut Cluster,
    job: JobId,
    /// What other missions set aside is planned anew around it.
    moves: bool,
    now: Time,
}

impl Site for Beside<'_> {
    fn cluster(&self) -> &Cluster {
        self.cluster
    }

    fn wish(&self) -> Wish<'_> {
        Wish::of(job_of(self.cluster, self.job)).starting_at(self.now)
    }

    fn is_choosy(&self) -> bool {
        !job_of(self.cluster, self.job).avoid.is_empty()
    }

    fn place(&mut self, pool: PoolIndex, most: u32, scavenger: bool) -> Result<Members, Blocked> {
        let (job, moves, now) = (self.job, self.moves, self.now);
        let (mut index, mut scratch) =
            (std::mem::take(&mut self.cluster.index), std::mem::take(&mut self.cluster.scratch));
        let cluster = &*self.cluster;
        let entry = job_of(cluster, job);
        let comer = Comer { wish: Wish::of(entry), scavenger, moves, now };
        let most = comer.most(cluster, pool, most);
        let mark = index.checkpoint();
        super::lift_for(cluster, &mut index, &comer, pool);
        let steps = cluster.policy.search_steps;
        let found = index.place_most(&entry.spec.request, most, pool, &entry.avoid, steps, &mut scratch);
        index.rollback(mark);
        (self.cluster.index, self.cluster.scratch) = (index, scratch);
        found
    }
}
