//! What a job asks of placement: everything that placement can see, and nothing else.
//!
//! Equal requests form one class; a class is tried once per cycle, however many jobs wait in it.

use std::fmt;

use crate::ids::{NodeIndex, PoolIndex};
use crate::mig::Slice;
use crate::node::Node;
use crate::units::{CpuMilli, Gpus, MemoryMib};

/// A level of the topology, lowest first. A domain of a level holds whole domains of the level below.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Level {
    /// One node.
    Node,
    /// The nodes of one NVLink switch domain (a rack of an NVL72); where there is none, each node is its own.
    Nvlink,
    /// The nodes under one leaf switch.
    Leaf,
    /// The leaves under one spine.
    Spine,
    /// The spines of one site.
    Site,
}

impl Level {
    /// All levels, lowest first.
    pub const ALL: [Level; 5] = [Level::Node, Level::Nvlink, Level::Leaf, Level::Spine, Level::Site];
}

/// The members of a gang and the whole GPUs of each.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shape {
    /// `members` times `gpus`, both at least 1.
    Equal {
        /// How many members.
        members: u32,
        /// Whole GPUs of each.
        gpus: u8,
    },
    /// One entry per member, in rank order, each at least 1, not all alike.
    Unequal(Box<[u8]>),
}

impl Shape {
    /// How many members.
    pub fn members(&self) -> u32 {
        match self {
            Shape::Equal { members, .. } => *members,
            Shape::Unequal(list) => list.len() as u32,
        }
    }

    /// The GPUs of member `rank` (below `members()`).
    pub fn gpus_of(&self, rank: usize) -> u8 {
        match self {
            Shape::Equal { gpus, .. } => *gpus,
            Shape::Unequal(list) => list[rank],
        }
    }

    /// The GPUs of all members together.
    pub fn total(&self) -> Gpus {
        match self {
            Shape::Equal { members, gpus } => Gpus::whole(members * u32::from(*gpus)),
            Shape::Unequal(list) => Gpus::whole(list.iter().map(|gpus| u32::from(*gpus)).sum()),
        }
    }

    /// The GPUs of the smallest member.
    pub fn smallest(&self) -> u8 {
        match self {
            Shape::Equal { gpus, .. } => *gpus,
            Shape::Unequal(list) => list.iter().copied().min().unwrap_or(0),
        }
    }

    /// The GPUs of the largest member.
    pub fn largest(&self) -> u8 {
        match self {
            Shape::Equal { gpus, .. } => *gpus,
            Shape::Unequal(list) => list.iter().copied().max().unwrap_or(0),
        }
    }
}

impl fmt::Debug for Shape {
    /// As `4x8` or `8+8+4`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shape::Equal { members, gpus } => write!(f, "{members}x{gpus}"),
            Shape::Unequal(list) => {
                for (rank, gpus) in list.iter().enumerate() {
                    if rank > 0 {
                        write!(f, "+")?;
                    }
                    write!(f, "{gpus}")?;
                }
                Ok(())
            }
        }
    }
}

/// What each member gets of its GPUs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Part {
    /// All of them.
    #[default]
    Whole,
    /// A share of one GPU, in thousandths (1 to 999).
    Milli(u16),
    /// A MIG slice of one GPU.
    Slice(Slice),
}

impl Part {
    /// What a member with it counts as on one GPU.
    pub fn counted(self) -> Gpus {
        match self {
            Part::Whole => Gpus::whole(1),
            Part::Milli(milli) => Gpus::milli(milli.into()),
            Part::Slice(slice) => Gpus::milli(slice.milli().into()),
        }
    }
}

impl Request {
    /// What all members together count as: a share its thousandths, a slice its memory slices in eighths of a GPU.
    pub fn total(&self) -> Gpus {
        let members = u64::from(self.shape.members());
        match self.part {
            Part::Whole => self.shape.total(),
            Part::Milli(milli) => Gpus::milli(u64::from(milli) * members),
            Part::Slice(slice) => Gpus::milli(u64::from(slice.milli()) * members),
        }
    }
}

/// Everything that placement can see of a job.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Request {
    /// The gang; of one GPU each where members get a part of it.
    pub shape: Shape,
    /// What members get of their GPUs.
    pub part: Part,
    /// Pools that will do, in order of preference; never empty.
    pub pools: Box<[PoolIndex]>,
    /// CPU that each member needs beside its GPUs; 0 = not limited.
    pub cpu: CpuMilli,
    /// Memory that each member needs; 0 = not limited.
    pub memory: MemoryMib,
    /// The gang must lie inside one domain of this level.
    pub required: Option<Level>,
    /// A lower level tried first; never a reason to wait.
    pub preferred: Option<Level>,
    /// Every member on a node of its own.
    pub distinct_nodes: bool,
    /// What else must hold; nothing for most.
    pub only: Constraints,
}

/// A rule on the labels of a node.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LabelRule {
    /// Name of the label.
    pub key: Box<str>,
    /// One of these must be its value; empty: any value will do.
    pub values: Box<[Box<str>]>,
    /// The node must not be so.
    pub negated: bool,
}

impl fmt::Display for LabelRule {
    /// As `rack=r1`, `rack=(r1|r2)`, `rack`, with `!` before what must not be.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = if self.negated { "!" } else { "" };
        match &*self.values {
            [] => write!(f, "{not}{}", self.key),
            [one] => write!(f, "{not}{}={one}", self.key),
            several => write!(f, "{not}{}=({})", self.key, several.join("|")),
        }
    }
}

/// Groups of a gang that must stay together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Segment {
    /// Members of a group, by rank; what is left over is a smaller one.
    pub members: u32,
    /// Each group lies inside one domain of this level.
    pub level: Level,
}

/// What a request asks of nodes and domains beside room.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Constraints {
    /// All of them must hold of every node.
    pub labels: Box<[LabelRule]>,
    /// Only these nodes; empty: any. Sorted.
    pub include: Box<[NodeIndex]>,
    /// None of these nodes. Sorted.
    pub exclude: Box<[NodeIndex]>,
    /// Members are dealt out evenly over as many domains of this level as possible; never a reason to wait.
    pub spread: Option<Level>,
    /// Groups that must stay together.
    pub segment: Option<Segment>,
    /// An elastic gang starts with as many members as there is room for, but not with fewer; the shape says the most.
    pub least: Option<u32>,
}

impl Constraints {
    /// Whether a node may be used, full or not.
    pub fn matches(&self, node: &Node) -> bool {
        let holds = |rule: &LabelRule| {
            let label = node.capacity.labels.iter().find(|(key, _)| *key == rule.key);
            let has = label.is_some_and(|(_, value)| rule.values.is_empty() || rule.values.contains(value));
            has != rule.negated
        };
        let is_named = self.include.is_empty() || self.include.contains(&node.index);
        is_named && !self.exclude.contains(&node.index) && self.labels.iter().all(holds)
    }

    /// Whether it says which nodes may be used.
    pub fn says_which_nodes(&self) -> bool {
        !(self.labels.is_empty() && self.include.is_empty() && self.exclude.is_empty())
    }
}

impl Request {
    /// The members without which it does not start.
    #[inline]
    pub fn least_members(&self) -> u32 {
        self.only.least.unwrap_or_else(|| self.shape.members())
    }

    /// GPUs of the members without which it does not start.
    #[inline]
    pub fn least_gpus(&self) -> Gpus {
        match (self.only.least, &self.shape) {
            (Some(least), Shape::Equal { gpus, .. }) => Gpus::whole(least * u32::from(*gpus)),
            (Some(_) | None, _) => self.total(),
        }
    }
}
