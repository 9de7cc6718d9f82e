//! A job as somebody asks for it, before it is complete: from flags, from the lines of a script, from a file of jobs.
//!
//! Comes in: what each source says. Goes out: one `JobSpec` of the API. A source that stands above another wins field by
//! field (`over`). This part must never decide what the scheduler decides: names and sizes go through as they are.

use std::collections::BTreeMap;

use dure_proto::v1::{self, DependencyKind, TopologyLevel, dependency::On};

pub(crate) use self::{constraints::Only, container::Container};
use crate::{signals::Signals, span::UserSpan};

pub(crate) mod constraints;
pub(crate) mod container;

/// What a job is asked to be; absent: not said.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Draft {
    pub(crate) tenant: Option<String>,
    pub(crate) name: Option<String>,
    /// Whole GPUs of the job.
    pub(crate) gpus: Option<u32>,
    pub(crate) members: Option<u32>,
    /// It starts with fewer, but not with fewer than these.
    pub(crate) min_members: Option<u32>,
    pub(crate) gpus_per_member: Option<u32>,
    /// Of its one GPU each member gets this share, in thousandths.
    pub(crate) gpu_milli: Option<u32>,
    pub(crate) mig: Option<String>,
    /// One entry per member.
    pub(crate) shape: Option<Vec<u32>>,
    /// Members on nodes of their own.
    pub(crate) nodes: Option<u32>,
    pub(crate) gpu_models: Option<Vec<String>>,
    pub(crate) cpu_milli: Option<u64>,
    pub(crate) cpu_milli_per_gpu: Option<u64>,
    pub(crate) memory_mib: Option<u64>,
    pub(crate) memory_mib_per_gpu: Option<u64>,
    pub(crate) memory_mib_per_cpu: Option<u64>,
    pub(crate) required_level: Option<TopologyLevel>,
    pub(crate) preferred_level: Option<TopologyLevel>,
    /// What is asked of nodes beside room.
    pub(crate) only: Only,
    pub(crate) priority: Option<String>,
    pub(crate) non_preemptible: Option<bool>,
    pub(crate) time: Option<UserSpan>,
    /// The limit may be lowered to this.
    pub(crate) time_min: Option<UserSpan>,
    pub(crate) grace: Option<UserSpan>,
    pub(crate) array: Option<ArrayRange>,
    pub(crate) depend: Option<Vec<Depend>>,
    pub(crate) hold: Option<bool>,
    /// Milliseconds since the Unix epoch.
    pub(crate) begin_ms: Option<u64>,
    pub(crate) retries: Option<u32>,
    pub(crate) hold_survivors: Option<UserSpan>,
    pub(crate) reservation: Option<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) workdir: Option<String>,
    pub(crate) stdout: Option<String>,
    pub(crate) stderr: Option<String>,
    pub(crate) signals: Signals,
    pub(crate) container: Container,
    /// The script runs on the first member alone.
    pub(crate) batch: Option<bool>,
    pub(crate) script: Option<Vec<u8>>,
    pub(crate) args: Vec<String>,
    /// Not of the job but of the call: wait for its end.
    pub(crate) wait: Option<bool>,
}

/// `0-99%10`: 100 indices, at most 10 at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ArrayRange {
    pub(crate) size: u32,
    pub(crate) max_running: u32,
}

/// On what a job waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Depend {
    pub(crate) kind: DependencyKind,
    pub(crate) on: On,
}

