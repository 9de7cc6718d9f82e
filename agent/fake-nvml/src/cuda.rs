//! The functions of CUDA's driver interface that a test of GPU memory calls: alloc, write, read, free. Device memory is
//! host memory.
//!
//! Comes in: C arguments. Goes out: C results. The GPU is the one that `CUDA_VISIBLE_DEVICES` names by UUID, else the first.
//! Faults of the file hold here too (`slow`, `fail`, with CUDA's codes), and `flip` turns a bit of what is read.
//!
//! WHY unsafe: as in `exports`. SAFETY of all functions: as there; addresses of device memory are checked against what was
//! allocated.

use std::{
    collections::BTreeMap,
    ffi::{c_char, c_int, c_uint, c_void},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    abi::{Return, SUCCESS},
    exports::put,
    state,
};

const INVALID_VALUE: Return = 1;
const OUT_OF_MEMORY: Return = 2;
const NO_DEVICE: Return = 100;
const MIB: usize = 1_024 * 1_024;

/// Device memory by its address.
static BLOCKS: Mutex<BTreeMap<u64, Box<[u8]>>> = Mutex::new(BTreeMap::new());

fn blocks() -> MutexGuard<'static, BTreeMap<u64, Box<[u8]>>> {
    BLOCKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A call about the visible GPU; the index of it is given to `answer`.
fn visible(function: &str, answer: impl FnOnce(usize, &crate::conf::Gpu) -> Return) -> Return {
    match state::visible(function) {
        Ok(Some((index, gpu))) => answer(index, &gpu),
        Ok(None) => NO_DEVICE,
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuInit(_flags: c_uint) -> Return {
    visible("cuInit", |_, _| SUCCESS)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> Return {
    // SAFETY: the head of this file.
    visible("cuDeviceGet", |_, _| if ordinal == 0 { unsafe { put(device, 0) } } else { INVALID_VALUE })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut *mut c_void, _device: c_int) -> Return {
    // SAFETY: the head of this file.
    visible("cuDevicePrimaryCtxRetain", |_, _| unsafe { put(context, std::ptr::dangling_mut::<c_void>()) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRelease_v2(_device: c_int) -> Return {
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxSetCurrent(_context: *mut c_void) -> Return {
    visible("cuCtxSetCurrent", |_, _| SUCCESS)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> Return {
    visible("cuMemGetInfo_v2", |_, gpu| {
        let held: usize = blocks().values().map(|block| block.len()).sum();
        let all = gpu.cuda_mib as usize * MIB;
        // SAFETY: the head of this file.
        unsafe {
            match put(free, all.saturating_sub(held)) {
                SUCCESS => put(total, all),
                code => code,
            }
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> Return {
    visible("cuMemAlloc_v2", |_, gpu| {
        let mut blocks = blocks();
        let held: usize = blocks.values().map(|block| block.len()).sum();
        if bytes == 0 || held.saturating_add(bytes) > gpu.cuda_mib as usize * MIB {
            return OUT_OF_MEMORY;
        }
        let block = vec![0_u8; bytes].into_boxed_slice();
        let at = block.as_ptr() as u64;
        blocks.insert(at, block);
        // SAFETY: the head of this file.
        unsafe { put(address, at) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFree_v2(address: u64) -> Return {
    if blocks().remove(&address).is_some() { SUCCESS } else { INVALID_VALUE }
}

/// A part of a block that was allocated, and where it begins in it.
fn part(blocks: &mut BTreeMap<u64, Box<[u8]>>, address: u64, bytes: usize) -> Option<(usize, &mut [u8])> {
    let (start, block) = blocks.range_mut(..=address).next_back()?;
    let from = usize::try_from(address - start).ok()?;
    block.get_mut(from..from.checked_add(bytes)?).map(|part| (from, part))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) -> Return {
    visible("cuMemcpyHtoD_v2", |_, _| {
        let mut blocks = blocks();
        let Some((_, part)) = part(&mut blocks, to, bytes).filter(|_| !from.is_null()) else { return INVALID_VALUE };
        // SAFETY: the caller gives so many bytes, not null; the part is ours and as long.
        unsafe { part.as_mut_ptr().copy_from_nonoverlapping(from.cast(), bytes) };
        SUCCESS
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) -> Return {
    visible("cuMemcpyDtoH_v2", |_, gpu| {
        let mut blocks = blocks();
        let Some((at, part)) = part(&mut blocks, from, bytes).filter(|_| !to.is_null()) else { return INVALID_VALUE };
        let to: *mut u8 = to.cast();
        // SAFETY: the caller gives room for so many bytes, not null; the part is ours and as long.
        unsafe { to.copy_from_nonoverlapping(part.as_ptr(), bytes) };
        let flip = gpu.flip.and_then(|offset| usize::try_from(offset).ok()?.checked_sub(at)).filter(|at| *at < bytes);
        if let Some(at) = flip {
            // SAFETY: inside the room that the caller gave, and written above.
            unsafe { to.add(at).write(part[at] ^ 1) };
        }
        SUCCESS
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(code: Return, name: *mut *const c_char) -> Return {
    let text = match code {
        INVALID_VALUE => c"CUDA_ERROR_INVALID_VALUE",
        OUT_OF_MEMORY => c"CUDA_ERROR_OUT_OF_MEMORY",
        NO_DEVICE => c"CUDA_ERROR_NO_DEVICE",
        214 => c"CUDA_ERROR_ECC_UNCORRECTABLE",
        _ => c"CUDA_ERROR_UNKNOWN",
    };
    // SAFETY: the head of this file; the text lives for ever.
    unsafe { put(name, text.as_ptr()) }
}
