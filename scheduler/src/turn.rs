//! The synchronous heart of the shell: calls and agents' messages in, one batch of events and its effects out.
//!
//! A turn decides, applies and remembers what to do outside; nothing leaves before `durable` says that the turn's
//! position is on disk. No clock, no IO, no await: `run` pumps it, and so does the simulator.

mod idle;
mod sessions;

use std::collections::{BTreeMap, VecDeque};

use dure_core::cycle::cycle;
use dure_core::event::Event;
use dure_core::ids::{Epoch, NodeIndex, Seq};
use dure_core::input::Input;
use dure_core::node::{Contact, Location, Node};
use dure_core::units::{Span, Time};
use dure_core::{Cluster, decide};

use self::sessions::Session;
use crate::agents::liveness::{Deadlines, Liveness};
use crate::agents::{FromAgent, Outgoing, breaker, orders};
use crate::audit::Subject;
use crate::effect::Effect;
use crate::grpc::convert::job_event;
use crate::handle::{Call, Mutation, Position};
use crate::journal::Blob;
use crate::live::Live;
use crate::record::CallRecord;
use crate::terms::Terms;

/// How often the nodes are gone through for silence: the precision of its deadlines.
const ROLL_CALL_EVERY: Span = Span(250);

/// Who leads, on which store, and the rules of the shell.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This leader's term.
    pub epoch: Epoch,
    /// Epochs below this one belong to what a restore gave up, knowingly: an agent that obeyed a later position under one
    /// of them is no witness against this journal.
    pub restore_floor: Epoch,
    /// How far the leaders before this one have come.
    pub terms: Terms,
    /// Which store, as text.
    pub store_id: String,
    /// When silence means what.
    pub deadlines: Deadlines,
    /// Where the nodes stand that the topology file names.
    pub topology: BTreeMap<String, Location>,
}

/// The events of one turn, to be made durable as one batch.
#[derive(Debug)]
pub struct TurnBatch {
    /// Position of the first event.
    pub first: Seq,
    /// When it happened.
    pub time: Time,
    /// What happened; never empty.
    pub events: Vec<Event>,
    /// Blobs that the events name.
    pub blobs: Vec<Blob>,
    /// The calls that led to some of the events, for the audit.
    pub calls: Vec<CallRecord>,
}

/// What a turn came to.
#[derive(Debug, Default)]
pub struct Turned {
    /// To be made durable; none when nothing happened.
    pub batch: Option<TurnBatch>,
    /// The cycle stopped at its limit: another turn has work at once.
    pub more: bool,
}

/// A reason to stop leading at once.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum Fatal {
    /// An agent has obeyed what this journal does not hold: acknowledged work would be lost.
    #[error(
        "node {node} has obeyed position {obeyed} of a leader whose part of this journal ends at {end}: positions {} to \
         {obeyed} are missing; restore the newest backup (`dure restore`) before leading again",
        end + 1
    )]
    BehindAgent {
        /// Which agent.
        node: String,
        /// What it has obeyed.
        obeyed: u64,
        /// What the journal holds of that leader, and of those before it.
        end: u64,
    },
    /// An agent has obeyed a later leader.
    #[error("node {node} has obeyed epoch {theirs}, this leader's is {ours}: another scheduler leads; this one stops")]
    Deposed {
        /// Which agent.
        node: String,
        /// Its epoch.
        theirs: u64,
        /// Ours.
        ours: u64,
    },
}

/// The owner of the cluster.
pub struct Scheduler {
    cluster: Cluster,
    live: Live,
    settings: Settings,
    liveness: Liveness,
    sessions: BTreeMap<NodeIndex, Session>,
    /// The number of the newest stream whose Hello was taken, by node.
    newest: BTreeMap<NodeIndex, u64>,
    fence_percent: u32,
    /// Where the journal ended when this leader began.
    began_at: Seq,
    head: Seq,
    durable: Seq,
    /// Effects by the position that they wait for, in order.
    waiting: VecDeque<(Seq, Vec<Effect>)>,
    /// All of them together.
    waiting_effects: usize,
    changed: bool,
    next_roll_call: Time,
    next_idle_look: Time,
    /// The next turn is the first one after a time in which nobody was there.
    was_away: bool,
    /// Until then, after an absence, what is overdue waits for the nodes to say what became of it.
    timers_from: Time,
    fatal: Option<Fatal>,
}

