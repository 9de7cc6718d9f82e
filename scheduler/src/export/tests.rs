//! Small histories and the rows that they must give.

use std::collections::{BTreeMap, BTreeSet};

use dure_core::ids::{NodeIndex, PoolIndex, TenantIndex, UserIndex};
use dure_core::job::JobSpec;
use expect_test::{Expect, expect};

use super::*;
use crate::journal::{Batch, Engine, MemoryEngine, MemoryStore, OpenOptions, StoreId};
use crate::random_turns::{RandomTurns, small_policy};
use crate::record::encode;

fn journal() -> MemoryEngine {
    MemoryEngine::open(&MemoryStore::new(StoreId([6; 16])), OpenOptions::default()).expect("opened")
}

fn append(engine: &mut MemoryEngine, time: u64, events: &[Event]) {
    let batch = Batch {
        first_seq: engine.head().seq + 1,
        count: events.len() as u32,
        epoch: engine.epoch(),
        payload: encode(Time(time), events),
    };
    engine.append(&[batch], &[]).expect("appended");
}

fn joined(node: u32) -> Event {
    use dure_core::node::{Capacity, Location};
    use dure_core::units::{CpuMilli, MemoryMib};
    let gpus = GpuSet::first(8);
    let capacity = Capacity {
        gpus,
        islands: vec![gpus; 8].into(),
        layouts: Box::default(),
        cpu: CpuMilli::ZERO,
        memory: MemoryMib::ZERO,
        labels: Default::default(),
    };
    Event::NodeJoined {
        node: NodeIndex(node),
        name: format!("gpu-{node}").into(),
        pool: PoolIndex(0),
        location: Location::default(),
        capacity,
        boot_id: "b".into(),
    }
}

fn submitted(job: u64, name: &str) -> Event {
    use dure_core::request::{Request, Shape};
    let request = Request {
        part: dure_core::request::Part::Whole,
        shape: Shape::Equal { members: 2, gpus: 4 },
        pools: [PoolIndex(0)].into(),
        cpu: Default::default(),
        memory: Default::default(),
        required: None,
        preferred: None,
        distinct_nodes: false,
        only: Default::default(),
    };
    let spec = JobSpec {
        tenant: TenantIndex(1),
        user: UserIndex(0),
        name: name.into(),
        request: request.into(),
        priority: dure_core::ids::PriorityIndex(1),
        preemptible: true,
        time_limit: Default::default(),
        time_min: None,
        grace: Default::default(),
        array: None,
        after: Box::default(),
        max_retries: 0,
        batch: false,
        hold_survivors: dure_core::units::Span::ZERO,
        booking: None,
        payload: Default::default(),
    };
    Event::JobSubmitted { job: JobId(job), spec: Box::new(spec), held: false, not_before: None }
}

fn placed_on(job: u64, attempt: u32, members: &[(u32, u32)]) -> Event {
    let members = members.iter().map(|&(node, gpus)| Placed::whole(NodeIndex(node), GpuSet(gpus))).collect();
    Event::JobPlaced {
        job: JobId(job),
        attempt: AttemptNumber(attempt),
        pool: PoolIndex(0),
        members,
        scavenger: false,
        guest: false,
        lowered: None,
    }
}

fn ended(job: u64, attempt: u32, outcome: Outcome) -> Event {
    Event::AttemptEnded { job: JobId(job), attempt: AttemptNumber(attempt), outcome }
}

fn check(engine: &MemoryEngine, options: &ExportOptions<'_>, expected: Expect) {
    let mut out = Vec::new();
    placements(engine, &mut out, options).expect("exported");
    expected.assert_eq(std::str::from_utf8(&out).expect("text"));
}

