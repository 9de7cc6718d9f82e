//! `dure exec` and `dure shell`: a program beside a running member, with this terminal or these streams.
//!
//! In: what is typed. Out: what the program writes, and its exit code as ours. This part must never leave the terminal
//! in the state that the program needed.

use std::{
    io::{IsTerminal as _, Read as _},
    os::fd::AsFd as _,
};

use clap::Args;
use dure_proto::v1::{ExecInput, ExecStart, TerminalSize, exec_input, exec_output};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    context::Context,
    failure::Failure,
    jobid::{self, JobRef},
};

/// Bytes of one input.
const CHUNK: usize = 16 * 1024;
/// Bytes under way to the program.
const WINDOW: u64 = 256 * 1024;

/// Run a program beside a running member, inside its allocation
#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// The job: 12, or 12_7 for index 7 of the array 12
    #[arg(value_name = "ID")]
    id: JobRef,
    /// Which member of the gang
    #[arg(short, long, default_value_t = 0, value_name = "RANK")]
    member: u32,
    /// With a terminal
    #[arg(short, long)]
    terminal: bool,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Open a shell beside a running member, inside its allocation
#[derive(Debug, Args)]
pub(crate) struct ShellArgs {
    /// The job: 12, or 12_7 for index 7 of the array 12
    #[arg(value_name = "ID")]
    id: JobRef,
    /// Which member of the gang
    #[arg(short, long, default_value_t = 0, value_name = "RANK")]
    member: u32,
}

/// The terminal, to be put back as it was.
struct Raw(Option<Termios>);

impl Raw {
    fn take() -> Result<Self, Failure> {
        let stdin = std::io::stdin();
        let before = tcgetattr(stdin.as_fd()).map_err(|err| Failure::Failed(format!("the terminal: {err}")))?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin.as_fd(), OptionalActions::Now, &raw)
            .map_err(|err| Failure::Failed(format!("the terminal: {err}")))?;
        Ok(Self(Some(before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = self.0.take() {
            // Nothing better can be done about a terminal that is gone.
            let _ = tcsetattr(std::io::stdin().as_fd(), OptionalActions::Now, &before);
        }
    }
}

fn size() -> TerminalSize {
    let size = tcgetwinsize(std::io::stdin().as_fd());
    size.map_or(TerminalSize { rows: 24, columns: 80 }, |size| TerminalSize {
        rows: size.ws_row.into(),
        columns: size.ws_col.into(),
    })
}

/// `dure exec`.
pub(crate) async fn exec(args: ExecArgs, context: &Context) -> Result<(), Failure> {
    run(context, args.id, args.member, args.command, args.terminal).await
}

/// `dure shell`.
pub(crate) async fn shell(args: ShellArgs, context: &Context) -> Result<(), Failure> {
    run(context, args.id, args.member, Vec::new(), true).await
}

/// Ends the process with the program's exit code when there is one.
async fn run(context: &Context, id: JobRef, member: u32, args: Vec<String>, terminal: bool) -> Result<(), Failure> {
    let mut client = context.jobs().await?;
    let job_id = jobid::resolve(context, &mut client, id).await?;
    let on_terminal = terminal && std::io::stdin().is_terminal();
    let (to, inputs) = mpsc::channel(64);
    let term = std::env::var("TERM").unwrap_or_default();
    let start = ExecStart { job_id, member, args, terminal: terminal.then(size), term, ..ExecStart::default() };
    let first = ExecInput { kind: Some(exec_input::Kind::Start(start)) };
    to.send(first).await.map_err(|_| Failure::Failed("the call ended before it began".to_owned()))?;
    let outputs = client.exec(ReceiverStream::new(inputs)).await.map_err(|status| context.refused(status))?;
    let mut outputs = outputs.into_inner();
    let raw = if on_terminal { Some(Raw::take()?) } else { None };
    let (taken, takes) = watch::channel(0_u64);
    tokio::spawn(feed(to.clone(), takes));
    if on_terminal {
        tokio::spawn(follow_size(to));
    } else {
        drop(to);
    }
    let ended = loop {
        let output = outputs.message().await.map_err(|status| context.refused(status));
        match output.map(|output| output.and_then(|output| output.kind)) {
            Ok(Some(exec_output::Kind::Stdout(bytes))) => show(&mut std::io::stdout(), &bytes),
            Ok(Some(exec_output::Kind::Stderr(bytes))) => show(&mut std::io::stderr(), &bytes),
            Ok(Some(exec_output::Kind::Taken(bytes))) => taken.send_modify(|all| *all += bytes),
            Ok(Some(exec_output::Kind::End(end))) => break Ok(end),
            Ok(None) => break Err(Failure::Failed("the call ended without the program's end".to_owned())),
            Err(failure) => break Err(failure),
        }
    };
    drop(raw);
    let end = ended?;
    if !end.error.is_empty() {
        return Err(Failure::Failed(end.error));
    }
    // The thread that reads our standard input may wait for ever: the process ends with the program.
    std::process::exit(end.code)
}

/// Whoever read our output has gone: the program learns it when it ends.
fn show(out: &mut impl std::io::Write, bytes: &[u8]) {
    let _ = out.write_all(bytes).and_then(|()| out.flush());
}

/// Our standard input, no faster than the program takes it.
async fn feed(to: mpsc::Sender<ExecInput>, mut takes: watch::Receiver<u64>) {
    let (chunks, mut read) = mpsc::channel(1);
    // A thread of its own, which nobody waits for: a terminal may say nothing for ever.
    std::thread::spawn(move || {
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = std::io::stdin().read(&mut chunk).unwrap_or(0);
            if chunks.blocking_send(chunk[..count].to_vec()).is_err() || count == 0 {
                return;
            }
        }
    });
    let mut sent = 0;
    while let Some(bytes) = read.recv().await.filter(|bytes| !bytes.is_empty()) {
        sent += bytes.len() as u64;
        let kind = Some(exec_input::Kind::Stdin(bytes));
        if to.send(ExecInput { kind }).await.is_err() || takes.wait_for(|taken| sent - *taken < WINDOW).await.is_err() {
            return;
        }
    }
    // A call that is over needs no end of input.
    to.send(ExecInput { kind: Some(exec_input::Kind::StdinEnd(true)) }).await.ok();
}

async fn follow_size(to: mpsc::Sender<ExecInput>) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
    while changes.recv().await.is_some() {
        let kind = Some(exec_input::Kind::Resize(size()));
        if to.send(ExecInput { kind }).await.is_err() {
            return;
        }
    }
}
