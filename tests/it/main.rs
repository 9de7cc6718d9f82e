//! Dure from outside, in one binary: rules of the tree, and whole clusters of real processes.

mod tidy;
