//! Why a job waits, in words: code, a sentence with the numbers, what would help. One exhaustive match.

mod division;
mod placement;
mod plan;
pub mod rules;

use std::collections::BTreeMap;

use dure_core::Cluster;
use dure_core::blocked::{Blocked, Gate};
use dure_core::calendar::DatedQuota;
use dure_core::explain::{Blocker, Change, Help};
use dure_core::ids::{BookingId, PoolIndex, PriorityIndex, TenantIndex};
use dure_core::request::Level;
use dure_core::units::{GpuTime, Gpus, Span, Time};
use dure_proto::v1;

/// All codes that `code` gives.
pub const CODES: [&str; 33] = [
    "HELD",
    "DEPENDENCY",
    "NOT_BEFORE",
    "ARRAY_CAP",
    "NOT_ENOUGH_GPUS",
    "NOT_ENOUGH_MATCHING",
    "NOT_ENOUGH_SEGMENTS",
    "NOT_ENOUGH_SLOTS",
    "NO_SHARE",
    "NO_DOMAIN",
    "NOT_ENOUGH_CPU_OR_MEMORY",
    "SEARCH_LIMIT",
    "OVER_LIMIT",
    "OVER_QUOTA",
    "NON_PREEMPTIBLE_OVER_QUOTA",
    "OVER_USER_GPUS",
    "OVER_USER_JOBS",
    "OVER_BUDGET",
    "LENT_TOO_LONG",
    "KEPT_WHOLE",
    "RETRY_BUDGET",
    "FRAGMENTED",
    "MINIMUM_RUN",
    "TOO_DEAR",
    "RECLAIM_PENDING",
    "SPARE_SOUGHT",
    "RESERVED",
    "BEHIND_RESERVATION",
    "BOOKED",
    "AWAITS_BOOKING",
    "PAUSED",
    "CYCLE_LIMIT",
    "NOT_TRIED",
];

/// The machine-readable token of a reason.
pub fn code(blocker: &Blocker) -> &'static str {
    match blocker {
        Blocker::Gate(gate) => match gate {
            Gate::Held => "HELD",
            Gate::Dependencies { .. } => "DEPENDENCY",
            Gate::NotBefore { .. } => "NOT_BEFORE",
            Gate::ArrayCap { .. } => "ARRAY_CAP",
        },
        Blocker::Blocked(blocked) => match blocked {
            Blocked::NotEnoughGpus { .. } => "NOT_ENOUGH_GPUS",
            Blocked::NotEnoughSlots { .. } => "NOT_ENOUGH_SLOTS",
            Blocked::NoShare { .. } => "NO_SHARE",
            Blocked::NoDomain { .. } => "NO_DOMAIN",
            Blocked::NotEnoughMatching { .. } => "NOT_ENOUGH_MATCHING",
            Blocked::NotEnoughSegments { .. } => "NOT_ENOUGH_SEGMENTS",
            Blocked::NotEnoughCpuOrMemory { .. } => "NOT_ENOUGH_CPU_OR_MEMORY",
            Blocked::SearchLimit { .. } => "SEARCH_LIMIT",
            Blocked::OverLimit { .. } => "OVER_LIMIT",
            Blocked::OverQuota { .. } => "OVER_QUOTA",
            Blocked::NonPreemptibleOverQuota { .. } => "NON_PREEMPTIBLE_OVER_QUOTA",
            Blocked::OverUserGpus { .. } => "OVER_USER_GPUS",
            Blocked::OverUserJobs { .. } => "OVER_USER_JOBS",
            Blocked::OverBudget { .. } => "OVER_BUDGET",
            Blocked::LentTooLong { .. } => "LENT_TOO_LONG",
            Blocked::KeptWhole { .. } => "KEPT_WHOLE",
            Blocked::RetryBudget { .. } => "RETRY_BUDGET",
            Blocked::Fragmented { .. } => "FRAGMENTED",
            Blocked::MinimumRun { .. } => "MINIMUM_RUN",
            Blocked::TooDear { .. } => "TOO_DEAR",
            Blocked::ReclaimPending { .. } => "RECLAIM_PENDING",
            Blocked::SpareSought { .. } => "SPARE_SOUGHT",
            Blocked::Reserved { .. } => "RESERVED",
            Blocked::BehindReservation { .. } => "BEHIND_RESERVATION",
            Blocked::Booked { .. } => "BOOKED",
            Blocked::AwaitsBooking { .. } => "AWAITS_BOOKING",
            Blocked::Paused { .. } => "PAUSED",
            Blocked::CycleLimit { .. } => "CYCLE_LIMIT",
        },
        Blocker::NotTried => "NOT_TRIED",
    }
}

/// What stands in the way, with its amounts, and what would help.
#[derive(Debug)]
struct Reason {
    message: String,
    remedy: &'static str,
    numbers: BTreeMap<String, i64>,
}

impl Reason {
    fn new(message: impl Into<String>, remedy: &'static str) -> Self {
        Self { message: message.into(), remedy, numbers: BTreeMap::new() }
    }

