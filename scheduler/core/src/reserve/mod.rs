//! The plan in time: which GPUs are set aside for whom, from when on.
//!
//! In: the state after everything that fits was placed, and what runs with its limits. Out: reservations (`heads` chooses
//! the jobs, `timeline` finds for each the earliest time at which it fits), and the starts of later jobs that end before
//! a reservation that they overlap (`backfill`). GPUs that are set aside are in nobody's index until they are lifted for
//! one job that may use them.
//! Reservations are facts (`Planned`), and are planned anew when something changed; a job that leaves the queue leaves its
//! reservation.
//! It must never let a job that comes later delay a reservation, and never hold what its job could not use.

mod backfill;
mod booked;
mod explain;
mod headroom;
mod heads;
mod timeline;
mod vain;

use std::collections::{BTreeMap, BTreeSet};

use smallvec::SmallVec;

use crate::admit::start::{self, Wish};
use crate::admit::{lending, quota};
use crate::cluster::Cluster;
use crate::gpu::GpuSet;
use crate::ids::{JobId, NodeIndex, PoolIndex, TenantIndex};
use crate::job::Job;
use crate::node::SetAside;
use crate::place::PlaceIndex;
use crate::placement::{Members, Placed};
use crate::plan::{self, Asked};
use crate::policy::Policy;
use crate::units::{CpuMilli, Gpus, MemoryMib, Span, Time};

pub(crate) use self::backfill::fill;
pub(crate) use self::booked::{narrowed, show};
pub(crate) use self::headroom::behind;
use self::heads::Plan;
pub(crate) use self::heads::{made_anew, replan};
pub(crate) use self::vain::passed_over;

/// GPUs set aside for a job from a time on.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Reservation {
    /// For whom.
    pub job: JobId,
    /// Where.
    pub pool: PoolIndex,
    /// By rank.
    pub members: Members,
    /// CPU beside each member.
    pub cpu: CpuMilli,
    /// Memory beside each member.
    pub memory: MemoryMib,
    /// From then on all of them are free, by the limits of what runs.
    pub from: Time,
    /// By then the job is over, by its own limit.
    pub until: Time,
    /// By then the job is inside its quota, so that no other mission comes before it.
    pub is_own: bool,
    /// What was lent may be taken back for it.
    pub reclaims: bool,
}

impl Reservation {
    /// All GPUs of all members.
    pub fn gpus(&self) -> Gpus {
        self.members.iter().map(|placed| placed.gpus.count()).sum()
    }
}

/// What one reservation sets aside on one node.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// Place in the list.
    of: usize,
    aside: SetAside,
}

/// All reservations, and what is derived from them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reserved {
    /// Those that come first may be in the way of those that come later, not the other way round.
    list: Vec<Reservation>,
    on_node: BTreeMap<NodeIndex, SmallVec<[Part; 1]>>,
    plan: Plan,
    pub(crate) vain: vain::Vain,
}

impl Reserved {
    /// When a cycle is due though nothing happens.
    pub(crate) fn wake(&self) -> Option<Time> {
        self.plan.wake
    }

    /// That time has come; the cycle that follows sets the next one.
    pub(crate) fn sleep(&mut self, now: Time) {
        self.plan.wake = self.plan.wake.filter(|wake| *wake > now);
    }
}

/// When an attempt that is placed at `at` is over at the latest, by its limit.
pub(crate) fn over_by(policy: &Policy, limit: Span, grace: Span, at: Time) -> Time {
    at + policy.launch_deadline + limit + grace + policy.time_limit_slack
}

impl Cluster {
    /// What is set aside for jobs, the first in the order of precedence.
    pub fn reservations(&self) -> &[Reservation] {
        &self.reserved.list
    }

    /// What is set aside for a job.
    pub fn reservation(&self, job: JobId) -> Option<&Reservation> {
        self.reserved.list.iter().find(|reservation| reservation.job == job)
    }

