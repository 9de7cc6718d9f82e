//! The agent's loop: orders and local facts in, the core, actions out.
//!
//! Comes in: the stream's events, facts of the launcher and of the store, time. Goes out: what the core asks for.
//! One task owns the core; nothing here decides. At the end of the agent the members run on: their shims keep them.
//! This part must never wait inside a turn: disks have a thread, launchers have tasks, a full stream loses heartbeats
//! first and reports never, because the core sends them again.

mod store;
mod telemetry;

use std::{
    collections::{HashMap, VecDeque},
    fs, io,
    path::PathBuf,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use dure_proto::v1::{AgentMessage, Heartbeat, Hello, LogRead, SchedulerMessage, agent_message, scheduler_message};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, interval_at},
};
use tracing::{debug, error, info, warn};

use self::{store::Writer, telemetry::Changes};
use crate::{
    config::{AgentConfig, ConfigError, LauncherKind},
    convert, durable,
    inventory::{self, Gpus, InventoryError},
    launch::{
        Launcher, MAX_FACTS, ProcessLauncher, ProcessSettings, SimulatedLauncher, process::DEFAULT_LOG_LIMIT_BYTES,
    },
    leases::{DiskStore, LeaseStore, MemoryStore, StoreError},
    logs,
    model::{Millis, Report},
    reconcile::{Action, Input, Leases, Note},
    session::{MAX_INCOMING, Session, SessionEvent},
};

/// Between heartbeats, until the scheduler says otherwise, in milliseconds.
pub const DEFAULT_HEARTBEAT_MS: u64 = 1_000;
/// How often the core is told that time passes.
const TICK: Duration = Duration::from_secs(1);

/// Why an agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Fix the configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Fix the driver, or say that there is none.
    #[error(transparent)]
    Inventory(#[from] InventoryError),
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
    let dir = config.state_dir.clone();
    let on_disk = config.launcher == LauncherKind::Process;
    let mut lock = None;
    if on_disk {
        durable::create_dir(&dir).map_err(node_error(dir.display().to_string()))?;
        config.state_dir = fs::canonicalize(&dir).map_err(node_error(dir.display().to_string()))?;
        lock = Some(lock_state_dir(&config)?);
    }
    let gpus = Gpus::find(&config).await?;
    let (facts, facts_in) = mpsc::channel(MAX_FACTS);
    let boot_id = boot_id(&config)?;
    let store: Arc<dyn LeaseStore> =
        if on_disk { Arc::new(DiskStore::open(&config.state_dir)?) } else { Arc::new(MemoryStore::default()) };
    let launcher: Box<dyn Launcher> = match config.launcher {
        LauncherKind::Simulated => Box::new(SimulatedLauncher::new(facts)),
        LauncherKind::Process => Box::new(ProcessLauncher::new(process_settings(&config, &gpus, &boot_id)?, facts)),
    };
    let stored = store.load()?;
    info!(node = config.node, gpus = gpus.facts().len(), leases = stored.leases.len(), "agent starts");
    let (leases, adoptions) = Leases::recover(boot_id.clone(), stored.mark, stored.leases, random_u63());
    let (events, events_in) = mpsc::channel(MAX_INCOMING);
    let (hang_up, hang_ups) = mpsc::channel(1);
    let session = tokio::spawn(Session::new(&config, events, hang_ups)?.keep(config.clone()));
    let (writer, written) = Writer::start(store).map_err(node_error("the thread that writes leases"))?;
    let heartbeat_ms = config.heartbeat_ms.unwrap_or(DEFAULT_HEARTBEAT_MS);
    let agent = Agent {
        config,
        boot_id,
        leases,
        launcher,
        gpus,
        writer,
        hang_up,
        outgoing: None,
        welcomed: false,
        heartbeat_ms,
        heartbeats: 0,
        changes: Changes::default(),
        log_reads: HashMap::new(),
        started: Instant::now(),
        again: VecDeque::new(),
    };
    agent.turns(adoptions, events_in, facts_in, written, shutdown).await;
    session.abort();
    drop(lock);
    Ok(())
}

fn process_settings(config: &AgentConfig, gpus: &Gpus, boot_id: &str) -> Result<ProcessSettings, AgentError> {
    Ok(ProcessSettings {
        node: config.node.clone(),
        state_dir: config.state_dir.clone(),
        shim: config.shim_command().map_err(node_error("the path of this program"))?,
        boot_id: boot_id.to_owned(),
        gpu_uuids: gpus.facts().iter().map(|gpu| gpu.uuid.clone()).collect(),
        log_limit_bytes: config.log_limit_bytes.unwrap_or(DEFAULT_LOG_LIMIT_BYTES),
        cgroup_root: config.cgroup_root.clone(),
    })
}

