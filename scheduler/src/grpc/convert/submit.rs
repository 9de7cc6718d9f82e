//! A submitted job -> `JobDraft` and its encoded payload, every size checked. Whether it can run is the core's to say.

use dure_core::gpu::MAX_GPUS_PER_NODE;
use dure_core::ids::{BlobId, JobId};
use dure_core::input::{ConstraintsDraft, DependencyOn, JobDraft, PartDraft};
use dure_core::job::{ArraySpec, DependencyKind};
use dure_core::request::{LabelRule, Level, Segment, Shape};
use dure_core::units::{CpuMilli, MemoryMib, Span, Time};
use dure_proto::v1;
use dure_proto::v1::dependency::On;
use prost::Message as _;

use crate::grpc::limits::{
    MAX_ARGS, MAX_ARGS_BYTES, MAX_ENV, MAX_MODELS, MAX_MOUNTS, MAX_NAME, MAX_PATH, MAX_SCRIPT, MAX_UNEQUAL,
};
use crate::grpc::status::Violation;
use crate::journal::Blob;

/// What is submitted, and what it runs.
#[derive(Debug)]
pub struct Submitted {
    /// For the core.
    pub draft: JobDraft,
    /// For the journal.
    pub payload: Blob,
}

/// Reads a job that `user` submits.
///
/// # Errors
/// The first field that cannot be, by its path inside the job.
pub fn job(spec: v1::JobSpec, user: &str) -> Result<Submitted, Violation> {
    check_lengths(&spec)?;
    let dependencies = spec.dependencies.iter().enumerate().map(|(at, dependency)| {
        self::dependency(dependency).map_err(|violation| violation.inside(&format!("dependencies[{at}]")))
    });
    let after = dependencies.collect::<Result<Vec<_>, _>>()?;
    let shape = spec
        .shape
        .clone()
        .ok_or_else(|| Violation::new("shape", "absent; say how many members of how many GPUs the job needs"))?;
    let batch = spec.payload.as_ref().is_some_and(|payload| payload.batch);
    let payload = self::payload(spec.payload.unwrap_or_default()).map_err(|violation| violation.inside("payload"))?;
    let draft = JobDraft {
        part: part(&shape).map_err(|violation| violation.inside("shape"))?,
        tenant: spec.tenant.into(),
        user: user.into(),
        name: spec.name.into(),
        shape: self::shape(&shape).map_err(|violation| violation.inside("shape"))?,
        gpu_models: spec.gpu_models.into_iter().map(Into::into).collect(),
        cpu: CpuMilli(shape.cpu_milli_per_member),
        memory: MemoryMib(shape.memory_mib_per_member),
        required: level("required_level", spec.required_level)?,
        preferred: level("preferred_level", spec.preferred_level)?,
        distinct_nodes: shape.distinct_nodes,
        only: constraints(spec.constraints.unwrap_or_default()).map_err(|violation| violation.inside("constraints"))?,
        priority: spec.priority.into(),
        preemptible: !spec.non_preemptible,
        time_limit: Span(spec.time_limit_ms),
        time_min: (spec.time_min_ms > 0).then_some(Span(spec.time_min_ms)),
        grace: (spec.grace_ms > 0).then_some(Span(spec.grace_ms)),
        array: spec.array.map(|array| ArraySpec { size: array.size, cap: array.max_running }),
        after,
        held: spec.hold,
        not_before: (spec.not_before_ms > 0).then_some(Time(spec.not_before_ms)),
        max_retries: spec.max_retries,
        batch,
        hold_survivors: Span(spec.hold_survivors_ms),
        booking: spec.booking.into(),
        payload: BlobId(payload.id().0),
    };
    Ok(Submitted { draft, payload })
}

