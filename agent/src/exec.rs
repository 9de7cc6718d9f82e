//! Programs beside a member: `dure exec` and `dure shell`.
//!
//! Comes in: who asks for which member, and the input of the program. Goes out: its output and its end. The program runs
//! inside the member: its cgroups, mounts, user and environment; it ends with the member, and with whoever asked for it.
//! At most `WINDOW` bytes of output are under way at once: a slow reader slows the program, not the node.
//! This part must never run anything for a member that has ended, nor outside a member.

use std::{
    collections::BTreeMap,
    fs,
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::OwnedFd,
        unix::{fs::OpenOptionsExt as _, process::CommandExt as _, process::ExitStatusExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use dure_proto::v1::{
    AgentMessage, ExecData, ExecEnd, ExecInput, ExecOutput, ExecStart, TerminalSize, agent_message, exec_input,
    exec_output,
};
use rustix::{
    fs::OFlags,
    process::Signal,
    pty::{OpenptFlags, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use tokio::sync::{Semaphore, mpsc};

use crate::{
    launch::ProcessSettings,
    model::MemberId,
    shim::{
        enter,
        files::{Entry, MemberFiles},
        proc,
    },
};

/// Programs beside members at once, on one node.
pub const MAX_EXECS: usize = 64;
/// Bytes of output under way to the reader.
pub const WINDOW: usize = 256 * 1024;
/// Bytes in one message.
const CHUNK: usize = 16 * 1024;
/// Inputs that wait for the program.
const MAX_INPUTS: usize = 8_192;
/// Bytes of input that a program may have left unread: clients keep to `WINDOW`.
const MAX_UNREAD: usize = 2 * WINDOW;
/// From HUP to KILL when nobody listens any more.
const HANG_UP: Duration = Duration::from_secs(5);
/// How often a program's end is looked for.
const LOOK: Duration = Duration::from_millis(5);

/// The way to a program that runs.
#[derive(Debug)]
pub(crate) struct Exec {
    input: mpsc::Sender<exec_input::Kind>,
}

impl Exec {
    /// Starts it; what becomes of it is told to `to`.
    pub(crate) fn start(
        settings: Arc<ProcessSettings>,
        exec_id: u64,
        id: MemberId,
        start: ExecStart,
        to: mpsc::Sender<AgentMessage>,
    ) -> Self {
        let (input, inputs) = mpsc::channel(MAX_INPUTS);
        let teller = Teller { exec_id, to, window: Arc::new(Semaphore::new(WINDOW)) };
        // A thread: it waits for a process, and pipes have no other way.
        let run = move || {
            if let Err(why) = run(&settings, id, &start, inputs, &teller) {
                teller.tell(exec_output::Kind::End(ExecEnd { code: 126, error: why }));
            }
        };
        if let Err(error) = thread::Builder::new().name("dure-exec".to_owned()).spawn(run) {
            tracing::error!(member = %id, %error, "no thread for a program beside a member");
        }
        Self { input }
    }

    /// False when it takes no more: it has ended, or does not read.
    pub(crate) fn input(&self, input: ExecInput) -> bool {
        input.kind.is_none_or(|kind| self.input.try_send(kind).is_ok())
    }

    /// True when its end was told.
    pub(crate) fn is_over(&self) -> bool {
        self.input.is_closed()
    }
}

#[derive(Clone)]
struct Teller {
    exec_id: u64,
    to: mpsc::Sender<AgentMessage>,
    window: Arc<Semaphore>,
}

impl Teller {
    /// False when there is no session any more.
    fn tell(&self, kind: exec_output::Kind) -> bool {
        let data = ExecData { exec_id: self.exec_id, output: Some(ExecOutput { kind: Some(kind) }) };
        self.to.blocking_send(AgentMessage { kind: Some(agent_message::Kind::ExecData(data)) }).is_ok()
    }
}

/// The way to the program's standard input: a thread, since a program that does not read holds up whoever writes.
struct Typing {
    to: std::sync::mpsc::Sender<Vec<u8>>,
    unread: Arc<AtomicUsize>,
}

impl Typing {
    fn start(mut input: File, teller: Teller) -> Self {
        let (to, typed) = std::sync::mpsc::channel::<Vec<u8>>();
        let unread = Arc::new(AtomicUsize::new(0));
        let left = unread.clone();
        // Ends with the sender, and so does the program's input.
        thread::spawn(move || {
            while let Ok(bytes) = typed.recv() {
                // A program that has closed its input takes everything, and reads nothing.
                let _ = input.write_all(&bytes);
                left.fetch_sub(bytes.len(), Ordering::Relaxed);
                teller.tell(exec_output::Kind::Taken(bytes.len() as u64));
            }
        });
        Self { to, unread }
    }

    /// False when more is sent than a client may.
    fn send(&self, bytes: Vec<u8>) -> bool {
        let unread = self.unread.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len();
        unread <= MAX_UNREAD && self.to.send(bytes).is_ok()
    }
}

/// What the program's streams are.
struct Streams {
    input: Option<File>,
    outputs: Vec<(File, bool)>,
    terminal: Option<Arc<File>>,
}

fn run(
    settings: &ProcessSettings,
    id: MemberId,
    start: &ExecStart,
    mut inputs: mpsc::Receiver<exec_input::Kind>,
    teller: &Teller,
) -> Result<(), String> {
    let dir = prepare(settings, id, start, teller.exec_id)?;
    let spawned = spawn(settings, &dir, start).map_err(|err| format!("member {id}: {err}"));
    let (child, mut streams) = spawned.inspect_err(|_| drop(fs::remove_dir_all(&dir)))?;
    let readers: Vec<_> = streams.outputs.drain(..).map(|(file, stderr)| read(file, stderr, teller.clone())).collect();
    let mut typing = streams.input.take().map(|input| Typing::start(input, teller.clone()));
    let pid = proc::pid(child.id()).ok_or("a child has a process id")?;
    let (ended, mut end) = mpsc::channel(1);
    let waiter = thread::spawn(move || wait(child, ended));
    loop {
        // Whichever comes first; both channels are looked at without waiting long for either.
        if let Ok(()) | Err(mpsc::error::TryRecvError::Disconnected) = end.try_recv() {
            break;
        }
        match inputs.try_recv() {
            Ok(kind) => {
                if !obey(kind, &mut typing, streams.terminal.as_deref(), teller) {
                    hang_up(pid, &mut end);
                    break;
                }
            }
            Err(mpsc::error::TryRecvError::Empty) => thread::sleep(LOOK),
            Err(mpsc::error::TryRecvError::Disconnected) => {
                hang_up(pid, &mut end);
                break;
            }
        }
    }
    drop((streams, typing));
    let code = waiter.join().map_err(|_| "waiting for the program failed".to_owned())?;
    teller.window.add_permits(Semaphore::MAX_PERMITS / 2);
    readers.into_iter().for_each(|reader| drop(reader.join()));
    // Nobody looks into it any more.
    let _ = fs::remove_dir_all(&dir);
    inputs.close();
    teller.tell(exec_output::Kind::End(ExecEnd { code, error: String::new() }));
    Ok(())
}

fn hang_up(pid: rustix::process::Pid, end: &mut mpsc::Receiver<()>) {
    proc::signal_group(pid, Signal::HUP);
    let since = std::time::Instant::now();
    while since.elapsed() < HANG_UP && end.try_recv() == Err(mpsc::error::TryRecvError::Empty) {
        thread::sleep(LOOK);
    }
    proc::signal_group(pid, Signal::KILL);
}

fn wait(mut child: Child, ended: mpsc::Sender<()>) -> i32 {
    let status = child.wait();
    // Dropping the sender says it.
    drop(ended);
    status.map_or(126, |status| status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}

/// False when the client does not keep to its window.
fn obey(kind: exec_input::Kind, typing: &mut Option<Typing>, terminal: Option<&File>, teller: &Teller) -> bool {
    match kind {
        exec_input::Kind::Stdin(bytes) => return typing.as_ref().is_none_or(|typing| typing.send(bytes)),
        exec_input::Kind::StdinEnd(_) => match typing {
            // A terminal has no end; its line discipline has a word for it.
            Some(typing) if terminal.is_some() => return typing.send(b"\x04".to_vec()),
            typing => *typing = None,
        },
        exec_input::Kind::Resize(size) => {
            if let Some(terminal) = terminal {
                resize(terminal, size);
            }
        }
        exec_input::Kind::Shown(bytes) => teller.window.add_permits(usize::try_from(bytes).unwrap_or(0).min(WINDOW)),
        exec_input::Kind::Start(_) | exec_input::Kind::Ended(_) => {}
    }
    true
}

fn resize(terminal: &File, size: TerminalSize) {
    let cells = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
    let size = Winsize { ws_row: cells(size.rows), ws_col: cells(size.columns), ws_xpixel: 0, ws_ypixel: 0 };
    // A terminal of the wrong size is a nuisance and no more.
    let _ = tcsetwinsize(terminal, size);
}

/// Reads until every writer has gone; waits for the reader's window.
fn read(mut from: File, stderr: bool, teller: Teller) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = match from.read(&mut chunk) {
                Ok(count) if count > 0 => count,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                // The end; on a terminal, EIO when the last program has closed it.
                _ => return,
            };
            while teller.window.available_permits() < count {
                if teller.to.is_closed() {
                    return;
                }
                thread::sleep(LOOK);
            }
            teller.window.forget_permits(count);
            let bytes = chunk[..count].to_vec();
            let kind = if stderr { exec_output::Kind::Stderr(bytes) } else { exec_output::Kind::Stdout(bytes) };
            if !teller.tell(kind) {
                return;
            }
        }
    })
}

/// A folder beside the member with what the way in needs.
fn prepare(settings: &ProcessSettings, id: MemberId, start: &ExecStart, exec_id: u64) -> Result<PathBuf, String> {
    let member = settings.state_dir.join("members").join(id.to_string());
    let files = MemberFiles::new(&member);
    let (Ok(spec), Some(started), None) = (files.read_spec(), files.read_started(), files.read_exit()) else {
        return Err(format!("member {id} does not run on node {}", settings.node));
    };
    let main = i32::try_from(started.pid).map_err(|err| err.to_string())?;
    let confinement = &spec.entry.confinement;
    let of_its_own = !confinement.binds.is_empty() || confinement.own_shm || spec.entry.contained.is_some();
    let mut entry = Entry { mounts_of: of_its_own.then_some(main), ..spec.entry };
    entry.contained = None;
    entry.argv = start.args.clone();
    entry.env = beside(entry.env, start);
    if !start.workdir.is_empty() {
        entry.workdir = PathBuf::from(&start.workdir);
    }
    if entry.argv.is_empty() {
        let shell = entry.env.iter().find(|(name, _)| name == "SHELL").map(|(_, shell)| shell.clone());
        entry.argv = vec![shell.filter(|shell| Path::new(shell).is_file()).unwrap_or_else(|| "/bin/sh".to_owned())];
    }
    entry.terminal = start.terminal.is_some();
    if entry.terminal {
        entry.env.retain(|(name, _)| name != "TERM");
        let term = if start.term.is_empty() { "xterm" } else { &start.term };
        entry.env.push(("TERM".to_owned(), term.to_owned()));
    }
    let dir = member.join(format!("exec-{exec_id}"));
    fs::create_dir_all(&dir)
        .and_then(|()| MemberFiles::new(&dir).write_entry(&entry))
        .map_err(|err| format!("{}: {err}: free space on node {}", dir.display(), settings.node))?;
    Ok(dir)
}

/// The member's variables and those that were asked for. A path is looked through after the member's own programs.
fn beside(env: Vec<(String, String)>, start: &ExecStart) -> Vec<(String, String)> {
    let mut all: BTreeMap<String, String> = start.env.clone().into_iter().collect();
    for (name, value) in env {
        match all.get_mut(&name) {
            Some(asked) if name == "PATH" => {
                let own = value.split(':').next().unwrap_or_default();
                *asked = format!("{own}:{asked}");
            }
            Some(_) if !is_own(&name) => {}
            _ => drop(all.insert(name, value)),
        }
    }
    all.into_iter().collect()
}

/// Whether a variable says who a member is and what it may see.
fn is_own(name: &str) -> bool {
    const OWN: [&str; 3] = ["CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "SLURMD_NODENAME"];
    OWN.contains(&name) || (name.starts_with("DURE_") && name != "DURE_STEP_LOCAL")
}

fn spawn(settings: &ProcessSettings, dir: &Path, start: &ExecStart) -> io::Result<(Child, Streams)> {
    let (program, args) = settings.shim.split_first().ok_or_else(|| io::Error::other("the shim's command is empty"))?;
    let mut command = Command::new(program);
    command.args(args).arg(enter::STEP).arg(dir).env_clear().current_dir("/");
    let Some(size) = start.terminal else {
        let child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn();
        let mut child = child?;
        let input = child.stdin.take().map(|pipe| File::from(OwnedFd::from(pipe)));
        let out = child.stdout.take().map(|pipe| (File::from(OwnedFd::from(pipe)), false));
        let err = child.stderr.take().map(|pipe| (File::from(OwnedFd::from(pipe)), true));
        return Ok((child, Streams { input, outputs: out.into_iter().chain(err).collect(), terminal: None }));
    };
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    unlockpt(&ours)?;
    let name = ptsname(&ours, Vec::new())?;
    let name = name.to_str().map_err(io::Error::other)?.to_owned();
    let ours = File::from(ours);
    resize(&ours, size);
    // An agent that leads a session without a terminal, as a service does, would take this one for its own, and be hung up
    // with it.
    let flags = OFlags::NOCTTY.bits().cast_signed();
    let theirs = || fs::OpenOptions::new().read(true).write(true).custom_flags(flags).open(&name);
    // The child becomes the leader of a session of its own, and the terminal its terminal.
    let child = command.stdin(theirs()?).stdout(theirs()?).stderr(theirs()?).spawn()?;
    let streams = Streams {
        input: Some(ours.try_clone()?),
        outputs: vec![(ours.try_clone()?, false)],
        terminal: Some(Arc::new(ours)),
    };
    Ok((child, streams))
}
