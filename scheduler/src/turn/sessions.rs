//! What agents say: their sessions, from Hello to hanging up, and the GPUs on which nothing may start meanwhile.

use std::collections::BTreeMap;

use dure_core::decide;
use dure_core::gpu::{GpuSet, MAX_GPUS_PER_NODE};
use dure_core::ids::{Epoch, NodeIndex};
use dure_core::input::{Input, NodeDraft};
use dure_core::node::{Contact, Resident};
use dure_core::units::{Span, Time};
use dure_proto::v1;
use dure_proto::v1::scheduler_message::Kind;

use super::{Fatal, Scheduler, Turn};
use crate::agents::breaker::{self, Fleet};
use crate::agents::{FromAgent, Outgoing, inventory, orders, report_of, say, welcome};
use crate::effect::Effect;

/// An agent on the line.
pub(super) struct Session {
    pub(super) number: u64,
    draft: NodeDraft,
    gpus: Vec<v1::GpuInventory>,
    /// Leases that the scheduler does not know, and their GPUs: something may run there, so nothing else does.
    quarantined: BTreeMap<LeaseKey, GpuSet>,
    /// Bad ones that the circuit breaker does not let be fenced.
    held_back: GpuSet,
    pub(super) outgoing: Outgoing,
}

/// Job, attempt and member of a lease.
type LeaseKey = (u64, u32, u32);

impl Session {
    /// GPUs on which nothing may start: bad ones, and those of unknown leases.
    fn fenced(&self) -> GpuSet {
        let bad = inventory::bad_gpus(&self.gpus).without(self.held_back);
        self.quarantined.values().fold(bad, |all, gpus| all.with(*gpus))
    }
}

impl Scheduler {
    /// Takes one message of an agent into the turn.
    pub(super) fn take_message(&mut self, message: FromAgent, turn: &mut Turn) {
        match message {
            FromAgent::Opened { session, hello, outgoing } => self.open(session, &hello, outgoing, turn),
            FromAgent::Heartbeat { session, node, heartbeat } => {
                if let Some(node) = self.of_session(session, &node) {
                    self.hear(node, *heartbeat, turn);
                }
            }
            FromAgent::Reported { session, node, report } => {
                let Some(node) = self.of_session(session, &node) else { return };
                self.liveness.heard(node, turn.now);
                if let Some((job, attempt, member, what)) = report_of(&report) {
                    self.decide(Input::MemberReported { node, job, attempt, member, report: what }, turn);
                }
                if let Some(v1::report::What::Gone(_)) = report.what {
                    self.release_quarantined(node, (report.job_id, report.attempt, report.member), turn);
                }
                let ack = v1::ReportAck { report_ids: vec![report.report_id] };
                turn.effects.push(Effect::Tell(node, Box::new(say(Kind::ReportAck(ack)))));
            }
            FromAgent::Closed { session, node } => {
                if let Some(node) = self.of_session(session, &node) {
                    self.sessions.remove(&node);
                    self.live.nodes.entry(node).or_default().connected = false;
                }
            }
        }
    }

    /// The node of a session, unless a later session has taken its place.
    fn of_session(&self, session: u64, node: &str) -> Option<NodeIndex> {
        let node = self.cluster.find_node(node)?;
        self.sessions.get(&node).filter(|current| current.number == session).map(|_| node)
    }

    fn hear(&mut self, node: NodeIndex, heartbeat: v1::Heartbeat, turn: &mut Turn) {
        self.liveness.heard(node, turn.now);
        let live = self.live.nodes.entry(node).or_default();
        live.last_heard = turn.now;
        if heartbeat.telemetry.is_some() {
            live.telemetry = heartbeat.telemetry;
        }
        let Some(session) = self.sessions.get_mut(&node) else { return };
        for change in heartbeat.health_changes {
            if let Some(gpu) = session.gpus.get_mut(change.index as usize) {
                *gpu = change;
            }
        }
        let asked = inventory::bad_gpus(&session.gpus);
        let told = session.held_back;
        let held_back = asked.without(self.through_breaker(Some(node), asked));
        self.say_held_back(self.cluster.node(node).name.as_ref(), held_back.without(told));
        let Some(session) = self.sessions.get_mut(&node) else { return };
        session.held_back = held_back;
        session.draft.bad = session.fenced();
        let (draft, bad) = (session.draft.clone(), session.draft.bad);
        let known = self.cluster.node(node);
        if known.contact != Contact::Ready {
            self.decide(Input::NodeHello(draft), turn);
        } else if known.bad != bad {
            self.decide(Input::NodeHealth { node, bad }, turn);
        }
    }

