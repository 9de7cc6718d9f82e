//! Record -> event: one match over all records, split by theme. Every value that the wire can hold and the core cannot is
//! an error here.

use dure_core::event::{Event, TenantChange};
use dure_core::gpu::GpuSet;
use dure_core::ids::{AttemptNumber, JobId, MemberIndex, NodeIndex, UserIndex};
use dure_core::job::{Outcome, StopReason};
use dure_core::node::Contact;
use dure_core::promise::DropCause;
use dure_core::units::{GpuTime, Span, Time};
use dure_proto::journal::v1;
use dure_proto::journal::v1::record::Event as Wire;

use super::bookings;
use super::calendar::{dated_from_wire, dated_key_from_wire};
use super::fault::{Fault, RecordError, needed};
use super::ledgers::{budget_from_wire, caps_from_wire, forecast_from_wire, grant_change_from_wire};
use super::parts::{
    byte, capacity_from_wire, exit_from_wire, idle_notice_from_wire, idle_rule_from_wire, location_from_wire,
    members_from_wire, placed_from_wire, pool, quota_from_wire, reply_from_wire, spec_from_wire, tenant,
};
use super::restored::{
    job_from_wire, ledger_from_wire, meter_from_wire, node_from_wire, promise_from_wire, reservation_from_wire,
    usage_from_wire, wanted_from_wire, workload_from_wire,
};
use super::words::Word;

/// The events of a batch.
pub(super) fn events(records: Vec<v1::Record>) -> Result<Vec<Event>, RecordError> {
    let event = |(index, record)| event(record).map_err(|fault| RecordError::Event { index, fault });
    records.into_iter().enumerate().map(event).collect()
}

fn event(record: v1::Record) -> Result<Event, Fault> {
    let wire = record.event.ok_or(Fault::UnknownEvent)?;
    match wire {
        Wire::PoolDefined(_)
        | Wire::TenantDefined(_)
        | Wire::TenantChanged(_)
        | Wire::Paused(_)
        | Wire::UserSeen(_)
        | Wire::BudgetPeriodBegan(_)
        | Wire::BudgetCarried(_)
        | Wire::QuotaDated(_)
        | Wire::QuotaBegan(_)
        | Wire::QuotaEnded(_)
        | Wire::RequestAnswered(_) => division(wire),
        Wire::BookingMade(_) | Wire::BookingCleared(_) | Wire::BookingBegan(_) | Wire::BookingEnded(_) => {
            bookings::from_wire(wire)
        }
        Wire::NodeJoined(_)
        | Wire::NodeChanged(_)
        | Wire::NodeContact(_)
        | Wire::NodeRebooted(_)
        | Wire::NodeCordoned(_)
        | Wire::NodeSpared(_)
        | Wire::GpusFenced(_) => node(wire),
        Wire::JobSubmitted(_)
        | Wire::JobHeld(_)
        | Wire::JobReleased(_)
        | Wire::JobEligible(_)
        | Wire::ArrayIndexStarted(_)
        | Wire::ArrayStopped(_)
        | Wire::JobRequeued(_)
        | Wire::JobEnded(_)
        | Wire::JobForgotten(_) => job(wire),
        Wire::JobPlaced(_)
        | Wire::MemberPrepared(_)
        | Wire::GangReleased(_)
        | Wire::MemberStarted(_)
        | Wire::MemberGone(_)
        | Wire::MemberProven(_)
        | Wire::AttemptStopping(_)
        | Wire::JobCheckpointed(_)
        | Wire::JobIdle(_)
        | Wire::JobBusy(_)
        | Wire::AvoidanceLifted(_)
        | Wire::AttemptEnded(_) => attempt(wire),
        Wire::Promised(_)
        | Wire::CountedAnew(_)
        | Wire::PromiseRenewed(_)
        | Wire::PromiseDropped(_)
        | Wire::SurvivorsHeld(_)
        | Wire::Planned(_)
        | Wire::WantedBack(_) => planned(wire),
        Wire::CountersRestored(_)
        | Wire::TenantRestored(_)
        | Wire::UserRestored(_)
        | Wire::NodeRestored(_)
        | Wire::JobRestored(_)
        | Wire::PromiseRestored(_)
        | Wire::WorkloadRestored(_) => restored(wire),
    }
}

