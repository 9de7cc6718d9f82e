//! The Forecasts service: what would be, asked of copies of the state. No turn of the scheduler is taken for it.

use dure_core::units::Span;
use dure_proto::v1;
use dure_proto::v1::forecasts_server::Forecasts;
use tonic::{Request, Response, Status};

use super::convert;
use super::server::Services;
use super::status::Violation;
use crate::auth::{self, Target, Verb, Visible};
use crate::forecast::Question;

#[tonic::async_trait]
impl Forecasts for Services {
    async fn what_if(&self, request: Request<v1::WhatIfRequest>) -> Result<Response<v1::WhatIfResponse>, Status> {
        let identity = auth::of(&request)?;
        let visible = identity.visible(Verb::Forecast)?;
        let request = request.into_inner();
        for spec in &request.jobs {
            identity.may(Verb::Forecast, Target::Tenant(&spec.tenant))?;
        }
        let question = Question::read(request, &identity.user)?;
        let (mut answer, position) = self.forecasts.what_if(question).await?;
        // The digest is over all missions, whoever asks: it names the forecast, and says nothing of what is in it.
        answer.missions.retain(|of| visible.shows(&of.tenant));
        answer.position = Some(convert::position(position));
        Ok(Response::new(answer))
    }

    async fn test_submit(
        &self,
        request: Request<v1::TestSubmitRequest>,
    ) -> Result<Response<v1::TestSubmitResponse>, Status> {
        let identity = auth::of(&request)?;
        let specs = request.into_inner().jobs;
        if specs.is_empty() {
            return Err(Violation::new("jobs", "none; name the jobs to be tried").into());
        }
        for spec in &specs {
            identity.may(Verb::Submit, Target::Tenant(&spec.tenant))?;
        }
        let drafts = crate::forecast::jobs(specs, &identity.user)?;
        let (jobs, position) = self.forecasts.test_submit(drafts).await?;
        Ok(Response::new(v1::TestSubmitResponse { jobs, position: Some(convert::position(position)) }))
    }

    async fn calibration(
        &self,
        request: Request<v1::CalibrationRequest>,
    ) -> Result<Response<v1::CalibrationResponse>, Status> {
        let visible = auth::of(&request)?.visible(Verb::Forecast)?;
        let v1::CalibrationRequest { tenant, last_ms } = request.into_inner();
        let forecasts = self.forecasts.clone();
        let last = (last_ms > 0).then_some(Span(last_ms));
        let read = tokio::task::spawn_blocking(move || (forecasts.calibration(last), forecasts.freshness()));
        let (rows, (as_of, took)) = read.await.map_err(|err| Status::internal(err.to_string()))?;
        let mut rows = rows.map_err(|err| Status::unavailable(err.to_string()))?;
        rows.retain(|row| match &visible {
            Visible::All => tenant.is_empty() || row.tenant == tenant,
            Visible::Missions(_) => visible.shows(&row.tenant) && (tenant.is_empty() || row.tenant == tenant),
        });
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        Ok(Response::new(v1::CalibrationResponse { rows, as_of_ms: as_of.0, took_ms }))
    }
}
