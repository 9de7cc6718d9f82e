//! The face: `dure.v1` over gRPC. Messages in, calls to the owner of the cluster, answers out once they are durable.
//!
//! `server` binds everything with its limits; `jobs`, `tenants`, `nodes`, `bookings`, `watch`, `logs`, `forecasts` and `join` are the services;
//! `convert` is the only place that knows both the wire and the core; `status` turns every error into its gRPC code and
//! `text` every reason into a sentence. A service decides nothing but whether its caller may ask, and holds no state.

pub mod bookings;
pub mod convert;
mod defrag;
pub mod exec;
pub mod forecasts;
pub mod history;
pub mod jobs;
pub mod join;
pub mod limits;
pub mod logs;
pub mod nodes;
pub mod page;
pub mod request;
pub mod seat;
pub mod server;
pub mod status;
pub mod steps;
pub mod tenants;
pub mod text;
pub mod watch;

#[cfg(test)]
mod tests;
