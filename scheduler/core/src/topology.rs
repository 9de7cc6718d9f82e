//! The topology: site > spine > leaf > NVLink domain > node, compiled from a graph into flat ranges.
//!
//! In: the nodes with the names of their domains. Out: per pool the nodes in topology order, and per level the domains
//! as contiguous ranges of positions in that order, so that the placement loop never sees a graph or a name.
//! Names are scoped: leaf `l0` of spine `s0` is not leaf `l0` of spine `s1`. The order is that of the names with numbers
//! taken as numbers (n2 before n10). It must never depend on the order in which the nodes came.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use petgraph::graph::{DiGraph, NodeIndex as Vertex};
use petgraph::visit::{Dfs, Walker};

use crate::ids::{NodeIndex, PoolIndex};
use crate::node::{Location, Node};
use crate::request::Level;

/// Longest name of a node or a domain, in bytes.
pub const MAX_NAME_BYTES: usize = 128;

/// The levels that have domains of several nodes, lowest first.
const WIDE_LEVELS: [Level; 4] = [Level::Nvlink, Level::Leaf, Level::Spine, Level::Site];

/// Why locations make no topology.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TopologyError {
    /// Two nodes have one name.
    DuplicateNode {
        /// The name.
        node: Box<str>,
        /// Path of the lowest domain of the second of them.
        domain: Box<str>,
    },
    /// A name of a domain cannot be used.
    BadDomainName {
        /// The node that names it.
        node: Box<str>,
        /// At which level.
        level: Level,
        /// The name.
        name: Box<str>,
        /// What is wrong with it.
        fault: NameFault,
    },
    /// The name of a node cannot be used.
    BadNodeName {
        /// The name.
        node: Box<str>,
        /// What is wrong with it.
        fault: NameFault,
    },
}

/// What is wrong with a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NameFault {
    /// Only a node must have a name.
    Empty,
    /// More than `MAX_NAME_BYTES`.
    TooLong,
    /// White space, a control character, or `/`, which joins names to paths.
    Character,
}

impl fmt::Display for NameFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NameFault::Empty => write!(f, "is empty: give it a name"),
            NameFault::TooLong => write!(f, "is longer than {MAX_NAME_BYTES} bytes: shorten it"),
            NameFault::Character => write!(f, "holds white space, a control character or '/': leave it out"),
        }
    }
}

impl fmt::Display for TopologyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TopologyError::DuplicateNode { node, domain } => {
                write!(f, "node {node:?} appears twice, again in domain {domain:?}: give each node a name of its own")
            }
            TopologyError::BadDomainName { node, level, name, fault } => {
                write!(f, "node {node:?}: the name {name:?} of its {level:?} domain {fault}")
            }
            TopologyError::BadNodeName { node, fault } => write!(f, "the node name {node:?} {fault}"),
        }
    }
}

impl std::error::Error for TopologyError {}

/// What a vertex of the graph stands for.
struct Place<'a> {
    /// A domain of this level, or a node.
    level: Level,
    /// Its name inside its parent.
    name: &'a str,
    /// Place of the node in the input, for `Level::Node`.
    node: Option<usize>,
}

/// The domains as a graph: edges go from a domain to what it holds. A tree under one root.
struct Tree<'a> {
    graph: DiGraph<Place<'a>, ()>,
    root: Vertex,
}

/// One pool: its nodes in topology order and its domains as ranges of them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct PoolTopology {
    order: Vec<NodeIndex>,
    /// Per wide level: first position of each domain, and at the end the number of nodes.
    starts: [Vec<u32>; WIDE_LEVELS.len()],
}

/// All pools, compiled.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Topology {
    pools: Vec<PoolTopology>,
}

