//! The shim: the small parent process of one member, run as `dure shim DIR`.
//!
//! Comes in: the member's folder with `spec.json` in it, and later `stop.json` with a ring at the bell.
//! Goes out: `shim.json` (who I am; made once, so that of several shims one starts the process), `started.json`, the
//! logs, and at the end, when nothing of the member lives any more, `exit.json`, synced.
//! It needs no agent while it runs: the time limit and the grace are kept by its own monotonic clock.
//! This part must never start a second process for a member, never say "ended" while a descendant lives, and never
//! grow: no runtime, no threads, no dependency of the agent's loop.

mod cgroup;
pub(crate) mod files;
mod output;
pub(crate) mod proc;
mod watch;

use std::{
    ffi::OsString,
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use self::{
    cgroup::Cgroup,
    files::{Bell, ExitFile, MemberFiles, ShimFile, ShimSpec, StartedFile},
    output::Output,
};

/// Exit code of a shim that found another one at work, or done, in the same folder.
pub const ALREADY_CLAIMED: u8 = 3;
/// Exit code of a shim that could not keep its files.
const BROKEN: u8 = 4;

/// A script that was written a moment ago is "busy" while some other child of the agent, between fork and exec, still
/// has it open: tried again this often, with this pause.
const BUSY_TRIES: u32 = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(10);

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
        Ok((child, output, cgroup)) => watch::to_the_end(&files, &spec, child, output, &cgroup, &bell),
        Err(why) => ExitFile::never_ran(why),
    };
    files.write_exit(&end).map_err(io_error("exit.json"))
}

/// Starts the process and tells whoever waits at our standard output.
fn begin(files: &MemberFiles, spec: &ShimSpec) -> Result<(Started, Output, Cgroup), String> {
    if let Some(stop) = files.read_stop() {
        return Err(format!("stopped before it was started ({})", stop.reason));
    }
    let cgroup = Cgroup::enter(spec.cgroup.as_deref()).map_err(|err| format!("cgroup {:?}: {err}", spec.cgroup))?;
    let (output, stdout, stderr) = Output::open(spec).map_err(|err| format!("log files: {err}"))?;
    let spawned = spawn(spec, stdout, stderr);
    let left = cgroup.leave();
    let child = spawned?;
    if let Err(err) = left {
        eprintln!("dure shim: cannot leave the member's cgroup: {err}");
    }
    let pid = child.id();
    let start_ticks = proc::pid(pid).and_then(|pid| proc::start_ticks(pid).ok()).unwrap_or(0);
    let started = StartedFile { pid, start_ticks, started_ms: files::now_ms() };
    // Only the agent's comfort hangs on this file; the end is told by exit.json.
    if let Err(err) = files.write_started(&started) {
        eprintln!("dure shim: started.json: {err}");
    }
    announce(pid);
    Ok((Started { child, started_ms: started.started_ms, since: Instant::now() }, output, cgroup))
}

struct Started {
    child: Child,
    started_ms: u64,
    since: Instant,
}

fn spawn(spec: &ShimSpec, stdout: io::PipeWriter, stderr: io::PipeWriter) -> Result<Child, String> {
    let (program, args) = spec.argv.split_first().ok_or("the command is empty: name a script or a command")?;
    let mut command = Command::new(program);
    command
        .args(args)
        .env_clear()
        .envs(spec.env.iter().map(|(name, value)| (name, value)))
        .current_dir(&spec.workdir)
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .process_group(0);
    for _ in 1..BUSY_TRIES {
        match command.spawn() {
            Err(err) if err.kind() == io::ErrorKind::ExecutableFileBusy => std::thread::sleep(BUSY_PAUSE),
            spawned => return spawned.map_err(explain(spec, program)),
        }
    }
    command.spawn().map_err(explain(spec, program))
}

fn explain<'a>(spec: &'a ShimSpec, program: &'a str) -> impl FnOnce(io::Error) -> String + 'a {
    move |err| format!("cannot start \"{program}\" in {}: {err}", spec.workdir.display())
}

/// One line for the agent that waits; never another: the agent may be long gone when we end.
fn announce(pid: u32) {
    let mut out = io::stdout();
    let _ = writeln!(out, "started {pid}").and_then(|()| out.flush());
}
