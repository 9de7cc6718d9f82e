//! Event -> record: one match over all events, split by theme.

use dure_core::event::{Event, TenantChange};
use dure_core::ids::TenantIndex;
use dure_core::units::Time;
use dure_proto::journal::v1;
use dure_proto::journal::v1::record::Event as Wire;

use super::bookings;
use super::calendar::{dated_key_to_wire, dated_to_wire};
use super::ledgers::{budget_to_wire, caps_to_wire, grant_change_to_wire};
use super::parts::{
    capacity_to_wire, exit_to_wire, idle_notice_to_wire, idle_rule_to_wire, location_to_wire, placed_to_wire,
    quota_to_wire, reply_to_wire, spec_to_wire,
};
use super::restored::{
    job_to_wire, meter_to_wire, node_to_wire, promise_to_wire, reservation_to_wire, usage_to_wire, wanted_to_wire,
    workload_to_wire,
};
use super::words::Word;

/// The record of an event.
pub(super) fn record(event: &Event) -> v1::Record {
    let wire = match event {
        Event::PoolDefined { .. }
        | Event::TenantDefined { .. }
        | Event::TenantChanged { .. }
        | Event::Paused { .. }
        | Event::UserSeen { .. }
        | Event::BudgetPeriodBegan { .. }
        | Event::BudgetCarried { .. }
        | Event::QuotaDated { .. }
        | Event::QuotaBegan { .. }
        | Event::QuotaEnded { .. }
        | Event::RequestAnswered { .. } => division(event),
        Event::BookingMade { .. }
        | Event::BookingCleared { .. }
        | Event::BookingBegan { .. }
        | Event::BookingEnded { .. }
        | Event::BookingCancelled { .. } => bookings::to_wire(event),
        Event::NodeJoined { .. }
        | Event::NodeChanged { .. }
        | Event::NodeContact { .. }
        | Event::NodeRebooted { .. }
        | Event::NodeCordoned { .. }
        | Event::NodeSpared { .. }
        | Event::GpusFenced { .. } => node(event),
        Event::JobSubmitted { .. }
        | Event::JobHeld { .. }
        | Event::JobReleased { .. }
        | Event::JobEligible { .. }
        | Event::ArrayIndexStarted { .. }
        | Event::ArrayStopped { .. }
        | Event::JobRequeued { .. }
        | Event::JobEnded { .. }
        | Event::JobForgotten { .. } => job(event),
        Event::JobPlaced { .. }
        | Event::MemberPrepared { .. }
        | Event::GangReleased { .. }
        | Event::MemberStarted { .. }
        | Event::MemberGone { .. }
        | Event::MemberProven { .. }
        | Event::AttemptStopping { .. }
        | Event::JobCheckpointed { .. }
        | Event::JobIdle { .. }
        | Event::JobBusy { .. }
        | Event::AvoidanceLifted { .. }
        | Event::AttemptEnded { .. } => attempt(event),
        Event::Promised { .. }
        | Event::CountedAnew { .. }
        | Event::PromiseRenewed { .. }
        | Event::PromiseDropped { .. }
        | Event::SurvivorsHeld { .. }
        | Event::Planned { .. }
        | Event::WantedBack { .. } => planned(event),
        Event::CountersRestored { .. }
        | Event::TenantRestored { .. }
        | Event::UserRestored { .. }
        | Event::NodeRestored { .. }
        | Event::JobRestored { .. }
        | Event::PromiseRestored { .. }
        | Event::WorkloadRestored { .. } => restored(event),
    };
    v1::Record { event: Some(wire) }
}

