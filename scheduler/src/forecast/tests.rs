//! The background: what waits is told when it starts, and the first start is compared with what it was told.

use std::sync::atomic::AtomicBool;

use dure_core::gpu::GpuSet;
use dure_core::ids::Seq;
use dure_core::input::{Input, NodeDraft, TenantDraft};
use dure_core::node::{Capacity, Location};
use dure_core::units::{CpuMilli, MemoryMib};
use dure_core::{Cluster, Policy, cycle};

use super::estimator::Rounds;
use super::*;
use crate::follower::News;

/// A cluster whose follower is the test.
struct World {
    cluster: Arc<Mutex<(Cluster, Time, News)>>,
    forecasts: Arc<Forecasts>,
    rounds: Rounds,
}

impl World {
    /// One node of 8 GPUs, one mission.
    fn new() -> Self {
        let cluster = Arc::new(Mutex::new((Cluster::new(Policy::standard()), Time(1_000), News::default())));
        let shared = cluster.clone();
        let copies = move |_| {
            let mut of = shared.lock().expect("no test panics in here");
            let news = std::mem::take(&mut of.2);
            Ok(Copied { cluster: of.0.clone(), head: Seq(1), time: of.1, news })
        };
        let told = Told::in_memory().expect("there is memory");
        let pasts = || Err(JournalError::Closed);
        let clock = Clock::start(Time(0));
        let forecasts = Forecasts::new(Box::new(copies), Box::new(pasts), told, clock, Epoch(1));
        let forecasts = Arc::new(forecasts);
        let rounds = Rounds::new(forecasts.clone(), Arc::new(AtomicBool::new(false)));
        let world = Self { cluster, forecasts, rounds };
        world.input(Input::DefinePool { name: "g".into(), model: "G".into(), gpus_per_node: 8 });
        world.input(Input::SetTenant(TenantDraft { name: "m".into(), create: true, ..TenantDraft::default() }));
        world.input(Input::NodeHello(NodeDraft {
            name: "n0".into(),
            model: "G".into(),
            location: Location::default(),
            capacity: Capacity {
                gpus: GpuSet::first(8),
                islands: vec![GpuSet::first(8); 8].into(),
                layouts: Box::default(),
                cpu: CpuMilli(0),
                memory: MemoryMib(0),
                labels: Default::default(),
            },
            bad: GpuSet::EMPTY,
            boot_id: "b".into(),
        }));
        world
    }

    /// Everything happens now, by the clock of the forecasts.
    fn input(&self, input: Input) {
        let now = self.forecasts.clock.now();
        let mut of = self.cluster.lock().expect("no test panics in here");
        let mut events = Vec::new();
        dure_core::decide(&mut of.0, input, None, now, &mut events).expect("it is accepted");
        cycle::cycle(&mut of.0, now, &mut events);
        of.1 = now;
        for event in events {
            let (cluster, _, news) = &mut *of;
            news.read(cluster, now, &event);
        }
    }

    fn submit(&self) {
        let spec = v1::JobSpec {
            tenant: "m".into(),
            shape: Some(v1::Shape { members: 1, gpus_per_member: 8, ..Default::default() }),
            payload: Some(v1::Payload { args: vec!["true".into()], ..Default::default() }),
            time_limit_ms: 3_600_000,
            ..Default::default()
        };
        self.input(Input::Submit(jobs(vec![spec], "kim").expect("a good job")));
    }
}

#[test]
fn what_waits_is_told_and_compared_with_its_first_start() {
    let mut world = World::new();
    for _ in 0..3 {
        world.submit();
    }
    world.rounds.round();
    let estimate = |job| world.forecasts.estimate(job);
    assert_eq!(estimate(1), None, "it runs");
    let (second, third) = (estimate(2).expect("it waits"), estimate(3).expect("it waits"));
    let hours = |of: &v1::StartEstimate| (of.p90_ms.expect("within the horizon") - of.as_of_ms) / 3_500_000;
    assert_eq!((hours(&second), hours(&third)), (1, 2), "after one limit of an hour, and after two: {third:?}");
    assert!(world.forecasts.calibration(None).expect("it is read").is_empty(), "nothing has started yet");
    world.input(Input::Cancel(JobId(1)));
    let node = dure_core::ids::NodeIndex(0);
    let (attempt, member) = (dure_core::ids::AttemptNumber(1), dure_core::ids::MemberIndex(0));
    let exit = dure_core::job::Exit::of(dure_core::job::ExitHow::Signal(15));
    let report = dure_core::input::MemberReport::Gone(exit);
    world.input(Input::MemberReported { node, job: JobId(1), attempt, member, report });
    world.rounds.round();
    let rows = world.forecasts.calibration(None).expect("it is read");
    let shown: Vec<_> = rows.iter().map(|row| (row.tenant.as_str(), row.jobs, row.by_p50, row.by_p90)).collect();
    assert_eq!(shown, [("", 1, 1, 1), ("m", 1, 1, 1)], "the second job started long before both of its estimates");
    assert!(rows[0].limits_median_error_ms > 3_500_000, "{rows:?}");
    assert_eq!(world.forecasts.estimate(2), None, "it has started");
    assert!(world.forecasts.calibration(Some(Span(0))).expect("it is read").iter().all(|row| row.jobs <= 1));
}

#[test]
fn what_was_told_outlives_the_process() {
    let folder = tempfile::tempdir().expect("a folder");
    let estimate = Estimate { p50: Some(Time(100)), p90: None };
    let telling = || told::Telling { job: JobId(7), mission: "m", at: Time(1), estimate };
    Told::open(folder.path()).expect("it opens").keep(std::iter::once(telling()), &[]).expect("it is kept");
    let mut told = Told::open(folder.path()).expect("it opens");
    assert_eq!(told.open_jobs().expect("it is read"), [JobId(7)].into());
    // A later word changes nothing, and the first start is the one that counts.
    told.keep(std::iter::once(telling()), &[(JobId(7), Time(50)), (JobId(8), Time(50))]).expect("it is kept");
    told.keep(std::iter::empty(), &[(JobId(7), Time(90))]).expect("it is kept");
    let rows = told.fared(Time(0)).expect("it is read");
    assert_eq!((rows[0].jobs, rows[0].untold), (0, 1), "without a P90 it was told no time: {rows:?}");
    assert!(told.fared(Time(51)).expect("it is read").is_empty());
    told.tidy(Time(u64::MAX / 2)).expect("it is tidied");
    assert!(told.fared(Time(0)).expect("it is read").is_empty());
}