/// Held as long as the agent lives; the kernel lets go of it however it ends.
fn lock_state_dir(config: &AgentConfig) -> Result<fs::File, AgentError> {
    let path = config.state_dir.join("agent.lock");
    let file = fs::File::options().create(true).append(true).open(&path);
    let file = file.map_err(node_error(path.display().to_string()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(AgentError::InUse(config.state_dir.clone())),
        Err(fs::TryLockError::Error(err)) => Err(node_error(path.display().to_string())(err)),
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

struct Agent {
    config: AgentConfig,
    boot_id: String,
    leases: Leases,
    launcher: Box<dyn Launcher>,
    gpus: Gpus,
    writer: Writer,
    hang_up: mpsc::Sender<()>,
    outgoing: Option<mpsc::Sender<AgentMessage>>,
    welcomed: bool,
    heartbeat_ms: u64,
    heartbeats: u64,
    changes: Changes,
    log_reads: HashMap<u64, JoinHandle<()>>,
    started: Instant,
    /// Facts that an action brought about at once; handled before the turn ends.
    again: VecDeque<Input>,
}

impl Agent {
    async fn turns(
        mut self,
        adoptions: Vec<Action>,
        mut events: mpsc::Receiver<SessionEvent>,
        mut facts: mpsc::Receiver<Input>,
        mut written: mpsc::Receiver<Input>,
        shutdown: impl Future<Output = ()>,
    ) {
        self.perform(adoptions);
        self.settle();
        let mut shutdown = pin!(shutdown);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heartbeat = self.heartbeat_interval();
        loop {
            let period = self.heartbeat_ms;
            tokio::select! {
                () = &mut shutdown => return self.end(),
                Some(event) = events.recv() => self.session(event),
                Some(fact) = facts.recv() => self.input(fact),
                Some(done) = written.recv() => self.input(done),
                _ = tick.tick() => self.input(Input::Tick),
                _ = heartbeat.tick() => self.heartbeat(),
            }
            if self.heartbeat_ms != period {
                heartbeat = self.heartbeat_interval();
            }
        }
    }

    fn heartbeat_interval(&self) -> tokio::time::Interval {
        let period = Duration::from_millis(self.heartbeat_ms.max(1));
        let mut heartbeat = interval_at(tokio::time::Instant::now() + period, period);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        heartbeat
    }

    fn end(self) {
        self.log_reads.values().for_each(JoinHandle::abort);
        info!(node = self.config.node, leases = self.leases.len(), "agent ends; its members run on");
    }

    /// One turn of the core, with everything that follows from it at once.
    fn input(&mut self, input: Input) {
        self.again.push_back(input);
        self.settle();
    }

    fn settle(&mut self) {
        while let Some(input) = self.again.pop_front() {
            let now = Millis(self.started.elapsed().as_millis().try_into().unwrap_or(u64::MAX));
            let actions = self.leases.handle(now, input);
            self.perform(actions);
        }
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::PersistEpoch(_) | Action::WriteLease { .. } => self.again.extend(self.writer.write(action)),
                Action::RemoveLease(id) => {
                    self.launcher.forget(id);
                    self.again.extend(self.writer.write(Action::RemoveLease(id)));
                }
                Action::StartShim { id, launch } => self.launcher.start(id, launch),
                Action::Adopt { id, same_boot, seal } => self.launcher.adopt(id, same_boot, seal),
                Action::Stop { id, request } => self.launcher.stop(id, request),
                Action::Send(report) => self.report(&report),
                Action::HangUp(why) => {
                    error!(node = self.config.node, why, "hanging up");
                    self.hang_up();
                }
                Action::Note(note) => self.note(&note),
            }
        }
    }

    fn note(&self, note: &Note) {
        let node = &self.config.node;
        match note {
            Note::EpochRefused { got, highest } => {
                let (epoch, highest) = (got.0, highest.0);
                warn!(node, epoch, highest, "a scheduler of an older epoch is not obeyed");
            }
            Note::OrderRepeated(id) => debug!(node, member = %id, "order was obeyed before"),
            Note::Quarantined(id) => warn!(node, member = %id, "the scheduler does not know this lease: left alone"),
            Note::TooManyLeases(id) => error!(node, member = %id, "too many leases: the order is not obeyed"),
            Note::WriteFailed(id, error) => error!(node, member = %id, error, "a lease could not be written"),
        }
    }

    fn hang_up(&mut self) {
        self.outgoing = None;
        self.welcomed = false;
        // One hang-up waits already when this is full.
        let _ = self.hang_up.try_send(());
    }

    fn send(&mut self, kind: agent_message::Kind) -> bool {
        let message = AgentMessage { kind: Some(kind) };
        self.outgoing.as_ref().is_some_and(|outgoing| outgoing.try_send(message).is_ok())
    }

    fn report(&mut self, report: &Report) {
        if self.welcomed {
            self.send(agent_message::Kind::Report(convert::report_to_wire(report)));
        }
    }

    fn session(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Open(outgoing) => {
                self.outgoing = Some(outgoing);
                self.welcomed = false;
                let hello = self.hello();
                self.send(agent_message::Kind::Hello(hello));
            }
            SessionEvent::Closed(why) => {
                if self.welcomed {
                    warn!(node = self.config.node, why, "the scheduler is gone");
                } else {
                    debug!(node = self.config.node, why, "no session");
                }
                self.outgoing = None;
                self.welcomed = false;
                self.log_reads.drain().for_each(|(_, read)| read.abort());
            }
            SessionEvent::Message(message) => self.message(*message),
        }
    }

    fn hello(&self) -> Hello {
        let mark = self.leases.mark();
        Hello {
            node: self.config.node.clone(),
            boot_id: self.boot_id.clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            inventory: Some(inventory::to_wire(&self.config, &self.gpus)),
            leases: self.leases.view().into_iter().map(convert::lease_to_wire).collect(),
            highest_epoch: mark.epoch.0,
            highest_seq: mark.seq.0,
            store_id: mark.store_id,
        }
    }

    fn message(&mut self, message: SchedulerMessage) {
        // The welcome comes first; what comes without one belongs to a stream that was hung up.
        if !self.welcomed && !matches!(message.kind, Some(scheduler_message::Kind::Welcome(_))) {
            return;
        }
        let input = match message.kind {
            Some(scheduler_message::Kind::Welcome(welcome)) => {
                if self.config.heartbeat_ms.is_none() && welcome.heartbeat_ms > 0 {
                    self.heartbeat_ms = u64::from(welcome.heartbeat_ms);
                }
                self.welcomed = true;
                self.changes = Changes::default();
                info!(node = self.config.node, epoch = welcome.epoch, "session with the scheduler");
                convert::welcome_from_wire(welcome).map(Input::Welcome)
            }
            Some(scheduler_message::Kind::Order(order)) => convert::order_from_wire(order).map(Input::Order),
            Some(scheduler_message::Kind::ReportAck(ack)) => Ok(Input::Acked(ack.report_ids)),
            Some(scheduler_message::Kind::LogRead(read)) => return self.read_log(read),
            Some(scheduler_message::Kind::LogStop(stop)) => {
                if let Some(read) = self.log_reads.remove(&stop.read_id) {
                    read.abort();
                }
                return;
            }
            // The session has acted on it; an unknown kind is of a newer version and asks nothing of this one.
            Some(scheduler_message::Kind::Refusal(_)) | None => return,
        };
        match input {
            Ok(input) => self.input(input),
            Err(err) => error!(node = self.config.node, error = %err, "an order that cannot be read"),
        }
    }

    fn heartbeat(&mut self) {
        if !self.welcomed {
            return;
        }
        let busy: Vec<u32> = self.leases.busy_gpus().collect();
        let sample = self.gpus.sample(&busy);
        let health_changes = self.changes.since_last(self.gpus.facts(), &sample);
        self.heartbeats += 1;
        let telemetry = Some(inventory::telemetry(&sample));
        let heartbeat = Heartbeat { number: self.heartbeats, telemetry, health_changes };
        if !self.send(agent_message::Kind::Heartbeat(heartbeat)) {
            // What this one would have told must be told by the next.
            self.changes = Changes::default();
        }
    }

    fn read_log(&mut self, read: LogRead) {
        let Some(outgoing) = self.outgoing.clone() else { return };
        self.log_reads.retain(|_, read| !read.is_finished());
        let refusal = if self.config.launcher == LauncherKind::Simulated {
            Some("a simulated member writes no log")
        } else if self.log_reads.len() >= logs::MAX_LOG_READS {
            Some("this node serves as many log readers as it may: try again when one has ended")
        } else {
            None
        };
        if let Some(why) = refusal {
            // A reader that hears nothing asks again.
            let _ = outgoing.try_send(logs::refusal(read.read_id, why));
            return;
        }
        let id = read.read_id;
        let reading = tokio::spawn(logs::read(self.config.state_dir.clone(), read, outgoing));
        if let Some(earlier) = self.log_reads.insert(id, reading) {
            earlier.abort();
        }
    }
}
