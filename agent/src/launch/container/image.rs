//! Images: copied to the node before the gang starts, a bounded number of them, each of a bounded size.
//!
//! Comes in: a path that the job names: a folder or a tar archive, with a root file system or an OCI bundle. Goes out: the
//! root file system on this node. The copying is done by tar(1) as the job's user, so that nobody gets files that he may
//! not read, and the copy is that user's: no file of an image gives rights that the user does not have.
//! A copy is made once per user, path and time of change, and kept until the room is needed. Blocking.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::{
        fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant, SystemTime},
};

use rustix::{fs::OFlags, process::Signal};
use serde::Deserialize;

use super::ContainersConfig;
use crate::{
    durable,
    isolation::{account::Account, plan::Confinement},
    launch::ProcessSettings,
    model::MemberId,
    shim::{
        enter,
        files::{Entry, MemberFiles},
        proc,
    },
};

/// Between two looks at a copy that is being made.
const LOOK: Duration = Duration::from_millis(20);
/// The largest configuration of a bundle.
const MAX_CONFIG: u64 = 1024 * 1024;
/// Bytes of tar's words that are shown.
const MAX_WORDS: usize = 300;
/// Reads `$1`, a folder or an archive, no more than `$2` bytes of it, into `$3`.
const COPY: &str = r#"set -e
if [ -d "$1" ]; then from() { tar -C "$1" -cf - .; }
else case "$1" in
  *.gz|*.tgz) from() { gzip -dc "$1"; };;
  *.zst) from() { zstd -dc "$1"; };;
  *.xz) from() { xz -dc "$1"; };;
  *) from() { cat "$1"; };;
esac; test -r "$1"; fi
from "$1" | head -c "$2" | tar -C "$3" -xf - --no-same-owner"#;

/// An image on this node.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Staged {
    pub(super) rootfs: PathBuf,
    pub(super) process: Defaults,
}

/// What a bundle says of the process; empty for a root file system.
#[derive(Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(default)]
pub(super) struct Defaults {
    pub(super) args: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) cwd: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct BundleConfig {
    process: Defaults,
}

/// Brings the image here, if it is not here yet, for a member that will use it.
pub(super) fn stage(
    settings: &ProcessSettings,
    id: MemberId,
    image: &str,
    own: bool,
    account: Option<&Account>,
) -> Result<Staged, String> {
    let images = settings.state_dir.join("images");
    let named = |err: io::Error| format!("image {image}: {err}");
    let meta = fs::metadata(image).map_err(|err| format!("{}: name one that every node has", named(err)))?;
    let uid = account.map_or_else(|| rustix::process::geteuid().as_raw(), |account| account.uid);
    let mut words = format!("{image}\0{}\0{}\0{}", meta.mtime_nsec(), meta.mtime(), meta.len());
    if own {
        words += &format!("\0{id}");
    }
    let place = images.join(format!("{uid}-{:016x}", crate::isolation::groups::fnv(words.as_bytes())));
    durable::create_dir(&images).and_then(|()| open_to_users(&images)).map_err(named)?;
    let lock = File::options().create(true).append(true).open(place.with_extension("lock")).map_err(named)?;
    lock.lock().map_err(named)?;
    if !place.join("done").exists() {
        make_room(settings, &images).map_err(named)?;
        copy(settings, image, &place, account).inspect_err(|_| drop(fs::remove_dir_all(&place)))?;
    }
    // The newest use decides who makes room.
    fs::write(place.join("done"), "").map_err(named)?;
    let users = place.join("users");
    durable::create_dir(&users).and_then(|()| fs::write(users.join(id.to_string()), "")).map_err(named)?;
    look_into(&place.join("files"), image)
}

fn open_to_users(dir: &Path) -> io::Result<()> {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o711))
}

