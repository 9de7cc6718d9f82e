//! No reservation is delayed by what other missions bring later, and the first blocked gang of a mission starts within a bound: random
//! streams of smaller jobs against a brute force that knows only what ran when the gang came.
//!
//! The bound: a gang that lies inside its quota and is the first of its mission starts at the latest when everything that
//! ran when it got its reservation is over by its limit, that is within `reserve_after` plus the longest time limit, the
//! grace and the agent's slack.

use proptest::prelude::*;

use crate::fixture::Fixture;
use crate::ids::JobId;
use crate::job::{Job, Phase, StopReason};
use crate::plan::latest_end;
use crate::policy::Policy;
use crate::units::{Span, Time};

const NODES: usize = 3;
const GPUS: u32 = 4;
const MISSIONS: [&str; 2] = ["a", "b"];

/// A job of one member: mission, GPUs, limit in minutes, the eighths of it that it may be lowered to, whether it must not be
/// evicted, and how much of its limit it runs, in eighths.
#[derive(Clone, Debug)]
struct Small {
    mission: usize,
    gpus: u32,
    minutes: u64,
    least: Option<u64>,
    fixed: bool,
    eighths: u64,
}

/// Members and GPUs of each.
type Gang = (u32, u32);

fn small() -> impl Strategy<Value = Small> {
    let limits = (5..200u64, prop::option::weighted(0.5, 1..=8u64));
    (0..MISSIONS.len(), 1..=GPUS, limits, prop::bool::weighted(0.3), 1..=8u64).prop_map(
        |(mission, gpus, (minutes, least), fixed, eighths)| Small { mission, gpus, minutes, least, fixed, eighths },
    )
}

/// What arrives: so many minutes after the one before it.
fn stream() -> impl Strategy<Value = Vec<(u64, Small)>> {
    prop::collection::vec((0..30u64, small()), 1..12)
}

struct World {
    fixture: Fixture,
    jobs: Vec<(String, Small)>,
    longest: Span,
    /// Who was told to stop, and the last moment at which it may be gone.
    told: Vec<(Time, JobId)>,
}

impl World {
    fn new() -> Self {
        let policy = Policy {
            plan_in_time: true,
            plan_interval: Span::ZERO,
            reserve_interval: Span::ZERO,
            // It never pays to evict for the gang.
            restart_cost: Span::seconds(1_000_000_000),
            ..Policy::standard()
        };
        let mut fixture = Fixture::new(policy);
        let half = NODES as u32 * GPUS / 2;
        fixture.line(&format!("node n0 n1 n2 gpus={GPUS}"));
        // What runs when the gang comes is in its way to the end.
        MISSIONS.iter().for_each(|name| fixture.line(&format!("tenant {name} quota={half} within=9999h")));
        Self { fixture, jobs: Vec::new(), longest: Span::ZERO, told: Vec::new() }
    }

    fn submit(&mut self, small: &Small) {
        let name = format!("j{}", self.jobs.len());
        let Small { mission, gpus, minutes, least, fixed, .. } = *small;
        let least = least.map(|eighths| format!(" least-limit={}s", minutes * 60 / 8 * eighths)).unwrap_or_default();
        let fixed = if fixed { " fixed" } else { "" };
        self.fixture.line(&format!("submit {}/{name} 1x{gpus} limit={minutes}m{least}{fixed}", MISSIONS[mission]));
        self.longest = self.longest.max(Span::seconds(60 * minutes));
        self.jobs.push((name, small.clone()));
        self.settle();
    }

    fn settle(&mut self) {
        for _ in 0..50 {
            let before = self.fixture.history.len();
            self.fixture.line("cycle");
            let launching: Vec<JobId> = self.in_phase(Phase::Launching);
            for job in launching {
                let name = self.fixture.name_of(job);
                self.fixture.line(&format!("prepared {name}"));
                self.fixture.line(&format!("started {name}"));
            }
            if self.fixture.history.len() == before {
                return;
            }
        }
        panic!("it does not rest: {:#?}", self.fixture.outcome());
    }

    fn in_phase(&self, phase: Phase) -> Vec<JobId> {
        self.fixture.cluster.jobs().iter().filter(|job| job.phase == phase).map(|job| job.id).collect()
    }

    /// When a running job ends by itself.
    fn end(&self, job: &Job) -> Option<Time> {
        let attempt = job.live_attempt().filter(|_| job.phase == Phase::Running)?;
        let (_, small) = self.jobs.iter().find(|(name, _)| **name == *job.spec.name)?;
        Some(attempt.started_at? + Span(job.spec.time_limit.0 / 8 * small.eighths).min(job.limit_of(attempt)))
    }

