//! Calls of NVML that nvml-wrapper has no safe form for.

use nvml_wrapper::{
    Device,
    error::{NvmlError, nvml_sym, nvml_try},
};
use nvml_wrapper_sys::bindings::{nvmlGpuFabricInfo_v2_t, nvmlGpuFabricInfo_v3_t, nvmlGpuInstanceInfo_t};

/// Where a MIG device lies.
pub(crate) struct GpuInstance {
    /// Its number on the GPU.
    pub(crate) number: u32,
    /// The memory slice at which it begins.
    pub(crate) first_slice: u32,
}

/// A GPU's place in an NVLink fabric.
pub(crate) struct Fabric {
    pub(crate) cluster: [u8; 16],
    pub(crate) clique: u32,
    /// nvmlGpuFabricState_t.
    pub(crate) state: u8,
}

/// The GPU instance of a MIG device of `gpu`.
pub(crate) fn gpu_instance(gpu: &Device<'_>, mig: &Device<'_>) -> Result<GpuInstance, NvmlError> {
    let lib = gpu.nvml().lib();
    let number_of = nvml_sym(lib.nvmlDeviceGetGpuInstanceId.as_ref())?;
    let by_number = nvml_sym(lib.nvmlDeviceGetGpuInstanceById.as_ref())?;
    let info_of = nvml_sym(lib.nvmlGpuInstanceGetInfo.as_ref())?;
    let mut number = 0;
    let mut instance = std::ptr::null_mut();
    // WHY: the wrapper knows MIG devices, but not the instances behind them.
    // SAFETY: both handles are of the library that the functions are of, and live as long as it; all that is written to
    // is of the type that the function's signature states; plain numbers and pointers may be zero.
    unsafe {
        nvml_try(number_of(mig.handle(), &mut number))?;
        nvml_try(by_number(gpu.handle(), number, &mut instance))?;
        let mut info: nvmlGpuInstanceInfo_t = std::mem::zeroed();
        nvml_try(info_of(instance, &mut info))?;
        Ok(GpuInstance { number, first_slice: info.placement.start })
    }
}

/// Which NVLink fabric a GPU is part of.
pub(crate) fn fabric(gpu: &Device<'_>) -> Result<Fabric, NvmlError> {
    let ask = nvml_sym(gpu.nvml().lib().nvmlDeviceGetGpuFabricInfoV.as_ref())?;
    // WHY: the wrapper lacks the call. The second version of the answer is the one that all drivers with the call know.
    // SAFETY: the handle lives as long as the library. The room is that of the third version, which begins as the second
    // does; the driver writes as much as the version that is stated says. Plain numbers may be zero.
    unsafe {
        let mut info: nvmlGpuFabricInfo_v3_t = std::mem::zeroed();
        info.version = u32::try_from(size_of::<nvmlGpuFabricInfo_v2_t>()).expect("some bytes") | 2 << 24;
        nvml_try(ask(gpu.handle(), &mut info))?;
        Ok(Fabric { cluster: info.clusterUuid, clique: info.cliqueId, state: info.state })
    }
}
