//! Attempts whose GPUs do no work, as their agents' telemetry says.
//!
//! In: the newest telemetry of each node, which says for each GPU how long ago a sample last showed work on it. Out: for
//! each attempt that is looked at, the last moment of work on any of its GPUs. Nothing is said of an attempt with a GPU
//! whose telemetry is old or silent on this. What follows is the core's to decide.

use dure_core::idle;
use dure_core::ids::NodeIndex;
use dure_core::input::Input;
use dure_core::job::{Attempt, Phase};
use dure_core::units::{Span, Time};

use super::{Scheduler, Turn};

/// Between two looks.
const LOOK_EVERY: Span = Span(1_000);
/// Telemetry that is older says nothing of now.
const FRESH: Span = Span(30_000);

impl Scheduler {
    /// Looks, when it is time to, at everything that runs in a tenant with a rule.
    pub(super) fn look_for_idle(&mut self, turn: &mut Turn) {
        if turn.now < self.next_idle_look {
            return;
        }
        self.next_idle_look = turn.now + LOOK_EVERY;
        if !self.cluster.looks_for_idle() {
            return;
        }
        let inputs: Vec<Input> = self.without_work(turn.now).collect();
        for input in inputs {
            self.decide(input, turn);
        }
    }

    /// What the core has to be told.
    fn without_work(&self, now: Time) -> impl Iterator<Item = Input> {
        let running = self.cluster.tenants().iter().filter(|tenant| tenant.depth == 1);
        let running = running.flat_map(|tenant| tenant.attempts.iter());
        running.filter_map(move |key| {
            let job = self.cluster.job(key.job).filter(|job| job.phase == Phase::Running)?;
            let attempt = job.live_attempt()?;
            let since = self.last_work(attempt, now)?;
            let input = Input::NoGpuWork { job: job.id, attempt: attempt.number, since };
            idle::is_news(&self.cluster, job, attempt, since, now).then_some(input)
        })
    }

    /// The last moment of work on any of its GPUs; none where that is not known of every one of them.
    fn last_work(&self, attempt: &Attempt, now: Time) -> Option<Time> {
        let mut last = None;
        for member in &attempt.members {
            for gpu in member.placed.gpus.iter() {
                last = last.max(Some(self.last_work_on(member.placed.node, gpu, now)?));
            }
        }
        last
    }

    fn last_work_on(&self, node: NodeIndex, gpu: usize, now: Time) -> Option<Time> {
        let live = self.live.nodes.get(&node).filter(|live| live.connected && now.since(live.last_heard) <= FRESH)?;
        let gpu = live.telemetry.as_ref()?.gpus.iter().find(|it| it.index as usize == gpu)?;
        // Of the time since it was heard nothing is known: that is no idling.
        Some(Time(now.0.saturating_sub(gpu.idle_ms?)))
    }
}
