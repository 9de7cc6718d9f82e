//! Rows of a trace as inputs of the core: nodes as their agents would describe them, jobs as they are submitted.

use std::collections::BTreeSet;

use dure_core::gpu::{GpuSet, MAX_GPUS_PER_NODE};
use dure_core::ids::BlobId;
use dure_core::input::{JobDraft, NodeDraft};
use dure_core::node::{Capacity, Location};
use dure_core::units::Span;

use super::DriveError;
use crate::limits;
use crate::shape::gang;
use crate::trace::{TraceJob, TraceNode};

/// The tenant of jobs whose file names none.
pub(super) const NOBODY: &str = "unnamed";
/// The user of jobs whose file names none.
pub(super) const SOMEONE: &str = "someone";
/// The GPU model of nodes whose file names none.
const ANY_MODEL: &str = "gpu";

/// The tenants that the jobs name.
pub fn tenant_names(jobs: &[TraceJob]) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    let mut last = "";
    for job in jobs {
        let name = or(&job.tenant, NOBODY);
        if name != last {
            names.insert(name);
            last = name;
        }
    }
    names
}

/// The largest node of each model, and of all.
#[derive(Clone, Debug)]
pub(super) struct Largest {
    models: Vec<(String, u32)>,
    any: u32,
}

impl Largest {
    pub(super) fn of(nodes: &[TraceNode]) -> Self {
        let mut models: Vec<(String, u32)> = Vec::new();
        for node in nodes.iter().filter(|node| node.gpus > 0) {
            match models.iter_mut().find(|(model, _)| *model == node.model) {
                Some((_, gpus)) => *gpus = (*gpus).max(node.gpus),
                None => models.push((node.model.clone(), node.gpus)),
            }
        }
        let any = models.iter().map(|(_, gpus)| *gpus).max().unwrap_or(0);
        Self { models, any }
    }

    fn knows(&self, model: &str) -> bool {
        self.models.iter().any(|(known, _)| known == model)
    }

    /// GPUs of the largest node that a job may use.
    pub(super) fn of_job(&self, job: &TraceJob) -> Result<u32, DriveError> {
        let of_models = || self.models.iter().filter(|(model, _)| job.models.contains(model)).map(|(_, gpus)| *gpus);
        let largest = if job.models.is_empty() { self.any } else { of_models().max().unwrap_or(0) };
        match largest {
            0 => Err(DriveError::NoNode { job: job.id.clone(), models: job.models.clone() }),
            gpus => Ok(gpus),
        }
    }
}

/// The time limit of a job: its own, or one by the rule of `limits`.
pub fn limit_of(job: &TraceJob) -> Span {
    job.limit.unwrap_or_else(|| limits::derived(job.duration))
}

/// A job as it is submitted.
pub(super) fn draft(job: &TraceJob, priority: &str, largest: &Largest) -> JobDraft {
    let per_node = largest.of_job(job).expect("it was looked at before the first instant");
    let gang = gang(job, per_node).expect("it was looked at before the first instant");
    let known = |model: &&String| largest.knows(model);
    JobDraft {
        part: dure_core::input::PartDraft::Whole,
        tenant: or(&job.tenant, NOBODY).into(),
        user: or(&job.user, SOMEONE).into(),
        name: job.name.as_str().into(),
        shape: gang.shape,
        gpu_models: job.models.iter().filter(known).map(|model| or(model, ANY_MODEL).into()).collect(),
        cpu: gang.cpu,
        memory: gang.memory,
        required: None,
        preferred: None,
        distinct_nodes: gang.distinct_nodes,
        only: Default::default(),
        priority: priority.into(),
        preemptible: true,
        time_limit: limit_of(job),
        time_min: None,
        grace: Some(Span::ZERO),
        array: None,
        after: Vec::new(),
        held: false,
        not_before: None,
        max_retries: 0,
        batch: false,
        hold_survivors: Span::ZERO,
        booking: "".into(),
        payload: BlobId::default(),
    }
}

/// A job as it is submitted where every node has `per_node` GPUs of one model; for tests.
#[cfg(test)]
pub(crate) fn draft_of(job: &TraceJob, per_node: u32) -> JobDraft {
    draft(job, "", &Largest { models: Vec::new(), any: per_node })
}

pub(super) fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

/// A node as its agent would describe it.
pub(super) fn hello(node: &TraceNode, topology: bool) -> Result<NodeDraft, DriveError> {
    if node.gpus as usize > MAX_GPUS_PER_NODE {
        return Err(DriveError::NodeTooLarge { node: node.name.clone(), gpus: node.gpus });
    }
    let gpus = GpuSet::first(node.gpus as usize);
    Ok(NodeDraft {
        name: node.name.as_str().into(),
        model: or(&node.model, ANY_MODEL).into(),
        location: if topology { node.location.clone() } else { Location::default() },
        capacity: Capacity {
            gpus,
            islands: gpus.iter().map(|_| gpus).collect(),
            layouts: Box::default(),
            cpu: node.cpu,
            memory: node.memory,
            labels: Default::default(),
        },
        bad: GpuSet::EMPTY,
        boot_id: "0".into(),
    })
}
