//! A mission gets its quota within its deadline, whatever was lent to whom: random borrowers, and lenders that take back
//! everything at once, with victims that use all the time that they have.

use proptest::prelude::*;

use crate::fixture::Fixture;
use crate::ids::JobId;
use crate::job::Phase;
use crate::policy::Policy;
use crate::units::{Gpus, Span, Time};

const MISSIONS: [&str; 4] = ["a", "b", "c", "d"];
const GPUS: u32 = 24;

/// Quota, deadline in minutes (0: none), minimum run in minutes.
type Mission = (u32, u64, u64);

#[derive(Clone, Debug)]
enum Step {
    /// Jobs of one GPU.
    Submit {
        mission: usize,
        jobs: u32,
        fixed: bool,
    },
    Exit {
        mission: usize,
        jobs: usize,
    },
    Tick(u64),
}

fn missions() -> impl Strategy<Value = Vec<Mission>> {
    let deadline = prop_oneof![Just(0u64), Just(4), Just(20), Just(60)];
    let min_run = prop_oneof![Just(0u64), Just(2), Just(10), Just(40)];
    prop::collection::vec((1..7u32, deadline, min_run), MISSIONS.len())
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let mission = || 0..MISSIONS.len();
    let step = prop_oneof![
        // So many that they borrow whatever is lent.
        4 => (mission(), 1..GPUS, prop::bool::weighted(0.1))
            .prop_map(|(mission, jobs, fixed)| Step::Submit { mission, jobs, fixed }),
        2 => (mission(), 1..8usize).prop_map(|(mission, jobs)| Step::Exit { mission, jobs }),
        1 => (1..9u64).prop_map(Step::Tick),
    ];
    prop::collection::vec(step, 1..8)
}

struct World {
    fixture: Fixture,
    jobs: u32,
    /// Who was told to stop, and the last moment at which it may be gone.
    told: Vec<(Time, JobId)>,
}

impl World {
    fn new(missions: &[Mission], plan_in_time: bool) -> Self {
        let policy =
            Policy { plan_in_time, plan_interval: Span::ZERO, reserve_interval: Span::ZERO, ..Policy::standard() };
        let mut fixture = Fixture::new(policy);
        fixture.line("node n0 n1 n2 gpus=8");
        for (name, (quota, within, min_run)) in MISSIONS.iter().zip(missions) {
            let within = if *within > 0 { format!(" within={within}m") } else { String::new() };
            fixture.line(&format!("tenant {name} quota={quota} min-run={min_run}m{within}"));
        }
        Self { fixture, jobs: 0, told: Vec::new() }
    }

    fn submit(&mut self, mission: usize, jobs: u32, fixed: bool) -> Vec<String> {
        let names: Vec<String> = (self.jobs..self.jobs + jobs).map(|at| format!("j{at}")).collect();
        self.jobs += jobs;
        let fixed = if fixed { " fixed" } else { "" };
        let one = |name: &String| format!("{}/{name} 1x1 limit=600h{fixed}", MISSIONS[mission]);
        // A quota of nothing refuses what must not be evicted.
        let drafts: Vec<String> = names.iter().map(one).collect();
        self.fixture.line(&format!("submit {}", drafts.join(" | ")));
        names
    }

