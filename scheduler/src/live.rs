//! What is known only while the process lives: who is connected, the last telemetry, the size of the journal.

use std::collections::BTreeMap;

use dure_core::ids::NodeIndex;
use dure_core::units::Time;
use dure_proto::v1::Telemetry;

/// What is known of a node beyond the journal.
#[derive(Clone, Debug, Default)]
pub struct LiveNode {
    /// Its agent has a session now.
    pub connected: bool,
    /// When its agent was last heard.
    pub last_heard: Time,
    /// What its agent measured last.
    pub telemetry: Option<Telemetry>,
    /// Version of its agent.
    pub agent_version: String,
    /// Name or address under which other nodes reach it.
    pub address: String,
    /// Leases that the agent holds and the scheduler does not know: quarantined, shown, never killed.
    pub unknown_leases: Vec<(u64, u32, u32)>,
}

/// What is known beyond the journal.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// By node.
    pub nodes: BTreeMap<NodeIndex, LiveNode>,
}
