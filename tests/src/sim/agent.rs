//! The agents' processes and their nodes: pumps `agent::turn::Agent` as `run` does, with shims and a disk of its own.

use std::collections::{BTreeSet, VecDeque};

use dure_agent::inventory::{GpuFacts, GpuSample, Health, Verdict};
use dure_agent::model::{Epoch, Exit, How, Launch, MemberId, Millis, Recorded};
use dure_agent::reconcile::{Action, Input};
use dure_agent::turn::{Agent, Effect, Identity};
use dure_proto::v1::{self, SchedulerMessage, agent_message, scheduler_message};

use super::clock::Ms;
use super::disk::{NodeDisk, Written};
use super::faults::Plant;
use super::world::{Event, World};

const HEARTBEAT_MS: Ms = 1_000;
const TICK_MS: Ms = 1_000;
/// How often it is looked whether an agent still stands still: the end of all faults ends that too.
const LAG_LOOK_MS: Ms = 500;
const FIRST_BACKOFF_MS: Ms = 100;
const LONGEST_BACKOFF_MS: Ms = 3_000;

/// The model of all GPUs.
pub(super) const MODEL: &str = "H100-80GB";
/// What a GPU that is cut has: profiles and where they begin.
const INSTANCES: [(&str, u32); 4] = [("1g.10gb", 0), ("1g.10gb", 1), ("2g.20gb", 2), ("3g.40gb", 4)];

/// One node.
pub(super) struct Node {
    pub(super) name: String,
    /// Whole GPUs.
    pub(super) gpus: u64,
    /// It has one GPU more, which is cut into MIG instances.
    is_cut: bool,
    pub(super) boot: u64,
    pub(super) up: bool,
    /// An operator keeps it switched off.
    pub(super) locked: bool,
    pub(super) agent: Option<Process>,
    pub(super) disk: NodeDisk,
    pub(super) cut_up: bool,
    pub(super) cut_down: bool,
    pub(super) lag_until: Ms,
    /// The last fault of the node or of its agent, or the last look at which it was not connected.
    pub(super) disturbed: Ms,
    pub(super) bad: BTreeSet<u64>,
    next_report: u64,
    /// Leases that it held once.
    old_leases: Vec<v1::Lease>,
}

/// An agent's process.
pub(super) struct Process {
    pub(super) life: u64,
    pub(super) agent: Agent,
    started: Ms,
    pub(super) link: Option<u64>,
    writes: VecDeque<Action>,
    followed: BTreeSet<MemberId>,
    backoff: Ms,
}

impl Node {
    pub(super) fn new(name: String, gpus: u64, is_cut: bool) -> Self {
        Self {
            name,
            gpus,
            is_cut,
            boot: 1,
            up: true,
            locked: false,
            agent: None,
            disk: NodeDisk::default(),
            cut_up: false,
            cut_down: false,
            lag_until: 0,
            disturbed: 0,
            bad: BTreeSet::new(),
            next_report: 1,
            old_leases: Vec::new(),
        }
    }

    fn health(&self, gpu: u64) -> Health {
        if self.bad.contains(&gpu) {
            Health { verdict: Verdict::Bad, reason: "XID 79".to_owned() }
        } else {
            Health::default()
        }
    }

    /// All GPUs, the one that is cut last.
    fn all_gpus(&self) -> std::ops::Range<u64> {
        0..self.gpus + u64::from(self.is_cut)
    }

    fn inventory(&self) -> v1::Inventory {
        let gpu = |index: u64| v1::GpuInventory {
            index: index as u32,
            uuid: format!("GPU-{}-{index}", self.name),
            model: MODEL.to_owned(),
            mig: index >= self.gpus,
            health: self.health(index).verdict.as_str().to_owned(),
            ..Default::default()
        };
        let instance = |(profile, first_slice): &(&str, u32)| v1::MigInstance {
            gpu: self.gpus as u32,
            profile: (*profile).to_owned(),
            first_slice: *first_slice,
            uuid: format!("MIG-{}-{first_slice}", self.name),
        };
        v1::Inventory {
            gpus: self.all_gpus().map(gpu).collect(),
            mig_instances: INSTANCES.iter().filter(|_| self.is_cut).map(instance).collect(),
            cpu_milli: 64_000,
            memory_mib: 1 << 20,
            ..Default::default()
        }
    }

