//! The cgroups of a member: which hierarchies this node has for them, and what is written there.
//!
//! Comes in: mounts and configuration, then grants. Goes out: folders with their lines, as data (`plan` is pure).
//! cgroup v2 where its controllers are; v1 for those that are mounted there; both at once on nodes that have both.
//! Folders lie below one of the agent's own state folder, so that agents on one node do not meet.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    config::IsolationConfig,
    devices::{self, Guard},
    hierarchies::Hierarchies,
    plan::{CgroupDir, DeviceProgram, Write},
};
use crate::sys::bpf;

/// The period of CPU quotas, in microseconds.
const PERIOD_US: u64 = 100_000;
/// The least quota that the kernel takes.
const LEAST_QUOTA_US: u64 = 1_000;
const MIB: u64 = 1_024 * 1_024;

/// What this node's kernel keeps, and below which folders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    /// The v2 folder and its controllers; it ends whole families even without any.
    v2: Option<(PathBuf, BTreeSet<String>)>,
    /// v1 folders by controller.
    v1: BTreeMap<String, PathBuf>,
    /// Memory sides for v1 cpusets, which begin empty.
    mems: String,
    /// Every CPU, for the same reason.
    all_cpus: String,
    /// The kernel takes device programs.
    programs: bool,
}

/// What one member was granted.
#[derive(Clone, Debug, Default)]
pub(super) struct Grant {
    pub(super) name: String,
    pub(super) cpu_milli: u64,
    pub(super) memory_mib: u64,
    pub(super) pids: u64,
    pub(super) cpus: Option<String>,
    pub(super) guards: Vec<Guard>,
}

/// Makes the agent's folders; the second half says what will not be kept.
pub(super) fn find(mounts: &Hierarchies, config: &IsolationConfig, state_dir: &Path) -> (Kept, Vec<String>) {
    let mut kept = Kept::default();
    let mut weaker = Vec::new();
    let own = format!("{:016x}", fnv(state_dir.as_os_str().as_encoded_bytes()));
    let root = config.cgroup_root.clone().or_else(|| mounts.v2.as_ref().map(|mount| mount.join("dure")));
    if let Some(root) = root {
        match delegate(mounts.v2.as_deref(), &root, &own) {
            Ok(found) => kept.v2 = Some(found),
            Err(err) => weaker.push(format!("no cgroup v2 folder: {}: {err}", root.display())),
        }
    }
    for (controller, mount) in &mounts.v1 {
        match v1_folder(controller, mount, &own) {
            Ok(folder) => drop(kept.v1.insert(controller.clone(), folder)),
            Err(err) => weaker.push(format!("{controller}: {}: {err}", mount.display())),
        }
    }
    if let Some(folder) = kept.v1.get("cpuset") {
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default().trim().to_owned();
        (kept.all_cpus, kept.mems) = (read("cpuset.cpus"), read("cpuset.mems"));
    }
    kept.programs = kept.v2.is_some() && bpf::takes_device_programs();
    weaker.extend(lacking(&kept, config));
    (kept, weaker)
}

fn lacking(kept: &Kept, config: &IsolationConfig) -> Vec<String> {
    let has = |name: &str| {
        kept.v1.contains_key(name) || kept.v2.as_ref().is_some_and(|(_, controllers)| controllers.contains(name))
    };
    let mut lacking = Vec::new();
    let mut need = |wanted: bool, has: bool, words: &str| {
        if wanted && !has {
            lacking.push(words.to_owned());
        }
    };
    need(true, has("cpu"), "CPU is not limited: no cpu controller");
    need(true, has("memory"), "memory is not limited: no memory controller");
    need(true, has("pids"), "the number of processes is not limited: no pids controller");
    need(config.pin_cpus, has("cpuset"), "members use all CPUs: no cpuset controller");
    let guarded = kept.v1.contains_key("devices") || kept.programs;
    need(config.guard_devices, guarded, "every GPU's device can be opened: no device controller");
    let one = kept.v2.is_some() || !kept.v1.is_empty();
    need(true, one, "members are ended by descent only: no cgroups at all");
    lacking
}

