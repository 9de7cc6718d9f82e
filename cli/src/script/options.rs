//! Every option of sbatch: honoured, left aside with a remark, or refused with the reason.
//!
//! Comes in: the words of `#SBATCH` lines. Goes out: what was given, then a draft. The table is the documentation:
//! `dure submit --sbatch-options` prints it. An option is left aside only where the job is the same job without it.

use std::collections::BTreeMap;

use crate::{
    draft::{self, Container, Draft, Only, constraints, container},
    signals::{self, Signals},
    span::UserSpan,
    when,
};

use super::table::OPTIONS;

/// What becomes of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It means the same here.
    Honoured,
    /// The job is the same job without it.
    Ignored(&'static str),
    /// Without it the job would be another job.
    Refused(&'static str),
}

/// Whether an option has a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// `--name=value`, `--name value`, `-nvalue`.
    Needed,
    /// `--name` or `--name=value`.
    Optional,
    /// `--name`.
    None,
}

/// An option of sbatch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opt {
    /// Without the dashes.
    pub(crate) long: &'static str,
    /// The letter, or a blank.
    pub(crate) short: char,
    /// Whether it has a value.
    pub(crate) value: Value,
    /// What becomes of it.
    pub(crate) fate: Fate,
}

/// The options of a script, as given; the last one of a name counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Given {
    values: BTreeMap<&'static str, String>,
}

/// Finds an option by a word of the line: its row, and the value that stands in the same word.
fn find(word: &str) -> Result<(&'static Opt, Option<String>), String> {
    if let Some(long) = word.strip_prefix("--") {
        let (name, value) = match long.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (long, None),
        };
        let opt = OPTIONS.iter().find(|opt| opt.long == name);
        return opt.map(|opt| (opt, value)).ok_or_else(|| format!("--{name} is no option of sbatch: remove the line"));
    }
    let mut letters = word.strip_prefix('-').unwrap_or_default().chars();
    let Some(letter) = letters.next().filter(|letter| *letter != ' ') else {
        return Err(format!("{word:?} is no option: options start with - or --"));
    };
    let opt = OPTIONS.iter().find(|opt| opt.short == letter);
    let opt = opt.ok_or_else(|| format!("-{letter} is no option of sbatch: remove the line"))?;
    let rest = letters.as_str();
    Ok((opt, (!rest.is_empty()).then(|| rest.trim_start_matches('=').to_owned())))
}

impl Given {
    /// The options that were given since, by their long names.
    pub(crate) fn since(&self, before: &Self) -> impl Iterator<Item = &'static str> {
        let is_new = |(name, value): &(&&'static str, &String)| before.values.get(**name) != Some(value);
        self.values.iter().filter(is_new).map(|(name, _)| *name)
    }

