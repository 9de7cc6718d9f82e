//! Streams between agents and schedulers: in order as long as they hold, late, some messages twice, and broken without a
//! word.
//!
//! Each end learns of a break at a time of its own; until then it speaks into the void, and what was under way may still
//! arrive, even after a later stream of the same node has begun.

use std::collections::VecDeque;

use dure_proto::v1::{AgentMessage, SchedulerMessage, agent_message};
use dure_scheduler::agents::Outgoing;
use dure_scheduler::agents::session::{Next, SessionStream};

use super::clock::Ms;
use super::world::{Event, World};

/// How long an end waits for a sign of life before it gives a stream up.
const KEEPALIVE_MS: (Ms, Ms) = (6_000, 14_000);

/// One stream.
pub(super) struct Link {
    pub(super) node: usize,
    pub(super) agent_life: u64,
    pub(super) leader_life: u64,
    /// The number that the scheduler gave it, once it hears of it.
    pub(super) session: Option<u64>,
    pub(super) outgoing: Outgoing,
    pub(super) stream: SessionStream,
    /// The ends that have not seen it break.
    pub(super) agent_end: bool,
    pub(super) leader_end: bool,
    to_leader: Way<AgentMessage>,
    to_agent: Way<SchedulerMessage>,
}

/// One direction of a stream.
struct Way<M> {
    last_arrival: Ms,
    under_way: VecDeque<Box<M>>,
    /// Sent into a cut: they arrive when it heals, if the stream still holds.
    stuck: VecDeque<Box<M>>,
}

impl<M> Way<M> {
    fn new() -> Self {
        Self { last_arrival: 0, under_way: VecDeque::new(), stuck: VecDeque::new() }
    }

    fn send(&mut self, message: Box<M>, at: Ms) -> Ms {
        self.last_arrival = self.last_arrival.max(at);
        self.under_way.push_back(message);
        self.last_arrival
    }
}

impl World {
    /// A delay of the network now.
    pub(super) fn delay(&mut self) -> Ms {
        if self.calm { self.dice.between(0, 2) } else { self.dice.between(0, self.swarm.delay_ms) }
    }

    /// A stream from an agent to a scheduler.
    pub(super) fn connect(&mut self, node: usize, leader_life: u64) -> Option<u64> {
        let agent_life = self.nodes[node].agent.as_ref()?.life;
        self.next_link += 1;
        let (outgoing, stream) = Outgoing::new();
        let link = Link {
            node,
            agent_life,
            leader_life,
            session: None,
            outgoing,
            stream,
            agent_end: true,
            leader_end: true,
            to_leader: Way::new(),
            to_agent: Way::new(),
        };
        let link_id = self.next_link;
        self.links.insert(link_id, link);
        // The call itself, before all that is said on it.
        self.send_to_leader(link_id, Box::new(AgentMessage { kind: None }));
        Some(link_id)
    }

    /// The agent says something on its stream.
    pub(super) fn send_to_leader(&mut self, link: u64, message: Box<AgentMessage>) {
        let at = self.agenda.now() + self.delay();
        let copies = self.copies(!matches!(message.kind, None | Some(agent_message::Kind::Hello(_))));
        let Some(stream) = self.links.get_mut(&link).filter(|stream| stream.agent_end) else { return };
        for message in std::iter::repeat_n(message, copies) {
            if self.nodes[stream.node].cut_up {
                stream.to_leader.stuck.push_back(message);
            } else {
                let at = stream.to_leader.send(message, at);
                self.agenda.put(at, Event::ToLeader(link));
            }
        }
    }

    /// What a scheduler has said since the last look goes on its way.
    pub(super) fn flush(&mut self, life: u64) {
        let links: Vec<u64> =
            self.links.iter().filter(|(_, l)| l.leader_life == life && l.leader_end).map(|(id, _)| *id).collect();
        for id in links {
            while let Some(stream) = self.links.get_mut(&id) {
                match stream.stream.try_next() {
                    Next::Nothing => break,
                    Next::Message(message) => self.send_to_agent(id, message),
                    Next::Over(_) => {
                        stream.leader_end = false;
                        let at = stream.to_agent.last_arrival.max(self.agenda.now()) + self.dice.between(0, 50);
                        self.agenda.put(at, Event::AgentSees(id));
                        break;
                    }
                }
            }
        }
    }

    fn send_to_agent(&mut self, link: u64, message: Box<SchedulerMessage>) {
        let at = self.agenda.now() + self.delay();
        let copies = self.copies(true);
        let Some(stream) = self.links.get_mut(&link) else { return };
        for message in std::iter::repeat_n(message, copies) {
            if self.nodes[stream.node].cut_down {
                stream.to_agent.stuck.push_back(message);
            } else {
                let at = stream.to_agent.send(message, at);
                self.agenda.put(at, Event::ToAgent(link));
            }
        }
    }

    /// How often a message arrives.
    fn copies(&mut self, may_repeat: bool) -> usize {
        let repeats = may_repeat && !self.calm && self.swarm.doubled > 0 && self.dice.chance(self.swarm.doubled);
        1 + usize::from(repeats)
    }

    pub(super) fn next_for_leader(&mut self, link: u64) -> Option<Box<AgentMessage>> {
        self.links.get_mut(&link)?.to_leader.under_way.pop_front()
    }

    pub(super) fn next_for_agent(&mut self, link: u64) -> Option<Box<SchedulerMessage>> {
        self.links.get_mut(&link)?.to_agent.under_way.pop_front()
    }

    /// A stream breaks: each end sees it in its own time.
    pub(super) fn break_link(&mut self, link: u64, agent_after: Ms, leader_after: Ms) {
        let now = self.agenda.now();
        self.agenda.put(now + agent_after, Event::AgentSees(link));
        self.agenda.put(now + leader_after, Event::LeaderSees(link));
    }

    /// A node is cut off, in one direction or both, until `heal`.
    pub(super) fn cut(&mut self, node: usize, up: bool, down: bool) {
        self.nodes[node].cut_up |= up;
        self.nodes[node].cut_down |= down;
        let links: Vec<u64> = self.links.iter().filter(|(_, link)| link.node == node).map(|(id, _)| *id).collect();
        for link in links {
            let after = self.dice.between(KEEPALIVE_MS.0, KEEPALIVE_MS.1);
            self.agenda.put(self.agenda.now() + after, Event::Keepalive(link));
        }
    }

    /// An end has waited long enough for the other.
    pub(super) fn keepalive(&mut self, link: u64) {
        let Some(stream) = self.links.get(&link) else { return };
        let node = &self.nodes[stream.node];
        if node.cut_up || node.cut_down {
            let (agent, leader) = (self.dice.between(0, 3_000), self.dice.between(0, 9_000));
            self.break_link(link, agent, leader);
        }
    }

    /// A node is reachable again: what was stuck arrives.
    pub(super) fn heal(&mut self, node: usize) {
        (self.nodes[node].cut_up, self.nodes[node].cut_down) = (false, false);
        let links: Vec<u64> = self.links.iter().filter(|(_, link)| link.node == node).map(|(id, _)| *id).collect();
        for id in links {
            let at = self.agenda.now() + self.delay();
            let Some(stream) = self.links.get_mut(&id) else { continue };
            for message in std::mem::take(&mut stream.to_leader.stuck) {
                let at = stream.to_leader.send(message, at);
                self.agenda.put(at, Event::ToLeader(id));
            }
            for message in std::mem::take(&mut stream.to_agent.stuck) {
                let at = stream.to_agent.send(message, at);
                self.agenda.put(at, Event::ToAgent(id));
            }
        }
    }
}
