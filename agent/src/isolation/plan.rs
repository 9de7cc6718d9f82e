//! A confinement as data: what the shim carries out before a member's program begins.
//!
//! It lies in `spec.json`, so that the shim needs no agent, and the agent's next life knows what to sweep.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{account::Account, config::Limit, devices::Guard};

/// Everything that confines one member; the default confines nothing.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct Confinement {
    /// In the order in which they are made and entered.
    pub(crate) cgroups: Vec<CgroupDir>,
    pub(crate) device_program: Option<DeviceProgram>,
    pub(crate) binds: Vec<Bind>,
    /// A fresh /dev/shm.
    pub(crate) own_shm: bool,
    pub(crate) account: Option<Account>,
    pub(crate) rlimits: Vec<Rlimit>,
    pub(crate) no_new_privs: bool,
    /// For the words about what the kernel refused; 0: not limited.
    pub(crate) memory_mib: u64,
    pub(crate) pids: u64,
}

/// One cgroup of the member, in one hierarchy.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct CgroupDir {
    pub(crate) path: PathBuf,
    #[serde(default)]
    pub(crate) writes: Vec<Write>,
}

/// One line into one file of a cgroup.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) file: String,
    pub(crate) value: String,
    /// Kernels without this file do without.
    #[serde(default)]
    pub(crate) optional: bool,
}

/// Device rules that the kernel asks as a program (cgroup v2).
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeviceProgram {
    pub(crate) cgroup: PathBuf,
    pub(crate) guards: Vec<Guard>,
}

/// A folder in place of another, for the member alone.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bind {
    pub(crate) source: PathBuf,
    pub(crate) target: PathBuf,
}

/// One resource limit, soft and hard; absent: unlimited.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rlimit {
    pub(crate) name: String,
    pub(crate) limit: Option<u64>,
}

impl Rlimit {
    pub(crate) fn new(name: &str, limit: Limit) -> Self {
        let limit = match limit {
            Limit::Unlimited => None,
            Limit::Of(number) => Some(number),
        };
        Self { name: name.to_owned(), limit }
    }
}
