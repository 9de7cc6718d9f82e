//! Promises: GPUs held for a job that waits until they are all free.
//!
//! In: a plan that was proven (these GPUs, after these evictions). Out: the job placed exactly there as soon as the last
//! of them is free, or the promise dropped with its cause. From the moment it is made a promise counts like an attempt of
//! the job's tenant (against quota, limit and budget, and in the order of starts that says what is borrowed), and its GPUs, CPU
//! and memory are in nobody's index.
//! It must never keep GPUs for a job that cannot use them, and never past its deadline.

use std::collections::BTreeSet;

use smallvec::SmallVec;

use crate::admit::start::Wish;
use crate::admit::{budget, lending, quota};
use crate::cluster::Cluster;
use crate::cycle::Cycled;
use crate::decide::{Events, emit};
use crate::event::Event;
use crate::ids::{JobId, MemberIndex, NodeIndex, PoolIndex};
use crate::job::Job;
use crate::node::Contact;
use crate::placement::{Members, Placed};
use crate::survivors;
use crate::tenant::RunningKey;
use crate::units::{Gpus, Span, Time};

/// As often as this, in times of its `span`, the time of a promise is counted at most while agents connect, or schedulers come
/// back, again and again.
const MOST_SPANS: u64 = 4;

/// GPUs held for a waiting job.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Promise {
    /// Where they are.
    pub pool: PoolIndex,
    /// By rank; no other promise has any of these GPUs.
    pub members: Members,
    /// When it was made.
    pub made_at: Time,
    /// Its place in the order in which attempts get their GPUs; the attempt inherits it.
    pub start_order: u64,
    /// If they are not all free by then, others are looked for.
    pub due: Time,
    /// What those that are in the way have to be gone, from the moment on at which they could hear of it.
    pub span: Span,
    /// However often agents connect anew, `due` is no later than this. What lies between the two is what is left to put the
    /// promise off by.
    pub latest: Time,
    /// Of a gang that lost nodes: the ranks for which a place is sought still, in order; `members` are the others then.
    pub sought: SmallVec<[MemberIndex; 2]>,
}

impl Promise {
    /// Beyond this a promise that was made at `since` is not renewed because of an agent.
    pub fn latest(since: Time, span: Span) -> Time {
        since + Span(span.0.saturating_mul(MOST_SPANS))
    }

    /// All GPUs of all members.
    pub fn gpus(&self) -> Gpus {
        self.members.iter().map(Placed::held).sum()
    }
}

/// Why a promise was not kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum DropCause {
    /// The job ended, is held, or must wait for another reason.
    NotWanted,
    /// A node of it was lost or closed, or a GPU of it was fenced.
    NodeClosed,
    /// Quotas, limits or a pause do not allow it any more.
    NotAllowed,
    /// Something did not stop in time: other GPUs are looked for.
    Late,
    /// It would run into a booking of its nodes.
    Booked,
    /// Nothing came in time to take the place of what a gang has lost: it is placed anew.
    NoSpare,
}

/// At the start of a cycle: places the jobs whose GPUs are all free, drops the promises that cannot be kept.
pub(crate) fn keep(cluster: &mut Cluster, now: Time, cycled: &mut Cycled, out: &mut Events) {
    // Promises that were looked at before a late one may lie on the nodes that are emptied for it.
    while look_after(cluster, now, cycled, out) {}
}

