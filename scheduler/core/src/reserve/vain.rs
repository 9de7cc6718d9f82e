//! What was tried beside the reservations in vain, and holds until something happens that could lift it.
//!
//! In: refusals, the news, what comes into the queue. Out: which classes backfill passes over. While the reservations stay as
//! they are, time alone lets nobody start beside them who could not before: whoever starts later is over later. So a class
//! that was refused in a tenant stays refused there, for this limit (the least that the job may have) and all longer ones,
//! until room for one of its members grew on some node, or its tenant holds less. Derived, like `refused`: no fact depends
//! on it.

use std::collections::{BTreeMap, BTreeSet};

use crate::admit::start;
use crate::blocked::{Blocked, Wake};
use crate::cluster::Cluster;
use crate::ids::{ClassIndex, JobId, TenantIndex, UserIndex};
use crate::job::Job;
use crate::news::Stamp;
use crate::refused::Refused;
use crate::request::{Part, Request};
use crate::reserve::backfill;
use crate::units::{Span, Time};

/// Jobs behind the first of a class that are looked at for one with a shorter limit.
const LOOK: usize = 512;

/// What backfill remembers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vain {
    heard: Stamp,
    heard_sooner: Stamp,
    /// When backfill looked last.
    looked_at: Time,
    /// Whatever is not closed was tried.
    is_settled: bool,
    /// Nothing that is set aside has changed since backfill began to look.
    is_current: bool,
    /// Classes that are closed to users of a tenant, and by what.
    closed: Refused,
    /// The shortest limit that was refused, and by what.
    shortest: BTreeMap<(ClassIndex, TenantIndex), (Span, Blocked)>,
    /// Jobs refused for themselves alone: those that hold reservations, and those that keep away from nodes.
    alone: BTreeMap<JobId, Blocked>,
    /// Around whose start the plan was made anew in vain, since it was made.
    moved: BTreeSet<(JobId, Span)>,
}

impl Vain {
    /// What is set aside has changed: everything may be different.
    pub(super) fn forget(&mut self) {
        let Self { heard, heard_sooner, looked_at, moved, .. } = std::mem::take(self);
        *self = Self { heard, heard_sooner, looked_at, moved, ..Self::default() };
    }

    /// The plan was made anew: it may be made around others.
    pub(super) fn planned(&mut self) {
        *self = Self::default();
    }

    /// Whether the plan was made anew around a start of this job with this limit already; from now on it was.
    pub(super) fn is_moved(&mut self, job: JobId, limit: Span) -> bool {
        !self.moved.insert((job, limit))
    }

    /// No job waits in the class any more: its index may come to mean another.
    pub(crate) fn forget_class(&mut self, class: ClassIndex) {
        self.closed.forget_class(class);
        while let Some((&key, _)) = self.shortest.range((class, TenantIndex(0))..).next()
            && key.0 == class
        {
            self.shortest.remove(&key);
        }
    }

    /// A job came into the queue.
    pub(crate) fn came(&mut self, job: &Job, class: ClassIndex) {
        let (tenant, user) = (job.spec.tenant, job.spec.user);
        let is_closed = self.closed.is_capped(class, tenant, user) && self.passes_over(job, class);
        if !is_closed {
            self.closed.lift_cap(class, tenant, user);
        }
        self.is_settled &= is_closed;
    }

    /// Whether a job of the class with the least limit of this one, or a shorter one, was refused in its tenant, and this one
    /// is like it.
    pub(super) fn passes_over(&self, job: &Job, class: ClassIndex) -> bool {
        let shortest = self.shortest.get(&(class, job.spec.tenant));
        job.avoid.is_empty() && shortest.is_some_and(|(limit, _)| *limit <= job.spec.least_limit())
    }

    /// A job of the class was refused in its tenant, and with it all that take as long or longer.
    pub(super) fn refuse(&mut self, job: &Job, class: ClassIndex, why: Blocked) {
        self.shortest.insert((class, job.spec.tenant), (job.spec.least_limit(), why));
    }

    /// Whether this job alone was refused.
    pub(super) fn is_refused(&self, job: JobId) -> bool {
        self.alone.contains_key(&job)
    }
}

/// Whether a refusal of a job holds for others of its class: not where it keeps away from nodes, nor where a budget refused
/// it before its least limit was tried.
pub(super) fn speaks_for_class(job: &Job, why: start::Refused) -> bool {
    let is_untried = job.spec.time_min.is_some() && !backfill::may_help(why);
    job.avoid.is_empty() && !is_untried
}

