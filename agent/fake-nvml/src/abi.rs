//! NVML's C types and codes, as far as they are used. Layouts are those of nvml.h, version 12 and later.

use std::ffi::{c_char, c_int, c_longlong, c_uint, c_ulonglong, c_void};

/// An opaque handle: the GPU's index plus one.
pub type Device = *mut c_void;
/// An opaque handle: the set's number plus one.
pub type EventSetHandle = *mut c_void;
/// NVML's result.
pub type Return = c_uint;

pub const SUCCESS: Return = 0;
pub const UNINITIALIZED: Return = 1;
pub const INVALID_ARGUMENT: Return = 2;
pub const NOT_SUPPORTED: Return = 3;
pub const NOT_FOUND: Return = 6;
pub const INSUFFICIENT_SIZE: Return = 7;
pub const TIMEOUT: Return = 10;
pub const GPU_IS_LOST: Return = 15;
pub const UNKNOWN: Return = 999;

/// nvmlEventTypeXidCriticalError.
pub const EVENT_XID: c_ulonglong = 8;
/// NVML_FI_DEV_GET_GPU_RECOVERY_ACTION.
pub const FIELD_RECOVERY_ACTION: c_uint = 230;
/// NVML_FI_DEV_RETIRED_PENDING.
pub const FIELD_RETIRED_PENDING: c_uint = 31;
/// NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL: where all NVLink errors of the file are counted.
pub const FIELD_NVLINK_ERRORS: c_uint = 38;
/// The other counters of NVLink errors (data, replay, recovery).
pub const FIELDS_NVLINK_OTHERS: [c_uint; 3] = [45, 52, 59];
/// NVML_FI_DEV_REMAPPED_COR, _UNC, _PENDING and _FAILURE.
pub const FIELD_REMAPPED: c_uint = 142;
pub const FIELD_REMAPPED_UNCORRECTABLE: c_uint = 143;
pub const FIELD_REMAP_PENDING: c_uint = 144;
pub const FIELD_REMAP_FAILED: c_uint = 145;
/// NVML_VALUE_TYPE_UNSIGNED_INT.
pub const VALUE_UNSIGNED_INT: c_uint = 1;
/// NVML_GPU_FABRIC_STATE_COMPLETED.
pub const FABRIC_COMPLETED: u8 = 3;
/// NVML_GPU_FABRIC_STATE_NOT_SUPPORTED.
pub const FABRIC_NOT_SUPPORTED: u8 = 0;
/// No GPU or compute instance.
pub const NO_INSTANCE: c_uint = 0xffff_ffff;

#[repr(C)]
pub struct Memory {
    pub total: c_ulonglong,
    pub free: c_ulonglong,
    pub used: c_ulonglong,
}

#[repr(C)]
pub struct MemoryV2 {
    pub version: c_uint,
    pub total: c_ulonglong,
    pub reserved: c_ulonglong,
    pub free: c_ulonglong,
    pub used: c_ulonglong,
}

#[repr(C)]
pub struct Utilization {
    pub gpu: c_uint,
    pub memory: c_uint,
}

#[repr(C)]
pub struct PciInfo {
    pub bus_id_legacy: [c_char; 16],
    pub domain: c_uint,
    pub bus: c_uint,
    pub device: c_uint,
    pub pci_device_id: c_uint,
    pub pci_sub_system_id: c_uint,
    pub bus_id: [c_char; 32],
}

#[repr(C)]
pub struct ProcessInfo {
    pub pid: c_uint,
    pub used_gpu_memory: c_ulonglong,
    pub gpu_instance_id: c_uint,
    pub compute_instance_id: c_uint,
}

#[repr(C)]
pub struct GpuInstanceInfo {
    pub device: Device,
    pub id: c_uint,
    pub profile_id: c_uint,
    pub first_slice: c_uint,
    pub slices: c_uint,
}

/// The second version; the third has a byte more behind it.
#[repr(C)]
pub struct FabricInfo {
    pub version: c_uint,
    pub cluster: [u8; 16],
    pub status: Return,
    pub clique: c_uint,
    pub state: u8,
    pub health_mask: c_uint,
}

#[repr(C)]
pub struct EventData {
    pub device: Device,
    pub event_type: c_ulonglong,
    pub event_data: c_ulonglong,
    pub gpu_instance_id: c_uint,
    pub compute_instance_id: c_uint,
}

/// The value is a union of numbers in C; the library only writes the unsigned one.
#[repr(C)]
pub struct FieldValue {
    pub field_id: c_uint,
    pub scope_id: c_uint,
    pub timestamp: c_longlong,
    pub latency_usec: c_longlong,
    pub value_type: c_uint,
    pub nvml_return: Return,
    pub value: c_ulonglong,
}

/// What dladdr(3) fills in.
#[repr(C)]
pub struct DlInfo {
    pub file_name: *const c_char,
    pub file_base: *mut c_void,
    pub symbol_name: *const c_char,
    pub symbol_address: *mut c_void,
}

unsafe extern "C" {
    pub fn dladdr(address: *const c_void, info: *mut DlInfo) -> c_int;
}