    /// Takes the words of one line; gives the remarks on it.
    pub(crate) fn read(&mut self, words: &[String]) -> Result<Vec<String>, String> {
        let mut warnings = Vec::new();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let (opt, inline) = find(word)?;
            let value = match (opt.value, inline) {
                (Value::Needed, Some(value)) => value,
                (Value::Needed, None) => words.next().cloned().ok_or_else(|| format!("{word} needs a value"))?,
                (Value::Optional, inline) => inline.unwrap_or_default(),
                (Value::None, None) => String::new(),
                (Value::None, Some(value)) => return Err(format!("--{} takes no value, it has {value:?}", opt.long)),
            };
            match opt.fate {
                Fate::Honoured => drop(self.values.insert(opt.long, value)),
                Fate::Ignored(why) => warnings.push(format!("--{} is left aside: {why}", opt.long)),
                Fate::Refused(why) => return Err(format!("--{}: {why}", opt.long)),
            }
        }
        Ok(warnings)
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// The value of an option through its reader; an error names the option.
    fn read_as<T>(&self, name: &str, reader: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<T>, String> {
        self.get(name)
            .map(reader)
            .transpose()
            .map_err(|why| format!("--{name}={}: {why}", self.get(name).unwrap_or_default()))
    }

    fn number(&self, name: &str) -> Result<Option<u32>, String> {
        self.read_as(name, |text| text.parse().map_err(|_| "expected a whole number".to_owned()))
    }

    fn span(&self, name: &str) -> Result<Option<UserSpan>, String> {
        self.read_as(name, |text| text.parse::<UserSpan>().map_err(|err| err.to_string()))
    }

    /// The job that was asked for, and remarks.
    pub(crate) fn draft(&self) -> Result<(Draft, Vec<String>), String> {
        let mut warnings = Vec::new();
        let mut job = Draft {
            tenant: self.get("account").map(str::to_owned),
            name: self.get("job-name").map(str::to_owned),
            time: self.span("time")?,
            time_min: self.span("time-min")?,
            signals: Signals { limit: self.read_as("signal", signals::parse_sbatch)?, ..Signals::default() },
            array: self.read_as("array", draft::array)?,
            depend: self.read_as("dependency", draft::depends)?,
            hold: self.get("hold").map(|_| true),
            reservation: self.get("reservation").map(str::to_owned),
            begin_ms: self
                .read_as("begin", |text| when::parse(text, &jiff::Zoned::now()).map_err(|err| err.to_string()))?,
            workdir: self.get("chdir").map(str::to_owned),
            stdout: self.get("output").map(pattern),
            stderr: self.get("error").map(pattern),
            memory_mib: self.read_as("mem", draft::memory)?.filter(|memory| *memory > 0),
            memory_mib_per_gpu: self.read_as("mem-per-gpu", draft::memory)?,
            memory_mib_per_cpu: self.read_as("mem-per-cpu", draft::memory)?,
            cpu_milli_per_gpu: self.number("cpus-per-gpu")?.map(|cpus| u64::from(cpus) * 1_000),
            wait: self.get("wait").map(|_| true),
            container: Container {
                image: self.get("container-image").or(self.get("container")).map(str::to_owned),
                mounts: self.read_as("container-mounts", mounts)?.unwrap_or_default(),
                writable: self.get("container-writable").is_some(),
                entrypoint: self.get("container-entrypoint").is_some(),
            },
            env: self
                .read_as("export", |text| draft::export(text, &|| std::env::vars().collect()))?
                .unwrap_or_default(),
            ..Draft::default()
        };
        if job.stdout.is_some() && job.stderr.is_none() {
            // sbatch writes both streams to the file of --output.
            job.stderr.clone_from(&job.stdout);
        }
        job.only = self.only(&mut warnings)?;
        self.size(&mut job, &mut warnings)?;
        self.names(&mut job, &mut warnings);
        Ok((job, warnings))
    }

    /// What is asked of nodes.
    fn only(&self, warnings: &mut Vec<String>) -> Result<Only, String> {
        let exclusive = match self.get("exclusive") {
            None => None,
            Some("") => Some(true),
            Some(whom) => {
                warnings
                    .push(format!("--exclusive={whom} is left aside: a GPU and its CPUs are its member's own anyway"));
                None
            }
        };
        Ok(Only {
            labels: self.read_as("constraint", constraints::labels)?,
            nodes: self.read_as("nodelist", constraints::nodes)?,
            exclude: self.read_as("exclude", constraints::nodes)?,
            exclusive,
            spread: self.get("spread-job").map(|_| dure_proto::v1::TopologyLevel::Node),
            segment: self.read_as("segment", constraints::segment)?,
        })
    }

    /// Nodes, tasks, GPUs and CPUs.
    fn size(&self, job: &mut Draft, warnings: &mut Vec<String>) -> Result<(), String> {
        let nodes = self.read_as("nodes", constraints::members)?;
        job.min_members = nodes.and_then(|(least, _)| least);
        let nodes = nodes.map(|(_, most)| most);
        let mut models = Vec::new();
        let mut counted = |name: &str, value: Option<(Option<String>, u32)>| {
            value.map(|(model, count)| {
                models.extend(model);
                (name.to_owned(), count)
            })
        };
        let total = counted("gpus", self.read_as("gpus", draft::gpus)?);
        let on_node = counted("gpus-per-node", self.read_as("gpus-per-node", draft::gpus)?);
        let gres = counted("gres", self.read_as("gres", gres)?.flatten());
        let on_task = counted("gpus-per-task", self.read_as("gpus-per-task", draft::gpus)?);
        let tasks = self.number("ntasks")?;
        let per_node = self.number("ntasks-per-node")?;
        if let Some(instance) = models.iter().find_map(|model| draft::instance(model)) {
            let asked = Instances { instance, nodes, tasks, total, per_node: on_node.or(gres), per_task: on_task };
            job.cpu_milli = self.number("cpus-per-task")?.map(|cpus| u64::from(cpus) * 1_000);
            return asked.size(job, warnings);
        }
        let at_node = on_node.or(gres).map(|(_, count)| count);
        match (on_task.map(|(_, count)| count), at_node) {
            (Some(gpus), None) if per_node.is_none_or(|count| count == 1) => {
                job.gpus_per_member = Some(gpus);
                job.members = tasks.or(nodes);
                job.nodes = nodes.filter(|nodes| job.members == Some(*nodes));
            }
            (Some(gpus), _) => {
                job.nodes = nodes;
                job.gpus_per_member = Some(at_node.unwrap_or(gpus.saturating_mul(per_node.unwrap_or(1))));
            }
            (None, at_node) => {
                job.nodes = nodes.filter(|nodes| *nodes > 1);
                job.gpus_per_member = at_node;
                job.gpus = total.as_ref().map(|(_, count)| *count);
            }
        }
        let many =
            per_node.filter(|count| *count > 1).is_some() || (job.members.is_none() && tasks > nodes.or(Some(1)));
        if many {
            warnings
                .push("a member is a whole node: start its tasks in the script (srun, mpirun, torchrun)".to_owned());
            let count = per_node.or(tasks).unwrap_or(1);
            job.env.insert("SLURM_NTASKS_PER_NODE".to_owned(), count.to_string());
        }
        let cpus = self.number("cpus-per-task")?.map(|cpus| u64::from(cpus) * 1_000);
        job.cpu_milli =
            cpus.map(|cpus| if job.members.is_some() { cpus } else { cpus * u64::from(per_node.unwrap_or(1)) });
        job.gpu_models = Some(models).filter(|models| !models.is_empty());
        Ok(())
    }

    /// Names that mean something else here.
    fn names(&self, job: &mut Draft, warnings: &mut Vec<String>) {
        if let Some(qos) = self.get("qos") {
            match qos {
                "low" | "normal" | "high" | "urgent" => job.priority = Some(qos.to_owned()),
                _ => warnings
                    .push(format!("--qos={qos} is left aside: it is no priority class (low, normal, high, urgent)")),
            }
        }
        if let Some(partition) = self.get("partition") {
            if job.tenant.is_none() && partition.contains('/') {
                job.tenant = Some(partition.to_owned());
            } else {
                warnings.push(format!("--partition={partition} is left aside: name the tenant with --account, GPUs with --gres=gpu:MODEL:N"));
            }
        }
        if let Some(switches) = self.get("switches") {
            if switches.split('@').next() == Some("1") {
                job.preferred_level = Some(dure_proto::v1::TopologyLevel::Leaf);
            } else {
                warnings.push(format!("--switches={switches} is left aside: gangs lie as close as they fit"));
            }
        }
    }
}

fn mounts(text: &str) -> Result<Vec<dure_proto::v1::Mount>, String> {
    text.split(',').map(container::mount).collect()
}

/// MIG instances that were asked for as Slurm names them: `gpu:1g.10gb:2`, `gpu:a100_1g.10gb:2`.
struct Instances {
    instance: (Option<String>, String),
    nodes: Option<u32>,
    tasks: Option<u32>,
    /// Options that count them, by name.
    total: Option<(String, u32)>,
    per_node: Option<(String, u32)>,
    per_task: Option<(String, u32)>,
}

impl Instances {
    /// Each member gets one of them: a program sees no more than one.
    fn size(self, job: &mut Draft, warnings: &mut Vec<String>) -> Result<(), String> {
        let (model, profile) = self.instance;
        let several = |option: &str, count: u32, remedy: &str| {
            Err(format!("--{option}: {count} MIG instances of {profile}, and a member gets one: {remedy}"))
        };
        let nodes = self.nodes.filter(|nodes| *nodes > 1);
        match (self.per_task, self.per_node, self.total) {
            (Some((option, count)), ..) if count > 1 => return several(&option, count, "ask for more tasks"),
            (Some(_), ..) => job.members = self.tasks.or(nodes),
            (None, Some((_, 1)), _) => job.members = self.tasks.or(nodes),
            (None, Some((option, count)), _) if nodes.is_some() => {
                return several(&option, count, "ask for all of them with --gpus, on whatever nodes");
            }
            (None, Some((_, count)), _) => {
                job.members = Some(count);
                job.required_level = Some(dure_proto::v1::TopologyLevel::Node);
            }
            (None, None, Some((_, count))) => job.members = Some(count),
            (None, None, None) => {}
        }
        job.nodes = nodes.filter(|nodes| job.members == Some(*nodes));
        if job.members.is_some_and(|members| members > 1) {
            warnings.push(format!("each {profile} is a member of its own: start its task in the script (srun)"));
        }
        job.mig = Some(profile);
        job.gpu_models = model.map(|model| vec![model]);
        Ok(())
    }
}

/// `gpu:8`, `gpu:h200:8`, `gpu`.
fn gres(text: &str) -> Result<Option<(Option<String>, u32)>, String> {
    match text.split_once(':') {
        None if text == "gpu" => Ok(Some((None, 1))),
        None if text == "none" => Ok(None),
        Some(("gpu", count)) => {
            // `gpu:h200` is one GPU of that model.
            let alone = !count.is_empty() && !count.contains(':') && count.parse::<u32>().is_err();
            if alone { Ok(Some((Some(count.to_owned()), 1))) } else { draft::gpus(count).map(Some) }
        }
        Some(("shard", _)) => {
            Err("what a shard is differs from site to site: write #DURE --gpu-milli=500 for half a GPU".to_owned())
        }
        _ => Err("only gpu is known: write gpu:8 or gpu:h200:8".to_owned()),
    }
}

/// sbatch's names of output files in ours: %j job, %a array index, %r member; %A is the job as well.
fn pattern(text: &str) -> String {
    text.replace("%A", "%j").replace("%t", "%r").replace("%n", "%r")
}
