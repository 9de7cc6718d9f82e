//! End-to-end tests of Dure: the harness.
//!
//! A `Cluster` is a scheduler and its agents, each a real process of the binary under test with files of its own in one
//! temporary folder, on a loopback address of its own. Tests speak to it as users do: over gRPC with tokens, or by the
//! command line. Everything ends with the `Cluster`: processes, shims and members. This part must never reach into a
//! scheduler or an agent: what a test sees is what anybody sees. `sim` is the other half: the machines of both, without
//! processes, in a world of their own.

pub mod cli;
pub mod client;
pub mod cluster;
pub mod disk;
pub mod drafts;
pub mod netns;
pub mod process;
pub mod proxy;
pub mod setup;
pub mod sim;
pub mod wait;
pub mod wall;
