//! Processes of the binary under test: started, killed without warning, frozen, and all of them gone in the end.
//!
//! Shims and members are in sessions of their own and outlive their agent by design: they are found by the temporary
//! folder that their command line or environment names.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long killed processes may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);
/// Bytes of a log that are shown when a test fails.
const SHOWN_LOG: usize = 6_000;

/// A process with its log.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program` with `args`; what it says is added to the file `log`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(program: &Path, args: &[&str], log: &Path) -> Self {
        Self::start_in(&[], program, args, log)
    }

    /// The same, with a command before it that puts it somewhere and becomes it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_in(enter: &[String], program: &Path, args: &[&str], log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("the log can be opened");
        let again = file.try_clone().expect("a file can be shared");
        let mut words: Vec<&OsStr> = enter.iter().map(OsStr::new).collect();
        words.push(program.as_os_str());
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args(args).stdin(Stdio::null()).stdout(file).stderr(again);
        let child = command.spawn().unwrap_or_else(|err| panic!("{} does not start: {err}", program.display()));
        Self { child, log: log.to_owned() }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// kill -9, and reaped.
    pub fn kill(mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    // One that is gone needs no signal.
    let _ = pid.map(|pid| kill_process(pid, signal));
}

/// kill -9 of any process.
pub fn kill(pid: u32) {
    send(pid, Signal::KILL);
}

/// True while a process lives; a zombie does not.
pub fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, tail)| !matches!(tail.trim().chars().next(), Some('Z' | 'X') | None))
}

/// The processes whose command line or environment names `folder`, except this one.
pub fn naming(folder: &Path) -> Vec<u32> {
    let wanted = folder.as_os_str().as_encoded_bytes();
    let names =
        |path: String| fs::read(path).is_ok_and(|bytes| bytes.windows(wanted.len()).any(|window| window == wanted));
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| *pid != std::process::id())
        .filter(|pid| names(format!("/proc/{pid}/cmdline")) || names(format!("/proc/{pid}/environ")))
        .filter(|pid| lives(*pid))
        .collect()
}

/// kill -9 of all that `naming` finds, until there is none.
pub fn kill_all(folder: &Path) {
    let started = Instant::now();
    loop {
        let left = naming(folder);
        if left.is_empty() || started.elapsed() > GONE_WITHIN {
            return;
        }
        left.into_iter().for_each(kill);
        std::thread::yield_now();
    }
}

/// Prints the ends of all logs of a folder: what a failed test needs.
pub fn show_logs(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let bytes = fs::read(&path).unwrap_or_default();
            let end = &bytes[bytes.len().saturating_sub(SHOWN_LOG)..];
            eprintln!("--- {}\n{}", path.display(), String::from_utf8_lossy(end));
        }
    }
}
