//! Placement by example: a cluster and the asks in one text, the places in the other.
//!
//! `node n0-3 gpus=8 at=site/spine/leaf/nvlink free=0-3 islands=4 cpu=16 memory=64` adds nodes; all but the name may be
//! left out. `ask 4x8 required=leaf preferred=spine distinct cpu=4 memory=8 avoid=n0 steps=9` places and takes.

use expect_test::{Expect, expect};

use super::*;
use crate::node::{Capacity, Contact, Location};
use crate::request::Level;
use crate::units::{CpuMilli, MemoryMib, Time};

fn check(text: &str, expected: Expect) {
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut nodes = Vec::new();
    lines().filter_map(|line| line.strip_prefix("node ")).for_each(|line| add_nodes(&mut nodes, line));
    let mut index = PlaceIndex::build(&Topology::compile(&nodes).unwrap(), &nodes);
    let mut scratch = Scratch::default();
    let answers: Vec<String> = lines()
        .filter_map(|line| line.strip_prefix("ask "))
        .map(|line| answer(&mut index, &nodes, &mut scratch, line))
        .collect();
    expected.assert_eq(&answers.join("\n"));
}

/// The value of `key=value` in a line.
fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

fn number(line: &str, key: &str, otherwise: u64) -> u64 {
    value(line, key).map_or(otherwise, |value| value.parse().unwrap())
}

/// As `0-3,6`; `-` for none.
fn gpu_set(text: &str) -> GpuSet {
    let run = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        from.parse::<usize>().unwrap()..=to.parse().unwrap()
    };
    if text == "-" { GpuSet::EMPTY } else { text.split(',').flat_map(run).collect() }
}

