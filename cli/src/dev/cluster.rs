//! The parts of a cluster in this process: one scheduler, an agent per node, tokens for its users.
//!
//! Comes in: what the cluster is to be. Goes out: clients of it, and its end. Agents speak to the scheduler over real
//! gRPC streams, as they would from other nodes. This part must never listen on anything but loopback.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use dure_agent::{
    AgentConfig,
    config::{GpuSource, LauncherKind, Location},
    isolation::{IsolationMode, RunAs},
};
use dure_proto::v1::{CancelRequest, ListJobsRequest, ListNodesRequest, PageRequest};
use dure_scheduler::{
    Config, Running,
    auth::{Credential, Identity, NodeName, Role, Tokens, token::TokenDigest},
    config::TlsConfig,
    start_with,
};
use tokio::{
    sync::{Mutex, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    MODEL,
    session::{Session, Speaker},
};
use crate::{
    context::{Bearer, bearer, endpoint},
    failure::{Failure, root},
    phase,
    roam::Roam,
};

/// All nodes must have joined by then.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// Parts that have not stopped by then are left to the end of the process.
pub(crate) const STOP_WITHIN: Duration = Duration::from_secs(10);
/// How often the nodes are looked at while they join.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Memory of a fake GPU.
const GPU_MEMORY_MIB: u64 = 143_771;
/// Nodes under one leaf.
const NODES_PER_LEAF: u32 = 32;
/// The operator of the cluster, for its own calls.
const OPERATOR: &str = "dev";

/// How members run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Launcher {
    /// As processes, with fake NVML.
    Process,
    /// As timers.
    Simulated,
}

/// What a cluster is to be.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// Configuration of the scheduler, as in its file.
    pub(crate) config: String,
    /// Where it listens; port 0: any free one.
    pub(crate) listen: SocketAddr,
    /// Where everything is kept.
    pub(crate) data_dir: PathBuf,
    /// How many nodes.
    pub(crate) nodes: u32,
    /// GPUs of each.
    pub(crate) gpus: u32,
    /// How members run.
    pub(crate) launcher: Launcher,
    /// Members are kept apart as far as this node can: in cgroups, with their own GPUs' devices only.
    pub(crate) isolated: bool,
    /// Who submits.
    pub(crate) users: BTreeSet<Speaker>,
    /// Speak TLS, with certificates of the cluster's own authority.
    pub(crate) tls: bool,
}

/// A cluster that runs.
pub(crate) struct Cluster {
    server: String,
    authority: Option<Vec<u8>>,
    session: Session,
    operator: Bearer,
    users: BTreeMap<Speaker, Bearer>,
    nodes: u32,
    scheduler: Mutex<Running>,
    agents: Mutex<JoinSet<Result<(), String>>>,
    stop_agents: watch::Sender<bool>,
}

/// The name of a node, by its number.
pub(crate) fn node_name(number: u32) -> String {
    format!("n{number}")
}

/// The folder of the scheduler inside the data folder.
pub(crate) fn scheduler_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("scheduler")
}

fn failed(err: impl std::fmt::Display) -> Failure {
    Failure::Failed(err.to_string())
}

fn identity(user: &str, role: Role, missions: Vec<Box<str>>, node: Option<NodeName>) -> Identity {
    let credential = Credential::Token { digest: TokenDigest([0; 32]), one_time: false };
    Identity { user: user.into(), role, missions, node, credential }
}

fn add(tokens: &Tokens, identity: Identity) -> Result<String, Failure> {
    tokens.add(identity).map_err(failed)
}

