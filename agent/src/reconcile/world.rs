//! The core in a world that misbehaves: orders repeated, reordered and late, disks that refuse, shims that are slow,
//! restarts of agent and node at any point. What must hold is asserted at every step; at the end all faults are lifted
//! and everything must finish.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::model::{How, Launch, News, Report, StopRequest, Want};

#[derive(Clone, Debug)]
enum Step {
    Order {
        member: usize,
        sequence: u32,
        epoch: u64,
    },
    Welcome {
        epoch: u64,
        knows: bool,
    },
    /// The disk finishes its oldest write; 0 well, 1 refused, 2 in doubt and done, 3 in doubt and not done.
    Disk(u8),
    /// A shim that was started gets to run.
    Shim(usize),
    /// The launcher's answer arrives.
    Fact,
    End(usize),
    Ack {
        lost: bool,
    },
    Tick,
    RestartAgent,
    RestartNode,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let order = (0..4_usize, 1..5_u32, 1..4_u64).prop_map(|(member, sequence, epoch)| Step::Order {
        member,
        sequence,
        // Mostly the leader of now.
        epoch: if epoch == 3 { 2 } else { 1 },
    });
    let step = prop_oneof![
        6 => order,
        1 => (1..4_u64, any::<bool>()).prop_map(|(epoch, knows)| Step::Welcome { epoch, knows }),
        8 => prop_oneof![9 => Just(0_u8), 1 => 1..4_u8].prop_map(Step::Disk),
        5 => (0..8_usize).prop_map(Step::Shim),
        5 => Just(Step::Fact),
        2 => (0..4_usize).prop_map(Step::End),
        3 => any::<bool>().prop_map(|lost| Step::Ack { lost }),
        1 => Just(Step::Tick),
        1 => Just(Step::RestartAgent),
        1 => prop_oneof![4 => Just(Step::Tick), 1 => Just(Step::RestartNode)],
    ];
    vec(step, 1..120)
}

fn id(member: usize) -> MemberId {
    MemberId { job: 1 + (member as u64) / 2, attempt: 1, member: (member as u32) % 2 }
}

/// What the member's folder holds besides the lease.
#[derive(Default)]
struct Folder {
    claimed: bool,
    alive: bool,
    stop: bool,
    exit: Option<Exit>,
}

struct World {
    core: Leases,
    now: u64,
    boot: u32,
    next_report: u64,
    /// Disk.
    mark: EpochMark,
    leases: BTreeMap<MemberId, LeaseRecord>,
    folders: BTreeMap<MemberId, Folder>,
    /// What the agent has under way; lost at its restart.
    writes: VecDeque<Action>,
    facts: VecDeque<Input>,
    followed: BTreeSet<MemberId>,
    sent: Vec<Report>,
    /// Shims that were started and have not claimed yet; they survive the agent.
    shims: Vec<MemberId>,
    starts: BTreeMap<MemberId, u32>,
    /// The scheduler's side.
    recorded: BTreeSet<MemberId>,
    /// Ends recorded in this life of the agent, with the newest epoch of then: late orders of that leader and of earlier
    /// ones may still be on their way, a later leader knows of them.
    recorded_now: BTreeMap<MemberId, Epoch>,
    seq: u64,
}

impl World {
    fn new() -> Self {
        let mark = EpochMark { epoch: Epoch(1), ..EpochMark::default() };
        let (core, _) = Leases::recover("0".to_owned(), mark.clone(), Vec::new(), 1);
        Self {
            core,
            now: 0,
            boot: 0,
            next_report: 1,
            mark,
            leases: BTreeMap::new(),
            folders: BTreeMap::new(),
            writes: VecDeque::new(),
            facts: VecDeque::new(),
            followed: BTreeSet::new(),
            sent: Vec::new(),
            shims: Vec::new(),
            starts: BTreeMap::new(),
            recorded: BTreeSet::new(),
            recorded_now: BTreeMap::new(),
            seq: 0,
        }
    }

