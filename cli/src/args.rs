//! What there is to type.

use std::ffi::OsString;

use clap::{Args, Parser, Subcommand};

use crate::{
    bench::BenchCommand,
    context::Flags,
    defrag::DefragArgs,
    dev::DevArgs,
    estimates::EstimatesArgs,
    exec::{ExecArgs, ShellArgs},
    explain::ExplainArgs,
    generate::GenerateArgs,
    history::{AuditArgs, HistoryCommand},
    jobs::{ActionArgs, JobArgs, QueueArgs},
    logs::LogsArgs,
    nodes::{NodeCommand, NodesArgs},
    offline::{BackupArgs, ExportCommand, RestoreArgs, StoreCommand},
    replay::ReplayArgs,
    reservations::ReservationCommand,
    schedulers::SchedulerArgs,
    serve::ServeArgs,
    show::{FamilyView, Format, View},
    submit::SubmitArgs,
    tenants::{PauseArgs, QuotaCommand, UsageArgs},
    token::TokenCommand,
    watch::WatchArgs,
    what_if::WhatIfArgs,
};

/// Dure shares one pool of GPUs among missions: quotas, borrowing, gangs.
#[derive(Debug, Parser)]
#[command(name = "dure", version, propagate_version = false, arg_required_else_help = true, max_term_width = 100)]
#[command(after_help = "\
Exit codes: 0 done, 1 refused or failed, 2 wrong use, 3 the scheduler cannot be reached.
A whole cluster on this node, to try things: dure dev")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) flags: Flags,
    #[command(flatten)]
    pub(crate) view: View,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Arguments of a command that shows something.
#[derive(Debug, Args)]
pub(crate) struct Shown<T: Args> {
    #[command(flatten)]
    pub(crate) view: View,
    #[command(flatten)]
    pub(crate) args: T,
}

/// The commands, in the order in which the help lists them.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Submit(Box<SubmitArgs>),
    /// Submit a job, stay, show its output, and end with its exit code
    Run(Box<SubmitArgs>),
    Exec(ExecArgs),
    Shell(ShellArgs),
    /// List jobs
    Queue(Shown<QueueArgs>),
    /// Show one job
    Job(Shown<JobArgs>),
    /// Why a job waits, and what would help
    Explain(Shown<ExplainArgs>),
    /// Show the output of a job
    Logs(Shown<LogsArgs>),
    /// End jobs
    Cancel(Shown<ActionArgs>),
    /// Keep waiting jobs from starting
    Hold(Shown<ActionArgs>),
    /// Let held jobs start
    Release(Shown<ActionArgs>),
    /// Follow job events
    Watch(Shown<WatchArgs>),
    /// List nodes, or show one
    Nodes(Shown<NodesArgs>),
    /// Cordon, drain or resume a node
    Node {
        #[command(flatten)]
        view: FamilyView,
        #[command(subcommand)]
        command: NodeCommand,
    },
    /// Move jobs closer together, so that larger ones find room
    Defrag(Shown<DefragArgs>),
    /// Keep nodes for a period to come: maintenance, a campaign
    Reservation {
        #[command(flatten)]
        view: FamilyView,
        #[command(subcommand)]
        command: Option<ReservationCommand>,
    },
    /// See and change quotas
    Quota {
        #[command(flatten)]
        view: FamilyView,
        #[command(subcommand)]
        command: QuotaCommand,
    },
    /// GPU-time by tenant or user
    Usage(Shown<UsageArgs>),
    /// How good the start estimates were that jobs were told
    Estimates(Shown<EstimatesArgs>),
    /// Who changed what, and what was refused to whom
    Audit(Shown<AuditArgs>),
    /// What has been: finished jobs, attempts, evictions, changes of quotas
    History {
        #[command(flatten)]
        view: FamilyView,
        #[command(subcommand)]
        command: HistoryCommand,
    },
    /// Start nothing new in a tenant, or anywhere
    Pause(Shown<PauseArgs>),
    /// Go on after a pause
    Resume(Shown<PauseArgs>),
    Scheduler(SchedulerArgs),
    /// Run the agent of this node
    Agent(ServeArgs),
    Dev(Box<DevArgs>),
    /// What a change of quotas or nodes would do, before it is made
    WhatIf(Box<Shown<WhatIfArgs>>),
    Generate(GenerateArgs),
    /// Replay jobs in virtual time: the same core, another division
    Replay(Box<Shown<ReplayArgs>>),
    /// Measure the scheduler on this machine
    Bench {
        #[command(flatten)]
        view: FamilyView,
        #[command(subcommand)]
        command: BenchCommand,
    },
    Backup(BackupArgs),
    Restore(RestoreArgs),
    /// Move the journal to another engine
    #[command(subcommand)]
    Store(StoreCommand),
    /// Write what happened, for other tools
    #[command(subcommand)]
    Export(ExportCommand),
    /// Make tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// Print the completions of a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// The parent of a member's process; agents start it
    #[command(hide = true)]
    Shim {
        /// The member's folder
        args: Vec<OsString>,
    },
}