    /// The job does not wait in the queue any more, or gets its GPUs elsewhere.
    pub(crate) fn drop_reservation(&mut self, job: JobId) {
        if self.reservation(job).is_some() {
            let left = self.reserved.list.iter().filter(|reservation| reservation.job != job);
            self.set_reservations(left.cloned().collect());
            self.reserved.plan.is_whole = false;
        }
    }

    /// A job came into the queue: where it comes before one of its mission that holds a reservation, the plan is soon made anew.
    pub(crate) fn plan_for_first(&mut self, id: JobId) {
        let rank = |job: &Job| (job.spec.priority, job.front);
        let Some(first) = self.jobs.get(id).filter(|_| !self.reserved.list.is_empty()) else { return };
        let mission = self.mission(first.spec.tenant);
        let comes_after = |other: &Job| self.mission(other.spec.tenant) == mission && rank(other) < rank(first);
        let mut holders = self.reserved.list.iter().filter_map(|reservation| self.jobs.get(reservation.job));
        let is_outdone = holders.any(comes_after);
        self.reserved.plan.is_whole &= !is_outdone;
    }

    /// The reservations without those that share a GPU with `members` and are dropped; none when there are none such.
    pub(crate) fn without_overlapped(
        &self,
        members: &[Placed],
        is_dropped: impl Fn(&Reservation) -> bool,
    ) -> Option<Vec<Reservation>> {
        let meets = |a: &Placed, b: &Placed| a.node == b.node && !a.gpus.and(b.gpus).is_empty();
        let overlaps = |reservation: &Reservation| {
            is_dropped(reservation) && reservation.members.iter().any(|a| members.iter().any(|b| meets(a, b)))
        };
        let list = &self.reserved.list;
        let is_needed = list.iter().any(&overlaps);
        is_needed.then(|| list.iter().filter(|reservation| !overlaps(reservation)).cloned().collect())
    }

    /// From now on exactly `list` is set aside.
    pub(crate) fn set_reservations(&mut self, list: Vec<Reservation>) {
        let mut on_node: BTreeMap<NodeIndex, SmallVec<[Part; 1]>> = BTreeMap::new();
        for (of, reservation) in list.iter().enumerate() {
            for placed in &reservation.members {
                let parts = on_node.entry(placed.node).or_default();
                if parts.last().is_none_or(|part| part.of != of) {
                    parts.push(Part { of, aside: SetAside::default() });
                }
                let aside = &mut parts.last_mut().expect("it was just pushed").aside;
                aside.gpus = aside.gpus.with(placed.gpus);
                aside.cpu += reservation.cpu;
                aside.memory += reservation.memory;
            }
        }
        let before = std::mem::replace(&mut self.reserved.on_node, on_node);
        let before_that = std::mem::replace(&mut self.reserved.list, list);
        // What tenants had to leave for a reservation that is gone, or moved, is for others.
        let is_there = |old: &Reservation| {
            let new = self.reservation(old.job);
            new.is_some_and(|new| {
                let key = |of: &Reservation| (of.from, of.is_own, of.reclaims, of.pool, of.gpus());
                key(new) == key(old)
            })
        };
        let mut is_lifted = !before_that.iter().all(is_there);
        let holders = |list: &[Reservation]| list.iter().map(|one| one.job).collect::<SmallVec<[JobId; 16]>>();
        if holders(&before_that) != holders(&self.reserved.list) {
            // The planner asks for those who hold reservations first.
            self.plans.look_again();
        }
        self.rest_no_more(&before_that);
        let touched: BTreeSet<NodeIndex> = before.into_keys().chain(self.reserved.on_node.keys().copied()).collect();
        for node in touched {
            let now = self.reserved.aside(node, |_| true);
            let entry = &mut self.nodes[node.at()];
            if entry.reserved != now {
                is_lifted |= !entry.reserved.gpus.without(now.gpus).is_empty() || now.cpu < entry.reserved.cpu;
                is_lifted |= now.memory < entry.reserved.memory;
                entry.reserved = now;
                self.node_changed(node);
            }
        }
        if is_lifted {
            self.freed_everywhere();
        }
        self.reserved.vain.forget();
    }

