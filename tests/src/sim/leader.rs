//! The scheduler's process: pumps `Leader` and `Committer` as `run` and the writer's thread do, and dies at any point.

use std::collections::{BTreeMap, VecDeque};

use dure_core::Policy;
use dure_core::ids::{Epoch, Seq};
use dure_core::units::{Span, Time};
use dure_proto::v1::agent_message::Kind;
use dure_scheduler::agents::FromAgent;
use dure_scheduler::agents::liveness::Deadlines;
use dure_scheduler::agents::session::challenge;
use dure_scheduler::follower::{FollowerConfig, Following};
use dure_scheduler::grpc::watch::Watchers;
use dure_scheduler::handle::Call;
use dure_scheduler::journal::memory::Fault;
use dure_scheduler::journal::{Committer, Engine as _, JournalError, MemoryEngine, OpenOptions, Write, WriterLimits};
use dure_scheduler::lead::Leader;
use dure_scheduler::perform::{Payloads, Performer};
use dure_scheduler::recover::recover;
use dure_scheduler::turn::{Scheduler, Settings};

use super::clock::Ms;
use super::faults::Plant;
use super::world::{Event, World};

/// When silence means what.
pub(super) const DEADLINES: Deadlines =
    Deadlines { heartbeat: Span(1_000), suspect_after: Span(4_000), lost_after: Span(12_000) };
/// A turn is taken at least this often.
const IDLE_MS: Ms = 500;
/// A leader that its store has not heard for so long is replaced.
const LEASE_MS: Ms = 3_000;
/// Wall time when the world begins.
pub(super) const WALL: u64 = 1_800_000_000_000;

/// One process.
pub(super) struct Process {
    pub(super) life: u64,
    pub(super) leader: Leader,
    committer: Committer,
    following: Following,
    /// Waits for the commit under way.
    queue: VecDeque<Write>,
    /// The end of the commit under way.
    committing: Option<Seq>,
    pub(super) calls: Vec<Call>,
    pub(super) messages: Vec<FromAgent>,
    /// When the next turn is due.
    turn_at: Ms,
    /// The scheduler's time when it started, and the world's.
    clock: (Time, Ms),
    sessions: u64,
    pub(super) paused_until: Ms,
    /// Until then its store does not hear it.
    pub(super) cut_until: Ms,
    /// Another one leads: its commits wait until they fail.
    pub(super) deposed: bool,
    commits: u64,
}

pub(super) fn policy(plant: Option<Plant>) -> Policy {
    Policy {
        launch_deadline: Span::seconds(15),
        time_limit_slack: Span::seconds(5),
        backoff: Span::seconds(1),
        max_backoff: Span::seconds(10),
        max_grace: Span::seconds(10),
        kill_bound: Span::seconds(10),
        keep_ended: Span::seconds(60),
        flaw: plant.and_then(Plant::in_the_core),
        ..Policy::standard()
    }
}

impl World {
    pub(super) fn process(&mut self, life: u64) -> Option<&mut Process> {
        self.processes.iter_mut().find(|process| process.life == life)
    }

    /// The process that leads, as far as the store knows.
    pub(super) fn leading(&self) -> Option<&Process> {
        self.processes.iter().find(|process| !process.deposed)
    }

