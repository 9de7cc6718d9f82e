//! Event -> state. The only code that changes state; it cannot fail and reads nothing but its arguments.
//!
//! Replay of a journal is this function and no other, so that nothing in here may depend on anything that is not in the
//! events: no rule of the policy but half-lives, timers and limits of memory.

mod attempts;
mod bookings;
mod budget;
mod division;
mod jobs;
mod nodes;
mod restore;

use smallvec::SmallVec;

use crate::cluster::Cluster;
use crate::event::Event;
use crate::ids::{JobId, MemberIndex, PoolIndex, TenantIndex};
use crate::job::{Job, MemberPhase};
use crate::placement::Members;
use crate::promise::Promise;
use crate::timers::Timer;
use crate::units::Time;

impl Cluster {
    /// Makes `event`, which happened at `now`, part of the state.
    ///
    /// # Panics
    /// When the event contradicts the state: it was not decided on this state, and going on would lose track.
    pub fn apply(&mut self, now: Time, event: &Event) {
        match event {
            Event::PoolDefined { name, model, gpus_per_node, .. } => self.add_pool(name, model, *gpus_per_node),
            Event::TenantDefined { tenant, parent, name } => self.add_tenant(*tenant, *parent, name),
            Event::TenantChanged { tenant, change } => self.change_tenant(*tenant, change, now),
            Event::Paused { tenant, paused } => self.pause(*tenant, *paused),
            Event::BudgetPeriodBegan { tenant } => self.begin_period(*tenant),
            Event::BudgetCarried { tenant, gpu_time } => self.carry_budget(*tenant, *gpu_time),
            Event::QuotaDated { dated } => self.add_dated(*dated),
            Event::QuotaBegan { key } => self.begin_dated(*key, now),
            Event::QuotaEnded { key } => self.end_dated(*key, now),
            Event::BookingMade { .. }
            | Event::BookingCleared { .. }
            | Event::BookingBegan { .. }
            | Event::BookingEnded { .. }
            | Event::BookingCancelled { .. } => self.apply_to_booking(event),
            Event::UserSeen { user, name } => self.add_user(*user, name),
            Event::NodeJoined { .. }
            | Event::NodeChanged { .. }
            | Event::NodeContact { .. }
            | Event::NodeRebooted { .. }
            | Event::NodeCordoned { .. }
            | Event::NodeSpared { .. }
            | Event::GpusFenced { .. } => self.apply_to_node(now, event),
            Event::JobSubmitted { job, spec, held, not_before } => {
                self.add_job(Job { held: *held, not_before: *not_before, ..jobs::new_job(*job, spec, now) }, now);
            }
            Event::JobHeld { job } => self.set_held(*job, true),
            Event::JobReleased { job } => self.set_held(*job, false),
            Event::JobEligible { job } => self.make_eligible(*job),
            Event::ArrayIndexStarted { array, index, job } => self.start_index(*array, *index, *job, now),
            Event::ArrayStopped { array } => self.stop_array(*array),
            Event::JobPlaced { job, attempt, pool, members, scavenger, guest, lowered } => {
                self.place_job(*job, *attempt, *pool, members, (*scavenger, *guest, *lowered), now);
            }
            Event::MemberPrepared { job, member, .. } => self.member_mut(*job, *member).phase = MemberPhase::Prepared,
            Event::GangReleased { job, .. } => self.attempt_of(*job).released = true,
            Event::MemberStarted { job, member, .. } => self.start_member(*job, *member, now),
            Event::MemberGone { job, member, exit, .. } => self.end_member(*job, *member, Some(exit), now),
            Event::MemberProven { job, member, .. } => self.end_member(*job, *member, None, now),
            Event::JobCheckpointed { job, attempt, step } => self.checkpoint(*job, *attempt, *step, now),
            Event::AvoidanceLifted { job } => self.job_mut(*job).avoid.clear(),
            Event::JobIdle { job, notice, .. } => self.attempt_of(*job).idle = Some(*notice),
            Event::JobBusy { job, .. } => self.attempt_of(*job).idle = None,
            Event::CountedAnew { since } => self.count_anew(*since),
            Event::Promised { .. }
            | Event::SurvivorsHeld { .. }
            | Event::PromiseRenewed { .. }
            | Event::PromiseDropped { .. } => self.apply_to_promise(now, event),
            Event::Planned { reservations } => self.set_reservations(reservations.clone()),
            Event::WantedBack { begun, over } => self.change_wanted(begun, over),
            Event::AttemptStopping { job, reason, keeps, .. } => self.stop_attempt(*job, *reason, *keeps),
            Event::AttemptEnded { job, outcome, .. } => self.end_attempt(*job, *outcome, now),
            Event::JobRequeued { job, front, not_before, avoid, own_fault } => {
                self.requeue(*job, *front, *not_before, *avoid, *own_fault);
            }
            Event::JobEnded { job, outcome } => self.end_job(*job, *outcome, now),
            Event::JobForgotten { job } => self.forget_job(*job),
            Event::RequestAnswered { user, id, digest, reply } => self.remember(user, id, *digest, *reply),
            Event::CountersRestored { .. }
            | Event::TenantRestored { .. }
            | Event::UserRestored { .. }
            | Event::NodeRestored { .. }
            | Event::JobRestored { .. }
            | Event::PromiseRestored { .. }
            | Event::WorkloadRestored { .. } => self.restore(now, event),
        }
    }

    fn pause(&mut self, tenant: TenantIndex, paused: bool) {
        self.tenants[tenant.at()].paused = paused;
        self.divided_anew();
    }

    fn set_held(&mut self, job: JobId, held: bool) {
        self.dequeue(job);
        self.job_mut(job).held = held;
        self.enqueue_if_eligible(job);
    }

    fn make_eligible(&mut self, job: JobId) {
        if let Some(time) = self.job_mut(job).not_before.take() {
            self.timers.remove(time, Timer::NotBefore(job));
        }
        self.enqueue_if_eligible(job);
    }

    fn apply_to_promise(&mut self, now: Time, event: &Event) {
        match event {
            Event::Promised { job, pool, members, due } => self.make_promise(*job, *pool, members, *due, now),
            Event::SurvivorsHeld { job, lost, until } => self.hold_survivors(*job, lost, *until, now),
            Event::PromiseRenewed { job, due, latest } => self.renew_promise(*job, *due, *latest),
            Event::PromiseDropped { job, .. } => self.drop_promise(*job, now),
            _ => unreachable!("only events of promises come here"),
        }
    }

    fn make_promise(&mut self, job: JobId, pool: PoolIndex, members: &Members, due: Time, now: Time) {
        let (members, start_order, sought) = (members.clone(), self.next_start, SmallVec::new());
        let (made_at, span) = (now, due.since(now));
        let latest = Promise::latest(now, span);
        self.next_start += 1;
        self.hold_promise(job, Promise { pool, members, made_at, start_order, due, span, latest, sought }, now);
        self.classify_mission_of(job, now);
    }

    fn hold_survivors(&mut self, job: JobId, lost: &[MemberIndex], until: Time, now: Time) {
        let attempt = self.attempt_of(job);
        let pool = attempt.pool;
        let held = attempt.members.iter().enumerate().filter(|(rank, _)| !lost.contains(&MemberIndex::of(*rank)));
        let members = held.map(|(_, member)| member.placed).collect();
        let start_order = self.next_start;
        self.next_start += 1;
        let (made_at, sought, due, latest, span) = (now, lost.into(), until, until, until.since(now));
        self.hold_promise(job, Promise { pool, members, made_at, start_order, due, span, latest, sought }, now);
        self.classify_mission_of(job, now);
    }
}
