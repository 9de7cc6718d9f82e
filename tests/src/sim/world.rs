//! The world's loop: takes the next event from the agenda and lets it happen.

use std::collections::BTreeMap;

use dure_agent::model::{Exit, Launch, MemberId};
use dure_agent::reconcile::Input;
use dure_core::job::Phase;
use dure_scheduler::journal::memory::Fault;
use dure_scheduler::journal::{MemoryStore, StoreId};

use super::agent::Node;
use super::clock::{Agenda, Dice, Ms};
use super::digest::Digest;
use super::faults::{Plant, Swarm};
use super::leader::{Process, policy};
use super::net::Link;
use super::oracle::Oracle;
use super::workload::{Answer, Clients};
use super::{Outcome, Seen};

/// Once all faults are over, everything is done within this.
const LIVENESS_MS: Ms = 3_600_000;
/// How often the slow checks are made.
const CHECK_MS: Ms = 5_000;
/// Events of one world; more means that it runs in circles.
const MAX_EVENTS: u64 = 3_000_000;

/// What may happen next.
pub(super) enum Event {
    /// A scheduler starts.
    Start,
    Turn(u64),
    Commit(u64),
    ToLeader(u64),
    ToAgent(u64),
    LeaderSees(u64),
    AgentSees(u64),
    Keepalive(u64),
    LeaseOver(u64),
    AgentStart(usize),
    Connect(usize, u64),
    Heartbeat(usize, u64),
    Tick(usize, u64),
    Disk(usize, u64),
    Fact(usize, u64, Box<Input>),
    /// A shim that was started comes to run, unless the node has been restarted.
    Shim(usize, u64, MemberId, Box<Launch>),
    /// A process ends, likewise.
    End(usize, u64, MemberId, Box<Exit>),
    PowerOn(usize),
    Unlock(usize, usize),
    Heal(usize),
    /// An agent loses its stream.
    Flap(usize),
    Submit,
    Send(usize),
    Arrive(usize, u64),
    Answered(usize, Box<Answer>),
    Fault,
    Lift,
    Check,
}

impl Event {
    /// For the digest.
    fn words(&self) -> [u64; 3] {
        let at = |node: &usize| *node as u64;
        match self {
            Event::Start => [1, 0, 0],
            Event::Turn(life) => [2, *life, 0],
            Event::Commit(life) => [3, *life, 0],
            Event::ToLeader(link) => [4, *link, 0],
            Event::ToAgent(link) => [5, *link, 0],
            Event::LeaderSees(link) => [6, *link, 0],
            Event::AgentSees(link) => [7, *link, 0],
            Event::Keepalive(link) => [8, *link, 0],
            Event::AgentStart(node) => [9, at(node), 0],
            Event::Connect(node, life) => [10, at(node), *life],
            Event::Heartbeat(node, life) => [11, at(node), *life],
            Event::Tick(node, life) => [12, at(node), *life],
            Event::Disk(node, life) => [13, at(node), *life],
            Event::Fact(node, life, _) => [14, at(node), *life],
            Event::Shim(node, _, id, _) => [15, at(node), id.job],
            Event::End(node, _, id, _) => [16, at(node), id.job],
            Event::PowerOn(node) => [17, at(node), 0],
            Event::Unlock(node, request) => [18, at(node), at(request)],
            Event::Heal(node) => [19, at(node), 0],
            Event::Submit => [20, 0, 0],
            Event::Send(request) => [21, at(request), 0],
            Event::Arrive(request, life) => [22, at(request), *life],
            Event::Answered(request, _) => [23, at(request), 0],
            Event::Fault => [24, 0, 0],
            Event::Lift => [25, 0, 0],
            Event::Check => [26, 0, 0],
            Event::Flap(node) => [27, at(node), 0],
            Event::LeaseOver(life) => [28, *life, 0],
        }
    }
}

