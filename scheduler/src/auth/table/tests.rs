//! The table as a whole: every method of the wire has a rule, and every role reaches as far as is written down here.

use dure_proto::FILE_DESCRIPTOR_SET;
use expect_test::expect;
use prost::Message as _;
use prost_types::FileDescriptorSet;

use super::*;
use crate::auth::{Credential, Identity, NodeName, Target};

/// Paths of all methods of the public API.
fn methods() -> Vec<String> {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("it was made by this build");
    let files = set.file.iter().filter(|file| file.package() == "dure.v1");
    let services = files.flat_map(|file| &file.service);
    services
        .flat_map(|service| service.method.iter().map(|m| format!("/dure.v1.{}/{}", service.name(), m.name())))
        .collect()
}

fn identity(role: Role) -> Identity {
    Identity {
        user: "ana".into(),
        role,
        missions: if role.has_missions() { vec!["fusion".into()] } else { Vec::new() },
        node: (role == Role::Agent).then(|| NodeName::parse("n1")),
        credential: Credential::Local,
    }
}

/// What the verb's call is about, by name: own and other.
fn targets(verb: Verb) -> Vec<(&'static str, Target<'static>)> {
    match verb {
        Verb::Submit
        | Verb::ReadTenants
        | Verb::SetTenants
        | Verb::Pause
        | Verb::Book
        | Verb::Forecast
        | Verb::ReadAudit => vec![
            ("own mission", Target::Tenant("fusion")),
            ("below own", Target::Tenant("fusion/plasma")),
            ("other", Target::Tenant("solar")),
            ("like own", Target::Tenant("fusion2/x")),
            ("all", Target::Tenant("")),
        ],
        Verb::ReadJobs | Verb::ReadPayload | Verb::ReadLogs | Verb::ControlJobs | Verb::Enter => vec![
            ("own job", Target::Job { tenant: "fusion/plasma", user: "ana" }),
            ("own mission", Target::Job { tenant: "fusion/plasma", user: "bo" }),
            ("other", Target::Job { tenant: "solar", user: "bo" }),
            ("own job elsewhere", Target::Job { tenant: "solar", user: "ana" }),
            ("own node", Target::Node("n1")),
            ("other node", Target::Node("n10")),
        ],
        Verb::ReadNodes | Verb::SeeLeader | Verb::HandOver | Verb::CopyHistory => vec![("all", Target::Cluster)],
        Verb::KeepNodes | Verb::Join | Verb::Session => {
            vec![("own node", Target::Node("n1")), ("other node", Target::Node("n10"))]
        }
    }
}

#[test]
fn every_method_has_a_rule_and_nothing_else_has() {
    let methods = methods();
    assert!(methods.len() >= 20, "the descriptor set lists the API: {methods:?}");
    for method in &methods {
        assert!(matches!(access(method), Some(Access::Needs(_))), "{method} has no rule in auth/table.rs");
    }
    for path in ["", "/", "/dure.v1.Jobs/Nothing", "/dure.v1.jobs/Get", "/dure.v1.Jobs/Get/", "dure.v1.Jobs/Get"] {
        assert_eq!(access(path), None, "{path:?}");
    }
}

#[test]
fn every_verb_guards_a_method_or_part_of_one() {
    let guarded: Vec<Access> = methods().iter().filter_map(|method| access(method)).collect();
    for verb in Verb::ALL.into_iter().filter(|verb| *verb != Verb::ReadPayload) {
        assert!(guarded.contains(&Access::Needs(verb)), "{verb:?} guards nothing");
    }
}

/// Every role x own and other, for the methods whose path begins so.
fn reach(begins: impl Fn(&str) -> bool) -> String {
    let mut text = String::new();
    for method in methods().into_iter().filter(|method| begins(method)) {
        let Some(Access::Needs(verb)) = access(&method) else { continue };
        text += &format!("{method} ({verb:?})\n");
        for role in Role::ALL {
            let allowed = targets(verb).into_iter().filter(|(_, target)| identity(role).may(verb, *target).is_ok());
            let names: Vec<&str> = allowed.map(|(name, _)| name).collect();
            if !names.is_empty() {
                text += &format!("    {}: {}\n", role.name(), names.join(", "));
            }
        }
    }
    text
}

