//! A scheduler played by the test, and an agent to play against: in this process, or in one of its own.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use dure_agent::{AgentConfig, config::GpuSource, isolation::IsolationMode};
use dure_proto::v1::{
    AgentMessage, Challenge, Exit, Heartbeat, Hello, JoinRequest, JoinResponse, Launch, LeaseKey, LogData, LogRead,
    Order, Payload, Peer, Report, ReportAck, SchedulerMessage, Stop, Welcome, agent_message,
    agents_server::{Agents, AgentsServer},
    exit::How,
    order::What,
    report, scheduler_message,
};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle, time::timeout};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};

/// The longest any single thing may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} did not come within {PATIENCE:?}"))
}

/// Looks until it is so.
pub(crate) async fn until(what: &str, mut so: impl FnMut() -> bool) {
    soon(what, async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// The token that was shown, what comes in, and where answers go.
type Opened = (Option<String>, Streaming<AgentMessage>, mpsc::Sender<Result<SchedulerMessage, Status>>);

pub(crate) struct Scheduler {
    pub(crate) endpoint: String,
    sessions: mpsc::Receiver<Opened>,
    server: JoinHandle<()>,
    /// Streams so far.
    accepted: u64,
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.server.abort();
    }
}

struct Desk {
    sessions: mpsc::Sender<Opened>,
}

#[tonic::async_trait]
impl Agents for Desk {
    async fn join(&self, _: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        Err(Status::unimplemented("this scheduler joins nobody"))
    }

    type SessionStream = ReceiverStream<Result<SchedulerMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let token = request.metadata().get("authorization").and_then(|token| token.to_str().ok()).map(str::to_owned);
        let (to, answers) = mpsc::channel(64);
        let session = (token, request.into_inner(), to);
        self.sessions.send(session).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

impl Scheduler {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
        let (to, sessions) = mpsc::channel(64);
        let service = AgentsServer::new(Desk { sessions: to });
        let serve = Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move { serve.await.expect("serves") });
        Self { endpoint, sessions, server, accepted: 0 }
    }

    /// The next stream, after its hello.
    pub(crate) async fn accept(&mut self) -> Session {
        let (token, from, to) = soon("a session", self.sessions.recv()).await.expect("the server runs");
        let mut session = Session { token, hello: Hello::default(), from, to, heartbeats: Vec::new() };
        self.accepted += 1;
        session.send(scheduler_message::Kind::Challenge(Challenge { session: self.accepted })).await;
        match session.next().await.expect("a hello") {
            agent_message::Kind::Hello(hello) if hello.session == self.accepted => session.hello = hello,
            other => panic!("the first word is {other:?}"),
        }
        session
    }

    /// The next stream, welcomed by epoch 1 with nothing wanted.
    pub(crate) async fn welcome(&mut self) -> Session {
        let session = self.accept().await;
        session.welcome(1, Vec::new(), Vec::new()).await;
        session
    }
}

pub(crate) struct Session {
    pub(crate) token: Option<String>,
    pub(crate) hello: Hello,
    pub(crate) heartbeats: Vec<Heartbeat>,
    from: Streaming<AgentMessage>,
    to: mpsc::Sender<Result<SchedulerMessage, Status>>,
}

impl Session {
    /// None: the agent has closed the stream.
    async fn next(&mut self) -> Option<agent_message::Kind> {
        let message = soon("a message", self.from.message()).await.ok().flatten()?;
        Some(message.kind.expect("a kind"))
    }

    pub(crate) async fn send(&self, kind: scheduler_message::Kind) {
        self.to.send(Ok(SchedulerMessage { kind: Some(kind) })).await.expect("the stream is open");
    }

    pub(crate) async fn welcome(&self, epoch: u64, wanted: Vec<Order>, settled: Vec<LeaseKey>) {
        let store_id = "store".to_owned();
        let welcome = Welcome { epoch, store_id, seq: epoch, heartbeat_ms: 20, wanted, settled };
        self.send(scheduler_message::Kind::Welcome(welcome)).await;
    }

    pub(crate) async fn order(&self, order: Order) {
        self.send(scheduler_message::Kind::Order(order)).await;
    }

    pub(crate) async fn ack(&self, report: &Report) {
        let ack = ReportAck { report_ids: vec![report.report_id] };
        self.send(scheduler_message::Kind::ReportAck(ack)).await;
    }

    pub(crate) async fn report(&mut self) -> Report {
        loop {
            match self.next().await.expect("the stream is open") {
                agent_message::Kind::Report(report) => return report,
                agent_message::Kind::Heartbeat(heartbeat) => self.heartbeats.push(heartbeat),
                agent_message::Kind::Hello(_) | agent_message::Kind::LogData(_) | agent_message::Kind::ExecData(_) => {}
            }
        }
    }

    pub(crate) async fn heartbeat(&mut self) -> Heartbeat {
        loop {
            if let agent_message::Kind::Heartbeat(heartbeat) = self.next().await.expect("the stream is open") {
                return heartbeat;
            }
        }
    }

    pub(crate) async fn prepared(&mut self) -> Report {
        let report = self.report().await;
        assert_eq!(report.what, Some(report::What::Prepared(true)));
        self.ack(&report).await;
        report
    }

    pub(crate) async fn started(&mut self) -> u32 {
        let report = self.report().await;
        self.ack(&report).await;
        match report.what {
            Some(report::What::StartedPid(pid)) => pid,
            other => panic!("expected a start, got {other:?}"),
        }
    }

