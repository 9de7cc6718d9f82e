//! When a job fits: what is free at a time to come is a step function of the limits of what runs, and of what is set
//! aside for others.
//!
//! In: a job, what is set aside already. Out: the earliest time at which the whole gang fits where it must and its tenant
//! may have it, and the GPUs. The index is walked forward in time: at each end its GPUs come back, at each reservation
//! that the job would overlap they go; what tenants hold walks along, and what they may have changes at the dates of the
//! calendar. GPUs that are promised, on closed nodes or fenced
//! never come back here.
//! It must leave index, tenants and pools as it found them.

use std::collections::{BTreeMap, BTreeSet};

use crate::admit::start::Wish;
use crate::admit::{lending, quota, whole};
use crate::cluster::Cluster;
use crate::gpu::GpuSet;
use crate::ids::{JobId, NodeIndex, PoolIndex, TenantIndex};
use crate::job::Job;
use crate::parts::Parts;
use crate::place::Mark;
use crate::placement::{Members, Portion};
use crate::plan::latest_end;
use crate::request::Part;
use crate::reserve::{Reservation, is_inside_quota};
use crate::tenant::{Held, Quota};
use crate::units::{CpuMilli, Gpus, MemoryMib, Span, Time};

/// The ends of what runs in one pool, earliest first.
pub(super) type Ends = Vec<(Time, JobId)>;

/// Something that happens at a time to come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Step {
    /// An attempt is over.
    End(JobId),
    /// Past the end of a reservation.
    Lift(usize),
    /// From here on the job would overlap a reservation.
    Take(usize),
    /// What a tenant may have is another from here on.
    Date(usize),
}

/// What a tenant may have of the pool from a date on.
type Dated = (Time, TenantIndex, Quota);

/// The ends of all attempts in `pool` that will end.
pub(super) fn ends(cluster: &Cluster, pool: PoolIndex, now: Time) -> Ends {
    let missions = cluster.tenants.iter().filter(|tenant| tenant.depth == 1);
    let jobs = missions.flat_map(|mission| &mission.attempts).filter_map(|key| cluster.job(key.job));
    let in_pool = jobs.filter(|job| job.live_attempt().is_some_and(|attempt| attempt.pool == pool));
    // What should have ended by now ends soon.
    let end = |job: &Job| latest_end(cluster, job, now).map(|end| (end.max(now + Span(1)), job.id));
    let mut found: Ends = in_pool.filter_map(end).collect();
    found.sort_unstable();
    found
}

/// The same ends, but for those that may be taken back before.
pub(super) fn sooner(ends: &Ends, returns: &[(Time, JobId)]) -> Ends {
    let mut by_job: Vec<(JobId, Time)> = returns.iter().map(|(time, job)| (*job, *time)).collect();
    by_job.sort_unstable();
    let returned = |job: JobId| by_job.binary_search_by_key(&job, |(job, _)| *job).ok().map(|at| by_job[at].1);
    let mut sooner: Ends =
        ends.iter().map(|(end, job)| (returned(*job).map_or(*end, |at| at.min(*end)), *job)).collect();
    // Most stay in their order, and a stable sort takes what is in order as it is.
    sooner.sort();
    sooner
}

/// For whom the walk is, and past what.
#[derive(Clone, Copy)]
pub(super) struct Question<'q> {
    pub(super) job: JobId,
    pub(super) pool: PoolIndex,
    pub(super) ends: &'q Ends,
    /// What is set aside already.
    pub(super) taken: &'q [Reservation],
    pub(super) now: Time,
    /// A gate refuses it now: it begins at the next step at the earliest.
    pub(super) is_refused: bool,
    /// How long the job holds its GPUs at most.
    pub(super) length: Span,
}

/// What a walk found.
pub(super) struct Found {
    pub(super) from: Time,
    pub(super) members: Members,
    /// Whether the job lies inside its quota then.
    pub(super) is_own: bool,
}

/// The state that walks forward in time.
struct Walk<'w> {
    cluster: &'w mut Cluster,
    question: &'w Question<'w>,
    /// By node, where something ended: GPUs held whole by what has not.
    whole: Vec<Option<GpuSet>>,
    /// Where parts were given back: those that are still held.
    parts: BTreeMap<NodeIndex, Parts>,
    /// What is set aside already, by node: the GPUs, and of which reservation.
    aside: Vec<(NodeIndex, GpuSet, usize)>,
    /// By reservation: whether the job would overlap it.
    overlaps: Vec<bool>,
    /// What tenants held before it was changed, oldest first.
    undo: Vec<(TenantIndex, Held)>,
    /// The dates to come, in order of time.
    dates: Vec<Dated>,
    /// What tenants might have before a date changed it, oldest first.
    undo_dates: Vec<(TenantIndex, Quota)>,
}