    /// A scheduler starts: opens the journal, recovers, leads.
    pub(super) fn start_leader(&mut self) {
        if self.leading().is_some() {
            return;
        }
        let engine = match MemoryEngine::open(&self.store, OpenOptions::default()) {
            Ok(engine) => engine,
            Err(JournalError::Damaged { .. }) if self.lost_batches > 0 => return self.restore(),
            Err(err) => return self.broken(format!("a journal that nobody damaged does not open: {err}")),
        };
        if self.lost_batches > 0 {
            return self.broken("a scheduler leads on a journal that has lost acknowledged batches".to_owned());
        }
        let recovered = match recover(&engine, policy(self.plant)) {
            Ok(recovered) => recovered,
            Err(err) => return self.broken(format!("recovery: {err}")),
        };
        if let Err(why) = self.oracle.recovered(&engine, &recovered) {
            return self.broken(why);
        }
        let restored = engine.head().epoch < engine.restore_floor();
        let (epoch, floor) = (Epoch(engine.epoch()), Epoch(engine.restore_floor()));
        let now = self.agenda.now();
        let wall = (WALL + now).saturating_add_signed(std::mem::take(&mut self.wall_jump));
        let start = Time(wall).max(recovered.time);
        let config = FollowerConfig {
            snapshot_events: self.swarm.snapshot_events,
            snapshot_span: Span::seconds(1_800),
            ..FollowerConfig::standard()
        };
        let settings = Settings {
            epoch,
            restore_floor: floor,
            terms: recovered.terms.clone(),
            store_id: format!("{:?}", engine.store_id()),
            deadlines: DEADLINES,
            topology: BTreeMap::new(),
        };
        let store = self.store.clone();
        let payloads = Payloads::new(Box::new(move |id| Ok(store.blob(id))));
        let performer = Performer { payloads, watchers: Watchers::new() };
        let following = Following::new(&recovered, config);
        let scheduler = Scheduler::new(recovered.cluster, recovered.head, settings, start);
        self.lives += 1;
        self.disturbed = now;
        let life = self.lives;
        self.note(|| format!("scheduler {life} leads epoch {epoch} from position {}", recovered.head));
        let mut process = Process {
            life,
            leader: Leader::new(scheduler, performer, epoch),
            committer: Committer::new(Box::new(engine), WriterLimits::default()),
            following,
            queue: VecDeque::new(),
            committing: None,
            calls: Vec::new(),
            messages: Vec::new(),
            turn_at: now,
            clock: (start, now),
            sessions: 0,
            paused_until: 0,
            cut_until: 0,
            deposed: false,
            commits: 0,
        };
        if restored {
            let input = dure_scheduler::start::skipped_ids(floor);
            let then = Box::new(|_: &_, _| Box::new(|_| ()) as _);
            let by = dure_scheduler::auth::Caller::default();
            let mutation = dure_scheduler::handle::Mutation { by, input, key: None, blobs: Vec::new(), then };
            process.calls.push(Call::Mutate(Box::new(mutation)));
        }
        self.processes.push(process);
        self.agenda.put(now, Event::Turn(life));
    }

    /// The operator's answer to a journal that has lost something: the newest backup, which here is what is left.
    fn restore(&mut self) {
        self.note(|| "the loss was noticed: the journal is restored".to_owned());
        self.seen.restores += 1;
        self.lost_batches = 0;
        self.store.restore();
        self.oracle.gave_up(policy(self.plant));
        self.agenda.put(self.agenda.now() + 1_000, Event::Start);
    }

    /// A turn is wanted soon.
    pub(super) fn wake(&mut self, life: u64) {
        let at = self.agenda.now() + self.dice.below(3);
        if let Some(process) = self.process(life)
            && process.turn_at > at
        {
            process.turn_at = at;
            self.agenda.put(at, Event::Turn(life));
        }
    }

    pub(super) fn turn(&mut self, life: u64) {
        let now = self.agenda.now();
        let Some(process) = self.process(life) else { return };
        if process.turn_at > now {
            return;
        }
        if process.paused_until > now {
            let until = process.paused_until;
            process.turn_at = until;
            self.agenda.put(until, Event::Turn(life));
            return;
        }
        if !process.leader.has_room() {
            process.turn_at = now + 1;
            self.agenda.put(now + 1, Event::Turn(life));
            return;
        }
        let (calls, messages) = (std::mem::take(&mut process.calls), std::mem::take(&mut process.messages));
        let time = Time(process.clock.0.0 + (now - process.clock.1));
        let led = process.leader.turn(calls, messages, time);
        let scheduler = process.leader.scheduler();
        let idle = if led.more { 0 } else { scheduler.next_timer().unwrap_or(Time::NEVER).since(time).0.min(IDLE_MS) };
        process.turn_at = now + idle.max(1);
        let turn_at = process.turn_at;
        let fatal = scheduler.fatal().map(ToString::to_string);
        if let Some((batch, blobs)) = led.batch {
            process.queue.push_back(Write::Append(batch, blobs));
        }
        self.agenda.put(turn_at, Event::Turn(life));
        if let Some(why) = fatal {
            let deposed = self.process(life).is_some_and(|process| process.deposed);
            if !deposed {
                return self.broken(format!("the only leader must stop: {why}"));
            }
            return self.kill_leader(life, &why, false);
        }
        self.flush(life);
        self.drain_answers();
        self.begin_commit(life);
        self.check_state(life);
    }

