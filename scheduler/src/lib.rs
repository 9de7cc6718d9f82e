//! Skeleton.

pub mod journal;
