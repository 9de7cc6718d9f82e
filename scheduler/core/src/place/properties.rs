//! The index against the slow and obvious placer, on tiny clusters of all kinds.

use proptest::collection::vec;
use proptest::prelude::*;

use super::reference::{self, Width};
use super::*;
use crate::ids::PoolIndex;
use crate::node::{Capacity, Contact, Labels, Location};
use crate::request::{Constraints, LabelRule, Level, Segment};
use crate::units::{CpuMilli, MemoryMib, Time};

/// Enough steps to search any of these clusters to the end.
const STEPS: u32 = 1_000_000;

fn island_size() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1usize), Just(2), Just(4), Just(8)]
}

prop_compose! {
    /// A node without name and index.
    fn any_node()(
        (site, spine, leaf, nvlink) in (0..2u8, 0..2u8, 0..3u8, 0..3u8),
        (gpus, island) in (1..=8usize, island_size()),
        (taken, bad) in (any::<u32>(), prop_oneof![4 => Just(0u32), 1 => any::<u32>()]),
        (cpu, cpu_taken, memory, memory_taken) in (0..9u64, 0..9u64, 0..9u64, 0..9u64),
        (cordoned, lost, pool) in (0..8u8, 0..8u8, 0..6u8),
        (all_free, labels) in (any::<bool>(), any_labels()),
    ) -> Node {
        let name = |prefix: &str, number: u8| if number == 0 { "".into() } else { format!("{prefix}{number}").into() };
        let all = GpuSet::first(gpus);
        let island_of = |gpu: usize| (gpu / island * island..gpu / island * island + island).collect::<GpuSet>().and(all);
        Node {
            index: NodeIndex(0),
            name: "".into(),
            pool: PoolIndex(u8::from(pool == 0)),
            location: Location {
                site: name("a", site), spine: name("s", spine), leaf: name("l", leaf), nvlink: name("r", nvlink),
            },
            capacity: Capacity {
                gpus: all,
                islands: (0..gpus).map(island_of).collect(),
                layouts: Box::default(), cpu: CpuMilli(cpu),
                memory: MemoryMib(memory),
            labels,
        },
            boot_id: "".into(),
            contact: if lost == 0 { Contact::Lost } else { Contact::Ready },
            contact_since: Time(0),
            cordoned: cordoned == 0,
            draining: false,
            spare: false,
            booked: crate::node::Booked::default(),
            bad: GpuSet(bad).and(all),
            taken: if all_free { GpuSet::EMPTY } else { GpuSet(taken).and(all) },
            parts: crate::parts::Parts::default(),
            cpu_taken: CpuMilli(cpu_taken / 2),
            memory_taken: MemoryMib(memory_taken / 2),
            residents: crate::node::Residents::new(),
            promised: crate::node::SetAside::default(),
            reserved: crate::node::SetAside::default(),
        }
    }
}

fn any_nodes() -> impl Strategy<Value = Vec<Node>> {
    vec(any_node(), 1..=6).prop_map(|mut nodes| {
        for (index, node) in nodes.iter_mut().enumerate() {
            node.index = NodeIndex::of(index);
            node.name = format!("n{index}").into();
        }
        nodes
    })
}

fn any_shape() -> impl Strategy<Value = Shape> {
    prop_oneof![
        3 => (1..=6u32, 1..=8u8).prop_map(|(members, gpus)| Shape::Equal { members, gpus }),
        2 => vec(1..=8u8, 2..=5).prop_map(|sizes| {
            if sizes.iter().all(|gpus| *gpus == sizes[0]) {
                Shape::Equal { members: sizes.len() as u32, gpus: sizes[0] }
            } else {
                Shape::Unequal(sizes.into())
            }
        }),
    ]
}

fn any_level() -> impl Strategy<Value = Option<Level>> {
    prop_oneof![3 => Just(None), 2 => (0..5usize).prop_map(|level| Some(Level::ALL[level]))]
}

/// Keys and values that nodes may have.
const LABELS: [(&str, &[&str]); 2] = [("rack", &["r0", "r1"]), ("old", &[""])];

fn any_labels() -> impl Strategy<Value = Labels> {
    (prop::option::of(0..2usize), any::<bool>()).prop_map(|(rack, old)| {
        let rack = rack.map(|at| (LABELS[0].0.into(), LABELS[0].1[at].into()));
        old.then(|| (LABELS[1].0.into(), "".into())).into_iter().chain(rack).collect()
    })
}

