//! The background: renews the start estimates of all that waits, and keeps what jobs were told.
//!
//! A round takes a copy from the follower, runs it forward twice, and rests at least as long as it was told, and so much
//! longer than it took that it never has more than a tenth of one processor.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dure_core::ids::{JobId, Seq};
use dure_core::units::Span;
use dure_core::{Policy, job::Phase};
use dure_replay::forecast::{Estimates, HORIZON, estimates, learn};
use dure_replay::learned::Learned;

use super::told::Telling;
use super::{Current, Forecasts, ahead, be_nice};
use crate::follower::Copied;
use crate::recover::{Recovered, apply_all};
use crate::source::Turns;

/// A round rests so many times as long as it took.
const REST: u32 = 9;
/// Time for one of the rounds; what is not reached by then has no estimate.
const ROUND_WITHIN: Duration = Duration::from_secs(60);
/// Run times are learned from a journal of at most so many events at the start; from a longer one, only what ends from then on.
const MAX_RELEARNED: u64 = 50_000_000;
/// Rounds between two times that old records are dropped.
const TIDY_EVERY: u64 = 1_000;

/// The background thread; it ends when this is dropped.
pub struct Estimator {
    stop: Arc<AtomicBool>,
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Estimator {
    /// Begins after `rest`, with a round so often.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(forecasts: Arc<Forecasts>, rest: Span, every: Span) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (wake, asleep) = sync_channel(1);
        let (stopping, rest, every) = (stop.clone(), Duration::from_millis(rest.0), Duration::from_millis(every.0));
        let run = move || {
            be_nice();
            if !matches!(asleep.recv_timeout(rest), Err(RecvTimeoutError::Timeout)) {
                return;
            }
            let mut rounds = Rounds::new(forecasts, stopping);
            rounds.relearn();
            loop {
                let took = rounds.round();
                match asleep.recv_timeout(every.max(took * REST)) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        let thread = std::thread::Builder::new().name("estimates".to_owned()).spawn(run)?;
        Ok(Self { stop, wake: Some(wake), thread: Some(thread) })
    }
}

impl Drop for Estimator {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.wake.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join()); // one that panicked has said so
        }
    }
}

/// Round after round.
pub(super) struct Rounds {
    forecasts: Arc<Forecasts>,
    stop: Arc<AtomicBool>,
    /// Jobs that were told something and have not started.
    open: BTreeSet<JobId>,
    count: u64,
}

impl Rounds {
    pub(super) fn new(forecasts: Arc<Forecasts>, stop: Arc<AtomicBool>) -> Self {
        let told = forecasts.told.lock().unwrap_or_else(PoisonError::into_inner).open_jobs();
        let open = told.unwrap_or_else(|err| {
            tracing::warn!(error = %err, "what jobs were told cannot be read");
            BTreeSet::new()
        });
        Self { forecasts, stop, open, count: 0 }
    }

    /// Learns run times from the history, as far as the journal has it.
    fn relearn(&self) {
        match self.relearned() {
            Ok(Some(learned)) => {
                tracing::info!(runs = learned.runs(), "run times were learned from the journal");
                *self.forecasts.learned.write().unwrap_or_else(PoisonError::into_inner) = learned;
            }
            Ok(None) => {}
            Err(why) => tracing::info!(why, "run times are learned from now on"),
        }
    }

    fn relearned(&self) -> Result<Option<Learned>, String> {
        let reader = (self.forecasts.pasts)().map_err(|err| err.to_string())?;
        let head = reader.head().map_err(|err| err.to_string())?.seq;
        if head > MAX_RELEARNED {
            return Err(format!("the journal has more than {MAX_RELEARNED} events"));
        }
        let beginning = Recovered::beginning(&reader, Policy::standard()).map_err(|err| err.to_string())?;
        let (mut cluster, mut learned) = (beginning.cluster, Learned::default());
        for turn in Turns::from(&reader, Seq(beginning.head.0 + 1)) {
            let turn = turn.map_err(|err| err.to_string())?;
            // What comes later is in the news.
            if turn.last().0 > head {
                break;
            }
            if self.stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            apply_all(&mut cluster, turn.time, turn.first_seq, &turn.events).map_err(|err| err.to_string())?;
            turn.events.iter().for_each(|event| learn(&mut learned, &cluster, event));
        }
        Ok(Some(learned))
    }

    /// One round; how long it took.
    pub(super) fn round(&mut self) -> Duration {
        let started = Instant::now();
        match (self.forecasts.copies)(true) {
            Ok(copied) => self.estimate(&copied, started),
            Err(err) => tracing::debug!(error = %err, "no copy of the state: start estimates stay as they are"),
        }
        started.elapsed()
    }

    fn estimate(&mut self, copied: &Copied, started: Instant) {
        {
            let mut learned = self.forecasts.learned.write().unwrap_or_else(PoisonError::into_inner);
            copied.news.runs.iter().for_each(|run| learned.add(run.kind(), run.took()));
        }
        let now = self.forecasts.moment(copied);
        let go_on = || started.elapsed() < ROUND_WITHIN && !self.stop.load(Ordering::Relaxed);
        let found = match copied.cluster.waiting() {
            0 => Estimates::default(),
            _ => estimates(&copied.cluster, &ahead(now, HORIZON, &self.forecasts.learned(), &go_on)),
        };
        if self.stop.load(Ordering::Relaxed) {
            return;
        }
        if let Err(err) = self.keep(copied, &found) {
            tracing::warn!(error = %err, "what jobs were told is not kept");
        }
        let current = Current { of: found.of, as_of: now, took: started.elapsed() };
        *self.forecasts.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(current);
    }

    fn keep(&mut self, copied: &Copied, found: &Estimates) -> Result<(), super::ToldError> {
        let (now, cluster) = (self.forecasts.moment(copied), &copied.cluster);
        let mut told = self.forecasts.told.lock().unwrap_or_else(PoisonError::into_inner);
        // A job that has run before waits again: its first start is over. One that no look reached was told nothing.
        let is_new = |(job, estimate): &(&JobId, &dure_replay::forecast::Estimate)| {
            let first = cluster
                .job(**job)
                .is_some_and(|entry| entry.phase == Phase::Waiting && entry.attempts == 0 && !entry.held);
            first && !self.open.contains(job) && (estimate.p90.is_some() || !found.is_cut)
        };
        let tellings: Vec<Telling<'_>> = found
            .of
            .iter()
            .filter(is_new)
            .filter_map(|(job, estimate)| {
                let mission = cluster.mission(cluster.job(*job)?.spec.tenant)?;
                Some(Telling { job: *job, mission: &cluster.tenant(mission).name, at: now, estimate: *estimate })
            })
            .collect();
        let jobs: Vec<JobId> = tellings.iter().map(|telling| telling.job).collect();
        told.keep(tellings.into_iter(), &copied.news.starts)?;
        self.open.extend(jobs);
        self.open.retain(|job| found.of.contains_key(job));
        self.count += 1;
        if self.count % TIDY_EVERY == 1 { told.tidy(now) } else { Ok(()) }
    }
}
