//! The agent's settings: from `agent.toml`, or made by the binary and by tests.
//!
//! Comes in: text. Goes out: settings that were checked as a whole before anything starts; an error names the field,
//! its value and the remedy. This part must never guess a value that decides who may connect where.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tonic::transport::Uri;

use crate::{
    checks::ChecksConfig,
    inventory::health::HealthConfig,
    isolation::IsolationConfig,
    launch::{ContainersConfig, rendezvous::Network},
};

/// The longest name of a node.
pub const MAX_NODE_NAME: usize = 128;
/// Heartbeats may not come faster than this, in milliseconds.
pub const MIN_HEARTBEAT_MS: u64 = 10;
/// No test takes more of a GPU's memory than this.
const MAX_GPU_MEMORY_PERCENT: u8 = 90;

/// What one agent is told about its node and its scheduler.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// The node's name: letters, digits, '-', '.', '_'.
    pub node: String,
    /// The schedulers' addresses, tried in turn: `https://name:port`, or `http://` on a loopback address.
    pub scheduler: Vec<String>,
    /// The folder where leases, logs and the node's identity are kept.
    pub state_dir: PathBuf,
    /// Where GPUs come from.
    #[serde(default)]
    pub gpus: GpuSource,
    /// How members are run.
    #[serde(default)]
    pub launcher: LauncherKind,
    /// Name or address under which other members reach this node; the node's name when absent.
    #[serde(default)]
    pub address: Option<String>,
    /// Where the node stands.
    #[serde(default)]
    pub location: Location,
    /// The authority (PEM) that signed the scheduler's certificate; needed to join over TLS.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// A file with the join token; on a plaintext loopback address it is shown on the session too.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// Time between heartbeats; the scheduler's word when absent.
    #[serde(default)]
    pub heartbeat_ms: Option<u64>,
    /// The shim's command, to which the member's folder is appended; `[this program, "shim"]` when empty.
    #[serde(default)]
    pub shim: Vec<String>,
    /// In place of the kernel's boot id: for tests, and for nodes that share a kernel.
    #[serde(default)]
    pub boot_id: Option<String>,
    /// Bytes kept of each output stream of a member: the newest.
    #[serde(default)]
    pub log_limit_bytes: Option<u64>,
    /// How members are kept apart.
    #[serde(default)]
    pub isolation: IsolationConfig,
    /// Programs of the site around every member.
    #[serde(default)]
    pub hooks: HooksConfig,
    /// Images of containers, and their runtime.
    #[serde(default)]
    pub containers: ContainersConfig,
    /// Checks of the node before its first use.
    #[serde(default)]
    pub checks: ChecksConfig,
    /// How verdicts on GPUs are found.
    #[serde(default)]
    pub health: HealthConfig,
    /// What NCCL and Gloo are told about the networks.
    #[serde(default)]
    pub network: Network,
    /// CPU to offer, in thousandths; what the kernel shows when absent.
    #[serde(default)]
    pub cpu_milli: Option<u64>,
    /// Memory to offer; what the kernel shows when absent.
    #[serde(default)]
    pub memory_mib: Option<u64>,
    /// What jobs may ask of a node: names and values.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// Programs of the site, run with the agent's rights and a clean environment.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct HooksConfig {
    /// Before a member begins, with its arguments; a failure is a failed launch, which is tried elsewhere. Empty: none.
    pub prolog: Vec<String>,
    /// After all of a member has ended and before its GPUs are free.
    pub epilog: Vec<String>,
    /// How long each may take.
    pub limit_s: u64,
}

impl Default for HooksConfig {
    fn default() -> Self {
        Self { prolog: Vec::new(), epilog: Vec::new(), limit_s: 60 }
    }
}

/// Where a node stands, when the scheduler's topology file does not say.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Location {
    /// The site.
    pub site: String,
    /// The spine below it.
    pub spine: String,
    /// The leaf below that.
    pub leaf: String,
    /// The NVLink domain that spans nodes, if there is one.
    pub nvlink_domain: String,
}

/// Where GPUs come from.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, tag = "source", rename_all = "lowercase")]
pub enum GpuSource {
    /// NVML: the driver's library, or the one named.
    Nvml {
        /// Path of the library; `libnvidia-ml.so.1` when absent.
        #[serde(default)]
        lib: Option<PathBuf>,
    },
    /// The fake NVML library, written to the state folder and loaded like the real one.
    Fake {
        /// What it shows; the format is described in the `fake-nvml` crate.
        conf: String,
    },
    /// No library: GPUs that exist only as numbers, for load tests.
    Simulated {
        /// How many.
        count: u32,
        /// Their model.
        model: String,
        /// The memory of each.
        memory_mib: u64,
    },
    /// A node without GPUs.
    None,
}

