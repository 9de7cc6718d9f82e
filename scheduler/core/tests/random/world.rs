//! The cluster with everything around it: three cores that must agree, the agents, and the list of promises made.

use std::collections::{BTreeMap, BTreeSet};

use dure_core::budget::Grant;
use dure_core::caps::Caps;
use dure_core::cycle::Cycled;
use dure_core::event::Event;
use dure_core::gpu::GpuSet;
use dure_core::idle::{IdleAction, IdleRule};
use dure_core::ids::{AttemptNumber, BlobId, JobId, MemberIndex, NodeIndex};
use dure_core::input::{
    Dates, DependencyOn, DomainsDraft, Input, JobDraft, MemberReport, NodeDraft, PartDraft, QuotaDraft, RequestKey,
    TenantDraft,
};
use dure_core::invariants;
use dure_core::invariants::whole_domains::shortages;
use dure_core::job::{ArraySpec, DependencyKind, Exit, ExitHow, Phase};
use dure_core::mig::{Layout, Slice};
use dure_core::node::{Capacity, Contact, Location};
use dure_core::pools::Pool;
use dure_core::rejected::Rejected;
use dure_core::reply::Reply;
use dure_core::request::{Level, Shape};
use dure_core::units::{CpuMilli, Gpus, MemoryMib, Span, Time};
use dure_core::{Cluster, Policy, cycle, decide};

use crate::agents::Agent;
use crate::fits::fits_alone;
use crate::steps::{Ask, Division, Setup, Step};

const USERS: [&str; 3] = ["kim", "lee", "park"];
/// With the same MIG profiles.
const MODELS: [&str; 2] = ["H100-80GB", "A100-80GB"];
const PRIORITIES: [&str; 4] = ["", "low", "high", "urgent"];
/// Rounds in which agents obey and time passes until the last job must have ended.
const MOST_ROUNDS: usize = 2000;

/// The cluster and everything around it.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    /// Applies the same events.
    follower: Cluster,
    /// Restored from a snapshot when the follower took over; gets the same inputs.
    restored: Option<Cluster>,
    pub(crate) now: Time,
    agents: Vec<Agent>,
    nodes: Vec<NodeDraft>,
    reports: Vec<Input>,
    accepted: BTreeSet<JobId>,
    ended: BTreeSet<JobId>,
    /// Since when the time of each promise counts: it was made, or the scheduler was away.
    promised: BTreeMap<JobId, Time>,
    answers: BTreeMap<u8, (u64, Reply)>,
    requests: u64,
    events: usize,
    pub(crate) steps: usize,
    /// Level and nodes of the whole domains that are promised.
    domains: (Level, u32),
}

fn policy(placements: u32, plan_in_time: bool) -> Policy {
    Policy {
        max_attempts: 4,
        launch_deadline: Span::seconds(30),
        time_limit_slack: Span::seconds(10),
        default_time_limit: Span::seconds(100),
        default_grace: Span::seconds(5),
        keep_ended: Span::seconds(200),
        max_ended: 12,
        max_requests: 3,
        max_placements_per_cycle: placements,
        half_life: Span::seconds(100),
        min_budget_period: Span::seconds(60),
        // Two cores of the same state decide the same, whenever each planned last.
        reserve_refresh: Span::ZERO,
        plan_in_time,
        plan_interval: Span::ZERO,
        reserve_interval: Span::ZERO,
        // Now and then a node is kept for gangs that lost one; which pools there are depends on the nodes.
        spares: (1..=8).map(|gpus| (format!("A x{gpus}").into(), placements % 2)).collect(),
        max_hold_survivors: Span::seconds(100),
        ..Policy::standard()
    }
}

/// How a GPU is cut: not at all, into one of several sets of instances, or into none.
fn layout(cut: u8) -> Layout {
    let instances: &[(&str, u8)] = match cut {
        0 => return Layout::WHOLE,
        1 => &[("1g.10gb", 0), ("1g.10gb", 1), ("1g.10gb", 2), ("1g.10gb", 6)],
        2 => &[("3g.40gb", 0), ("3g.40gb", 4)],
        3 => &[("1g.10gb", 0), ("3g.40gb", 4), ("2g.20gb", 2)],
        _ => &[],
    };
    instances.iter().fold(Layout::BARE, |layout, (profile, start)| {
        let slice = Slice::named(MODELS[0], profile).expect("the model has this profile");
        layout.with(slice, *start).expect("it may begin there")
    })
}

