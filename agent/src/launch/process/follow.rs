//! Following a shim to its end, whoever started it.
//!
//! Comes in: the files of a member's folder, and a descriptor of the shim's process. Goes out: the member's exit.
//! A shim that died without a word is followed by a sweep: what is left of the member is ended before it is called gone.

use std::{io, os::fd::OwnedFd, sync::Arc, time::Duration};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use tokio::{io::unix::AsyncFd, task::spawn_blocking, time::sleep};

use super::Inner;
use crate::{
    model::{Exit, MemberId, Millis},
    reconcile::Input,
    shim::{
        cgroup,
        files::{ExitFile, MemberFiles, ShimFile},
        proc,
    },
    sys,
};

/// How often an adopted shim that has not started its process yet is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How often a running member's checkpoints are looked at.
const CHECKPOINT_LOOK: Duration = Duration::from_millis(500);
/// Between two looks at what survives KILL.
const SWEEP_FIRST: Duration = Duration::from_millis(10);
const SWEEP_SLOWEST: Duration = Duration::from_secs(1);

/// Takes the claim that a shim would take, so that none can start the member any more. None: a shim has it.
fn seal(files: &MemberFiles, boot_id: &str, why: &str) -> io::Result<Option<Exit>> {
    let nobody = ShimFile { pid: 0, start_ticks: 0, boot_id: boot_id.to_owned() };
    let exit = ExitFile::never_ran(why.to_owned());
    // A seal that was cut off between its two files is taken up again.
    if !files.claim(&nobody)? && files.read_shim().is_some_and(|shim| shim.pid != 0) {
        return Ok(None);
    }
    files.write_exit(&exit)?;
    Ok(Some(exit.into_exit()))
}

impl Inner {
    /// Waits for the end of the member. `told`: that it runs was reported already.
    pub(super) async fn follow(self: &Arc<Self>, id: MemberId, told: bool) -> Exit {
        let files = self.files(id);
        let Some(shim) = files.read_shim().filter(|shim| shim.pid != 0) else {
            let why = format!("the shim could not begin: {}", self.last_words(id));
            return Box::pin(self.never_started(id, why)).await;
        };
        if let Some(pidfd) = open_shim(&shim) {
            self.wait(id, &files, pidfd, told).await;
        } else if !told && let Some(started) = files.read_started() {
            self.tell(Input::Started { id, pid: started.pid }).await;
        }
        if let Some(exit) = files.read_exit() {
            return exit.into_exit();
        }
        self.sweep(id, &shim).await;
        let started_ms = files.read_started().map_or(0, |started| started.started_ms);
        Exit { started_ms, ..Exit::unknown("its shim was killed; all of it was ended") }
    }

    /// No shim was started for it, or none that lived; makes sure that none comes late, one of an earlier life included.
    pub(super) async fn never_started(self: &Arc<Self>, id: MemberId, why: String) -> Exit {
        loop {
            let (files, boot_id, said) = (self.files(id), self.settings.boot_id.clone(), why.clone());
            match spawn_blocking(move || seal(&files, &boot_id, &said)).await.map_err(io::Error::from) {
                Ok(Ok(Some(exit))) => return exit,
                Ok(Ok(None)) => return self.follow(id, false).await,
                Ok(Err(error)) | Err(error) => {
                    tracing::error!(member = %id, %error, "cannot seal a member, trying again");
                    sleep(SWEEP_SLOWEST).await;
                }
            }
        }
    }

    async fn wait(&self, id: MemberId, files: &MemberFiles, pidfd: AsyncFd<OwnedFd>, mut told: bool) {
        let mut checkpoint = None;
        loop {
            let over = tokio::select! {
                ended = pidfd.readable() => {
                    if let Err(error) = &ended {
                        tracing::error!(member = %id, %error, "cannot wait for the shim, looking instead");
                        sleep(LOOK).await;
                    }
                    ended.is_ok() || files.read_exit().is_some()
                }
                () = sleep(if told { CHECKPOINT_LOOK } else { LOOK }) => false,
            };
            if !told && let Some(started) = files.read_started() {
                told = true;
                self.tell(Input::Started { id, pid: started.pid }).await;
            }
            if told && let Some(newer) = files.read_checkpoint().filter(|newer| checkpoint != Some(*newer)) {
                checkpoint = Some(newer);
                self.tell(Input::Checkpoint { id, step: newer.step, at: Millis(newer.at_ms) }).await;
            }
            if over {
                return;
            }
        }
    }

    /// Ends what a dead shim left behind; returns when nothing of it lives.
    async fn sweep(&self, id: MemberId, shim: &ShimFile) {
        tracing::warn!(member = %id, "the shim was killed: ending what it left");
        let mut pause = SWEEP_FIRST;
        loop {
            let (dir, identity) = (self.dir(id), (shim.pid, shim.start_ticks));
            let identity = (shim.pid > 0).then_some(identity);
            let cgroups = self.files(id).read_spec().map(|spec| spec.entry.confinement.cgroups).unwrap_or_default();
            let swept = spawn_blocking(move || {
                cgroup::kill(&cgroups);
                let orphans = proc::orphans(identity, &dir)?;
                orphans.iter().for_each(|pid| proc::signal(*pid, Signal::KILL));
                Ok::<bool, io::Error>(orphans.is_empty() && cgroup::is_gone(&cgroups))
            });
            match swept.await {
                Ok(Ok(true)) => return,
                Ok(Ok(false)) => {}
                Ok(Err(err)) => tracing::error!(member = %id, error = %err, "cannot read /proc"),
                Err(err) => tracing::error!(member = %id, error = %err, "the sweep failed"),
            }
            sleep(pause).await;
            pause = (pause * 2).min(SWEEP_SLOWEST);
        }
    }

    fn last_words(&self, id: MemberId) -> String {
        let log = std::fs::read(self.dir(id).join("shim.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        text.lines().last().unwrap_or("it said nothing").to_owned()
    }
}

/// A descriptor of the shim's process, if that process still is the one that made the claim.
fn open_shim(shim: &ShimFile) -> Option<AsyncFd<OwnedFd>> {
    let pid = Pid::from_raw(shim.pid)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    // The descriptor is held, so what is read now is about the process behind it.
    let stat = proc::stat(shim.pid).ok()?;
    if stat.start_ticks != shim.start_ticks || stat.zombie {
        return None;
    }
    sys::watch_process(pidfd).ok()
}