/// A job that holds a reservation, or keeps away from nodes, was refused.
pub(super) fn refuse_alone(cluster: &mut Cluster, id: JobId, why: start::Refused) {
    let Cluster { jobs, reserved, .. } = cluster;
    let Some((job, queued)) = jobs.get(id).and_then(|job| Some((job, job.queued?))) else { return };
    reserved.vain.alone.insert(id, why.why());
    if speaks_for_class(job, why) {
        // What holds nothing finds less.
        reserved.vain.refuse(job, queued.class, why.why());
    }
}

/// A job of the queue was refused. Whether only this one is: it keeps away from nodes on which others like it may find room.
pub(super) fn refuse(cluster: &mut Cluster, id: JobId, why: start::Refused) -> bool {
    let Cluster { jobs, reserved, refused, .. } = cluster;
    let Some((job, queued)) = jobs.get(id).and_then(|job| Some((job, job.queued?))) else { return true };
    if let start::Refused::Cap(why) = why {
        refused.note_over_cap(queued.class, job.spec.tenant, job.spec.user, why);
        return false;
    }
    if !speaks_for_class(job, why) {
        reserved.vain.alone.insert(id, why.why());
        return true;
    }
    reserved.vain.refuse(job, queued.class, why.why());
    false
}

/// Forgets what may have been lifted. Whether there is anything to try.
pub(super) fn begin(cluster: &mut Cluster, now: Time) -> bool {
    let mut vain = std::mem::take(&mut cluster.reserved.vain);
    vain.looked_at = now;
    // Bookings begin and end by time alone: beside them nothing is remembered.
    if !cluster.policy.remember_refusals || !cluster.bookings.is_empty() {
        vain.forget();
    }
    let since = std::mem::replace(&mut vain.heard, cluster.news.now());
    let since_sooner = std::mem::replace(&mut vain.heard_sooner, cluster.news.sooner());
    if (since, since_sooner) != (vain.heard, vain.heard_sooner) {
        vain.hear(cluster, since);
    }
    vain.is_current = true;
    let grown = &mut cluster.news.grown;
    grown.iter_mut().for_each(|most| *most = 0);
    let is_open = !vain.is_settled;
    cluster.reserved.vain = vain;
    is_open
}

/// The classes that are passed over become those of the order, until `give_back`.
pub(super) fn lend(cluster: &mut Cluster) -> Refused {
    let mut closed = std::mem::take(&mut cluster.reserved.vain.closed);
    closed.make_room(cluster.tenants.len());
    std::mem::replace(&mut cluster.refused, closed)
}

/// After `lend`: what is refused in the plain cycle is again what is refused. What is `undecided` is not passed over next time.
pub(super) fn give_back(cluster: &mut Cluster, refused: Refused, undecided: &[(ClassIndex, TenantIndex, UserIndex)]) {
    let mut closed = std::mem::replace(&mut cluster.refused, refused);
    // Those that were started have left classes behind.
    cluster.refused.keep_only(&cluster.classes);
    closed.keep_only(&cluster.classes);
    undecided.iter().for_each(|(class, tenant, user)| closed.lift_cap(*class, *tenant, *user));
    let vain = &mut cluster.reserved.vain;
    // Where what is set aside has changed under way, all may be different.
    vain.closed = if vain.is_current { closed } else { Refused::default() };
}

/// Backfill has looked; `is_settled`: whatever is not passed over was tried, beside what was set aside then.
pub(super) fn settle(cluster: &mut Cluster, is_settled: bool) {
    let vain = &mut cluster.reserved.vain;
    vain.is_settled = is_settled && vain.is_current;
}

impl Vain {
    /// What has happened `since` may have lifted some of it.
    fn hear(&mut self, cluster: &Cluster, since: Stamp) {
        let lifts = |request: &Request, tenant, why: &Blocked| may_lift(cluster, request, tenant, why, since);
        let of = |class: ClassIndex| &*cluster.classes.get(class).key.request;
        let Self { closed, shortest, alone, is_settled, .. } = self;
        let before = closed.caps() + alone.len();
        shortest.retain(|(class, tenant), (_, why)| !lifts(of(*class), *tenant, why));
        closed.retain_caps(|class, tenant, why| !lifts(of(class), tenant, why));
        alone.retain(|job, why| {
            let job = cluster.job(*job).filter(|job| job.queued.is_some());
            job.is_some_and(|job| !lifts(&job.spec.request, job.spec.tenant, why))
        });
        // Of a tenant that was paused nothing was tried.
        *is_settled &= closed.caps() + alone.len() == before && !cluster.news.is_divided_anew(since);
    }
}