fn node(at: usize, gpus: u8, leaf: u8, cut: u8, model: &str) -> NodeDraft {
    let mut layouts = vec![Layout::WHOLE; gpus as usize];
    layouts.iter_mut().last().into_iter().for_each(|last| *last = layout(cut));
    let all = GpuSet::first(gpus as usize);
    NodeDraft {
        name: format!("n{at}").into(),
        model: model.into(),
        location: Location { leaf: format!("l{leaf}").into(), ..Location::default() },
        capacity: Capacity {
            gpus: all,
            islands: all.iter().map(|_| all).collect(),
            layouts: if cut == 0 { Box::default() } else { layouts.into() },
            cpu: CpuMilli::ZERO,
            memory: MemoryMib::ZERO,
            labels: Default::default(),
        },
        bad: GpuSet::EMPTY,
        boot_id: "b0".into(),
    }
}

impl World {
    /// The cluster of `setup`, with all agents connected.
    pub(crate) fn new(setup: &Setup, plan_in_time: bool) -> Self {
        let empty = Cluster::new(policy(setup.placements, plan_in_time));
        let mut world = World {
            cluster: empty.clone(),
            follower: empty,
            restored: None,
            now: Time(0),
            agents: vec![Agent::default(); setup.nodes.len()],
            nodes: Vec::new(),
            reports: Vec::new(),
            accepted: BTreeSet::new(),
            ended: BTreeSet::new(),
            promised: BTreeMap::new(),
            answers: BTreeMap::new(),
            requests: 0,
            events: 0,
            steps: 0,
            domains: match setup.placements % 3 {
                0 => (Level::Node, 1),
                1 => (Level::Leaf, 1),
                _ => (Level::Leaf, 2),
            },
        };
        for (at, (gpus, leaf, cut)) in setup.nodes.iter().enumerate() {
            let second = setup.two_models && at >= setup.nodes.len() / 2;
            world.nodes.push(node(at, *gpus, *leaf, *cut, MODELS[usize::from(second)]));
            world.hello(at);
        }
        for (at, (division, projects)) in setup.missions.iter().enumerate() {
            world.divide(&format!("m{at}"), *division);
            for (number, division) in projects.iter().enumerate() {
                world.divide(&format!("m{at}/p{number}"), *division);
            }
        }
        world
    }

    /// Something happens, and everything is checked.
    pub(crate) fn step(&mut self, step: &Step) {
        self.steps += 1;
        self.happen(step);
        self.check();
    }

    fn happen(&mut self, step: &Step) {
        let name = |at: usize| Box::<str>::from(format!("n{at}"));
        match step {
            Step::Submit { asks, request } => self.submit(asks, *request),
            Step::Cancel { job, request } => {
                let job = self.job(*job);
                self.requested(Input::Cancel(job), *request);
            }
            Step::Hold(job) => drop(self.input(Input::Hold(self.job(*job)))),
            Step::Release(job) => drop(self.input(Input::Release(self.job(*job)))),
            Step::Cycle => drop(self.cycle()),
            Step::Tick(span) => self.tick(*span),
            Step::Act { node, member, choice } => self.act(self.at(*node), *member as usize, *choice),
            Step::Obey => self.obey(),
            Step::Repeat(report) => {
                if let Some(report) = self.reports.get(*report as usize % self.reports.len().max(1)).cloned() {
                    drop(self.input(report));
                }
            }
            Step::Foreign { node, job, attempt, member, gone } => self.foreign(*node, *job, *attempt, *member, *gone),
            Step::Silent(node) => drop(self.input(Input::NodeSilent(self.index(*node)))),
            Step::Lost(node) => {
                let at = self.at(*node);
                self.agents[at].connected = false;
                drop(self.input(Input::NodeLost(self.index(*node))));
            }
            Step::Hello(node) => self.hello(self.at(*node)),
            Step::Reboot(node) => self.reboot(self.at(*node)),
            Step::ConfirmDead(node) => {
                let at = self.at(*node);
                if self.cluster.node(self.index(*node)).contact == Contact::Lost {
                    self.agents[at].die();
                }
                drop(self.input(Input::ConfirmDead { node: name(at) }));
            }
            Step::Cordon(node) => drop(self.input(Input::Cordon { node: name(self.at(*node)) })),
            Step::Drain { node, evict } => drop(self.input(Input::Drain { node: name(self.at(*node)), evict: *evict })),
            Step::Resume(node) => drop(self.input(Input::Resume { node: name(self.at(*node)) })),
            Step::Bad { node, gpus } => {
                drop(self.input(Input::NodeHealth { node: self.index(*node), bad: GpuSet(u32::from(*gpus)) }));
            }
            Step::Rebuilt { node, gpus, leaf, cut } => self.rebuilt(self.at(*node), *gpus, *leaf, *cut),
            Step::Divide { tenant, division } => {
                let name = self.tenant(*tenant);
                self.divide(&name, *division);
            }
            Step::Undate { tenant, which } => self.undate(&self.tenant(*tenant), *which),
            Step::Book { .. } => self.book(step),
            Step::CancelBooking(which) => self.cancel_booking(*which),
            Step::Pause { tenant, paused } => {
                let tenant = self.tenant(*tenant).into();
                drop(self.input(Input::Pause { tenant, paused: *paused }));
            }
            Step::Flap { node, times } => {
                for _ in 0..*times {
                    self.tick(Span::seconds(20));
                    self.hello(self.at(*node));
                    self.cycle();
                }
            }
            Step::Away(span) => {
                self.now = self.now + *span;
                self.promised.values_mut().for_each(|since| *since = self.now);
                drop(self.input(Input::CameBack));
                drop(self.input(Input::TickDates));
            }
            Step::Restore => self.take_over(),
        }
    }

