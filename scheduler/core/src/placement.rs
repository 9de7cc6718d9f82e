//! Where a gang goes: one entry per member.

use smallvec::SmallVec;

use crate::gpu::GpuSet;
use crate::ids::NodeIndex;
use crate::mig::Slice;
use crate::units::Gpus;

/// How much of its GPUs a member holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Portion {
    /// All of them.
    #[default]
    Whole,
    /// So many thousandths of the one GPU; the rest is for others.
    Milli(u16),
    /// A MIG slice of the one GPU.
    Slice {
        /// Its size.
        slice: Slice,
        /// The memory slice at which it begins.
        start: u8,
    },
}

/// The place of one member.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Placed {
    /// Its node.
    pub node: NodeIndex,
    /// Its GPUs there, never empty; exactly one where it holds only a part.
    pub gpus: GpuSet,
    /// How much of them.
    pub portion: Portion,
}

impl Placed {
    /// Whole GPUs.
    pub fn whole(node: NodeIndex, gpus: GpuSet) -> Self {
        Self { node, gpus, portion: Portion::Whole }
    }

    /// What it holds: a share its thousandths, a slice its memory slices in eighths.
    pub fn held(&self) -> Gpus {
        match self.portion {
            Portion::Whole => self.gpus.count(),
            Portion::Milli(milli) => Gpus::milli(milli.into()),
            Portion::Slice { slice, .. } => Gpus::milli(slice.milli().into()),
        }
    }

    /// GPUs that nobody else may hold a part of.
    pub fn whole_gpus(&self) -> GpuSet {
        if self.portion == Portion::Whole { self.gpus } else { GpuSet::EMPTY }
    }

    /// The one GPU of which it holds a part.
    pub fn shared_gpu(&self) -> Option<usize> {
        (self.portion != Portion::Whole).then(|| self.gpus.0.trailing_zeros() as usize)
    }
}

/// The places of all members in rank order. Gangs of one or two cost no allocation.
pub type Members = SmallVec<[Placed; 2]>;