impl Draft {
    /// What this draft says, and where it says nothing, what `under` says.
    pub(crate) fn over(self, under: Draft) -> Draft {
        let sized = self.gpus.is_some()
            || self.gpu_milli.is_some()
            || self.mig.is_some()
            || self.gpus_per_member.is_some()
            || self.members.is_some();
        let sized = sized || self.nodes.is_some() || self.shape.is_some();
        // A shape is one statement: half of one and half of another would be a job that nobody asked for.
        let shape = if sized { self.clone() } else { under.clone() };
        let mut env = under.env;
        env.extend(self.env);
        Draft {
            tenant: self.tenant.or(under.tenant),
            name: self.name.or(under.name),
            gpus: shape.gpus,
            members: shape.members,
            min_members: shape.min_members,
            gpus_per_member: shape.gpus_per_member,
            gpu_milli: shape.gpu_milli,
            mig: shape.mig,
            shape: shape.shape,
            nodes: shape.nodes,
            gpu_models: self.gpu_models.or(under.gpu_models),
            cpu_milli: self.cpu_milli.or(under.cpu_milli),
            cpu_milli_per_gpu: self.cpu_milli_per_gpu.or(under.cpu_milli_per_gpu),
            memory_mib: self.memory_mib.or(under.memory_mib),
            memory_mib_per_gpu: self.memory_mib_per_gpu.or(under.memory_mib_per_gpu),
            memory_mib_per_cpu: self.memory_mib_per_cpu.or(under.memory_mib_per_cpu),
            required_level: self.required_level.or(under.required_level),
            preferred_level: self.preferred_level.or(under.preferred_level),
            only: self.only.over(under.only),
            priority: self.priority.or(under.priority),
            non_preemptible: self.non_preemptible.or(under.non_preemptible),
            time: self.time.or(under.time),
            time_min: self.time_min.or(under.time_min),
            grace: self.grace.or(under.grace),
            array: self.array.or(under.array),
            depend: self.depend.or(under.depend),
            hold: self.hold.or(under.hold),
            begin_ms: self.begin_ms.or(under.begin_ms),
            retries: self.retries.or(under.retries),
            hold_survivors: self.hold_survivors.or(under.hold_survivors),
            reservation: self.reservation.or(under.reservation),
            env,
            workdir: self.workdir.or(under.workdir),
            stdout: self.stdout.or(under.stdout),
            stderr: self.stderr.or(under.stderr),
            signals: self.signals.over(under.signals),
            container: self.container.over(under.container),
            batch: self.batch.or(under.batch),
            script: self.script.or(under.script),
            args: if self.args.is_empty() { under.args } else { self.args },
            wait: self.wait.or(under.wait),
        }
    }

    /// The job of the API. An error names the flag, its value and the remedy.
    pub(crate) fn spec(self) -> Result<v1::JobSpec, String> {
        let tenant = self.tenant.clone().ok_or(
            "no tenant: name who pays with --tenant MISSION[/PROJECT[/TEAM]], DURE_TENANT or the context file (dure quota show lists them)",
        )?;
        if self.script.is_none() && self.args.is_empty() {
            return Err("nothing to run: name a script, or a command after --".to_owned());
        }
        let shape = self.gang()?;
        let container = self.container.to_wire()?;
        if self.time_min == Some(UserSpan(0)) {
            return Err("--time-min 0: no limit is lowered to nothing; name a span, or leave it out".to_owned());
        }
        Ok(v1::JobSpec {
            tenant,
            name: self.name.unwrap_or_default(),
            shape: Some(shape),
            gpu_models: self.gpu_models.unwrap_or_default(),
            required_level: self.required_level.unwrap_or_default().into(),
            preferred_level: self.preferred_level.unwrap_or_default().into(),
            priority: self.priority.unwrap_or_default(),
            non_preemptible: self.non_preemptible.unwrap_or_default(),
            constraints: self.only.into_wire(self.min_members),
            time_limit_ms: self.time.map_or(0, |span| span.0),
            time_min_ms: self.time_min.map_or(0, |span| span.0),
            grace_ms: self.grace.map_or(0, |span| span.0),
            array: self.array.map(|range| v1::ArraySpec { size: range.size, max_running: range.max_running }),
            dependencies: self.depend.unwrap_or_default().into_iter().map(Depend::to_wire).collect(),
            hold: self.hold.unwrap_or_default(),
            not_before_ms: self.begin_ms.unwrap_or_default(),
            max_retries: self.retries.unwrap_or_default(),
            hold_survivors_ms: self.hold_survivors.map_or(0, |span| span.0),
            booking: self.reservation.unwrap_or_default(),
            payload: Some(v1::Payload {
                script: self.script.unwrap_or_default(),
                args: self.args,
                env: self.env.into_iter().collect(),
                workdir: self.workdir.unwrap_or_default(),
                stdout_path: self.stdout.unwrap_or_default(),
                stderr_path: self.stderr.unwrap_or_default(),
                signals: self.signals.to_wire(),
                batch: self.batch.unwrap_or_default(),
                container,
            }),
        })
    }

