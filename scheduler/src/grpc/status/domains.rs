//! What is wrong with whole domains in a quota, in words.

use dure_core::rejected::DomainsFault;
use dure_core::request::Level;
use dure_core::units::Time;

use crate::grpc::text::{level_name, moment};

pub(super) fn problem(fault: &DomainsFault) -> String {
    match fault {
        DomainsFault::AnotherKind { pool, tenant, level, nodes } => {
            format!("{tenant:?} is promised {} in pool {pool}, and a pool has one kind", of_kind(*level, *nodes))
        }
        DomainsFault::NoSuch { pool, level, nodes, widest } => {
            let level = level_name(*level);
            format!("a {level} with {nodes} nodes; the widest {level} has {widest} nodes of pool {pool}")
        }
        DomainsFault::AboveQuota { domains, needs, quota } => {
            format!("{domains} whole domains are {needs} GPUs, the quota is {quota}")
        }
        DomainsFault::AboveParent { parent, children, domains, from } => {
            let when = since(*from);
            format!("{when}{children} whole domains would be promised below {parent:?}, its own are {domains}")
        }
        DomainsFault::TooMany { pool, level, nodes, promised, there, from } => {
            let (when, kind) = (since(*from), of_kind(*level, *nodes));
            format!("{when}{promised} {kind} would be promised in pool {pool}, there are {there}")
        }
    }
}

pub(super) fn remedy(fault: &DomainsFault) -> &'static str {
    match fault {
        DomainsFault::AnotherKind { .. } => "ask for the same, or take the others away first",
        DomainsFault::NoSuch { .. } => {
            "name a level whose domains have nodes of this pool, and no more nodes than the widest"
        }
        DomainsFault::AboveQuota { .. } => "raise the quota in the same request, or ask for fewer domains",
        DomainsFault::AboveParent { .. } => "give the tenant above whole domains first, or ask for fewer",
        DomainsFault::TooMany { .. } => "ask for fewer, or for domains with fewer nodes (as leaf=4x31)",
    }
}

fn since(from: Option<Time>) -> String {
    from.map(|from| format!("from {} on ", moment(from))).unwrap_or_default()
}

fn of_kind(level: Level, nodes: u32) -> String {
    if level == Level::Node {
        "whole nodes".to_owned()
    } else {
        format!("{} domains of {nodes} nodes", level_name(level))
    }
}
