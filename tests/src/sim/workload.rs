//! Clients: what they ask for, how they ask again, and what they remember of the answers.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use dure_core::Input;
use dure_core::booking::Purpose;
use dure_core::budget::Grant;
use dure_core::ids::{BlobId, JobId};
use dure_core::input::{
    ConstraintsDraft, DependencyOn, DomainsDraft, JobDraft, PartDraft, QuotaDraft, RequestKey, TenantDraft,
};
use dure_core::job::{ArraySpec, DependencyKind};
use dure_core::rejected::Rejected;
use dure_core::reply::Reply;
use dure_core::request::{Level, Shape};
use dure_core::units::{CpuMilli, Gpus, MemoryMib, Span, Time};
use dure_proto::v1;
use dure_scheduler::handle::{Call, Mutation};
use dure_scheduler::journal::Blob;
use prost::Message as _;

use super::agent::MODEL;
use super::clock::Ms;
use super::faults::Wishes;
use super::leader::{WALL, policy};
use super::world::{Event, World};

pub(super) const MISSIONS: [&str; 3] = ["fusion", "solar", "genome"];
const USERS: [&str; 4] = ["kim", "lee", "park", "choi"];
/// How long attempts of missions that ask for it are left alone at first.
const MIN_RUN: Span = Span::seconds(5);
/// The longest grace that a job asks for.
const MAX_GRACE: Span = Span::seconds(5);
/// How long a client waits before it asks again.
const PATIENCE_MS: (Ms, Ms) = (3_000, 6_000);

/// What a request came to: an answer of the core, or the word that there is none.
pub(super) type Answer = Result<Result<Reply, Rejected>, String>;

/// Where the closures of the calls leave their answers.
pub(super) type Answers = Arc<Mutex<Vec<(usize, Answer)>>>;

/// One request of a client, sent until it is answered.
pub(super) struct Request {
    input: Input,
    key: RequestKey,
    blobs: Vec<Blob>,
    pub(super) done: bool,
    tries: u64,
}

/// All clients together.
#[derive(Default)]
pub(super) struct Clients {
    pub(super) requests: Vec<Request>,
    pub(super) answers: Answers,
    /// Requests of the set-up: each waits for the one before it.
    setup: Vec<usize>,
    pub(super) jobs: Vec<JobId>,
    held: BTreeSet<JobId>,
}

impl World {
    fn request(&mut self, input: Input, blobs: Vec<Blob>) -> usize {
        let at = self.clients.requests.len();
        let user = USERS[at % USERS.len()];
        let key = RequestKey { user: user.into(), id: format!("r{at}").into(), digest: at as u64 };
        self.clients.requests.push(Request { input, key, blobs, done: false, tries: 0 });
        at
    }

    /// Asks for something at a time.
    pub(super) fn ask(&mut self, input: Input, at: Ms) -> usize {
        let request = self.request(input, Vec::new());
        self.agenda.put(at, Event::Send(request));
        request
    }

    fn quota_of(&self, mission: usize) -> TenantDraft {
        let total = self.swarm.nodes * self.swarm.gpus;
        let quota = [total / 2, total / 4, total / 8][mission];
        let quota = QuotaDraft { quota: Gpus::whole(quota as u32), ..QuotaDraft::default() };
        let Wishes { budgets, patience, min_run, .. } = self.swarm.wishes;
        let grant = Grant { gpu_time: Gpus::whole(1).over(Span::seconds(60)), period: Span::seconds(120) };
        TenantDraft {
            name: MISSIONS[mission].into(),
            create: true,
            quotas: vec![quota],
            budget: budgets.then_some(Some(grant)),
            // The longest return time here (minimum run, grace, kill bound), and no longer: what could never be lent
            // would wait for ever.
            reclaim_within: patience.then_some(MIN_RUN + MAX_GRACE + policy(None).kill_bound),
            min_run: min_run.then_some(MIN_RUN),
            ..TenantDraft::default()
        }
    }

    /// The pool and the missions, one after the other, then the jobs.
    pub(super) fn begin_work(&mut self) {
        let gpus_per_node = self.swarm.gpus as u8 + u8::from(self.swarm.wishes.instances > 0);
        let pool = Input::DefinePool { name: "main".into(), model: MODEL.into(), gpus_per_node };
        let mut setup = vec![self.request(pool, Vec::new())];
        for mission in 0..MISSIONS.len() {
            let draft = self.quota_of(mission);
            setup.push(self.request(Input::SetTenant(draft), Vec::new()));
        }
        setup.reverse();
        self.clients.setup = setup;
        self.next_setup();
    }

