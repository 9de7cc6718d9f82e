//! What an accepted input is answered with.

use crate::ids::{BookingId, JobId, NodeIndex, TenantIndex};

/// The answer to an accepted mutation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reply {
    /// Jobs `first`, `first` + 1, ... of a Submit.
    Submitted {
        /// The first id.
        first: JobId,
        /// How many.
        count: u32,
    },
    /// A job was changed.
    Job(JobId),
    /// A tenant was changed; the root for the cluster.
    Tenant(TenantIndex),
    /// A node was changed.
    Node(NodeIndex),
    /// A booking was made.
    Booking(BookingId),
    /// Nothing to say.
    Done,
}
