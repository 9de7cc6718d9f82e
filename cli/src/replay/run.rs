//! Replays, and says how far it has come.

use std::time::Instant;

use dure_core::units::Span;
use dure_replay::{
    baseline,
    calibrate::{self, Calibration, Fared},
    drive::{Drive, DriveError, DriveOptions, Replayed, RunTimes, Without},
};

use super::{PolicyChoice, ReplayArgs, Rule, RunTimesChoice, input::Input};
use crate::{failure::Failure, progress::Progress, span};

/// Instants between two looks at the clock.
const SHOW_EVERY: u64 = 2_000;

/// What came of it, and how long it took.
pub(super) struct Played {
    /// The rows.
    pub(super) replayed: Replayed,
    /// How start estimates fared, where they were asked for.
    pub(super) fared: Option<Fared>,
    /// Real seconds of the replay itself, without reading and writing.
    pub(super) seconds: f64,
}

/// Replays the input as the flags say.
pub(super) fn play(args: &ReplayArgs, input: &Input) -> Result<Played, Failure> {
    let started = Instant::now();
    let failed = |err: DriveError| Failure::Failed(err.to_string());
    let rule = match args.policy {
        PolicyChoice::Dure => None,
        PolicyChoice::Fifo => Some(baseline::Rule::Fifo),
        PolicyChoice::Sjf => Some(baseline::Rule::Sjf),
        PolicyChoice::FifoBackfill => Some(baseline::Rule::FifoBackfill),
    };
    let (replayed, fared) = match rule {
        Some(rule) => (compare(args, input, rule).map_err(failed)?, None),
        None => drive(args, input).map_err(failed)?,
    };
    Ok(Played { replayed, fared, seconds: started.elapsed().as_secs_f64() })
}

fn compare(args: &ReplayArgs, input: &Input, rule: baseline::Rule) -> Result<Replayed, DriveError> {
    let (mut progress, mut instants) = (Progress::new(), 0u64);
    let shown = |done| {
        instants += 1;
        if instants.is_multiple_of(SHOW_EVERY) {
            show(&mut progress, done, input.jobs.len());
        }
    };
    let replayed = baseline::run(&input.nodes, &input.jobs, rule, args.partitioned, shown);
    progress.done();
    replayed
}

fn drive(args: &ReplayArgs, input: &Input) -> Result<(Replayed, Option<Fared>), DriveError> {
    let off = |rule| args.without.contains(&rule);
    let options = DriveOptions {
        run_times: match args.run_times {
            RunTimesChoice::Exact => RunTimes::Exact,
            RunTimesChoice::Limit => RunTimes::Limit,
            RunTimesChoice::Learned => RunTimes::Learned,
        },
        without: Without {
            borrowing: off(Rule::Borrowing),
            reclaim: off(Rule::Reclaim),
            plan: off(Rule::Plan),
            backfill: off(Rule::Backfill),
            classes: off(Rule::Classes),
            topology: off(Rule::Topology),
        },
        faults: input.faults.clone(),
    };
    let mut drive = Drive::with(&input.nodes, &input.jobs, input.missions.clone(), options)?;
    let mut progress = Progress::new();
    let mut shown = |drive: &Drive<'_>| {
        if drive.turns().is_multiple_of(SHOW_EVERY) {
            show(&mut progress, drive.done(), input.jobs.len());
        }
    };
    let mut promises = Vec::new();
    if let Some(every) = args.estimates {
        let (first, last) = (input.jobs[0].submit, input.jobs[input.jobs.len() - 1].submit);
        let learn_until = first + Span(last.since(first).0 / 2);
        promises = calibrate::run(&mut drive, Calibration { learn_until, every: Span(every.0) }, &mut shown)?;
    }
    while drive.turn()? {
        shown(&drive);
    }
    progress.done();
    let replayed = drive.finish();
    let fared = args.estimates.map(|_| calibrate::fared(&promises, &replayed.rows));
    Ok((replayed, fared))
}

fn show(progress: &mut Progress, done: usize, all: usize) {
    let elapsed = progress.elapsed().as_secs_f64();
    let left = if done > 0 { elapsed / done as f64 * (all - done) as f64 } else { 0.0 };
    let left = span::human((left * 1_000.0) as u64);
    progress.state(&format!("{} % of {all} jobs have ended, about {left} left", done * 100 / all.max(1)));
}
