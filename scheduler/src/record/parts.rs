//! The parts that events are made of, both ways, each beside its counterpart.

use std::sync::Arc;

use dure_core::gpu::{GpuSet, MAX_GPUS_PER_NODE};
use dure_core::idle::{IdleAction, IdleNotice, IdleRule};
use dure_core::ids::{BlobId, BookingId, JobId, NodeIndex, PoolIndex, PriorityIndex, TenantIndex, UserIndex};
use dure_core::job::{ArraySpec, Dependency, DependencyKind, Exit, ExitHow, JobSpec};
use dure_core::mig::{Layout, MEMORY_SLICES, Slice};
use dure_core::node::{Capacity, Location};
use dure_core::parts::WHOLE;
use dure_core::placement::{Placed, Portion};
use dure_core::reply::Reply;
use dure_core::request::{Level, Part, Request, Shape};
use dure_core::tenant::{DomainQuota, Quota};
use dure_core::units::{CpuMilli, Gpus, MemoryMib, Span, Time};
use dure_proto::journal::v1;
use dure_proto::journal::v1::{exit, reply};

use super::constraints;
use super::fault::{Fault, needed, within};
use super::words::{Word, or_none};

/// The most that a count of GPUs of one member can be.
const MOST_GPUS: u64 = MAX_GPUS_PER_NODE as u64;

/// A pool's index.
pub(super) fn pool(field: &'static str, value: u32) -> Result<PoolIndex, Fault> {
    byte(field, value).map(PoolIndex)
}

/// A number of one byte.
pub(super) fn byte(field: &'static str, value: u32) -> Result<u8, Fault> {
    within(field, u64::from(value), 0, u64::from(u8::MAX)).map(|value| value as u8)
}

/// A tenant's index.
pub(super) fn tenant(field: &'static str, value: u32) -> Result<TenantIndex, Fault> {
    within(field, u64::from(value), 0, u64::from(u16::MAX)).map(|value| TenantIndex(value as u16))
}

fn member_gpus(field: &'static str, value: u32) -> Result<u8, Fault> {
    within(field, u64::from(value), 1, MOST_GPUS).map(|value| value as u8)
}

fn not_empty<T>(field: &'static str, list: &[T]) -> Result<(), Fault> {
    within(field, list.len() as u64, 1, u64::MAX).map(drop)
}

pub(super) fn quota_to_wire(pool: PoolIndex, quota: &Quota) -> v1::PoolQuota {
    let gpus = |gpus: Option<Gpus>| gpus.map(|gpus| gpus.rounded_up());
    v1::PoolQuota {
        pool: u32::from(pool.0),
        quota_gpus: gpus(quota.quota),
        limit_gpus: gpus(quota.limit),
        lend_limit_gpus: gpus(quota.lend_limit),
        domains: quota.domains.map(|domains| v1::DomainQuota {
            level: domains.level.to_wire(),
            nodes: domains.nodes,
            count: domains.count,
        }),
    }
}

fn domains_from_wire(wire: &v1::DomainQuota) -> Result<DomainQuota, Fault> {
    let level = Level::from_wire("DomainQuota.level", wire.level)?;
    let at_least_one = |field, value: u32| within(field, u64::from(value), 1, u64::from(u32::MAX)).map(|_| value);
    let nodes = at_least_one("DomainQuota.nodes", wire.nodes)?;
    Ok(DomainQuota { level, nodes, count: at_least_one("DomainQuota.count", wire.count)? })
}

pub(super) fn quota_from_wire(wire: &v1::PoolQuota) -> Result<(PoolIndex, Quota), Fault> {
    let quota = Quota {
        quota: wire.quota_gpus.map(Gpus::whole),
        limit: wire.limit_gpus.map(Gpus::whole),
        lend_limit: wire.lend_limit_gpus.map(Gpus::whole),
        domains: wire.domains.as_ref().map(domains_from_wire).transpose()?,
    };
    Ok((pool("PoolQuota.pool", wire.pool)?, quota))
}

pub(super) fn location_to_wire(location: &Location) -> v1::Location {
    v1::Location {
        site: (*location.site).to_owned(),
        spine: (*location.spine).to_owned(),
        leaf: (*location.leaf).to_owned(),
        nvlink: (*location.nvlink).to_owned(),
    }
}

pub(super) fn location_from_wire(wire: v1::Location) -> Location {
    Location { site: wire.site.into(), spine: wire.spine.into(), leaf: wire.leaf.into(), nvlink: wire.nvlink.into() }
}

