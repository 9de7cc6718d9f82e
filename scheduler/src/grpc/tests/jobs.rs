//! Submit, Get, List, Cancel, Hold, Release, Explain.

use dure_proto::v1::jobs_server::Jobs as _;
use dure_proto::v1::{self, JobPhase};
use expect_test::{Expect, expect};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{World, ana, by, identity, operator, spec, submit};
use crate::auth::Role;
use crate::grpc::limits::{MAX_ENV, MAX_JOBS_PER_CALL, MAX_SCAN, MAX_SCANS, MAX_SCRIPT};

fn show(status: &Status) -> String {
    let violations = status.get_error_details().bad_request().map_or_else(Vec::new, |bad| bad.field_violations.clone());
    let fields: Vec<String> = violations.into_iter().map(|violation| violation.field).collect();
    format!("{:?} [{}] {}", status.code(), fields.join(" "), status.message())
}

#[tokio::test]
async fn a_job_is_submitted_seen_and_cancelled() {
    let world = World::new().await;
    let accepted = world.services.submit(by(&ana(), submit(vec![spec("fusion/plasma", 2)]))).await.expect("accepted");
    let accepted = accepted.into_inner();
    assert_eq!((accepted.first_job_id, accepted.count), (1, 1));
    let position = accepted.position.expect("every answer says what it rests on");
    assert_eq!(position.epoch, 3);
    let asked = v1::GetJobRequest { job_id: 1, with_payload: true };
    let job = world.services.get(by(&ana(), asked)).await.expect("it is there").into_inner();
    assert_eq!(job.phase(), JobPhase::Launching);
    assert_eq!((job.tenant.as_str(), job.user.as_str(), job.gpus), ("fusion/plasma", "ana", 2));
    assert_eq!((job.priority.as_str(), job.time_limit_ms), ("normal", 86_400_000));
    assert_eq!(job.payload.expect("it was asked for").script, b"#!/bin/sh\ntrue\n");
    let member = &job.attempt.expect("it was placed").members[0];
    assert_eq!((member.phase.as_str(), member.gpus.len()), ("ordered", 2));
    let cancel = v1::CancelRequest { request_id: "c-1".into(), job_id: 1 };
    let answer = world.services.cancel(by(&ana(), cancel.clone())).await.expect("it is hers").into_inner();
    assert_eq!(answer.phase(), JobPhase::Stopping);
    world.services.cancel(by(&ana(), cancel)).await.expect("a repetition is answered again");
}

