//! Who leads: what every scheduler says of itself and the others, and where it sends those who came to the wrong one.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use dure_proto::v1;
use dure_proto::v1::schedulers_server::Schedulers;
use tokio::sync::{mpsc, oneshot};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use tower::{Layer, Service};

use crate::leadership::Seen;

/// The header of a refusal that names the leader.
pub const LEADER_HEADER: &str = "dure-leader";

/// Answers a call to hand over: none takes the leadership from a scheduler that keeps it, for the reason given.
pub type AnswerHandOver = oneshot::Sender<Result<(), String>>;

/// What this scheduler is among the others. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Seat {
    /// There are no others.
    Alone {
        /// Its term.
        epoch: u64,
    },
    /// It leads.
    Leading {
        /// Where it is reached.
        address: String,
        /// Its term.
        epoch: u64,
        /// Has it hand over, once another one could lead; answered when that is certain.
        hand_over: mpsc::Sender<AnswerHandOver>,
    },
    /// It stands by.
    Following(Seen),
}

impl Seat {
    /// The refusal of whatever only the leader answers.
    fn not_leading(&self) -> Status {
        let leader = match self {
            Seat::Following(seen) => seen.borrow().address.clone(),
            Seat::Alone { .. } | Seat::Leading { .. } => String::new(),
        };
        let message = if leader.is_empty() {
            "this scheduler stands by and sees nobody lead at the moment: try again, or another scheduler".to_owned()
        } else {
            format!("this scheduler stands by; {leader} leads: repeat the call there")
        };
        let known = HashMap::from([("leader".to_owned(), leader.clone())]);
        let details = ErrorDetails::with_error_info("NOT_LEADING", "dure", known);
        let mut metadata = MetadataMap::new();
        if let Some(leader) = Some(leader).filter(|leader| !leader.is_empty()).and_then(|leader| leader.parse().ok()) {
            metadata.insert(LEADER_HEADER, leader);
        }
        Status::with_error_details_and_metadata(Code::Unavailable, message, details, metadata)
    }
}

#[tonic::async_trait]
impl Schedulers for Seat {
    async fn leader(&self, _: Request<v1::LeaderRequest>) -> Result<Response<v1::LeaderResponse>, Status> {
        let answer = match self {
            Seat::Alone { epoch } => v1::LeaderResponse { address: String::new(), here: true, epoch: *epoch },
            Seat::Leading { address, epoch, .. } => {
                v1::LeaderResponse { address: address.clone(), here: true, epoch: *epoch }
            }
            Seat::Following(seen) => {
                v1::LeaderResponse { address: seen.borrow().address.clone(), here: false, epoch: 0 }
            }
        };
        Ok(Response::new(answer))
    }

    async fn hand_over(&self, _: Request<v1::HandOverRequest>) -> Result<Response<v1::HandOverResponse>, Status> {
        match self {
            Seat::Alone { .. } => Err(Status::failed_precondition(
                "this scheduler is alone: there is nobody to hand over to; several need [etcd] in their configuration",
            )),
            Seat::Leading { hand_over, .. } => {
                let (answer, answered) = oneshot::channel();
                if hand_over.try_send(answer).is_err() {
                    return Err(Status::unavailable("this scheduler hands over already: ask who leads in a moment"));
                }
                match answered.await {
                    Ok(Err(why)) => Err(Status::failed_precondition(why)),
                    // One that leads no more has nothing to hand over.
                    Ok(Ok(())) | Err(_) => Ok(Response::new(v1::HandOverResponse {})),
                }
            }
            Seat::Following(_) => Err(self.not_leading()),
        }
    }
}

impl<S> Layer<S> for Seat {
    type Service = Redirected<S>;

    fn layer(&self, inner: S) -> Redirected<S> {
        Redirected { inner, seat: self.clone() }
    }
}

/// The services of a scheduler that stands by: what only the leader answers is sent there.
#[derive(Clone, Debug)]
pub struct Redirected<S> {
    inner: S,
    seat: Seat,
}

impl<S, B, R> Service<http::Request<B>> for Redirected<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>, Error = Infallible>,
    S::Future: Send + 'static,
    R: Default,
{
    type Response = http::Response<R>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let path = request.uri().path();
        if path.starts_with("/dure.v1.") && !path.starts_with("/dure.v1.Schedulers/") {
            let refusal = self.seat.not_leading();
            return Box::pin(async move { Ok(refusal.into_http()) });
        }
        Box::pin(self.inner.call(request))
    }
}
