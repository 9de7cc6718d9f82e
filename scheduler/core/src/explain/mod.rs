//! Why a job waits: every gate before it and every refusal of it, its place in the order, whose GPUs it waits for, and
//! what would let it start.
//!
//! In: the state, read only, and a job. Out: an `Explanation`; text is made in the shell. All of it is worked out anew
//! when it is asked for, by the very code that decides, on a copy of the index; nothing is guessed.
//! It must never change the state, and its work is bounded (`helps::MAX_PLANS`).

mod factors;
mod helps;
mod holders;

use std::sync::Arc;

use crate::admit::start::{self, Wish};
use crate::blocked::{Blocked, Gate};
use crate::booking::Stage;
use crate::cluster::Cluster;
use crate::ids::{JobId, PoolIndex};
use crate::job::{Job, Phase};
use crate::place::Scratch;
use crate::plan::{self, Asked, NoPlan, Plan, TrialIndex};
use crate::reserve;
use crate::units::{Gpus, Span, Time};

pub use self::factors::{Factors, Standing};
pub use self::helps::{Change, Help, MAX_PLANS};
pub use self::holders::{Holder, Holds, MAX_HOLDERS};

/// What keeps a job from running.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blocker {
    /// It is not even tried.
    Gate(Gate),
    /// It was tried, or would be refused now.
    Blocked(Blocked),
    /// Nothing but its turn: it has not been tried since something changed.
    NotTried,
}

/// The answer to "why does it wait".
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// Where the job is.
    pub phase: Phase,
    /// All that keeps it; empty when it does not wait.
    pub blockers: Vec<Blocker>,
    /// Jobs of its tenant that are looked at before it, if all users were alike; absent when it is not in the queue.
    pub before: Option<usize>,
    /// Jobs in the queue of its tenant.
    pub queued: usize,
    /// What its place in the order follows from; absent when it does not wait.
    pub factors: Option<Factors>,
    /// Whose GPUs it waits for, the most first; at most `holders::MAX_HOLDERS`.
    pub holders: Vec<Holder>,
    /// By the limits of what runs now there is room for it then at the latest, whatever else may come before it.
    pub room_by: Option<Time>,
    /// The limit that its own may be lowered to, where not even that lets it start now.
    pub not_even: Option<Span>,
    /// What would let it start now, as the planner has tried it.
    pub helps: Vec<Help>,
}

impl Cluster {
    /// Why `job` waits at `now`; none when it is not in memory. Costs a copy of the index and a few plans.
    pub fn explain(&self, job: JobId, now: Time) -> Option<Explanation> {
        let job = self.job(job)?;
        let queue = &self.tenant(job.spec.tenant).queue;
        let mut told = Explanation {
            phase: job.phase,
            blockers: Vec::new(),
            before: job.queued.map(|queued| queue.before(job.spec.priority, queued)),
            queued: queue.len,
            factors: None,
            holders: Vec::new(),
            room_by: None,
            not_even: None,
            helps: Vec::new(),
        };
        if job.phase != Phase::Waiting {
            return Some(told);
        }
        told.factors = Some(factors::of(self, job, now));
        told.blockers = gates(job);
        if let Some(promise) = self.promise(job.id) {
            told.blockers.push(self.pending(job, promise));
            told.holders = holders::of_promise(self, promise, now);
            told.room_by = promise.sought.is_empty().then_some(promise.due);
            return Some(told);
        }
        self.try_out(job, now, &mut told);
        told.blockers.extend(self.set_aside_for(job).map(Blocker::Blocked));
        told.blockers.extend(self.kept_from(&Wish::of(job), now).into_iter().map(Blocker::Blocked));
        if told.blockers.is_empty() {
            told.blockers.push(Blocker::NotTried);
        }
        Some(told)
    }

    /// What keeps a job from running, one reason of many; cheap enough for a listing.
    pub fn first_blocker(&self, job: JobId) -> Option<Blocker> {
        let job = self.job(job).filter(|job| job.phase == Phase::Waiting)?;
        if let Some(gate) = gates(job).first() {
            return Some(*gate);
        }
        if let Some(promise) = self.promise(job.id) {
            return Some(self.pending(job, promise));
        }
        if let Some(own) = job.spec.booking.and_then(|id| self.booking(id)).filter(|own| own.stage != Stage::Begun) {
            return Some(Blocker::Blocked(Blocked::AwaitsBooking { booking: own.id, from: own.from }));
        }
        let planned = job.queued.and_then(|queued| self.plans.why(queued.class, job.spec.tenant));
        let tried = || job.queued.and_then(|queued| self.refused.why(job, queued.class));
        let admitted = || {
            let wish = Wish::of(job);
            let in_pool = |pool: &PoolIndex| start::gates(self, &wish, *pool, wish.gpus(), false).next();
            start::unpaid(self, &wish).next().or_else(|| wish.request.pools.iter().find_map(in_pool))
        };
        let why = planned.or_else(admitted).or_else(|| tried().filter(Blocked::is_of_place));
        Some(why.map_or(Blocker::NotTried, Blocker::Blocked))
    }