impl Default for GpuSource {
    fn default() -> Self {
        Self::Nvml { lib: None }
    }
}

/// How members are run.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum LauncherKind {
    /// As processes under shims; leases on disk.
    #[default]
    Process,
    /// As timers; leases in memory.
    Simulated,
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {source}: name a readable file with --config")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is no TOML, or has a field that does not exist.
    #[error("{path}: {why}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and what.
        why: String,
    },
    /// A value that cannot be.
    #[error("{field} = {value}: {remedy}")]
    Value {
        /// The field.
        field: &'static str,
        /// What it is.
        value: String,
        /// What it should be.
        remedy: &'static str,
    },
}

fn bad(field: &'static str, value: impl Into<String>, remedy: &'static str) -> ConfigError {
    ConfigError::Value { field, value: value.into(), remedy }
}

impl AgentConfig {
    /// Settings with everything optional left out, NVML for GPUs and processes for members.
    pub fn new(node: impl Into<String>, scheduler: impl Into<String>, state_dir: impl Into<PathBuf>) -> Self {
        Self {
            node: node.into(),
            scheduler: vec![scheduler.into()],
            state_dir: state_dir.into(),
            gpus: GpuSource::default(),
            launcher: LauncherKind::default(),
            address: None,
            location: Location::default(),
            ca: None,
            token_file: None,
            heartbeat_ms: None,
            shim: Vec::new(),
            boot_id: None,
            log_limit_bytes: None,
            isolation: IsolationConfig::default(),
            network: Network::default(),
            health: HealthConfig::default(),
            hooks: HooksConfig::default(),
            containers: ContainersConfig::default(),
            checks: ChecksConfig::default(),
            cpu_milli: None,
            memory_mib: None,
            labels: BTreeMap::new(),
        }
    }

    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text =
            fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        let config: Self = toml::from_str(&text)
            .map_err(|err| ConfigError::Malformed { path: path.to_owned(), why: err.to_string() })?;
        config.check()?;
        Ok(config)
    }

    /// Refuses what cannot work, before anything is started.
    pub fn check(&self) -> Result<(), ConfigError> {
        let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if self.node.is_empty() || self.node.len() > MAX_NODE_NAME || !self.node.chars().all(named) {
            return Err(bad("node", format!("{:?}", self.node), "use 1 to 128 letters, digits, '-', '.' or '_'"));
        }
        if self.scheduler.is_empty() {
            return Err(bad("scheduler", "[]", "name at least one address, as in [\"https://sched-1:7070\"]"));
        }
        for endpoint in &self.scheduler {
            check_endpoint(endpoint)?;
        }
        if self.state_dir.as_os_str().is_empty() || self.state_dir.to_str().is_none() {
            return Err(bad("state_dir", format!("{:?}", self.state_dir), "name a folder, in UTF-8"));
        }
        if let Some(ms) = self.heartbeat_ms
            && ms < MIN_HEARTBEAT_MS
        {
            return Err(bad("heartbeat_ms", ms.to_string(), "use 10 or more, or leave it to the scheduler"));
        }
        if let Some(code) = self.health.xids.keys().find(|code| code.parse::<u64>().is_err()) {
            return Err(bad("health.xids", code.clone(), "name XIDs by number, as in 79 = \"reset-gpu\""));
        }
        if self.checks.gpu_memory_percent > MAX_GPU_MEMORY_PERCENT {
            let percent = self.checks.gpu_memory_percent.to_string();
            return Err(bad("checks.gpu_memory_percent", percent, "use 0 (no test) to 90"));
        }
        if self.log_limit_bytes == Some(0) {
            return Err(bad("log_limit_bytes", "0", "use 1 or more; to keep no log let the job write to /dev/null"));
        }
        if let Some(root) = &self.isolation.cgroup_root
            && !root.is_absolute()
        {
            let remedy = "name an absolute folder of cgroup v2";
            return Err(bad("isolation.cgroup_root", root.display().to_string(), remedy));
        }
        if self.launcher == LauncherKind::Process && matches!(self.gpus, GpuSource::Simulated { .. }) {
            let remedy = "processes need GPUs with UUIDs: use source = \"fake\", or launcher = \"simulated\"";
            return Err(bad("gpus.source", "\"simulated\"", remedy));
        }
        Ok(())
    }

    /// The shim's command.
    pub(crate) fn shim_command(&self) -> io::Result<Vec<OsString>> {
        if self.shim.is_empty() {
            return Ok(vec![std::env::current_exe()?.into_os_string(), OsString::from("shim")]);
        }
        Ok(self.shim.iter().map(OsString::from).collect())
    }

    /// The join token, if there is one.
    pub(crate) fn token(&self) -> Result<Option<String>, ConfigError> {
        let Some(path) = &self.token_file else { return Ok(None) };
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.clone(), source })?;
        let token = text.trim().to_owned();
        if token.is_empty() || !token.chars().all(|c| c.is_ascii_graphic()) {
            let value = path.display().to_string();
            return Err(bad("token_file", value, "the file must hold one token of visible ASCII characters"));
        }
        Ok(Some(token))
    }
}

