//! May this start now, here, until its limit? The one gate of every start.
//!
//! In: what asks, and where it is tried: in the queue's own index, beside the reservations, or on a copy (`explain`). Out:
//! the place, or which gate refused and for whom that holds. The gates, in order: caps and budgets, then pool by pool
//! quotas, the lending rule, what tenants need for reservations, and room among the GPUs that nobody else has set aside,
//! outside the domains that are kept whole for others.
//! It must never change more than the scratch of the index that it is given.

use smallvec::{SmallVec, smallvec};

use crate::admit::lending::{self, Start};
use crate::admit::{budget, caps, quota, whole};
use crate::blocked::Blocked;
use crate::cluster::Cluster;
use crate::ids::{BookingId, JobId, PoolIndex, TenantIndex, UserIndex};
use crate::job::{Job, JobSpec};
use crate::place::PlaceIndex;
use crate::placement::{Members, Placed};
use crate::policy::Policy;
use crate::request::Request;
use crate::reserve;
use crate::units::{Gpus, Span, Time};

/// What asks to start: as much of a job as the gates see.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish<'a> {
    pub(crate) job: JobId,
    /// When it would start, where its end counts; else as if it ran for ever.
    pub(crate) at: Option<Time>,
    pub(crate) tenant: TenantIndex,
    pub(crate) user: UserIndex,
    pub(crate) preemptible: bool,
    pub(crate) time_limit: Span,
    pub(crate) grace: Span,
    /// The booking that it may run in, and nowhere else.
    pub(crate) booking: Option<BookingId>,
    pub(crate) request: &'a Request,
}

impl<'a> Wish<'a> {
    /// A job as it is, whenever it ends.
    #[inline]
    pub(crate) fn of(job: &'a Job) -> Self {
        let JobSpec { tenant, user, preemptible, time_limit, grace, booking, .. } = job.spec;
        let request = &*job.spec.request;
        Self { job: job.id, at: None, tenant, user, preemptible, time_limit, grace, booking, request }
    }

    /// The same with another limit.
    pub(crate) fn lasting(self, time_limit: Span) -> Self {
        Self { time_limit, ..self }
    }

    /// The same as a start at `now`, whose end counts.
    pub(crate) fn starting_at(self, now: Time) -> Self {
        Self { at: Some(now), ..self }
    }
}

impl Wish<'_> {
    /// When it is over by its limit, where that is asked.
    pub(crate) fn until(&self, policy: &Policy) -> Option<Time> {
        self.at.map(|at| reserve::over_by(policy, self.time_limit, self.grace, at))
    }

    /// The GPUs without which it does not start.
    #[inline]
    pub(crate) fn gpus(&self) -> Gpus {
        self.request.least_gpus()
    }

    /// The same as a start of so many GPUs that is thought of.
    #[inline]
    pub(crate) fn start(&self, gpus: Gpus, scavenger: bool) -> Start {
        Start { tenant: self.tenant, gpus, grace: self.grace, preemptible: self.preemptible, scavenger }
    }
}

/// Whether a job must fit into the budgets above it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pay {
    /// It must.
    FromBudget,
    /// What does not fit runs as a scavenger, if it may be evicted.
    IfItFits,
}

/// Why a job was refused, and for whom that holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Refused {
    /// For its class in its tenant.
    Admission(Blocked),
    /// For its class everywhere.
    Placement(Blocked),
    /// For its class in its tenant, but as a scavenger.
    Budget(Blocked),
    /// For its class and user in its tenant.
    Cap(Blocked),
    /// For this job alone: it keeps away from nodes on which its class may find room.
    Alone(Blocked),
}

impl Refused {
    /// What stands in the way.
    pub(crate) fn why(self) -> Blocked {
        match self {
            Self::Admission(why) | Self::Placement(why) | Self::Budget(why) | Self::Cap(why) | Self::Alone(why) => why,
        }
    }
}

/// Where a job starts.
pub(crate) struct Found {
    pub(crate) pool: PoolIndex,
    pub(crate) members: Members,
    /// The limit that it asked for.
    pub(crate) limit: Span,
    pub(crate) scavenger: bool,
    /// It lies in domains that are kept whole for others.
    pub(crate) guest: bool,
}

/// Where a start is tried.
pub(crate) trait Site {
    /// The state.
    fn cluster(&self) -> &Cluster;

    /// What asks.
    fn wish(&self) -> Wish<'_>;

    /// Whether it keeps away from nodes on which others like it may find room.
    fn is_choosy(&self) -> bool;

