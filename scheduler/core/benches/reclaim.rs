//! What a plan to make room costs: a gang of 64 whole nodes comes back to its quota on a full cluster of 1,000 nodes with
//! 8 GPUs, on which 2,000 attempts of 1 to 8 GPUs run.
//!
//! Measured is the whole cycle that finds the victims, promises the GPUs and stops the attempts; the clone of the cluster
//! is not. `found` has leaves of 32 nodes and no requirement, `in-one-spine` requires one spine, `does-not-fit` asks
//! for more than was lent, so that the planner also looks when enough of the rest is over. In those one mission borrows; in
//! `twelve-missions` eleven fill their quotas and borrow what the twelfth lends.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use dure_core::gpu::GpuSet;
use dure_core::ids::{AttemptNumber, BlobId, JobId, MemberIndex, NodeIndex};
use dure_core::input::{JobDraft, MemberReport, NodeDraft, QuotaDraft, TenantDraft};
use dure_core::node::{Capacity, Location};
use dure_core::request::{Level, Shape};
use dure_core::units::{CpuMilli, Gpus, MemoryMib, Span, Time};
use dure_core::{Cluster, Event, Input, Policy, cycle, decide};

const NODES: usize = 1000;
/// Dealt out in turn: 4 GPUs on average, so that 8,000 GPUs hold 2,000 attempts.
const SHAPES: [(u32, u8); 8] = [(1, 1), (1, 8), (1, 2), (1, 4), (2, 4), (1, 1), (1, 4), (1, 4)];

fn give(cluster: &mut Cluster, input: Input, now: Time) {
    decide(cluster, input, None, now, &mut Vec::new()).expect("the inputs are sound");
}

fn node(at: usize) -> Input {
    let gpus = GpuSet::first(8);
    let leaf = at / 32;
    Input::NodeHello(NodeDraft {
        name: format!("n{at}").into(),
        model: "gpu".into(),
        location: Location {
            site: "".into(),
            spine: format!("s{}", leaf / 8).into(),
            leaf: format!("l{leaf}").into(),
            nvlink: "".into(),
        },
        capacity: Capacity {
            gpus,
            islands: [gpus; 8].into(),
            layouts: Box::default(),
            cpu: CpuMilli(0),
            memory: MemoryMib(0),
            labels: Default::default(),
        },
        bad: GpuSet::EMPTY,
        boot_id: "b".into(),
    })
}

fn tenant(name: &str, quota: u32) -> Input {
    Input::SetTenant(TenantDraft {
        name: name.into(),
        create: true,
        quotas: vec![QuotaDraft {
            pool: "".into(),
            quota: Gpus::whole(quota),
            limit: None,
            lend_limit: None,
            domains: None,
            dates: None,
        }],
        ..TenantDraft::default()
    })
}

fn job(tenant: &str, members: u32, gpus: u8, required: Option<Level>) -> JobDraft {
    JobDraft {
        part: dure_core::input::PartDraft::Whole,
        tenant: tenant.into(),
        user: "kim".into(),
        name: "job".into(),
        shape: Shape::Equal { members, gpus },
        gpu_models: Vec::new(),
        cpu: CpuMilli(0),
        memory: MemoryMib(0),
        required,
        preferred: None,
        distinct_nodes: false,
        only: Default::default(),
        priority: "".into(),
        preemptible: true,
        time_limit: Span::seconds(86_400),
        time_min: None,
        grace: None,
        array: None,
        after: Vec::new(),
        held: false,
        not_before: None,
        max_retries: 0,
        batch: false,
        hold_survivors: Span::ZERO,
        booking: "".into(),
        payload: BlobId::default(),
    }
}

