//! What an agent costs its node: CPU and memory of the process and of the shims beside it, with 8 GPUs sampled every second
//! and 8 jobs that run.
//!
//! The agent is a process of its own (`dure agent`, this binary) with the fake NVML library; the scheduler is in this one.
//! What the driver's own library costs on real GPUs is measured by the agent's GPU tests.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use clap::Args;
use dure_agent::{AgentConfig, config::GpuSource, isolation::IsolationMode};
use dure_proto::v1::{JobPhase, JobSpec, ListJobsRequest, Payload, Shape};
use dure_scheduler::{
    Config,
    auth::{Credential, Identity, NodeName, Role, Tokens, token::TokenDigest},
    start_with,
};
use tokio::time::{Instant, sleep};

use super::{failed, folder, load, report::Report};
use crate::{
    context::{Bearer, bearer, endpoint},
    dev::{MODEL, session::Session},
    failure::Failure,
    roam::Roam,
};

/// Jobs must run by then.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How often that is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Until the start is over and out of the figures.
const SETTLE: Duration = Duration::from_secs(3);
/// Kernel ticks in a second, as /proc counts CPU (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

/// How long it is watched.
#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    /// Seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Jobs that run, each on one of the 8 GPUs
    #[arg(long, default_value_t = 8)]
    jobs: u32,
}

/// A process that ends with its owner.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// Runs it.
pub(super) async fn run(args: &AgentArgs) -> Result<Report, Failure> {
    let folder = folder(None)?;
    let config = format!(
        "data_dir = \".\"\n[[pool]]\nname = \"pool\"\nmodel = \"{MODEL}\"\ngpus_per_node = {0}\n[[tenant]]\nname = \"{1}\"\nquota = {0}\n",
        load::GPUS,
        load::MISSION
    );
    let mut config = Config::parse(Path::new("the configuration of the bench"), &config).map_err(failed)?;
    config.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    config.data_dir = folder.path().join("scheduler");
    (config.tokens, config.tls, config.metrics_listen) = (None, None, None);
    let tokens = Tokens::in_memory();
    let add = |user: &str, role, missions, node| {
        let credential = Credential::Token { digest: TokenDigest([0; 32]), one_time: false };
        tokens.add(Identity { user: user.into(), role, missions, node, credential }).map_err(failed)
    };
    let operator = bearer(&add("bench", Role::Operator, Vec::new(), None)?).map_err(failed)?;
    let token = add("agents", Role::Agent, Vec::new(), Some(NodeName::parse("*")))?;
    let scheduler = start_with(config, tokens).await.map_err(failed)?;
    let server = format!("http://{}", scheduler.address);
    let measured = measure(args, folder.path(), &server, &token, operator).await;
    scheduler.stop().await;
    measured
}

async fn measure(args: &AgentArgs, dir: &Path, server: &str, token: &str, operator: Bearer) -> Result<Report, Failure> {
    let agent = start(dir, server, token)?;
    let channel = endpoint(server, None)?.connect().await.map(Roam::on).map_err(failed)?;
    let session = Session::new(server.to_owned(), channel, operator, Default::default());
    for _ in 0..args.jobs {
        session.jobs().submit(load::call(vec![sleeper()])?).await.map_err(failed)?;
    }
    let since = Instant::now();
    loop {
        let request = ListJobsRequest { phases: vec![JobPhase::Running.into()], ..ListJobsRequest::default() };
        let running = session.jobs().list(request).await.map_err(failed)?.into_inner().jobs.len();
        if running >= args.jobs as usize {
            break;
        }
        if since.elapsed() > READY_WITHIN {
            return Err(Failure::Failed(format!("{running} of {} jobs run after {READY_WITHIN:?}", args.jobs)));
        }
        sleep(LOOK_EVERY).await;
    }
    sleep(SETTLE).await;
    let pid = agent.0.id();
    let shims = shims(dir)?;
    let all_ticks = |pids: &[u32]| pids.iter().map(|pid| ticks(*pid)).sum::<Result<u64, Failure>>();
    let (before, before_shims, began) = (ticks(pid)?, all_ticks(&shims)?, Instant::now());
    sleep(Duration::from_secs(args.seconds)).await;
    let seconds = began.elapsed().as_secs_f64();
    let mut report = Report::default();
    let used = (ticks(pid)? - before) as f64 / TICKS_PER_SECOND;
    let used_by_shims = (all_ticks(&shims)? - before_shims) as f64 / TICKS_PER_SECOND;
    let own = shims.iter().map(|shim| kib(*shim, "RssAnon:")).sum::<Result<f64, Failure>>()?;
    report.add("GPUs sampled every second", f64::from(load::GPUS), "");
    report.add("jobs that run", f64::from(args.jobs), "");
    report.add("CPU of the agent (aim: below 1)", used / seconds * 100.0, "% of a core");
    report.add("memory of the agent, its own (aim: below 20)", kib(pid, "RssAnon:")? / 1_024.0, "MiB");
    report.add("memory of the agent, with the pages of its file", kib(pid, "VmRSS:")? / 1_024.0, "MiB");
    report.add("shims beside the jobs", shims.len() as f64, "");
    report.add("CPU of all shims", used_by_shims / seconds * 100.0, "% of a core");
    report.add("memory of all shims, their own", own / 1_024.0, "MiB");
    Ok(report)
}

/// The shims of the agent in `dir`: they are called by their members' folders, which lie below.
fn shims(dir: &Path) -> Result<Vec<u32>, Failure> {
    let dir = dir.to_string_lossy();
    let is_shim = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        words.nth(1).is_some_and(|word| word == "shim") && words.next().is_some_and(|word| word.starts_with(&*dir))
    };
    let found = fs::read_dir("/proc").map_err(failed)?.filter_map(Result::ok);
    let pids = found.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(pids.filter(is_shim).collect())
}

fn start(dir: &Path, server: &str, token: &str) -> Result<Agent, Failure> {
    let token_file = dir.join("agent.token");
    fs::write(&token_file, token).map_err(failed)?;
    let mut config = AgentConfig::new("n0", server, dir.join("agent"));
    config.token_file = Some(token_file);
    config.isolation.mode = IsolationMode::Off;
    config.gpus = GpuSource::Fake { conf: format!("gpus {} model=\"{MODEL}\" memory_mib=143771\n", load::GPUS) };
    let path: PathBuf = dir.join("agent.toml");
    fs::write(&path, toml::to_string(&config).map_err(failed)?).map_err(failed)?;
    let own = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(own);
    command.arg("agent").arg("--config").arg(path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().map(Agent).map_err(failed)
}

fn sleeper() -> JobSpec {
    JobSpec {
        tenant: load::MISSION.to_owned(),
        name: "sleeps".to_owned(),
        shape: Some(Shape { members: 1, gpus_per_member: 1, ..Shape::default() }),
        payload: Some(Payload { args: ["sleep", "600"].map(str::to_owned).into(), ..Payload::default() }),
        ..JobSpec::default()
    }
}

/// User and system time of a process, in ticks.
fn ticks(pid: u32) -> Result<u64, Failure> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(failed)?;
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, tail)| tail).split_ascii_whitespace().collect();
    let field = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    Ok(field(11) + field(12))
}

/// A line of /proc/PID/status, in KiB.
fn kib(pid: u32, name: &str) -> Result<f64, Failure> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(failed)?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
    line.ok_or_else(|| Failure::Failed(format!("/proc/{pid}/status has no {name}")))
}