/// The earliest time at which the job fits, and where.
pub(super) fn earliest(cluster: &mut Cluster, question: &Question<'_>) -> Option<Found> {
    let idle = cluster.pools[question.pool.at()].idle;
    let mark = cluster.index.checkpoint();
    let whole = vec![None; cluster.nodes.len()];
    let mut aside = Vec::new();
    for (at, taken) in question.taken.iter().enumerate() {
        aside.extend(taken.members.iter().map(|placed| (placed.node, placed.gpus, at)));
    }
    aside.sort_unstable_by_key(|(node, _, at)| (*node, *at));
    let overlaps = vec![false; question.taken.len()];
    let job = cluster.job(question.job);
    let bars = job.and_then(|job| whole::bars(cluster, &Wish::of(job), question.pool));
    if let Some(bars) = bars {
        cluster.index.bar(question.pool, &bars);
    }
    let dates = dates(cluster, question.pool, question.now);
    let (parts, undo, undo_dates) = (BTreeMap::new(), Vec::new(), Vec::new());
    let mut walk = Walk { cluster, question, whole, parts, aside, overlaps, undo, dates, undo_dates };
    let found = walk.run();
    walk.leave(mark, idle);
    found
}

/// What tenants may have of a pool at each date of the calendar that is to come.
fn dates(cluster: &Cluster, pool: PoolIndex, now: Time) -> Vec<Dated> {
    let in_pool = cluster.calendar().filter(|dated| dated.key.pool == pool);
    let of_tenant = in_pool.flat_map(|dated| {
        [Some(dated.key.from), dated.until].into_iter().flatten().map(|date| (date, dated.key.tenant))
    });
    let to_come: BTreeSet<(Time, TenantIndex)> = of_tenant.filter(|(date, _)| *date > now).collect();
    to_come.into_iter().map(|(date, tenant)| (date, tenant, cluster.quota_at(tenant, pool, date))).collect()
}