    fn sample(&self) -> (Vec<GpuFacts>, Vec<GpuSample>) {
        let facts = |index: u64| GpuFacts {
            index: index as u32,
            uuid: format!("GPU-{}-{index}", self.name),
            model: MODEL.to_owned(),
            ..GpuFacts::default()
        };
        let sample = |index: u64| GpuSample {
            telemetry: v1::GpuTelemetry { index: index as u32, ..Default::default() },
            health: self.health(index),
        };
        (self.all_gpus().map(facts).collect(), self.all_gpus().map(sample).collect())
    }
}

impl World {
    /// The agent of `node` in this life, unless it has been killed since.
    fn agent_process(&mut self, node: usize, life: u64) -> Option<&mut Process> {
        self.nodes[node].agent.as_mut().filter(|process| process.life == life)
    }

    /// When to look again whether an agent that stands still goes on; none when it runs. What waits for it keeps its order.
    fn lags(&self, node: usize) -> Option<Ms> {
        let (now, until) = (self.agenda.now(), self.nodes[node].lag_until);
        (until > now).then_some(until.min((now / LAG_LOOK_MS + 1) * LAG_LOOK_MS))
    }

    pub(super) fn start_agent(&mut self, node: usize) {
        let now = self.agenda.now();
        if !self.nodes[node].up || self.nodes[node].agent.is_some() {
            return;
        }
        self.lives += 1;
        let life = self.lives;
        let at = &mut self.nodes[node];
        let identity = Identity {
            node: at.name.clone(),
            boot_id: format!("{}-{}", at.name, at.boot),
            heartbeat_ms: HEARTBEAT_MS,
            heartbeat_is_fixed: false,
        };
        at.next_report += 1_000;
        let (agent, effects) = Agent::recover(identity, at.disk.load(), at.next_report);
        at.agent = Some(Process {
            life,
            agent,
            started: now,
            link: None,
            writes: VecDeque::new(),
            followed: BTreeSet::new(),
            backoff: FIRST_BACKOFF_MS,
        });
        self.note(|| format!("agent {node} starts as {life}"));
        self.perform(node, effects);
        let phase = self.dice.below(HEARTBEAT_MS);
        self.agenda.put(now + phase, Event::Heartbeat(node, life));
        self.agenda.put(now + phase, Event::Tick(node, life));
        self.agenda.put(now + self.dice.below(50), Event::Connect(node, life));
    }

    /// The agent's process is killed; a write under way reaches the disk or not.
    pub(super) fn kill_agent(&mut self, node: usize) {
        let Some(mut process) = self.nodes[node].agent.take() else { return };
        self.note(|| format!("agent {node} is killed"));
        self.seen.agent_crashes += 1;
        if let Some(write) = process.writes.pop_front() {
            let how = if self.dice.chance(500) { Written::InDoubtDone } else { Written::InDoubtNot };
            self.write(node, write, how);
        }
        if let Some(link) = process.link {
            if let Some(link) = self.links.get_mut(&link) {
                link.agent_end = false;
            }
            let after = if self.dice.chance(800) { self.delay() } else { self.dice.between(1_000, 15_000) };
            self.agenda.put(self.agenda.now() + after, Event::LeaderSees(link));
        }
    }

    pub(super) fn lose_power(&mut self, node: usize) {
        if !self.nodes[node].up {
            return;
        }
        self.kill_agent(node);
        self.note(|| format!("node {node} loses its power"));
        self.seen.reboots += 1;
        self.nodes[node].up = false;
        for id in self.nodes[node].disk.lose_power() {
            self.oracle.process_ended(node, id, None);
        }
    }

