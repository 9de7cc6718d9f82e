//! A cluster of real processes.
//!
//! In: a `Setup`. Out: its processes, which the test kills and starts again as it likes, and callers with tokens. Every
//! cluster has a loopback address of its own, so that a scheduler comes back on its old port and tests run side by side.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use dure_agent::AgentConfig;
use dure_agent::config::{GpuSource, Location};
use dure_agent::isolation::IsolationMode;
use dure_proto::v1::{ListNodesRequest, Node};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::client::{Bearer, Caller};
use crate::netns::Namespace;
use crate::process::{self, Process};
use crate::setup::{self, MODEL, Setup, Who};
use crate::wait::{LOOK_EVERY, PATIENCE, soon, until_some};

/// Clusters of this process so far.
static CLUSTERS: AtomicU32 = AtomicU32::new(0);

/// One node of the cluster.
#[derive(Debug)]
pub struct Agent {
    /// Its settings; what is changed here holds from the next start on.
    pub config: AgentConfig,
    /// What goes before its command: into a network namespace, say.
    enter: Vec<String>,
    process: Option<Process>,
}

/// Scheduler, agents, tokens, files.
#[derive(Debug)]
pub struct Cluster {
    binary: PathBuf,
    dir: TempDir,
    address: String,
    setup: Setup,
    tokens: BTreeMap<Who, String>,
    /// What goes before the scheduler's command.
    enter: Vec<String>,
    scheduler: Option<Process>,
    agents: Vec<Agent>,
}

/// 127.x.y.z, another one for every cluster on this node.
fn own_address() -> String {
    let pid = std::process::id();
    let number = CLUSTERS.fetch_add(1, Ordering::Relaxed) % 250 + 1;
    format!("127.{}.{}.{number}", 64 + (pid >> 8) % 128, pid & 0xff)
}

impl Cluster {
    /// Starts scheduler and agents, and waits until all have joined.
    pub async fn start(binary: &str, setup: Setup) -> Self {
        let mut cluster = Self::prepare(binary, setup);
        cluster.start_scheduler();
        cluster.serving().await;
        if !cluster.setup.tls {
            cluster.start_agents();
            cluster.ready().await;
        }
        cluster
    }

    /// Writes all files and starts nothing.
    ///
    /// # Panics
    /// When the files cannot be written.
    pub fn prepare(binary: &str, setup: Setup) -> Self {
        let dir = tempfile::Builder::new().prefix("dure-it-").tempdir().expect("a temporary folder");
        let address = setup.address.clone().unwrap_or_else(own_address);
        let tokens = setup::tokens(&dir.path().join("tokens.toml"));
        for (who, token) in &tokens {
            std::fs::write(dir.path().join(format!("{who:?}.token")), token).expect("a token file is written");
        }
        let scheme = if setup.tls { "https" } else { "http" };
        let agent = |number| {
            let name = format!("n{number}");
            let mut config =
                AgentConfig::new(&name, format!("{scheme}://{address}:7070"), dir.path().join("agents").join(&name));
            config.token_file = Some(dir.path().join("Agents.token"));
            config.address = Some("127.0.0.1".to_owned());
            // Plain processes of this user: tests look into their files, and try-outs need no accounts.
            config.isolation.mode = IsolationMode::Off;
            config.location = Location { leaf: format!("leaf-{}", number / 2), ..Location::default() };
            let conf =
                format!("seed {name}\ngpus {} model=\"{MODEL}\" memory_mib=143771\n{}\n", setup.gpus, setup.fake);
            config.gpus = GpuSource::Fake { conf };
            config.boot_id = Some("boot-1".to_owned());
            (config.cpu_milli, config.memory_mib) = (Some(64_000), Some(512 << 10));
            Agent { config, enter: Vec::new(), process: None }
        };
        let agents = (0..setup.nodes).map(agent).collect();
        let enter = Vec::new();
        let cluster = Self { binary: binary.into(), dir, address, setup, tokens, enter, scheduler: None, agents };
        let text = setup::scheduler_toml(&cluster.setup, &cluster.address, &cluster.data_dir());
        std::fs::write(cluster.path("scheduler.toml"), text).expect("the configuration is written");
        cluster
    }