/// A change of who may do what shows here.
#[test]
fn who_may_do_what_to_jobs() {
    expect![[r#"
        /dure.v1.Jobs/Submit (Submit)
            pd: own mission, below own
            member: own mission, below own
            operator: own mission, below own, other, like own, all
        /dure.v1.Jobs/Get (ReadJobs)
            pd: own job, own mission
            member: own job, own mission
            operator: own job, own mission, other, own job elsewhere, own node, other node
            auditor: own job, own mission, other, own job elsewhere, own node, other node
        /dure.v1.Jobs/List (ReadJobs)
            pd: own job, own mission
            member: own job, own mission
            operator: own job, own mission, other, own job elsewhere, own node, other node
            auditor: own job, own mission, other, own job elsewhere, own node, other node
        /dure.v1.Jobs/Cancel (ControlJobs)
            pd: own job, own mission
            member: own job
            operator: own job, own mission, other, own job elsewhere, own node, other node
        /dure.v1.Jobs/Hold (ControlJobs)
            pd: own job, own mission
            member: own job
            operator: own job, own mission, other, own job elsewhere, own node, other node
        /dure.v1.Jobs/Release (ControlJobs)
            pd: own job, own mission
            member: own job
            operator: own job, own mission, other, own job elsewhere, own node, other node
        /dure.v1.Jobs/Explain (ReadJobs)
            pd: own job, own mission
            member: own job, own mission
            operator: own job, own mission, other, own job elsewhere, own node, other node
            auditor: own job, own mission, other, own job elsewhere, own node, other node
        /dure.v1.Jobs/Watch (ReadJobs)
            pd: own job, own mission
            member: own job, own mission
            operator: own job, own mission, other, own job elsewhere, own node, other node
            auditor: own job, own mission, other, own job elsewhere, own node, other node
        /dure.v1.Jobs/Logs (ReadLogs)
            pd: own job, own mission
            member: own job, own mission
            operator: own job, own mission, other, own job elsewhere, own node, other node
            auditor: own job, own mission, other, own job elsewhere, own node, other node
        /dure.v1.Jobs/Exec (Enter)
            pd: own job
            member: own job
            operator: own job, own mission, other, own job elsewhere, own node, other node
            agent: own node
        /dure.v1.Jobs/Steps (ReadJobs)
            pd: own job, own mission
            member: own job, own mission
            operator: own job, own mission, other, own job elsewhere, own node, other node
            auditor: own job, own mission, other, own job elsewhere, own node, other node
    "#]]
    .assert_eq(&reach(|method| method.starts_with("/dure.v1.Jobs/")));
}

/// The same for what has been.
#[test]
fn who_may_see_what_has_been() {
    expect![[r#"
        /dure.v1.History/Usage (ReadTenants)
            pd: own mission, below own
            member: own mission, below own
            operator: own mission, below own, other, like own, all
            auditor: own mission, below own, other, like own, all
        /dure.v1.History/Jobs (ReadJobs)
            pd: own job, own mission
            member: own job, own mission
            operator: own job, own mission, other, own job elsewhere, own node, other node
            auditor: own job, own mission, other, own job elsewhere, own node, other node
        /dure.v1.History/Attempts (ReadJobs)
            pd: own job, own mission
            member: own job, own mission
            operator: own job, own mission, other, own job elsewhere, own node, other node
            auditor: own job, own mission, other, own job elsewhere, own node, other node
        /dure.v1.History/Evictions (ReadJobs)
            pd: own job, own mission
            member: own job, own mission
            operator: own job, own mission, other, own job elsewhere, own node, other node
            auditor: own job, own mission, other, own job elsewhere, own node, other node
        /dure.v1.History/Quotas (ReadTenants)
            pd: own mission, below own
            member: own mission, below own
            operator: own mission, below own, other, like own, all
            auditor: own mission, below own, other, like own, all
        /dure.v1.History/Audit (ReadAudit)
            pd: own mission, below own
            operator: own mission, below own, other, like own, all
            auditor: own mission, below own, other, like own, all
        /dure.v1.History/Copy (CopyHistory)
            operator: all
            auditor: all
    "#]]
    .assert_eq(&reach(|method| method.starts_with("/dure.v1.History/")));
}

/// The same for everything else.
#[test]
fn who_may_do_what_to_the_rest() {
    expect![[r#"
        /dure.v1.Tenants/List (ReadTenants)
            pd: own mission, below own
            member: own mission, below own
            operator: own mission, below own, other, like own, all
            auditor: own mission, below own, other, like own, all
        /dure.v1.Tenants/Set (SetTenants)
            pd: below own
            operator: own mission, below own, other, like own, all
        /dure.v1.Tenants/Pause (Pause)
            pd: own mission, below own
            operator: own mission, below own, other, like own, all
        /dure.v1.Tenants/Resume (Pause)
            pd: own mission, below own
            operator: own mission, below own, other, like own, all
        /dure.v1.Tenants/Usage (ReadTenants)
            pd: own mission, below own
            member: own mission, below own
            operator: own mission, below own, other, like own, all
            auditor: own mission, below own, other, like own, all
        /dure.v1.Tenants/CarryBudget (SetTenants)
            pd: below own
            operator: own mission, below own, other, like own, all
        /dure.v1.Tenants/CancelDatedQuota (SetTenants)
            pd: below own
            operator: own mission, below own, other, like own, all
        /dure.v1.Nodes/List (ReadNodes)
            pd: all
            member: all
            operator: all
            auditor: all
        /dure.v1.Nodes/Get (ReadNodes)
            pd: all
            member: all
            operator: all
            auditor: all
        /dure.v1.Nodes/Cordon (KeepNodes)
            operator: own node, other node
        /dure.v1.Nodes/Drain (KeepNodes)
            operator: own node, other node
        /dure.v1.Nodes/Resume (KeepNodes)
            operator: own node, other node
        /dure.v1.Nodes/ConfirmDead (KeepNodes)
            operator: own node, other node
        /dure.v1.Nodes/PlanDefrag (KeepNodes)
            operator: own node, other node
        /dure.v1.Nodes/Defrag (KeepNodes)
            operator: own node, other node
        /dure.v1.Bookings/List (ReadNodes)
            pd: all
            member: all
            operator: all
            auditor: all
        /dure.v1.Bookings/Create (Book)
            pd: own mission, below own
            operator: own mission, below own, other, like own, all
        /dure.v1.Bookings/Cancel (Book)
            pd: own mission, below own
            operator: own mission, below own, other, like own, all
        /dure.v1.Agents/Join (Join)
            agent: own node
        /dure.v1.Agents/Session (Session)
            agent: own node
        /dure.v1.Schedulers/Leader (SeeLeader)
            pd: all
            member: all
            operator: all
            auditor: all
            agent: all
        /dure.v1.Schedulers/HandOver (HandOver)
            operator: all
        /dure.v1.Forecasts/WhatIf (Forecast)
            pd: own mission, below own
            member: own mission, below own
            operator: own mission, below own, other, like own, all
            auditor: own mission, below own, other, like own, all
        /dure.v1.Forecasts/TestSubmit (Submit)
            pd: own mission, below own
            member: own mission, below own
            operator: own mission, below own, other, like own, all
        /dure.v1.Forecasts/Calibration (Forecast)
            pd: own mission, below own
            member: own mission, below own
            operator: own mission, below own, other, like own, all
            auditor: own mission, below own, other, like own, all
    "#]]
    .assert_eq(&reach(|method| !method.starts_with("/dure.v1.Jobs/") && !method.starts_with("/dure.v1.History/")));
}

#[test]
fn a_listing_shows_what_may_be_seen() {
    for role in Role::ALL {
        for verb in [Verb::ReadJobs, Verb::ReadTenants] {
            let may_all = identity(role).may(verb, Target::Job { tenant: "solar", user: "bo" }).is_ok();
            let may_own = identity(role).may(verb, Target::Job { tenant: "fusion/x", user: "bo" }).is_ok();
            match identity(role).visible(verb) {
                Ok(visible) => {
                    assert_eq!((visible.shows("solar"), visible.shows("fusion/x")), (may_all, may_own), "{role:?}");
                    assert!(visible.shows("fusion2") == may_all && visible.shows("") == may_all);
                }
                Err(_) => assert!(!may_all && !may_own, "{role:?}"),
            }
        }
    }
}

#[test]
fn a_refusal_says_how_far_the_role_reaches() {
    let refused = |role, verb, target| identity(role).may(verb, target).expect_err("it is refused").to_string();
    expect![[
        r#"pd "ana" may not define or change tenant "fusion": the role reaches what is below the own missions (fusion)"#
    ]]
    .assert_eq(&refused(Role::Pd, Verb::SetTenants, Target::Tenant("fusion")));
    let other = Target::Job { tenant: "fusion/plasma", user: "bo" };
    expect![[r#"member "ana" may not cancel, hold or release a job of "bo" in tenant "fusion/plasma": the role reaches the own jobs in the own missions (fusion)"#]].assert_eq(&refused(Role::Member, Verb::ControlJobs, other));
    expect![[r#"agent "ana" may not submit jobs to tenant "fusion": ask pd or member or operator"#]]
        .assert_eq(&refused(Role::Agent, Verb::Submit, Target::Tenant("fusion")));
    expect![[r#"agent "ana" may not speak for node "n10": the credential speaks for node n1 alone"#]]
        .assert_eq(&refused(Role::Agent, Verb::Session, Target::Node("n10")));
}

#[test]
fn a_prefix_speaks_for_all_nodes_that_begin_so() {
    let prefix = NodeName::parse("gpu-*");
    assert!(prefix.allows("gpu-1") && prefix.allows("gpu-") && !prefix.allows("gp") && !prefix.allows("x-gpu-1"));
    assert!(!NodeName::exactly("gpu-*").allows("gpu-1"), "a certificate names one node");
}