#[tokio::test]
async fn a_request_id_makes_a_submission_happen_once() {
    let world = World::new().await;
    let env = (0..100).map(|at| (format!("NAME_{at}"), at.to_string())).collect();
    let payload = v1::Payload { args: vec!["true".into()], env, ..Default::default() };
    let job = v1::JobSpec { payload: Some(payload), ..spec("fusion/plasma", 1) };
    let request = v1::SubmitRequest { request_id: "id-1".into(), jobs: vec![job] };
    let first = world.services.submit(by(&ana(), request.clone())).await.expect("accepted").into_inner();
    let again = world.services.submit(by(&ana(), request.clone())).await.expect("repeated").into_inner();
    assert_eq!((first.first_job_id, first.count), (again.first_job_id, again.count));
    let other = v1::SubmitRequest { jobs: vec![spec("fusion/plasma", 2)], ..request.clone() };
    let refused = world.services.submit(by(&ana(), other)).await.expect_err("another content");
    expect![[r#"AlreadyExists [request_id] request_id: "id-1" was used for a request with another content; use a new request id for a new request"#]].assert_eq(&show(&refused));
    let bo = identity("bo", Role::Member, &["fusion"]);
    let his = world.services.submit(by(&bo, request.clone())).await.expect("ids are by user").into_inner();
    assert_ne!(his.first_job_id, first.first_job_id);
    let long = v1::SubmitRequest { request_id: "x".repeat(65), ..request };
    assert_eq!(world.services.submit(by(&ana(), long)).await.expect_err("too long").code(), Code::InvalidArgument);
}

async fn refused(change: impl FnOnce(&mut v1::JobSpec), expected: Expect) {
    let world = World::new().await;
    let mut bad = spec("fusion/plasma", 1);
    change(&mut bad);
    let request = submit(vec![spec("fusion/plasma", 1), bad]);
    let status = world.services.submit(by(&operator(), request)).await.expect_err("it must be refused");
    expected.assert_eq(&show(&status));
    let listed = world.services.list(by(&operator(), v1::ListJobsRequest::default())).await.expect("listed");
    assert!(listed.into_inner().jobs.is_empty(), "all jobs of a call are accepted or none");
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_field_value_and_remedy() {
    refused(
        |job| job.tenant = String::new(),
        expect![
            "InvalidArgument [jobs[1].tenant] jobs[1].tenant: empty; name the tenant that pays, as in fusion/plasma"
        ],
    )
    .await;
    refused(|job| job.tenant = "moon".into(), expect![[r#"NotFound [jobs[1].tenant] jobs[1].tenant: there is no tenant "moon"; see the tenants: dure quota show; an operator defines a new one: dure quota set --create"#]]).await;
    refused(|job| job.tenant = "fusion".into(), expect![[r#"FailedPrecondition [] jobs[1].tenant: tenant "fusion" has tenants below it; jobs belong to leaves; name one of the tenants below it"#]]).await;
    refused(
        |job| job.shape = None,
        expect![
            "InvalidArgument [jobs[1].shape] jobs[1].shape: absent; say how many members of how many GPUs the job needs"
        ],
    )
    .await;
    refused(|job| job.shape = Some(v1::Shape { members: 1, ..Default::default() }), expect!["InvalidArgument [jobs[1].shape.gpus_per_member] jobs[1].shape.gpus_per_member: member 0 asks for 0 GPUs; use at least 1"]).await;
    refused(
        |job| job.shape = Some(v1::Shape { gpus_per_member: 1, ..Default::default() }),
        expect!["InvalidArgument [jobs[1].shape.members] jobs[1].shape.members: a gang of 0 members; use at least 1"],
    )
    .await;
    refused(|job| job.shape = Some(v1::Shape { members: 1, gpus_per_member: 300, ..Default::default() }), expect!["InvalidArgument [jobs[1].shape.gpus_per_member] jobs[1].shape.gpus_per_member: 300 GPUs in one member; a node has at most 32: use more members"]).await;
    refused(|job| job.shape = Some(v1::Shape { members: 1, gpus_per_member: 9, ..Default::default() }), expect!["InvalidArgument [jobs[1].shape.gpus_per_member] jobs[1].shape.gpus_per_member: a member asks for 9 GPUs, the largest node has 8; spread the GPUs over more members"]).await;
    refused(|job| job.shape = Some(v1::Shape { members: 3, gpus_per_member: 8, ..Default::default() }), expect!["FailedPrecondition [] jobs[1].shape: the gang asks for 24 GPUs, the pools that it may use have 16; ask for fewer GPUs, or allow other GPU models"]).await;
    let both = v1::Shape { members: 1, unequal: vec![1, 2], ..Default::default() };
    refused(|job| job.shape = Some(both), expect!["InvalidArgument [jobs[1].shape.unequal] jobs[1].shape.unequal: set beside members or gpus_per_member; use one way of the two"]).await;
    refused(|job| job.gpu_models = vec!["A100".into()], expect![[r#"InvalidArgument [jobs[1].gpu_models] jobs[1].gpu_models: no pool has GPU model "A100", there is "h200"; use one of these"#]]).await;
    refused(|job| job.priority = "top".into(), expect![[r#"InvalidArgument [jobs[1].priority] jobs[1].priority: no priority class "top", there is "low", "normal", "high", "urgent"; use one of these"#]]).await;
    refused(
        |job| job.required_level = 9,
        expect![
            "InvalidArgument [jobs[1].required_level] jobs[1].required_level: 9 is no level; use 1 (node) to 5 (site)"
        ],
    )
    .await;
    refused(
        |job| job.time_limit_ms = 90 * 86_400_000,
        expect!["InvalidArgument [jobs[1].time_limit_ms] jobs[1].time_limit_ms: 90d is longer than 30d; ask for less"],
    )
    .await;
    refused(
        |job| job.array = Some(v1::ArraySpec::default()),
        expect!["InvalidArgument [jobs[1].array.size] jobs[1].array.size: an array of 0 indices; use at least 1"],
    )
    .await;
    refused(|job| job.dependencies = vec![v1::Dependency::default()], expect!["InvalidArgument [jobs[1].dependencies[0].kind] jobs[1].dependencies[0].kind: 0 is no kind; use 1 (after ok), 2 (after any) or 3 (after not ok)"]).await;
}

#[tokio::test]
async fn what_is_too_large_or_cannot_run_is_refused() {
    let payload = |payload: v1::Payload| move |job: &mut v1::JobSpec| job.payload = Some(payload);
    let args = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    refused(payload(v1::Payload::default()), expect!["InvalidArgument [jobs[1].payload.script] jobs[1].payload.script: empty, and no args either; say what to run"]).await;
    let script = vec![b'x'; MAX_SCRIPT + 1];
    refused(payload(v1::Payload { script, ..Default::default() }), expect!["InvalidArgument [jobs[1].payload.script] jobs[1].payload.script: 262145 bytes; at most 262144: make it smaller"]).await;
    let env = [("A".to_owned(), "x".repeat(MAX_ENV))].into();
    refused(
        payload(v1::Payload { args: args(&["true"]), env, ..Default::default() }),
        expect![
            "InvalidArgument [jobs[1].payload.env] jobs[1].payload.env: 65537 bytes; at most 65536: make it smaller"
        ],
    )
    .await;
    let env = [("A=B".to_owned(), String::new())].into();
    refused(payload(v1::Payload { args: args(&["true"]), env, ..Default::default() }), expect![[r#"InvalidArgument [jobs[1].payload.env] jobs[1].payload.env: "A=B" cannot be set; a name is not empty and holds no '=', and there is no NUL"#]]).await;
    refused(payload(v1::Payload { args: args(&["a\0b"]), ..Default::default() }), expect!["InvalidArgument [jobs[1].payload.args] jobs[1].payload.args: holds a NUL character, which no process can be given; take it out"]).await;
    refused(
        |job| job.name = "n".repeat(200),
        expect!["InvalidArgument [jobs[1].name] jobs[1].name: 200 bytes, at most 128; shorten it"],
    )
    .await;
    let on = Some(v1::dependency::On::IndexInCall(1));
    let dependency = v1::Dependency { kind: v1::DependencyKind::AfterOk.into(), on };
    refused(|job| job.dependencies = vec![dependency], expect!["InvalidArgument [jobs[1].dependencies] jobs[1].dependencies: jobs 1 > 1 of the call wait for each other in a circle; take one of the dependencies out"]).await;
    let world = World::new().await;
    let many = submit(vec![spec("fusion/plasma", 1); MAX_JOBS_PER_CALL + 1]);
    let status = world.services.submit(by(&ana(), many)).await.expect_err("too many");
    expect!["InvalidArgument [jobs] jobs: 1001 jobs in one call; split it, at most 1000 each"]
        .assert_eq(&show(&status));
    let none = world.services.submit(by(&ana(), submit(Vec::new()))).await.expect_err("none");
    expect!["InvalidArgument [jobs] jobs: the call holds no job; put in at least one"].assert_eq(&show(&none));
}

#[tokio::test]
async fn who_may_not_is_told_so() {
    let world = World::new().await;
    let elsewhere = world.services.submit(by(&ana(), submit(vec![spec("solar", 1)]))).await.expect_err("not hers");
    assert_eq!(elsewhere.code(), Code::PermissionDenied);
    world.services.submit(by(&ana(), submit(vec![spec("fusion/plasma", 1)]))).await.expect("hers");
    let get = v1::GetJobRequest { job_id: 1, with_payload: false };
    let bo = identity("bo", Role::Member, &["fusion"]);
    let pd = identity("pd", Role::Pd, &["fusion"]);
    let stranger = identity("sun", Role::Pd, &["solar"]);
    let auditor = identity("eye", Role::Auditor, &[]);
    for (who, may_see, may_see_payload, may_cancel) in [
        (&bo, true, false, false),
        (&pd, true, true, true),
        (&stranger, false, false, false),
        (&auditor, true, true, false),
    ] {
        let code = |result: Result<(), Status>| result.err().map_or(Code::Ok, |status| status.code());
        let wanted = |may: bool| if may { Code::Ok } else { Code::PermissionDenied };
        let seen = world.services.get(by(who, get)).await.map(drop);
        assert_eq!(code(seen), wanted(may_see), "{}", who.user);
        let payload = v1::GetJobRequest { with_payload: true, ..get };
        assert_eq!(code(world.services.get(by(who, payload)).await.map(drop)), wanted(may_see_payload), "{}", who.user);
        let explain = v1::ExplainRequest { job_id: 1 };
        assert_eq!(code(world.services.explain(by(who, explain)).await.map(drop)), wanted(may_see), "{}", who.user);
        let cancel = v1::CancelRequest { request_id: String::new(), job_id: 1 };
        assert_eq!(code(world.services.cancel(by(who, cancel)).await.map(drop)), wanted(may_cancel), "{}", who.user);
    }
    let nobody = world.services.get(tonic::Request::new(get)).await.expect_err("no identity");
    assert_eq!(nobody.code(), Code::Unauthenticated);
    let unknown = v1::GetJobRequest { job_id: 99, with_payload: false };
    expect!["NotFound [job_id] job_id: there is no job 99; check the id: a job that ended long ago is forgotten"]
        .assert_eq(&show(&world.services.get(by(&pd, unknown)).await.expect_err("no such job")));
}

#[tokio::test]
async fn a_waiting_job_is_explained_held_and_released() {
    let world = World::new().await;
    let jobs = vec![spec("fusion/plasma", 8), spec("fusion/plasma", 8), spec("fusion/plasma", 8)];
    world.services.submit(by(&ana(), submit(jobs))).await.expect("accepted");
    let explain = |job_id| world.services.explain(by(&operator(), v1::ExplainRequest { job_id }));
    let why = explain(3).await.expect("it is there").into_inner();
    assert_eq!((why.phase(), why.position_in_tenant, why.pending_in_tenant), (JobPhase::Pending, 1, 1));
    let said: Vec<String> =
        why.blockers.iter().take(1).map(|b| format!("{}: {} > {}", b.code, b.message, b.remedy)).collect();
    expect!["NOT_ENOUGH_GPUS: it needs 8 GPUs, 0 are free in pool h200 > wait for running jobs to end, ask for fewer GPUs, or allow other GPU models"].assert_eq(&said.join("\n"));
    assert_eq!(why.blockers[0].numbers["want"], 8);
    assert_eq!(why.blockers[1].code, "RESERVED", "the first that waits is told when it starts at the latest");
    let hold = v1::HoldRequest { request_id: String::new(), job_id: 3 };
    let held = world.services.hold(by(&ana(), hold)).await.expect("it waits").into_inner();
    assert_eq!(held.phase(), JobPhase::Held);
    assert_eq!(explain(3).await.expect("it is there").into_inner().blockers[0].code, "HELD");
    let release = v1::ReleaseRequest { request_id: String::new(), job_id: 3 };
    let released = world.services.release(by(&ana(), release)).await.expect("it is held").into_inner();
    assert_eq!(released.phase(), JobPhase::Pending);
    let running = v1::HoldRequest { request_id: String::new(), job_id: 1 };
    expect![
        "FailedPrecondition [] job_id: job 1 is launching: hold is for jobs that wait; cancel it instead: dure cancel"
    ]
    .assert_eq(&show(&world.services.hold(by(&ana(), running)).await.expect_err("it runs")));
}

#[tokio::test]
async fn pages_follow_each_other_without_gaps() {
    let world = World::new().await;
    let solar = identity("sun", Role::Member, &["solar"]);
    for _ in 0..3 {
        world.services.submit(by(&ana(), submit(vec![spec("fusion/plasma", 1); 20]))).await.expect("accepted");
        world.services.submit(by(&solar, submit(vec![spec("solar", 1); 20]))).await.expect("accepted");
    }
    let (mut ids, mut page_token) = (Vec::new(), String::new());
    loop {
        let page = Some(v1::PageRequest { page_size: 7, page_token });
        let request = v1::ListJobsRequest { page, tenant: "fusion".into(), ..Default::default() };
        let found = world.services.list(by(&operator(), request)).await.expect("listed").into_inner();
        assert!(found.jobs.len() <= 7 && found.jobs.iter().all(|job| job.tenant == "fusion/plasma"));
        ids.extend(found.jobs.iter().map(|job| job.id));
        page_token = found.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let expected: Vec<u64> = (1..=20).chain(41..=60).chain(81..=100).collect();
    assert_eq!(ids, expected);
    let count = async |who: &crate::auth::Identity, request: v1::ListJobsRequest| {
        let page = Some(v1::PageRequest { page_size: 1000, page_token: String::new() });
        let found = world.services.list(by(who, v1::ListJobsRequest { page, ..request })).await;
        found.expect("listed").into_inner().jobs.len()
    };
    assert_eq!(count(&ana(), v1::ListJobsRequest::default()).await, 60, "what she may see, not all");
    assert_eq!(count(&ana(), v1::ListJobsRequest { tenant: "solar".into(), ..Default::default() }).await, 0);
    let by_user = v1::ListJobsRequest { user: "sun".into(), ..Default::default() };
    assert_eq!(count(&operator(), by_user).await, 60);
    assert_eq!(count(&operator(), v1::ListJobsRequest { user: "who".into(), ..Default::default() }).await, 0);
    let active = v1::ListJobsRequest { phases: vec![JobPhase::Launching.into()], ..Default::default() };
    assert_eq!(count(&operator(), active).await, 16, "the cluster has 16 GPUs");
    assert_eq!(count(&operator(), v1::ListJobsRequest { node: "n0".into(), ..Default::default() }).await, 8);
    assert_eq!(count(&operator(), v1::ListJobsRequest { name: "train".into(), ..Default::default() }).await, 120);
    let unknown = v1::ListJobsRequest { tenant: "moon".into(), ..Default::default() };
    expect![[r#"NotFound [tenant] tenant: there is no tenant "moon"; see the tenants: dure quota show; an operator defines a new one: dure quota set --create"#]].assert_eq(&show(&world.services.list(by(&operator(), unknown)).await.expect_err("no such tenant")));
}

#[tokio::test]
async fn a_filter_that_matches_nothing_looks_at_a_bounded_piece_each_turn() {
    let world = World::new().await;
    let held = v1::JobSpec { hold: true, ..spec("fusion/plasma", 1) };
    let calls = MAX_SCAN / MAX_JOBS_PER_CALL + 1;
    for _ in 0..calls {
        world.services.submit(by(&ana(), submit(vec![held.clone(); MAX_JOBS_PER_CALL]))).await.expect("accepted");
    }
    world
        .services
        .submit(by(&ana(), submit(vec![v1::JobSpec { name: "last".into(), ..held }])))
        .await
        .expect("accepted");
    assert!(calls < MAX_SCANS * MAX_SCAN / MAX_JOBS_PER_CALL, "one call is enough to come to the end");
    let request = v1::ListJobsRequest { name: "last".into(), ..Default::default() };
    let found = world.services.list(by(&ana(), request)).await.expect("listed").into_inner();
    assert_eq!((found.jobs.len(), found.next_page_token.as_str()), (1, ""));
}