    /// What of an agent's bad GPUs may be fenced; no node: one that was never seen.
    fn through_breaker(&self, node: Option<NodeIndex>, asked: GpuSet) -> GpuSet {
        let fenced = node.map_or(GpuSet::EMPTY, |node| self.cluster.node(node).bad);
        if asked.without(fenced).is_empty() {
            return asked;
        }
        let nodes = self.cluster.nodes().iter();
        let gpus = nodes.clone().map(|node| node.capacity.gpus.len()).sum();
        let bad: u32 = nodes.map(|node| node.bad.len()).sum();
        let fleet = Fleet { gpus, bad_elsewhere: bad - fenced.len() };
        breaker::let_through(fleet, self.fence_percent, fenced, asked)
    }

    /// Bad GPUs that are not fenced need a person.
    fn say_held_back(&self, node: &str, gpus: GpuSet) {
        if !gpus.is_empty() {
            let limit_percent = self.fence_percent;
            let words = "too much of the fleet is called bad: nothing more is fenced before somebody has looked";
            tracing::error!(node, limit_percent, ?gpus, "{words}");
        }
    }

    /// What share of the fleet agents' verdicts may fence, in percent.
    pub fn set_fence_percent(&mut self, percent: u32) {
        self.fence_percent = percent;
    }

    fn open(&mut self, number: u64, hello: &v1::Hello, outgoing: Outgoing, turn: &mut Turn) {
        let refuse_for = |reason: String, span: Span| {
            outgoing.refuse(v1::Refusal { reason, retry_after_ms: span.0 });
        };
        let refuse = |reason: String| refuse_for(reason, Span::seconds(30));
        let mut draft =
            match self.check_hello(hello).and_then(|()| inventory::node_draft(hello, &self.settings.topology)) {
                Ok(draft) => draft,
                Err(why) => return refuse(why),
            };
        if self.fatal.is_some() {
            return refuse("this scheduler has stopped leading".into());
        }
        if let Some((why, wait)) = self.other_boot_is_heard(hello, turn.now) {
            return refuse_for(why, wait);
        }
        if let Err(why) = self.check_order(number, hello) {
            return refuse(why);
        }
        let asked = draft.bad;
        draft.bad = self.through_breaker(self.cluster.find_node(&hello.node), asked);
        let held_back = asked.without(draft.bad);
        self.say_held_back(&hello.node, held_back);
        let from = turn.events.len();
        let decided = decide(&mut self.cluster, Input::NodeHello(draft.clone()), None, turn.now, &mut turn.events);
        if let Err(rejected) = decided {
            return refuse(crate::grpc::status::rejected_text(&rejected));
        }
        self.follow_up(from, turn);
        let node = self.cluster.find_node(&hello.node).expect("it has just said hello");
        self.newest.insert(node, number);
        self.liveness.heard(node, turn.now);
        if let Some(old) = self.sessions.remove(&node) {
            turn.effects.push(Effect::Hang(node, old.outgoing));
        }
        let gpus = hello.inventory.as_ref().map(|inventory| inventory.gpus.clone()).unwrap_or_default();
        self.sessions.insert(node, Session { number, draft, gpus, quarantined: BTreeMap::new(), held_back, outgoing });
        self.greet(node, hello, turn);
    }

    /// Whether another boot of the node is heard than that of this Hello, and how long that may still go on. A node that runs
    /// was not restarted: two machines speak in its name. One that lost its power falls silent.
    fn other_boot_is_heard(&self, hello: &v1::Hello, now: Time) -> Option<(String, Span)> {
        let node = self.cluster.node(self.cluster.find_node(&hello.node)?);
        let is_heard = node.contact == Contact::Ready && self.sessions.contains_key(&node.index);
        if !is_heard || *node.boot_id == *hello.boot_id {
            return None;
        }
        let silent_at = self.liveness.last_heard(node.index) + self.settings.deadlines.suspect_after;
        let why = format!("node {} is heard in its boot {}, not in {}", hello.node, node.boot_id, hello.boot_id);
        Some((why, silent_at.since(now)))
    }

    /// Whether this Hello is the newest that the node has said. It was said after its stream was opened, so that one of a
    /// later stream speaks of a later state; after it, this one says nothing of the node as it is, and what has started since
    /// would be taken for gone. What other leaders heard is in the journal, and was said before any stream here was opened.
    fn check_order(&self, number: u64, hello: &v1::Hello) -> Result<(), String> {
        if hello.session != number {
            return Err(format!("node {} answers the challenge {}, and was asked {number}", hello.node, hello.session));
        }
        let newest = self.cluster.find_node(&hello.node).and_then(|node| self.newest.get(&node));
        if newest.is_some_and(|newest| number < *newest) {
            return Err(format!("node {} has opened a later stream since", hello.node));
        }
        Ok(())
    }

