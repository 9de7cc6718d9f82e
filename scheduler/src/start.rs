//! Starts a scheduler: journal, recovery, follower, the owner of the cluster, and the servers around them; and stops it.

mod ahead;
mod error;
mod opened;
mod owner;
mod restored;
mod served;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dure_core::node::Location;
use tokio::sync::{oneshot, watch};

use self::ahead::{estimator, forecasts};
pub use self::error::StartError;
pub(crate) use self::opened::{Opened, follower_config, keeping};
use self::opened::{journal_dir, open};
use self::owner::Owner;
pub use self::restored::skipped_ids;
pub(crate) use self::served::Served;
use self::served::{listen, server_tls};
use crate::agents::logs::LogDesk;
use crate::agents::session::AgentService;
use crate::auth::ca::Authority;
use crate::auth::{Authenticator, Guard, Tokens};
use crate::config::Config;
use crate::fence;
use crate::follower::{Follower, Following};
use crate::forecast::Estimator;
use crate::grpc::join::Joiner;
use crate::grpc::seat::Seat;
use crate::grpc::server::{self, Services};
use crate::grpc::steps::Steps;
use crate::handle::Handle;
use crate::history::Refusals;
use crate::journal::{Head, JournalWriter};
use crate::leadership::Seen;
use crate::metrics::{self, Metrics};
use crate::past::JournalPast;
use crate::run::Stopped;
use crate::standby::took::Took;

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
        (&mut self.ended).await.unwrap_or(Stopped::Failed)
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
        let Owner { handle, clock, epoch, watchers, messages, reader, stop, ended, follower, writer } =
            Owner::begin(self, opened, took).await?;
        let forecasts = forecasts(&self.config, follower.feed(), reader.reopen()?, clock, epoch);
        let estimator = estimator(&self.config, &forecasts)?;
        took.step("forecasts");
        let desk = LogDesk::default();
        let services = Services {
            handle: handle.clone(),
            clock,
            watchers,
            past: Arc::new(JournalPast::new(reader.reopen()?)),
            history: self.config.data_dir.clone(),
            blobs: Arc::new(Mutex::new(reader)),
            logs: Arc::new(desk.clone()),
            steps: Steps::default(),
            forecasts,
            seat: seat(epoch.0),
        };
        let joiner = Arc::new(Joiner::new(self.authority.clone(), self.tokens.clone()));
        let agents = AgentService { messages, desk, joiner, next_session: Arc::new(AtomicU64::new(0)), leader };
        let (tls, guard, stopping) = (server_tls(&self.config, &self.authority)?, self.guard(), stop.subscribe());
        let serving =
            Served::start(listener, |listener| server::serve(services, agents, guard, listener, tls, until(stopping)))?;
        self.keep(&handle, &stop);
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

    /// What goes on beside the owner until the word to stop.
    fn keep(&self, handle: &Handle, stop: &watch::Sender<bool>) {
        if self.config.etcd.is_none() && self.config.journal.reserve_mib > 0 {
            let (dir, reserve) = (journal_dir(&self.config), self.config.journal.reserve_mib << 20);
            tokio::spawn(handle.room().clone().watch(dir, reserve, until(stop.subscribe())));
        }
        if let Some(fence) = self.config.fence.clone() {
            tokio::spawn(fence::keep(fence, handle.clone(), stop.subscribe()));
        }
    }
}
