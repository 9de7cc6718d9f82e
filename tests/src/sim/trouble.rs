//! The faults as they strike, and the day on which they all end.

use dure_core::Input;
use dure_core::input::BookingDraft;
use dure_core::units::{Span, Time};

use super::clock::Ms;
use super::faults::Kind;
use super::leader::{DEADLINES, WALL};
use super::workload::MISSIONS;
use super::world::{Event, World};

impl World {
    /// One fault, and the time of the next.
    pub(super) fn fault(&mut self) {
        if self.calm {
            return;
        }
        let next = self.dice.between(1, self.swarm.fault_every_ms * 2);
        self.agenda.put(self.agenda.now() + next, Event::Fault);
        let Some(kind) = self.dice.pick(&self.swarm.kinds).copied() else { return };
        match kind {
            Kind::Crash
            | Kind::Depose
            | Kind::StoreCut
            | Kind::Pause
            | Kind::FailedWrite
            | Kind::SlowDisk
            | Kind::ClockJump => {
                self.trouble_leader(kind);
            }
            Kind::Partition | Kind::Break | Kind::AgentCrash | Kind::Reboot | Kind::Lag | Kind::BadGpu => {
                self.trouble_node(kind);
            }
            Kind::Operator => self.operate(),
        }
    }

    fn trouble_leader(&mut self, kind: Kind) {
        let now = self.agenda.now();
        self.disturbed = now;
        let Some(life) = self.leading().map(|process| process.life) else { return };
        match kind {
            Kind::Crash => {
                let lands = self.dice.chance(500);
                self.kill_leader(life, "killed", lands);
                if self.swarm.lying_disk && self.dice.chance(300) {
                    let lost = self.dice.between(1, 3) as usize;
                    self.lost_batches += self.store.lose_tail(lost);
                }
            }
            Kind::Depose => self.depose(),
            Kind::StoreCut => self.cut_store(life),
            Kind::Pause => {
                let until = now + self.dice.between(500, 15_000);
                self.note(|| format!("scheduler {life} stands still until {until}"));
                if let Some(process) = self.process(life) {
                    process.paused_until = until;
                }
            }
            Kind::FailedWrite => self.fail_next_write(),
            Kind::SlowDisk => self.slow_until = now + self.dice.between(1_000, 10_000),
            Kind::ClockJump => {
                let hour = 3_600_000;
                self.wall_jump = self.dice.below(2 * hour) as i64 - hour as i64;
                let lands = self.dice.chance(500);
                self.kill_leader(life, "killed; the wall clock jumps", lands);
            }
            _ => {}
        }
    }

    fn trouble_node(&mut self, kind: Kind) {
        let now = self.agenda.now();
        let node = self.dice.below(self.nodes.len() as u64) as usize;
        self.nodes[node].disturbed = now;
        match kind {
            Kind::Partition => {
                let (up, down) =
                    *self.dice.pick(&[(true, true), (true, false), (false, true)]).unwrap_or(&(true, true));
                let lasts = self.lasts();
                self.note(|| format!("node {node} is cut off (up {up}, down {down}) for {lasts} ms"));
                self.seen.partitions += 1;
                self.cut(node, up, down);
                self.agenda.put(now + lasts, Event::Heal(node));
            }
            Kind::Break => self.flap(node),
            Kind::AgentCrash => {
                self.kill_agent(node);
                let after = self.dice.between(50, 8_000);
                self.agenda.put(now + after, Event::AgentStart(node));
            }
            Kind::Reboot => {
                self.lose_power(node);
                let lasts = self.lasts();
                self.agenda.put(now + lasts, Event::PowerOn(node));
                if lasts > DEADLINES.lost_after.0 + 10_000 && self.dice.chance(500) {
                    self.confirm_dead(node);
                }
            }
            Kind::Lag => self.nodes[node].lag_until = now + self.lasts(),
            Kind::BadGpu => {
                let gpu = self.dice.below(self.swarm.gpus);
                let bad = &mut self.nodes[node].bad;
                if !bad.remove(&gpu) {
                    bad.insert(gpu);
                }
            }
            _ => {}
        }
    }

    /// The stream of a node's agent breaks, if it has one.
    pub(super) fn flap(&mut self, node: usize) {
        if let Some(link) = self.nodes[node].agent.as_ref().and_then(|process| process.link) {
            let slow = if self.dice.chance(500) { 2_000 } else { 50 };
            let (agent, leader) = (self.dice.below(slow), self.dice.below(10_000));
            self.break_link(link, agent, leader);
        }
    }

    /// Shorter or longer than the deadlines.
    fn lasts(&mut self) -> Ms {
        let longest = *self.dice.pick(&[2_000, 10_000, 60_000]).unwrap_or(&10_000);
        self.dice.between(100, longest)
    }