    fn gang(&self) -> Result<v1::Shape, String> {
        let (members, gpus_per_member, unequal) = match &self.shape {
            Some(list) => {
                if self.gpus.is_some() || self.gpus_per_member.is_some() || self.members.is_some() {
                    return Err("--shape says it all: leave out --gpus, --members and --gpus-per-member".to_owned());
                }
                if let Some(nodes) = self.nodes.filter(|nodes| *nodes as usize != list.len()) {
                    return Err(format!("--nodes {nodes}: --shape has {} members, one for each node", list.len()));
                }
                (0, 0, list.clone())
            }
            None => {
                let (members, gpus) = self.equal_members()?;
                (members, gpus, Vec::new())
            }
        };
        let gpus = u64::from(unequal.iter().copied().max().unwrap_or(gpus_per_member));
        let cpu = self.cpu_milli.or(self.cpu_milli_per_gpu.map(|cpu| cpu.saturating_mul(gpus))).unwrap_or(0);
        let by_cpu = self.memory_mib_per_cpu.map(|memory| memory.saturating_mul(cpu.div_ceil(1_000).max(1)));
        let by_gpu = self.memory_mib_per_gpu.map(|memory| memory.saturating_mul(gpus));
        Ok(v1::Shape {
            members,
            gpus_per_member,
            unequal,
            cpu_milli_per_member: cpu,
            memory_mib_per_member: self.memory_mib.or(by_gpu).or(by_cpu).unwrap_or(0),
            distinct_nodes: self.nodes.is_some_and(|nodes| nodes > 1),
            gpu_milli: self.gpu_milli.unwrap_or(0),
            mig_profile: self.mig.clone().unwrap_or_default(),
        })
    }

    /// How many members of how many GPUs; 1 x 1 when nothing is said.
    fn equal_members(&self) -> Result<(u32, u32), String> {
        let members = match (self.members, self.nodes) {
            (Some(members), Some(nodes)) if members != nodes => {
                return Err(format!(
                    "--members {members} and --nodes {nodes}: with --nodes every member has a node of its own, give one of them"
                ));
            }
            (members, nodes) => members.or(nodes),
        };
        match (self.gpus, members, self.gpus_per_member) {
            (None, members, per) => Ok((members.unwrap_or(1), per.unwrap_or(1))),
            (Some(total), None, None) => Ok((1, total)),
            (Some(total), Some(members), None) if members > 0 && total % members == 0 => Ok((members, total / members)),
            (Some(total), Some(members), None) => Err(format!(
                "--gpus {total} does not divide by {members} members: use --gpus-per-member, or --shape for unequal members"
            )),
            (Some(total), None, Some(per)) if per > 0 && total % per == 0 => Ok((total / per, per)),
            (Some(total), None, Some(per)) => Err(format!(
                "--gpus {total} does not divide by --gpus-per-member {per}: use --shape for unequal members"
            )),
            (Some(total), Some(members), Some(per)) if members.checked_mul(per) == Some(total) => Ok((members, per)),
            (Some(total), Some(members), Some(per)) => Err(format!(
                "--gpus {total} is not --members {members} x --gpus-per-member {per}: leave one of the three out"
            )),
        }
    }
}

impl Depend {
    fn to_wire(self) -> v1::Dependency {
        v1::Dependency { kind: self.kind.into(), on: Some(self.on) }
    }
}

/// Reads `afterok:12:13,afterany:14`; `+N` is job N (from 0) of the same call.
pub(crate) fn depends(text: &str) -> Result<Vec<Depend>, String> {
    let wrong = |why: &str| format!("{text:?}: {why}: write afterok:12,afterany:13,afternotok:14");
    if text.contains('?') {
        return Err(wrong("a job waits for all of its dependencies, one of several (?) is not known"));
    }
    let mut all = Vec::new();
    for part in text.split(',') {
        let (kind, jobs) = part.split_once(':').ok_or_else(|| wrong("no job is named"))?;
        let kind = match kind.trim() {
            "afterok" => DependencyKind::AfterOk,
            "afterany" => DependencyKind::AfterAny,
            "afternotok" => DependencyKind::AfterNotOk,
            "singleton" | "after" | "aftercorr" | "afterburstbuffer" => {
                return Err(wrong("this kind is not known here"));
            }
            _ => return Err(wrong("no such kind")),
        };
        for job in jobs.split(':') {
            let on = match job.trim().strip_prefix('+') {
                Some(place) => place.parse().map(On::IndexInCall),
                None => job.trim().parse().map(On::JobId),
            };
            all.push(Depend { kind, on: on.map_err(|_| wrong(&format!("{job:?} is no job id")))? });
        }
    }
    Ok(all)
}

