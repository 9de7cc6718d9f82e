//! A question on the wire -> a change of a copy of the state, and what comes of it -> the wire. Every size is checked.

use dure_core::Cluster;
use dure_core::input::{DomainsDraft, JobDraft, NodeDraft, QuotaDraft, TenantDraft};
use dure_core::tenant::DomainQuota;
use dure_core::units::{Gpus, Span, Time};
use dure_proto::v1;
use dure_replay::forecast::{Change, HORIZON, Outlook, Trials, WhatIf, trial, what_if};
use dure_replay::learned::Learned;
use tonic::Status;

use super::{ahead, on_wire};
use crate::grpc::status::{Violation, refused};
use crate::grpc::{convert, text};

/// Changes of quotas in one question.
const MAX_QUOTAS: usize = 256;
/// Nodes that are taken away or added in one question.
const MAX_NODES: usize = 4_096;
/// Jobs in one question.
const MAX_JOBS: usize = 64;

/// What is asked.
pub(crate) struct Question {
    pub(super) quotas: Vec<v1::QuotaChange>,
    pub(super) nodes_out: Vec<String>,
    pub(super) nodes_in: Vec<v1::MoreNodes>,
    jobs: Vec<JobDraft>,
    horizon: Span,
    /// The history of so long a time instead of the future.
    pub(crate) last: Option<Span>,
}

/// The jobs of a question.
pub(crate) fn jobs(specs: Vec<v1::JobSpec>, user: &str) -> Result<Vec<JobDraft>, Violation> {
    if specs.len() > MAX_JOBS {
        return Err(Violation::new("jobs", format!("{} jobs; ask about at most {MAX_JOBS} at once", specs.len())));
    }
    let draft = |(at, spec)| match convert::submit::job(spec, user) {
        Ok(submitted) => Ok(submitted.draft),
        Err(violation) => Err(violation.inside(&format!("jobs[{at}]"))),
    };
    specs.into_iter().enumerate().map(draft).collect()
}

impl Question {
    /// Reads what `user` asks.
    pub(crate) fn read(request: v1::WhatIfRequest, user: &str) -> Result<Self, Violation> {
        let v1::WhatIfRequest { quotas, remove_nodes, add_nodes, jobs, horizon_ms, last_ms } = request;
        if quotas.len() > MAX_QUOTAS {
            return Err(Violation::new("quotas", format!("{} changes; at most {MAX_QUOTAS}", quotas.len())));
        }
        if remove_nodes.len() > MAX_NODES {
            return Err(Violation::new("remove_nodes", format!("{} nodes; at most {MAX_NODES}", remove_nodes.len())));
        }
        let more = add_nodes.iter().map(|more| more.count as usize).fold(0, usize::saturating_add);
        if more > MAX_NODES || add_nodes.len() > MAX_NODES {
            return Err(Violation::new("add_nodes", format!("{more} nodes together; at most {MAX_NODES}")));
        }
        if last_ms > 0 && !jobs.is_empty() {
            return Err(Violation::new("jobs", "a history has its own jobs; leave last_ms out, or the jobs"));
        }
        let horizon = if horizon_ms == 0 { HORIZON } else { Span(horizon_ms).min(HORIZON) };
        let last = (last_ms > 0).then_some(Span(last_ms));
        let jobs = self::jobs(jobs, user)?;
        Ok(Self { quotas, nodes_out: remove_nodes, nodes_in: add_nodes, jobs, horizon, last })
    }

