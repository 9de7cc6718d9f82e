//! gRPC clients with a token in every call.

use dure_proto::v1::bookings_client::BookingsClient;
use dure_proto::v1::history_client::HistoryClient;
use dure_proto::v1::jobs_client::JobsClient;
use dure_proto::v1::nodes_client::NodesClient;
use dure_proto::v1::schedulers_client::SchedulersClient;
use dure_proto::v1::tenants_client::TenantsClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// Largest answer that is taken, in bytes.
const MAX_ANSWER: usize = 64 << 20;

/// Puts a token into every call, or nothing.
#[derive(Clone, Debug, Default)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Bearer {
    /// With this token.
    ///
    /// # Panics
    /// When it is not ASCII.
    pub fn of(token: &str) -> Self {
        Self(Some(format!("Bearer {token}").parse().expect("tokens are ASCII")))
    }

    /// A request that carries the token.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        request
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// A connection on which a token travels.
pub type Authed = InterceptedService<Channel, Bearer>;

/// One caller with all its clients.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The connection.
    pub channel: Channel,
    /// Who calls.
    pub bearer: Bearer,
}

impl Caller {
    /// Jobs.
    pub fn jobs(&self) -> JobsClient<Authed> {
        JobsClient::with_interceptor(self.channel.clone(), self.bearer.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    /// History.
    pub fn history(&self) -> HistoryClient<Authed> {
        HistoryClient::with_interceptor(self.channel.clone(), self.bearer.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    /// Nodes.
    pub fn nodes(&self) -> NodesClient<Authed> {
        NodesClient::with_interceptor(self.channel.clone(), self.bearer.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    /// Schedulers.
    pub fn schedulers(&self) -> SchedulersClient<Authed> {
        SchedulersClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    /// Bookings.
    pub fn bookings(&self) -> BookingsClient<Authed> {
        BookingsClient::with_interceptor(self.channel.clone(), self.bearer.clone())
            .max_decoding_message_size(MAX_ANSWER)
    }

    /// Tenants.
    pub fn tenants(&self) -> TenantsClient<Authed> {
        TenantsClient::with_interceptor(self.channel.clone(), self.bearer.clone()).max_decoding_message_size(MAX_ANSWER)
    }
}
