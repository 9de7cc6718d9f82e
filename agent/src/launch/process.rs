//! Real processes, each under a shim of its own.
//!
//! Comes in: launches. Goes out: a prepared folder, a shim that is told about it, and the facts that its files and its
//! end show. The agent may end at any point: everything it needs to go on is in the member's folder.
//! This part must never take a member for gone while its shim lives, nor while a process carries its mark.

mod follow;
mod prepare;

use std::{
    ffi::OsString,
    fs::File,
    io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
    sync::Semaphore,
    task::spawn_blocking,
    time::{sleep, timeout},
};

use super::{ContainersConfig, Facts, Launcher, container, rendezvous::Network};
use crate::{
    config::HooksConfig,
    inventory::MigFacts,
    isolation::Isolation,
    model::{Exit, Launch, MemberId, StopRequest},
    reconcile::Input,
    retention,
    shim::files::{MemberFiles, StopFile},
};

/// Shims that are being started at once; more wait.
const STARTS_AT_ONCE: usize = 32;
/// How long a shim may take until its process runs or it has ended.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// Pause between two tries to write a stop request on a disk that refuses.
const STOP_RETRY: Duration = Duration::from_secs(1);
/// Bytes of each output stream that are kept, if the configuration does not say.
pub const DEFAULT_LOG_LIMIT_BYTES: u64 = 256 * 1024 * 1024;
/// Removed members between two looks at old logs and folders.
const PRUNE_EVERY: u64 = 32;

/// What a process launcher needs to know about its node.
#[derive(Clone, Debug)]
pub struct ProcessSettings {
    /// The node's name.
    pub node: String,
    /// The agent's state folder, absolute.
    pub state_dir: PathBuf,
    /// The shim's command, to which the member's folder is appended: `[".../dure", "shim"]`.
    pub shim: Vec<OsString>,
    /// This boot of the node.
    pub boot_id: String,
    /// UUID of each GPU, by its index.
    pub gpu_uuids: Vec<String>,
    /// What each of them is cut into.
    pub mig_instances: Vec<Vec<MigFacts>>,
    /// Memory of each of them, in MiB.
    pub gpu_memory_mib: Vec<u64>,
    /// Bytes kept of each output stream.
    pub log_limit_bytes: u64,
    /// How members are kept apart.
    pub isolation: Isolation,
    /// What the site knows about its networks.
    pub network: Network,
    /// The site's own programs around members.
    pub hooks: HooksConfig,
    /// Images and their runtime.
    pub containers: ContainersConfig,
}

/// Starts processes under shims.
#[derive(Clone)]
pub struct ProcessLauncher {
    inner: Arc<Inner>,
}

struct Inner {
    settings: ProcessSettings,
    inherited: Vec<(String, String)>,
    facts: Facts,
    starts: Semaphore,
    forgotten: AtomicU64,
}

impl ProcessLauncher {
    /// A launcher that tells its facts to `facts`. Must be used inside a tokio runtime with IO and time.
    pub fn new(settings: ProcessSettings, facts: Facts) -> Self {
        let inherited = super::env::INHERITED
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)))
            .collect();
        let starts = Semaphore::new(STARTS_AT_ONCE);
        Self { inner: Arc::new(Inner { settings, inherited, facts, starts, forgotten: AtomicU64::new(0) }) }
    }
}

impl Launcher for ProcessLauncher {
    fn stage(&self, id: MemberId, launch: Arc<Launch>) {
        let inner = self.inner.clone();
        tokio::spawn(async move {
            let settings = inner.settings.clone();
            let staged = spawn_blocking(move || container::stage(&settings, id, &launch)).await;
            let fact = match staged.unwrap_or_else(|panic| Err(format!("copying its image failed: {panic}"))) {
                Ok(()) => Input::Staged(id),
                Err(why) => Input::Unstaged(id, why),
            };
            inner.tell(fact).await;
        });
    }

    fn start(&self, id: MemberId, launch: Arc<Launch>) {
        let inner = self.inner.clone();
        tokio::spawn(async move {
            let exit = match inner.start(id, launch).await {
                Ok(told) => inner.follow(id, told).await,
                Err(why) => inner.never_started(id, why).await,
            };
            inner.tell(Input::Gone { id, exit }).await;
        });
    }

    fn adopt(&self, id: MemberId, same_boot: bool, seal: bool) {
        let inner = self.inner.clone();
        tokio::spawn(async move {
            let fact = inner.adopt(id, same_boot, seal).await;
            inner.tell(fact).await;
        });
    }

