//! Forecasts and their background, on the second core's state.

use std::sync::{Arc, Mutex, PoisonError};

use dure_core::ids::Epoch;
use dure_core::units::Span;

use super::StartError;
use crate::clock::Clock;
use crate::config::Config;
use crate::follower::FollowerFeed;
use crate::forecast::{Estimator, Forecasts, Told};
use crate::journal::Reader;

/// What was told to jobs is no part of the state: without its file there are estimates all the same.
pub(super) fn forecasts(
    config: &Config,
    follower: FollowerFeed,
    past: Box<dyn Reader>,
    clock: Clock,
    epoch: Epoch,
) -> Arc<Forecasts> {
    let told = Told::open(&config.data_dir).or_else(|err| {
        tracing::warn!(error = %err, "what jobs are told is kept in memory alone");
        Told::in_memory()
    });
    let copies = Box::new(move |with_news| follower.copy(with_news));
    let past = Mutex::new(past);
    let pasts = Box::new(move || past.lock().unwrap_or_else(PoisonError::into_inner).reopen());
    Arc::new(Forecasts::new(copies, pasts, told.expect("memory holds an empty table"), clock, epoch))
}

/// A scheduler that has just taken over makes no estimates for so long: agents and clients come back meanwhile.
const SETTLE: Span = Span::seconds(10);

/// The background that renews start estimates, where they are wanted.
pub(super) fn estimator(config: &Config, forecasts: &Arc<Forecasts>) -> Result<Option<Estimator>, StartError> {
    let every = config.estimates.every;
    let rest = if config.etcd.is_some() { SETTLE } else { Span::ZERO };
    let start = |_| Estimator::start(forecasts.clone(), rest, every).map_err(StartError::Thread);
    (every > Span::ZERO).then_some(()).map(start).transpose()
}