pub(super) fn capacity_to_wire(capacity: &Capacity) -> v1::Capacity {
    v1::Capacity {
        gpus: capacity.gpus.0,
        islands: capacity.islands.iter().map(|island| island.0).collect(),
        cpu_milli: capacity.cpu.0,
        memory_mib: capacity.memory.0,
        labels: capacity
            .labels
            .iter()
            .map(|(key, value)| v1::Label { key: (**key).to_owned(), value: (**value).to_owned() })
            .collect(),
        cut: cut_to_wire(&capacity.layouts),
    }
}

fn cut_to_wire(layouts: &[Layout]) -> Vec<v1::CutGpu> {
    let instance = |(slice, start): (Slice, u8)| v1::Part {
        milli: 0,
        compute: slice.compute.into(),
        memory: slice.memory.into(),
        start: start.into(),
    };
    let cut = layouts.iter().enumerate().filter(|(_, layout)| layout.is_cut());
    cut.map(|(gpu, layout)| v1::CutGpu { gpu: gpu as u32, instances: layout.instances().map(instance).collect() })
        .collect()
}

/// How each of `gpus` GPUs is cut.
fn cut_from_wire(wire: &[v1::CutGpu], gpus: usize) -> Result<Box<[Layout]>, Fault> {
    if wire.is_empty() {
        return Ok(Box::default());
    }
    let mut layouts = vec![Layout::WHOLE; gpus];
    for cut in wire {
        within("CutGpu.gpu", u64::from(cut.gpu), 0, gpus.saturating_sub(1) as u64)?;
        let mut layout = Layout::BARE;
        for instance in &cut.instances {
            let slice = Slice {
                compute: byte("Part.compute", instance.compute)?,
                memory: byte("Part.memory", instance.memory)?,
            };
            let start = byte("Part.start", instance.start)?;
            let count = layout.instances().count() as u64;
            let next = layout.with(slice, start);
            // Past the last place that is legal and free.
            layout = next.ok_or(Fault::OutOfRange {
                field: "CutGpu.instances (legal)",
                value: count + 1,
                least: 0,
                most: count,
            })?;
        }
        layouts[cut.gpu as usize] = layout;
    }
    Ok(layouts.into())
}

pub(super) fn capacity_from_wire(wire: v1::Capacity) -> Result<Capacity, Fault> {
    within("Capacity.islands", wire.islands.len() as u64, 0, MOST_GPUS)?;
    let layouts = cut_from_wire(&wire.cut, wire.islands.len())?;
    Ok(Capacity {
        gpus: GpuSet(wire.gpus),
        islands: wire.islands.into_iter().map(GpuSet).collect(),
        layouts,
        cpu: CpuMilli(wire.cpu_milli),
        memory: MemoryMib(wire.memory_mib),
        labels: wire.labels.into_iter().map(|label| (label.key.into(), label.value.into())).collect(),
    })
}

fn shape_to_wire(shape: &Shape) -> v1::Shape {
    match shape {
        Shape::Equal { members, gpus } => {
            v1::Shape { members: *members, gpus: u32::from(*gpus), member_gpus: Vec::new() }
        }
        Shape::Unequal(list) => {
            v1::Shape { members: 0, gpus: 0, member_gpus: list.iter().map(|gpus| u32::from(*gpus)).collect() }
        }
    }
}

fn shape_from_wire(wire: v1::Shape) -> Result<Shape, Fault> {
    if !wire.member_gpus.is_empty() {
        let list = wire.member_gpus.into_iter().map(|gpus| member_gpus("Shape.member_gpus", gpus));
        return Ok(Shape::Unequal(list.collect::<Result<_, _>>()?));
    }
    let gpus = member_gpus("Shape.gpus", wire.gpus)?;
    // All GPUs together are counted in 32 bits.
    let most = u64::from(u32::MAX) / u64::from(gpus);
    within("Shape.members", u64::from(wire.members), 1, most)?;
    Ok(Shape::Equal { members: wire.members, gpus })
}

fn request_to_wire(request: &Request) -> v1::Request {
    v1::Request {
        shape: Some(shape_to_wire(&request.shape)),
        pools: request.pools.iter().map(|pool| u32::from(pool.0)).collect(),
        cpu_milli: request.cpu.0,
        memory_mib: request.memory.0,
        required: or_none(request.required),
        preferred: or_none(request.preferred),
        distinct_nodes: request.distinct_nodes,
        constraints: constraints::to_wire(&request.only),
        part: part_to_wire(request.part),
    }
}

fn request_from_wire(wire: v1::Request) -> Result<Request, Fault> {
    not_empty("Request.pools", &wire.pools)?;
    Ok(Request {
        part: part_from_wire(wire.part)?,
        shape: shape_from_wire(needed("Request.shape", wire.shape)?)?,
        pools: wire.pools.into_iter().map(|value| pool("Request.pools", value)).collect::<Result<_, _>>()?,
        cpu: CpuMilli(wire.cpu_milli),
        memory: MemoryMib(wire.memory_mib),
        required: Level::optional("Request.required", wire.required)?,
        preferred: Level::optional("Request.preferred", wire.preferred)?,
        distinct_nodes: wire.distinct_nodes,
        only: wire.constraints.map(constraints::from_wire).transpose()?.unwrap_or_default(),
    })
}

