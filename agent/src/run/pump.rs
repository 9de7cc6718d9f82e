//! The loop itself: one thing heard, one turn of the agent, its effects.
//!
//! Comes in: events of the stream, facts, outcomes of writes, time. Goes out: calls to launcher, writer and stream.
//! This part must never wait inside a turn, and never decide.

use std::{
    collections::{HashMap, VecDeque},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use dure_proto::v1::{
    AgentMessage, ExecData, ExecEnd, ExecOrder, ExecOutput, Inventory, LogRead, agent_message, exec_input, exec_output,
};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, interval_at},
};
use tracing::info;

use super::store::Writer;
use crate::{
    config::{AgentConfig, LauncherKind},
    exec::{Exec, MAX_EXECS},
    inventory::{self, Gpus},
    launch::{Launcher, ProcessSettings},
    logs,
    model::{MemberId, Millis},
    reconcile::Input,
    session::SessionEvent,
    turn::{Agent, Effect},
};

/// How often the agent is told that time passes.
const TICK: Duration = Duration::from_secs(1);

/// One agent at work.
pub(super) struct Pump {
    pub(super) config: AgentConfig,
    pub(super) agent: Agent,
    /// What this node does not keep, for every hello.
    pub(super) weaker_isolation: Vec<String>,
    pub(super) launcher: Box<dyn Launcher>,
    pub(super) gpus: Gpus,
    pub(super) writer: Writer,
    pub(super) hang_up: mpsc::Sender<()>,
    pub(super) outgoing: Option<mpsc::Sender<AgentMessage>>,
    pub(super) log_reads: HashMap<u64, JoinHandle<()>>,
    /// Programs beside members; none where members are no processes.
    pub(super) process: Option<Arc<ProcessSettings>>,
    pub(super) execs: HashMap<u64, Exec>,
    pub(super) started: Instant,
    /// Facts that an effect brought about at once; handled before the turn ends.
    pub(super) again: VecDeque<Input>,
}

impl Pump {
    /// Turns until `shutdown` is ready.
    pub(super) async fn turns(
        mut self,
        adoptions: Vec<Effect>,
        mut events: mpsc::Receiver<SessionEvent>,
        mut facts: mpsc::Receiver<Input>,
        mut written: mpsc::Receiver<Input>,
        shutdown: impl Future<Output = ()>,
    ) {
        self.perform(adoptions);
        let mut shutdown = pin!(shutdown);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut period = self.agent.heartbeat_ms();
        let mut heartbeat = heartbeat_interval(period);
        loop {
            tokio::select! {
                () = &mut shutdown => return self.end(),
                Some(event) = events.recv() => self.session(event),
                Some(fact) = facts.recv() => self.input(fact),
                Some(done) = written.recv() => self.input(done),
                _ = tick.tick() => self.input(Input::Tick),
                _ = heartbeat.tick() => self.heartbeat(),
            }
            if self.agent.heartbeat_ms() != period {
                period = self.agent.heartbeat_ms();
                heartbeat = heartbeat_interval(period);
            }
        }
    }

    fn end(self) {
        self.log_reads.values().for_each(JoinHandle::abort);
        info!(node = self.config.node, leases = self.agent.leases().len(), "agent ends; its members run on");
    }

    fn now(&self) -> Millis {
        Millis(self.started.elapsed().as_millis().try_into().unwrap_or(u64::MAX))
    }

    fn input(&mut self, input: Input) {
        let effects = self.agent.input(self.now(), input);
        self.perform(effects);
    }

    /// Performs effects, with everything that follows from them at once.
    fn perform(&mut self, effects: Vec<Effect>) {
        self.perform_once(effects);
        while let Some(input) = self.again.pop_front() {
            let effects = self.agent.input(self.now(), input);
            self.perform_once(effects);
        }
    }

    fn perform_once(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                // What a full stream loses is a report, and comes again.
                Effect::Say(message) => drop(self.say(*message)),
                Effect::Write(action) => self.again.extend(self.writer.write(action)),
                Effect::Stage(id, launch) => self.launcher.stage(id, launch),
                Effect::Start(id, launch) => self.launcher.start(id, launch),
                Effect::Adopt { id, same_boot, seal } => self.launcher.adopt(id, same_boot, seal),
                Effect::Stop(id, request) => self.launcher.stop(id, request),
                Effect::Forget(id) => self.launcher.forget(id),
                Effect::HangUp => {
                    self.outgoing = None;
                    // One hang-up waits already when this is full.
                    let _ = self.hang_up.try_send(());
                }
                Effect::ReadLog(read) => self.read_log(read),
                Effect::StopLog(read) => self.log_reads.remove(&read).map_or((), |read| read.abort()),
                Effect::Exec(order) => self.exec(*order),
                Effect::StopLogs => {
                    self.log_reads.drain().for_each(|(_, read)| read.abort());
                    self.execs.clear();
                }
            }
        }
    }

    fn say(&mut self, message: AgentMessage) -> bool {
        self.outgoing.as_ref().is_some_and(|outgoing| outgoing.try_send(message).is_ok())
    }

    fn session(&mut self, event: SessionEvent) {
        let effects = match event {
            SessionEvent::Open(outgoing) => {
                self.outgoing = Some(outgoing);
                let inventory = inventory::to_wire(&self.config, &self.gpus);
                self.agent.open(Inventory { weaker_isolation: self.weaker_isolation.clone(), ..inventory });
                Vec::new()
            }
            SessionEvent::Closed(why) => {
                self.outgoing = None;
                self.agent.closed(why)
            }
            SessionEvent::Message(message) => self.agent.message(self.now(), *message),
        };
        self.perform(effects);
    }

    fn heartbeat(&mut self) {
        let sample = self.gpus.sample(&self.agent.busy_gpus());
        let telemetry = inventory::telemetry(&sample);
        let Some(heartbeat) = self.agent.heartbeat(self.gpus.facts(), &sample, telemetry) else { return };
        if !self.say(*heartbeat) {
            self.agent.heartbeat_lost();
        }
    }

    fn exec(&mut self, order: ExecOrder) {
        let Some(outgoing) = self.outgoing.clone() else { return };
        let id = order.exec_id;
        let Some(input) = order.input else {
            // The program is hung up with its handle.
            self.execs.remove(&id);
            return;
        };
        let Some(exec_input::Kind::Start(start)) = input.kind else {
            if self.execs.get(&id).is_some_and(|exec| !exec.input(input)) {
                self.execs.remove(&id);
            }
            return;
        };
        self.execs.retain(|_, exec| !exec.is_over());
        let refusal = match &self.process {
            None => "a simulated member has no processes",
            Some(_) if self.execs.len() >= MAX_EXECS => "this node runs as many programs beside members as it may",
            Some(settings) => {
                let member = MemberId { job: order.job_id, attempt: order.attempt, member: order.member };
                self.execs.insert(id, Exec::start(settings.clone(), id, member, start, outgoing));
                return;
            }
        };
        let end = exec_output::Kind::End(ExecEnd { code: 126, error: refusal.to_owned() });
        let data = ExecData { exec_id: id, output: Some(ExecOutput { kind: Some(end) }) };
        // Whoever hears nothing asks again.
        let _ = outgoing.try_send(AgentMessage { kind: Some(agent_message::Kind::ExecData(data)) });
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

fn heartbeat_interval(period_ms: u64) -> tokio::time::Interval {
    let period = Duration::from_millis(period_ms.max(1));
    let mut heartbeat = interval_at(tokio::time::Instant::now() + period, period);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    heartbeat
}
