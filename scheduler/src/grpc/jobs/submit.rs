//! Submit: checks every job of the call, then has all of them accepted or none, their payloads beside them.

use std::collections::BTreeMap;

use dure_core::input::Input;
use dure_core::reply::Reply;
use dure_proto::v1;
use tonic::Status;

use crate::auth::{Caller, Identity, Target, Verb};
use crate::grpc::convert;
use crate::grpc::limits::MAX_JOBS_PER_CALL;
use crate::grpc::request;
use crate::grpc::server::Services;
use crate::grpc::status::Violation;

/// Submits the jobs of one call.
pub(super) async fn submit(
    services: &Services,
    identity: &Identity,
    by: Caller,
    mut request: v1::SubmitRequest,
) -> Result<v1::SubmitResponse, Status> {
    if request.jobs.len() > MAX_JOBS_PER_CALL {
        let problem = format!("{} jobs in one call; split it, at most {MAX_JOBS_PER_CALL} each", request.jobs.len());
        return Err(Violation::new("jobs", problem).into());
    }
    let id = std::mem::take(&mut request.request_id);
    let key = request::key(identity, id, "Jobs/Submit", &request)?;
    let (mut drafts, mut blobs) = (Vec::with_capacity(request.jobs.len()), BTreeMap::new());
    for (at, spec) in request.jobs.into_iter().enumerate() {
        identity.may(Verb::Submit, Target::Tenant(&spec.tenant))?;
        let read = convert::submit::job(spec, &identity.user);
        let submitted = read.map_err(|violation| violation.inside(&format!("jobs[{at}]")))?;
        blobs.insert(submitted.payload.id(), submitted.payload);
        drafts.push(submitted.draft);
    }
    let accepted = |_: &_, reply| reply;
    let blobs = blobs.into_values().collect();
    let (reply, position) = services.handle.mutate(by, Input::Submit(drafts), key, blobs, accepted).await?;
    match reply {
        Reply::Submitted { first, count } => {
            let position = Some(convert::position(position));
            Ok(v1::SubmitResponse { first_job_id: first.0, count, position })
        }
        Reply::Job(_) | Reply::Tenant(_) | Reply::Node(_) | Reply::Booking(_) | Reply::Done => {
            Err(Status::internal("the scheduler answered a submission with something else"))
        }
    }
}