fn part_to_wire(part: Part) -> Option<v1::Part> {
    match part {
        Part::Whole => None,
        Part::Milli(milli) => Some(v1::Part { milli: milli.into(), ..v1::Part::default() }),
        Part::Slice(Slice { compute, memory }) => {
            Some(v1::Part { compute: compute.into(), memory: memory.into(), ..v1::Part::default() })
        }
    }
}

fn part_from_wire(wire: Option<v1::Part>) -> Result<Part, Fault> {
    let Some(wire) = wire else { return Ok(Part::Whole) };
    if wire.milli > 0 {
        within("Part.milli", u64::from(wire.milli), 1, u64::from(WHOLE) - 1)?;
        return Ok(Part::Milli(wire.milli as u16));
    }
    let slice = Slice { compute: byte("Part.compute", wire.compute)?, memory: byte("Part.memory", wire.memory)? };
    // Only the sizes that there are have a place to begin.
    within("Part.memory (places)", slice.starts().len() as u64, 1, u64::from(MEMORY_SLICES))?;
    Ok(Part::Slice(slice))
}

pub(super) fn spec_to_wire(spec: &JobSpec) -> v1::JobSpec {
    let dependency = |after: &Dependency| v1::Dependency { job: after.job.0, kind: after.kind.to_wire() };
    v1::JobSpec {
        tenant: u32::from(spec.tenant.0),
        user: spec.user.0,
        name: (*spec.name).to_owned(),
        request: Some(request_to_wire(&spec.request)),
        priority: u32::from(spec.priority.0),
        preemptible: spec.preemptible,
        time_limit_ms: spec.time_limit.0,
        time_min_ms: spec.time_min.map(|least| least.0),
        grace_ms: spec.grace.0,
        array: spec.array.map(|array| v1::ArraySpec { size: array.size, cap: array.cap }),
        after: spec.after.iter().map(dependency).collect(),
        max_retries: spec.max_retries,
        batch: spec.batch,
        hold_survivors_ms: spec.hold_survivors.0,
        booking: spec.booking.map(|booking| booking.0),
        payload: spec.payload.0.to_vec(),
    }
}

pub(super) fn spec_from_wire(wire: v1::JobSpec) -> Result<JobSpec, Fault> {
    let dependency = |after: v1::Dependency| {
        let kind = DependencyKind::from_wire("Dependency.kind", after.kind)?;
        Ok(Dependency { job: JobId(after.job), kind })
    };
    Ok(JobSpec {
        tenant: tenant("JobSpec.tenant", wire.tenant)?,
        user: UserIndex(wire.user),
        name: wire.name.into(),
        request: Arc::new(request_from_wire(needed("JobSpec.request", wire.request)?)?),
        priority: PriorityIndex(byte("JobSpec.priority", wire.priority)?),
        preemptible: wire.preemptible,
        time_limit: Span(wire.time_limit_ms),
        time_min: wire.time_min_ms.map(Span),
        grace: Span(wire.grace_ms),
        array: wire.array.map(|array| ArraySpec { size: array.size, cap: array.cap }),
        after: wire.after.into_iter().map(dependency).collect::<Result<_, Fault>>()?,
        max_retries: wire.max_retries,
        batch: wire.batch,
        hold_survivors: Span(wire.hold_survivors_ms),
        booking: wire.booking.map(BookingId),
        payload: blob_id(&wire.payload)?,
    })
}

fn blob_id(bytes: &[u8]) -> Result<BlobId, Fault> {
    let wrong = |_| {
        let size = size_of::<BlobId>() as u64;
        Fault::OutOfRange { field: "JobSpec.payload (bytes)", value: bytes.len() as u64, least: size, most: size }
    };
    bytes.try_into().map(BlobId).map_err(wrong)
}

pub(super) fn placed_to_wire(placed: &Placed) -> v1::Placed {
    let portion = match placed.portion {
        Portion::Whole => None,
        Portion::Milli(milli) => part_to_wire(Part::Milli(milli)),
        Portion::Slice { slice, start } => {
            part_to_wire(Part::Slice(slice)).map(|wire| v1::Part { start: start.into(), ..wire })
        }
    };
    v1::Placed { node: placed.node.0, gpus: placed.gpus.0, portion }
}