    fn pending(&self, job: &Job, promise: &crate::promise::Promise) -> Blocker {
        let (pool, want, due) = (promise.pool, promise.gpus(), promise.due);
        if !promise.sought.is_empty() {
            let shape = &job.spec.request.shape;
            let sought = promise.sought.iter().map(|rank| u32::from(shape.gpus_of(rank.at()))).sum();
            let (held, want) = (want, Gpus::whole(sought));
            return Blocker::Blocked(Blocked::SpareSought { pool, held, want, until: due });
        }
        Blocker::Blocked(Blocked::ReclaimPending { pool, want, free: self.promised_free(promise), due })
    }

    /// Tries the job, and others like it, on a copy of the index.
    fn try_out(&self, job: &Job, now: Time, told: &mut Explanation) {
        let (mut index, mut scratch) = (self.fresh_index(), Scratch::default());
        let comer = reserve::Comer { wish: Wish::of(job), scavenger: false, moves: false, now };
        for pool in &job.spec.request.pools {
            reserve::lift_for(self, &mut index, &comer, *pool);
        }
        let trial = &mut TrialIndex { index: &mut index, scratch: &mut scratch };
        let mut asked = Asked { deadlines: plan::deadlines(self, job, now), ..Asked::of(job) };
        let is_invited = self.is_invited(job.id);
        if is_invited {
            match reserve::narrowed(self, &job.spec.request, &comer.wish, job.spec.request.pools[0]) {
                Ok(request) => asked.request = Arc::new(request.into_owned()),
                // What keeps it is told with the bookings.
                Err(_) => return,
            }
        }
        let is_worn = plan::has_failed_too_often(self, job.id);
        let takes_none = is_worn || is_invited;
        let planned = if takes_none { Err(NoPlan::default()) } else { plan::find_plan(self, trial, &asked, now) };
        if is_worn {
            let (failures, limit) = (job.failures, self.policy.max_evicting_failures);
            told.blockers.push(Blocker::Blocked(Blocked::RetryBudget { failures, limit }));
        }
        if let Err(NoPlan { why: Some(why), .. }) = &planned {
            told.blockers.push(Blocker::Blocked(*why));
        }
        told.blockers.extend(self.refusals(trial, &asked, now).into_iter().map(Blocker::Blocked));
        let is_planned = planned.is_ok();
        let victims = planned.map(|Plan { victims, .. }| victims).unwrap_or_default();
        if victims.is_empty() {
            (told.room_by, told.holders) = holders::by_ends(self, trial, &asked, now);
        } else {
            told.holders = holders::of_victims(self, &victims, now);
        }
        if !told.blockers.iter().any(|blocker| matches!(blocker, Blocker::Gate(_))) {
            told.not_even = asked.time_min.filter(|least| !helps::starts_within(self, trial, &asked, *least, now));
            told.helps = helps::of(self, trial, &asked, is_planned || takes_none, now);
        }
    }

    /// Everything that refuses the job as it is, pool by pool, but for want of a plan to make room.
    fn refusals(&self, trial: &mut TrialIndex<'_>, asked: &Asked, now: Time) -> Vec<Blocked> {
        let wish = asked.wish();
        let mut found: Vec<Blocked> = start::unpaid(self, &wish).collect();
        for pool in &asked.request.pools {
            // A pause is the same in every pool.
            for why in start::gates(self, &wish, *pool, wish.gpus(), false) {
                if !found.contains(&why) {
                    found.push(why)
                }
            }
            let placed = trial.place(self, asked, *pool);
            found.extend(placed.err().or_else(|| helps::kept_whole(self, trial, asked, *pool, now)));
        }
        found
    }
}

/// What keeps a job from being tried.
fn gates(job: &Job) -> Vec<Blocker> {
    let dependencies = (job.open_dependencies > 0).then_some(Gate::Dependencies { open: job.open_dependencies });
    let cap = job.spec.array.map_or(0, |array| array.cap);
    let gates = [
        job.held.then_some(Gate::Held),
        dependencies,
        job.not_before.map(|time| Gate::NotBefore { time }),
        job.is_capped().then_some(Gate::ArrayCap { cap }),
    ];
    gates.into_iter().flatten().map(Blocker::Gate).collect()
}