impl Scheduler {
    /// Leads `cluster`, which stands at the durable position `head`, from `now` on.
    pub fn new(cluster: Cluster, head: Seq, settings: Settings, now: Time) -> Self {
        Self {
            cluster,
            live: Live::default(),
            liveness: Liveness::new(settings.deadlines, now),
            settings,
            sessions: BTreeMap::new(),
            newest: BTreeMap::new(),
            fence_percent: breaker::DEFAULT_PERCENT,
            began_at: head,
            head,
            durable: head,
            waiting: VecDeque::new(),
            waiting_effects: 0,
            changed: true,
            next_roll_call: now,
            next_idle_look: now,
            was_away: true,
            timers_from: now,
            fatal: None,
        }
    }

    /// The state.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// What is known beyond the journal.
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// The last position given.
    pub fn head(&self) -> Seq {
        self.head
    }

    /// Why this scheduler must stop leading.
    pub fn fatal(&self) -> Option<&Fatal> {
        self.fatal.as_ref()
    }

    /// The way to the agent of a node, if it has a session.
    pub fn outgoing(&self, node: NodeIndex) -> Option<&Outgoing> {
        self.sessions.get(&node).map(|session| &session.outgoing)
    }

    /// The number of a node's session, if it has one.
    pub fn session(&self, node: NodeIndex) -> Option<u64> {
        self.sessions.get(&node).map(|session| session.number)
    }

    /// Ends the session of a node whose agent does not read; it comes back and is told everything anew.
    pub fn cut_off(&mut self, node: NodeIndex) {
        if let Some(session) = self.sessions.remove(&node) {
            session.outgoing.cut(tonic::Status::resource_exhausted("the agent does not read its messages"));
            self.live.nodes.entry(node).or_default().connected = false;
        }
    }

    /// When a turn is due even if nothing comes in.
    pub fn next_timer(&self) -> Option<Time> {
        self.cluster.next_timer().map(|due| due.max(self.timers_from))
    }

    /// The shortest silence that means something.
    pub fn suspect_after(&self) -> Span {
        self.settings.deadlines.suspect_after
    }

    /// Nobody took turns for a while: the process stood still. What was not heard in that time proves nothing.
    pub fn came_back(&mut self) {
        self.was_away = true;
    }

    /// All deadlines begin anew, and no timer is acted on before the nodes have said what happened meanwhile: what ended
    /// in time is not to be taken for late.
    fn begin_anew(&mut self, turn: &mut Turn) {
        let deadlines = self.settings.deadlines;
        self.liveness = Liveness::new(deadlines, turn.now);
        self.timers_from = turn.now + deadlines.suspect_after;
        self.decide(Input::CameBack, turn);
    }

    fn timers_may_act(&mut self, now: Time) -> bool {
        let is_heard = |node: &Node| node.contact != Contact::Ready || self.sessions.contains_key(&node.index);
        if now < self.timers_from && self.cluster.nodes().iter().all(is_heard) {
            self.timers_from = now;
        }
        now >= self.timers_from
    }

    /// Takes everything that waits, decides, and runs a cycle if anything changed.
    pub fn turn(&mut self, calls: Vec<Call>, messages: Vec<FromAgent>, now: Time) -> Turned {
        let mut turn = Turn::at(now);
        if std::mem::take(&mut self.was_away) {
            self.begin_anew(&mut turn);
        }
        for message in messages {
            self.take_message(message, &mut turn);
        }
        if self.cluster.next_timer().is_some_and(|due| due <= now) {
            if self.timers_may_act(now) {
                self.decide(Input::Tick, &mut turn);
                // It may only mean that something may be planned now.
                self.changed = true;
            } else {
                // What an operator changes is judged by the dates that have come.
                self.decide(Input::TickDates, &mut turn);
            }
        }
        if now >= self.next_roll_call {
            self.next_roll_call = now + ROLL_CALL_EVERY;
            for overdue in self.liveness.overdue(&self.cluster, now) {
                self.decide(overdue, &mut turn);
            }
        }
        self.look_for_idle(&mut turn);
        let mut reads = Vec::new();
        for call in calls {
            match call {
                Call::Read(look) => reads.push(look),
                Call::Mutate(mutation) => self.mutate(*mutation, &mut turn),
            }
        }
        let mut more = false;
        if self.changed || !turn.events.is_empty() {
            let from = turn.events.len();
            more = cycle(&mut self.cluster, now, &mut turn.events).more;
            self.follow_up(from, &mut turn);
            self.changed = more;
        }
        for look in reads {
            turn.effects.push(Effect::Answer(look(&self.cluster, &self.live)));
        }
        Turned { batch: self.close(turn), more }
    }

