//! A defragmentation with real agents: what the plan shows is what happens.

use dure_proto::v1::{DefragRequest, JobPhase, PlanDefragRequest};
use dure_tests::cluster::Cluster;
use dure_tests::drafts::{await_file, script};
use dure_tests::setup::{Setup, Who};
use tonic::Code;

#[tokio::test]
async fn what_the_plan_shows_is_what_happens() {
    let cluster = Cluster::start(crate::DURE, Setup { nodes: 2, ..Setup::default() }).await;
    let (caller, operator) = (cluster.caller(Who::Ana), cluster.caller(Who::Op));
    let (first, rest) = (cluster.path("first"), cluster.path("rest"));
    let mut jobs = Vec::new();
    for (gpus, until) in [(5, &first), (5, &rest), (3, &rest)] {
        let job = caller.submit(script("fusion", 1, gpus, &await_file(until))).await;
        let running = caller.phase(job, JobPhase::Running).await;
        jobs.push((job, running.attempt.expect("it runs").members[0].node.clone()));
    }
    let [(gone, empties), (stays, onto), (moves, from)] = &jobs[..] else { panic!("three jobs") };
    assert_eq!((from, empties == onto), (empties, false), "the small one lies beside the first: {jobs:?}");
    std::fs::write(&first, "").expect("writes");
    assert_eq!(caller.ended(*gone).await.phase(), JobPhase::Completed);

    let asked = PlanDefragRequest::default();
    let plan = operator.nodes().plan_defrag(asked.clone()).await.expect("a plan").into_inner();
    let [step] = &plan.moves[..] else { panic!("one move: {plan:#?}") };
    assert_eq!((step.job_id, &step.from, &step.to), (*moves, &vec![from.clone()], &vec![onto.clone()]));
    assert_eq!(plan.before.map(|room| room.nodes).zip(plan.after.map(|room| room.nodes)), Some((0, 1)));
    let wrong = DefragRequest { plan: Some(asked), digest: "0".into(), reason: String::new() };
    let refused = operator.nodes().defrag(wrong.clone()).await.expect_err("another plan");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(caller.nodes().defrag(wrong).await.is_err(), "only who keeps the nodes may");

    let shown = cluster.dure(Who::Op, &["defrag"]).await.out;
    assert!(shown.contains(&format!("dure defrag --apply {}", plan.digest)), "{shown}");
    let said = cluster.dure(Who::Op, &["defrag", "--apply", &plan.digest]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let moved = caller.job_is(*moves, "runs again", |job| job.attempts == 2 && job.phase() == JobPhase::Running).await;
    assert_eq!(&moved.attempt.expect("it runs").members[0].node, onto);
    let other = caller.job(*stays).await.expect("is known");
    assert_eq!((other.attempts, other.phase()), (1, JobPhase::Running), "the other one was left in peace");
    let again = operator.nodes().plan_defrag(PlanDefragRequest::default()).await.expect("a plan");
    assert!(again.into_inner().moves.is_empty());
    std::fs::write(&rest, "").expect("writes");
    for job in [*stays, *moves] {
        assert_eq!(caller.ended(job).await.phase(), JobPhase::Completed);
    }
}