/// Everything there is.
pub(super) struct World {
    pub(super) agenda: Agenda<Event>,
    pub(super) dice: Dice,
    /// For what clients wish.
    pub(super) shapes: Dice,
    pub(super) swarm: Swarm,
    pub(super) plant: Option<Plant>,
    pub(super) store: MemoryStore,
    pub(super) processes: Vec<Process>,
    pub(super) nodes: Vec<Node>,
    pub(super) links: BTreeMap<u64, Link>,
    pub(super) next_link: u64,
    /// Counts the lives of processes.
    pub(super) lives: u64,
    pub(super) clients: Clients,
    pub(super) oracle: Oracle,
    pub(super) digest: Digest,
    pub(super) seen: Seen,
    pub(super) trace: bool,
    /// The faults are over.
    pub(super) calm: bool,
    /// The last fault of a scheduler or of its store, or the last look at which nobody led undisturbed.
    pub(super) disturbed: Ms,
    pub(super) slow_until: Ms,
    pub(super) next_write_fails: Option<Fault>,
    /// Where the wall clock of the next scheduler stands, beside the right time.
    pub(super) wall_jump: i64,
    /// Acknowledged batches that the disk has lost, and nobody has noticed yet.
    pub(super) lost_batches: usize,
    pub(super) turns: u64,
    events: u64,
    lifted_at: Ms,
    finished: bool,
    broken: Option<String>,
}

impl World {
    pub(super) fn new(seed: u64, plant: Option<Plant>, trace: bool) -> Self {
        let mut dice = Dice::new(seed);
        let mut shapes = Dice::new(!seed);
        let swarm = Swarm::roll(&mut dice, &mut shapes);
        let nodes = (0..swarm.nodes)
            .map(|node| Node::new(format!("n{node}"), swarm.gpus, swarm.wishes.instances > 0))
            .collect();
        Self {
            agenda: Agenda::new(),
            dice,
            shapes,
            plant,
            store: MemoryStore::new(StoreId([7; 16])),
            processes: Vec::new(),
            nodes,
            links: BTreeMap::new(),
            next_link: 0,
            lives: 0,
            clients: Clients::default(),
            oracle: Oracle::new(policy(plant)),
            digest: Digest::new(),
            seen: Seen::default(),
            trace,
            calm: false,
            disturbed: 0,
            slow_until: 0,
            next_write_fails: None,
            wall_jump: 0,
            lost_batches: 0,
            turns: 0,
            events: 0,
            lifted_at: swarm.safety_ms,
            finished: false,
            broken: None,
            swarm,
        }
    }

    /// Lets everything happen, until all is done or something is broken.
    pub(super) fn run(&mut self) {
        self.note(|| String::from("the world begins"));
        if self.trace {
            println!("{:#?}", self.swarm);
        }
        self.agenda.put(0, Event::Start);
        for node in 0..self.nodes.len() {
            self.agenda.put(10, Event::AgentStart(node));
        }
        self.begin_work();
        self.agenda.put(self.swarm.fault_every_ms, Event::Fault);
        self.agenda.put(self.swarm.safety_ms, Event::Lift);
        self.agenda.put(CHECK_MS, Event::Check);
        while self.broken.is_none() && !self.finished {
            let Some(event) = self.agenda.take() else { break };
            self.events += 1;
            self.digest.mix(self.agenda.now());
            event.words().into_iter().for_each(|word| self.digest.mix(word));
            if self.events > MAX_EVENTS {
                return self.broken(format!("{MAX_EVENTS} events and no end"));
            }
            self.happen(event);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Start => self.start_leader(),
            Event::Turn(life) => self.turn(life),
            Event::Commit(life) => self.commit(life),
            Event::ToLeader(link) => self.pass_to_leader(link),
            Event::ToAgent(link) => self.pass_to_agent(link),
            Event::LeaderSees(link) => self.leader_sees(link),
            Event::AgentSees(link) => self.agent_sees(link),
            Event::Keepalive(link) => self.keepalive(link),
            Event::LeaseOver(life) => self.lease_over(life),
            Event::AgentStart(node) => self.start_agent(node),
            Event::Connect(node, life) => self.agent_connects(node, life),
            Event::Heartbeat(node, life) => self.heartbeat(node, life),
            Event::Tick(node, life) => self.tick(node, life),
            Event::Disk(node, life) => self.disk(node, life),
            Event::Fact(node, life, input) => self.agent_hears(node, life, *input),
            Event::Shim(node, boot, id, launch) => self.shim(node, boot, id, &launch),
            Event::End(node, boot, id, exit) => self.end(node, boot, id, *exit),
            Event::PowerOn(node) => self.power_on(node),
            Event::Unlock(node, request) => self.unlock(node, request),
            Event::Heal(node) => self.heal(node),
            Event::Flap(node) => self.flap(node),
            Event::Submit => self.submit(),
            Event::Send(request) => self.send_request(request),
            Event::Arrive(request, life) => self.arrive(request, life),
            Event::Answered(request, answer) => self.answered(request, *answer),
            Event::Fault => self.fault(),
            Event::Lift => self.lift(),
            Event::Check => self.check(),
        }
    }