impl Cli {
    /// The format that was asked for, before the command or after it.
    pub(crate) fn format(&self) -> Format {
        let after = match &self.command {
            Command::Queue(with) => with.view,
            Command::Job(with) => with.view,
            Command::Explain(with) => with.view,
            Command::Logs(with) => with.view,
            Command::Cancel(with) | Command::Hold(with) | Command::Release(with) => with.view,
            Command::Watch(with) => with.view,
            Command::Nodes(with) => with.view,
            Command::Defrag(with) => with.view,
            Command::Node { view, .. }
            | Command::Reservation { view, .. }
            | Command::Quota { view, .. }
            | Command::Bench { view, .. } => (*view).into(),
            Command::Usage(with) => with.view,
            Command::Estimates(with) => with.view,
            Command::Audit(with) => with.view,
            Command::History { view, .. } => (*view).into(),
            Command::Pause(with) | Command::Resume(with) => with.view,
            Command::Replay(with) => with.view,
            Command::WhatIf(with) => with.view,
            Command::Submit(_)
            | Command::Run(_)
            | Command::Exec(_)
            | Command::Shell(_)
            | Command::Scheduler(_)
            | Command::Agent(_)
            | Command::Dev(_)
            | Command::Generate(_)
            | Command::Backup(_)
            | Command::Restore(_)
            | Command::Store(_)
            | Command::Export(_)
            | Command::Token(_)
            | Command::Completions { .. }
            | Command::Shim { .. } => View::default(),
        };
        after.output.or(self.view.output).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, String> {
        Cli::try_parse_from(line.split(' ')).map_err(|err| err.to_string())
    }

    #[test]
    fn the_definition_holds() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_format_may_stand_before_the_command_or_after_it() {
        assert_eq!(parse("dure --output json queue").expect("parses").format(), Format::Json);
        assert_eq!(parse("dure queue --output json").expect("parses").format(), Format::Json);
        assert_eq!(
            parse("dure --output json node --output table drain n0 --evict").expect("parses").format(),
            Format::Table
        );
        assert_eq!(parse("dure quota show --output json").expect("parses").format(), Format::Json);
        // After submit it is the file of the job's output, as batch scripts have it.
        assert_eq!(parse("dure --output json submit --output out.txt a.sh").expect("parses").format(), Format::Json);
    }

    #[test]
    fn the_commands_of_the_manual_parse() {
        for line in [
            "dure submit -A fusion --gpus 8 --time 2h train.sh",
            "dure submit -A a/b --members 4 --gpus-per-member 8 --array 0-99%10 --depend afterok:12,afterany:13 -- sleep 1",
            "dure submit --file jobs.jsonl --parsable",
            "dure run -A fusion --gpus 2 --stop-signal USR1@30s --limit-signal USR2@5m -- python train.py",
            "dure exec 12 --member 3 -- nvidia-smi -L",
            "dure shell 12_7",
            "dure job 12_7 --why-here",
            "dure queue --phase running,timed-out -A fusion --server http://x:1",
            "dure logs -f 12_7 --member 3 --stderr",
            "dure cancel 1 2 3_4",
            "dure node confirm-dead n7 --reason burnt",
            "dure quota set fusion --quota 16 --limit none",
            "dure quota set fusion --budget 10000/30d --user-gpus 64 --job-time none",
            "dure quota show fusion --budget",
            "dure quota carry fusion 500",
            "dure watch --after 17",
            "dure estimates fusion --last 30d --output json",
            "dure what-if --quota fusion=640 --add-nodes 8:n0 --job fusion:16x8:4h",
            "dure what-if --data-dir /d --last 30d --quota fusion=640",
            "dure submit --test-only -A fusion --gpus 8 -- train",
            "dure usage fusion --since 30d --by-day --by-user --output csv",
            "dure audit --user ana --since 2026-11-01 --refused --limit 20",
            "dure history attempts --job 12_7",
            "dure history rebuild --data-dir /var/lib/dure",
            "dure pause",
            "dure resume fusion",
            "dure completions zsh",
        ] {
            parse(line).unwrap_or_else(|err| panic!("{line}: {err}"));
        }
        for line in ["dure job twelve", "dure cancel", "dure queue --phase asleep", "dure submit --array 1-5 a.sh"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
