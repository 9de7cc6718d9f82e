//! What the node has and how it is: GPUs through NVML, CPU and memory from the kernel.
//!
//! Comes in: where GPUs come from. Goes out: the facts once, then a sample every second, with a verdict per GPU.
//! NVML may hang: it lives on a thread of its own, and whoever asks gets the last sample and its age, never a wait.
//! This part must never invent a GPU: a driver that does not answer is an error, not a node without GPUs.

pub mod health;
mod kernel_log;
pub mod links;
mod node;
mod nvml;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use dure_proto::v1::{GpuInventory, GpuTelemetry, Inventory, MigInstance, Telemetry};

use self::health::history::History;
pub use self::health::{Health, Verdict};
use crate::{
    checks::{
        self,
        gpu_memory::{self, Bounds, Tested},
    },
    config::{AgentConfig, GpuSource},
};

/// Why there is no inventory.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// The library or the driver is not there.
    #[error(
        "NVML ({library}): {why}: install the NVIDIA driver, or set [gpus] source = \"none\" for a node without GPUs \
         (or \"fake\" to try things out)"
    )]
    NoDriver {
        /// Which library.
        library: String,
        /// What NVML said.
        why: String,
    },
    /// NVML does not answer.
    #[error("NVML ({library}) has not answered for {seconds} s: the driver hangs; restart the node")]
    Hangs {
        /// Which library.
        library: String,
        /// How long it was given.
        seconds: u64,
    },
    /// The fake library could not be written.
    #[error("{path}: {source}")]
    Fake {
        /// Where to.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// One GPU as it is built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuFacts {
    /// NVML's index.
    pub index: u32,
    /// The number of its device file, where NVML says it.
    pub minor: Option<u32>,
    /// Its unique name; empty when it could not be read: such a GPU is never used.
    pub uuid: String,
    /// Its model.
    pub model: String,
    /// Its memory.
    pub memory_mib: u64,
    /// The memory side of the node that it is next to.
    pub numa_node: u32,
    /// Indices of the GPUs it reaches over NVLink.
    pub nvlink_peers: Vec<u32>,
    /// NVLinks of it that are up.
    pub nvlinks: u32,
    /// The NVLink domain beyond the node that it is part of.
    pub fabric: Option<String>,
    /// It is cut into MIG slices.
    pub mig: bool,
    /// The slices, by where they begin.
    pub mig_instances: Vec<MigFacts>,
}

/// A GPU instance with one compute instance over the whole of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MigFacts {
    /// NVIDIA's name of its size, as `3g.40gb`.
    pub profile: String,
    /// The memory slice at which it begins.
    pub first_slice: u32,
    /// Its number on the GPU, by which the driver names its capability.
    pub gpu_instance: u32,
    /// What CUDA names it by.
    pub uuid: String,
}

/// One GPU as it is now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GpuSample {
    /// Everything measured.
    pub telemetry: GpuTelemetry,
    /// The verdict.
    pub health: Health,
}

/// The GPUs of a node.
pub struct Gpus {
    facts: Arc<Vec<GpuFacts>>,
    /// What the checks found.
    faults: Arc<Mutex<Faults>>,
    /// The GPUs that members run on, as was last heard.
    busy: Arc<Mutex<Vec<u32>>>,
    /// What earlier lives of the agent have found; none where nothing is tested.
    history: Option<History>,
    driver_version: String,
    feed: Feed,
}

/// What checks found wrong.
#[derive(Debug, Default)]
struct Faults {
    /// With the node as a whole: no GPU of it may be used then.
    node: Vec<String>,
    /// With the memory of single GPUs. They are not tested again before the node boots anew, or a person has removed what
    /// is kept of it.
    gpus: BTreeMap<u32, String>,
}

enum Feed {
    Nvml { sampler: nvml::Sampler, hangs: Hangs },
    Simulated,
}