impl Cluster {
    /// Starts all parts; agents join in their own time.
    pub(crate) async fn start(spec: Spec) -> Result<Self, Failure> {
        if !spec.listen.ip().is_loopback() {
            let why = "dure dev lets everybody in: it listens on loopback addresses only";
            return Err(Failure::Usage(format!("--listen {}: {why}", spec.listen)));
        }
        let dir = scheduler_dir(&spec.data_dir);
        let mut config = Config::parse(Path::new("the configuration of dure dev"), &spec.config).map_err(failed)?;
        // One user is all the load of a demo, a replay, a bench.
        config.limits.calls_per_second = 0;
        config.listen = spec.listen;
        config.data_dir = dir;
        config.tokens = None;
        config.tls = spec.tls.then(TlsConfig::default);
        // Several of these may run beside each other.
        config.metrics_listen = config.metrics_listen.filter(|_| spec.listen.port() != 0);
        let tokens = Tokens::in_memory();
        let operator = bearer(&add(&tokens, identity(OPERATOR, Role::Operator, Vec::new(), None))?).map_err(failed)?;
        let mut users = BTreeMap::new();
        for (mission, user) in &spec.users {
            let member = identity(user, Role::Member, vec![mission.as_str().into()], None);
            users.insert((mission.clone(), user.clone()), bearer(&add(&tokens, member)?).map_err(failed)?);
        }
        let agents_token = add(&tokens, identity("agents", Role::Agent, Vec::new(), Some(NodeName::parse("*"))))?;
        let scheduler = start_with(config, tokens).await.map_err(failed)?;
        let scheme = if spec.tls { "https" } else { "http" };
        let server = format!("{scheme}://{}", scheduler.address);
        let authority = spec.tls.then(|| scheduler.authority_pem.clone().into_bytes());
        let channel = connect(&server, authority.as_deref()).await?;
        let session = Session::new(server.clone(), channel, operator.clone(), users.clone());
        let (stop_agents, stopping) = watch::channel(false);
        let agents = start_agents(&spec, &server, &agents_token, authority.as_deref(), &stopping)?;
        let (scheduler, agents, nodes) = (Mutex::new(scheduler), Mutex::new(agents), spec.nodes);
        Ok(Self { server, authority, session, operator, users, nodes, scheduler, agents, stop_agents })
    }

    /// Where it listens.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    /// Its users.
    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    /// Its users on a connection of their own.
    pub(crate) async fn another_session(&self) -> Result<Session, Failure> {
        let channel = connect(&self.server, self.authority.as_deref()).await?;
        Ok(Session::new(self.server.clone(), channel, self.operator.clone(), self.users.clone()))
    }

    /// What the scheduler measures, as Prometheus reads it.
    pub(crate) async fn metrics(&self) -> String {
        self.scheduler.lock().await.metrics.text()
    }

    /// The folder of its journal.
    pub(crate) async fn journal(&self) -> PathBuf {
        self.scheduler.lock().await.journal.clone()
    }