    /// The leader dies. The one that followed it leads from here on, and a core restored from a snapshot runs beside it: both
    /// begin without what the leader remembered.
    fn take_over(&mut self) {
        let mut restored = Cluster::new(self.follower.policy().clone());
        self.follower.snapshot().for_each(|event| restored.apply(self.now, &event));
        self.restored = Some(restored);
        self.cluster = self.follower.clone();
    }

    /// What a core remembers of refusals saves work and changes nothing: one that remembers nothing finds nothing to start.
    fn memory_is_sound(&self) {
        let mut fresh = self.follower.clone();
        let mut events = Vec::new();
        cycle(&mut fresh, self.now, &mut events);
        let starts = events.iter().find(|event| matches!(event, Event::JobPlaced { .. } | Event::Promised { .. }));
        assert_eq!(starts, None, "passed over because of what was remembered");
    }

    fn at(&self, node: u8) -> usize {
        node as usize % self.nodes.len()
    }

    fn index(&self, node: u8) -> NodeIndex {
        NodeIndex::of(self.at(node))
    }

    /// Mostly a job that is there.
    fn job(&self, job: u8) -> JobId {
        let live: Vec<JobId> = self.cluster.jobs().iter().map(|job| job.id).collect();
        live.get(job as usize % (live.len() + 1)).copied().unwrap_or(JobId(u64::from(job)))
    }

    /// Any but the root, which a `Pause` would stop as a whole too often.
    pub(crate) fn tenant(&self, tenant: u8) -> String {
        let tenants = self.cluster.tenants();
        tenants[1 + tenant as usize % (tenants.len() - 1)].name.to_string()
    }

    /// Lets all cores decide the same, and applies it in the follower.
    pub(crate) fn input(&mut self, input: Input) -> Result<Reply, Rejected> {
        self.decide(input, None)
    }

    fn decide(&mut self, input: Input, key: Option<&RequestKey>) -> Result<Reply, Rejected> {
        let mut events = Vec::new();
        let answer = decide(&mut self.cluster, input.clone(), key, self.now, &mut events);
        assert!(answer.is_ok() || events.is_empty(), "refused with {answer:?}, and yet it led to {events:?}");
        if let Some(restored) = &mut self.restored {
            let mut same = Vec::new();
            assert_eq!(decide(restored, input, key, self.now, &mut same), answer, "after a restore");
            assert_eq!(same, events, "after a restore");
        }
        self.note(&events);
        answer
    }

