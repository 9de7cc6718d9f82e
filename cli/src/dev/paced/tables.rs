//! What a judge outside reads: nodes, jobs and placements as CSV, in the file's own seconds.

use std::{
    collections::BTreeMap,
    fs::File,
    io::BufWriter,
    path::{Path, PathBuf},
};

use clap::Args;
use dure_replay::trace::{self, TraceJob, TraceNode};

use super::{
    plan::{Plan, submit_s},
    run::Followed,
};
use crate::{failure::Failure, show::Out, span};

/// Files to write.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Outputs {
    /// Write who ran where and when
    #[arg(long, value_name = "CSV", requires = "jobs", help_heading = "Replay")]
    pub(crate) placements: Option<PathBuf>,
    /// Write the nodes
    #[arg(long, value_name = "CSV", requires = "jobs", help_heading = "Replay")]
    pub(crate) nodes_out: Option<PathBuf>,
    /// Write the jobs as they were submitted
    #[arg(long, value_name = "CSV", requires = "jobs", help_heading = "Replay")]
    pub(crate) jobs_out: Option<PathBuf>,
}

/// From the scheduler's milliseconds to the file's seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct FileTime {
    from_s: f64,
    t0_ms: f64,
    speedup: f64,
}

impl FileTime {
    /// Counts from the latest instant for which no event of a job lies before the job's time in the file.
    pub(crate) fn new(plan: &Plan, followed: &[Followed]) -> Self {
        let starts = plan.jobs.iter().zip(followed).map(|(job, seen)| seen.submitted_ms as f64 - job.due_ms);
        Self { from_s: plan.from_s, t0_ms: starts.fold(f64::INFINITY, f64::min), speedup: plan.speedup }
    }

    /// The file's second of an event.
    pub(crate) fn seconds(self, event_ms: u64) -> f64 {
        self.from_s + (event_ms as f64 - self.t0_ms) * self.speedup / 1_000.0
    }
}

fn failed(path: &Path) -> impl Fn(csv::Error) -> Failure {
    move |err| Failure::Failed(format!("{}: {err}", path.display()))
}

/// Opens a file for writing.
pub(crate) fn create(path: &Path) -> Result<BufWriter<File>, Failure> {
    File::create(path).map(BufWriter::new).map_err(|err| Failure::Failed(format!("{}: {err}", path.display())))
}

/// The nodes: all alike.
pub(crate) fn nodes(path: &Path, names: &[String], model: &str, gpus: u32) -> Result<(), Failure> {
    let node = |name: &String| TraceNode { name: name.clone(), model: model.to_owned(), gpus, ..TraceNode::default() };
    let nodes: Vec<TraceNode> = names.iter().map(node).collect();
    trace::write_nodes(create(path)?, &nodes).map_err(failed(path))
}

/// The jobs as they were submitted: the window and the clamped durations, the file's own times.
pub(crate) fn jobs(path: &Path, plan: &Plan) -> Result<(), Failure> {
    let rows: Vec<TraceJob> = plan.jobs.iter().map(|job| job.row.clone()).collect();
    trace::write_jobs(create(path)?, &rows).map_err(failed(path))
}

/// One row per tenant, in the file's time.
pub(crate) fn summary(plan: &Plan, followed: &[Followed], out: Out) -> String {
    let time = FileTime::new(plan, followed);
    let mut by_tenant: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, job) in plan.jobs.iter().enumerate() {
        by_tenant.entry(&job.row.tenant).or_default().push(at);
    }
    let mut rows =
        out.table(&["tenant", "jobs>", "completed>", "evicted>", "gpu-hours>", "mean wait>", "longest wait>"]);
    let mut row = |name: &str, jobs: &[usize]| {
        let waits: Vec<f64> = jobs
            .iter()
            .filter(|at| followed[**at].placed_ms > 0)
            .map(|at| (time.seconds(followed[*at].placed_ms) - submit_s(&plan.jobs[*at].row)).max(0.0))
            .collect();
        let completed =
            jobs.iter().filter(|at| followed[**at].end == Some(dure_proto::v1::JobPhase::Completed)).count();
        let again: u32 = jobs.iter().map(|at| followed[*at].attempts.saturating_sub(1)).sum();
        let gpu_ms = |row: &TraceJob| row.duration.0 as f64 * f64::from(row.gpus);
        let hours: f64 = jobs.iter().map(|at| gpu_ms(&plan.jobs[*at].row) / 3_600_000.0).sum();
        let mean = waits.iter().sum::<f64>() / (waits.len().max(1) as f64);
        let longest = waits.iter().copied().fold(0.0, f64::max);
        rows.row([
            name.to_owned(),
            jobs.len().to_string(),
            completed.to_string(),
            again.to_string(),
            format!("{hours:.0}"),
            span::human((mean * 1_000.0) as u64),
            span::human((longest * 1_000.0) as u64),
        ]);
    };
    for (tenant, jobs) in &by_tenant {
        row(tenant, jobs);
    }
    row("all", &(0..plan.jobs.len()).collect::<Vec<_>>());
    rows.text()
}

#[cfg(test)]
mod tests {
    use dure_core::units::{Span, Time};

    use super::*;
    use crate::dev::paced::plan::PlanOptions;

    #[test]
    fn no_job_is_before_its_time_in_the_file() {
        let row = |id: &str, submit_s: u64| TraceJob {
            id: id.to_owned(),
            submit: Time(submit_s * 1_000),
            duration: Span::seconds(10),
            gpus: 1,
            gpu_milli: 1_000,
            tenant: "t".to_owned(),
            ..TraceJob::default()
        };
        let options = PlanOptions { window: None, max_duration_s: None, speedup: 6_000.0, gpus_per_node: 8 };
        let plan = Plan::new(vec![row("a", 100), row("b", 107), row("c", 6_100)], options).expect("plans");
        let at = |submitted_ms| Followed { submitted_ms, placed_ms: submitted_ms, ..Followed::default() };
        let followed = [at(50_007), at(50_008), at(51_001)];
        let time = FileTime::new(&plan, &followed);
        for (job, seen) in plan.jobs.iter().zip(&followed) {
            assert!(time.seconds(seen.submitted_ms) >= submit_s(&job.row) - 1e-6, "{}", job.row.id);
        }
        // The earliest one is exact.
        assert!((time.seconds(51_001) - 6_100.0).abs() < 1e-6);
        assert!(summary(&plan, &followed, Out::plain()).lines().count() == 3);
    }
}
