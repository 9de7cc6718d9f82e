//! `dure quota show | set`, `dure usage`, `dure pause | resume`.

use clap::{Args, Subcommand};
use dure_proto::v1::{
    self, CarryBudgetRequest, ListTenantsRequest, PauseRequest, PoolQuota, PoolState, ResumeRequest, SetTenantRequest,
    UsageRequest,
};

use crate::{
    context::Context,
    failure::Failure,
    history::{self, PastUsageArgs},
    show::Out,
    span,
    span::UserSpan,
    submit,
};

mod calendar;
pub(crate) mod domains;
mod idle;
mod ledgers;

/// See and change quotas.
#[derive(Debug, Subcommand)]
pub(crate) enum QuotaCommand {
    /// Quotas, and what is used of them
    Show {
        /// A tenant and everything below it [default: all]
        #[arg(value_name = "TENANT", default_value = "", hide_default_value = true)]
        tenant: String,
        /// The budgets: GPU-hours granted, spent, committed, left
        #[arg(long, conflicts_with_all = ["share", "caps"])]
        budget: bool,
        /// The decayed share: what each took above its quota, which orders those who borrow
        #[arg(long, conflicts_with = "caps")]
        share: bool,
        /// What single users and jobs may have
        #[arg(long)]
        caps: bool,
    },
    /// Change what a tenant is promised
    Set(Box<SetArgs>),
    /// Quotas that hold from a date on
    Calendar {
        /// A tenant and everything below it [default: all]
        #[arg(value_name = "TENANT", default_value = "", hide_default_value = true)]
        tenant: String,
    },
    /// Take a dated quota off the calendar; one in force ends
    Cancel(calendar::CancelArgs),
    /// Bring over what was left of a budget's last period
    Carry {
        /// The tenant
        #[arg(value_name = "TENANT")]
        tenant: String,
        /// So many GPU-hours of it [default: all]
        #[arg(value_name = "GPU-HOURS")]
        hours: Option<u64>,
    },
}

/// What a tenant is to have; what is not named stays.
#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// The tenant
    #[arg(value_name = "TENANT")]
    tenant: String,
    /// Guaranteed GPUs
    #[arg(long, value_name = "GPUS")]
    quota: Option<u32>,
    /// Ceiling, borrowed GPUs included, or none
    #[arg(long, value_name = "GPUS|none")]
    limit: Option<String>,
    /// At most so many idle GPUs of the quota are lent, or all
    #[arg(long, value_name = "GPUS|all")]
    lend_limit: Option<String>,
    /// The part of the quota that comes in whole domains, as leaf=4, node=8 or leaf=4x31 (at least 31 nodes each), or none
    #[arg(long, value_name = "LEVEL=COUNT[xNODES]|none", value_parser = domains::said)]
    domains: Option<v1::DomainQuota>,
    #[command(flatten)]
    dates: calendar::DatesArgs,
    /// In this pool [default: the first one]
    #[arg(long, default_value = "", hide_default_value = true)]
    pool: String,
    /// Share of the surplus
    #[arg(long)]
    weight: Option<u32>,
    /// Time limit of jobs that state none
    #[arg(long, value_name = "SPAN")]
    default_time: Option<UserSpan>,
    /// How long an attempt runs before it may be evicted
    #[arg(long, value_name = "SPAN")]
    min_run: Option<UserSpan>,
    /// How long its jobs wait inside its quota before lent GPUs are taken back for them
    #[arg(long, value_name = "SPAN")]
    reclaim_within: Option<UserSpan>,
    #[command(flatten)]
    idle: idle::IdleArgs,
    /// GPU-hours in each period, as 10000/30d, or none
    #[arg(long, value_name = "GPU-HOURS/SPAN|none")]
    budget: Option<String>,
    #[command(flatten)]
    caps: ledgers::CapsArgs,
    /// The digest of the forecast (dure what-if) on which this is approved; it is recorded with the change
    #[arg(long, value_name = "DIGEST")]
    forecast: Option<String>,
    /// Define it when it does not exist
    #[arg(long)]
    create: bool,
}

