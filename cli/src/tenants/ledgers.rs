//! Budgets, caps and the decayed share: flags and tables.

use std::str::FromStr;

use clap::Args;
use dure_proto::v1::{self, BudgetGrant, Caps};

use super::idle;
use crate::{failure::Failure, show::Out, span, span::UserSpan, when};

/// A GPU-hour in GPU-milliseconds.
pub(super) const GPU_HOUR_MS: u64 = 3_600_000;

/// What single users and jobs may have; what is not named stays.
#[derive(Debug, Default, Args)]
pub(crate) struct CapsArgs {
    /// GPUs that one user holds at once, or none
    #[arg(long, value_name = "GPUS|none")]
    user_gpus: Option<String>,
    /// Jobs of one user that run at once, or none
    #[arg(long, value_name = "JOBS|none")]
    user_jobs: Option<String>,
    /// Jobs of one user that have not ended, or none
    #[arg(long, value_name = "JOBS|none")]
    user_submitted: Option<String>,
    /// GPUs of one job, or none
    #[arg(long, value_name = "GPUS|none")]
    job_gpus: Option<String>,
    /// Time limit of one job, or none
    #[arg(long, value_name = "SPAN|none")]
    job_time: Option<String>,
}

impl CapsArgs {
    pub(super) fn says_something(&self) -> bool {
        let numbers = [&self.user_gpus, &self.user_jobs, &self.user_submitted, &self.job_gpus, &self.job_time];
        numbers.iter().any(|said| said.is_some())
    }

    /// What is said here, and the rest as it was.
    pub(super) fn over(&self, before: Option<Caps>) -> Result<Option<Caps>, Failure> {
        if !self.says_something() {
            return Ok(None);
        }
        let before = before.unwrap_or_default();
        let span = said::<UserSpan>("--job-time", self.job_time.as_deref())?;
        Ok(Some(Caps {
            user_gpus: said("--user-gpus", self.user_gpus.as_deref())?.unwrap_or(before.user_gpus),
            user_running: said("--user-jobs", self.user_jobs.as_deref())?.unwrap_or(before.user_running),
            user_submitted: said("--user-submitted", self.user_submitted.as_deref())?.unwrap_or(before.user_submitted),
            job_gpus: said("--job-gpus", self.job_gpus.as_deref())?.unwrap_or(before.job_gpus),
            job_time_ms: span.map_or(before.job_time_ms, |span| span.map(|span| span.0)),
        }))
    }
}

/// Nothing said; `none`; or a value.
fn said<T: FromStr>(flag: &str, text: Option<&str>) -> Result<Option<Option<T>>, Failure> {
    match text {
        None => Ok(None),
        Some("none") => Ok(Some(None)),
        Some(value) => value
            .parse()
            .map(|value| Some(Some(value)))
            .map_err(|_| Failure::Usage(format!("{flag} {value}: expected a number (a span for a time), or none"))),
    }
}

/// As `10000/30d`, or `none`.
pub(super) fn grant(text: &str) -> Result<BudgetGrant, Failure> {
    if text == "none" {
        return Ok(BudgetGrant::default());
    }
    let parts = text.split_once('/').and_then(|(hours, period)| {
        let (hours, period) = (hours.trim_end_matches('h').parse::<u64>().ok()?, period.parse::<UserSpan>().ok()?);
        Some(BudgetGrant { gpu_ms: hours.checked_mul(GPU_HOUR_MS)?, period_ms: period.0 }).filter(|_| period.0 > 0)
    });
    parts.ok_or_else(|| Failure::Usage(format!("--budget {text}: expected GPU-hours/period as 10000/30d, or none")))
}

fn name_of(tenant: &v1::Tenant) -> String {
    if tenant.name.is_empty() { "(cluster)".to_owned() } else { tenant.name.clone() }
}

/// The budgets of those that have one.
pub(super) fn budget_table(tenants: &[v1::Tenant], out: Out) -> String {
    let head =
        ["tenant", "granted>", "carried>", "spent>", "committed>", "left>", "refunded>", "not carried>", "until"];
    let mut rows = out.table(&head);
    let mut is_empty = true;
    for (tenant, budget) in tenants.iter().filter_map(|tenant| Some((tenant, tenant.budget?))) {
        is_empty = false;
        let parts = [
            budget.grant_gpu_ms,
            budget.carried_gpu_ms,
            budget.spent_gpu_ms,
            budget.committed_gpu_ms,
            budget.left_gpu_ms,
            budget.refunded_gpu_ms,
            budget.unspent_gpu_ms,
        ];
        let until = when::shown(budget.began_ms.saturating_add(budget.period_ms));
        rows.row(std::iter::once(name_of(tenant)).chain(parts.map(hours)).chain([until]));
    }
    if is_empty {
        "no tenant here has a budget (dure quota set TENANT --budget 10000/30d)".to_owned()
    } else {
        rows.text()
    }
}

