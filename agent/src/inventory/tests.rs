//! The fake library through nvml-wrapper, and the sampler on top of it.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use nvml_wrapper::{
    Nvml,
    bitmasks::event::EventTypes,
    enum_wrappers::device::{Clock, EccCounter, MemoryError, TemperatureSensor},
    enums::{device::UsedGpuMemory, event::XidError},
    error::NvmlError,
    structs::device::FieldId,
};
use tempfile::TempDir;

use super::*;
use crate::fake::{write_conf, write_library};

fn node(conf: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = write_library(&dir.path().join("node"), conf).expect("writes the library");
    (dir, path)
}

fn load(path: &Path) -> Nvml {
    Nvml::builder().lib_path(path.as_os_str()).init().expect("the fake loads")
}

#[test]
fn two_copies_in_one_process_are_two_nodes() {
    let (_a, a) = node("seed a\ngpus 8 model=\"NVIDIA H100 80GB HBM3\"\ndriver 570.1");
    let (_b, b) = node("seed b\ngpus 2 model=\"NVIDIA A100\" memory_mib=40960 nvlink=none");
    let (a, b) = (load(&a), load(&b));
    assert_eq!((a.device_count().ok(), b.device_count().ok()), (Some(8), Some(2)));
    assert_eq!(a.sys_driver_version().ok().as_deref(), Some("570.1"));
    let gpu = b.device_by_index(1).expect("is there");
    assert_eq!(gpu.name().ok().as_deref(), Some("NVIDIA A100"));
    assert_eq!(gpu.memory_info().ok().map(|memory| memory.total), Some(40_960 * 1_024 * 1_024));
    let uuid = gpu.uuid().expect("has one");
    assert!(uuid.starts_with("GPU-") && uuid.len() == 40, "{uuid}");
    assert_ne!(a.device_by_index(1).and_then(|gpu| gpu.uuid()).expect("has one"), uuid);
    assert_eq!(b.device_by_uuid(uuid).and_then(|gpu| gpu.index()).ok(), Some(1));
    assert!(matches!(b.device_by_index(2), Err(NvmlError::InvalidArg)));
}

#[test]
fn everything_the_file_says_is_read_and_a_change_is_seen_at_once() {
    let (_dir, path) = node("gpus 2");
    let nvml = load(&path);
    let gpu = nvml.device_by_index(0).expect("is there");
    assert_eq!(gpu.utilization_rates().ok().map(|rates| rates.gpu), Some(0));
    let text = "gpus 2 nvlink=islands:2\ngpu 0 util=97 used_mib=400 power_mw=512000 temp_c=61 sm_mhz=1980 mem_mhz=2619 \
                ecc_corrected=2 ecc_uncorrected=1 throttle=0x8 numa=1 recovery=2\nprocess 0 4242 390";
    write_conf(&path, text).expect("writes");
    assert_eq!(gpu.utilization_rates().ok().map(|rates| rates.gpu), Some(97));
    assert_eq!(gpu.power_usage().ok(), Some(512_000));
    assert_eq!(gpu.temperature(TemperatureSensor::Gpu).ok(), Some(61));
    let clock = |clock| gpu.clock_info(clock).ok();
    assert_eq!((clock(Clock::SM), clock(Clock::Memory)), (Some(1_980), Some(2_619)));
    let ecc = |kind| gpu.total_ecc_errors(kind, EccCounter::Volatile).ok();
    assert_eq!((ecc(MemoryError::Corrected), ecc(MemoryError::Uncorrected)), (Some(2), Some(1)));
    assert_eq!(gpu.current_throttle_reasons().ok().map(|reasons| reasons.bits()), Some(8));
    assert_eq!(gpu.numa_node_id().ok(), Some(1));
    let processes = gpu.running_compute_processes().expect("is read");
    assert_eq!(processes.len(), 1);
    assert_eq!((processes[0].pid, &processes[0].used_gpu_memory), (4_242, &UsedGpuMemory::Used(390 * 1_024 * 1_024)));
    let other = nvml.device_by_index(1).expect("is there");
    assert_eq!(gpu.link_wrapper_for(0).is_active().ok(), Some(true));
    assert_eq!(gpu.link_wrapper_for(1).is_active().ok(), Some(false));
    let remote = gpu.link_wrapper_for(0).remote_pci_info().expect("is there").bus_id;
    assert_eq!(remote.to_lowercase(), other.pci_info().expect("is there").bus_id.to_lowercase());
    let fields = gpu.field_values_for(&[FieldId(230)]).expect("is read");
    assert!(format!("{:?}", fields[0]).contains("U32(2)"), "{fields:?}");
}