impl Walk<'_> {
    fn run(&mut self) -> Option<Found> {
        let Question { ends, now, .. } = *self.question;
        let others = self.others();
        let (mut end, mut other) = (0, 0);
        let mut at = now;
        for _ in 0..self.cluster.policy.max_timeline_steps {
            while let Some((_, step)) = others.get(other).filter(|(time, _)| *time <= at) {
                other += 1;
                self.take_step(*step);
            }
            while let Some((_, job)) = ends.get(end).filter(|(time, _)| *time <= at) {
                end += 1;
                self.take_step(Step::End(*job));
            }
            let may_begin = at > now || !self.question.is_refused;
            if let Some(members) = may_begin.then(|| self.fits()).flatten() {
                let is_own = self.is_inside_quota();
                return Some(Found { from: at, members, is_own });
            }
            let next = ends.get(end).map(|(time, _)| *time).into_iter().chain(others.get(other).map(|(time, _)| *time));
            at = next.min()?;
        }
        None
    }

    /// When reservations begin and cease to be in the way, and the dates of the calendar.
    fn others(&self) -> Vec<(Time, Step)> {
        let Question { taken, length, .. } = *self.question;
        let in_pool = taken.iter().enumerate().filter(|(_, taken)| taken.pool == self.question.pool);
        let mut steps: Vec<(Time, Step)> = in_pool
            .flat_map(|(at, taken)| {
                // It overlaps when it begins later than so long before.
                let first = Time(taken.from.0.checked_sub(length.0).map_or(0, |before| before + 1));
                [(first, Step::Take(at)), (taken.until, Step::Lift(at))]
            })
            .collect();
        steps.extend(self.dates.iter().enumerate().map(|(at, (date, ..))| (*date, Step::Date(at))));
        // What never ends is never lifted.
        steps.retain(|(time, _)| *time < Time(u64::MAX));
        steps.sort_unstable();
        steps
    }

    fn take_step(&mut self, step: Step) {
        match step {
            Step::End(job) => self.end(job),
            Step::Take(at) => {
                self.overlaps[at] = true;
                self.shift(at, true);
            }
            Step::Lift(at) => {
                self.overlaps[at] = false;
                self.shift(at, false);
            }
            Step::Date(at) => {
                let ((_, tenant, quota), pool) = (self.dates[at], self.question.pool.at());
                let before = std::mem::replace(&mut self.cluster.tenants[tenant.at()].quotas[pool], quota);
                self.undo_dates.push((tenant, before));
            }
        }
    }

    fn end(&mut self, id: JobId) {
        let Some(job) = self.cluster.jobs.get(id) else { return };
        let Some(attempt) = job.live_attempt() else { return };
        let (cpu, memory, preemptible) = (job.spec.request.cpu, job.spec.request.memory, job.spec.preemptible);
        let (tenant, gpus, borrowed) = (job.spec.tenant, attempt.gpus(), attempt.borrowed);
        let placed: Members = attempt.members.iter().map(|member| member.placed).collect();
        for member in placed {
            let node = &self.cluster.nodes[member.node.at()];
            if member.portion == Portion::Whole {
                let whole = self.whole[member.node.at()].get_or_insert(node.taken);
                *whole = whole.without(member.gpus);
            } else {
                self.parts.entry(member.node).or_insert_with(|| node.parts.clone()).give_back(&member);
            }
            self.show(member.node, signed(cpu.0), signed(memory.0));
        }
        self.change_held(tenant, |held| {
            held.used -= gpus;
            held.fixed -= if preemptible { Gpus::ZERO } else { gpus };
            held.borrowed -= if borrowed { held.borrowed.min(gpus) } else { Gpus::ZERO };
        });
    }

    /// A reservation begins or ceases to be in the way.
    fn shift(&mut self, at: usize, is_taken: bool) {
        let taken = &self.question.taken[at];
        let sign = if is_taken { -1 } else { 1 };
        for placed in &taken.members {
            self.show(placed.node, sign * signed(taken.cpu.0), sign * signed(taken.memory.0));
        }
        let Some(job) = self.cluster.jobs.get(taken.job) else { return };
        let (tenant, preemptible, gpus) = (job.spec.tenant, job.spec.preemptible, taken.gpus());
        let fixed = if preemptible { Gpus::ZERO } else { gpus };
        self.change_held(tenant, |held| {
            if is_taken {
                held.used += gpus;
                held.fixed += fixed;
            } else {
                held.used -= gpus;
                held.fixed -= fixed;
            }
        });
    }

    /// Tells the index what is free on a node by now.
    fn show(&mut self, node: NodeIndex, cpu: i64, memory: i64) {
        let first = self.aside.partition_point(|(other, ..)| *other < node);
        let here = self.aside[first..].iter().take_while(|(other, ..)| *other == node);
        let blocked =
            here.filter(|(.., of)| self.overlaps[*of]).fold(GpuSet::EMPTY, |all, (_, gpus, _)| all.with(*gpus));
        let entry = &self.cluster.nodes[node.at()];
        let whole = self.whole[node.at()].unwrap_or(entry.taken);
        let parts = self.parts.get(&node).unwrap_or(&entry.parts);
        // Of what is held whole and was cut meanwhile nothing is left before it is given back.
        let usable = entry.usable().without(blocked).without(whole.and(parts.gpus()));
        let free = usable.without(whole).without(parts.gpus());
        self.cluster.index.foresee(node, free, usable, parts, cpu, memory);
    }

    fn change_held(&mut self, tenant: TenantIndex, change: impl Fn(&mut Held)) {
        let pool = self.question.pool.at();
        let mut next = Some(tenant);
        while let Some(index) = next {
            let tenant = &mut self.cluster.tenants[index.at()];
            self.undo.push((index, tenant.held[pool]));
            change(&mut tenant.held[pool]);
            next = tenant.parent;
        }
    }

    /// A place for the job as things stand by now, if its tenant may have it then.
    fn fits(&mut self) -> Option<Members> {
        let Question { job, pool, .. } = *self.question;
        let cluster = &mut *self.cluster;
        let entry = cluster.jobs.get(job)?;
        let (request, steps) = (entry.spec.request.clone(), cluster.policy.search_steps);
        if request.part == Part::Whole && cluster.index.free(pool) < request.least_gpus() {
            return None;
        }
        if !cluster.index.fits(&request, pool, &entry.avoid, steps, &mut cluster.scratch) {
            return None;
        }
        cluster.pools[pool.at()].idle = cluster.index.free(pool);
        let (wish, want) = (Wish::of(entry), entry.gpus());
        quota::may_start(cluster, wish.tenant, pool, want, wish.preemptible).ok()?;
        if lending::refusal(cluster, wish.start(want, false), pool).is_some() {
            return None;
        }
        let avoid = &cluster.jobs.get(job)?.avoid;
        // Of an elastic gang only what it cannot do without is promised.
        let least = request.least_members();
        cluster.index.place_most(&request, least, pool, avoid, steps, &mut cluster.scratch).ok()
    }

    fn is_inside_quota(&self) -> bool {
        let Question { job, pool, .. } = *self.question;
        let job = self.cluster.job(job);
        job.is_some_and(|job| is_inside_quota(self.cluster, job.spec.tenant, pool, job.gpus()))
    }

    fn leave(mut self, mark: Mark, idle: Gpus) {
        let pool = self.question.pool.at();
        while let Some((tenant, held)) = self.undo.pop() {
            self.cluster.tenants[tenant.at()].held[pool] = held;
        }
        while let Some((tenant, quota)) = self.undo_dates.pop() {
            self.cluster.tenants[tenant.at()].quotas[pool] = quota;
        }
        self.cluster.pools[pool].idle = idle;
        self.cluster.index.unbar(self.question.pool);
        self.cluster.index.rollback(mark);
    }
}

fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

/// A reservation as it is kept.
pub(super) fn reservation(cluster: &Cluster, question: &Question<'_>, found: Found) -> Reservation {
    let request = cluster.job(question.job).map(|job| job.spec.request.clone());
    let (cpu, memory) = request.map_or((CpuMilli::ZERO, MemoryMib::ZERO), |request| (request.cpu, request.memory));
    let (Question { job, pool, length, .. }, Found { from, members, is_own }) = (*question, found);
    Reservation { job, pool, members, cpu, memory, from, until: from + length, is_own, reclaims: false }
}
