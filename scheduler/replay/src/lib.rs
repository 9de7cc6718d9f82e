//! Virtual time around the unchanged core: trace files in, placements and a report out.
//!
//! - `trace`: the rows of job, node and missions files, read and written;
//! - `shape`: the GPUs of a row as a gang;
//! - `drive`: the discrete-event driver: submits, runs each placed job for its duration, lets the core cycle after each
//!   instant;
//! - `report`: what came of it, per tenant.
//!
//! There is no clock and no randomness in here: the same files give the same rows.

pub mod drive;
pub mod report;
pub mod shape;
pub mod trace;
