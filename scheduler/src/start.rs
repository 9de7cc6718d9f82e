//! Starts a scheduler: journal, recovery, follower, the owner of the cluster, and the servers around them; and stops it.

mod ahead;
mod error;
mod opened;
mod served;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dure_core::ids::Epoch;
use dure_core::input::Input;
use dure_core::node::Location;
use tokio::sync::{mpsc, oneshot, watch};

use self::ahead::{estimator, forecasts};
pub use self::error::StartError;
pub(crate) use self::opened::{Opened, follower_config, keeping};
use self::opened::{journal_dir, open};
pub(crate) use self::served::Served;
use self::served::{listen, server_tls};
use crate::agents::logs::LogDesk;
use crate::agents::session::AgentService;
use crate::auth::ca::Authority;
use crate::auth::{Authenticator, Caller, Guard, Tokens};
use crate::config::Config;
use crate::fence;
use crate::follower::{Follower, Following};
use crate::forecast::Estimator;
use crate::grpc::join::Joiner;
use crate::grpc::seat::Seat;
use crate::grpc::server::{self, Services};
use crate::grpc::steps::Steps;
use crate::grpc::watch::Watchers;
use crate::handle::{CallError, Handle, Position};
use crate::history::Refusals;
use crate::journal::backup::EPOCH_JUMP;
use crate::journal::{Head, JournalWriter};
use crate::lead::Leader;
use crate::leadership::Seen;
use crate::metrics::{self, Metrics};
use crate::past::JournalPast;
use crate::perform::{Payloads, Performer};
use crate::recover::Recovered;
use crate::run::{Pump, Stopped};
use crate::standby::took::Took;
use crate::turn::{Scheduler, Settings};

/// Messages of agents that wait for a turn; then their sessions wait.
const MAX_WAITING_MESSAGES: usize = 16_384;

/// Ids of jobs that are left out after a restore.
const SKIPPED_JOBS: u64 = 1_000_000;
/// Numbers of attempts of each job that are left out after a restore, for each jump of the epoch so far.
const SKIPPED_ATTEMPTS: u32 = 1_000;
/// How long the last answers may take to leave when the scheduler stops.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

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
    /// What is measured.
    pub metrics: Arc<Metrics>,
    stop: watch::Sender<bool>,
    ended: oneshot::Receiver<Stopped>,
    serving: Served,
    estimator: Option<Estimator>,
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

    /// Stops in order: no new calls, what was decided becomes durable, the journal is closed, the last answers leave.
    pub async fn stop(self) {
        self.close(&mut Took::from_now()).await.0.end().await;
    }

    /// As `stop`, but for the last answers, which whoever serves next on the same address need not wait for. What is left
    /// is some when all went well.
    pub(crate) async fn close(self, took: &mut Took) -> (Leaving, Option<Left>) {
        let Self { stop, ended, serving, estimator, follower, writer, .. } = self;
        let _ = stop.send(true); // nobody listens any more when the pump has ended by itself
        // A scheduler that ended by itself has said so already, and says it once.
        if !ended.is_terminated() {
            drop(ended.await);
        }
        took.step("owner_ended");
        let closed = tokio::task::spawn_blocking(move || {
            // The journal first, and with it the leadership: whoever waits for it need not wait for the rest.
            let closed = Arc::into_inner(writer).map(JournalWriter::close);
            drop(estimator);
            let following = follower.stop();
            if let Err(err) = &following {
                tracing::error!(error = %err, "the follower had stopped");
            }
            (closed, following.ok())
        });
        let closed = closed.await;
        took.step("closed");
        let left = match closed {
            Ok((Some(Ok(head)), following)) => Left::at(head, following),
            Ok((Some(Err(err)), _)) => {
                tracing::error!(error = %err, "the journal did not close well");
                None
            }
            Ok((None, _)) => None,
            Err(err) => {
                tracing::error!(error = %err, "the journal did not close well");
                None
            }
        };
        (Leaving(serving), left)
    }
}

/// What a leadership that ended well leaves to this process: the end of the journal as it has written it, and the second core
/// there, with the history.
pub(crate) struct Left {
    pub(crate) head: Head,
    pub(crate) following: Following,
}

impl Left {
    fn at(head: Head, following: Option<Following>) -> Option<Self> {
        let following = following.filter(|following| following.head().0 == head.seq)?;
        Some(Self { head, following })
    }
}

/// The server of a leadership that is over, with its last answers.
pub(crate) struct Leaving(Served);

impl Leaving {
    /// Answers are given; streams would stay open for ever.
    pub(crate) async fn end(self) {
        self.0.end(LAST_ANSWERS).await;
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
        let refusals = ground.refusals.clone();
        tokio::task::spawn_blocking(move || open(&config, refusals))
    };
    let opened = opening.await.map_err(|err| StartError::Stopped(err.to_string()))??;
    let mut running = ground.lead(opened, |epoch| Seat::Alone { epoch }, None, &mut Took::from_now()).await?;
    running.metrics_address = ground.serve_metrics(running.stopping()).await?;
    Ok(running)
}

