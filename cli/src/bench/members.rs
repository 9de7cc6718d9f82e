//! Schedulers as processes of this program, on SQLite or on three members of etcd, with simulated agents in this process.
//!
//! Comes in: how many, on which store. Goes out: clients that find the leader, processes to kill, and their end with the
//! last handle. Everything listens on loopback.

use std::{
    fs::File,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use clap::ValueEnum;
use dure_agent::{
    AgentConfig,
    config::{GpuSource, LauncherKind, Location},
};
use dure_proto::v1::{
    LeaderRequest, ListNodesRequest, PageRequest, jobs_client::JobsClient, nodes_client::NodesClient,
    schedulers_client::SchedulersClient,
};
use dure_scheduler::{
    auth::token::{self, TokenEntry},
    etcd::local::LocalEtcd,
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};
use tonic::service::interceptor::InterceptedService;

use super::{failed, load};
use crate::{
    context::{Authed, Bearer, bearer, endpoint, responsive},
    dev::MODEL,
    failure::Failure,
    roam::Roam,
};

/// Largest answer that is taken, in bytes.
const MAX_ANSWER: usize = 64 << 20;
/// How long anything may take to come up.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A scheduler that says nothing for so long is asked again later.
const ANSWERS_WITHIN: Duration = Duration::from_millis(500);
/// Nodes under one leaf.
const NODES_PER_LEAF: u32 = 32;

/// Where the journal lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Store {
    /// In SQLite, with one scheduler
    Sqlite,
    /// In three members of etcd
    Etcd,
}

/// The schedulers.
pub(super) struct Members {
    dir: PathBuf,
    addresses: Vec<SocketAddr>,
    processes: Vec<Option<Child>>,
    user: Bearer,
    operator: Bearer,
    agents_token: PathBuf,
    agents: JoinSet<()>,
    stop_agents: watch::Sender<bool>,
    /// The members of etcd, if there are any.
    pub(super) etcd: Option<LocalEtcd>,
}

impl Drop for Members {
    fn drop(&mut self) {
        for at in 0..self.processes.len() {
            self.kill(at);
        }
    }
}

impl Members {
    /// Starts `count` schedulers, and waits until one of them leads.
    pub(super) async fn start(dir: &Path, store: Store, count: usize, nodes: u32) -> Result<Self, Failure> {
        let etcd_dir = dir.join("etcd");
        std::fs::create_dir_all(&etcd_dir)?;
        let etcd = match store {
            Store::Sqlite => None,
            Store::Etcd => Some(LocalEtcd::start(&etcd_dir, 3).map_err(failed)?),
        };
        let mut tokens = String::new();
        let user = add_token(&mut tokens, load::USER, "member", Some(load::MISSION), None)?;
        let operator = add_token(&mut tokens, "operator", "operator", None, None)?;
        let agents = add_token(&mut tokens, "agents", "agent", None, Some("n*"))?;
        std::fs::write(dir.join("tokens.toml"), tokens)?;
        let agents_token = dir.join("agents.token");
        std::fs::write(&agents_token, agents)?;
        let addresses = free_addresses(count)?;
        for (at, address) in addresses.iter().enumerate() {
            let text = configuration(dir, at, *address, etcd.as_ref(), nodes);
            std::fs::write(dir.join(format!("s{at}.toml")), text)?;
        }
        let mut members = Self {
            dir: dir.to_owned(),
            processes: addresses.iter().map(|_| None).collect(),
            addresses,
            user: bearer(&user).map_err(failed)?,
            operator: bearer(&operator).map_err(failed)?,
            agents_token,
            agents: JoinSet::new(),
            stop_agents: watch::Sender::new(false),
            etcd,
        };
        for at in 0..count {
            members.restart(at)?;
        }
        members.leader().await?;
        Ok(members)
    }

