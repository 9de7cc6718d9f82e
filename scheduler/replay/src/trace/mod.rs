//! Trace files: the rows of jobs, nodes and missions.
//!
//! Comes in: CSV, or what `sacct -P` of Slurm prints, plain or compressed, told apart by their first bytes; columns are found
//! by name, those that are not known are left alone. Goes out: rows with units, or an error that names file, line and field.
//! Written are the files that a judge of a replay reads.

mod domains;
mod read;
mod sacct;
mod table;
mod write;

use std::path::PathBuf;

use dure_core::gpu::GpuSet;
use dure_core::input::DomainsDraft;
use dure_core::node::Location;
use dure_core::units::{CpuMilli, Gpus, MemoryMib, Span, Time};
use smallvec::SmallVec;

pub use self::domains::{read_domains, write_domains};
pub use self::read::{read_jobs, read_missions, read_nodes};
pub use self::sacct::from_sacct;
pub(crate) use self::table::rows_of;
pub use self::write::{write_jobs, write_missions, write_nodes, write_placements};

/// A job of a trace.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TraceJob {
    /// As the file calls it.
    pub id: String,
    /// When it was submitted; the file's second 0 is time 0.
    pub submit: Time,
    /// How long it runs.
    pub duration: Span,
    /// How many GPUs.
    pub gpus: u32,
    /// Thousandths of each GPU that it uses; 1000 = whole.
    pub gpu_milli: u32,
    /// Nodes of the gang, where the file says so.
    pub nodes: Option<u32>,
    /// CPU: of each node where `nodes` is set, of the whole job else; 0 = not limited.
    pub cpu: CpuMilli,
    /// Memory, as `cpu`.
    pub memory: MemoryMib,
    /// Who pays; may be empty.
    pub tenant: String,
    /// Who submitted it; may be empty.
    pub user: String,
    /// As its user called it; may be empty.
    pub name: String,
    /// GPU models that will do; none: any.
    pub models: Vec<String>,
    /// The time limit that it was submitted with, where the file says so.
    pub limit: Option<Span>,
    /// Its class of priority; empty: the default.
    pub priority: String,
}

/// A node of a trace.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TraceNode {
    /// Its name.
    pub name: String,
    /// GPU model; may be empty.
    pub model: String,
    /// Its GPUs.
    pub gpus: u32,
    /// CPU; 0 = not limited.
    pub cpu: CpuMilli,
    /// Memory; 0 = not limited.
    pub memory: MemoryMib,
    /// The tenant's partition in the original system; may be empty.
    pub pool: String,
    /// Where it stands, as far as the file says.
    pub location: Location,
}

/// What a tenant has.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mission {
    /// The tenant.
    pub tenant: String,
    /// Guaranteed GPUs.
    pub quota: Gpus,
    /// Ceiling, if it has one.
    pub limit: Option<Gpus>,
    /// Most of its idle quota that others may use; absent: all.
    pub lend_limit: Option<Gpus>,
    /// The part of the quota that comes in whole domains of the first pool.
    pub domains: Option<DomainsDraft>,
    /// Share of the surplus; absent: 1.
    pub weight: Option<u32>,
    /// GPU-hours that it may use, if it has a budget.
    pub budget_hours: Option<u64>,
    /// Class of priority of its jobs that name none; empty: the default.
    pub priority: String,
}

/// What happened to an attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Moment {
    /// It got its GPUs: by member the node (its place in the node file) and the GPUs there.
    Start(SmallVec<[(u32, GpuSet); 1]>),
    /// It ran its course.
    End,
    /// It was evicted.
    Preempt,
    /// It was lost to a fault.
    Fail,
}

/// One event of a replay.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// When.
    pub time: Time,
    /// Place of the job in the job file.
    pub job: usize,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// What.
    pub moment: Moment,
}

/// A trace file that cannot be read or written: mend the file, or its path.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file itself.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It is no CSV.
    #[error("{}: {error}", path.display())]
    Csv {
        /// Which.
        path: PathBuf,
        /// Where and why.
        error: csv::Error,
    },
    /// A column that is needed is not there.
    #[error("{}: line 1: there is no column {field:?}; its columns are {known}", path.display())]
    NoColumn {
        /// Which file.
        path: PathBuf,
        /// The column.
        field: &'static str,
        /// Those that are there.
        known: String,
    },
    /// A value cannot be used.
    #[error("{}: line {line}: field {field:?} is {value:?}: {remedy}", path.display())]
    BadField {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: u64,
        /// Which column.
        field: &'static str,
        /// What it says.
        value: String,
        /// What it should say.
        remedy: &'static str,
    },
}

/// `copies` times the jobs, each copy a further `shift` later and under ids of its own (`id~2`, `id~3`, ...): a larger load
/// of the same shapes.
pub fn copies(jobs: &[TraceJob], copies: u32, shift: Span) -> Vec<TraceJob> {
    let copy = |number: u32| {
        let moved = Span(shift.0 * u64::from(number));
        jobs.iter().map(move |job| match number {
            0 => job.clone(),
            _ => TraceJob { id: format!("{}~{}", job.id, number + 1), submit: job.submit + moved, ..job.clone() },
        })
    };
    let mut all: Vec<TraceJob> = (0..copies.max(1)).flat_map(copy).collect();
    all.sort_by_key(|job| job.submit);
    all
}

/// The jobs submitted from `from` on and before `to`, in the order of their times.
pub fn window(mut jobs: Vec<TraceJob>, from: Time, to: Time) -> Vec<TraceJob> {
    jobs.retain(|job| (from..to).contains(&job.submit));
    jobs.sort_by_key(|job| job.submit);
    jobs
}