/// What a scheduler stands on, whether it leads or stands by.
pub(crate) struct Ground {
    pub(crate) config: Config,
    listener: std::net::TcpListener,
    tokens: Tokens,
    authority: Arc<Authority>,
    metrics: Arc<Metrics>,
    topology: BTreeMap<String, Location>,
    /// What the guard refuses, until the history takes it.
    pub(crate) refusals: Refusals,
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
        Ok(Self { config, listener, tokens, authority, metrics, topology, refusals: Refusals::default() })
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
        let authenticator = Authenticator::new(self.tokens.clone(), self.config.auth_policy());
        let guard = Guard::new(authenticator, self.metrics.clone());
        guard.counting(self.refusals.clone()).limiting(self.config.rate())
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
    pub(crate) async fn lead(
        &self,
        opened: Opened,
        seat: impl FnOnce(u64) -> Seat,
        leader: Option<Seen>,
        took: &mut Took,
    ) -> Result<Running, StartError> {
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
        let past = Arc::new(JournalPast::new(reader.reopen()?));
        let past_reader = reader.reopen()?;
        let (deadlines, topology) = (self.config.deadlines(), self.topology.clone());
        let settings = Settings { epoch, restore_floor, store_id, deadlines, topology };
        let Recovered { cluster, head, .. } = recovered;
        let unknown = self.config.inputs(&cluster);
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
        // Before the first turn: what that starts has a number that nobody knows.
        let skipped = restored.then(|| skip_ids(&handle, restore_floor)).transpose()?;
        let ended = spawn(pump)?;
        if let Some(skipped) = skipped {
            skipped.await.map_err(|err| StartError::Stopped(err.to_string()))?;
        }
        took.step("owner_started");
        configure(&handle, unknown).await?;
        took.step("configured");
        let forecasts = forecasts(&self.config, follower.feed(), past_reader, clock, epoch);
        let estimator = estimator(&self.config, &forecasts)?;
        took.step("forecasts");
        let (logs, seat) = (Arc::new(desk.clone()), seat(epoch.0));
        let history = self.config.data_dir.clone();
        let (handle_of, steps) = (handle.clone(), Steps::default());
        let services =
            Services { handle: handle_of, clock, watchers, past, history, blobs, logs, steps, forecasts, seat };
        let joiner = Arc::new(Joiner::new(self.authority.clone(), self.tokens.clone()));
        let agents = AgentService { messages, desk, joiner, next_session: Arc::new(AtomicU64::new(0)), leader };
        if self.config.etcd.is_none() && self.config.journal.reserve_mib > 0 {
            let (dir, reserve) = (journal_dir(&self.config), self.config.journal.reserve_mib << 20);
            tokio::spawn(handle.room().clone().watch(dir, reserve, until(stopping.clone())));
        }
        if let Some(fence) = self.config.fence.clone() {
            tokio::spawn(fence::keep(fence, handle.clone(), stopping.clone()));
        }
        let tls = server_tls(&self.config, &self.authority)?;
        let guard = self.guard();
        let serving =
            Served::start(listener, |listener| server::serve(services, agents, guard, listener, tls, until(stopping)))?;
        took.step("serving");
        tracing::info!(%address, epoch = epoch.0, tls = self.config.uses_tls(), "the scheduler serves");
        Ok(Running {
            address,
            metrics_address: None,
            handle,
            tokens: self.tokens.clone(),
            authority_pem: self.authority.pem().to_owned(),
            journal: journal_dir(&self.config),
            metrics: self.metrics.clone(),
            stop,
            ended,
            serving,
            estimator,
            follower,
            writer,
        })
    }
}

/// The owner of the cluster runs on a thread of its own: nothing else takes its time.
fn spawn(pump: Pump) -> Result<oneshot::Receiver<Stopped>, StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(StartError::Thread)?;
    let (ended, end) = oneshot::channel();
    let run = move || {
        let (stopped, leader) = runtime.block_on(pump.run());
        if !matches!(stopped, Stopped::Asked) {
            tracing::error!(why = %stopped, "the scheduler has stopped leading");
        }
        drop(ended.send(stopped)); // nobody waits when the process ends
        drop(leader);
    };
    std::thread::Builder::new().name("cluster".to_owned()).spawn(run).map_err(StartError::Thread)?;
    Ok(end)
}

/// Nothing may be submitted before this is durable. The floor rises with each restore, so that two restores of the same
/// backup leave gaps of different lengths, and give no id twice.
fn skip_ids(
    handle: &Handle,
    restore_floor: Epoch,
) -> Result<impl Future<Output = Result<((), Position), CallError>> + use<>, StartError> {
    let skip = skipped_ids(restore_floor);
    tracing::warn!(?skip, "the journal was restored: ids go on after a gap");
    let skip = handle.ask(Caller::scheduler("restore"), skip, None, Vec::new(), |_, _| ());
    skip.map_err(|err| StartError::Stopped(err.to_string()))
}

/// What is left out after a restore: agents may hold leases of jobs that were submitted after the backup, and of attempts
/// that were begun; an id means one job, and one attempt of it, for ever.
pub fn skipped_ids(restore_floor: Epoch) -> Input {
    let restores = restore_floor.0 / EPOCH_JUMP + 1;
    let attempts = u32::try_from(restores).unwrap_or(u32::MAX).saturating_mul(SKIPPED_ATTEMPTS);
    Input::SkipIds { jobs: SKIPPED_JOBS + restore_floor.0, attempts }
}

/// Defines the pools and tenants of the configuration that the journal does not know. What it knows stays as it is: the
/// quotas that were set at run time are the truth.
async fn configure(handle: &Handle, unknown: Vec<Input>) -> Result<(), StartError> {
    let stopped = |err: CallError| StartError::Stopped(err.to_string());
    for input in unknown {
        let what = match &input {
            Input::SetTenant(draft) => format!("tenant {:?}", draft.name),
            Input::DefinePool { name, .. } => format!("pool {name:?}"),
            other => format!("{other:?}"),
        };
        match handle.mutate(Caller::scheduler("configuration"), input, None, Vec::new(), |_, _| ()).await {
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
