//! The flags of `dure submit`, which are the words of `#DURE` lines too.

use std::collections::BTreeMap;

use clap::{Args, Parser, ValueEnum};
use dure_proto::v1::{LabelRule, TopologyLevel};

use crate::{
    draft::{self, ArrayRange, Container, Depend, Draft, Only, constraints},
    signals::{self, SignalAt, Signals},
    span::UserSpan,
    when,
};

/// What a job asks for.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct JobFlags {
    /// Who pays: MISSION[/PROJECT[/TEAM]]
    #[arg(short = 'A', long, visible_alias = "account", value_name = "TENANT")]
    tenant: Option<String>,
    /// Name of the job
    #[arg(short = 'J', long = "name", visible_alias = "job-name")]
    name: Option<String>,
    /// GPUs in all: 8, or h200:8, or a share of one: 0.5 [default: 1]
    #[arg(short = 'G', long, value_parser = draft::gpus_or_share, value_name = "[MODEL:]N", help_heading = "Size")]
    gpus: Option<(Option<String>, u32, Option<u32>)>,
    /// A share of one GPU for each member, in thousandths (1 to 999); others share the GPU
    #[arg(long, value_name = "MILLI", help_heading = "Size")]
    gpu_milli: Option<u32>,
    /// A MIG instance for each member, by its profile: 1g.10gb
    #[arg(long, value_name = "PROFILE", conflicts_with_all = ["gpus", "gpu_milli", "gpus_per_member", "shape"], help_heading = "Size")]
    gpus_mig: Option<String>,
    /// Members of the gang; each runs the script. 4-16: as many of them as there is room for when it starts
    #[arg(long, value_parser = constraints::members, value_name = "[MIN-]N", help_heading = "Size")]
    members: Option<(Option<u32>, u32)>,
    /// GPUs of each member
    #[arg(long, visible_alias = "gpus-per-node", value_parser = draft::gpus, value_name = "[MODEL:]N", help_heading = "Size")]
    gpus_per_member: Option<(Option<String>, u32)>,
    /// GPUs of unequal members, in rank order: 8,8,4
    #[arg(long, value_delimiter = ',', value_name = "N,N,..", help_heading = "Size")]
    shape: Option<Vec<u32>>,
    /// Members, each on a node of its own; 4-16 as with --members
    #[arg(short = 'N', long, value_parser = constraints::members, value_name = "[MIN-]N", help_heading = "Size")]
    nodes: Option<(Option<u32>, u32)>,
    /// GPU models or pools that will do, best first
    #[arg(long, value_delimiter = ',', value_name = "MODEL,..", help_heading = "Size")]
    gpu_model: Option<Vec<String>>,
    /// CPUs of each member
    #[arg(short = 'c', long, visible_alias = "cpus-per-task", value_name = "N", help_heading = "Size")]
    cpus: Option<u32>,
    /// Memory of each member: 64G, 512M
    #[arg(long, visible_alias = "mem", value_parser = draft::memory, value_name = "SIZE", help_heading = "Size")]
    memory: Option<u64>,
    /// All members inside one domain of this level
    #[arg(long, value_enum, value_name = "LEVEL", help_heading = "Size")]
    within: Option<Level>,
    /// A level to try first
    #[arg(long, value_enum, value_name = "LEVEL", help_heading = "Size")]
    prefer_within: Option<Level>,
    /// Labels that every node must have: rack=r1,gen=(a|b),!old
    #[arg(short = 'C', long, value_parser = rules, value_name = "RULE,..", help_heading = "Where")]
    constraint: Option<List<LabelRule>>,
    /// Only these nodes: n1,n[4-6]
    #[arg(short = 'w', long, value_parser = nodes, value_name = "NODE,..", help_heading = "Where")]
    nodelist: Option<List<String>>,
    /// None of these nodes
    #[arg(short = 'x', long, value_parser = nodes, value_name = "NODE,..", help_heading = "Where")]
    exclude: Option<List<String>>,
    /// Whole nodes: every member gets one, with all its GPUs
    #[arg(long, help_heading = "Where")]
    exclusive: bool,
    /// Deal the members out over as many domains of this level as possible
    #[arg(long, value_enum, value_name = "LEVEL", help_heading = "Where")]
    spread: Option<Level>,
    /// Members in groups of N, each inside one domain [default level: leaf]
    #[arg(long, value_parser = constraints::segment, value_name = "N[:LEVEL]", help_heading = "Where")]
    segment: Option<(u32, TopologyLevel)>,
    /// Longest time it may run: 2h30m, 1-12:00:00, 90 (minutes)
    #[arg(short = 't', long, value_name = "SPAN", help_heading = "Time")]
    time: Option<UserSpan>,
    /// That time may be lowered to this where it starts earlier so
    #[arg(long, value_name = "SPAN", help_heading = "Time")]
    time_min: Option<UserSpan>,
    /// From TERM to KILL when it is stopped
    #[arg(long, value_name = "SPAN", help_heading = "Time")]
    grace: Option<UserSpan>,
    /// Sent first when it is stopped, with its share of the grace: USR1, USR1@2m [default: half the grace]
    #[arg(long, value_parser = signals::parse, value_name = "SIGNAL[@SPAN]", help_heading = "Time")]
    stop_signal: Option<SignalAt>,
    /// Sent so long before the time limit: USR1@5m
    #[arg(long, value_parser = signals::parse_before, value_name = "SIGNAL@SPAN", help_heading = "Time")]
    limit_signal: Option<SignalAt>,
    /// A shell command that saves its work, run beside it when it is stopped
    #[arg(long, value_name = "COMMAND", help_heading = "Time")]
    checkpoint_hook: Option<String>,
    /// Not before: now+2h, 16:30, 2026-12-01T08:00
    #[arg(short = 'b', long, value_name = "TIME", value_parser = begin, help_heading = "Time")]
    begin: Option<u64>,
    /// Hold it until dure release
    #[arg(short = 'H', long, help_heading = "Order")]
    hold: bool,
    /// Priority class inside the tenant
    #[arg(long, value_name = "CLASS", help_heading = "Order")]
    priority: Option<String>,
    /// Never evict it; it starts only inside the quota
    #[arg(long, help_heading = "Order")]
    non_preemptible: bool,
    /// Wait for other jobs: afterok:12,afterany:13
    #[arg(short = 'd', long, visible_alias = "dependency", value_parser = depends, value_name = "KIND:ID,..", help_heading = "Order")]
    depend: Option<List<Depend>>,
    /// Many alike: 0-99, or 0-99%10 for at most 10 at once
    #[arg(short = 'a', long, value_parser = draft::array, value_name = "0-N[%CAP]", help_heading = "Order")]
    array: Option<ArrayRange>,
    /// Tries after a failure of its own
    #[arg(long, value_name = "N", help_heading = "Order")]
    retries: Option<u32>,
    /// When a node or a GPU is lost, keep the places of the other members so long while a spare is sought, as in 10m
    #[arg(long, value_name = "SPAN", help_heading = "Order")]
    hold_survivors: Option<UserSpan>,
    /// Run in this reservation, and nowhere else while it is there (dure reservation lists them)
    #[arg(long, value_name = "NAME", help_heading = "Order")]
    reservation: Option<String>,
    /// Variables: NAME=VALUE, NAME (from here), ALL or NONE [default: NONE]
    #[arg(long, value_name = "NAME[=VALUE],..", help_heading = "Run")]
    export: Option<String>,
    /// One variable, commas and all
    #[arg(long, value_name = "NAME=VALUE", help_heading = "Run")]
    env: Vec<String>,
    /// Folder to run in [default: a fresh folder of the job]
    #[arg(short = 'D', long, value_name = "DIR", help_heading = "Run")]
    chdir: Option<String>,
    /// File of the standard output (%j job, %a index, %r member)
    #[arg(short = 'o', long = "output", value_name = "FILE", help_heading = "Run")]
    stdout: Option<String>,
    /// File of the standard error
    #[arg(short = 'e', long = "error", value_name = "FILE", help_heading = "Run")]
    stderr: Option<String>,
    /// The script runs on the first member alone and starts its steps with srun [default where it has #SBATCH lines]
    #[arg(long, help_heading = "Run")]
    batch: bool,
    /// Every member runs the script [default where it has no #SBATCH lines]
    #[arg(long, conflicts_with = "batch", help_heading = "Run")]
    every_member: bool,
    #[command(flatten)]
    container: Container,
    /// Wait for the end; exit 0 only when it completed
    #[arg(short = 'W', long, help_heading = "Run")]
    wait: bool,
}