    fn cycle(&mut self) -> Cycled {
        let mut events = Vec::new();
        let short = shortages(&self.cluster);
        let cycled = cycle(&mut self.cluster, self.now, &mut events);
        let is_closed = |event: &Event| matches!(event, Event::NodeSpared { .. } | Event::NodeCordoned { .. });
        for (of, now) in shortages(&self.cluster) {
            let before = short.get(&of).copied().unwrap_or(0);
            assert!(
                now <= before || events.iter().any(is_closed),
                "{now} whole domains are short at {of:?}: {events:?}"
            );
        }
        if let Err(why) = invariants::check_cycle(&self.cluster, cycled, &events) {
            panic!("after a cycle: {why}; it did {events:?}");
        }
        if let Some(restored) = &mut self.restored {
            let mut same = Vec::new();
            cycle(restored, self.now, &mut same);
            assert_eq!(same, events, "after a restore");
        }
        self.note(&events);
        let overdue = self.cluster.promises().find(|(_, promise)| promise.due <= self.now);
        assert_eq!(overdue, None, "it is late, and was not dropped");
        if !cycled.more {
            self.memory_is_sound();
        }
        cycled
    }

    fn note(&mut self, events: &[Event]) {
        self.events += events.len();
        for event in events {
            self.follower.apply(self.now, event);
            match event {
                Event::JobSubmitted { job, .. } | Event::ArrayIndexStarted { job, .. } => {
                    assert!(self.accepted.insert(*job), "job {job} was accepted twice");
                }
                Event::JobEnded { job, .. } => assert!(self.ended.insert(*job), "job {job} ended twice"),
                Event::JobForgotten { job } => assert!(self.ended.contains(job), "job {job} was forgotten alive"),
                Event::Promised { job, .. } | Event::SurvivorsHeld { job, .. } => {
                    self.promised.insert(*job, self.now);
                }
                _ => {}
            }
        }
    }

    /// However often agents connect anew, a promise is not put off for ever.
    fn promises_end(&self) {
        for (job, promise) in self.cluster.promises() {
            let counted = promise.due.since(self.promised[&job]);
            assert!(counted.0 <= 4 * promise.span.0, "the promise for {job} has {counted:?}: {promise:?}");
        }
    }

    fn check(&mut self) {
        if let Err(why) = invariants::check_all(&self.cluster) {
            panic!("step {}: {why}", self.steps);
        }
        self.promises_end();
        for (at, agent) in self.agents.iter().enumerate() {
            agent.check(&self.cluster, NodeIndex::of(at));
        }
        for job in &self.accepted {
            let is_ended = self.cluster.job(*job).is_none_or(|job| matches!(job.phase, Phase::Ended(_)));
            assert_eq!(is_ended, self.ended.contains(job), "job {job} is lost, or has come back");
        }
        if self.steps.is_multiple_of(8) {
            let digest = self.cluster.digest();
            assert_eq!(self.follower.digest(), digest, "the events do not build the same state");
            if let Some(restored) = &self.restored {
                assert_eq!(restored.digest(), digest, "the restored core has gone another way");
                if let Err(why) = invariants::check_all(restored) {
                    panic!("step {}, restored: {why}", self.steps);
                }
            }
        }
    }

    fn requested(&mut self, input: Input, request: Option<u8>) {
        let Some(id) = request else { return drop(self.input(input)) };
        self.requests += 1;
        let digest = self.requests;
        let key = |digest| RequestKey { user: "kim".into(), id: format!("r{id}").into(), digest };
        if let Ok(reply) = self.decide(input.clone(), Some(&key(digest))) {
            let before = self.accepted.len();
            assert_eq!(self.decide(input, Some(&key(digest))), Ok(reply), "the same request, the same answer");
            assert_eq!(self.accepted.len(), before, "the same request was done twice");
            self.answers.insert(id, (digest, reply));
        } else if let Some((digest, reply)) = self.answers.get(&id).copied() {
            // Refused for its content: what was answered under this id is still answered so, or forgotten by now.
            if self.cluster.digest() == self.follower.digest() {
                let again = self.decide(Input::Tick, Some(&key(digest)));
                assert!(again == Ok(reply) || again == Ok(Reply::Done), "{again:?} instead of {reply:?}");
            }
        }
    }

    fn submit(&mut self, asks: &[Ask], request: Option<u8>) {
        let drafts: Vec<JobDraft> = asks.iter().map(|ask| self.draft(ask, asks.len())).collect();
        self.requested(Input::Submit(drafts), request);
    }