/// Whether what has happened `since` may let start beside the reservations what was refused for `why`.
fn may_lift(cluster: &Cluster, request: &Request, tenant: TenantIndex, why: &Blocked, since: Stamp) -> bool {
    let news = &cluster.news;
    // Who holds less may come to lie inside its quota, and then passes borrowers by.
    let below_root = cluster.chain(tenant).filter(|tenant| tenant.depth > 0);
    if below_root.into_iter().any(|tenant| news.is_relieved(tenant.index, since)) {
        return true;
    }
    match why.wake() {
        Wake::Room(_) if request.part == Part::Whole => {
            news.is_divided_anew(since) || request.pools.iter().any(|pool| news.has_grown(*pool, least(request)))
        }
        Wake::Plan | Wake::Cycle => true,
        Wake::Room(_) | Wake::Tenant(_) | Wake::Division(_) => news.may_lift(request, why, since),
    }
}

/// GPUs of its smallest member.
fn least(request: &Request) -> u32 {
    u32::from(request.shape.smallest())
}

/// The job to try of those in the place of `first`: itself, or one behind it with a shorter limit than was refused.
pub(super) fn candidate(cluster: &Cluster, first: JobId) -> Option<JobId> {
    let vain = &cluster.reserved.vain;
    let job = cluster.job(first)?;
    let queued = job.queued?;
    let is_tried = |id: &JobId| cluster.job(*id).is_some_and(|job| !vain.passes_over(job, queued.class));
    if is_tried(&first) {
        return Some(first);
    }
    let queue = &cluster.tenant(job.spec.tenant).queue;
    let behind = queue.behind(job.spec.priority, job.spec.user, queued);
    let mut behind = behind.take(LOOK).filter(|id| cluster.job(*id).is_some_and(|job| job.avoid.is_empty()));
    behind.find(is_tried)
}

/// The class of a job, which was refused in its tenant, is passed over for its user.
pub(super) fn close(cluster: &mut Cluster, job: JobId) {
    let Some(job) = cluster.job(job) else { return };
    let (Some(queued), tenant, user) = (job.queued, job.spec.tenant, job.spec.user) else { return };
    if let Some((_, why)) = cluster.reserved.vain.shortest.get(&(queued.class, tenant)).copied() {
        cluster.refused.note_over_cap(queued.class, tenant, user, why);
    }
}

/// The class of a job is passed over for its user until `give_back`.
pub(super) fn close_for_now(cluster: &mut Cluster, job: JobId) -> Option<(ClassIndex, TenantIndex, UserIndex)> {
    let job = cluster.job(job)?;
    let (class, tenant, user) = (job.queued?.class, job.spec.tenant, job.spec.user);
    let limit = cluster.policy.max_backfill_per_cycle;
    cluster.refused.note_over_cap(class, tenant, user, Blocked::CycleLimit { limit });
    Some((class, tenant, user))
}

/// A job that is passed over beside the reservations and would start: its class is closed to its user, or nothing is open.
/// Where nothing is set aside or booked nobody is.
pub(crate) fn passed_over(cluster: &mut Cluster) -> Option<JobId> {
    if backfill::is_plain(cluster) {
        return None;
    }
    let at = cluster.reserved.vain.looked_at;
    let is_settled = !begin(cluster, at);
    let vain = &cluster.reserved.vain;
    let is_refused = |job: &&Job| {
        let (tenant, user) = (job.spec.tenant, job.spec.user);
        let is_closed = |class| vain.closed.is_capped(class, tenant, user);
        let is_over = |class| if is_closed(class) { vain.passes_over(job, class) } else { is_settled };
        job.queued.is_some_and(|queued| is_over(queued.class) || vain.is_refused(job.id))
    };
    let refused: Vec<JobId> = cluster.jobs.iter().filter(is_refused).map(|job| job.id).collect();
    refused.into_iter().find(|job| backfill::could_start(cluster, *job, at))
}
