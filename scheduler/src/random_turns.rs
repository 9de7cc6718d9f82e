//! A cluster that lives by dice: turns as the journal holds them, for tests and benches.
//!
//! In: a seed. Out: turn after turn, each the events that the core decided on random inputs (users, operators, agents that
//! answer, fall silent and come back), and the live state to compare with. The same seed gives the same turns.

use dure_core::event::Event;
use dure_core::gpu::GpuSet;
use dure_core::ids::{BlobId, JobId, NodeIndex};
use dure_core::input::{
    BookingDraft, DependencyOn, Input, JobDraft, MemberReport, NodeDraft, QuotaDraft, RequestKey, TenantDraft,
};
use dure_core::job::{ArraySpec, DependencyKind, Exit, ExitHow, MemberPhase, Phase};
use dure_core::node::{Capacity, Contact, Location};
use dure_core::request::{Level, Shape};
use dure_core::units::{CpuMilli, Gpus, MemoryMib, Span, Time};
use dure_core::{Cluster, Policy, cycle, decide};

const GPUS_PER_NODE: usize = 8;
const TENANTS: [&str; 4] = ["fusion/plasma", "fusion/edge", "climate/ocean", "genome"];
const USERS: [&str; 5] = ["kim", "lee", "park", "choi", "jung"];

/// Limits so low that random histories reach them.
pub(crate) fn small_policy() -> Policy {
    Policy {
        max_attempts: 4,
        launch_deadline: Span::seconds(30),
        time_limit_slack: Span::seconds(10),
        keep_ended: Span::seconds(300),
        max_ended: 50,
        max_requests: 20,
        half_life: Span::seconds(600),
        // Two cores of the same state decide the same, whenever each planned last.
        plan_interval: Span::ZERO,
        reserve_interval: Span::ZERO,
        reserve_refresh: Span::ZERO,
        ..Policy::standard()
    }
}

/// The cluster, its clock and its dice.
#[derive(Clone)]
pub(crate) struct RandomTurns {
    /// The live state.
    pub(crate) cluster: Cluster,
    /// Time of the last turn.
    pub(crate) now: Time,
    nodes: u32,
    boots: Vec<u32>,
    dice: u64,
}

impl RandomTurns {
    /// A cluster of `nodes` nodes that have not joined yet.
    pub(crate) fn new(seed: u64, nodes: u32, policy: Policy) -> Self {
        // Any seed but 0 keeps the dice rolling.
        let dice = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Self {
            cluster: Cluster::new(policy),
            now: Time(1_700_000_000_000),
            nodes,
            boots: vec![0; nodes as usize],
            dice,
        }
    }

