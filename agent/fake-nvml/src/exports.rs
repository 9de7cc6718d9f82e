//! The functions that NVML's callers look up by name.
//!
//! Comes in: C arguments. Goes out: C results. Every function checks its pointers, asks `state` and writes the answer;
//! nothing else happens here.
//!
//! WHY unsafe: this is a C interface; the caller passes addresses. SAFETY of all functions: the caller gives, as NVML's
//! manual demands, null or addresses that are valid for what the function writes; null is refused.

use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void},
    time::Duration,
};

use crate::{
    abi::*,
    conf::{LINKS, Nvlink},
    mig::by_uuid,
    state::{self, gpu, node, to_device, to_index},
};

const MIB: u64 = 1_024 * 1_024;
/// Buses of the GPUs begin here.
const FIRST_BUS: usize = 0x10;
/// Buses of the switches begin here.
const FIRST_SWITCH: usize = 0xc0;

/// Writes one answer.
pub(crate) unsafe fn put<T>(to: *mut T, value: T) -> Return {
    if to.is_null() {
        return INVALID_ARGUMENT;
    }
    // SAFETY: not null, and valid by the contract of the interface.
    unsafe { to.write(value) };
    SUCCESS
}

/// Writes a zero-terminated text into a buffer of `length` bytes.
pub(crate) unsafe fn put_text(to: *mut c_char, length: c_uint, text: &str) -> Return {
    if to.is_null() {
        return INVALID_ARGUMENT;
    }
    if text.len() >= length as usize {
        return INSUFFICIENT_SIZE;
    }
    // SAFETY: not null; the text and its zero fit into the length that the caller has given.
    unsafe {
        to.copy_from_nonoverlapping(text.as_ptr().cast(), text.len());
        to.add(text.len()).write(0);
    }
    SUCCESS
}

fn bytes<const N: usize>(text: &str) -> [c_char; N] {
    let mut all = [0; N];
    for (to, from) in all.iter_mut().take(N - 1).zip(text.bytes()) {
        *to = from as c_char;
    }
    all
}

fn pci(bus: usize) -> PciInfo {
    PciInfo {
        bus_id_legacy: bytes(&format!("0000:{bus:02X}:00.0")),
        domain: 0,
        bus: bus as c_uint,
        device: 0,
        pci_device_id: 0x2330_10de,
        pci_sub_system_id: 0,
        bus_id: bytes(&format!("00000000:{bus:02X}:00.0")),
    }
}

/// The bus at the other end of a link, if the link is up.
fn remote_bus(conf: &crate::conf::Conf, index: usize, link: c_uint) -> Option<usize> {
    let link = link as usize;
    if conf.down.contains(&(index, link)) {
        return None;
    }
    match conf.nvlink {
        Nvlink::None => None,
        Nvlink::Switch => (link < LINKS).then_some(FIRST_SWITCH + link % 4),
        Nvlink::Islands(size) => {
            let first = index - index % size;
            let others = (first..first + size).filter(|other| *other != index && *other < conf.gpus.len());
            others.map(|other| FIRST_BUS + other).nth(link)
        }
    }
}

/// `name(device, arguments...) => body`: a function about one GPU; the body sees the state, the file, index and GPU.
macro_rules! about_gpu {
    ($($name:ident($($arg:ident: $type:ty),*) => |$state:pat_param, $conf:pat_param, $index:pat_param, $gpu:pat_param| $body:expr;)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(device: Device, $($arg: $type),*) -> Return {
            gpu(stringify!($name), device, |$state, $conf, $index, $gpu| {
                // SAFETY: see the head of the file.
                #[allow(unused_unsafe)]
                unsafe { $body }
            })
        }
    )*};
}

