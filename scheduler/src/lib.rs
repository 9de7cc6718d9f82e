//! The scheduler process: the shell around the core. All of the clock, the disk and the network is here, and no decision.
//!
//! `turn` is the synchronous heart (messages in, a batch of events and effects out), `lead` joins it to the journal, `run`
//! pumps both, `handle` is how gRPC services talk to them, `agents` are the sessions of the nodes, `journal` makes turns
//! durable, `forecast` runs copies of the state ahead, `grpc` is the face.

pub mod agents;
pub mod audit;
pub mod auth;
pub mod clock;
pub mod config;
pub mod effect;
pub mod etcd;
pub mod export;
pub mod fence;
pub mod follower;
pub mod forecast;
pub mod grpc;
pub mod handle;
pub mod history;
pub mod journal;
pub mod lead;
pub mod leadership;
pub mod live;
pub mod metrics;
pub mod past;
pub mod perform;
#[cfg(test)]
mod random_turns;
pub mod record;
pub mod recorded;
pub mod recover;
pub mod room;
pub mod run;
pub mod source;
pub mod standby;
pub mod start;
pub mod terms;
pub mod turn;

pub use config::Config;
pub use run::Stopped;
pub use start::{Running, StartError, start, start_with};
