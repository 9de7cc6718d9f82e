//! `dure dev --demo`: a mixed workload of real processes from all missions, judged by what the processes themselves say.
//!
//! Reading order: `plan` (what is submitted and how it should end), `run` (submits it, plays the users, follows it),
//! `verify` (pure: what the jobs printed against what they should have seen), `summary` (per mission).
//! Everything goes over the gRPC API, as a user's own commands would.

mod plan;
mod run;
mod summary;
mod verify;

pub(crate) use run::run;

/// The missions that take part.
pub(crate) fn missions() -> impl Iterator<Item = &'static str> {
    plan::MISSIONS.into_iter()
}
