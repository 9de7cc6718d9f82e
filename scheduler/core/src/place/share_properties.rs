//! Shares and slices against a placer that tries everything, on tiny clusters of all kinds.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::mig::{self, Layout};
use crate::node::{Capacity, Contact, Location};
use crate::parts::{Cut, Parts};
use crate::placement::Portion;
use crate::request::Level;
use crate::units::{CpuMilli, MemoryMib, Time};

const POOL: PoolIndex = PoolIndex(0);

fn any_part() -> impl Strategy<Value = Part> {
    let slices: Vec<_> = mig::profiles("H200").iter().map(|(_, slice)| Part::Slice(*slice)).collect();
    prop_oneof![prop::sample::select(vec![100, 300, 500, 700, 999]).prop_map(Part::Milli), prop::sample::select(slices)]
}

/// A GPU that is not cut, or one with MIG instances.
fn any_layout() -> impl Strategy<Value = Layout> {
    let sizes: Vec<_> = mig::profiles("H200").iter().map(|(_, slice)| *slice).collect();
    let instances = vec((prop::sample::select(sizes), 0..7u8), 1..8);
    let cut = instances.prop_map(|list| {
        list.into_iter().fold(Layout::BARE, |cut, (slice, start)| cut.with(slice, start).unwrap_or(cut))
    });
    prop_oneof![Just(Layout::WHOLE), cut]
}

/// A GPU, and what is done to it before: nothing, held whole, or so many parts put on it.
fn any_gpu() -> impl Strategy<Value = (Layout, bool, Vec<Part>)> {
    (any_layout(), prop::bool::weighted(0.2), vec(any_part(), 0..4))
}

prop_compose! {
    fn any_node()(
        gpus in vec(any_gpu(), 1..=3),
        leaf in 0..2u8,
        (cpu, cordoned, bad) in (0..6u64, prop::bool::weighted(0.1), prop_oneof![4 => Just(0u32), 1 => 0..8u32]),
    ) -> Node {
        let all = GpuSet::first(gpus.len());
        let layouts: Box<[Layout]> = gpus.iter().map(|(layout, ..)| *layout).collect();
        let (mut taken, mut parts) = (GpuSet::EMPTY, Parts::laid_out(&layouts));
        for (gpu, (layout, whole, list)) in gpus.iter().enumerate() {
            if *whole && !layout.is_cut() {
                taken = taken.with(GpuSet::single(gpu));
                continue;
            }
            for part in list {
                if let Some(portion) = parts.of(gpu).portion(*part) {
                    parts.take(&Placed { node: NodeIndex(0), gpus: GpuSet::single(gpu), portion });
                }
            }
        }
        Node {
            index: NodeIndex(0),
            name: "".into(),
            pool: POOL,
            location: Location { leaf: format!("l{leaf}").into(), ..Location::default() },
            capacity: Capacity {
                gpus: all,
                islands: gpus.iter().map(|_| all).collect(),
                layouts, cpu: CpuMilli(cpu),
                memory: MemoryMib::ZERO,
                labels: Box::default(),
            },
            boot_id: "".into(),
            contact: Contact::Ready,
            contact_since: Time(0),
            cordoned,
            draining: false,
            spare: false,
            booked: crate::node::Booked::default(),
            bad: GpuSet(bad).and(all),
            taken,
            parts,
            cpu_taken: CpuMilli::ZERO,
            memory_taken: MemoryMib::ZERO,
            residents: crate::node::Residents::new(),
            promised: crate::node::SetAside::default(),
            reserved: crate::node::SetAside::default(),
        }
    }
}

prop_compose! {
    fn any_cluster()(nodes in vec(any_node(), 1..=3)) -> Vec<Node> {
        let mut nodes = nodes;
        for (at, node) in nodes.iter_mut().enumerate() {
            node.index = NodeIndex::of(at);
            node.name = format!("n{at}").into();
        }
        nodes
    }
}