    pub(super) fn power_on(&mut self, node: usize) {
        if self.nodes[node].up || self.nodes[node].locked {
            return;
        }
        self.note(|| format!("node {node} boots"));
        self.nodes[node].up = true;
        self.nodes[node].boot += 1;
        self.agenda.put(self.agenda.now() + 100, Event::AgentStart(node));
    }

    pub(super) fn agent_connects(&mut self, node: usize, life: u64) {
        if let Some(until) = self.lags(node) {
            return self.agenda.put(until, Event::Connect(node, life));
        }
        let blocked = self.nodes[node].cut_up || self.nodes[node].cut_down;
        let Some(process) = self.agent_process(node, life) else { return };
        if process.link.is_some() {
            return;
        }
        let wait = process.backoff;
        process.backoff = (process.backoff * 2).min(LONGEST_BACKOFF_MS);
        let leaders: Vec<u64> = self.processes.iter().map(|process| process.life).collect();
        let leader = self.dice.pick(&leaders).copied().filter(|_| !blocked);
        let Some(link) = leader.and_then(|leader| self.connect(node, leader)) else {
            let at = self.agenda.now() + wait / 2 + self.dice.below(wait / 2 + 1);
            return self.agenda.put(at, Event::Connect(node, life));
        };
        let inventory = self.nodes[node].inventory();
        let Some(process) = self.agent_process(node, life) else { return };
        process.link = Some(link);
        process.agent.open(inventory);
    }