/// Several values of one word.
#[derive(Clone, Debug, Default)]
pub(crate) struct List<T>(Vec<T>);

/// A level of the topology.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Level {
    Node,
    Nvlink,
    Leaf,
    Spine,
    Site,
}

impl Level {
    fn to_wire(self) -> TopologyLevel {
        match self {
            Level::Node => TopologyLevel::Node,
            Level::Nvlink => TopologyLevel::NvlinkDomain,
            Level::Leaf => TopologyLevel::Leaf,
            Level::Spine => TopologyLevel::Spine,
            Level::Site => TopologyLevel::Site,
        }
    }
}

fn begin(text: &str) -> Result<u64, String> {
    when::parse(text, &jiff::Zoned::now()).map_err(|err| err.to_string())
}

fn rules(text: &str) -> Result<List<LabelRule>, String> {
    constraints::labels(text).map(List)
}

fn nodes(text: &str) -> Result<List<String>, String> {
    constraints::nodes(text).map(List)
}

fn depends(text: &str) -> Result<List<Depend>, String> {
    draft::depends(text).map(List)
}

/// A `#DURE` line: flags and nothing else.
#[derive(Parser)]
#[command(no_binary_name = true, disable_help_flag = true, disable_version_flag = true)]
struct Line {
    #[command(flatten)]
    flags: JobFlags,
}