fn division(event: &Event) -> Wire {
    match event {
        Event::PoolDefined { pool, name, model, gpus_per_node } => Wire::PoolDefined(v1::PoolDefined {
            pool: u32::from(pool.0),
            name: (**name).to_owned(),
            model: (**model).to_owned(),
            gpus_per_node: u32::from(*gpus_per_node),
        }),
        Event::TenantDefined { tenant, parent, name } => Wire::TenantDefined(v1::TenantDefined {
            tenant: u32::from(tenant.0),
            parent: u32::from(parent.0),
            name: (**name).to_owned(),
        }),
        Event::TenantChanged { tenant, change } => Wire::TenantChanged(tenant_changed(*tenant, change)),
        Event::Paused { tenant, paused } => Wire::Paused(v1::Paused { tenant: u32::from(tenant.0), paused: *paused }),
        Event::UserSeen { user, name } => Wire::UserSeen(v1::UserSeen { user: user.0, name: (**name).to_owned() }),
        Event::BudgetPeriodBegan { tenant } => {
            Wire::BudgetPeriodBegan(v1::BudgetPeriodBegan { tenant: u32::from(tenant.0) })
        }
        Event::BudgetCarried { tenant, gpu_time } => {
            Wire::BudgetCarried(v1::BudgetCarried { tenant: u32::from(tenant.0), gpu_ms: gpu_time.0 })
        }
        Event::QuotaDated { dated } => Wire::QuotaDated(dated_to_wire(dated)),
        Event::QuotaBegan { key } => Wire::QuotaBegan(v1::QuotaBegan { dated: Some(dated_key_to_wire(*key)) }),
        Event::QuotaEnded { key } => Wire::QuotaEnded(v1::QuotaEnded { dated: Some(dated_key_to_wire(*key)) }),
        Event::RequestAnswered { user, id, digest, reply } => Wire::RequestAnswered(v1::RequestAnswered {
            user: (**user).to_owned(),
            id: (**id).to_owned(),
            digest: *digest,
            reply: Some(reply_to_wire(*reply)),
        }),
        _ => unreachable!("only events of the division come here"),
    }
}

fn tenant_changed(tenant: TenantIndex, change: &TenantChange) -> v1::TenantChanged {
    v1::TenantChanged {
        tenant: u32::from(tenant.0),
        weight: change.weight,
        default_time_limit_ms: change.default_time_limit.map(|span| span.0),
        quotas: change.quotas.iter().map(|(pool, quota)| quota_to_wire(*pool, quota)).collect(),
        min_run_ms: change.min_run.map(|span| span.0),
        caps: change.caps.map(caps_to_wire),
        budget: change.budget.map(grant_change_to_wire),
        reclaim_within_ms: change.reclaim_within.map(|span| span.0),
        idle: change.idle.map(idle_rule_to_wire),
        forecast: change.forecast.map(|id| id.0.to_vec()).unwrap_or_default(),
    }
}

fn node(event: &Event) -> Wire {
    match event {
        Event::NodeJoined { node, name, pool, location, capacity, boot_id } => {
            Wire::NodeJoined(Box::new(v1::NodeJoined {
                node: node.0,
                name: (**name).to_owned(),
                pool: u32::from(pool.0),
                location: Some(location_to_wire(location)),
                capacity: Some(capacity_to_wire(capacity)),
                boot_id: (**boot_id).to_owned(),
            }))
        }
        Event::NodeChanged { node, pool, location, capacity } => Wire::NodeChanged(Box::new(v1::NodeChanged {
            node: node.0,
            pool: u32::from(pool.0),
            location: Some(location_to_wire(location)),
            capacity: Some(capacity_to_wire(capacity)),
        })),
        Event::NodeContact { node, contact } => {
            Wire::NodeContact(v1::NodeContact { node: node.0, contact: contact.to_wire() })
        }
        Event::NodeRebooted { node, boot_id } => {
            Wire::NodeRebooted(v1::NodeRebooted { node: node.0, boot_id: (**boot_id).to_owned() })
        }
        Event::NodeCordoned { node, cordoned, draining } => {
            Wire::NodeCordoned(v1::NodeCordoned { node: node.0, cordoned: *cordoned, draining: *draining })
        }
        Event::NodeSpared { node, spare } => Wire::NodeSpared(v1::NodeSpared { node: node.0, spare: *spare }),
        Event::GpusFenced { node, bad } => Wire::GpusFenced(v1::GpusFenced { node: node.0, bad: bad.0 }),
        _ => unreachable!("only events of nodes come here"),
    }
}