impl Topology {
    /// Reads the locations of `nodes`, whatever their state.
    ///
    /// # Errors
    /// Names the node and the domain that cannot be.
    pub fn compile(nodes: &[Node]) -> Result<Topology, TopologyError> {
        let tree = Tree::grow(nodes.iter().map(|node| (&*node.name, &node.location)))?;
        let pools = nodes.iter().map(|node| node.pool.at() + 1).max().unwrap_or(0);
        let mut topology = Topology { pools: vec![PoolTopology::default(); pools] };
        let mut last: Vec<Option<[Vertex; WIDE_LEVELS.len()]>> = vec![None; pools];
        for (place, domains) in tree.walk() {
            let node = &nodes[place];
            let pool = &mut topology.pools[node.pool.at()];
            let before = last[node.pool.at()].replace(domains);
            for (level, starts) in pool.starts.iter_mut().enumerate() {
                if before.is_none_or(|before| before[level] != domains[level]) {
                    starts.push(pool.order.len() as u32);
                }
            }
            pool.order.push(node.index);
        }
        for pool in &mut topology.pools {
            let end = pool.order.len() as u32;
            pool.starts.iter_mut().for_each(|starts| starts.push(end));
        }
        Ok(topology)
    }

    /// How many pools there are; the highest has a node.
    pub fn pools(&self) -> usize {
        self.pools.len()
    }

    /// The nodes of a pool in topology order; the place in this slice is the node's position.
    pub fn order(&self, pool: PoolIndex) -> &[NodeIndex] {
        self.pools.get(pool.at()).map_or(&[], |pool| &pool.order)
    }

    /// The domains of a level: the first position of each, rising, then the number of nodes. `Level::Node` has none.
    pub fn starts(&self, pool: PoolIndex, level: Level) -> &[u32] {
        let at = WIDE_LEVELS.iter().position(|wide| *wide == level);
        at.and_then(|at| self.pools.get(pool.at()).map(|pool| &*pool.starts[at])).unwrap_or(&[])
    }
}

/// Whether nodes with these names and locations make a topology.
///
/// # Errors
/// As `Topology::compile`.
pub fn check<'a>(locations: impl Iterator<Item = (&'a str, &'a Location)>) -> Result<(), TopologyError> {
    Tree::grow(locations).map(|_| ())
}

