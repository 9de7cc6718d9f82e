use expect_test::expect;

use super::*;

fn tenant(name: &str) -> v1::Tenant {
    let quota =
        |pool: &str, quota, limit| PoolQuota { pool: pool.into(), quota, limit, lend_limit: None, domains: None };
    v1::Tenant {
        name: name.into(),
        weight: 1,
        quotas: vec![quota("h200", 16, Some(24)), quota("b200", 4, None)],
        usage: vec![v1::PoolUsage {
            pool: "h200".into(),
            used: 20,
            own: 16,
            borrowed: 4,
            overhang: 2,
            domains_used: 1,
        }],
        running_jobs: 3,
        pending_jobs: 2,
        pending_gpus: 12,
        paused: true,
        ..v1::Tenant::default()
    }
}

#[test]
fn quotas_by_pool() {
    let pool =
        |name: &str, usable| PoolState { pool: name.into(), installed: 32, usable, guaranteed: 20, domains: None };
    let pools = vec![pool("h200", 24), pool("b200", 15)];
    let all = v1::ListTenantsResponse { tenants: vec![tenant("fusion")], cluster_paused: true, position: None, pools };
    expect![[r#"
        TENANT  POOL  QUOTA  LIMIT  LENDS  WEIGHT  OWN  BORROWED  RUNNING  PENDING  WANTS GPUS  STATE
        fusion  h200     16     24    all       1   16         4        3        2          12  paused, overhang 2
                b200      4   none    all            0         0
        h200: 32 GPUs, 24 usable now, 20 in quotas
        b200: 32 GPUs, 15 usable now, 20 in quotas: more than there is; what becomes free is shared so that each mission gets 75 % of its quota
        the whole cluster is paused: nothing starts (dure resume)
    "#]]
    .assert_eq(&quota_table(&all, Out::plain()));
}

#[test]
fn whole_domains_are_shown_where_some_are_promised() {
    let mut fusion = tenant("fusion");
    fusion.quotas[0].domains = Some(domains::said("leaf=2x4").expect("it is one"));
    let domains = v1::WholeDomains { level: v1::TopologyLevel::Leaf.into(), nodes: 4, whole: 3, clean: 0, unused: 1 };
    let h200 = PoolState { pool: "h200".into(), installed: 32, usable: 32, guaranteed: 20, domains: Some(domains) };
    let all = v1::ListTenantsResponse { tenants: vec![fusion], pools: vec![h200], ..Default::default() };
    expect![[r#"
        TENANT  POOL  QUOTA  LIMIT  LENDS  DOMAINS   USED  WEIGHT  OWN  BORROWED  RUNNING  PENDING  WANTS GPUS  STATE
        fusion  h200     16     24    all  leaf=2x4     1       1   16         4        3        2          12  paused, overhang 2
                b200      4   none    all  none         0            0         0
        h200: 32 GPUs, 32 usable now, 20 in quotas
        h200: 3 leaf domains of 4 nodes, 0 of them with nothing that stays; 1 are promised to missions that do not use them: 1 short until nodes come back or what lies in the way is over
    "#]].assert_eq(&quota_table(&all, Out::plain()));
}

#[test]
fn domains_are_said_as_they_are_shown() {
    for text in ["leaf=4x31", "node=8", "none"] {
        assert_eq!(domains::words(Some(&domains::said(text).expect(text))), text);
    }
    assert_eq!(domains::said("leaf=4").expect("it is one").nodes, 0);
    for text in ["leaf", "leaf=many", "leaf=4x", "rack=4"] {
        assert!(domains::said(text).expect_err(text).contains("levels: node, nvlink"), "{text}");
    }
    let request = set(|args| args.domains = Some(domains::said("leaf=4").expect("it is one"))).expect("says something");
    assert_eq!((request.quotas[0].quota, request.quotas[0].domains.map(|domains| domains.count)), (16, Some(4)));
}

fn set(change: impl FnOnce(&mut SetArgs)) -> Result<SetTenantRequest, String> {
    let mut args = SetArgs {
        tenant: "fusion".into(),
        quota: None,
        limit: None,
        lend_limit: None,
        domains: None,
        dates: calendar::DatesArgs::default(),
        pool: String::new(),
        weight: None,
        default_time: None,
        min_run: None,
        reclaim_within: None,
        idle: idle::IdleArgs::default(),
        budget: None,
        caps: ledgers::CapsArgs::default(),
        create: false,
        forecast: None,
    };
    change(&mut args);
    args.request(Some(&tenant("fusion"))).map_err(|failure| failure.text())
}

#[test]
fn what_is_not_named_stays() {
    let request = set(|args| args.quota = Some(20)).expect("says something");
    assert_eq!((request.quotas[0].quota, request.quotas[0].limit), (20, Some(24)));
    let request = set(|args| args.limit = Some("none".into())).expect("says something");
    assert_eq!((request.quotas[0].quota, request.quotas[0].limit), (16, None));
    let request = set(|args| args.budget = Some("100/30d".into())).expect("says something");
    let granted = request.budget.expect("a budget");
    assert_eq!((granted.gpu_ms, granted.period_ms), (360_000_000, 30 * 86_400_000));
    assert_eq!(set(|args| args.budget = Some("none".into())).expect("none").budget.expect("none").period_ms, 0);
    assert!(set(|args| args.budget = Some("many".into())).expect_err("no").contains("--budget many"));
    assert!(set(|_| ()).expect_err("nothing").contains("nothing to set"));
    assert!(set(|args| args.limit = Some("lots".into())).expect_err("no number").contains("--limit lots"));
}