    fn draft(&self, ask: &Ask, in_call: usize) -> JobDraft {
        let is_leaf = |tenant: &&dure_core::tenant::Tenant| tenant.depth > 0 && tenant.children.is_empty();
        let leaves: Vec<_> = self.cluster.tenants().iter().filter(is_leaf).collect();
        let on = |on: u8| {
            if on.is_multiple_of(2) {
                DependencyOn::InCall(u32::from(on / 2) % in_call as u32)
            } else {
                DependencyOn::Job(self.job(on / 2))
            }
        };
        let kinds = [DependencyKind::AfterOk, DependencyKind::AfterAny, DependencyKind::AfterNotOk];
        JobDraft {
            part: part(ask),
            tenant: leaves[ask.tenant as usize % leaves.len()].name.clone(),
            user: USERS[ask.user as usize].into(),
            name: "".into(),
            shape: match (&ask.sizes[..], part(ask)) {
                ([gpus], _) => Shape::Equal { members: 1, gpus: *gpus },
                (_, PartDraft::Whole) => Shape::Unequal(ask.sizes.clone().into()),
                (all, _) => Shape::Equal { members: all.len() as u32, gpus: 1 },
            },
            gpu_models: if ask.any_pool { Vec::new() } else { vec![MODELS[0].into()] },
            cpu: CpuMilli::ZERO,
            memory: MemoryMib::ZERO,
            required: ask.inside_leaf.then_some(Level::Leaf),
            preferred: None,
            distinct_nodes: ask.retries == 1,
            only: Default::default(),
            priority: PRIORITIES[ask.priority as usize].into(),
            preemptible: !ask.fixed,
            time_limit: Span::seconds(10 * u64::from(ask.limit)),
            time_min: ask.least.map(|tenths| {
                let limit = if ask.limit == 0 { 10 } else { u64::from(ask.limit) };
                Span::seconds(limit * u64::from(tenths))
            }),
            grace: None,
            array: ask.array.map(|(size, cap)| ArraySpec { size: size.into(), cap: cap.into() }),
            after: ask.after.iter().map(|(kind, job)| (kinds[*kind as usize], on(*job))).collect(),
            held: ask.held,
            not_before: ask.begin.map(|seconds| self.now + Span::seconds(seconds.into())),
            max_retries: ask.retries.into(),
            batch: ask.retries == 1,
            hold_survivors: Span::seconds(60 * u64::from(ask.retries % 2)),
            booking: ask.booking.and_then(|which| self.booking(which)).unwrap_or_default(),
            payload: BlobId::default(),
        }
    }

    fn tick(&mut self, span: Span) {
        self.now = self.now + span;
        drop(self.input(Input::Tick));
        assert!(self.cluster.next_timer().is_none_or(|time| time > self.now), "a timer that is due was not handled");
        self.tell_of_work();
    }

    /// The GPUs of jobs with an even id never work, those of the others always.
    fn tell_of_work(&mut self) {
        let attempts: Vec<(JobId, AttemptNumber)> =
            self.cluster.jobs().iter().filter_map(|job| Some((job.id, job.live_attempt()?.number))).collect();
        for (job, attempt) in attempts {
            let since = if job.0 % 2 == 0 { Time(0) } else { self.now };
            drop(self.input(Input::NoGpuWork { job, attempt, since }));
        }
    }

    fn act(&mut self, at: usize, member: usize, choice: u8) {
        if let Some(report) = self.agents[at].act(&self.cluster, NodeIndex::of(at), member, choice) {
            self.reports.push(report.clone());
            drop(self.input(report));
        }
    }

    /// Every agent does its best for every member that is on its node now.
    fn obey(&mut self) {
        for at in 0..self.nodes.len() {
            for member in 0..self.cluster.node(NodeIndex::of(at)).residents.len() {
                self.act(at, member, 0);
            }
        }
    }

    fn foreign(&mut self, node: u8, job: u8, attempt: u8, member: u8, gone: bool) {
        let job = self.job(job);
        let (attempt, member) = (AttemptNumber(attempt.into()), MemberIndex(member.into()));
        let entry = self.cluster.job(job).and_then(|job| job.live_attempt()).filter(|a| a.number == attempt);
        let place = entry.and_then(|attempt| attempt.members.get(member.at())).map(|member| member.placed.node);
        if place == Some(self.index(node)) {
            return;
        }
        let exit = Exit::of(ExitHow::Code(0));
        let report = if gone { MemberReport::Gone(exit) } else { MemberReport::Started };
        let before = self.cluster.digest();
        drop(self.input(Input::MemberReported { node: self.index(node), job, attempt, member, report }));
        assert_eq!(self.cluster.digest(), before, "a report from elsewhere has changed something");
    }