/// Looks at each promise once. Whether a node was emptied.
fn look_after(cluster: &mut Cluster, now: Time, cycled: &mut Cycled, out: &mut Events) -> bool {
    let jobs: Vec<JobId> = cluster.promises.keys().copied().collect();
    let mut has_emptied = false;
    for job in jobs {
        let Some(promise) = cluster.promises.get(&job) else { continue };
        if let Some(why) = cause_to_drop(cluster, job, promise, now) {
            emit(cluster, now, Event::PromiseDropped { job, why }, out);
        } else if !promise.sought.is_empty() {
            survivors::complete(cluster, job, now, cycled, out);
        } else if (0..promise.members.len()).all(|rank| is_free(cluster, &promise.members, rank)) {
            let (pool, members) = (promise.pool, promise.members.clone());
            cycled.jobs += 1;
            cycled.members += members.len() as u32;
            let (attempt, scavenger, guest, lowered) = (cluster.next_attempt(job), false, false, None);
            emit(cluster, now, Event::JobPlaced { job, attempt, pool, members, scavenger, guest, lowered }, out);
        } else if promise.due <= now {
            let late = in_the_way(cluster, &promise.members);
            emit(cluster, now, Event::PromiseDropped { job, why: DropCause::Late }, out);
            has_emptied |= drain_late(cluster, late, now, out);
        }
    }
    has_emptied
}

/// The nodes of the members that are not gone yet and for which a promise waits. GPUs of a gang are free when its last
/// member is gone, so that a promise may wait for a node on which it has no GPUs.
fn in_the_way(cluster: &Cluster, promised: &Members) -> BTreeSet<NodeIndex> {
    let holders = promised.iter().flat_map(|placed| {
        let residents = &cluster.node(placed.node).residents;
        residents.iter().filter_map(|resident| {
            let attempt = cluster.job(resident.job)?.attempt.as_deref()?;
            let held = &attempt.members[resident.member.at()].placed;
            (!held.gpus.and(placed.gpus).is_empty()).then_some(attempt)
        })
    });
    holders.flat_map(|attempt| attempt.alive().map(|(_, member)| member.placed.node)).collect()
}

/// A node on which something was to be gone by now is not trusted with anything new: it is emptied. What it cannot stop is
/// never placed beside. Whether there is one that was not emptied before.
fn drain_late(cluster: &mut Cluster, late: BTreeSet<NodeIndex>, now: Time, out: &mut Events) -> bool {
    let before = out.len();
    for node in late {
        let known = cluster.node(node);
        if !known.draining && known.contact == Contact::Ready {
            emit(cluster, now, Event::NodeCordoned { node, cordoned: true, draining: true }, out);
        }
    }
    out.len() > before
}

/// The agent of a node has connected anew. Promises that wait for a member there get their time anew: it may hear of the
/// stop only now, and a node is not to blame for what it was not told. An agent that connects again and again puts a
/// promise off until its `latest`, and no further.
pub(crate) fn renew(cluster: &mut Cluster, node: NodeIndex, now: Time, out: &mut Events) {
    for (job, Promise { span, due, latest, .. }) in waiting_for(cluster, |other| other == node) {
        let renewed = (now + span).min(latest);
        if renewed > due {
            emit(cluster, now, Event::PromiseRenewed { job, due: renewed, latest }, out);
        }
    }
}

/// The scheduler was away: the time of all promises that wait for somebody begins anew. How long it was away counts for
/// nothing, but each return takes a span of what is left to put the promise off by, so that schedulers that come back again and
/// again do so no further than agents.
pub(crate) fn begin_anew(cluster: &mut Cluster, now: Time, out: &mut Events) {
    for (job, Promise { span, due, latest, .. }) in waiting_for(cluster, |_| true) {
        let left = latest.since(due);
        if left == Span::ZERO {
            continue;
        }
        let due = now + span;
        let latest = due + left.less(span);
        emit(cluster, now, Event::PromiseRenewed { job, due, latest }, out);
    }
}

/// The promises that wait for a member on such a node. What survivors hold is free: nobody is waited for.
fn waiting_for(cluster: &Cluster, is_asked: impl Fn(NodeIndex) -> bool) -> Vec<(JobId, Promise)> {
    let waits = |promise: &Promise| {
        promise.sought.is_empty() && in_the_way(cluster, &promise.members).into_iter().any(&is_asked)
    };
    let promises = cluster.promises.iter().filter(|(_, promise)| waits(promise));
    promises.map(|(job, promise)| (*job, promise.clone())).collect()
}

