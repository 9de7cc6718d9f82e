//! `dure replay`: a trace, Slurm's accounting or a journal against the unchanged core, in virtual time.
//!
//! Comes in: files and flags. Goes out: placements, a report as JSON and as a table, a timeline. Reading order: `input` (what
//! is replayed), `run` (who replays it), `output` (what is written). Nothing here decides anything.

mod input;
mod output;
mod run;

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::{dev::paced::Window, failure::Failure, show::Out, span::UserSpan};

/// Replay jobs in virtual time: the same core, another division
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dure replay --jobs jobs.csv.gz --nodes nodes.csv.gz --placements p.csv --report r.json
  dure replay --jobs sacct.txt --nodes nodes.csv --missions missions.csv --without borrowing
  dure replay --jobs jobs.csv.gz --nodes nodes.csv.gz --policy fifo --partitioned
  dure replay --journal /var/lib/dure --missions new.csv

Jobs: CSV with job_id,submit_s,duration_s,num_gpu and, where known, gpu_milli,nodes,cpu_milli,memory_mib,tenant,
user,name,gpu_model,time_limit_s,priority; or what sacct -P prints. Nodes: CSV with node,gpus and, where known,
gpu_model,cpu_milli,memory_mib,pool,site,spine,leaf,nvlink. Missions: CSV with tenant,quota and, where known,
limit,lend_limit,domains (as leaf=4, of the first pool),weight,budget_gpu_hours,priority; without it each tenant has the nodes of its pool, else all
have the same. A job without a time limit gets the least of 15m 1h 2h 4h 8h 12h 1d 2d 4d 7d 14d 30d 60d 120d
that is at least twice its run time.")]
pub(crate) struct ReplayArgs {
    /// The jobs
    #[arg(long, value_name = "FILE", required_unless_present = "journal", requires = "nodes")]
    jobs: Option<PathBuf>,
    /// The nodes
    #[arg(long, value_name = "CSV")]
    nodes: Option<PathBuf>,
    /// The history of a scheduler instead: its folder, or the configuration of one of several
    #[arg(long, value_name = "DIR|FILE", conflicts_with = "jobs")]
    journal: Option<PathBuf>,
    /// Quotas and all that belongs to them
    #[arg(long, value_name = "CSV")]
    missions: Option<PathBuf>,
    /// Only jobs submitted in FROM..TO, in the file's seconds
    #[arg(long, value_name = "FROM..TO")]
    window: Option<Window>,
    /// Only jobs of these tenants
    #[arg(long, value_name = "TENANT", value_delimiter = ',')]
    tenants: Vec<String>,
    /// Only the first nodes of the file; quotas from pools shrink with them
    #[arg(long, value_name = "COUNT")]
    first_nodes: Option<usize>,
    /// So many times the nodes of the file
    #[arg(long, value_name = "TIMES", default_value_t = 1)]
    node_copies: usize,
    /// So many times the jobs, each copy later by --shift
    #[arg(long, value_name = "TIMES", default_value_t = 1)]
    copies: u32,
    /// How much later each further copy comes
    #[arg(long, value_name = "SPAN", default_value = "0s")]
    shift: UserSpan,
    /// Who decides
    #[arg(long, value_enum, default_value_t)]
    policy: PolicyChoice,
    /// Each tenant on the nodes of its own pool alone (not for --policy dure)
    #[arg(long)]
    partitioned: bool,
    /// Rules to switch off
    #[arg(long, value_enum, value_delimiter = ',')]
    without: Vec<Rule>,
    /// How long jobs are taken to run
    #[arg(long, value_enum, default_value_t)]
    run_times: RunTimesChoice,
    /// Faults: CSV with time_s,node,gpu,duration_s, or a table of published rates
    #[arg(long, value_name = "CSV")]
    inject: Option<PathBuf>,
    /// Seed of what is drawn from rates
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Tell waiting jobs so often when they will start, and compare: after the first half of the time
    #[arg(long, value_name = "SPAN")]
    estimates: Option<UserSpan>,
    /// Write who ran where and when
    #[arg(long, value_name = "CSV")]
    placements: Option<PathBuf>,
    /// Write the figures
    #[arg(long, value_name = "JSON")]
    report: Option<PathBuf>,
    /// Write how things stood, step by step
    #[arg(long, value_name = "CSV")]
    timeline: Option<PathBuf>,
    /// Step of the timeline
    #[arg(long, value_name = "SPAN", default_value = "1h")]
    step: UserSpan,
    /// Write the nodes as they were replayed
    #[arg(long, value_name = "CSV")]
    nodes_out: Option<PathBuf>,
    /// Write the jobs as they were replayed
    #[arg(long, value_name = "CSV")]
    jobs_out: Option<PathBuf>,
    /// Write the missions as they were replayed
    #[arg(long, value_name = "CSV")]
    missions_out: Option<PathBuf>,
}

/// Who decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum PolicyChoice {
    /// Quotas, borrowing, reclaim: the scheduler as it is
    #[default]
    Dure,
    /// First come, first served: all wait for the first
    Fifo,
    /// The shortest first (by run times that nobody knows in real life)
    Sjf,
    /// First come, first served, and around the first what does not delay it
    FifoBackfill,
}

/// What can be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Rule {
    /// Nobody has more than its quota
    Borrowing,
    /// What is lent comes back only when it ends
    Reclaim,
    /// Nothing is set aside for blocked jobs
    Plan,
    /// What is set aside for a blocked job is used by nobody until it starts
    Backfill,
    /// What was tried in vain is tried again each time
    Classes,
    /// The core does not know where nodes stand
    Topology,
}

/// How long jobs are taken to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum RunTimesChoice {
    /// As they ran
    #[default]
    Exact,
    /// To their limits
    Limit,
    /// As those like them ran before
    Learned,
}

/// `dure replay`.
pub(crate) fn run(args: ReplayArgs, out: Out) -> Result<(), Failure> {
    if args.policy == PolicyChoice::Dure && args.partitioned {
        return Err(Failure::Usage("--partitioned: quotas divide the GPUs; try --without borrowing".to_owned()));
    }
    if args.policy != PolicyChoice::Dure && (!args.without.is_empty() || args.inject.is_some()) {
        return Err(Failure::Usage("--without and --inject are for --policy dure".to_owned()));
    }
    if args.policy != PolicyChoice::Dure && args.run_times != RunTimesChoice::Exact {
        return Err(Failure::Usage("--run-times is for --policy dure".to_owned()));
    }
    let input = input::read(&args)?;
    let played = run::play(&args, &input)?;
    output::write(&args, &input, &played, out)
}
