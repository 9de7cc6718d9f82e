//! One scheduling turn: take the jobs in order, admit, place, and go on until every class that is left was refused.

use crate::admit::start::{self, Found, Pay, Refused, Site, Wish};
use crate::blocked::Blocked;
use crate::cluster::Cluster;
use crate::decide::{Events, emit};
use crate::event::Event;
use crate::ids::{JobId, PoolIndex};
use crate::job::Job;
use crate::order::Order;
use crate::place::PlaceIndex;
use crate::placement::{Members, Placed};
use crate::plan;
use crate::policy::Flaw;
use crate::promise;
use crate::reserve;
use crate::resize;
use crate::spares;
use crate::units::Time;

/// What a cycle came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cycled {
    /// Jobs placed.
    pub jobs: u32,
    /// Members placed.
    pub members: u32,
    /// Classes tried, placed or not.
    pub tried: u32,
    /// It stopped at its limit: another cycle may place more.
    pub more: bool,
}

/// Places what can start now.
pub fn cycle(cluster: &mut Cluster, now: Time, out: &mut Events) -> Cycled {
    let mut cycled = Cycled::default();
    plan::wake_at(cluster, None);
    if !cluster.has_queued() {
        grow(cluster, now, &mut cycled, out);
        return cycled;
    }
    cluster.refresh_index();
    cluster.index.learn(cluster.learning_step(now));
    promise::keep(cluster, now, &mut cycled, out);
    spares::keep(cluster, now, out);
    if !cluster.policy.remember_refusals {
        cluster.refused = crate::refused::Refused::fresh(cluster.tenants.len());
    }
    wake(cluster);
    let before = (cluster.news.free(), cluster.news.division());
    fill(cluster, Pay::FromBudget, now, &mut cycled, out);
    if !cycled.more {
        plan::make_room(cluster, now, &mut cycled, out);
    }
    if !cycled.more && cluster.refused.lift_budgets() {
        let before = cycled.jobs;
        fill(cluster, Pay::IfItFits, now, &mut cycled, out);
        if cycled.jobs > before {
            // What runs as a scavenger may be taken back by those who were looked at before it started.
            cluster.plans.look_again();
            cycled.more = true;
        }
    }
    if !cycled.more {
        let before = out.len();
        if cluster.policy.plan_in_time {
            reserve::replan(cluster, now, out);
        }
        cycled.more |= out.len() > before;
        reserve::fill(cluster, now, &mut cycled, out);
    }
    // Without reservations those who wait would be helped by nothing but what is idle.
    if !cycled.more && cluster.policy.plan_in_time {
        grow(cluster, now, &mut cycled, out);
    }
    // A reservation that was not needed any more, or moved, leaves room for what was refused before.
    cycled.more |= (cluster.news.free(), cluster.news.division()) != before;
    if cycled.more {
        // The scavengers' turn did not come: the budgets hold nobody back for good.
        cluster.refused.lift_budgets();
    }
    cycled
}

/// What was refused and may be lifted by what has happened since is tried again.
pub(crate) fn wake(cluster: &mut Cluster) {
    let Cluster { refused, news, classes, index, tenants, policy, .. } = cluster;
    if policy.flaw == Some(Flaw::LostWakeUp) {
        refused.begin(&news.deaf(), classes, index, tenants.len());
    } else {
        refused.begin(news, classes, index, tenants.len());
    }
}

/// Nobody who waits can start: what is idle still is for gangs that may have more members.
fn grow(cluster: &mut Cluster, now: Time, cycled: &mut Cycled, out: &mut Events) {
    if cluster.short_gangs.is_empty() {
        return;
    }
    cluster.refresh_index();
    let before = out.len();
    let again = resize::grow(cluster, now, out);
    cycled.more |= out.len() > before;
    plan::wake_by(cluster, again);
}

/// Goes through the jobs in their order until every class that is left was refused.
fn fill(cluster: &mut Cluster, pay: Pay, now: Time, cycled: &mut Cycled, out: &mut Events) {
    let (most_jobs, most_members) = (cluster.policy.max_placements_per_cycle, cluster.policy.max_members_per_cycle);
    let mut order = Order::begin(cluster, now);
    while let Some(job) = order.next(cluster) {
        cycled.tried += 1;
        match start::find(&mut InQueue { cluster: &mut *cluster, job }, pay) {
            // Only what could start is a reason to go on: what is remembered as refused or not makes no difference.
            Ok(_) if cycled.jobs >= most_jobs || cycled.members >= most_members => {
                cycled.more = true;
                break;
            }
            Ok(found) => {
                cycled.jobs += 1;
                cycled.members += found.members.len() as u32;
                begin(cluster, job, found, now, out);
                order.placed(cluster);
            }
            Err(why) => refuse(cluster, &mut order, job, why),
        }
    }
    order.end(cluster);
}

