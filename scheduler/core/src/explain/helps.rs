//! What would let a waiting job start now: fewer members, smaller ones, another level, another pool, another class. Each
//! is tried by the code that decides, and only what succeeds is told.
//!
//! In: what the job asks for, and an index to try things on. Out: changes of one thing each, with the evictions that the
//! start would take. It must never try more than its bounds, and it leaves the index as it found it.

use std::sync::Arc;

use super::TrialIndex;
use crate::admit::budget;
use crate::admit::start::{self, Pay, Refused, Site, Wish};
use crate::admit::whole;
use crate::blocked::Blocked;
use crate::cluster::Cluster;
use crate::ids::{JobId, PoolIndex, PriorityIndex};
use crate::place::PlaceIndex;
use crate::placement::Members;
use crate::plan::{self, Asked};
use crate::request::{Level, Request, Shape};
use crate::reserve::{self, Comer};
use crate::units::{CpuMilli, Gpus, MemoryMib, Span, Time};

/// Searches for victims in one explanation: they are what costs (up to 2 ms each on a full cluster).
pub const MAX_PLANS: u32 = 12;

/// One thing that could be asked for in another way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// So many members.
    Members(u32),
    /// So many GPUs for each member.
    GpusPerMember(u8),
    /// The required level only preferred.
    Prefer(Level),
    /// A wider level required.
    Require(Level),
    /// Members may share nodes.
    ShareNodes,
    /// So much CPU and memory for each member.
    Beside {
        /// CPU.
        cpu: CpuMilli,
        /// Memory.
        memory: MemoryMib,
    },
    /// This pool as well.
    Pool(PoolIndex),
    /// It may be evicted, and run on lent GPUs.
    Preemptible,
    /// This class of priority.
    Priority(PriorityIndex),
    /// This time limit.
    TimeLimit(Span),
}

/// A change with which the job would start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Help {
    /// What is asked for in another way.
    pub change: Change,
    /// Attempts that would be evicted for it first; 0: it starts in the next cycle.
    pub evicts: u32,
    /// The GPUs of those.
    pub evicted: Gpus,
}

/// Time limits that are tried: this many parts of one more.
const TIME_PARTS: u64 = 7;

/// A job that is only thought of, tried on a copy of the index beside the reservations.
struct Sketch<'s, 'i> {
    cluster: &'s Cluster,
    trial: &'s mut TrialIndex<'i>,
    asked: &'s Asked,
    now: Time,
}

impl Site for Sketch<'_, '_> {
    fn cluster(&self) -> &Cluster {
        self.cluster
    }

    fn wish(&self) -> Wish<'_> {
        self.asked.wish().starting_at(self.now)
    }

    fn is_choosy(&self) -> bool {
        !self.asked.avoid.is_empty()
    }

    fn index(&mut self) -> &mut PlaceIndex {
        self.trial.index
    }

    fn place(&mut self, pool: PoolIndex, most: u32, scavenger: bool) -> Result<Members, Blocked> {
        let Self { cluster, asked, now, .. } = *self;
        let comer = Comer { wish: asked.wish(), scavenger, moves: false, now };
        let most = comer.most(cluster, pool, most);
        let TrialIndex { index, scratch } = &mut *self.trial;
        let mark = index.checkpoint();
        // With another limit it may be over before what is set aside is wanted.
        reserve::lift_for(cluster, index, &comer, pool);
        let request = reserve::narrowed(cluster, &asked.request, &comer.wish, pool);
        let steps = cluster.policy.search_steps;
        let found = request.and_then(|request| index.place_most(&request, most, pool, &asked.avoid, steps, scratch));
        index.rollback(mark);
        found
    }
}

/// Whether what has room has it only in domains that are kept whole for others.
pub(super) fn kept_whole(
    cluster: &Cluster,
    trial: &mut TrialIndex<'_>,
    asked: &Asked,
    pool: PoolIndex,
    now: Time,
) -> Option<Blocked> {
    let least = asked.request.least_members();
    match whole::place(&mut Sketch { cluster, trial, asked, now }, pool, least, false) {
        Err(Refused::Admission(why)) => Some(why),
        Ok(_) | Err(Refused::Placement(_) | Refused::Budget(_) | Refused::Cap(_) | Refused::Alone(_)) => None,
    }
}

/// Whether a job would start now with this limit, though nobody is evicted.
pub(super) fn starts_within(
    cluster: &Cluster,
    trial: &mut TrialIndex<'_>,
    asked: &Asked,
    time_limit: Span,
    now: Time,
) -> bool {
    let asked = &Asked { time_limit, ..asked.clone() };
    start::find(&mut Sketch { cluster, trial, asked, now }, Pay::IfItFits).is_ok()
}

/// The job as backfill tries it when its own limit finds no place. Budgets are asked with its own.
fn with_least_limit(cluster: &Cluster, asked: &Asked) -> Asked {
    let is_paid = || budget::over(cluster, asked.tenant, asked.gpus(), asked.time_limit).is_none();
    let least = asked.time_min.filter(|_| is_paid());
    Asked { time_limit: least.unwrap_or(asked.time_limit), ..asked.clone() }
}

struct Tries<'c, 't, 'i> {
    cluster: &'c Cluster,
    trial: &'t mut TrialIndex<'i>,
    now: Time,
    /// Searches for victims that are left.
    plans: u32,
    found: Vec<Help>,
}