    /// Starts the process of a scheduler.
    pub(super) fn restart(&mut self, at: usize) -> Result<(), Failure> {
        let log = File::options().create(true).append(true).open(self.dir.join(format!("s{at}.log")))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["scheduler", "--config"]).arg(self.dir.join(format!("s{at}.toml")));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.processes[at] = Some(command.spawn()?);
        Ok(())
    }

    /// kill -9 of a scheduler.
    pub(super) fn kill(&mut self, at: usize) {
        if let Some(mut process) = self.processes[at].take() {
            // It may have ended by itself.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Stops a scheduler without ending it.
    pub(super) fn pause(&self, at: usize) {
        self.signal(at, rustix::process::Signal::STOP);
    }

    /// Lets a paused scheduler go on.
    pub(super) fn resume(&self, at: usize) {
        self.signal(at, rustix::process::Signal::CONT);
    }

    fn signal(&self, at: usize, signal: rustix::process::Signal) {
        let pid = self.processes[at].as_ref().and_then(|process| i32::try_from(process.id()).ok());
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            // One that has ended by itself is seen by whoever asks it.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// How many schedulers say that they lead.
    pub(super) async fn leading(&self) -> usize {
        let mut leading = 0;
        for at in 0..self.addresses.len() {
            leading += usize::from(matches!(self.ask(at).await, Some((true, _))));
        }
        leading
    }

    /// The addresses of all schedulers.
    pub(super) fn servers(&self) -> Vec<String> {
        self.addresses.iter().map(|address| format!("http://{address}")).collect()
    }

    /// A way to the leader.
    pub(super) fn roam(&self) -> Result<Roam, Failure> {
        let ways: Result<Vec<_>, Failure> = self
            .servers()
            .into_iter()
            .map(|server| Ok((server.clone(), responsive(endpoint(&server, None)?))))
            .collect();
        Roam::new(ways?).ok_or_else(|| failed("no scheduler"))
    }

    /// Jobs, for the user of all jobs, on a connection of its own.
    pub(super) fn jobs(&self) -> Result<JobsClient<Authed>, Failure> {
        let client = JobsClient::with_interceptor(self.roam()?, self.user.clone());
        Ok(client.max_decoding_message_size(MAX_ANSWER))
    }

    /// Schedulers, for the operator, wherever the leader is.
    pub(super) fn schedulers(&self) -> Result<SchedulersClient<Authed>, Failure> {
        Ok(SchedulersClient::with_interceptor(self.roam()?, self.operator.clone()))
    }

    /// Whether a scheduler answers at all.
    pub(super) async fn answers(&self, at: usize) -> bool {
        self.ask(at).await.is_some()
    }

    async fn ask(&self, at: usize) -> Option<(bool, u64)> {
        let asked = async {
            let channel = endpoint(&self.servers()[at], None).ok()?.connect().await.ok()?;
            let one = InterceptedService::new(Roam::on(channel), self.operator.clone());
            let answer = SchedulersClient::new(one).leader(LeaderRequest {}).await.ok()?.into_inner();
            Some((answer.here, answer.epoch))
        };
        // A paused process takes connections and answers nothing.
        tokio::time::timeout(ANSWERS_WITHIN, asked).await.ok().flatten()
    }

    /// Which scheduler leads, and its term; waits until one does.
    pub(super) async fn leader(&self) -> Result<(usize, u64), Failure> {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            for at in 0..self.addresses.len() {
                if let Some((true, epoch)) = self.ask(at).await {
                    return Ok((at, epoch));
                }
            }
            sleep(LOOK_EVERY).await;
        }
        Err(failed(format!(
            "no scheduler leads within {} s: see the logs in {}",
            PATIENCE.as_secs(),
            self.dir.display()
        )))
    }

    /// Starts simulated agents that know all schedulers, and waits until all have joined.
    pub(super) async fn start_agents(&mut self, nodes: u32) -> Result<Duration, Failure> {
        let started = Instant::now();
        for number in 0..nodes {
            let name = format!("n{number}");
            let servers = self.servers();
            let mut config = AgentConfig::new(&name, &servers[0], self.dir.join("agents").join(&name));
            config.scheduler = servers;
            config.token_file = Some(self.agents_token.clone());
            config.address = Some("127.0.0.1".to_owned());
            config.location = Location { leaf: format!("leaf-{}", number / NODES_PER_LEAF), ..Location::default() };
            config.boot_id = Some(format!("bench-{}-{number}", std::process::id()));
            config.launcher = LauncherKind::Simulated;
            config.gpus = GpuSource::Simulated { count: load::GPUS, model: MODEL.to_owned(), memory_mib: 81_559 };
            let mut stopping = self.stop_agents.subscribe();
            self.agents.spawn(async move {
                let told = async move { drop(stopping.wait_for(|stop| *stop).await) };
                if let Err(err) = dure_agent::run(config, told).await {
                    eprintln!("{name}: {err}");
                }
            });
        }
        self.joined(nodes).await?;
        Ok(started.elapsed())
    }

    /// Waits until so many agents have a session with the leader.
    pub(super) async fn joined(&self, nodes: u32) -> Result<(), Failure> {
        let client = NodesClient::with_interceptor(self.roam()?, self.operator.clone());
        let mut client = client.max_decoding_message_size(MAX_ANSWER);
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            let (mut connected, mut page_token) = (0, String::new());
            loop {
                let page = Some(PageRequest { page_size: 1_000, page_token });
                // Between two leaders there may be no answer: it is asked again.
                let Ok(answer) = client.list(ListNodesRequest { page, ..ListNodesRequest::default() }).await else {
                    break;
                };
                let answer = answer.into_inner();
                connected += answer.nodes.iter().filter(|node| node.connected).count();
                page_token = answer.next_page_token;
                if page_token.is_empty() {
                    break;
                }
            }
            if connected >= nodes as usize {
                return Ok(());
            }
            sleep(LOOK_EVERY).await;
        }
        Err(failed(format!("{nodes} agents have not joined within {} s", PATIENCE.as_secs())))
    }

    /// Ends the agents, then the schedulers.
    pub(super) async fn stop(mut self) {
        self.stop_agents.send_replace(true);
        let all = async { while self.agents.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_secs(10), all).await;
    }
}

