//! Tenants and Nodes.

use dure_proto::v1;
use dure_proto::v1::jobs_server::Jobs as _;
use dure_proto::v1::nodes_server::Nodes as _;
use dure_proto::v1::tenants_server::Tenants as _;
use expect_test::expect;
use tonic::Code;

use super::{World, ana, by, identity, operator, spec, submit};
use crate::auth::Role;

fn quota(pool: &str, quota: u32) -> Vec<v1::PoolQuota> {
    vec![v1::PoolQuota { pool: pool.into(), quota, limit: None, lend_limit: None, domains: None }]
}

#[tokio::test]
async fn tenants_are_listed_with_what_they_use() {
    let world = World::new().await;
    let jobs = vec![spec("fusion/plasma", 8), spec("fusion/plasma", 4), spec("fusion/plasma", 8)];
    world.services.submit(by(&ana(), submit(jobs))).await.expect("accepted");
    let all = v1::ListTenantsRequest::default();
    let listed = v1::tenants_server::Tenants::list(&world.services, by(&operator(), all.clone())).await;
    let tenants = listed.expect("listed").into_inner().tenants;
    let names: Vec<&str> = tenants.iter().map(|tenant| tenant.name.as_str()).collect();
    assert_eq!(names, ["fusion", "fusion/plasma", "solar"]);
    let usage = &tenants[0].usage[0];
    assert_eq!((usage.used, usage.own, usage.borrowed), (12, 8, 4));
    assert_eq!((tenants[0].pending_jobs, tenants[0].pending_gpus, tenants[0].running_jobs), (1, 8, 2));
    assert_eq!((tenants[0].quotas[0].quota, tenants[2].pending_jobs), (8, 0));
    let seen =
        v1::tenants_server::Tenants::list(&world.services, by(&ana(), all)).await.expect("listed").into_inner().tenants;
    assert!(seen.iter().all(|tenant| tenant.name.starts_with("fusion")) && seen.len() == 2);
    let by_user = v1::UsageRequest { tenant: "fusion".into(), by_user: true };
    let rows = world.services.usage(by(&operator(), by_user)).await.expect("summed").into_inner().rows;
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].user.as_str(), rows[0].jobs, rows[0].gpus_now), ("ana", 3, 12));
    let total = rows[0].total.expect("it is there");
    assert!(total.own_gpu_ms > 0 && total.borrowed_gpu_ms > 0, "what runs counts up to now: {total:?}");
    let by_tenant = v1::UsageRequest::default();
    let rows = world.services.usage(by(&operator(), by_tenant)).await.expect("summed").into_inner().rows;
    assert_eq!(
        rows.iter().map(|row| (row.tenant.as_str(), row.jobs)).collect::<Vec<_>>(),
        [("fusion", 3), ("fusion/plasma", 3), ("solar", 0)]
    );
}

