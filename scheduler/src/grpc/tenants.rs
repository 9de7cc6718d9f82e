//! The Tenants service: the division and what it has come to.

use dure_core::Cluster;
use dure_core::budget::Grant;
use dure_core::caps::Caps;
use dure_core::idle::{IdleAction, IdleRule};
use dure_core::ids::ForecastId;
use dure_core::input::{Dates, Input, QuotaDraft, TenantDraft};
use dure_core::rejected::Refusal;
use dure_core::reply::Reply;
use dure_core::tenant::Tenant;
use dure_core::units::{GpuTime, Gpus, Span, Time};
use dure_proto::v1;
use dure_proto::v1::tenants_server::Tenants;
use tonic::{Request, Response, Status};

use super::convert::tenant::{Sums, pools, tenant, usage, usage_by_user};
use super::limits::MAX_USAGE_ROWS;
use super::server::Services;
use super::status::Violation;
use super::{convert, request};
use crate::auth::{self, Caller, Identity, Target, Verb, Visible};

#[tonic::async_trait]
impl Tenants for Services {
    async fn list(
        &self,
        request: Request<v1::ListTenantsRequest>,
    ) -> Result<Response<v1::ListTenantsResponse>, Status> {
        let visible = auth::of(&request)?.visible(Verb::ReadTenants)?;
        let below = request.into_inner().tenant;
        let now = self.clock.now();
        let look = move |cluster: &Cluster| {
            let sums = Sums::count(cluster, now);
            let shown = shown(cluster, &visible, &below)?;
            let tenants = shown.map(|found| tenant(cluster, found, &sums)).collect::<Vec<_>>();
            Ok::<_, Status>((tenants, pools(cluster), cluster.tenants()[0].paused))
        };
        let (found, position) = self.handle.read(move |cluster, _| look(cluster)).await?;
        let (tenants, pools, cluster_paused) = found?;
        let position = Some(convert::position(position));
        Ok(Response::new(v1::ListTenantsResponse { tenants, pools, cluster_paused, position }))
    }

    async fn set(&self, request: Request<v1::SetTenantRequest>) -> Result<Response<v1::Tenant>, Status> {
        let (identity, by) = (auth::of(&request)?, auth::caller(&request));
        let mut request = request.into_inner();
        identity.may(Verb::SetTenants, Target::Tenant(&request.tenant))?;
        request::name("tenant", &request.tenant)?;
        let id = std::mem::take(&mut request.request_id);
        let key = request::key(&identity, id, "Tenants/Set", &request)?;
        tracing::info!(user = %identity.user, tenant = request.tenant, forecast = request.forecast, "tenant is set");
        self.change_tenant(by, Input::SetTenant(draft(request)?), key).await
    }

    async fn carry_budget(&self, request: Request<v1::CarryBudgetRequest>) -> Result<Response<v1::Tenant>, Status> {
        let (identity, by) = (auth::of(&request)?, auth::caller(&request));
        let mut request = request.into_inner();
        identity.may(Verb::SetTenants, Target::Tenant(&request.tenant))?;
        let id = std::mem::take(&mut request.request_id);
        let key = request::key(&identity, id, "Tenants/CarryBudget", &request)?;
        tracing::info!(user = %identity.user, tenant = request.tenant, "budget is carried over");
        let gpu_time = request.gpu_ms.map(GpuTime);
        self.change_tenant(by, Input::CarryBudget { tenant: request.tenant.into(), gpu_time }, key).await
    }

    async fn cancel_dated_quota(
        &self,
        request: Request<v1::CancelDatedQuotaRequest>,
    ) -> Result<Response<v1::Tenant>, Status> {
        let (identity, by) = (auth::of(&request)?, auth::caller(&request));
        let mut request = request.into_inner();
        identity.may(Verb::SetTenants, Target::Tenant(&request.tenant))?;
        let id = std::mem::take(&mut request.request_id);
        let key = request::key(&identity, id, "Tenants/CancelDatedQuota", &request)?;
        tracing::info!(user = %identity.user, tenant = request.tenant, "dated quota is cancelled");
        let v1::CancelDatedQuotaRequest { tenant, pool, from_ms, .. } = request;
        let (tenant, pool) = (tenant.into(), pool.into());
        self.change_tenant(by, Input::CancelDatedQuota { tenant, pool, from: Time(from_ms) }, key).await
    }

