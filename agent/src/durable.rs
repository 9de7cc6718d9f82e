//! Small files that survive a power cut.
//!
//! Comes in: a path and bytes. Goes out: the old file or the new one, never a mixture, synced together with its folder.
//! Blocking; used by the store's thread and by the shim, never by an asynchronous task.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// Puts `bytes` in place of the file at `path`, with mode 0600.
///
/// Writers of the same path must be the only ones of their process: the temporary name carries the process id.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    put(path, bytes)?;
    sync_parent(path)
}

/// The first half of `replace`: after an error the old file stands. Durable after `sync_dir` of its folder.
pub(crate) fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = temporary_beside(path);
    let result = write_synced(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    if result.is_err() {
        // The old file stands; what is left of the new one is not worth a second error.
        let _ = fs::remove_file(&temporary);
    }
    result
}

/// Makes the names in a folder durable.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes a folder (mode 0700) with its parents; an existing one is fine. The entry is durable.
pub fn create_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    sync_parent(path)
}

/// Makes the file at `path`, whole, unless there is one: `false` then. Of several writers one wins.
pub(crate) fn create_once(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    let temporary = temporary_beside(path);
    write_plain(&temporary, bytes)?;
    let linked = fs::hard_link(&temporary, path);
    let _ = fs::remove_file(&temporary);
    match linked {
        Ok(()) => Ok(true),
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(err) => Err(err),
    }
}

/// Puts `bytes` in place of the file at `path` without a sync: for facts that do not outlive the boot.
pub(crate) fn replace_unsynced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = temporary_beside(path);
    write_plain(&temporary, bytes)?;
    fs::rename(&temporary, path)
}

fn temporary_beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    path.with_file_name(name)
}

fn write_plain(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    Ok(file)
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_plain(path, bytes)?.sync_all()
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
        _ => Ok(()),
    }
}