/// GPU-time by tenant or user
#[derive(Debug, Default, Args)]
pub(crate) struct UsageArgs {
    /// A tenant and everything below it [default: all]
    #[arg(value_name = "TENANT", default_value = "", hide_default_value = true)]
    tenant: String,
    /// One row per user
    #[arg(long)]
    by_user: bool,
    #[command(flatten)]
    past: PastUsageArgs,
}

/// Which tenant.
#[derive(Debug, Default, Args)]
pub(crate) struct PauseArgs {
    /// The mission, project or team [default: the whole cluster]
    #[arg(value_name = "TENANT", default_value = "", hide_default_value = true)]
    tenant: String,
}

/// `dure quota`.
pub(crate) async fn quota(command: QuotaCommand, context: &Context, out: Out) -> Result<(), Failure> {
    let mut client = context.tenants().await?;
    match command {
        QuotaCommand::Show { tenant, budget, share, caps } => {
            let all = client
                .list(ListTenantsRequest { tenant })
                .await
                .map_err(|status| context.refused(status))?
                .into_inner();
            out.answer("ListTenantsResponse", &all, || match (budget, share, caps) {
                (true, ..) => ledgers::budget_table(&all.tenants, out),
                (_, true, _) => ledgers::share_table(&all.tenants, out),
                (.., true) => ledgers::caps_table(&all.tenants, out),
                (false, false, false) => quota_table(&all, out),
            })
        }
        QuotaCommand::Calendar { tenant } => {
            let request = ListTenantsRequest { tenant };
            let all = client.list(request).await.map_err(|status| context.refused(status))?.into_inner();
            out.answer("ListTenantsResponse", &all, || calendar::table(&all.tenants, out))
        }
        QuotaCommand::Cancel(args) => {
            let request = args.request()?;
            let set = client.cancel_dated_quota(request).await.map_err(|status| context.refused(status))?.into_inner();
            out.answer("Tenant", &set, || calendar::table(std::slice::from_ref(&set), out))
        }
        QuotaCommand::Carry { tenant, hours } => {
            let gpu_ms = hours.map(|hours| hours.saturating_mul(ledgers::GPU_HOUR_MS));
            let request = CarryBudgetRequest { request_id: submit::request_id()?, tenant, gpu_ms };
            let set = client.carry_budget(request).await.map_err(|status| context.refused(status))?.into_inner();
            out.answer("Tenant", &set, || ledgers::budget_table(std::slice::from_ref(&set), out))
        }
        QuotaCommand::Set(args) => {
            let list = ListTenantsRequest { tenant: args.tenant.clone() };
            let name = args.tenant.clone();
            // A pool's quota is set as a whole: what is not named is taken from what is there.
            let now = match client.list(list).await {
                Ok(all) => all.into_inner().tenants.into_iter().find(|tenant| tenant.name == name),
                Err(status) if status.code() == tonic::Code::NotFound => None,
                Err(status) => return Err(context.refused(status)),
            };
            let request = args.request(now.as_ref())?;
            let set = client.set(request).await.map_err(|status| context.refused(status))?.into_inner();
            let list = ListTenantsRequest { tenant: set.name.clone() };
            let pools = client.list(list).await.map(|all| all.into_inner().pools).unwrap_or_default();
            let tenants = vec![set.clone()];
            let all = v1::ListTenantsResponse { tenants, pools, ..v1::ListTenantsResponse::default() };
            out.answer("Tenant", &set, || {
                let dated = if set.calendar.is_empty() { String::new() } else { calendar::table(&all.tenants, out) };
                quota_table(&all, out) + &dated
            })
        }
    }
}

