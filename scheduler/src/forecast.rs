//! Forecasts of the live state: start estimates of all that waits, what a change would do, when a job would start.
//!
//! In: copies of the second core's state (the follower's, at the last durable position; no turn of the scheduler waits for
//! one), and the run times of what has ended. Out: start estimates, renewed in the background and read by every listing, and
//! answers to questions, a few at once and each within a time. It decides nothing and changes nothing; all of it runs on
//! threads with a lower claim to the processor than the scheduler's own.
//!
//! Reading order: `told` (what waiting jobs were told, and when they started), `estimator` (the background), `question` (the
//! wire -> a change), `past` (the same question to the history), `offline` (the same question to a journal).

mod estimator;
mod offline;
mod past;
mod question;
#[cfg(test)]
mod tests;
mod told;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use dure_core::ids::{Epoch, JobId};
use dure_core::input::JobDraft;
use dure_core::units::{Span, Time};
use dure_proto::v1;
use dure_replay::forecast::{Ahead, Estimate, HORIZON};
use dure_replay::learned::Learned;
use tokio::sync::{Semaphore, oneshot};
use tonic::Status;

use crate::clock::Clock;
use crate::follower::{Copied, FollowerError};
use crate::grpc::status::busy;
use crate::handle::Position;
use crate::journal::{JournalError, Reader};

pub use estimator::Estimator;
pub use offline::offline;
pub(crate) use question::{Question, jobs};
pub use told::{Told, ToldError};

/// Questions answered at once; more are turned away.
const MAX_AT_ONCE: usize = 2;
/// Time for an answer; what is not reached by then is said to be cut short. Well below the deadline of a call.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// How much less of the processor a forecast is given than the scheduler, in steps of nice(2).
const NICE: i32 = 10;

/// Where copies of the state come from.
pub type Copies = Box<dyn Fn(bool) -> Result<Copied, FollowerError> + Send + Sync>;
/// Where the history is read.
pub type Pasts = Box<dyn Fn() -> Result<Box<dyn Reader>, JournalError> + Send + Sync>;

/// Start estimates of one moment.
#[derive(Debug, Default)]
struct Current {
    of: BTreeMap<JobId, Estimate>,
    /// The moment of the state; 0: none were made yet.
    as_of: Time,
    took: Duration,
}

/// Forecasts for whoever asks.
pub struct Forecasts {
    copies: Copies,
    pasts: Pasts,
    clock: Clock,
    epoch: Epoch,
    learned: RwLock<Learned>,
    current: RwLock<Arc<Current>>,
    told: Mutex<Told>,
    slots: Arc<Semaphore>,
}

impl Forecasts {
    /// Nothing is estimated yet.
    pub fn new(copies: Copies, pasts: Pasts, told: Told, clock: Clock, epoch: Epoch) -> Self {
        Self {
            copies,
            pasts,
            clock,
            epoch,
            learned: RwLock::default(),
            current: RwLock::default(),
            told: Mutex::new(told),
            slots: Arc::new(Semaphore::new(MAX_AT_ONCE)),
        }
    }