fn division(wire: Wire) -> Result<Event, Fault> {
    Ok(match wire {
        Wire::PoolDefined(it) => Event::PoolDefined {
            pool: pool("PoolDefined.pool", it.pool)?,
            name: it.name.into(),
            model: it.model.into(),
            gpus_per_node: byte("PoolDefined.gpus_per_node", it.gpus_per_node)?,
        },
        Wire::TenantDefined(it) => Event::TenantDefined {
            tenant: tenant("TenantDefined.tenant", it.tenant)?,
            parent: tenant("TenantDefined.parent", it.parent)?,
            name: it.name.into(),
        },
        Wire::TenantChanged(it) => Event::TenantChanged {
            tenant: tenant("TenantChanged.tenant", it.tenant)?,
            change: TenantChange {
                weight: it.weight,
                default_time_limit: it.default_time_limit_ms.map(Span),
                quotas: it.quotas.iter().map(quota_from_wire).collect::<Result<_, _>>()?,
                min_run: it.min_run_ms.map(Span),
                caps: it.caps.map(caps_from_wire),
                budget: it.budget.map(grant_change_from_wire),
                reclaim_within: it.reclaim_within_ms.map(Span),
                idle: it.idle.map(idle_rule_from_wire).transpose()?,
                forecast: forecast_from_wire(&it.forecast)?,
            },
        },
        Wire::Paused(it) => Event::Paused { tenant: tenant("Paused.tenant", it.tenant)?, paused: it.paused },
        Wire::UserSeen(it) => Event::UserSeen { user: UserIndex(it.user), name: it.name.into() },
        Wire::BudgetPeriodBegan(it) => {
            Event::BudgetPeriodBegan { tenant: tenant("BudgetPeriodBegan.tenant", it.tenant)? }
        }
        Wire::BudgetCarried(it) => {
            Event::BudgetCarried { tenant: tenant("BudgetCarried.tenant", it.tenant)?, gpu_time: GpuTime(it.gpu_ms) }
        }
        Wire::QuotaDated(it) => Event::QuotaDated { dated: dated_from_wire(&it)? },
        Wire::QuotaBegan(it) => Event::QuotaBegan { key: dated_key_from_wire("QuotaBegan.dated", it.dated)? },
        Wire::QuotaEnded(it) => Event::QuotaEnded { key: dated_key_from_wire("QuotaEnded.dated", it.dated)? },
        Wire::RequestAnswered(it) => Event::RequestAnswered {
            user: it.user.into(),
            id: it.id.into(),
            digest: it.digest,
            reply: reply_from_wire(&needed("RequestAnswered.reply", it.reply)?)?,
        },
        _ => unreachable!("only events of the division come here"),
    })
}

fn node(wire: Wire) -> Result<Event, Fault> {
    Ok(match wire {
        Wire::NodeJoined(it) => Event::NodeJoined {
            node: NodeIndex(it.node),
            name: it.name.into(),
            pool: pool("NodeJoined.pool", it.pool)?,
            location: location_from_wire(needed("NodeJoined.location", it.location)?),
            capacity: capacity_from_wire(needed("NodeJoined.capacity", it.capacity)?)?,
            boot_id: it.boot_id.into(),
        },
        Wire::NodeChanged(it) => Event::NodeChanged {
            node: NodeIndex(it.node),
            pool: pool("NodeChanged.pool", it.pool)?,
            location: location_from_wire(needed("NodeChanged.location", it.location)?),
            capacity: capacity_from_wire(needed("NodeChanged.capacity", it.capacity)?)?,
        },
        Wire::NodeContact(it) => Event::NodeContact {
            node: NodeIndex(it.node),
            contact: Contact::from_wire("NodeContact.contact", it.contact)?,
        },
        Wire::NodeRebooted(it) => Event::NodeRebooted { node: NodeIndex(it.node), boot_id: it.boot_id.into() },
        Wire::NodeSpared(it) => Event::NodeSpared { node: NodeIndex(it.node), spare: it.spare },
        Wire::NodeCordoned(it) => {
            Event::NodeCordoned { node: NodeIndex(it.node), cordoned: it.cordoned, draining: it.draining }
        }
        Wire::GpusFenced(it) => Event::GpusFenced { node: NodeIndex(it.node), bad: GpuSet(it.bad) },
        _ => unreachable!("only events of nodes come here"),
    })
}