    fn hello(&mut self, at: usize) {
        self.agents[at].connected = true;
        let boot_id = format!("b{}", self.agents[at].boot).into();
        let draft = NodeDraft { boot_id, ..self.nodes[at].clone() };
        self.input(Input::NodeHello(draft)).expect("a node that was there is let in again");
    }

    fn reboot(&mut self, at: usize) {
        self.agents[at].die();
        self.agents[at].boot += 1;
        self.hello(at);
    }

    /// The node restarts with other hardware; the draft of the beginning stays what it is.
    fn rebuilt(&mut self, at: usize, gpus: u8, leaf: u8, cut: u8) {
        let first = self.nodes[at].clone();
        let gpus = gpus.min(first.capacity.gpus.len() as u8);
        let rebuilt = node(at, gpus, leaf, cut, &first.model);
        self.nodes[at] = rebuilt;
        self.reboot(at);
        self.nodes[at] = first;
    }

    fn divide(&mut self, name: &str, division: Division) {
        let Division {
            quota,
            limit_above,
            lend,
            weight,
            user_jobs,
            user_gpus,
            budget,
            min_run,
            within,
            dates,
            domains,
        } = division;
        let caps = Caps {
            user_gpus: user_gpus.map(|gpus| Gpus::whole(gpus.into())),
            user_running: user_jobs.map(Into::into),
            ..Caps::default()
        };
        let budget = budget.map(|gpus| Grant {
            gpu_time: Gpus::whole(gpus.into()).over(Span::seconds(100)),
            period: Span::seconds(70),
        });
        let (level, nodes) = self.domains;
        let domains = domains.map(|count| DomainsDraft { level, count: count.into(), nodes: Some(nodes) });
        let quota_in = |pool: &Pool| {
            let needs = domains.map_or(0, |domains| domains.count * nodes * u32::from(pool.gpus_per_node));
            needs.max(quota.into())
        };
        let quota_of = |pool: &Pool| QuotaDraft {
            pool: pool.name.clone(),
            quota: Gpus::whole(quota_in(pool)),
            limit: limit_above.map(|above| Gpus::whole(quota_in(pool) + u32::from(above))),
            lend_limit: lend.map(|lend| Gpus::whole(lend.min(quota).into())),
            dates: dates.map(|(ahead, length)| {
                let from = self.now + Span::seconds(ahead.into());
                Dates { from, until: (length > 0).then(|| from + Span::seconds(length.into())) }
            }),
            domains,
        };
        let quotas = self.cluster.pools().iter().map(quota_of).collect();
        let draft = TenantDraft {
            name: name.into(),
            create: true,
            weight: Some(weight.into()),
            default_time_limit: None,
            min_run: Some(Span::seconds(min_run.into())),
            caps: Some(caps),
            budget: Some(budget),
            reclaim_within: Some(Span::seconds(within.into())),
            idle: Some(idle_rule(within)),
            forecast: None,
            quotas,
        };
        let without = draft.quotas.iter().map(|quota| QuotaDraft { domains: None, ..quota.clone() }).collect();
        let without = TenantDraft { quotas: without, ..draft.clone() };
        if [draft.clone(), without].into_iter().all(|draft| self.input(Input::SetTenant(draft)).is_err()) {
            // Its quota contradicts those around it; it is there all the same.
            drop(self.input(Input::SetTenant(TenantDraft { quotas: Vec::new(), ..draft })));
        }
    }

    fn undate(&mut self, name: &str, which: u8) {
        let tenant = self.cluster.find_tenant(name);
        let own: Vec<_> = self.cluster.calendar().filter(|dated| Some(dated.key.tenant) == tenant).collect();
        let Some(key) = own.get(usize::from(which) % own.len().max(1)).map(|dated| dated.key) else { return };
        let pool = self.cluster.pool(key.pool).name.clone();
        drop(self.input(Input::CancelDatedQuota { tenant: name.into(), pool, from: key.from }));
    }

