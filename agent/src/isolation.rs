//! What keeps a member to what it was granted: cgroups, devices, a private /tmp, a user of its own, limits.
//!
//! Comes in: the configuration, what this node's kernel offers, and a grant. Goes out: a `Confinement`, plain data that
//! the shim carries out; and the list of what this node cannot keep, which is shown, or refuses the start in strict mode.
//! This part must never weaken a rule silently, and never open what a job names.

pub(crate) mod account;
mod config;
pub(crate) mod devices;
pub(crate) mod groups;
mod hierarchies;
mod numa;
pub(crate) mod plan;

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use self::config::{IsolationConfig, IsolationMode, Limit, RunAs};
use self::{
    account::Account,
    groups::{Grant, Kept},
    hierarchies::Hierarchies,
    numa::Sides,
    plan::{Bind, Confinement, Rlimit},
};
use crate::{inventory::GpuFacts, model::MemberId};

/// Why members cannot be kept apart as configured.
#[derive(Debug, thiserror::Error)]
pub enum IsolationError {
    /// Strict mode, and the node cannot do all of it.
    #[error(
        "isolation.mode = \"strict\": this node cannot keep members apart: {}: mend it, or use \"auto\" to run in the \
         weaker mode",
        .0.join("; ")
    )]
    Weaker(Vec<String>),
    /// A folder could not be made ready.
    #[error("{path}: {source}: isolation needs it; mend it, or set isolation.mode = \"off\"")]
    Folder {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// How this node keeps members apart. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Isolation {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: IsolationConfig,
    state_dir: PathBuf,
    kept: Kept,
    sides: Sides,
    /// GPUs of the node: index, device minor, memory side.
    gpus: Vec<(u32, u32, u32)>,
    private_tmp: bool,
    switches_user: bool,
    weaker: Vec<String>,
}

/// Whom a member is confined for, and what it was granted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Granted<'a> {
    pub(crate) id: MemberId,
    /// Indices on this node.
    pub(crate) gpus: &'a [u32],
    /// 0: not limited.
    pub(crate) cpu_milli: u64,
    /// 0: not limited.
    pub(crate) memory_mib: u64,
    /// Other members of its gang lie on this node too: they speak through shared memory.
    pub(crate) shares_node: bool,
    pub(crate) account: Option<&'a Account>,
}

impl Isolation {
    /// No isolation at all: members are plain processes of the agent's user.
    pub fn off(state_dir: &Path) -> Self {
        let config = IsolationConfig { mode: IsolationMode::Off, ..IsolationConfig::default() };
        Self::with(config, state_dir, Kept::default(), &[], Vec::new())
    }

    /// Looks at the node and makes its folders ready. Blocking.
    ///
    /// # Errors
    /// In strict mode, when anything cannot be kept.
    pub fn find(config: &IsolationConfig, state_dir: &Path, gpus: &[GpuFacts]) -> Result<Self, IsolationError> {
        if config.mode == IsolationMode::Off {
            return Ok(Self::off(state_dir));
        }
        let (kept, weaker) = groups::find(&Hierarchies::find(), config, state_dir);
        let found = Self::with(config.clone(), state_dir, kept, gpus, weaker);
        if config.mode == IsolationMode::Strict && !found.weaker().is_empty() {
            return Err(IsolationError::Weaker(found.weaker().to_vec()));
        }
        if found.inner.switches_user {
            for path in [state_dir.to_owned(), found.run_root(), state_dir.join("work"), state_dir.join("tmp")] {
                reachable(&path).map_err(|source| IsolationError::Folder { path, source })?;
            }
        }
        Ok(found)
    }

    fn with(config: IsolationConfig, state_dir: &Path, kept: Kept, gpus: &[GpuFacts], mut weaker: Vec<String>) -> Self {
        let on = config.mode != IsolationMode::Off;
        let root = rustix::process::geteuid().is_root();
        let hidden = ["/tmp", "/var/tmp", "/dev/shm"].iter().any(|dir| state_dir.starts_with(dir));
        let private_tmp = on && config.private_tmp && root && !hidden;
        let switches_user = on && config.run_as == RunAs::User && root;
        if on && config.private_tmp && !private_tmp {
            weaker.push(if hidden {
                format!("members share /tmp: state_dir {} lies in it", state_dir.display())
            } else {
                "members share /tmp: the agent is not root".to_owned()
            });
        }
        if on && !switches_user {
            weaker.push(match (config.run_as, root) {
                (RunAs::User, _) => "members run as the agent's user: the agent is not root".to_owned(),
                (RunAs::Agent, true) => {
                    "members run as root (run_as = \"agent\"): they can undo all of this".to_owned()
                }
                (RunAs::Agent, false) => "members run as the agent's user (run_as = \"agent\")".to_owned(),
            });
        }
        let gpus = gpus.iter().map(|gpu| (gpu.index, gpu.minor.unwrap_or(gpu.index), gpu.numa_node)).collect();
        let sides = if on { Sides::of_this_node() } else { Sides::default() };
        let state_dir = state_dir.to_owned();
        Self { inner: Arc::new(Inner { config, state_dir, kept, sides, gpus, private_tmp, switches_user, weaker }) }
    }