prop_compose! {
    fn any_rule()(
        (key, values) in prop::sample::select(LABELS.to_vec()),
        (some, none, negated) in (any::<bool>(), prop::bool::weighted(0.3), any::<bool>()),
    ) -> LabelRule {
        let values = if none { &[] } else if some { &values[..1] } else { values };
        LabelRule { key: key.into(), values: values.iter().map(|value| (*value).into()).collect(), negated }
    }
}

fn any_named(weight: impl Into<prop::option::Probability>) -> impl Strategy<Value = Vec<usize>> {
    prop::option::weighted(weight, vec(0..6usize, 1..4)).prop_map(Option::unwrap_or_default)
}

prop_compose! {
    /// Constraints that admission would let through with a request of this shape and these levels.
    fn any_constraints(shape: Shape, required: Option<Level>, preferred: Option<Level>)(
        labels in vec(any_rule(), 0..3),
        (include, exclude) in (any_named(0.2), any_named(0.2)),
        (spread, segment_level) in (any_level(), any_level()),
        (segment, least) in (1..=6u32, prop::option::weighted(0.3, 1..=6u32)),
    ) -> Constraints {
        let is_equal = matches!(shape, Shape::Equal { .. });
        let below = |level: &Level| required.is_none_or(|required| *level < required);
        let within = |level: &Level| required.is_none_or(|required| *level <= required);
        let members = shape.members();
        let segment = segment_level.filter(within).map(|level| Segment { members: segment, level });
        let segment = segment.filter(|segment| is_equal && members > 1 && segment.members <= members);
        let may_spread = members > 1 && preferred.is_none() && segment.is_none() && is_equal;
        let named = |list: Vec<usize>| {
            let mut nodes: Vec<NodeIndex> = list.into_iter().map(NodeIndex::of).collect();
            nodes.sort_unstable();
            nodes.dedup();
            nodes.into_boxed_slice()
        };
        Constraints {
            labels: labels.into(),
            include: named(include),
            exclude: named(exclude),
            spread: spread.filter(below).filter(|_| may_spread),
            segment,
            least: least.filter(|least| is_equal && *least < members),
        }
    }
}

fn any_request() -> impl Strategy<Value = Request> {
    plain_request().prop_flat_map(|request| {
        let only = any_constraints(request.shape.clone(), request.required, request.preferred);
        let only = prop_oneof![1 => Just(Constraints::default()), 1 => only];
        (Just(request), only).prop_map(|(request, only)| Request { only, ..request })
    })
}

prop_compose! {
    fn plain_request()(
        shape in any_shape(),
        (cpu, memory) in (0..5u64, 0..5u64),
        narrow in any::<bool>(),
        (required, preferred, distinct_nodes) in (any_level(), any_level(), prop::bool::weighted(0.3)),
    ) -> Request {
        Request { part: crate::request::Part::Whole,
            shape,
            pools: vec![PoolIndex(0)].into(),
            cpu: CpuMilli(if narrow { cpu } else { 0 }),
            memory: MemoryMib(if narrow { memory } else { 0 }),
            required,
            preferred,
            distinct_nodes,
            only: Default::default(),
        }
    }
}

fn index_of(nodes: &[Node]) -> PlaceIndex {
    PlaceIndex::build(&Topology::compile(nodes).expect("the names are good"), nodes)
}