impl SetArgs {
    fn request(self, now: Option<&v1::Tenant>) -> Result<SetTenantRequest, Failure> {
        let says_bound = self.limit.is_some() || self.lend_limit.is_some();
        let says_quota = self.quota.is_some() || says_bound || self.domains.is_some();
        let says_rule = self.weight.is_some()
            || self.default_time.is_some()
            || self.min_run.is_some()
            || self.reclaim_within.is_some()
            || self.idle.says_something();
        let says_ledger = self.budget.is_some() || self.caps.says_something();
        if !says_quota && !says_rule && !says_ledger && !self.create {
            let what = "--quota, --limit, --lend-limit, --domains, --weight, --default-time, --min-run, --reclaim-within, --idle-action, --budget or a cap";
            return Err(Failure::Usage(format!("nothing to set: name {what}")));
        }
        let pools = now.map_or(&[][..], |tenant| &tenant.quotas);
        let before = pools.iter().find(|quota| quota.pool == self.pool || self.pool.is_empty());
        let quotas = says_quota.then(|| -> Result<PoolQuota, Failure> {
            Ok(PoolQuota {
                pool: self.pool.clone(),
                quota: self.quota.or(before.map(|quota| quota.quota)).unwrap_or(0),
                limit: bound("--limit", self.limit.as_deref(), "none", before.and_then(|quota| quota.limit))?,
                lend_limit: bound(
                    "--lend-limit",
                    self.lend_limit.as_deref(),
                    "all",
                    before.and_then(|quota| quota.lend_limit),
                )?,
                domains: self.domains.or(before.and_then(|quota| quota.domains)),
            })
        });
        let quota = quotas.transpose()?;
        if self.dates.says_something() && quota.is_none() {
            let why = "--from and --until are dates of a quota: name --quota, --limit, --lend-limit or --domains";
            return Err(Failure::Usage(why.to_owned()));
        }
        let (quotas, dated_quotas) = match quota {
            Some(quota) if self.dates.says_something() => (Vec::new(), vec![self.dates.of(quota)]),
            quota => (quota.into_iter().collect(), Vec::new()),
        };
        Ok(SetTenantRequest {
            request_id: submit::request_id()?,
            tenant: self.tenant,
            quotas,
            dated_quotas,
            weight: self.weight,
            default_time_limit_ms: self.default_time.map(|span| span.0),
            min_run_ms: self.min_run.map(|span| span.0),
            reclaim_within_ms: self.reclaim_within.map(|span| span.0),
            idle: self.idle.over(now.and_then(|tenant| tenant.idle))?,
            create: self.create,
            caps: self.caps.over(now.and_then(|tenant| tenant.caps))?,
            budget: self.budget.as_deref().map(ledgers::grant).transpose()?,
            forecast: self.forecast.unwrap_or_default(),
        })
    }
}

fn bound(flag: &str, said: Option<&str>, absent: &str, before: Option<u32>) -> Result<Option<u32>, Failure> {
    match said {
        None => Ok(before),
        Some(word) if word == absent => Ok(None),
        Some(number) => number
            .parse()
            .map(Some)
            .map_err(|_| Failure::Usage(format!("{flag} {number}: expected a number of GPUs, or {absent}"))),
    }
}

fn quota_table(all: &v1::ListTenantsResponse, out: Out) -> String {
    let is_whole = all.pools.iter().any(|pool| pool.domains.is_some());
    let mut head = vec!["tenant", "pool", "quota>", "limit>", "lends>"];
    head.extend(if is_whole { &["domains", "used>"][..] } else { &[] });
    head.extend(["weight>", "own>", "borrowed>", "running>", "pending>", "wants gpus>", "state"]);
    let mut rows = out.table(&head);
    for tenant in &all.tenants {
        let none = [PoolQuota::default()];
        let quotas = if tenant.quotas.is_empty() { &none[..] } else { &tenant.quotas };
        for (at, quota) in quotas.iter().enumerate() {
            let usage = tenant.usage.iter().find(|usage| usage.pool == quota.pool).cloned().unwrap_or_default();
            // What belongs to the tenant as a whole is shown once.
            let once = |value: String| if at == 0 { value } else { String::new() };
            let mut cells = vec![
                once(if tenant.name.is_empty() { "(cluster)".to_owned() } else { tenant.name.clone() }),
                quota.pool.clone(),
                quota.quota.to_string(),
                quota.limit.map_or("none".to_owned(), |limit| limit.to_string()),
                quota.lend_limit.map_or("all".to_owned(), |limit| limit.to_string()),
            ];
            cells.extend(if is_whole {
                domains::cells(quota.domains.as_ref(), usage.domains_used)
            } else {
                Vec::new()
            });
            cells.extend([
                once(tenant.weight.to_string()),
                usage.own.to_string(),
                usage.borrowed.to_string(),
                once(tenant.running_jobs.to_string()),
                once(tenant.pending_jobs.to_string()),
                once(tenant.pending_gpus.to_string()),
                state(tenant.paused && at == 0, usage.overhang),
            ]);
            rows.row(cells);
        }
    }
    let mut text = rows.text();
    all.pools.iter().for_each(|pool| {
        text.push_str(&pool_line(pool));
        text.extend(pool.domains.as_ref().map(|domains| domains::line(&pool.pool, domains)));
    });
    if all.cluster_paused {
        text.push_str("the whole cluster is paused: nothing starts (dure resume)\n");
    }
    text
}

