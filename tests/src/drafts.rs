//! Jobs to submit, and what became of them.

use std::path::Path;
use std::time::Instant;

use dure_proto::v1::{
    GetJobRequest, Job, JobPhase, JobSpec, ListJobsRequest, PageRequest, Payload, Shape, SubmitRequest,
};
use tonic::Status;

use crate::client::Caller;
use crate::wait::{LOOK_EVERY, PATIENCE};

/// A shell script as a job of a tenant: `members` members of `gpus` GPUs.
pub fn script(tenant: &str, members: u32, gpus: u32, text: &str) -> JobSpec {
    JobSpec {
        tenant: tenant.to_owned(),
        name: "e2e".to_owned(),
        shape: Some(Shape { members, gpus_per_member: gpus, ..Shape::default() }),
        payload: Some(Payload { script: format!("#!/bin/sh\n{text}\n").into_bytes(), ..Payload::default() }),
        time_limit_ms: 120_000,
        ..JobSpec::default()
    }
}

/// A script line that adds "job attempt member pid" to a file, in one write.
pub fn note(file: &Path) -> String {
    format!("echo \"$DURE_JOB_ID $DURE_ATTEMPT $DURE_MEMBER $$\" >> {}", file.display())
}

/// A script line that waits until a file is there.
pub fn await_file(file: &Path) -> String {
    format!("while [ ! -e {} ]; do sleep 0.05; done", file.display())
}

/// What members noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Noted {
    /// The job.
    pub job: u64,
    /// Its attempt.
    pub attempt: u32,
    /// The member.
    pub member: u32,
    /// Its process.
    pub pid: u32,
}

/// All notes of a file, in order.
///
/// # Panics
/// On a line that no member writes.
pub fn noted(file: &Path) -> Vec<Noted> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = |line: &str| {
        let mut words = line.split(' ').map(|word| word.parse::<u64>().expect("a number"));
        let mut next = || words.next().expect("four numbers");
        let small = |number: u64| u32::try_from(number).expect("a small number");
        Noted { job: next(), attempt: small(next()), member: small(next()), pid: small(next()) }
    };
    text.lines().map(line).collect()
}

/// Whether a phase is an end.
pub fn is_end(phase: JobPhase) -> bool {
    matches!(phase, JobPhase::Completed | JobPhase::Failed | JobPhase::Cancelled | JobPhase::TimedOut)
}

impl Caller {
    /// Submits jobs in one call; their ids.
    ///
    /// # Errors
    /// The refusal.
    pub async fn try_submit(&self, request_id: &str, jobs: Vec<JobSpec>) -> Result<Vec<u64>, Status> {
        let request = SubmitRequest { request_id: request_id.to_owned(), jobs };
        let answer = self.jobs().submit(request).await?.into_inner();
        Ok((answer.first_job_id..answer.first_job_id + u64::from(answer.count)).collect())
    }

    /// Submits one job; its id.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn submit(&self, job: JobSpec) -> u64 {
        self.try_submit("", vec![job]).await.expect("it is accepted")[0]
    }

    /// A job as it is now.
    ///
    /// # Errors
    /// The refusal.
    pub async fn job(&self, job_id: u64) -> Result<Job, Status> {
        Ok(self.jobs().get(GetJobRequest { job_id, with_payload: false }).await?.into_inner())
    }

    /// Waits until a job is as wanted. A scheduler that is away for a moment is waited for.
    ///
    /// # Panics
    /// After `PATIENCE`, showing the job as it was last.
    pub async fn job_is(&self, job_id: u64, what: &str, so: impl Fn(&Job) -> bool) -> Job {
        let started = Instant::now();
        loop {
            let job = self.job(job_id).await;
            match job {
                Ok(job) if so(&job) => return job,
                job => assert!(started.elapsed() < PATIENCE, "job {job_id} {what}: not so, it is {job:#?}"),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until a job has this phase.
    pub async fn phase(&self, job_id: u64, phase: JobPhase) -> Job {
        self.job_is(job_id, &format!("is {phase:?}"), |job| job.phase() == phase).await
    }

    /// Waits until a job has ended.
    pub async fn ended(&self, job_id: u64) -> Job {
        self.job_is(job_id, "has ended", |job| is_end(job.phase())).await
    }

    /// All jobs that this caller sees, over all pages.
    ///
    /// # Errors
    /// The refusal.
    pub async fn all_jobs(&self, filter: ListJobsRequest) -> Result<Vec<Job>, Status> {
        let (mut jobs, mut page_token) = (Vec::new(), String::new());
        loop {
            let page = Some(PageRequest { page_size: 1000, page_token });
            let answer = self.jobs().list(ListJobsRequest { page, ..filter.clone() }).await?.into_inner();
            jobs.extend(answer.jobs);
            page_token = answer.next_page_token;
            if page_token.is_empty() {
                return Ok(jobs);
            }
        }
    }
}
