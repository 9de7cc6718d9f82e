//! Pools, and what is counted of their nodes.

use crate::ids::PoolIndex;
use crate::node::{Contact, Node};
use crate::request::Level;
use crate::topology::Topology;
use crate::units::Gpus;

/// GPUs of one model and shape.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pool {
    /// Its name, unique.
    pub name: Box<str>,
    /// GPU model as NVML names it.
    pub model: Box<str>,
    /// GPUs of each of its nodes.
    pub gpus_per_node: u8,
    /// GPUs of its nodes that are heard and not fenced: what the root has to divide.
    pub capacity: Gpus,
    /// GPUs of all its nodes, lost and fenced ones included.
    pub installed: Gpus,
    /// GPUs on which something may start now. Not `capacity` less what is held: what is held on lost nodes and fenced GPUs
    /// is in one of the two only.
    pub idle: Gpus,
}

/// What a node adds to the counters of its pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Counted {
    pool: PoolIndex,
    idle: Gpus,
    capacity: Gpus,
    installed: Gpus,
}

impl Counted {
    /// Nothing yet.
    pub(crate) fn nothing(pool: PoolIndex) -> Self {
        Self { pool, idle: Gpus::ZERO, capacity: Gpus::ZERO, installed: Gpus::ZERO }
    }

    /// After any change of `node`: counts the difference.
    #[inline]
    pub(crate) fn follow(&mut self, node: &Node, pools: &mut [Pool]) {
        let capacity = match node.contact {
            Contact::Lost => Gpus::ZERO,
            Contact::Ready | Contact::Suspect => node.capacity.gpus.without(node.bad).count(),
        };
        let now = Self { pool: node.pool, idle: node.idle(), capacity, installed: node.capacity.gpus.count() };
        let before = std::mem::replace(self, now);
        let pool = &mut pools[before.pool.at()];
        pool.idle -= before.idle;
        pool.capacity -= before.capacity;
        pool.installed -= before.installed;
        let pool = &mut pools[now.pool.at()];
        pool.idle += now.idle;
        pool.capacity += now.capacity;
        pool.installed += now.installed;
    }
}

/// How many nodes of a pool stand together at most, whatever their state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Widest {
    /// In the whole pool.
    pub(crate) pool: u32,
    /// In one domain of each level, as in `Level::ALL`.
    domains: [u32; Level::ALL.len()],
    /// Some of their GPUs are cut into MIG instances: then nodes must be looked at one by one.
    pub(crate) is_cut: bool,
}

impl Widest {
    pub(crate) fn of(topology: &Topology, pool: PoolIndex, nodes: &[Node]) -> Self {
        let is_cut = topology.order(pool).iter().any(|node| nodes[node.at()].capacity.is_cut());
        let nodes = topology.order(pool).len() as u32;
        let widest = |level| {
            let starts = topology.starts(pool, level);
            // Nodes are domains of their own, and have no starts.
            starts.windows(2).map(|domain| domain[1] - domain[0]).max().unwrap_or(nodes.min(1))
        };
        Self { pool: nodes, domains: Level::ALL.map(widest), is_cut }
    }

    /// In one domain of `level`; without one, in the pool.
    pub(crate) fn nodes(&self, level: Option<Level>) -> u32 {
        level.map_or(self.pool, |level| self.domains[level as usize])
    }
}
