//! The only unsafe code of the agent: small wraps of calls that have no safe form.
//!
//! Each block says why it is needed and why it holds. This part must never hold logic.
#![allow(unsafe_code)]

use std::{io, os::fd::OwnedFd};

use tokio::io::{Interest, unix::AsyncFd};

/// A descriptor of a process that an asynchronous task can wait for: readable when the process has ended.
pub(crate) fn watch_process(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // WHY: tokio's safe constructors are deprecated, because a type may lie about its descriptor.
    // SAFETY: an `OwnedFd` is open until it is dropped and always gives the same descriptor; the `AsyncFd` owns it and
    // drops it after it is deregistered.
    let watched = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
    watched.map_err(io::Error::from)
}
