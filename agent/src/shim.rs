//! The shim: the small parent process of one member, run as `dure shim DIR`.
//!
//! Comes in: the member's folder with `spec.json` in it, and later `stop.json` with a ring at the bell.
//! Goes out: `shim.json` (who I am; made once, so that of several shims one starts the process), `started.json`, the
//! logs, and at the end, when nothing of the member lives any more, `exit.json`, synced.
//! It needs no agent while it runs: the time limit and the grace are kept by its own monotonic clock.
//! This part must never start a second process for a member, never say "ended" while a descendant lives, and never
//! grow: no runtime, no threads, no dependency of the agent's loop.

mod account;
pub(crate) mod cgroup;
pub(crate) mod enter;
pub(crate) mod files;
pub(crate) mod hooks;
mod output;
pub(crate) mod proc;
mod report;
mod watch;

use std::{
    ffi::OsString,
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    time::Instant,
};

use rustix::process::Pid;

use crate::checks::gpu_memory;

use self::{
    files::{Bell, Contained, ExitFile, MemberFiles, ShimFile, ShimSpec, StartedFile},
    output::Output,
    report::ReportPipe,
};

/// Exit code of a shim that found another one at work, or done, in the same folder.
pub const ALREADY_CLAIMED: u8 = 3;
/// The word after `shim` with which it does nothing until a signal ends it.
pub(crate) const HOLD: &str = "--hold";
/// Exit code of a shim that could not keep its files.
const BROKEN: u8 = 4;

#[derive(Debug, thiserror::Error)]
enum ShimError {
    #[error("another shim has this member already")]
    Claimed,
    #[error("{what}: {source}")]
    Io { what: &'static str, source: io::Error },
}

fn io_error(what: &'static str) -> impl FnOnce(io::Error) -> ShimError {
    move |source| ShimError::Io { what, source }
}

/// Runs the shim for the member folder that is the only argument. Called before any runtime exists.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    if let [word, fd, dir] = &args[..]
        && word == enter::WORD
    {
        return enter::main(fd.clone(), dir.clone());
    }
    if let [word, dir] = &args[..]
        && word == enter::STEP
    {
        return enter::step(dir.clone());
    }
    if let [word, rest @ ..] = &args[..]
        && word == gpu_memory::WORD
    {
        return gpu_memory::main(rest);
    }
    if let [word] = &args[..]
        && word == HOLD
    {
        loop {
            std::thread::park();
        }
    }
    let mut args = args.into_iter();
    let (Some(dir), None) = (args.next(), args.next()) else {
        eprintln!("dure shim: expected one argument, the member's folder; the agent calls this, not you");
        return ExitCode::from(2);
    };
    match run(Path::new(&dir)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(ShimError::Claimed) => ExitCode::from(ALREADY_CLAIMED),
        Err(error) => {
            eprintln!("dure shim: {}: {error}", PathBuf::from(dir).display());
            ExitCode::from(BROKEN)
        }
    }
}

fn run(dir: &Path) -> Result<(), ShimError> {
    let files = MemberFiles::new(dir);
    let spec = files.read_spec().map_err(io_error("spec.json"))?;
    // Fails only for a group leader, and then the session is our own already.
    let _ = rustix::process::setsid();
    let me = rustix::process::getpid();
    rustix::process::set_child_subreaper(Some(me)).map_err(|err| io_error("becoming the reaper")(err.into()))?;
    let identity = ShimFile {
        pid: me.as_raw_pid(),
        start_ticks: proc::start_ticks(me).map_err(io_error("own start time"))?,
        boot_id: spec.boot_id.clone(),
    };
    // The bell before the claim: whoever sees the claim can ring.
    let bell = Bell::hang(&files).map_err(io_error("bell"))?;
    if !files.claim(&identity).map_err(io_error("shim.json"))? {
        return Err(ShimError::Claimed);
    }
    let end = match begin(&files, &spec) {
        Ok((started, output, report)) => watch::to_the_end(&files, &spec, started, output, report, &bell),
        Err(why) => {
            cgroup::kill(&spec.entry.confinement.cgroups);
            cgroup::is_gone(&spec.entry.confinement.cgroups);
            if let Err(err) = spec.hooks.after() {
                eprintln!("dure shim: {err}");
            }
            ExitFile::never_ran(why)
        }
    };
    files.write_exit(&end).map_err(io_error("exit.json"))
}

/// Starts the process and tells whoever waits at our standard output.
fn begin(files: &MemberFiles, spec: &ShimSpec) -> Result<(Started, Output, Option<ReportPipe>), String> {
    if let Some(stop) = files.read_stop() {
        return Err(format!("stopped before it was started ({})", stop.reason));
    }
    spec.hooks.before()?;
    let confinement = &spec.entry.confinement;
    cgroup::make(confinement)?;
    let (output, stdout, stderr) = Output::open(spec).map_err(|err| format!("log files: {err}"))?;
    let report = spec.report.as_deref().map(|path| ReportPipe::lay(path, confinement.account.as_ref()));
    let report = report.transpose().map_err(|err| format!("report pipe {:?}: {err}", spec.report))?;
    let main = spawn(files, stdout, stderr, spec.entry.contained.as_ref())?;
    let pid = main.as_raw_nonzero().get().unsigned_abs();
    let start_ticks = proc::start_ticks(main).unwrap_or(0);
    let started = StartedFile { pid, start_ticks, started_ms: files::now_ms() };
    // Only the agent's comfort hangs on this file; the end is told by exit.json.
    if let Err(err) = files.write_started(&started) {
        eprintln!("dure shim: started.json: {err}");
    }
    announce(pid);
    Ok((Started { main, started_ms: started.started_ms, since: Instant::now() }, output, report))
}

struct Started {
    main: Pid,
    started_ms: u64,
    since: Instant,
}

/// The program's process: our child, or a container's first process, which falls to us when the runtime has ended.
fn spawn(
    files: &MemberFiles,
    stdout: io::PipeWriter,
    stderr: io::PipeWriter,
    contained: Option<&Contained>,
) -> Result<Pid, String> {
    let failed = |err: io::Error| format!("cannot start the way into its confinement: {err}");
    let (mut command, reader, writer) = enter::command(files.dir()).map_err(failed)?;
    command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).process_group(0);
    let spawned = command.spawn().map_err(failed);
    drop(writer);
    // Otherwise we would hold the ends of the output pipes that only the process shall hold.
    drop(command);
    let mut child = spawned?;
    match enter::begun(reader) {
        Ok(()) => match contained {
            None => proc::pid(child.id()).ok_or_else(|| "a child has a process id".to_owned()),
            Some(contained) => {
                child.wait().map_err(failed)?;
                first_of(contained)
            }
        },
        Err(why) => {
            // It ends by itself.
            let _ = child.wait();
            Err(why)
        }
    }
}

fn first_of(contained: &Contained) -> Result<Pid, String> {
    let path = contained.pid_file();
    let text = std::fs::read_to_string(&path).map_err(|err| format!("{}: {err}", path.display()))?;
    text.trim()
        .parse()
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| format!("{}: {text:?} is no process", path.display()))
}

/// One line for the agent that waits; never another: the agent may be long gone when we end.
fn announce(pid: u32) {
    let mut out = io::stdout();
    let _ = writeln!(out, "started {pid}").and_then(|()| out.flush());
}
