//! The way into a member: the same process that becomes its program puts itself where the program shall be.
//!
//! Comes in: the member's folder and a pipe to the shim. Goes out: the program, in its cgroups, with its own /tmp, limits
//! and user; or a line in the pipe that says what could not be done. The pipe is closed when the program has begun.
//! Order matters: everything that needs rights comes before the user is changed, everything that the job names after it.
//! This part must never go on after a step that failed.

mod container;

use std::{
    ffi::OsString,
    fs::File,
    io::{self, PipeReader, Read as _, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

use rustix::{
    fs::{Gid, Uid},
    mount::{MountFlags, MountPropagationFlags},
    process::{Resource, Rlimit},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use super::{
    cgroup,
    files::{Contained, Entry, MemberFiles},
};
use crate::{
    isolation::{
        account::Account,
        plan::{self, Confinement},
    },
    sys,
};

/// The word after `shim` that leads here; then come the pipe's number and the folder.
pub(super) const WORD: &str = "--enter";
/// As `WORD`, without a pipe: a program beside a member, whose standard error is told why it did not begin.
pub(crate) const STEP: &str = "--step";
/// Exit code of a program that could not begin; the pipe says why.
const NOT_BEGUN: u8 = 126;
/// A script that was written a moment ago is "busy" while some other child of the agent, between fork and exec, still
/// has it open: tried again this often, with this pause.
const BUSY_TRIES: u32 = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// A command that enters `dir` and becomes its program, and the pipe that tells whether it has.
pub(crate) fn command(dir: &Path) -> io::Result<(Command, PipeReader, io::PipeWriter)> {
    let (reader, writer) = io::pipe()?;
    // Left open by exec: the child finds it by its number.
    rustix::io::fcntl_setfd(&writer, rustix::io::FdFlags::empty())?;
    let mut command = Command::new("/proc/self/exe");
    let mut words: Vec<OsString> = std::env::args_os().skip(1).take_while(|word| word != "shim").collect();
    words.push("shim".into());
    command.args(words).arg(WORD).arg(writer.as_raw_fd().to_string()).arg(dir).env_clear();
    Ok((command, reader, writer))
}

/// Starts the program of a folder beside the member, with the shim's own output.
pub(super) fn spawn_quietly(dir: &Path) -> Result<Child, String> {
    let (mut command, reader, writer) = command(dir).map_err(|err| err.to_string())?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit()).process_group(0);
    let spawned = command.spawn().map_err(|err| err.to_string());
    drop(writer);
    let child = spawned?;
    begun(reader).map(|()| child)
}

/// Waits until the program has begun; the error says why it has not. The writer must be closed on this side.
pub(crate) fn begun(mut reader: PipeReader) -> Result<(), String> {
    let mut why = String::new();
    match reader.read_to_string(&mut why) {
        Ok(_) if why.is_empty() => Ok(()),
        Ok(_) => Err(why),
        Err(err) => Err(format!("the way into its confinement broke: {err}")),
    }
}

/// Becomes the program. Returns only when that failed.
pub(super) fn main(fd: OsString, dir: OsString) -> ExitCode {
    let number = fd.to_str().and_then(|fd| fd.parse().ok()).unwrap_or(-1);
    let pipe = match sys::take_inherited(number) {
        Ok(pipe) => pipe,
        Err(err) => {
            eprintln!("dure shim {WORD}: descriptor {fd:?}: {err}; the shim calls this, not you");
            return ExitCode::from(2);
        }
    };
    let files = MemberFiles::new(Path::new(&dir));
    let why = match files.read_entry() {
        Ok(entry) => run(&entry),
        Err(err) => format!("{}: {err}", PathBuf::from(dir).display()),
    };
    // Nobody listens any more when this fails.
    let _ = File::from(pipe).write_all(why.as_bytes());
    ExitCode::from(NOT_BEGUN)
}

/// As `main`, for a program beside the member.
pub(super) fn step(dir: OsString) -> ExitCode {
    let files = MemberFiles::new(Path::new(&dir));
    let why = match files.read_entry() {
        Ok(entry) => own_terminal(&entry).map_or_else(|why| why, |()| run(&entry)),
        Err(err) => format!("{}: {err}", PathBuf::from(dir).display()),
    };
    eprintln!("dure: {why}");
    ExitCode::from(NOT_BEGUN)
}

fn own_terminal(entry: &Entry) -> Result<(), String> {
    if !entry.terminal {
        return Ok(());
    }
    // Fails only for a group leader, and then there is no other session to leave.
    let _ = rustix::process::setsid();
    rustix::process::ioctl_tiocsctty(io::stdin()).map_err(|err| format!("a terminal of its own: {err}"))
}

/// Why the program did not begin.
fn run(entry: &Entry) -> String {
    if let Some(contained) = &entry.contained {
        let begun = enclose(entry).and_then(|()| container::begin(entry, contained));
        return match begun {
            Ok(()) => std::process::exit(0),
            Err(why) => why,
        };
    }
    match enclose(entry).and_then(|()| confine(entry)).and_then(|()| in_folder(entry)) {
        Err(why) => why,
        Ok(()) => execute(entry),
    }
}

/// What needs rights and stays when they are given up.
fn enclose(entry: &Entry) -> Result<(), String> {
    let confinement = &entry.confinement;
    cgroup::enter(&confinement.cgroups)?;
    match entry.mounts_of {
        Some(pid) => join_mounts(pid)?,
        None => make_mounts(confinement)?,
    }
    confinement.rlimits.iter().try_for_each(limit)
}

fn confine(entry: &Entry) -> Result<(), String> {
    let confinement = &entry.confinement;
    if let Some(account) = &confinement.account {
        become_account(account).map_err(|err| format!("becoming user {} ({}): {err}", account.name, account.uid))?;
    }
    if confinement.no_new_privs {
        rustix::thread::set_no_new_privs(true).map_err(|err| format!("giving up new rights: {err}"))?;
    }
    Ok(())
}

/// The mounts that another process of the member has.
fn join_mounts(pid: i32) -> Result<(), String> {
    let named = |err: io::Error| format!("the mounts of process {pid}: {err}");
    let link = File::open(format!("/proc/{pid}/ns/mnt")).map_err(named)?;
    move_into_link_name_space(link.as_fd(), Some(LinkNameSpaceType::Mount)).map_err(|err| named(err.into()))
}

fn make_mounts(confinement: &Confinement) -> Result<(), String> {
    if confinement.binds.is_empty() && !confinement.own_shm {
        return Ok(());
    }
    sys::own_mounts().map_err(|err| format!("mounts of its own: {err}"))?;
    // What is mounted on the node later is still seen; what is mounted here is seen nowhere else.
    let downstream = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", downstream).map_err(|err| format!("mounts of its own: {err}"))?;
    for bind in &confinement.binds {
        rustix::mount::mount_bind(&bind.source, &bind.target)
            .map_err(|err| format!("{} on {}: {err}", bind.source.display(), bind.target.display()))?;
    }
    if confinement.own_shm {
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount("tmpfs", "/dev/shm", "tmpfs", flags, Some(c"mode=1777"))
            .map_err(|err| format!("/dev/shm of its own: {err}"))?;
    }
    Ok(())
}

fn limit(rlimit: &plan::Rlimit) -> Result<(), String> {
    let resource = match rlimit.name.as_str() {
        "as" => Resource::As,
        "core" => Resource::Core,
        "fsize" => Resource::Fsize,
        "memlock" => Resource::Memlock,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "stack" => Resource::Stack,
        other => return Err(format!("isolation.rlimits.{other}: there is no such limit")),
    };
    let wanted = Rlimit { current: rlimit.limit, maximum: rlimit.limit };
    if rustix::process::setrlimit(resource, wanted).is_ok() {
        return Ok(());
    }
    // Without the right to raise it, as much as there may be.
    let maximum = rustix::process::getrlimit(resource).maximum;
    let within = |limit: Option<u64>| match (limit, maximum) {
        (Some(limit), Some(maximum)) => Some(limit.min(maximum)),
        (None, maximum) => maximum,
        (limit, None) => limit,
    };
    let most = Rlimit { current: within(rlimit.limit), maximum };
    rustix::process::setrlimit(resource, most).map_err(|err| format!("limit {}: {err}", rlimit.name))
}

/// For good: groups first, the user last. This process has one thread.
fn become_account(account: &Account) -> io::Result<()> {
    let groups: Vec<Gid> = account.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    rustix::thread::set_thread_groups(&groups)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

fn in_folder(entry: &Entry) -> Result<(), String> {
    std::env::set_current_dir(&entry.workdir)
        .map_err(|err| format!("folder {}: {err}: its user must reach it on this node", entry.workdir.display()))
}

fn execute(entry: &Entry) -> String {
    let Some((program, args)) = entry.argv.split_first() else {
        return "the command is empty: name a script or a command".to_owned();
    };
    let mut command = Command::new(program);
    command.args(args).env_clear().envs(entry.env.iter().map(|(name, value)| (name, value)));
    let mut err = command.exec();
    for _ in 1..BUSY_TRIES {
        if err.kind() != io::ErrorKind::ExecutableFileBusy {
            break;
        }
        std::thread::sleep(BUSY_PAUSE);
        err = command.exec();
    }
    let why = format!("cannot start \"{program}\" in {}: {err}", entry.workdir.display());
    // A name that is searched for is the job's own mistake, as in a shell; of a path its folder may be missing on this node.
    let code = match err.kind() {
        _ if program.contains('/') => return why,
        io::ErrorKind::NotFound => 127,
        io::ErrorKind::PermissionDenied => 126,
        _ => return why,
    };
    eprintln!("dure: {why}");
    std::process::exit(code)
}
