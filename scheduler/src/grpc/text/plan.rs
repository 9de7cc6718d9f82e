//! What the planner and the cycle say.

use dure_core::ids::{BookingId, JobId, PoolIndex};
use dure_core::units::{GpuTime, Gpus, Time};

use super::division::hours;
use super::{Names, Reason, are, gpus, moment, plural};

pub(super) fn fragmented(names: Names<'_>, pool: PoolIndex, want: Gpus, reclaimable: Gpus, until: Time) -> Reason {
    let (pool, needs, by, useless) = (names.pool(pool), gpus(want), moment(until), gpus(reclaimable));
    let message = format!(
        "it is inside its quota and needs {needs}, but what others run inside theirs lies in the way in pool {pool} until \
         {by} at the latest; {useless} could be taken back and would not help"
    );
    Reason::new(message, "ask for smaller members or fewer in one domain, or wait until then")
        .gpus("want", want)
        .gpus("reclaimable", reclaimable)
        .number("until_ms", until.0)
}

pub(super) fn minimum_run(names: Names<'_>, pool: PoolIndex, want: Gpus, until: Time) -> Reason {
    let (pool, needs, by) = (names.pool(pool), gpus(want), moment(until));
    let message = format!(
        "it is inside its quota and needs {needs}; what borrows them in pool {pool} has not run its minimum yet, enough of it \
         has at {by}"
    );
    Reason::new(message, "nothing: they are taken back then").gpus("want", want).number("until_ms", until.0)
}

pub(super) fn too_dear(
    names: Names<'_>,
    pool: PoolIndex,
    want: Gpus,
    loss: GpuTime,
    saved: GpuTime,
    until: Time,
) -> Reason {
    let (pool, needs, by, lost, spared) = (names.pool(pool), gpus(want), moment(until), hours(loss), hours(saved));
    let message = format!(
        "it is inside its quota and needs {needs}; to take them back now in pool {pool} would lose {lost} GPU-hours of work to \
         spare it {spared} of waiting; they come back whatever that costs from {by} on"
    );
    Reason::new(
        message,
        "nothing: they are taken back then, or sooner if it pays; a shorter deadline: dure quota set --reclaim-within",
    )
    .gpus("want", want)
    .number("loss_gpu_ms", loss.0)
    .number("saved_gpu_ms", saved.0)
    .number("until_ms", until.0)
}

pub(super) fn reclaim_pending(names: Names<'_>, pool: PoolIndex, want: Gpus, free: Gpus, due: Time) -> Reason {
    let (pool, promised, already, by) = (names.pool(pool), gpus(want), are(free), moment(due));
    let message = format!(
        "{promised} in pool {pool} are promised to it, {already} free already; what holds the rest is being stopped, until \
         {by} at the latest"
    );
    Reason::new(message, "nothing: it starts when the last of them is free")
        .gpus("want", want)
        .gpus("free", free)
        .number("due_ms", due.0)
}

pub(super) fn spare_sought(names: Names<'_>, pool: PoolIndex, held: Gpus, want: Gpus, until: Time) -> Reason {
    let (pool, kept, sought, at) = (names.pool(pool), gpus(held), gpus(want), moment(until));
    let message = format!(
        "it lost a node or a GPU: what is left of its places ({kept} in pool {pool}) is held for it until {at}, and {sought} \
         are sought in place of the rest"
    );
    Reason::new(message, "nothing: it starts there as soon as a spare or a free node will do, or is placed anew then")
        .gpus("held", held)
        .gpus("want", want)
        .number("until_ms", until.0)
}

pub(super) fn reserved(names: Names<'_>, pool: PoolIndex, want: Gpus, idle: Gpus, from: Time) -> Reason {
    let (pool, aside, now, at) = (names.pool(pool), gpus(want), are(idle), moment(from));
    let message = format!(
        "{aside} in pool {pool} are set aside for it, {now} idle now; by the limits of what runs it starts at {at} at the \
         latest"
    );
    Reason::new(message, "nothing: it starts then, or sooner if what runs ends sooner")
        .gpus("want", want)
        .gpus("idle", idle)
        .number("from_ms", from.0)
}

pub(super) fn behind(names: Names<'_>, job: JobId, pool: PoolIndex, idle: Gpus, until: Time) -> Reason {
    let (pool, unused, from) = (names.pool(pool), are(idle), moment(until));
    let message = format!(
        "{unused} idle in pool {pool} and set aside for job {job} from {from} on: only what is over before then may run there"
    );
    Reason::new(message, "ask for less time: --time")
        .number("job", job.0)
        .gpus("idle", idle)
        .number("until_ms", until.0)
}

pub(super) fn cycle_limit(limit: u32) -> Reason {
    let message = format!("the last cycle placed {}, as many as one may", plural(limit, "job"));
    Reason::new(message, "nothing: the next cycle goes on where it stopped").number("limit", limit)
}

pub(super) fn booked(
    names: Names<'_>,
    booking: BookingId,
    pool: PoolIndex,
    idle: Gpus,
    from: Time,
    until: Option<Time>,
) -> Reason {
    let (name, pool, now, at) = (names.booking(booking), names.pool(pool), are(idle), moment(from));
    let end = until.map(|until| format!(" until {}", moment(until))).unwrap_or_default();
    let message = format!(
        "{now} idle in pool {pool} on nodes that reservation {name} keeps from {at}{end}: only what is over before then may run \
         there"
    );
    let mut reason = Reason::new(message, "ask for less time: --time; see the reservations: dure reservation")
        .gpus("idle", idle)
        .number("from_ms", from.0);
    if let Some(until) = until {
        reason = reason.number("until_ms", until.0);
    }
    reason
}

pub(super) fn awaits(names: Names<'_>, booking: BookingId, from: Time) -> Reason {
    let (name, at) = (names.booking(booking), moment(from));
    let message = format!("it runs in reservation {name} alone, which begins at {at}");
    Reason::new(message, "nothing: it is looked at then; to run elsewhere submit it without --reservation")
        .number("from_ms", from.0)
}
