//! The History service: pages of what has been, read beside the turn from the history's own file.

use std::io::Read as _;
use std::pin::Pin;

use dure_proto::v1;
use dure_proto::v1::history_server::History;
use prost::Message;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::page::Page;
use super::request;
use super::server::Services;
use crate::auth::{self, Target, Verb, Visible};
use crate::history::{self, AuditFilter, Filter, HistoryError, HistoryReader, UsageFilter};

/// Bytes of one chunk of a copy.
const COPY_CHUNK: usize = 512 << 10;
/// Chunks of a copy that wait for its reader.
const MAX_CHUNKS_WAITING: usize = 8;

/// A page as it was read, how far the history reaches, and the page's token.
struct Answer<T> {
    rows: Vec<T>,
    next_page_token: String,
    reach: Option<v1::Reach>,
}

#[tonic::async_trait]
impl History for Services {
    async fn usage(&self, request: Request<v1::PastUsageRequest>) -> Result<Response<v1::PastUsageResponse>, Status> {
        let visible = auth::of(&request)?.visible(Verb::ReadTenants)?;
        let mut asked = request.into_inner();
        let page = asked.page.take();
        let by = UsageFilter { by_day: asked.by_day, by_user: asked.by_user };
        let which = v1::PastRequest {
            tenant: asked.tenant.clone(),
            user: asked.user.clone(),
            since_ms: asked.since_ms,
            until_ms: asked.until_ms,
            page,
            ..v1::PastRequest::default()
        };
        let read = move |reader: &HistoryReader, filter: &Filter, page| reader.usage(filter, by, page);
        let Answer { rows, next_page_token, reach } = self.past(visible, which, &asked, read).await?;
        Ok(Response::new(v1::PastUsageResponse { rows, next_page_token, reach }))
    }

    async fn jobs(&self, request: Request<v1::PastRequest>) -> Result<Response<v1::PastJobsResponse>, Status> {
        let visible = auth::of(&request)?.visible(Verb::ReadJobs)?;
        let asked = request.into_inner();
        let Answer { rows, next_page_token, reach } = self.past(visible, asked, &(), HistoryReader::jobs).await?;
        Ok(Response::new(v1::PastJobsResponse { rows, next_page_token, reach }))
    }

    async fn attempts(&self, request: Request<v1::PastRequest>) -> Result<Response<v1::PastAttemptsResponse>, Status> {
        let visible = auth::of(&request)?.visible(Verb::ReadJobs)?;
        let asked = request.into_inner();
        let Answer { rows, next_page_token, reach } = self.past(visible, asked, &(), HistoryReader::attempts).await?;
        Ok(Response::new(v1::PastAttemptsResponse { rows, next_page_token, reach }))
    }

    async fn evictions(
        &self,
        request: Request<v1::PastRequest>,
    ) -> Result<Response<v1::PastEvictionsResponse>, Status> {
        let visible = auth::of(&request)?.visible(Verb::ReadJobs)?;
        let asked = request.into_inner();
        let Answer { rows, next_page_token, reach } = self.past(visible, asked, &(), HistoryReader::evictions).await?;
        Ok(Response::new(v1::PastEvictionsResponse { rows, next_page_token, reach }))
    }

    async fn quotas(&self, request: Request<v1::PastRequest>) -> Result<Response<v1::PastQuotasResponse>, Status> {
        let visible = auth::of(&request)?.visible(Verb::ReadTenants)?;
        let asked = request.into_inner();
        let Answer { rows, next_page_token, reach } = self.past(visible, asked, &(), HistoryReader::quotas).await?;
        Ok(Response::new(v1::PastQuotasResponse { rows, next_page_token, reach }))
    }

