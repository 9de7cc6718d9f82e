//! The commands of the one binary.

/// Runs the command line.
pub fn main() {}
