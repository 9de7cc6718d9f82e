//! The shim's loop: from the start of the process to the end of its last descendant.
//!
//! Comes in: the end of the process, rings at the bell, output, reports, the clock. Goes out: signals, and one
//! `ExitFile`. A stop goes through three steps inside its grace: the job's own signal and hook, TERM, KILL.
//! This part must never return while a descendant lives: a process that cannot be killed keeps its GPUs, and saying
//! otherwise would give them away.

use std::{
    os::fd::AsFd as _,
    process::Child,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    process::{Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, pidfd_open},
};

use super::{
    Started, cgroup, enter,
    files::{self, Bell, CheckpointFile, Entry, ExitFile, MemberFiles, ShimSpec},
    output::Output,
    proc,
    report::ReportPipe,
};

/// The longest sleep: orphans are reaped and the stop file is looked at this often without any event.
const IDLE: Duration = Duration::from_secs(2);
/// Between two looks at what is left after the end.
const FIRST_LOOK: Duration = Duration::from_millis(2);
const SLOWEST_LOOK: Duration = Duration::from_secs(1);
/// Reports are looked at this often at most, whatever the job writes.
const REPORT_EVERY: Duration = Duration::from_millis(100);

/// Until when a stop is at which step.
struct Stopping {
    term_at: Instant,
    kill_at: Instant,
    termed: bool,
    killed: bool,
}

struct Watch<'a> {
    files: &'a MemberFiles,
    spec: &'a ShimSpec,
    main: Pid,
    limit_at: Option<Instant>,
    /// When to warn of the limit; none: not asked for, or done.
    warn_at: Option<Instant>,
    stopping: Option<Stopping>,
    hook: Option<Pid>,
    report: Option<ReportPipe>,
    next_report: Instant,
    timed_out: bool,
    /// Processes that were there when it had ended by itself, and were killed for that.
    left_behind: usize,
    status: Option<WaitStatus>,
}

pub(super) fn to_the_end(
    files: &MemberFiles,
    spec: &ShimSpec,
    started: Started,
    mut output: Output,
    report: Option<ReportPipe>,
    bell: &Bell,
) -> ExitFile {
    let main = started.main;
    let limit = (spec.time_limit_ms > 0).then(|| Duration::from_millis(spec.time_limit_ms));
    let limit_at = limit.and_then(|limit| started.since.checked_add(limit));
    let before = Duration::from_millis(spec.signals.limit_before_ms);
    let warn_at = limit_at.filter(|_| spec.signals.limit > 0).map(|at| at.checked_sub(before).unwrap_or(started.since));
    let (stopping, hook, status) = (None, None, None);
    let next_report = started.since;
    let (timed_out, left_behind) = (false, 0);
    let mut watch = Watch {
        files,
        spec,
        main,
        limit_at,
        warn_at,
        stopping,
        hook,
        report,
        next_report,
        timed_out,
        left_behind,
        status,
    };
    watch.until_main_ends(&mut output, bell);
    watch.until_all_end(&mut output, bell);
    output.drain();
    watch.look_at_reports(Instant::now());
    let refusals = cgroup::refusals(&spec.entry.confinement);
    let mut details = vec![refusals.words];
    details.extend(left_behind_text(watch.left_behind));
    details.extend(spec.hooks.after().err());
    details.retain(|detail| !detail.is_empty());
    details.iter().for_each(|detail| output.remark(detail));
    cgroup::is_gone(&spec.entry.confinement.cgroups);
    let status = watch.status;
    ExitFile {
        code: status.and_then(WaitStatus::exit_status),
        signal: status.and_then(WaitStatus::terminating_signal),
        launch_failure: None,
        timed_out: watch.timed_out,
        started_ms: started.started_ms,
        ended_ms: files::now_ms(),
        detail: details.join("; "),
        out_of_memory: refusals.out_of_memory,
    }
}

