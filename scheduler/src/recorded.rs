//! The cluster's own history as a trace: what was submitted, how long it ran, on which nodes, under which quotas.
//!
//! In: a journal from the first event that is kept. Out: rows as a trace file holds them, with the times of the journal. A job belongs to
//! its mission here, whatever team submitted it; an index of an array is a job. Jobs that never ran, or run still, have no
//! run time that anybody knows: they are left out, and counted.

use std::collections::BTreeMap;

use dure_core::event::Event;
use dure_core::ids::{JobId, PoolIndex, Seq};
use dure_core::input::DomainsDraft;
use dure_core::job::{Job, Outcome};
use dure_core::request::Shape;
use dure_core::tenant::{DomainQuota, Quota, Tenant};
use dure_core::units::{CpuMilli, Gpus, MemoryMib, Span, Time};
use dure_core::{Cluster, Policy};
use dure_replay::forecast::learn;
use dure_replay::learned::Learned;
use dure_replay::trace::{Mission, TraceJob, TraceNode};

use crate::recover::{RecoverError, Recovered, apply_all};
use crate::source::{Source, Turns};

/// A history as a trace.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// The nodes as they were last.
    pub nodes: Vec<TraceNode>,
    /// The jobs by their ids.
    pub jobs: Vec<TraceJob>,
    /// What the missions had last.
    pub missions: Vec<Mission>,
    /// Jobs that had not run to an end.
    pub left_out: usize,
    /// Time of the last event.
    pub until: Time,
}

/// Reads the whole journal, as far back as it is kept.
///
/// # Errors
/// [`RecoverError`] with the position of what stands in the way.
pub fn recorded<S: Source + ?Sized>(source: &S) -> Result<Recorded, RecoverError> {
    let Recovered { mut cluster, head, .. } = Recovered::beginning(source, Policy::standard())?;
    let mut found: BTreeMap<JobId, TraceJob> = BTreeMap::new();
    let (mut left_out, mut until) = (0, Time(0));
    for turn in Turns::from(source, Seq(head.0 + 1)) {
        let turn = turn?;
        until = turn.time;
        let mut from = 0;
        for (at, event) in turn.events.iter().enumerate() {
            // A job is looked at before the event that ends it is applied: then its last attempt is still there.
            let Event::JobEnded { job, outcome } = event else { continue };
            apply_all(&mut cluster, turn.time, turn.first_seq + from as u64, &turn.events[from..at])?;
            from = at;
            match cluster.job(*job).and_then(|job| row(&cluster, job, *outcome)) {
                Some(row) => drop(found.insert(*job, row)),
                None => left_out += 1,
            }
        }
        apply_all(&mut cluster, turn.time, turn.first_seq + from as u64, &turn.events[from..])?;
    }
    left_out += cluster.jobs().iter().filter(|job| job.ended_at.is_none() && job.progress.is_none()).count();
    let nodes = cluster.nodes().iter().map(|node| TraceNode {
        name: node.name.to_string(),
        model: cluster.pool(node.pool).model.to_string(),
        gpus: node.capacity.gpus.len(),
        cpu: node.capacity.cpu,
        memory: node.capacity.memory,
        pool: String::new(),
        location: node.location.clone(),
    });
    let missions = cluster.tenants().iter().filter(|tenant| tenant.depth == 1).map(mission);
    Ok(Recorded {
        nodes: nodes.collect(),
        missions: missions.collect(),
        jobs: found.into_values().collect(),
        left_out,
        until,
    })
}

/// The state at the end of the journal, its time, and the run times of all that has ended.
///
/// # Errors
/// [`RecoverError`] with the position of what stands in the way.
pub fn remembered<S: Source + ?Sized>(source: &S) -> Result<(Cluster, Time, Learned), RecoverError> {
    let Recovered { mut cluster, head, time: mut until, .. } = Recovered::beginning(source, Policy::standard())?;
    let mut learned = Learned::default();
    for turn in Turns::from(source, Seq(head.0 + 1)) {
        let turn = turn?;
        until = turn.time;
        apply_all(&mut cluster, turn.time, turn.first_seq, &turn.events)?;
        turn.events.iter().for_each(|event| learn(&mut learned, &cluster, event));
    }
    Ok((cluster, until, learned))
}

/// A job that ended; none when it never ran, or when what ended it was no end of its own.
fn row(cluster: &Cluster, job: &Job, outcome: Outcome) -> Option<TraceJob> {
    let attempt = job.attempt.as_deref()?;
    let ran = matches!(outcome, Outcome::Completed | Outcome::Failed | Outcome::TimedOut | Outcome::Cancelled);
    let duration = attempt.ended_at.filter(|_| ran)?.since(attempt.started_at?);
    let (spec, request) = (&job.spec, &job.spec.request);
    let members = u64::from(request.shape.members());
    let is_spread = request.distinct_nodes && matches!(request.shape, Shape::Equal { .. });
    // CPU and memory are stated by node where the nodes are, and for the whole job else.
    let times = if is_spread { 1 } else { members };
    let mission = cluster.mission(spec.tenant).map(|mission| cluster.tenant(mission).name.to_string());
    let is_any = request.pools.len() == cluster.pools().len();
    let model = |pool: &PoolIndex| cluster.pool(*pool).model.to_string();
    Some(TraceJob {
        id: job.index_of.map_or_else(|| job.id.to_string(), |(array, index)| format!("{array}_{index}")),
        submit: job.submitted_at,
        duration,
        gpus: job.gpus().rounded_up(),
        gpu_milli: 1000,
        nodes: is_spread.then_some(request.shape.members()),
        cpu: CpuMilli(request.cpu.0 * times),
        memory: MemoryMib(request.memory.0 * times),
        tenant: mission.unwrap_or_default(),
        user: cluster.user(spec.user).to_owned(),
        name: spec.name.to_string(),
        models: if is_any { Vec::new() } else { request.pools.iter().map(model).collect() },
        limit: Some(spec.time_limit).filter(|limit| *limit > Span::ZERO),
        priority: cluster
            .policy()
            .priorities
            .get(spec.priority.at())
            .map_or_else(String::new, |class| class.name.to_string()),
    })
}

fn mission(tenant: &Tenant) -> Mission {
    let sum = |of: fn(&Quota) -> Option<Gpus>| -> Option<Gpus> {
        tenant.quotas.iter().any(|quota| of(quota).is_some()).then(|| tenant.quotas.iter().filter_map(of).sum())
    };
    Mission {
        tenant: tenant.name.to_string(),
        quota: tenant.quota(),
        limit: sum(|quota| quota.limit),
        lend_limit: sum(|quota| quota.lend_limit),
        // A file divides all pools together: of several it names none.
        domains: tenant
            .quotas
            .first()
            .filter(|_| tenant.quotas.len() == 1)
            .and_then(|quota| quota.domains)
            .map(|DomainQuota { level, nodes, count }| DomainsDraft { level, count, nodes: Some(nodes) }),
        weight: Some(tenant.weight),
        budget_hours: None,
        priority: String::new(),
    }
}