    /// Whether it pays to take back for a job depends on its reservation: where that is another one, it is worked out anew.
    fn rest_no_more(&mut self, before: &[Reservation]) {
        let list = &self.reserved.list;
        let is_same = |a: &Reservation, b: &Reservation| (a.job, a.pool, a.from) == (b.job, b.pool, b.from);
        let gone = before.iter().filter(|old| !list.iter().any(|new| is_same(old, new)));
        let new = list.iter().filter(|new| !before.iter().any(|old| is_same(old, new)));
        for reservation in gone.chain(new) {
            let job = self.jobs.get(reservation.job);
            let Some((queued, job)) = job.and_then(|job| Some((job.queued?, job))) else { continue };
            self.plans.rest_no_more(queued.class, job.spec.tenant);
        }
    }
}

impl Reserved {
    /// What the reservations that `counts` set aside on a node; where two follow each other on a GPU, once.
    fn aside(&self, node: NodeIndex, mut counts: impl FnMut(&Reservation) -> bool) -> SetAside {
        let parts = self.on_node.get(&node).into_iter().flatten().filter(|part| counts(&self.list[part.of]));
        parts.fold(SetAside::default(), |sum, part| SetAside {
            gpus: sum.gpus.with(part.aside.gpus),
            cpu: sum.cpu + part.aside.cpu,
            memory: sum.memory + part.aside.memory,
        })
    }

    /// The nodes on which something is set aside.
    fn nodes(&self) -> impl Iterator<Item = NodeIndex> {
        self.on_node.keys().copied()
    }
}

/// A start beside the reservations.
#[derive(Clone, Copy)]
pub(crate) struct Comer<'a> {
    pub(crate) wish: Wish<'a>,
    /// It would lie above every quota.
    pub(crate) scavenger: bool,
    /// What other missions set aside is planned anew around it.
    pub(crate) moves: bool,
    pub(crate) now: Time,
}

impl Comer<'_> {
    /// Whether it would borrow, and is gone by the time at which lent GPUs come back for a reservation.
    fn comes_back(&self, cluster: &Cluster, pool: PoolIndex, other: &Reservation) -> bool {
        let Comer { wish, scavenger, now, .. } = self;
        let borrows = || *scavenger || plan::would_borrow(cluster, wish.tenant, pool, wish.gpus());
        // What is not wanted back by then would stay, and the reservation would move.
        let wanted = || cluster.job(other.job).map(|job| plan::deadline(cluster, job, pool, *now));
        let is_in_time = || back_by(cluster, wish, *now) <= other.from && wanted() <= Some(other.from);
        other.reclaims && wish.preemptible && borrows() && is_in_time()
    }

    /// Whether it starts inside its quota with its least.
    pub(crate) fn is_own(&self, cluster: &Cluster, pool: PoolIndex) -> bool {
        self.is_own_with(cluster, pool, self.wish.gpus())
    }

    /// Whether it starts inside its quota with so many GPUs.
    fn is_own_with(&self, cluster: &Cluster, pool: PoolIndex, gpus: Gpus) -> bool {
        !self.scavenger && is_inside_quota(cluster, self.wish.tenant, pool, gpus)
    }

    /// The most members, up to `most`, with which it stays on the side of its quota that it passes others by.
    pub(crate) fn most(&self, cluster: &Cluster, pool: PoolIndex, most: u32) -> u32 {
        if !self.is_own(cluster, pool) {
            return most;
        }
        start::most_that(self.wish.request, most, |gpus| self.is_own_with(cluster, pool, gpus))
    }
}

