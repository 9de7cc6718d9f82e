//! What /proc says about processes, and how to end whole families of them.
//!
//! Comes in: process ids. Goes out: start times, descendants, signals. A process may end between two reads: what is
//! gone is skipped. This part must never signal a process that is not a descendant or does not carry the member's mark.

use std::{fs, io, path::Path};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// One process as /proc/PID/stat tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    pub(crate) session: i32,
    pub(crate) zombie: bool,
    /// Clock ticks after the boot.
    pub(crate) start_ticks: u64,
}

/// The variable in the environment of every process of a member that names its folder.
pub(crate) const MARK: &str = "DURE_MEMBER_DIR";

pub(crate) fn pid(raw: u32) -> Option<Pid> {
    i32::try_from(raw).ok().and_then(Pid::from_raw)
}

/// Start of a process in clock ticks after the boot (field 22).
pub(crate) fn start_ticks(pid: Pid) -> io::Result<u64> {
    stat(pid.as_raw_pid()).map(|stat| stat.start_ticks)
}

pub(crate) fn stat(pid: i32) -> io::Result<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_stat(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat: {text}")))
}

/// The name in brackets may hold spaces and brackets: fields are counted after the last one.
fn parse_stat(text: &str) -> Option<Stat> {
    let (head, tail) = text.rsplit_once(')')?;
    let pid = head.split_once(' ')?.0.parse().ok()?;
    let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
    // Field 3, the state, is the first after the name.
    let field = |number: usize| fields.get(number - 3);
    Some(Stat {
        pid,
        zombie: matches!(*field(3)?, "Z" | "X"),
        parent: field(4)?.parse().ok()?,
        session: field(6)?.parse().ok()?,
        start_ticks: field(22)?.parse().ok()?,
    })
}

/// All processes that can be seen.
pub(crate) fn all() -> io::Result<Vec<Stat>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // Gone since the folder was read.
        found.extend(stat(pid).ok());
    }
    Ok(found)
}

/// Children, their children and so on, dead ones that nobody has reaped left out.
pub(crate) fn descendants(of: Pid) -> io::Result<Vec<Pid>> {
    let all = all()?;
    let mut family = vec![of.as_raw_pid()];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(all.iter().filter(|stat| stat.parent == parent).map(|stat| stat.pid));
        next += 1;
    }
    let alive = |pid: &i32| all.iter().any(|stat| stat.pid == *pid && !stat.zombie);
    Ok(family.into_iter().skip(1).filter(alive).filter_map(Pid::from_raw).collect())
}

/// Processes of a member whose shim is dead: those of its session, and those that carry the mark of its folder.
pub(crate) fn orphans(shim: Option<(i32, u64)>, member_dir: &Path) -> io::Result<Vec<Pid>> {
    let all = all()?;
    // While a process of the session lives the kernel gives its number to nobody else; a process that has the number
    // and another start time is a stranger, and so is its session.
    let session = shim.filter(|(pid, start)| !all.iter().any(|stat| stat.pid == *pid && stat.start_ticks != *start));
    let mark = format!("{MARK}={}", member_dir.display());
    let belongs = |stat: &Stat| session.is_some_and(|(pid, _)| stat.session == pid) || carries(stat.pid, &mark);
    let me = rustix::process::getpid().as_raw_pid();
    let found = all.iter().filter(|stat| !stat.zombie && stat.pid != me && belongs(stat));
    Ok(found.filter_map(|stat| Pid::from_raw(stat.pid)).collect())
}

fn carries(pid: i32, mark: &str) -> bool {
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|environment| environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes()))
}

/// True for a process with a handler for this signal.
pub(crate) fn catches(pid: Pid, signal: Signal) -> bool {
    let text = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_pid())).unwrap_or_default();
    let mask = text.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigCgt:")?.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal.as_raw() - 1) & 1 == 1)
}

/// Sends a signal; who is gone already needs none.
pub(crate) fn signal(pid: Pid, signal: Signal) {
    let _ = kill_process(pid, signal);
}

/// Sends a signal to a process group; a group that is gone needs none.
pub(crate) fn signal_group(group: Pid, signal: Signal) {
    let _ = kill_process_group(group, signal);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_does_not_shift_the_fields() {
        let text = "42 (a) b) (c) S 7 42 40 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2 3";
        let expected = Stat { pid: 42, parent: 7, session: 40, zombie: false, start_ticks: 98765 };
        assert_eq!(parse_stat(text), Some(expected));
        assert_eq!(parse_stat("42 (cut"), None);
    }

    #[test]
    fn this_process_is_found_with_its_start_time() {
        let me = rustix::process::getpid();
        let ticks = start_ticks(me).expect("/proc is there");
        assert!(all().expect("reads").iter().any(|stat| stat.pid == me.as_raw_pid() && stat.start_ticks == ticks));
    }
}