    fn begin_commit(&mut self, life: u64) {
        let now = self.agenda.now();
        let slow = if now < self.slow_until { self.dice.between(200, 2_000) } else { 0 };
        let took = slow + if self.calm { 1 } else { self.dice.between(0, self.swarm.commit_ms) };
        let plant = self.plant;
        let Some(process) = self.process(life) else { return };
        if process.committing.is_some() || process.queue.is_empty() {
            return;
        }
        let mut last = process.committer.head().seq;
        while let Some(write) = process.queue.pop_front() {
            if let Write::Append(batch, _) = &write {
                last = batch.last_seq();
            }
            drop(process.committer.push(write)); // a snapshot that a newer one replaces is no loss
            if process.committer.is_full() {
                break;
            }
        }
        process.committing = Some(Seq(last));
        // One that was deposed hears of it when its first write fails.
        let took = if process.deposed { took + 3_000 } else { took };
        self.agenda.put(now + took, Event::Commit(life));
        if plant == Some(Plant::AckBeforeCommit) {
            self.now_durable(life, Seq(last));
        }
    }

    pub(super) fn commit(&mut self, life: u64) {
        let now = self.agenda.now();
        if let Some(process) = self.process(life)
            && process.paused_until.max(process.cut_until) > now
        {
            let until = process.paused_until.max(process.cut_until);
            return self.agenda.put(until, Event::Commit(life));
        }
        if self.process(life).is_some_and(|process| !process.deposed)
            && let Some(fault) = self.next_write_fails.take()
        {
            self.note(|| format!("a write fails: {fault:?}"));
            self.store.fail_after(0, fault);
        }
        let Some(process) = self.process(life) else { return };
        let Some(_) = process.committing.take() else { return };
        let committed = process.committer.commit().and_then(|durable| {
            process.committer.keep_house()?;
            Ok(durable)
        });
        match committed {
            Ok(Some(durable)) => self.now_durable(life, Seq(durable.head.seq)),
            Ok(None) => {}
            Err(err) => return self.kill_leader(life, &format!("the journal failed: {err}"), false),
        }
        self.begin_commit(life);
    }

    fn now_durable(&mut self, life: u64, seq: Seq) {
        let mut notes = Vec::new();
        let Some(process) = self.processes.iter_mut().find(|process| process.life == life) else { return };
        process.commits += 1;
        for turn in process.leader.durable(seq) {
            match process.following.apply(&turn) {
                Ok(Some(snapshot)) => process.queue.push_back(Write::Snapshot(snapshot)),
                Ok(None) => {}
                Err(err) => notes.push(format!("the follower: {err}")),
            }
            self.seen.batches += 1;
            self.digest.mix(turn.first_seq);
            if let Err(why) = self.oracle.durable(&turn) {
                notes.push(why);
            }
            if self.trace {
                println!("{:>9} journal {}: {:?}", self.agenda.now(), turn.first_seq, turn.events);
            }
        }
        let settled = process.leader.is_settled();
        if settled && process.commits % 32 == 0 && notes.is_empty() {
            let scheduler = process.leader.scheduler();
            let (head, digest) = (scheduler.head(), scheduler.cluster().digest());
            notes.extend(process.following.compare(head, digest).err().map(|err| err.to_string()));
        }
        if let Some(why) = notes.into_iter().next() {
            return self.broken(why);
        }
        self.flush(life);
        self.drain_answers();
    }

    /// The process is gone, at this very point. Half of the time a commit under way reaches the disk all the same.
    pub(super) fn kill_leader(&mut self, life: u64, why: &str, lands: bool) {
        let Some(at) = self.processes.iter().position(|process| process.life == life) else { return };
        self.note(|| format!("scheduler {life} is gone: {why}"));
        self.seen.crashes += 1;
        let mut process = self.processes.remove(at);
        if process.committing.is_some() && lands {
            if self.dice.chance(300) {
                self.store.fail_after(0, Fault::Torn);
            }
            drop(process.committer.commit()); // nobody hears of it
            self.store.heal();
        }
        process.leader.abandon(why);
        let was_leading = !process.deposed;
        drop(process);
        self.drain_answers();
        let links: Vec<u64> =
            self.links.iter().filter(|(_, link)| link.leader_life == life).map(|(id, _)| *id).collect();
        for id in links {
            if let Some(link) = self.links.get_mut(&id) {
                link.leader_end = false;
            }
            let after = if self.dice.chance(800) { self.delay() } else { self.dice.between(1_000, 12_000) };
            self.agenda.put(self.agenda.now() + after, Event::AgentSees(id));
        }
        if was_leading {
            let away = if self.calm { 100 } else { self.dice.between(50, 8_000) };
            self.agenda.put(self.agenda.now() + away, Event::Start);
        }
    }

