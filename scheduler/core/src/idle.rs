//! Allocations that are not used: whose GPUs do no work.
//!
//! In: since when no GPU of an attempt was seen at work, as the agents' telemetry says. Out: a notice when that is as
//! long as the tenant allows, and, when the time of the notice is over as well, what the tenant chose. What follows stands
//! in the notice: a rule that changes meanwhile changes nothing for those who were told.

use crate::cluster::Cluster;
use crate::decide::{Events, emit};
use crate::event::Event;
use crate::finish;
use crate::ids::{AttemptNumber, JobId, TenantIndex};
use crate::job::{Attempt, Job, Phase, StopReason};
use crate::units::{Span, Time};

/// What becomes of an attempt whose GPUs do no work.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum IdleAction {
    /// Nothing, and nobody is told.
    Ignore,
    /// Its user is told.
    Notify,
    /// It is stopped and waits again.
    Requeue,
    /// It is stopped and its job is over.
    Cancel,
}

/// What a tenant does about allocations that are not used.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct IdleRule {
    /// So long without work on any of its GPUs.
    pub after: Span,
    /// From the notice to the action.
    pub notice: Span,
    /// What happens then.
    pub action: IdleAction,
}

/// What an attempt was told.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct IdleNotice {
    /// No work was seen since.
    pub since: Time,
    /// When it was told.
    pub at: Time,
    /// What happens unless work is seen.
    pub action: IdleAction,
    /// When.
    pub due: Time,
}

impl IdleNotice {
    /// Work that is new was seen about when the notice was given, or later. What agents say is late by a varying time, so
    /// that old work may seem to be a little later than before.
    fn middle(self) -> Time {
        self.since + Span(self.at.since(self.since).0 / 2)
    }
}

impl Cluster {
    /// The rule for attempts of a tenant: its own, or that of the nearest tenant above it that has one.
    pub fn idle_rule(&self, tenant: TenantIndex) -> Option<IdleRule> {
        self.chain(tenant).find_map(|tenant| tenant.idle).filter(|rule| rule.action != IdleAction::Ignore)
    }

    /// Whether any tenant has a rule.
    pub fn looks_for_idle(&self) -> bool {
        self.tenants().iter().any(|tenant| tenant.idle.is_some())
    }
}

/// What a word about the attempt leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum News {
    /// It is told what will happen.
    Tell(IdleNotice),
    /// It works again.
    Withdraw,
    /// It is stopped, as it was told.
    Act,
}

/// Whether [`Input::NoGpuWork`](crate::input::Input::NoGpuWork) would lead to anything.
pub fn is_news(cluster: &Cluster, job: &Job, attempt: &Attempt, since: Time, now: Time) -> bool {
    news(cluster, job, attempt, since, now).is_some()
}

fn news(cluster: &Cluster, job: &Job, attempt: &Attempt, since: Time, now: Time) -> Option<News> {
    // What it did before its last member had started is nobody's idling.
    let since = since.max(attempt.started_at?);
    let Some(notice) = attempt.idle else {
        let rule = cluster.idle_rule(job.spec.tenant).filter(|rule| since + rule.after <= now)?;
        return Some(News::Tell(IdleNotice { since, at: now, action: rule.action, due: now + rule.notice }));
    };
    if since > notice.middle() {
        return Some(News::Withdraw);
    }
    let acts = matches!(notice.action, IdleAction::Requeue | IdleAction::Cancel);
    (acts && notice.due <= now).then_some(News::Act)
}

/// No GPU of the attempt was seen at work after `since`. Old, repeated or early words lead to nothing.
pub(crate) fn seen(
    cluster: &mut Cluster,
    job: JobId,
    attempt: AttemptNumber,
    since: Time,
    now: Time,
    out: &mut Events,
) {
    let Some(entry) = cluster.job(job).filter(|entry| entry.phase == Phase::Running) else { return };
    let Some(live) = entry.live_attempt().filter(|live| live.number == attempt) else { return };
    match news(cluster, entry, live, since, now) {
        Some(News::Tell(notice)) => emit(cluster, now, Event::JobIdle { job, attempt, notice }, out),
        Some(News::Withdraw) => emit(cluster, now, Event::JobBusy { job, attempt }, out),
        Some(News::Act) => finish::stop(cluster, job, StopReason::Idle, now, out),
        None => {}
    }
}