/// Drops the promise for a job that cannot use it any more, if there is one.
pub(crate) fn give_up(cluster: &mut Cluster, job: JobId, now: Time, out: &mut Events) {
    if cluster.promises.contains_key(&job) {
        emit(cluster, now, Event::PromiseDropped { job, why: DropCause::NotWanted }, out);
    }
}

fn cause_to_drop(cluster: &Cluster, id: JobId, promise: &Promise, now: Time) -> Option<DropCause> {
    // Survivors are held while it is not proven yet that what was lost is dead.
    let is_wanted = |job: &&Job| job.is_eligible() || (!promise.sought.is_empty() && survivors::awaits_proof(job));
    let Some(job) = cluster.job(id).filter(is_wanted) else {
        return Some(DropCause::NotWanted);
    };
    for tenant in cluster.chain(job.spec.tenant) {
        let (quota, held) = (tenant.quota_in(promise.pool), tenant.held_in(promise.pool));
        let is_over = quota.limit.is_some_and(|limit| held.used > limit);
        let guaranteed = quota::guaranteed(tenant, quota);
        let is_fixed_over = !job.spec.preemptible && guaranteed.is_some_and(|quota| held.fixed > quota);
        if tenant.paused || is_over || is_fixed_over {
            return Some(DropCause::NotAllowed);
        }
    }
    if budget::is_overdrawn(cluster, job.spec.tenant) || lending::refuses_promise(cluster, job, promise) {
        return Some(DropCause::NotAllowed);
    }
    let wish = Wish::of(job);
    if !promise.members.iter().all(|placed| cluster.admits(placed.node, &wish, now)) {
        return Some(DropCause::Booked);
    }
    let is_usable = |placed: &Placed| {
        let node = cluster.node(placed.node);
        // A node that is only silent may be heard again before the promise is due.
        let may_open = node.contact != Contact::Lost && !node.cordoned && !node.draining;
        node.pool == promise.pool && may_open && node.capacity.has(placed) && node.bad.and(placed.gpus).is_empty()
    };
    (!promise.members.iter().all(is_usable)).then_some(DropCause::NodeClosed)
}

/// Whether a member's GPUs are free; of a GPU that several of the members share, beside those before it.
fn is_free(cluster: &Cluster, members: &[Placed], rank: usize) -> bool {
    let placed = &members[rank];
    let node = cluster.node(placed.node);
    if !node.is_open() || !node.taken.and(placed.gpus).is_empty() {
        return false;
    }
    match placed.shared_gpu() {
        None => node.parts.gpus().and(placed.gpus).is_empty(),
        Some(gpu) => {
            let same = members[..rank].iter().filter(|other| (other.node, other.gpus) == (placed.node, placed.gpus));
            same.fold(node.parts.of(gpu), |cut, other| cut.with(other.portion)).admits(placed.portion)
        }
    }
}

impl Cluster {
    /// The promise for a job, if there is one.
    pub fn promise(&self, job: JobId) -> Option<&Promise> {
        self.promises.get(&job)
    }

    /// All promises, by job.
    pub fn promises(&self) -> impl Iterator<Item = (JobId, &Promise)> {
        self.promises.iter().map(|(job, promise)| (*job, promise))
    }

    /// GPUs of a promise that are free already.
    pub fn promised_free(&self, promise: &Promise) -> Gpus {
        let members = &promise.members;
        let free = |rank: &usize| members[*rank].shared_gpu().is_some() && is_free(self, members, *rank);
        let parts = (0..members.len()).filter(free).map(|rank| members[rank].held());
        let whole = promise.members.iter().map(|p| {
            let node = self.node(p.node);
            p.whole_gpus().without(node.taken).without(node.parts.gpus()).count()
        });
        parts.chain(whole).sum()
    }

