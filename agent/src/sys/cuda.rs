//! As much of CUDA's driver interface as a test of GPU memory needs, from a library that is loaded at run time.

use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    path::Path,
    ptr,
};

use libloading::Library;

/// CUresult.
type Code = c_int;

/// CUDA_ERROR_OUT_OF_MEMORY.
pub(crate) const OUT_OF_MEMORY: Code = 2;
/// CUDA_ERROR_DEVICE_UNAVAILABLE: somebody has it for himself.
pub(crate) const UNAVAILABLE: Code = 46;
/// CUDA_ERROR_NO_DEVICE.
pub(crate) const NO_DEVICE: Code = 100;

/// A call that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {name} ({code})")]
pub(crate) struct CudaError {
    pub(crate) call: &'static str,
    pub(crate) code: Code,
    pub(crate) name: String,
}

/// The first GPU that CUDA shows to this process, with a context on it.
pub(crate) struct Gpu {
    library: Library,
}

/// Device memory; freed with it.
pub(crate) struct Block<'g> {
    gpu: &'g Gpu,
    address: u64,
    bytes: usize,
}

/// Calls a function of the library by name: its error where the library lacks it, or says so.
macro_rules! call {
    ($gpu:expr, $name:literal, fn($($kind:ty),*), $($value:expr),*) => {{
        // WHY: the library is looked at by name at run time, and C functions are unsafe to call.
        // SAFETY: the signature is that of cuda.h for this name; what is written to is of the type that it states and lives
        // through the call; a name that is not there is an error.
        let code = unsafe {
            match $gpu.library.get::<unsafe extern "C" fn($($kind),*) -> Code>(concat!($name, "\0").as_bytes()) {
                Ok(function) => function($($value),*),
                Err(_) => return Err(CudaError { call: $name, code: -1, name: "the library lacks it".to_owned() }),
            }
        };
        $gpu.checked($name, code)
    }};
}

impl Gpu {
    /// Loads the library; the words of the loader when it is not there.
    pub(crate) fn load(library: &Path) -> Result<Self, String> {
        // WHY: a library runs code when it is loaded.
        // SAFETY: it is the driver's, named by the site; this process does nothing else and has no other threads.
        let library = unsafe { Library::new(library) }.map_err(|err| err.to_string())?;
        Ok(Self { library })
    }

    /// Wakes the driver and takes the GPU's context.
    pub(crate) fn open(&self) -> Result<(), CudaError> {
        let (mut device, mut context): (c_int, *mut c_void) = (0, ptr::null_mut());
        call!(self, "cuInit", fn(c_uint), 0)?;
        call!(self, "cuDeviceGet", fn(*mut c_int, c_int), &mut device, 0)?;
        call!(self, "cuDevicePrimaryCtxRetain", fn(*mut *mut c_void, c_int), &mut context, device)?;
        call!(self, "cuCtxSetCurrent", fn(*mut c_void), context)
    }

    /// Free and total memory, in bytes.
    pub(crate) fn memory(&self) -> Result<(usize, usize), CudaError> {
        let (mut free, mut total) = (0, 0);
        call!(self, "cuMemGetInfo_v2", fn(*mut usize, *mut usize), &mut free, &mut total)?;
        Ok((free, total))
    }

    /// So many bytes of device memory.
    pub(crate) fn alloc(&self, bytes: usize) -> Result<Block<'_>, CudaError> {
        let mut address = 0;
        call!(self, "cuMemAlloc_v2", fn(*mut u64, usize), &mut address, bytes)?;
        Ok(Block { gpu: self, address, bytes })
    }

    fn checked(&self, call: &'static str, code: Code) -> Result<(), CudaError> {
        if code == 0 { Ok(()) } else { Err(CudaError { call, code, name: self.name_of(code) }) }
    }

    fn name_of(&self, code: Code) -> String {
        let mut name: *const c_char = ptr::null();
        // WHY: as in `call`. SAFETY: as there; the text that is given lives as long as the library.
        unsafe {
            let function =
                self.library.get::<unsafe extern "C" fn(Code, *mut *const c_char) -> Code>(b"cuGetErrorName\0");
            if function.is_ok_and(|function| function(code, &mut name) == 0) && !name.is_null() {
                return CStr::from_ptr(name).to_string_lossy().into_owned();
            }
        }
        "an error without a name".to_owned()
    }
}

impl Block<'_> {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Writes `words` from byte `at` on.
    ///
    /// # Panics
    /// When they do not fit.
    pub(crate) fn write(&self, at: usize, words: &[u64]) -> Result<(), CudaError> {
        let bytes = size_of_val(words);
        assert!(at + bytes <= self.bytes, "a write inside the block");
        let to = self.address + at as u64;
        call!(self.gpu, "cuMemcpyHtoD_v2", fn(u64, *const c_void, usize), to, words.as_ptr().cast(), bytes)
    }

    /// Fills `words` from byte `at` on.
    ///
    /// # Panics
    /// When there are not so many.
    pub(crate) fn read(&self, at: usize, words: &mut [u64]) -> Result<(), CudaError> {
        let bytes = size_of_val(words);
        assert!(at + bytes <= self.bytes, "a read inside the block");
        let from = self.address + at as u64;
        call!(self.gpu, "cuMemcpyDtoH_v2", fn(*mut c_void, u64, usize), words.as_mut_ptr().cast(), from, bytes)
    }

    fn free(&mut self) -> Result<(), CudaError> {
        call!(self.gpu, "cuMemFree_v2", fn(u64), self.address)
    }
}

impl Drop for Block<'_> {
    fn drop(&mut self) {
        // The process ends soon, and the driver takes everything back then.
        let _ = self.free();
    }
}