    fn number(mut self, name: &str, value: impl Into<u64>) -> Self {
        self.numbers.insert(name.to_owned(), i64::try_from(value.into()).unwrap_or(i64::MAX));
        self
    }

    /// Whole GPUs, a part of one counted as one.
    fn gpus(self, name: &str, count: Gpus) -> Self {
        self.number(name, count.rounded_up())
    }
}

/// The reason in full.
pub fn blocker(cluster: &Cluster, blocker: &Blocker) -> v1::Blocker {
    let Reason { message, remedy, numbers } = match blocker {
        Blocker::Gate(why) => gate(*why),
        Blocker::Blocked(why) => blocked(Names(cluster), *why),
        Blocker::NotTried => Reason::new(
            "nothing is known to stand in its way; it waits for its turn",
            "nothing: it is looked at in the next cycle",
        ),
    };
    v1::Blocker { code: code(blocker).to_owned(), message, remedy: remedy.to_owned(), numbers }
}

fn gate(gate: Gate) -> Reason {
    match gate {
        Gate::Held => Reason::new("it is held", "release it: dure release"),
        Gate::Dependencies { open } => {
            let jobs = if open == 1 {
                "1 job that it depends on has"
            } else {
                &format!("{open} jobs that it depends on have")
            };
            Reason::new(format!("{jobs} not ended as it asks for"), "it goes on by itself when they have")
                .number("open", open)
        }
        Gate::NotBefore { time } => {
            Reason::new(format!("it is not to start before {}", moment(time)), "it goes on by itself at that time")
                .number("not_before_ms", time.0)
        }
        Gate::ArrayCap { cap: 0 } => {
            Reason::new("all indices of the array have started", "nothing: it ends when they have").number("cap", 0u32)
        }
        Gate::ArrayCap { cap } => Reason::new(
            format!("the array has as many indices under way as its cap of {cap} allows"),
            "it goes on when one of them ends; a higher cap lets more run at once",
        )
        .number("cap", cap),
    }
}

fn blocked(names: Names<'_>, blocked: Blocked) -> Reason {
    match blocked {
        Blocked::NotEnoughGpus { pool, want, free } => placement::gpus_short(names, pool, want, free),
        Blocked::NotEnoughSlots { pool, want, free, gpus_per_member } => {
            placement::slots_short(names, pool, want, free, gpus_per_member)
        }
        Blocked::NoShare { pool, want, fit, part } => placement::no_share(names, pool, want, fit, part),
        Blocked::NoDomain { pool, level, want, best } => placement::no_domain(names, pool, level, want, best),
        Blocked::NotEnoughMatching { pool, want, fit, nodes } => placement::no_match(names, pool, want, fit, nodes),
        Blocked::NotEnoughSegments { pool, level, members, want, fit } => {
            placement::segments_short(names, pool, level, members, want, fit)
        }
        Blocked::NotEnoughCpuOrMemory { pool, want, fit } => placement::beside_short(names, pool, want, fit),
        Blocked::SearchLimit { pool, steps } => placement::search_ended(names, pool, steps),
        Blocked::OverLimit { tenant, pool, limit, used, want } => {
            division::over_limit(names, tenant, pool, [limit, used, want])
        }
        Blocked::OverQuota { tenant, pool, quota, used, available, want } => {
            division::over_quota(names, tenant, pool, [quota, used, available, want])
        }
        Blocked::NonPreemptibleOverQuota { tenant, pool, quota, used, want } => {
            division::fixed_over_quota(names, tenant, pool, [quota, used, want])
        }
        Blocked::OverUserGpus { tenant, limit, used, want } => division::user_gpus(names, tenant, [limit, used, want]),
        Blocked::OverUserJobs { tenant, limit, running } => division::user_jobs(names, tenant, limit, running),
        Blocked::OverBudget { tenant, left, want, until } => division::over_budget(names, tenant, left, want, until),
        Blocked::RetryBudget { failures, limit } => division::failed_too_often(failures, limit),
        Blocked::LentTooLong { pool, deadline, lendable, lent, want } => {
            division::lent_too_long(names, pool, deadline, [lendable, lent, want])
        }
        Blocked::KeptWhole { pool, level, want, may, clean } => {
            division::kept_whole(names, pool, level, [want, may, clean])
        }
        Blocked::Paused { tenant } => division::paused(names, tenant),
        Blocked::Fragmented { pool, want, reclaimable, until } => {
            plan::fragmented(names, pool, want, reclaimable, until)
        }
        Blocked::MinimumRun { pool, want, until } => plan::minimum_run(names, pool, want, until),
        Blocked::TooDear { pool, want, loss, saved, until } => plan::too_dear(names, pool, want, loss, saved, until),
        Blocked::ReclaimPending { pool, want, free, due } => plan::reclaim_pending(names, pool, want, free, due),
        Blocked::SpareSought { pool, held, want, until } => plan::spare_sought(names, pool, held, want, until),
        Blocked::Reserved { pool, want, idle, from } => plan::reserved(names, pool, want, idle, from),
        Blocked::BehindReservation { job, pool, idle, until } => plan::behind(names, job, pool, idle, until),
        Blocked::Booked { booking, pool, idle, from, until } => plan::booked(names, booking, pool, idle, from, until),
        Blocked::AwaitsBooking { booking, from } => plan::awaits(names, booking, from),
        Blocked::CycleLimit { limit } => plan::cycle_limit(limit),
    }
}

