//! Dated quotas: `--from` and `--until`, `dure quota calendar`, `dure quota cancel`.

use clap::Args;
use dure_proto::v1::{self, CancelDatedQuotaRequest, DatedQuota, PoolQuota};

use crate::{failure::Failure, show::Out, submit, when};

/// When a quota holds.
#[derive(Debug, Default, Args)]
pub(crate) struct DatesArgs {
    /// The quota holds from then on; until then what is set now
    #[arg(long, value_name = "TIME", value_parser = when::moment)]
    from: Option<u64>,
    /// And until then, when what was set before holds again [default: for good]
    #[arg(long, value_name = "TIME", value_parser = when::moment)]
    until: Option<u64>,
}

impl DatesArgs {
    pub(super) fn says_something(&self) -> bool {
        self.from.is_some() || self.until.is_some()
    }

    /// With an end alone it begins at once. Dates are whole seconds, so that what a table shows can be typed.
    pub(super) fn of(&self, quota: PoolQuota) -> DatedQuota {
        let from_ms = self.from.unwrap_or_else(|| when::now_ms() + SECOND_MS);
        let whole = |ms: u64| ms.div_ceil(SECOND_MS) * SECOND_MS;
        DatedQuota { quota: Some(quota), from_ms: whole(from_ms), until_ms: self.until.map(whole), standing: None }
    }
}

const SECOND_MS: u64 = 1_000;

/// Which dated quota.
#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    /// The tenant
    #[arg(value_name = "TENANT")]
    tenant: String,
    /// When it begins or began, as dure quota calendar shows it
    #[arg(long, value_name = "TIME", value_parser = when::moment)]
    from: u64,
    /// In this pool [default: the first one]
    #[arg(long, default_value = "", hide_default_value = true)]
    pool: String,
}

impl CancelArgs {
    pub(super) fn request(self) -> Result<CancelDatedQuotaRequest, Failure> {
        let Self { tenant, from, pool } = self;
        Ok(CancelDatedQuotaRequest { request_id: submit::request_id()?, tenant, pool, from_ms: from })
    }
}

pub(super) fn table(tenants: &[v1::Tenant], out: Out) -> String {
    let mut rows = out.table(&["tenant", "pool", "from", "until", "quota>", "limit>", "lends>", "state"]);
    for (tenant, dated) in tenants.iter().flat_map(|tenant| tenant.calendar.iter().map(move |dated| (tenant, dated))) {
        let quota = dated.quota.clone().unwrap_or_default();
        let back = |standing: &PoolQuota| format!("in force; then {}", standing.quota);
        rows.row([
            tenant.name.clone(),
            quota.pool,
            when::shown(dated.from_ms),
            dated.until_ms.map_or_else(|| "for good".to_owned(), when::shown),
            match quota.domains.as_ref() {
                Some(domains) => format!("{} ({})", quota.quota, super::domains::words(Some(domains))),
                None => quota.quota.to_string(),
            },
            quota.limit.map_or("none".to_owned(), |limit| limit.to_string()),
            quota.lend_limit.map_or("all".to_owned(), |limit| limit.to_string()),
            dated.standing.as_ref().map_or_else(|| "to come".to_owned(), back),
        ]);
    }
    rows.text()
}