impl JobFlags {
    /// The flags of a `#DURE` line.
    pub(crate) fn of_words(words: &[String]) -> Result<Self, String> {
        let line = Line::try_parse_from(words).map_err(|err| {
            let text = err.to_string();
            let first = text.lines().next().unwrap_or_default();
            first.trim_start_matches("error: ").to_owned()
        })?;
        Ok(line.flags)
    }

    /// The draft that the flags describe.
    pub(crate) fn draft(self) -> Result<Draft, String> {
        let env = self.variables()?;
        let mut models = self.gpu_model.unwrap_or_default();
        let mut counted = |value: Option<(Option<String>, u32)>| {
            value.map(|(model, count)| {
                models.extend(model);
                count
            })
        };
        let share = self.gpus.as_ref().and_then(|(_, _, share)| *share);
        let gpus = counted(self.gpus.map(|(model, count, _)| (model, count)));
        // A share is of one GPU of each member, however many members there are.
        let gpus = gpus.filter(|_| share.is_none());
        let gpus_per_member = counted(self.gpus_per_member);
        Ok(Draft {
            tenant: self.tenant,
            name: self.name,
            gpus,
            members: self.members.map(|(_, members)| members),
            min_members: self.members.or(self.nodes).and_then(|(least, _)| least),
            gpu_milli: self.gpu_milli.or(share),
            mig: self.gpus_mig,
            gpus_per_member,
            shape: self.shape,
            nodes: self.nodes.map(|(_, nodes)| nodes),
            gpu_models: (!models.is_empty()).then_some(models),
            cpu_milli: self.cpus.map(|cpus| u64::from(cpus) * 1_000),
            memory_mib: self.memory,
            required_level: self.within.map(Level::to_wire),
            preferred_level: self.prefer_within.map(Level::to_wire),
            only: Only {
                labels: self.constraint.map(|list| list.0),
                nodes: self.nodelist.map(|list| list.0),
                exclude: self.exclude.map(|list| list.0),
                exclusive: self.exclusive.then_some(true),
                spread: self.spread.map(Level::to_wire),
                segment: self.segment,
            },
            priority: self.priority,
            non_preemptible: self.non_preemptible.then_some(true),
            time: self.time,
            time_min: self.time_min,
            grace: self.grace,
            signals: Signals { stop: self.stop_signal, limit: self.limit_signal, hook: self.checkpoint_hook },
            container: self.container,
            batch: (self.batch || self.every_member).then_some(self.batch),
            array: self.array,
            depend: self.depend.map(|list| list.0),
            hold: self.hold.then_some(true),
            begin_ms: self.begin,
            retries: self.retries,
            hold_survivors: self.hold_survivors,
            reservation: self.reservation,
            env,
            workdir: self.chdir,
            stdout: self.stdout,
            stderr: self.stderr,
            wait: self.wait.then_some(true),
            ..Draft::default()
        })
    }

    fn variables(&self) -> Result<BTreeMap<String, String>, String> {
        let mut env = match &self.export {
            Some(text) => draft::export(text, &|| std::env::vars().collect())?,
            None => BTreeMap::new(),
        };
        for variable in &self.env {
            match variable.split_once('=') {
                Some((name, value)) if !name.is_empty() => drop(env.insert(name.to_owned(), value.to_owned())),
                _ => return Err(format!("--env {variable:?}: write NAME=VALUE")),
            }
        }
        Ok(env)
    }
}
