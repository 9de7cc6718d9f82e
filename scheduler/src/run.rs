//! The pump around `turn`: waits for messages, takes a turn, hands its batch to the journal, and lets its effects out
//! when the journal says that they may leave. While a batch is being written, the next turn is computed.

use std::sync::Arc;
use std::time::Duration;

use dure_core::event::Event;
use dure_core::ids::{Epoch, Seq};
use dure_core::units::Time;
use tokio::sync::{mpsc, watch};

use crate::agents::FromAgent;
use crate::clock::Clock;
use crate::effect::Effect;
use crate::follower::{DurableBatch, FollowerFeed};
use crate::handle::Call;
use crate::journal::{Batch, JournalError, JournalWriter, Report};
use crate::metrics::Metrics;
use crate::perform::Performer;
use crate::record;
use crate::turn::{Fatal, Scheduler, TurnBatch};

/// Calls that one turn takes.
const MAX_CALLS_PER_TURN: usize = 4096;
/// Agents' messages that one turn takes.
const MAX_MESSAGES_PER_TURN: usize = 8192;
/// Batches that may be on their way to the disk; then turns wait.
const MAX_BATCHES_UNDER_WAY: usize = 64;
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
}

/// Everything that the pump needs.
pub struct Pump {
    /// The state and its rules.
    pub scheduler: Scheduler,
    /// Carries out effects.
    pub performer: Performer,
    /// Time.
    pub clock: Clock,
    /// The term.
    pub epoch: Epoch,
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
    /// What is measured.
    pub metrics: Arc<Metrics>,
    /// True when it is time to stop.
    pub stop: watch::Receiver<bool>,
}

/// A batch on its way to the disk.
struct UnderWay {
    last: Seq,
    first: Seq,
    time: Time,
    events: Vec<Event>,
}

impl Pump {
    /// Runs until it is told to stop, or must.
    pub async fn run(mut self) -> Stopped {
        let mut under_way: std::collections::VecDeque<UnderWay> = std::collections::VecDeque::new();
        let mut gauges = tokio::time::interval(GAUGES_EVERY);
        let mut more = true;
        let mut stopping = false;
        loop {
            let idle = self.idle(more);
            let (mut calls, mut messages) = (Vec::new(), Vec::new());
            // A scheduler that stops takes no more turns, and waits for the disk to have those it took.
            let room = under_way.len() < MAX_BATCHES_UNDER_WAY && !stopping;
            tokio::select! {
                biased;
                report = self.reports.recv() => {
                    if let Some(stopped) = self.take_report(report, &mut under_way) {
                        return self.end(stopped);
                    }
                    while let Ok(report) = self.reports.try_recv() {
                        if let Some(stopped) = self.take_report(Some(report), &mut under_way) {
                            return self.end(stopped);
                        }
                    }
                }
                _ = self.stop.changed(), if !stopping => stopping = true,
                _ = gauges.tick() => self.metrics.observe(self.scheduler.cluster(), self.scheduler.live()),
                _ = self.messages.recv_many(&mut messages, MAX_MESSAGES_PER_TURN), if room => {}
                _ = self.calls.recv_many(&mut calls, MAX_CALLS_PER_TURN), if room => {}
                () = tokio::time::sleep(idle), if room => {}
            }
            if stopping && under_way.is_empty() {
                return self.end(Stopped::Asked);
            }
            if !room {
                continue;
            }
            self.drain(&mut calls, &mut messages);
            let started = std::time::Instant::now();
            let turned = self.scheduler.turn(calls, messages, self.clock.now());
            self.metrics.turn(started.elapsed());
            more = turned.more;
            if let Some(batch) = turned.batch
                && let Err(err) = self.write(batch, &mut under_way)
            {
                return self.end(Stopped::Journal(err));
            }
            if let Some(fatal) = self.scheduler.fatal() {
                let fatal = fatal.clone();
                return self.end(Stopped::Fatal(fatal));
            }
            self.let_out();
        }
    }

    /// How long the next turn may wait.
    fn idle(&self, more: bool) -> Duration {
        if more {
            return Duration::ZERO;
        }
        let due = self.scheduler.next_timer().unwrap_or(Time::NEVER);
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

    fn write(
        &mut self,
        batch: TurnBatch,
        under_way: &mut std::collections::VecDeque<UnderWay>,
    ) -> Result<(), JournalError> {
        let TurnBatch { first, time, events, blobs } = batch;
        for blob in &blobs {
            self.performer.payloads.keep(dure_core::ids::BlobId(blob.id().0), blob.bytes());
        }
        let payload = record::encode(time, &events);
        let count = u32::try_from(events.len()).expect("a turn's limits keep it far below");
        self.writer.append(Batch { first_seq: first.0, count, epoch: self.epoch.0, payload }, blobs)?;
        under_way.push_back(UnderWay { last: Seq(first.0 + u64::from(count) - 1), first, time, events });
        Ok(())
    }

    /// Takes what the writer says; some when it is over.
    fn take_report(
        &mut self,
        report: Option<Report>,
        under_way: &mut std::collections::VecDeque<UnderWay>,
    ) -> Option<Stopped> {
        match report {
            Some(Report::Durable(durable)) => {
                self.metrics.committed(&durable);
                while let Some(batch) = under_way.front()
                    && batch.last.0 <= durable.head.seq
                {
                    let UnderWay { first, time, events, .. } = under_way.pop_front().expect("it has a front");
                    self.follower.feed(Arc::new(DurableBatch { first_seq: first.0, time, events }));
                }
                let effects = self.scheduler.durable(Seq(durable.head.seq));
                let position = self.scheduler.position();
                self.performer.perform(&mut self.scheduler, effects, position);
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

    /// Lets out what rests on positions that are durable already.
    fn let_out(&mut self) {
        let position = self.scheduler.position();
        let effects = self.scheduler.durable(position.seq);
        self.performer.perform(&mut self.scheduler, effects, position);
    }

    /// Nothing more leaves but the word that nothing more leaves.
    fn end(mut self, stopped: Stopped) -> Stopped {
        let why = stopped.to_string();
        for effect in self.scheduler.abandon() {
            if let Effect::Answer(answer) = effect {
                answer(Err(why.clone()));
            }
        }
        stopped
    }
}
