//! CSV -> rows.

use std::collections::HashSet;
use std::io::BufRead as _;
use std::path::Path;

use dure_core::input::DomainsDraft;
use dure_core::node::Location;
use dure_core::units::{CpuMilli, Gpus, MemoryMib, Span, Time};

use super::domains::read_domains;
use super::table::{Line, Table, open};
use super::{Mission, TraceError, TraceJob, TraceNode, from_sacct};

/// The jobs of a file, in its order: CSV, or what `sacct -P` prints.
///
/// # Errors
/// File, line and field that cannot be used; two jobs of one id.
pub fn read_jobs(path: &Path) -> Result<Vec<TraceJob>, TraceError> {
    let mut from = open(path)?;
    let start = from.fill_buf().map_err(|error| TraceError::File { path: path.into(), error })?;
    // The first line of `sacct -P` names columns parted by |, which no CSV of ours has in its first line.
    let first = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
    if first.contains(&b'|') {
        return from_sacct(path, from);
    }
    let mut seen = HashSet::new();
    Table::read(path, from, b',', &["job_id", "submit_s", "duration_s", "num_gpu"])?.rows(|line| {
        let id = line.name("job_id")?;
        if !seen.insert(id.clone()) {
            return Err(line.bad("job_id", "an earlier line has this id: give each job its own"));
        }
        job(id, line)
    })
}

fn job(id: String, line: &Line<'_>) -> Result<TraceJob, TraceError> {
    Ok(TraceJob {
        id,
        submit: Time(line.seconds("submit_s")?),
        duration: Span(line.seconds("duration_s")?),
        gpus: line.count("num_gpu")?,
        gpu_milli: line.count_if("gpu_milli")?.unwrap_or(1000),
        nodes: line.count_if("nodes")?,
        cpu: CpuMilli(line.count_if("cpu_milli")?.unwrap_or(0)),
        memory: MemoryMib(line.count_if("memory_mib")?.unwrap_or(0)),
        tenant: line.value("tenant").to_owned(),
        user: line.value("user").to_owned(),
        name: line.value("name").to_owned(),
        models: line.value("gpu_model").split('|').filter(|model| !model.is_empty()).map(Into::into).collect(),
        limit: line.seconds_if("time_limit_s")?.filter(|limit| *limit > 0).map(Span),
        priority: line.value("priority").to_owned(),
    })
}

/// The nodes of a file, in its order.
///
/// # Errors
/// File, line and field that cannot be used.
pub fn read_nodes(path: &Path) -> Result<Vec<TraceNode>, TraceError> {
    Table::open(path, &["node", "gpus"])?.rows(|line| {
        Ok(TraceNode {
            name: line.name("node")?,
            model: line.value("gpu_model").to_owned(),
            gpus: line.count("gpus")?,
            cpu: CpuMilli(line.count_if("cpu_milli")?.unwrap_or(0)),
            memory: MemoryMib(line.count_if("memory_mib")?.unwrap_or(0)),
            pool: line.value("pool").to_owned(),
            location: Location {
                site: line.value("site").into(),
                spine: line.value("spine").into(),
                leaf: line.value("leaf").into(),
                nvlink: line.value("nvlink").into(),
            },
        })
    })
}

/// Whole domains, or nothing.
fn domains(line: &Line<'_>) -> Result<Option<DomainsDraft>, TraceError> {
    match line.value("domains") {
        "" => Ok(None),
        text => read_domains(text).map(Some).ok_or_else(|| line.bad("domains", "write them as leaf=4 or leaf=4x32")),
    }
}

/// The missions of a file, in its order.
///
/// # Errors
/// File, line and field that cannot be used.
pub fn read_missions(path: &Path) -> Result<Vec<Mission>, TraceError> {
    Table::open(path, &["tenant", "quota"])?.rows(|line| {
        Ok(Mission {
            tenant: line.name("tenant")?,
            quota: Gpus::whole(line.count("quota")?),
            limit: line.count_if("limit")?.map(Gpus::whole),
            lend_limit: line.count_if("lend_limit")?.map(Gpus::whole),
            domains: domains(line)?,
            weight: line.count_if("weight")?,
            budget_hours: line.count_if("budget_gpu_hours")?,
            priority: line.value("priority").to_owned(),
        })
    })
}