    /// A number below `sides`.
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        (self.dice >> 11) % sides
    }

    /// The turn that sets the cluster up: tenants, quotas, all nodes.
    pub(crate) fn opening(&mut self) -> Vec<Event> {
        let mut out = Vec::new();
        (0..self.nodes).for_each(|node| self.hello(node, &mut out));
        let guaranteed = Gpus::whole(self.nodes * GPUS_PER_NODE as u32 / 4);
        for mission in ["fusion", "climate", "genome"] {
            let quotas = vec![QuotaDraft { quota: guaranteed, ..QuotaDraft::default() }];
            let draft = TenantDraft { name: mission.into(), create: true, quotas, ..TenantDraft::default() };
            self.put(Input::SetTenant(draft), None, &mut out);
        }
        for team in TENANTS {
            let draft = TenantDraft { name: team.into(), create: true, ..TenantDraft::default() };
            self.put(Input::SetTenant(draft), None, &mut out);
        }
        out
    }

    /// The next turn; empty when the dice led to nothing.
    pub(crate) fn turn(&mut self) -> Vec<Event> {
        let mut out = Vec::new();
        self.now = self.now + Span(self.roll(8000));
        for _ in 0..1 + self.roll(4) {
            self.something(&mut out);
        }
        self.put(Input::Tick, None, &mut out);
        cycle(&mut self.cluster, self.now, &mut out);
        out
    }

    fn put(&mut self, input: Input, key: Option<&RequestKey>, out: &mut Vec<Event>) {
        // A refusal leads to no events, which is as good as any other outcome here.
        drop(decide(&mut self.cluster, input, key, self.now, out));
    }

    fn something(&mut self, out: &mut Vec<Event>) {
        match self.roll(40) {
            0..10 => self.submit(out),
            10..30 => (0..6).for_each(|_| self.report(out)),
            30..32 => self.change_node(out),
            32 => self.change_tenant(out),
            33..36 => {
                let job = self.some_job();
                let input = [Input::Cancel(job), Input::Hold(job), Input::Release(job)];
                let pick = self.roll(3) as usize;
                self.put(input[pick].clone(), None, out);
            }
            _ => self.operate(out),
        }
    }

    fn some_job(&mut self) -> JobId {
        let newest = self.cluster.jobs().iter().next_back().map_or(1, |job| job.id.0);
        let back = self.roll(30);
        JobId(newest.saturating_sub(back).max(1))
    }

    /// A request of one to three jobs, some with everything that a job can have.
    pub(crate) fn submit(&mut self, out: &mut Vec<Event>) {
        let drafts: Vec<JobDraft> = (0..1 + self.roll(3)).map(|at| self.draft(at as u32)).collect();
        let id = format!("r{}", self.roll(1 << 40));
        let key = RequestKey { user: "kim".into(), id: id.into(), digest: self.roll(1 << 60) };
        let key = (self.roll(3) == 0).then_some(key);
        self.put(Input::Submit(drafts), key.as_ref(), out);
    }

    fn draft(&mut self, place: u32) -> JobDraft {
        let shape = match self.roll(5) {
            0 => Shape::Unequal([4, 2, 1].into()),
            1 => Shape::Equal { members: 2 + self.roll(4) as u32, gpus: 8 },
            _ => Shape::Equal { members: 1, gpus: 1 << self.roll(4) },
        };
        let mut after = Vec::new();
        if self.roll(6) == 0 {
            after.push((DependencyKind::AfterOk, DependencyOn::Job(self.some_job())));
        }
        if place > 0 && self.roll(3) == 0 {
            after.push((DependencyKind::AfterAny, DependencyOn::InCall(place - 1)));
        }
        let later = self.now + Span(self.roll(60_000));
        JobDraft {
            part: dure_core::input::PartDraft::Whole,
            tenant: TENANTS[self.roll(4) as usize].into(),
            user: USERS[self.roll(5) as usize].into(),
            name: format!("job-{}", self.roll(100)).into(),
            shape,
            gpu_models: Vec::new(),
            cpu: CpuMilli(4000 * self.roll(3)),
            memory: MemoryMib(16_384 * self.roll(3)),
            required: (self.roll(4) == 0).then_some(Level::Leaf),
            preferred: (self.roll(4) == 0).then_some(Level::Node),
            distinct_nodes: self.roll(8) == 0,
            only: Default::default(),
            priority: ["", "low", "high"][self.roll(3) as usize].into(),
            preemptible: self.roll(3) != 0,
            time_limit: Span::seconds(60 + self.roll(600)),
            time_min: later.0.is_multiple_of(3).then_some(Span::seconds(20)),
            grace: None,
            array: (self.roll(10) == 0).then_some(ArraySpec { size: 5, cap: 2 }),
            after,
            held: self.roll(20) == 0,
            not_before: (self.roll(10) == 0).then_some(later),
            max_retries: self.roll(3) as u32,
            batch: self.roll(4) == 0,
            hold_survivors: Span::seconds(self.roll(3) * 20),
            booking: if self.roll(10) == 0 { format!("b{}", self.roll(3)).into() } else { "".into() },
            payload: BlobId([7; 16]),
        }
    }

    /// An agent says what is next of one of its members.
    fn report(&mut self, out: &mut Vec<Event>) {
        let known = self.cluster.nodes().len() as u64;
        if known == 0 {
            return;
        }
        let node = NodeIndex(self.roll(known) as u32);
        let residents = &self.cluster.node(node).residents;
        let Some(resident) = residents.first().copied() else { return };
        let Some(job) = self.cluster.job(resident.job) else { return };
        let Some(attempt) = job.live_attempt() else { return };
        let (number, stopping) = (attempt.number, matches!(job.phase, Phase::Stopping(_)));
        let phase = attempt.members[resident.member.at()].phase;
        let gone = |how| MemberReport::Gone(Exit::of(how));
        let report = match (phase, self.roll(20)) {
            (_, 0) => gone(ExitHow::LaunchFailed("no image".into())),
            (_, 1) => gone(ExitHow::Signal(9)),
            _ if stopping => gone(ExitHow::Signal(15)),
            (MemberPhase::Ordered, _) => MemberReport::Prepared,
            (MemberPhase::Prepared, _) => MemberReport::Started,
            (MemberPhase::Running | MemberPhase::Gone, _) => gone(ExitHow::Code(0)),
        };
        let (job, member) = (resident.job, resident.member);
        self.put(Input::MemberReported { node, job, attempt: number, member, report }, None, out);
    }

    fn hello(&mut self, node: u32, out: &mut Vec<Event>) {
        let location = Location {
            site: "daejeon".into(),
            spine: format!("s{}", node / 16).into(),
            leaf: format!("s{}-l{}", node / 16, node / 4).into(),
            nvlink: "".into(),
        };
        let all = GpuSet::first(GPUS_PER_NODE);
        let draft = NodeDraft {
            name: format!("gpu-{node:04}").into(),
            model: "NVIDIA H200".into(),
            location,
            capacity: Capacity {
                gpus: all,
                islands: vec![all; GPUS_PER_NODE].into(),
                layouts: Box::default(),
                cpu: CpuMilli(64_000),
                memory: MemoryMib(512 << 10),
                labels: Default::default(),
            },
            bad: GpuSet::EMPTY,
            boot_id: format!("boot-{}", self.boots[node as usize]).into(),
        };
        self.put(Input::NodeHello(draft), None, out);
    }

    fn change_node(&mut self, out: &mut Vec<Event>) {
        let at = self.roll(u64::from(self.nodes)) as u32;
        let Some(node) = self.cluster.find_node(&format!("gpu-{at:04}")) else { return self.hello(at, out) };
        match (self.cluster.node(node).contact, self.roll(3)) {
            (Contact::Ready, 0) => {
                let bad = GpuSet::single(self.roll(GPUS_PER_NODE as u64) as usize);
                self.put(Input::NodeHealth { node, bad }, None, out);
            }
            (Contact::Ready, _) => self.put(Input::NodeSilent(node), None, out),
            (Contact::Suspect, 0) => self.put(Input::NodeLost(node), None, out),
            (Contact::Suspect | Contact::Lost, 1) => self.hello(at, out),
            (Contact::Suspect | Contact::Lost, _) => {
                self.boots[at as usize] += 1;
                self.hello(at, out);
            }
        }
    }

    fn change_tenant(&mut self, out: &mut Vec<Event>) {
        let name = ["fusion", "climate", "genome"][self.roll(3) as usize].into();
        let quota = Gpus::whole(self.roll(u64::from(self.nodes) * 3) as u32);
        let limit = (self.roll(2) == 0).then_some(Gpus::whole(quota.rounded_up() * 2 + 8));
        let quotas = vec![QuotaDraft { pool: "".into(), quota, limit, lend_limit: None, domains: None, dates: None }];
        let weight = Some(1 + self.roll(5) as u32);
        self.put(Input::SetTenant(TenantDraft { name, weight, quotas, ..TenantDraft::default() }), None, out);
    }

    fn booking(&mut self, node: Box<str>, tenant: Box<str>) -> Input {
        let from = self.now + Span::seconds(self.roll(300));
        let maintenance = self.roll(2) == 0;
        Input::Book(BookingDraft {
            name: format!("b{}", self.roll(3)).into(),
            from,
            until: Some(from + Span::seconds(1 + self.roll(300))),
            nodes: vec![node],
            maintenance,
            tenant: if maintenance { "".into() } else { tenant },
            all_jobs: !maintenance && self.roll(2) == 0,
            ..BookingDraft::default()
        })
    }

    fn operate(&mut self, out: &mut Vec<Event>) {
        let at = self.roll(u64::from(self.nodes));
        let node: Box<str> = format!("gpu-{at:04}").into();
        let tenant: Box<str> = TENANTS[self.roll(4) as usize].into();
        let input = match self.roll(10) {
            0 => Input::Cordon { node },
            1 => Input::Drain { node, evict: self.roll(2) == 0 },
            2 => Input::Pause { tenant, paused: true },
            3 => Input::ConfirmDead { node },
            4 | 5 => Input::Pause { tenant, paused: false },
            6 => self.booking(node, tenant),
            7 => Input::CancelBooking { name: format!("b{}", self.roll(3)).into() },
            _ => Input::Resume { node },
        };
        self.put(input, None, out);
    }
}
