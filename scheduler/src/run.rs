//! The pump around `turn`: waits for messages, takes a turn, hands its batch to the journal, and lets its effects out
//! when the journal says that they may leave. While a batch is being written, the next turn is computed.

use std::sync::Arc;
use std::time::Duration;

use dure_core::ids::Seq;
use dure_core::units::Time;
use tokio::sync::{mpsc, watch};

use crate::agents::FromAgent;
use crate::clock::Clock;
use crate::follower::FollowerFeed;
use crate::handle::Call;
use crate::journal::{JournalError, JournalWriter, Report};
use crate::lead::Leader;
use crate::leadership::Tenure;
use crate::metrics::Metrics;
use crate::turn::Fatal;

/// Calls that one turn takes.
const MAX_CALLS_PER_TURN: usize = 4096;
/// Agents' messages that one turn takes.
const MAX_MESSAGES_PER_TURN: usize = 8192;
/// A turn is taken at least this often, so that silence is noticed.
const IDLE: Duration = Duration::from_millis(500);
/// How often gauges are refreshed.
const GAUGES_EVERY: Duration = Duration::from_secs(5);

/// Why the pump ended.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// It was told to.
    #[error("the scheduler was told to stop")]
    Asked,
    /// The journal failed: nothing can be acknowledged any more.
    #[error("the journal failed, nothing more is acknowledged: {0}")]
    Journal(JournalError),
    /// This scheduler must not lead.
    #[error("{0}")]
    Fatal(Fatal),
    /// The thread of the owner is gone without a word.
    #[error("the owner of the cluster has failed: this is a mistake in the scheduler, and the lines before say which")]
    Failed,
}

impl Stopped {
    /// Whether this process may lead again: whatever else is wrong needs an operator.
    pub fn passes(&self) -> bool {
        match self {
            Stopped::Asked | Stopped::Fatal(Fatal::Deposed { .. }) => true,
            Stopped::Journal(err) => !err.is_damage(),
            Stopped::Fatal(Fatal::BehindAgent { .. }) | Stopped::Failed => false,
        }
    }
}

/// Everything that the pump needs.
pub struct Pump {
    /// The state, its rules, and what waits for the journal.
    pub leader: Leader,
    /// Time.
    pub clock: Clock,
    /// Makes batches durable.
    pub writer: Arc<JournalWriter>,
    /// What the writer says.
    pub reports: mpsc::UnboundedReceiver<Report>,
    /// Calls of the services.
    pub calls: mpsc::Receiver<Call>,
    /// Messages of the agents.
    pub messages: mpsc::Receiver<FromAgent>,
    /// The second core, which makes snapshots.
    pub follower: FollowerFeed,
    /// Whether this scheduler still leads: asked before anything is let out.
    pub tenure: Tenure,
    /// What is measured.
    pub metrics: Arc<Metrics>,
    /// True when it is time to stop.
    pub stop: watch::Receiver<bool>,
}

impl Pump {
    /// Runs until it is told to stop, or must. The leader is given back: to let go of a large state takes long, and whoever
    /// waits for the end of this need not wait for that.
    pub async fn run(mut self) -> (Stopped, Leader) {
        let mut gauges = tokio::time::interval(GAUGES_EVERY);
        let mut more = true;
        let mut stopping = false;
        loop {
            if let Some(stopped) = self.deposed() {
                return self.end(stopped);
            }
            let idle = self.idle(more);
            let (mut calls, mut messages) = (Vec::new(), Vec::new());
            // A scheduler that stops takes no more turns, and waits for the disk to have those it took.
            let room = self.leader.has_room() && !stopping;
            tokio::select! {
                biased;
                report = self.reports.recv() => {
                    if let Some(stopped) = self.take_report(report) {
                        return self.end(stopped);
                    }
                    while let Ok(report) = self.reports.try_recv() {
                        if let Some(stopped) = self.take_report(Some(report)) {
                            return self.end(stopped);
                        }
                    }
                }
                _ = self.stop.changed(), if !stopping => stopping = true,
                _ = gauges.tick() => {
                    self.metrics.observe(self.leader.scheduler().cluster(), self.leader.scheduler().live());
                    self.metrics.history(self.follower.history_lag());
                }
                _ = self.messages.recv_many(&mut messages, MAX_MESSAGES_PER_TURN), if room => {}
                _ = self.calls.recv_many(&mut calls, MAX_CALLS_PER_TURN), if room => {}
                () = tokio::time::sleep(idle), if room => {}
            }
            if stopping && self.leader.is_settled() {
                return self.end(Stopped::Asked);
            }
            if !room {
                continue;
            }
            self.drain(&mut calls, &mut messages);
            if let Some(stopped) = self.deposed() {
                return self.end(stopped);
            }
            let started = std::time::Instant::now();
            let led = self.leader.turn(calls, messages, self.clock.now());
            self.metrics.turn(started.elapsed());
            more = led.more;
            if let Some((batch, blobs)) = led.batch {
                if let Err(err) = self.writer.append(batch, blobs) {
                    return self.end(Stopped::Journal(err));
                }
                // While the batch is being written nobody waits for the core.
                self.leader.provision();
            }
            if let Some(fatal) = self.leader.scheduler().fatal() {
                let fatal = fatal.clone();
                return self.end(Stopped::Fatal(fatal));
            }
        }
    }

    /// Some when the leadership has run out: a process that was asleep for too long must not let out what it had ready.
    fn deposed(&self) -> Option<Stopped> {
        let lost = || JournalError::LeadershipLost { dir: Default::default(), detail: self.tenure.why_lost() };
        (!self.tenure.holds()).then(|| Stopped::Journal(lost()))
    }

    /// How long the next turn may wait.
    fn idle(&self, more: bool) -> Duration {
        if more {
            return Duration::ZERO;
        }
        let due = self.leader.scheduler().next_timer().unwrap_or(Time::NEVER);
        Duration::from_millis(due.since(self.clock.now()).0).min(IDLE)
    }

    fn drain(&mut self, calls: &mut Vec<Call>, messages: &mut Vec<FromAgent>) {
        while messages.len() < MAX_MESSAGES_PER_TURN
            && let Ok(message) = self.messages.try_recv()
        {
            messages.push(message);
        }
        while calls.len() < MAX_CALLS_PER_TURN
            && let Ok(call) = self.calls.try_recv()
        {
            calls.push(call);
        }
    }

    /// Takes what the writer says; some when it is over.
    fn take_report(&mut self, report: Option<Report>) -> Option<Stopped> {
        match report {
            Some(Report::Durable(durable)) => {
                if let Some(stopped) = self.deposed() {
                    return Some(stopped);
                }
                self.metrics.committed(&durable);
                for turn in self.leader.durable(Seq(durable.head.seq)) {
                    self.follower.feed(turn);
                }
                None
            }
            Some(Report::SnapshotDone { seq }) => {
                tracing::info!(seq, "snapshot written");
                None
            }
            Some(Report::SnapshotRefused { seq, why }) => {
                tracing::warn!(seq, why, "snapshot not written");
                None
            }
            Some(Report::Failed(err)) => Some(Stopped::Journal(err)),
            None => Some(Stopped::Journal(JournalError::Closed)),
        }
    }

    /// Nothing more leaves but the word that nothing more leaves.
    fn end(mut self, stopped: Stopped) -> (Stopped, Leader) {
        self.leader.abandon(&stopped.to_string());
        (stopped, self.leader)
    }
}