/// Everything that was just placed runs.
fn start(cluster: &mut Cluster, events: &[Event], now: Time) {
    for event in events {
        let Event::JobPlaced { job, members, .. } = event else { continue };
        for (rank, placed) in members.iter().enumerate() {
            for report in [MemberReport::Prepared, MemberReport::Started] {
                let (node, job, attempt): (NodeIndex, JobId, _) = (placed.node, *job, AttemptNumber(1));
                give(cluster, Input::MemberReported { node, job, attempt, member: MemberIndex::of(rank), report }, now);
            }
        }
    }
}

/// Missions by name, with their quotas and the GPUs that they take; the last one waits with its gang.
type Division = Vec<(String, u32, u32)>;

/// One mission borrows all that is lent, another fills its quota.
fn one_borrows(lent: u32) -> Division {
    let own = 8 * NODES as u32 - lent;
    vec![("dev".into(), 0, lent), ("base".into(), own, own), ("prod".into(), lent, 0)]
}

/// Eleven missions fill their quotas and borrow what the twelfth lends, each about as much.
fn eleven_borrow(lent: u32) -> Division {
    let part = |all: u32, at: u32| all / 11 + u32::from(at < all % 11);
    let own = 8 * NODES as u32 - lent;
    let others = (0..11).map(|at| (format!("m{at}"), part(own, at), part(own, at) + part(lent, at)));
    others.chain([("prod".into(), lent, 0)]).collect()
}

/// A full cluster, and a gang that waits.
fn full(division: &Division, gang: JobDraft) -> (Cluster, Time) {
    let mut cluster = Cluster::new(Policy { plan_interval: Span::ZERO, ..Policy::standard() });
    (0..NODES).for_each(|at| give(&mut cluster, node(at), Time(0)));
    division.iter().for_each(|(name, quota, _)| give(&mut cluster, tenant(name, *quota), Time(0)));
    let (mut draw, mut now, mut dealt) = (1u32, Time(0), 0);
    let mut left: Vec<(&str, u32)> = division.iter().map(|(name, _, takes)| (name.as_str(), *takes)).collect();
    while left.iter().any(|(_, left)| *left > 0) {
        for (name, left) in &mut left {
            draw = draw.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (members, gpus) = SHAPES[dealt % SHAPES.len()];
            let (members, gpus) = if members * u32::from(gpus) > *left { (1, 1) } else { (members, gpus) };
            if *left == 0 {
                continue;
            }
            dealt += 1;
            *left -= members * u32::from(gpus);
            now = now + Span(u64::from(draw >> 20));
            give(&mut cluster, Input::Submit(vec![job(name, members, gpus, None)]), now);
            let mut events = Vec::new();
            cycle(&mut cluster, now, &mut events);
            start(&mut cluster, &events, now);
        }
    }
    now = now + Span::seconds(60);
    give(&mut cluster, Input::Submit(vec![gang]), now);
    (cluster, now)
}

fn reclaim(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("reclaim");
    let cases = [
        ("found", one_borrows(8000), None),
        ("in-one-spine", one_borrows(8000), Some(Level::Spine)),
        ("half-lent", one_borrows(4000), None),
        ("does-not-fit", one_borrows(600), None),
        ("twelve-missions", eleven_borrow(2000), None),
        ("twelve-missions-in-one-spine", eleven_borrow(2000), Some(Level::Spine)),
    ];
    for (name, division, required) in cases {
        let (cluster, now) = full(&division, job("prod", 64, 8, required));
        let mut events = Vec::new();
        cycle(&mut cluster.clone(), now, &mut events);
        let running = cluster.tenants()[0].running;
        let evicted = events.iter().filter(|event| matches!(event, Event::AttemptStopping { .. })).count();
        eprintln!("reclaim/{name}: {running} attempts run, {evicted} are evicted");
        group.bench_function(name, |bencher| {
            let run = |mut cluster: Cluster| {
                let mut events = Vec::new();
                cycle(&mut cluster, now, &mut events);
                (cluster, events)
            };
            bencher.iter_batched(|| cluster.clone(), run, BatchSize::LargeInput);
        });
    }
    group.finish();
}

criterion_group!(benches, reclaim);
criterion_main!(benches);
