//! The core under random histories: users, operators, agents that answer, fall silent, come back, repeat themselves and
//! lie; crashes of the scheduler between any two inputs.
//!
//! After every step: all invariants; no process that the scheduler has forgotten; the events build the same state in a
//! second core, which takes over when the first one crashes; then a third core, restored from a snapshot, decides the same.
//! What a core remembers never keeps a job from what one without memory would start. At the end all faults are lifted
//! and every job must end.

mod agents;
mod bookings;
mod fits;
mod steps;
mod world;

use proptest::prelude::*;

use crate::steps::{Setup, Step, history, setup};
use crate::world::World;

proptest! {
    #[test]
    fn nothing_is_lost_held_twice_or_stuck(setup in setup(), history in history()) {
        run(&setup, &history, false);
    }

    #[test]
    fn nor_with_the_plan_in_time(setup in setup(), history in history()) {
        run(&setup, &history, true);
    }
}

fn run(setup: &Setup, history: &[Step], plan_in_time: bool) {
    let mut world = World::new(setup, plan_in_time);
    for step in history {
        world.step(step);
    }
    world.lift_faults();
    world.everything_ends();
}
