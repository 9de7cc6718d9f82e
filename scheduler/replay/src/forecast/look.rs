//! One copy of the state, run forward: who starts when and where, and what becomes of each mission on the way.

use std::collections::BTreeMap;

use dure_core::Cluster;
use dure_core::event::Event;
use dure_core::ids::{JobId, NodeIndex, TenantIndex};
use dure_core::job::{Job, Outcome, Phase};
use dure_core::units::{GpuTime, Span, Time};

use super::{Ahead, kind_of};
use crate::forward::{Forward, Story};
use crate::learned::Learned;

/// Instants of one look: bounds its time where nobody else does.
const MAX_INSTANTS: u32 = 2_000_000;

/// What lies ahead is looked at to a part of 2 to this power of its distance: nobody knows to the second what happens in a week,
/// and what ends in the same part of it is one instant, and one cycle.
const FINENESS: u32 = 10;
/// What is so near that its part would be shorter is looked at to the millisecond.
const SHORTEST_PART: Span = Span::seconds(1);

/// The end of the part of the future in which `next` lies.
fn rounded(now: Time, next: Time) -> Time {
    let distance = next.since(now).0;
    let part = match distance >> FINENESS {
        part if part < SHORTEST_PART.0 => 1,
        part => 1u64 << part.ilog2(),
    };
    now + Span(distance.next_multiple_of(part))
}

/// The first start of a job that waits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Start {
    /// When.
    pub(super) time: Time,
    /// On which nodes, by rank.
    pub(super) nodes: Vec<NodeIndex>,
}

/// What happens to one mission on the way.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Course {
    /// From submit to start of those that start.
    pub(super) waits: Vec<Span>,
    /// Attempts that are evicted.
    pub(super) evictions: u64,
    /// What they lose.
    pub(super) lost: GpuTime,
}

/// What is noted on the way.
#[derive(Debug)]
struct Notes<'l> {
    learned: Option<&'l Learned>,
    /// Jobs that wait and have not started on the way.
    left: usize,
    starts: BTreeMap<JobId, Option<Start>>,
    courses: BTreeMap<TenantIndex, Course>,
}

impl Story for Notes<'_> {
    fn run_time(&mut self, cluster: &Cluster, job: &Job, elapsed: Span) -> Span {
        let learned = self.learned.and_then(|learned| learned.run_time(kind_of(cluster, job), elapsed));
        learned.unwrap_or_else(|| job.live_attempt().map_or(job.spec.time_limit, |attempt| job.limit_of(attempt)))
    }

    fn saw(&mut self, cluster: &Cluster, now: Time, event: &Event) {
        match event {
            Event::JobPlaced { job, members, .. } => {
                let Some(entry) = cluster.job(*job) else { return };
                // An index of an array starts for its array, which starts with its first.
                let asked = entry.index_of.map_or(*job, |(array, _)| array);
                let Some(slot @ None) = self.starts.get_mut(&asked) else { return };
                *slot = Some(Start { time: now, nodes: members.iter().map(|placed| placed.node).collect() });
                self.left -= 1;
                if let Some(mission) = cluster.mission(entry.spec.tenant) {
                    let waited = now.since(entry.submitted_at);
                    self.courses.entry(mission).or_default().waits.push(waited);
                }
            }
            Event::AttemptEnded { job, outcome: Outcome::Evicted, .. } => {
                let Some(entry) = cluster.job(*job) else { return };
                let Some(mission) = cluster.mission(entry.spec.tenant) else { return };
                let ran = entry.attempt.as_deref().map_or(Span::ZERO, |attempt| now.since(attempt.placed_at));
                let course = self.courses.entry(mission).or_default();
                course.evictions += 1;
                course.lost += entry.gpus().over(ran);
            }
            // Nothing else is asked for.
            _ => {}
        }
    }
}

/// What a look has come to.
#[derive(Debug)]
pub(super) struct Looked<'l> {
    notes: Notes<'l>,
    /// The state at its end.
    pub(super) cluster: Cluster,
    /// It was told to stop before the horizon was reached.
    pub(super) is_cut: bool,
}

impl Looked<'_> {
    /// The jobs that wait.
    pub(super) fn starts(&self) -> impl Iterator<Item = &JobId> {
        self.notes.starts.keys()
    }

    /// The first start of a job.
    pub(super) fn start(&self, job: JobId) -> Option<&Start> {
        self.notes.starts.get(&job)?.as_ref()
    }

    /// What happened to the missions; it is given once.
    pub(super) fn take_courses(&mut self) -> BTreeMap<TenantIndex, Course> {
        std::mem::take(&mut self.notes.courses)
    }
}

/// Runs `cluster` forward until all that waits has started, the horizon is reached, nothing happens any more, or it is told to
/// stop; by learned run times, or by the limits alone.
pub(super) fn look<'l>(mut cluster: Cluster, ahead: &Ahead<'l>, learned: bool) -> Looked<'l> {
    cluster.set_nothing_aside();
    let waiting = cluster.jobs().iter().filter(|job| job.phase == Phase::Waiting && job.index_of.is_none());
    let starts: BTreeMap<JobId, Option<Start>> = waiting.map(|job| (job.id, None)).collect();
    let learned = learned.then_some(ahead.learned);
    let notes = Notes { learned, left: starts.len(), starts, courses: BTreeMap::new() };
    let (now, end) = (ahead.now, ahead.now + ahead.horizon);
    let mut forward = Forward::new(cluster, now, notes);
    forward.cycle(now);
    let mut is_cut = false;
    for instant in 0.. {
        let next = forward.next_time().filter(|next| *next <= end);
        let Some(next) = next.filter(|_| forward.story().left > 0) else { break };
        if instant == MAX_INSTANTS || !(ahead.go_on)() {
            is_cut = true;
            break;
        }
        let next = rounded(now, next);
        forward.pass(next);
        forward.cycle(next);
    }
    let (notes, cluster) = forward.into_parts();
    Looked { notes, cluster, is_cut }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_is_seen_to_the_millisecond_and_what_is_far_to_a_thousandth() {
        let now = Time(5_000);
        let seen = |distance: u64| rounded(now, now + Span(distance)).since(now).0;
        assert_eq!([seen(0), seen(1), seen(1_023_999), seen(1_024_001)], [0, 1, 1_023_999, 1_024_512]);
        let mut last = 0;
        for distance in (0..40_000_000).step_by(997) {
            let at = seen(distance);
            assert!(at >= distance && at - distance <= distance / 1_000 && at >= last, "{distance} is seen at {at}");
            last = at;
        }
        // What is over is seen now.
        assert_eq!(rounded(now, Time(1)), now);
    }
}
