//! The memory sides of the node and their CPUs.
//!
//! Comes in: /sys/devices/system/node. Goes out: the CPUs beside a set of GPUs. Memory is not bound: the kernel takes
//! the near side first, and a job that outgrows it shall not die while the other side is empty.

use std::{collections::BTreeSet, fs, path::Path};

/// CPUs by memory side; empty where the kernel shows none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sides {
    /// Number of the side, its CPUs.
    sides: Vec<(u32, BTreeSet<u32>)>,
}

impl Sides {
    pub(super) fn of_this_node() -> Self {
        Self::read(Path::new("/sys/devices/system/node"))
    }

    fn read(dir: &Path) -> Self {
        let mut sides = Vec::new();
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("node")?.parse().ok());
            let list = fs::read_to_string(entry.path().join("cpulist"));
            if let (Some(number), Ok(list)) = (number, list) {
                sides.push((number, parse(list.trim())));
            }
        }
        sides.sort();
        Self { sides }
    }

    /// The CPUs beside these sides, as the kernel writes lists; none when that is every CPU, or fewer than asked for.
    pub(super) fn cpus_beside(&self, gpu_sides: &[u32], cpu_milli: u64) -> Option<String> {
        let beside = self.sides.iter().filter(|(side, _)| gpu_sides.contains(side));
        let cpus: BTreeSet<u32> = beside.flat_map(|(_, cpus)| cpus).copied().collect();
        let all: usize = self.sides.iter().map(|(_, cpus)| cpus.len()).sum();
        let enough = cpus.len() as u64 * 1_000 >= cpu_milli;
        (!cpus.is_empty() && cpus.len() < all && enough).then(|| show(&cpus))
    }
}

/// `0-3,8` as numbers; what is no number is left out.
fn parse(list: &str) -> BTreeSet<u32> {
    let mut cpus = BTreeSet::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) {
            cpus.extend(first..=last.min(first.saturating_add(65_535)));
        }
    }
    cpus
}

fn show(cpus: &BTreeSet<u32>) -> String {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for &cpu in cpus {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => parts.push((cpu, cpu)),
        }
    }
    let show = |(first, last): &(u32, u32)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    parts.iter().map(show).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_keeps_to_the_side_of_its_gpus_unless_that_is_too_small() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for (side, list) in [("node0", "0-3,8-11\n"), ("node1", "4-7,12\n"), ("has_cpu", "0-1\n")] {
            fs::create_dir(dir.path().join(side)).expect("makes it");
            fs::write(dir.path().join(side).join("cpulist"), list).expect("writes");
        }
        let sides = Sides::read(dir.path());
        assert_eq!(sides.cpus_beside(&[0, 0], 8_000).as_deref(), Some("0-3,8-11"));
        assert_eq!(sides.cpus_beside(&[1], 0).as_deref(), Some("4-7,12"));
        assert_eq!(sides.cpus_beside(&[1], 5_001), None, "more than the side has");
        assert_eq!(sides.cpus_beside(&[0, 1], 1_000), None, "both sides are every CPU");
        assert_eq!(sides.cpus_beside(&[], 1_000), None, "no GPU, no side");
    }
}
