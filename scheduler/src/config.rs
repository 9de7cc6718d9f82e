//! The scheduler's configuration: one TOML file in, checked settings out.
//!
//! Everything is checked before anything starts; an error names the field, its value and the remedy, and for what is no
//! valid TOML the line. The file defines what is not yet known to the journal; what was changed at run time stays.

mod check;
mod etcd;
mod keep;
mod ledgers;
mod policy;
mod span;
mod topology;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use dure_core::input::{Input, QuotaDraft, TenantDraft};
use dure_core::node::Location;
use dure_core::units::{Gpus, Span};
use dure_core::{Cluster, Policy};
use serde::Deserialize;

pub use etcd::EtcdSettings;
pub use keep::{HistoryConfig, JournalConfig, LimitsConfig};
use ledgers::{BudgetConfig, CapsConfig, IdleConfig};
use policy::PolicyConfig;

use crate::agents::breaker;
use crate::agents::liveness::Deadlines;
use crate::auth::AuthPolicy;
use crate::follower::FollowerConfig;

/// Largest configuration or topology file, in bytes.
const MAX_FILE: u64 = 64 << 20;

/// The settings.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where gRPC is served.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// Where `/metrics` is served, in plain HTTP; nowhere when absent.
    #[serde(default)]
    pub metrics_listen: Option<SocketAddr>,
    /// Folder of the journal and of the authority.
    pub data_dir: PathBuf,
    /// TLS; without this section it is on wherever `listen` is not a loopback address.
    #[serde(default)]
    pub tls: Option<TlsConfig>,
    /// File with the digests of tokens.
    #[serde(default)]
    pub tokens: Option<PathBuf>,
    /// Calls without a credential are this operator's. Only where every address is a loopback one.
    #[serde(default)]
    pub local_operator: Option<String>,
    /// File that says where nodes stand.
    #[serde(default)]
    pub topology: Option<PathBuf>,
    #[serde(default, rename = "pool")]
    pools: Vec<PoolConfig>,
    #[serde(default, rename = "tenant")]
    tenants: Vec<TenantConfig>,
    #[serde(default)]
    policy: PolicyConfig,
    /// When silence means what.
    #[serde(default)]
    pub liveness: LivenessConfig,
    /// How often the state is written down as a whole.
    #[serde(default)]
    pub snapshot: SnapshotConfig,
    /// How often start estimates are renewed.
    #[serde(default)]
    pub estimates: EstimatesConfig,
    /// How long the history is kept.
    #[serde(default)]
    pub history: HistoryConfig,
    /// How much of the journal is kept behind its snapshots.
    #[serde(default)]
    pub journal: JournalConfig,
    /// How much one caller may ask.
    #[serde(default)]
    pub limits: LimitsConfig,
    /// What is asked about lost nodes; without it an operator's word or a new boot is waited for.
    #[serde(default)]
    pub fence: Option<FenceConfig>,
    /// The journal lies in etcd and several schedulers stand for the leadership; without this section one scheduler keeps
    /// it in `data_dir`.
    #[serde(default)]
    pub etcd: Option<EtcdSettings>,
    /// Where clients and agents reach this scheduler among several: `https://name:port`.
    #[serde(default)]
    pub advertise: Option<String>,
}

/// How the server proves itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// Certificate with its chain, PEM; made by the cluster's own authority when absent.
    pub cert: Option<PathBuf>,
    /// Its key, PEM.
    pub key: Option<PathBuf>,
    /// Further names and addresses for a certificate of the own authority.
    pub names: Vec<String>,
}

/// A pool.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct PoolConfig {
    /// Its name.
    name: String,
    /// GPU model as NVML names it.
    model: String,
    /// GPUs of each of its nodes.
    gpus_per_node: u8,
    /// So many of its nodes are kept free for gangs that lost one.
    #[serde(default)]
    spares: u32,
}

/// A tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct TenantConfig {
    /// Path, as `fusion/plasma`.
    name: String,
    /// Pool of the three fields below; the first one when absent.
    #[serde(default)]
    pool: Option<String>,
    /// Guaranteed GPUs.
    #[serde(default)]
    quota: Option<u32>,
    /// Ceiling, borrowed GPUs included.
    #[serde(default)]
    limit: Option<u32>,
    /// Most of its idle quota that others may use; all when absent.
    #[serde(default)]
    lend_limit: Option<u32>,
    /// Share of the surplus.
    #[serde(default)]
    weight: Option<u32>,
    /// For jobs that state none.
    #[serde(default, deserialize_with = "span::optional")]
    default_time_limit: Option<Span>,
    /// How long an attempt runs before it may be evicted.
    #[serde(default, deserialize_with = "span::optional")]
    min_run: Option<Span>,
    /// GPU-hours in each period.
    #[serde(default)]
    budget: Option<BudgetConfig>,
    /// What single users and jobs may have.
    #[serde(default)]
    caps: Option<CapsConfig>,
    /// How long its jobs wait inside its quota before lent GPUs are taken back for them.
    #[serde(default, deserialize_with = "span::optional")]
    reclaim_within: Option<Span>,
    /// What is done about attempts whose GPUs do no work.
    #[serde(default)]
    idle: Option<IdleConfig>,
    /// Quotas of further pools.
    #[serde(default)]
    pools: Vec<QuotaConfig>,
}

