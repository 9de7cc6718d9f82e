//! Checks of the node before its first use, and before its return to service.
//!
//! Comes in: a folder of programs, and what the inventory says. Goes out: what is wrong, in words; empty: all is well.
//! A node with something wrong offers no GPU: every one of them is bad until a later round finds all well. Built in: the
//! clock, a memory test, that NVLink joins every GPU or none, and a test of the memory of each GPU, which is about that GPU
//! alone. This part must never run on the agent's loop.

pub(crate) mod gpu_memory;

use std::{
    fs, io,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rustix::process::{Signal, kill_process_group};
use serde::{Deserialize, Serialize};

use self::gpu_memory::Bounds;
use crate::inventory::GpuFacts;

/// The earliest time that a clock may show: 2025-01-01, in seconds since the Unix epoch.
const EARLIEST: u64 = 1_735_689_600;
/// Between two looks at a check.
const LOOK: Duration = Duration::from_millis(10);
/// Bytes of a check's words that are kept.
const MAX_WORDS: usize = 200;

/// The `[checks]` section of `agent.toml`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct ChecksConfig {
    /// Programs in it are run in the order of their names; each must exit 0. Empty: none.
    pub dir: PathBuf,
    /// How long each may take.
    pub limit_s: u64,
    /// Host memory that is written and read; 0: none.
    pub memory_mib: usize,
    /// The built-in checks of clock and NVLink.
    pub built_in: bool,
    /// A node with something wrong is checked again so often.
    pub again_s: u64,
    /// Of the memory of each GPU that nothing runs on, what is written and read through CUDA, in percent; 0: none.
    pub gpu_memory_percent: u8,
    /// How long that may take.
    pub gpu_memory_limit_s: u64,
    /// CUDA's library; empty: the driver's, and none beside fake GPUs.
    pub libcuda: PathBuf,
}

impl Default for ChecksConfig {
    fn default() -> Self {
        Self {
            dir: PathBuf::new(),
            limit_s: 60,
            memory_mib: 0,
            built_in: true,
            again_s: 60,
            gpu_memory_percent: 25,
            gpu_memory_limit_s: 30,
            libcuda: PathBuf::new(),
        }
    }
}

impl ChecksConfig {
    /// How much the test of GPU memory may take; none: it is not wanted.
    pub(crate) fn gpu_memory(&self, is_fake: bool) -> Option<Bounds> {
        let library = match (self.libcuda.as_os_str().is_empty(), is_fake) {
            (false, _) => self.libcuda.clone(),
            (true, false) => PathBuf::from("libcuda.so.1"),
            (true, true) => return None,
        };
        let limit = Duration::from_secs(self.gpu_memory_limit_s);
        (self.gpu_memory_percent > 0).then_some(Bounds { library, percent: self.gpu_memory_percent, limit })
    }
}

/// Runs all checks. Blocking.
pub fn run(config: &ChecksConfig, gpus: &[GpuFacts]) -> Vec<String> {
    let mut wrong = Vec::new();
    if config.built_in {
        wrong.extend(clock());
        wrong.extend(links(gpus));
    }
    wrong.extend(memory(config.memory_mib));
    match programs(&config.dir) {
        Ok(programs) => {
            let limit = Duration::from_secs(config.limit_s);
            wrong.extend(programs.iter().filter_map(|program| run_one(program, limit).err()));
        }
        Err(err) => wrong.push(format!("checks.dir = {}: {err}", config.dir.display())),
    }
    wrong
}

fn clock() -> Option<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    (now < EARLIEST).then(|| "its clock is years behind: set it".to_owned())
}

/// Links that some GPUs of a node have and others lack are down.
fn links(gpus: &[GpuFacts]) -> Option<String> {
    let known = || gpus.iter().filter(|gpu| !gpu.uuid.is_empty());
    let most = known().map(|gpu| gpu.nvlinks).max()?;
    let fewer = known().find(|gpu| gpu.nvlinks < most)?;
    Some(format!("GPU {} has {} NVLinks that are up, others have {most}", fewer.index, fewer.nvlinks))
}

