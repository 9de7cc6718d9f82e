//! The owner of a node's leases and of its talk with the scheduler: what is heard in, what is to be done out.
//!
//! Comes in: the stream's opening, messages and end, facts of the launcher and of the store, the time. Goes out:
//! `Effect`s as data, to be performed in their order.
//! This part must never do IO, read a clock, or wait: `run` pumps it with tokio, the simulator with a clock of its own.

mod changes;

use std::sync::Arc;

use dure_proto::v1::{
    AgentMessage, ExecOrder, Heartbeat, Hello, Inventory, LogRead, SchedulerMessage, Telemetry, agent_message,
    scheduler_message,
};
use tracing::{debug, error, info, warn};

use self::changes::Changes;
use crate::{
    convert,
    inventory::{GpuFacts, GpuSample},
    leases::Stored,
    model::{Launch, MemberId, Millis, StopRequest},
    reconcile::{Action, Input, Leases, Note},
};

/// What an agent is, for as long as its process lives.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The node's name.
    pub node: String,
    /// The boot of the node.
    pub boot_id: String,
    /// Between heartbeats, in milliseconds.
    pub heartbeat_ms: u64,
    /// The configuration states the above: the scheduler's wish does not count.
    pub heartbeat_is_fixed: bool,
}

/// What is to be done.
#[derive(Debug)]
pub enum Effect {
    /// Say it on the stream. One that is full loses it: reports come again by themselves.
    Say(Box<AgentMessage>),
    /// Write or remove what the action says (`PersistEpoch`, `WriteLease`, `RemoveLease`), in order, and say what became of it.
    Write(Action),
    /// Bring here what a member needs before its gang starts.
    Stage(MemberId, Arc<Launch>),
    /// Start a member, once.
    Start(MemberId, Arc<Launch>),
    /// Find out what became of a member of an earlier life.
    Adopt {
        /// Whom.
        id: MemberId,
        /// The node has not been restarted since.
        same_boot: bool,
        /// When it was never started, make sure that nothing can start it any more.
        seal: bool,
    },
    /// Ask for its end.
    Stop(MemberId, StopRequest),
    /// Its lease is removed.
    Forget(MemberId),
    /// End the stream and open another one.
    HangUp,
    /// Somebody reads a log.
    ReadLog(LogRead),
    /// Something for a program beside a member.
    Exec(Box<ExecOrder>),
    /// Nobody reads it any more.
    StopLog(u64),
    /// Nobody reads any log any more, nor listens to any program beside a member.
    StopLogs,
}

/// One agent.
pub struct Agent {
    identity: Identity,
    leases: Leases,
    is_open: bool,
    /// What the Hello of this stream is to say of the node; none once it was said.
    unsaid: Option<Inventory>,
    welcomed: bool,
    heartbeats: u64,
    changes: Changes,
    /// Why there was no session the last time that one could not be had.
    no_session: String,
}

impl Agent {
    /// The agent as the disk left it. `first_report_id` as in [`Leases::recover`].
    pub fn recover(identity: Identity, stored: Stored, first_report_id: u64) -> (Self, Vec<Effect>) {
        let boot_id = identity.boot_id.clone();
        let (leases, adoptions) = Leases::recover(boot_id, stored.mark, stored.leases, first_report_id);
        let mut agent = Self {
            identity,
            leases,
            is_open: false,
            unsaid: None,
            welcomed: false,
            heartbeats: 0,
            changes: Changes::default(),
            no_session: String::new(),
        };
        let effects = agent.effects(adoptions);
        (agent, effects)
    }

    /// The leases.
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    /// Between heartbeats, in milliseconds.
    pub fn heartbeat_ms(&self) -> u64 {
        self.identity.heartbeat_ms
    }

    /// A stream is being opened: nothing is said before the scheduler's challenge.
    pub fn open(&mut self, inventory: Inventory) {
        self.is_open = true;
        self.unsaid = Some(inventory);
        self.welcomed = false;
    }

    /// The answer to the challenge of a stream: the node as it is now. One that comes again is answered already.
    fn hello(&mut self, session: u64) -> Vec<Effect> {
        let Some(inventory) = self.unsaid.take() else { return Vec::new() };
        let mark = self.leases.mark();
        let hello = Hello {
            node: self.identity.node.clone(),
            boot_id: self.identity.boot_id.clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            inventory: Some(inventory),
            leases: self.leases.view().into_iter().map(convert::lease_to_wire).collect(),
            highest_epoch: mark.epoch.0,
            highest_seq: mark.seq.0,
            store_id: mark.store_id,
            session,
        };
        vec![say(agent_message::Kind::Hello(hello))]
    }

    /// The stream has ended.
    pub fn closed(&mut self, why: String) -> Vec<Effect> {
        let node = &self.identity.node;
        if self.welcomed {
            warn!(node, why, "the scheduler is gone");
        } else if why == self.no_session {
            debug!(node, why, "still no session");
        } else {
            // Said once: somebody has to mend a refusal, but a scheduler that is away needs no line for every try.
            warn!(node, why, "no session");
            self.no_session = why;
        }
        self.hung_up();
        vec![Effect::StopLogs]
    }

