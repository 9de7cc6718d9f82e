//! Two nodes of 8 GPUs, two missions.

use dure_core::cycle::cycle;
use dure_core::input::QuotaDraft;
use dure_core::units::Gpus;

use super::*;
use crate::division;
use crate::drive::Drive;
use crate::trace::{TraceJob, TraceNode};

fn job(id: &str, tenant: &str, submit: u64, run: u64, limit: u64, gpus: u32) -> TraceJob {
    TraceJob {
        id: id.into(),
        tenant: tenant.into(),
        submit: Time(submit * 1000),
        duration: Span::seconds(run),
        limit: Some(Span::seconds(limit)),
        gpus,
        gpu_milli: 1000,
        ..TraceJob::default()
    }
}

/// At 100 s: three runs of 10 s have been learned, x holds everything since 50 s, a job of x and one of y wait.
fn cluster() -> (Cluster, Learned) {
    let nodes = ["n0", "n1"].map(|name| TraceNode { name: name.into(), gpus: 8, ..TraceNode::default() });
    let jobs = [
        job("a", "x", 0, 10, 1000, 16),
        job("b", "x", 0, 10, 1000, 16),
        job("c", "x", 0, 10, 1000, 16),
        job("hold", "x", 50, 5000, 4000, 16),
        job("next", "x", 60, 10, 1000, 16),
        job("end", "x", 100_000, 1, 1, 1),
    ];
    let mut drive = Drive::new(&nodes, &jobs, &division::Division::Equal).expect("it can be replayed");
    let mut learned = Learned::default();
    while drive.cluster().job(JobId(5)).is_none() {
        assert!(drive.turn().expect("it goes on"));
    }
    for _ in 0..3 {
        learned.add(Kind { tenant: "x", user: "someone", name: "", gpus: 16 }, Span::seconds(70));
    }
    let mut cluster = drive.cluster().clone();
    cycle(&mut cluster, Time(100_000), &mut Vec::new());
    (cluster, learned)
}

#[test]
fn the_learned_run_time_gives_p50_and_the_limit_p90() {
    let (cluster, learned) = cluster();
    let estimates = estimates(&cluster, &Ahead::whole(Time(100_000), &learned));
    let shown: Vec<_> = estimates.of.values().map(|of| (of.p50.map(|at| at.0), of.p90.map(|at| at.0))).collect();
    // `hold` began at 50 s: it ends at 120 s by what was learned, and at 4050 s by its limit, as far away as that to a thousandth.
    assert_eq!(shown, [(Some(120_000), Some(4_050_592))]);
}

#[test]
fn a_change_shows_before_and_after_and_nothing_is_done_to_the_cluster() {
    let (cluster, learned) = cluster();
    let (digest, ahead) = (cluster.digest(), Ahead::whole(Time(100_000), &learned));
    let half = QuotaDraft { quota: Gpus::whole(16), ..QuotaDraft::default() };
    let tenant = TenantDraft { name: "y".into(), create: true, quotas: vec![half], ..TenantDraft::default() };
    let draft = crate::drive::draft_of(&job("new", "y", 0, 10, 1000, 8), 8);
    let less = QuotaDraft { quota: Gpus::whole(0), ..QuotaDraft::default() };
    let shrunk = TenantDraft { name: "x".into(), quotas: vec![less], ..TenantDraft::default() };
    let change = Change { tenants: vec![shrunk, tenant], jobs: vec![draft.clone()], ..Change::default() };
    let seen = what_if(&cluster, change.clone(), &ahead).expect("it can be").0;
    assert_eq!((seen.before["x"].quota, seen.before["x"].started, seen.before["x"].evictions), (16, 1, 0));
    assert_eq!((seen.after["y"].started, seen.after["y"].wait_s.mean), (1, 0.0), "y takes its quota at once: {seen:?}");
    assert_eq!(seen.after["x"].evictions, 1, "{seen:?}");
    assert!(seen.after["x"].lost_gpu_hours > 0.2, "16 GPUs lose 50 s: {seen:?}");
    assert_eq!(cluster.digest(), digest);
    assert_eq!(what_if(&cluster, change, &ahead).expect("it can be").0, seen);
    let strange = Change { nodes_out: vec!["n9".into()], ..Change::default() };
    assert!(what_if(&cluster, strange, &ahead).is_err());
}

#[test]
fn a_trial_says_when_and_where_or_refuses() {
    let (cluster, learned) = cluster();
    let ahead = Ahead::whole(Time(100_000), &learned);
    let draft = |gpus| crate::drive::draft_of(&job("new", "x", 0, 10, 1000, gpus), 8);
    let answers = trial(&cluster, vec![draft(8)], &ahead).expect("it would be accepted").list;
    assert_eq!(answers[0].nodes.len(), 1);
    assert!(answers[0].estimate.p50 >= Some(Time(120_000)) && answers[0].estimate.p90 >= answers[0].estimate.p50);
    assert!(trial(&cluster, vec![draft(64)], &ahead).is_err());
}

#[test]
fn a_look_that_is_told_to_stop_says_so_and_why_a_job_does_not_start() {
    let (cluster, learned) = cluster();
    let short = Ahead { horizon: Span::seconds(10), ..Ahead::whole(Time(100_000), &learned) };
    let draft = crate::drive::draft_of(&job("new", "x", 0, 10, 1000, 16), 8);
    let tried = trial(&cluster, vec![draft], &short).expect("it would be accepted");
    assert_eq!((tried.list[0].estimate, tried.is_cut), (Estimate::default(), false));
    assert!(tried.list[0].nodes.is_empty() && tried.list[0].never.is_some(), "{:?}", tried.list);
    let stopped = Ahead { go_on: &|| false, ..Ahead::whole(Time(100_000), &learned) };
    let (seen, _) = what_if(&cluster, Change::default(), &stopped).expect("nothing is changed");
    assert!(seen.is_cut && seen.before == seen.after && seen.before["x"].started == 0, "{seen:?}");
}
