//! Dure's agent: one per node. It tells the scheduler what the node has and how it is, and runs what it is told to.
//!
//! Reading order: `model` (the words), `reconcile` (the pure core: messages in, actions out), `leases` (what is on
//! disk), `launch` and `shim` (how a member becomes a process and how its end is learnt), `inventory` (NVML), `session`
//! (the stream), `turn` (what joins the core to them), `run` (the loop that pumps it). Core and turn are synchronous and
//! do no IO; tokio only pumps.
//! The agent never depends on the scheduler's crates: they share the wire messages and nothing else.

#![warn(missing_docs)]

pub mod checks;
pub mod config;
pub mod convert;
pub mod durable;
pub mod exec;
pub mod fake;
pub mod inventory;
pub mod isolation;
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
mod steps;
mod sys;
pub mod turn;

pub use config::AgentConfig;
pub use run::{AgentError, run};