    fn hung_up(&mut self) {
        self.is_open = false;
        self.unsaid = None;
        self.welcomed = false;
    }

    /// The scheduler says something.
    pub fn message(&mut self, now: Millis, message: SchedulerMessage) -> Vec<Effect> {
        if let Some(scheduler_message::Kind::Challenge(challenge)) = message.kind {
            return self.hello(challenge.session);
        }
        // The welcome comes first; what comes without one belongs to a stream that was hung up.
        let is_welcome = matches!(message.kind, Some(scheduler_message::Kind::Welcome(_)));
        if !self.is_open || (!self.welcomed && !is_welcome) {
            return Vec::new();
        }
        let input = match message.kind {
            Some(scheduler_message::Kind::Welcome(welcome)) => {
                if !self.identity.heartbeat_is_fixed && welcome.heartbeat_ms > 0 {
                    self.identity.heartbeat_ms = u64::from(welcome.heartbeat_ms);
                }
                self.welcomed = true;
                self.changes = Changes::default();
                info!(node = self.identity.node, epoch = welcome.epoch, "session with the scheduler");
                convert::welcome_from_wire(welcome).map(Input::Welcome)
            }
            Some(scheduler_message::Kind::Order(order)) => convert::order_from_wire(order).map(Input::Order),
            Some(scheduler_message::Kind::ReportAck(ack)) => Ok(Input::Acked(ack.report_ids)),
            Some(scheduler_message::Kind::LogRead(read)) => return vec![Effect::ReadLog(read)],
            Some(scheduler_message::Kind::ExecOrder(order)) => return vec![Effect::Exec(Box::new(order))],
            Some(scheduler_message::Kind::LogStop(stop)) => return vec![Effect::StopLog(stop.read_id)],
            // The session has acted on it; an unknown kind is of a newer version and asks nothing of this one.
            Some(scheduler_message::Kind::Challenge(_) | scheduler_message::Kind::Refusal(_)) | None => {
                return Vec::new();
            }
        };
        match input {
            Ok(input) => self.input(now, input),
            Err(err) => {
                error!(node = self.identity.node, error = %err, "an order that cannot be read");
                Vec::new()
            }
        }
    }

    /// A fact of the launcher or the store, or the time.
    pub fn input(&mut self, now: Millis, input: Input) -> Vec<Effect> {
        let actions = self.leases.handle(now, input);
        self.effects(actions)
    }

    fn effects(&mut self, actions: Vec<Action>) -> Vec<Effect> {
        let mut effects = Vec::with_capacity(actions.len());
        for action in actions {
            match action {
                Action::PersistEpoch(_) | Action::WriteLease { .. } => effects.push(Effect::Write(action)),
                Action::RemoveLease(id) => effects.extend([Effect::Forget(id), Effect::Write(action)]),
                Action::Stage { id, launch } => effects.push(Effect::Stage(id, launch)),
                Action::StartShim { id, launch } => effects.push(Effect::Start(id, launch)),
                Action::Adopt { id, same_boot, seal } => effects.push(Effect::Adopt { id, same_boot, seal }),
                Action::Stop { id, request } => effects.push(Effect::Stop(id, request)),
                Action::Send(report) if self.welcomed => {
                    effects.push(say(agent_message::Kind::Report(convert::report_to_wire(&report))));
                }
                // A new stream is told everything again.
                Action::Send(_) => {}
                Action::HangUp(why) => {
                    error!(node = self.identity.node, why, "hanging up");
                    self.hung_up();
                    effects.push(Effect::HangUp);
                }
                Action::Note(note) => self.note(&note),
            }
        }
        effects
    }

    fn note(&self, note: &Note) {
        let node = &self.identity.node;
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

    /// GPUs of members that run, by index.
    pub fn busy_gpus(&self) -> Vec<u32> {
        self.leases.busy_gpus().collect()
    }

    /// A heartbeat with a fresh sample, when there is somebody to tell.
    pub fn heartbeat(
        &mut self,
        facts: &[GpuFacts],
        sample: &[GpuSample],
        telemetry: Telemetry,
    ) -> Option<Box<AgentMessage>> {
        if !self.welcomed {
            return None;
        }
        let health_changes = self.changes.since_last(facts, sample);
        self.heartbeats += 1;
        let heartbeat = Heartbeat { number: self.heartbeats, telemetry: Some(telemetry), health_changes };
        Some(Box::new(AgentMessage { kind: Some(agent_message::Kind::Heartbeat(heartbeat)) }))
    }

    /// The last heartbeat found no room: what it would have told must be told by the next.
    pub fn heartbeat_lost(&mut self) {
        self.changes = Changes::default();
    }

    /// Whether there is a session.
    pub fn is_welcomed(&self) -> bool {
        self.welcomed
    }
}

fn say(kind: agent_message::Kind) -> Effect {
    Effect::Say(Box::new(AgentMessage { kind: Some(kind) }))
}