    /// `apply`: the promise counts from now on; the job leaves the queue, because it is not to be tried elsewhere.
    pub(crate) fn hold_promise(&mut self, id: JobId, promise: Promise, now: Time) {
        self.dequeue(id);
        let key = self.promise_key(id, promise.start_order);
        self.count_promise(id, &promise, true, now);
        if let Some(mission) = self.mission(self.tenant_of(id)) {
            self.tenants[mission.at()].attempts.insert(key);
        }
        if let Some(left) = self.without_overlapped(&promise.members, |_| true) {
            self.set_reservations(left);
        }
        let pool = promise.pool;
        let nodes: SmallVec<[NodeIndex; 8]> = promise.members.iter().map(|placed| placed.node).collect();
        self.promises.insert(id, promise);
        nodes.into_iter().for_each(|node| self.recount_domain(node));
        // What the tenant kept back of its quota is promised now: others may get what is idle.
        self.divided(pool);
    }

    /// `apply`: the promise counts no more. Whoever calls puts the job where it belongs, and classifies its mission anew.
    pub(crate) fn take_promise(&mut self, id: JobId, now: Time) -> Option<Promise> {
        let promise = self.promises.remove(&id)?;
        let key = self.promise_key(id, promise.start_order);
        self.count_promise(id, &promise, false, now);
        if let Some(mission) = self.mission(self.tenant_of(id)) {
            self.tenants[mission.at()].attempts.remove(&key);
        }
        Some(promise)
    }

    /// `apply`: a promise is kept for longer.
    pub(crate) fn renew_promise(&mut self, id: JobId, due: Time, latest: Time) {
        let promise = self.promises.get_mut(&id).expect("an event names a promise that exists");
        (promise.due, promise.latest) = (due, latest);
    }

    /// `apply`: a promise was not kept.
    pub(crate) fn drop_promise(&mut self, id: JobId, now: Time) {
        let promise = self.take_promise(id, now).expect("an event names a promise that exists");
        if let Some(mission) = self.mission(self.tenant_of(id)) {
            self.classify(mission, now);
        }
        self.relieved_all(self.tenant_of(id));
        self.divided(promise.pool);
        for placed in &promise.members {
            // The node may have come to another pool.
            self.freed_on(placed.node);
        }
        self.enqueue_if_eligible(id);
    }

    fn tenant_of(&self, id: JobId) -> crate::ids::TenantIndex {
        self.jobs.get(id).expect("a promise is for a job that exists").spec.tenant
    }

    fn promise_key(&self, id: JobId, start_order: u64) -> RunningKey {
        let job = self.jobs.get(id).expect("a promise is for a job that exists");
        RunningKey { preemptible: job.spec.preemptible, start_order, job: id }
    }

    fn count_promise(&mut self, id: JobId, promise: &Promise, is_made: bool, now: Time) {
        let half_life = self.policy.half_life;
        let job = self.jobs.get(id).expect("a promise is for a job that exists");
        let gpus = promise.gpus();
        let fixed = if job.spec.preemptible { Gpus::ZERO } else { gpus };
        let (cpu, memory) = (job.spec.request.cpu, job.spec.request.memory);
        let commitment = gpus.over(job.spec.time_limit);
        let mut next = Some(job.spec.tenant);
        while let Some(tenant) = next {
            let tenant = &mut self.tenants[tenant.at()];
            let held = &mut tenant.held[promise.pool.at()];
            if is_made {
                held.used += gpus;
                held.fixed += fixed;
                held.promised += gpus;
            } else {
                held.used -= gpus;
                held.fixed -= fixed;
                held.promised -= gpus;
            }
            if tenant.budget.is_some() {
                let committed = tenant.committed;
                tenant.committed = if is_made { committed + commitment } else { committed.less(commitment) };
            }
            let above = tenant.above_quota();
            if above != tenant.excess.rate {
                tenant.excess.set_rate(above, now, half_life);
            }
            next = tenant.parent;
        }
        for placed in &promise.members {
            let node = &mut self.nodes[placed.node.at()];
            let promised = &mut node.promised;
            if is_made {
                promised.gpus = promised.gpus.with(placed.gpus);
                promised.cpu += cpu;
                promised.memory += memory;
            } else {
                promised.gpus = promised.gpus.without(placed.gpus);
                promised.cpu -= cpu;
                promised.memory -= memory;
            }
            self.node_changed(placed.node);
        }
    }
}