/// The quota of one pool.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct QuotaConfig {
    /// Name of the pool.
    pool: String,
    /// Guaranteed GPUs.
    quota: u32,
    /// Ceiling.
    #[serde(default)]
    limit: Option<u32>,
    /// Most that is lent.
    #[serde(default)]
    lend_limit: Option<u32>,
}

/// When silence means what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LivenessConfig {
    /// How often agents speak.
    #[serde(deserialize_with = "span::required")]
    pub heartbeat: Span,
    /// Nothing new goes to a node silent for this long.
    #[serde(deserialize_with = "span::required")]
    pub suspect_after: Span,
    /// Gangs on a node silent for this long are broken up.
    #[serde(deserialize_with = "span::required")]
    pub lost_after: Span,
    /// What share of the fleet's GPUs may be fenced by agents' verdicts alone, in percent; two nodes' worth always may.
    pub fence_percent: u32,
}

impl Default for LivenessConfig {
    fn default() -> Self {
        Self {
            heartbeat: Span::seconds(1),
            suspect_after: Span::seconds(15),
            lost_after: Span::seconds(60),
            fence_percent: breaker::DEFAULT_PERCENT,
        }
    }
}

/// A command that can switch a lost node off, and says whether it is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FenceConfig {
    /// Program and arguments; the node's name is added. Believed only when it ends with 0 and prints exactly `dead`.
    pub command: Vec<String>,
    /// How long it may take.
    #[serde(default = "default_fence_timeout", deserialize_with = "span::required")]
    pub timeout: Span,
    /// After an answer that proved nothing it is asked again so much later.
    #[serde(default = "default_fence_again", deserialize_with = "span::required")]
    pub again_after: Span,
}

fn default_fence_timeout() -> Span {
    Span::seconds(60)
}

fn default_fence_again() -> Span {
    Span::seconds(60)
}

/// How often the state is written down as a whole: whichever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SnapshotConfig {
    /// After so many events.
    pub every_events: u64,
    /// After this long, if anything happened.
    #[serde(deserialize_with = "span::required")]
    pub every: Span,
}

impl Default for SnapshotConfig {
    fn default() -> Self {
        let FollowerConfig { snapshot_events, snapshot_span, .. } = FollowerConfig::standard();
        Self { every_events: snapshot_events, every: snapshot_span }
    }
}

/// Start estimates of what waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EstimatesConfig {
    /// They are renewed at most this often; 0s: there are none.
    #[serde(deserialize_with = "span::required")]
    pub every: Span,
}

impl Default for EstimatesConfig {
    fn default() -> Self {
        Self { every: Span::seconds(15) }
    }
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("{}: {source}: name a readable file", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no TOML, or has a field that does not exist or cannot hold its value.
    #[error("{}: {why}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Line, column and what is wrong there.
        why: String,
    },
    /// A value that cannot be.
    #[error("{field} = {value}: {remedy}")]
    Value {
        /// Path of the field.
        field: String,
        /// What it is.
        value: String,
        /// What it should be.
        remedy: String,
    },
}

fn bad(field: impl Into<String>, value: impl std::fmt::Debug, remedy: impl Into<String>) -> ConfigError {
    ConfigError::Value { field: field.into(), value: format!("{value:?}"), remedy: remedy.into() }
}

fn default_listen() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7070)
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let length = std::fs::metadata(path).map_err(unreadable)?.len();
    if length > MAX_FILE {
        let why = format!("{length} bytes; at most {MAX_FILE}");
        return Err(ConfigError::Malformed { path: path.to_owned(), why });
    }
    std::fs::read_to_string(path).map_err(unreadable)
}