/// Shows a job that would start in `pool` now what is set aside there for itself, for after its end, or for those that it
/// passes: how many idle GPUs that is. What starts inside its quota comes before every borrower; a borrower that can be gone
/// in time may overlap what a job inside its quota waits for. For trial changes.
pub(crate) fn lift_for(cluster: &Cluster, index: &mut PlaceIndex, comer: &Comer<'_>, pool: PoolIndex) -> Gpus {
    let Comer { ref wish, moves, now, .. } = *comer;
    let is_own = comer.is_own(cluster, pool);
    let over_by = over_by(&cluster.policy, wish.time_limit, wish.grace, now);
    let mission = cluster.mission(wish.tenant);
    let passes = |other: &Reservation| {
        let is_elsewhere = cluster.job(other.job).is_none_or(|other| cluster.mission(other.spec.tenant) != mission);
        let goes_first = || if other.is_own { comer.comes_back(cluster, pool, other) } else { is_own };
        is_elsewhere && (moves || goes_first())
    };
    let passed: SmallVec<[JobId; 16]> =
        cluster.reservations().iter().filter(|other| passes(other)).map(|other| other.job).collect();
    booked::show(cluster, index, wish, pool, now);
    let mut lifted = Gpus::ZERO;
    for node in cluster.reserved.nodes().map(|node| cluster.node(node)).filter(|node| node.pool == pool) {
        if node.booked.kept && !cluster.admits(node.index, wish, now) {
            continue;
        }
        let is_kept =
            |other: &Reservation| other.job != wish.job && other.from < over_by && !passed.contains(&other.job);
        let aside = cluster.reserved.aside(node.index, is_kept);
        if aside != node.reserved {
            lifted += node.free().and(node.reserved.gpus).without(aside.gpus).count();
            index.set_aside(node, &aside);
        }
    }
    lifted
}

/// Which reservations stay in the way of a trial.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kept {
    /// Those of others inside their quota.
    Own,
    /// None: what the plan finds then must still delay none that comes before it (`made_anew`).
    Nothing,
}

/// Shows a job what is set aside for itself and for those that are not `kept`: whether there is more of it than without
/// those that are. What is booked is shown if the job is over before, whenever it is given what the plan takes back. For trial
/// changes.
pub(crate) fn lift(cluster: &Cluster, index: &mut PlaceIndex, asked: &Asked, kept: Kept, now: Time) -> bool {
    let (id, wish) = (asked.job, asked.wish());
    // A victim has its grace, and its end its bound.
    let latest = now + cluster.policy.max_grace + cluster.policy.kill_bound;
    asked.request.pools.iter().for_each(|pool| booked::show(cluster, index, &wish, *pool, latest));
    let mut is_lifted = false;
    for node in cluster.reserved.nodes() {
        if cluster.node(node).booked.kept && !cluster.admits(node, &wish, latest) {
            continue;
        }
        let aside = cluster.reserved.aside(node, |other| {
            let is_kept = match kept {
                Kept::Own => other.is_own,
                Kept::Nothing => false,
            };
            is_lifted |= !is_kept && other.is_own && other.job != id;
            is_kept && other.job != id
        });
        index.set_aside(cluster.node(node), &aside);
    }
    is_lifted
}

/// By when an attempt that is placed now on GPUs that are lent can be gone if they are wanted back.
fn back_by(cluster: &Cluster, wish: &Wish<'_>, now: Time) -> Time {
    now + cluster.policy.launch_deadline + lending::return_time(cluster, wish.tenant, wish.grace)
}

/// Whether a job of so many GPUs would lie inside every quota above its tenant now.
fn is_inside_quota(cluster: &Cluster, tenant: TenantIndex, pool: PoolIndex, want: Gpus) -> bool {
    let mut guaranteed = cluster.chain(tenant).filter_map(|tenant| {
        let quota = quota::guaranteed(tenant, tenant.quota_in(pool))?;
        Some((quota, tenant.held_in(pool).used))
    });
    guaranteed.all(|(quota, used)| used + want <= quota)
}

/// The GPUs of a set that nothing holds and something sets aside.
fn idle_aside(cluster: &Cluster, node: NodeIndex) -> GpuSet {
    let node = cluster.node(node);
    node.free().and(node.reserved.gpus)
}
