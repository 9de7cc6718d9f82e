//! Logs: the output of one member, read by the agent of its node and passed on as it comes.
//!
//! The reader's connection sets the pace. One that follows and falls behind is told how many bytes were left out; one that
//! reads a whole log and falls behind, or whose node goes away, is told from where to go on.

use std::pin::Pin;
use std::task::{Context, Poll};

use dure_core::Cluster;
use dure_core::job::Job;
use dure_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::Status;

use super::jobs::seen;
use super::server::Services;
use super::status::{Violation, busy};
use crate::agents::exec::ExecSession;
use crate::agents::logs::{LogDesk, LogError, LogReading};
use crate::auth::{Identity, Verb};

/// What an agent reads.
pub type LogStream = Pin<Box<dyn Stream<Item = v1::LogData> + Send>>;

/// Where output is read.
pub trait LogSource: Send + Sync + 'static {
    /// Asks the agent of `node` for output. The stream ends early when the session does, or when it is not read.
    ///
    /// # Errors
    /// Why the read did not begin.
    fn open(&self, node: &str, read: v1::LogRead) -> Result<LogStream, LogError>;

    /// Starts a program beside a member on `node`.
    ///
    /// # Errors
    /// Why it did not begin.
    fn exec(&self, node: &str, order: v1::ExecOrder) -> Result<Started, LogError>;
}

/// A program beside a member: the way to it, and what it says.
pub type Started = (ExecSession, mpsc::Receiver<v1::ExecOutput>);

impl LogSource for LogDesk {
    fn open(&self, node: &str, read: v1::LogRead) -> Result<LogStream, LogError> {
        LogDesk::open(self, node, read).map(|reading| Box::pin(Reading(reading)) as LogStream)
    }

    fn exec(&self, node: &str, order: v1::ExecOrder) -> Result<Started, LogError> {
        LogDesk::exec(self, node, order)
    }
}

struct Reading(LogReading);

impl Stream for Reading {
    type Item = v1::LogData;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<v1::LogData>> {
        self.0.chunks.poll_recv(context)
    }
}

impl From<LogError> for Status {
    fn from(error: LogError) -> Self {
        match error {
            LogError::NotConnected(_) => Status::unavailable(error.to_string()),
            LogError::TooMany => busy(error.to_string()),
        }
    }
}

/// The output of one member.
pub struct LogChunks {
    data: LogStream,
    /// The byte after the last one passed on; none where the reading begins at the log's end.
    next: Option<u64>,
    ended: bool,
}

impl std::fmt::Debug for LogChunks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogChunks").field("next", &self.next).finish_non_exhaustive()
    }
}

impl Stream for LogChunks {
    type Item = Result<v1::LogChunk, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while !self.ended {
            let Poll::Ready(data) = self.data.as_mut().poll_next(context) else { return Poll::Pending };
            let Some(v1::LogData { offset, data, end, error, .. }) = data else {
                self.ended = true;
                let why = format!(
                    "the reading was cut off (a slow reader, or a lost session); go on from offset {}",
                    self.next.unwrap_or_default()
                );
                return Poll::Ready(Some(Err(Status::aborted(why))));
            };
            self.ended = end || !error.is_empty();
            if !error.is_empty() {
                return Poll::Ready(Some(Err(Status::not_found(format!("the output cannot be read: {error}")))));
            }
            let left_out = self.next.map_or(0, |next| offset.saturating_sub(next));
            if !data.is_empty() || left_out > 0 {
                self.next = Some(offset + data.len() as u64);
                return Poll::Ready(Some(Ok(v1::LogChunk { offset, data, left_out })));
            }
        }
        Poll::Ready(None)
    }
}

/// Begins to read.
pub(super) async fn logs(services: &Services, identity: Identity, asked: v1::LogsRequest) -> Result<LogChunks, Status> {
    if asked.offset > 0 && asked.tail_bytes > 0 {
        let problem = format!("{} beside offset {}; use one of the two", asked.tail_bytes, asked.offset);
        return Err(Violation::new("tail_bytes", problem).into());
    }
    let look = move |cluster: &Cluster| {
        let job = seen(cluster, asked.job_id, &identity, Verb::ReadLogs)?;
        member_of(cluster, job, &asked)
    };
    let (found, _) = services.handle.read(move |cluster, _| look(cluster)).await?;
    let (node, read) = found?;
    let data = services.logs.open(&node, read)?;
    let next = (asked.tail_bytes == 0).then_some(asked.offset);
    Ok(LogChunks { data, next, ended: false })
}

/// The node of the member that is asked for, and the question to its agent.
fn member_of(cluster: &Cluster, job: &Job, asked: &v1::LogsRequest) -> Result<(String, v1::LogRead), Status> {
    if job.progress.is_some() {
        let why = format!("job {} is an array; name one of its indices, as in {}_0", job.id, job.id);
        return Err(Violation::new("job_id", why).into());
    }
    let attempt = job.attempt.as_deref().ok_or_else(|| {
        Status::failed_precondition(format!("job {} has not been placed yet: it has no output", job.id))
    })?;
    if asked.attempt != 0 && asked.attempt != attempt.number.0 {
        let why = format!(
            "{} is not attempt {}, the only one whose place is still known; use 0",
            asked.attempt, attempt.number
        );
        return Err(Violation::new("attempt", why).into());
    }
    let member = attempt.members.get(asked.member as usize).ok_or_else(|| {
        let why = format!("{}; the members are 0 to {}", asked.member, attempt.members.len() - 1);
        Status::from(Violation::new("member", why))
    })?;
    let read = v1::LogRead {
        read_id: 0,
        job_id: job.id.0,
        attempt: attempt.number.0,
        member: asked.member,
        stderr: asked.stderr,
        follow: asked.follow,
        offset: asked.offset,
        tail_bytes: asked.tail_bytes,
    };
    Ok((cluster.node(member.placed.node).name.to_string(), read))
}