#[test]
fn faults_come_as_nvml_gives_them() {
    let (_dir, path) = node("gpus 3");
    let nvml = load(&path);
    let mut set = nvml.create_event_set().expect("is made");
    for index in 0..3 {
        let gpu = nvml.device_by_index(index).expect("is there");
        set = gpu.register_events(EventTypes::CRITICAL_XID_ERROR, set).expect("registers");
    }
    assert!(matches!(set.wait(0), Err(NvmlError::Timeout)));
    write_conf(&path, "gpus 3\nlost 1\nxid 2 79 2\nfail nvmlDeviceGetTemperature 3 0\nslow nvmlDeviceGetName 50")
        .expect("writes");
    let gpu = |index| nvml.device_by_index(index).expect("is there");
    assert!(matches!(gpu(1).uuid(), Err(NvmlError::GpuLost)));
    assert!(matches!(gpu(0).temperature(TemperatureSensor::Gpu), Err(NvmlError::NotSupported)));
    assert_eq!(gpu(2).temperature(TemperatureSensor::Gpu).ok(), Some(32));
    let begun = Instant::now();
    gpu(0).name().expect("is read");
    assert!(begun.elapsed() >= Duration::from_millis(50));
    for _ in 0..2 {
        let event = set.wait(1_000).expect("an XID");
        assert_eq!(event.device.index().ok(), Some(2));
        assert_eq!(event.event_data, Some(XidError::Value(79)));
    }
    assert!(matches!(set.wait(20), Err(NvmlError::Timeout)), "each is delivered once");
}

#[test]
fn a_driver_that_is_not_there_or_does_not_come_up_is_an_error() {
    let (dir, path) = node("fail nvmlInit_v2 9");
    let init = |path: &Path| Nvml::builder().lib_path(path.as_os_str()).init().err();
    assert!(matches!(init(&path), Some(NvmlError::DriverNotLoaded)));
    assert!(matches!(init(&dir.path().join("nothing.so")), Some(NvmlError::LibloadingError(_))));
}

fn config(dir: &TempDir, conf: &str) -> AgentConfig {
    let mut config = AgentConfig::new("n0", "http://127.0.0.1:1", dir.path());
    config.gpus = GpuSource::Fake { conf: conf.to_owned() };
    config
}

