//! The fake NVML library, carried inside the agent.
//!
//! Comes in: a folder and what the library shall show. Goes out: the library's path, ready for NVML's loader.
//! Every folder is a node of its own: the library looks for its file beside itself. What is changed there later is
//! seen at the next call.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::durable;

static LIBRARY: &[u8] = include_bytes!(env!("DURE_FAKE_NVML"));
/// The library's file name.
pub const LIBRARY_NAME: &str = "libfake-nvml.so";

/// Writes the library and its file into `dir` (made when absent) and gives the library's path. A library that is there
/// already is left alone: it may be loaded.
pub fn write_library(dir: &Path, conf: &str) -> io::Result<PathBuf> {
    durable::create_dir(dir)?;
    let path = dir.join(LIBRARY_NAME);
    if !fs::read(&path).is_ok_and(|bytes| bytes == LIBRARY) {
        durable::replace(&path, LIBRARY)?;
    }
    write_conf(&path, conf)?;
    Ok(path)
}

/// Changes what the library at `path` shows.
pub fn write_conf(path: &Path, conf: &str) -> io::Result<()> {
    durable::replace_unsynced(&conf_path(path), conf.as_bytes())
}

/// The file that drives the library at `path`.
pub fn conf_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".conf");
    PathBuf::from(name)
}