    /// Time passes up to `until`; what has run its part ends, and who is told to stop takes all the time that it has.
    fn pass(&mut self, until: Time) {
        let policy = self.fixture.cluster.policy();
        let slow = policy.default_grace + policy.kill_bound;
        loop {
            let stopping = self.in_phase(Phase::Stopping(StopReason::Evicted));
            self.told.retain(|(_, job)| stopping.contains(job));
            for job in stopping {
                if !self.told.iter().any(|(_, known)| *known == job) {
                    self.told.push((Time((self.fixture.now + slow).0 - 1), job));
                }
            }
            let ends = self.fixture.cluster.jobs().iter().filter_map(|job| Some((self.end(job)?, job.id)));
            let next = ends.chain(self.told.iter().copied()).min();
            let wake = self.fixture.cluster.next_timer();
            let at = next.map(|(end, _)| end).into_iter().chain(wake).min().unwrap_or(until).min(until);
            self.fixture.line(&format!("tick {}ms", at.since(self.fixture.now).0));
            if let Some((_, job)) = next.filter(|(end, _)| *end <= at) {
                let name = self.fixture.name_of(job);
                self.fixture.line(&format!("exit {name} 0"));
            } else if at >= until {
                return self.settle();
            }
            self.settle();
        }
    }

    /// By brute force: the earliest time at which a gang has room by the limits of what runs now.
    fn room_at(&self, (members, each): Gang) -> Time {
        let cluster = &self.fixture.cluster;
        let now = self.fixture.now;
        let live: Vec<(Time, &Job)> = cluster
            .jobs()
            .iter()
            .filter(|job| job.live_attempt().is_some())
            .map(|job| (latest_end(cluster, job, now).expect("it has a limit"), job))
            .collect();
        let has_room = |time: Time| {
            let mut free = [GPUS; NODES];
            for (_, job) in live.iter().filter(|(end, _)| *end > time) {
                for member in &job.live_attempt().expect("it is live").members {
                    free[member.placed.node.at()] -= member.placed.gpus.len();
                }
            }
            free.iter().map(|free| free / each).sum::<u32>() >= members
        };
        let mut times: Vec<Time> = live.iter().map(|(end, _)| *end).chain([now]).collect();
        times.sort_unstable();
        times.into_iter().find(|time| has_room(*time)).expect("an empty cluster has room")
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn no_reservation_is_delayed_by_what_others_bring_later(
        before in stream(),
        gang in prop_oneof![Just((1u32, 4u32)), Just((2, 3)), Just((3, 2)), Just((6, 1))],
        hours in 1..40u64,
        after in stream(),
    ) {
        let mut world = World::new();
        // What the mission of the gang runs before lies outside its quota: the gang itself is inside.
        for (minutes, small) in before {
            world.pass(world.fixture.now + Span::seconds(60 * minutes));
            world.submit(&Small { mission: 1, ..small });
        }
        // Whoever waits already has a reservation that was first.
        for job in world.in_phase(Phase::Waiting) {
            let name = world.fixture.name_of(job);
            world.fixture.line(&format!("cancel {name}"));
        }
        world.settle();
        let (members, each) = gang;
        let bound = world.room_at(gang);
        world.fixture.line(&format!("submit a/gang {members}x{each} limit={hours}h"));
        world.settle();
        let job = world.fixture.job("gang");
        let starts = |world: &World| world.fixture.cluster.job(job).is_some_and(|job| job.phase != Phase::Waiting);
        let latest = world.fixture.now + world.longest + world.fixture.cluster.policy().default_grace
            + world.fixture.cluster.policy().time_limit_slack;
        prop_assert!(bound <= latest, "{bound:?} is later than everything that runs, {latest:?}");
        let mut promised = bound;
        for (minutes, small) in after {
            if starts(&world) {
                break;
            }
            let reservation = world.fixture.cluster.reservation(job);
            prop_assert!(reservation.is_some_and(|it| it.from <= promised),
                "{reservation:?} is later than {promised:?}: {:#?}", world.fixture.outcome());
            promised = reservation.map_or(promised, |it| it.from);
            let next = world.fixture.now + Span::seconds(60 * minutes);
            world.pass(next.min(promised));
            world.submit(&small);
        }
        world.pass(promised);
        prop_assert!(starts(&world), "the gang was to start by {bound:?}: {:#?}", world.fixture.outcome());
    }
}
