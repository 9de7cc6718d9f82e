//! Dure's core: all cluster state and every decision.
//!
//! Read in this order, which is the way of a job:
//!
//! - `input` (what can happen), `decide` (input -> events), `event` (facts), `apply` (the only code that changes state);
//! - `admit` (submit, tenants, quota), `queue` (pending jobs by class), `order` (who is next), `place` (where),
//!   `cycle` (one scheduling turn), `plan` (whom to evict for whom), `promise` (GPUs held for a job);
//! - `finish` (barrier, ends, retries), `contact` (nodes), `account` (who held what), `explain` (why a job waits);
//! - `jobs`, `sorted`, `timers`, `blanks` (how what grows and shrinks is kept),
//! - `snapshot` (the state as events), `invariants` (what always holds).
//!
//! The core has no clock, no randomness, no IO, no threads and no logging: time and ids come in as arguments, facts go
//! out as events. The same events always build the same state.

mod account;
pub mod admit;
mod apply;
mod blanks;
pub mod blocked;
pub mod booking;
pub mod budget;
pub mod calendar;
pub mod caps;
pub mod classes;
pub mod cluster;
mod contact;
pub mod cycle;
pub mod decay;
pub mod decide;
pub mod defrag;
pub mod event;
pub mod explain;
mod finish;
#[cfg(any(test, feature = "fixture"))]
pub mod fixture;
pub mod gpu;
pub mod idle;
pub mod ids;
pub mod input;
pub mod invariants;
pub mod job;
pub mod jobs;
pub mod mig;
mod news;
pub mod node;
mod order;
pub mod parts;
pub mod place;
pub mod placement;
mod plan;
pub mod policy;
pub mod pools;
pub mod promise;
pub mod queue;
mod refused;
pub mod rejected;
pub mod reply;
pub mod request;
pub mod reserve;
mod resize;
mod snapshot;
pub mod sorted;
mod spares;
mod survivors;
pub mod tenant;
mod timers;
pub mod topology;
pub mod units;
pub mod wanted;
pub mod whole;

#[cfg(test)]
mod tests;

pub use cluster::Cluster;
pub use cycle::cycle;
pub use decide::decide;
pub use event::Event;
pub use input::Input;
pub use policy::Policy;
