//! Dure's agent: one per node. It tells the scheduler what the node has and how it is, and runs what it is told to.
//!
//! Reading order: `model` (the words), `reconcile` (the pure core: messages in, actions out), `leases` (what is on
//! disk), `launch` and `shim` (how a member becomes a process and how its end is learnt), `inventory` (NVML), `session`
//! (the stream), `run` (the loop that joins them). The core is synchronous and does no IO; tokio only pumps.
//! The agent never depends on the scheduler's crates: they share the wire messages and nothing else.

#![warn(missing_docs)]

pub mod config;
pub mod convert;
pub mod durable;
pub mod fake;
pub mod inventory;
pub mod join;
pub mod launch;
pub mod leases;
pub mod logs;
pub mod model;
pub mod reconcile;
pub mod retention;
pub mod run;
mod session;
pub mod shim;
mod sys;

pub use config::AgentConfig;
pub use run::{AgentError, run};
