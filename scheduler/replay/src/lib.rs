//! Virtual time around the unchanged core: traces, baselines, forecasts, synthetic workloads.
//!
//! - `trace`: the rows of job, node and missions files, read and written; `shape`: the GPUs of a row as a gang; `limits`:
//!   time limits where a file states none; `division`: quotas; `faults`, `breakage`: what breaks, and what that does;
//! - `forward`: virtual time around a cluster; `drive`: a trace against it; `baseline`: what others would do;
//! - `measure`: rows -> figures; `report`: the figures of a replay;
//! - `learned`: run times of what has ended; `forecast`: start estimates and what-if, a copy of the state run forward; `calibrate`: how
//!   the estimates fared;
//! - `generate`: synthetic workloads with published shapes.
//!
//! There is no clock in here, and chance only by a seed: the same input gives the same rows.

pub mod baseline;
mod breakage;
pub mod calibrate;
pub mod division;
pub mod drive;
pub mod faults;
pub mod forecast;
pub mod forward;
pub mod generate;
pub mod learned;
pub mod limits;
pub mod measure;
pub mod report;
pub mod shape;
pub mod trace;
