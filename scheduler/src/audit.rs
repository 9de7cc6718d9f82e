//! What a mutation is about, in words: the half of the audit that its input knows. Who called is `auth::Caller`.
//!
//! In: an input and the state before it is decided, then the reply. Out: the record that the turn's batch carries.

use std::fmt::Write as _;

use dure_core::Cluster;
use dure_core::event::TenantChange;
use dure_core::ids::JobId;
use dure_core::input::{BookingDraft, Dates, Input, JobDraft, TenantDraft};
use dure_core::reply::Reply;

use crate::auth::Caller;
use crate::grpc::text::rules::{rules, whole};
use crate::grpc::text::{hours, moment};
use crate::record::CallRecord;

/// What an input is about.
#[derive(Debug, Default)]
pub struct Subject {
    tenant: Box<str>,
    job: u64,
    what: String,
}

impl Subject {
    /// Reads it off the input, before the input is decided.
    pub fn of(cluster: &Cluster, input: &Input) -> Self {
        match input {
            Input::DefinePool { name, .. } => Self::words(format!("pool {name}")),
            Input::SetTenant(draft) => Self { tenant: draft.name.clone(), job: 0, what: tenant_words(draft) },
            Input::Pause { tenant, .. } => Self { tenant: tenant.clone(), ..Self::default() },
            Input::CarryBudget { tenant, gpu_time } => {
                let what = gpu_time.map_or("all of it".to_owned(), |part| format!("{} GPU-hours", hours(part)));
                Self { tenant: tenant.clone(), job: 0, what }
            }
            Input::CancelDatedQuota { tenant, pool, from } => {
                let pool = if pool.is_empty() { String::new() } else { format!(" in {pool}") };
                let what = format!("quota{pool} from {} is cancelled", moment(*from));
                Self { tenant: tenant.clone(), job: 0, what }
            }
            Input::Book(draft) => Self { tenant: draft.tenant.clone(), job: 0, what: booking_words(draft) },
            Input::CancelBooking { name } => Self::words(format!("reservation {name} is cancelled")),
            Input::Submit(drafts) => submit_words(drafts),
            Input::Cancel(job) | Input::Hold(job) | Input::Release(job) => Self::job(cluster, *job),
            Input::Cordon { node } | Input::Resume { node } | Input::ConfirmDead { node } => {
                Self::words(format!("node {node}"))
            }
            Input::Drain { node, evict } => {
                Self::words(format!("node {node}{}", if *evict { ", what runs there is stopped" } else { "" }))
            }
            Input::Defragment(moves) => Self::words(format!("{} jobs are moved closer together", moves.len())),
            Input::NodeHello(draft) => Self::words(format!("node {}", draft.name)),
            Input::NodeHealth { node, .. } | Input::NodeSilent(node) | Input::NodeLost(node) => {
                Self::words(format!("node {}", cluster.node(*node).name))
            }
            Input::MemberReported { job, .. } | Input::NoGpuWork { job, .. } => Self::job(cluster, *job),
            Input::Tick | Input::TickDates | Input::CameBack => Self::default(),
            Input::SkipIds { next_job, .. } => Self::words(format!("ids of jobs go on from {}", next_job.0)),
        }
    }

    fn words(what: String) -> Self {
        Self { what, ..Self::default() }
    }

    fn job(cluster: &Cluster, id: JobId) -> Self {
        let tenant = cluster.job(id).map_or_else(Box::default, |job| cluster.tenant(job.spec.tenant).name.clone());
        Self { tenant, job: id.0, what: format!("job {id}") }
    }

    /// The record of a call that was accepted and led to `events` events.
    pub fn record(self, by: Caller, reply: &Reply, events: usize) -> CallRecord {
        let Self { tenant, mut job, mut what } = self;
        if let Reply::Submitted { first, count } = reply {
            job = first.0;
            let _ = match count {
                0 | 1 => write!(what, ": job {first}"),
                _ => write!(what, ": jobs {first} to {}", first.0 + u64::from(*count) - 1),
            };
        }
        let Caller { user, role, origin, method, reason } = by;
        let events = u32::try_from(events).unwrap_or(u32::MAX);
        CallRecord { user, role: role.into(), origin, method, tenant, job, what: what.into(), reason, events }
    }
}

fn submit_words(drafts: &[JobDraft]) -> Subject {
    let tenant = drafts.first().map_or_else(Box::default, |draft| draft.tenant.clone());
    let what = match drafts {
        [one] => one.name.to_string(),
        [first, ..] => format!("{} and {} more", first.name, drafts.len() - 1),
        [] => String::new(),
    };
    Subject { tenant, job: 0, what }
}

/// Which nodes are kept, when and for what.
fn booking_words(draft: &BookingDraft) -> String {
    let nodes = match &draft.nodes[..] {
        [] => format!("{} nodes of pool {:?}", draft.count, draft.pool),
        names => names.join(","),
    };
    let until = draft.until.map(|until| format!(" until {}", moment(until))).unwrap_or_default();
    let purpose = match (draft.maintenance, draft.all_jobs) {
        (true, _) => "maintenance",
        (false, true) => "all jobs",
        (false, false) => "jobs that name it",
    };
    let forced = if draft.force { ", whatever runs there" } else { "" };
    format!("reservation {} of {nodes} from {}{until} for {purpose}{forced}", draft.name, moment(draft.from))
}

/// What of a tenant is set, as on the command line.
fn tenant_words(draft: &TenantDraft) -> String {
    let mut words: Vec<String> = Vec::new();
    for quota in &draft.quotas {
        let pool = if quota.pool.is_empty() { String::new() } else { format!(" in {}", quota.pool) };
        let limit = quota.limit.map_or("none".to_owned(), |limit| limit.to_string());
        let lends = quota.lend_limit.map_or("all".to_owned(), |lends| lends.to_string());
        let until = |dates: Dates| dates.until.map(|until| format!(" until {}", moment(until))).unwrap_or_default();
        let dates = quota.dates.map(|dates| format!(" from {}{}", moment(dates.from), until(dates)));
        let dates = dates.unwrap_or_default();
        let domains = quota.domains.map(|domains| format!(", {}", whole(domains.count, domains.level)));
        let domains = domains.unwrap_or_default();
        words.push(format!("quota {}{pool}, limit {limit}, lends {lends}{domains}{dates}", quota.quota));
    }
    words.extend(draft.create.then(|| "create".to_owned()));
    let TenantDraft { weight, default_time_limit, min_run, caps, budget, reclaim_within, idle, .. } = draft;
    words.extend(rules(&TenantChange {
        weight: *weight,
        default_time_limit: *default_time_limit,
        min_run: *min_run,
        caps: *caps,
        budget: *budget,
        reclaim_within: *reclaim_within,
        idle: *idle,
        ..TenantChange::default()
    }));
    words.join("; ")
}
