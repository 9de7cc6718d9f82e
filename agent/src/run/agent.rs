//! The loop itself: one input, one turn of the core, its actions.
//!
//! Comes in: events of the stream, facts, outcomes of writes, time. Goes out: calls to launcher, writer and stream.
//! This part must never wait inside a turn, and never decide.

use std::{
    collections::{HashMap, VecDeque},
    pin::pin,
    time::{Duration, Instant},
};

use dure_proto::v1::{AgentMessage, Heartbeat, Hello, LogRead, SchedulerMessage, agent_message, scheduler_message};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, interval_at},
};
use tracing::{debug, error, info, warn};

use super::{store::Writer, telemetry::Changes};
use crate::{
    config::{AgentConfig, LauncherKind},
    convert,
    inventory::{self, Gpus},
    launch::Launcher,
    logs,
    model::{Millis, Report},
    reconcile::{Action, Input, Leases, Note},
    session::SessionEvent,
};

/// How often the core is told that time passes.
const TICK: Duration = Duration::from_secs(1);

/// One agent at work.
pub(super) struct Agent {
    pub(super) config: AgentConfig,
    pub(super) boot_id: String,
    pub(super) leases: Leases,
    pub(super) launcher: Box<dyn Launcher>,
    pub(super) gpus: Gpus,
    pub(super) writer: Writer,
    pub(super) hang_up: mpsc::Sender<()>,
    pub(super) outgoing: Option<mpsc::Sender<AgentMessage>>,
    pub(super) welcomed: bool,
    /// Why there was no session the last time that one could not be had.
    pub(super) no_session: String,
    pub(super) heartbeat_ms: u64,
    pub(super) heartbeats: u64,
    pub(super) changes: Changes,
    pub(super) log_reads: HashMap<u64, JoinHandle<()>>,
    pub(super) started: Instant,
    /// Facts that an action brought about at once; handled before the turn ends.
    pub(super) again: VecDeque<Input>,
}

impl Agent {
    /// Turns until `shutdown` is ready.
    pub(super) async fn turns(
        mut self,
        adoptions: Vec<Action>,
        mut events: mpsc::Receiver<SessionEvent>,
        mut facts: mpsc::Receiver<Input>,
        mut written: mpsc::Receiver<Input>,
        shutdown: impl Future<Output = ()>,
    ) {
        self.perform(adoptions);
        self.settle();
        let mut shutdown = pin!(shutdown);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heartbeat = self.heartbeat_interval();
        loop {
            let period = self.heartbeat_ms;
            tokio::select! {
                () = &mut shutdown => return self.end(),
                Some(event) = events.recv() => self.session(event),
                Some(fact) = facts.recv() => self.input(fact),
                Some(done) = written.recv() => self.input(done),
                _ = tick.tick() => self.input(Input::Tick),
                _ = heartbeat.tick() => self.heartbeat(),
            }
            if self.heartbeat_ms != period {
                heartbeat = self.heartbeat_interval();
            }
        }
    }

    fn heartbeat_interval(&self) -> tokio::time::Interval {
        let period = Duration::from_millis(self.heartbeat_ms.max(1));
        let mut heartbeat = interval_at(tokio::time::Instant::now() + period, period);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        heartbeat
    }

    fn end(self) {
        self.log_reads.values().for_each(JoinHandle::abort);
        info!(node = self.config.node, leases = self.leases.len(), "agent ends; its members run on");
    }

    /// One turn of the core, with everything that follows from it at once.
    fn input(&mut self, input: Input) {
        self.again.push_back(input);
        self.settle();
    }