    /// The end of a member; earlier news of it is skipped. Acknowledged.
    pub(crate) async fn gone(&mut self) -> Exit {
        loop {
            let report = self.report().await;
            self.ack(&report).await;
            if let Some(report::What::Gone(exit)) = report.what {
                return exit;
            }
        }
    }

    /// The next report, acknowledged; none when the agent has gone.
    pub(crate) async fn report_or_end(&mut self) -> Option<Report> {
        loop {
            if let agent_message::Kind::Report(report) = self.next().await? {
                let ack = ReportAck { report_ids: vec![report.report_id] };
                let kind = Some(scheduler_message::Kind::ReportAck(ack));
                // An agent that is gone needs no acknowledgement.
                self.to.send(Ok(SchedulerMessage { kind })).await.ok();
                return Some(report);
            }
        }
    }

    /// The stream ends from the agent's side.
    pub(crate) async fn closed(&mut self) {
        while self.next().await.is_some() {}
    }

    /// A whole log.
    pub(crate) async fn log(&mut self, read: LogRead) -> (String, LogData) {
        let id = read.read_id;
        self.send(scheduler_message::Kind::LogRead(read)).await;
        let mut text = Vec::new();
        loop {
            let data = self.log_data(id).await;
            text.extend_from_slice(&data.data);
            if data.end {
                return (String::from_utf8(text).expect("UTF-8"), data);
            }
        }
    }

    pub(crate) async fn log_data(&mut self, id: u64) -> LogData {
        loop {
            match self.next().await.expect("the stream is open") {
                agent_message::Kind::LogData(data) if data.read_id == id => return data,
                _ => {}
            }
        }
    }
}

pub(crate) fn how(exit: &Exit) -> How {
    exit.how.clone().expect("an exit says how")
}

/// A launch of a shell script on GPU 0 that starts at once.
pub(crate) fn script(text: &str) -> Launch {
    Launch {
        payload: Some(Payload { script: text.as_bytes().to_vec(), ..Payload::default() }),
        gpus: vec![0],
        peers: vec![Peer { node: "n0".to_owned(), address: "127.0.0.1".to_owned(), gpus: 1 }],
        grace_ms: 10_000,
        job_name: "test".to_owned(),
        start_at_once: true,
        ..Launch::default()
    }
}

pub(crate) fn order(job_id: u64, sequence: u32, what: What) -> Order {
    Order { epoch: 1, seq: 10, job_id, attempt: 1, member: 0, sequence, what: Some(what) }
}

pub(crate) fn launch(job_id: u64, launch: Launch) -> Order {
    order(job_id, 1, What::Launch(launch))
}

pub(crate) fn stop(job_id: u64, grace_ms: u64) -> Order {
    order(job_id, 3, What::Stop(Stop { reason: "cancelled".to_owned(), grace_ms }))
}

pub(crate) fn key(job_id: u64) -> LeaseKey {
    LeaseKey { job_id, attempt: 1, member: 0 }
}

/// A node's state folder and settings.
pub(crate) struct Node {
    pub(crate) dir: TempDir,
    pub(crate) config: AgentConfig,
}

pub(crate) fn under_test() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_dure-agent-under-test"))
}

impl Node {
    pub(crate) fn new(scheduler: &Scheduler) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut config = AgentConfig::new("n0", &scheduler.endpoint, dir.path().join("state"));
        config.gpus = GpuSource::Fake { conf: "seed n0\ngpus 8".to_owned() };
        config.shim = vec![under_test().display().to_string(), "shim".to_owned()];
        config.boot_id = Some("boot-1".to_owned());
        config.isolation.mode = IsolationMode::Off;
        Self { dir, config }
    }

    /// An agent in this process; aborted with the handle.
    pub(crate) fn start(&self) -> Agent {
        let config = self.config.clone();
        Agent {
            task: tokio::spawn(async move { dure_agent::run(config, std::future::pending()).await.expect("runs") }),
        }
    }

    /// An agent in a process of its own.
    pub(crate) fn spawn(&self) -> AgentProcess {
        let path = self.dir.path().join("agent.toml");
        std::fs::write(&path, toml_of(&self.config)).expect("writes");
        let child = Command::new(under_test()).arg("agent").arg(&path).spawn().expect("starts");
        AgentProcess { child }
    }

    pub(crate) fn member_dir(&self, job: u64) -> PathBuf {
        self.config.state_dir.join("members").join(format!("{job}.1.0"))
    }
}

fn toml_of(config: &AgentConfig) -> String {
    toml::to_string(config).expect("settings are TOML")
}

pub(crate) struct Agent {
    task: JoinHandle<()>,
}

impl Agent {
    /// Ends it as a crash would, and waits until it has let go of everything.
    pub(crate) async fn crash(self) {
        self.task.abort();
        assert!(self.task.await.is_err_and(|err| err.is_cancelled()), "the agent had ended by itself");
    }
}

pub(crate) struct AgentProcess {
    child: Child,
}

impl AgentProcess {
    /// kill -9.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("kills");
        self.child.wait().expect("reaps");
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// True while a process lives; a zombie does not.
pub(crate) fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, tail)| !matches!(tail.trim().chars().next(), Some('Z' | 'X') | None))
}

/// A process id that a script has written, once it is there.
pub(crate) async fn pid_in(path: &Path) -> u32 {
    let read = || std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
    until(&format!("{}", path.display()), || read().is_some()).await;
    read().expect("was there a moment ago")
}

/// NAME=value lines.
pub(crate) fn variables(text: &str) -> HashMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once('=')).collect()
}
