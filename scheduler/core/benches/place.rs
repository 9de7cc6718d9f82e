//! How long a member takes from request to GPUs: `place` and `take` over a whole job list until the cluster is full.
//!
//! Clusters of 250 to 125,000 nodes with 8 GPUs, 32 nodes a leaf, 32 leaves a spine, empty and about 90 % full; one
//! element is one member placed. Only the list is drawn, by a fixed generator: every run measures the same work.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dure_core::gpu::GpuSet;
use dure_core::ids::{NodeIndex, PoolIndex};
use dure_core::node::{Capacity, Contact, Location, Node};
use dure_core::place::{PlaceIndex, Scratch};
use dure_core::request::{Request, Shape};
use dure_core::topology::Topology;
use dure_core::units::{CpuMilli, Gpus, MemoryMib, Time};

const GPUS_PER_NODE: usize = 8;
const NODES_PER_LEAF: usize = 32;
const LEAVES_PER_SPINE: usize = 32;
const SIZES: [usize; 5] = [250, 1_000, 4_000, 16_000, 125_000];
const POOL: PoolIndex = PoolIndex(0);
/// Never reached: all members are equal.
const SEARCH_STEPS: u32 = 0;

/// How full the cluster is before the first job.
#[derive(Clone, Copy)]
enum Fill {
    Empty,
    Ninety,
}

/// A cluster and the jobs that are to fill it.
struct Work {
    index: PlaceIndex,
    jobs: Vec<Request>,
    /// Members that find a place.
    members: u64,
}

/// GPUs of node `at` that are used when the cluster is about 90 % full.
fn used_gpus(at: usize) -> usize {
    let hash = (at as u64 * 2_654_435_761) % (1 << 32);
    if hash % 100 < 80 { GPUS_PER_NODE } else { 2 + (hash / 100 % 5) as usize }
}

fn node(at: usize, fill: Fill, cpu: CpuMilli) -> Node {
    let gpus = GpuSet::first(GPUS_PER_NODE);
    let leaf = at / NODES_PER_LEAF;
    Node {
        index: NodeIndex::of(at),
        name: format!("n{at}").into(),
        pool: POOL,
        location: Location {
            site: "".into(),
            spine: format!("s{}", leaf / LEAVES_PER_SPINE).into(),
            leaf: format!("l{leaf}").into(),
            nvlink: "".into(),
        },
        capacity: Capacity {
            gpus,
            islands: [gpus; GPUS_PER_NODE].into(),
            layouts: Box::default(),
            cpu,
            memory: MemoryMib::ZERO,
            labels: Default::default(),
        },
        boot_id: "".into(),
        contact: Contact::Ready,
        contact_since: Time(0),
        cordoned: false,
        draining: false,
        spare: false,
        booked: Default::default(),
        bad: GpuSet::EMPTY,
        taken: match fill {
            Fill::Empty => GpuSet::EMPTY,
            Fill::Ninety => GpuSet::first(used_gpus(at)),
        },
        parts: dure_core::parts::Parts::default(),
        cpu_taken: CpuMilli::ZERO,
        memory_taken: MemoryMib::ZERO,
        residents: dure_core::node::Residents::new(),
        promised: dure_core::node::SetAside::default(),
        reserved: dure_core::node::SetAside::default(),
    }
}

/// The generator of Numerical Recipes: enough for a mix of jobs.
struct Draw(u32);

impl Draw {
    fn below(&mut self, end: u32) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) % end
    }

    /// 60 % 1 GPU, 15 % 2 to 4 GPUs, 15 % one full node, 8 % 2 to 8 full nodes, 2 % 16, 32, 64 or 128 full nodes.
    fn shape(&mut self) -> Shape {
        let (members, gpus) = match self.below(100) {
            0..60 => (1, 1),
            60..75 => (1, 2 + self.below(3)),
            75..90 => (1, 8),
            90..98 => (2 + self.below(7), 8),
            _ => (16 << self.below(4), 8),
        };
        Shape::Equal { members, gpus: gpus as u8 }
    }
}

/// Jobs that ask for a quarter more than is free; those do not count that have no place from the first.
fn jobs(index: &PlaceIndex, cpu: CpuMilli) -> Vec<Request> {
    let mut draw = Draw(1);
    let mut asked = Gpus::ZERO;
    let mut jobs = Vec::new();
    while asked.rounded_up() < index.free(POOL).rounded_up() / 4 * 5 {
        let shape = draw.shape();
        if index.nodes_with(POOL, shape.largest()) > 0 {
            asked += shape.total();
        }
        jobs.push(Request {
            part: dure_core::request::Part::Whole,
            shape,
            pools: [POOL].into(),
            cpu,
            memory: MemoryMib::ZERO,
            required: None,
            preferred: None,
            distinct_nodes: false,
            only: Default::default(),
        });
    }
    jobs
}

impl Work {
    /// `cpu` of each node; each member asks for an eighth of it.
    fn new(size: usize, fill: Fill, cpu: CpuMilli) -> Self {
        let nodes: Vec<Node> = (0..size).map(|at| node(at, fill, cpu)).collect();
        let topology = Topology::compile(&nodes).expect("the names are made to fit");
        let index = PlaceIndex::build(&topology, &nodes);
        let mut work = Self { jobs: jobs(&index, CpuMilli(cpu.0 / 8)), index, members: 0 };
        work.members = work.run(&mut work.index.clone(), &mut Scratch::default());
        work
    }

    /// Tries every job in order and takes what is found; says how many members started.
    fn run(&self, index: &mut PlaceIndex, scratch: &mut Scratch) -> u64 {
        let mut members = 0;
        for request in &self.jobs {
            if let Ok(placed) = index.place(request, POOL, &[], SEARCH_STEPS, scratch) {
                index.take(&placed, request);
                members += placed.len() as u64;
            }
        }
        members
    }
}

fn fill_up(criterion: &mut Criterion) {
    for (name, fill, cpu) in [
        ("empty", Fill::Empty, CpuMilli::ZERO),
        ("90 % full", Fill::Ninety, CpuMilli::ZERO),
        ("empty, with CPU", Fill::Empty, CpuMilli(64_000)),
        ("90 % full, with CPU", Fill::Ninety, CpuMilli(64_000)),
    ] {
        let mut group = criterion.benchmark_group(name);
        group.sample_size(20);
        for size in SIZES {
            let work = Work::new(size, fill, cpu);
            group.throughput(Throughput::Elements(work.members));
            let mut scratch = Scratch::default();
            group.bench_with_input(BenchmarkId::from_parameter(size), &work, |bencher, work| {
                bencher.iter_batched_ref(
                    || work.index.clone(),
                    |index| work.run(index, &mut scratch),
                    BatchSize::LargeInput,
                );
            });
        }
        group.finish();
    }
}

criterion_group!(benches, fill_up);
criterion_main!(benches);