    fn input(&mut self, input: Input) {
        let actions = self.core.handle(Millis(self.now), input);
        self.perform(actions);
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::PersistEpoch(_) | Action::WriteLease { .. } => self.writes.push_back(action),
                Action::RemoveLease(id) => {
                    assert!(self.recorded.contains(&id), "{id}: removed without its end being recorded");
                    assert!(!self.folders.get(&id).is_some_and(|folder| folder.alive), "{id}: removed while it lives");
                    self.writes.push_back(action);
                }
                Action::Stage { id, .. } => self.facts.push_back(Input::Staged(id)),
                Action::StartShim { id, .. } => {
                    let state = self.leases.get(&id).map(|lease| &lease.state);
                    assert!(
                        matches!(state, Some(Recorded::Started | Recorded::Stopping(_))),
                        "{id}: started while its lease on disk is {state:?}"
                    );
                    self.followed.insert(id);
                    self.shims.push(id);
                }
                Action::Adopt { id, same_boot, seal } => self.adopt(id, same_boot, seal),
                Action::Stop { id, .. } => self.folders.entry(id).or_default().stop = true,
                Action::Send(report) => {
                    let Report { id, news, .. } = &report;
                    if matches!(news, News::Gone(_)) {
                        assert!(!self.folders.get(id).is_some_and(|folder| folder.alive), "{id}: gone while it lives");
                    }
                    self.sent.push(report);
                }
                Action::HangUp(_) | Action::Note(_) => {}
            }
        }
    }

    fn adopt(&mut self, id: MemberId, same_boot: bool, seal: bool) {
        let folder = self.folders.entry(id).or_default();
        if folder.exit.is_none() && !same_boot {
            folder.exit = Some(Exit::unknown("reboot"));
        }
        if folder.exit.is_none() && !folder.claimed && seal {
            (folder.claimed, folder.exit) = (true, Some(Exit::never_ran("sealed")));
        }
        self.followed.insert(id);
        let fact = match &folder.exit {
            Some(exit) => Input::Gone { id, exit: exit.clone() },
            None if folder.alive => Input::Started { id, pid: 1 },
            None => Input::NotStarted(id),
        };
        self.facts.push_back(fact);
    }

    fn order(&self, member: usize, sequence: u32, epoch: u64) -> Order {
        let launch = || {
            let gpus = vec![member as u32];
            Arc::new(Launch { gpus, start_at_once: member == 0, ..Launch::default() })
        };
        let want = match sequence {
            1 => Want::Launch(launch()),
            2 => Want::Go(launch()),
            _ => Want::Stop(StopRequest { reason: "cancelled".to_owned(), grace_ms: u64::from(sequence % 2) }),
        };
        Order { epoch: Epoch(epoch), seq: JournalSeq(self.seq), id: id(member), sequence, want }
    }

    fn step(&mut self, step: &Step) {
        self.now += 1;
        match step {
            Step::Order { member, sequence, epoch } => {
                let id = id(*member);
                let ends_with = self.recorded_now.get(&id).copied().unwrap_or_default();
                if self.recorded.contains(&id) && Epoch(*epoch) > ends_with {
                    return;
                }
                self.seq += 1;
                let order = self.order(*member, *sequence, *epoch);
                let gated = order.epoch > self.mark.epoch;
                let actions = self.core.handle(Millis(self.now), Input::Order(order));
                let only_gate =
                    |action: &Action| matches!(action, Action::PersistEpoch(_) | Action::Note(_) | Action::HangUp(_));
                assert!(
                    !gated || actions.iter().all(only_gate),
                    "an epoch that is not on disk was obeyed: {actions:?}"
                );
                self.perform(actions);
            }
            Step::Welcome { epoch, knows } => self.welcome(*epoch, *knows),
            Step::Disk(how) => self.disk(*how),
            Step::Shim(which) => {
                if !self.shims.is_empty() {
                    let id = self.shims.remove(which % self.shims.len());
                    self.shim(id);
                }
            }
            Step::Fact => {
                if let Some(fact) = self.facts.pop_front() {
                    self.input(fact);
                }
            }
            Step::End(member) => self.end(id(*member)),
            Step::Ack { lost } => self.ack(*lost),
            Step::Tick => self.input(Input::Tick),
            Step::RestartAgent => self.restart(),
            Step::RestartNode => {
                self.boot += 1;
                self.shims.clear();
                self.folders.values_mut().for_each(|folder| folder.alive = false);
                self.restart();
            }
        }
    }

    fn welcome(&mut self, epoch: u64, knows: bool) {
        let wanted =
            if knows { (0..4).filter(|member| !self.recorded.contains(&id(*member))).collect() } else { vec![] };
        let welcome = Welcome {
            epoch: Epoch(epoch),
            seq: JournalSeq(self.seq),
            store_id: "s".to_owned(),
            wanted: wanted.into_iter().map(|member| self.order(member, 1, epoch)).collect(),
            settled: self.recorded.iter().copied().collect(),
        };
        self.input(Input::Welcome(welcome));
    }

    fn disk(&mut self, how: u8) {
        let Some(write) = self.writes.pop_front() else { return };
        let done = matches!(how, 0 | 2);
        let outcome = match write {
            Action::PersistEpoch(mark) => {
                if done {
                    assert!(mark.epoch >= self.mark.epoch, "the epoch on disk never falls");
                    self.mark = mark.clone();
                }
                if how == 0 { Input::EpochSynced(mark) } else { Input::EpochFailed("disk".to_owned()) }
            }
            Action::WriteLease { record, version } => {
                let id = record.id;
                if done {
                    self.leases.insert(id, record);
                    self.folders.entry(id).or_default();
                }
                let error = "disk".to_owned();
                match how {
                    0 => Input::LeaseSynced { id, version },
                    _ => Input::LeaseFailed { id, version, error, untouched: how == 1 },
                }
            }
            Action::RemoveLease(id) => {
                self.leases.remove(&id);
                self.folders.remove(&id);
                return;
            }
            other => unreachable!("{other:?} is no write"),
        };
        self.input(outcome);
    }

    /// What `dure shim` does, and what the launcher that waits for it then says.
    fn shim(&mut self, id: MemberId) {
        let Some(folder) = self.folders.get_mut(&id) else { return };
        if !folder.claimed {
            folder.claimed = true;
            if folder.stop {
                folder.exit = Some(Exit::never_ran("stopped"));
            } else {
                folder.alive = true;
                let starts = self.starts.entry(id).or_default();
                *starts += 1;
                assert_eq!(*starts, 1, "{id}: started twice");
                assert!(!self.recorded.contains(&id), "{id}: started after its end was recorded");
            }
        }
        if self.followed.contains(&id) {
            match &folder.exit {
                Some(exit) => self.facts.push_back(Input::Gone { id, exit: exit.clone() }),
                None => self.facts.push_back(Input::Started { id, pid: 1 }),
            }
        }
    }

    fn end(&mut self, id: MemberId) {
        let Some(folder) = self.folders.get_mut(&id).filter(|folder| folder.alive) else { return };
        let exit = Exit { how: How::Code(0), started_ms: 1, ended_ms: 2, ..Exit::never_ran("") };
        folder.alive = false;
        folder.exit = Some(exit.clone());
        if self.followed.contains(&id) {
            self.facts.push_back(Input::Gone { id, exit });
        }
    }

    fn ack(&mut self, lost: bool) {
        let mut ids = Vec::new();
        for report in self.sent.drain(..) {
            self.next_report = self.next_report.max(report.report_id + 1);
            if matches!(report.news, News::Gone(_)) && self.recorded.insert(report.id) {
                self.recorded_now.insert(report.id, self.core.newest.epoch);
            }
            ids.push(report.report_id);
        }
        if !lost {
            self.input(Input::Acked(ids));
        }
    }

    fn restart(&mut self) {
        self.next_report += 1_000;
        self.writes.clear();
        self.facts.clear();
        self.followed.clear();
        self.sent.clear();
        self.recorded_now.clear();
        let records = self.leases.values().cloned().collect();
        let (core, actions) = Leases::recover(self.boot.to_string(), self.mark.clone(), records, self.next_report);
        self.core = core;
        self.perform(actions);
    }

    /// No more faults: everything that is known here must end, be recorded and be forgotten.
    fn finish(&mut self) {
        for round in 0..20_u32 {
            self.now += REPORT_RETRY_MS;
            self.step(&Step::Tick);
            while !(self.writes.is_empty() && self.facts.is_empty() && self.shims.is_empty()) {
                self.step(&Step::Disk(0));
                self.step(&Step::Shim(0));
                self.step(&Step::Fact);
            }
            self.welcome(9, true);
            for member in 0..4 {
                self.step(&Step::Order { member, sequence: 10 + round, epoch: 9 });
                if self.folders.get(&id(member)).is_some_and(|folder| folder.stop) {
                    self.end(id(member));
                }
            }
            self.step(&Step::Ack { lost: round == 0 });
        }
        assert!(self.core.is_empty(), "left over: {:?}", self.core.view());
        assert!(self.leases.is_empty(), "left on disk: {:?}", self.leases.keys());
        assert!(self.folders.values().all(|folder| !folder.alive), "a process was forgotten");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_starts_twice_or_unrecorded_and_every_end_is_told(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.finish();
    }
}