/// Makes `root/own` and hands the controllers down to it.
fn delegate(mount: Option<&Path>, root: &Path, own: &str) -> io::Result<(PathBuf, BTreeSet<String>)> {
    let folder = root.join(own);
    fs::create_dir_all(&folder)?;
    let above: Vec<&Path> = match (mount, root.parent()) {
        (Some(mount), Some(parent)) if parent == mount => vec![parent, root, &folder],
        _ => vec![root, &folder],
    };
    let mut controllers = BTreeSet::new();
    let offered = fs::read_to_string(above[0].join("cgroup.controllers"))?;
    for controller in offered.split_ascii_whitespace().filter(|name| ["cpu", "cpuset", "memory", "pids"].contains(name))
    {
        let down = |dir: &&Path| fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
        if above.iter().map(down).all(|written| written.is_ok()) {
            controllers.insert(controller.to_owned());
        }
    }
    Ok((folder, controllers))
}

fn v1_folder(controller: &str, mount: &Path, own: &str) -> io::Result<PathBuf> {
    let root = mount.join("dure");
    let folder = root.join(own);
    fs::create_dir_all(&folder)?;
    if controller == "cpuset" {
        for dir in [&root, &folder] {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let above = fs::read_to_string(dir.parent().unwrap_or(mount).join(file))?;
                fs::write(dir.join(file), above.trim())?;
            }
        }
    }
    Ok(folder)
}

/// The member's folders with their lines. Pure.
pub(super) fn plan(kept: &Kept, grant: &Grant) -> (Vec<CgroupDir>, Option<DeviceProgram>) {
    let mut dirs = Vec::new();
    let mut program = None;
    if let Some((folder, controllers)) = &kept.v2 {
        let path = folder.join(&grant.name);
        if kept.programs && !kept.v1.contains_key("devices") && !grant.guards.is_empty() {
            program = Some(DeviceProgram { cgroup: path.clone(), guards: grant.guards.clone() });
        }
        let lines = controllers.iter().filter(|name| !kept.v1.contains_key(*name));
        let writes = lines.flat_map(|name| v2_lines(name, grant)).collect();
        dirs.push(CgroupDir { path, writes });
    }
    // Controllers that share a mount share the folder.
    let mut by_folder: BTreeMap<&Path, Vec<Write>> = BTreeMap::new();
    for (controller, folder) in &kept.v1 {
        by_folder.entry(folder).or_default().extend(v1_lines(controller, kept, grant));
    }
    dirs.extend(by_folder.into_iter().map(|(folder, writes)| CgroupDir { path: folder.join(&grant.name), writes }));
    (dirs, program)
}

fn quota_us(cpu_milli: u64) -> u64 {
    (cpu_milli * PERIOD_US / 1_000).max(LEAST_QUOTA_US)
}

fn line(file: &str, value: impl ToString) -> Write {
    Write { file: file.to_owned(), value: value.to_string(), optional: false }
}

fn perhaps(file: &str, value: impl ToString) -> Write {
    Write { optional: true, ..line(file, value) }
}

fn v2_lines(controller: &str, grant: &Grant) -> Vec<Write> {
    match controller {
        "cpu" if grant.cpu_milli > 0 => {
            vec![line("cpu.max", format!("{} {PERIOD_US}", quota_us(grant.cpu_milli)))]
        }
        "memory" if grant.memory_mib > 0 => vec![
            line("memory.max", grant.memory_mib * MIB),
            perhaps("memory.swap.max", 0),
            // A gang's member without one of its processes is no member: all of it ends.
            perhaps("memory.oom.group", 1),
        ],
        "pids" => vec![line("pids.max", grant.pids)],
        "cpuset" => grant.cpus.iter().map(|cpus| line("cpuset.cpus", cpus)).collect(),
        _ => Vec::new(),
    }
}

fn v1_lines(controller: &str, kept: &Kept, grant: &Grant) -> Vec<Write> {
    match controller {
        "cpu" if grant.cpu_milli > 0 => {
            vec![line("cpu.cfs_period_us", PERIOD_US), line("cpu.cfs_quota_us", quota_us(grant.cpu_milli))]
        }
        "memory" if grant.memory_mib > 0 => vec![
            line("memory.limit_in_bytes", grant.memory_mib * MIB),
            perhaps("memory.memsw.limit_in_bytes", grant.memory_mib * MIB),
        ],
        "pids" => vec![line("pids.max", grant.pids)],
        "cpuset" => {
            vec![line("cpuset.cpus", grant.cpus.as_ref().unwrap_or(&kept.all_cpus)), line("cpuset.mems", &kept.mems)]
        }
        "devices" => devices::denied_lines(&grant.guards).iter().map(|rule| line("devices.deny", rule)).collect(),
        _ => Vec::new(),
    }
}

