//! Questions to the future over the service: who sees what, what is refused, and what is left as it was.

use dure_proto::v1::forecasts_server::Forecasts as _;
use dure_proto::v1::jobs_server::Jobs as _;
use tonic::Code;

use super::*;

fn quota(tenant: &str, gpus: u32) -> v1::QuotaChange {
    v1::QuotaChange { tenant: tenant.into(), quota: Some(gpus), ..Default::default() }
}

fn ask(quotas: Vec<v1::QuotaChange>) -> v1::WhatIfRequest {
    v1::WhatIfRequest { quotas, ..Default::default() }
}

/// Solar holds all GPUs, and fusion's job takes back its quota.
async fn busy_world() -> World {
    let world = World::new().await;
    let run = |tenant: &str| submit(vec![spec(tenant, 8)]);
    for _ in 0..2 {
        world.services.submit(by(&operator(), run("solar"))).await.expect("it is accepted");
    }
    world.services.submit(by(&operator(), run("solar"))).await.expect("it is accepted");
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_sees_the_own_missions_under_one_digest() {
    let world = busy_world().await;
    let before = world.services.handle.read(|cluster, _| cluster.digest()).await.expect("it answers").0;
    let request = || ask(vec![quota("solar", 0), quota("fusion", 16)]);
    let all = world.services.what_if(by(&operator(), request())).await.expect("it answers").into_inner();
    let own = world.services.what_if(by(&ana(), request())).await.expect("it answers").into_inner();
    let names = |of: &v1::WhatIfResponse| of.missions.iter().map(|of| of.tenant.clone()).collect::<Vec<_>>();
    assert_eq!((names(&all), names(&own)), (vec!["fusion".to_owned(), "solar".to_owned()], vec!["fusion".to_owned()]));
    assert_eq!((all.digest.len(), all.cut_short, all.position.expect("it has one").epoch), (64, false, 3));
    let solar = &all.missions[1];
    let (was, would) = (solar.before.expect("as it is"), solar.after.expect("as it would be"));
    assert_eq!((was.quota, would.quota, was.jobs, was.started), (8, 0, 1, 1));
    let after = world.services.handle.read(|cluster, _| cluster.digest()).await.expect("it answers").0;
    assert_eq!(before, after, "nothing is changed by asking");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_asked_is_named_with_its_field() {
    let world = World::new().await;
    let refusal = async |request: v1::WhatIfRequest| {
        let refused = world.services.what_if(by(&operator(), request)).await.expect_err("it is refused");
        format!("{:?} {}", refused.code(), refused.message())
    };
    let nodes = |remove: &str, like: &str| v1::WhatIfRequest {
        remove_nodes: vec![remove.into()].into_iter().filter(|name: &String| !name.is_empty()).collect(),
        add_nodes: vec![v1::MoreNodes { count: 1, like: like.into() }],
        ..Default::default()
    };
    let refusals = [
        refusal(ask(vec![quota("mars", 1)])).await,
        refusal(ask(vec![v1::QuotaChange { pool: "b200".into(), ..quota("solar", 1) }])).await,
        refusal(ask(vec![v1::QuotaChange { limit: Some(1), ..quota("solar", 2) }])).await,
        refusal(nodes("n9", "")).await,
        refusal(nodes("", "n9")).await,
        refusal(v1::WhatIfRequest { add_nodes: vec![v1::MoreNodes { count: 5_000, like: "".into() }], ..ask(vec![]) })
            .await,
        refusal(v1::WhatIfRequest { jobs: vec![spec("fusion", 8)], last_ms: 1, ..ask(vec![]) }).await,
        refusal(v1::WhatIfRequest { last_ms: 1, ..ask(vec![]) }).await,
        refusal(v1::WhatIfRequest { jobs: vec![spec("fusion/plasma", 9)], ..ask(vec![]) }).await,
    ];
    expect_test::expect![[r#"
        InvalidArgument quotas[0].tenant: there is no tenant "mars"; see the tenants: dure quota show
        InvalidArgument quotas.pool: there is no pool "b200", there is "h200"; use one of these
        InvalidArgument quotas.limit: a limit of 1 below the quota of 2; set the limit to the quota or above, or leave it out
        NotFound name: there is no node "n9"; see the nodes: dure nodes
        InvalidArgument add_nodes[0].like: there is no node "n9"; name one that is there: dure nodes
        InvalidArgument add_nodes: 5000 nodes together; at most 4096
        InvalidArgument jobs: a history has its own jobs; leave last_ms out, or the jobs
        Unavailable the journal writer is closed: nothing can be appended any more
        InvalidArgument jobs[0].shape.gpus_per_member: a member asks for 9 GPUs, the largest node has 8; spread the GPUs over more members"#]].assert_eq(&refusals.join("\n"));
    let foreign = v1::WhatIfRequest { jobs: vec![spec("solar", 8)], ..ask(vec![]) };
    let denied = world.services.what_if(by(&ana(), foreign)).await.expect_err("it is refused");
    assert_eq!(denied.code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_not_submitted_is_told_when_and_where() {
    let world = busy_world().await;
    let request = |tenant: &str, gpus| v1::TestSubmitRequest { jobs: vec![spec(tenant, gpus)] };
    let told =
        world.services.test_submit(by(&ana(), request("fusion/plasma", 8))).await.expect("it answers").into_inner();
    let [of] = &told.jobs[..] else { panic!("one job, one answer: {told:?}") };
    assert_eq!((of.nodes.len(), of.never.is_none()), (1, true), "inside its quota it takes back a node: {of:?}");
    let estimate = of.estimate.expect("it is told");
    assert!(estimate.p50_ms >= Some(estimate.as_of_ms) && estimate.p50_ms <= estimate.p90_ms, "{estimate:?}");
    let refused = world.services.test_submit(by(&ana(), request("fusion/plasma", 9))).await.expect_err("no such node");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    let denied = world.services.test_submit(by(&ana(), request("solar", 1))).await.expect_err("another's mission");
    assert_eq!(denied.code(), Code::PermissionDenied);
    assert_eq!(world.services.handle.read(|cluster, _| cluster.jobs().len()).await.expect("it answers").0, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_at_once_and_no_more() {
    let world = World::new().await;
    let slots = world.services.forecasts.hold_all_slots();
    let turned_away = world.services.what_if(by(&operator(), ask(vec![]))).await.expect_err("all are taken");
    assert_eq!(turned_away.code(), Code::ResourceExhausted, "{turned_away}");
    drop(slots);
    world.services.what_if(by(&operator(), ask(vec![]))).await.expect("it answers");
}
