//! Seeds of the simulated world: a bounded number here, as many as you like by `cargo run --release --bin sim`.

use dure_tests::sim::{Plant, run};

/// Seeds that every run of the tests goes through.
const SEEDS: u64 = 300;
fn holds(seeds: impl Iterator<Item = u64>) {
    for seed in seeds {
        if let Some(why) = run(seed, None, false).broken {
            panic!(
                "seed {seed}: {why}\nagain: cargo run --release -p dure-tests --bin sim -- --seeds {seed}..{} --trace",
                seed + 1
            );
        }
    }
}

#[test]
fn no_promise_is_broken_in_any_seed() {
    std::thread::scope(|scope| {
        // CI has two cores.
        for half in 0..2 {
            scope.spawn(move || holds((half..SEEDS).step_by(2)));
        }
    });
}

#[test]
fn the_same_seed_twice_is_the_same_world() {
    for seed in [3, 77] {
        let (first, second) = (run(seed, None, false), run(seed, None, false));
        assert_eq!(first, second);
        assert!(first.events > 1_000 && first.broken.is_none(), "{first:?}");
    }
    assert_ne!(run(3, None, false).digest, run(4, None, false).digest);
}

#[test]
fn every_planted_mistake_is_found() {
    for (name, plant, within) in [
        ("ack-before-commit", Plant::AckBeforeCommit, 50),
        ("no-epoch-check", Plant::NoEpochCheck, 400),
        ("lease-removed-early", Plant::LeaseRemovedEarly, 400),
        ("lost-wake-up", Plant::LostWakeUp, 30),
        ("gang-count-off-by-one", Plant::GangCountOffByOne, 30),
        ("no-proof-of-death", Plant::NoProofOfDeath, 300),
    ] {
        let found = (0..within).find_map(|seed| Some((seed, run(seed, Some(plant), false).broken?)));
        let (seed, why) = found.unwrap_or_else(|| panic!("{name} is not found within {within} seeds"));
        println!("{name}: found by seed {seed} of {within}: {why}");
    }
}
