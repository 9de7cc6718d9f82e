//! How orders and facts move a lease from phase to phase.
//!
//! Comes in: orders that have passed the epoch's gate, and facts from disk and shims. Goes out: the next actions.
//! This part must never start a member before its lease says on disk that it may run, nor report an end before the
//! process group is gone.

use std::collections::BTreeSet;

use super::{
    Action, Leases, MAX_LEASES, Note,
    lease::{Lease, Phase},
};
use crate::model::{Exit, Launch, MemberId, Millis, News, Order, StopRequest, Want, Welcome};

pub(super) fn is_contained(launch: &Launch) -> bool {
    launch.payload.as_ref().is_some_and(|payload| payload.container.is_some())
}

const NEVER_STARTED: &str = "stopped before it was started";

impl Leases {
    pub(super) fn welcome(&mut self, now: Millis, welcome: Welcome, out: &mut Vec<Action>) {
        self.highest_seq = self.highest_seq.max(welcome.seq);
        let settled: BTreeSet<MemberId> = welcome.settled.iter().copied().collect();
        let wanted: BTreeSet<MemberId> = welcome.wanted.iter().map(|order| order.id).collect();
        for (&id, lease) in &mut self.leases {
            let known = wanted.contains(&id) || settled.contains(&id);
            if !known && !lease.quarantined && lease.holds() {
                out.push(Action::Note(Note::Quarantined(id)));
            }
            lease.quarantined = !known;
        }
        for id in settled {
            self.settle(id, out);
        }
        self.reports.resend(now, out);
        for order in welcome.wanted {
            self.order(order, out);
        }
    }