/// A job of the queue, tried among what nobody has set aside.
struct InQueue<'c> {
    cluster: &'c mut Cluster,
    job: JobId,
}

impl InQueue<'_> {
    #[inline]
    fn job(&self) -> &Job {
        self.cluster.jobs.get(self.job).expect("the order gives jobs that exist")
    }
}

impl Site for InQueue<'_> {
    #[inline]
    fn cluster(&self) -> &Cluster {
        self.cluster
    }

    #[inline]
    fn wish(&self) -> Wish<'_> {
        Wish::of(self.job())
    }

    #[inline]
    fn is_choosy(&self) -> bool {
        !self.job().avoid.is_empty()
    }

    #[inline]
    fn place(&mut self, pool: PoolIndex, most: u32, _scavenger: bool) -> Result<Members, Blocked> {
        let Cluster { jobs, index, policy, scratch, bookings, .. } = &mut *self.cluster;
        let job = jobs.get(self.job).expect("the order gives jobs that exist");
        if let Some(booking) = job.spec.booking {
            // It is tried in its booking alone.
            let from = bookings.get(booking).map_or(Time(0), |booking| booking.from);
            return Err(Blocked::AwaitsBooking { booking, from });
        }
        index.place_most(&job.spec.request, most, pool, &job.avoid, policy.search_steps, scratch)
    }

    fn index(&mut self) -> &mut PlaceIndex {
        &mut self.cluster.index
    }

    fn place_judged(&mut self, pools: &[PoolIndex]) -> Option<(PoolIndex, Placed)> {
        let Cluster { jobs, index, scratch, .. } = &mut *self.cluster;
        let job = jobs.get(self.job).expect("the order gives jobs that exist");
        if job.spec.booking.is_some() {
            return None;
        }
        index.place_judged(&job.spec.request, pools, &job.avoid, None, scratch)
    }
}

/// Whether a queued job could start now.
pub(crate) fn could_start(cluster: &mut Cluster, job: JobId) -> bool {
    start::find(&mut InQueue { cluster, job }, Pay::IfItFits).is_ok()
}

fn refuse(cluster: &mut Cluster, order: &mut Order, id: JobId, why: Refused) {
    let job = cluster.jobs.get(id).expect("the order gives jobs that exist");
    let class = job.queued.expect("the order gives queued jobs").class;
    match why {
        Refused::Placement(why) => cluster.refused.note_no_room(class, why),
        Refused::Admission(why) => cluster.refused.note_no_quota(class, job.spec.tenant, why),
        Refused::Budget(why) => cluster.refused.note_over_budget(class, job.spec.tenant, why),
        Refused::Cap(why) => cluster.refused.note_over_cap(class, job.spec.tenant, job.spec.user, why),
        Refused::Alone(why) => {
            cluster.refused.note_alone(id, why);
            return order.skip(cluster, id);
        }
    }
    order.refused(cluster);
}

/// The job, or the next index of the array, gets its GPUs.
pub(crate) fn begin(cluster: &mut Cluster, id: JobId, found: Found, now: Time, out: &mut Events) {
    let Found { pool, members, limit, scavenger, guest } = found;
    let job = cluster.jobs.get(id).expect("the order gives jobs that exist");
    let (is_array, lowered) = (job.progress.is_some(), (limit < job.spec.time_limit).then_some(limit));
    let started = if is_array { start_index(cluster, id, now, out) } else { id };
    let attempt = cluster.next_attempt(started);
    emit(cluster, now, Event::JobPlaced { job: started, attempt, pool, members, scavenger, guest, lowered }, out);
}

/// The next index of an array becomes a job of its own.
pub(crate) fn start_index(cluster: &mut Cluster, array: JobId, now: Time, out: &mut Events) -> JobId {
    let progress = cluster.jobs.get(array).and_then(|job| job.progress.as_deref());
    let index = progress.expect("only an array has indices").next;
    let job = cluster.next_job;
    emit(cluster, now, Event::ArrayIndexStarted { array, index, job }, out);
    job
}