    /// What comes of it, for all missions.
    pub(super) fn answer(
        self,
        cluster: &Cluster,
        now: Time,
        learned: &Learned,
        go_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<v1::WhatIfResponse, Status> {
        let change = self.change(cluster)?;
        let ahead = ahead(now, self.horizon, learned, go_on);
        let (seen, trials) = what_if(cluster, change, &ahead).map_err(|why| refused(&why))?;
        let jobs = job_forecasts(&trials, now, self.horizon);
        Ok(v1::WhatIfResponse { jobs, as_of_ms: now.0, horizon_ms: self.horizon.0, ..on_the_wire(seen) })
    }

    fn change(&self, cluster: &Cluster) -> Result<Change, Violation> {
        let tenants =
            self.quotas.iter().enumerate().map(|(at, change)| {
                quota(cluster, change).map_err(|violation| violation.inside(&format!("quotas[{at}]")))
            });
        let mut nodes_in = Vec::new();
        for (at, more) in self.nodes_in.iter().enumerate() {
            let of = further(cluster, more, nodes_in.len());
            nodes_in.extend(of.map_err(|violation| violation.inside(&format!("add_nodes[{at}]")))?);
        }
        Ok(Change {
            tenants: tenants.collect::<Result<_, _>>()?,
            nodes_out: self.nodes_out.iter().map(|node| node.as_str().into()).collect(),
            nodes_in,
            jobs: self.jobs.clone(),
        })
    }
}

/// The quota in a pool as it would be; what is not named is taken from what is there.
fn quota(cluster: &Cluster, change: &v1::QuotaChange) -> Result<TenantDraft, Violation> {
    let tenant = cluster.find_tenant(&change.tenant).filter(|_| !change.tenant.is_empty()).ok_or_else(|| {
        Violation::new("tenant", format!("there is no tenant {:?}; see the tenants: dure quota show", change.tenant))
    })?;
    let pool = if change.pool.is_empty() { cluster.pools().first().map(|pool| &pool.name) } else { None };
    let pool: Box<str> = pool.cloned().unwrap_or_else(|| change.pool.as_str().into());
    let found = cluster.find_pool(&pool);
    let now = found.map(|pool| cluster.tenant(tenant).quota_in(pool)).unwrap_or_default();
    let or = |asked: Option<u32>, now: Option<Gpus>| asked.map(Gpus::whole).or(now);
    let quota = QuotaDraft {
        pool,
        quota: or(change.quota, now.quota).unwrap_or_default(),
        limit: or(change.limit, now.limit),
        lend_limit: or(change.lend_limit, now.lend_limit),
        domains: match change.domains {
            Some(domains) => Some(convert::tenant::domains(domains)?),
            None => {
                now.domains.map(|DomainQuota { level, count, nodes }| DomainsDraft { level, count, nodes: Some(nodes) })
            }
        },
        dates: None,
    };
    Ok(TenantDraft { name: change.tenant.as_str().into(), quotas: vec![quota], ..TenantDraft::default() })
}

/// Nodes like one that is there; `from` others were added before.
fn further(cluster: &Cluster, more: &v1::MoreNodes, from: usize) -> Result<Vec<NodeDraft>, Violation> {
    let like = match more.like.as_str() {
        "" => cluster.nodes().first(),
        name => cluster.find_node(name).map(|node| cluster.node(node)),
    };
    let like = like.ok_or_else(|| {
        Violation::new("like", format!("there is no node {:?}; name one that is there: dure nodes", more.like))
    })?;
    let draft = |number: usize| NodeDraft {
        name: format!("{}~{}", like.name, number + 1).into(),
        model: cluster.pool(like.pool).model.clone(),
        location: like.location.clone(),
        capacity: like.capacity.clone(),
        bad: Default::default(),
        boot_id: "what-if".into(),
    };
    Ok((from..from + more.count as usize).map(draft).collect())
}

/// Whether, when and where jobs would start.
pub(crate) fn test_submit(
    cluster: &Cluster,
    drafts: Vec<JobDraft>,
    now: Time,
    learned: &Learned,
    go_on: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<v1::JobForecast>, Status> {
    let trials = trial(cluster, drafts, &ahead(now, HORIZON, learned, go_on)).map_err(|why| refused(&why))?;
    Ok(job_forecasts(&trials, now, HORIZON))
}

fn job_forecasts(trials: &Trials, now: Time, horizon: Span) -> Vec<v1::JobForecast> {
    let forecast = |trial: &dure_replay::forecast::Trial| v1::JobForecast {
        estimate: Some(on_wire(&trial.estimate, now, horizon)),
        nodes: trial.nodes.iter().map(|node| node.to_string()).collect(),
        never: trial.never.as_ref().map(|blocker| text::blocker(&trials.after, blocker)),
    };
    trials.list.iter().map(forecast).collect()
}

pub(super) fn on_the_wire(seen: WhatIf) -> v1::WhatIfResponse {
    let WhatIf { before, mut after, is_cut, digest } = seen;
    let mut missions: Vec<v1::MissionOutlook> = before
        .into_iter()
        .map(|(tenant, before)| {
            let after = after.remove(&tenant).map(outlook);
            v1::MissionOutlook { tenant, before: Some(outlook(before)), after }
        })
        .collect();
    let new = after.into_iter();
    missions.extend(new.map(|(tenant, after)| v1::MissionOutlook {
        tenant,
        before: None,
        after: Some(outlook(after)),
    }));
    v1::WhatIfResponse { missions, digest, cut_short: is_cut, ..Default::default() }
}

fn outlook(of: Outlook) -> v1::Outlook {
    v1::Outlook {
        quota: of.quota,
        jobs: of.waiting,
        started: of.started,
        wait_mean_s: of.wait_s.mean,
        wait_p50_s: of.wait_s.p50,
        wait_p95_s: of.wait_s.p95,
        evictions: of.evictions,
        lost_gpu_hours: of.lost_gpu_hours,
    }
}