    async fn pause(&self, request: Request<v1::PauseRequest>) -> Result<Response<v1::PauseResponse>, Status> {
        let (identity, by) = (auth::of(&request)?, auth::caller(&request));
        let mut request = request.into_inner();
        let id = std::mem::take(&mut request.request_id);
        let key = request::key(&identity, id, "Tenants/Pause", &request)?;
        self.set_paused(&identity, by, request.tenant, true, key).await
    }

    async fn resume(&self, request: Request<v1::ResumeRequest>) -> Result<Response<v1::PauseResponse>, Status> {
        let (identity, by) = (auth::of(&request)?, auth::caller(&request));
        let mut request = request.into_inner();
        let id = std::mem::take(&mut request.request_id);
        let key = request::key(&identity, id, "Tenants/Resume", &request)?;
        self.set_paused(&identity, by, request.tenant, false, key).await
    }

    async fn usage(&self, request: Request<v1::UsageRequest>) -> Result<Response<v1::UsageResponse>, Status> {
        let visible = auth::of(&request)?.visible(Verb::ReadTenants)?;
        let v1::UsageRequest { tenant: below, by_user } = request.into_inner();
        let now = self.clock.now();
        let look = move |cluster: &Cluster| {
            let sums = Sums::count(cluster, now);
            let shown = shown(cluster, &visible, &below)?;
            let rows: Vec<_> = if by_user {
                shown.flat_map(|found| usage_by_user(cluster, found, &sums)).take(MAX_USAGE_ROWS + 1).collect()
            } else {
                shown.map(|found| usage(found, &sums)).take(MAX_USAGE_ROWS + 1).collect()
            };
            Ok::<_, Status>(rows)
        };
        let (found, position) = self.handle.read(move |cluster, _| look(cluster)).await?;
        let rows = found?;
        if rows.len() > MAX_USAGE_ROWS {
            let why = format!("more than {MAX_USAGE_ROWS} rows; name a tenant, or leave by_user out");
            return Err(Violation::new("tenant", why).into());
        }
        Ok(Response::new(v1::UsageResponse { rows, position: Some(convert::position(position)) }))
    }
}

impl Services {
    /// Changes one tenant, and shows it as it is then.
    async fn change_tenant(
        &self,
        by: Caller,
        input: Input,
        key: Option<dure_core::input::RequestKey>,
    ) -> Result<Response<v1::Tenant>, Status> {
        let now = self.clock.now();
        let after = move |cluster: &Cluster, reply: Reply| match reply {
            Reply::Tenant(at) => Some(tenant(cluster, cluster.tenant(at), &Sums::count(cluster, now))),
            Reply::Submitted { .. } | Reply::Job(_) | Reply::Node(_) | Reply::Booking(_) | Reply::Done => None,
        };
        let (found, position) = self.handle.mutate(by, input, key, Vec::new(), after).await?;
        let mut tenant = found.ok_or_else(|| Status::internal("the scheduler answered with something else"))?;
        tenant.position = Some(convert::position(position));
        Ok(Response::new(tenant))
    }

    async fn set_paused(
        &self,
        identity: &Identity,
        by: Caller,
        tenant: String,
        paused: bool,
        key: Option<dure_core::input::RequestKey>,
    ) -> Result<Response<v1::PauseResponse>, Status> {
        identity.may(Verb::Pause, Target::Tenant(&tenant))?;
        tracing::info!(user = %identity.user, tenant, paused, "pause is set");
        let input = Input::Pause { tenant: tenant.as_str().into(), paused };
        let ((), position) = self.handle.mutate(by, input, key, Vec::new(), |_, _| ()).await?;
        Ok(Response::new(v1::PauseResponse { tenant, paused, position: Some(convert::position(position)) }))
    }
}