/// Adds what the members hold to the nodes; fails when a GPU is not free or a rule of the request is broken.
fn hold(nodes: &mut [Node], members: &[Placed], request: &Request, pool: PoolIndex, avoid: &[NodeIndex]) {
    assert!((request.least_members()..=request.shape.members()).contains(&(members.len() as u32)));
    for (rank, member) in members.iter().enumerate() {
        let node = &mut nodes[member.node.at()];
        assert_eq!(node.pool, pool);
        assert!(!avoid.contains(&node.index), "{} was to be avoided", node.name);
        assert!(request.only.matches(node), "{} does not match {:?}", node.name, request.only);
        assert_eq!(member.gpus.count(), Gpus::whole(u32::from(request.shape.gpus_of(rank))));
        assert!(node.free().contains(member.gpus), "{:?} of {} are not all free", member.gpus, node.name);
        assert!(request.cpu.0 == 0 || node.cpu_free() >= request.cpu);
        assert!(request.memory.0 == 0 || node.memory_free() >= request.memory);
        node.taken = node.taken.with(member.gpus);
        node.cpu_taken += request.cpu;
        node.memory_taken += request.memory;
    }
    let mut used: Vec<NodeIndex> = members.iter().map(|member| member.node).collect();
    if let Some(level) = request.required {
        assert!(reference::width_of(nodes, &used) <= Width::Inside(level));
    }
    used.sort();
    used.dedup();
    assert!(!request.distinct_nodes || used.len() == members.len());
    if let Some(segment) = request.only.segment {
        for group in members.chunks(segment.members as usize) {
            let used: Vec<NodeIndex> = group.iter().map(|member| member.node).collect();
            let width = reference::width_of(nodes, &used);
            assert!(width <= Width::Inside(segment.level), "a group of {segment:?} lies in {width:?}");
        }
    }
}

fn let_go(nodes: &mut [Node], members: &[Placed], request: &Request) {
    for member in members {
        let node = &mut nodes[member.node.at()];
        node.taken = node.taken.without(member.gpus);
        node.cpu_taken = node.cpu_taken.less(request.cpu);
        node.memory_taken = node.memory_taken.less(request.memory);
    }
}

/// The numbers of a refusal say that there is too little.
fn check_refusal(blocked: Blocked) {
    match blocked {
        Blocked::NotEnoughGpus { want, free, .. } => assert!(free < want),
        Blocked::NotEnoughSlots { want, free, .. } => assert!(free < want),
        Blocked::NoDomain { want, best, .. } => assert!(best < want),
        Blocked::NotEnoughCpuOrMemory { want, fit, .. } => assert!(fit < want),
        Blocked::NotEnoughMatching { want, fit, .. } => assert!(fit < want),
        Blocked::NotEnoughSegments { want, fit, .. } => assert!(fit < want),
        other => panic!("no answer of placement: {other:?}"),
    }
}

/// Wide gangs lie in as few of the domains below as any choice inside their domain would need; where those are single
/// nodes it is the tightest that count.
fn check_spread(nodes: &[Node], members: &[Placed], request: &Request, avoid: &[NodeIndex]) {
    let Shape::Equal { gpus, .. } = request.shape else { return };
    let want = members.len() as u32;
    if request.only.segment.is_some() || request.only.spread.is_some() {
        return;
    }
    let used: Vec<NodeIndex> = members.iter().map(|member| member.node).collect();
    let below = match reference::width_of(nodes, &used) {
        Width::Pool => Level::Site,
        Width::Inside(Level::Site) => Level::Spine,
        Width::Inside(Level::Spine) => Level::Leaf,
        Width::Inside(Level::Leaf | Level::Nvlink | Level::Node) => return,
    };
    let pool: Vec<NodeIndex> = nodes.iter().filter(|node| node.pool == PoolIndex(0)).map(|node| node.index).collect();
    if reference::spread(nodes, &pool, below) == pool.len() {
        return;
    }
    let fewest = reference::fewest_domains(nodes, request, (gpus, want), &used, avoid, below);
    assert_eq!(reference::spread(nodes, &used, below), fewest, "of level {below:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_reference(nodes in any_nodes(), request in any_request(), avoid in vec(0..12usize, 0..3)) {
        let pool = PoolIndex(0);
        let avoid: Vec<NodeIndex> = avoid.into_iter().filter(|at| *at < nodes.len()).map(NodeIndex::of).collect();
        let mut index = index_of(&nodes);
        let before = index.clone();
        let mut scratch = Scratch::default();
        let found = index.place(&request, pool, &avoid, STEPS, &mut scratch);
        prop_assert!(index.pools == before.pools, "place has changed the index");
        check_index(&index, &nodes);
        prop_assert_eq!(index.fits(&request, pool, &avoid, STEPS, &mut scratch), found.is_ok());
        let again = index.place(&request, pool, &avoid, STEPS, &mut scratch);
        prop_assert_eq!(&found, &again);
        let narrowest = reference::narrowest(&nodes, &request, pool, &avoid);
        match found {
            Err(blocked) => {
                prop_assert_eq!(narrowest, None, "{:?}", blocked);
                check_refusal(blocked);
            }
            Ok(members) => {
                check_spread(&nodes, &members, &request, &avoid);
                let used: Vec<NodeIndex> = members.iter().map(|member| member.node).collect();
                let width = reference::width_of(&nodes, &used);
                hold(&mut nodes.clone(), &members, &request, pool, &avoid);
                prop_assert_eq!(members.len() as u32, request.least_members());
                if let Some(level) = request.only.spread {
                    let alike = reference::with_members(&request, members.len() as u32);
                    let least = reference::least_heap(&nodes, &alike, pool, &avoid, level);
                    prop_assert_eq!(Some(reference::heap(&nodes, &used, level) as u64), least);
                } else if matches!(request.shape, Shape::Equal { .. }) {
                    prop_assert!(Some(width) <= narrowest, "{:?} instead of {:?}", width, narrowest);
                }
            }
        }
    }

    #[test]
    fn an_elastic_gang_is_as_large_as_it_can_be(nodes in any_nodes(), request in any_request()) {
        let (most, pool) = (request.shape.members(), PoolIndex(0));
        let found = index_of(&nodes).place_most(&request, most, pool, &[], STEPS, &mut Scratch::default());
        let wanted = reference::most_members(&nodes, &request, pool, &[]);
        prop_assert_eq!(found.as_ref().ok().map(|members| members.len() as u32), wanted);
        if let Ok(members) = found {
            hold(&mut nodes.clone(), &members, &request, pool, &[]);
        }
    }

    #[test]
    fn a_short_search_is_no_proof(nodes in any_nodes(), request in any_request(), steps in 0..6u32) {
        let found = index_of(&nodes).place(&request, PoolIndex(0), &[], steps, &mut Scratch::default());
        let narrowest = reference::narrowest(&nodes, &request, PoolIndex(0), &[]);
        match found {
            Ok(_) => prop_assert!(narrowest.is_some()),
            Err(Blocked::SearchLimit { .. }) => prop_assert!(matches!(request.shape, Shape::Unequal(_))),
            Err(blocked) => prop_assert_eq!(narrowest, None, "{:?}", blocked),
        }
    }
}