    /// Until every node has joined.
    pub(crate) async fn ready(&self) -> Result<(), Failure> {
        let started = Instant::now();
        loop {
            let joined = self.joined().await?;
            if joined >= self.nodes {
                return Ok(());
            }
            if let Some(why) = self.ended_agent().await {
                return Err(Failure::Failed(format!("an agent did not start: {why}")));
            }
            if started.elapsed() > READY_WITHIN {
                let secs = READY_WITHIN.as_secs();
                return Err(Failure::Failed(format!("{joined} of {} nodes joined within {secs} s", self.nodes)));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn joined(&self) -> Result<u32, Failure> {
        let (mut count, mut page_token) = (0, String::new());
        loop {
            let page = Some(PageRequest { page_size: 1_000, page_token });
            let request = ListNodesRequest { page, ..ListNodesRequest::default() };
            let answer =
                self.session.nodes().list(request).await.map_err(|status| self.session.refused(status))?.into_inner();
            count += answer.nodes.iter().filter(|node| node.connected).count();
            page_token = answer.next_page_token;
            if page_token.is_empty() {
                return Ok(u32::try_from(count).unwrap_or(u32::MAX));
            }
        }
    }

    /// Why an agent has ended, if one has.
    async fn ended_agent(&self) -> Option<String> {
        let ended = self.agents.lock().await.try_join_next()?;
        Some(ended.map_err(|err| err.to_string()).and_then(|done| done).err().unwrap_or_else(|| "it ended".to_owned()))
    }

    /// Cancels everything and waits a moment for it to end; what cannot be ended is said.
    pub(crate) async fn end_jobs(&self) {
        let ended = timeout(STOP_WITHIN, async {
            while let Some(jobs) = self.live_jobs().await? {
                for job_id in jobs {
                    let cancel = CancelRequest { request_id: String::new(), job_id };
                    // One that has ended meanwhile needs no cancelling.
                    let _ = self.session.jobs().cancel(cancel).await;
                }
                sleep(LOOK_EVERY).await;
            }
            Ok::<_, Failure>(())
        });
        match ended.await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => tracing::warn!("jobs could not be cancelled: {}", failure.text()),
            Err(_) => tracing::warn!("some jobs did not end in time; their processes may run on"),
        }
    }

    /// Ids of jobs that have not ended, a page of them; none when all have.
    async fn live_jobs(&self) -> Result<Option<Vec<u64>>, Failure> {
        let live = phase::ALL.into_iter().filter(|phase| !phase::ended(*phase));
        let phases: Vec<i32> = live.map(i32::from).collect();
        let mut page_token = String::new();
        loop {
            let page = Some(PageRequest { page_size: 1_000, page_token });
            let request = ListJobsRequest { page, phases: phases.clone(), ..ListJobsRequest::default() };
            let answer = self.session.jobs().list(request).await.map_err(|status| self.session.refused(status))?;
            let answer = answer.into_inner();
            if !answer.jobs.is_empty() {
                return Ok(Some(answer.jobs.iter().map(|job| job.id).collect()));
            }
            if answer.next_page_token.is_empty() {
                return Ok(None);
            }
            page_token = answer.next_page_token;
        }
    }

    /// Until the scheduler ends by itself.
    pub(crate) async fn failed(&self) -> Failure {
        Failure::Failed(format!("the scheduler ended: {}", self.scheduler.lock().await.ended().await))
    }

    /// Stops everything in order: agents first, then the scheduler.
    pub(crate) async fn stop(self) -> Result<(), Failure> {
        // No agent listens any more when all have ended by themselves.
        let _ = self.stop_agents.send(true);
        let mut agents = self.agents.into_inner();
        let all = async { while agents.join_next().await.is_some() {} };
        if timeout(STOP_WITHIN, all).await.is_err() {
            tracing::warn!("agents did not stop in time");
        }
        timeout(STOP_WITHIN, self.scheduler.into_inner().stop())
            .await
            .map_err(|_| Failure::Failed(format!("the scheduler did not stop within {} s", STOP_WITHIN.as_secs())))
    }
}

async fn connect(server: &str, authority: Option<&[u8]>) -> Result<Roam, Failure> {
    let unreachable =
        |err: tonic::transport::Error| Failure::Unreachable { server: server.to_owned(), why: root(&err) };
    endpoint(server, authority)?.connect().await.map(Roam::on).map_err(unreachable)
}

/// One task per agent; each has a folder of its own.
fn start_agents(
    spec: &Spec,
    server: &str,
    token: &str,
    authority: Option<&[u8]>,
    stopping: &watch::Receiver<bool>,
) -> Result<JoinSet<Result<(), String>>, Failure> {
    let dir = spec.data_dir.join("agents");
    std::fs::create_dir_all(&dir)?;
    let token_file = dir.join("token");
    write_secret(&token_file, token)?;
    let ca = authority.map(|pem| {
        let path = dir.join("authority.pem");
        std::fs::write(&path, pem).map(|()| path)
    });
    let ca = ca.transpose()?;
    let mut agents = JoinSet::new();
    for number in 0..spec.nodes {
        let name = node_name(number);
        let mut config = AgentConfig::new(&name, server, dir.join(&name));
        config.token_file = Some(token_file.clone());
        config.ca = ca.clone();
        config.address = Some("127.0.0.1".to_owned());
        // A try-out: processes of this user, who see the files of this user, on nodes that share this one's CPUs.
        config.isolation.mode = if spec.isolated { IsolationMode::Auto } else { IsolationMode::Off };
        config.isolation.run_as = RunAs::Agent;
        (config.isolation.private_tmp, config.isolation.pin_cpus) = (false, false);
        config.location = Location { leaf: format!("leaf-{}", number / NODES_PER_LEAF), ..Location::default() };
        (config.launcher, config.gpus) = match spec.launcher {
            Launcher::Process => {
                let conf = format!("seed {name}\ngpus {} model=\"{MODEL}\" memory_mib={GPU_MEMORY_MIB}\n", spec.gpus);
                (LauncherKind::Process, GpuSource::Fake { conf })
            }
            Launcher::Simulated => {
                // Timers end with this process: what ran before it is dead. Processes outlive it, by the kernel's boot.
                config.boot_id = Some(format!("dev-{}-{number}", std::process::id()));
                let (count, model) = (spec.gpus, MODEL.to_owned());
                (LauncherKind::Simulated, GpuSource::Simulated { count, model, memory_mib: GPU_MEMORY_MIB })
            }
        };
        let mut stopping = stopping.clone();
        agents.spawn(async move {
            // A sender that is gone means the same as its word.
            let told = async move { drop(stopping.wait_for(|stop| *stop).await) };
            dure_agent::run(config, told).await.map_err(|err| format!("{name}: {err}"))
        });
    }
    Ok(agents)
}

/// Writes a file that only its owner can read.
fn write_secret(path: &Path, secret: &str) -> Result<(), Failure> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(secret.as_bytes()).map_err(Failure::from)
}