    /// A path in the cluster's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The scheduler's folder.
    pub fn data_dir(&self) -> PathBuf {
        self.setup.data_dir.clone().unwrap_or_else(|| self.path("scheduler"))
    }

    /// The binary under test.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Where the scheduler is.
    pub fn server(&self) -> String {
        format!("{}://{}:7070", if self.setup.tls { "https" } else { "http" }, self.address)
    }

    /// Address and port of gRPC.
    pub fn socket(&self) -> String {
        format!("{}:7070", self.address)
    }

    /// Address and port of the metrics.
    pub fn metrics_socket(&self) -> String {
        format!("{}:7071", self.address)
    }

    /// The scheduler's metrics, as one page of text.
    ///
    /// # Panics
    /// When they do not come soon.
    pub async fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(self.metrics_socket()).await.expect("it listens");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.expect("sent");
        let mut text = String::new();
        soon("the page", stream.read_to_string(&mut text)).await.expect("it is text");
        text
    }

    /// The authority's certificate, where TLS is spoken.
    pub fn authority(&self) -> PathBuf {
        self.data_dir().join("ca").join("ca.crt")
    }

    /// Somebody's token.
    pub fn token(&self, who: Who) -> &str {
        &self.tokens[&who]
    }

    /// A connection that is made when it is needed, and made again after a restart.
    ///
    /// # Panics
    /// Over TLS, when the scheduler has not yet made its authority.
    pub fn channel(&self) -> Channel {
        self.endpoint(None).connect_lazy()
    }

    /// The way to the scheduler, with a certificate of the caller's own or without.
    ///
    /// # Panics
    /// Over TLS, when the scheduler has not yet made its authority.
    pub fn endpoint(&self, identity: Option<tonic::transport::Identity>) -> Endpoint {
        self.endpoint_of(&self.server(), identity)
    }

    /// The same, to another scheduler of the same authority.
    ///
    /// # Panics
    /// Over TLS, when the scheduler has not yet made its authority.
    pub fn endpoint_of(&self, server: &str, identity: Option<tonic::transport::Identity>) -> Endpoint {
        let endpoint = Endpoint::from_shared(server.to_owned()).expect("a good address");
        let endpoint = endpoint.connect_timeout(Duration::from_secs(5)).timeout(Duration::from_secs(30));
        if !self.setup.tls {
            return endpoint;
        }
        let pem = std::fs::read(self.authority()).expect("the authority is there once the scheduler serves");
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
        if let Some(identity) = identity {
            tls = tls.identity(identity);
        }
        endpoint.tls_config(tls).expect("good certificates")
    }

    /// A caller with a token.
    pub fn caller(&self, who: Who) -> Caller {
        Caller { channel: self.channel(), bearer: Bearer::of(self.token(who)) }
    }

    /// Starts the scheduler; it may take a moment until it serves.
    pub fn start_scheduler(&mut self) {
        let config = self.path("scheduler.toml");
        let config = config.to_str().expect("a UTF-8 path");
        let log = self.path("scheduler.log");
        let args = ["scheduler", "--config", config];
        self.scheduler = Some(Process::start_in(&self.enter, &self.binary, &args, &log));
    }

    /// The scheduler's process.
    ///
    /// # Panics
    /// When it was killed.
    pub fn scheduler(&mut self) -> &mut Process {
        self.scheduler.as_mut().expect("the scheduler was started")
    }

    /// kill -9 of the scheduler.
    pub fn kill_scheduler(&mut self) {
        self.scheduler.take().expect("the scheduler was started").kill();
    }

    /// Waits until the scheduler answers: it listens before its journal is open.
    ///
    /// # Panics
    /// When it ends instead.
    pub async fn serving(&mut self) {
        until_some(&format!("the scheduler on {} serves", self.socket()), || {
            let scheduler = self.scheduler.as_mut().expect("the scheduler was started");
            let ended = scheduler.ended();
            assert!(ended.is_none(), "the scheduler ended, {ended:?}:\n{}", scheduler.log());
            let is_ready = !self.setup.tls || self.authority().is_file();
            let channel = is_ready.then(|| self.channel());
            async move {
                let request = HealthCheckRequest { service: "dure.v1.Jobs".to_owned() };
                let answer = HealthClient::new(channel?).check(request).await.ok()?;
                (answer.into_inner().status() == ServingStatus::Serving).then_some(())
            }
        })
        .await;
    }

    /// Starts every agent.
    pub fn start_agents(&mut self) {
        (0..self.agents.len()).for_each(|number| self.start_agent(number));
    }

    /// Starts one agent.
    ///
    /// # Panics
    /// When its file cannot be written.
    pub fn start_agent(&mut self, number: usize) {
        let (file, log) = (self.path(&format!("n{number}.toml")), self.path(&format!("n{number}.log")));
        let agent = &mut self.agents[number];
        std::fs::write(&file, toml::to_string(&agent.config).expect("settings are TOML")).expect("it is written");
        let file = file.to_str().expect("a UTF-8 path");
        agent.process = Some(Process::start_in(&agent.enter, &self.binary, &["agent", "--config", file], &log));
    }

    /// From its next start on an agent, with all that it starts, is in a network namespace.
    pub fn put_inside(&mut self, number: usize, namespace: &Namespace) {
        self.agents[number].enter = namespace.enter();
    }

    /// From their next start on the scheduler and all agents come after such words, which become them.
    pub fn put_all_behind(&mut self, words: &[String]) {
        self.enter = words.to_vec();
        self.agents.iter_mut().for_each(|agent| agent.enter = words.to_vec());
    }

    /// An agent's settings.
    pub fn agent(&mut self, number: usize) -> &mut AgentConfig {
        &mut self.agents[number].config
    }

    /// An agent's process.
    ///
    /// # Panics
    /// When it was killed.
    pub fn agent_process(&mut self, number: usize) -> &mut Process {
        self.agents[number].process.as_mut().expect("the agent was started")
    }

    /// kill -9 of an agent; its shims and members live on.
    ///
    /// # Panics
    /// When it was killed already.
    pub fn kill_agent(&mut self, number: usize) {
        self.agents[number].process.take().expect("the agent was started").kill();
    }

    /// All nodes as an operator sees them.
    ///
    /// # Errors
    /// The scheduler's refusal.
    pub async fn nodes(&self) -> Result<Vec<Node>, tonic::Status> {
        let request = ListNodesRequest::default();
        Ok(self.caller(Who::Op).nodes().list(request).await?.into_inner().nodes)
    }

    /// Waits until every agent is connected.
    pub async fn ready(&self) {
        let want = self.agents.iter().filter(|agent| agent.process.is_some()).count();
        until_some("all agents are connected", || async {
            let nodes = self.nodes().await.ok()?;
            (nodes.iter().filter(|node| node.connected).count() >= want).then_some(())
        })
        .await;
    }

    /// Waits until a node is as wanted.
    ///
    /// # Panics
    /// After `PATIENCE`, showing the node as it was last.
    pub async fn node_is(&self, name: &str, what: &str, so: impl Fn(&Node) -> bool) -> Node {
        let started = Instant::now();
        loop {
            let nodes = self.nodes().await.unwrap_or_default();
            match nodes.into_iter().find(|node| node.name == name) {
                Some(node) if so(&node) => return node,
                node => assert!(started.elapsed() < PATIENCE, "node {name} {what}: not so, it is {node:#?}"),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            process::show_logs(self.dir.path());
        }
        // First those that start others.
        let agents = self.agents.iter_mut().filter_map(|agent| agent.process.take());
        agents.chain(self.scheduler.take()).for_each(Process::kill);
        process::kill_all(self.dir.path());
    }
}
