//! From the rows of a job file to what is submitted when. Pure.
//!
//! Comes in: rows, the window, the clamp, the speed. Goes out: jobs in the order of their times. What cannot be replayed
//! (a share of a GPU, a job without GPUs) is an error that names the job, never left out in silence.

use std::{collections::BTreeSet, str::FromStr};

use dure_core::units::Span;
use dure_proto::v1::{JobSpec, Payload, Shape};
use dure_replay::trace::TraceJob;

/// The user of jobs whose file names none.
const NOBODY: &str = "someone";
/// A replayed job may run this many times its duration before it is stopped ...
const LIMIT_FACTOR: u64 = 2;
/// ... and this much longer, in real milliseconds: enough for a slow node.
const LIMIT_SLACK_MS: u64 = 600_000;

/// `FROM..TO`, in the file's seconds; TO is outside.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Window {
    /// First second.
    pub(crate) from: f64,
    /// First second after it.
    pub(crate) to: f64,
}

impl FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no window: write FROM..TO in the file's seconds, as in 8000000..8200000");
        let (from, to) = text.split_once("..").ok_or_else(wrong)?;
        let number = |part: &str| part.parse::<f64>().ok().filter(|number| number.is_finite()).ok_or_else(wrong);
        let window = Self { from: number(from)?, to: number(to)? };
        if window.from < window.to { Ok(window) } else { Err(wrong()) }
    }
}

/// How a file is replayed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlanOptions {
    /// Only jobs submitted in it.
    pub(crate) window: Option<Window>,
    /// Longer jobs are cut to this, in the file's seconds.
    pub(crate) max_duration_s: Option<f64>,
    /// Seconds of the file in one real second.
    pub(crate) speedup: f64,
    /// GPUs of a node.
    pub(crate) gpus_per_node: u32,
}

/// A job of the replay.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Replayed {
    /// The row, its duration clamped.
    pub(crate) row: TraceJob,
    /// When it is due, in real milliseconds after the start.
    pub(crate) due_ms: f64,
    /// How long it runs, in real milliseconds.
    pub(crate) run_ms: u64,
    /// GPUs of its members.
    pub(crate) members: Vec<u32>,
}

/// All of it, by time.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    /// The file's second at the start.
    pub(crate) from_s: f64,
    /// Seconds of the file in one real second.
    pub(crate) speedup: f64,
    /// By time, then as in the file.
    pub(crate) jobs: Vec<Replayed>,
}

impl Plan {
    /// Plans the replay of these rows.
    pub(crate) fn new(rows: Vec<TraceJob>, options: PlanOptions) -> Result<Self, String> {
        let mut rows = rows;
        let inside = |window: Window, row: &TraceJob| (window.from..window.to).contains(&submit_s(row));
        rows.retain(|row| options.window.is_none_or(|window| inside(window, row)));
        rows.sort_by_key(|row| row.submit);
        let first = rows.first().ok_or("no job of the file lies in the window: see the column submit_s")?;
        let first = submit_s(first);
        let from_s = options.window.map_or(first, |window| window.from);
        let mut seen = BTreeSet::new();
        let mut jobs = Vec::with_capacity(rows.len());
        for row in rows {
            if !seen.insert(row.id.clone()) {
                return Err(format!("job {}: the file has it twice", row.id));
            }
            jobs.push(Replayed::new(row, from_s, options)?);
        }
        Ok(Self { from_s, speedup: options.speedup, jobs })
    }

    /// The tenants, by name.
    pub(crate) fn tenants(&self) -> BTreeSet<&str> {
        self.jobs.iter().map(|job| job.row.tenant.as_str()).collect()
    }

    /// Who submits: tenant and user.
    pub(crate) fn speakers(&self) -> BTreeSet<(String, String)> {
        self.jobs.iter().map(|job| (job.row.tenant.clone(), job.row.user.clone())).collect()
    }
}

impl Replayed {
    fn new(mut row: TraceJob, from_s: f64, options: PlanOptions) -> Result<Self, String> {
        if row.gpu_milli < 1_000 {
            return Err(format!(
                "job {}: gpu_milli {}: shares of a GPU cannot be replayed, use a file of whole GPUs",
                row.id, row.gpu_milli
            ));
        }
        if row.gpus == 0 {
            return Err(format!("job {}: num_gpu 0: a job holds at least one GPU", row.id));
        }
        if let Some(longest) = options.max_duration_s {
            row.duration = row.duration.min(Span((longest * 1_000.0) as u64));
        }
        if row.user.is_empty() {
            row.user = NOBODY.to_owned();
        }
        let due_ms = (submit_s(&row) - from_s) * 1_000.0 / options.speedup;
        // Both are finite and not negative; a fraction of a millisecond of run time is rounded.
        let run_ms = (row.duration.0 as f64 / options.speedup).round() as u64;
        let members = members(row.gpus, options.gpus_per_node);
        Ok(Self { row, due_ms, run_ms, members })
    }

