//! CDI: what a container needs of the node for a device, as the vendor's tool has written it down.
//!
//! Comes in: folders of specifications (JSON, or the YAML of `nvidia-ctk cdi generate`) and the GPUs granted. Goes out: the
//! edits to the container, or which GPU none of them knows. Read anew for every container: a driver that was updated has
//! written a new one. Source: the Container Device Interface's specification, versions 0.3 to 1.1.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// The largest specification that is read.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// One file.
#[derive(Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
struct Specification {
    kind: String,
    #[serde(default)]
    container_edits: Edits,
    #[serde(default)]
    devices: Vec<Device>,
}

#[derive(Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
struct Device {
    /// A word, or a number where the YAML says so.
    name: Name,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Deserialize, Debug)]
#[serde(untagged)]
enum Name {
    Word(String),
    Number(u64),
}

/// What is changed in a container.
#[derive(Deserialize, Debug, Default, Clone, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Edits {
    pub(super) env: Vec<String>,
    pub(super) device_nodes: Vec<DeviceNode>,
    pub(super) mounts: Vec<Mount>,
    pub(super) hooks: Vec<Hook>,
    #[serde(rename = "additionalGids")]
    pub(super) additional_gids: Vec<u32>,
}

#[derive(Deserialize, Debug, Default, Clone, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct DeviceNode {
    pub(super) path: String,
    pub(super) host_path: String,
    pub(super) r#type: String,
    pub(super) major: i64,
    pub(super) minor: i64,
    pub(super) file_mode: Option<u32>,
}

#[derive(Deserialize, Debug, Default, Clone, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Mount {
    pub(super) host_path: String,
    pub(super) container_path: String,
    pub(super) options: Vec<String>,
    pub(super) r#type: String,
}

#[derive(Deserialize, Serialize, Debug, Default, Clone, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Hook {
    #[serde(skip_serializing)]
    pub(super) hook_name: String,
    pub(super) path: String,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<String>,
}

impl Edits {
    fn add(&mut self, more: &Self) {
        self.env.extend(more.env.iter().cloned());
        self.device_nodes.extend(more.device_nodes.iter().cloned());
        self.mounts.extend(more.mounts.iter().cloned());
        self.hooks.extend(more.hooks.iter().cloned());
        self.additional_gids.extend(&more.additional_gids);
    }
}

/// The edits for GPUs, each by its UUID or by its index; none where no file is of this kind. Blocking.
///
/// # Errors
/// A file that cannot be read, or a GPU that no file knows.
pub(super) fn edits(dirs: &[PathBuf], kind: &str, gpus: &[(u32, String)]) -> Result<Option<Edits>, String> {
    let mut known = Vec::new();
    for path in dirs.iter().flat_map(|dir| files(dir)) {
        let specification = read(&path).map_err(|err| format!("{}: {err}", path.display()))?;
        if specification.kind == kind {
            known.push(specification);
        }
    }
    if known.is_empty() {
        return Ok(None);
    }
    let mut edits = Edits::default();
    let mut of = Vec::new();
    for (index, uuid) in gpus {
        let is_it = |device: &Device| match &device.name {
            Name::Word(word) => word == uuid || *word == index.to_string(),
            Name::Number(number) => *number == u64::from(*index),
        };
        // Folders that come later win, as the specification has it.
        let found = known.iter().enumerate().rev().find_map(|(at, specification)| {
            specification.devices.iter().find(|device| is_it(device)).map(|device| (at, device))
        });
        let (at, device) = found.ok_or_else(|| {
            format!("no CDI specification knows GPU {index} ({uuid}) of kind {kind}: run nvidia-ctk cdi generate anew")
        })?;
        if !of.contains(&at) {
            of.push(at);
            edits.add(&known[at].container_edits);
        }
        edits.add(&device.container_edits);
    }
    Ok(Some(edits))
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_one = |path: &PathBuf| path.extension().is_some_and(|end| end == "json" || end == "yaml" || end == "yml");
    let mut files: Vec<PathBuf> = entries.filter(is_one).collect();
    files.sort();
    files
}

fn read(path: &Path) -> io::Result<Specification> {
    if fs::metadata(path)?.len() > MAX_BYTES {
        return Err(io::Error::other(format!("larger than {MAX_BYTES} bytes")));
    }
    // JSON is YAML.
    serde_yaml_ng::from_slice(&fs::read(path)?).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NVIDIA: &str = "---\ncdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- name: \"0\"\n  containerEdits:\n    \
        deviceNodes:\n    - path: /dev/nvidia0\n- name: 1\n  containerEdits:\n    deviceNodes:\n    - path: /dev/nvidia1\n\
        - name: GPU-x\n  containerEdits:\n    deviceNodes:\n    - {path: /dev/nvidia7, hostPath: /dev/n7, major: 195, minor: 7}\n\
        containerEdits:\n  env: [NVIDIA_VISIBLE_DEVICES=void]\n  deviceNodes:\n  - path: /dev/nvidiactl\n  hooks:\n  \
        - hookName: createContainer\n    path: /usr/bin/nvidia-cdi-hook\n    args: [nvidia-cdi-hook, update-ldcache]\n  mounts:\n  \
        - {hostPath: /usr/lib/libcuda.so.1, containerPath: /usr/lib/libcuda.so.1, options: [ro, nosuid, nodev, bind]}\n";

    fn paths(edits: &Edits) -> Vec<&str> {
        edits.device_nodes.iter().map(|node| node.path.as_str()).collect()
    }

    #[test]
    fn gpus_are_found_by_index_and_by_uuid_and_what_is_common_comes_once() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let dirs = [dir.path().to_owned()];
        let gpu = |index: u32, uuid: &str| (index, uuid.to_owned());
        assert_eq!(edits(&dirs, "nvidia.com/gpu", &[gpu(0, "GPU-a")]), Ok(None), "no file");
        fs::write(dir.path().join("nvidia.yaml"), NVIDIA).expect("writes");
        fs::write(dir.path().join("other.json"), "{\"cdiVersion\":\"0.5.0\",\"kind\":\"x.org/nic\"}").expect("writes");
        let found = edits(&dirs, "nvidia.com/gpu", &[gpu(0, "GPU-a"), gpu(1, "GPU-b"), gpu(7, "GPU-x")]);
        let found = found.expect("reads").expect("there is one");
        assert_eq!(paths(&found), ["/dev/nvidiactl", "/dev/nvidia0", "/dev/nvidia1", "/dev/nvidia7"]);
        assert_eq!((found.mounts.len(), found.hooks.len(), found.env.len()), (1, 1, 1));
        let why = edits(&dirs, "nvidia.com/gpu", &[gpu(3, "GPU-d")]).expect_err("nobody knows it");
        assert!(why.contains("GPU 3 (GPU-d)") && why.contains("nvidia-ctk cdi generate"), "{why}");
        fs::write(dir.path().join("bad.json"), "{").expect("writes");
        assert!(edits(&dirs, "nvidia.com/gpu", &[]).expect_err("bad").contains("bad.json"));
    }
}