    /// An operator who has switched a node off says so, and keeps it off until that is recorded.
    fn confirm_dead(&mut self, node: usize) {
        let name: Box<str> = self.nodes[node].name.as_str().into();
        self.nodes[node].locked = true;
        let at = self.agenda.now() + DEADLINES.lost_after.0 + 5_000;
        let request = self.ask(Input::ConfirmDead { node: name }, at);
        self.agenda.put(at + 500, Event::Unlock(node, request));
    }

    /// The node may be switched on again once the operator has an answer.
    pub(super) fn unlock(&mut self, node: usize, request: usize) {
        let now = self.agenda.now();
        if !self.clients.requests[request].done {
            return self.agenda.put(now + 500, Event::Unlock(node, request));
        }
        // Copies of the request must not arrive after the node is back.
        if self.nodes[node].locked {
            self.nodes[node].locked = false;
            self.agenda.put(now + self.swarm.delay_ms + 10, Event::PowerOn(node));
        }
    }

    fn operate(&mut self) {
        let node = self.dice.below(self.nodes.len() as u64) as usize;
        let name: Box<str> = self.nodes[node].name.as_str().into();
        let mission = Box::from(*self.dice.pick(&MISSIONS).unwrap_or(&MISSIONS[0]));
        let invites = self.swarm.invited > 0 && self.shapes.chance(self.swarm.invited);
        let input = match self.dice.below(9) {
            _ if invites => self.invitation(name, mission),
            0 => Input::Cordon { node: name },
            1 => Input::Drain { node: name, evict: false },
            2 => Input::Drain { node: name, evict: true },
            3 => Input::Pause { tenant: mission, paused: true },
            4 => Input::Pause { tenant: mission, paused: false },
            5 => self.booking(name, mission),
            6 => Input::CancelBooking { name: self.booking_name() },
            _ => Input::Resume { node: name },
        };
        let now = self.agenda.now();
        self.ask(input, now);
    }

    /// One of few names: some are taken, and some of those that are cancelled are there.
    fn booking_name(&mut self) -> Box<str> {
        format!("b{}", self.dice.below(3)).into()
    }

    /// A node is kept for a while, for nobody or for a mission.
    fn booking(&mut self, node: Box<str>, mission: Box<str>) -> Input {
        let from = Time(WALL + self.agenda.now() + self.dice.below(40_000));
        let maintenance = self.dice.chance(500);
        Input::Book(BookingDraft {
            name: self.booking_name(),
            from,
            until: Some(from + Span(self.dice.between(1_000, 40_000))),
            nodes: vec![node],
            maintenance,
            tenant: if maintenance { "".into() } else { mission },
            all_jobs: !maintenance && self.dice.chance(700),
            spares_running: self.dice.chance(300),
            force: self.dice.chance(500),
            ..BookingDraft::default()
        })
    }

    /// A node is kept for the jobs that name the booking, soon.
    fn invitation(&mut self, node: Box<str>, mission: Box<str>) -> Input {
        let name = self.booking_name();
        let dice = &mut self.shapes;
        let from = Time(WALL + self.agenda.now() + dice.below(20_000));
        let until = Some(from + Span(dice.between(5_000, 60_000)));
        let (spares_running, force) = (dice.chance(300), dice.chance(700));
        let nodes = vec![node];
        Input::Book(BookingDraft {
            name,
            from,
            until,
            nodes,
            tenant: mission,
            spares_running,
            force,
            ..BookingDraft::default()
        })
    }

    /// All faults are over: everything must finish now.
    pub(super) fn lift(&mut self) {
        self.note(|| "all faults are over".to_owned());
        self.calm = true;
        let now = self.agenda.now();
        self.next_write_fails = None;
        self.slow_until = 0;
        let deposed: Vec<u64> = self.processes.iter().filter(|p| p.deposed).map(|p| p.life).collect();
        for life in deposed {
            self.kill_leader(life, "deposed", false);
        }
        for process in &mut self.processes {
            process.paused_until = 0;
            process.cut_until = 0;
        }
        self.agenda.put(now, Event::Start);
        let lives: Vec<u64> = self.processes.iter().map(|process| process.life).collect();
        for life in lives {
            self.agenda.put(now + 1, Event::Commit(life));
            self.wake(life);
        }
        for node in 0..self.nodes.len() {
            self.heal(node);
            self.nodes[node].lag_until = 0;
            self.nodes[node].bad.clear();
            self.agenda.put(now + 1_000, Event::PowerOn(node));
            self.agenda.put(now + 2_000, Event::AgentStart(node));
        }
        // Streams that were told of leases long over begin anew.
        for link in self.links.keys().copied().collect::<Vec<_>>() {
            self.break_link(link, 5_000, 5_000);
        }
        self.set_right();
    }
}