    /// The job of the API. Its time limit is generous: twice its run time and ten minutes.
    pub(crate) fn spec(&self) -> JobSpec {
        let first = self.members.first().copied().unwrap_or(0);
        let equal = self.members.iter().all(|gpus| *gpus == first);
        JobSpec {
            tenant: self.row.tenant.clone(),
            name: self.row.id.clone(),
            shape: Some(Shape {
                members: if equal { u32::try_from(self.members.len()).unwrap_or(u32::MAX) } else { 0 },
                gpus_per_member: if equal { first } else { 0 },
                unequal: if equal { Vec::new() } else { self.members.clone() },
                ..Shape::default()
            }),
            time_limit_ms: self.run_ms * LIMIT_FACTOR + LIMIT_SLACK_MS,
            payload: Some(Payload {
                args: vec!["simulated".to_owned()],
                env: [("DURE_SIM_DURATION_MS".to_owned(), self.run_ms.to_string())].into(),
                ..Payload::default()
            }),
            ..JobSpec::default()
        }
    }
}

/// When a row was submitted, in the file's seconds.
pub(super) fn submit_s(row: &TraceJob) -> f64 {
    row.submit.0 as f64 / 1_000.0
}

/// Full nodes and one member for the remainder.
fn members(gpus: u32, per_node: u32) -> Vec<u32> {
    let (full, rest) = (gpus / per_node, gpus % per_node);
    let mut members = vec![per_node; full as usize];
    members.extend((rest > 0).then_some(rest));
    members
}

#[cfg(test)]
mod tests {
    use dure_core::units::Time;

    use super::*;

    fn row(id: &str, submit_s: f64, duration_s: f64, gpus: u32) -> TraceJob {
        TraceJob {
            id: id.to_owned(),
            submit: Time((submit_s * 1_000.0) as u64),
            duration: Span((duration_s * 1_000.0) as u64),
            gpus,
            gpu_milli: 1_000,
            tenant: "t".to_owned(),
            ..TraceJob::default()
        }
    }

    fn options() -> PlanOptions {
        let window = Some(Window { from: 100.0, to: 200.0 });
        PlanOptions { window, max_duration_s: Some(50.0), speedup: 100.0, gpus_per_node: 8 }
    }

    #[test]
    fn the_window_keeps_times_and_the_clamp_cuts() {
        let rows = vec![
            row("late", 200.0, 1.0, 1),
            row("b", 150.0, 80.0, 12),
            row("a", 110.0, 5.0, 1),
            row("early", 99.0, 1.0, 1),
        ];
        let plan = Plan::new(rows, options()).expect("plans");
        let shown: Vec<_> =
            plan.jobs.iter().map(|job| (job.row.id.as_str(), job.due_ms, job.run_ms, submit_s(&job.row))).collect();
        assert_eq!(shown, [("a", 100.0, 50, 110.0), ("b", 500.0, 500, 150.0)]);
        assert_eq!((plan.jobs[1].members.as_slice(), plan.jobs[1].row.duration), (&[8, 4][..], Span::seconds(50)));
        assert_eq!(plan.speakers().into_iter().collect::<Vec<_>>(), [("t".to_owned(), NOBODY.to_owned())]);
        let spec = plan.jobs[1].spec();
        assert_eq!((spec.name.as_str(), spec.shape.expect("set").unequal), ("b", vec![8, 4]));
    }

    #[test]
    fn what_cannot_be_replayed_is_named() {
        let refused =
            |row: TraceJob| Plan::new(vec![row], PlanOptions { window: None, ..options() }).expect_err("refused");
        assert!(refused(TraceJob { gpu_milli: 500, ..row("half", 1.0, 1.0, 1) }).contains("job half: gpu_milli 500"));
        assert!(refused(row("none", 1.0, 1.0, 0)).contains("job none: num_gpu 0"));
        assert!(Plan::new(vec![row("x", 1.0, 1.0, 1)], options()).expect_err("outside").contains("window"));
    }

    #[test]
    fn windows() {
        assert_eq!("8000000..8200000".parse(), Ok(Window { from: 8_000_000.0, to: 8_200_000.0 }));
        for text in ["", "5", "5..", "..5", "6..5", "5..5", "a..b", "0..inf", "0..NaN"] {
            assert!(text.parse::<Window>().is_err(), "{text}");
        }
    }
}