    fn settle(&mut self) {
        while let Some(input) = self.again.pop_front() {
            let now = Millis(self.started.elapsed().as_millis().try_into().unwrap_or(u64::MAX));
            let actions = self.leases.handle(now, input);
            self.perform(actions);
        }
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::PersistEpoch(_) | Action::WriteLease { .. } => self.again.extend(self.writer.write(action)),
                Action::RemoveLease(id) => {
                    self.launcher.forget(id);
                    self.again.extend(self.writer.write(Action::RemoveLease(id)));
                }
                Action::StartShim { id, launch } => self.launcher.start(id, launch),
                Action::Adopt { id, same_boot, seal } => self.launcher.adopt(id, same_boot, seal),
                Action::Stop { id, request } => self.launcher.stop(id, request),
                Action::Send(report) => self.report(&report),
                Action::HangUp(why) => {
                    error!(node = self.config.node, why, "hanging up");
                    self.hang_up();
                }
                Action::Note(note) => self.note(&note),
            }
        }
    }

    fn note(&self, note: &Note) {
        let node = &self.config.node;
        match note {
            Note::EpochRefused { got, highest } => {
                let (epoch, highest) = (got.0, highest.0);
                warn!(node, epoch, highest, "a scheduler of an older epoch is not obeyed");
            }
            Note::OrderRepeated(id) => debug!(node, member = %id, "order was obeyed before"),
            Note::Quarantined(id) => warn!(node, member = %id, "the scheduler does not know this lease: left alone"),
            Note::TooManyLeases(id) => error!(node, member = %id, "too many leases: the order is not obeyed"),
            Note::WriteFailed(id, error) => error!(node, member = %id, error, "a lease could not be written"),
        }
    }

    fn hang_up(&mut self) {
        self.outgoing = None;
        self.welcomed = false;
        // One hang-up waits already when this is full.
        let _ = self.hang_up.try_send(());
    }

    fn send(&mut self, kind: agent_message::Kind) -> bool {
        let message = AgentMessage { kind: Some(kind) };
        self.outgoing.as_ref().is_some_and(|outgoing| outgoing.try_send(message).is_ok())
    }

    fn report(&mut self, report: &Report) {
        if self.welcomed {
            self.send(agent_message::Kind::Report(convert::report_to_wire(report)));
        }
    }

    fn session(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Open(outgoing) => {
                self.outgoing = Some(outgoing);
                self.welcomed = false;
                let hello = self.hello();
                self.send(agent_message::Kind::Hello(hello));
            }
            SessionEvent::Closed(why) => {
                if self.welcomed {
                    warn!(node = self.config.node, why, "the scheduler is gone");
                } else if why == self.no_session {
                    debug!(node = self.config.node, why, "still no session");
                } else {
                    // Said once: somebody has to mend a refusal, but a scheduler that is away needs no line for every try.
                    warn!(node = self.config.node, why, "no session");
                    self.no_session = why;
                }
                self.outgoing = None;
                self.welcomed = false;
                self.log_reads.drain().for_each(|(_, read)| read.abort());
            }
            SessionEvent::Message(message) => self.message(*message),
        }
    }

    fn hello(&self) -> Hello {
        let mark = self.leases.mark();
        Hello {
            node: self.config.node.clone(),
            boot_id: self.boot_id.clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            inventory: Some(inventory::to_wire(&self.config, &self.gpus)),
            leases: self.leases.view().into_iter().map(convert::lease_to_wire).collect(),
            highest_epoch: mark.epoch.0,
            highest_seq: mark.seq.0,
            store_id: mark.store_id,
        }
    }

    fn message(&mut self, message: SchedulerMessage) {
        // The welcome comes first; what comes without one belongs to a stream that was hung up.
        if !self.welcomed && !matches!(message.kind, Some(scheduler_message::Kind::Welcome(_))) {
            return;
        }
        let input = match message.kind {
            Some(scheduler_message::Kind::Welcome(welcome)) => {
                if self.config.heartbeat_ms.is_none() && welcome.heartbeat_ms > 0 {
                    self.heartbeat_ms = u64::from(welcome.heartbeat_ms);
                }
                self.welcomed = true;
                self.changes = Changes::default();
                info!(node = self.config.node, epoch = welcome.epoch, "session with the scheduler");
                convert::welcome_from_wire(welcome).map(Input::Welcome)
            }
            Some(scheduler_message::Kind::Order(order)) => convert::order_from_wire(order).map(Input::Order),
            Some(scheduler_message::Kind::ReportAck(ack)) => Ok(Input::Acked(ack.report_ids)),
            Some(scheduler_message::Kind::LogRead(read)) => return self.read_log(read),
            Some(scheduler_message::Kind::LogStop(stop)) => {
                if let Some(read) = self.log_reads.remove(&stop.read_id) {
                    read.abort();
                }
                return;
            }
            // The session has acted on it; an unknown kind is of a newer version and asks nothing of this one.
            Some(scheduler_message::Kind::Refusal(_)) | None => return,
        };
        match input {
            Ok(input) => self.input(input),
            Err(err) => error!(node = self.config.node, error = %err, "an order that cannot be read"),
        }
    }

    fn heartbeat(&mut self) {
        if !self.welcomed {
            return;
        }
        let busy: Vec<u32> = self.leases.busy_gpus().collect();
        let sample = self.gpus.sample(&busy);
        let health_changes = self.changes.since_last(self.gpus.facts(), &sample);
        self.heartbeats += 1;
        let telemetry = Some(inventory::telemetry(&sample));
        let heartbeat = Heartbeat { number: self.heartbeats, telemetry, health_changes };
        if !self.send(agent_message::Kind::Heartbeat(heartbeat)) {
            // What this one would have told must be told by the next.
            self.changes = Changes::default();
        }
    }

    fn read_log(&mut self, read: LogRead) {
        let Some(outgoing) = self.outgoing.clone() else { return };
        self.log_reads.retain(|_, read| !read.is_finished());
        let refusal = if self.config.launcher == LauncherKind::Simulated {
            Some("a simulated member writes no log")
        } else if self.log_reads.len() >= logs::MAX_LOG_READS {
            Some("this node serves as many log readers as it may: try again when one has ended")
        } else {
            None
        };
        if let Some(why) = refusal {
            // A reader that hears nothing asks again.
            let _ = outgoing.try_send(logs::refusal(read.read_id, why));
            return;
        }
        let id = read.read_id;
        let reading = tokio::spawn(logs::read(self.config.state_dir.clone(), read, outgoing));
        if let Some(earlier) = self.log_reads.insert(id, reading) {
            earlier.abort();
        }
    }
}