fn check_lengths(spec: &v1::JobSpec) -> Result<(), Violation> {
    if spec.tenant.is_empty() {
        return Err(Violation::new("tenant", "empty; name the tenant that pays, as in fusion/plasma"));
    }
    at_most("tenant", spec.tenant.len(), MAX_NAME)?;
    at_most("name", spec.name.len(), MAX_NAME)?;
    at_most("priority", spec.priority.len(), MAX_NAME)?;
    at_most("booking", spec.booking.len(), MAX_NAME)?;
    if spec.name.chars().any(char::is_control) {
        return Err(Violation::new("name", "holds a control character; take it out"));
    }
    if spec.gpu_models.len() > MAX_MODELS {
        let count = spec.gpu_models.len();
        return Err(Violation::new("gpu_models", format!("{count} models; name at most {MAX_MODELS}")));
    }
    spec.gpu_models.iter().try_for_each(|model| at_most("gpu_models", model.len(), MAX_NAME))
}

fn at_most(field: &'static str, bytes: usize, limit: usize) -> Result<(), Violation> {
    if bytes <= limit {
        return Ok(());
    }
    Err(Violation::new(field, format!("{bytes} bytes; at most {limit}: make it smaller")))
}

fn part(shape: &v1::Shape) -> Result<PartDraft, Violation> {
    if !shape.mig_profile.is_empty() {
        at_most("mig_profile", shape.mig_profile.len(), MAX_NAME)?;
        if shape.gpu_milli != 0 {
            return Err(Violation::new("mig_profile", "set beside gpu_milli; a member has a share or a MIG instance"));
        }
        return Ok(PartDraft::Profile(shape.mig_profile.as_str().into()));
    }
    match u16::try_from(shape.gpu_milli) {
        Ok(0) => Ok(PartDraft::Whole),
        Ok(milli) => Ok(PartDraft::Milli(milli)),
        Err(_) => {
            let problem = format!("{} thousandths; a share is 1 to 999 thousandths of one GPU", shape.gpu_milli);
            Err(Violation::new("gpu_milli", problem))
        }
    }
}

fn shape(shape: &v1::Shape) -> Result<Shape, Violation> {
    if shape.unequal.is_empty() {
        return Ok(Shape::Equal { members: shape.members, gpus: gpus("gpus_per_member", shape.gpus_per_member)? });
    }
    if shape.members != 0 || shape.gpus_per_member != 0 {
        return Err(Violation::new("unequal", "set beside members or gpus_per_member; use one way of the two"));
    }
    if shape.unequal.len() > MAX_UNEQUAL {
        return Err(Violation::new("unequal", format!("{} members; at most {MAX_UNEQUAL}", shape.unequal.len())));
    }
    let list = shape.unequal.iter().map(|count| gpus("unequal", *count)).collect::<Result<Vec<u8>, _>>()?;
    let first = list[0];
    if list.iter().all(|count| *count == first) {
        return Ok(Shape::Equal { members: shape.unequal.len() as u32, gpus: first });
    }
    Ok(Shape::Unequal(list.into()))
}

/// A member's GPUs; more than any node may have can be no member.
fn gpus(field: &'static str, count: u32) -> Result<u8, Violation> {
    u8::try_from(count).ok().filter(|count| usize::from(*count) <= MAX_GPUS_PER_NODE).ok_or_else(|| {
        let problem = format!("{count} GPUs in one member; a node has at most {MAX_GPUS_PER_NODE}: use more members");
        Violation::new(field, problem)
    })
}

fn level(field: &'static str, number: i32) -> Result<Option<Level>, Violation> {
    let known = v1::TopologyLevel::try_from(number);
    known
        .map(super::level)
        .map_err(|_| Violation::new(field, format!("{number} is no level; use 1 (node) to 5 (site)")))
}

fn constraints(wire: v1::Constraints) -> Result<ConstraintsDraft, Violation> {
    let rule = |rule: v1::LabelRule| LabelRule {
        key: rule.key.into(),
        values: rule.values.into_iter().map(Into::into).collect(),
        negated: rule.negated,
    };
    let segment = match (wire.segment_members, level("segment_level", wire.segment_level)?) {
        (0, None) => None,
        (0, Some(_)) => return Err(Violation::new("segment_members", "0; say how many members a segment has")),
        (_, None) => return Err(Violation::new("segment_level", "absent; say inside which level a segment lies")),
        (members, Some(level)) => Some(Segment { members, level }),
    };
    let names = |list: Vec<String>| list.into_iter().map(Into::into).collect();
    Ok(ConstraintsDraft {
        labels: wire.labels.into_iter().map(rule).collect(),
        include: names(wire.nodes),
        exclude: names(wire.exclude_nodes),
        exclusive: wire.exclusive,
        spread: level("spread", wire.spread)?,
        segment,
        least: (wire.min_members > 0).then_some(wire.min_members),
    })
}

