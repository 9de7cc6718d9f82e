//! Silence: how long a node was not heard, and what that makes of it.
//!
//! By the scheduler's own monotonic time, never by a clock of the node. A scheduler that has just started knows nothing
//! of the silence before it: every node gets a fresh deadline.

use std::collections::BTreeMap;

use dure_core::Cluster;
use dure_core::ids::NodeIndex;
use dure_core::input::Input;
use dure_core::node::Contact;
use dure_core::units::{Span, Time};

/// After which silence a node is what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deadlines {
    /// How often agents speak.
    pub heartbeat: Span,
    /// Nothing new goes to a node silent for this long.
    pub suspect_after: Span,
    /// Gangs on a node silent for this long are broken up.
    pub lost_after: Span,
}

/// When each node was last heard.
#[derive(Debug)]
pub struct Liveness {
    deadlines: Deadlines,
    started: Time,
    heard: BTreeMap<NodeIndex, Time>,
}

impl Liveness {
    /// Nobody was heard yet.
    pub fn new(deadlines: Deadlines, started: Time) -> Self {
        Self { deadlines, started, heard: BTreeMap::new() }
    }

    /// A node was heard.
    pub fn heard(&mut self, node: NodeIndex, now: Time) {
        self.heard.insert(node, now);
    }

    /// When a node was last heard, or when listening began.
    pub fn last_heard(&self, node: NodeIndex) -> Time {
        self.heard.get(&node).copied().unwrap_or(self.started)
    }

    /// What the silence of each node leads to now.
    pub fn overdue(&self, cluster: &Cluster, now: Time) -> Vec<Input> {
        let verdict = |node: &dure_core::node::Node| {
            let silence = now.since(self.last_heard(node.index));
            match node.contact {
                Contact::Ready | Contact::Suspect if silence >= self.deadlines.lost_after => {
                    Some(Input::NodeLost(node.index))
                }
                Contact::Ready if silence >= self.deadlines.suspect_after => Some(Input::NodeSilent(node.index)),
                Contact::Ready | Contact::Suspect | Contact::Lost => None,
            }
        };
        cluster.nodes().iter().filter_map(verdict).collect()
    }
}