    fn mutate(&mut self, mutation: Mutation, turn: &mut Turn) {
        let Mutation { by, input, key, blobs, then } = mutation;
        let from = turn.events.len();
        let subject = Subject::of(&self.cluster, &input);
        let decided = decide(&mut self.cluster, input, key.as_ref(), turn.now, &mut turn.events);
        let events = turn.events.len() - from;
        if events > 0 {
            turn.blobs.extend(blobs);
            turn.calls.extend(decided.as_ref().ok().map(|reply| subject.record(by, reply, events)));
            self.follow_up(from, turn);
        }
        turn.effects.push(Effect::Answer(then(&self.cluster, decided)));
    }

    /// Makes room for what the next cycle may place, so that it need not ask for memory.
    pub fn provision(&mut self) {
        self.cluster.provision();
    }

    /// Everything up to `seq` is durable: gives out what waited for it.
    pub fn durable(&mut self, seq: Seq) -> Vec<Effect> {
        self.durable = self.durable.max(seq);
        let mut out = Vec::new();
        while let Some((at, _)) = self.waiting.front()
            && *at <= self.durable
        {
            let (_, effects) = self.waiting.pop_front().expect("it has a front");
            self.waiting_effects -= effects.len();
            out.extend(effects);
        }
        out
    }

    /// Effects that wait for the disk: answers to reads among them, which make no batch.
    pub fn waiting_effects(&self) -> usize {
        self.waiting_effects
    }

    /// What an answer rests on now.
    pub fn position(&self) -> Position {
        Position { seq: self.durable, epoch: self.settings.epoch }
    }

    /// Nothing can become durable any more: everything that waits is to be told so.
    pub fn abandon(&mut self) -> Vec<Effect> {
        self.waiting_effects = 0;
        self.waiting.drain(..).flat_map(|(_, effects)| effects).collect()
    }

    fn close(&mut self, turn: Turn) -> Option<TurnBatch> {
        let Turn { now, events, blobs, calls, effects } = turn;
        let first = Seq(self.head.0 + 1);
        self.head = Seq(self.head.0 + events.len() as u64);
        if !effects.is_empty() {
            self.waiting_effects += effects.len();
            self.waiting.push_back((self.head, effects));
        }
        (!events.is_empty()).then_some(TurnBatch { first, time: now, events, blobs, calls })
    }

    fn decide(&mut self, input: Input, turn: &mut Turn) {
        let from = turn.events.len();
        if let Err(rejected) = decide(&mut self.cluster, input, None, turn.now, &mut turn.events) {
            tracing::warn!(?rejected, "input from inside was refused");
        }
        self.follow_up(from, turn);
    }

    /// Orders and watch events of the events from `from` on.
    fn follow_up(&mut self, from: usize, turn: &mut Turn) {
        let mut shown = Vec::new();
        for at in from..turn.events.len() {
            let seq = self.head.0 + 1 + at as u64;
            let term = orders::Term { epoch: self.settings.epoch.0, seq };
            let event = &turn.events[at];
            orders::of_event(&self.cluster, &self.live, event, term, &mut turn.effects);
            shown.extend(job_event(&self.cluster, seq, turn.now, event));
        }
        if !shown.is_empty() {
            turn.effects.push(Effect::Publish(shown));
        }
    }
}

/// A turn under way.
struct Turn {
    now: Time,
    events: Vec<Event>,
    blobs: Vec<Blob>,
    calls: Vec<CallRecord>,
    effects: Vec<Effect>,
}

impl Turn {
    fn at(now: Time) -> Self {
        Self { now, events: Vec::new(), blobs: Vec::new(), calls: Vec::new(), effects: Vec::new() }
    }
}

#[cfg(test)]
mod tests;