/// What would let a job start.
pub fn help(cluster: &Cluster, help: &Help) -> v1::Help {
    let (code, with) = change(cluster, help.change);
    let message = match help.evicts {
        0 => format!("starts now {with}"),
        evicts => {
            format!("starts {with}, after {} on {} would be evicted", plural(evicts, "job"), gpus(help.evicted))
        }
    };
    v1::Help { code: code.to_owned(), message, evicts: help.evicts, evicted_gpus: help.evicted.rounded_up() }
}

fn change(cluster: &Cluster, change: Change) -> (&'static str, String) {
    match change {
        Change::Members(members) => ("MEMBERS", format!("with {}", plural(members, "member"))),
        Change::GpusPerMember(count) => {
            ("GPUS_PER_MEMBER", format!("with {} per member", gpus(Gpus::whole(count.into()))))
        }
        Change::Prefer(level) => ("PREFER", format!("with {0} preferred instead of required", level_name(level))),
        Change::Require(level) => ("REQUIRE", format!("if only one {} were required", level_name(level))),
        Change::ShareNodes => ("SHARE_NODES", "if members might share nodes".to_owned()),
        Change::Beside { cpu, memory } => {
            let cpus = cpu.0 as f64 / 1000.0;
            ("CPU_AND_MEMORY", format!("with {cpus} CPUs and {} MiB of memory per member", memory.0))
        }
        Change::Pool(pool) => ("POOL", format!("in pool {}", Names(cluster).pool(pool))),
        Change::TimeLimit(limit) => ("TIME_LIMIT", format!("if its time limit were {} min", limit.0 / 60_000)),
        Change::Preemptible => ("PREEMPTIBLE", "if it might be evicted".to_owned()),
        Change::Priority(class) => ("PRIORITY", format!("with priority {}", priority(cluster, class))),
    }
}

/// The name of a class of priority.
pub fn priority(cluster: &Cluster, class: PriorityIndex) -> &str {
    cluster.policy().priorities.get(class.at()).map_or("", |class| &class.name)
}

/// A level in a sentence.
pub fn level_name(level: Level) -> &'static str {
    match level {
        Level::Node => "node",
        Level::Nvlink => "NVLink domain",
        Level::Leaf => "leaf",
        Level::Spine => "spine",
        Level::Site => "site",
    }
}

/// A moment as `2026-11-22T03:04:05Z`.
pub fn moment(time: Time) -> String {
    i64::try_from(time.0 / 1_000)
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .map_or_else(|| "the end of time".to_owned(), |moment| moment.to_string())
}

/// GPU-hours as `12.5`.
pub fn hours(time: GpuTime) -> String {
    let tenths = time.0 / 360_000;
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// As `1d 2h`, `90s`, `1500ms`.
pub fn span(span: Span) -> String {
    let (seconds, ms) = (span.0 / 1000, span.0 % 1000);
    if ms > 0 {
        return format!("{}ms", span.0);
    }
    let parts = [(seconds / 86_400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let shown: Vec<String> = parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n}{unit}")).collect();
    if shown.is_empty() { "0s".to_owned() } else { shown.join(" ") }
}

/// `1 GPU`, `2 GPUs`.
pub fn gpus(count: Gpus) -> String {
    if count == Gpus::whole(1) { "1 GPU".to_owned() } else { format!("{count} GPUs") }
}

fn plural(count: u32, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn are(count: Gpus) -> String {
    if count == Gpus::whole(1) { "1 is".to_owned() } else { format!("{count} are") }
}

/// Names of what the indices of a reason stand for.
#[derive(Clone, Copy)]
struct Names<'a>(&'a Cluster);

impl<'a> Names<'a> {
    fn pool(self, pool: PoolIndex) -> &'a str {
        &self.0.pool(pool).name
    }

    /// The name of a booking; one that is over has none any more.
    fn booking(self, booking: BookingId) -> &'a str {
        self.0.booking(booking).map_or("that is over", |booking| &booking.name)
    }

    fn tenant(self, tenant: TenantIndex) -> String {
        if tenant == TenantIndex::ROOT {
            "the cluster".to_owned()
        } else {
            format!("tenant {}", self.0.tenant(tenant).name)
        }
    }

    /// What the calendar says next of a tenant's quota, as the end of a sentence; empty where it says nothing.
    fn next_quota(self, tenant: TenantIndex, pool: PoolIndex) -> String {
        let of_it = |dated: &&DatedQuota| (dated.key.tenant, dated.key.pool) == (tenant, pool);
        let Some(dated) = self.0.calendar().find(|dated| of_it(dated) && dated.standing.is_none()) else {
            return String::new();
        };
        let limit = dated.quota.limit.map(|limit| format!(", its limit {limit}")).unwrap_or_default();
        format!("; from {} on its quota is {}{limit}", moment(dated.key.from), dated.quota.quota.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests;
