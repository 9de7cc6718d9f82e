//! A connection to whichever scheduler leads.
//!
//! Comes in: the addresses of all schedulers, and calls. Goes out: the leader's answer. A scheduler that stands by names
//! the leader, and one that cannot be reached is passed over; the same bytes are sent again, which is safe because a
//! mutation carries its request id. With one address nothing is tried twice: whoever calls is told at once. This part must
//! never go to an address that was not configured, whatever a server says.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use tokio::time::{Instant, sleep, timeout};
use tonic::{
    Code, Status,
    body::Body,
    codegen::StdError,
    transport::{Channel, Endpoint},
};
use tower::{Service, ServiceExt};

/// The header in which a standby names the leader.
const LEADER_HEADER: &str = "dure-leader";
/// How long a leader is looked for. A leader's lease runs out sooner.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long one scheduler may take to begin its answer, where there are others.
const FIRST_WORD: Duration = Duration::from_secs(10);
/// Waits between tries: the first and the longest; each is cut at random, so that callers do not come together.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(160));

/// A way to the leader. Cheap to clone; clones learn from each other.
#[derive(Clone, Debug)]
pub(crate) struct Roam {
    ways: Arc<Vec<(String, Endpoint)>>,
    current: Arc<Mutex<(usize, Channel)>>,
}

impl Roam {
    /// To these schedulers; connections are made when they are needed.
    pub(crate) fn new(ways: Vec<(String, Endpoint)>) -> Option<Self> {
        let channel = ways.first()?.1.connect_lazy();
        Some(Self { ways: Arc::new(ways), current: Arc::new(Mutex::new((0, channel))) })
    }

    /// To one scheduler, on a connection that is there.
    pub(crate) fn on(channel: Channel) -> Self {
        Self { ways: Arc::default(), current: Arc::new(Mutex::new((0, channel))) }
    }

    fn current(&self) -> (usize, Channel) {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Leaves the scheduler `from` for the one named, or the next one; unless another call has done so already.
    fn leave(&self, from: usize, named: Option<&str>) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 != from {
            return;
        }
        let known = named.and_then(|named| self.ways.iter().position(|(address, _)| address == named));
        // One that names itself and refuses does not lead.
        let next = known.filter(|known| *known != from).unwrap_or((from + 1) % self.ways.len());
        *current = (next, self.ways[next].1.connect_lazy());
    }

    async fn call_leader(self, request: http::Request<Body>) -> Result<http::Response<Body>, StdError> {
        if self.ways.len() < 2 {
            return Ok(self.current().1.oneshot(request).await?);
        }
        let (parts, body) = request.into_parts();
        let bytes = body.collect().await?.to_bytes();
        let (until, mut backoff) = (Instant::now() + PATIENCE, BACKOFF.0);
        loop {
            let (at, channel) = self.current();
            let mut again = http::Request::new(Body::new(Full::new(bytes.clone())));
            (*again.method_mut(), *again.uri_mut()) = (parts.method.clone(), parts.uri.clone());
            (*again.version_mut(), *again.headers_mut()) = (parts.version, parts.headers.clone());
            *again.extensions_mut() = parts.extensions.clone();
            let is_late = Instant::now() >= until;
            let named = match timeout(FIRST_WORD, channel.oneshot(again)).await {
                Ok(Ok(answer)) => match refusal(&answer) {
                    Some(named) if !is_late => named,
                    Some(_) | None => return Ok(answer),
                },
                Ok(Err(err)) if is_late => return Err(err.into()),
                Err(_) if is_late => return Err(Status::deadline_exceeded("no scheduler answers").into()),
                Ok(Err(_)) | Err(_) => None,
            };
            self.leave(at, named.as_deref());
            sleep(cut(backoff)).await;
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }
}

/// Some when the answer is that of a scheduler that does not lead (any more): whom it names, if anybody.
fn refusal(answer: &http::Response<Body>) -> Option<Option<String>> {
    let status = Status::from_header_map(answer.headers())?;
    let named = answer.headers().get(LEADER_HEADER).and_then(|leader| leader.to_str().ok()).map(str::to_owned);
    (status.code() == Code::Unavailable).then_some(named)
}

/// Somewhere between half and all of it.
fn cut(wait: Duration) -> Duration {
    let mut bytes = [0; 2];
    // Without randomness callers come together, which the schedulers survive.
    let _ = getrandom::fill(&mut bytes);
    wait / 2 + wait.mul_f64(f64::from(u16::from_le_bytes(bytes)) / f64::from(u16::MAX)) / 2
}

impl Service<http::Request<Body>> for Roam {
    type Response = http::Response<Body>;
    type Error = StdError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, StdError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StdError>> {
        Poll::Ready(Ok(())) // each call waits for its own connection
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.clone().call_leader(request))
    }
}