fn left_behind_text(count: usize) -> Option<String> {
    match count {
        0 => None,
        1 => Some("a process that it had left behind was killed".to_owned()),
        _ => Some(format!("{count} processes that it had left behind were killed")),
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
            let now = Instant::now();
            self.obey_clock(now);
            self.look_at_reports(now);
            let more = output.pump();
            let timeout = if more { Duration::ZERO } else { self.sleep(Instant::now()) };
            let pipes = output.streams.iter().filter_map(|stream| stream.pipe.as_ref()).map(|pipe| pipe.as_fd());
            // A job that reports all the time is heard at intervals.
            let report = self.report.as_ref().filter(|_| self.next_report <= now).map(|report| report.fifo.as_fd());
            let fds = pidfd.iter().map(|fd| fd.as_fd()).chain([bell.fifo.as_fd()]).chain(report).chain(pipes);
            let mut polled: Vec<PollFd<'_>> = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
            let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
            // An interrupted or failing poll is a short sleep: every turn looks at everything.
            let _ = rustix::event::poll(&mut polled, Some(&timeout));
            bell.hush();
            self.look_at_stop_file();
        }
    }

    fn sleep(&self, now: Instant) -> Duration {
        let step = self.stopping.as_ref().and_then(|stopping| match (stopping.termed, stopping.killed) {
            (false, _) => Some(stopping.term_at),
            (true, false) => Some(stopping.kill_at),
            (true, true) => None,
        });
        let limit = self.limit_at.filter(|_| self.stopping.is_none());
        let report = self.report.is_some().then_some(self.next_report).filter(|at| *at > now);
        let next = [step, limit, self.warn_at, report].into_iter().flatten().min();
        next.map_or(IDLE, |at| at.saturating_duration_since(now).min(IDLE))
    }

    fn look_at_stop_file(&mut self) {
        if let Some(stop) = self.files.read_stop() {
            self.stop(Instant::now(), Duration::from_millis(stop.grace_ms));
        }
    }

    fn look_at_reports(&mut self, now: Instant) {
        let Some(report) = self.report.as_mut().filter(|_| self.next_report <= now || self.status.is_some()) else {
            return;
        };
        let Some(step) = report.newest() else { return };
        self.next_report = now + REPORT_EVERY;
        // Only what an eviction costs hangs on this file; the next report tries again.
        let _ = self.files.write_checkpoint(CheckpointFile { step, at_ms: files::now_ms() });
        if let Some(stopping) = &mut self.stopping
            && !stopping.termed
        {
            // It was asked to save its work, and has.
            stopping.term_at = now;
        }
    }

    fn obey_clock(&mut self, now: Instant) {
        if self.warn_at.is_some_and(|at| at <= now) {
            self.warn_at = None;
            if self.stopping.is_none() {
                self.signal_those_who_care(self.spec.signals.limit);
            }
        }
        if self.stopping.is_none() && self.limit_at.is_some_and(|at| at <= now) {
            self.timed_out = true;
            self.stop(now, Duration::from_millis(self.spec.grace_ms));
        }
        let Some(stopping) = &mut self.stopping else { return };
        let term = !stopping.termed && stopping.term_at <= now;
        let kill = stopping.kill_at <= now;
        stopping.termed |= term;
        stopping.killed |= kill;
        if kill {
            self.kill();
        } else if term {
            self.family().into_iter().for_each(|pid| proc::signal(pid, Signal::TERM));
        }
    }

    /// The job's own signal now, TERM when it has saved its work or had its time for that, KILL after the grace; a
    /// second request can only shorten it.
    fn stop(&mut self, now: Instant, grace: Duration) {
        let kill_at = now.checked_add(grace).unwrap_or(now);
        if let Some(stopping) = &mut self.stopping {
            stopping.kill_at = stopping.kill_at.min(kill_at);
            stopping.term_at = stopping.term_at.min(kill_at);
        } else {
            let heard = !grace.is_zero() && (self.signal_those_who_care(self.spec.signals.stop) | self.start_hook());
            let wait = match (heard, self.spec.signals.stop_ms) {
                (false, _) => Duration::ZERO,
                (true, 0) => grace / 2,
                (true, ms) => Duration::from_millis(ms).min(grace),
            };
            let term_at = now.checked_add(wait).unwrap_or(now);
            self.stopping = Some(Stopping { term_at, kill_at, termed: false, killed: false });
        }
        self.obey_clock(now);
    }

    /// Those of its processes that have a handler: the others would only die of it. True when there is one.
    fn signal_those_who_care(&self, signal: i32) -> bool {
        let Some(signal) = Signal::from_named_raw(signal) else { return false };
        let care = self.family().into_iter().filter(|pid| proc::catches(*pid, signal));
        care.map(|pid| proc::signal(pid, signal)).count() > 0
    }

    /// Runs the job's hook beside it, with its rights and in its place.
    fn start_hook(&mut self) -> bool {
        if self.spec.signals.hook.is_empty() {
            return false;
        }
        match self.spawn_hook() {
            Ok(child) => self.hook = proc::pid(child.id()),
            Err(why) => eprintln!("dure shim: checkpoint hook: {why}"),
        }
        self.hook.is_some()
    }

    fn spawn_hook(&self) -> Result<Child, String> {
        let dir = self.files.path("hook");
        std::fs::create_dir_all(&dir).map_err(|err| err.to_string())?;
        let mounts_of = Some(self.main.as_raw_pid());
        let argv = self.spec.signals.hook.clone();
        let entry = Entry { argv, mounts_of, contained: None, ..self.spec.entry.clone() };
        MemberFiles::new(&dir).write_entry(&entry).map_err(|err| err.to_string())?;
        enter::spawn_quietly(&dir)
    }

    /// All living processes of the member: descendants, those in sessions of their own included.
    fn family(&self) -> Vec<Pid> {
        self.look_at_family().unwrap_or_default()
    }

    /// Where no cgroup holds them together, programs beside the member are known by its mark.
    fn look_at_family(&self) -> std::io::Result<Vec<Pid>> {
        let mut family = proc::descendants(rustix::process::getpid())?;
        if self.status.is_some() && self.spec.entry.confinement.cgroups.is_empty() {
            family.extend(proc::orphans(None, self.files.dir())?);
        }
        Ok(family)
    }

    /// KILL for everything: the cgroups, the process group, and every descendant that has left both.
    fn kill(&self) {
        cgroup::kill(&self.spec.entry.confinement.cgroups);
        // Once it is reaped, its number may belong to a stranger; its family is found below all the same.
        if self.status.is_none() {
            proc::signal_group(self.main, Signal::KILL);
        }
        self.family().into_iter().for_each(|pid| proc::signal(pid, Signal::KILL));
    }

    /// Reaps whatever has ended: the process itself, its hook, and orphans that fell to us.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid == self.main {
                self.status = Some(status);
            }
            if self.hook == Some(pid) {
                self.hook = None;
                if let Some(stopping) = &mut self.stopping {
                    stopping.term_at = stopping.term_at.min(Instant::now());
                }
            }
        }
    }

    /// The process has ended. What it left behind has the rest of a stop's grace, and none without one; it must go before
    /// its GPUs are free.
    fn until_all_end(&mut self, output: &mut Output, bell: &Bell) {
        let mut pause = FIRST_LOOK;
        loop {
            self.reap();
            output.pump();
            let family = self.look_at_family();
            let count = family.as_ref().map_or(0, Vec::len);
            if family.is_ok_and(|family| family.is_empty()) && cgroup::is_empty(&self.spec.entry.confinement.cgroups) {
                return;
            }
            let now = Instant::now();
            bell.hush();
            self.look_at_stop_file();
            self.obey_clock(now);
            let graced = self.stopping.as_ref().is_some_and(|stopping| stopping.kill_at > now);
            if !graced {
                if self.stopping.is_none() {
                    self.left_behind = self.left_behind.max(count);
                }
                self.kill();
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(if graced { SLOWEST_LOOK / 10 } else { SLOWEST_LOOK });
        }
    }
}
