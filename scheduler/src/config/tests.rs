//! The examples are good, and what is wrong is named with its place and its remedy.

use std::path::Path;

use dure_core::units::{Gpus, Span, Time};
use dure_core::{Cluster, decide};
use expect_test::{Expect, expect};

use super::*;

const EXAMPLE: &str = include_str!("../../../deploy/scheduler.toml");
const DEV: &str = include_str!("../../../deploy/dev.toml");

fn parsed(text: &str) -> Config {
    Config::parse(Path::new("/etc/dure/scheduler.toml"), text).expect("it is good TOML")
}

fn check(text: &str, expected: Expect) {
    let path = Path::new("/etc/dure/scheduler.toml");
    let found = Config::parse(path, text).and_then(|config| config.check().map(|()| config));
    expected.assert_eq(&found.expect_err("it must be refused").to_string());
}

/// A good file with `more` at its end.
fn with(more: &str) -> String {
    format!("data_dir = \"/d\"\n[[pool]]\nname = \"h200\"\nmodel = \"NVIDIA H200\"\ngpus_per_node = 8\n{more}")
}

fn built(config: &Config) -> Cluster {
    config.check().expect("it is good");
    let mut cluster = Cluster::new(config.core_policy());
    for input in config.inputs(&cluster) {
        decide(&mut cluster, input, None, Time(1), &mut Vec::new()).expect("the core takes what the check lets pass");
    }
    assert!(config.inputs(&cluster).is_empty(), "what is known is not defined again");
    cluster
}

fn quotas(cluster: &Cluster) -> Gpus {
    cluster.tenants().iter().filter(|tenant| tenant.depth == 1).map(|tenant| tenant.quota()).sum()
}

#[test]
fn the_example_divides_the_pool_and_leaves_spares_out() {
    let config = parsed(EXAMPLE);
    assert!(config.uses_tls() && !config.is_loopback());
    assert_eq!(config.auth_policy(), AuthPolicy::Credentials);
    assert_eq!(config.core_policy().priorities.len(), 4);
    let cluster = built(&config);
    assert_eq!(quotas(&cluster), Gpus::whole(7680), "of 8,000, less 320 spares");
    assert_eq!(cluster.tenants().iter().filter(|tenant| tenant.depth == 1).count(), 12);
    let screening = cluster.find_tenant("drug-discovery/screening").expect("it was defined");
    assert_eq!(cluster.tenant(screening).quota(), Gpus::whole(512));
}

#[test]
fn the_small_cluster_is_divided_whole() {
    let config = parsed(DEV);
    assert!(config.is_loopback() && !config.uses_tls());
    assert_eq!(config.deadlines().heartbeat, Span(200));
    assert_eq!(config.core_policy().keep_ended, Span::seconds(86_400));
    assert_eq!(config.auth_policy(), AuthPolicy::LocalOperator { user: "dev".into() });
    assert_eq!(quotas(&built(&config)), Gpus::whole(32));
}

