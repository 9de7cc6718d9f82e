//! The member's cgroup (v2), where a delegated folder is at hand.
//!
//! Comes in: the folder to make it at. Goes out: a child that is born inside, and a sure way to end all that is in it.
//! The shim steps in, lets the child be born and steps out again: so no process of the member is ever outside, and the
//! shim is not ended with it. This part must never fail a launch on a node that has no delegated folder.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

const PROCS: &str = "cgroup.procs";

/// The member's cgroup, or none.
pub(super) struct Cgroup {
    own: Option<Own>,
}

struct Own {
    dir: PathBuf,
    /// Where the shim came from.
    home: Option<PathBuf>,
}

impl Cgroup {
    /// Makes the cgroup and steps in.
    pub(super) fn enter(dir: Option<&Path>) -> io::Result<Self> {
        let Some(dir) = dir else { return Ok(Self { own: None }) };
        let home = home_of(dir);
        match fs::create_dir(dir) {
            Err(err) if err.kind() != io::ErrorKind::AlreadyExists => return Err(err),
            _ => fs::write(dir.join(PROCS), "0")?,
        }
        Ok(Self { own: Some(Own { dir: dir.to_owned(), home }) })
    }

    /// Steps out; the child stays.
    pub(super) fn leave(&self) -> io::Result<()> {
        match &self.own {
            Some(Own { home: Some(home), .. }) => fs::write(home.join(PROCS), "0"),
            Some(Own { home: None, .. }) => Err(io::Error::other("the cgroup that it came from is not known")),
            None => Ok(()),
        }
    }

    /// Ends everything inside.
    pub(super) fn kill(&self) {
        if let Some(own) = &self.own {
            let _ = fs::write(own.dir.join("cgroup.kill"), "1");
        }
    }

    /// True when nothing is inside (or there is no cgroup); removes it then.
    pub(super) fn is_gone(&self) -> bool {
        let Some(own) = &self.own else { return true };
        match fs::read_to_string(own.dir.join(PROCS)) {
            Ok(procs) if !procs.trim().is_empty() => false,
            _ => {
                let _ = fs::remove_dir(&own.dir);
                true
            }
        }
    }
}

/// The folder of the cgroup this process is in: the mount is where `dir` and our own path part ways.
fn home_of(dir: &Path) -> Option<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let mount = dir.ancestors().filter(|above| above.join(PROCS).exists()).last()?;
    Some(mount.join(path))
}