#[tokio::test]
async fn a_pd_divides_what_is_below_the_mission_and_no_more() {
    let world = World::new().await;
    let pd = identity("pd", Role::Pd, &["fusion"]);
    let set = |tenant: &str, gpus| v1::SetTenantRequest {
        tenant: tenant.into(),
        quotas: quota("h200", gpus),
        create: true,
        ..Default::default()
    };
    let plasma = world.services.set(by(&pd, set("fusion/plasma", 6))).await.expect("below").into_inner();
    assert_eq!((plasma.quotas[0].quota, plasma.weight), (6, 1));
    let own = world.services.set(by(&pd, set("fusion", 16))).await.expect_err("the mission itself");
    expect![[
        r#"pd "pd" may not define or change tenant "fusion": the role reaches what is below the own missions (fusion)"#
    ]]
    .assert_eq(own.message());
    let edge = world.services.set(by(&pd, set("fusion/edge", 3))).await.expect_err("above the mission's quota");
    expect![[r#"FailedPrecondition: quotas.quota: the quotas below "fusion" would be 9, its own is 8; lower another quota below it, or raise its own first"#]].assert_eq(&format!("{:?}: {}", edge.code(), edge.message()));
    world.services.set(by(&pd, set("fusion/edge", 2))).await.expect("it fits");
    assert_eq!(
        world.services.set(by(&ana(), set("fusion/edge", 1))).await.expect_err("a member").code(),
        Code::PermissionDenied
    );
    let pool = v1::SetTenantRequest { quotas: quota("b200", 1), ..set("fusion/edge", 1) };
    expect![[r#"quotas.pool: there is no pool "b200", there is "h200"; use one of these"#]]
        .assert_eq(world.services.set(by(&operator(), pool)).await.expect_err("no such pool").message());
}

#[tokio::test]
async fn a_quota_holds_from_a_date_on_until_it_is_cancelled() {
    let world = World::new().await;
    let from_ms = world.services.clock.now().0 + 3_600_000;
    let dated = |tenant: &str, gpus, until_ms| v1::SetTenantRequest {
        tenant: tenant.into(),
        dated_quotas: vec![v1::DatedQuota { quota: quota("h200", gpus).pop(), from_ms, until_ms, standing: None }],
        ..Default::default()
    };
    let until_ms = Some(from_ms + 60_000);
    let fusion = world.services.set(by(&operator(), dated("fusion", 12, until_ms))).await.expect("dated").into_inner();
    assert_eq!((fusion.quotas[0].quota, fusion.calendar.len()), (8, 1));
    let of_pool = fusion.calendar[0].quota.clone().expect("a quota");
    assert_eq!((of_pool.quota, fusion.calendar[0].until_ms, &fusion.calendar[0].standing), (12, until_ms, &None));
    let again = world.services.set(by(&operator(), dated("fusion", 16, None))).await.expect_err("two begin at once");
    assert_eq!(again.code(), Code::FailedPrecondition);
    assert!(again.message().starts_with("dated_quotas.from_ms: \"fusion\" has another dated quota"), "{again}");
    let cancel = |from_ms| v1::CancelDatedQuotaRequest { tenant: "fusion".into(), from_ms, ..Default::default() };
    let other = world.services.cancel_dated_quota(by(&operator(), cancel(from_ms + 1))).await.expect_err("none");
    assert_eq!(other.code(), Code::NotFound);
    let pd = identity("pd", Role::Pd, &["fusion"]);
    let own = world.services.cancel_dated_quota(by(&pd, cancel(from_ms))).await.expect_err("the mission itself");
    assert_eq!(own.code(), Code::PermissionDenied);
    let fusion = world.services.cancel_dated_quota(by(&operator(), cancel(from_ms))).await.expect("cancelled");
    assert!(fusion.into_inner().calendar.is_empty());
}

#[tokio::test]
async fn a_mission_is_paused_by_its_pd_and_the_cluster_by_an_operator() {
    let world = World::new().await;
    let pd = identity("pd", Role::Pd, &["fusion"]);
    let pause = |tenant: &str| v1::PauseRequest { request_id: String::new(), tenant: tenant.into() };
    let paused = world.services.pause(by(&pd, pause("fusion"))).await.expect("hers").into_inner();
    assert!(paused.paused);
    for tenant in ["solar", ""] {
        assert_eq!(
            world.services.pause(by(&pd, pause(tenant))).await.expect_err("not hers").code(),
            Code::PermissionDenied
        );
    }
    world.services.submit(by(&ana(), submit(vec![spec("fusion/plasma", 1)]))).await.expect("accepted");
    let why = world.services.explain(by(&ana(), v1::ExplainRequest { job_id: 1 })).await.expect("there").into_inner();
    assert_eq!(
        (why.blockers[0].code.as_str(), why.blockers[0].message.as_str()),
        ("PAUSED", "tenant fusion is paused")
    );
    let resume = v1::ResumeRequest { request_id: String::new(), tenant: "fusion".into() };
    assert!(
        !v1::tenants_server::Tenants::resume(&world.services, by(&pd, resume)).await.expect("hers").into_inner().paused
    );
    world.services.pause(by(&operator(), pause(""))).await.expect("an operator may");
    let listed =
        v1::tenants_server::Tenants::list(&world.services, by(&operator(), v1::ListTenantsRequest::default())).await;
    assert!(listed.expect("listed").into_inner().cluster_paused);
}

#[tokio::test]
async fn jobs_are_moved_only_by_the_plan_that_was_shown() {
    let world = World::new().await;
    let asked = || v1::PlanDefragRequest::default();
    let refused = world.services.plan_defrag(by(&ana(), asked())).await.expect_err("a member");
    assert_eq!(refused.code(), Code::PermissionDenied);
    let plan = world.services.plan_defrag(by(&operator(), asked())).await.expect("a plan").into_inner();
    assert!(plan.moves.is_empty(), "nothing runs: {plan:?}");
    assert_eq!((plan.before, plan.digest.len()), (plan.after, 64));
    let carry = |digest: &str| {
        let request = v1::DefragRequest { plan: Some(asked()), digest: digest.into(), reason: "room".into() };
        world.services.defrag(by(&operator(), request))
    };
    let other = carry("ab12").await.expect_err("another plan");
    expect!["FailedPrecondition: digest: this is not the plan as it would be now; look at it again: dure defrag"]
        .assert_eq(&format!("{:?}: {}", other.code(), other.message()));
    assert_eq!(carry(&plan.digest).await.expect("that plan").into_inner().digest, plan.digest);
    let nowhere = v1::PlanDefragRequest { pool: "b300".into(), max_moves: 0 };
    let unknown = world.services.plan_defrag(by(&operator(), nowhere)).await.expect_err("no such pool");
    assert_eq!(unknown.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn nodes_are_paged_kept_and_vouched_for() {
    let world = World::new().await;
    let page = |page_token: String| v1::ListNodesRequest {
        page: Some(v1::PageRequest { page_size: 1, page_token }),
        pool: "h200".into(),
        ..Default::default()
    };
    let list = async |request| v1::nodes_server::Nodes::list(&world.services, by(&ana(), request)).await;
    let first = list(page(String::new())).await.expect("listed").into_inner();
    let second = list(page(first.next_page_token)).await.expect("listed").into_inner();
    assert_eq!((first.nodes[0].name.as_str(), second.nodes[0].name.as_str()), ("n0", "n1"));
    assert!(second.next_page_token.is_empty());
    let act = |name: &str| v1::NodeActionRequest { request_id: String::new(), name: name.into(), reason: "fan".into() };
    assert_eq!(
        world.services.cordon(by(&ana(), act("n0"))).await.expect_err("a member").code(),
        Code::PermissionDenied
    );
    let cordoned = world.services.cordon(by(&operator(), act("n0"))).await.expect("kept").into_inner();
    assert!(cordoned.cordoned && cordoned.gpus_free == 0 && cordoned.gpus == 8);
    let drain =
        v1::DrainRequest { request_id: String::new(), name: "n0".into(), reason: String::new(), evict: true, at_ms: 0 };
    assert!(world.services.drain(by(&operator(), drain)).await.expect("kept").into_inner().draining);
    let resumed = v1::nodes_server::Nodes::resume(&world.services, by(&operator(), act("n0"))).await.expect("kept");
    assert_eq!(resumed.into_inner().gpus_free, 8);
    let alive = world.services.confirm_dead(by(&operator(), act("n0"))).await.expect_err("it is heard");
    expect![[
        r#"FailedPrecondition: name: node "n0" is not lost: its agent is heard; drain it instead: dure node drain"#
    ]]
    .assert_eq(&format!("{:?}: {}", alive.code(), alive.message()));
    let get = v1::GetNodeRequest { name: "n9".into() };
    let unknown = v1::nodes_server::Nodes::get(&world.services, by(&ana(), get)).await.expect_err("no such node");
    expect![[r#"NotFound: name: there is no node "n9"; see the nodes: dure nodes"#]].assert_eq(&format!(
        "{:?}: {}",
        unknown.code(),
        unknown.message()
    ));
}
