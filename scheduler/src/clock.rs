//! The only place that reads time.
//!
//! The wall clock is read once; from then on time is what the monotonic clock adds to it, so that no jump of the wall
//! clock moves a deadline, and never earlier than the last event of the journal.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use dure_core::units::Time;

/// A clock that never goes back.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    wall: Time,
    started: Instant,
}

impl Clock {
    /// A clock that starts at the wall time, or at `not_before` if that is later.
    #[allow(clippy::disallowed_methods)]
    pub fn start(not_before: Time) -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall = Time(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX));
        Self { wall: wall.max(not_before), started: Instant::now() }
    }

    /// Now.
    pub fn now(&self) -> Time {
        let passed = self.started.elapsed().as_millis();
        Time(self.wall.0 + u64::try_from(passed).unwrap_or(u64::MAX))
    }
}
