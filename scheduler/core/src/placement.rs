//! Where a gang goes: one entry per member.

use smallvec::SmallVec;

use crate::gpu::GpuSet;
use crate::ids::NodeIndex;

/// The place of one member.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Placed {
    /// Its node.
    pub node: NodeIndex,
    /// Its GPUs there, never empty.
    pub gpus: GpuSet,
}

/// The places of all members in rank order. Gangs of one or two cost no allocation.
pub type Members = SmallVec<[Placed; 2]>;
