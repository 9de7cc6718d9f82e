//! Members inside containers: an image, and a runtime of the Open Container Initiative (crun).
//!
//! Comes in: the launch and what was prepared for the member. Goes out: a bundle in the member's folder, and the way in as
//! data (`Contained`), which the shim's second stage carries out. Cgroups, limits, private folders and the account are
//! those of plain processes: the runtime is told to leave them alone.
//! This part must never open what a job names with the agent's rights: images are copied as the user, and mounts are
//! opened as the user on the way in.

mod cdi;
mod image;
mod oci;

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use dure_proto::v1::Container;
use serde::{Deserialize, Serialize};

use self::{
    image::Staged,
    oci::{Asked, Seen},
};
use super::ProcessSettings;
use crate::{
    durable,
    isolation::account::Account,
    model::{Launch, MemberId},
    shim::files::{Contained, UserMount},
};

/// The search path in a container that states none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The `[containers]` section of `agent.toml`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct ContainersConfig {
    /// The runtime, crun 1.0 or later; looked for in the agent's PATH when empty. No other one can be told to leave cgroups
    /// alone, and a member must not get out of its own.
    pub runtime: PathBuf,
    /// Folders of CDI specifications.
    pub cdi_dirs: Vec<PathBuf>,
    /// The kind of the GPUs in them.
    pub cdi_kind: String,
    /// A container gets no GPU where no specification is of that kind. Never asked for of GPUs of the fake library.
    pub require_cdi: bool,
    /// Images kept on this node; the least lately used goes first.
    pub max_images: usize,
    /// The largest image.
    pub max_image_mib: u64,
    /// How long an image may take to be copied here. The scheduler's launch deadline must leave room for it.
    pub stage_limit_s: u64,
}

impl Default for ContainersConfig {
    fn default() -> Self {
        Self {
            runtime: PathBuf::new(),
            cdi_dirs: ["/etc/cdi", "/var/run/cdi"].map(PathBuf::from).into(),
            cdi_kind: "nvidia.com/gpu".to_owned(),
            require_cdi: true,
            max_images: 16,
            max_image_mib: 64 * 1024,
            stage_limit_s: 240,
        }
    }
}

/// What was prepared for the member before its container.
pub(super) struct Inside<'a> {
    pub(super) id: MemberId,
    pub(super) launch: &'a Launch,
    /// The member's own folder, which only the agent reaches.
    pub(super) dir: &'a Path,
    /// What the member is given.
    pub(super) given: &'a Path,
    pub(super) workdir: &'a Path,
    /// The working folder is one that the agent has made.
    pub(super) is_fresh: bool,
    pub(super) env: BTreeMap<String, String>,
    pub(super) argv: Vec<String>,
    pub(super) uuids: &'a [String],
    pub(super) account: Option<&'a Account>,
}

/// Copies the image of a launch here, before its gang starts. Blocking.
pub(super) fn stage(settings: &ProcessSettings, id: MemberId, launch: &Launch) -> Result<(), String> {
    let Some(container) = launch.payload.as_ref().and_then(|payload| payload.container.as_ref()) else { return Ok(()) };
    runtime(&settings.containers)?;
    let account = settings.isolation.account(&launch.user)?;
    image::stage(settings, id, &container.image, container.writable, account.as_ref()).map(drop)
}

/// Writes the bundle and gives the way in. Blocking.
pub(super) fn prepare(
    settings: &ProcessSettings,
    container: &Container,
    inside: Inside<'_>,
) -> Result<Contained, String> {
    let runtime = runtime(&settings.containers)?;
    let staged = image::stage(settings, inside.id, &container.image, container.writable, inside.account)?;
    let edits = edits(settings, &inside)?;
    let bundle = inside.dir.join("bundle");
    let named = |err: std::io::Error| format!("{}: {err}: free space on this node", bundle.display());
    let mut mounts = Vec::new();
    let mut seen = vec![Seen::here(inside.given, false)];
    let mut user = |source: &str, target: &str, read_only: bool| {
        let slot = bundle.join("mounts").join(mounts.len().to_string());
        seen.push(Seen { source: slot.display().to_string(), target: target.to_owned(), read_only });
        mounts.push(UserMount { source: PathBuf::from(source), slot });
    };
    let workdir = inside.workdir.display().to_string();
    user(&workdir, &workdir, false);
    container.mounts.iter().for_each(|mount| user(&mount.source, &mount.target, mount.read_only));
    durable::create_dir(&bundle.join("mounts")).map_err(named)?;
    seen.extend(own_program(settings));
    let env = environment(&staged, &inside, &edits);
    let args = arguments(&staged, container, &inside);
    let cwd = if inside.is_fresh && !staged.process.cwd.is_empty() { &staged.process.cwd } else { &workdir };
    let config = oci::config(&Asked {
        rootfs: &staged.rootfs,
        writable: container.writable,
        args: &args,
        env: &env,
        cwd,
        account: inside.account,
        seen: &seen,
        edits: &edits,
    })?;
    let text = serde_json::to_vec(&config).map_err(|err| err.to_string())?;
    fs::write(bundle.join("config.json"), text).map_err(named)?;
    Ok(Contained { runtime, bundle, name: format!("dure-{}", inside.id), mounts })
}

