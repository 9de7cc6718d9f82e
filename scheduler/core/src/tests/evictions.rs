//! Reclaim on random clusters: after whatever happened it comes to rest, has then served everybody whom evictions can
//! serve, and every step on the way raised what is held inside all quotas above it, branches of missions included. The invariants are checked at every step.

use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::admit::start::Wish;
use crate::event::Event;
use crate::fixture::Fixture;
use crate::ids::{JobId, PoolIndex};
use crate::job::{Job, Phase, StopReason};
use crate::node::SetAside;
use crate::place::Scratch;
use crate::policy::Policy;
use crate::reserve;
use crate::tenant::{RunningKey, Tenant};
use crate::units::{Gpus, Span};

const TENANTS: [&str; 5] = ["a/x", "a/y", "b", "c", "d"];
const SHAPES: [&str; 11] =
    ["1x1", "1x2", "1x3", "1x4", "2x2", "2x4", "3x4", "2x1 distinct", "2x2 inside=leaf", "3x2 least=1", "3x4 least=2"];
const CLASSES: [&str; 3] = ["low", "normal", "high"];
/// Every plan raises what is held inside quotas, which is at most all GPUs, in one of four classes.
const MOST_ROUNDS: usize = 200;

#[derive(Clone, Debug)]
enum Step {
    Submit { tenant: usize, shape: usize, class: usize, fixed: bool, array: u8 },
    Settle,
    Cycle,
    Exit(usize),
    Cancel(usize),
    Quota { tenant: usize, quota: u32 },
    Close(usize),
    Open(usize),
    Tick(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..TENANTS.len(), 0..SHAPES.len(), 0..CLASSES.len(), prop::bool::weighted(0.1), 0..6u8)
            .prop_map(|(tenant, shape, class, fixed, array)| Step::Submit { tenant, shape, class, fixed, array }),
        4 => Just(Step::Cycle),
        3 => Just(Step::Settle),
        3 => (0..64usize).prop_map(Step::Exit),
        1 => (0..64usize).prop_map(Step::Cancel),
        1 => (0..4usize, 0..8u32).prop_map(|(tenant, quota)| Step::Quota { tenant, quota }),
        1 => (0..4usize).prop_map(Step::Close),
        1 => (0..4usize).prop_map(Step::Open),
        1 => (1..120u8).prop_map(Step::Tick),
    ]
}

struct World {
    fixture: Fixture,
    jobs: usize,
}

impl World {
    fn new() -> Self {
        // What does not pay rests: here everything is taken back that may be.
        let policy = Policy { plan_interval: Span::ZERO, reserve_interval: Span::ZERO, ..Policy::standard() };
        let mut fixture = Fixture::new(Policy { reclaim_patience: Span::ZERO, ..policy });
        fixture.line("node n0 n1 gpus=4 leaf=l0");
        fixture.line("node n2 n3 gpus=4 leaf=l1");
        fixture
            .line("tenant a quota=6 | a/x quota=3 | a/y quota=3 | b quota=5 lend=3 | c quota=0 | d quota=5 min-run=1m");
        Self { fixture, jobs: 0 }
    }

    fn in_phase(&self, is: impl Fn(Phase) -> bool) -> Vec<JobId> {
        self.fixture.cluster.jobs().iter().filter(|job| is(job.phase)).map(|job| job.id).collect()
    }

