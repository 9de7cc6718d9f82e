//! Rows -> CSV, as the judge of a replay reads them. Empty fields mean "not limited".

use std::io::Write;

use dure_core::gpu::GpuSet;

use super::domains::write_domains;
use super::{Mission, Moment, Row, TraceJob, TraceNode};

/// The nodes.
///
/// # Errors
/// What the writer says.
pub fn write_nodes(out: impl Write, nodes: &[TraceNode]) -> csv::Result<()> {
    let mut out = csv::Writer::from_writer(out);
    out.write_record([
        "node",
        "gpu_model",
        "gpus",
        "cpu_milli",
        "memory_mib",
        "pool",
        "site",
        "spine",
        "leaf",
        "nvlink",
    ])?;
    for node in nodes {
        let (gpus, cpu, memory) = (node.gpus.to_string(), limit(node.cpu.0), limit(node.memory.0));
        let at = &node.location;
        let row =
            [&*node.name, &node.model, &gpus, &cpu, &memory, &node.pool, &at.site, &at.spine, &at.leaf, &at.nvlink];
        out.write_record(row)?;
    }
    Ok(out.flush()?)
}

/// The jobs.
///
/// # Errors
/// What the writer says.
pub fn write_jobs(out: impl Write, jobs: &[TraceJob]) -> csv::Result<()> {
    let mut out = csv::Writer::from_writer(out);
    out.write_record([
        "job_id",
        "submit_s",
        "duration_s",
        "gpus",
        "num_gpu",
        "gpu_milli",
        "nodes",
        "cpu_milli",
        "memory_mib",
        "tenant",
        "user",
        "gpu_model",
        "name",
        "time_limit_s",
        "priority",
    ])?;
    for job in jobs {
        let gpus = f64::from(job.gpus) * f64::from(job.gpu_milli) / 1000.0;
        out.write_record([
            &job.id,
            &seconds(job.submit.0),
            &seconds(job.duration.0),
            &gpus.to_string(),
            &job.gpus.to_string(),
            &job.gpu_milli.to_string(),
            &job.nodes.map(|nodes| nodes.to_string()).unwrap_or_default(),
            &limit(job.cpu.0),
            &limit(job.memory.0),
            &job.tenant,
            &job.user,
            &job.models.join("|"),
            &job.name,
            &job.limit.map(|limit| seconds(limit.0)).unwrap_or_default(),
            &job.priority,
        ])?;
    }
    Ok(out.flush()?)
}

/// The missions.
///
/// # Errors
/// What the writer says.
pub fn write_missions(out: impl Write, missions: &[Mission]) -> csv::Result<()> {
    let mut out = csv::Writer::from_writer(out);
    out.write_record(["tenant", "quota", "limit", "lend_limit", "domains", "weight", "budget_gpu_hours", "priority"])?;
    for mission in missions {
        let gpus =
            |gpus: Option<dure_core::units::Gpus>| gpus.map(|gpus| gpus.rounded_up().to_string()).unwrap_or_default();
        out.write_record([
            &mission.tenant,
            &mission.quota.rounded_up().to_string(),
            &gpus(mission.limit),
            &gpus(mission.lend_limit),
            &mission.domains.map(write_domains).unwrap_or_default(),
            &mission.weight.map(|weight| weight.to_string()).unwrap_or_default(),
            &mission.budget_hours.map(|hours| hours.to_string()).unwrap_or_default(),
            &mission.priority,
        ])?;
    }
    Ok(out.flush()?)
}

/// Who ran where and when; `jobs` and `nodes` are those that the rows name by their places.
///
/// # Errors
/// What the writer says.
pub fn write_placements(out: impl Write, rows: &[Row], jobs: &[TraceJob], nodes: &[TraceNode]) -> csv::Result<()> {
    let mut out = csv::Writer::from_writer(out);
    out.write_record(["time_s", "event", "job", "attempt", "node", "gpus", "milli"])?;
    for row in rows {
        let (time, job, attempt) = (seconds(row.time.0), &jobs[row.job].id, row.attempt.to_string());
        let event = match &row.moment {
            Moment::Start(members) => {
                for (node, gpus) in members {
                    out.write_record([
                        &time,
                        "start",
                        job,
                        &attempt,
                        &nodes[*node as usize].name,
                        &list(*gpus),
                        "1000",
                    ])?;
                }
                continue;
            }
            Moment::End => "end",
            Moment::Preempt => "preempt",
            Moment::Fail => "fail",
        };
        out.write_record([&time, event, job, &attempt, "", "", ""])?;
    }
    Ok(out.flush()?)
}

/// Milliseconds as seconds with three places, exactly.
fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

fn limit(amount: u64) -> String {
    if amount == 0 { String::new() } else { amount.to_string() }
}

/// As `0+1+5`.
fn list(gpus: GpuSet) -> String {
    gpus.iter().map(|gpu| gpu.to_string()).collect::<Vec<_>>().join("+")
}