    /// The agent's end of a stream sees that it is broken.
    pub(super) fn agent_sees(&mut self, id: u64) {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.agent_end) else { return };
        link.agent_end = false;
        let (node, life) = (link.node, link.agent_life);
        let Some(process) = self.agent_process(node, life).filter(|process| process.link == Some(id)) else { return };
        process.link = None;
        let wait = process.backoff;
        let effects = process.agent.closed("the stream broke".to_owned());
        self.perform(node, effects);
        let at = self.agenda.now() + wait / 2 + self.dice.below(wait / 2 + 1);
        self.agenda.put(at, Event::Connect(node, life));
    }

    /// A message of a scheduler has arrived.
    pub(super) fn pass_to_agent(&mut self, id: u64) {
        let Some(node) = self.links.get(&id).map(|link| link.node) else { return };
        if let Some(until) = self.lags(node) {
            return self.agenda.put(until, Event::ToAgent(id));
        }
        let Some(mut message) = self.next_for_agent(id) else { return };
        let Some(link) = self.links.get(&id).filter(|link| link.agent_end) else { return };
        let life = link.agent_life;
        let now = self.agenda.now();
        let unchecked = self.plant == Some(Plant::NoEpochCheck);
        let obeyed = self.nodes[node].disk.mark.epoch.0;
        let Some(process) = self.nodes[node].agent.as_mut().filter(|p| p.life == life && p.link == Some(id)) else {
            return;
        };
        let said = epoch_of(&message);
        if unchecked {
            raise_epoch(&mut message, process.agent.leases().mark().epoch);
        }
        let is_welcome = matches!(message.kind, Some(scheduler_message::Kind::Welcome(_)));
        if is_welcome {
            process.backoff = FIRST_BACKOFF_MS;
        }
        if self.trace {
            println!("{now:>9} agent {node} hears {message:?}");
        }
        let effects = process.agent.message(Millis(now - process.started), *message);
        let obeys = process.agent.is_welcomed() || effects.iter().any(|effect| !matches!(effect, Effect::HangUp));
        if obeys && is_welcome && said.is_some_and(|said| said < obeyed) {
            return self.broken(format!("agent {node} obeys epoch {said:?} after epoch {obeyed}"));
        }
        self.perform(node, effects);
    }

    pub(super) fn agent_hears(&mut self, node: usize, life: u64, input: Input) {
        if let Some(until) = self.lags(node) {
            return self.agenda.put(until, Event::Fact(node, life, Box::new(input)));
        }
        let now = self.agenda.now();
        let Some(process) = self.agent_process(node, life) else { return };
        let effects = process.agent.input(Millis(now - process.started), input);
        self.perform(node, effects);
    }

    pub(super) fn tick(&mut self, node: usize, life: u64) {
        if self.agent_process(node, life).is_some() {
            self.agent_hears(node, life, Input::Tick);
            self.agenda.put(self.agenda.now() + TICK_MS, Event::Tick(node, life));
        }
    }

    pub(super) fn heartbeat(&mut self, node: usize, life: u64) {
        let (facts, sample) = self.nodes[node].sample();
        let lags = self.lags(node).is_some();
        let Some(process) = self.agent_process(node, life) else { return };
        let (period, link) = (process.agent.heartbeat_ms(), process.link);
        if !lags
            && let Some(link) = link
            && let Some(message) = process.agent.heartbeat(&facts, &sample, v1::Telemetry::default())
        {
            self.send_to_leader(link, message);
        }
        self.agenda.put(self.agenda.now() + period, Event::Heartbeat(node, life));
    }

    fn perform(&mut self, node: usize, effects: Vec<Effect>) {
        let Some(life) = self.nodes[node].agent.as_ref().map(|process| process.life) else { return };
        for effect in effects {
            match effect {
                Effect::Say(message) => self.say(node, message),
                Effect::Write(action) => {
                    let Some(process) = self.agent_process(node, life) else { return };
                    process.writes.push_back(action);
                    if process.writes.len() == 1 {
                        let at = self.agenda.now() + self.dice.between(0, 5);
                        self.agenda.put(at, Event::Disk(node, life));
                    }
                }
                Effect::Stage(id, _) => self.stage(node, life, id),
                Effect::Start(id, launch) => self.start_shim(node, life, id, &launch),
                Effect::Adopt { id, same_boot, seal } => self.adopt(node, life, id, same_boot, seal),
                Effect::Stop(id, request) => self.stop(node, id, request.grace_ms),
                Effect::HangUp => {
                    if let Some(link) = self.agent_process(node, life).and_then(|process| process.link) {
                        self.break_link(link, 0, 20);
                    }
                }
                Effect::Forget(_) | Effect::ReadLog(_) | Effect::StopLog(_) | Effect::StopLogs | Effect::Exec(_) => {}
            }
        }
    }

    fn say(&mut self, node: usize, mut message: Box<v1::AgentMessage>) {
        let unchecked = self.plant == Some(Plant::NoEpochCheck);
        let early = self.plant == Some(Plant::LeaseRemovedEarly);
        let lies = !self.calm && self.dice.chance(self.swarm.old_leases);
        let at = &mut self.nodes[node];
        match message.kind.as_mut() {
            Some(agent_message::Kind::Hello(hello)) => {
                let held: BTreeSet<_> = hello.leases.iter().map(key_of).collect();
                let known = &at.old_leases;
                let old = known.iter().filter(|lease| !held.contains(&key_of(lease)) && self.oracle.is_over(lease));
                let old: Vec<v1::Lease> = old.take(2).cloned().collect();
                at.old_leases.extend(hello.leases.iter().cloned());
                if lies {
                    hello.leases.extend(old);
                }
                if self.trace {
                    println!("{:>9} agent {node} says hello with {:?}", self.agenda.now(), hello.leases);
                }
                if unchecked {
                    (hello.highest_epoch, hello.highest_seq) = (0, 0);
                }
            }
            Some(agent_message::Kind::Report(report)) if early => {
                if let Some(v1::report::What::Gone(_)) = report.what {
                    let id = MemberId { job: report.job_id, attempt: report.attempt, member: report.member };
                    at.disk.leases.remove(&id);
                    at.disk.folders.remove(&id);
                }
            }
            _ => {}
        }
        if let Some(link) = at.agent.as_ref().and_then(|process| process.link) {
            self.send_to_leader(link, message);
        }
    }

    /// The disk ends the oldest write.
    pub(super) fn disk(&mut self, node: usize, life: u64) {
        let fails = !self.calm && self.dice.chance(self.swarm.agent_disk);
        let how = match self.dice.below(3) {
            0 if fails => Written::Refused,
            1 if fails => Written::InDoubtDone,
            2 if fails => Written::InDoubtNot,
            _ => Written::Done,
        };
        let Some(process) = self.agent_process(node, life) else { return };
        let Some(write) = process.writes.pop_front() else { return };
        if !process.writes.is_empty() {
            let at = self.agenda.now() + self.dice.between(0, 5);
            self.agenda.put(at, Event::Disk(node, life));
        }
        if let Some(input) = self.write(node, write, how) {
            self.agent_hears(node, life, input);
        }
    }

    fn write(&mut self, node: usize, write: Action, how: Written) -> Option<Input> {
        let done = matches!(how, Written::Done | Written::InDoubtDone);
        if let Action::WriteLease { record, .. } = &write
            && done
            && !matches!(record.state, Recorded::Gone(_))
        {
            self.oracle.prepared(record.id);
        }
        match self.nodes[node].disk.write(write, how) {
            Ok(input) => input,
            Err(why) => {
                self.broken(format!("node {node}: {why}"));
                None
            }
        }
    }

    /// Brings an image to the node: sometimes late, sometimes in vain.
    fn stage(&mut self, node: usize, life: u64, id: MemberId) {
        let took = if self.calm { 100 } else { *self.dice.pick(&[100, 2_000, 20_000]).unwrap_or(&100) };
        let at = self.agenda.now() + self.dice.between(1, took);
        let fact = if !self.calm && self.dice.chance(self.swarm.launch_fails) {
            Input::Unstaged(id, "no such image".to_owned())
        } else {
            self.oracle.staged(node, id);
            Input::Staged(id)
        };
        self.agenda.put(at, Event::Fact(node, life, Box::new(fact)));
    }

    fn start_shim(&mut self, node: usize, life: u64, id: MemberId, launch: &Launch) {
        let at = self.agenda.now() + self.dice.between(1, 200);
        let boot = self.nodes[node].boot;
        if let Some(process) = self.agent_process(node, life) {
            process.followed.insert(id);
        }
        self.agenda.put(at, Event::Shim(node, boot, id, Box::new(launch.clone())));
    }

    /// What `dure shim` does: claims the folder, starts the process, once.
    pub(super) fn shim(&mut self, node: usize, boot: u64, id: MemberId, launch: &Launch) {
        let now = self.agenda.now();
        let fails = !self.calm && self.dice.chance(self.swarm.launch_fails);
        if self.nodes[node].boot != boot || !self.nodes[node].up {
            return;
        }
        let Some(folder) = self.nodes[node].disk.folders.get_mut(&id) else { return };
        if !folder.claimed {
            folder.claimed = true;
            if folder.stop || fails {
                folder.exit = Some(Exit::never_ran("stopped, or the launch failed"));
            } else {
                folder.alive = true;
                self.seen.starts += 1;
                self.note(|| format!("node {node} starts {id} on GPUs {:?}", launch.gpus));
                if let Err(why) = self.oracle.process_started(now, node, id, launch) {
                    return self.broken(why);
                }
                let exit = exit_of(id, launch, now);
                self.agenda.put(exit.ended_ms, Event::End(node, boot, id, Box::new(exit)));
            }
        }
        self.tell_of(node, id);
    }

    /// The launcher says what the shim's files say, if it follows the member.
    fn tell_of(&mut self, node: usize, id: MemberId) {
        let at = self.agenda.now() + self.dice.between(0, 30);
        let Some(folder) = self.nodes[node].disk.folders.get(&id) else { return };
        let fact = match &folder.exit {
            Some(exit) => Input::Gone { id, exit: exit.clone() },
            None => Input::Started { id, pid: 1 },
        };
        if let Some(process) = self.nodes[node].agent.as_ref().filter(|process| process.followed.contains(&id)) {
            self.agenda.put(at, Event::Fact(node, process.life, Box::new(fact)));
        }
    }

    /// A process ends.
    pub(super) fn end(&mut self, node: usize, boot: u64, id: MemberId, exit: Exit) {
        if self.nodes[node].boot != boot || !self.nodes[node].up {
            return;
        }
        let Some(folder) = self.nodes[node].disk.folders.get_mut(&id).filter(|folder| folder.alive) else { return };
        folder.alive = false;
        folder.exit = Some(exit.clone());
        self.note(|| format!("node {node}: {id} ends: {:?}", exit.how));
        self.oracle.process_ended(node, id, Some(&exit));
        self.tell_of(node, id);
    }

    fn stop(&mut self, node: usize, id: MemberId, grace_ms: u64) {
        let now = self.agenda.now();
        let took = self.dice.between(0, grace_ms.min(10_000)) + self.dice.below(20);
        let boot = self.nodes[node].boot;
        let folder = self.nodes[node].disk.folders.entry(id).or_default();
        folder.stop = true;
        if folder.alive {
            let exit = Exit {
                how: How::Signal(15),
                timed_out: false,
                started_ms: now,
                ended_ms: now + took,
                ..Exit::unknown("")
            };
            self.agenda.put(now + took, Event::End(node, boot, id, Box::new(exit)));
        }
    }

    fn adopt(&mut self, node: usize, life: u64, id: MemberId, same_boot: bool, seal: bool) {
        let folder = self.nodes[node].disk.folders.entry(id).or_default();
        if folder.exit.is_none() && !same_boot {
            folder.exit = Some(Exit::unknown("the node was restarted"));
        }
        if folder.exit.is_none() && !folder.claimed && seal {
            (folder.claimed, folder.exit) = (true, Some(Exit::never_ran("sealed")));
        }
        let fact = match &folder.exit {
            Some(exit) => Input::Gone { id, exit: exit.clone() },
            None if folder.alive => Input::Started { id, pid: 1 },
            None => Input::NotStarted(id),
        };
        if let Some(process) = self.agent_process(node, life) {
            process.followed.insert(id);
        }
        let at = self.agenda.now() + self.dice.between(0, 30);
        self.agenda.put(at, Event::Fact(node, life, Box::new(fact)));
    }
}

