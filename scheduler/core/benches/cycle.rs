//! What one full cycle costs: order, admission, placement and the events of everything that starts.
//!
//! `filled`: 250 to 16,000 nodes of 8 GPUs, 32 a leaf, empty or about 90 % full, and a queue that asks for more than is free;
//! one element is one member placed. `pending`: 1,000 full nodes and 10,000 or 100,000 pending jobs of 600 users in 300
//! classes; one element is one job. It is measured when nothing was tried yet (`first`), when nothing has changed
//! (`unchanged`), and after a node was freed (`freed`): only the classes may count, so that equal cycles cost the same
//! for both. The copy of the cluster is not measured.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dure_core::gpu::GpuSet;
use dure_core::ids::{AttemptNumber, BlobId, JobId, MemberIndex, NodeIndex};
use dure_core::input::{JobDraft, MemberReport, NodeDraft, PartDraft, QuotaDraft, TenantDraft};
use dure_core::job::{Exit, ExitHow};
use dure_core::node::{Capacity, Location};
use dure_core::request::Shape;
use dure_core::units::{CpuMilli, Gpus, MemoryMib, Span, Time};
use dure_core::{Cluster, Input, Policy, cycle, decide};

const GPUS: usize = 8;
const NODES_PER_LEAF: usize = 32;
const LEAVES_PER_SPINE: usize = 32;
const SIZES: [usize; 4] = [250, 1_000, 4_000, 16_000];
const PENDING: [usize; 2] = [10_000, 100_000];
const MISSIONS: usize = 12;
const USERS: usize = 600;
const CLASSES: usize = 300;
const NOW: Time = Time(1_000_000);
/// Jobs in one call.
const BATCH: usize = 10_000;

fn give(cluster: &mut Cluster, input: Input) {
    decide(cluster, input, None, NOW, &mut Vec::new()).expect("the inputs are sound");
}

fn run(cluster: &mut Cluster, now: Time) -> u32 {
    cycle::cycle(cluster, now, &mut Vec::new()).members
}

/// An empty cluster of so many nodes, divided among the missions.
fn cluster(nodes: usize, missions: usize) -> Cluster {
    let limits = Policy { max_placements_per_cycle: u32::MAX, max_members_per_cycle: u32::MAX, ..Policy::standard() };
    let mut cluster = Cluster::new(Policy { max_jobs_per_submit: u32::MAX, ..limits });
    give(&mut cluster, Input::DefinePool { name: "gpu".into(), model: "gpu".into(), gpus_per_node: GPUS as u8 });
    for mission in 0..missions {
        let quota = QuotaDraft { quota: Gpus::whole((nodes * GPUS / missions) as u32), ..QuotaDraft::default() };
        let name = format!("m{mission}").into();
        let tenant = TenantDraft { name, create: true, quotas: vec![quota], ..TenantDraft::default() };
        give(&mut cluster, Input::SetTenant(tenant));
    }
    for at in 0..nodes {
        give(&mut cluster, Input::NodeHello(node(at)));
    }
    cluster
}

fn node(at: usize) -> NodeDraft {
    let (gpus, leaf) = (GpuSet::first(GPUS), at / NODES_PER_LEAF);
    NodeDraft {
        name: format!("n{at}").into(),
        model: "gpu".into(),
        location: Location {
            spine: format!("s{}", leaf / LEAVES_PER_SPINE).into(),
            leaf: format!("l{leaf}").into(),
            ..Location::default()
        },
        capacity: Capacity {
            gpus,
            islands: [gpus; GPUS].into(),
            layouts: Box::default(),
            cpu: CpuMilli::ZERO,
            memory: MemoryMib::ZERO,
            labels: Default::default(),
        },
        bad: GpuSet::EMPTY,
        boot_id: "bench".into(),
    }
}

fn job(tenant: usize, user: usize, shape: Shape) -> JobDraft {
    JobDraft {
        part: PartDraft::Whole,
        tenant: format!("m{tenant}").into(),
        user: format!("u{user}").into(),
        name: "".into(),
        shape,
        gpu_models: Vec::new(),
        cpu: CpuMilli::ZERO,
        memory: MemoryMib::ZERO,
        required: None,
        preferred: None,
        distinct_nodes: false,
        only: Default::default(),
        priority: "".into(),
        preemptible: true,
        time_limit: Span::seconds(3_600),
        time_min: None,
        grace: None,
        array: None,
        after: Vec::new(),
        held: false,
        not_before: None,
        batch: false,
        hold_survivors: Span::ZERO,
        booking: "".into(),
        max_retries: 0,
        payload: BlobId::default(),
    }
}

/// The jobs wait; submitted in parts.
fn submit(cluster: &mut Cluster, jobs: impl Iterator<Item = JobDraft>) {
    let jobs: Vec<JobDraft> = jobs.collect();
    for part in jobs.chunks(BATCH) {
        give(cluster, Input::Submit(part.to_vec()));
    }
}