pub(super) fn placed_from_wire(wire: &v1::Placed) -> Result<Placed, Fault> {
    within("Placed.gpus", u64::from(wire.gpus), 1, u64::from(u32::MAX))?;
    let (node, gpus) = (NodeIndex(wire.node), GpuSet(wire.gpus));
    let portion = match part_from_wire(wire.portion)? {
        Part::Whole => Portion::Whole,
        Part::Milli(milli) => Portion::Milli(milli),
        Part::Slice(slice) => {
            let start = wire.portion.map_or(0, |wire| wire.start);
            let last = slice.starts().last().copied().unwrap_or(0);
            within("Part.start", u64::from(start), 0, last.into())?;
            Portion::Slice { slice, start: start as u8 }
        }
    };
    if portion != Portion::Whole {
        within("Placed.gpus (count)", gpus.len().into(), 1, 1)?;
    }
    Ok(Placed { node, gpus, portion })
}

/// The members of a gang: at least one.
pub(super) fn members_from_wire<M, T, L: FromIterator<T>>(
    field: &'static str,
    wire: Vec<M>,
    member: impl Fn(M) -> Result<T, Fault>,
) -> Result<L, Fault> {
    not_empty(field, &wire)?;
    wire.into_iter().map(member).collect()
}

pub(super) fn exit_to_wire(exit: &Exit) -> v1::Exit {
    let how = match &exit.how {
        ExitHow::Code(code) => exit::How::Code(*code),
        ExitHow::Signal(signal) => exit::How::Signal(*signal),
        ExitHow::LaunchFailed(why) => exit::How::LaunchFailed((**why).to_owned()),
        ExitHow::Unknown(why) => exit::How::Unknown((**why).to_owned()),
    };
    v1::Exit {
        how: Some(how),
        timed_out: exit.timed_out,
        out_of_memory: exit.out_of_memory,
        detail: (*exit.detail).to_owned(),
    }
}

pub(super) fn exit_from_wire(wire: v1::Exit) -> Result<Exit, Fault> {
    let how = match needed("Exit.how", wire.how)? {
        exit::How::Code(code) => ExitHow::Code(code),
        exit::How::Signal(signal) => ExitHow::Signal(signal),
        exit::How::LaunchFailed(why) => ExitHow::LaunchFailed(why.into()),
        exit::How::Unknown(why) => ExitHow::Unknown(why.into()),
    };
    Ok(Exit { how, timed_out: wire.timed_out, out_of_memory: wire.out_of_memory, detail: wire.detail.into() })
}

pub(super) fn reply_to_wire(reply: Reply) -> v1::Reply {
    let reply = match reply {
        Reply::Submitted { first, count } => reply::Reply::Submitted(v1::Submitted { first: first.0, count }),
        Reply::Job(job) => reply::Reply::Job(job.0),
        Reply::Tenant(tenant) => reply::Reply::Tenant(u32::from(tenant.0)),
        Reply::Node(node) => reply::Reply::Node(node.0),
        Reply::Booking(booking) => reply::Reply::Booking(booking.0),
        Reply::Done => reply::Reply::Done(v1::Nothing {}),
    };
    v1::Reply { reply: Some(reply) }
}

pub(super) fn reply_from_wire(wire: &v1::Reply) -> Result<Reply, Fault> {
    Ok(match needed("Reply.reply", wire.reply)? {
        reply::Reply::Submitted(v1::Submitted { first, count }) => Reply::Submitted { first: JobId(first), count },
        reply::Reply::Job(job) => Reply::Job(JobId(job)),
        reply::Reply::Tenant(value) => Reply::Tenant(tenant("Reply.tenant", value)?),
        reply::Reply::Node(node) => Reply::Node(NodeIndex(node)),
        reply::Reply::Booking(booking) => Reply::Booking(BookingId(booking)),
        reply::Reply::Done(v1::Nothing {}) => Reply::Done,
    })
}

pub(super) fn idle_rule_to_wire(rule: IdleRule) -> v1::IdleRule {
    v1::IdleRule { after_ms: rule.after.0, notice_ms: rule.notice.0, action: rule.action.to_wire() }
}

pub(super) fn idle_rule_from_wire(wire: v1::IdleRule) -> Result<IdleRule, Fault> {
    let action = IdleAction::from_wire("IdleRule.action", wire.action)?;
    Ok(IdleRule { after: Span(wire.after_ms), notice: Span(wire.notice_ms), action })
}

pub(super) fn idle_notice_to_wire(notice: IdleNotice) -> v1::IdleNotice {
    v1::IdleNotice {
        since_ms: notice.since.0,
        at_ms: notice.at.0,
        action: notice.action.to_wire(),
        due_ms: notice.due.0,
    }
}

pub(super) fn idle_notice_from_wire(wire: v1::IdleNotice) -> Result<IdleNotice, Fault> {
    let action = IdleAction::from_wire("IdleNotice.action", wire.action)?;
    Ok(IdleNotice { since: Time(wire.since_ms), at: Time(wire.at_ms), action, due: Time(wire.due_ms) })
}
