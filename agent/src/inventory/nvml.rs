//! NVML, on a thread of its own.
//!
//! Comes in: the library's path. Goes out: the facts once, then the newest sample and its age, to whoever asks.
//! A call that hangs stops this thread and nothing else: the age of the sample tells. A function that a driver lacks
//! leaves its field at zero. This part must never be called from the loop.

mod facts;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use dure_proto::v1::{GpuProcess, GpuTelemetry};
use nvml_wrapper::{
    Device, Nvml,
    bitmasks::event::EventTypes,
    enum_wrappers::device::{Clock, EccCounter, MemoryError, TemperatureSensor},
    enums::device::SampleValue,
    enums::{device::UsedGpuMemory, event::XidError},
    error::NvmlError,
    event::EventSet,
    structs::device::FieldId,
};
use tokio::{sync::oneshot, time::timeout};

use super::{
    GpuFacts, GpuSample, InventoryError,
    health::{
        HealthConfig, Observation,
        history::{History, Kept},
    },
    kernel_log::KernelLog,
};

/// Samples may not come faster than this, in milliseconds.
const MIN_SAMPLE_MS: u64 = 50;
/// How long NVML may take to come up; the first call wakes the driver.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// Events taken per sample.
const MAX_EVENTS: usize = 256;
/// Processes of one GPU that are reported.
const MAX_PROCESSES: usize = 64;
const MIB: u64 = 1_024 * 1_024;

/// The newest sample of a thread that lives as long as this.
pub(super) struct Sampler {
    shared: Arc<Shared>,
}

struct Shared {
    latest: Mutex<Latest>,
    /// The GPU that NVML is being asked about; `NOBODY`: none.
    asked: AtomicU32,
}

/// Between the GPUs.
const NOBODY: u32 = u32::MAX;

struct Latest {
    sample: Arc<Vec<GpuSample>>,
    at: Instant,
}

/// One GPU over time.
#[derive(Clone)]
struct Followed {
    kept: Kept,
    /// When a sample last showed work on it, or when it was first seen.
    worked: Instant,
}

type Found = (Vec<GpuFacts>, String);

impl Sampler {
    /// Starts the thread and waits for the facts and the first sample.
    pub(super) async fn start(
        library: Option<PathBuf>,
        health: HealthConfig,
        history: History,
    ) -> Result<(Self, Vec<GpuFacts>, String), InventoryError> {
        let name = library.as_ref().map_or("libnvidia-ml.so.1".to_owned(), |path| path.display().to_string());
        let no_driver = |why: String| InventoryError::NoDriver { library: name.clone(), why };
        let latest = Mutex::new(Latest { sample: Arc::default(), at: Instant::now() });
        let shared = Arc::new(Shared { latest, asked: AtomicU32::new(NOBODY) });
        let (found, answer) = oneshot::channel();
        let weak = Arc::downgrade(&shared);
        let run = move || sample_for_ever(library, &health, &history, found, &weak);
        thread::Builder::new().name("dure-nvml".to_owned()).spawn(run).map_err(|err| no_driver(err.to_string()))?;
        match timeout(START_DEADLINE, answer).await {
            Ok(Ok(Ok((facts, driver)))) => Ok((Self { shared }, facts, driver)),
            Ok(Ok(Err(err))) => Err(no_driver(err.to_string())),
            Ok(Err(_)) => Err(no_driver("its thread ended".to_owned())),
            Err(_) => Err(InventoryError::Hangs { library: name, seconds: START_DEADLINE.as_secs() }),
        }
    }

    /// The newest sample, its age, and the GPU that NVML is being asked about.
    pub(super) fn latest(&self) -> (Arc<Vec<GpuSample>>, Duration, Option<u32>) {
        let asked = Some(self.shared.asked.load(Ordering::Relaxed)).filter(|gpu| *gpu != NOBODY);
        let latest = self.shared.lock();
        (latest.sample.clone(), latest.at.elapsed(), asked)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// While it lives NVML is being asked about one GPU.
struct Asking<'s>(&'s Weak<Shared>);

impl<'s> Asking<'s> {
    fn about(gpu: u32, shared: &'s Weak<Shared>) -> Self {
        Self::set(shared, gpu);
        Self(shared)
    }