/// How the process of a member ends when nobody stops it.
fn exit_of(id: MemberId, launch: &Launch, now: Ms) -> Exit {
    let payload = launch.payload.as_ref();
    let number = |name: &str| payload?.env.get(name)?.parse::<u64>().ok();
    let (run, code) = (number("DURE_SIM_DURATION_MS").unwrap_or(0), number("DURE_SIM_EXIT_CODE").unwrap_or(0));
    // What a script was given beside its own member runs until it is stopped.
    let is_held = id.member > 0 && is_script(launch);
    let limit = launch.time_limit_ms.max(1);
    let timed_out = is_held || run > limit;
    let (run, how) = if timed_out { (limit, How::Signal(15)) } else { (run, How::Code(code as i32)) };
    Exit { how, timed_out, started_ms: now, ended_ms: now + run, ..Exit::unknown("") }
}

/// Whether its script runs on the first member alone.
pub(super) fn is_script(launch: &Launch) -> bool {
    launch.payload.as_ref().is_some_and(|payload| payload.batch)
}

fn key_of(lease: &v1::Lease) -> (u64, u32, u32) {
    (lease.job_id, lease.attempt, lease.member)
}

/// The epoch under which something is said that an agent may obey.
fn epoch_of(message: &SchedulerMessage) -> Option<u64> {
    match message.kind.as_ref()? {
        scheduler_message::Kind::Welcome(welcome) => Some(welcome.epoch),
        scheduler_message::Kind::Order(order) => Some(order.epoch),
        _ => None,
    }
}

/// As an agent would hear it that does not look at epochs.
fn raise_epoch(message: &mut SchedulerMessage, to: Epoch) {
    match message.kind.as_mut() {
        Some(scheduler_message::Kind::Welcome(welcome)) => {
            welcome.epoch = welcome.epoch.max(to.0);
            for order in &mut welcome.wanted {
                order.epoch = order.epoch.max(to.0);
            }
        }
        Some(scheduler_message::Kind::Order(order)) => order.epoch = order.epoch.max(to.0),
        _ => {}
    }
}
