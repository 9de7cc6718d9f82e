//! `dure dev --jobs FILE`: a real job file, replayed over gRPC against a cluster whose members are timers.
//!
//! Reading order: `plan` (pure: rows of the file become jobs with times and shapes), `run` (submits each when it is due,
//! follows the events), `tables` (what a judge outside reads: nodes, jobs and placements, in the file's own seconds).
//! Time: one second of the file lasts 1/speedup seconds. No job is submitted before its time; the instant from which the
//! file's seconds are counted is the latest for which the events say the same.

mod plan;
mod rows;
mod run;
mod tables;

#[cfg(test)]
pub(crate) use plan::TraceJob;
pub(crate) use plan::{Plan, PlanOptions, Window};
pub(crate) use rows::{read_jobs, read_missions};
pub(crate) use run::{Followed, run};
pub(crate) use tables::{FileTime, Outputs, create, jobs as write_jobs, nodes as write_nodes, summary};
