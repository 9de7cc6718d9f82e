//! The agent's loop: orders and local facts in, a turn, effects out.
//!
//! Comes in: the stream's events, facts of the launcher and of the store, time. Goes out: what the turn asks for.
//! One task owns the agent; nothing here decides. At the end of the agent the members run on: their shims keep them.
//! This part must never wait inside a turn: disks have a thread, launchers have tasks, a full stream loses heartbeats
//! first and reports never, because the core sends them again.

mod pump;
mod store;

use std::{
    collections::{HashMap, VecDeque},
    fs, io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::{sync::mpsc, task::JoinHandle, time::sleep};
use tracing::{info, warn};

use self::{pump::Pump, store::Writer};
use crate::{
    config::{AgentConfig, ConfigError, GpuSource, LauncherKind},
    durable,
    inventory::{Gpus, InventoryError},
    isolation::{Isolation, IsolationError},
    launch::{
        ContainersConfig, Launcher, MAX_FACTS, ProcessLauncher, ProcessSettings, SimulatedLauncher,
        process::DEFAULT_LOG_LIMIT_BYTES,
    },
    leases::{DiskStore, LeaseStore, MemoryStore, StoreError},
    session::{MAX_INCOMING, Session, Ways},
    steps,
    turn::{Agent, Identity},
};

/// Between heartbeats, until the scheduler says otherwise, in milliseconds.
pub const DEFAULT_HEARTBEAT_MS: u64 = 1_000;

/// How long an agent waits for the one before it to let go of the state folder: one that was killed is gone before its
/// children have started their programs, and a restart comes at once.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// Pause between two tries.
const LOCK_RETRY: Duration = Duration::from_millis(10);

/// Why an agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Fix the configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Fix the driver, or say that there is none.
    #[error(transparent)]
    Inventory(#[from] InventoryError),
    /// Fix the node, or ask for less.
    #[error(transparent)]
    Isolation(#[from] IsolationError),
    /// Fix the disk.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something that the agent needs of its node is not there.
    #[error("{what}: {source}")]
    Node {
        /// What.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// Two agents on one state folder would both speak for its members.
    #[error("state_dir = {0}: another agent is using it; stop that one or name another folder")]
    InUse(PathBuf),
}

fn node_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> AgentError {
    move |source| AgentError::Node { what: what.into(), source }
}

/// Runs one agent until `shutdown` is ready. Members outlive it; the next agent on the same state folder finds them.
///
/// Many agents may run in one process, each with its own state folder.
///
/// # Errors
/// All errors come before the first connection; from then on the agent goes on whatever happens.
pub async fn run(config: AgentConfig, shutdown: impl Future<Output = ()>) -> Result<(), AgentError> {
    config.check()?;
    let mut config = config;
    let on_disk = config.launcher == LauncherKind::Process;
    let lock = if on_disk { Some(take_state_dir(&mut config).await?) } else { None };
    let boot_id = boot_id(&config)?;
    let gpus = Gpus::find(&config, &boot_id).await?;
    let store: Arc<dyn LeaseStore> =
        if on_disk { Arc::new(DiskStore::open(&config.state_dir)?) } else { Arc::new(MemoryStore::default()) };
    let stored = store.load()?;
    if on_disk {
        let leased =
            stored.leases.iter().filter_map(|lease| lease.launch.as_ref()).flat_map(|launch| launch.gpus.clone());
        let shim = config.shim_command().map_err(node_error("the path of this program"))?;
        gpus.check_node(&config, shim, leased.collect()).await;
    }
    let isolation = match config.launcher {
        LauncherKind::Process => Isolation::find(&config.isolation, &config.state_dir, gpus.facts())?,
        LauncherKind::Simulated => Isolation::off(&config.state_dir),
    };
    for words in isolation.weaker() {
        warn!(node = config.node, lacking = words, "members are kept apart less than configured");
    }
    let (facts, facts_in) = mpsc::channel(MAX_FACTS);
    let mut process = None;
    let launcher: Box<dyn Launcher> = match config.launcher {
        LauncherKind::Simulated => Box::new(SimulatedLauncher::new(facts)),
        LauncherKind::Process => {
            let settings = process_settings(&config, &gpus, &boot_id, &isolation)?;
            process = Some(Arc::new(settings.clone()));
            Box::new(ProcessLauncher::new(settings, facts))
        }
    };
    info!(node = config.node, gpus = gpus.facts().len(), leases = stored.leases.len(), "agent starts");
    let identity = Identity {
        node: config.node.clone(),
        boot_id,
        heartbeat_ms: config.heartbeat_ms.unwrap_or(DEFAULT_HEARTBEAT_MS),
        heartbeat_is_fixed: config.heartbeat_ms.is_some(),
    };
    let (agent, adoptions) = Agent::recover(identity, stored, random_u63());
    let (events, events_in) = mpsc::channel(MAX_INCOMING);
    let (hang_up, hang_ups) = mpsc::channel(1);
    let ways = Ways::default();
    let steps = process.clone().map(|settings| tokio::spawn(steps::serve(settings, ways.clone())));
    let session = tokio::spawn(Session::new(&config, events, hang_ups, ways)?.keep(config.clone()));
    let (writer, written) = Writer::start(store).map_err(node_error("the thread that writes leases"))?;
    let pump = Pump {
        config,
        agent,
        weaker_isolation: isolation.weaker().to_vec(),
        launcher,
        gpus,
        writer,
        hang_up,
        outgoing: None,
        log_reads: HashMap::new(),
        process,
        execs: HashMap::new(),
        started: Instant::now(),
        again: VecDeque::new(),
    };
    pump.turns(adoptions, events_in, facts_in, written, shutdown).await;
    session.abort();
    steps.iter().for_each(JoinHandle::abort);
    drop(lock);
    Ok(())
}

fn process_settings(
    config: &AgentConfig,
    gpus: &Gpus,
    boot_id: &str,
    isolation: &Isolation,
) -> Result<ProcessSettings, AgentError> {
    let is_fake = matches!(config.gpus, GpuSource::Fake { .. });
    let require_cdi = config.containers.require_cdi && !is_fake;
    let containers = ContainersConfig { require_cdi, ..config.containers.clone() };
    Ok(ProcessSettings {
        node: config.node.clone(),
        state_dir: config.state_dir.clone(),
        shim: config.shim_command().map_err(node_error("the path of this program"))?,
        boot_id: boot_id.to_owned(),
        gpu_uuids: gpus.facts().iter().map(|gpu| gpu.uuid.clone()).collect(),
        mig_instances: gpus.facts().iter().map(|gpu| gpu.mig_instances.clone()).collect(),
        gpu_memory_mib: gpus.facts().iter().map(|gpu| gpu.memory_mib).collect(),
        log_limit_bytes: config.log_limit_bytes.unwrap_or(DEFAULT_LOG_LIMIT_BYTES),
        isolation: isolation.clone(),
        network: config.network.clone(),
        hooks: config.hooks.clone(),
        containers,
    })
}

/// Makes the state folder, names it by its true path, and locks it.
async fn take_state_dir(config: &mut AgentConfig) -> Result<StateLock, AgentError> {
    let dir = config.state_dir.clone();
    durable::create_dir(&dir).map_err(node_error(dir.display().to_string()))?;
    config.state_dir = fs::canonicalize(&dir).map_err(node_error(dir.display().to_string()))?;
    lock_state_dir(config).await
}

/// The state folder is this agent's. Held as long as it lives; the kernel lets go of it however it ends.
struct StateLock(fs::File);

impl Drop for StateLock {
    fn drop(&mut self) {
        // Closing alone is not enough: a child between fork and exec still has the file, and with it the lock.
        if let Err(error) = self.0.unlock() {
            warn!(%error, "the state folder is unlocked only when every child has started its program");
        }
    }
}

/// Waits for an agent that is on its way out.
async fn lock_state_dir(config: &AgentConfig) -> Result<StateLock, AgentError> {
    let path = config.state_dir.join("agent.lock");
    let file = fs::File::options().create(true).append(true).open(&path);
    let file = file.map_err(node_error(path.display().to_string()))?;
    let give_up = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(StateLock(file)),
            Err(fs::TryLockError::WouldBlock) if Instant::now() < give_up => sleep(LOCK_RETRY).await,
            Err(fs::TryLockError::WouldBlock) => return Err(AgentError::InUse(config.state_dir.clone())),
            Err(fs::TryLockError::Error(err)) => return Err(node_error(path.display().to_string())(err)),
        }
    }
}

fn boot_id(config: &AgentConfig) -> Result<String, AgentError> {
    if let Some(boot_id) = &config.boot_id {
        return Ok(boot_id.clone());
    }
    let path = "/proc/sys/kernel/random/boot_id";
    fs::read_to_string(path).map(|text| text.trim().to_owned()).map_err(node_error(path))
}

/// A start for report ids that no earlier life of this agent has come near.
fn random_u63() -> u64 {
    let mut bytes = [0; 8];
    if getrandom::fill(&mut bytes).is_err() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        return now.as_micros().try_into().unwrap_or(1);
    }
    u64::from_le_bytes(bytes) >> 1
}
