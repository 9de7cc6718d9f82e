//! The agent with real processes, against a scheduler that is played by the test.

mod containers;
mod gpu;
mod harness;
mod identity;
mod isolation;
mod life;
mod logs;
mod restart;
mod shim;
mod simulated;
mod stopping;
