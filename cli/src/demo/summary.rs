//! The demo per mission: what ran, how it ended, what it used, how long it waited.

use dure_proto::v1::{GpuTime, JobPhase, UsageResponse};

use super::{plan::MISSIONS, verify::Seen};
use crate::{show::Out, span};

/// One row per mission.
pub(super) fn table(seen: &[Seen], usage: &UsageResponse, out: Out) -> String {
    let mut rows = out.table(&["mission", "jobs>", "completed>", "gpu-s own>", "gpu-s borrowed>", "mean wait>"]);
    for mission in MISSIONS {
        let jobs: Vec<_> = seen.iter().map(|seen| &seen.job).filter(|job| is_of(&job.tenant, mission)).collect();
        let completed = jobs.iter().filter(|job| job.phase() == JobPhase::Completed).count();
        let waits: Vec<u64> = jobs
            .iter()
            .filter(|job| job.started_ms > 0)
            .map(|job| job.started_ms.saturating_sub(job.submitted_ms))
            .collect();
        let mean = waits.iter().sum::<u64>().checked_div(waits.len() as u64);
        let used = used(usage, mission);
        rows.row([
            mission.to_owned(),
            jobs.len().to_string(),
            completed.to_string(),
            tenths(used.own_gpu_ms),
            tenths(used.borrowed_gpu_ms),
            mean.map_or("-".to_owned(), span::human),
        ]);
    }
    rows.text()
}

fn is_of(tenant: &str, mission: &str) -> bool {
    tenant.split('/').next() == Some(mission)
}

/// The mission's own row, which holds what is below it.
fn used(usage: &UsageResponse, mission: &str) -> GpuTime {
    usage.rows.iter().find(|row| row.tenant == mission).and_then(|row| row.total).unwrap_or_default()
}

fn tenths(ms: u64) -> String {
    format!("{}.{}", ms / 1_000, ms % 1_000 / 100)
}

#[cfg(test)]
mod tests {
    use dure_proto::v1::{Job, UsageRow};

    use super::*;

    #[test]
    fn missions_have_their_jobs_and_those_below_them() {
        let job = |tenant: &str, phase: JobPhase, started_ms| Seen {
            job: Job { tenant: tenant.into(), phase: phase.into(), submitted_ms: 1_000, started_ms, ..Job::default() },
            outputs: Vec::new(),
        };
        let seen = [
            job("fusion", JobPhase::Completed, 2_000),
            job("fusion/edge", JobPhase::Failed, 4_000),
            job("solar", JobPhase::Cancelled, 0),
        ];
        let total = Some(GpuTime { own_gpu_ms: 12_340, borrowed_gpu_ms: 500 });
        let usage = UsageResponse {
            rows: vec![UsageRow { tenant: "fusion".into(), total, ..UsageRow::default() }],
            position: None,
        };
        let text = table(&seen, &usage, Out::plain());
        let row = |mission: &str| {
            text.lines().find(|line| line.starts_with(mission)).map(|line| line.split_whitespace().collect::<Vec<_>>())
        };
        assert_eq!(row("fusion"), Some(vec!["fusion", "2", "1", "12.3", "0.5", "2.0s"]));
        assert_eq!(row("solar"), Some(vec!["solar", "1", "0", "0.0", "0.0", "-"]));
    }
}
