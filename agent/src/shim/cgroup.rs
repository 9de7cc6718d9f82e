//! The member's cgroups, in every hierarchy that the plan names.
//!
//! Comes in: folders with their lines. Goes out: cgroups that the member's program enters before it begins, a sure way to
//! end all that is in them, and what the kernel refused in them. A process of the member is never outside, and the shim
//! never inside, so that it is not ended with them.

use std::{fs, io, path::Path};

use rustix::process::{Pid, Signal};

use super::proc;
use crate::{
    isolation::plan::{CgroupDir, Confinement},
    sys::bpf,
};

const PROCS: &str = "cgroup.procs";
/// Folders below a member's that are looked into; a member that runs as a user can make none.
const MAX_DEPTH: u32 = 8;

/// Makes the cgroups and writes their limits.
pub(super) fn make(confinement: &Confinement) -> Result<(), String> {
    for dir in &confinement.cgroups {
        match fs::create_dir(&dir.path) {
            Err(err) if err.kind() != io::ErrorKind::AlreadyExists => {
                return Err(format!("cgroup {}: {err}", dir.path.display()));
            }
            _ => {}
        }
        for write in &dir.writes {
            match fs::write(dir.path.join(&write.file), &write.value) {
                Err(err) if !write.optional => {
                    return Err(format!("{} = {} in {}: {err}", write.file, write.value, dir.path.display()));
                }
                _ => {}
            }
        }
    }
    if let Some(program) = &confinement.device_program {
        bpf::guard_devices(&program.cgroup, &program.guards)
            .map_err(|err| format!("device rules of cgroup {}: {err}", program.cgroup.display()))?;
    }
    Ok(())
}

/// Moves the calling process into all of them.
pub(crate) fn enter(dirs: &[CgroupDir]) -> Result<(), String> {
    for dir in dirs {
        fs::write(dir.path.join(PROCS), "0").map_err(|err| format!("entering cgroup {}: {err}", dir.path.display()))?;
    }
    Ok(())
}

/// Ends everything inside.
pub(crate) fn kill(dirs: &[CgroupDir]) {
    for dir in dirs {
        if fs::write(dir.path.join("cgroup.kill"), "1").is_err() {
            members_below(&dir.path, MAX_DEPTH).into_iter().for_each(|pid| proc::signal(pid, Signal::KILL));
        }
    }
}

/// True when nothing is inside any of them.
pub(crate) fn is_empty(dirs: &[CgroupDir]) -> bool {
    dirs.iter().all(|dir| members_below(&dir.path, MAX_DEPTH).is_empty())
}

/// True when nothing is inside any of them; removes them then.
pub(crate) fn is_gone(dirs: &[CgroupDir]) -> bool {
    if !is_empty(dirs) {
        return false;
    }
    dirs.iter().for_each(|dir| remove_below(&dir.path, MAX_DEPTH));
    true
}

/// What the kernel refused to the member.
pub(super) struct Refusals {
    /// In words; empty: nothing.
    pub(super) words: String,
    /// It ended processes that wanted more memory than there is for them.
    pub(super) out_of_memory: bool,
}

/// Reads the kernel's counters.
pub(super) fn refusals(confinement: &Confinement) -> Refusals {
    let count = |files: [(&str, &str); 2]| -> u64 {
        let in_dir = |dir: &CgroupDir| files.iter().map(|(file, key)| counter(&dir.path.join(file), key)).sum::<u64>();
        confinement.cgroups.iter().map(in_dir).sum()
    };
    let mut words = Vec::new();
    let ended = count([("memory.events", "oom_kill"), ("memory.oom_control", "oom_kill")]);
    if ended > 0 {
        let limit = confinement.memory_mib;
        words.push(format!("the kernel ended {ended} of its processes: they wanted more than {limit} MiB of memory"));
    }
    let refused = count([("pids.events", "max"), ("", "")]);
    if refused > 0 {
        let limit = confinement.pids;
        words.push(format!("the kernel refused {refused} new processes or threads: it may have {limit} at once"));
    }
    Refusals { words: words.join("; "), out_of_memory: ended > 0 }
}

/// `key N` in a file of such lines; 0 where there is none.
fn counter(file: &Path, key: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok());
    value.unwrap_or(0)
}

fn members_below(dir: &Path, depth: u32) -> Vec<Pid> {
    let procs = fs::read_to_string(dir.join(PROCS)).unwrap_or_default();
    let mut found: Vec<Pid> = procs.lines().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect();
    if depth > 0 {
        folders(dir).for_each(|below| found.extend(members_below(&below, depth - 1)));
    }
    found
}

fn remove_below(dir: &Path, depth: u32) {
    if depth > 0 {
        folders(dir).for_each(|below| remove_below(&below, depth - 1));
    }
    // One that is still there keeps nothing alive; the next sweep of its folder finds it empty.
    let _ = fs::remove_dir(dir);
}

fn folders(dir: &Path) -> impl Iterator<Item = std::path::PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
}