prop_compose! {
    fn any_request()(
        part in any_part(),
        members in 1..=4u32,
        cpu in 0..3u64,
        required in prop_oneof![2 => Just(None), 1 => Just(Some(Level::Node)), 1 => Just(Some(Level::Leaf))],
        distinct_nodes in prop::bool::weighted(0.2),
    ) -> Request {
        Request {
            shape: Shape::Equal { members, gpus: 1 },
            part,
            pools: vec![POOL].into(),
            cpu: CpuMilli(cpu),
            memory: MemoryMib::ZERO,
            required,
            preferred: None,
            distinct_nodes,
            only: crate::request::Constraints::default(),
        }
    }
}

fn index_of(nodes: &[Node]) -> PlaceIndex {
    PlaceIndex::build(&Topology::compile(nodes).expect("the names are good"), nodes)
}

/// Every portion that a member could hold on a GPU.
fn portions(part: Part) -> Vec<Portion> {
    match part {
        Part::Whole => vec![Portion::Whole],
        Part::Milli(milli) => vec![Portion::Milli(milli)],
        Part::Slice(slice) => slice.starts().iter().map(|start| Portion::Slice { slice, start: *start }).collect(),
    }
}

/// Whether the node may take this portion of this GPU.
fn admits(node: &Node, gpu: usize, portion: Portion, request: &Request) -> bool {
    let one = GpuSet::single(gpu);
    node.usable().contains(one)
        && node.taken.and(one).is_empty()
        && node.parts.of(gpu).admits(portion)
        && (request.cpu.0 == 0 || node.cpu_free() >= request.cpu)
}

fn hold(node: &mut Node, placed: &Placed, request: &Request) {
    node.parts.take(placed);
    node.cpu_taken += request.cpu;
}

/// Tries every portion of every GPU of `nodes` (by index) for each member.
fn has_room(nodes: &mut [Node], among: &[usize], request: &Request, left: u32) -> bool {
    if left == 0 {
        return true;
    }
    for (place, at) in among.iter().enumerate() {
        for gpu in nodes[*at].capacity.gpus.iter() {
            for portion in portions(request.part) {
                if !admits(&nodes[*at], gpu, portion, request) {
                    continue;
                }
                let before = nodes[*at].clone();
                hold(
                    &mut nodes[*at],
                    &Placed { node: NodeIndex::of(*at), gpus: GpuSet::single(gpu), portion },
                    request,
                );
                // Members are alike: what lies before this node was tried without it.
                let rest = &among[place + usize::from(request.distinct_nodes && request.shape.members() > 1)..];
                let fits = has_room(nodes, rest, request, left - 1);
                nodes[*at] = before;
                if fits {
                    return true;
                }
            }
        }
    }
    false
}