about_gpu! {
    nvmlDeviceGetIndex(to: *mut c_uint) => |_, _, index, _| put(to, index as c_uint);
    nvmlDeviceGetMinorNumber(to: *mut c_uint) => |_, _, index, _| put(to, index as c_uint);
    nvmlDeviceGetNumaNodeId(to: *mut c_uint) => |_, _, _, gpu| put(to, gpu.numa);
    nvmlDeviceGetPciInfo_v3(to: *mut PciInfo) => |_, _, index, _| put(to, pci(FIRST_BUS + index));
    nvmlDeviceGetPowerUsage(to: *mut c_uint) => |_, _, _, gpu| put(to, gpu.power_mw);
    nvmlDeviceGetTemperature(_sensor: c_uint, to: *mut c_uint) => |_, _, _, gpu| put(to, gpu.temp_c);
    nvmlDeviceGetUtilizationRates(to: *mut Utilization) => |_, _, _, gpu| {
        put(to, Utilization { gpu: gpu.util, memory: gpu.util / 2 })
    };
    nvmlDeviceGetClockInfo(clock: c_uint, to: *mut c_uint) => |_, _, _, gpu| match clock {
        // Graphics and SM run together; 2 is memory.
        0 | 1 => put(to, gpu.sm_mhz),
        2 => put(to, gpu.mem_mhz),
        _ => NOT_SUPPORTED,
    };
    nvmlDeviceGetMemoryInfo(to: *mut Memory) => |_, _, _, gpu| {
        let [total, used] = [gpu.memory_mib * MIB, gpu.used_mib * MIB];
        put(to, Memory { total, free: total.saturating_sub(used), used })
    };
    nvmlDeviceGetMemoryInfo_v2(to: *mut MemoryV2) => |_, _, _, gpu| {
        let [total, used] = [gpu.memory_mib * MIB, gpu.used_mib * MIB];
        let version = (size_of::<MemoryV2>() as c_uint) | (2 << 24);
        put(to, MemoryV2 { version, total, reserved: 0, free: total.saturating_sub(used), used })
    };
    nvmlDeviceGetTotalEccErrors(kind: c_uint, _counter: c_uint, to: *mut c_ulonglong) => |_, _, _, gpu| {
        put(to, if kind == 0 { gpu.ecc_corrected } else { gpu.ecc_uncorrected })
    };
    nvmlDeviceGetCurrentClocksThrottleReasons(to: *mut c_ulonglong) => |_, _, _, gpu| put(to, gpu.throttle);
    nvmlDeviceGetCurrentClocksEventReasons(to: *mut c_ulonglong) => |_, _, _, gpu| put(to, gpu.throttle);
    nvmlDeviceGetMigMode(current: *mut c_uint, pending: *mut c_uint) => |_, _, _, gpu| {
        put(current, gpu.mig).max(put(pending, gpu.mig))
    };
    nvmlDeviceGetNvLinkState(link: c_uint, to: *mut c_uint) => |_, conf, index, _| {
        put(to, c_uint::from(remote_bus(conf, index, link).is_some()))
    };
    nvmlDeviceGetNvLinkRemotePciInfo_v2(link: c_uint, to: *mut PciInfo) => |_, conf, index, _| {
        remote_bus(conf, index, link).map_or(NOT_SUPPORTED, |bus| put(to, pci(bus)))
    };
    nvmlDeviceGetNvLinkRemoteDeviceType(link: c_uint, to: *mut c_uint) => |_, conf, index, _| {
        // 0 is a GPU, 2 a switch.
        let kind = |bus| if bus >= FIRST_SWITCH { 2 } else { 0 };
        remote_bus(conf, index, link).map_or(NOT_SUPPORTED, |bus| put(to, kind(bus)))
    };
    nvmlDeviceGetTopologyCommonAncestor(other: Device, to: *mut c_uint) => |_, conf, index, gpu| {
        match to_index(other).and_then(|other| Some((other, conf.gpus.get(other)?))) {
            Some((other, _)) if other == index => put(to, 0),
            // 10: one PCIe switch, 40: same NUMA node, 50: across.
            Some((place, _)) if conf.pcie_pairs && place / 2 == index / 2 => put(to, 10),
            Some((_, other)) => put(to, if other.numa == gpu.numa { 40 } else { 50 }),
            None => INVALID_ARGUMENT,
        }
    };
    nvmlDeviceGetComputeRunningProcesses_v3(count: *mut c_uint, to: *mut ProcessInfo) => |_, _, _, gpu| {
        if count.is_null() {
            return INVALID_ARGUMENT;
        }
        let room = count.read() as usize;
        count.write(gpu.processes.len() as c_uint);
        if gpu.processes.len() > room || (to.is_null() && !gpu.processes.is_empty()) {
            return INSUFFICIENT_SIZE;
        }
        for (place, (pid, mib)) in gpu.processes.iter().enumerate() {
            let (gpu_instance_id, compute_instance_id) = (NO_INSTANCE, NO_INSTANCE);
            let info = ProcessInfo { pid: *pid, used_gpu_memory: mib * MIB, gpu_instance_id, compute_instance_id };
            to.add(place).write(info);
        }
        SUCCESS
    };
    nvmlDeviceGetFieldValues(count: c_int, values: *mut FieldValue) => |_, _, _, gpu| {
        if values.is_null() {
            return INVALID_ARGUMENT;
        }
        for place in 0..usize::try_from(count).unwrap_or(0) {
            let value = &mut *values.add(place);
            value.value_type = VALUE_UNSIGNED_INT;
            (value.nvml_return, value.value) = match value.field_id {
                FIELD_RECOVERY_ACTION => (SUCCESS, gpu.recovery.into()),
                FIELD_RETIRED_PENDING => (SUCCESS, gpu.retired_pending.into()),
                FIELD_NVLINK_ERRORS => (SUCCESS, gpu.nvlink_errors),
                FIELD_REMAPPED => (SUCCESS, gpu.remapped.into()),
                FIELD_REMAP_PENDING => (SUCCESS, gpu.remap_pending.into()),
                FIELD_REMAP_FAILED => (SUCCESS, gpu.remap_failed.into()),
                FIELD_REMAPPED_UNCORRECTABLE => (SUCCESS, 0),
                id if FIELDS_NVLINK_OTHERS.contains(&id) => (SUCCESS, 0),
                _ => (NOT_SUPPORTED, 0),
            };
        }
        SUCCESS
    };
    nvmlDeviceGetSupportedEventTypes(to: *mut c_ulonglong) => |_, _, _, _| put(to, EVENT_XID);
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> Return {
    state::init("nvmlInit_v2")
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInitWithFlags(_flags: c_uint) -> Return {
    state::init("nvmlInitWithFlags")
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> Return {
    state::shutdown()
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlErrorString(code: Return) -> *const c_char {
    let text = match code {
        SUCCESS => c"Success",
        UNINITIALIZED => c"Uninitialized",
        INVALID_ARGUMENT => c"Invalid Argument",
        NOT_SUPPORTED => c"Not Supported",
        NOT_FOUND => c"Not Found",
        INSUFFICIENT_SIZE => c"Insufficient Size",
        TIMEOUT => c"Timeout",
        GPU_IS_LOST => c"GPU is lost",
        _ => c"Unknown Error",
    };
    text.as_ptr()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetDriverVersion(to: *mut c_char, length: c_uint) -> Return {
    // SAFETY: see the head of the file.
    node("nvmlSystemGetDriverVersion", |_, conf| unsafe { put_text(to, length, &conf.driver) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetNVMLVersion(to: *mut c_char, length: c_uint) -> Return {
    // SAFETY: see the head of the file.
    node("nvmlSystemGetNVMLVersion", |_, _| unsafe { put_text(to, length, "12.570.124.06") })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetCudaDriverVersion_v2(to: *mut c_int) -> Return {
    // SAFETY: see the head of the file.
    node("nvmlSystemGetCudaDriverVersion_v2", |_, _| unsafe { put(to, 12_080) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCount_v2(to: *mut c_uint) -> Return {
    // SAFETY: see the head of the file.
    node("nvmlDeviceGetCount_v2", |_, conf| unsafe { put(to, conf.gpus.len() as c_uint) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, to: *mut Device) -> Return {
    let index = index as usize;
    node("nvmlDeviceGetHandleByIndex_v2", |_, conf| match conf.gpus.get(index) {
        None => INVALID_ARGUMENT,
        // SAFETY: see the head of the file.
        Some(_) => unsafe { put(to, to_device(index)) },
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, to: *mut Device) -> Return {
    if uuid.is_null() {
        return INVALID_ARGUMENT;
    }
    // SAFETY: not null, and zero-terminated by the contract of the interface.
    let uuid = unsafe { CStr::from_ptr(uuid) }.to_bytes();
    node("nvmlDeviceGetHandleByUUID", |state, conf| {
        let own = |index: usize| (state.uuid(index).as_bytes() == uuid).then(|| to_device(index));
        let mut gpus = conf.gpus.iter().enumerate();
        let found = gpus.find_map(|(index, gpu)| own(index).or_else(|| by_uuid(state, index, gpu, uuid)));
        // SAFETY: see the head of the file.
        found.map_or(NOT_FOUND, |device| unsafe { put(to, device) })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetCreate(to: *mut EventSetHandle) -> Return {
    let code = node("nvmlEventSetCreate", |_, _| if to.is_null() { INVALID_ARGUMENT } else { SUCCESS });
    if code != SUCCESS {
        return code;
    }
    // SAFETY: see the head of the file; null is refused.
    unsafe { put(to, state::create_set() as *mut c_void) }
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlEventSetFree(set: EventSetHandle) -> Return {
    state::free_set(set as usize)
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceRegisterEvents(device: Device, _types: c_ulonglong, set: EventSetHandle) -> Return {
    let code = gpu("nvmlDeviceRegisterEvents", device, |_, _, _, _| SUCCESS);
    match to_index(device) {
        Some(index) if code == SUCCESS => state::register(set as usize, index),
        _ => code,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetWait_v2(set: EventSetHandle, to: *mut EventData, timeout_ms: c_uint) -> Return {
    match state::wait(set as usize, Duration::from_millis(timeout_ms.into())) {
        Err(code) => code,
        Ok((index, xid)) => {
            let data = EventData {
                device: to_device(index),
                event_type: EVENT_XID,
                event_data: xid,
                gpu_instance_id: NO_INSTANCE,
                compute_instance_id: NO_INSTANCE,
            };
            // SAFETY: see the head of the file.
            unsafe { put(to, data) }
        }
    }
}