    /// A place in `pool` for at most `most` members, and not fewer than it needs.
    ///
    /// # Errors
    /// Why there is none.
    fn place(&mut self, pool: PoolIndex, most: u32, scavenger: bool) -> Result<Members, Blocked>;

    /// The index that `place` looks at, on which positions are barred for a while.
    fn index(&mut self) -> &mut PlaceIndex;

    /// The cheapest place of a single member in any of `pools`, where places are judged by what they leave for others.
    fn place_judged(&mut self, _pools: &[PoolIndex]) -> Option<(PoolIndex, Placed)> {
        None
    }
}

/// Tries the pools of a request in its order of preference.
///
/// # Errors
/// Which gate refused.
#[inline]
pub(crate) fn find(site: &mut impl Site, pay: Pay) -> Result<Found, Refused> {
    let wish = site.wish();
    let (pools, limit, scavenger) = (wish.request.pools.len(), wish.time_limit, may_pay(site.cluster(), &wish, pay)?);
    let mut refused: Option<Refused> = None;
    if pools > 1
        && let Some(found) = find_cheapest(site, scavenger)
    {
        return Ok(found);
    }
    for at in 0..pools {
        let wish = site.wish();
        let pool = wish.request.pools[at];
        let most = match most_allowed(site.cluster(), &wish, pool, scavenger) {
            Ok(most) => most,
            Err(why) => {
                // Another tenant may still get what this pool has. But what keeps away from nodes speaks for itself alone.
                refused = Some(match refused {
                    Some(Refused::Placement(_)) | None => Refused::Admission(why),
                    Some(first) => first,
                });
                continue;
            }
        };
        match whole::place(site, pool, most, scavenger) {
            Ok((members, guest)) => return Ok(Found { pool, members, limit, scavenger, guest }),
            Err(why @ Refused::Alone(_)) => refused = Some(why),
            // As above.
            Err(why @ Refused::Admission(_)) if matches!(refused, Some(Refused::Placement(_))) => refused = Some(why),
            Err(why) => refused = refused.or(Some(why)),
        }
    }
    Err(refused.expect("a request names at least one pool"))
}

/// Whether caps and budgets let it start, and whether as a scavenger.
///
/// # Errors
/// The cap, or the budget that is spent.
pub(crate) fn may_pay(cluster: &Cluster, wish: &Wish<'_>, pay: Pay) -> Result<bool, Refused> {
    if let Some(why) = caps::of_user(cluster, wish.tenant, wish.user, wish.gpus()) {
        return Err(Refused::Cap(why));
    }
    match budget::over(cluster, wish.tenant, wish.gpus(), wish.time_limit) {
        None => Ok(false),
        Some(_) if pay == Pay::IfItFits && wish.preemptible => Ok(true),
        // Another job of its class may have a shorter limit.
        Some(why) if pay == Pay::IfItFits => Err(Refused::Alone(why)),
        Some(why) => Err(Refused::Budget(why)),
    }
}

/// The caps and budgets that refuse it.
pub(crate) fn unpaid(cluster: &Cluster, wish: &Wish<'_>) -> impl Iterator<Item = Blocked> {
    let cap = caps::of_user(cluster, wish.tenant, wish.user, wish.gpus());
    cap.into_iter().chain(budget::over(cluster, wish.tenant, wish.gpus(), wish.time_limit))
}

/// What refuses so many GPUs of it in a pool now, in the order in which it is asked: quotas, the lending rule, what tenants
/// need for reservations. Nothing is worked out before it is asked for.
#[inline]
pub(crate) fn gates<'c>(
    cluster: &'c Cluster,
    wish: &Wish<'c>,
    pool: PoolIndex,
    gpus: Gpus,
    scavenger: bool,
) -> impl Iterator<Item = Blocked> + use<'c> {
    let wish = *wish;
    let lent = move || lending::refusal(cluster, wish.start(gpus, scavenger), pool);
    let behind = move || reserve::behind(cluster, &wish, pool, gpus);
    let of_quota = quota::refusals(cluster, wish.tenant, pool, gpus, wish.preemptible);
    of_quota.chain(std::iter::once_with(lent).flatten()).chain(std::iter::once_with(behind).flatten())
}

/// Whether no gate but room refuses so many GPUs of it in a pool now.
///
/// # Errors
/// The first that does.
#[inline]
fn may_hold(cluster: &Cluster, wish: &Wish<'_>, pool: PoolIndex, gpus: Gpus, scavenger: bool) -> Result<(), Blocked> {
    gates(cluster, wish, pool, gpus, scavenger).next().map_or(Ok(()), Err)
}

