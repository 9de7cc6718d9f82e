//! Progress of what takes long: one line that changes on a terminal, plain lines otherwise. Always on standard error.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

/// Plain lines come at most this often.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// Shows how far something has come.
pub(crate) struct Progress {
    terminal: bool,
    started: Instant,
    shown: Option<Instant>,
}

impl Progress {
    /// Starts the clock.
    pub(crate) fn new() -> Self {
        Self { terminal: io::stderr().is_terminal(), started: Instant::now(), shown: None }
    }

    /// Time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Something that stays on the screen.
    pub(crate) fn note(&mut self, text: &str) {
        let clear = if self.terminal { "\r\x1b[K" } else { "" };
        let line = format!("{clear}{:6.1}s  {text}\n", self.elapsed().as_secs_f64());
        // Nobody to tell is no reason to stop.
        let _ = io::stderr().write_all(line.as_bytes());
    }

    /// Where it stands now: replaces what was said before on a terminal.
    pub(crate) fn state(&mut self, text: &str) {
        if self.terminal {
            let line = format!("\r\x1b[K{:6.1}s  {text}", self.elapsed().as_secs_f64());
            let _ = io::stderr().write_all(line.as_bytes());
        } else if self.shown.is_none_or(|shown| shown.elapsed() >= PLAIN_EVERY) {
            self.shown = Some(Instant::now());
            self.note(text);
        }
    }

    /// Leaves the screen clean.
    pub(crate) fn done(&mut self) {
        if self.terminal {
            let _ = io::stderr().write_all(b"\r\x1b[K");
        }
    }
}