    fn next_setup(&mut self) {
        let now = self.agenda.now();
        if let Some(request) = self.clients.setup.pop() {
            return self.agenda.put(now, Event::Send(request));
        }
        for _ in 0..self.swarm.jobs {
            let at = now + self.dice.below(self.swarm.safety_ms);
            self.agenda.put(at, Event::Submit);
        }
    }

    /// A client submits a job or a few.
    pub(super) fn submit(&mut self) {
        let count = if self.dice.chance(150) { self.dice.between(2, 4) } else { 1 };
        let (mut drafts, mut blobs) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let (draft, blob) = self.draft();
            drafts.push(draft);
            blobs.push(blob);
        }
        let request = self.request(Input::Submit(drafts), blobs);
        self.agenda.put(self.agenda.now(), Event::Send(request));
    }

    fn draft(&mut self) -> (JobDraft, Blob) {
        let longest = *self.dice.pick(&[500, 5_000, 30_000]).unwrap_or(&5_000);
        let (run, limit) = (self.dice.below(longest), self.dice.between(2_000, 40_000));
        let code = if self.dice.chance(self.swarm.exits_badly) { 1 } else { 0 };
        let env = [("DURE_SIM_DURATION_MS", run), ("DURE_SIM_EXIT_CODE", code)];
        let env = env.into_iter().map(|(name, value)| (name.to_owned(), value.to_string())).collect();
        let gpus = self.dice.between(1, self.swarm.gpus);
        let distinct_nodes = self.dice.chance(300);
        // More would wait for nodes that never come: before the first node has joined nobody can tell.
        let slots = self.swarm.nodes * if distinct_nodes { 1 } else { self.swarm.gpus / gpus };
        let members = if slots > 1 && self.dice.chance(450) { self.dice.between(2, slots.min(6)) } else { 1 };
        let mission = self.dice.below(MISSIONS.len() as u64) as usize;
        let array = self.dice.chance(100).then(|| ArraySpec { size: 3, cap: self.dice.below(3) as u32 });
        let kinds = [DependencyKind::AfterAny, DependencyKind::AfterOk, DependencyKind::AfterNotOk];
        let after = if self.dice.chance(150) { self.dice.pick(&self.clients.jobs).copied() } else { None };
        let kind = self.dice.pick(&kinds).copied().unwrap_or(DependencyKind::AfterAny);
        let mut draft = JobDraft {
            part: PartDraft::Whole,
            tenant: MISSIONS[mission].into(),
            user: USERS[self.dice.below(4) as usize].into(),
            name: "j".into(),
            shape: Shape::Equal { members: members as u32, gpus: gpus as u8 },
            gpu_models: Vec::new(),
            cpu: CpuMilli::ZERO,
            memory: MemoryMib::ZERO,
            required: None,
            preferred: None,
            distinct_nodes,
            priority: (*self.dice.pick(&["", "low", "high"]).unwrap_or(&"")).into(),
            preemptible: true,
            time_limit: Span(limit),
            time_min: None,
            grace: Some(Span(self.dice.below(MAX_GRACE.0))),
            array,
            after: after.map(|job| (kind, DependencyOn::Job(job))).into_iter().collect(),
            held: false,
            not_before: None,
            max_retries: self.dice.below(3) as u32,
            batch: false,
            hold_survivors: Span::ZERO,
            booking: "".into(),
            only: ConstraintsDraft::default(),
            payload: BlobId([0; 16]),
        };
        self.wish(&mut draft, mission);
        if self.swarm.invited > 0 {
            self.invite(&mut draft);
        }
        let image = self.shapes.chance(self.swarm.wishes.images).then(|| "/images/work".to_owned());
        let container = image.map(|image| v1::Container { image, ..Default::default() });
        let args = vec!["work".to_owned()];
        let payload = v1::Payload { args, env, batch: draft.batch, container, ..Default::default() };
        let blob = Blob::new(payload.encode_to_vec()).expect("a small payload");
        draft.payload = BlobId(blob.id().0);
        (draft, blob)
    }

    /// What some clients wish for beside whole GPUs anywhere; never what could wait for ever.
    fn wish(&mut self, draft: &mut JobDraft, mission: usize) {
        let Wishes { shares, elastic, excluded, exclusive, fixed, scripts, instances, later, budgets, lowered, .. } =
            self.swarm.wishes;
        let Shape::Equal { members, gpus } = draft.shape else { return };
        let now = self.agenda.now();
        let dice = &mut self.shapes;
        draft.not_before = dice.chance(later).then(|| Time(WALL + now + dice.below(20_000)));
        draft.batch = dice.chance(scripts);
        draft.time_min = dice.chance(lowered).then(|| Span(dice.between(1, draft.time_limit.0.max(1))));
        if dice.chance(shares) {
            draft.shape = Shape::Equal { members: 1, gpus: 1 };
            draft.part = PartDraft::Milli(*dice.pick(&[250, 500, 700]).unwrap_or(&500));
            return;
        }
        if dice.chance(instances) {
            draft.shape = Shape::Equal { members: 1, gpus: 1 };
            let profile = dice.pick(&["1g.10gb", "2g.20gb", "3g.40gb"]).copied().unwrap_or("1g.10gb");
            draft.part = PartDraft::Profile(profile.into());
            return;
        }
        let total = self.swarm.nodes * self.swarm.gpus;
        let quota = [total / 2, total / 4, total / 8][mission];
        let fits = u64::from(members) * u64::from(gpus) <= quota;
        // What no budget ever holds may only run as a scavenger, which is evicted.
        draft.preemptible = !(dice.chance(fixed) && fits && !budgets);
        if members == 1 && self.swarm.nodes > 1 && dice.chance(excluded) {
            draft.only.exclude = vec![format!("n{}", dice.below(self.swarm.nodes)).into()];
        }
        if members > 1 && dice.chance(elastic) {
            draft.only.least = Some(dice.between(1, u64::from(members)) as u32);
        }
        if u64::from(members) <= self.swarm.nodes && draft.preemptible && dice.chance(exclusive) {
            draft.only.exclusive = true;
        }
    }

    /// Some jobs name a booking, one that holds them: a node by itself.
    fn invite(&mut self, draft: &mut JobDraft) {
        let state = self.oracle.state();
        let bookings = state.bookings().filter_map(|booking| match booking.purpose {
            Purpose::Jobs { tenant, all: false } => Some((booking.name.clone(), state.tenant(tenant).name.clone())),
            Purpose::Jobs { .. } | Purpose::Maintenance => None,
        });
        let bookings: Vec<_> = bookings.collect();
        if !self.shapes.chance(self.swarm.invited) {
            return;
        }
        let Some((booking, mission)) = self.shapes.pick(&bookings) else { return };
        let gpus = self.shapes.between(1, self.swarm.gpus) as u8;
        (draft.booking, draft.tenant) = (booking.clone(), mission.clone());
        draft.part = PartDraft::Whole;
        draft.shape = Shape::Equal { members: 1, gpus };
        draft.only = ConstraintsDraft::default();
        draft.distinct_nodes = false;
        // What the quota of that mission never holds would wait for ever.
        draft.preemptible = true;
    }

    /// A request goes on its way, once more unless it was answered.
    pub(super) fn send_request(&mut self, at: usize) {
        let now = self.agenda.now();
        if self.clients.requests[at].done {
            return;
        }
        self.clients.requests[at].tries += 1;
        let patience = self.dice.between(PATIENCE_MS.0, PATIENCE_MS.1);
        self.agenda.put(now + patience, Event::Send(at));
        let copies = if !self.calm && self.dice.chance(self.swarm.repeated) { 2 } else { 1 };
        for _ in 0..copies {
            let lives: Vec<u64> = self.processes.iter().map(|process| process.life).collect();
            let to = self.dice.pick(&lives).copied();
            let is_lost = !self.calm && self.dice.chance(self.swarm.lost);
            let delay = self.delay();
            if let Some(to) = to.filter(|_| !is_lost) {
                self.agenda.put(now + delay, Event::Arrive(at, to));
            }
        }
    }

    /// It arrives at a scheduler.
    pub(super) fn arrive(&mut self, at: usize, life: u64) {
        let Request { input, key, blobs, .. } = &self.clients.requests[at];
        let (input, key, blobs) = (input.clone(), Some(key.clone()), blobs.clone());
        let answers = self.clients.answers.clone();
        let Some(process) = self.process(life) else { return };
        let then = Box::new(move |_: &_, decided: Result<Reply, Rejected>| {
            let when_durable = move |durable: Result<_, String>| {
                let answer = durable.map(|_| decided);
                answers.lock().unwrap_or_else(PoisonError::into_inner).push((at, answer));
            };
            Box::new(when_durable) as _
        });
        process.calls.push(Call::Mutate(Box::new(Mutation {
            by: dure_scheduler::auth::Caller::default(),
            input,
            key,
            blobs,
            then,
        })));
        self.wake(life);
    }

    /// Answers that have left a scheduler go on their way.
    pub(super) fn drain_answers(&mut self) {
        let answers = std::mem::take(&mut *self.clients.answers.lock().unwrap_or_else(PoisonError::into_inner));
        for (at, answer) in answers {
            let is_lost = !self.calm && self.dice.chance(self.swarm.lost);
            let delay = self.delay();
            if !is_lost {
                self.agenda.put(self.agenda.now() + delay, Event::Answered(at, Box::new(answer)));
            }
        }
    }

    /// A client hears an answer.
    pub(super) fn answered(&mut self, at: usize, answer: Answer) {
        // Without one it asks again, with the same id.
        let Ok(decided) = answer else { return };
        let was_done = std::mem::replace(&mut self.clients.requests[at].done, true);
        if let Ok(reply) = decided
            && let Err(why) = self.oracle.acknowledged(at, reply)
        {
            return self.broken(why);
        }
        if was_done {
            return;
        }
        self.note(|| format!("request {at} is answered: {decided:?}"));
        if let Ok(Reply::Submitted { first, count }) = decided {
            self.seen.jobs += u64::from(count);
            if let Input::Submit(drafts) = &self.clients.requests[at].input {
                self.seen.invited += drafts.iter().filter(|draft| !draft.booking.is_empty()).count() as u64;
            }
            for job in first.0..first.0 + u64::from(count) {
                self.clients.jobs.push(JobId(job));
                self.and_then(JobId(job));
            }
        }
        if at <= MISSIONS.len() {
            self.next_setup();
        }
    }

    /// Some jobs are cancelled, some are held and released.
    fn and_then(&mut self, job: JobId) {
        let at = self.agenda.now() + self.dice.below(20_000);
        match self.dice.below(20) {
            0 | 1 => drop(self.ask(Input::Cancel(job), at)),
            2 if !self.calm => {
                self.clients.held.insert(job);
                self.ask(Input::Hold(job), at);
                let later = at + self.dice.below(10_000);
                self.ask(Input::Release(job), later);
            }
            3 if !self.calm => {
                let mission = self.dice.below(MISSIONS.len() as u64) as usize;
                let mut draft = self.quota_of(mission);
                let most = self.swarm.nodes * self.swarm.gpus / 2;
                draft.quotas[0].quota = Gpus::whole(self.dice.below(most + 1) as u32);
                if self.swarm.whole {
                    // More than there are is refused.
                    let count = self.dice.below(self.swarm.nodes / 2 + 1) as u32;
                    let gpus_per_node = self.swarm.gpus as u32 + 1;
                    draft.quotas[0].quota = draft.quotas[0].quota.max(Gpus::whole(count * gpus_per_node));
                    draft.quotas[0].domains = Some(DomainsDraft { level: Level::Node, count, nodes: None });
                }
                self.ask(Input::SetTenant(draft), at);
            }
            _ => {}
        }
    }

    /// The faults are over: what was changed for a while is set right.
    pub(super) fn set_right(&mut self) {
        // After what is still under way has arrived.
        let at = self.agenda.now() + 30_000;
        for job in std::mem::take(&mut self.clients.held) {
            self.ask(Input::Release(job), at);
        }
        for (mission, name) in MISSIONS.into_iter().enumerate() {
            let draft = self.quota_of(mission);
            self.ask(Input::SetTenant(draft), at);
            self.ask(Input::Pause { tenant: name.into(), paused: false }, at);
        }
        for node in 0..self.nodes.len() {
            let name = self.nodes[node].name.as_str().into();
            self.ask(Input::Resume { node: name }, at);
        }
    }
}