fn add_nodes(nodes: &mut Vec<Node>, line: &str) {
    let (names, _) = line.split_once(' ').unwrap_or((line, ""));
    let (first, last) = names[1..].split_once('-').unwrap_or((&names[1..], &names[1..]));
    let all = GpuSet::first(number(line, "gpus", 8) as usize);
    let island = number(line, "islands", 8) as usize;
    let mut path = value(line, "at").unwrap_or("").split('/');
    let mut name = || path.next().unwrap_or("").into();
    let location = Location { site: name(), spine: name(), leaf: name(), nvlink: name() };
    for at in first.parse::<u32>().unwrap()..=last.parse().unwrap() {
        let island_of = |gpu: usize| (gpu / island * island..(gpu / island + 1) * island).collect::<GpuSet>().and(all);
        nodes.push(Node {
            index: NodeIndex::of(nodes.len()),
            name: format!("n{at}").into(),
            pool: PoolIndex(0),
            location: location.clone(),
            capacity: Capacity {
                gpus: all,
                islands: all.iter().map(island_of).collect(),
                layouts: Box::default(),
                cpu: CpuMilli(number(line, "cpu", 0)),
                memory: MemoryMib(number(line, "memory", 0)),
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
            taken: value(line, "free").map_or(GpuSet::EMPTY, |free| all.without(gpu_set(free))),
            parts: crate::parts::Parts::default(),
            cpu_taken: CpuMilli::ZERO,
            memory_taken: MemoryMib::ZERO,
            residents: crate::node::Residents::new(),
            promised: crate::node::SetAside::default(),
            reserved: crate::node::SetAside::default(),
        });
    }
}

fn level(name: &str) -> Level {
    let names = ["node", "nvlink", "leaf", "spine", "site"];
    Level::ALL[names.iter().position(|other| *other == name).unwrap()]
}

/// `4x8` or `8+4+4`.
fn shape(text: &str) -> Shape {
    match text.split_once('x') {
        Some((members, gpus)) => Shape::Equal { members: members.parse().unwrap(), gpus: gpus.parse().unwrap() },
        None => Shape::Unequal(text.split('+').map(|gpus| gpus.parse::<u8>().unwrap()).collect()),
    }
}

fn answer(index: &mut PlaceIndex, nodes: &[Node], scratch: &mut Scratch, line: &str) -> String {
    let (text, _) = line.split_once(' ').unwrap_or((line, ""));
    let request = Request {
        part: crate::request::Part::Whole,
        shape: shape(text),
        pools: [PoolIndex(0)].into(),
        cpu: CpuMilli(number(line, "cpu", 0)),
        memory: MemoryMib(number(line, "memory", 0)),
        required: value(line, "required").map(level),
        preferred: value(line, "preferred").map(level),
        distinct_nodes: line.contains("distinct"),
        only: Default::default(),
    };
    let named = |name: &str| nodes.iter().find(|node| &*node.name == name).unwrap().index;
    let avoid: Vec<NodeIndex> = value(line, "avoid").map_or(Vec::new(), |names| names.split(',').map(named).collect());
    let steps = number(line, "steps", 1000) as u32;
    match index.place(&request, PoolIndex(0), &avoid, steps, scratch) {
        Err(blocked) => format!("{text} {blocked:?}"),
        Ok(members) => {
            index.take(&members, &request);
            let places: Vec<String> =
                members.iter().map(|member| format!("{}[{:?}]", nodes[member.node.at()].name, member.gpus)).collect();
            format!("{text} -> {}", places.join(" "))
        }
    }
}

#[test]
fn single_members_go_to_the_tightest_node() {
    check(
        "
        node n0 at=a/s/l0
        node n1 at=a/s/l0 free=0-2
        node n2 at=a/s/l1 free=5,7
        node n3 at=a/s/l1
        ask 1x2
        ask 1x2
        ask 1x8
        ask 1x8
        ask 1x1
        ask 1x1
    ",
        expect![[r#"
            1x2 -> n2[5,7]
            1x2 -> n1[0-1]
            1x8 -> n3[0-7]
            1x8 -> n0[0-7]
            1x1 -> n1[2]
            1x1 NotEnoughGpus { pool: p0, want: 1 GPUs, free: 0 GPUs }"#]],
    );
}

#[test]
fn equally_tight_nodes_leave_empty_leaves_whole() {
    check(
        "
        node n0-3 at=a/s/l0
        node n4-5 at=a/s/l1
        node n6-7 at=a/s/l1 free=-
        node n8-11 at=a/s/l2
        ask 1x8
        ask 4x8
        ask 1x8
    ",
        expect![[r#"
            1x8 -> n4[0-7]
            4x8 -> n0[0-7] n1[0-7] n2[0-7] n3[0-7]
            1x8 -> n5[0-7]"#]],
    );
}

#[test]
fn gangs_take_the_lowest_level_and_the_best_fit_there() {
    check(
        "
        node n0-3 at=a/s0/l0
        node n4-5 at=a/s0/l1
        node n6-9 at=a/s1/l2
        node n10-15 at=b/s2/l3
        ask 2x4
        ask 2x8 
        ask 4x8
        ask 5x8
        ask 4x8
    ",
        expect![[r#"
            2x4 -> n4[0-3] n4[4-7]
            2x8 -> n0[0-7] n1[0-7]
            4x8 -> n6[0-7] n7[0-7] n8[0-7] n9[0-7]
            5x8 -> n10[0-7] n11[0-7] n12[0-7] n13[0-7] n14[0-7]
            4x8 -> n2[0-7] n3[0-7] n5[0-7] n15[0-7]"#]],
    );
}

#[test]
fn wide_gangs_lie_in_few_leaves_and_the_last_is_tight() {
    check(
        "
        node n0-3 at=a/s0/l0
        node n4-5 at=a/s0/l1
        node n6-8 at=a/s0/l2
        node n9 at=a/s0/l3
        ask 5x8
        ask 4x8
    ",
        expect![[r#"
            5x8 -> n0[0-7] n1[0-7] n2[0-7] n3[0-7] n9[0-7]
            4x8 -> n4[0-7] n6[0-7] n7[0-7] n8[0-7]"#]],
    );
}

#[test]
fn levels_bound_the_gang() {
    check(
        "
        node n0-1 at=a/s0/l0
        node n2-4 at=a/s0/l1
        ask 3x8 required=node
        ask 4x8 required=leaf
        ask 4x8 required=spine distinct avoid=n0,n2
        ask 2x4 required=leaf preferred=leaf distinct
        ask 2x2 required=node distinct
        ask 2x2 preferred=leaf
        ask 6x1 required=node
        ask 6x3
    ",
        expect![[r#"
            3x8 NoDomain { pool: p0, level: Node, want: 3, best: 1 }
            4x8 NoDomain { pool: p0, level: Leaf, want: 4, best: 3 }
            4x8 NotEnoughGpus { pool: p0, want: 32 GPUs, free: 24 GPUs }
            2x4 -> n0[0-3] n1[0-3]
            2x2 NoDomain { pool: p0, level: Node, want: 2, best: 1 }
            2x2 -> n0[4-5] n0[6-7]
            6x1 -> n2[0] n2[1] n2[2] n2[3] n2[4] n2[5]
            6x3 NotEnoughSlots { pool: p0, want: 6, free: 5, gpus_per_member: 3 }"#]],
    );
}

#[test]
fn nvlink_domains_come_before_leaves() {
    check(
        "
        node n0-2 gpus=4 at=a/s/l0/r0
        node n3-4 gpus=4 at=a/s/l0/r1
        node n5-6 gpus=4 at=a/s/l0/r2
        ask 3x4 required=nvlink
        ask 3x4 required=nvlink
        ask 3x4
    ",
        expect![[r#"
            3x4 -> n0[0-3] n1[0-3] n2[0-3]
            3x4 NoDomain { pool: p0, level: Nvlink, want: 3, best: 2 }
            3x4 -> n3[0-3] n4[0-3] n5[0-3]"#]],
    );
}

#[test]
fn cpu_and_memory_are_verified_on_the_nodes() {
    check(
        "
        node n0 at=a/s/l0 cpu=8 free=0-3
        node n1-2 at=a/s/l0 cpu=16 memory=10
        node n3 at=a/s/l1
        ask 1x4 cpu=9
        ask 1x4 cpu=9
        ask 1x4 cpu=9
        ask 1x4 cpu=9
        ask 3x1 cpu=8
        ask 2x1 cpu=8 memory=11
        ask 1x1 cpu=4
    ",
        expect![[r#"
            1x4 -> n3[0-3]
            1x4 -> n3[4-7]
            1x4 -> n1[0-3]
            1x4 -> n2[0-3]
            3x1 NotEnoughCpuOrMemory { pool: p0, want: 3, fit: 1 }
            2x1 NotEnoughCpuOrMemory { pool: p0, want: 2, fit: 1 }
            1x1 -> n0[0]"#]],
    );
}

#[test]
fn unequal_members_find_a_place() {
    check(
        "
        node n0 free=0-5
        node n1 free=0-4
        node n2 free=0-3
        ask 4+1 required=node
        ask 5+3+2 steps=0
        ask 5+3+2
        ask 1+5+3 required=node
        ask 2+4+3
        ask 5+2
    ",
        expect![[r#"
            4+1 -> n1[0-3] n1[4]
            5+3+2 SearchLimit { pool: p0, steps: 0 }
            5+3+2 NotEnoughSlots { pool: p0, want: 3, free: 2, gpus_per_member: 2 }
            1+5+3 NoDomain { pool: p0, level: Node, want: 3, best: 1 }
            2+4+3 -> n0[3-4] n2[0-3] n0[0-2]
            5+2 NotEnoughGpus { pool: p0, want: 7 GPUs, free: 1 GPUs }"#]],
    );
}

#[test]
fn the_search_goes_on_where_greedy_fails() {
    // The tightest node for the 4 is n0, which then has 2 left that no 3 can use.
    check(
        "
        node n0 free=0-5
        node n1 free=0-6
        ask 4+3+3+3 steps=0
        ask 4+3+3+3
    ",
        expect![[r#"
            4+3+3+3 SearchLimit { pool: p0, steps: 0 }
            4+3+3+3 -> n1[0-3] n0[0-2] n0[3-5] n1[4-6]"#]],
    );
}

#[test]
fn members_get_whole_islands() {
    check(
        "
        node n0 islands=4 free=0-2,4-7
        node n1 islands=2 free=0,2-5,7
        ask 1x2
        ask 1x4
        ask 1x2
        ask 1x3
    ",
        expect![[r#"
            1x2 -> n1[2-3]
            1x4 -> n0[4-7]
            1x2 -> n0[0-1]
            1x3 -> n1[0,4-5]"#]],
    );
}

#[test]
fn trial_changes_go_back() {
    let mut nodes = Vec::new();
    add_nodes(&mut nodes, "n0-3 at=a/s/l0");
    nodes[3].cordoned = true;
    nodes[3].taken = GpuSet::first(8);
    let mut index = PlaceIndex::build(&Topology::compile(&nodes).unwrap(), &nodes);
    let mut scratch = Scratch::default();
    let outer = index.checkpoint();
    assert_eq!(answer(&mut index, &nodes, &mut scratch, "2x8"), "2x8 -> n0[0-7] n1[0-7]");
    let inner = index.checkpoint();
    assert_eq!(answer(&mut index, &nodes, &mut scratch, "1x4"), "1x4 -> n2[0-3]");
    index.rollback(inner);
    assert_eq!(index.free(PoolIndex(0)), Gpus::whole(8));
    // What a closed node gives back is not free.
    let request = Request {
        part: crate::request::Part::Whole,
        shape: shape("1x8"),
        pools: [PoolIndex(0)].into(),
        cpu: CpuMilli::ZERO,
        memory: MemoryMib::ZERO,
        required: None,
        preferred: None,
        distinct_nodes: false,
        only: Default::default(),
    };
    index.release(&[Placed::whole(NodeIndex(3), GpuSet::first(8))], &request);
    assert_eq!(index.free(PoolIndex(0)), Gpus::whole(8));
    index.rollback(outer);
    check_index(&index, &nodes);
    assert!(index.log.is_empty() && index.open == 0);
}

#[test]
fn measures_of_a_pool() {
    let mut nodes = Vec::new();
    add_nodes(&mut nodes, "n0 at=a/s/l0");
    add_nodes(&mut nodes, "n1-2 at=a/s/l0 free=0-2");
    add_nodes(&mut nodes, "n3 at=a/s/l1 free=0");
    let index = PlaceIndex::build(&Topology::compile(&nodes).unwrap(), &nodes);
    let pool = PoolIndex(0);
    assert_eq!((index.free(pool), index.slots(pool, 2), index.nodes_with(pool, 3)), (Gpus::whole(15), 6, 3));
    assert_eq!((index.fragmentation(pool, 1), index.fragmentation(pool, 8)), (0, 466));
    assert_eq!(
        (index.largest_block(pool, Level::Node), index.largest_block(pool, Level::Leaf)),
        (Gpus::whole(8), Gpus::whole(14))
    );
    assert_eq!(
        (index.free(PoolIndex(9)), index.largest_block(PoolIndex(9), Level::Site)),
        (Gpus::whole(0), Gpus::whole(0))
    );
}
