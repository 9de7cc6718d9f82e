//! `dure dev`: a whole cluster in this process, on loopback: the scheduler and an agent per node.
//!
//! Reading order: `cluster` (starts and stops the parts), `session` (their users); then what is done with it: wait for
//! Ctrl-C, `crate::demo`, or `paced`. Nothing outside the data folder is written, no context file is touched.

pub(crate) mod cluster;
pub(crate) mod paced;
mod replayed;
pub(crate) mod session;

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf};

use clap::{Args, ValueEnum};

use self::cluster::{Cluster, Launcher, Spec};
use crate::{demo, failure::Failure, serve, show::Out};

/// The missions and quotas of `dure dev`; the example in deploy/ as well.
pub(crate) const DEV_CONFIG: &str = include_str!("../../deploy/dev.toml");
/// The model of the nodes of `dure dev`.
pub(crate) const MODEL: &str = "NVIDIA H200";
/// Nodes of a cluster that nobody sized.
const NODES: u32 = 4;
/// GPUs of a node that nobody sized.
const GPUS: u32 = 8;
/// The user that the demo is in every mission.
const DEMO_USER: &str = "demo";
/// More nodes than this do not fit in one process.
const MAX_NODES: u32 = 5_000;

/// More GPUs than this are on no node.
const MAX_GPUS: i64 = dure_core::gpu::MAX_GPUS_PER_NODE as i64;

/// How members run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LauncherChoice {
    /// As processes
    #[default]
    Process,
    /// As timers
    Simulated,
}

/// A whole cluster on this node: scheduler, agents, fake GPUs
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dure dev                 a cluster of 4 nodes with 8 fake H200 each, until Ctrl-C
  dure dev --demo          run a mixed workload of all missions on it, and judge it
  dure dev --nodes 352 --launcher simulated --jobs philly.csv.gz --speedup 6000
                           replay a job file; a job's time limit is twice its run time and ten minutes
                           (a disk that stutters shows in its times: try --data-dir /dev/shm/NAME)")]
pub(crate) struct DevArgs {
    /// Run a mixed workload of all missions, judge it and stop
    #[arg(long, conflicts_with = "jobs")]
    demo: bool,
    /// Nodes
    #[arg(long, default_value_t = NODES, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_NODES)))]
    nodes: u32,
    /// GPUs of each node
    #[arg(long, default_value_t = GPUS, value_parser = clap::value_parser!(u32).range(1..=MAX_GPUS))]
    gpus: u32,
    /// How members run
    #[arg(long, value_enum, default_value_t)]
    launcher: LauncherChoice,
    /// Keep members apart as far as this node can (cgroups, devices): what it cannot is said at the start
    #[arg(long)]
    isolated: bool,
    /// Where the scheduler listens: a loopback address [default: 127.0.0.1:7070; any free port for --demo and --jobs]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Where everything is kept [default: a temporary folder, removed at the end]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// A configuration of the scheduler instead of the built-in one
    #[arg(long, value_name = "FILE", conflicts_with = "jobs")]
    config: Option<PathBuf>,
    /// Replay a job file (CSV, or CSV.gz); needs --launcher simulated
    #[arg(long, value_name = "CSV", help_heading = "Replay")]
    jobs: Option<PathBuf>,
    /// Only jobs submitted in FROM..TO, in the file's seconds
    #[arg(long, value_name = "FROM..TO", requires = "jobs", help_heading = "Replay")]
    window: Option<paced::Window>,
    /// Cut longer jobs to this, in the file's seconds
    #[arg(long, value_name = "SECONDS", requires = "jobs", help_heading = "Replay")]
    max_duration: Option<f64>,
    /// Seconds of the file in one real second
    #[arg(long, default_value_t = 1.0, value_parser = positive, requires = "jobs", help_heading = "Replay")]
    speedup: f64,
    /// Quotas (tenant,quota,limit) instead of equal ones
    #[arg(long, value_name = "CSV", requires = "jobs", help_heading = "Replay")]
    missions: Option<PathBuf>,
    #[command(flatten)]
    outputs: paced::Outputs,
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| "expected a number above 0".to_owned())
}

/// Runs the command.
pub(crate) fn run(args: DevArgs, out: Out) -> Result<(), Failure> {
    serve::log("warn");
    let runtime = serve::runtime()?;
    let done = runtime
        .block_on(async { if args.jobs.is_some() { replayed::run(args, out).await } else { live(args, out).await } });
    // What a failed part has left behind must not hold up the end.
    runtime.shutdown_timeout(cluster::STOP_WITHIN);
    done
}