fn job(wire: Wire) -> Result<Event, Fault> {
    Ok(match wire {
        Wire::JobSubmitted(it) => Event::JobSubmitted {
            job: JobId(it.job),
            spec: Box::new(spec_from_wire(needed("JobSubmitted.spec", it.spec)?)?),
            held: it.held,
            not_before: it.not_before_ms.map(Time),
        },
        Wire::JobHeld(it) => Event::JobHeld { job: JobId(it.job) },
        Wire::JobReleased(it) => Event::JobReleased { job: JobId(it.job) },
        Wire::JobEligible(it) => Event::JobEligible { job: JobId(it.job) },
        Wire::ArrayIndexStarted(it) => {
            Event::ArrayIndexStarted { array: JobId(it.array), index: it.index, job: JobId(it.job) }
        }
        Wire::ArrayStopped(it) => Event::ArrayStopped { array: JobId(it.array) },
        Wire::JobRequeued(it) => Event::JobRequeued {
            job: JobId(it.job),
            front: it.front,
            not_before: it.not_before_ms.map(Time),
            avoid: it.avoid.map(NodeIndex),
            own_fault: it.own_fault,
        },
        Wire::JobEnded(it) => {
            Event::JobEnded { job: JobId(it.job), outcome: Outcome::from_wire("JobEnded.outcome", it.outcome)? }
        }
        Wire::JobForgotten(it) => Event::JobForgotten { job: JobId(it.job) },
        _ => unreachable!("only events of jobs come here"),
    })
}

fn attempt(wire: Wire) -> Result<Event, Fault> {
    Ok(match wire {
        Wire::JobPlaced(it) => Event::JobPlaced {
            job: JobId(it.job),
            attempt: AttemptNumber(it.attempt),
            pool: pool("JobPlaced.pool", it.pool)?,
            members: members_from_wire("JobPlaced.members", it.members, |member| placed_from_wire(&member))?,
            scavenger: it.scavenger,
            guest: it.guest,
            lowered: it.lowered_ms.map(Span),
        },
        Wire::JobCheckpointed(it) => {
            Event::JobCheckpointed { job: JobId(it.job), attempt: AttemptNumber(it.attempt), step: it.step }
        }
        Wire::JobIdle(it) => Event::JobIdle {
            job: JobId(it.job),
            attempt: AttemptNumber(it.attempt),
            notice: idle_notice_from_wire(needed("JobIdle.notice", it.notice)?)?,
        },
        Wire::AvoidanceLifted(it) => Event::AvoidanceLifted { job: JobId(it.job) },
        Wire::JobBusy(it) => Event::JobBusy { job: JobId(it.job), attempt: AttemptNumber(it.attempt) },
        Wire::MemberPrepared(it) => Event::MemberPrepared {
            job: JobId(it.job),
            attempt: AttemptNumber(it.attempt),
            member: MemberIndex(it.member),
        },
        Wire::GangReleased(it) => Event::GangReleased { job: JobId(it.job), attempt: AttemptNumber(it.attempt) },
        Wire::MemberStarted(it) => Event::MemberStarted {
            job: JobId(it.job),
            attempt: AttemptNumber(it.attempt),
            member: MemberIndex(it.member),
        },
        Wire::MemberGone(it) => Event::MemberGone {
            job: JobId(it.job),
            attempt: AttemptNumber(it.attempt),
            member: MemberIndex(it.member),
            exit: exit_from_wire(needed("MemberGone.exit", it.exit)?)?,
        },
        Wire::MemberProven(it) => Event::MemberProven {
            job: JobId(it.job),
            attempt: AttemptNumber(it.attempt),
            member: MemberIndex(it.member),
        },
        Wire::AttemptStopping(it) => Event::AttemptStopping {
            job: JobId(it.job),
            attempt: AttemptNumber(it.attempt),
            reason: StopReason::from_wire("AttemptStopping.reason", it.reason)?,
            beneficiary: it.beneficiary.map(JobId),
            keeps: it.keeps,
        },
        Wire::AttemptEnded(it) => Event::AttemptEnded {
            job: JobId(it.job),
            attempt: AttemptNumber(it.attempt),
            outcome: Outcome::from_wire("AttemptEnded.outcome", it.outcome)?,
        },
        _ => unreachable!("only events of attempts come here"),
    })
}

