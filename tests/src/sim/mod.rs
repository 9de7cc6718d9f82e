//! The simulated world: the real core, the real machines of shell and agent, on a virtual clock with one seed.
//!
//! In: a seed, and perhaps a mistake to plant. Out: what happened as one digest, and the first promise that was broken.
//! Everything that the real processes decide with is here as it is (`lead::Leader` with its turns, `journal::Committer`
//! over the engine's twin in memory, `follower::Following`, recovery, `agent::turn::Agent`); clocks, disks, streams, shims
//! and processes are of this folder. The world never looks at a real clock and draws every number from its dice.
//!
//! Read in this order: `clock` (time and dice), `faults` (what may go wrong, by the seed), `net` (streams), `disk` (what
//! survives a crash), `leader` and `agent` (the pumps), `workload` (clients), `oracle` (what must hold), `world` (the loop).

mod agent;
mod clock;
mod digest;
mod disk;
mod faults;
mod leader;
mod net;
mod oracle;
mod trouble;
mod workload;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use faults::{Plant, Swarm};
use world::World;

/// What a seed came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Of everything that happened, in order.
    pub digest: u64,
    /// Events of the world.
    pub events: u64,
    /// Virtual time that passed, in milliseconds.
    pub virtual_ms: u64,
    /// Counts of what happened, for the summary.
    pub seen: Seen,
    /// What was broken first, if anything was.
    pub broken: Option<String>,
}

/// How often things happened that a good run must have seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// Jobs acknowledged.
    pub jobs: u64,
    /// Of them such as name a booking.
    pub invited: u64,
    /// Processes started.
    pub starts: u64,
    /// Durable batches.
    pub batches: u64,
    /// Schedulers that crashed, failed or were deposed.
    pub crashes: u64,
    /// Agents that crashed.
    pub agent_crashes: u64,
    /// Nodes that lost their power.
    pub reboots: u64,
    /// Times that a node was cut off.
    pub partitions: u64,
    /// Restores after a disk had lost what it said was durable.
    pub restores: u64,
}

impl Seen {
    /// Adds another run's.
    pub fn add(&mut self, other: &Seen) {
        self.jobs += other.jobs;
        self.invited += other.invited;
        self.starts += other.starts;
        self.batches += other.batches;
        self.crashes += other.crashes;
        self.agent_crashes += other.agent_crashes;
        self.reboots += other.reboots;
        self.partitions += other.partitions;
        self.restores += other.restores;
    }
}

/// Runs one seed to its end. With `trace` every event is printed as it happens.
pub fn run(seed: u64, plant: Option<Plant>, trace: bool) -> Outcome {
    let mut world = World::new(seed, plant, trace);
    let ran = catch_unwind(AssertUnwindSafe(|| world.run()));
    let panicked = ran.err().map(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        format!("an assertion failed: {}", text.unwrap_or_else(|| "no reason given".to_owned()))
    });
    world.outcome(seed, panicked)
}