async fn wait_for(gpus: &Gpus, what: impl Fn(&[GpuSample]) -> bool) -> Arc<Vec<GpuSample>> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let sample = gpus.sample(&[]);
        if what(&sample) {
            return sample;
        }
        assert!(Instant::now() < end, "never came: {sample:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn the_inventory_shows_links_and_a_lost_gpu_is_bad_while_the_others_stay() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let config = config(&dir, "seed n0\ngpus 4 nvlink=islands:2");
    let gpus = Gpus::find(&config, "boot-1").await.expect("finds them");
    let wire = to_wire(&config, &gpus);
    assert_eq!(wire.gpus.iter().map(|gpu| gpu.nvlink_peers.clone()).collect::<Vec<_>>(), [[1], [0], [3], [2]]);
    assert_eq!(wire.gpus.iter().map(|gpu| gpu.numa_node).collect::<Vec<_>>(), [0, 0, 1, 1]);
    assert!(wire.gpus.iter().all(|gpu| gpu.health == "ok" && gpu.memory_mib == 81_559));
    assert_eq!((wire.driver_version.as_str(), wire.address.as_str()), ("570.124.06", "n0"));
    let library = dir.path().join("fake-nvml").join(crate::fake::LIBRARY_NAME);
    write_conf(&library, "seed n0\ngpus 4 nvlink=islands:2\nlost 2\nxid 0 48 1\ngpu 1 util=88").expect("writes");
    let sample = wait_for(&gpus, |sample| sample[2].health.verdict == Verdict::Bad).await;
    assert_eq!(sample[2].health.reason, "lost: device fell off the bus or has otherwise become inacessible");
    let sample = wait_for(&gpus, |sample| sample[0].health.verdict == Verdict::Bad).await;
    assert_eq!(sample[0].health.reason, "XID 48: follow NVIDIA's workflow for it");
    assert_eq!((sample[1].health.verdict, sample[1].telemetry.utilisation), (Verdict::Ok, 88));
    let telemetry = telemetry(&sample);
    assert_eq!((telemetry.gpus[2].health.as_str(), telemetry.gpus[1].health.as_str()), ("bad", "ok"));
}

#[tokio::test]
async fn mig_instances_are_listed_where_they_lie() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let config = config(
        &dir,
        "seed n0\ngpus 3\nmig 1 3g.40gb 4 4\nmig 1 1g.10gb 0 1 MIG-own\nmig 2 1c.3g.40gb 0 4\nmig 2 7g.80gb+me 4 4\n\
         fail nvmlGpuInstanceGetInfo 4 2",
    );
    let gpus = Gpus::find(&config, "boot-1").await.expect("finds them");
    let wire = to_wire(&config, &gpus);
    assert_eq!(wire.gpus.iter().map(|gpu| gpu.mig).collect::<Vec<_>>(), [false, true, true]);
    // On GPU 2 one is a part, and where the other lies the driver does not say: neither is offered.
    let listed = wire.mig_instances.iter().map(|mig| (mig.gpu, mig.profile.as_str(), mig.first_slice));
    assert_eq!(listed.collect::<Vec<_>>(), [(1, "1g.10gb", 0), (1, "3g.40gb", 4)]);
    assert_eq!(wire.mig_instances[0].uuid, "MIG-own");
    let made = &wire.mig_instances[1].uuid;
    assert!(made.starts_with("MIG-") && made.len() == 40, "{made}");
    let instances: Vec<u32> = gpus.facts()[1].mig_instances.iter().map(|mig| mig.gpu_instance).collect();
    assert_eq!(instances, [2, 1], "the driver's own numbers");
    let nvml = load(&dir.path().join("fake-nvml").join(crate::fake::LIBRARY_NAME));
    let mig = nvml.device_by_uuid(made.as_str()).expect("is found by its name");
    assert_eq!(mig.mig_is_mig_device_handle().ok(), Some(true));
    assert_eq!(mig.mig_parent_device().and_then(|gpu| gpu.index()).ok(), Some(1));
    assert!(matches!(mig.power_usage(), Err(NvmlError::InvalidArg)), "what is the GPU's is not the instance's");
    assert!(matches!(nvml.device_by_index(0).and_then(|gpu| gpu.mig_device_by_index(0)), Err(NvmlError::NotSupported)));
}

