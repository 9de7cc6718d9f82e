//! The agent's core: what shall be here and what is here, brought together.
//!
//! Comes in: the scheduler's words (`Welcome`, `Order`, acknowledgements), what the disk and the shims say, and the time.
//! Goes out: `Action`s as data, in the order in which they are to be performed.
//! This part must never do IO, read a clock, or wait. It must never let a member start twice, start one whose lease is
//! not on disk, drop a lease while its process lives or while its end is unacknowledged, obey an epoch that is not on
//! disk or is lower than one obeyed before, or kill what the scheduler does not know.

mod lease;
mod orders;
mod reports;
#[cfg(test)]
mod tests;
mod words;
#[cfg(test)]
mod world;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub use self::words::{Action, Input, LeaseView, Note, ViewPhase};
use self::{
    lease::{Lease, Phase},
    reports::Reports,
};
use crate::model::{Epoch, EpochMark, Exit, JournalSeq, LeaseRecord, MemberId, Millis, News, Order, Recorded, Welcome};

/// Leases one node may hold, ended ones that wait for their acknowledgement included.
pub const MAX_LEASES: usize = 4_096;
/// Messages that wait while a new epoch is written to disk; more than this and the session is dropped.
pub const MAX_HELD: usize = 4_096;
/// Removed members that are remembered within an epoch, so that a late order for them starts nothing.
pub const MAX_TOMBSTONES: usize = 16_384;
/// Time after which a report without an acknowledgement is sent again, in milliseconds.
pub const REPORT_RETRY_MS: u64 = 5_000;

/// All leases of one node.
pub struct Leases {
    boot_id: String,
    /// What is on disk.
    mark: EpochMark,
    /// The newest mark that was ever sent to the disk: the disk may hold it even when it said otherwise, so nothing lower
    /// is obeyed or written any more.
    newest: EpochMark,
    /// The newest mark is on its way to the disk; what it must gate waits in `held`.
    awaited: bool,
    held: VecDeque<Held>,
    highest_seq: JournalSeq,
    leases: BTreeMap<MemberId, Lease>,
    reports: Reports,
    tombstones: BTreeSet<MemberId>,
    tombstone_order: VecDeque<MemberId>,
}

#[derive(Debug)]
enum Held {
    Welcome(Welcome),
    Order(Order),
}

impl Held {
    fn epoch(&self) -> Epoch {
        match self {
            Self::Welcome(welcome) => welcome.epoch,
            Self::Order(order) => order.epoch,
        }
    }
}

impl Leases {
    /// The core as the disk left it. `first_report_id` must be higher than every id of earlier lives or random enough
    /// not to meet them. The actions adopt what may still run.
    pub fn recover(
        boot_id: String,
        mark: EpochMark,
        records: Vec<LeaseRecord>,
        first_report_id: u64,
    ) -> (Self, Vec<Action>) {
        let mut core = Self {
            boot_id,
            highest_seq: mark.seq,
            newest: mark.clone(),
            mark,
            awaited: false,
            held: VecDeque::new(),
            leases: BTreeMap::new(),
            reports: Reports::from(first_report_id),
            tombstones: BTreeSet::new(),
            tombstone_order: VecDeque::new(),
        };
        let mut actions = Vec::new();
        for record in records {
            core.recover_lease(record, &mut actions);
        }
        (core, actions)
    }

    fn recover_lease(&mut self, record: LeaseRecord, actions: &mut Vec<Action>) {
        let id = record.id;
        let same_boot = record.boot_id == self.boot_id;
        self.highest_seq = self.highest_seq.max(record.seq);
        let mut lease = Lease::from_record(&record);
        match record.state {
            Recorded::Prepared if same_boot => {
                // Whether its image came before the restart is not known.
                let launch = lease.launch.clone().filter(|launch| orders::is_contained(launch));
                actions.extend(launch.map(|launch| Action::Stage { id, launch }));
                self.leases.insert(id, lease);
            }
            Recorded::Prepared => {
                lease.phase = Phase::Gone(Exit::unknown("the node was restarted before it started"));
                self.leases.insert(id, lease);
                self.write(id, actions);
                return;
            }
            Recorded::Started | Recorded::Stopping(_) => {
                let seal = matches!(record.state, Recorded::Stopping(_));
                actions.push(Action::Adopt { id, same_boot, seal });
                self.leases.insert(id, lease);
                return;
            }
            Recorded::Gone(_) => self.leases.insert(id, lease).map_or((), drop),
        }
        self.synced(id, Millis(0), actions);
    }

