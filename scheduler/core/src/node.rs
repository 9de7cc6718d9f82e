//! A node: what it has, what is taken, whether something new may start there.

use smallvec::SmallVec;

use crate::gpu::GpuSet;
use crate::ids::{JobId, MemberIndex, NodeIndex, PoolIndex};
use crate::mig::Layout;
use crate::parts::{Cut, Parts};
use crate::placement::{Placed, Portion};
use crate::request::Part;
use crate::units::{CpuMilli, Gpus, MemoryMib, Time};

/// Where a node stands, by the names of its domains. An empty name: the node has no domain of that level of its own
/// and stands alone there (NVLink) or with all others that name none (leaf, spine, site).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Location {
    /// Name of the site.
    pub site: Box<str>,
    /// Name of the spine inside the site.
    pub spine: Box<str>,
    /// Name of the leaf inside the spine.
    pub leaf: Box<str>,
    /// Name of the NVLink domain inside the leaf.
    pub nvlink: Box<str>,
}

/// What a node has.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Capacity {
    /// All its GPUs.
    pub gpus: GpuSet,
    /// For each GPU the GPUs of its NVLink island, itself included; islands are disjoint.
    pub islands: Box<[GpuSet]>,
    /// For each GPU how it is cut into MIG instances; empty: none is.
    pub layouts: Box<[Layout]>,
    /// CPU for jobs; 0 = not counted.
    pub cpu: CpuMilli,
    /// Memory for jobs; 0 = not counted.
    pub memory: MemoryMib,
    /// What its operator says of it: names and values, sorted by name, each name once.
    pub labels: Labels,
}

impl Capacity {
    /// How many members with this part of a GPU, or with so many whole GPUs, `gpus` hold when nothing else runs.
    pub fn slots(&self, gpus: GpuSet, part: Part, each: u8) -> u32 {
        let cut = self.cut(gpus);
        let whole = gpus.without(cut).len();
        match part {
            Part::Whole => whole / u32::from(each),
            Part::Milli(_) => whole * Cut::none(0).fit(part),
            Part::Slice(slice) => cut.iter().map(|gpu| self.layouts[gpu].free(slice, 0).count() as u32).sum(),
        }
    }

    /// GPUs that a member may hold whole.
    pub fn whole_gpus(&self) -> GpuSet {
        self.gpus.without(self.cut(self.gpus))
    }

    /// Whether any of its GPUs is cut into MIG instances.
    pub(crate) fn is_cut(&self) -> bool {
        self.layouts.iter().any(|layout| layout.is_cut())
    }

    /// Those of `gpus` that are cut into MIG instances.
    fn cut(&self, gpus: GpuSet) -> GpuSet {
        let cut = self.layouts.iter().enumerate().filter(|(_, layout)| layout.is_cut());
        cut.map(|(gpu, _)| gpu).collect::<GpuSet>().and(gpus)
    }

    /// Whether the node has what this place is made of, held or not.
    pub fn has(&self, placed: &Placed) -> bool {
        let is_there = match placed.portion {
            Portion::Whole | Portion::Milli(_) => self.cut(placed.gpus).is_empty(),
            Portion::Slice { slice, start } => {
                placed.gpus.iter().all(|gpu| self.layouts.get(gpu).is_some_and(|layout| layout.has(slice, start)))
            }
        };
        is_there && self.gpus.contains(placed.gpus)
    }
}

/// Labels of a node.
pub type Labels = Box<[(Box<str>, Box<str>)]>;

/// Whether a node is heard of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Contact {
    /// Its agent is heard.
    Ready,
    /// Not heard for a while: nothing new goes there.
    Suspect,
    /// Not heard for long: its gangs are broken up.
    Lost,
}

/// What runs on a node: one member of the current attempt of a job.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Resident {
    /// The job.
    pub job: JobId,
    /// Which of its members.
    pub member: MemberIndex,
}

/// The members on one node: without an allocation where it is one for each of 8 GPUs.
pub type Residents = SmallVec<[Resident; 8]>;

/// What is kept free, or for one job, on a node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct SetAside {
    /// GPUs, free or not yet.
    pub gpus: GpuSet,
    /// CPU beside them.
    pub cpu: CpuMilli,
    /// Memory beside them.
    pub memory: MemoryMib,
}

/// What bookings make of a node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Booked {
    /// Some booking keeps it, now or in time to come: it is in nobody's index.
    pub kept: bool,
    /// It is under maintenance: nobody runs there.
    pub maintained: bool,
}

/// A node and all that the scheduler knows of it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Node {
    /// Its own index.
    pub index: NodeIndex,
    /// Its name, unique.
    pub name: Box<str>,
    /// Its pool.
    pub pool: PoolIndex,
    /// Where it stands.
    pub location: Location,
    /// What it has.
    pub capacity: Capacity,
    /// The boot that its agent last spoke from.
    pub boot_id: Box<str>,
    /// Whether it is heard.
    pub contact: Contact,
    /// When `contact` last changed.
    pub contact_since: Time,
    /// An operator lets nothing new start here.
    pub cordoned: bool,
    /// An operator empties it.
    pub draining: bool,
    /// It is kept free for gangs that lost a node.
    pub spare: bool,
    /// What bookings make of it; derived from them, and never part of a record.
    pub booked: Booked,
    /// GPUs fenced for their health.
    pub bad: GpuSet,
    /// GPUs held whole by members.
    pub taken: GpuSet,
    /// GPUs of which members hold parts.
    pub parts: Parts,
    /// CPU held by members.
    pub cpu_taken: CpuMilli,
    /// Memory held by members.
    pub memory_taken: MemoryMib,
    /// Members that hold something here, sorted.
    pub residents: Residents,
    /// What is held for jobs that wait; derived from the promises, and never part of a record.
    pub promised: SetAside,
    /// What is set aside from a time on, by reservations; derived from them, and never part of a record.
    pub reserved: SetAside,
}

impl Node {
    /// Whether something new may start here.
    pub fn is_open(&self) -> bool {
        self.contact == Contact::Ready && !self.cordoned && !self.draining
    }

    /// Whole GPUs on which something new may start: none when the node is not open.
    pub fn free(&self) -> GpuSet {
        self.usable().without(self.taken).without(self.parts.gpus())
    }

    /// What may be taken by something new: whole GPUs, and what is left of those that are cut.
    pub fn idle(&self) -> Gpus {
        if self.booked.maintained {
            return Gpus::ZERO;
        }
        let whole = self.free().count();
        if self.parts.is_empty() { whole } else { whole + self.parts.left(self.usable().without(self.taken)) }
    }

    /// GPUs on which something new may start once nothing runs here: none when the node is not open, or a spare.
    pub fn usable(&self) -> GpuSet {
        let is_for_all = self.is_open() && !self.spare;
        if is_for_all { self.capacity.gpus.without(self.bad).without(self.promised.gpus) } else { GpuSet::EMPTY }
    }

    /// CPU left for members; unbounded where it is not counted.
    pub fn cpu_free(&self) -> CpuMilli {
        if self.capacity.cpu == CpuMilli::ZERO {
            CpuMilli(u64::MAX)
        } else {
            self.capacity.cpu.less(self.cpu_taken + self.promised.cpu)
        }
    }

    /// Memory left for members; unbounded where it is not counted.
    pub fn memory_free(&self) -> MemoryMib {
        if self.capacity.memory == MemoryMib::ZERO {
            MemoryMib(u64::MAX)
        } else {
            self.capacity.memory.less(self.memory_taken + self.promised.memory)
        }
    }
}
