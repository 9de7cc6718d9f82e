//! Promises, reservations and what is wanted back.

use dure_core::promise::{DropCause, Promise};
use dure_core::reserve::Reservation;
use dure_core::units::{CpuMilli, MemoryMib};
use dure_core::wanted::Wanted;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::{gpus, job, member_index, placed, pool, span, tenant, time};

pub(super) fn drop_cause() -> impl Strategy<Value = DropCause> {
    select(vec![
        DropCause::NotWanted,
        DropCause::NodeClosed,
        DropCause::NotAllowed,
        DropCause::Late,
        DropCause::NoSpare,
    ])
}

pub(super) fn promise() -> impl Strategy<Value = Promise> {
    let times = (time(), time(), span(), time());
    (pool(), vec(placed(), 1..6), any::<u64>(), times, vec(member_index(), 0..3)).prop_map(
        |(pool, members, start_order, (made_at, due, span, latest), sought)| Promise {
            pool,
            members: members.into(),
            made_at,
            start_order,
            due,
            span,
            latest,
            sought: sought.into(),
        },
    )
}

pub(super) fn wanted() -> impl Strategy<Value = Wanted> {
    (tenant(), pool(), gpus(), any::<bool>()).prop_map(|(tenant, pool, gpus, preemptible)| Wanted {
        tenant,
        pool,
        gpus,
        preemptible,
    })
}

pub(super) fn reservation() -> impl Strategy<Value = Reservation> {
    let beside = (
        any::<u64>().prop_map(CpuMilli),
        any::<u64>().prop_map(MemoryMib),
        time(),
        time(),
        any::<bool>(),
        any::<bool>(),
    );
    (job(), pool(), vec(placed(), 1..6), beside).prop_map(
        |(job, pool, members, (cpu, memory, from, until, is_own, reclaims))| Reservation {
            job,
            pool,
            members: members.into(),
            cpu,
            memory,
            from,
            until,
            is_own,
            reclaims,
        },
    )
}