    /// The scheduler has recorded the end of this member. What still runs of it has no right to.
    fn settle(&mut self, id: MemberId, out: &mut Vec<Action>) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        lease.settled = true;
        if matches!(lease.phase, Phase::Gone(_)) {
            self.remove(id, out);
        } else {
            self.stop(id, StopRequest { reason: "settled".to_owned(), grace_ms: 0 }, out);
        }
    }

    pub(super) fn order(&mut self, order: Order, out: &mut Vec<Action>) {
        self.highest_seq = self.highest_seq.max(order.seq);
        let id = order.id;
        let Some(lease) = self.leases.get_mut(&id) else {
            if self.tombstones.contains(&id) {
                out.push(Action::Note(Note::OrderRepeated(id)));
            } else {
                self.first_order(order, out);
            }
            return;
        };
        lease.quarantined = false;
        if order.sequence <= lease.sequence || matches!(order.want, Want::Keep) {
            out.push(Action::Note(Note::OrderRepeated(id)));
            return;
        }
        lease.sequence = order.sequence;
        lease.seq = lease.seq.max(order.seq);
        match order.want {
            // A launch follows nothing: whatever is here came from a later order.
            Want::Launch(_) | Want::Keep => {}
            Want::Go(launch) => {
                if lease.phase == Phase::Prepared {
                    lease.launch = Some(launch);
                    lease.phase = Phase::Starting { asked: false };
                    self.write(id, out);
                }
            }
            Want::Stop(request) => self.stop(id, request, out),
        }
    }

    fn first_order(&mut self, order: Order, out: &mut Vec<Action>) {
        let id = order.id;
        if self.leases.len() >= MAX_LEASES {
            out.push(Action::Note(Note::TooManyLeases(id)));
            return;
        }
        let (launch, phase) = match order.want {
            Want::Launch(launch) | Want::Go(launch) if self.conflict(&launch).is_some() => {
                let why = self.conflict(&launch).expect("the guard has found it");
                (Some(launch), Phase::Gone(Exit::never_ran(why)))
            }
            Want::Launch(launch) if !launch.start_at_once => (Some(launch), Phase::Prepared),
            Want::Launch(launch) | Want::Go(launch) => (Some(launch), Phase::Starting { asked: false }),
            Want::Stop(_) => (None, Phase::Gone(Exit::never_ran(NEVER_STARTED))),
            Want::Keep => {
                out.push(Action::HangUp(format!("the scheduler relies on member {id}, which is not here any more")));
                return;
            }
        };
        self.leases.insert(id, Lease::new(id, order.sequence, order.seq, launch, phase));
        self.write(id, out);
    }

    /// Says who holds one of these GPUs, or so much of it that this does not fit beside it.
    fn conflict(&self, launch: &Launch) -> Option<String> {
        launch.gpus.iter().find_map(|gpu| {
            let mut left = WHOLE.saturating_sub(launch.gpu_milli);
            let mut on_it = self.leases.values().filter(|lease| lease.holds() && lease.gpus().contains(gpu));
            let holder = on_it.find(|lease| {
                let held = lease.launch.as_deref().filter(|held| may_share(held, launch));
                let fits = held.and_then(|held| left.checked_sub(held.gpu_milli));
                left = fits.unwrap_or(0);
                fits.is_none()
            })?;
            Some(format!("GPU {gpu} is held by member {} on this node: it must end first", holder.id))
        })
    }

    fn stop(&mut self, id: MemberId, request: StopRequest, out: &mut Vec<Action>) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        match &lease.phase {
            Phase::Prepared | Phase::Starting { asked: false } => {
                lease.phase = Phase::Gone(Exit::never_ran(format!("{NEVER_STARTED} ({})", request.reason)));
            }
            Phase::Starting { asked: true } | Phase::Running => lease.phase = Phase::Stopping(request),
            Phase::Stopping(earlier) => {
                let grace_ms = earlier.grace_ms.min(request.grace_ms);
                lease.phase = Phase::Stopping(StopRequest { grace_ms, ..request });
            }
            Phase::Gone(_) => return,
        }
        self.write(id, out);
    }

    /// Disk and memory agree on this lease: do what had to wait for that.
    pub(super) fn synced(&mut self, id: MemberId, now: Millis, out: &mut Vec<Action>) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        match &mut lease.phase {
            Phase::Prepared => match lease.launch.clone().filter(|launch| is_contained(launch)) {
                // It is prepared when its image is here.
                Some(launch) => out.push(Action::Stage { id, launch }),
                None => self.reports.push(id, News::Prepared, now, out),
            },
            Phase::Starting { asked: true } | Phase::Running => {}
            Phase::Starting { asked } => {
                *asked = true;
                let launch = lease.launch.clone().expect("a member that shall start came with a launch");
                out.push(Action::StartShim { id, launch });
            }
            Phase::Stopping(request) => out.push(Action::Stop { id, request: request.clone() }),
            Phase::Gone(_) if lease.settled => self.remove(id, out),
            Phase::Gone(exit) => self.reports.push(id, News::Gone(exit.clone()), now, out),
        }
    }

    /// The disk refused the newest version. What would need it does not happen. An end is told only when a restart
    /// cannot find the lease in an earlier state and begin again: it is on disk, or nothing of the lease ever was.
    pub(super) fn lease_failed(&mut self, id: MemberId, error: String, now: Millis, out: &mut Vec<Action>) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        if matches!(lease.phase, Phase::Prepared | Phase::Starting { asked: false }) {
            lease.phase = Phase::Gone(Exit::never_ran(format!("its lease could not be written to disk: {error}")));
        }
        lease.owed = matches!(lease.phase, Phase::Gone(_)) && lease.on_disk;
        let owed = lease.owed;
        out.push(Action::Note(Note::WriteFailed(id, error)));
        if !owed {
            self.synced(id, now, out);
        }
    }

    /// What it needs is here: ready for the barrier.
    pub(super) fn staged(&mut self, id: MemberId, now: Millis, out: &mut Vec<Action>) {
        if let Some(lease) = self.leases.get_mut(&id).filter(|lease| lease.phase == Phase::Prepared) {
            lease.staged = true;
            self.reports.push(id, News::Prepared, now, out);
        }
    }

    /// What it needs cannot be had here.
    pub(super) fn unstaged(&mut self, id: MemberId, why: String, out: &mut Vec<Action>) {
        if let Some(lease) = self.leases.get_mut(&id).filter(|lease| lease.phase == Phase::Prepared) {
            lease.phase = Phase::Gone(Exit::never_ran(why));
            self.write(id, out);
        }
    }

    pub(super) fn started(&mut self, id: MemberId, pid: u32, now: Millis, out: &mut Vec<Action>) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        match &lease.phase {
            Phase::Starting { asked: true } => lease.phase = Phase::Running,
            // Found alive by an adoption: the stop order still stands.
            Phase::Stopping(request) => out.push(Action::Stop { id, request: request.clone() }),
            Phase::Running | Phase::Prepared | Phase::Starting { asked: false } | Phase::Gone(_) => return,
        }
        self.reports.push(id, News::Started(pid), now, out);
    }

    pub(super) fn not_started(&mut self, id: MemberId, out: &mut Vec<Action>) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        match &lease.phase {
            Phase::Starting { asked: true } => {
                let launch = lease.launch.clone().expect("a member that shall start came with a launch");
                out.push(Action::StartShim { id, launch });
            }
            // Only a sealed adoption may take this for an end; one that was asked while it was still to run may have a
            // shim on its way.
            Phase::Stopping(_) => out.push(Action::Adopt { id, same_boot: true, seal: true }),
            Phase::Prepared | Phase::Starting { asked: false } | Phase::Running | Phase::Gone(_) => {}
        }
    }

    pub(super) fn gone(&mut self, id: MemberId, exit: Exit, out: &mut Vec<Action>) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        match lease.phase {
            Phase::Starting { asked: true } | Phase::Running | Phase::Stopping(_) => {
                lease.phase = Phase::Gone(exit);
                self.write(id, out);
            }
            // Nothing had been started, or its end is known already.
            Phase::Prepared | Phase::Starting { asked: false } | Phase::Gone(_) => {}
        }
    }
}

/// Thousandths of a GPU.
const WHOLE: u32 = 1_000;

/// Whether two members may hold something of one GPU: shares beside shares, MIG instances beside others.
fn may_share(one: &Launch, other: &Launch) -> bool {
    match (&one.mig, &other.mig) {
        (Some(one), Some(other)) => one.first_slice != other.first_slice,
        (None, None) => one.gpu_milli > 0 && other.gpu_milli > 0,
        (Some(_), None) | (None, Some(_)) => false,
    }
}