fn add_token(
    text: &mut String,
    user: &str,
    role: &str,
    mission: Option<&str>,
    node: Option<&str>,
) -> Result<String, Failure> {
    let created = token::create().map_err(failed)?;
    let entry = TokenEntry {
        sha256: created.digest.to_string(),
        user: user.to_owned(),
        role: role.to_owned(),
        missions: mission.into_iter().map(str::to_owned).collect(),
        node: node.map(str::to_owned),
        expires: None,
        one_time: false,
    };
    *text += &entry.to_toml().map_err(failed)?;
    text.push('\n');
    Ok(created.token)
}

fn configuration(dir: &Path, at: usize, address: SocketAddr, etcd: Option<&LocalEtcd>, nodes: u32) -> String {
    let dir = dir.display();
    let members = etcd.map_or_else(String::new, |etcd| {
        format!("advertise = \"http://{address}\"\n[etcd]\nendpoints = {:?}\n", etcd.endpoints())
    });
    format!(
        "listen = \"{address}\"\ndata_dir = \"{dir}/s{at}\"\ntokens = \"{dir}/tokens.toml\"\n{members}\
         [[pool]]\nname = \"pool\"\nmodel = \"{MODEL}\"\ngpus_per_node = {gpus}\n\
         [[tenant]]\nname = \"{mission}\"\nquota = {quota}\n\
         [limits]\ncalls_per_second = 0\n",
        gpus = load::GPUS,
        mission = load::MISSION,
        quota = nodes * load::GPUS,
    )
}

fn free_addresses(count: usize) -> Result<Vec<SocketAddr>, Failure> {
    let held: Result<Vec<TcpListener>, _> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
    held?.iter().map(|listener| Ok(listener.local_addr()?)).collect()
}