#[test]
fn bad_toml_is_named_with_its_line() {
    check(
        "data_dir = \"/d\"\nlisten = \"somewhere\"\n",
        expect![[r#"
            /etc/dure/scheduler.toml: TOML parse error at line 2, column 10
              |
            2 | listen = "somewhere"
              |          ^^^^^^^^^^^
            invalid socket address syntax
        "#]],
    );
    check(
        "data_dir = \"/d\"\n[policy]\nmax_member = 5\n",
        expect![[r#"
            /etc/dure/scheduler.toml: TOML parse error at line 3, column 1
              |
            3 | max_member = 5
              | ^^^^^^^^^^
            unknown field `max_member`, expected one of `priorities`, `default_priority`, `max_jobs_per_submit`, `max_pending_jobs`, `max_members`, `max_array_size`, `max_dependencies`, `max_classes`, `max_placements_per_cycle`, `max_members_per_cycle`, `max_time_limit`, `default_time_limit`, `default_grace`, `max_grace`, `max_hold_survivors`, `max_attempts`, `launch_deadline`, `time_limit_slack`, `backoff`, `max_backoff`, `keep_ended`, `max_ended`, `max_requests`, `half_life`, `learn_half_life`, `search_steps`, `max_evicting_failures`, `min_budget_period`, `default_min_run`, `plan_in_time`, `reserve_after`, `reserve_interval`, `reserve_refresh`, `max_reservations`, `max_backfill_per_cycle`, `default_reclaim_within`, `reclaim_patience`, `restart_cost`, `grow_after`, `max_tenant_depth`, `max_tenants`, `max_dated_quotas`, `max_bookings`, `max_booking_ahead`, `max_users`, `max_quota`
        "#]],
    );
    check(
        "data_dir = \"/d\"\n[liveness]\nheartbeat = \"1 s\"\n",
        expect![[r#"
        /etc/dure/scheduler.toml: TOML parse error at line 3, column 13
          |
        3 | heartbeat = "1 s"
          |             ^^^^^
        invalid value: string "1 s", expected a span with its unit, as in "24h", "90s" or "1d12h"
    "#]],
    );
    check(
        "listen = \"127.0.0.1:1\"\n",
        expect![[r#"
        /etc/dure/scheduler.toml: TOML parse error at line 1, column 1
          |
        1 | listen = "127.0.0.1:1"
          | ^
        missing field `data_dir`
    "#]],
    );
}

#[test]
fn access_from_outside_needs_tokens() {
    check(
        "data_dir = \"/d\"\nlisten = \"0.0.0.0:7070\"\n",
        expect![[
            r#"listen = 0.0.0.0:7070: not a loopback address, so callers must show who they are: set tokens = "tokens.toml" (make tokens with dure token create), or listen on 127.0.0.1"#
        ]],
    );
    check(
        "data_dir = \"/d\"\nlisten = \"0.0.0.0:7070\"\ntokens = \"t\"\nlocal_operator = \"me\"\n",
        expect![[
            r#"local_operator = "me": only where every address is a loopback one: remove it, or listen on 127.0.0.1"#
        ]],
    );
    check(
        "data_dir = \"/d\"\nmetrics_listen = \"0.0.0.0:1\"\nlocal_operator = \"me\"\n",
        expect![[
            r#"local_operator = "me": only where every address is a loopback one: remove it, or listen on 127.0.0.1"#
        ]],
    );
    check(
        "data_dir = \"/d\"\n[tls]\ncert = \"c\"\n",
        expect![
            "tls.key = absent: set cert and key together, or leave both out for a certificate of the cluster's own authority"
        ],
    );
}

#[test]
fn a_division_that_cannot_be_is_refused() {
    check(
        &with("[[tenant]]\nname = \"a\"\nquota = 8\nlimit = 4\n"),
        expect!["tenant[0].limit = 4: use the quota of 8 or more"],
    );
    check(
        &with("[[tenant]]\nname = \"a\"\nquota = 8\nlend_limit = 9\n"),
        expect!["tenant[0].lend_limit = 9: use at most the quota of 8"],
    );
    check(
        &with("[[tenant]]\nname = \"a\"\nlimit = 9\n"),
        expect!["tenant[0].quota = absent: a limit or lend_limit needs a quota beside it; 0 is one"],
    );
    check(
        &with("[[tenant]]\nname = \"a\"\nquota = 1\npool = \"b200\"\n"),
        expect![[r#"tenant[0].pool = "b200": name one of the [[pool]]s of this file"#]],
    );
    check(&with("[[tenant]]\nname = \"a/b\"\nquota = 1\n"), expect![[r#"tenant[0].name = "a/b": define "a" as well"#]]);
    check(
        &with("[[tenant]]\nname = \"a\"\n[[tenant]]\nname = \"a\"\n"),
        expect![[r#"tenant[1].name = "a": defined twice: remove one"#]],
    );
    check(
        &with(
            "[[tenant]]\nname = \"a\"\nquota = 8\n[[tenant]]\nname = \"a/b\"\nquota = 5\n[[tenant]]\nname = \"a/c\"\nquota = 4\n",
        ),
        expect![[r#"tenant "a" quota = 8: below the 9 of the tenants right below it: raise it, or lower theirs"#]],
    );
    check(
        &with("[[pool]]\nname = \"h200\"\nmodel = \"x\"\ngpus_per_node = 8\n"),
        expect![[r#"pool[1].name = "h200": there is another pool of this name: rename one"#]],
    );
    check(
        "data_dir = \"/d\"\n[[pool]]\nname = \"p\"\nmodel = \"x\"\ngpus_per_node = 33\n",
        expect!["pool[0].gpus_per_node = 33: use 1 to 32"],
    );
}

#[test]
fn rules_and_deadlines_that_cannot_be_are_refused() {
    check(
        &with("[policy]\ndefault_time_limit = \"60d\"\n"),
        expect!["policy.default_time_limit = 5184000000ms: longer than its maximum of 2592000000ms: lower it"],
    );
    check(
        &with("[policy]\npriorities = [\"a\", \"b\"]\n"),
        expect!["policy.default_priority = absent: name the class of jobs that name none"],
    );
    check(
        &with("[policy]\ndefault_priority = \"top\"\n"),
        expect![[r#"policy.default_priority = "top": name one of policy.priorities"#]],
    );
    check(&with("[policy]\nmax_attempts = 0\n"), expect!["policy.max_attempts = 0: use at least 1"]);
    check(
        &with("[liveness]\nsuspect_after = \"1500ms\"\n"),
        expect!["liveness.suspect_after = 1500ms: use at least two heartbeats"],
    );
    check(
        &with("[liveness]\nlost_after = \"15s\"\n"),
        expect!["liveness.lost_after = 15000ms: use more than suspect_after"],
    );
    check(
        &with("[snapshot]\nevery_events = 0\n"),
        expect!["snapshot.every_events = 0: use at least 1, and a time above 0"],
    );
}

#[test]
fn paths_are_relative_to_the_file_and_the_topology_is_checked() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("scheduler.toml");
    std::fs::write(&file, "data_dir = \"data\"\ntopology = \"topology.toml\"\n").expect("it is written");
    let topology = dir.path().join("topology.toml");
    let text = "[nodes]\nn0 = { site = \"a\", spine = \"s0\", leaf = \"l0\" }\nn1 = { site = \"a\", leaf = \"l1\" }\n";
    std::fs::write(&topology, text).expect("it is written");
    let config = Config::load(&file).expect("it is good");
    assert_eq!(config.data_dir, dir.path().join("data"));
    let locations = config.locations().expect("it is good");
    assert_eq!((locations.len(), &*locations["n0"].leaf), (2, "l0"));
    std::fs::write(&topology, "[nodes]\nn0 = { leaf = \"l 0\" }\n").expect("it is written");
    let refused = Config::load(&file).expect_err("white space in a name").to_string();
    assert!(refused.ends_with("topology.toml: node \"n0\": the name \"l 0\" of its Leaf domain holds white space, a control character or '/': leave it out"), "{refused}");
    assert!(
        Config::load(&dir.path().join("none.toml")).expect_err("no file").to_string().contains("name a readable file")
    );
}