    /// The slow checks, and whether all is done.
    fn check(&mut self) {
        let now = self.agenda.now();
        self.agenda.put(now + CHECK_MS, Event::Check);
        let is_well = |process: &&Process| process.paused_until <= now && process.cut_until <= now;
        if self.leading().filter(is_well).is_none() || self.slow_until > now {
            self.disturbed = now;
        }
        for node in &mut self.nodes {
            let is_welcomed = node.agent.as_ref().is_some_and(|process| process.agent.is_welcomed());
            if !is_welcomed || node.cut_up || node.cut_down || node.lag_until > now {
                node.disturbed = now;
            }
        }
        let since = |node: usize| self.nodes.get(node).map_or(0, |node| node.disturbed).max(self.disturbed);
        if let Err(why) = self.oracle.no_half_gang(now, since).and_then(|()| self.oracle.nothing_lost()) {
            return self.broken(why);
        }
        self.links.retain(|_, link| link.agent_end || link.leader_end);
        if !self.calm {
            return;
        }
        self.visit_unknown_leases();
        match self.left_over() {
            None => self.finish(),
            Some(left) if now > self.lifted_at + LIVENESS_MS => {
                self.broken(format!("an hour after the last fault not all is done: {left}"));
            }
            Some(_) => {}
        }
    }

    /// After a restore nodes may hold leases that no journal knows. Nobody kills them: an operator looks at what is left of
    /// them in the end, and restarts the node.
    fn visit_unknown_leases(&mut self) {
        if self.seen.restores == 0 || self.agenda.now() < self.lifted_at + 600_000 {
            return;
        }
        for node in 0..self.nodes.len() {
            let mut leases = self.nodes[node].disk.leases.keys();
            if leases.any(|id| !self.oracle.expects(*id)) {
                self.lose_power(node);
                self.agenda.put(self.agenda.now() + 1_000, Event::PowerOn(node));
            }
        }
    }

    /// What is not done yet, if anything.
    fn left_over(&self) -> Option<String> {
        if self.agenda.now() < self.lifted_at + 60_000 {
            return Some("late messages".to_owned());
        }
        if let Some(request) = self.clients.requests.iter().position(|request| !request.done) {
            return Some(format!("request {request} is not answered"));
        }
        let state = self.oracle.state();
        if let Some(job) = state.jobs().iter().find(|job| !matches!(job.phase, Phase::Ended(_))) {
            let why = state.explain(job.id, job.submitted_at);
            return Some(format!("job {} has not ended: {why:?}; {job:?}; {:?}", job.id, state.nodes()));
        }
        if self.oracle.alive() > 0 {
            return Some(format!("{} processes run", self.oracle.alive()));
        }
        let holds = self.nodes.iter().position(|node| !node.disk.leases.is_empty());
        if let Some(node) = holds {
            return Some(format!("node {node} holds leases: {:?}", self.nodes[node].disk.leases.keys()));
        }
        let fenced = state.nodes().iter().find(|node| !node.bad.is_empty());
        fenced.map(|node| format!("GPUs of {} are fenced: {:?}", node.name, node.bad))
    }

    fn finish(&mut self) {
        self.finished = true;
        let state = self.oracle.state();
        self.digest.mix(state.digest());
        if let Err(why) = dure_core::invariants::check_all(state).and_then(|()| self.oracle.nothing_lost()) {
            self.broken(why);
        }
    }

    /// A promise is broken: the world ends.
    pub(super) fn broken(&mut self, why: String) {
        self.note(|| format!("BROKEN: {why}"));
        self.broken.get_or_insert(why);
    }

    /// A line of the trace.
    pub(super) fn note(&self, text: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>9} {}", self.agenda.now(), text());
        }
    }

    pub(super) fn outcome(&self, seed: u64, panicked: Option<String>) -> Outcome {
        let stalled = (!self.finished).then(|| "the agenda is empty".to_owned());
        Outcome {
            seed,
            digest: self.digest.value(),
            events: self.events,
            virtual_ms: self.agenda.now(),
            seen: self.seen,
            broken: panicked.or_else(|| self.broken.clone()).or(stalled),
        }
    }
}