fn job(event: &Event) -> Wire {
    match event {
        Event::JobSubmitted { job, spec, held, not_before } => Wire::JobSubmitted(Box::new(v1::JobSubmitted {
            job: job.0,
            spec: Some(spec_to_wire(spec)),
            held: *held,
            not_before_ms: not_before.map(|time| time.0),
        })),
        Event::JobHeld { job } => Wire::JobHeld(v1::JobHeld { job: job.0 }),
        Event::JobReleased { job } => Wire::JobReleased(v1::JobReleased { job: job.0 }),
        Event::JobEligible { job } => Wire::JobEligible(v1::JobEligible { job: job.0 }),
        Event::ArrayIndexStarted { array, index, job } => {
            Wire::ArrayIndexStarted(v1::ArrayIndexStarted { array: array.0, index: *index, job: job.0 })
        }
        Event::ArrayStopped { array } => Wire::ArrayStopped(v1::ArrayStopped { array: array.0 }),
        Event::JobRequeued { job, front, not_before, avoid, own_fault } => Wire::JobRequeued(v1::JobRequeued {
            job: job.0,
            front: *front,
            not_before_ms: not_before.map(|time| time.0),
            avoid: avoid.map(|node| node.0),
            own_fault: *own_fault,
        }),
        Event::JobEnded { job, outcome } => Wire::JobEnded(v1::JobEnded { job: job.0, outcome: outcome.to_wire() }),
        Event::JobForgotten { job } => Wire::JobForgotten(v1::JobForgotten { job: job.0 }),
        _ => unreachable!("only events of jobs come here"),
    }
}

fn attempt(event: &Event) -> Wire {
    match event {
        Event::JobPlaced { job, attempt, pool, members, scavenger, guest, lowered } => Wire::JobPlaced(v1::JobPlaced {
            job: job.0,
            attempt: attempt.0,
            pool: u32::from(pool.0),
            members: members.iter().map(placed_to_wire).collect(),
            scavenger: *scavenger,
            guest: *guest,
            lowered_ms: lowered.map(|limit| limit.0),
        }),
        Event::JobCheckpointed { job, attempt, step } => {
            Wire::JobCheckpointed(v1::JobCheckpointed { job: job.0, attempt: attempt.0, step: *step })
        }
        Event::JobIdle { job, attempt, notice } => {
            Wire::JobIdle(v1::JobIdle { job: job.0, attempt: attempt.0, notice: Some(idle_notice_to_wire(*notice)) })
        }
        Event::AvoidanceLifted { job } => Wire::AvoidanceLifted(v1::AvoidanceLifted { job: job.0 }),
        Event::JobBusy { job, attempt } => Wire::JobBusy(v1::JobBusy { job: job.0, attempt: attempt.0 }),
        Event::MemberPrepared { job, attempt, member } => {
            Wire::MemberPrepared(v1::MemberPrepared { job: job.0, attempt: attempt.0, member: member.0 })
        }
        Event::GangReleased { job, attempt } => Wire::GangReleased(v1::GangReleased { job: job.0, attempt: attempt.0 }),
        Event::MemberStarted { job, attempt, member } => {
            Wire::MemberStarted(v1::MemberStarted { job: job.0, attempt: attempt.0, member: member.0 })
        }
        Event::MemberGone { job, attempt, member, exit } => Wire::MemberGone(v1::MemberGone {
            job: job.0,
            attempt: attempt.0,
            member: member.0,
            exit: Some(exit_to_wire(exit)),
        }),
        Event::MemberProven { job, attempt, member } => {
            Wire::MemberProven(v1::MemberProven { job: job.0, attempt: attempt.0, member: member.0 })
        }
        Event::AttemptStopping { job, attempt, reason, beneficiary, keeps } => {
            Wire::AttemptStopping(v1::AttemptStopping {
                job: job.0,
                attempt: attempt.0,
                reason: reason.to_wire(),
                beneficiary: beneficiary.map(|job| job.0),
                keeps: *keeps,
            })
        }
        Event::AttemptEnded { job, attempt, outcome } => {
            Wire::AttemptEnded(v1::AttemptEnded { job: job.0, attempt: attempt.0, outcome: outcome.to_wire() })
        }
        _ => unreachable!("only events of attempts come here"),
    }
}