/// Writes a pattern over some memory and reads it back, twice.
fn memory(mib: usize) -> Option<String> {
    let mut words = vec![0_u64; mib * (1 << 20) / size_of::<u64>()];
    for pattern in [0xaaaa_aaaa_aaaa_aaaa_u64, 0x5555_5555_5555_5555] {
        for (place, word) in words.iter_mut().enumerate() {
            *word = std::hint::black_box(pattern ^ place as u64);
        }
        let bad =
            words.iter().enumerate().position(|(place, word)| *std::hint::black_box(word) != pattern ^ place as u64);
        if let Some(place) = bad {
            return Some(format!("its memory does not keep what is written (word {place} of {mib} MiB): take it out"));
        }
    }
    None
}

/// What may be run in the folder, by name.
fn programs(dir: &Path) -> io::Result<Vec<PathBuf>> {
    if dir.as_os_str().is_empty() {
        return Ok(Vec::new());
    }
    let mut programs = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let meta = fs::metadata(&path)?;
        if meta.is_file() && meta.permissions().mode() & 0o111 != 0 {
            programs.push(path);
        }
    }
    programs.sort();
    Ok(programs)
}

fn run_one(program: &Path, limit: Duration) -> Result<(), String> {
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let failed = |err: io::Error| format!("check {name}: {err}");
    let out = tempfile().map_err(failed)?;
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").current_dir("/");
    command.stdin(Stdio::null()).stdout(out.try_clone().map_err(failed)?).stderr(out.try_clone().map_err(failed)?);
    let mut child = command.process_group(0).spawn().map_err(failed)?;
    let since = Instant::now();
    let status = loop {
        match child.try_wait().map_err(failed)? {
            Some(status) => break status,
            None if since.elapsed() >= limit => {
                if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
                    // It may just have ended.
                    let _ = kill_process_group(group, Signal::KILL);
                }
                let _ = child.wait();
                return Err(format!("check {name} took longer than {} s", limit.as_secs()));
            }
            None => sleep(LOOK),
        }
    };
    if status.success() { Ok(()) } else { Err(format!("check {name} failed ({status}): {}", first_line(&out))) }
}

/// A file without a name for a check's words.
fn tempfile() -> io::Result<fs::File> {
    let fd = rustix::fs::memfd_create("dure-check", rustix::fs::MemfdFlags::CLOEXEC)?;
    Ok(fs::File::from(fd))
}

fn first_line(mut out: &fs::File) -> String {
    use std::io::{Read as _, Seek as _};
    let mut bytes = vec![0; MAX_WORDS];
    let count = out.rewind().and_then(|()| out.read(&mut bytes)).unwrap_or(0);
    String::from_utf8_lossy(&bytes[..count]).lines().next().unwrap_or("it said nothing").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_run_by_name_and_say_what_is_wrong() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let put = |name: &str, text: &str, mode| {
            let path = dir.path().join(name);
            fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("writes");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("it is ours");
        };
        put("10-good", "exit 0", 0o755);
        put("20-bad", "echo the fan is broken; exit 2", 0o755);
        put("30-note", "exit 9", 0o644);
        put("40-slow", "sleep 1000", 0o755);
        let config = ChecksConfig { dir: dir.path().to_owned(), limit_s: 1, memory_mib: 1, ..ChecksConfig::default() };
        let wrong = run(&config, &[]);
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert!(wrong[0].starts_with("check 20-bad failed (exit status: 2): the fan is broken"), "{wrong:?}");
        assert_eq!(wrong[1], "check 40-slow took longer than 1 s");
        let missing = ChecksConfig { dir: dir.path().join("none"), ..config };
        assert!(run(&missing, &[])[0].contains("No such file"));
    }

    #[test]
    fn a_gpu_whose_links_are_down_is_found() {
        let gpu =
            |index: u32, nvlinks| GpuFacts { index, uuid: format!("GPU-{index}"), nvlinks, ..GpuFacts::default() };
        assert_eq!(links(&[gpu(0, 18), gpu(1, 18)]), None);
        assert_eq!(links(&[gpu(0, 0), gpu(1, 0)]), None);
        let down = links(&[gpu(0, 18), gpu(1, 18), gpu(2, 17)]);
        assert_eq!(down.as_deref(), Some("GPU 2 has 17 NVLinks that are up, others have 18"));
        let unread = GpuFacts { index: 3, ..GpuFacts::default() };
        assert_eq!(links(&[gpu(0, 18), unread]), None, "a GPU that cannot be read is lost, and no check's business");
    }
}