fn dependency(dependency: &v1::Dependency) -> Result<(DependencyKind, DependencyOn), Violation> {
    let kind = match v1::DependencyKind::try_from(dependency.kind) {
        Ok(v1::DependencyKind::AfterOk) => DependencyKind::AfterOk,
        Ok(v1::DependencyKind::AfterAny) => DependencyKind::AfterAny,
        Ok(v1::DependencyKind::AfterNotOk) => DependencyKind::AfterNotOk,
        Ok(v1::DependencyKind::Unspecified) | Err(_) => {
            let problem =
                format!("{} is no kind; use 1 (after ok), 2 (after any) or 3 (after not ok)", dependency.kind);
            return Err(Violation::new("kind", problem));
        }
    };
    match dependency.on {
        Some(On::JobId(job)) => Ok((kind, DependencyOn::Job(JobId(job)))),
        Some(On::IndexInCall(index)) => Ok((kind, DependencyOn::InCall(index))),
        None => Err(Violation::new("on", "absent; set job_id or index_in_call")),
    }
}

/// Checks a payload and encodes it.
fn payload(payload: v1::Payload) -> Result<Blob, Violation> {
    if payload.script.is_empty() && payload.args.is_empty() {
        return Err(Violation::new("script", "empty, and no args either; say what to run"));
    }
    at_most("script", payload.script.len(), MAX_SCRIPT)?;
    if payload.args.len() > MAX_ARGS {
        return Err(Violation::new("args", format!("{} arguments; at most {MAX_ARGS}", payload.args.len())));
    }
    at_most("args", payload.args.iter().map(String::len).sum(), MAX_ARGS_BYTES)?;
    at_most("env", payload.env.iter().map(|(name, value)| name.len() + value.len()).sum(), MAX_ENV)?;
    let paths =
        [("workdir", &payload.workdir), ("stdout_path", &payload.stdout_path), ("stderr_path", &payload.stderr_path)];
    for (field, path) in paths {
        at_most(field, path.len(), MAX_PATH)?;
    }
    let with_nul = paths.into_iter().chain(payload.args.iter().map(|arg| ("args", arg)));
    if let Some((field, _)) = with_nul.into_iter().find(|(_, text)| text.contains('\0')) {
        return Err(Violation::new(field, "holds a NUL character, which no process can be given; take it out"));
    }
    if let Some(container) = &payload.container {
        self::container(container).map_err(|violation| violation.inside("container"))?;
    }
    for (name, value) in &payload.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            let problem = format!("{name:?} cannot be set; a name is not empty and holds no '=', and there is no NUL");
            return Err(Violation::new("env", problem));
        }
    }
    Blob::new(payload.encode_to_vec()).map_err(|err| Violation::new("script", err.to_string()))
}

/// Paths are absolute, and none is one that the agent itself fills.
fn container(container: &v1::Container) -> Result<(), Violation> {
    if container.mounts.len() > MAX_MOUNTS {
        let count = container.mounts.len();
        return Err(Violation::new("mounts", format!("{count} mounts; at most {MAX_MOUNTS}")));
    }
    let mounts = container.mounts.iter().flat_map(|mount| [("mounts", &mount.source), ("mounts", &mount.target)]);
    for (field, path) in [("image", &container.image)].into_iter().chain(mounts) {
        at_most(field, path.len(), MAX_PATH)?;
        if !path.starts_with('/') || path.contains('\0') {
            return Err(Violation::new(field, format!("{path:?} is no absolute path; name one that every node has")));
        }
        if path.split('/').any(|part| part == "..") {
            return Err(Violation::new(field, format!("{path:?} holds \"..\"; write the path that is meant")));
        }
    }
    Ok(())
}