/// `is_planned`: as it is the job starts after evictions; then only what needs none helps.
pub(super) fn of(
    cluster: &Cluster,
    trial: &mut TrialIndex<'_>,
    asked: &Asked,
    is_planned: bool,
    now: Time,
) -> Vec<Help> {
    let asked = &with_least_limit(cluster, asked);
    let plans = if is_planned { 0 } else { MAX_PLANS };
    let mut tries = Tries { cluster, trial, now, plans, found: Vec::new() };
    tries.fewer_members(asked);
    tries.smaller_members(asked);
    tries.levels(asked);
    tries.beside(asked);
    tries.others(asked);
    tries.found
}

impl Tries<'_, '_, '_> {
    /// Whether it would start, now or after evictions.
    fn starts(&mut self, asked: &Asked) -> Option<(u32, Gpus)> {
        let mut site = Sketch { cluster: self.cluster, trial: &mut *self.trial, asked, now: self.now };
        match start::find(&mut site, Pay::IfItFits) {
            Ok(_) => return Some((0, Gpus::ZERO)),
            Err(Refused::Cap(_) | Refused::Budget(_)) => return None,
            Err(Refused::Admission(_) | Refused::Placement(_) | Refused::Alone(_)) => {}
        }
        // A scavenger takes nothing from others, and what must not be evicted is none.
        if budget::over(self.cluster, asked.tenant, asked.gpus(), asked.time_limit).is_some() {
            return None;
        }
        self.plans = self.plans.checked_sub(1)?;
        let plan = plan::find_plan(self.cluster, self.trial, asked, self.now).ok()?;
        let gpus = |victim: &JobId| Some(self.cluster.job(*victim)?.live_attempt()?.gpus());
        Some((plan.victims.len() as u32, plan.victims.iter().filter_map(gpus).sum()))
    }

    fn note(&mut self, change: Change, asked: &Asked) -> bool {
        let Some((evicts, evicted)) = self.starts(asked) else { return false };
        self.found.push(Help { change, evicts, evicted });
        true
    }

    /// The most members that would start: what holds for some number is tried for more, by halves.
    fn fewer_members(&mut self, asked: &Asked) {
        let Shape::Equal { members, gpus } = asked.request.shape else { return };
        let with = |members| changed(asked, |request| request.shape = Shape::Equal { members, gpus });
        let (mut low, mut high, mut best) = (0, members, None);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match self.starts(&with(middle)) {
                Some(starts) => (low, best) = (middle, Some(starts)),
                None => high = middle,
            }
        }
        if let Some((evicts, evicted)) = best {
            self.found.push(Help { change: Change::Members(low), evicts, evicted });
        }
    }

    /// The largest members that would start.
    fn smaller_members(&mut self, asked: &Asked) {
        let Shape::Equal { members, gpus } = asked.request.shape else { return };
        let with = |gpus| changed(asked, |request| request.shape = Shape::Equal { members, gpus });
        let mut smaller = (1..gpus).rev().filter(|gpus| gpus.is_power_of_two());
        smaller.any(|gpus| self.note(Change::GpusPerMember(gpus), &with(gpus)));
    }

    /// The required level only preferred, or the next wider one that would do.
    fn levels(&mut self, asked: &Asked) {
        let Some(required) = asked.request.required else { return };
        for level in Level::ALL.into_iter().filter(|level| *level > required) {
            if self.note(Change::Require(level), &changed(asked, |request| request.required = Some(level))) {
                break;
            }
        }
        let prefers = changed(asked, |request| {
            request.required = None;
            request.preferred = Some(request.preferred.unwrap_or(required));
        });
        self.note(Change::Prefer(required), &prefers);
    }

    /// Less CPU and memory: three quarters, a half, a quarter.
    fn beside(&mut self, asked: &Asked) {
        let Request { cpu, memory, .. } = *asked.request;
        if (cpu, memory) == (CpuMilli::ZERO, MemoryMib::ZERO) {
            return;
        }
        for quarters in [3, 2, 1] {
            let (cpu, memory) = (CpuMilli(cpu.0 / 4 * quarters), MemoryMib(memory.0 / 4 * quarters));
            let less = changed(asked, |request| (request.cpu, request.memory) = (cpu, memory));
            if self.note(Change::Beside { cpu, memory }, &less) {
                return;
            }
        }
    }

    fn others(&mut self, asked: &Asked) {
        if asked.request.distinct_nodes {
            self.note(Change::ShareNodes, &changed(asked, |request| request.distinct_nodes = false));
        }
        for pool in (0..self.cluster.pools().len()).map(PoolIndex::of) {
            let is_other = !asked.request.pools.contains(&pool);
            if is_other && self.note(Change::Pool(pool), &changed(asked, |request| request.pools = [pool].into())) {
                break;
            }
        }
        // Whole parts of the limit, the longest first; below a minute nobody asks.
        let parts = (1..=TIME_PARTS).rev().map(|part| Span(asked.time_limit.0 / (TIME_PARTS + 1) * part));
        for time_limit in parts.filter(|limit| *limit >= Span::seconds(60)) {
            if self.note(Change::TimeLimit(time_limit), &Asked { time_limit, ..asked.clone() }) {
                break;
            }
        }
        if !asked.preemptible {
            self.note(Change::Preemptible, &Asked { preemptible: true, ..asked.clone() });
        }
        let classes = self.cluster.policy().priorities.len();
        for priority in (asked.priority.at() + 1..classes).map(PriorityIndex::of) {
            if self.note(Change::Priority(priority), &Asked { priority, ..asked.clone() }) {
                break;
            }
        }
    }
}

/// The same with another request.
fn changed(asked: &Asked, change: impl FnOnce(&mut Request)) -> Asked {
    let mut request = (*asked.request).clone();
    change(&mut request);
    Asked { request: Arc::new(request), ..asked.clone() }
}
