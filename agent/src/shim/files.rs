//! The files in a member's folder that shim and agent speak through.
//!
//! `spec.json` (agent): what to run. `shim.json` (shim, made once): who runs it. `started.json` (shim): the process.
//! `stop.json` (agent): end it. `bell` (fifo): look at stop.json now. `checkpoint.json` (shim): how far the job says it
//! has saved. `exit.json` (shim, synced): how it ended.
//! Comes in and goes out: these files as values. This part must never wait.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::fs::{CWD, Mode, OFlags};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::hooks::Hooks;
use crate::{
    durable,
    isolation::plan::Confinement,
    model::{Exit, How},
};

/// How to become a program of the member: read by the process that does.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
pub(crate) struct Entry {
    pub(crate) argv: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) workdir: PathBuf,
    #[serde(default)]
    pub(crate) confinement: Confinement,
    /// Takes the mounts of this process of the member instead of making some.
    #[serde(default)]
    pub(crate) mounts_of: Option<i32>,
    /// It becomes the first process of a container.
    #[serde(default)]
    pub(crate) contained: Option<Contained>,
    /// Its standard input is a terminal, which becomes its own.
    #[serde(default)]
    pub(crate) terminal: bool,
}

/// The way into a container.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub(crate) struct Contained {
    /// The program that makes containers.
    pub(crate) runtime: PathBuf,
    /// Its folder, with `config.json`.
    pub(crate) bundle: PathBuf,
    pub(crate) name: String,
    pub(crate) mounts: Vec<UserMount>,
}

impl Contained {
    /// Where the runtime leaves the number of the container's first process.
    pub(crate) fn pid_file(&self) -> PathBuf {
        self.bundle.join("pid")
    }
}

/// A path that the job names, opened as its user and put where the container's configuration finds it.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub(crate) struct UserMount {
    pub(crate) source: PathBuf,
    pub(crate) slot: PathBuf,
}

/// What to run and how long.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
pub(crate) struct ShimSpec {
    #[serde(flatten)]
    pub(crate) entry: Entry,
    /// The folder of the member's output.
    pub(crate) logs: PathBuf,
    /// Files that the job has chosen for its output beside that; opened as its user.
    #[serde(default)]
    pub(crate) stdout_copy: Option<PathBuf>,
    #[serde(default)]
    pub(crate) stderr_copy: Option<PathBuf>,
    /// Bytes kept of each stream: the newest.
    pub(crate) log_limit_bytes: u64,
    /// 0: no limit.
    pub(crate) time_limit_ms: u64,
    /// Between the request to stop and KILL, at the time limit.
    pub(crate) grace_ms: u64,
    #[serde(default)]
    pub(crate) signals: Signals,
    /// The site's own programs.
    #[serde(default)]
    pub(crate) hooks: Hooks,
    /// The pipe in which the job reports its checkpoints.
    #[serde(default)]
    pub(crate) report: Option<PathBuf>,
    pub(crate) boot_id: String,
}

/// Signals of the job's own, for those of its processes that handle them.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct Signals {
    /// First of all when it shall stop; 0: none.
    pub(crate) stop: i32,
    /// From there to TERM, inside the grace; 0: half of the grace.
    pub(crate) stop_ms: u64,
    /// Before the time limit; 0: none.
    pub(crate) limit: i32,
    /// How long before.
    pub(crate) limit_before_ms: u64,
    /// Run beside the job when it shall stop; TERM comes when it has ended, or when `stop_ms` is over.
    pub(crate) hook: Vec<String>,
}

/// The newest checkpoint that the job has reported.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CheckpointFile {
    pub(crate) step: u64,
    /// Milliseconds since the Unix epoch.
    pub(crate) at_ms: u64,
}

/// Who the shim is: a pid means something only together with its start time and the boot.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShimFile {
    pub(crate) pid: i32,
    pub(crate) start_ticks: u64,
    pub(crate) boot_id: String,
}

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct StartedFile {
    pub(crate) pid: u32,
    pub(crate) start_ticks: u64,
    pub(crate) started_ms: u64,
}

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct StopFile {
    pub(crate) reason: String,
    pub(crate) grace_ms: u64,
}

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ExitFile {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) launch_failure: Option<String>,
    pub(crate) timed_out: bool,
    pub(crate) started_ms: u64,
    pub(crate) ended_ms: u64,
    /// What the kernel refused it, in words.
    #[serde(default)]
    pub(crate) detail: String,
    /// The kernel ended processes of it: they wanted more memory than it may have.
    #[serde(default)]
    pub(crate) out_of_memory: bool,
}

impl ExitFile {
    pub(crate) fn never_ran(why: String) -> Self {
        Self { launch_failure: Some(why), ..Self::default() }
    }