    fn current(&self) -> Arc<Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// When each of `jobs` starts, as it was last computed; by the same places.
    pub(crate) fn estimates<'a>(&self, jobs: impl Iterator<Item = &'a mut v1::Job>) {
        let current = self.current();
        for job in jobs.filter(|job| job.phase() == v1::JobPhase::Pending || job.phase() == v1::JobPhase::Array) {
            job.estimate = current.estimate(JobId(job.id));
        }
    }

    /// When a job starts, as it was last computed.
    pub(crate) fn estimate(&self, job: u64) -> Option<v1::StartEstimate> {
        self.current().estimate(JobId(job))
    }

    /// What would come of a change, for all missions, and the position of the state that was copied.
    ///
    /// # Errors
    /// As `ask`; what the core refuses of the change.
    pub(crate) async fn what_if(
        self: &Arc<Self>,
        question: Question,
    ) -> Result<(v1::WhatIfResponse, Position), Status> {
        let answer = move |copied: Copied, own: &Self, go_on: &(dyn Fn() -> bool + Sync)| {
            let position = Position { seq: copied.head, epoch: own.epoch };
            let answered = match question.last {
                None => question.answer(&copied.cluster, own.moment(&copied), &own.learned(), go_on),
                Some(_) => {
                    let history = (own.pasts)().map_err(|err| Status::unavailable(err.to_string()))?;
                    question.replay(&history, go_on)
                }
            };
            Ok((answered?, position))
        };
        self.ask(answer).await
    }

    /// Whether, when and where jobs would start.
    ///
    /// # Errors
    /// As `ask`, and as a submit.
    pub(crate) async fn test_submit(
        self: &Arc<Self>,
        jobs: Vec<JobDraft>,
    ) -> Result<(Vec<v1::JobForecast>, Position), Status> {
        let answer = move |copied: Copied, own: &Self, go_on: &(dyn Fn() -> bool + Sync)| {
            let position = Position { seq: copied.head, epoch: own.epoch };
            let found = question::test_submit(&copied.cluster, jobs, own.moment(&copied), &own.learned(), go_on)?;
            Ok((found, position))
        };
        self.ask(answer).await
    }

    /// Has `work` look ahead from a copy of the state, on a thread of its own.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` when enough is being answered already; `UNAVAILABLE` without a copy; those of the work.
    async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(Copied, &Self, &(dyn Fn() -> bool + Sync)) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let slot = self.slots.clone().try_acquire_owned();
        let slot = slot.map_err(|_| {
            busy(format!("{MAX_AT_ONCE} forecasts are being computed already; try again in some seconds"))
        })?;
        let (answer, answered) = oneshot::channel();
        let (own, gone) = (self.clone(), Gone::default());
        let is_gone = gone.0.clone();
        let run = move || {
            be_nice();
            let until = Instant::now() + ANSWER_WITHIN;
            let go_on = || Instant::now() < until && !is_gone.load(Ordering::Relaxed);
            let copied = (own.copies)(false).map_err(|err| Status::unavailable(format!("no copy of the state: {err}")));
            // Whoever asked may have gone away.
            drop(answer.send(copied.and_then(|copied| work(copied, &own, &go_on))));
            drop(slot);
        };
        let spawned = std::thread::Builder::new().name("forecast".to_owned()).spawn(run);
        spawned.map_err(|err| Status::unavailable(format!("no thread for a forecast: {err}")))?;
        let found = answered.await.map_err(|_| Status::internal("a forecast ended without an answer"))?;
        drop(gone);
        found
    }

    /// For tests: nobody else can ask as long as these are held.
    #[cfg(test)]
    pub(crate) fn hold_all_slots(&self) -> tokio::sync::OwnedSemaphorePermit {
        self.slots.clone().try_acquire_many_owned(MAX_AT_ONCE as u32).expect("nobody asks")
    }

    /// The run times of what has ended.
    fn learned(&self) -> std::sync::RwLockReadGuard<'_, Learned> {
        self.learned.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The moment from which a copy is run forward: time has passed since its last event.
    fn moment(&self, copied: &Copied) -> Time {
        self.clock.now().max(copied.time)
    }

    /// How the estimates have fared that jobs were told which started in the last so long.
    ///
    /// # Errors
    /// Those of reading what was told.
    pub(crate) fn calibration(&self, last: Option<Span>) -> Result<Vec<v1::CalibrationRow>, ToldError> {
        let since = last.map_or(Time(0), |last| Time(self.clock.now().0.saturating_sub(last.0)));
        self.told.lock().unwrap_or_else(PoisonError::into_inner).fared(since)
    }

    /// From when the newest estimates are, and how long they took.
    pub(crate) fn freshness(&self) -> (Time, Duration) {
        let current = self.current();
        (current.as_of, current.took)
    }
}

impl Current {
    fn estimate(&self, job: JobId) -> Option<v1::StartEstimate> {
        self.of.get(&job).map(|estimate| on_wire(estimate, self.as_of, HORIZON))
    }
}

fn on_wire(estimate: &Estimate, as_of: Time, horizon: Span) -> v1::StartEstimate {
    let ms = |time: Option<Time>| time.map(|time| time.0);
    let (p50_ms, p90_ms) = (ms(estimate.p50), ms(estimate.p90));
    v1::StartEstimate { p50_ms, p90_ms, as_of_ms: as_of.0, horizon_ms: horizon.0 }
}

/// Set when whoever asked has gone away.
#[derive(Default)]
struct Gone(Arc<AtomicBool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Gives the scheduler's own threads the first claim to the processor. A system that refuses it gives both the same.
fn be_nice() {
    let thread = rustix::thread::gettid();
    if let Err(err) = rustix::process::setpriority_process(Some(thread), NICE) {
        tracing::debug!(error = %err, "forecasts have the same claim to the processor as turns");
    }
}

/// A look from `now`, as far as `horizon`.
fn ahead<'a>(now: Time, horizon: Span, learned: &'a Learned, go_on: &'a (dyn Fn() -> bool + Sync)) -> Ahead<'a> {
    Ahead { now, horizon: horizon.min(HORIZON), learned, go_on }
}
