//! Where cgroups are mounted on this node.
//!
//! Comes in: /proc/self/mountinfo. Goes out: the mount of cgroup v2, and of each v1 controller.

use std::{collections::BTreeMap, fs, path::PathBuf};

/// Controllers that are of use here.
const CONTROLLERS: &[&str] = &["cpu", "cpuset", "memory", "pids", "devices"];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hierarchies {
    pub(super) v2: Option<PathBuf>,
    /// By controller.
    pub(super) v1: BTreeMap<String, PathBuf>,
}

impl Hierarchies {
    pub(super) fn find() -> Self {
        Self::parse(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
    }

    /// Lines as in proc(5): `36 35 98:0 /root /mount options ... - type source super-options`.
    fn parse(mountinfo: &str) -> Self {
        let mut found = Self::default();
        for line in mountinfo.lines() {
            let Some((mount, file_system)) = line.split_once(" - ") else { continue };
            let Some(path) = mount.split(' ').nth(4) else { continue };
            let mut words = file_system.split(' ');
            let kind = words.next().unwrap_or_default();
            let options = words.nth(1).unwrap_or_default();
            if kind == "cgroup2" {
                found.v2.get_or_insert_with(|| PathBuf::from(path));
            } else if kind == "cgroup" {
                for controller in options.split(',').filter(|word| CONTROLLERS.contains(word)) {
                    found.v1.entry(controller.to_owned()).or_insert_with(|| PathBuf::from(path));
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_both_versions_are_found() {
        let text = "30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
                    31 25 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                    32 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n\
                    33 1 8:1 / / rw - ext4 /dev/sda1 rw\n";
        let found = Hierarchies::parse(text);
        assert_eq!(found.v2, Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(
            found.v1.into_iter().collect::<Vec<_>>(),
            [("cpu".to_owned(), PathBuf::from("/sys/fs/cgroup/cpu,cpuacct"))]
        );
    }
}