    /// What this node does not keep, in words; empty: all of it is kept, or isolation is off.
    pub fn weaker(&self) -> &[String] {
        &self.inner.weaker
    }

    /// Whether members are confined at all.
    pub fn is_on(&self) -> bool {
        self.inner.config.mode != IsolationMode::Off
    }

    /// Where members find what they are given: script, report pipe, host file.
    pub(crate) fn run_root(&self) -> PathBuf {
        self.inner.state_dir.join("run")
    }

    /// The account of a submitting user; none where members run as the agent's user. Blocking.
    pub(crate) fn account(&self, user: &str) -> Result<Option<Account>, String> {
        if !self.inner.switches_user {
            return Ok(None);
        }
        account::resolve(&self.inner.config, user).map(Some)
    }

    /// The private /tmp of an attempt on this node; its members here share it.
    pub(crate) fn tmp_dir(&self, id: MemberId) -> Option<PathBuf> {
        let name = format!("{}.{}", id.job, id.attempt);
        self.inner.private_tmp.then(|| self.inner.state_dir.join("tmp").join(name))
    }

    /// What the shim shall carry out. Pure.
    pub(crate) fn confine(&self, granted: &Granted<'_>) -> Confinement {
        let inner = &*self.inner;
        if !self.is_on() {
            return Confinement::default();
        }
        let own = |index: &u32| inner.gpus.iter().find(|(gpu, ..)| gpu == index);
        let minors: Vec<u32> = granted.gpus.iter().filter_map(own).map(|(_, minor, _)| *minor).collect();
        let sides: Vec<u32> = granted.gpus.iter().filter_map(own).map(|(_, _, side)| *side).collect();
        let cpus = if inner.config.pin_cpus { inner.sides.cpus_beside(&sides, granted.cpu_milli) } else { None };
        let guards = if inner.config.guard_devices { devices::guards(&minors) } else { Vec::new() };
        let grant = Grant {
            name: granted.id.to_string(),
            cpu_milli: granted.cpu_milli,
            memory_mib: granted.memory_mib,
            pids: inner.config.pids,
            cpus,
            guards,
        };
        let (cgroups, device_program) = groups::plan(&inner.kept, &grant);
        let binds = self.tmp_dir(granted.id).map(|dir| {
            let bind = |name: &str, target: &str| Bind { source: dir.join(name), target: PathBuf::from(target) };
            vec![bind("tmp", "/tmp"), bind("var-tmp", "/var/tmp")]
        });
        Confinement {
            cgroups,
            device_program,
            own_shm: binds.is_some() && !granted.shares_node,
            binds: binds.unwrap_or_default(),
            account: granted.account.cloned(),
            rlimits: inner.config.rlimits.iter().map(|(name, limit)| Rlimit::new(name, *limit)).collect(),
            no_new_privs: inner.config.no_new_privs && inner.switches_user,
            memory_mib: granted.memory_mib,
            pids: inner.config.pids,
        }
    }

    /// Removes what the last member of an attempt on this node leaves behind. Blocking.
    pub(crate) fn forget(&self, id: MemberId) -> io::Result<()> {
        remove(&self.run_root().join(id.to_string()))?;
        let Some(tmp) = self.tmp_dir(id) else { return Ok(()) };
        let attempt = format!("{}.{}.", id.job, id.attempt);
        let members = self.inner.state_dir.join("members");
        let others = fs::read_dir(members)?.filter_map(Result::ok).any(|entry| {
            let name = entry.file_name();
            name.to_str().is_some_and(|name| name.starts_with(&attempt) && *name != id.to_string())
        });
        if others { Ok(()) } else { remove(&tmp) }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
        _ => Ok(()),
    }
}

/// Makes a folder that others may pass through and not list.
fn reachable(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o011 == 0o011 { Ok(()) } else { fs::set_permissions(path, fs::Permissions::from_mode(mode | 0o011)) }
}
