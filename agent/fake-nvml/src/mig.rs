//! The functions about MIG devices, about what they share with GPUs (name, UUID), and about the fabric.
//!
//! A MIG device's handle is its GPU's with the number of the instance, from 1, above it; a GPU instance's handle is the
//! same. The rules of `exports` hold here too.

use std::ffi::{c_char, c_uint, c_void};

use crate::{
    abi::*,
    conf::{Gpu, Mig},
    exports::{put, put_text},
    state::{State, gpu, to_device},
};

/// Where the number of the instance stands in a handle.
const SHIFT: u32 = 16;
/// MIG devices of a GPU.
const MAX_INSTANCES: u32 = 7;

fn to_handle(index: usize, number: usize) -> Device {
    (to_device(index) as usize | number << SHIFT) as Device
}

/// The GPU's handle, and the number of the instance where it is a MIG device's.
fn split(device: Device) -> (Device, Option<usize>) {
    let bits = device as usize;
    ((bits & ((1 << SHIFT) - 1)) as Device, Some(bits >> SHIFT).filter(|number| *number > 0))
}

fn instance(gpu: &Gpu, number: usize) -> Option<&Mig> {
    gpu.instances.get(number.checked_sub(1)?)
}

fn uuid(state: &State, index: usize, mig: &Mig) -> String {
    let own = || state.uuid_of(&format!("{index}/mig/{}/{}", mig.profile, mig.first));
    mig.uuid.clone().unwrap_or_else(|| format!("MIG-{}", own()))
}

/// A call about a MIG device: the GPU's index, the instance and its number.
fn about_mig(
    function: &str,
    device: Device,
    answer: impl FnOnce(&State, usize, &Gpu, &Mig, usize) -> Return,
) -> Return {
    let (parent, Some(number)) = split(device) else { return INVALID_ARGUMENT };
    gpu(function, parent, |state, _, index, gpu| match instance(gpu, number) {
        Some(mig) => answer(state, index, gpu, mig, number),
        None => NOT_FOUND,
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUUID(device: Device, to: *mut c_char, length: c_uint) -> Return {
    const NAME: &str = "nvmlDeviceGetUUID";
    // SAFETY: see the head of `exports`.
    let text = |text: &str| unsafe { put_text(to, length, text) };
    match split(device) {
        (device, None) => gpu(NAME, device, |state, _, index, _| text(&state.uuid(index))),
        (_, Some(_)) => about_mig(NAME, device, |state, index, _, mig, _| text(&uuid(state, index, mig))),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetName(device: Device, to: *mut c_char, length: c_uint) -> Return {
    const NAME: &str = "nvmlDeviceGetName";
    // SAFETY: see the head of `exports`.
    let text = |text: &str| unsafe { put_text(to, length, text) };
    match split(device) {
        (device, None) => gpu(NAME, device, |_, _, _, gpu| text(&gpu.model)),
        (_, Some(_)) => {
            about_mig(NAME, device, |_, _, gpu, mig, _| text(&format!("{} MIG {}", gpu.model, mig.profile)))
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceIsMigDeviceHandle(device: Device, to: *mut c_uint) -> Return {
    let (parent, number) = split(device);
    // SAFETY: see the head of `exports`.
    gpu("nvmlDeviceIsMigDeviceHandle", parent, |_, _, _, _| unsafe { put(to, c_uint::from(number.is_some())) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMaxMigDeviceCount(device: Device, to: *mut c_uint) -> Return {
    // SAFETY: see the head of `exports`.
    gpu("nvmlDeviceGetMaxMigDeviceCount", device, |_, _, _, gpu| unsafe { put(to, gpu.mig * MAX_INSTANCES) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigDeviceHandleByIndex(device: Device, place: c_uint, to: *mut Device) -> Return {
    gpu("nvmlDeviceGetMigDeviceHandleByIndex", device, |_, _, index, gpu| match gpu.instances.get(place as usize) {
        // SAFETY: see the head of `exports`.
        Some(_) => unsafe { put(to, to_handle(index, place as usize + 1)) },
        None if gpu.mig == 0 => NOT_SUPPORTED,
        None => NOT_FOUND,
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device: Device, to: *mut Device) -> Return {
    // SAFETY: see the head of `exports`.
    about_mig("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", device, |_, index, _, _, _| unsafe {
        put(to, to_device(index))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetGpuInstanceId(device: Device, to: *mut c_uint) -> Return {
    // SAFETY: see the head of `exports`.
    about_mig("nvmlDeviceGetGpuInstanceId", device, |_, _, _, _, number| unsafe { put(to, number as c_uint) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeInstanceId(device: Device, to: *mut c_uint) -> Return {
    // SAFETY: see the head of `exports`.
    about_mig("nvmlDeviceGetComputeInstanceId", device, |_, _, _, _, _| unsafe { put(to, 0) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetGpuInstanceById(device: Device, id: c_uint, to: *mut *mut c_void) -> Return {
    gpu("nvmlDeviceGetGpuInstanceById", device, |_, _, index, gpu| match instance(gpu, id as usize) {
        // SAFETY: see the head of `exports`.
        Some(_) => unsafe { put(to, to_handle(index, id as usize)) },
        None => NOT_FOUND,
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlGpuInstanceGetInfo(instance: *mut c_void, to: *mut GpuInstanceInfo) -> Return {
    about_mig("nvmlGpuInstanceGetInfo", instance, |_, index, _, mig, number| {
        let info = GpuInstanceInfo {
            device: to_device(index),
            id: number as c_uint,
            profile_id: 0,
            first_slice: mig.first,
            slices: mig.size,
        };
        // SAFETY: see the head of `exports`.
        unsafe { put(to, info) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetGpuFabricInfoV(device: Device, to: *mut FabricInfo) -> Return {
    gpu("nvmlDeviceGetGpuFabricInfoV", device, |_, conf, _, _| {
        let version = (size_of::<FabricInfo>() as c_uint) | (2 << 24);
        let state = if conf.fabric.is_some() { FABRIC_COMPLETED } else { FABRIC_NOT_SUPPORTED };
        let (cluster, clique) = conf.fabric.unwrap_or_default();
        let info = FabricInfo { version, cluster, status: SUCCESS, clique, state, health_mask: 0 };
        // SAFETY: see the head of `exports`.
        unsafe { put(to, info) }
    })
}

/// Whether a UUID is that of a MIG device of this GPU: its handle.
pub fn by_uuid(state: &State, index: usize, gpu: &Gpu, wanted: &[u8]) -> Option<Device> {
    let place = gpu.instances.iter().position(|mig| uuid(state, index, mig).as_bytes() == wanted)?;
    Some(to_handle(index, place + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::to_index;

    #[test]
    fn a_handle_says_which_gpu_and_which_instance() {
        assert_eq!(split(to_handle(3, 5)), (to_device(3), Some(5)));
        assert_eq!(split(to_device(7)), (to_device(7), None));
        assert_eq!(to_index(to_handle(0, 1)), Some(1 << SHIFT), "no GPU has such an index");
    }
}
