//! What a turn wants done outside: it leaves when the turn is durable, never before.

use dure_core::ids::{BlobId, NodeIndex};
use dure_proto::v1::{JobEvent, Order, SchedulerMessage, Welcome};

use crate::agents::Outgoing;
use crate::handle::WhenDurable;

/// One thing to do once its position is durable.
pub enum Effect {
    /// Answer a call.
    Answer(WhenDurable),
    /// Tell the agent of a node something; lost when it has no session, since its next Hello is answered from the state.
    Tell(NodeIndex, Box<SchedulerMessage>),
    /// As `Tell`, an order; a launch still lacks its payload.
    Order(NodeIndex, Box<Order>, Option<BlobId>),
    /// The answer to the Hello of this session and of no later one; the orders that it is to carry come beside it.
    Welcome(NodeIndex, u64, Box<Welcome>, Vec<(Order, Option<BlobId>)>),
    /// Close a session whose place another has taken.
    Hang(NodeIndex, Outgoing),
    /// Show watchers what happened.
    Publish(Vec<JobEvent>),
}