/// Reads `0-99%10`, `0-99` or a plain `100` (indices 0 to 99).
pub(crate) fn array(text: &str) -> Result<ArrayRange, String> {
    let wrong = |why: &str| format!("{text:?}: {why}: write 0-99, or 0-99%10 for at most 10 at once");
    let (range, cap) = match text.split_once('%') {
        Some((range, cap)) => (
            range,
            cap.parse::<u32>().ok().filter(|cap| *cap > 0).ok_or_else(|| wrong("the cap is no number above 0"))?,
        ),
        None => (text, 0),
    };
    if range.contains(',') || range.contains(':') {
        return Err(wrong("lists and steps are not known, compute the value from DURE_ARRAY_INDEX"));
    }
    let number = |part: &str| part.parse::<u32>().map_err(|_| wrong("no numbers"));
    let size = match range.split_once('-') {
        Some((first, last)) => {
            if number(first)? != 0 {
                return Err(wrong("indices start at 0"));
            }
            number(last)?.checked_add(1).ok_or_else(|| wrong("too large"))?
        }
        None => number(range)?,
    };
    Ok(ArrayRange { size, max_running: cap })
}

/// Reads a size in MiB: `4G`, `512M`, `2048` (MiB), `1T`, `1048576K`.
pub(crate) fn memory(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size of memory: write 64G, 512M, or 2048 (MiB)");
    let bare = text.trim().trim_end_matches(['B', 'b']).trim_end_matches('i');
    let digits = bare.find(|c: char| !c.is_ascii_digit()).unwrap_or(bare.len());
    let count: u64 = bare[..digits].parse().map_err(|_| wrong())?;
    match &bare[digits..] {
        "" | "M" | "m" => Some(count),
        "K" | "k" => Some(count.div_ceil(1_024)),
        "G" | "g" => count.checked_mul(1_024),
        "T" | "t" => count.checked_mul(1_024 * 1_024),
        _ => None,
    }
    .ok_or_else(wrong)
}

/// Reads a count of GPUs with a model before it or not: `8`, `h200:8`.
pub(crate) fn gpus(text: &str) -> Result<(Option<String>, u32), String> {
    let wrong = || format!("{text:?} is no count of GPUs: write 8, or h200:8");
    let (model, count) = match text.rsplit_once(':') {
        Some((model, count)) if !model.is_empty() => (Some(model.to_owned()), count),
        Some(_) => return Err(wrong()),
        None => (None, text),
    };
    Ok((model, count.parse().map_err(|_| wrong())?))
}

/// The MIG profile that Slurm's name of a GPU's type ends with, and the model before it: `1g.10gb`, `a100_1g.10gb`.
pub(crate) fn instance(name: &str) -> Option<(Option<String>, String)> {
    let (model, profile) = match name.rsplit_once('_') {
        Some((model, profile)) => (Some(model.to_owned()), profile),
        None => (None, name),
    };
    let (compute, memory) = profile.split_once("g.")?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_profile = is_number(compute) && memory.strip_suffix("gb").is_some_and(is_number);
    is_profile.then(|| (model, profile.to_owned()))
}

/// Reads a count of GPUs as `gpus` does, or a share of one: `0.5`, `h200:0.25`: then the count is 1, and the third is the
/// share in thousandths.
pub(crate) fn gpus_or_share(text: &str) -> Result<(Option<String>, u32, Option<u32>), String> {
    let (model, amount) = match text.rsplit_once(':') {
        Some((model, amount)) => (Some(model).filter(|model| !model.is_empty()), amount),
        None => (None, text),
    };
    let Some(digits) = amount.strip_prefix("0.").or(amount.strip_prefix('.')) else {
        return gpus(text).map(|(model, count)| (model, count, None));
    };
    let wrong = || format!("{text:?} is no share of a GPU: write 0.001 to 0.999, as 0.5 or h200:0.25");
    let is_number = (1..=3).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let milli: u32 = format!("{digits:0<3}").parse().map_err(|_| wrong())?;
    if !is_number || milli == 0 {
        return Err(wrong());
    }
    Ok((model.map(str::to_owned), 1, Some(milli)))
}

/// Reads `NAME=VALUE,NAME2`, `ALL` or `NONE`: a bare name and ALL take the values from `inherited`.
pub(crate) fn export(
    text: &str,
    inherited: &dyn Fn() -> Vec<(String, String)>,
) -> Result<BTreeMap<String, String>, String> {
    let mut env = BTreeMap::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            Some(("", _)) => return Err(format!("{part:?} has no name: write NAME=VALUE")),
            Some((name, value)) => drop(env.insert(name.to_owned(), value.to_owned())),
            None if part == "ALL" => env.extend(inherited()),
            None if part == "NONE" || part == "NIL" => env.clear(),
            None => env.extend(inherited().into_iter().filter(|(name, _)| name == part)),
        }
    }
    Ok(env)
}

#[cfg(test)]
mod tests;