impl Config {
    /// Reads and checks a file; relative paths in it are relative to its folder.
    ///
    /// # Errors
    /// What is wrong first.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let config = Self::parse(path, &read(path)?)?;
        config.check()?;
        config.locations()?;
        Ok(config)
    }

    /// Reads text that stands for the file `path`, unchecked.
    ///
    /// # Errors
    /// `Malformed` with line and column.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let malformed = |err: toml::de::Error| ConfigError::Malformed { path: path.to_owned(), why: err.to_string() };
        let mut config: Self = toml::from_str(text).map_err(malformed)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut paths = vec![&mut config.data_dir];
        paths.extend(config.tokens.as_mut());
        paths.extend(config.topology.as_mut());
        paths.extend(config.etcd.as_mut().into_iter().flat_map(EtcdSettings::files));
        paths.extend(config.tls.as_mut().into_iter().flat_map(|tls| tls.cert.iter_mut().chain(tls.key.as_mut())));
        for path in paths {
            *path = folder.join(&*path);
        }
        Ok(config)
    }

    /// All quotas of a tenant.
    fn quotas<'a>(&'a self, tenant: &'a TenantConfig) -> Vec<QuotaOf<'a>> {
        let first = self.pools.first().map_or("", |pool| pool.name.as_str());
        let own = tenant.quota.map(|quota| QuotaOf {
            pool: tenant.pool.as_deref().unwrap_or(first),
            quota: Gpus::whole(quota),
            limit: tenant.limit.map(Gpus::whole),
            lend_limit: tenant.lend_limit.map(Gpus::whole),
        });
        let more = tenant.pools.iter().map(|quota| QuotaOf {
            pool: &quota.pool,
            quota: Gpus::whole(quota.quota),
            limit: quota.limit.map(Gpus::whole),
            lend_limit: quota.lend_limit.map(Gpus::whole),
        });
        own.into_iter().chain(more).collect()
    }

    /// Whether every address that is listened on is a loopback one.
    pub fn is_loopback(&self) -> bool {
        self.listen.ip().is_loopback() && self.metrics_listen.is_none_or(|metrics| metrics.ip().is_loopback())
    }

    /// Whether TLS is spoken: wherever it is asked for, and everywhere but on a loopback address.
    pub fn uses_tls(&self) -> bool {
        self.tls.is_some() || !self.listen.ip().is_loopback()
    }

    /// Who a call without a credential is.
    pub fn auth_policy(&self) -> AuthPolicy {
        match &self.local_operator {
            Some(user) => AuthPolicy::LocalOperator { user: user.as_str().into() },
            None => AuthPolicy::Credentials,
        }
    }

    /// Names and addresses for a certificate of the own authority.
    pub fn server_names(&self) -> Vec<String> {
        let mut names = self.tls.as_ref().map(|tls| tls.names.clone()).unwrap_or_default();
        if !self.listen.ip().is_unspecified() {
            names.push(self.listen.ip().to_string());
        }
        names.extend(["localhost", "127.0.0.1", "::1"].map(String::from));
        // The node's name as the kernel has it; without it the names above must do.
        let node = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        names.extend(Some(node.trim().to_owned()).filter(|node| !node.is_empty()));
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The core's rules and limits.
    pub fn core_policy(&self) -> Policy {
        let spares = self.pools.iter().filter(|pool| pool.spares > 0);
        let spares = spares.map(|pool| (pool.name.as_str().into(), pool.spares)).collect();
        Policy { spares, ..self.policy.over(Policy::standard()) }
    }

    /// When silence means what.
    pub fn deadlines(&self) -> Deadlines {
        let LivenessConfig { heartbeat, suspect_after, lost_after, fence_percent: _ } = self.liveness;
        Deadlines { heartbeat, suspect_after, lost_after }
    }

    /// Where nodes stand that the topology file names; nothing without one.
    ///
    /// # Errors
    /// What is wrong with the file, by node and domain.
    pub fn locations(&self) -> Result<BTreeMap<String, Location>, ConfigError> {
        self.topology.as_deref().map_or_else(|| Ok(BTreeMap::new()), topology::load)
    }

    /// What this file defines and `cluster` does not know yet: pools, then tenants, parents before their children. What
    /// it knows was perhaps changed at run time, and stays as it is.
    pub fn inputs(&self, cluster: &Cluster) -> Vec<Input> {
        let pools = self.pools.iter().filter(|pool| !cluster.pools().iter().any(|known| *known.name == *pool.name));
        let pools = pools.map(|pool| Input::DefinePool {
            name: pool.name.as_str().into(),
            model: pool.model.as_str().into(),
            gpus_per_node: pool.gpus_per_node,
        });
        let mut unknown: Vec<_> =
            self.tenants.iter().filter(|tenant| cluster.find_tenant(&tenant.name).is_none()).collect();
        unknown.sort_by_key(|tenant| tenant.name.split('/').count());
        pools.chain(unknown.into_iter().map(|tenant| Input::SetTenant(self.draft(tenant)))).collect()
    }

    fn draft(&self, tenant: &TenantConfig) -> TenantDraft {
        let quota = |quota: QuotaOf<'_>| QuotaDraft {
            pool: quota.pool.into(),
            quota: quota.quota,
            limit: quota.limit,
            lend_limit: quota.lend_limit,
            domains: None,
            dates: None,
        };
        TenantDraft {
            name: tenant.name.as_str().into(),
            create: true,
            weight: tenant.weight,
            default_time_limit: tenant.default_time_limit,
            min_run: tenant.min_run,
            caps: tenant.caps.as_ref().map(CapsConfig::caps),
            budget: tenant.budget.as_ref().map(|budget| Some(budget.grant())),
            reclaim_within: tenant.reclaim_within,
            idle: tenant.idle.as_ref().map(IdleConfig::rule),
            forecast: None,
            quotas: self.quotas(tenant).into_iter().map(quota).collect(),
        }
    }
}

/// A quota with its pool named.
struct QuotaOf<'a> {
    pool: &'a str,
    quota: Gpus,
    limit: Option<Gpus>,
    lend_limit: Option<Gpus>,
}

#[cfg(test)]
mod tests;