/// One step in the life of an index.
#[derive(Clone, Debug)]
enum Step {
    /// Places and takes.
    Take(Request),
    /// Releases what was taken.
    Release(usize),
    /// A node changes.
    Sync(usize, u32, u32, bool),
    Checkpoint,
    /// Goes back this many checkpoints.
    Rollback(usize),
    Commit,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any_request().prop_map(Step::Take),
        3 => any::<usize>().prop_map(Step::Release),
        3 => (any::<usize>(), any::<u32>(), any::<u32>(), prop::bool::weighted(0.2))
            .prop_map(|(node, taken, bad, cordoned)| Step::Sync(node, taken, bad & bad >> 8, cordoned)),
        2 => Just(Step::Checkpoint),
        1 => (0..3usize).prop_map(Step::Rollback),
        1 => Just(Step::Commit),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn counters_equal_a_recount(nodes in any_nodes(), steps in vec(any_step(), 1..40)) {
        let mut nodes = nodes;
        let mut index = index_of(&nodes);
        let mut scratch = Scratch::default();
        let mut held: Vec<(Members, Request)> = Vec::new();
        let mut marks = Vec::new();
        for step in steps {
            match step {
                Step::Take(request) => {
                    if let Ok(members) = index.place(&request, PoolIndex(0), &[], STEPS, &mut scratch) {
                        hold(&mut nodes, &members, &request, PoolIndex(0), &[]);
                        index.take(&members, &request);
                        held.push((members, request));
                    }
                }
                Step::Release(which) if !held.is_empty() => {
                    let (members, request) = held.swap_remove(which % held.len());
                    let_go(&mut nodes, &members, &request);
                    index.release(&members, &request);
                }
                Step::Release(_) => {}
                Step::Sync(which, taken, bad, cordoned) => {
                    let at = which % nodes.len();
                    let node = &mut nodes[at];
                    let gpus = node.capacity.gpus;
                    let kept = held.iter().flat_map(|(members, _)| members).filter(|placed| placed.node == node.index);
                    let kept = kept.fold(GpuSet::EMPTY, |kept, placed| kept.with(placed.gpus));
                    node.taken = GpuSet(taken).and(gpus).with(kept);
                    node.bad = GpuSet(bad).and(gpus);
                    node.cordoned = cordoned;
                    index.sync(node);
                }
                Step::Checkpoint => marks.push((index.checkpoint(), nodes.clone(), held.clone())),
                Step::Rollback(back) if !marks.is_empty() => {
                    marks.truncate(marks.len() - back.min(marks.len() - 1));
                    let (mark, old_nodes, old_held) = marks.pop().expect("one was kept");
                    index.rollback(mark);
                    (nodes, held) = (old_nodes, old_held);
                }
                Step::Commit if !marks.is_empty() => index.commit(marks.pop().expect("there is one").0),
                Step::Rollback(_) | Step::Commit => {}
            }
            check_index(&index, &nodes);
            prop_assert!(index.pools == index_of(&nodes).pools, "not as if built anew");
        }
    }
}