/// What there is to divide; where less is usable than promised each mission counts on its part only.
fn pool_line(pool: &PoolState) -> String {
    let PoolState { pool, installed, usable, guaranteed, domains: _ } = pool;
    let counts = format!("{pool}: {installed} GPUs, {usable} usable now, {guaranteed} in quotas");
    if guaranteed <= usable {
        return format!("{counts}\n");
    }
    let percent = u64::from(*usable) * 100 / u64::from(*guaranteed);
    format!(
        "{counts}: more than there is; what becomes free is shared so that each mission gets {percent} % of its quota\n"
    )
}

/// Paused, and what of a cut quota is held on by jobs that must not be evicted.
fn state(paused: bool, overhang: u32) -> String {
    let overhang = (overhang > 0).then(|| format!("overhang {overhang}"));
    let words: Vec<String> = paused.then(|| "paused".to_owned()).into_iter().chain(overhang).collect();
    words.join(", ")
}

/// `dure usage`.
pub(crate) async fn usage(args: UsageArgs, context: &Context, out: Out) -> Result<(), Failure> {
    if args.past.is_asked() {
        return history::usage(args.tenant, args.by_user, args.past, context, out).await;
    }
    let mut client = context.tenants().await?;
    let request = UsageRequest { tenant: args.tenant, by_user: args.by_user };
    let usage = client.usage(request).await.map_err(|status| context.refused(status))?.into_inner();
    out.answer("UsageResponse", &usage, || usage_table(&usage, args.by_user, out))
}

fn usage_table(usage: &v1::UsageResponse, by_user: bool, out: Out) -> String {
    let mut head = vec!["tenant"];
    head.extend(by_user.then_some("user"));
    head.extend(["jobs>", "gpus now>", "own>", "borrowed>"]);
    let mut rows = out.table(&head);
    for row in &usage.rows {
        let total = row.total.unwrap_or_default();
        let mut cells = vec![if row.tenant.is_empty() { "(cluster)".to_owned() } else { row.tenant.clone() }];
        cells.extend(by_user.then(|| row.user.clone()));
        cells.extend([row.jobs.to_string(), row.gpus_now.to_string()]);
        cells.extend([span::gpu_time(total.own_gpu_ms), span::gpu_time(total.borrowed_gpu_ms)]);
        rows.row(cells);
    }
    rows.text()
}

/// `dure pause` and `dure resume`.
pub(crate) async fn pause(args: PauseArgs, paused: bool, context: &Context, out: Out) -> Result<(), Failure> {
    let mut client = context.tenants().await?;
    let request_id = submit::request_id()?;
    let answer = if paused {
        client.pause(PauseRequest { request_id, tenant: args.tenant }).await
    } else {
        client.resume(ResumeRequest { request_id, tenant: args.tenant }).await
    };
    let answer = answer.map_err(|status| context.refused(status))?.into_inner();
    out.answer("PauseResponse", &answer, || {
        let who = if answer.tenant.is_empty() { "the whole cluster" } else { &answer.tenant };
        if answer.paused {
            format!("{who} is paused: nothing starts there, running jobs run on")
        } else {
            format!("{who} goes on")
        }
    })
}

#[cfg(test)]
impl PauseArgs {
    /// For tests.
    pub(crate) fn of(tenant: &str) -> Self {
        Self { tenant: tenant.to_owned() }
    }
}

#[cfg(test)]
mod tests;