fn planned(event: &Event) -> Wire {
    match event {
        Event::Promised { job, pool, members, due } => Wire::Promised(v1::Promised {
            job: job.0,
            pool: u32::from(pool.0),
            members: members.iter().map(placed_to_wire).collect(),
            due_ms: due.0,
        }),
        Event::Planned { reservations } => {
            Wire::Planned(v1::Planned { reservations: reservations.iter().map(reservation_to_wire).collect() })
        }
        Event::WantedBack { begun, over } => Wire::WantedBack(v1::WantedBack {
            begun: begun.iter().map(|(wanted, since)| wanted_to_wire(wanted, *since)).collect(),
            over: over.iter().map(|wanted| wanted_to_wire(wanted, Time(0))).collect(),
        }),
        Event::SurvivorsHeld { job, lost, until } => Wire::SurvivorsHeld(v1::SurvivorsHeld {
            job: job.0,
            lost: lost.iter().map(|rank| rank.0).collect(),
            until_ms: until.0,
        }),
        Event::CountedAnew { since } => Wire::CountedAnew(v1::CountedAnew { since_ms: since.0 }),
        Event::PromiseRenewed { job, due, latest } => {
            Wire::PromiseRenewed(v1::PromiseRenewed { job: job.0, due_ms: due.0, latest_ms: latest.0 })
        }
        Event::PromiseDropped { job, why } => {
            Wire::PromiseDropped(v1::PromiseDropped { job: job.0, why: why.to_wire() })
        }
        _ => unreachable!("only events of plans come here"),
    }
}

fn restored(event: &Event) -> Wire {
    match event {
        Event::CountersRestored { next_job, next_start, skipped_attempts } => {
            let (next_job, next_start, skipped_attempts) = (next_job.0, *next_start, skipped_attempts.0);
            Wire::CountersRestored(v1::CountersRestored { next_job, next_start, skipped_attempts })
        }
        Event::TenantRestored { tenant, total, excess, budget } => Wire::TenantRestored(v1::TenantRestored {
            tenant: u32::from(tenant.0),
            total: Some(usage_to_wire(*total)),
            excess: Some(meter_to_wire(*excess)),
            budget: budget.as_ref().map(budget_to_wire),
        }),
        Event::UserRestored { tenant, user, ledger } => Wire::UserRestored(v1::UserRestored {
            tenant: u32::from(tenant.0),
            user: user.0,
            used_gpus: super::restored::gpus_to_wire(ledger.used).0,
            used_part_milli: super::restored::gpus_to_wire(ledger.used).1,
            recent: Some(meter_to_wire(ledger.recent)),
            total: Some(usage_to_wire(ledger.total)),
            jobs: ledger.jobs,
        }),
        Event::NodeRestored { node } => Wire::NodeRestored(Box::new(node_to_wire(node))),
        Event::JobRestored { job } => Wire::JobRestored(Box::new(job_to_wire(job))),
        Event::WorkloadRestored { kinds } => Wire::WorkloadRestored(workload_to_wire(kinds)),
        Event::PromiseRestored { job, promise } => Wire::PromiseRestored(promise_to_wire(*job, promise)),
        _ => unreachable!("only events of snapshots come here"),
    }
}
