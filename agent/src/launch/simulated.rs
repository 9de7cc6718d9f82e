//! A launcher that only waits: for load tests with many nodes in one process, and for replays.
//!
//! Comes in: launches whose environment says how long they run (`DURE_SIM_DURATION_MS`, else 0) and how they end
//! (`DURE_SIM_EXIT_CODE`, else 0). Goes out: the same facts that processes would give.
//! No thread and no file per member: one sleeping task. It lives as long as the launcher's owner; a restarted agent
//! that holds the same launcher finds its members again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::sleep};

use super::{Facts, Launcher};
use crate::{
    model::{Exit, How, Launch, MemberId, StopRequest},
    reconcile::Input,
    shim::files::now_ms,
};

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// Runs members as timers.
#[derive(Clone)]
pub struct SimulatedLauncher {
    facts: Facts,
    running: Arc<Mutex<HashMap<MemberId, Running>>>,
}

struct Running {
    pid: u32,
    stop: watch::Sender<Option<i32>>,
}

impl SimulatedLauncher {
    /// A launcher that tells its facts to `facts`. Must be used inside a tokio runtime.
    pub fn new(facts: Facts) -> Self {
        Self { facts, running: Arc::default() }
    }

    fn running(&self) -> MutexGuard<'_, HashMap<MemberId, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, fact: Input) {
        let facts = self.facts.clone();
        // The loop may be gone; then nobody wants to know.
        tokio::spawn(async move { facts.send(fact).await.ok() });
    }
}

/// A number of the payload's environment.
fn number<T: std::str::FromStr>(launch: &Launch, name: &str) -> Option<T> {
    launch.payload.as_ref()?.env.get(name)?.parse().ok()
}

impl Launcher for SimulatedLauncher {
    fn stage(&self, id: MemberId, _launch: Arc<Launch>) {
        let facts = self.facts.clone();
        tokio::spawn(async move { facts.send(Input::Staged(id)).await.ok() });
    }

    fn start(&self, id: MemberId, launch: Arc<Launch>) {
        let (stop, mut stopped) = watch::channel(None);
        let pid = {
            let mut running = self.running();
            if running.contains_key(&id) {
                return;
            }
            let pid = u32::try_from(id.job % 4_000_000).expect("less than four million") + 1_000;
            running.insert(id, Running { pid, stop });
            pid
        };
        let duration_ms: u64 = number(&launch, "DURE_SIM_DURATION_MS").unwrap_or(0);
        let code: i32 = number(&launch, "DURE_SIM_EXIT_CODE").unwrap_or(0);
        let limit_ms = if launch.time_limit_ms == 0 { u64::MAX } else { launch.time_limit_ms };
        let this = self.clone();
        tokio::spawn(async move {
            let started_ms = now_ms();
            if this.facts.send(Input::Started { id, pid }).await.is_err() {
                return;
            }
            let (how, timed_out) = tokio::select! {
                () = sleep(Duration::from_millis(duration_ms.min(limit_ms))) => {
                    if limit_ms < duration_ms { (How::Signal(SIGTERM), true) } else { (How::Code(code), false) }
                }
                signal = stopped.wait_for(Option::is_some) => {
                    let signal = signal.ok().and_then(|signal| *signal);
                    (How::Signal(signal.unwrap_or(SIGKILL)), false)
                }
            };
            this.running().remove(&id);
            let exit = Exit { how, timed_out, started_ms, ended_ms: now_ms(), ..Exit::never_ran("") };
            this.facts.send(Input::Gone { id, exit }).await.ok();
        });
    }

    fn adopt(&self, id: MemberId, _same_boot: bool, _seal: bool) {
        let pid = self.running().get(&id).map(|running| running.pid);
        self.tell(match pid {
            Some(pid) => Input::Started { id, pid },
            None => Input::Gone { id, exit: Exit::unknown("the simulated node was restarted") },
        });
    }

    fn stop(&self, id: MemberId, request: StopRequest) {
        if let Some(running) = self.running().get(&id) {
            let signal = if request.grace_ms == 0 { SIGKILL } else { SIGTERM };
            running.stop.send_replace(Some(signal));
        }
    }

    fn forget(&self, id: MemberId) {
        self.running().remove(&id);
    }
}
