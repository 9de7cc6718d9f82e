//! Dure from outside, in one binary: rules of the tree, and whole clusters of real processes.

mod api;
mod beside;
mod bookings;
mod clock;
mod confined;
mod crash;
mod defrag;
mod disk;
mod elastic;
mod faults;
mod gang;
mod health;
mod history;
mod input;
mod netns;
mod nodes;
mod parts;
mod replay;
mod several;
mod sim;
mod survivors;
mod tidy;
mod tls;

/// The binary under test.
const DURE: &str = env!("CARGO_BIN_EXE_dure-under-test");
