//! Between the wire and the agent's own words: the only file, with the lease records, that knows both.
//!
//! Comes in: messages of the scheduler. Goes out: model values, and back. A message that lacks what it needs is an
//! error with the name of the field; it never panics and never becomes something else.

use std::sync::Arc;

use dure_proto::v1;

use crate::{
    model::{Epoch, Exit, How, JournalSeq, MemberId, News, Order, Report, StopRequest, Want, Welcome},
    reconcile::{LeaseView, ViewPhase},
};

/// A message of the scheduler that cannot be obeyed as it is.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("order for member {id} without `{field}`: the scheduler is of another version")]
pub struct BadOrder {
    /// Whom it was about.
    pub id: MemberId,
    /// What is missing.
    pub field: &'static str,
}

pub(crate) fn order_from_wire(order: v1::Order) -> Result<Order, BadOrder> {
    let id = MemberId { job: order.job_id, attempt: order.attempt, member: order.member };
    let want = match order.what {
        None => return Err(BadOrder { id, field: "what" }),
        Some(v1::order::What::Launch(launch)) => Want::Launch(Arc::new(launch)),
        Some(v1::order::What::Go(launch)) => Want::Go(Arc::new(launch)),
        Some(v1::order::What::Keep(v1::Keep {})) => Want::Keep,
        Some(v1::order::What::Stop(stop)) => Want::Stop(StopRequest { reason: stop.reason, grace_ms: stop.grace_ms }),
    };
    if order.sequence == 0 {
        return Err(BadOrder { id, field: "sequence" });
    }
    Ok(Order { epoch: Epoch(order.epoch), seq: JournalSeq(order.seq), id, sequence: order.sequence, want })
}

pub(crate) fn welcome_from_wire(welcome: v1::Welcome) -> Result<Welcome, BadOrder> {
    let settled = welcome.settled.iter();
    Ok(Welcome {
        epoch: Epoch(welcome.epoch),
        seq: JournalSeq(welcome.seq),
        store_id: welcome.store_id,
        settled: settled.map(|key| MemberId { job: key.job_id, attempt: key.attempt, member: key.member }).collect(),
        wanted: welcome.wanted.into_iter().map(order_from_wire).collect::<Result<_, _>>()?,
    })
}

pub(crate) fn exit_to_wire(exit: &Exit) -> v1::Exit {
    let how = match &exit.how {
        How::Code(code) => v1::exit::How::Code(*code),
        How::Signal(signal) => v1::exit::How::Signal(*signal),
        How::LaunchFailure(why) => v1::exit::How::LaunchFailure(why.clone()),
        How::Unknown(why) => v1::exit::How::Unknown(why.clone()),
    };
    v1::Exit {
        how: Some(how),
        timed_out: exit.timed_out,
        started_ms: exit.started_ms,
        ended_ms: exit.ended_ms,
        detail: exit.detail.clone(),
        out_of_memory: exit.out_of_memory,
    }
}

pub(crate) fn exit_from_wire(exit: v1::Exit) -> Exit {
    let how = match exit.how.clone() {
        Some(v1::exit::How::Code(code)) => How::Code(code),
        Some(v1::exit::How::Signal(signal)) => How::Signal(signal),
        Some(v1::exit::How::LaunchFailure(why)) => How::LaunchFailure(why),
        Some(v1::exit::How::Unknown(why)) => How::Unknown(why),
        None => How::Unknown("the record of its end does not say how".to_owned()),
    };
    let v1::Exit { timed_out, started_ms, ended_ms, detail, out_of_memory, .. } = exit;
    Exit { how, timed_out, started_ms, ended_ms, detail, out_of_memory }
}

pub(crate) fn report_to_wire(report: &Report) -> v1::Report {
    let what = match &report.news {
        News::Prepared => v1::report::What::Prepared(true),
        News::Started(pid) => v1::report::What::StartedPid(*pid),
        News::Checkpoint(step, at) => v1::report::What::Checkpoint(v1::Checkpoint { step: *step, at_ms: at.0 }),
        News::Gone(exit) => v1::report::What::Gone(exit_to_wire(exit)),
    };
    v1::Report {
        report_id: report.report_id,
        job_id: report.id.job,
        attempt: report.id.attempt,
        member: report.id.member,
        what: Some(what),
    }
}

pub(crate) fn lease_to_wire(view: LeaseView) -> v1::Lease {
    let (phase, exit) = match view.phase {
        // The scheduler knows it, and draws nothing from it: only `Prepared` releases a gang.
        ViewPhase::Staging => (v1::LeasePhase::Unspecified, None),
        ViewPhase::Prepared => (v1::LeasePhase::Prepared, None),
        ViewPhase::Running => (v1::LeasePhase::Running, None),
        ViewPhase::Stopping => (v1::LeasePhase::Stopping, None),
        ViewPhase::Gone(exit) => (v1::LeasePhase::Gone, Some(exit_to_wire(&exit))),
    };
    v1::Lease {
        job_id: view.id.job,
        attempt: view.id.attempt,
        member: view.id.member,
        sequence: view.sequence,
        phase: phase.into(),
        gpus: view.gpus,
        exit,
    }
}
