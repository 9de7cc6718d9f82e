//! The shim's loop: from the start of the process to the end of its last descendant.
//!
//! Comes in: the end of the process, rings at the bell, output, the clock. Goes out: signals, and one `ExitFile`.
//! This part must never return while a descendant lives: a process that cannot be killed keeps its GPUs, and saying
//! otherwise would give them away.

use std::{
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    process::{Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, pidfd_open},
};

use super::{
    Started,
    cgroup::Cgroup,
    files::{self, Bell, ExitFile, MemberFiles, ShimSpec},
    output::Output,
    proc,
};

/// The longest sleep: orphans are reaped and the stop file is looked at this often without any event.
const IDLE: Duration = Duration::from_secs(2);
/// Between two looks at what is left after the end.
const FIRST_LOOK: Duration = Duration::from_millis(2);
const SLOWEST_LOOK: Duration = Duration::from_secs(1);

/// Why and until when a stop is under way.
struct Stopping {
    kill_at: Instant,
    killed: bool,
}

struct Watch<'a> {
    files: &'a MemberFiles,
    main: Pid,
    cgroup: &'a Cgroup,
    limit_at: Option<Instant>,
    grace: Duration,
    stopping: Option<Stopping>,
    timed_out: bool,
    status: Option<WaitStatus>,
}

pub(super) fn to_the_end(
    files: &MemberFiles,
    spec: &ShimSpec,
    started: Started,
    mut output: Output,
    cgroup: &Cgroup,
    bell: &Bell,
) -> ExitFile {
    let main = proc::pid(started.child.id()).expect("a child has a process id");
    let limit = (spec.time_limit_ms > 0).then(|| Duration::from_millis(spec.time_limit_ms));
    let mut watch = Watch {
        files,
        main,
        cgroup,
        limit_at: limit.and_then(|limit| started.since.checked_add(limit)),
        grace: Duration::from_millis(spec.grace_ms),
        stopping: None,
        timed_out: false,
        status: None,
    };
    watch.until_main_ends(&mut output, bell);
    watch.end_the_rest(&mut output);
    output.drain();
    let status = watch.status;
    ExitFile {
        code: status.and_then(WaitStatus::exit_status),
        signal: status.and_then(WaitStatus::terminating_signal),
        launch_failure: None,
        timed_out: watch.timed_out,
        started_ms: started.started_ms,
        ended_ms: files::now_ms(),
    }
}

impl Watch<'_> {
    fn until_main_ends(&mut self, output: &mut Output, bell: &Bell) {
        // Not yet reaped, so the id is still its own.
        let pidfd = pidfd_open(self.main, PidfdFlags::empty()).ok();
        self.look_at_stop_file();
        loop {
            self.reap();
            if self.status.is_some() {
                return;
            }
            self.obey_clock(Instant::now());
            let more = output.pump();
            let timeout = if more { Duration::ZERO } else { self.sleep(Instant::now()) };
            let pipes = output.streams.iter().filter_map(|stream| stream.pipe.as_ref()).map(|pipe| pipe.as_fd());
            let fds = pidfd.iter().map(|fd| fd.as_fd()).chain([bell.fifo.as_fd()]).chain(pipes);
            let mut polled: Vec<PollFd<'_>> = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
            let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
            // An interrupted or failing poll is a short sleep: every turn looks at everything.
            let _ = rustix::event::poll(&mut polled, Some(&timeout));
            bell.hush();
            self.look_at_stop_file();
        }
    }

    fn sleep(&self, now: Instant) -> Duration {
        let next = match &self.stopping {
            None => self.limit_at,
            Some(stopping) if !stopping.killed => Some(stopping.kill_at),
            Some(_) => None,
        };
        next.map_or(IDLE, |at| at.saturating_duration_since(now).min(IDLE))
    }

    fn look_at_stop_file(&mut self) {
        if let Some(stop) = self.files.read_stop() {
            self.stop(Instant::now(), Duration::from_millis(stop.grace_ms));
        }
    }

    fn obey_clock(&mut self, now: Instant) {
        if self.stopping.is_none() && self.limit_at.is_some_and(|at| at <= now) {
            self.timed_out = true;
            self.stop(now, self.grace);
        }
        if let Some(stopping) = &mut self.stopping
            && stopping.kill_at <= now
        {
            stopping.killed = true;
            self.kill();
        }
    }

    /// TERM now, KILL after the grace; a second request can only shorten it.
    fn stop(&mut self, now: Instant, grace: Duration) {
        let kill_at = now.checked_add(grace).unwrap_or(now);
        match &mut self.stopping {
            Some(stopping) => stopping.kill_at = stopping.kill_at.min(kill_at),
            None => {
                self.stopping = Some(Stopping { kill_at, killed: false });
                if !grace.is_zero() {
                    proc::signal_group(self.main, Signal::TERM);
                }
            }
        }
    }

    /// KILL for everything: the cgroup, the process group, and every descendant that has left both.
    fn kill(&self) {
        self.cgroup.kill();
        // Once it is reaped, its number may belong to a stranger; its family is found below all the same.
        if self.status.is_none() {
            proc::signal_group(self.main, Signal::KILL);
        }
        for pid in proc::descendants(rustix::process::getpid()).unwrap_or_default() {
            proc::signal(pid, Signal::KILL);
        }
    }

    /// Reaps whatever has ended: the process itself, and orphans that fell to us.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid == self.main {
                self.status = Some(status);
            }
        }
    }

    /// The process has ended; what it left behind must go before its GPUs are free.
    fn end_the_rest(&mut self, output: &mut Output) {
        let mut pause = FIRST_LOOK;
        loop {
            self.reap();
            output.pump();
            let family = proc::descendants(rustix::process::getpid());
            if family.is_ok_and(|family| family.is_empty()) && self.cgroup.is_gone() {
                return;
            }
            self.kill();
            std::thread::sleep(pause);
            pause = (pause * 2).min(SLOWEST_LOOK);
        }
    }
}
