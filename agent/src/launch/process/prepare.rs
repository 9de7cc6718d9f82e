//! A member's folder, ready for its shim.
//!
//! Comes in: the launch. Goes out: script, working folder, log names and `spec.json`, or the reason why the member
//! cannot run here, in words for the person who submitted it. Blocking.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, symlink},
    path::{Path, PathBuf},
};

use dure_proto::v1::Payload;

use super::ProcessSettings;
use crate::{
    durable,
    launch::{
        env::{Place, environment},
        paths,
    },
    logs,
    model::{Launch, MemberId},
    shim::files::{MemberFiles, ShimSpec},
};

pub(super) fn prepare(
    settings: &ProcessSettings,
    inherited: &[(String, String)],
    id: MemberId,
    launch: &Launch,
) -> Result<(), String> {
    let dir = settings.state_dir.join("members").join(id.to_string());
    let files = MemberFiles::new(&dir);
    if files.read_shim().is_some() {
        // An earlier life of the agent has come this far; a shim may be reading these files.
        return Ok(());
    }
    let payload = launch.payload.clone().unwrap_or_default();
    let uuids = granted(settings, launch)?;
    let workdir = workdir(settings, id, &payload)?;
    let argv = argv(&dir, &payload)?;
    let [stdout, stderr] = [(false, &payload.stdout_path), (true, &payload.stderr_path)].map(|(stderr, pattern)| {
        let kept = logs::path(&settings.state_dir, id, stderr);
        if pattern.is_empty() {
            return Ok(kept);
        }
        let chosen = paths::expand(pattern, id, launch, &settings.node, &workdir);
        link(&kept, &chosen).map_err(|err| format!("{}: {err}", kept.display()))?;
        Ok::<PathBuf, String>(chosen)
    });
    let env = environment(&Place {
        id,
        launch,
        node: &settings.node,
        gpu_uuids: &uuids,
        member_dir: &dir,
        workdir: &workdir,
        inherited,
    });
    let spec = ShimSpec {
        argv,
        env: env.into_iter().collect(),
        workdir,
        stdout: stdout?,
        stderr: stderr?,
        log_limit_bytes: settings.log_limit_bytes,
        time_limit_ms: launch.time_limit_ms,
        grace_ms: launch.grace_ms,
        cgroup: settings.cgroup_root.as_ref().map(|root| root.join(format!("dure-{id}"))),
        boot_id: settings.boot_id.clone(),
    };
    files.write_spec(&spec).map_err(|err| format!("{}: {err}: free space on this node", dir.display()))
}

fn granted(settings: &ProcessSettings, launch: &Launch) -> Result<Vec<String>, String> {
    let uuid = |gpu: &u32| {
        let known = settings.gpu_uuids.get(*gpu as usize).filter(|uuid| !uuid.is_empty());
        known.cloned().ok_or_else(|| {
            let count = settings.gpu_uuids.len();
            format!("GPU {gpu} is not usable on node {}: it has {count} GPUs", settings.node)
        })
    };
    launch.gpus.iter().map(uuid).collect()
}

fn workdir(settings: &ProcessSettings, id: MemberId, payload: &Payload) -> Result<PathBuf, String> {
    if payload.workdir.is_empty() {
        let fresh = settings.state_dir.join("work").join(id.to_string());
        durable::create_dir(&fresh).map_err(|err| format!("working folder {}: {err}", fresh.display()))?;
        return Ok(fresh);
    }
    let wanted = PathBuf::from(&payload.workdir);
    if !wanted.is_absolute() || !wanted.is_dir() {
        return Err(format!(
            "workdir \"{}\" is no folder on node {}: name an absolute one that every node has",
            payload.workdir, settings.node
        ));
    }
    Ok(wanted)
}

/// The command; a script becomes a file, run by the interpreter in its first line or else by /bin/sh.
fn argv(dir: &Path, payload: &Payload) -> Result<Vec<String>, String> {
    if payload.script.is_empty() {
        return Ok(payload.args.clone());
    }
    let path = dir.join("script");
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o700).open(&path)?;
        file.write_all(&payload.script)
    };
    write().map_err(|err| format!("script {}: {err}", path.display()))?;
    let mut argv = Vec::with_capacity(payload.args.len() + 2);
    if !payload.script.starts_with(b"#!") {
        argv.push("/bin/sh".to_owned());
    }
    argv.push(path.to_str().ok_or("the agent's state_dir is not UTF-8")?.to_owned());
    argv.extend(payload.args.iter().cloned());
    Ok(argv)
}

/// The log keeps its name in the agent's folder, wherever it really lies.
fn link(kept: &Path, chosen: &Path) -> io::Result<()> {
    if let Some(parent) = kept.parent() {
        durable::create_dir(parent)?;
    }
    match fs::remove_file(kept) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
        _ => {}
    }
    symlink(chosen, kept)
}