    pub(crate) fn into_exit(self) -> Exit {
        let how = match (self.launch_failure, self.code, self.signal) {
            (Some(why), _, _) => How::LaunchFailure(why),
            (None, Some(code), _) => How::Code(code),
            (None, None, Some(signal)) => How::Signal(signal),
            (None, None, None) => How::Unknown("the shim did not see how it ended".to_owned()),
        };
        Exit {
            how,
            timed_out: self.timed_out,
            started_ms: self.started_ms,
            ended_ms: self.ended_ms,
            detail: self.detail,
            out_of_memory: self.out_of_memory,
        }
    }
}

/// The paths of one member's folder.
#[derive(Debug, Clone)]
pub(crate) struct MemberFiles {
    dir: PathBuf,
}

impl MemberFiles {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// The folder, as the member's mark names it.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(crate) fn read_spec(&self) -> io::Result<ShimSpec> {
        serde_json::from_slice(&fs::read(self.path("spec.json"))?).map_err(io::Error::from)
    }

    pub(crate) fn read_entry(&self) -> io::Result<Entry> {
        serde_json::from_slice(&fs::read(self.path("spec.json"))?).map_err(io::Error::from)
    }

    pub(crate) fn write_entry(&self, entry: &Entry) -> io::Result<()> {
        durable::replace_unsynced(&self.path("spec.json"), &serde_json::to_vec(entry)?)
    }

    pub(crate) fn write_checkpoint(&self, checkpoint: CheckpointFile) -> io::Result<()> {
        durable::replace_unsynced(&self.path("checkpoint.json"), &serde_json::to_vec(&checkpoint)?)
    }

    pub(crate) fn read_checkpoint(&self) -> Option<CheckpointFile> {
        self.read("checkpoint.json")
    }

    /// The whole shim depends on it, so it is replaced as one; a node that restarts starts nothing from it.
    pub(crate) fn write_spec(&self, spec: &ShimSpec) -> io::Result<()> {
        durable::replace_unsynced(&self.path("spec.json"), &serde_json::to_vec(spec)?)
    }

    /// True for the one claimant who may start the process.
    pub(crate) fn claim(&self, shim: &ShimFile) -> io::Result<bool> {
        durable::create_once(&self.path("shim.json"), &serde_json::to_vec(shim)?)
    }

    pub(crate) fn read_shim(&self) -> Option<ShimFile> {
        self.read("shim.json")
    }

    pub(crate) fn write_started(&self, started: &StartedFile) -> io::Result<()> {
        durable::replace_unsynced(&self.path("started.json"), &serde_json::to_vec(started)?)
    }

    pub(crate) fn read_started(&self) -> Option<StartedFile> {
        self.read("started.json")
    }

    pub(crate) fn read_stop(&self) -> Option<StopFile> {
        self.read("stop.json")
    }

    /// Asks the shim to end the member, now or when it comes up.
    pub(crate) fn request_stop(&self, stop: &StopFile) -> io::Result<()> {
        durable::replace_unsynced(&self.path("stop.json"), &serde_json::to_vec(stop)?)?;
        let bell = OpenOptions::new().write(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(self.path("bell"));
        match bell.and_then(|mut bell| bell.write_all(b"!")) {
            Ok(()) => Ok(()),
            // Nobody listens yet, or any more, or the bell is full of rings: the file is what counts.
            Err(_) => Ok(()),
        }
    }

    pub(crate) fn write_exit(&self, exit: &ExitFile) -> io::Result<()> {
        durable::replace(&self.path("exit.json"), &serde_json::to_vec(exit)?)
    }

    pub(crate) fn read_exit(&self) -> Option<ExitFile> {
        self.read("exit.json")
    }

    /// Files are replaced whole: what is absent or unreadable counts as not said.
    fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_slice(&fs::read(self.path(name)).ok()?).ok()
    }
}

/// The fifo at which the agent rings.
pub(crate) struct Bell {
    pub(crate) fifo: File,
}

impl Bell {
    pub(crate) fn hang(files: &MemberFiles) -> io::Result<Self> {
        let path = files.path("bell");
        match rustix::fs::mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(err) => return Err(err.into()),
        }
        // Open for writing too: otherwise the end of the first ringer would look like the end of the bell.
        let flags = OFlags::NONBLOCK.bits() as i32;
        let fifo = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
        Ok(Self { fifo })
    }

    /// Takes all rings.
    pub(crate) fn hush(&self) {
        let mut rings = [0; 64];
        while (&self.fifo).read(&mut rings).is_ok_and(|count| count > 0) {}
    }
}

/// Wall clock for people and accounts; no decision of the shim reads it.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis().try_into().unwrap_or(u64::MAX))
}