impl<'a> Tree<'a> {
    /// The graph of all domains and nodes.
    fn grow(locations: impl Iterator<Item = (&'a str, &'a Location)>) -> Result<Self, TopologyError> {
        let mut graph = DiGraph::new();
        let root = graph.add_node(Place { level: Level::Site, name: "", node: None });
        let mut known: BTreeMap<(Vertex, &'a str), Vertex> = BTreeMap::new();
        let mut seen: BTreeSet<&'a str> = BTreeSet::new();
        for (place, (node, location)) in locations.enumerate() {
            check_names(node, location)?;
            if !seen.insert(node) {
                return Err(TopologyError::DuplicateNode { node: node.into(), domain: path(location) });
            }
            let mut parent = root;
            for (level, name) in domain_names(location) {
                parent = *known.entry((parent, name)).or_insert_with(|| {
                    let vertex = graph.add_node(Place { level, name, node: None });
                    graph.add_edge(parent, vertex, ());
                    vertex
                });
            }
            let vertex = graph.add_node(Place { level: Level::Node, name: node, node: Some(place) });
            graph.add_edge(parent, vertex, ());
        }
        let mut tree = Tree { graph, root };
        tree.sort();
        Ok(tree)
    }

    /// Makes the edges leave each vertex in the order of the names below it.
    fn sort(&mut self) {
        let mut edges: Vec<(Vertex, Vertex)> = self
            .graph
            .edge_indices()
            .map(|edge| self.graph.edge_endpoints(edge).expect("the edge was just listed"))
            .collect();
        // petgraph lists the edges of a vertex from the newest to the oldest, and its depth-first walk takes them from
        // the end of that list: what is added first is walked first.
        edges.sort_by(|(from, to), (other_from, other_to)| {
            from.cmp(other_from).then_with(|| {
                let (place, other) = (&self.graph[*to], &self.graph[*other_to]);
                natural(place.name, other.name).then(place.level.cmp(&other.level))
            })
        });
        self.graph.clear_edges();
        for (from, to) in edges {
            self.graph.add_edge(from, to, ());
        }
    }

    /// The nodes in topology order: place in the input, and the domain of each wide level. A node outside any NVLink
    /// domain is one by itself.
    fn walk(&self) -> impl Iterator<Item = (usize, [Vertex; WIDE_LEVELS.len()])> {
        let mut path = [self.root; WIDE_LEVELS.len()];
        Dfs::new(&self.graph, self.root).iter(&self.graph).filter_map(move |vertex| {
            let place = &self.graph[vertex];
            if let Some(wide) = WIDE_LEVELS.iter().position(|wide| *wide == place.level) {
                path[wide] = vertex;
                return None;
            }
            let mut domains = path;
            let parent = self.graph.neighbors_directed(vertex, petgraph::Direction::Incoming).next()?;
            domains[0] = if self.graph[parent].level == Level::Nvlink { parent } else { vertex };
            place.node.map(|node| (node, domains))
        })
    }
}

/// The domains of a location from the top, without the NVLink domain where there is none.
fn domain_names(location: &Location) -> impl Iterator<Item = (Level, &str)> {
    let upper = [(Level::Site, &*location.site), (Level::Spine, &*location.spine), (Level::Leaf, &*location.leaf)];
    let nvlink = (!location.nvlink.is_empty()).then_some((Level::Nvlink, &*location.nvlink));
    upper.into_iter().chain(nvlink)
}

/// As `site/spine/leaf/nvlink`, for messages.
fn path(location: &Location) -> Box<str> {
    let names: Vec<&str> = domain_names(location).map(|(_, name)| name).collect();
    names.join("/").into()
}

fn check_names(node: &str, location: &Location) -> Result<(), TopologyError> {
    if let Some(fault) = name_fault(node, false) {
        return Err(TopologyError::BadNodeName { node: node.into(), fault });
    }
    for (level, name) in domain_names(location) {
        if let Some(fault) = name_fault(name, true) {
            return Err(TopologyError::BadDomainName { node: node.into(), level, name: name.into(), fault });
        }
    }
    Ok(())
}

fn name_fault(name: &str, may_be_empty: bool) -> Option<NameFault> {
    if name.is_empty() && !may_be_empty {
        Some(NameFault::Empty)
    } else if name.len() > MAX_NAME_BYTES {
        Some(NameFault::TooLong)
    } else if name.chars().any(|char| char == '/' || char.is_whitespace() || char.is_control()) {
        Some(NameFault::Character)
    } else {
        None
    }
}

/// Compares names with runs of digits taken as numbers; names that are equal so are compared byte by byte.
fn natural(left: &str, right: &str) -> Ordering {
    let (mut rest, mut other) = (left.as_bytes(), right.as_bytes());
    while let (Some(first), Some(second)) = (rest.first(), other.first()) {
        let step = if first.is_ascii_digit() && second.is_ascii_digit() {
            let (number, other_number) = (take_number(&mut rest), take_number(&mut other));
            number.len().cmp(&other_number.len()).then_with(|| number.cmp(other_number))
        } else {
            let step = first.cmp(second);
            (rest, other) = (&rest[1..], &other[1..]);
            step
        };
        if step != Ordering::Equal {
            return step;
        }
    }
    rest.len().cmp(&other.len()).then_with(|| left.cmp(right))
}

/// Cuts the leading digits off `text` and gives them without leading zeros.
fn take_number<'a>(text: &mut &'a [u8]) -> &'a [u8] {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, rest) = text.split_at(digits);
    *text = rest;
    let zeros = number.iter().take_while(|byte| **byte == b'0').count();
    &number[zeros..]
}

#[cfg(test)]
mod tests;