/// How old a sample may become.
#[derive(Clone, Copy)]
struct Hangs {
    /// Beyond it NVML hangs, and its GPUs are suspect.
    suspect: Duration,
    /// Beyond it the one that it was asked about is bad.
    bad: Duration,
}

impl Gpus {
    /// Finds the GPUs, in this boot of the node. Waits for NVML no longer than its deadline.
    pub async fn find(config: &AgentConfig, boot_id: &str) -> Result<Self, InventoryError> {
        let library = match &config.gpus {
            GpuSource::None => return Ok(Self::without_library(Vec::new())),
            GpuSource::Simulated { count, model, memory_mib } => {
                return Ok(Self::without_library(simulated(&config.node, *count, model, *memory_mib)));
            }
            GpuSource::Nvml { lib } => lib.clone(),
            GpuSource::Fake { conf } => {
                let dir = config.state_dir.join("fake-nvml");
                let written = crate::fake::write_library(&dir, conf);
                Some(written.map_err(|source| InventoryError::Fake { path: dir, source })?)
            }
        };
        let history = History::new(&config.state_dir, boot_id);
        let kept = Some(history.clone());
        let (sampler, facts, driver_version) = nvml::Sampler::start(library, config.health.clone(), history).await?;
        let (suspect, bad) = (config.health.hang_s.max(1), config.health.hang_bad_s);
        let hangs = Hangs { suspect: Duration::from_secs(suspect), bad: Duration::from_secs(bad.max(suspect)) };
        let feed = Feed::Nvml { sampler, hangs };
        Ok(Self { driver_version, history: kept, feed, ..Self::without_library(facts) })
    }

    fn without_library(facts: Vec<GpuFacts>) -> Self {
        let (facts, faults, busy) = (Arc::new(facts), Arc::default(), Arc::default());
        Self { facts, faults, busy, history: None, driver_version: String::new(), feed: Feed::Simulated }
    }

    /// The GPUs, in the order of their indices.
    pub fn facts(&self) -> &[GpuFacts] {
        &self.facts
    }

    /// Runs the node's checks, and runs them again from time to time as long as something is wrong with the node. The
    /// memory of the GPUs is tested by `shim` before their first use, and again before a node returns to service; that of
    /// those which members run on, now the `leased` ones, is left alone.
    pub async fn check_node(&self, config: &AgentConfig, shim: Vec<OsString>, leased: Vec<u32>) {
        *lock(&self.busy) = leased;
        let checks = config.checks.clone();
        let bounds = checks.gpu_memory(matches!(config.gpus, GpuSource::Fake { .. }));
        let again = Duration::from_secs(checks.again_s.max(1));
        let (facts, faults, busy) = (self.facts.clone(), self.faults.clone(), self.busy.clone());
        let history = self.history.clone();
        lock(&faults).gpus.extend(remembered(&facts, history.as_ref()));
        let round = move || {
            let wrong = checks::run(&checks, &facts);
            wrong.iter().for_each(|fault| tracing::error!(fault, "the node fails a check: its GPUs are not used"));
            let well = wrong.is_empty();
            if well && let Some(bounds) = &bounds {
                test_memory(&shim, bounds, &facts, &faults, &lock(&busy).clone(), history.as_ref());
            }
            lock(&faults).node = wrong;
            well
        };
        let later = round.clone();
        if tokio::task::spawn_blocking(round).await.unwrap_or(false) {
            return;
        }
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(again).await;
                let round = later.clone();
                if tokio::task::spawn_blocking(round).await.unwrap_or(false) {
                    return;
                }
            }
        });
    }

    /// The last sample of every GPU; `busy` are those that members run on.
    pub fn sample(&self, busy: &[u32]) -> Arc<Vec<GpuSample>> {
        *lock(&self.busy) = busy.to_vec();
        self.judged(busy)
    }

    fn judged(&self, busy: &[u32]) -> Arc<Vec<GpuSample>> {
        let sample = self.measured(busy);
        let faults = lock(&self.faults);
        if faults.node.is_empty() && faults.gpus.is_empty() {
            return sample;
        }
        let mut sample = Vec::clone(&sample);
        for gpu in &mut sample {
            let of_node = faults.node.first().map(|fault| format!("the node: {fault}"));
            let reason = of_node.or_else(|| faults.gpus.get(&gpu.telemetry.index).cloned());
            if let Some(reason) = reason {
                gpu.health = Health { verdict: Verdict::Bad, reason };
            }
        }
        Arc::new(sample)
    }

    fn measured(&self, busy: &[u32]) -> Arc<Vec<GpuSample>> {
        match &self.feed {
            Feed::Simulated => Arc::new(self.facts.iter().map(|gpu| simulated_sample(gpu, busy)).collect()),
            Feed::Nvml { sampler, hangs } => {
                let (sample, age, asked) = sampler.latest();
                if age <= hangs.suspect { sample } else { Arc::new(unanswered(&sample, age, asked, *hangs)) }
            }
        }
    }
}

