//! Starts a scheduler: journal, recovery, follower, the owner of the cluster, and the servers around them; and stops it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dure_core::ids::Epoch;
use dure_core::input::Input;
use dure_core::node::Location;
use dure_core::units::Span;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};

use crate::agents::logs::LogDesk;
use crate::agents::session::AgentService;
use crate::auth::ca::{Authority, CaError};
use crate::auth::token::TokenError;
use crate::auth::{Authenticator, Guard, Tokens};
use crate::clock::Clock;
use crate::config::{Config, ConfigError};
use crate::fence;
use crate::follower::{Follower, FollowerConfig, FollowerError};
use crate::grpc::join::Joiner;
use crate::grpc::seat::Seat;
use crate::grpc::server::{self, ServeError, ServerTls, Services};
use crate::grpc::watch::Watchers;
use crate::handle::{CallError, Handle};
use crate::history::JournalHistory;
use crate::journal::{
    EmbeddedEngine, Engine, JournalError, JournalReader, JournalWriter, OpenOptions, Reader, WriterLimits,
};
use crate::lead::Leader;
use crate::leadership::Tenure;
use crate::metrics::{self, Metrics};
use crate::perform::{Payloads, Performer};
use crate::recover::{RecoverError, Recovered, recover};
use crate::run::{Pump, Stopped};
use crate::turn::{Scheduler, Settings};

/// Messages of agents that wait for a turn; then their sessions wait.
const MAX_WAITING_MESSAGES: usize = 16_384;

