//! Runs seeds of the simulated world: `sim --seeds 0..1000`, and for one of them `sim --seeds 17..18 --trace`.

use std::ops::Range;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use dure_tests::sim::{Outcome, Plant, Seen, run};

/// Runs seeds of the simulated world, and stops at the first that breaks a promise.
#[derive(Parser)]
struct Args {
    /// Which seeds, as in 0..1000.
    #[arg(long, value_parser = range, default_value = "0..1000")]
    seeds: Range<u64>,
    /// Prints everything that happens.
    #[arg(long)]
    trace: bool,
    /// Prints every seed's digest.
    #[arg(long)]
    digests: bool,
    /// Goes on after a broken promise.
    #[arg(long)]
    keep_going: bool,
    /// A mistake to plant: ack-before-commit, no-epoch-check, lease-removed-early, lost-wake-up, gang-count-off-by-one,
    /// no-proof-of-death.
    #[arg(long, value_parser = plant)]
    plant: Option<Plant>,
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let wrong = || format!("{text:?} is no range of seeds; as in 0..1000");
    let (from, to) = text.split_once("..").ok_or_else(wrong)?;
    let (from, to) = (from.parse().map_err(|_| wrong())?, to.parse().map_err(|_| wrong())?);
    if from < to { Ok(from..to) } else { Err(wrong()) }
}

fn plant(text: &str) -> Result<Plant, String> {
    let found = Plant::ALL.iter().find(|(name, _)| *name == text);
    found.map(|(_, plant)| *plant).ok_or_else(|| {
        let names: Vec<&str> = Plant::ALL.iter().map(|(name, _)| *name).collect();
        format!("{text:?} is none of {}", names.join(", "))
    })
}

fn main() -> ExitCode {
    let args = Args::parse();
    // A broken assertion of the code under test is an outcome, told once.
    if !args.trace {
        std::panic::set_hook(Box::new(|_| {}));
    }
    let (began, mut seen, mut failed) = (Instant::now(), Seen::default(), 0_u64);
    let (mut ran, mut events, mut virtual_ms) = (0_u64, 0_u64, 0_u64);
    for seed in args.seeds.clone() {
        let outcome = run(seed, args.plant, args.trace);
        ran += 1;
        events += outcome.events;
        virtual_ms += outcome.virtual_ms;
        seen.add(&outcome.seen);
        if args.digests {
            println!("seed {seed} digest {:016x}", outcome.digest);
        }
        if outcome.broken.is_some() {
            failed += 1;
            tell(&outcome, &args);
            if !args.keep_going {
                break;
            }
        }
    }
    let took = began.elapsed().as_secs_f64();
    println!(
        "{ran} seeds in {took:.1} s ({:.1} seeds/s, {:.0} events/s): {:.1} virtual hours, {seen:?}; {failed} broken",
        ran as f64 / took,
        events as f64 / took,
        virtual_ms as f64 / 3_600_000.0,
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tell(outcome: &Outcome, args: &Args) {
    let seed = outcome.seed;
    println!("seed {seed}: {}", outcome.broken.as_deref().unwrap_or("nothing is broken"));
    let planted = Plant::ALL.iter().find(|(_, plant)| Some(*plant) == args.plant);
    let plant = planted.map(|(name, _)| format!(" --plant {name}")).unwrap_or_default();
    println!(
        "again, with all that happens: cargo run --release -p dure-tests --bin sim -- --seeds {seed}..{}{plant} --trace",
        seed + 1
    );
}