    /// Takes what the leases report and answers with everything that is wanted on the node.
    fn greet(&mut self, node: NodeIndex, hello: &v1::Hello, turn: &mut Turn) {
        let reconciled = welcome::reconcile(&self.cluster, node, &hello.leases);
        let live = self.live.nodes.entry(node).or_default();
        live.connected = true;
        live.last_heard = turn.now;
        live.agent_version = hello.agent_version.clone();
        live.address = hello.inventory.as_ref().map(|inventory| inventory.address.clone()).unwrap_or_default();
        if !reconciled.unknown.is_empty() {
            tracing::warn!(node = hello.node, leases = ?reconciled.unknown, "the agent holds unknown leases: quarantined");
        }
        live.unknown_leases = reconciled.unknown;
        self.quarantine(node, &hello.leases, turn);
        for report in reconciled.reports {
            self.decide(report, turn);
        }
        let seq = self.head.0 + turn.events.len() as u64;
        let welcome = v1::Welcome {
            epoch: self.settings.epoch.0,
            store_id: self.settings.store_id.clone(),
            seq,
            heartbeat_ms: u32::try_from(self.settings.deadlines.heartbeat.0).unwrap_or(u32::MAX),
            wanted: Vec::new(),
            settled: reconciled.settled,
        };
        let term = orders::Term { epoch: self.settings.epoch.0, seq };
        let residents = &self.cluster.node(node).residents;
        // What the agent has obeyed it has on disk: scripts are neither read nor sent once more.
        let lease = |lease: &v1::Lease| ((lease.job_id, lease.attempt, lease.member), lease.sequence);
        let obeyed: BTreeMap<LeaseKey, u32> = hello.leases.iter().map(lease).collect();
        let of_resident = |at: &Resident| {
            let wanted = orders::of_member(&self.cluster, &self.live, at.job, at.member, term)?;
            let order = &wanted.0;
            let has = obeyed.get(&(order.job_id, order.attempt, order.member));
            Some(if has.is_some_and(|has| *has >= order.sequence) { orders::kept(wanted) } else { wanted })
        };
        let wanted = residents.iter().filter_map(of_resident).collect();
        let session = self.session(node).expect("it was just opened");
        turn.effects.push(Effect::Welcome(node, session, Box::new(welcome), wanted));
    }

    /// Fences the GPUs of unknown leases until they are gone.
    fn quarantine(&mut self, node: NodeIndex, leases: &[v1::Lease], turn: &mut Turn) {
        let Some(session) = self.sessions.get_mut(&node) else { return };
        let unknown = &self.live.nodes.entry(node).or_default().unknown_leases;
        for lease in leases {
            let key = (lease.job_id, lease.attempt, lease.member);
            if unknown.contains(&key) {
                let gpus = lease.gpus.iter().map(|gpu| *gpu as usize).filter(|gpu| *gpu < MAX_GPUS_PER_NODE);
                session.quarantined.insert(key, gpus.collect());
            }
        }
        session.draft.bad = session.fenced();
        let bad = session.draft.bad;
        self.decide(Input::NodeHealth { node, bad }, turn);
    }

    /// An unknown lease is over: its GPUs are free again.
    fn release_quarantined(&mut self, node: NodeIndex, key: LeaseKey, turn: &mut Turn) {
        let Some(session) = self.sessions.get_mut(&node) else { return };
        if session.quarantined.remove(&key).is_none() {
            return;
        }
        session.draft.bad = session.fenced();
        let bad = session.draft.bad;
        self.live.nodes.entry(node).or_default().unknown_leases.retain(|unknown| *unknown != key);
        self.decide(Input::NodeHealth { node, bad }, turn);
    }

    /// Whether this leader may speak to the agent at all.
    fn check_hello(&mut self, hello: &v1::Hello) -> Result<(), String> {
        if !hello.store_id.is_empty() && hello.store_id != self.settings.store_id {
            return Err(format!(
                "node {} has obeyed the scheduler of store {}, this one's is {}; if that cluster is gone for good, empty the \
                 agent's state directory",
                hello.node, hello.store_id, self.settings.store_id
            ));
        }
        let (ours, theirs) = (self.settings.epoch.0, hello.highest_epoch);
        // What this leader has written since it began was obeyed under no other.
        let of_earlier = || self.settings.terms.end_of(Epoch(theirs), self.began_at).0;
        let end = if theirs < ours { of_earlier() } else { self.head.0 };
        let fatal = if theirs > ours {
            Some(Fatal::Deposed { node: hello.node.clone(), theirs, ours })
        } else if hello.highest_seq > end && theirs >= self.settings.restore_floor.0 {
            Some(Fatal::BehindAgent { node: hello.node.clone(), obeyed: hello.highest_seq, end })
        } else {
            None
        };
        match fatal {
            Some(fatal) => {
                let text = fatal.to_string();
                self.fatal.get_or_insert(fatal);
                Err(text)
            }
            None => Ok(()),
        }
    }
}