    fn set(shared: &Weak<Shared>, gpu: u32) {
        if let Some(shared) = shared.upgrade() {
            shared.asked.store(gpu, Ordering::Relaxed);
        }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        Self::set(self.0, NOBODY);
    }
}

fn sample_for_ever(
    library: Option<PathBuf>,
    health: &HealthConfig,
    history: &History,
    found: oneshot::Sender<Result<Found, NvmlError>>,
    shared: &Weak<Shared>,
) {
    let opened = match &library {
        Some(path) => Nvml::builder().lib_path(path.as_os_str()).init(),
        None => Nvml::init(),
    };
    let nvml = match opened {
        Ok(nvml) => nvml,
        Err(err) => {
            let _ = found.send(Err(err));
            return;
        }
    };
    let (facts, bus_ids) = match facts::find(&nvml) {
        Ok(found) => found,
        Err(err) => {
            let _ = found.send(Err(err));
            return;
        }
    };
    let events = register(&nvml, facts.len());
    let mut kernel_log = KernelLog::open(&health.kernel_log);
    let begun = Instant::now();
    let follow = |facts: &GpuFacts| Followed { kept: history.open(&facts.uuid), worked: begun };
    let mut followed: Vec<Followed> = facts.iter().map(follow).collect();
    let mut found = Some((found, nvml.sys_driver_version().unwrap_or_default()));
    loop {
        let mut xids = take_xids(events.as_ref());
        let sample = facts.iter().zip(&mut followed);
        let mut told = kernel_log.take(&bus_ids);
        let sample = sample.enumerate().map(|(place, (facts, followed))| {
            let mut xids = xids.remove(&facts.uuid).unwrap_or_default();
            // One fault, told twice, is one.
            xids.extend(told.remove(&place).unwrap_or_default());
            xids.sort_unstable();
            xids.dedup();
            let asking = Asking::about(facts.index, shared);
            let sample = measure(&nvml, health, facts, xids, followed);
            drop(asking);
            history.keep(&facts.uuid, &mut followed.kept);
            sample
        });
        let sample = Arc::new(sample.collect());
        let Some(shared) = shared.upgrade() else { return };
        *shared.lock() = Latest { sample, at: Instant::now() };
        drop(shared);
        if let Some((found, driver)) = found.take() {
            let _ = found.send(Ok((facts.clone(), driver)));
        }
        thread::sleep(Duration::from_millis(health.sample_ms.max(MIN_SAMPLE_MS)));
    }
}

/// Asks for XIDs of every GPU. A driver that has no events is sampled without them.
fn register(nvml: &Nvml, count: usize) -> Option<EventSet<'_>> {
    let mut set = nvml.create_event_set().ok()?;
    for index in 0..u32::try_from(count).ok()? {
        let Ok(gpu) = nvml.device_by_index(index) else { continue };
        // An error takes the set with it: a new one starts over with those that came before left out, which is why
        // only GPUs that can be reached are tried.
        set = gpu.register_events(EventTypes::CRITICAL_XID_ERROR, set).ok()?;
    }
    Some(set)
}

/// XIDs since the last look, by the GPU's UUID.
fn take_xids(events: Option<&EventSet<'_>>) -> HashMap<String, Vec<u64>> {
    let mut xids: HashMap<String, Vec<u64>> = HashMap::new();
    let Some(events) = events else { return xids };
    for _ in 0..MAX_EVENTS {
        let Ok(event) = events.wait(0) else { break };
        let code = match event.event_data {
            Some(XidError::Value(code)) => code,
            Some(XidError::Unknown) => 999,
            None => continue,
        };
        xids.entry(event.device.uuid().unwrap_or_default()).or_default().push(code);
    }
    xids
}

fn measure(nvml: &Nvml, health: &HealthConfig, facts: &GpuFacts, xids: Vec<u64>, followed: &mut Followed) -> GpuSample {
    let mut telemetry = GpuTelemetry {
        index: facts.index,
        uuid: facts.uuid.clone(),
        model: facts.model.clone(),
        memory_total_mib: facts.memory_mib,
        ..GpuTelemetry::default()
    };
    let mut seen = Observation { xids, ..Observation::default() };
    let reached = nvml.device_by_index(facts.index).and_then(|gpu| {
        // The one call that every driver has and that a lost GPU refuses.
        gpu.uuid()?;
        Ok(gpu)
    });
    match reached {
        Ok(gpu) => {
            seen.lost = read(&gpu, &mut followed.worked, &mut telemetry);
            seen.uncorrected = telemetry.ecc_uncorrected;
            seen.throttle_reasons = telemetry.throttle_reasons;
            fields(&gpu, &mut telemetry, &mut seen);
        }
        Err(err) => seen.lost = Some(err.to_string()),
    }
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    GpuSample { telemetry, health: followed.kept.judge.judge(health, now_s, &seen).clone() }
}