fn look_into(files: &Path, image: &str) -> Result<Staged, String> {
    let bundle = files.join("rootfs");
    if !bundle.is_dir() {
        return Ok(Staged { rootfs: files.to_owned(), process: Defaults::default() });
    }
    let mut text = Vec::new();
    // Its user's file: never through a link.
    let nofollow = OFlags::NOFOLLOW.bits() as i32;
    let read = File::options().read(true).custom_flags(nofollow).open(files.join("config.json"));
    let read = read.and_then(|file| file.take(MAX_CONFIG).read_to_end(&mut text));
    let config: BundleConfig = match read {
        Ok(_) => serde_json::from_slice(&text).map_err(|err| format!("image {image}: config.json: {err}"))?,
        Err(err) if err.kind() == io::ErrorKind::NotFound => BundleConfig::default(),
        Err(err) => return Err(format!("image {image}: config.json: {err}")),
    };
    Ok(Staged { rootfs: bundle, process: config.process })
}

/// Removes the image that was used least lately, while there are too many.
fn make_room(settings: &ProcessSettings, images: &Path) -> io::Result<()> {
    let members = settings.state_dir.join("members");
    let mut free: Vec<(SystemTime, PathBuf)> = Vec::new();
    let mut count = 0;
    for entry in fs::read_dir(images)? {
        let place = entry?.path();
        let Ok(done) = fs::metadata(place.join("done")) else { continue };
        count += 1;
        let users = fs::read_dir(place.join("users")).into_iter().flatten().flatten();
        if !users.into_iter().any(|user| members.join(user.file_name()).exists()) {
            free.push((done.modified()?, place));
        }
    }
    free.sort();
    let surplus = (count + 1usize).saturating_sub(settings.containers.max_images);
    for (_, place) in free.into_iter().take(surplus) {
        // First the mark: half an image is none.
        fs::remove_file(place.join("done"))?;
        fs::remove_dir_all(&place)?;
    }
    Ok(())
}

fn copy(settings: &ProcessSettings, image: &str, place: &Path, account: Option<&Account>) -> Result<(), String> {
    let ContainersConfig { max_image_mib, stage_limit_s, .. } = settings.containers;
    let failed = |err: io::Error| format!("image {image}: {err}: free space on this node");
    let files = place.join("files");
    let work = place.join("copy");
    // What an earlier try left.
    let _ = fs::remove_dir_all(place);
    durable::create_dir(&files).and_then(|()| open_to_users(place)).map_err(failed)?;
    if let Some(account) = account {
        chown(&files, Some(account.uid), Some(account.gid)).map_err(failed)?;
    }
    durable::create_dir(&work).map_err(failed)?;
    let bytes = max_image_mib.saturating_mul(1024 * 1024).to_string();
    let into = files.display().to_string();
    let argv = ["/bin/sh", "-c", COPY, "image", image, &bytes, &into].map(str::to_owned).into();
    let env = vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
    let confinement = Confinement { account: account.cloned(), ..Confinement::default() };
    let entry = Entry { argv, env, workdir: PathBuf::from("/"), confinement, ..Entry::default() };
    MemberFiles::new(&work).write_entry(&entry).map_err(failed)?;
    let said = File::create(work.join("said")).map_err(failed)?;
    let (program, args) = settings.shim.split_first().ok_or("the shim's command is empty")?;
    let mut command = Command::new(program);
    command.args(args).arg(enter::STEP).arg(&work).env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
    let mut child = command.process_group(0).spawn().map_err(failed)?;
    let (since, limit) = (Instant::now(), Duration::from_secs(stage_limit_s));
    let status = loop {
        match child.try_wait().map_err(failed)? {
            Some(status) => break status,
            None if since.elapsed() >= limit => {
                if let Some(group) = proc::pid(child.id()) {
                    proc::signal_group(group, Signal::KILL);
                }
                // It was killed: it ends.
                let _ = child.wait();
                return Err(format!(
                    "image {image}: it was not copied within {stage_limit_s} s (containers.stage_limit_s)"
                ));
            }
            None => sleep(LOOK),
        }
    };
    let words = fs::read(work.join("said")).unwrap_or_default();
    // Nobody looks into it any more.
    let _ = fs::remove_dir_all(&work);
    if status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&words[..words.len().min(MAX_WORDS)]).trim().replace('\n', "; ");
    Err(format!("image {image} cannot be copied (at most {max_image_mib} MiB, containers.max_image_mib): {words}"))
}