/// `dure dev` and `dure dev --demo`.
async fn live(args: DevArgs, out: Out) -> Result<(), Failure> {
    let config = match &args.config {
        Some(path) => std::fs::read_to_string(path)
            .map_err(|err| Failure::Usage(format!("--config {}: {err}", path.display())))?,
        None => DEV_CONFIG.to_owned(),
    };
    let folder = Folder::new(args.data_dir.clone())?;
    let fallback = if args.demo { 0 } else { 7070 };
    let users = demo::missions().map(|mission| (mission.to_owned(), DEMO_USER.to_owned()));
    let spec = Spec {
        config,
        listen: args.listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], fallback))),
        data_dir: folder.path().to_owned(),
        nodes: args.nodes,
        gpus: args.gpus,
        launcher: args.launcher.into(),
        isolated: args.isolated,
        users: if args.demo { users.collect() } else { BTreeSet::new() },
        tls: false,
    };
    let cluster = Cluster::start(spec).await?;
    let done = match cluster.ready().await {
        Err(failure) => Err(failure),
        Ok(()) if args.demo => stoppable(demo::run(cluster.session(), DEMO_USER, out)).await,
        Ok(()) => until_told(&cluster, &args, folder.path(), out).await,
    };
    if matches!(folder, Folder::Temporary(_)) {
        // Members outlive their agents, so that the next ones find them; here there will be no next ones.
        cluster.end_jobs().await;
    }
    let stopped = cluster.stop().await;
    done.and(stopped)
}

impl From<LauncherChoice> for Launcher {
    fn from(choice: LauncherChoice) -> Self {
        match choice {
            LauncherChoice::Process => Launcher::Process,
            LauncherChoice::Simulated => Launcher::Simulated,
        }
    }
}

/// Until it is done, or Ctrl-C.
async fn stoppable(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::select! {
        done = work => done,
        () = serve::told_to_stop() => Err(Failure::Failed("interrupted".to_owned())),
    }
}

/// Says how to talk to the cluster and waits.
async fn until_told(cluster: &Cluster, args: &DevArgs, folder: &std::path::Path, out: Out) -> Result<(), Failure> {
    let server = cluster.server();
    let tell = if server == crate::context::DEFAULT_SERVER {
        String::new()
    } else {
        format!("  export DURE_SERVER={server}\n")
    };
    out.text(&format!(
        "a cluster of {} nodes with {} {MODEL} each runs at {server}, everything is in {}\n\
         members are {}\n\
         talk to it from another terminal:\n\n{tell}  \
         dure nodes\n  \
         dure quota show\n  \
         dure submit -A fusion --gpus 8 -- sh -c 'echo rank $RANK of $WORLD_SIZE; nproc; sleep 30'\n  \
         dure queue --all\n  \
         dure job 1\n  \
         dure logs -f 1\n  \
         dure watch\n\n\
         Ctrl-C stops it",
        args.nodes,
        args.gpus,
        folder.display(),
        match (args.launcher, args.isolated) {
            (LauncherChoice::Simulated, _) => "timers",
            (LauncherChoice::Process, true) => "processes of this user, kept apart as far as this node can",
            (LauncherChoice::Process, false) => "plain processes of this user; --isolated keeps them apart",
        }
    ))?;
    tokio::select! {
        () = serve::told_to_stop() => Ok(()),
        why = cluster.failed() => Err(why),
    }
}

/// The data folder: the user's, or a temporary one that goes with its owner.
pub(crate) enum Folder {
    /// Named by the user: it stays.
    Kept(PathBuf),
    /// Removed at the end.
    Temporary(tempfile::TempDir),
}

impl Folder {
    /// Makes it.
    pub(crate) fn new(named: Option<PathBuf>) -> Result<Self, Failure> {
        let failed = |what: String| move |err: std::io::Error| Failure::Failed(format!("{what}: {err}"));
        match named {
            Some(path) => {
                std::fs::create_dir_all(&path).map_err(failed(path.display().to_string()))?;
                Ok(Folder::Kept(std::fs::canonicalize(&path).map_err(failed(path.display().to_string()))?))
            }
            None => {
                let made = tempfile::Builder::new().prefix("dure-dev-").tempdir();
                Ok(Folder::Temporary(made.map_err(failed("a temporary folder".to_owned()))?))
            }
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &std::path::Path {
        match self {
            Folder::Kept(path) => path,
            Folder::Temporary(dir) => dir.path(),
        }
    }
}

#[cfg(test)]
mod tests;