    /// Takes one input; the actions are to be performed in order.
    pub fn handle(&mut self, now: Millis, input: Input) -> Vec<Action> {
        let mut actions = Vec::new();
        let out = &mut actions;
        match input {
            Input::Welcome(welcome) => self.gate(now, Held::Welcome(welcome), out),
            Input::Order(order) => self.gate(now, Held::Order(order), out),
            Input::Acked(ids) => self.acked(&ids, out),
            Input::EpochSynced(mark) => self.epoch_synced(now, mark, out),
            Input::EpochFailed(error) => self.epoch_failed(error, out),
            Input::LeaseSynced { id, version } => {
                if self.leases.get_mut(&id).is_some_and(|lease| lease.sync(version)) {
                    self.synced(id, now, out);
                }
            }
            Input::LeaseFailed { id, version, error, untouched } => {
                if self.leases.get_mut(&id).is_some_and(|lease| lease.fail(version, untouched)) {
                    self.lease_failed(id, error, now, out);
                }
            }
            Input::Started { id, pid } => self.started(id, pid, now, out),
            Input::Checkpoint { id, step, at } => {
                if self.leases.get(&id).is_some_and(Lease::runs) {
                    self.reports.push(id, News::Checkpoint(step, at), now, out);
                }
            }
            Input::NotStarted(id) => self.not_started(id, out),
            Input::Staged(id) => self.staged(id, now, out),
            Input::Unstaged(id, why) => self.unstaged(id, why, out),
            Input::Gone { id, exit } => self.gone(id, exit, out),
            Input::Tick => {
                self.reports.retry(now, REPORT_RETRY_MS, out);
                self.write_again(out);
            }
        }
        actions
    }

    /// What the scheduler is told at the start of a stream.
    pub fn view(&self) -> Vec<LeaseView> {
        self.leases.values().map(Lease::view).collect()
    }

    /// The highest epoch on disk, with the highest journal position obeyed.
    pub fn mark(&self) -> EpochMark {
        EpochMark { seq: self.highest_seq, ..self.mark.clone() }
    }