    async fn audit(&self, request: Request<v1::AuditRequest>) -> Result<Response<v1::AuditResponse>, Status> {
        let visible = auth::of(&request)?.visible(Verb::ReadAudit)?;
        let mut asked = request.into_inner();
        request::name("method", &asked.method)?;
        let which = asked.which.take().unwrap_or_default();
        let audit = AuditFilter { refused: asked.refused, method: asked.method.clone() };
        let read = move |reader: &HistoryReader, filter: &Filter, page| reader.audit(filter, &audit, page);
        let Answer { rows, next_page_token, reach } = self.past(visible, which, &asked, read).await?;
        Ok(Response::new(v1::AuditResponse { rows, next_page_token, reach }))
    }

    type CopyStream = Pin<Box<dyn Stream<Item = Result<v1::CopyHistoryChunk, Status>> + Send>>;

    async fn copy(&self, request: Request<v1::CopyHistoryRequest>) -> Result<Response<Self::CopyStream>, Status> {
        auth::of(&request)?.may(Verb::CopyHistory, Target::Cluster)?;
        let data_dir = self.history.clone();
        let (chunks, taken) = tokio::sync::mpsc::channel(MAX_CHUNKS_WAITING);
        tokio::task::spawn_blocking(move || {
            let send = |chunk| chunks.blocking_send(chunk).is_ok();
            if let Err(status) = copy(&data_dir, |data| send(Ok(v1::CopyHistoryChunk { data }))) {
                send(Err(status));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(taken))))
    }
}

impl Services {
    /// Reads a page. `more` is what else the page's token is good for.
    async fn past<T: Send + 'static>(
        &self,
        visible: Visible,
        mut asked: v1::PastRequest,
        more: &impl Message,
        read: impl FnOnce(&HistoryReader, &Filter, history::Page) -> Result<(Vec<T>, bool), HistoryError> + Send + 'static,
    ) -> Result<Answer<T>, Status> {
        request::name("tenant", &asked.tenant)?;
        request::name("user", &asked.user)?;
        let page = asked.page.take();
        let page = Page::read(page, &Both(&asked, more).joined())?;
        let v1::PastRequest { tenant, user, job_id, since_ms, until_ms, page: _ } = asked;
        let filter = Filter { visible, tenant, user, job: job_id, since_ms, until_ms };
        let data_dir = self.history.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let reader = HistoryReader::open(&data_dir)?;
            let found = read(&reader, &filter, history::Page { size: page.size, from: page.from })?;
            Ok::<_, HistoryError>((found, reader.reach()?))
        });
        let read = reading.await.map_err(|err| Status::internal(err.to_string()))?;
        let ((rows, is_more), reach) = read.map_err(|err| Status::unavailable(err.to_string()))?;
        let next = is_more.then_some(page.from + rows.len() as u64);
        Ok(Answer { rows, next_page_token: page.token(next), reach: Some(reach) })
    }
}

/// A filter in two messages.
struct Both<'a, M>(&'a v1::PastRequest, &'a M);

impl<M: Message> Both<'_, M> {
    /// As one that a page's token can be tied to.
    fn joined(&self) -> v1::CopyHistoryChunk {
        let mut data = self.0.encode_length_delimited_to_vec();
        data.extend(self.1.encode_to_vec());
        v1::CopyHistoryChunk { data }
    }
}

fn copy(data_dir: &std::path::Path, mut send: impl FnMut(Vec<u8>) -> bool) -> Result<(), Status> {
    let failed = |err: &dyn std::fmt::Display| Status::unavailable(format!("the history is not copied: {err}"));
    let dir = tempfile::tempdir_in(data_dir.join("history")).map_err(|err| failed(&err))?;
    let path = dir.path().join("copy.sqlite");
    HistoryReader::open(data_dir).and_then(|reader| reader.copy_to(&path)).map_err(|err| failed(&err))?;
    let mut file = std::fs::File::open(&path).map_err(|err| failed(&err))?;
    loop {
        let mut data = Vec::with_capacity(COPY_CHUNK);
        file.by_ref().take(COPY_CHUNK as u64).read_to_end(&mut data).map_err(|err| failed(&err))?;
        if data.is_empty() || !send(data) {
            return Ok(());
        }
    }
}