/// FNV-1a, 64 bits: a name for a folder, no secret.
pub(crate) fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn grant() -> Grant {
        Grant {
            name: "17.1.0".to_owned(),
            cpu_milli: 8_000,
            memory_mib: 64,
            pids: 100,
            cpus: Some("0-7".to_owned()),
            guards: devices::guards(&(0..60).collect::<Vec<_>>()),
        }
    }

    fn check(kept: &Kept, grant: &Grant, expected: Expect) {
        let (dirs, program) = plan(kept, grant);
        let mut text = String::new();
        for dir in dirs {
            text += &format!("{}\n", dir.path.display());
            for Write { file, value, optional } in dir.writes {
                text += &format!("    {file}{} = {value}\n", if optional { "?" } else { "" });
            }
        }
        if let Some(program) = program {
            text += &format!("program at {}\n", program.cgroup.display());
        }
        expected.assert_eq(&text);
    }

    #[test]
    fn all_by_version_2() {
        let controllers = ["cpu", "cpuset", "memory", "pids"].map(str::to_owned).into();
        let kept = Kept { v2: Some((PathBuf::from("/v2/dure/a"), controllers)), programs: true, ..Kept::default() };
        check(
            &kept,
            &grant(),
            expect![[r#"
            /v2/dure/a/17.1.0
                cpu.max = 800000 100000
                cpuset.cpus = 0-7
                memory.max = 67108864
                memory.swap.max? = 0
                memory.oom.group? = 1
                pids.max = 100
            program at /v2/dure/a/17.1.0
        "#]],
        );
        let unlimited = Grant { cpu_milli: 0, memory_mib: 0, cpus: None, guards: Vec::new(), ..grant() };
        check(
            &kept,
            &unlimited,
            expect![[r#"
            /v2/dure/a/17.1.0
                pids.max = 100
        "#]],
        );
    }

    #[test]
    fn controllers_of_version_1_beside_a_version_2_that_only_kills() {
        let v1 = [("cpu", "/cpu"), ("cpuacct", "/cpu"), ("cpuset", "/cpuset"), ("devices", "/dev"), ("memory", "/mem")];
        let kept = Kept {
            v2: Some((PathBuf::from("/v2/dure/a"), BTreeSet::new())),
            v1: v1.map(|(name, dir)| (name.to_owned(), PathBuf::from(dir))).into(),
            mems: "0-1".to_owned(),
            all_cpus: "0-15".to_owned(),
            programs: true,
        };
        check(
            &kept,
            &Grant { cpus: None, ..grant() },
            expect![[r#"
            /v2/dure/a/17.1.0
            /cpu/17.1.0
                cpu.cfs_period_us = 100000
                cpu.cfs_quota_us = 800000
            /cpuset/17.1.0
                cpuset.cpus = 0-15
                cpuset.mems = 0-1
            /dev/17.1.0
                devices.deny = c 195:60 rwm
                devices.deny = c 195:61 rwm
                devices.deny = c 195:62 rwm
                devices.deny = c 195:63 rwm
            /mem/17.1.0
                memory.limit_in_bytes = 67108864
                memory.memsw.limit_in_bytes? = 67108864
        "#]],
        );
    }

    #[test]
    fn a_node_without_cgroups_says_what_it_does_not_keep() {
        let lacking = lacking(&Kept::default(), &IsolationConfig::default());
        assert_eq!(lacking.len(), 6, "{lacking:?}");
        assert!(lacking[4].contains("every GPU's device can be opened"));
    }

    #[test]
    fn a_delegated_folder_hands_its_controllers_down() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let root = dir.path().join("delegated");
        fs::create_dir(&root).expect("makes it");
        fs::write(root.join("cgroup.controllers"), "cpuset cpu io memory pids\n").expect("writes");
        let mounts = Hierarchies { v2: Some(dir.path().to_owned()), ..Hierarchies::default() };
        fs::write(dir.path().join("cgroup.controllers"), "cpu memory hugetlb\n").expect("writes");
        let config = IsolationConfig { cgroup_root: Some(root.clone()), ..IsolationConfig::default() };
        let (kept, _) = find(&mounts, &config, Path::new("/var/lib/dure"));
        let (folder, controllers) = kept.v2.expect("it is a folder");
        assert!(folder.starts_with(&root));
        assert_eq!(controllers.into_iter().collect::<Vec<_>>(), ["cpu", "memory"]);
    }
}