/// A cluster of hundreds of nodes with domains of very different sizes: many words of bits, and domains with more places
/// than are sorted one by one.
fn wide_nodes(count: usize, leaf: usize, spine: usize, seed: u32) -> Vec<Node> {
    let mut draw = seed;
    let mut below = |end: u32| {
        draw = draw.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (draw >> 8) % end
    };
    let gpus = GpuSet::first(8);
    (0..count)
        .map(|at| {
            let leaf = at / leaf;
            // Every fourth spine is one big leaf.
            let spine = leaf / spine;
            let leaf = if spine % 4 == 3 { "".into() } else { format!("l{leaf}").into() };
            let (site, spine) = (format!("a{}", spine / 6).into(), format!("s{spine}").into());
            Node {
                index: NodeIndex::of(at),
                name: format!("n{at}").into(),
                pool: PoolIndex(0),
                location: Location { site, spine, leaf, nvlink: "".into() },
                capacity: Capacity {
                    gpus,
                    islands: [gpus; 8].into(),
                    layouts: Box::default(),
                    cpu: CpuMilli(16),
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
                taken: if below(3) == 0 { GpuSet::EMPTY } else { GpuSet(below(1 << 16)).and(gpus) },
                parts: crate::parts::Parts::default(),
                cpu_taken: CpuMilli(u64::from(below(10))),
                memory_taken: MemoryMib::ZERO,
                residents: crate::node::Residents::new(),
                promised: crate::node::SetAside::default(),
                reserved: crate::node::SetAside::default(),
            }
        })
        .collect()
}

prop_compose! {
    fn wide_request()(
        (members, gpus) in prop_oneof![(1..40u32, 1..=8u8), (1..40u32, Just(8u8)), (100..900u32, 1..=4u8)],
        (required, preferred) in (any_level(), any_level()),
        (distinct_nodes, cpu) in (prop::bool::weighted(0.2), prop_oneof![3 => Just(0), 1 => 1..5u64]),
    ) -> Request {
        Request { part: crate::request::Part::Whole,
            shape: Shape::Equal { members, gpus },
            pools: vec![PoolIndex(0)].into(),
            cpu: CpuMilli(cpu),
            memory: MemoryMib::ZERO,
            required,
            preferred,
            distinct_nodes,
            only: Default::default(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn wide_clusters_agree_too(
        (count, leaf, spine) in (100..900usize, prop_oneof![Just(1usize), 2..6usize, 30..80usize], 1..20usize),
        (seed, requests) in (any::<u32>(), vec(wide_request(), 1..12)),
    ) {
        let mut nodes = wide_nodes(count, leaf, spine, seed);
        let mut index = index_of(&nodes);
        let mut scratch = Scratch::default();
        for request in requests {
            let narrowest = reference::narrowest(&nodes, &request, PoolIndex(0), &[]);
            match index.place(&request, PoolIndex(0), &[], 0, &mut scratch) {
                Err(blocked) => {
                    prop_assert_eq!(narrowest, None, "{:?}", blocked);
                    check_refusal(blocked);
                }
                Ok(members) => {
                    check_spread(&nodes, &members, &request, &[]);
                    let used: Vec<NodeIndex> = members.iter().map(|member| member.node).collect();
                    prop_assert!(Some(reference::width_of(&nodes, &used)) <= narrowest);
                    prop_assert!(used.is_sorted_by_key(|node| index.homes[node.at()].at), "ranks follow the topology");
                    hold(&mut nodes, &members, &request, PoolIndex(0), &[]);
                    index.take(&members, &request);
                }
            }
        }
        check_index(&index, &nodes);
    }
}