/// Ids of jobs that are left out after a restore: agents may hold leases of jobs that were submitted after the backup, and
/// an id means one job for ever.
const SKIPPED_AFTER_RESTORE: u64 = 1_000_000;
/// How long the last answers may take to leave when the scheduler stops.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// Why a scheduler did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Fix the configuration.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// Fix the token file.
    #[error("{0}")]
    Tokens(#[from] TokenError),
    /// Fix the data directory or the certificates.
    #[error("{0}")]
    Authority(#[from] CaError),
    /// The journal says what to do.
    #[error("{0}")]
    Journal(#[from] JournalError),
    /// The journal cannot be folded into a state; the message says what to do.
    #[error("{0}")]
    Recover(#[from] RecoverError),
    /// No thread, no memory.
    #[error("{0}")]
    Follower(#[from] FollowerError),
    /// An address cannot be listened on.
    #[error("{address} cannot be listened on: {error}; choose another `{field}`, or end what uses it")]
    Listen {
        /// Which setting.
        field: &'static str,
        /// Its value.
        address: SocketAddr,
        /// What the system says.
        error: std::io::Error,
    },
    /// The system gives no thread.
    #[error("no thread for the scheduler: {0}")]
    Thread(std::io::Error),
    /// A pool or tenant of the configuration was refused.
    #[error("configuration: {what}: {why}")]
    Refused {
        /// Which.
        what: String,
        /// Why.
        why: String,
    },
    /// The scheduler stopped while it started.
    #[error("the scheduler stopped while it started: {0}")]
    Stopped(String),
}

/// A scheduler that runs.
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where it shows its metrics, if anywhere.
    pub metrics_address: Option<SocketAddr>,
    /// The way to the owner of the cluster.
    pub handle: Handle,
    /// Who may come in.
    pub tokens: Tokens,
    /// What signs the nodes' certificates, PEM; agents need it to join over TLS.
    pub authority_pem: String,
    /// The journal's directory, for readers.
    pub journal: PathBuf,
    stop: watch::Sender<bool>,
    ended: oneshot::Receiver<Stopped>,
    serving: Served,
    follower: Follower,
    writer: Arc<JournalWriter>,
}

impl Running {
    /// Waits until the scheduler ends by itself: it never does while all is well.
    pub async fn ended(&mut self) -> Stopped {
        (&mut self.ended).await.unwrap_or(Stopped::Asked)
    }

    /// True when it stops.
    fn stopping(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Stops in order: no new calls, what was decided becomes durable, the journal is closed (and with it the leadership
    /// given up: whoever waits for it need not wait for the last answers), the last answers leave.
    pub async fn stop(self) {
        let Self { stop, ended, serving, follower, writer, .. } = self;
        let _ = stop.send(true); // nobody listens any more when the pump has ended by itself
        // A scheduler that ended by itself has said so already, and says it once.
        if !ended.is_terminated() {
            drop(ended.await);
        }
        let closed = tokio::task::spawn_blocking(move || {
            if let Err(err) = follower.stop() {
                tracing::error!(error = %err, "the follower had stopped");
            }
            Arc::into_inner(writer).map(JournalWriter::close)
        });
        match closed.await {
            Ok(Some(Err(err))) => tracing::error!(error = %err, "the journal did not close well"),
            Ok(_) => {}
            Err(err) => tracing::error!(error = %err, "the journal did not close well"),
        }
        // Answers are given; streams would stay open for ever.
        serving.end(LAST_ANSWERS).await;
    }
}

/// Starts a scheduler. It answers calls when this returns.
///
/// # Errors
/// Each says what to change.
pub async fn start(config: Config) -> Result<Running, StartError> {
    config.check()?;
    let tokens = match &config.tokens {
        Some(path) => Tokens::load(path, &config.data_dir.join("spent-tokens"))?,
        None => Tokens::in_memory(),
    };
    start_with(config, tokens).await
}

/// As `start`, with a table of tokens of the caller's.
///
/// # Errors
/// As `start`.
pub async fn start_with(config: Config, tokens: Tokens) -> Result<Running, StartError> {
    if config.etcd.is_some() {
        let why = "one of several schedulers is started with `dure scheduler`".to_owned();
        return Err(StartError::Refused { what: "etcd".to_owned(), why });
    }
    let ground = Ground::prepare(config, tokens, Arc::new(Metrics::new())).await?;
    let opening = {
        let config = ground.config.clone();
        tokio::task::spawn_blocking(move || open(&config))
    };
    let opened = opening.await.map_err(|err| StartError::Stopped(err.to_string()))??;
    let mut running = ground.lead(opened, |epoch| Seat::Alone { epoch }).await?;
    running.metrics_address = ground.serve_metrics(running.stopping()).await?;
    Ok(running)
}

/// A server on a runtime of its own, which ends with it: no connection of one leadership lives on in the next.
pub(crate) struct Served {
    runtime: Option<tokio::runtime::Runtime>,
    serving: tokio::task::JoinHandle<Result<(), ServeError>>,
}

impl Served {
    fn start<F>(listener: std::net::TcpListener, serve: impl FnOnce(TcpListener) -> F) -> Result<Self, StartError>
    where
        F: Future<Output = Result<(), ServeError>> + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("grpc").build();
        let runtime = runtime.map_err(StartError::Thread)?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener).map_err(StartError::Thread)?
        };
        let serving = runtime.spawn(serve(listener));
        Ok(Self { runtime: Some(runtime), serving })
    }

    /// Waits for the last answers, at most so long, and closes all connections.
    pub(crate) async fn end(mut self, within: Duration) {
        if let Ok(Ok(Err(err))) = tokio::time::timeout(within, &mut self.serving).await {
            tracing::error!(error = %err, "the server had ended");
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What a scheduler stands on, whether it leads or stands by.
pub(crate) struct Ground {
    pub(crate) config: Config,
    listener: std::net::TcpListener,
    tokens: Tokens,
    authority: Arc<Authority>,
    metrics: Arc<Metrics>,
    topology: BTreeMap<String, Location>,
}

/// Until the word to stop.
pub(crate) async fn until(mut stopping: watch::Receiver<bool>) {
    drop(stopping.wait_for(|stop| *stop).await); // a sender that is gone means the same
}

impl Ground {
    pub(crate) async fn prepare(config: Config, tokens: Tokens, metrics: Arc<Metrics>) -> Result<Self, StartError> {
        let listener = listen("listen", config.listen).await?;
        let (field, address) = ("listen", config.listen);
        let listener = listener.into_std().map_err(|error| StartError::Listen { field, address, error })?;
        let topology = config.locations()?;
        let authority = Arc::new(Authority::open(&config.data_dir.join("ca"))?);
        Ok(Self { config, listener, tokens, authority, metrics, topology })
    }

    /// The listener once more: calls that come between two servers wait in its queue.
    fn listener(&self) -> Result<std::net::TcpListener, StartError> {
        let (field, address) = ("listen", self.config.listen);
        self.listener.try_clone().map_err(|error| StartError::Listen { field, address, error })
    }

    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    fn guard(&self) -> Guard {
        Guard::new(Authenticator::new(self.tokens.clone(), self.config.auth_policy()), self.metrics.clone())
    }

    /// Serves the metrics, if they are wanted, until the word to stop. Answers where.
    pub(crate) async fn serve_metrics(
        &self,
        stopping: watch::Receiver<bool>,
    ) -> Result<Option<SocketAddr>, StartError> {
        let Some(address) = self.config.metrics_listen else { return Ok(None) };
        let listener = listen("metrics_listen", address).await?;
        let address = listener.local_addr().ok();
        tokio::spawn(metrics::serve(self.metrics.clone(), listener, until(stopping)));
        Ok(address)
    }

    /// Says who leads, until the word to stop.
    pub(crate) fn stand_by(&self, seat: Seat, stopping: watch::Receiver<bool>) -> Result<Served, StartError> {
        let (tls, guard) = (server_tls(&self.config, &self.authority)?, self.guard());
        Served::start(self.listener()?, |listener| server::serve_standby(seat, guard, listener, tls, until(stopping)))
    }

    /// Leads, and answers calls when this returns.
    pub(crate) async fn lead(&self, opened: Opened, seat: impl FnOnce(u64) -> Seat) -> Result<Running, StartError> {
        let listener = self.listener()?;
        let address = listener.local_addr().unwrap_or(self.config.listen);
        let (stop, stopping) = watch::channel(false);
        let (handle, calls) = Handle::new();
        let (messages, taken) = mpsc::channel(MAX_WAITING_MESSAGES);
        let desk = LogDesk::default();
        let watchers = Watchers::new();
        let Opened {
            recovered,
            restored,
            restore_floor,
            clock,
            epoch,
            store_id,
            tenure,
            writer,
            reports,
            follower,
            reader,
        } = opened;
        let blobs = Arc::new(Mutex::new(reader.reopen()?));
        let history = Arc::new(JournalHistory::new(reader.reopen()?));
        let (deadlines, topology) = (self.config.deadlines(), self.topology.clone());
        let settings = Settings { epoch, restore_floor, store_id, deadlines, topology };
        let Recovered { cluster, head, .. } = recovered;
        let payloads = Payloads::new(Box::new(move |id| reader.read_blob(id)));
        let performer = Performer { payloads, watchers: watchers.clone() };
        let mut scheduler = Scheduler::new(cluster, head, settings, clock.now());
        scheduler.set_fence_percent(self.config.liveness.fence_percent);
        let pump = Pump {
            leader: Leader::new(scheduler, performer, epoch),
            clock,
            writer: writer.clone(),
            reports,
            calls,
            messages: taken,
            follower: follower.feed(),
            tenure,
            metrics: self.metrics.clone(),
            stop: stopping.clone(),
        };
        let ended = spawn(pump)?;
        if restored {
            skip_job_ids(&handle).await?;
        }
        configure(&handle, &self.config).await?;
        let (logs, seat) = (Arc::new(desk.clone()), seat(epoch.0));
        let services = Services { handle: handle.clone(), clock, watchers, history, blobs, logs, seat };
        let joiner = Arc::new(Joiner::new(self.authority.clone(), self.tokens.clone()));
        let agents = AgentService { messages, desk, joiner, next_session: Arc::new(AtomicU64::new(0)) };
        if let Some(fence) = self.config.fence.clone() {
            tokio::spawn(fence::keep(fence, handle.clone(), stopping.clone()));
        }
        let tls = server_tls(&self.config, &self.authority)?;
        let guard = self.guard();
        let serving =
            Served::start(listener, |listener| server::serve(services, agents, guard, listener, tls, until(stopping)))?;
        tracing::info!(%address, epoch = epoch.0, tls = self.config.uses_tls(), "the scheduler serves");
        Ok(Running {
            address,
            metrics_address: None,
            handle,
            tokens: self.tokens.clone(),
            authority_pem: self.authority.pem().to_owned(),
            journal: journal_dir(&self.config),
            stop,
            ended,
            serving,
            follower,
            writer,
        })
    }
}

async fn listen(field: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|error| StartError::Listen { field, address, error })
}

/// The journal and the state in it.
pub(crate) struct Opened {
    recovered: Recovered,
    /// Nothing was written since the journal was restored from a backup.
    restored: bool,
    restore_floor: Epoch,
    clock: Clock,
    epoch: Epoch,
    store_id: String,
    tenure: Tenure,
    writer: Arc<JournalWriter>,
    reports: mpsc::UnboundedReceiver<crate::journal::Report>,
    follower: Follower,
    reader: Box<dyn Reader>,
}

fn journal_dir(config: &Config) -> PathBuf {
    config.data_dir.join("journal")
}

fn open(config: &Config) -> Result<Opened, StartError> {
    let journal = journal_dir(config);
    let engine = EmbeddedEngine::open(&journal, OpenOptions::default())?;
    let recovered = recover(&engine, config.core_policy())?;
    let reader = Box::new(JournalReader::open(&journal)?);
    Opened::begin(config, Box::new(engine), recovered, reader, Tenure::unbounded())
}

impl Opened {
    /// Puts a leading engine and the state at its end to work.
    pub(crate) fn begin(
        config: &Config,
        engine: Box<dyn Engine>,
        recovered: Recovered,
        reader: Box<dyn Reader>,
        tenure: Tenure,
    ) -> Result<Self, StartError> {
        let (epoch, store_id) = (Epoch(engine.epoch()), format!("{:?}", engine.store_id()));
        let restore_floor = Epoch(engine.restore_floor());
        let restored = engine.head().epoch < engine.restore_floor();
        for (seq, why) in &recovered.passed_over {
            tracing::warn!(seq = seq.0, why, "a snapshot could not be used");
        }
        let (head, jobs) = (recovered.head, recovered.cluster.jobs().len());
        tracing::info!(head = head.0, jobs, events = recovered.events_replayed, "the journal was recovered");
        let clock = Clock::start(recovered.time);
        let (reported, reports) = mpsc::unbounded_channel();
        let report = move |report| drop(reported.send(report)); // a pump that is gone needs no reports
        let writer = Arc::new(JournalWriter::start(engine, WriterLimits::default(), report)?);
        let sink = {
            let writer = Arc::downgrade(&writer);
            Box::new(move |snapshot| {
                writer.upgrade().map_or(Err(JournalError::Closed), |writer| writer.snapshot(snapshot))
            })
        };
        let follower = Follower::start(&recovered, follower_config(config), Box::new(reader.reopen()?), sink)?;
        Ok(Self {
            recovered,
            restored,
            restore_floor,
            clock,
            epoch,
            store_id,
            tenure,
            writer,
            reports,
            follower,
            reader,
        })
    }
}

/// The owner of the cluster runs on a thread of its own: nothing else takes its time.
fn spawn(pump: Pump) -> Result<oneshot::Receiver<Stopped>, StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(StartError::Thread)?;
    let (ended, end) = oneshot::channel();
    let run = move || {
        let stopped = runtime.block_on(pump.run());
        if !matches!(stopped, Stopped::Asked) {
            tracing::error!(why = %stopped, "the scheduler has stopped leading");
        }
        drop(ended.send(stopped)); // nobody waits when the process ends
    };
    std::thread::Builder::new().name("cluster".to_owned()).spawn(run).map_err(StartError::Thread)?;
    Ok(end)
}

/// Nothing may be submitted before this is durable.
async fn skip_job_ids(handle: &Handle) -> Result<(), StartError> {
    tracing::warn!(skipped = SKIPPED_AFTER_RESTORE, "the journal was restored: ids of jobs go on after a gap");
    let skip = handle.mutate(Input::SkipJobIds(SKIPPED_AFTER_RESTORE), None, Vec::new(), |_, _| ()).await;
    skip.map(drop).map_err(|err| StartError::Stopped(err.to_string()))
}

/// Defines the pools and tenants of the configuration that the journal does not know. What it knows stays as it is: the
/// quotas that were set at run time are the truth.
async fn configure(handle: &Handle, config: &Config) -> Result<(), StartError> {
    let stopped = |err: CallError| StartError::Stopped(err.to_string());
    let wanted = config.clone();
    let (inputs, _) = handle.read(move |cluster, _| wanted.inputs(cluster)).await.map_err(stopped)?;
    for input in inputs {
        let what = match &input {
            Input::SetTenant(draft) => format!("tenant {:?}", draft.name),
            Input::DefinePool { name, .. } => format!("pool {name:?}"),
            other => format!("{other:?}"),
        };
        match handle.mutate(input, None, Vec::new(), |_, _| ()).await {
            Ok(_) => {}
            Err(CallError::Rejected(rejected)) => {
                let why = crate::grpc::status::rejected_text(&rejected);
                return Err(StartError::Refused { what, why });
            }
            Err(other) => return Err(stopped(other)),
        }
    }
    Ok(())
}

/// In etcd what lies before the older snapshot is deleted, and what is left must stay small: a few minutes' worth.
const REPLICATED_SNAPSHOT_EVENTS: u64 = 200_000;
/// See `REPLICATED_SNAPSHOT_EVENTS`.
const REPLICATED_SNAPSHOT_SPAN: Span = Span::seconds(120);

fn follower_config(config: &Config) -> FollowerConfig {
    let (mut snapshot_events, mut snapshot_span) = (config.snapshot.every_events, config.snapshot.every);
    if config.etcd.is_some() {
        snapshot_events = snapshot_events.min(REPLICATED_SNAPSHOT_EVENTS);
        snapshot_span = snapshot_span.min(REPLICATED_SNAPSHOT_SPAN);
    }
    FollowerConfig { snapshot_events, snapshot_span, ..FollowerConfig::standard() }
}

fn server_tls(config: &Config, authority: &Authority) -> Result<Option<ServerTls>, StartError> {
    if !config.uses_tls() {
        return Ok(None);
    }
    let given = config.tls.as_ref().and_then(|tls| Some((tls.cert.as_ref()?, tls.key.as_ref()?)));
    let (certificate_pem, key_pem) = match given {
        Some((cert, key)) => (read_pem(cert)?, read_pem(key)?),
        None => {
            let own = authority.server(&config.server_names())?;
            (own.certificate_pem, own.key_pem)
        }
    };
    Ok(Some(ServerTls { certificate_pem, key_pem, node_authority_pem: authority.pem().to_owned() }))
}

fn read_pem(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })
}