#[test]
fn one_row_per_member_and_one_per_end() {
    let mut engine = journal();
    append(&mut engine, 1000, &[joined(0), joined(1), submitted(1, "train"), submitted(2, "a,b")]);
    append(&mut engine, 2500, &[placed_on(1, 1, &[(0, 0b10_0011), (1, 0b1)]), placed_on(2, 1, &[(1, 0b1110)])]);
    append(&mut engine, 4000, &[ended(1, 1, Outcome::Evicted), ended(2, 1, Outcome::NodeLost)]);
    append(&mut engine, 5000, &[placed_on(1, 2, &[(1, 0b1111_1111)])]);
    append(
        &mut engine,
        9999,
        &[ended(1, 2, Outcome::Completed), Event::JobEnded { job: JobId(1), outcome: Outcome::Completed }],
    );
    check(
        &engine,
        &ExportOptions::default(),
        expect![[r#"
            time_s,event,job,attempt,node,gpus,milli
            2.500,start,1,1,gpu-0,0+1+5,1000
            2.500,start,1,1,gpu-1,0,1000
            2.500,start,2,1,gpu-1,1+2+3,1000
            4.000,preempt,1,1,,,
            4.000,fail,2,1,,,
            5.000,start,1,2,gpu-1,0+1+2+3+4+5+6+7,1000
            9.999,end,1,2,,,
        "#]],
    );
    let options =
        ExportOptions { job: &|job| format!("{}:{}", job.name, job.id), seconds: &|time| time.0 as f64 / 100.0 };
    check(
        &engine,
        &options,
        expect![[r#"
            time_s,event,job,attempt,node,gpus,milli
            25.000,start,train:1,1,gpu-0,0+1+5,1000
            25.000,start,train:1,1,gpu-1,0,1000
            25.000,start,"a,b:2",1,gpu-1,1+2+3,1000
            40.000,preempt,train:1,1,,,
            40.000,fail,"a,b:2",1,,,
            50.000,start,train:1,2,gpu-1,0+1+2+3+4+5+6+7,1000
            99.990,end,train:1,2,,,
        "#]],
    );
}

#[test]
fn an_index_of_an_array_knows_its_array() {
    let mut engine = journal();
    let started = Event::ArrayIndexStarted { array: JobId(1), index: 4, job: JobId(2) };
    append(&mut engine, 1000, &[joined(0), submitted(1, "sweep"), started, placed_on(2, 1, &[(0, 1)])]);
    let label = |job: ExportedJob<'_>| {
        let (array, index) = job.index_of.expect("it is an index");
        format!("{}-{array}[{index}]", job.name)
    };
    check(
        &engine,
        &ExportOptions { job: &label, ..ExportOptions::default() },
        expect![[r#"
            time_s,event,job,attempt,node,gpus,milli
            1.000,start,sweep-1[4],1,gpu-0,0,1000
        "#]],
    );
}

#[test]
fn what_was_never_introduced_is_an_error_with_its_position() {
    let mut engine = journal();
    append(&mut engine, 1, &[joined(0), submitted(1, "x"), placed_on(1, 1, &[(3, 1)])]);
    let err = placements(&engine, Vec::new(), &ExportOptions::default()).expect_err("no node 3").to_string();
    assert!(err.starts_with("the event at position 3 speaks of node 3,"), "{err}");
    let mut engine = journal();
    append(&mut engine, 1, &[joined(0), placed_on(8, 1, &[(0, 1)])]);
    let err = placements(&engine, Vec::new(), &ExportOptions::default()).expect_err("no job 8").to_string();
    assert!(err.starts_with("the event at position 2 speaks of job 8,"), "{err}");
}

/// Rows of a random history obey the judge's rules that need no knowledge of the jobs.
#[test]
fn random_histories_hold_each_gpu_once_and_end_what_started() {
    let mut engine = journal();
    let mut turns = RandomTurns::new(31, 10, small_policy());
    let events = turns.opening();
    append(&mut engine, turns.now.0, &events);
    for _ in 0..400 {
        let events = turns.turn();
        if !events.is_empty() {
            append(&mut engine, turns.now.0, &events);
        }
    }
    let mut out = Vec::new();
    let exported = placements(&engine, &mut out, &ExportOptions::default()).expect("exported");
    let mut held: BTreeMap<String, BTreeSet<(String, String)>> = BTreeMap::new();
    let mut over = BTreeSet::new();
    let (mut last, mut rows) = (0.0, 0);
    for row in csv::Reader::from_reader(&out[..]).records() {
        let row = row.expect("a row");
        let at: f64 = row[0].parse().expect("seconds");
        assert!(at >= last, "time runs back");
        (last, rows) = (at, rows + 1);
        match &row[1] {
            "start" => {
                let gpus: Vec<_> = row[5].split('+').map(|gpu| (row[4].to_owned(), gpu.to_owned())).collect();
                let taken = |gpu| held.values().any(|of| of.contains(gpu));
                assert!(!gpus.iter().any(taken), "a GPU is held twice: {row:?}");
                assert!(!over.contains(&row[2]), "started after its end: {row:?}");
                held.entry(row[2].to_owned()).or_default().extend(gpus);
            }
            word @ ("end" | "preempt" | "fail") => {
                assert!(held.remove(&row[2]).is_some(), "ended without a start: {row:?}");
                assert!(word != "end" || over.insert(row[2].to_owned()), "started again after its end: {row:?}");
            }
            other => panic!("unknown event {other}"),
        }
    }
    assert!(exported.starts > 50 && exported.ends > 30, "{exported:?}");
    assert!(rows >= exported.starts + exported.ends);
    assert_eq!(exported.head.0, engine.head().seq);
}
