//! What recovery costs: `cargo bench -p dure-scheduler --bench recover`.
//!
//! A million events of a busy cluster (10,000 GPUs, jobs of one GPU, gangs of sixteen nodes now and then), decided by the
//! core, lie in SQLite in batches of one turn. Printed: encoding and decoding, the whole replay, a snapshot with 100,000
//! jobs waiting, and recovery from it. `DURE_BENCH_DIR` names the disk to measure (default: the temporary directory).

use std::path::Path;
use std::time::Instant;

use dure_core::event::Event;
use dure_core::gpu::GpuSet;
use dure_core::ids::{AttemptNumber, BlobId, JobId, MemberIndex, NodeIndex, Seq};
use dure_core::input::{Input, JobDraft, MemberReport, NodeDraft, QuotaDraft, TenantDraft};
use dure_core::job::{Exit, ExitHow};
use dure_core::node::{Capacity, Location};
use dure_core::placement::Members;
use dure_core::request::Shape;
use dure_core::units::{CpuMilli, Gpus, MemoryMib, Span, Time};
use dure_core::{Cluster, Policy, cycle, decide};
use dure_scheduler::journal::{Batch, EmbeddedEngine, Engine, OpenOptions, Snapshot};
use dure_scheduler::record::{decode, encode, encode_snapshot};
use dure_scheduler::recover::recover;

const EVENTS: u64 = 1_000_000;
const NODES: u32 = 1250;
const JOBS_PER_TURN: usize = 1000;
const WAITING: usize = 100_000;

fn main() {
    if std::env::args().any(|arg| arg == "--test") {
        return; // `cargo test --benches`: built, not run
    }
    let place = tempfile::tempdir_in(std::env::var_os("DURE_BENCH_DIR").unwrap_or_else(|| std::env::temp_dir().into()))
        .expect("a directory to measure in");
    let mut world = World::new();
    let mut turns = vec![(world.now, world.opening())];
    let mut events = turns[0].1.len() as u64;
    let began = Instant::now();
    while events < EVENTS {
        let turn = world.turn();
        events += turn.len() as u64;
        turns.push((world.now, turn));
    }
    rate("decide, place and apply", began, events);
    turns.extend(world.queue_up());
    let events: u64 = turns.iter().map(|(_, events)| events.len() as u64).sum();
    let payloads = codec(&turns, events);
    drop(turns);
    journal(place.path(), &world, payloads);
}

fn rate(what: &str, began: Instant, events: u64) {
    let seconds = began.elapsed().as_secs_f64();
    println!("{what}: {events} events in {seconds:.3} s, {:.0} events/s", events as f64 / seconds);
}

fn codec(turns: &[(Time, Vec<Event>)], events: u64) -> Vec<(u32, Vec<u8>)> {
    let began = Instant::now();
    let payloads: Vec<_> = turns.iter().map(|(time, turn)| (turn.len() as u32, encode(*time, turn))).collect();
    rate("encode", began, events);
    let bytes: usize = payloads.iter().map(|(_, payload)| payload.len()).sum();
    println!("  {:.1} bytes an event", bytes as f64 / events as f64);
    let began = Instant::now();
    for (count, payload) in &payloads {
        assert_eq!(decode(payload).expect("our own").1.len(), *count as usize);
    }
    rate("decode", began, events);
    payloads
}

fn journal(dir: &Path, world: &World, payloads: Vec<(u32, Vec<u8>)>) {
    let mut engine = EmbeddedEngine::open(dir, OpenOptions::default()).expect("opened");
    for (count, payload) in payloads {
        let (first_seq, epoch) = (engine.head().seq + 1, engine.epoch());
        engine.append(&[Batch { first_seq, count, epoch, payload }], &[]).expect("appended");
        engine.maintain(None).expect("housekeeping");
    }
    let began = Instant::now();
    let recovered = recover(&engine, Policy::standard()).expect("recovered");
    rate("recover, no snapshot", began, recovered.events_replayed);
    let began = Instant::now();
    let digest = world.cluster.digest();
    println!("digest: {:.3} s", began.elapsed().as_secs_f64());
    assert_eq!(recovered.cluster.digest(), digest);
    let (head, jobs) = (recovered.head, recovered.cluster.jobs().len());
    drop(recovered);

    let began = Instant::now();
    let bytes = encode_snapshot(&world.cluster, head, world.now).expect("small enough");
    let (seconds, mib) = (began.elapsed().as_secs_f64(), bytes.len() as f64 / 1024.0 / 1024.0);
    println!("snapshot of {jobs} jobs on {NODES} nodes: {mib:.1} MiB in {seconds:.3} s");
    engine.put_snapshot(&Snapshot { seq: head.0, created_ms: world.now.0, bytes }).expect("written");
    let began = Instant::now();
    let recovered = recover(&engine, Policy::standard()).expect("recovered");
    println!("recover, snapshot at the head: {:.3} s", began.elapsed().as_secs_f64());
    assert_eq!((recovered.from_snapshot, recovered.cluster.digest()), (Some(Seq(head.0)), digest));
}