    /// GPUs of members that run, by index, with repeats when leases disagree with the rule that they do not.
    pub fn busy_gpus(&self) -> impl Iterator<Item = u32> + '_ {
        self.leases.values().filter(|lease| lease.runs()).flat_map(|lease| lease.gpus().iter().copied())
    }

    /// Leases held, ended ones included.
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// No lease at all.
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// Lets a message of the leader through, holds it until the leader's epoch is on disk, or refuses it.
    fn gate(&mut self, now: Millis, message: Held, out: &mut Vec<Action>) {
        let epoch = message.epoch();
        let highest = self.newest.epoch;
        if epoch < highest {
            out.push(Action::Note(Note::EpochRefused { got: epoch, highest }));
            // Nothing else of that stream counts either, its acknowledgements least of all.
            if matches!(message, Held::Welcome(_)) {
                out.push(Action::HangUp(format!("epoch {} is over, {} was obeyed", epoch.0, highest.0)));
            }
            return;
        }
        if epoch == self.mark.epoch {
            self.obey(now, message, out);
            return;
        }
        if self.held.len() >= MAX_HELD {
            self.held.clear();
            out.push(Action::HangUp(format!("{MAX_HELD} messages wait for the epoch to be written: the disk is slow")));
            return;
        }
        if let Held::Welcome(welcome) = &message
            && epoch > highest
            && welcome.seq < self.highest_seq
        {
            self.give_up_positions(welcome.seq, out);
        }
        if epoch > highest {
            // Late orders of earlier leaders are refused from now on. What is ordered under this epoch is meant, even for a
            // member that was removed: its journal may have been restored to before that.
            self.tombstones.clear();
            self.tombstone_order.clear();
        }
        if epoch > highest || !self.awaited {
            let store_id = match &message {
                Held::Welcome(welcome) => welcome.store_id.clone(),
                Held::Order(_) => self.newest.store_id.clone(),
            };
            self.newest = EpochMark { epoch, seq: self.highest_seq, store_id };
            self.awaited = true;
            out.push(Action::PersistEpoch(self.newest.clone()));
        }
        self.held.push_back(message);
    }

    /// A new leader that was told how far this agent has obeyed, and leads from an earlier position all the same: its
    /// journal was restored, and the positions after it mean something else from now on.
    fn give_up_positions(&mut self, seq: JournalSeq, out: &mut Vec<Action>) {
        self.highest_seq = seq;
        let later: Vec<MemberId> = self.leases.values().filter(|lease| lease.seq > seq).map(|lease| lease.id).collect();
        for id in later {
            self.leases.get_mut(&id).expect("it was just found").seq = seq;
            self.write(id, out);
        }
    }

    fn epoch_synced(&mut self, now: Millis, mark: EpochMark, out: &mut Vec<Action>) {
        self.mark = mark;
        if self.mark.epoch < self.newest.epoch {
            return;
        }
        self.awaited = false;
        for message in std::mem::take(&mut self.held) {
            self.gate(now, message, out);
        }
    }

    fn epoch_failed(&mut self, error: String, out: &mut Vec<Action>) {
        if self.awaited {
            self.awaited = false;
            self.held.clear();
            out.push(Action::HangUp(format!("the leader's epoch could not be written to disk: {error}")));
        }
    }

    fn obey(&mut self, now: Millis, message: Held, out: &mut Vec<Action>) {
        match message {
            Held::Welcome(welcome) => self.welcome(now, welcome, out),
            Held::Order(order) => self.order(order, out),
        }
    }

    fn acked(&mut self, ids: &[u64], out: &mut Vec<Action>) {
        for &report in ids {
            let Some((id, was_end)) = self.reports.ack(report) else { continue };
            if was_end {
                self.remove(id, out);
            }
        }
    }

    /// Forgets a member whose process is gone and whose end is recorded by the scheduler.
    fn remove(&mut self, id: MemberId, out: &mut Vec<Action>) {
        let Some(lease) = self.leases.get(&id) else { return };
        assert!(matches!(lease.phase, Phase::Gone(_)), "only the lease of a member that is gone is removed");
        if lease.seq > self.mark.seq {
            self.newest.seq = self.highest_seq;
            out.push(Action::PersistEpoch(self.newest.clone()));
        }
        self.leases.remove(&id);
        self.reports.forget(id);
        if self.tombstones.insert(id) {
            self.tombstone_order.push_back(id);
        }
        if self.tombstone_order.len() > MAX_TOMBSTONES
            && let Some(oldest) = self.tombstone_order.pop_front()
        {
            self.tombstones.remove(&oldest);
        }
        out.push(Action::RemoveLease(id));
    }

    /// Tries what the disk has refused once more.
    fn write_again(&mut self, out: &mut Vec<Action>) {
        let owed: Vec<MemberId> = self.leases.values().filter(|lease| lease.owed).map(|lease| lease.id).collect();
        for id in owed {
            self.write(id, out);
        }
    }

    /// Puts the lease, as it is now, on its way to the disk.
    fn write(&mut self, id: MemberId, out: &mut Vec<Action>) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        lease.version += 1;
        lease.owed = false;
        out.push(Action::WriteLease { record: lease.record(id, &self.boot_id), version: lease.version });
    }
}
