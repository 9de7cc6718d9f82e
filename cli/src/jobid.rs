//! Ids of jobs as users write them: `12`, or `12_7` for index 7 of the array 12.
//!
//! An index gets an id of its own when it starts, so that `12_7` has to be asked for.

use std::{fmt, str::FromStr};

use dure_proto::v1::{self, jobs_client::JobsClient};

use crate::{
    context::{Authed, Context},
    failure::Failure,
};

/// The largest page of a listing.
const PAGE: u32 = 1_000;

/// A job as a user names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct JobRef {
    /// The job, or the array.
    pub(crate) job: u64,
    /// Which index of the array.
    pub(crate) index: Option<u32>,
}

impl FromStr for JobRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no job id: write 12, or 12_7 for index 7 of the array 12");
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let (job, index) = match text.split_once('_') {
            Some((job, index)) if digits(index) => (job, Some(index.parse().map_err(|_| wrong())?)),
            Some(_) => return Err(wrong()),
            None => (text, None),
        };
        if !digits(job) {
            return Err(wrong());
        }
        Ok(Self { job: job.parse().map_err(|_| wrong())?, index })
    }
}

impl fmt::Display for JobRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            Some(index) => write!(f, "{}_{index}", self.job),
            None => write!(f, "{}", self.job),
        }
    }
}

/// How a job is shown.
pub(crate) fn shown(job: &v1::Job) -> String {
    match job.array_index {
        Some(index) => format!("{}_{index}", job.array_job_id),
        None => job.id.to_string(),
    }
}

/// The id that the API knows.
pub(crate) async fn resolve(
    context: &Context,
    client: &mut JobsClient<Authed>,
    wanted: JobRef,
) -> Result<u64, Failure> {
    let Some(index) = wanted.index else { return Ok(wanted.job) };
    let get = v1::GetJobRequest { job_id: wanted.job, ..v1::GetJobRequest::default() };
    let array = client.get(get).await.map_err(|status| context.refused(status))?.into_inner();
    let Some(status) = &array.array else {
        return Err(Failure::Failed(format!("{wanted}: job {} is no array: name it without _{index}", wanted.job)));
    };
    if index >= status.size {
        let last = status.size.saturating_sub(1);
        return Err(Failure::Failed(format!("{wanted}: the array has indices 0 to {last}")));
    }
    let mut list = v1::ListJobsRequest {
        page: Some(v1::PageRequest { page_size: PAGE, page_token: String::new() }),
        tenant: array.tenant,
        user: array.user,
        name: array.name,
        ..v1::ListJobsRequest::default()
    };
    loop {
        let page = client.list(list.clone()).await.map_err(|status| context.refused(status))?.into_inner();
        let found = page.jobs.iter().find(|job| job.array_job_id == wanted.job && job.array_index == Some(index));
        if let Some(job) = found {
            return Ok(job.id);
        }
        if page.next_page_token.is_empty() {
            let why = "this index has not started yet (or ended long ago); see the array with";
            return Err(Failure::Failed(format!("{wanted}: {why} dure job {}", wanted.job)));
        }
        list.page = Some(v1::PageRequest { page_size: PAGE, page_token: page.next_page_token });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_styles_are_read_and_shown() {
        for text in ["12", "12_7", "1_0"] {
            assert_eq!(text.parse::<JobRef>().expect(text).to_string(), text);
        }
        for text in ["", "_", "12_", "_7", "a", "+1", "1_2_3", "99999999999999999999"] {
            assert!(text.parse::<JobRef>().is_err(), "{text}");
        }
    }
}