/// The tenants of a listing, without the root, parents before their children.
fn shown<'a>(
    cluster: &'a Cluster,
    visible: &'a Visible,
    below: &'a str,
) -> Result<impl Iterator<Item = &'a Tenant>, Status> {
    if cluster.find_tenant(below).is_none() {
        return Err(super::status::refused(&Refusal::UnknownTenant { name: below.into() }.into()));
    }
    let tenants = cluster.tenants().iter().skip(1);
    Ok(tenants.filter(move |tenant| visible.shows(&tenant.name) && convert::is_within(&tenant.name, below)))
}

fn caps(caps: v1::Caps) -> Caps {
    Caps {
        user_gpus: caps.user_gpus.map(Gpus::whole),
        user_running: caps.user_running,
        user_submitted: caps.user_submitted,
        job_gpus: caps.job_gpus.map(Gpus::whole),
        job_time: caps.job_time_ms.map(Span),
    }
}

/// No period: no budget any more.
fn grant(grant: v1::BudgetGrant) -> Option<Grant> {
    let v1::BudgetGrant { gpu_ms, period_ms } = grant;
    (period_ms > 0).then_some(Grant { gpu_time: GpuTime(gpu_ms), period: Span(period_ms) })
}

/// No text: none is named.
fn forecast(digest: &str) -> Result<Option<ForecastId>, Violation> {
    let mut bytes = [0; 32];
    match digest {
        "" => Ok(None),
        _ if hex::decode_to_slice(digest, &mut bytes).is_ok() => Ok(Some(ForecastId(bytes))),
        _ => {
            let why = "it is no digest of a forecast: give the 64 hexadecimal digits that dure what-if ended with";
            Err(Violation::new("forecast", format!("{digest:?}: {why}")))
        }
    }
}

fn draft(request: v1::SetTenantRequest) -> Result<TenantDraft, Violation> {
    let quota = |quota: v1::PoolQuota, dates| -> Result<QuotaDraft, Violation> {
        Ok(QuotaDraft {
            pool: quota.pool.into(),
            quota: Gpus::whole(quota.quota),
            limit: quota.limit.map(Gpus::whole),
            lend_limit: quota.lend_limit.map(Gpus::whole),
            domains: quota.domains.map(convert::tenant::domains).transpose()?,
            dates,
        })
    };
    let dated = |(at, dated): (usize, v1::DatedQuota)| {
        let v1::DatedQuota { quota: of_pool, from_ms, until_ms, .. } = dated;
        let of_pool = of_pool.ok_or_else(|| Violation::new(format!("dated_quotas[{at}].quota"), "none; name it"))?;
        quota(of_pool, Some(Dates { from: Time(from_ms), until: until_ms.map(Time) }))
    };
    let dated = request.dated_quotas.into_iter().enumerate().map(dated).collect::<Result<Vec<_>, Violation>>()?;
    let standing = request.quotas.into_iter().map(|of_pool| quota(of_pool, None));
    let standing = standing.collect::<Result<Vec<_>, Violation>>()?;
    Ok(TenantDraft {
        forecast: forecast(&request.forecast)?,
        name: request.tenant.into(),
        create: request.create,
        weight: request.weight,
        default_time_limit: request.default_time_limit_ms.map(Span),
        min_run: request.min_run_ms.map(Span),
        caps: request.caps.map(caps),
        budget: request.budget.map(grant),
        reclaim_within: request.reclaim_within_ms.map(Span),
        idle: request.idle.map(idle_rule).transpose()?,
        quotas: standing.into_iter().chain(dated).collect(),
    })
}

fn idle_rule(rule: v1::IdleRule) -> Result<IdleRule, Violation> {
    let action = match rule.action() {
        v1::IdleAction::Unspecified => {
            return Err(Violation::new("idle.action", "none; name ignore, notify, requeue or cancel"));
        }
        v1::IdleAction::Ignore => IdleAction::Ignore,
        v1::IdleAction::Notify => IdleAction::Notify,
        v1::IdleAction::Requeue => IdleAction::Requeue,
        v1::IdleAction::Cancel => IdleAction::Cancel,
    };
    Ok(IdleRule { after: Span(rule.after_ms), notice: Span(rule.notice_ms), action })
}
