//! The only unsafe code of the agent: small wraps of calls that have no safe form.
//!
//! Each block says why it is needed and why it holds. This part must never hold logic.
#![allow(unsafe_code)]

pub(crate) mod bpf;
pub(crate) mod cuda;
pub(crate) mod nvml;

use std::{
    io,
    os::fd::{FromRawFd as _, OwnedFd, RawFd},
};

use rustix::thread::UnshareFlags;

use tokio::io::{Interest, unix::AsyncFd};

/// The first descriptor that is not a standard stream.
const FIRST_OWN: RawFd = 3;

/// A descriptor of a process that an asynchronous task can wait for: readable when the process has ended.
pub(crate) fn watch_process(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // WHY: tokio's safe constructors are deprecated, because a type may lie about its descriptor.
    // SAFETY: an `OwnedFd` is open until it is dropped and always gives the same descriptor; the `AsyncFd` owns it and
    // drops it after it is deregistered.
    let watched = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
    watched.map_err(io::Error::from)
}

/// Takes a descriptor that the parent left open for this program and told the number of; it is closed by exec from
/// then on. Called once, first of all.
pub(crate) fn take_inherited(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < FIRST_OWN {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{fd} is no descriptor of our own")));
    }
    // WHY: nobody but the parent knows that the number is a descriptor.
    // SAFETY: the program has just begun and has opened nothing that it still holds, so the number belongs to nobody
    // else; a number that is not open makes the next call fail.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    match rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC) {
        Ok(()) => Ok(fd),
        Err(err) => {
            // Not open: there is nothing to close.
            std::mem::forget(fd);
            Err(err.into())
        }
    }
}

/// Gives this process mounts of its own.
pub(crate) fn own_mounts() -> io::Result<()> {
    // WHY: the call can take descriptors away from other threads.
    // SAFETY: it does that with `FILES` only, which is not asked for.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.map_err(io::Error::from)
}
