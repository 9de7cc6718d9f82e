//! `dure estimates`, and what is said of the start of a job that waits.

use clap::Args;
use dure_proto::v1::{CalibrationRequest, CalibrationResponse, JobForecast, StartEstimate};

use crate::{context::Context, failure::Failure, show::Out, span, span::UserSpan, when};

/// How the start estimates that waiting jobs were given have fared
#[derive(Debug, Args)]
pub(crate) struct EstimatesArgs {
    /// A mission [default: all]
    #[arg(value_name = "MISSION", default_value = "", hide_default_value = true)]
    tenant: String,
    /// Jobs that started in the last so long [default: all that are recorded]
    #[arg(long, value_name = "SPAN")]
    last: Option<UserSpan>,
}

/// `dure estimates`.
pub(crate) async fn run(args: EstimatesArgs, context: &Context, out: Out) -> Result<(), Failure> {
    let mut client = context.forecasts().await?;
    let request = CalibrationRequest { tenant: args.tenant, last_ms: args.last.map_or(0, |last| last.0) };
    let fared = client.calibration(request).await.map_err(|status| context.refused(status))?.into_inner();
    out.answer("CalibrationResponse", &fared, || table(&fared, when::now_ms(), out))
}

fn table(fared: &CalibrationResponse, now_ms: u64, out: Out) -> String {
    let mut text = if fared.rows.is_empty() {
        "no job has started yet that was told when it would\n".to_owned()
    } else {
        let mut rows = out.table(&[
            "mission",
            "jobs>",
            "by p50>",
            "by p90>",
            "p50 off by>",
            "limits off by>",
            "waited>",
            "told nothing>",
        ]);
        for row in &fared.rows {
            let part = |count: u64| match row.jobs {
                0 => "-".to_owned(),
                jobs => format!("{:.1} %", count as f64 * 100.0 / jobs as f64),
            };
            rows.row([
                if row.tenant.is_empty() { "(all)".to_owned() } else { row.tenant.clone() },
                row.jobs.to_string(),
                part(row.by_p50),
                part(row.by_p90),
                span::human(row.p50_median_error_ms),
                span::human(row.limits_median_error_ms),
                span::human(row.median_wait_ms),
                row.untold.to_string(),
            ]);
        }
        rows.text()
    };
    match fared.as_of_ms {
        0 => text.push_str("there are no estimates yet\n"),
        at => {
            let (age, took) = (when::age(at, now_ms), span::human(fared.took_ms));
            text.push_str(&format!("the newest estimates are {age} old, and took {took}\n"));
        }
    }
    text
}

/// When a job that waits starts, as a listing shows it.
pub(crate) fn short(estimate: Option<&StartEstimate>, now_ms: u64) -> String {
    match estimate.and_then(|estimate| estimate.p50_ms) {
        Some(at) => format!("in {}", span::human(at.saturating_sub(now_ms))),
        None => String::new(),
    }
}

/// When a job that waits starts, in a sentence without its subject.
pub(crate) fn long(estimate: &StartEstimate) -> String {
    let horizon = span::human(estimate.horizon_ms);
    match (estimate.p50_ms, estimate.p90_ms) {
        (Some(p50), Some(p90)) => {
            format!(
                "starts about {} (P50), by {} at the latest by all limits (P90)",
                when::shown(p50),
                when::shown(p90)
            )
        }
        (Some(p50), None) => {
            format!("starts about {} (P50); if all run to their limits, not within {horizon}", when::shown(p50))
        }
        (None, _) => format!("does not start within {horizon}, as things are"),
    }
}

/// What becomes of a job that is not submitted, in a sentence without its subject.
pub(crate) fn forecast(job: &JobForecast) -> String {
    let mut text = long(&job.estimate.unwrap_or_default());
    if !job.nodes.is_empty() {
        text.push_str(&format!(", on {}", job.nodes.join(",")));
    }
    if let Some(never) = &job.never {
        text.push_str(&format!(": {}", never.message));
        if !never.remedy.is_empty() {
            text.push_str(&format!("; what would help: {}", never.remedy));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use dure_proto::v1::{Blocker, CalibrationRow};
    use expect_test::expect;

    use super::*;

    #[test]
    fn estimates_are_compared_with_starts() {
        let row = |tenant: &str, jobs| CalibrationRow {
            tenant: tenant.into(),
            jobs,
            by_p50: jobs / 2,
            by_p90: jobs,
            p50_median_error_ms: 90_000,
            limits_median_error_ms: 3_600_000,
            median_wait_ms: 600_000,
            untold: 1,
        };
        let fared = CalibrationResponse { rows: vec![row("", 4), row("fusion", 0)], as_of_ms: 1_000, took_ms: 250 };
        expect![[r#"
            MISSION  JOBS  BY P50   BY P90  P50 OFF BY  LIMITS OFF BY  WAITED  TOLD NOTHING
            (all)       4  50.0 %  100.0 %       1m30s          1h00m  10m00s             1
            fusion      0       -        -       1m30s          1h00m  10m00s             1
            the newest estimates are 10s old, and took 250ms
        "#]]
        .assert_eq(&table(&fared, 11_000, Out::plain()));
        expect![[r#"
            no job has started yet that was told when it would
            there are no estimates yet
        "#]]
        .assert_eq(&table(&CalibrationResponse::default(), 0, Out::plain()));
    }

    #[test]
    fn a_job_that_never_starts_says_why() {
        let never = Blocker { message: "tenant fusion holds 16 of 16".into(), ..Blocker::default() };
        let estimate = Some(StartEstimate { horizon_ms: 90 * 86_400_000, ..StartEstimate::default() });
        let job = JobForecast { estimate, never: Some(never), nodes: Vec::new() };
        expect!["does not start within 90d00h, as things are: tenant fusion holds 16 of 16"].assert_eq(&forecast(&job));
        assert_eq!((short(None, 5).as_str(), short(Some(&StartEstimate::default()), 5).as_str()), ("", ""));
        let soon = StartEstimate { p50_ms: Some(65_000), ..StartEstimate::default() };
        assert_eq!(short(Some(&soon), 5_000), "in 1m00s");
    }
}