/// Whether there is a place by trying everything.
fn by_force(nodes: &[Node], request: &Request, avoid: &[NodeIndex]) -> bool {
    let open: Vec<usize> = (0..nodes.len()).filter(|at| !avoid.contains(&NodeIndex::of(*at))).collect();
    let groups: Vec<Vec<usize>> = match request.required {
        Some(Level::Node) => open.iter().map(|at| vec![*at]).collect(),
        Some(_) => ["l0", "l1"]
            .iter()
            .map(|leaf| open.iter().copied().filter(|at| &*nodes[*at].location.leaf == *leaf).collect())
            .collect(),
        None => vec![open],
    };
    let mut copy = nodes.to_vec();
    groups.iter().any(|group| has_room(&mut copy, group, request, request.shape.members()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// There is a place exactly when trying everything finds one, it is a legal one, and the index is left as it was.
    #[test]
    fn finds_a_place_whenever_there_is_one(
        nodes in any_cluster(),
        requests in vec((any_request(), vec(0..3u32, 0..2)), 1..5),
    ) {
        let mut nodes = nodes;
        let mut index = index_of(&nodes);
        let mut scratch = Scratch::default();
        for (request, avoid) in &requests {
            index.expect(request, 1, 0);
            index.learn(0);
            let avoid: Vec<NodeIndex> = avoid.iter().copied().filter(|at| (*at as usize) < nodes.len()).map(NodeIndex).collect();
            let found = index.place(request, POOL, &avoid, 0, &mut scratch);
            check_index(&index, &nodes);
            prop_assert_eq!(found.is_ok(), by_force(&nodes, request, &avoid), "{:?}", found);
            prop_assert_eq!(found.is_ok(), index.fits(request, POOL, &avoid, 0, &mut scratch));
            let Ok(members) = found else { continue };
            prop_assert_eq!(members.len(), request.shape.members() as usize);
            let mark = index.checkpoint();
            index.take(&members, request);
            index.release(&members[..1], request);
            index.rollback(mark);
            check_index(&index, &nodes);
            for placed in &members {
                prop_assert!(!avoid.contains(&placed.node));
                let (node, gpu) = (&mut nodes[placed.node.at()], placed.shared_gpu().expect("it holds a part"));
                prop_assert!(admits(node, gpu, placed.portion, request), "{:?} on {:?}", placed, node.parts);
                hold(node, placed, request);
            }
            if request.distinct_nodes {
                let mut used: Vec<NodeIndex> = members.iter().map(|placed| placed.node).collect();
                used.dedup();
                prop_assert_eq!(used.len(), members.len());
            }
            index.sync_members(&nodes, members.iter().map(|placed| placed.node));
            check_index(&index, &nodes);
        }
    }

    /// What was judged before never changes a choice: an index that has seen everything, and one that has judged nothing, find
    /// the same place.
    #[test]
    fn what_is_remembered_changes_nothing(nodes in any_cluster(), requests in vec(any_request(), 2..6)) {
        let mut nodes = nodes;
        let mut index = index_of(&nodes);
        let mut scratch = Scratch::default();
        for request in &requests {
            index.expect(request, 1, 0);
            index.learn(0);
            let found = index.place(request, POOL, &[], 0, &mut scratch);
            prop_assert_eq!(&found, &index.clone().place(request, POOL, &[], 0, &mut scratch));
            for placed in found.into_iter().flatten() {
                hold(&mut nodes[placed.node.at()], &placed, request);
                index.sync(&nodes[placed.node.at()]);
            }
        }
    }
}

/// A cut GPU is filled before another one is cut, and whole members never get it.
#[test]
fn shares_lie_together() {
    let gpus = GpuSet::first(4);
    let mut nodes = vec![Node {
        index: NodeIndex(0),
        name: "n0".into(),
        pool: POOL,
        location: Location::default(),
        capacity: Capacity {
            gpus,
            islands: [gpus; 4].into(),
            layouts: Box::default(),
            cpu: CpuMilli::ZERO,
            memory: MemoryMib::ZERO,
            labels: Box::default(),
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
        parts: Parts::default(),
        cpu_taken: CpuMilli::ZERO,
        memory_taken: MemoryMib::ZERO,
        residents: crate::node::Residents::new(),
        promised: crate::node::SetAside::default(),
        reserved: crate::node::SetAside::default(),
    }];
    let mut index = index_of(&nodes);
    let share = Request {
        shape: Shape::Equal { members: 1, gpus: 1 },
        part: Part::Milli(250),
        pools: vec![POOL].into(),
        cpu: CpuMilli::ZERO,
        memory: MemoryMib::ZERO,
        required: None,
        preferred: None,
        distinct_nodes: false,
        only: crate::request::Constraints::default(),
    };
    let mut scratch = Scratch::default();
    for count in 1..=6usize {
        let placed = index.place(&share, POOL, &[], 0, &mut scratch).expect("there is room")[0];
        nodes[0].parts.take(&placed);
        index.sync(&nodes[0]);
        assert_eq!(nodes[0].parts.iter().count(), count.div_ceil(4));
    }
    let whole = Request { part: Part::Whole, shape: Shape::Equal { members: 1, gpus: 3 }, ..share.clone() };
    assert!(matches!(
        index.place(&whole, POOL, &[], 0, &mut scratch),
        Err(Blocked::NotEnoughGpus { free, .. }) if free == Gpus::whole(2)
    ));
    let large = Request { part: Part::Milli(900), shape: Shape::Equal { members: 3, gpus: 1 }, ..share };
    assert_eq!(
        index.place(&large, POOL, &[], 0, &mut scratch),
        Err(Blocked::NotEnoughGpus { pool: POOL, want: Gpus::milli(2_700), free: Gpus::milli(2_500) })
    );
    assert_eq!(nodes[0].parts.of(1), Cut { milli: 500, ..Cut::none(1) });
}