/// One whole node's job on every node: in the order of their submission, on the nodes in theirs.
fn occupy(cluster: &mut Cluster, nodes: usize) {
    let shape = Shape::Equal { members: 1, gpus: GPUS as u8 };
    submit(cluster, (0..nodes).map(|at| job(at % MISSIONS, 0, shape.clone())));
    run(cluster, NOW);
}

/// GPUs of a node that are taken when about 90 % are.
fn taken(at: usize) -> usize {
    let hash = (at as u64 * 2_654_435_761) % (1 << 32);
    if hash % 100 < 80 { GPUS } else { 2 + (hash / 100 % 5) as usize }
}

/// 60 % 1 GPU, 15 % 2 to 4 GPUs, 15 % one full node, 8 % 2 to 8 full nodes, 2 % 16 to 128 full nodes.
fn shape(job: usize) -> Shape {
    // The generator of Numerical Recipes: enough for a mix of jobs.
    let draw = (job as u32).wrapping_mul(1_664_525).wrapping_add(1_013_904_223) >> 8;
    let more = draw / 100;
    let (members, gpus) = match draw % 100 {
        0..60 => (1, 1),
        60..75 => (1, 2 + more % 3),
        75..90 => (1, 8),
        90..98 => (2 + more % 7, 8),
        _ => (16 << (more % 4), 8),
    };
    Shape::Equal { members, gpus: gpus as u8 }
}

/// A cluster with a queue that asks for more than is free.
fn filled(nodes: usize, is_empty: bool) -> Cluster {
    let mut cluster = cluster(nodes, 1);
    if !is_empty {
        let shape = |at| Shape::Equal { members: 1, gpus: taken(at) as u8 };
        // Whole nodes first, each of which then has a node of its own; the others after them.
        for gpus in (1..=GPUS).rev() {
            submit(&mut cluster, (0..nodes).filter(|at| taken(*at) == gpus).map(|at| job(0, 0, shape(at))));
        }
        run(&mut cluster, NOW);
    }
    submit(&mut cluster, (0..nodes * 10).map(|at| job(0, 0, shape(at))));
    cluster.provision();
    cluster
}

fn fill_up(criterion: &mut Criterion) {
    for (name, is_empty) in [("filled empty", true), ("filled 90 %", false)] {
        let mut group = criterion.benchmark_group(name);
        group.sample_size(10);
        for nodes in SIZES {
            let cluster = filled(nodes, is_empty);
            let members = run(&mut cluster.clone(), NOW);
            group.throughput(Throughput::Elements(members.into()));
            group.bench_with_input(BenchmarkId::from_parameter(nodes), &cluster, |bencher, cluster| {
                bencher.iter_batched_ref(|| ready(cluster), |copy| run(copy, NOW), BatchSize::LargeInput);
            });
        }
        group.finish();
    }
}

/// A copy with room for what a cycle makes.
fn ready(cluster: &Cluster) -> Cluster {
    let mut copy = cluster.clone();
    copy.provision();
    copy
}

/// A full cluster on which so many jobs wait.
fn pending(jobs: usize) -> Cluster {
    const NODES: usize = 1_000;
    let mut cluster = cluster(NODES, MISSIONS);
    occupy(&mut cluster, NODES);
    submit(
        &mut cluster,
        (0..jobs).map(|at| {
            let user = at % USERS;
            let class = (at / USERS + user) % CLASSES;
            let (members, gpus) = (1 + class / GPUS, 1 + class % GPUS);
            job(user % MISSIONS, user, Shape::Equal { members: members as u32, gpus: gpus as u8 })
        }),
    );
    cluster
}

/// The first job, which has the first node, ends.
fn free_one(cluster: &mut Cluster) {
    let report = MemberReport::Gone(Exit::of(ExitHow::Code(0)));
    let (job, attempt, member) = (JobId(1), AttemptNumber(1), MemberIndex(0));
    let node = cluster.job(job).and_then(|job| job.attempt.as_deref()).map(|attempt| attempt.members[0].placed.node);
    let node = node.unwrap_or(NodeIndex(0));
    give(cluster, Input::MemberReported { node, job, attempt, member, report });
}

fn wait(criterion: &mut Criterion) {
    for jobs in PENDING {
        let first = pending(jobs);
        let mut unchanged = first.clone();
        // Until the planner has looked at everything.
        let mut later = NOW;
        while later < NOW + Span::seconds(1_000) && cycle::cycle(&mut unchanged, later, &mut Vec::new()).more {
            later = later + Span::seconds(1);
        }
        let later = later + Span::seconds(1);
        let mut freed = unchanged.clone();
        free_one(&mut freed);
        let mut group = criterion.benchmark_group("pending");
        group.sample_size(10).throughput(Throughput::Elements(jobs as u64));
        for (name, cluster) in [("first", &first), ("unchanged", &unchanged), ("freed", &freed)] {
            group.bench_with_input(BenchmarkId::new(name, jobs), cluster, |bencher, cluster| {
                bencher.iter_batched_ref(|| ready(cluster), |copy| run(copy, later), BatchSize::LargeInput);
            });
        }
        group.finish();
    }
}

criterion_group!(benches, fill_up, wait);
criterion_main!(benches);