#[tokio::test]
async fn racks_and_pairs_are_seen_as_they_are_joined() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let tray = |name: &str, rest: &str| {
        let mut config =
            config(&dir, &format!("gpus 4 model=\"NVIDIA GB200\" memory_mib=189471 topology=nvl72\n{rest}"));
        config.state_dir = dir.path().join(name);
        config
    };
    let other = "fabric 0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0 7";
    let trays = [tray("a", ""), tray("b", ""), tray("c", other)];
    let mut domains = Vec::new();
    for config in &trays {
        let wire = to_wire(config, &Gpus::find(config, "boot-1").await.expect("finds them"));
        assert!(wire.gpus.iter().all(|gpu| gpu.nvlink_peers.len() == 3), "{wire:?}");
        domains.push(wire.nvlink_domain);
    }
    assert_eq!(domains[0], domains[1], "trays of one rack are one domain");
    assert_eq!(domains[2], "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0.7");
    let mut stated = tray("d", "");
    stated.location.nvlink_domain = "rack-7".to_owned();
    let wire = to_wire(&stated, &Gpus::find(&stated, "boot-1").await.expect("finds them"));
    assert_eq!(wire.nvlink_domain, "rack-7", "what the operator says goes before");
    let pairs = config(&dir, "gpus 4 topology=pcie-pairs\nlink 3 0 down");
    let gpus = Gpus::find(&pairs, "boot-1").await.expect("finds them");
    let wire = to_wire(&pairs, &gpus);
    assert_eq!(wire.gpus.iter().map(|gpu| gpu.nvlink_peers.clone()).collect::<Vec<_>>(), [[1], [0], [3], [2]]);
    assert_eq!((wire.nvlink_domain.as_str(), gpus.facts()[2].nvlinks, gpus.facts()[3].nvlinks), ("", 1, 0));
    let nvml = load(&dir.path().join("fake-nvml").join(crate::fake::LIBRARY_NAME));
    let gpu = |index| nvml.device_by_index(index).expect("is there");
    let level = |a, b| format!("{:?}", gpu(a).topology_common_ancestor(gpu(b)));
    assert_eq!(level(0, 1), "Ok(Single)");
    assert_eq!(level(0, 2), "Ok(System)");
}

#[tokio::test]
async fn without_a_driver_the_error_says_what_to_do_and_no_gpus_must_be_asked_for() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut config = config(&dir, "gpus 1\nfail nvmlInit_v2 9");
    let message = Gpus::find(&config, "boot-1").await.err().expect("must fail").to_string();
    assert!(message.contains("driver") && message.contains("source = \"none\""), "{message}");
    config.gpus = GpuSource::None;
    assert!(Gpus::find(&config, "boot-1").await.expect("a node without GPUs").facts().is_empty());
}

#[tokio::test]
async fn simulated_gpus_are_busy_where_members_run() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut config = config(&dir, "");
    config.gpus = GpuSource::Simulated { count: 2, model: "H100".to_owned(), memory_mib: 100 };
    let gpus = Gpus::find(&config, "boot-1").await.expect("no library needed");
    let used: Vec<u64> = gpus.sample(&[1]).iter().map(|gpu| gpu.telemetry.memory_used_mib).collect();
    assert_eq!(used, [0, 90]);
}

/// On a node with a driver: `GPU_TESTS=1`.
#[tokio::test]
async fn the_real_driver_is_read() {
    if std::env::var("GPU_TESTS").as_deref() != Ok("1") {
        eprintln!("skipped: set GPU_TESTS=1 on a node with an NVIDIA GPU");
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut config = config(&dir, "");
    config.gpus = GpuSource::Nvml { lib: None };
    let gpus = Gpus::find(&config, "boot-1").await.expect("the driver answers");
    println!("{:#?}", to_wire(&config, &gpus));
    println!("{:#?}", telemetry(&gpus.sample(&[])));
    let sample = gpus.sample(&[]);
    assert!(!gpus.facts().is_empty(), "GPU_TESTS=1 promises a GPU");
    for (facts, sample) in gpus.facts().iter().zip(sample.iter()) {
        assert!(facts.uuid.starts_with("GPU-") && facts.memory_mib > 1_000 && !facts.model.is_empty(), "{facts:?}");
        let telemetry = &sample.telemetry;
        assert!(telemetry.power_mw > 0 && telemetry.temperature_c > 0 && telemetry.sm_clock_mhz > 0, "{telemetry:?}");
        assert_eq!(sample.health, Health::default());
    }
}