/// True for an address that speaks TLS.
pub(crate) fn is_tls(endpoint: &str) -> bool {
    endpoint.starts_with("https://")
}

fn check_endpoint(endpoint: &str) -> Result<(), ConfigError> {
    let uri: Uri = endpoint.parse().map_err(|_| bad("scheduler", endpoint, "expected https://name:port"))?;
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match uri.scheme_str() {
        _ if host.is_empty() => Err(bad("scheduler", endpoint, "expected https://name:port")),
        Some("https") => Ok(()),
        Some("http") if loopback => Ok(()),
        Some("http") => Err(bad("scheduler", endpoint, "plaintext is for loopback addresses only: use https://")),
        _ => Err(bad("scheduler", endpoint, "expected https://name:port")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut AgentConfig)) -> String {
        let mut config = AgentConfig::new("n0", "http://127.0.0.1:7070", "/var/lib/dure");
        change(&mut config);
        config.check().expect_err("must be refused").to_string()
    }

    #[test]
    fn errors_name_the_field_the_value_and_the_remedy() {
        assert!(refused(|c| c.node = "a b".to_owned()).starts_with("node = \"a b\": use 1 to 128 letters"));
        assert!(refused(|c| c.scheduler.clear()).starts_with("scheduler = []: name at least one address"));
        let plain = refused(|c| c.scheduler = vec!["http://10.0.0.1:7070".to_owned()]);
        assert_eq!(plain, "scheduler = http://10.0.0.1:7070: plaintext is for loopback addresses only: use https://");
        assert!(refused(|c| c.scheduler = vec!["nonsense".to_owned()]).contains("expected https://name:port"));
        assert!(refused(|c| c.heartbeat_ms = Some(1)).starts_with("heartbeat_ms = 1"));
        let simulated = GpuSource::Simulated { count: 8, model: "H100".to_owned(), memory_mib: 81_559 };
        assert!(refused(|c| c.gpus = simulated).starts_with("gpus.source"));
    }

    #[test]
    fn the_example_of_the_deployment_is_taken() {
        let example = include_str!("../../deploy/agent.toml");
        let parse = |text: &str| toml::from_str::<AgentConfig>(text).map_err(|err| err.to_string());
        let plain = parse(example).expect("parses");
        plain.check().expect("is accepted");
        // What it only shows must exist, too: a comment that opens with a setting is one.
        let setting = |line: &str| line.strip_prefix("# ").filter(|line| line.contains(" = ")).map(str::to_owned);
        let full: Vec<String> = example.lines().map(|line| setting(line).unwrap_or_else(|| line.to_owned())).collect();
        parse(&full.join("\n")).expect("parses with everything in it").check().expect("is accepted");
    }

    #[test]
    fn a_file_is_read_and_an_unknown_field_is_an_error_with_its_line() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("agent.toml");
        let text = "node = \"n7\"\nscheduler = [\"https://s1:7070\", \"http://[::1]:7070\"]\n\
                    state_dir = \"/var/lib/dure\"\n[gpus]\nsource = \"fake\"\nconf = \"gpus 8\"\n[location]\nleaf = \"l3\"\n";
        fs::write(&path, text).expect("writes");
        let config = AgentConfig::load(&path).expect("loads");
        assert_eq!((config.node.as_str(), config.location.leaf.as_str()), ("n7", "l3"));
        assert_eq!(config.gpus, GpuSource::Fake { conf: "gpus 8".to_owned() });
        fs::write(&path, text.replace("leaf", "leef")).expect("writes");
        let message = AgentConfig::load(&path).expect_err("refuses").to_string();
        assert!(message.contains("leef") && message.contains("line 8"), "{message}");
    }
}
