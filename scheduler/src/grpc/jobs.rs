//! The Jobs service: everything a mission's team does.

mod list;
mod submit;

use dure_core::ids::{BlobId, JobId};
use dure_core::input::{Input, RequestKey};
use dure_core::rejected::Refusal;
use dure_core::{Cluster, job};
use dure_proto::v1;
use dure_proto::v1::jobs_server::Jobs;
use prost::Message as _;
use tonic::{Request, Response, Status, Streaming};

use super::exec::ExecOutputs;
use super::logs::LogChunks;
use super::server::Services;
use super::watch::Events;
use super::{convert, request, status};
use crate::auth::{self, Caller, Identity, Target, Verb};
use crate::journal;

#[tonic::async_trait]
impl Jobs for Services {
    async fn submit(&self, request: Request<v1::SubmitRequest>) -> Result<Response<v1::SubmitResponse>, Status> {
        let identity = auth::of(&request)?;
        submit::submit(self, &identity, auth::caller(&request), request.into_inner()).await.map(Response::new)
    }

    async fn get(&self, request: Request<v1::GetJobRequest>) -> Result<Response<v1::Job>, Status> {
        let identity = auth::of(&request)?;
        let v1::GetJobRequest { job_id, with_payload } = request.into_inner();
        let now = self.clock.now();
        let look = move |cluster: &Cluster| {
            let job = seen(cluster, job_id, &identity, Verb::ReadJobs)?;
            if with_payload {
                identity.may(Verb::ReadPayload, target(cluster, job))?;
            }
            Ok::<_, Status>((convert::job::job(cluster, job, now), job.spec.payload))
        };
        let (found, position) = self.handle.read(move |cluster, _| look(cluster)).await?;
        let (mut job, payload) = found?;
        job.position = Some(convert::position(position));
        self.forecasts.estimates(std::iter::once(&mut job));
        if with_payload {
            job.payload = Some(self.payload(payload).await?);
        }
        Ok(Response::new(job))
    }

    async fn list(&self, request: Request<v1::ListJobsRequest>) -> Result<Response<v1::ListJobsResponse>, Status> {
        let visible = auth::of(&request)?.visible(Verb::ReadJobs)?;
        list::list(self, visible, request.into_inner()).await.map(Response::new)
    }

    async fn cancel(&self, request: Request<v1::CancelRequest>) -> Result<Response<v1::JobActionResponse>, Status> {
        let (identity, by) = (auth::of(&request)?, auth::caller(&request));
        let mut request = request.into_inner();
        let id = std::mem::take(&mut request.request_id);
        let key = request::key(&identity, id, "Jobs/Cancel", &request)?;
        self.act(identity, by, request.job_id, Input::Cancel(JobId(request.job_id)), key).await
    }

    async fn hold(&self, request: Request<v1::HoldRequest>) -> Result<Response<v1::JobActionResponse>, Status> {
        let (identity, by) = (auth::of(&request)?, auth::caller(&request));
        let mut request = request.into_inner();
        let id = std::mem::take(&mut request.request_id);
        let key = request::key(&identity, id, "Jobs/Hold", &request)?;
        self.act(identity, by, request.job_id, Input::Hold(JobId(request.job_id)), key).await
    }

