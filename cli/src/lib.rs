//! The one binary `dure`: the scheduler, the agent and its shim, a whole cluster on one node, and the commands of users.
//!
//! Reading order: `args` (what there is to type), `context` (where the scheduler is, who speaks), `failure` (what the
//! user is told when it does not work, and exit codes), `show` (tables and JSON); then one file per family of commands.
//! Everything a user's command does goes over the gRPC API; what works on files (backup, export) says so in its help.
//! Nothing here decides anything about jobs: that is the scheduler's.

#![warn(missing_docs)]

mod args;
mod bench;
mod context;
mod defrag;
mod demo;
mod dev;
mod draft;
mod estimates;
mod exec;
mod explain;
mod failure;
mod generate;
mod history;
mod jobid;
mod jobs;
mod logs;
mod nodes;
mod offline;
mod phase;
mod progress;
mod replay;
mod reservations;
mod roam;
mod run;
mod schedulers;
mod script;
mod serve;
mod show;
mod signals;
mod span;
mod srun;
mod submit;
mod tenants;
mod token;
mod watch;
mod what_if;
mod when;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::{
    args::{Cli, Command},
    context::Context,
    failure::Failure,
    jobs::Action,
    schedulers::SchedulerArgs,
    show::Out,
};

/// Runs the command line of this process and gives its exit code: 0 done, 1 refused or failed, 2 usage, 3 the scheduler
/// cannot be reached.
pub fn main() -> ExitCode {
    let mut words = std::env::args_os();
    // Inside a member this binary stands in for programs of Slurm, by their names.
    let own = words.next().unwrap_or_default();
    match std::path::Path::new(&own).file_name().and_then(|name| name.to_str()) {
        Some("srun") => return srun::main(words),
        Some("scontrol") => return srun::scontrol(words),
        Some("dure-rsh") => return srun::rsh(words),
        _ => {}
    }
    // The shim is a small process under every member: it must not pay for a parser or a runtime.
    if words.next().is_some_and(|word| word == "shim") {
        return dure_agent::shim::main(words);
    }
    let Err(failure) = run(Cli::parse()) else { return ExitCode::SUCCESS };
    let text = failure.text();
    if !text.is_empty() {
        eprintln!("{text}");
    }
    ExitCode::from(failure.exit_code())
}

fn run(cli: Cli) -> Result<(), Failure> {
    let format = cli.format();
    match cli.command {
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "dure", &mut std::io::stdout().lock());
            Ok(())
        }
        Command::Shim { .. } => Err(Failure::Usage("the shim is started by the agent".to_owned())),
        Command::Scheduler(SchedulerArgs { command: None, config: Some(config), .. }) => serve::scheduler(&config),
        Command::Agent(args) => serve::agent(args),
        Command::Dev(args) => dev::run(*args, Out::new(format)),
        Command::WhatIf(with) if with.args.data_dir.is_some() => what_if::journal(with.args, Out::new(format)),
        Command::Generate(args) => generate::run(args),
        Command::Replay(with) => replay::run(with.args, Out::new(format)),
        Command::Bench { view: _, command } => bench::run(command, Out::new(format)),
        Command::Backup(args) => offline::backup(args),
        Command::Restore(args) => offline::restore(args),
        Command::Store(command) => offline::store(command),
        Command::Export(command) => offline::export(command),
        Command::History { view: _, command: history::HistoryCommand::Rebuild { data_dir, forget_older } } => {
            history::rebuild(&data_dir, forget_older)
        }
        Command::Token(command) => token::run(command, Out::new(format)),
        command => {
            let context = Context::find(&cli.flags)?;
            client_runtime()?.block_on(speak(command, &context, Out::new(format)))
        }
    }
}

/// One thread is enough for a client.
fn client_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// The commands that talk to a scheduler.
async fn speak(command: Command, context: &Context, out: Out) -> Result<(), Failure> {
    match command {
        Command::Submit(args) => submit::run(*args, context, out).await,
        Command::Run(args) => run::run(*args, context, out).await,
        Command::Exec(args) => exec::exec(args, context).await,
        Command::Shell(args) => exec::shell(args, context).await,
        Command::Queue(with) => jobs::queue(with.args, context, out).await,
        Command::Job(with) => jobs::job(with.args, context, out).await,
        Command::Explain(with) => explain::explain(with.args, context, out).await,
        Command::Cancel(with) => jobs::act(Action::Cancel, with.args, context, out).await,
        Command::Hold(with) => jobs::act(Action::Hold, with.args, context, out).await,
        Command::Release(with) => jobs::act(Action::Release, with.args, context, out).await,
        Command::Logs(with) => logs::run(with.args, context, out).await,
        Command::Watch(with) => watch::run(with.args, context, out).await,
        Command::Nodes(with) => nodes::show(with.args, context, out).await,
        Command::Defrag(with) => defrag::run(with.args, context, out).await,
        Command::Node { view: _, command } => nodes::act(command, context, out).await,
        Command::Reservation { view: _, command } => reservations::run(command, context, out).await,
        Command::Quota { view: _, command } => tenants::quota(command, context, out).await,
        Command::Usage(with) => tenants::usage(with.args, context, out).await,
        Command::Estimates(with) => estimates::run(with.args, context, out).await,
        Command::WhatIf(with) => what_if::live(with.args, context, out).await,
        Command::Audit(with) => history::audit(with.args, context, out).await,
        Command::History { view: _, command } => history::run(command, context, out).await,
        Command::Scheduler(args) => match args.command {
            Some(command) => schedulers::run(command, context, out).await,
            None => Err(Failure::Usage("dure scheduler: name its configuration: --config FILE".to_owned())),
        },
        Command::Pause(with) => tenants::pause(with.args, true, context, out).await,
        Command::Resume(with) => tenants::pause(with.args, false, context, out).await,
        Command::Completions { .. }
        | Command::Shim { .. }
        | Command::Agent(_)
        | Command::Dev(_)
        | Command::Replay(_)
        | Command::Generate(_)
        | Command::Bench { .. }
        | Command::Backup(_)
        | Command::Restore(_)
        | Command::Store(_)
        | Command::Export(_)
        | Command::Token(_) => Err(Failure::Usage("this command needs no scheduler".to_owned())),
    }
}