    /// Another scheduler takes over; the old one does not know yet.
    pub(super) fn depose(&mut self) {
        let Some(process) = self.processes.iter_mut().find(|process| !process.deposed) else { return };
        process.deposed = true;
        let life = process.life;
        self.note(|| format!("scheduler {life} is deposed and does not know"));
        self.store.depose();
        self.agenda.put(self.agenda.now() + self.dice.between(0, 500), Event::Start);
        // While both live agents lose their streams, and find the one or the other.
        for node in 0..self.nodes.len() {
            for _ in 0..self.dice.below(4) {
                let at = self.agenda.now() + self.dice.below(DEADLINES.suspect_after.0);
                self.agenda.put(at, Event::Flap(node));
            }
        }
    }

    /// The store does not hear a scheduler for a while. It goes on with what it has, and when its lease runs out before the
    /// cut ends, another one leads.
    pub(super) fn cut_store(&mut self, life: u64) {
        let now = self.agenda.now();
        let lasts = self.dice.between(100, 3 * LEASE_MS);
        self.note(|| format!("scheduler {life} is cut off from its store for {lasts} ms"));
        let Some(process) = self.process(life) else { return };
        process.cut_until = process.cut_until.max(now + lasts);
        if lasts > LEASE_MS {
            self.agenda.put(now + LEASE_MS, Event::LeaseOver(life));
        }
    }

    /// The lease of a scheduler that its store does not hear runs out.
    pub(super) fn lease_over(&mut self, life: u64) {
        let now = self.agenda.now();
        if !self.calm && self.process(life).is_some_and(|process| !process.deposed && process.cut_until > now) {
            self.depose();
        }
    }

    /// A message of an agent has arrived.
    pub(super) fn pass_to_leader(&mut self, id: u64) {
        let Some(message) = self.next_for_leader(id) else { return };
        let Some(link) = self.links.get_mut(&id).filter(|link| link.leader_end) else { return };
        let (life, node) = (link.leader_life, self.nodes[link.node].name.clone());
        let Some(process) = self.processes.iter_mut().find(|process| process.life == life) else { return };
        let from = match (message.kind, link.session) {
            (None, None) => {
                process.sessions += 1;
                link.session = Some(process.sessions);
                challenge(&link.outgoing, process.sessions);
                return self.flush(life);
            }
            (Some(Kind::Hello(hello)), Some(session)) => {
                FromAgent::Opened { session, hello: Box::new(hello), outgoing: link.outgoing.clone() }
            }
            (Some(Kind::Heartbeat(heartbeat)), Some(session)) => {
                FromAgent::Heartbeat { session, node, heartbeat: Box::new(heartbeat) }
            }
            (Some(Kind::Report(report)), Some(session)) => {
                FromAgent::Reported { session, node, report: Box::new(report) }
            }
            _ => return,
        };
        process.messages.push(from);
        self.wake(life);
    }

    /// The scheduler's end of a stream sees that it is broken.
    pub(super) fn leader_sees(&mut self, id: u64) {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.leader_end) else { return };
        link.leader_end = false;
        let (life, session, node) = (link.leader_life, link.session, self.nodes[link.node].name.clone());
        if let (Some(process), Some(session)) = (self.process(life), session) {
            process.messages.push(FromAgent::Closed { session, node });
            self.wake(life);
        }
    }

    /// The core's own properties, now and then.
    fn check_state(&mut self, life: u64) {
        self.turns += 1;
        if !self.turns.is_multiple_of(64) {
            return;
        }
        let Some(process) = self.processes.iter().find(|process| process.life == life) else { return };
        if let Err(why) = dure_core::invariants::check_all(process.leader.scheduler().cluster()) {
            self.broken(why);
        }
    }

    /// How the next commit is to fail.
    pub(super) fn fail_next_write(&mut self) {
        let faults = [Fault::Refused, Fault::DiskFull, Fault::LostAnswer, Fault::Torn];
        self.next_write_fails = self.dice.pick(&faults).copied();
    }
}