fn planned(wire: Wire) -> Result<Event, Fault> {
    Ok(match wire {
        Wire::Promised(it) => Event::Promised {
            job: JobId(it.job),
            pool: pool("Promised.pool", it.pool)?,
            members: members_from_wire("Promised.members", it.members, |placed| placed_from_wire(&placed))?,
            due: Time(it.due_ms),
        },
        Wire::SurvivorsHeld(it) => Event::SurvivorsHeld {
            job: JobId(it.job),
            lost: it.lost.into_iter().map(MemberIndex).collect(),
            until: Time(it.until_ms),
        },
        Wire::Planned(it) => {
            let reservations = it.reservations.into_iter().map(reservation_from_wire).collect::<Result<_, _>>()?;
            Event::Planned { reservations }
        }
        Wire::WantedBack(it) => Event::WantedBack {
            begun: it.begun.iter().map(wanted_from_wire).collect::<Result<_, _>>()?,
            over: it.over.iter().map(|wanted| Ok(wanted_from_wire(wanted)?.0)).collect::<Result<_, Fault>>()?,
        },
        Wire::CountedAnew(it) => Event::CountedAnew { since: Time(it.since_ms) },
        Wire::PromiseRenewed(it) => {
            Event::PromiseRenewed { job: JobId(it.job), due: Time(it.due_ms), latest: Time(it.latest_ms) }
        }
        Wire::PromiseDropped(it) => {
            Event::PromiseDropped { job: JobId(it.job), why: DropCause::from_wire("PromiseDropped.why", it.why)? }
        }
        _ => unreachable!("only events of plans come here"),
    })
}

fn restored(wire: Wire) -> Result<Event, Fault> {
    Ok(match wire {
        Wire::CountersRestored(it) => {
            let (next_job, skipped_attempts) = (JobId(it.next_job), AttemptNumber(it.skipped_attempts));
            Event::CountersRestored { next_job, next_start: it.next_start, skipped_attempts }
        }
        Wire::TenantRestored(it) => Event::TenantRestored {
            tenant: tenant("TenantRestored.tenant", it.tenant)?,
            total: usage_from_wire(needed("TenantRestored.total", it.total)?),
            excess: meter_from_wire(needed("TenantRestored.excess", it.excess)?),
            budget: it.budget.as_ref().map(budget_from_wire).transpose()?,
        },
        Wire::UserRestored(it) => Event::UserRestored {
            tenant: tenant("UserRestored.tenant", it.tenant)?,
            user: UserIndex(it.user),
            ledger: ledger_from_wire(&it)?,
        },
        Wire::NodeRestored(it) => Event::NodeRestored { node: Box::new(node_from_wire(*it)?) },
        Wire::JobRestored(it) => Event::JobRestored { job: Box::new(job_from_wire(*it)?) },
        Wire::WorkloadRestored(it) => Event::WorkloadRestored { kinds: workload_from_wire(&it)? },
        Wire::PromiseRestored(it) => {
            Event::PromiseRestored { job: JobId(it.job), promise: Box::new(promise_from_wire(it)?) }
        }
        _ => unreachable!("only events of snapshots come here"),
    })
}