/// A cluster whose agents do at once what they are told.
struct World {
    cluster: Cluster,
    now: Time,
    running: Vec<(JobId, AttemptNumber, Members)>,
    turns: usize,
}

impl World {
    fn new() -> Self {
        Self { cluster: Cluster::new(Policy::standard()), now: Time(1_700_000_000_000), running: vec![], turns: 0 }
    }

    fn put(&mut self, input: Input, out: &mut Vec<Event>) {
        decide(&mut self.cluster, input, None, self.now, out).expect("the bench asks for what there is");
    }

    fn opening(&mut self) -> Vec<Event> {
        let mut out = Vec::new();
        for node in 0..NODES {
            let gpus = GpuSet::first(8);
            let name = |kind: &str, of: u32| format!("{kind}{}", node / of).into();
            let draft = NodeDraft {
                name: name("gpu-", 1),
                model: "NVIDIA B200".into(),
                location: Location {
                    site: "daejeon".into(),
                    spine: name("s", 256),
                    leaf: name("l", 16),
                    nvlink: "".into(),
                },
                capacity: Capacity {
                    gpus,
                    islands: vec![gpus; 8].into(),
                    layouts: Box::default(),
                    cpu: CpuMilli(128_000),
                    memory: MemoryMib(2 << 20),
                    labels: Default::default(),
                },
                bad: GpuSet::EMPTY,
                boot_id: "boot".into(),
            };
            self.put(Input::NodeHello(draft), &mut out);
        }
        let quotas = vec![QuotaDraft { quota: Gpus::whole(NODES * 8), ..QuotaDraft::default() }];
        let draft = TenantDraft { name: "fusion".into(), create: true, quotas, ..TenantDraft::default() };
        self.put(Input::SetTenant(draft), &mut out);
        out
    }

    /// Submits, places, launches and ends jobs, and lets old ones be forgotten.
    fn turn(&mut self) -> Vec<Event> {
        let mut out = Vec::new();
        self.turns += 1;
        self.now = self.now + Span::seconds(60);
        let single = Shape::Equal { members: 1, gpus: 1 };
        self.submit(single, JOBS_PER_TURN, &mut out);
        if self.turns.is_multiple_of(8) {
            self.submit(Shape::Equal { members: 16, gpus: 8 }, 1, &mut out);
        }
        self.put(Input::Tick, &mut out);
        for (job, attempt, members) in std::mem::take(&mut self.running) {
            let gone = MemberReport::Gone(Exit::of(ExitHow::Code(0)));
            self.report_all(job, attempt, &members, &gone, &mut out);
        }
        let placed = out.len();
        cycle(&mut self.cluster, self.now, &mut out);
        let started = out[placed..].iter().filter_map(|event| match event {
            Event::JobPlaced { job, attempt, members, .. } => Some((*job, *attempt, members.clone())),
            _ => None,
        });
        self.running = started.collect();
        for (job, attempt, members) in self.running.clone() {
            self.report_all(job, attempt, &members, &MemberReport::Prepared, &mut out);
            self.report_all(job, attempt, &members, &MemberReport::Started, &mut out);
        }
        out
    }

    fn report_all(
        &mut self,
        job: JobId,
        attempt: AttemptNumber,
        members: &Members,
        report: &MemberReport,
        out: &mut Vec<Event>,
    ) {
        for (rank, placed) in members.iter().enumerate() {
            let (node, member): (NodeIndex, _) = (placed.node, MemberIndex::of(rank));
            self.put(Input::MemberReported { node, job, attempt, member, report: report.clone() }, out);
        }
    }

    /// Jobs that wait: what a snapshot is full of.
    fn queue_up(&mut self) -> Vec<(Time, Vec<Event>)> {
        (0..WAITING / JOBS_PER_TURN)
            .map(|_| {
                let mut out = Vec::new();
                self.submit(Shape::Equal { members: 1, gpus: 8 }, JOBS_PER_TURN, &mut out);
                (self.now, out)
            })
            .collect()
    }

    fn submit(&mut self, shape: Shape, count: usize, out: &mut Vec<Event>) {
        let draft = JobDraft {
            part: dure_core::input::PartDraft::Whole,
            tenant: "fusion".into(),
            user: "kim".into(),
            name: "train-step".into(),
            shape,
            gpu_models: Vec::new(),
            cpu: CpuMilli(8000),
            memory: MemoryMib(65_536),
            required: None,
            preferred: None,
            distinct_nodes: false,
            only: Default::default(),
            priority: "".into(),
            preemptible: true,
            time_limit: Span::seconds(3600),
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
            payload: BlobId([9; 16]),
        };
        self.put(Input::Submit(vec![draft; count]), out);
    }
}
