//! Promises against what came: start estimates made during a replay, and how they fared.
//!
//! Comes in: a replay under way. Goes out: for each job that was found waiting, the P50 and P90 that it was told first, and
//! when it really started. What is learned comes from jobs that have ended by then, and nothing else.

use std::collections::BTreeMap;

use dure_core::ids::JobId;
use dure_core::units::{Span, Time};
use serde::Serialize;

use crate::drive::{Drive, DriveError};
use crate::forecast::{Ahead, Estimate, estimates};
use crate::learned::Learned;
use crate::trace::{Moment, Row};

/// When jobs are told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Calibration {
    /// Until then runs are learned and nobody is told anything.
    pub learn_until: Time,
    /// Waiting jobs are told so often.
    pub every: Span,
}

/// What a job was told first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Promise {
    /// Place of the job in the trace.
    pub job: usize,
    /// When it was told.
    pub told_at: Time,
    /// What.
    pub estimate: Estimate,
}

/// How promises fared.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Fared {
    /// Jobs that were told a P50 and a P90, and have started.
    pub promises: u64,
    /// Jobs that were found waiting and told nothing: no start within the horizon.
    pub untold: u64,
    /// Part of them that started by their P90.
    pub by_p90: f64,
    /// Part of them that started by their P50.
    pub by_p50: f64,
    /// Half of the P50s were off by no more than this, in seconds.
    pub p50_median_error_s: f64,
    /// The same of estimates by limits alone, as Slurm makes them.
    pub limits_median_error_s: f64,
    /// What the errors are to be compared with: half of the jobs still waited no longer than this after they were told.
    pub median_wait_s: f64,
}

/// Runs the replay to its end, and tells waiting jobs on the way.
///
/// # Errors
/// Those of the replay.
pub fn run(
    drive: &mut Drive<'_>,
    calibration: Calibration,
    mut shown: impl FnMut(&Drive<'_>),
) -> Result<Vec<Promise>, DriveError> {
    let mut learned = Learned::default();
    let mut promises: BTreeMap<JobId, Promise> = BTreeMap::new();
    let (mut read, mut next) = (0, calibration.learn_until);
    while drive.turn()? {
        for row in &drive.rows()[read..] {
            if row.moment == Moment::End {
                let (kind, run) = drive.kind(row.job);
                learned.add(kind, run);
            }
        }
        read = drive.rows().len();
        if drive.now() >= next {
            next = drive.now() + calibration.every;
            tell(drive, &learned, &mut promises);
        }
        shown(drive);
    }
    Ok(promises.into_values().collect())
}

fn tell(drive: &Drive<'_>, learned: &Learned, promises: &mut BTreeMap<JobId, Promise>) {
    let waits = |job: &&dure_core::job::Job| job.phase == dure_core::job::Phase::Waiting && job.attempts == 0;
    if !drive.cluster().jobs().iter().filter(waits).any(|job| !promises.contains_key(&job.id)) {
        return;
    }
    for (job, estimate) in estimates(drive.cluster(), &Ahead::whole(drive.now(), learned)).of {
        if drive.cluster().job(job).as_ref().is_some_and(waits) {
            let told_at = drive.now();
            promises.entry(job).or_insert(Promise { job: drive.place(job), told_at, estimate });
        }
    }
}

/// Compares promises with the rows of the replay.
pub fn fared(promises: &[Promise], rows: &[Row]) -> Fared {
    let mut starts: BTreeMap<usize, Time> = BTreeMap::new();
    for row in rows.iter().filter(|row| matches!(row.moment, Moment::Start(_))) {
        starts.entry(row.job).or_insert(row.time);
    }
    let (mut half, mut most, mut waits) = (Vec::new(), Vec::new(), Vec::new());
    let (mut fared, mut by_p50, mut by_p90) = (Fared::default(), 0u64, 0u64);
    for promise in promises {
        let Some(start) = starts.get(&promise.job).copied() else { continue };
        let (Some(p50), Some(p90)) = (promise.estimate.p50, promise.estimate.p90) else {
            fared.untold += 1;
            continue;
        };
        fared.promises += 1;
        by_p50 += u64::from(start <= p50);
        by_p90 += u64::from(start <= p90);
        half.push(start.0.abs_diff(p50.0));
        most.push(start.0.abs_diff(p90.0));
        waits.push(start.since(promise.told_at).0);
    }
    let all = fared.promises;
    let part = |count: u64| (count * 10_000).checked_div(all).unwrap_or(0) as f64 / 10_000.0;
    (fared.by_p50, fared.by_p90) = (part(by_p50), part(by_p90));
    fared.p50_median_error_s = median_s(&mut half);
    fared.limits_median_error_s = median_s(&mut most);
    fared.median_wait_s = median_s(&mut waits);
    fared
}

fn median_s(ms: &mut [u64]) -> f64 {
    ms.sort_unstable();
    ms.get(ms.len() / 2).map_or(0.0, |ms| *ms as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::division::Division;
    use crate::trace::{TraceJob, TraceNode};

    #[test]
    fn promises_are_kept_where_jobs_run_as_those_before() {
        let nodes = [TraceNode { name: "n0".into(), gpus: 8, ..TraceNode::default() }];
        let job = |at: u64| TraceJob {
            id: at.to_string(),
            tenant: "x".into(),
            submit: Time(at * 50_000),
            duration: Span::seconds(60),
            gpus: 8,
            gpu_milli: 1000,
            ..TraceJob::default()
        };
        let jobs: Vec<TraceJob> = (0..40).map(job).collect();
        let mut drive = Drive::new(&nodes, &jobs, &Division::Equal).expect("it can be replayed");
        let calibration = Calibration { learn_until: Time(1_000_000), every: Span::seconds(50) };
        let promises = run(&mut drive, calibration, |_| ()).expect("every job ends");
        let fared = fared(&promises, &drive.finish().rows);
        assert!(fared.promises > 15 && fared.untold == 0, "{fared:?}");
        assert_eq!((fared.by_p50, fared.by_p90, fared.p50_median_error_s), (1.0, 1.0, 0.0), "{fared:?}");
        assert!(fared.limits_median_error_s > 100.0, "a limit of 15 minutes says little of a minute: {fared:?}");
    }
}
