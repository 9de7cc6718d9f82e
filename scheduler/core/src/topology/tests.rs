use super::*;
use crate::gpu::GpuSet;
use crate::node::{Capacity, Contact};
use crate::units::{CpuMilli, MemoryMib, Time};

/// Nodes from lines of `name pool site/spine/leaf/nvlink`.
fn nodes(text: &str) -> Vec<Node> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.enumerate().map(|(index, line)| node(index, line)).collect()
}

fn node(index: usize, line: &str) -> Node {
    let mut words = line.split_whitespace();
    let mut word = || words.next().unwrap_or("");
    let (name, pool, path) = (word(), word(), word());
    let mut names = path.split('/');
    let mut name_of = || names.next().unwrap_or("").into();
    let (site, spine, leaf, nvlink) = (name_of(), name_of(), name_of(), name_of());
    Node {
        index: NodeIndex::of(index),
        name: name.into(),
        pool: PoolIndex(pool.parse().expect("the pool is a number")),
        location: Location { site, spine, leaf, nvlink },
        capacity: Capacity {
            gpus: GpuSet::first(8),
            islands: vec![GpuSet::first(8); 8].into(),
            layouts: Box::default(),
            cpu: CpuMilli::ZERO,
            memory: MemoryMib::ZERO,
            labels: Default::default(),
        },
        boot_id: "".into(),
        contact: Contact::Ready,
        contact_since: Time(0),
        cordoned: false,
        draining: false,
        spare: false,
        booked: crate::node::Booked::default(),
        bad: GpuSet::EMPTY,
        taken: GpuSet::EMPTY,
        parts: crate::parts::Parts::default(),
        cpu_taken: CpuMilli::ZERO,
        memory_taken: MemoryMib::ZERO,
        residents: crate::node::Residents::new(),
        promised: crate::node::SetAside::default(),
        reserved: crate::node::SetAside::default(),
    }
}

fn order(topology: &Topology, nodes: &[Node], pool: u8) -> Vec<String> {
    topology.order(PoolIndex(pool)).iter().map(|index| nodes[index.at()].name.to_string()).collect()
}

#[test]
fn order_is_that_of_the_names() {
    let nodes = nodes(
        "
        n10 0 a/s0/l1
        n2  0 a/s0/l1
        n3  0 a/s0/l10
        n4  0 a/s0/l2
        m1  1 a/s0/l1
        n01 0 a/s0/l1
        n1  0 a/s0/l1
    ",
    );
    let topology = Topology::compile(&nodes).unwrap();
    assert_eq!(order(&topology, &nodes, 0), ["n01", "n1", "n2", "n10", "n4", "n3"]);
    assert_eq!(order(&topology, &nodes, 1), ["m1"]);
    assert_eq!(topology.starts(PoolIndex(0), Level::Leaf), [0, 4, 5, 6]);
    assert_eq!(topology.starts(PoolIndex(0), Level::Spine), [0, 6]);
    assert_eq!(topology.starts(PoolIndex(1), Level::Leaf), [0, 1]);
    assert_eq!(topology.starts(PoolIndex(7), Level::Leaf), [0u32; 0]);
}

#[test]
fn names_are_scoped_by_their_parent() {
    let nodes = nodes("n0 0 a/s0/l0\nn1 0 a/s1/l0\nn2 0 a/s0/l0\nn3 0 b/s0/l0");
    let topology = Topology::compile(&nodes).unwrap();
    assert_eq!(order(&topology, &nodes, 0), ["n0", "n2", "n1", "n3"]);
    assert_eq!(topology.starts(PoolIndex(0), Level::Leaf), [0, 2, 3, 4]);
    assert_eq!(topology.starts(PoolIndex(0), Level::Spine), [0, 2, 3, 4]);
    assert_eq!(topology.starts(PoolIndex(0), Level::Site), [0, 3, 4]);
}

#[test]
fn nodes_without_nvlink_stand_alone() {
    let nodes = nodes("n0 0 a/s/l/r0\nn1 0 a/s/l\nn2 0 a/s/l/r0\nn3 0\nn4 0\nn5 0 a/s/l");
    let topology = Topology::compile(&nodes).unwrap();
    assert_eq!(order(&topology, &nodes, 0), ["n3", "n4", "n1", "n5", "n0", "n2"]);
    assert_eq!(topology.starts(PoolIndex(0), Level::Nvlink), [0, 1, 2, 3, 4, 6]);
    assert_eq!(topology.starts(PoolIndex(0), Level::Leaf), [0, 2, 6]);
}

#[test]
fn order_does_not_depend_on_the_input() {
    let text = ["a 0 x/s1/l2/r1", "b 0 x/s1/l2/r2", "c 0 x/s0/l9", "d 0 y", "e 0 x/s1/l10", "f 0 x/s1/l2/r1"];
    let forward = nodes(&text.join("\n"));
    let backward = nodes(&text.iter().rev().copied().collect::<Vec<_>>().join("\n"));
    let (one, other) = (Topology::compile(&forward).unwrap(), Topology::compile(&backward).unwrap());
    assert_eq!(order(&one, &forward, 0), order(&other, &backward, 0));
    for level in WIDE_LEVELS {
        assert_eq!(one.starts(PoolIndex(0), level), other.starts(PoolIndex(0), level));
    }
}

#[test]
fn errors_name_node_and_domain() {
    let fail = |text: &str| {
        let nodes = nodes(text);
        check(nodes.iter().map(|node| (&*node.name, &node.location))).unwrap_err().to_string()
    };
    assert_eq!(
        fail("n0 0 a/s0/l0\nn0 0 a/s0/l1"),
        "node \"n0\" appears twice, again in domain \"a/s0/l1\": give each node a name of its own"
    );
    assert_eq!(
        fail("n0 0 a/s\u{7f}0/l0"),
        "node \"n0\": the name \"s\\u{7f}0\" of its Spine domain holds white space, a control character or '/': leave it out"
    );
    let long = "x".repeat(MAX_NAME_BYTES + 1);
    assert_eq!(fail(&format!("{long} 0")), format!("the node name {long:?} is longer than 128 bytes: shorten it"));
    let unnamed = Location::default();
    let fault = check([("", &unnamed)].into_iter()).unwrap_err();
    assert_eq!(fault.to_string(), "the node name \"\" is empty: give it a name");
}
