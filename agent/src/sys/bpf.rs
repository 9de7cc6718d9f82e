//! bpf(2): loading a device program and hanging it at a cgroup.
//!
//! WHY unsafe: the call takes an untyped block of memory; no safe wrap of it exists that does not bring a loader for
//! compiled objects along. Each block says why it holds.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
    path::Path,
};

use crate::isolation::devices::{self, Instruction};

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
/// BPF_PROG_TYPE_CGROUP_DEVICE.
const CGROUP_DEVICE_PROGRAM: u32 = 15;
/// BPF_CGROUP_DEVICE.
const CGROUP_DEVICE_HOOK: u32 = 6;
/// BPF_F_ALLOW_MULTI: beside the programs of others.
const ALLOW_MULTI: u32 = 2;
/// The licence is asked for only by helpers, and there are none.
const LICENCE: &[u8] = b"Apache-2.0\0";

/// The head of `union bpf_attr` for BPF_PROG_LOAD.
#[repr(C)]
struct Load {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    licence: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// The head of `union bpf_attr` for BPF_PROG_ATTACH.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    hook: u32,
    flags: u32,
}

fn raw(fd: RawFd) -> u32 {
    fd.cast_unsigned()
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let attr = Load {
        kind: CGROUP_DEVICE_PROGRAM,
        instruction_count: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: program.as_ptr() as u64,
        licence: LICENCE.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: the kernel reads `size_of::<Load>()` bytes of `attr`, the instructions (eight bytes each, as their type is
    // laid out) and the licence, all alive until the call returns, and writes nothing.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const attr, size_of::<Load>()) };
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Keeps the processes of a v2 cgroup to the guards.
pub(crate) fn guard_devices(cgroup: &Path, guards: &[devices::Guard]) -> io::Result<()> {
    let program = load(&devices::program(guards))?;
    let dir = File::open(cgroup)?;
    let attr = Attach {
        target: raw(dir.as_raw_fd()),
        program: raw(program.as_raw_fd()),
        hook: CGROUP_DEVICE_HOOK,
        flags: ALLOW_MULTI,
    };
    // SAFETY: the kernel reads `size_of::<Attach>()` bytes of `attr`, which is alive, and writes nothing. Both
    // descriptors are open; the cgroup keeps the program when they are closed.
    let done = unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw const attr, size_of::<Attach>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether the kernel takes such programs from this process.
pub(crate) fn takes_device_programs() -> bool {
    load(&devices::program(&devices::guards(&[]))).is_ok()
}