    /// The scheduler starts again with a policy that keeps no spares: what needs every node could not start else.
    fn want_no_spares(&mut self) {
        let policy = Policy { spares: Vec::new(), ..self.cluster.policy().clone() };
        let again = |core: &Cluster| {
            let mut new = Cluster::new(policy.clone());
            core.snapshot().for_each(|event| new.apply(self.now, &event));
            new
        };
        let (cluster, follower) = (again(&self.cluster), again(&self.follower));
        let restored = self.restored.as_ref().map(again);
        (self.cluster, self.follower, self.restored) = (cluster, follower, restored);
    }

    /// Every node is there as it was in the beginning, nothing is held, paused, closed or bounded.
    pub(crate) fn lift_faults(&mut self) {
        self.want_no_spares();
        while self.cluster.bookings().next().is_some() {
            self.cancel_booking(0);
        }
        for at in 0..self.nodes.len() {
            self.hello(at);
            drop(self.input(Input::Resume { node: format!("n{at}").into() }));
        }
        let names: Vec<Box<str>> = self.cluster.tenants().iter().map(|tenant| tenant.name.clone()).collect();
        for name in &names {
            drop(self.input(Input::Pause { tenant: name.clone(), paused: false }));
        }
        for name in names.iter().filter(|name| name.contains('/')) {
            self.divide(name, Division { weight: 1, ..Division::default() });
        }
        // With nothing below them no quota is needed by another.
        while let Some(key) = self.cluster.calendar().last().map(|dated| dated.key) {
            let (tenant, pool) =
                (self.cluster.tenant(key.tenant).name.clone(), self.cluster.pool(key.pool).name.clone());
            self.input(Input::CancelDatedQuota { tenant, pool, from: key.from }).expect("nobody needs it");
        }
        for name in &names[1..] {
            let quota = if name.contains('/') { 50 } else { 200 };
            self.divide(name, Division { quota, weight: 1, ..Division::default() });
        }
        let held: Vec<JobId> = self.cluster.jobs().iter().filter(|job| job.held).map(|job| job.id).collect();
        for job in held {
            drop(self.input(Input::Release(job)));
        }
        self.check();
    }

    /// Agents obey, cycles run, time passes: every job ends.
    pub(crate) fn everything_ends(&mut self) {
        for _ in 0..MOST_ROUNDS {
            if self.accepted.len() == self.ended.len() {
                return;
            }
            self.steps += 1;
            let before = self.events;
            let cycled = self.cycle();
            self.obey();
            self.check();
            if self.events > before || cycled.more {
                continue;
            }
            // Only time can bring more.
            match self.cluster.next_timer() {
                Some(time) => self.tick(time.since(self.now)),
                None if self.give_up() => {}
                None => break,
            }
        }
        let left: Vec<_> = self.accepted.difference(&self.ended).collect();
        let why: Vec<_> =
            left.iter().map(|job| (*job, self.cluster.job(**job), self.cluster.explain(**job, self.now))).collect();
        panic!("nothing is in the way, and {left:?} do not end: {why:#?}");
    }

    /// Jobs that were accepted by nodes that are no more wait, and say for what: their users cancel them. False: none did.
    fn give_up(&mut self) -> bool {
        let waiting =
            self.cluster.jobs().iter().filter(|job| matches!(job.phase, Phase::Waiting) && job.queued.is_some());
        let never: Vec<JobId> = waiting.filter(|job| !fits_alone(&self.cluster, job)).map(|job| job.id).collect();
        for job in &never {
            drop(self.input(Input::Cancel(*job)));
        }
        !never.is_empty()
    }
}

/// One of the users shares GPUs, another takes MIG instances: members of one GPU get a part of it.
fn part(ask: &Ask) -> PartDraft {
    let is_of_one = ask.sizes.iter().all(|gpus| *gpus == 1);
    match (ask.user, ask.priority) {
        (1, 0) if is_of_one => PartDraft::Milli(300),
        (1, _) if is_of_one => PartDraft::Milli(700),
        (2, 0) if is_of_one => PartDraft::Profile("3g.40gb".into()),
        (2, 1 | 2) if is_of_one => PartDraft::Profile("1g.10gb".into()),
        _ => PartDraft::Whole,
    }
}

/// Few tenants do something about what does not work.
fn idle_rule(choice: u8) -> IdleRule {
    let action = match choice % 8 {
        5 => IdleAction::Notify,
        6 => IdleAction::Requeue,
        7 => IdleAction::Cancel,
        _ => IdleAction::Ignore,
    };
    IdleRule { after: Span::seconds(20), notice: Span::seconds(10), action }
}
