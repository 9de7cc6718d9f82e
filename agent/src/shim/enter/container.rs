//! The last part of the way into a container: the mounts that the job names, then the runtime.
//!
//! Comes in: an entry whose process is in its cgroups and has mounts of its own. Goes out: a container that runs, as a
//! process that falls to the shim; or why not. This part must never open what the job names with more than its user's
//! rights.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    process::{Command, Stdio},
};

use rustix::{
    fs::{CWD, Gid, Mode, OFlags, Uid},
    mount::{MountFlags, MountPropagationFlags},
};

use super::{Contained, Entry};
use crate::{isolation::account::Account, shim::files::UserMount, sys};

/// Bytes of the runtime's words that are shown.
const MAX_WORDS: usize = 300;

/// Makes the container and starts its program.
pub(super) fn begin(entry: &Entry, contained: &Contained) -> Result<(), String> {
    let named = |err: io::Error| format!("mounts of its own: {err}");
    sys::own_mounts().map_err(named)?;
    let downstream = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", downstream).map_err(|err| named(err.into()))?;
    // The runtime is to leave cgroups alone, and refuses nodes with both versions as soon as it sees them. What runs in
    // the container has no use for the node's cgroups either.
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("tmpfs", "/sys/fs/cgroup", "tmpfs", flags, Some(c"mode=755"))
        .map_err(|err| named(err.into()))?;
    for mount in &contained.mounts {
        let shown = |err: io::Error| format!("{}: {err}: its user must reach it on this node", mount.source.display());
        let found = open_as(entry.confinement.account.as_ref(), mount).map_err(shown)?;
        put(&found, mount).map_err(shown)?;
    }
    let pid_file = contained.pid_file();
    let pid_file = pid_file.as_os_str();
    run(
        contained,
        &["create".as_ref(), "--bundle".as_ref(), contained.bundle.as_os_str(), "--pid-file".as_ref(), pid_file],
    )?;
    run(contained, &["start".as_ref()])
}

fn run(contained: &Contained, words: &[&std::ffi::OsStr]) -> Result<(), String> {
    let log = contained.bundle.join("log");
    let mut command = Command::new(&contained.runtime);
    command.arg("--root").arg(contained.bundle.join("state")).arg("--log").arg(&log).arg("--cgroup-manager=disabled");
    command.args(words).arg(&contained.name).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let status = command.stdin(Stdio::null()).status();
    let status = status.map_err(|err| format!("{}: {err}", contained.runtime.display()))?;
    if status.success() {
        return Ok(());
    }
    let text = fs::read_to_string(&log).unwrap_or_default();
    let words: String = text.lines().last().unwrap_or("it said nothing").chars().take(MAX_WORDS).collect();
    Err(format!("the container cannot be started ({status}): {words}"))
}

/// Opens the source with the rights of the job's user, for no other use than to be mounted.
fn open_as(account: Option<&Account>, mount: &UserMount) -> io::Result<OwnedFd> {
    let open = || rustix::fs::openat(CWD, &mount.source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let Some(account) = account else { return open().map_err(io::Error::from) };
    let own = rustix::process::getgroups()?;
    let groups: Vec<Gid> = account.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    rustix::thread::set_thread_groups(&groups)?;
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::from_raw(account.gid), Gid::ROOT)?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::from_raw(account.uid), Uid::ROOT)?;
    let opened = open();
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    rustix::thread::set_thread_groups(&own)?;
    opened.map_err(io::Error::from)
}

fn put(found: &OwnedFd, mount: &UserMount) -> io::Result<()> {
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    if fs::metadata(&path)?.is_dir() {
        fs::create_dir_all(&mount.slot)?;
    } else {
        File::create(&mount.slot)?;
    }
    rustix::mount::mount_bind_recursive(&path, &mount.slot)?;
    Ok(())
}
