//! GPUs of one node that several members share: how much of each is held.
//!
//! In: portions taken and given back. Out: what is left. A GPU is cut either into shares or, by the node's operator, into
//! MIG instances, never both; where the last share is given back it is whole again and leaves the list.
//! It must never hold more than a GPU has, and never two slices of the same memory.

use crate::gpu::GpuSet;
use crate::mig::Layout;
use crate::placement::{Placed, Portion};
use crate::request::Part;
use crate::units::Gpus;

/// Thousandths of a GPU.
pub const WHOLE: u16 = Gpus::MILLI as u16;

/// A GPU that is cut.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Cut {
    /// Its index on the node.
    pub gpu: u8,
    /// Thousandths that shares hold.
    pub milli: u16,
    /// Memory slices that MIG slices hold.
    pub slices: u8,
    /// Its MIG instances.
    pub layout: Layout,
}

impl Cut {
    /// Nothing of this GPU is held, and it has no instances.
    pub fn none(gpu: usize) -> Self {
        Self { gpu: gpu as u8, milli: 0, slices: 0, layout: Layout::WHOLE }
    }

    /// Whether nothing of it is held.
    pub fn is_empty(&self) -> bool {
        self.milli == 0 && self.slices == 0
    }

    /// Whether it may be held whole.
    pub fn is_whole(&self) -> bool {
        self.is_empty() && !self.layout.is_cut()
    }

    /// Whether it is for shares: not for slices, and none of it is held as such.
    fn is_for_shares(&self) -> bool {
        self.slices == 0 && !self.layout.is_cut()
    }

    /// How many members with this part of a GPU each still fit on it.
    pub fn fit(&self, part: Part) -> u32 {
        match part {
            Part::Whole => u32::from(self.is_whole()),
            Part::Milli(milli) if self.is_for_shares() => {
                u32::from((WHOLE - self.milli).checked_div(milli).unwrap_or(0))
            }
            Part::Slice(slice) if self.milli == 0 => self.layout.free(slice, self.slices).count() as u32,
            Part::Milli(_) | Part::Slice(_) => 0,
        }
    }

    /// Where on it the next member goes; none when it does not fit.
    pub fn portion(&self, part: Part) -> Option<Portion> {
        match part {
            Part::Milli(milli) if self.fit(part) > 0 => Some(Portion::Milli(milli)),
            Part::Slice(slice) if self.milli == 0 => {
                self.layout.free(slice, self.slices).next().map(|start| Portion::Slice { slice, start })
            }
            Part::Whole | Part::Milli(_) | Part::Slice(_) => None,
        }
    }

    /// Whether this very portion may be taken.
    pub fn admits(&self, portion: Portion) -> bool {
        let is_there = match portion {
            Portion::Whole => self.is_whole(),
            Portion::Milli(_) => self.is_for_shares(),
            Portion::Slice { slice, start } => self.layout.has(slice, start),
        };
        is_there && self.is_free(portion)
    }

    /// Whether nobody holds what this portion covers, however the GPU is cut by now.
    pub(crate) fn is_free(&self, portion: Portion) -> bool {
        match portion {
            Portion::Whole => self.is_empty(),
            Portion::Milli(milli) => self.slices == 0 && self.milli + milli <= WHOLE,
            Portion::Slice { slice, start } => self.milli == 0 && self.slices & slice.mask(start) == 0,
        }
    }

    /// What is left of it: of a cut one, its free instances.
    pub fn left(&self) -> u16 {
        if !self.layout.is_cut() {
            return self.left_for_shares();
        }
        let instances = self.layout.instances().filter(|(slice, start)| slice.mask(*start) & self.slices == 0);
        if self.milli > 0 { 0 } else { instances.map(|(slice, _)| slice.milli()).sum() }
    }

    /// What is left of it for shares.
    pub fn left_for_shares(&self) -> u16 {
        if self.is_for_shares() { WHOLE - self.milli } else { 0 }
    }

    /// As it is when `portion` is held as well.
    pub fn with(mut self, portion: Portion) -> Self {
        match portion {
            Portion::Whole => {}
            Portion::Milli(milli) => self.milli += milli,
            Portion::Slice { slice, start } => self.slices |= slice.mask(start),
        }
        self
    }
}

/// The cut GPUs of one node, by index.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Parts {
    list: Vec<Cut>,
}

impl Parts {
    /// The cut GPUs, rising.
    pub fn iter(&self) -> impl Iterator<Item = &Cut> {
        self.list.iter()
    }

    /// Whether none is cut.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Nothing is held of GPUs that are cut so, by index; where none is, the list is empty.
    pub fn laid_out(layouts: &[Layout]) -> Self {
        let mut parts = Self::default();
        parts.lay_out(layouts);
        parts
    }

    /// The GPUs are cut so from now on; what is held stays held.
    pub fn lay_out(&mut self, layouts: &[Layout]) {
        self.list.iter_mut().for_each(|cut| cut.layout = Layout::WHOLE);
        for (gpu, layout) in layouts.iter().enumerate() {
            let cut = Cut { layout: *layout, ..self.of(gpu) };
            self.set(cut);
        }
        self.list.retain(|cut| !cut.is_whole());
    }

    /// GPUs of which something is held.
    pub fn held(&self) -> GpuSet {
        self.list.iter().filter(|cut| !cut.is_empty()).map(|cut| cut.gpu as usize).collect()
    }

    /// The cut GPUs as a set.
    pub fn gpus(&self) -> GpuSet {
        self.list.iter().map(|cut| cut.gpu as usize).collect()
    }

    /// What is held of a GPU.
    pub fn of(&self, gpu: usize) -> Cut {
        self.list.iter().find(|cut| cut.gpu as usize == gpu).copied().unwrap_or(Cut::none(gpu))
    }

    /// What is left of those among `usable`.
    pub fn left(&self, usable: GpuSet) -> Gpus {
        let cuts = self.list.iter().filter(|cut| usable.contains(GpuSet::single(cut.gpu as usize)));
        cuts.map(|cut| Gpus::milli(cut.left().into())).sum()
    }

    /// Puts down what is held of a GPU; nothing of one without instances: the GPU is whole.
    pub fn set(&mut self, cut: Cut) {
        match (self.list.binary_search_by_key(&cut.gpu, |known| known.gpu), cut.is_whole()) {
            (Ok(at), true) => drop(self.list.remove(at)),
            (Ok(at), false) => self.list[at] = cut,
            (Err(_), true) => {}
            (Err(at), false) => self.list.insert(at, cut),
        }
    }

    /// A member holds its portion from now on.
    ///
    /// # Panics
    /// When it is held already: whoever placed it lost track.
    pub fn take(&mut self, placed: &Placed) {
        let Some(gpu) = placed.shared_gpu() else { return };
        let cut = self.of(gpu);
        assert!(cut.is_free(placed.portion), "no part of a GPU is held twice: {placed:?} on {cut:?}");
        self.set(cut.with(placed.portion));
    }

    /// A member gives its portion back.
    pub fn give_back(&mut self, placed: &Placed) {
        let Some(gpu) = placed.shared_gpu() else { return };
        let mut cut = self.of(gpu);
        match placed.portion {
            Portion::Whole => {}
            Portion::Milli(milli) => cut.milli -= milli,
            Portion::Slice { slice, start } => cut.slices &= !slice.mask(start),
        }
        self.set(cut);
    }
}