/// What orders those who borrow.
pub(super) fn share_table(tenants: &[v1::Tenant], out: Out) -> String {
    let mut rows = out.table(&["tenant", "weight>", "above quota now>", "and before, decayed>", "over weight>"]);
    for tenant in tenants {
        let used: u32 = tenant.usage.iter().map(|usage| usage.used).sum();
        let quota: u32 = tenant.quotas.iter().map(|quota| quota.quota).sum();
        let now = used.saturating_sub(quota);
        let before = tenant.above_quota_milli.saturating_sub(u64::from(now) * 1000);
        let over_weight = tenant.above_quota_milli / u64::from(tenant.weight.max(1));
        rows.row([name_of(tenant), tenant.weight.to_string(), now.to_string(), milli(before), milli(over_weight)]);
    }
    rows.text()
}

/// What single users and jobs may have.
pub(super) fn caps_table(tenants: &[v1::Tenant], out: Out) -> String {
    let head = ["tenant", "user gpus>", "user jobs>", "user submitted>", "job gpus>", "job time>", "idle jobs"];
    let mut rows = out.table(&head);
    let number = |cap: Option<u32>| cap.map_or("none".to_owned(), |cap| cap.to_string());
    for tenant in tenants {
        let caps = tenant.caps.unwrap_or_default();
        rows.row([
            name_of(tenant),
            number(caps.user_gpus),
            number(caps.user_running),
            number(caps.user_submitted),
            number(caps.job_gpus),
            caps.job_time_ms.map_or("none".to_owned(), span::human),
            idle::shown(tenant.idle),
        ]);
    }
    rows.text()
}

/// GPU-hours with one decimal.
fn hours(gpu_ms: u64) -> String {
    let tenths = gpu_ms / (GPU_HOUR_MS / 10);
    format!("{}.{}", tenths / 10, tenths % 10)
}

fn milli(milli: u64) -> String {
    format!("{}.{:03}", milli / 1000, milli % 1000)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn three_ledgers_and_caps_are_read_apart() {
        let tenant = v1::Tenant {
            name: "fusion".into(),
            weight: 2,
            quotas: vec![v1::PoolQuota { quota: 16, ..v1::PoolQuota::default() }],
            usage: vec![v1::PoolUsage { used: 20, ..v1::PoolUsage::default() }],
            caps: Some(Caps { user_gpus: Some(8), job_time_ms: Some(7_200_000), ..Caps::default() }),
            budget: Some(v1::Budget {
                grant_gpu_ms: 1000 * GPU_HOUR_MS,
                spent_gpu_ms: 250 * GPU_HOUR_MS,
                committed_gpu_ms: 100 * GPU_HOUR_MS,
                left_gpu_ms: 650 * GPU_HOUR_MS,
                ..v1::Budget::default()
            }),
            above_quota_milli: 5_500,
            ..v1::Tenant::default()
        };
        let (tenants, out) = (std::slice::from_ref(&tenant), Out::plain());
        let text = [budget_table(tenants, out), share_table(tenants, out), caps_table(tenants, out)].concat();
        expect![[r#"
            TENANT  GRANTED  CARRIED  SPENT  COMMITTED   LEFT  REFUNDED  NOT CARRIED  UNTIL
            fusion   1000.0      0.0  250.0      100.0  650.0       0.0          0.0  -
            TENANT  WEIGHT  ABOVE QUOTA NOW  AND BEFORE, DECAYED  OVER WEIGHT
            fusion       2                4                1.500        2.750
            TENANT  USER GPUS  USER JOBS  USER SUBMITTED  JOB GPUS  JOB TIME  IDLE JOBS
            fusion          8       none            none      none     2h00m  -
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn caps_that_are_not_named_stay() {
        let before = Some(Caps { user_gpus: Some(8), job_gpus: Some(4), ..Caps::default() });
        let args = CapsArgs { job_gpus: Some("none".into()), job_time: Some("2h".into()), ..CapsArgs::default() };
        let caps = args.over(before).expect("they can be read").expect("they say something");
        assert_eq!((caps.user_gpus, caps.job_gpus, caps.job_time_ms), (Some(8), None, Some(7_200_000)));
        assert_eq!(CapsArgs::default().over(before).expect("nothing is said"), None);
    }
}