    /// Cycles until nothing happens; what launches runs at once.
    fn settle(&mut self) {
        for _ in 0..200 {
            let before = self.fixture.history.len();
            self.fixture.line("cycle");
            for job in self.in_phase(|phase| phase == Phase::Launching) {
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

    fn in_phase(&self, is: impl Fn(Phase) -> bool) -> Vec<JobId> {
        self.fixture.cluster.jobs().iter().filter(|job| is(job.phase)).map(|job| job.id).collect()
    }

    /// Time passes up to `until`; who is told to stop is gone at the last moment that it has.
    fn pass(&mut self, until: Time) {
        let policy = self.fixture.cluster.policy().clone();
        let slow = policy.default_grace + policy.kill_bound;
        loop {
            self.settle();
            for job in self.in_phase(|phase| matches!(phase, Phase::Stopping(_))) {
                if !self.told.iter().any(|(_, known)| *known == job) {
                    self.told.push((Time((self.fixture.now + slow).0 - 1), job));
                }
            }
            let ends = self.told.iter().map(|(at, _)| *at).min();
            let next = ends.into_iter().chain(self.fixture.cluster.next_timer()).min().unwrap_or(until).min(until);
            let span = next.since(self.fixture.now);
            self.fixture.line(&format!("tick {}ms", span.0));
            let told = std::mem::take(&mut self.told);
            let (over, left): (Vec<_>, Vec<_>) = told.into_iter().partition(|(at, _)| *at <= next);
            self.told = left;
            for (_, job) in over {
                let name = self.fixture.name_of(job);
                self.fixture.line(&format!("exit {name} sig15"));
            }
            if next >= until {
                return self.settle();
            }
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Submit { mission, jobs, fixed } => drop(self.submit(mission, jobs, fixed)),
            Step::Exit { mission, jobs } => {
                let tenant = self.fixture.cluster.find_tenant(MISSIONS[mission]).expect("it was defined");
                let of = |job: &JobId| self.fixture.cluster.job(*job).is_some_and(|job| job.spec.tenant == tenant);
                let running = self.in_phase(|phase| phase == Phase::Running);
                let ends: Vec<JobId> = running.into_iter().filter(of).take(jobs).collect();
                for job in ends {
                    let name = self.fixture.name_of(job);
                    self.fixture.line(&format!("exit {name} 0"));
                }
            }
            Step::Tick(minutes) => self.pass(self.fixture.now + Span::seconds(60 * minutes)),
        }
        self.settle();
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 40,
        max_global_rejects: 4000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_quota_is_reachable_within_the_deadline(missions in missions(), steps in steps(), lender in 0..MISSIONS.len()) {
        reaches_its_quota(&missions, &steps, lender, false)?;
    }

    #[test]
    fn and_with_the_plan_in_time(missions in missions(), steps in steps(), lender in 0..MISSIONS.len()) {
        reaches_its_quota(&missions, &steps, lender, true)?;
    }
}

fn reaches_its_quota(
    missions: &[Mission],
    steps: &[Step],
    lender: usize,
    plan_in_time: bool,
) -> Result<(), TestCaseError> {
    let mut world = World::new(missions, plan_in_time);
    let (quota, within, _) = missions[lender];
    // It leaves most of its quota to the others until it wants everything back.
    let is_others = |step: &&Step| !matches!(step, Step::Submit { mission, .. } if *mission == lender);
    let (others, own): (Vec<&Step>, Vec<&Step>) = steps.iter().partition(is_others);
    others.into_iter().for_each(|step| world.step(step));
    own.into_iter().take(1).for_each(|step| world.step(step));
    let tenant = world.fixture.cluster.find_tenant(MISSIONS[lender]).expect("it was defined");
    // Its own jobs that wait come first; what they leave of the quota is claimed anew.
    let waiting: Vec<JobId> = {
        let cluster = &world.fixture.cluster;
        let waits = |job: &&crate::job::Job| job.spec.tenant == tenant && job.phase == Phase::Waiting;
        cluster.jobs().iter().filter(waits).map(|job| job.id).collect()
    };
    for job in waiting {
        let name = world.fixture.name_of(job);
        world.fixture.line(&format!("cancel {name}"));
    }
    world.settle();
    let held = world.fixture.cluster.tenant(tenant).held_in(crate::ids::PoolIndex(0));
    let idle = Gpus::whole(quota).less(held.used);
    prop_assume!(within > 0 && idle > Gpus::ZERO && quota <= GPUS);
    let names = world.submit(lender, idle.rounded_up(), false);
    let deadline = world.fixture.now + Span::seconds(60 * within);
    world.pass(deadline);
    for name in names {
        let job = world.fixture.job(&name);
        let phase = world.fixture.cluster.job(job).map(|job| job.phase);
        prop_assert_eq!(
            phase,
            Some(Phase::Running),
            "{} of {}: {:#?}",
            name,
            MISSIONS[lender],
            world.fixture.outcome()
        );
    }
    Ok(())
}