/// Whether all gates but room let its least start in a pool now.
pub(crate) fn is_allowed(cluster: &Cluster, wish: &Wish<'_>, pool: PoolIndex) -> bool {
    may_pay(cluster, wish, Pay::IfItFits)
        .is_ok_and(|scavenger| may_hold(cluster, wish, pool, wish.gpus(), scavenger).is_ok())
}

/// The most members that its tenant may start in a pool now; caps and budget let its least start.
///
/// # Errors
/// Why not even the least may.
#[inline]
pub(crate) fn most_allowed(
    cluster: &Cluster,
    wish: &Wish<'_>,
    pool: PoolIndex,
    scavenger: bool,
) -> Result<u32, Blocked> {
    may_hold(cluster, wish, pool, wish.gpus(), scavenger)?;
    let allowed = |want: Gpus| may_have(cluster, wish, pool, want, scavenger);
    Ok(most_that(wish.request, wish.request.shape.members(), allowed))
}

/// Whether all gates but room and caps let a job that holds a part of its GPUs have so many more in a pool now.
pub(crate) fn may_complete(cluster: &Cluster, wish: &Wish<'_>, pool: PoolIndex, more: Gpus) -> bool {
    let is_paid = budget::over(cluster, wish.tenant, more, wish.time_limit).is_none();
    is_paid && may_hold(cluster, wish, pool, more, false).is_ok()
}

/// Whether all gates but room let so many GPUs of it start in a pool now.
fn may_have(cluster: &Cluster, wish: &Wish<'_>, pool: PoolIndex, want: Gpus, scavenger: bool) -> bool {
    let is_paid = scavenger || budget::over(cluster, wish.tenant, want, wish.time_limit).is_none();
    let is_capped = caps::of_user(cluster, wish.tenant, wish.user, want).is_some();
    is_paid && !is_capped && may_hold(cluster, wish, pool, want, scavenger).is_ok()
}

/// The most members that a gang may have which runs with `has` of them: what its tenant may start beside what it holds.
pub(crate) fn most_beside(cluster: &Cluster, job: &Job, has: u32) -> u32 {
    let (wish, Some(attempt)) = (Wish::of(job), job.live_attempt()) else { return has };
    let each = u32::from(wish.request.shape.largest());
    let allowed = |more: &u32| may_have(cluster, &wish, attempt.pool, Gpus::whole(more * each), attempt.scavenger);
    let most = wish.request.shape.members();
    has + (1..=most.saturating_sub(has)).take_while(allowed).count() as u32
}

/// The most members of a request, up to `all`, whose GPUs are `allowed`; those of its least are.
#[inline]
pub(crate) fn most_that(request: &Request, all: u32, allowed: impl Fn(Gpus) -> bool) -> u32 {
    let least = request.least_members();
    let gpus = |members: u32| Gpus::whole(members * u32::from(request.shape.largest()));
    if least >= all || allowed(gpus(all)) {
        return all;
    }
    let (mut fits, mut too_many) = (least, all);
    while fits + 1 < too_many {
        let middle = fits + (too_many - fits) / 2;
        *if allowed(gpus(middle)) { &mut fits } else { &mut too_many } = middle;
    }
    fits
}

/// For a single member that names no pool and is placed by what it leaves for others: the cheapest place of all pools in
/// which its tenant may start it.
fn find_cheapest(site: &mut impl Site, scavenger: bool) -> Option<Found> {
    let (cluster, wish) = (site.cluster(), site.wish());
    let all = (0..cluster.pools.len()).map(PoolIndex::of);
    let has_no_wish = wish.request.shape.members() == 1 && all.eq(wish.request.pools.iter().copied());
    if !cluster.whole.is_empty()
        || !has_no_wish
        || !wish.request.pools.iter().all(|pool| cluster.index.is_judged(wish.request, *pool))
    {
        return None;
    }
    let may_start = |pool: &PoolIndex| most_allowed(cluster, &wish, *pool, scavenger).is_ok();
    let pools: SmallVec<[PoolIndex; 8]> = wish.request.pools.iter().copied().filter(may_start).collect();
    let limit = wish.time_limit;
    let (pool, placed) = site.place_judged(&pools)?;
    Some(Found { pool, members: smallvec![placed], limit, scavenger, guest: false })
}
