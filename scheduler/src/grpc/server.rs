//! The server: all services on one listener, behind the guard, with every limit set.

use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use dure_proto::v1::agents_server::{Agents, AgentsServer};
use dure_proto::v1::bookings_server::BookingsServer;
use dure_proto::v1::forecasts_server::ForecastsServer;
use dure_proto::v1::history_server::HistoryServer;
use dure_proto::v1::jobs_server::JobsServer;
use dure_proto::v1::nodes_server::NodesServer;
use dure_proto::v1::schedulers_server::SchedulersServer;
use dure_proto::v1::tenants_server::TenantsServer;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use super::limits::{
    CALL_DEADLINE, HANDSHAKE_DEADLINE, KEEPALIVE_DEADLINE, KEEPALIVE_EVERY, MAX_ANSWER, MAX_HEADERS, MAX_MESSAGE,
    MAX_PENDING_RESETS, MAX_STREAMS,
};
use super::logs::LogSource;
use super::seat::Seat;
use super::steps::Steps;
use super::watch::{Past, Watchers};
use crate::auth::Guard;
use crate::clock::Clock;
use crate::forecast::Forecasts;
use crate::handle::Handle;
use crate::journal::{BlobId, JournalError, Reader};

/// Where payloads are read.
pub trait Blobs: Send + Sync + 'static {
    /// The content of a blob; none when there is none of that id. May block.
    ///
    /// # Errors
    /// Those of reading the journal.
    fn blob(&self, id: BlobId) -> Result<Option<Vec<u8>>, JournalError>;
}

impl Blobs for Mutex<Box<dyn Reader>> {
    fn blob(&self, id: BlobId) -> Result<Option<Vec<u8>>, JournalError> {
        self.lock().unwrap_or_else(PoisonError::into_inner).read_blob(id)
    }
}

/// What the services work with. Cheap to clone.
#[derive(Clone)]
pub struct Services {
    /// To the owner of the cluster.
    pub handle: Handle,
    /// The owner's clock: usage is counted up to now by it.
    pub clock: Clock,
    /// What happens.
    pub watchers: Watchers,
    /// What has happened.
    pub past: Arc<dyn Past>,
    /// The scheduler's folder, where the history lies.
    pub history: PathBuf,
    /// Scripts and environments.
    pub blobs: Arc<dyn Blobs>,
    /// Output of jobs.
    pub logs: Arc<dyn LogSource>,
    /// What runs beside members.
    pub steps: Steps,
    /// What would be.
    pub forecasts: Arc<Forecasts>,
    /// Who leads.
    pub seat: Seat,
}

/// How the server proves itself, and whom it believes.
pub struct ServerTls {
    /// Its certificate, and the chain above it, PEM.
    pub certificate_pem: String,
    /// Its key, PEM.
    pub key_pem: String,
    /// The authority that signs nodes, PEM.
    pub node_authority_pem: String,
}

/// Why a server did not start or went down.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// TLS or the transport: fix the certificate, or the network.
    #[error("gRPC server: {}", chain(.0))]
    Transport(#[from] tonic::transport::Error),
    /// The descriptors of this very binary cannot be read.
    #[error("reflection: {0}")]
    Reflection(String),
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |cause| cause.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Serves until `stop`; calls under way are finished, streams are cut.
///
/// # Errors
/// `Transport` when TLS cannot be set up or the listener fails.
pub async fn serve(
    services: Services,
    agents: impl Agents,
    guard: Guard,
    listener: TcpListener,
    tls: Option<ServerTls>,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let mut builder = limited(Server::builder());
    if let Some(tls) = tls {
        builder = builder.tls_config(tls_config(tls))?;
    }
    let schedulers = SchedulersServer::new(services.seat.clone());
    let jobs = JobsServer::new(services.clone());
    let tenants = TenantsServer::new(services.clone());
    let forecasts = ForecastsServer::new(services.clone());
    let nodes = NodesServer::new(services.clone());
    let bookings = BookingsServer::new(services.clone());
    let history = HistoryServer::new(services);
    let agents = AgentsServer::new(agents);
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<JobsServer<Services>>().await;
    let descriptors = public_descriptors()?;
    let reflection =
        || tonic_reflection::server::Builder::configure().register_file_descriptor_set(descriptors.clone());
    let broken = |err: tonic_reflection::server::Error| ServeError::Reflection(err.to_string());
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    builder
        .layer(guard)
        .add_service(jobs.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_ANSWER))
        .add_service(tenants.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_ANSWER))
        .add_service(bookings.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_ANSWER))
        .add_service(nodes.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_ANSWER))
        .add_service(history.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_ANSWER))
        .add_service(agents.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_ANSWER))
        .add_service(forecasts.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_ANSWER))
        .add_service(schedulers)
        .add_service(health_service)
        .add_service(reflection().build_v1().map_err(broken)?)
        .add_service(reflection().build_v1alpha().map_err(broken)?)
        .serve_with_incoming_shutdown(incoming, stop)
        .await?;
    Ok(())
}

/// Serves where another scheduler leads: says who does, and nothing else.
///
/// # Errors
/// As [`serve`].
pub async fn serve_standby(
    seat: Seat,
    guard: Guard,
    listener: TcpListener,
    tls: Option<ServerTls>,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let mut builder = limited(Server::builder());
    if let Some(tls) = tls {
        builder = builder.tls_config(tls_config(tls))?;
    }
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_not_serving::<JobsServer<Services>>().await;
    builder
        .layer(seat.clone())
        .layer(guard)
        .add_service(SchedulersServer::new(seat))
        .add_service(health_service)
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), stop)
        .await?;
    Ok(())
}

fn limited(builder: Server) -> Server {
    builder
        .timeout(CALL_DEADLINE)
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_header_list_size(MAX_HEADERS)
        .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEPALIVE_DEADLINE))
}

fn tls_config(tls: ServerTls) -> ServerTlsConfig {
    ServerTlsConfig::new()
        .identity(Identity::from_pem(tls.certificate_pem, tls.key_pem))
        .client_ca_root(Certificate::from_pem(tls.node_authority_pem))
        .client_auth_optional(true)
        .timeout(HANDSHAKE_DEADLINE)
}

/// The descriptors of the public API and of health; the journal's records are nobody's interface.
fn public_descriptors() -> Result<FileDescriptorSet, ServeError> {
    let read = |bytes| FileDescriptorSet::decode(bytes).map_err(|err| ServeError::Reflection(err.to_string()));
    let mut set = read(dure_proto::FILE_DESCRIPTOR_SET)?;
    set.file.retain(|file| file.package() == "dure.v1");
    set.file.extend(read(tonic_health::pb::FILE_DESCRIPTOR_SET)?.file);
    Ok(set)
}
