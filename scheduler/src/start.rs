//! Starts a scheduler: journal, recovery, follower, the owner of the cluster, and the servers around them; and stops it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dure_core::ids::Epoch;
use dure_core::input::Input;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};

use crate::agents::logs::LogDesk;
use crate::agents::session::AgentService;
use crate::auth::ca::{Authority, CaError};
use crate::auth::token::TokenError;
use crate::auth::{Authenticator, Guard, Tokens};
use crate::clock::Clock;
use crate::config::{Config, ConfigError};
use crate::follower::{Follower, FollowerConfig, FollowerError};
use crate::grpc::join::Joiner;
use crate::grpc::server::{self, ServeError, ServerTls, Services};
use crate::grpc::watch::Watchers;
use crate::handle::{CallError, Handle};
use crate::history::JournalHistory;
use crate::journal::{
    EmbeddedEngine, Engine, JournalError, JournalReader, JournalWriter, OpenOptions, Reader, WriterLimits,
};
use crate::lead::Leader;
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
    serving: tokio::task::JoinHandle<Result<(), ServeError>>,
    follower: Follower,
    writer: Arc<JournalWriter>,
}

impl Running {
    /// Waits until the scheduler ends by itself: it never does while all is well.
    pub async fn ended(&mut self) -> Stopped {
        (&mut self.ended).await.unwrap_or(Stopped::Asked)
    }

    /// Stops in order: no new calls, what was decided becomes durable, its answers leave, the journal is closed.
    pub async fn stop(self) {
        let Self { stop, ended, mut serving, follower, writer, .. } = self;
        let _ = stop.send(true); // nobody listens any more when the pump has ended by itself
        // A scheduler that ended by itself has said so already, and says it once.
        if !ended.is_terminated() {
            drop(ended.await);
        }
        // Answers are given; streams would stay open for ever.
        if tokio::time::timeout(LAST_ANSWERS, &mut serving).await.is_err() {
            serving.abort();
            drop(serving.await);
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
    let listener = listen("listen", config.listen).await?;
    let address = listener.local_addr().unwrap_or(config.listen);
    let metrics_listener = match config.metrics_listen {
        Some(address) => Some(listen("metrics_listen", address).await?),
        None => None,
    };
    let metrics_address = metrics_listener.as_ref().and_then(|listener| listener.local_addr().ok());
    let topology = config.locations()?;
    let opened = {
        let config = config.clone();
        let opening = tokio::task::spawn_blocking(move || open(&config));
        opening.await.map_err(|err| StartError::Stopped(err.to_string()))??
    };
    let authority = Arc::new(Authority::open(&config.data_dir.join("ca"))?);
    let (stop, stopping) = watch::channel(false);
    let (handle, calls) = Handle::new();
    let (messages, taken) = mpsc::channel(MAX_WAITING_MESSAGES);
    let desk = LogDesk::default();
    let metrics = Arc::new(Metrics::new());
    let watchers = Watchers::new();
    let Opened {
        recovered,
        restored,
        restore_floor,
        clock,
        epoch,
        store_id,
        writer,
        reports,
        follower,
        reader,
        journal,
    } = opened;
    let blobs = Arc::new(Mutex::new(reader.reopen()?));
    let history = Arc::new(JournalHistory::new(reader.reopen()?));
    let settings = Settings { epoch, restore_floor, store_id, deadlines: config.deadlines(), topology };
    let Recovered { cluster, head, .. } = recovered;
    let payloads = Payloads::new(Box::new(move |id| reader.read_blob(id)));
    let performer = Performer { payloads, watchers: watchers.clone() };
    let pump = Pump {
        leader: Leader::new(Scheduler::new(cluster, head, settings, clock.now()), performer, epoch),
        clock,
        writer: writer.clone(),
        reports,
        calls,
        messages: taken,
        follower: follower.feed(),
        metrics: metrics.clone(),
        stop: stopping.clone(),
    };
    let ended = spawn(pump)?;
    if restored {
        skip_job_ids(&handle).await?;
    }
    configure(&handle, &config).await?;
    let services = Services { handle: handle.clone(), clock, watchers, history, blobs, logs: Arc::new(desk.clone()) };
    let joiner = Arc::new(Joiner::new(authority.clone(), tokens.clone()));
    let agents = AgentService { messages, desk, joiner, next_session: Arc::new(AtomicU64::new(0)) };
    let guard = Guard::new(Authenticator::new(tokens.clone(), config.auth_policy()), metrics.clone());
    let tls = server_tls(&config, &authority)?;
    let until = |mut stopping: watch::Receiver<bool>| async move { drop(stopping.wait_for(|stop| *stop).await) };
    let serving = tokio::spawn(server::serve(services, agents, guard, listener, tls, until(stopping.clone())));
    if let Some(listener) = metrics_listener {
        tokio::spawn(metrics::serve(metrics, listener, until(stopping)));
    }
    tracing::info!(%address, epoch = epoch.0, tls = config.uses_tls(), "the scheduler serves");
    let authority_pem = authority.pem().to_owned();
    Ok(Running {
        address,
        metrics_address,
        handle,
        tokens,
        authority_pem,
        journal,
        stop,
        ended,
        serving,
        follower,
        writer,
    })
}

async fn listen(field: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|error| StartError::Listen { field, address, error })
}

/// The journal and the state in it.
struct Opened {
    recovered: Recovered,
    /// Nothing was written since the journal was restored from a backup.
    restored: bool,
    restore_floor: Epoch,
    clock: Clock,
    epoch: Epoch,
    store_id: String,
    writer: Arc<JournalWriter>,
    reports: mpsc::UnboundedReceiver<crate::journal::Report>,
    follower: Follower,
    reader: Box<dyn Reader>,
    journal: PathBuf,
}

fn open(config: &Config) -> Result<Opened, StartError> {
    let journal = config.data_dir.join("journal");
    let engine = EmbeddedEngine::open(&journal, OpenOptions::default())?;
    let (epoch, store_id) = (Epoch(engine.epoch()), format!("{:?}", engine.store_id()));
    let restore_floor = Epoch(engine.restore_floor());
    let restored = engine.head().epoch < engine.restore_floor();
    let recovered = recover(&engine, config.core_policy())?;
    for (seq, why) in &recovered.passed_over {
        tracing::warn!(seq = seq.0, why, "a snapshot could not be used");
    }
    let (head, jobs) = (recovered.head, recovered.cluster.jobs().len());
    tracing::info!(head = head.0, jobs, events = recovered.events_replayed, "the journal was recovered");
    let clock = Clock::start(recovered.time);
    let reader: Box<dyn Reader> = Box::new(JournalReader::open(&journal)?);
    let (reported, reports) = mpsc::unbounded_channel();
    let report = move |report| drop(reported.send(report)); // a pump that is gone needs no reports
    let writer = Arc::new(JournalWriter::start(Box::new(engine), WriterLimits::default(), report)?);
    let sink = {
        let writer = Arc::downgrade(&writer);
        Box::new(move |snapshot| writer.upgrade().map_or(Err(JournalError::Closed), |writer| writer.snapshot(snapshot)))
    };
    let follower = Follower::start(&recovered, follower_config(config), Box::new(reader.reopen()?), sink)?;
    Ok(Opened {
        recovered,
        restored,
        restore_floor,
        clock,
        epoch,
        store_id,
        writer,
        reports,
        follower,
        reader,
        journal,
    })
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

fn follower_config(config: &Config) -> FollowerConfig {
    FollowerConfig {
        snapshot_events: config.snapshot.every_events,
        snapshot_span: config.snapshot.every,
        ..FollowerConfig::standard()
    }
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