fn runtime(config: &ContainersConfig) -> Result<PathBuf, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("containers need an agent that is root on this node".to_owned());
    }
    if !config.runtime.as_os_str().is_empty() {
        return is_crun(&config.runtime).map(|()| config.runtime.clone());
    }
    let path = env::var_os("PATH").unwrap_or_else(|| PATH.into());
    let found = env::split_paths(&path).map(|dir| dir.join("crun")).find(|file| file.is_file());
    found.ok_or_else(|| "crun is not installed on this node: install it, or name it in containers.runtime".to_owned())
}

/// Whether a runtime is crun, by its own word.
fn is_crun(runtime: &Path) -> Result<(), String> {
    let named = |why: String| {
        let runtime = runtime.display();
        format!(
            "containers.runtime = {runtime} {why}: name a crun 1.0 or later, which alone can leave cgroups as they are"
        )
    };
    let said = Command::new(runtime).arg("--version").stdin(Stdio::null()).output();
    let said = said.map_err(|err| named(format!("cannot be started ({err})")))?;
    let first = String::from_utf8_lossy(&said.stdout).lines().next().unwrap_or_default().to_owned();
    if first.starts_with("crun ") { Ok(()) } else { Err(named(format!("is none: it says {first:?}"))) }
}

fn edits(settings: &ProcessSettings, inside: &Inside<'_>) -> Result<cdi::Edits, String> {
    let config = &settings.containers;
    let gpus: Vec<(u32, String)> = inside.launch.gpus.iter().copied().zip(inside.uuids.iter().cloned()).collect();
    if gpus.is_empty() {
        return Ok(cdi::Edits::default());
    }
    match cdi::edits(&config.cdi_dirs, &config.cdi_kind, &gpus)? {
        Some(edits) => Ok(edits),
        None if !config.require_cdi => Ok(cdi::Edits::default()),
        None => Err(format!(
            "no CDI specification of kind {} on this node: run nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml",
            config.cdi_kind
        )),
    }
}

/// This binary, for `srun` in the container: it runs there where the image has the C library that it needs.
fn own_program(settings: &ProcessSettings) -> Option<Seen> {
    let own = PathBuf::from(settings.shim.first()?);
    Some(Seen::here(&own, true)).filter(|_| own.is_absolute())
}

/// The image's variables, then the member's, then those of its GPUs.
fn environment(staged: &Staged, inside: &Inside<'_>, edits: &cdi::Edits) -> BTreeMap<String, String> {
    let pair = |line: &String| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut env: BTreeMap<String, String> = staged.process.env.iter().filter_map(pair).collect();
    let of_image = env.get("PATH").cloned().unwrap_or_else(|| PATH.to_owned());
    env.extend(inside.env.clone());
    let asked = inside.launch.payload.as_ref().and_then(|payload| payload.env.get("PATH").cloned());
    let own = inside.given.join("bin");
    env.insert("PATH".to_owned(), format!("{}:{}", own.display(), asked.unwrap_or(of_image)));
    // The account's home is a folder of the node, not of the container.
    env.insert("HOME".to_owned(), inside.workdir.display().to_string());
    env.extend(edits.env.iter().filter_map(pair).filter(|(name, _)| name != "NVIDIA_VISIBLE_DEVICES"));
    env
}

/// The image's entry point before the command, where that is asked for; alone, where there is no command.
fn arguments(staged: &Staged, container: &Container, inside: &Inside<'_>) -> Vec<String> {
    let entry = staged.process.args.iter().filter(|_| container.entrypoint);
    entry.chain(&inside.argv).cloned().collect()
}