    fn act(&mut self, verb: &str, job: JobId) {
        let name = self.fixture.name_of(job);
        self.fixture.line(&format!("{verb} {name}"));
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Submit { tenant, shape, class, fixed, array } => {
                let (tenant, shape, class) = (TENANTS[tenant], SHAPES[shape], CLASSES[class]);
                let fixed = if fixed { " fixed" } else { "" };
                let array = if array > 3 { format!(" array={array}") } else { String::new() };
                self.jobs += 1;
                self.fixture.line(&format!("submit {tenant}/j{} {shape} prio={class}{fixed}{array}", self.jobs));
            }
            Step::Settle => self.settle(),
            Step::Cycle => self.fixture.line("cycle"),
            Step::Exit(at) => {
                let running = self.in_phase(|phase| matches!(phase, Phase::Running));
                if let Some(job) = running.get(at % running.len().max(1)) {
                    self.act("exit", *job);
                }
            }
            Step::Cancel(at) => {
                let open = self.in_phase(|phase| matches!(phase, Phase::Waiting | Phase::Running));
                if let Some(job) = open.get(at % open.len().max(1)) {
                    self.act("cancel", *job);
                }
            }
            Step::Quota { tenant, quota } => {
                self.fixture.line(&format!("quota {} quota={quota}", ["a", "b", "c", "d"][tenant]));
            }
            Step::Close(at) => self.fixture.line(&format!("cordon n{at}")),
            Step::Open(at) => self.fixture.line(&format!("resume n{at}")),
            Step::Tick(seconds) => self.fixture.line(&format!("tick {seconds}s")),
        }
    }

    /// What launches runs, what is being stopped is gone.
    fn settle(&mut self) {
        for job in self.in_phase(|phase| phase == Phase::Launching) {
            self.act("prepared", job);
            self.act("started", job);
        }
        for job in self.in_phase(|phase| matches!(phase, Phase::Stopping(_))) {
            self.act("exit", job);
        }
    }

    /// GPUs held inside every quota above them: by what must not be evicted, then by class, highest first. None while
    /// evictions are under way.
    ///
    /// Whoever takes from others comes inside all quotas above it, and whoever is taken from lay above one of them: that of
    /// its mission, or of its branch of one. So every plan raises this list in the order of words, between missions and between
    /// branches of one alike; what a branch takes back may lower what its mission holds, but never this.
    fn inside(&self) -> Option<Vec<Gpus>> {
        let cluster = &self.fixture.cluster;
        let stopping = self.in_phase(|phase| matches!(phase, Phase::Stopping(_)));
        if cluster.promises().next().is_some() || !stopping.is_empty() {
            return None;
        }
        let above: BTreeSet<JobId> = cluster.tenants().iter().flat_map(|tenant| self.above_quota_of(tenant)).collect();
        let mut sums = vec![Gpus::ZERO; 5];
        for job in cluster.jobs().iter().filter(|job| !above.contains(&job.id)) {
            let Some(attempt) = job.live_attempt() else { continue };
            let class = if job.spec.preemptible { 4 - usize::from(job.spec.priority.0) } else { 0 };
            sums[class] += attempt.gpus();
        }
        Some(sums)
    }

    /// Attempts below a tenant that do not fit into its quota, counted one by one in the order of `RunningKey`; a mission
    /// without a quota has none.
    fn above_quota_of(&self, tenant: &Tenant) -> Vec<JobId> {
        let cluster = &self.fixture.cluster;
        let quota = tenant.quota_in(PoolIndex(0)).quota;
        let Some(mut left) = quota.or((tenant.depth == 1).then_some(Gpus::ZERO)) else { return Vec::new() };
        let Some(mission) = cluster.mission(tenant.index) else { return Vec::new() };
        let mut above = Vec::new();
        for key in &cluster.tenant(mission).attempts {
            let Some(job) = cluster.job(key.job).filter(|job| cluster.is_within(job.spec.tenant, tenant.index)) else {
                continue;
            };
            let gpus = job.live_attempt().map(|attempt| attempt.gpus()).unwrap_or_default();
            if gpus <= left { left -= gpus } else { above.push(job.id) }
        }
        above
    }

    fn evictions(&self) -> usize {
        let is_eviction = |event: &Event| matches!(event, Event::AttemptStopping { reason: StopReason::Evicted, .. });
        self.fixture.history.iter().filter(|(_, event)| is_eviction(event)).count()
    }

    /// Goes on until nothing happens any more.
    fn rest(&mut self) {
        let mut inside = None;
        for _ in 0..MOST_ROUNDS {
            let before = self.fixture.history.len();
            self.settle();
            self.fixture.line("cycle");
            if let Some(now) = self.inside() {
                assert!(inside <= Some(now.clone()), "what is inside quotas fell from {inside:?} to {now:?}");
                inside = Some(now);
            }
            if self.fixture.history.len() == before {
                return;
            }
        }
        panic!("after {} evictions it still does not rest: {:#?}", self.evictions(), self.fixture.outcome());
    }

    /// A job that waits although it lies inside the quotas above it, needs nothing that they hold for an earlier one, and
    /// would fit if everything went that others borrow.
    fn forgotten(&self) -> Option<JobId> {
        let cluster = &self.fixture.cluster;
        let mut waiting = cluster.jobs().iter().filter(|job| job.queued.is_some());
        let behind =
            |job: &Job| reserve::behind(cluster, &Wish::of(job), job.spec.request.pools[0], job.gpus()).is_some();
        waiting.find(|job| self.is_inside(job) && !behind(job) && self.would_fit(job)).map(|job| job.id)
    }

    /// By the definition, counted attempt by attempt; only for jobs right below a mission's own quota.
    fn is_inside(&self, job: &Job) -> bool {
        let cluster = &self.fixture.cluster;
        let pool = job.spec.request.pools[0];
        let Some(mission) = cluster.mission(job.spec.tenant).map(|mission| cluster.tenant(mission)) else {
            return false;
        };
        let own = |key: &&RunningKey| {
            let attempt = cluster.job(key.job).and_then(Job::live_attempt);
            attempt.is_some_and(|attempt| !attempt.borrowed)
        };
        let held: Gpus = mission
            .attempts
            .iter()
            .filter(own)
            .filter_map(|key| cluster.job(key.job).and_then(Job::live_attempt))
            .map(|attempt| attempt.gpus())
            .sum();
        let quota = mission.quota_in(pool).quota.unwrap_or_default();
        let is_leaf = mission.index == job.spec.tenant;
        let fixed = mission.held_in(pool).fixed + job.gpus();
        is_leaf && held + job.gpus() <= quota && (job.spec.preemptible || fixed <= quota)
    }

    fn would_fit(&self, job: &Job) -> bool {
        let cluster = &self.fixture.cluster;
        // What is set aside for later is no matter of evictions either.
        let mut index = cluster.place_index().clone();
        cluster.nodes().iter().for_each(|node| index.set_aside(node, &SetAside::default()));
        let mut idle = index.clone();
        let min_run = |job: &Job| cluster.chain(job.spec.tenant).find_map(|tenant| tenant.min_run).unwrap_or_default();
        for other in cluster.jobs().iter().filter(|other| other.spec.preemptible) {
            let Some(attempt) = other.live_attempt().filter(|attempt| attempt.borrowed) else { continue };
            let ran = attempt.started_at.map(|started| self.fixture.now.since(started)).unwrap_or_default();
            if cluster.mission(other.spec.tenant) != cluster.mission(job.spec.tenant) && ran >= min_run(other) {
                let placed: Vec<_> = attempt.members.iter().map(|member| member.placed).collect();
                index.release(&placed, &other.spec.request);
            }
        }
        // What is idle and kept back by others is no matter of evictions.
        let request = &job.spec.request;
        if idle.place(request, request.pools[0], &job.avoid, 10_000, &mut Scratch::default()).is_ok() {
            return false;
        }
        index.place(request, request.pools[0], &job.avoid, 10_000, &mut Scratch::default()).is_ok()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn reclaim_comes_to_rest_and_forgets_nobody(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        steps.iter().for_each(|step| world.step(step));
        world.rest();
        let forgotten = world.forgotten();
        prop_assert_eq!(forgotten, None, "{:#?}", world.fixture.outcome());
    }
}