/// NVML's fields that have no call of their own, all in one: the driver's recovery action, memory under repair, links.
fn fields(gpu: &Device<'_>, into: &mut GpuTelemetry, seen: &mut Observation) {
    use nvml_wrapper_sys::bindings::field_id as id;
    const LINKS: [u32; 4] = [
        id::NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL,
        id::NVML_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL,
        id::NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL,
        id::NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL,
    ];
    const OTHERS: [u32; 6] = [
        id::NVML_FI_DEV_GET_GPU_RECOVERY_ACTION,
        id::NVML_FI_DEV_REMAPPED_PENDING,
        id::NVML_FI_DEV_REMAPPED_FAILURE,
        id::NVML_FI_DEV_REMAPPED_COR,
        id::NVML_FI_DEV_REMAPPED_UNC,
        id::NVML_FI_DEV_RETIRED_PENDING,
    ];
    let asked: Vec<FieldId> = OTHERS.into_iter().chain(LINKS).map(FieldId).collect();
    // A driver without such fields, or without one of them, leaves zeros.
    let values = gpu.field_values_for(&asked).unwrap_or_default();
    let value = |place: usize| match values.get(place).and_then(|value| value.as_ref().ok()?.value.as_ref().ok()) {
        Some(SampleValue::U32(value)) => u64::from(*value),
        Some(SampleValue::U64(value)) => *value,
        _ => 0,
    };
    into.recovery_action = u32::try_from(value(0)).unwrap_or(u32::MAX);
    into.remap_pending = value(1) != 0;
    into.remap_failed = value(2) != 0;
    into.remapped_rows = value(3) + value(4);
    into.retired_pending = value(5) != 0;
    into.nvlink_errors = (OTHERS.len()..asked.len()).map(value).sum();
    seen.recovery_action = into.recovery_action;
    seen.repair_pending = into.remap_pending || into.retired_pending;
    seen.repair_failed = into.remap_failed;
    seen.nvlink_errors = into.nvlink_errors;
}

/// Reads what the driver gives; the words of NVML when it says that the GPU is lost.
fn read(gpu: &Device<'_>, worked: &mut Instant, into: &mut GpuTelemetry) -> Option<String> {
    let mut lost = None;
    macro_rules! note {
        ($call:expr) => {
            match $call {
                Ok(value) => Some(value),
                Err(err) => {
                    if matches!(err, NvmlError::GpuLost) {
                        lost = Some(err.to_string());
                    }
                    None
                }
            }
        };
    }
    if let Some(memory) = note!(gpu.memory_info()) {
        into.memory_total_mib = memory.total / MIB;
        into.memory_used_mib = memory.used / MIB;
    }
    let rates = note!(gpu.utilization_rates());
    into.utilisation = rates.as_ref().map_or(0, |rates| rates.gpu);
    if into.utilisation > 0 {
        *worked = Instant::now();
    }
    into.idle_ms = rates.map(|_| worked.elapsed().as_millis().try_into().unwrap_or(u64::MAX));
    into.power_mw = note!(gpu.power_usage()).unwrap_or(0);
    into.temperature_c = note!(gpu.temperature(TemperatureSensor::Gpu)).unwrap_or(0);
    into.sm_clock_mhz = note!(gpu.clock_info(Clock::SM)).unwrap_or(0);
    into.memory_clock_mhz = note!(gpu.clock_info(Clock::Memory)).unwrap_or(0);
    into.ecc_corrected = note!(gpu.total_ecc_errors(MemoryError::Corrected, EccCounter::Volatile)).unwrap_or(0);
    into.ecc_uncorrected = note!(gpu.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile)).unwrap_or(0);
    into.throttle_reasons = note!(gpu.current_throttle_reasons()).map_or(0, |reasons| reasons.bits());
    let processes = note!(gpu.running_compute_processes()).unwrap_or_default();
    into.processes = processes
        .iter()
        .take(MAX_PROCESSES)
        .map(|process| GpuProcess {
            pid: process.pid,
            memory_mib: match process.used_gpu_memory {
                UsedGpuMemory::Used(bytes) => bytes / MIB,
                UsedGpuMemory::Unavailable => 0,
            },
        })
        .collect();
    lost
}
