//! `dure dev --jobs FILE`: a real job file, replayed over gRPC against a cluster whose members are timers.
//!
//! Reading order: `plan` (pure: rows of the file become jobs with times and shapes), `run` (submits each when it is due,
//! follows the events), `tables` (what a judge outside reads, in the file's own seconds). What replays in virtual time is
//! `dure replay`.
//! Time: one second of the file lasts 1/speedup seconds. No job is submitted before its time; the instant from which the
//! file's seconds are counted is the latest for which the events say the same.

mod plan;
mod run;
mod tables;

pub(crate) use plan::{Plan, PlanOptions, Window};
pub(crate) use run::{Followed, run};
pub(crate) use tables::{FileTime, Outputs, create, jobs as write_jobs, nodes as write_nodes, summary};