/// What is known while NVML hangs: the last sample, and that it is old.
fn unanswered(last: &[GpuSample], age: Duration, asked: Option<u32>, hangs: Hangs) -> Vec<GpuSample> {
    let about = asked.map(|gpu| format!(" when it was asked about GPU {gpu}")).unwrap_or_default();
    let reason = format!("NVML has not answered for {} s{about}: the driver hangs", age.as_secs());
    let old = |gpu: &GpuSample| {
        let is_culprit = asked.is_none_or(|asked| asked == gpu.telemetry.index);
        let verdict = if age > hangs.bad && is_culprit { Verdict::Bad } else { Verdict::Suspect };
        let health =
            if gpu.health.verdict > verdict { gpu.health.clone() } else { Health { verdict, reason: reason.clone() } };
        GpuSample { telemetry: GpuTelemetry { idle_ms: None, ..gpu.telemetry.clone() }, health }
    };
    last.iter().map(old).collect()
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The GPUs whose memory failed its test earlier in this boot, and why.
fn remembered(facts: &[GpuFacts], history: Option<&History>) -> BTreeMap<u32, String> {
    let named = facts.iter().filter(|gpu| !gpu.uuid.is_empty());
    let fault = |gpu: &GpuFacts| {
        let why = history?.memory_fault(&gpu.uuid)?;
        tracing::error!(gpu = gpu.index, why, "a GPU has failed the test of its memory before: it is not used");
        Some((gpu.index, why))
    };
    named.filter_map(fault).collect()
}

/// Tests the memory of all GPUs that nothing runs on and that have not failed yet, and notes which must not be used. Blocking.
fn test_memory(
    shim: &[OsString],
    bounds: &Bounds,
    facts: &[GpuFacts],
    faults: &Mutex<Faults>,
    busy: &[u32],
    history: Option<&History>,
) {
    let known = lock(faults).gpus.clone();
    let facts: Vec<GpuFacts> = facts.iter().filter(|gpu| !known.contains_key(&gpu.index)).cloned().collect();
    for (gpu, tested) in gpu_memory::test_all(shim, bounds, &facts, busy) {
        match tested {
            Tested::Well { mib } => tracing::info!(gpu, mib, "the memory of a GPU holds what is written"),
            Tested::Skipped(why) => tracing::info!(gpu, why, "the memory of a GPU is not tested"),
            Tested::Bad(why) => {
                tracing::error!(gpu, why, "a GPU fails the test of its memory: it is not used");
                let uuid = facts.iter().find(|facts| facts.index == gpu).map(|facts| &facts.uuid);
                if let (Some(uuid), Some(history)) = (uuid, history) {
                    history.keep_memory_fault(uuid, &why);
                }
                lock(faults).gpus.insert(gpu, why);
            }
        }
    }
}

fn simulated(node: &str, count: u32, model: &str, memory_mib: u64) -> Vec<GpuFacts> {
    let facts = |index| GpuFacts {
        index,
        minor: None,
        uuid: format!("SIM-{node}-{index}"),
        model: model.to_owned(),
        memory_mib,
        numa_node: index / 4,
        nvlink_peers: (0..count).filter(|peer| *peer != index).collect(),
        ..GpuFacts::default()
    };
    (0..count).map(facts).collect()
}

fn simulated_sample(gpu: &GpuFacts, busy: &[u32]) -> GpuSample {
    let busy = busy.contains(&gpu.index);
    let telemetry = GpuTelemetry {
        index: gpu.index,
        uuid: gpu.uuid.clone(),
        model: gpu.model.clone(),
        memory_total_mib: gpu.memory_mib,
        memory_used_mib: if busy { gpu.memory_mib * 9 / 10 } else { 0 },
        utilisation: if busy { 90 } else { 0 },
        idle_ms: busy.then_some(0),
        ..GpuTelemetry::default()
    };
    GpuSample { telemetry, health: Health::default() }
}

/// The inventory for the hello.
pub fn to_wire(config: &AgentConfig, gpus: &Gpus) -> Inventory {
    let sample = gpus.judged(&[]);
    let entry = |facts: &GpuFacts| {
        let health = sample.iter().find(|gpu| gpu.telemetry.index == facts.index).map(|gpu| gpu.health.clone());
        gpu_to_wire(facts, &health.unwrap_or_default())
    };
    let location = config.location.clone();
    Inventory {
        gpus: gpus.facts.iter().map(entry).collect(),
        cpu_milli: config.cpu_milli.unwrap_or_else(node::cpu_milli),
        memory_mib: config.memory_mib.unwrap_or_else(node::memory_mib),
        site: location.site,
        spine: location.spine,
        leaf: location.leaf,
        nvlink_domain: if location.nvlink_domain.is_empty() { fabric(&gpus.facts) } else { location.nvlink_domain },
        driver_version: gpus.driver_version.clone(),
        address: config.address.clone().unwrap_or_else(|| config.node.clone()),
        weaker_isolation: Vec::new(),
        labels: config.labels.clone().into_iter().collect(),
        mig_instances: gpus.facts.iter().flat_map(mig_to_wire).collect(),
    }
}

/// The fabric that all GPUs are part of; empty where they are of none or of several.
fn fabric(gpus: &[GpuFacts]) -> String {
    let first = gpus.first().and_then(|gpu| gpu.fabric.as_ref());
    let common = first.filter(|name| gpus.iter().all(|gpu| gpu.fabric.as_ref() == Some(*name)));
    common.cloned().unwrap_or_default()
}

fn mig_to_wire(facts: &GpuFacts) -> impl Iterator<Item = MigInstance> {
    facts.mig_instances.iter().map(|instance| MigInstance {
        gpu: facts.index,
        profile: instance.profile.clone(),
        first_slice: instance.first_slice,
        uuid: instance.uuid.clone(),
    })
}

/// One GPU's facts and verdict for the wire.
pub fn gpu_to_wire(facts: &GpuFacts, health: &Health) -> GpuInventory {
    GpuInventory {
        index: facts.index,
        uuid: facts.uuid.clone(),
        model: facts.model.clone(),
        memory_mib: facts.memory_mib,
        numa_node: facts.numa_node,
        nvlink_peers: facts.nvlink_peers.clone(),
        mig: facts.mig,
        health: health.verdict.as_str().to_owned(),
        health_reason: health.reason.clone(),
    }
}

/// The telemetry for a heartbeat.
pub fn telemetry(sample: &[GpuSample]) -> Telemetry {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let with_health = |gpu: &GpuSample| GpuTelemetry {
        health: gpu.health.verdict.as_str().to_owned(),
        health_reason: gpu.health.reason.clone(),
        ..gpu.telemetry.clone()
    };
    Telemetry {
        sampled_ms: now.as_millis().try_into().unwrap_or(u64::MAX),
        gpus: sample.iter().map(with_health).collect(),
        load_milli: node::load_milli(),
        memory_free_mib: node::memory_free_mib(),
    }
}