    async fn release(&self, request: Request<v1::ReleaseRequest>) -> Result<Response<v1::JobActionResponse>, Status> {
        let (identity, by) = (auth::of(&request)?, auth::caller(&request));
        let mut request = request.into_inner();
        let id = std::mem::take(&mut request.request_id);
        let key = request::key(&identity, id, "Jobs/Release", &request)?;
        self.act(identity, by, request.job_id, Input::Release(JobId(request.job_id)), key).await
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Result<Response<v1::Explanation>, Status> {
        let identity = auth::of(&request)?;
        let job_id = request.into_inner().job_id;
        let now = self.clock.now();
        let look = move |cluster: &Cluster| {
            let job = seen(cluster, job_id, &identity, Verb::ReadJobs)?;
            let explained = cluster.explain(job.id, now).ok_or_else(|| unknown(job_id))?;
            let may_see = |other: &job::Job| identity.may(Verb::ReadJobs, target(cluster, other)).is_ok();
            Ok::<_, Status>(convert::explanation::explanation(cluster, job, &explained, may_see))
        };
        let (found, position) = self.handle.read(move |cluster, _| look(cluster)).await?;
        let mut explanation = found?;
        explanation.position = Some(convert::position(position));
        let waits = explanation.phase() == v1::JobPhase::Pending;
        explanation.estimate = self.forecasts.estimate(job_id).filter(|_| waits);
        Ok(Response::new(explanation))
    }

    type WatchStream = Events;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Events>, Status> {
        let visible = auth::of(&request)?.visible(Verb::ReadJobs)?;
        super::watch::watch(self, visible, request.into_inner()).await.map(Response::new)
    }

    type LogsStream = LogChunks;

    async fn logs(&self, request: Request<v1::LogsRequest>) -> Result<Response<LogChunks>, Status> {
        let identity = auth::of(&request)?;
        super::logs::logs(self, identity, request.into_inner()).await.map(Response::new)
    }

    type ExecStream = ExecOutputs;

    async fn exec(&self, request: Request<Streaming<v1::ExecInput>>) -> Result<Response<ExecOutputs>, Status> {
        let identity = auth::of(&request)?;
        super::exec::exec(self, identity, request.into_inner()).await.map(Response::new)
    }

    async fn steps(&self, request: Request<v1::StepsRequest>) -> Result<Response<v1::StepsResponse>, Status> {
        let (identity, job_id) = (auth::of(&request)?, request.into_inner().job_id);
        let look = move |cluster: &Cluster| seen(cluster, job_id, &identity, Verb::ReadJobs).map(|_| ());
        let (allowed, _) = self.handle.read(move |cluster, _| look(cluster)).await?;
        allowed?;
        Ok(Response::new(self.steps.of(job_id)))
    }
}

impl Services {
    /// Changes one job on behalf of `identity`.
    ///
    /// Whose job it is never changes, so that it may be asked before the turn that decides.
    async fn act(
        &self,
        identity: Identity,
        by: Caller,
        job_id: u64,
        input: Input,
        key: Option<RequestKey>,
    ) -> Result<Response<v1::JobActionResponse>, Status> {
        let look = move |cluster: &Cluster| seen(cluster, job_id, &identity, Verb::ControlJobs).map(|_| ());
        let (allowed, _) = self.handle.read(move |cluster, _| look(cluster)).await?;
        allowed?;
        let after = move |cluster: &Cluster, _| cluster.job(JobId(job_id)).map(convert::phase);
        let (phase, position) = self.handle.mutate(by, input, key, Vec::new(), after).await?;
        let phase = phase.unwrap_or(v1::JobPhase::Unspecified).into();
        Ok(Response::new(v1::JobActionResponse { job_id, phase, position: Some(convert::position(position)) }))
    }

    async fn payload(&self, id: BlobId) -> Result<v1::Payload, Status> {
        let blobs = self.blobs.clone();
        let read = tokio::task::spawn_blocking(move || blobs.blob(journal::BlobId(id.0)));
        let bytes = read
            .await
            .map_err(|err| Status::internal(format!("the payload was not read: {err}")))?
            .map_err(|err| Status::internal(err.to_string()))?
            .ok_or_else(|| Status::data_loss("the payload of this job is missing from the journal"))?;
        v1::Payload::decode(&*bytes).map_err(|err| Status::data_loss(format!("the payload cannot be read: {err}")))
    }
}

/// The job, if it exists and `identity` may do `verb` to it.
pub(super) fn seen<'a>(
    cluster: &'a Cluster,
    job_id: u64,
    identity: &Identity,
    verb: Verb,
) -> Result<&'a job::Job, Status> {
    let job = cluster.job(JobId(job_id)).ok_or_else(|| unknown(job_id))?;
    identity.may(verb, target(cluster, job))?;
    Ok(job)
}

fn target<'a>(cluster: &'a Cluster, job: &job::Job) -> Target<'a> {
    let tenant = convert::tenant_name(cluster, job.spec.tenant);
    Target::Job { tenant, user: cluster.user(job.spec.user) }
}

fn unknown(job_id: u64) -> Status {
    status::refused(&Refusal::UnknownJob { job: JobId(job_id) }.into())
}