    fn stop(&self, id: MemberId, request: StopRequest) {
        let inner = self.inner.clone();
        tokio::spawn(async move { inner.stop(id, request).await });
    }

    fn forget(&self, id: MemberId) {
        let inner = self.inner.clone();
        let settings = self.inner.clone();
        spawn_blocking(move || {
            if let Err(error) = settings.settings.isolation.forget(id) {
                tracing::warn!(%error, member = %id, "cannot remove what a member was given");
            }
        });
        if inner.forgotten.fetch_add(1, Ordering::Relaxed).is_multiple_of(PRUNE_EVERY) {
            spawn_blocking(move || {
                if let Err(error) = retention::prune(&inner.settings.state_dir) {
                    tracing::warn!(%error, member = %id, "cannot remove old logs");
                }
            });
        }
    }
}

impl Inner {
    async fn tell(&self, fact: Input) {
        // A loop that is gone learns it from the files when it comes back.
        self.facts.send(fact).await.ok();
    }

    fn dir(&self, id: MemberId) -> PathBuf {
        self.settings.state_dir.join("members").join(id.to_string())
    }

    fn files(&self, id: MemberId) -> MemberFiles {
        MemberFiles::new(&self.dir(id))
    }

    /// Prepares the folder and starts the shim; `true` when its process was seen to run, an error says why there is no
    /// shim.
    async fn start(self: &Arc<Self>, id: MemberId, launch: Arc<Launch>) -> Result<bool, String> {
        let _turn = self.starts.acquire().await.expect("the semaphore is never closed");
        let this = self.clone();
        let prepared = spawn_blocking(move || prepare::prepare(&this.settings, &this.inherited, id, &launch)).await;
        match prepared {
            Ok(Ok(())) => {}
            Ok(Err(why)) => return Err(why),
            Err(panic) => return Err(format!("preparing its folder failed: {panic}")),
        }
        let dir = self.dir(id);
        let spawned = shim_command(&self.settings.shim, &dir).and_then(|mut command| command.spawn());
        let mut shim = spawned.map_err(|err| format!("cannot start the shim {:?}: {err}", self.settings.shim))?;
        let stdout = shim.stdout.take().expect("it was asked for a pipe");
        // Dropping the handle ends nothing: tokio reaps it when it has ended.
        drop(shim);
        let mut lines = BufReader::new(stdout).lines();
        let line = timeout(START_DEADLINE, lines.next_line()).await.ok().and_then(Result::ok).flatten();
        let pid = line.as_deref().and_then(|line| line.strip_prefix("started ")).and_then(|pid| pid.parse().ok());
        if let Some(pid) = pid {
            self.tell(Input::Started { id, pid }).await;
        }
        Ok(pid.is_some())
    }

    async fn adopt(self: &Arc<Self>, id: MemberId, same_boot: bool, seal: bool) -> Input {
        let files = self.files(id);
        let exit = if let Some(exit) = files.read_exit() {
            exit.into_exit()
        } else if !same_boot {
            Exit::unknown("the node was restarted while it ran")
        } else if files.read_shim().is_some() {
            self.follow(id, false).await
        } else if !seal {
            return Input::NotStarted(id);
        } else {
            self.never_started(id, "stopped before it was started".to_owned()).await
        };
        Input::Gone { id, exit }
    }

    /// Writes the request until the disk takes it or the member has ended by itself.
    async fn stop(&self, id: MemberId, request: StopRequest) {
        let stop = StopFile { reason: request.reason, grace_ms: request.grace_ms };
        loop {
            let files = self.files(id);
            let stop = stop.clone();
            let asked =
                spawn_blocking(move || if files.read_exit().is_some() { Ok(()) } else { files.request_stop(&stop) });
            match asked.await {
                Ok(Err(err)) if err.kind() != io::ErrorKind::NotFound => {
                    tracing::error!(member = %id, error = %err, "cannot write the stop request, trying again");
                    sleep(STOP_RETRY).await;
                }
                _ => return,
            }
        }
    }
}

fn shim_command(shim: &[OsString], dir: &Path) -> io::Result<Command> {
    let (program, args) = shim.split_first().ok_or_else(|| io::Error::other("the shim's command is empty"))?;
    let mut command = Command::new(program);
    command
        .args(args)
        .arg(dir)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::options().append(true).create(true).open(dir.join("shim.log"))?);
    Ok(command)
}
