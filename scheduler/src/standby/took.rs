//! How long the steps of a change of leaders take, for the log: whoever wonders why a handover was slow reads it there.

use std::time::Instant;

/// Steps so far, each from the end of the one before it.
#[derive(Debug)]
pub(crate) struct Took {
    began: Instant,
    last: Instant,
    steps: Vec<(&'static str, u64)>,
}

impl Took {
    /// From now on.
    pub(crate) fn from_now() -> Self {
        let now = Instant::now();
        Self { began: now, last: now, steps: Vec::new() }
    }

    /// A step is over.
    pub(crate) fn step(&mut self, name: &'static str) {
        let now = Instant::now();
        let ms = u64::try_from((now - self.last).as_millis()).unwrap_or(u64::MAX);
        self.steps.push((name, ms));
        self.last = now;
    }

    /// All of it, in milliseconds.
    pub(crate) fn all_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// As text: each step with its milliseconds.
    pub(crate) fn steps(&self) -> String {
        let words: Vec<String> = self.steps.iter().map(|(name, ms)| format!("{name}={ms}")).collect();
        words.join(" ")
    }
}
