//! The `[isolation]` section of `agent.toml`.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

/// How members are kept apart.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct IsolationConfig {
    /// `auto`: all that the node can do, and what it cannot is said; `strict`: all of it or no start; `off`: none.
    pub mode: IsolationMode,
    /// A delegated cgroup v2 folder; `dure` below the mount of cgroup v2 when absent.
    pub cgroup_root: Option<PathBuf>,
    /// Processes and threads of one member.
    pub pids: u64,
    /// Keep members to the CPUs on the memory sides of their GPUs.
    pub pin_cpus: bool,
    /// Deny the devices of GPUs that were not granted.
    pub guard_devices: bool,
    /// A /tmp, /var/tmp and /dev/shm of its own for every job.
    pub private_tmp: bool,
    /// As whom members run.
    pub run_as: RunAs,
    /// Accounts of Dure's users on this node; a user who is not named here has an account of the same name.
    pub users: BTreeMap<String, String>,
    /// The lowest user id that members may have.
    pub min_uid: u32,
    /// Set-uid programs give members no rights.
    pub no_new_privs: bool,
    /// Resource limits by name (nofile, memlock, core, stack, nproc, as, fsize): a number or "unlimited".
    pub rlimits: BTreeMap<String, Limit>,
}

impl Default for IsolationConfig {
    fn default() -> Self {
        let rlimits = [("core", Limit::Of(0)), ("memlock", Limit::Unlimited)];
        Self {
            mode: IsolationMode::default(),
            cgroup_root: None,
            pids: 32_768,
            pin_cpus: true,
            guard_devices: true,
            private_tmp: true,
            run_as: RunAs::default(),
            users: BTreeMap::new(),
            min_uid: 1_000,
            no_new_privs: true,
            rlimits: rlimits.into_iter().map(|(name, limit)| (name.to_owned(), limit)).collect(),
        }
    }
}

/// How much isolation is wanted.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum IsolationMode {
    /// None: plain processes.
    Off,
    /// What the node can do.
    #[default]
    Auto,
    /// All of it, or the agent does not start.
    Strict,
}

/// As whom members run.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum RunAs {
    /// As the account of the user who submitted the job.
    #[default]
    User,
    /// As the agent's own user.
    Agent,
}

/// A resource limit, soft and hard.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(try_from = "toml::Value", into = "toml::Value")]
pub enum Limit {
    /// None.
    Unlimited,
    /// This much, in the unit of setrlimit(2).
    Of(u64),
}

impl TryFrom<toml::Value> for Limit {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Self, String> {
        match &value {
            toml::Value::String(word) if word == "unlimited" => Ok(Self::Unlimited),
            toml::Value::Integer(number) if *number >= 0 => Ok(Self::Of(number.unsigned_abs())),
            other => Err(format!("{other}: a limit is a number or \"unlimited\"")),
        }
    }
}

impl From<Limit> for toml::Value {
    fn from(limit: Limit) -> Self {
        match limit {
            Limit::Unlimited => Self::String("unlimited".to_owned()),
            Limit::Of(number) => Self::Integer(number.try_into().unwrap_or(i64::MAX)),
        }
    }
}
