//! The runtime's configuration of a container (OCI runtime specification 1.0), as JSON.
//!
//! Comes in: what the member runs, what it sees of the node, and the edits for its GPUs. Goes out: `config.json`. Pure.
//! The container has mounts of its own and nothing else: processes, network and users are the node's, so that signals,
//! limits, telemetry and NCCL are what they are for plain processes. It has no capability, whoever it runs as.

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt as _, path::Path};

use serde_json::{Value, json};

use super::cdi::{DeviceNode, Edits};
use crate::isolation::account::Account;

/// A path of the node in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) source: String,
    pub(super) target: String,
    pub(super) read_only: bool,
}

impl Seen {
    /// At the same place.
    pub(super) fn here(path: &Path, read_only: bool) -> Self {
        let path = path.display().to_string();
        Self { source: path.clone(), target: path, read_only }
    }
}

/// What becomes a container.
pub(super) struct Asked<'a> {
    pub(super) rootfs: &'a Path,
    pub(super) writable: bool,
    pub(super) args: &'a [String],
    pub(super) env: &'a BTreeMap<String, String>,
    pub(super) cwd: &'a str,
    pub(super) account: Option<&'a Account>,
    pub(super) seen: &'a [Seen],
    pub(super) edits: &'a Edits,
}

/// The configuration.
pub(super) fn config(asked: &Asked<'_>) -> Result<Value, String> {
    let env: Vec<String> = asked.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let (uid, gid) = asked.account.map_or((own_uid(), own_gid()), |account| (account.uid, account.gid));
    let mut groups: Vec<u32> = asked.account.map(|account| account.groups.clone()).unwrap_or_default();
    groups.extend(&asked.edits.additional_gids);
    let devices = asked.edits.device_nodes.iter().map(device).collect::<Result<Vec<_>, _>>()?;
    Ok(json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": uid, "gid": gid, "additionalGids": groups },
            "args": asked.args,
            "env": env,
            "cwd": asked.cwd,
            "noNewPrivileges": true,
            "capabilities": { "bounding": [], "effective": [], "inheritable": [], "permitted": [], "ambient": [] },
        },
        "root": { "path": asked.rootfs, "readonly": !asked.writable },
        "mounts": mounts(asked),
        "hooks": hooks(asked.edits),
        "linux": { "namespaces": [{ "type": "mount" }], "devices": devices, "rootfsPropagation": "slave" },
    }))
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn own_gid() -> u32 {
    rustix::process::getegid().as_raw()
}

fn mounts(asked: &Asked<'_>) -> Vec<Value> {
    let bind = |source: &str, target: &str, options: &[&str]| {
        let options: Vec<&str> = ["rbind"].iter().chain(options).copied().collect();
        json!({ "destination": target, "type": "bind", "source": source, "options": options })
    };
    let mut all = vec![
        bind("/proc", "/proc", &["rw"]),
        bind("/sys", "/sys", &["ro"]),
        json!({ "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] }),
        json!({ "destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"] }),
        bind("/dev/shm", "/dev/shm", &["rw", "nosuid", "nodev"]),
        bind("/tmp", "/tmp", &["rw", "nosuid", "nodev"]),
        bind("/var/tmp", "/var/tmp", &["rw", "nosuid", "nodev"]),
    ];
    let same = ["/etc/resolv.conf", "/etc/hosts", "/dev/infiniband"];
    all.extend(same.iter().filter(|path| Path::new(path).exists()).map(|path| bind(path, path, &["ro"])));
    all.extend(asked.edits.mounts.iter().map(|mount| {
        let kind = if mount.r#type.is_empty() { "bind" } else { &mount.r#type };
        json!({ "destination": mount.container_path, "type": kind, "source": mount.host_path, "options": mount.options })
    }));
    all.extend(
        asked.seen.iter().map(|seen| bind(&seen.source, &seen.target, &[if seen.read_only { "ro" } else { "rw" }])),
    );
    all
}

/// A node whose numbers the specification leaves out is looked up.
fn device(node: &DeviceNode) -> Result<Value, String> {
    let host = if node.host_path.is_empty() { &node.path } else { &node.host_path };
    let (kind, major, minor) = if node.major > 0 {
        let kind = if node.r#type.is_empty() { "c" } else { &node.r#type };
        (kind.to_owned(), node.major, node.minor)
    } else {
        let meta = fs::metadata(host).map_err(|err| format!("device {host} of the CDI specification: {err}"))?;
        let number = meta.rdev();
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        ("c".to_owned(), i64::from(major), i64::from(minor))
    };
    Ok(json!({ "path": node.path, "type": kind, "major": major, "minor": minor,
        "fileMode": node.file_mode.unwrap_or(0o666), "uid": 0, "gid": 0 }))
}

fn hooks(edits: &Edits) -> Value {
    let mut by_name: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for hook in &edits.hooks {
        by_name.entry(&hook.hook_name).or_default().push(json!(hook));
    }
    json!(by_name)
}
