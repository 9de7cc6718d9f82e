//! Why a job waits, in words: code, a sentence with the numbers, what would help. One exhaustive match.

use std::collections::BTreeMap;

use dure_core::Cluster;
use dure_core::blocked::{Blocked, Gate};
use dure_core::explain::{Blocker, Change, Help};
use dure_core::ids::{PoolIndex, PriorityIndex, TenantIndex};
use dure_core::request::{Level, Part};
use dure_core::units::{GpuTime, Gpus, Time};
use dure_proto::v1;

/// All codes that `code` gives.
pub const CODES: [&str; 28] = [
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
    "RETRY_BUDGET",
    "FRAGMENTED",
    "MINIMUM_RUN",
    "RECLAIM_PENDING",
    "RESERVED",
    "BEHIND_RESERVATION",
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
            Blocked::RetryBudget { .. } => "RETRY_BUDGET",
            Blocked::Fragmented { .. } => "FRAGMENTED",
            Blocked::MinimumRun { .. } => "MINIMUM_RUN",
            Blocked::ReclaimPending { .. } => "RECLAIM_PENDING",
            Blocked::Reserved { .. } => "RESERVED",
            Blocked::BehindReservation { .. } => "BEHIND_RESERVATION",
            Blocked::Paused { .. } => "PAUSED",
            Blocked::CycleLimit { .. } => "CYCLE_LIMIT",
        },
        Blocker::NotTried => "NOT_TRIED",
    }
}

/// The reason in full.
pub fn blocker(cluster: &Cluster, blocker: &Blocker) -> v1::Blocker {
    let (message, remedy, numbers) = match blocker {
        Blocker::Gate(gate) => (gate_message(*gate), gate_remedy(*gate), gate_numbers(*gate)),
        Blocker::Blocked(why) => (blocked_message(cluster, *why), blocked_remedy(*why), blocked_numbers(*why)),
        Blocker::NotTried => {
            let message = "nothing is known to stand in its way; it waits for its turn".to_owned();
            (message, "nothing: it is looked at in the next cycle", Vec::new())
        }
    };
    let number = |(name, value): (&str, u64)| (name.to_owned(), i64::try_from(value).unwrap_or(i64::MAX));
    let numbers: BTreeMap<String, i64> = numbers.into_iter().map(number).collect();
    v1::Blocker { code: code(blocker).to_owned(), message, remedy: remedy.to_owned(), numbers }
}

fn gate_message(gate: Gate) -> String {
    match gate {
        Gate::Held => "it is held".to_owned(),
        Gate::Dependencies { open: 1 } => "1 job that it depends on has not ended as it asks for".to_owned(),
        Gate::Dependencies { open } => format!("{open} jobs that it depends on have not ended as it asks for"),
        Gate::NotBefore { time } => format!("it is not to start before {}", moment(time)),
        Gate::ArrayCap { cap: 0 } => "all indices of the array have started".to_owned(),
        Gate::ArrayCap { cap } => format!("the array has as many indices under way as its cap of {cap} allows"),
    }
}

fn gate_remedy(gate: Gate) -> &'static str {
    match gate {
        Gate::Held => "release it: dure release",
        Gate::Dependencies { .. } => "it goes on by itself when they have",
        Gate::NotBefore { .. } => "it goes on by itself at that time",
        Gate::ArrayCap { cap: 0 } => "nothing: it ends when they have",
        Gate::ArrayCap { .. } => "it goes on when one of them ends; a higher cap lets more run at once",
    }
}

fn gate_numbers(gate: Gate) -> Vec<(&'static str, u64)> {
    match gate {
        Gate::Held => Vec::new(),
        Gate::Dependencies { open } => vec![("open", u64::from(open))],
        Gate::NotBefore { time } => vec![("not_before_ms", time.0)],
        Gate::ArrayCap { cap } => vec![("cap", u64::from(cap))],
    }
}

fn blocked_message(cluster: &Cluster, blocked: Blocked) -> String {
    let pool_of = |pool| pool_name(cluster, pool);
    match blocked {
        Blocked::NotEnoughGpus { pool, want, free } => {
            format!("it needs {}, {} free in pool {}", gpus(want), are(free), pool_of(pool))
        }
        Blocked::NotEnoughSlots { pool, want, free, gpus_per_member } => format!(
            "it needs room for {} of {} each, there is room for {free} in pool {}",
            plural(want, "member"),
            gpus(Gpus::whole(gpus_per_member.into())),
            pool_of(pool)
        ),
        Blocked::NoShare { pool, want, fit, part } => format!(
            "it needs {} of one GPU for {}, pool {} has GPUs with so much left for {fit}",
            part_of(cluster, pool, part),
            plural(want, "member"),
            pool_of(pool)
        ),
        Blocked::NoDomain { pool, level, want, best } => format!(
            "it needs room for {} inside one {}, the best one of pool {} has room for {best}",
            plural(want, "member"),
            level_name(level),
            pool_of(pool)
        ),
        Blocked::NotEnoughMatching { pool, want, fit, nodes } => format!(
            "it needs room for {}, the {} of pool {} that match its labels and node lists have room for {fit}",
            plural(want, "member"),
            plural(nodes, "node"),
            pool_of(pool)
        ),
        Blocked::NotEnoughSegments { pool, level, members, want, fit } => format!(
            "it needs room for {} of {}, each inside one {}; pool {} has room for {fit}",
            plural(want, "segment"),
            plural(members, "member"),
            level_name(level),
            pool_of(pool)
        ),
        Blocked::NotEnoughCpuOrMemory { pool, want, fit } => format!(
            "it needs CPU and memory beside the GPUs for {}, pool {} has room for {fit}",
            plural(want, "member"),
            pool_of(pool)
        ),
        Blocked::SearchLimit { pool, steps } => {
            format!("the search for a place in pool {} was ended after {}", pool_of(pool), plural(steps, "step"))
        }
        Blocked::OverLimit { .. }
        | Blocked::OverQuota { .. }
        | Blocked::NonPreemptibleOverQuota { .. }
        | Blocked::OverUserGpus { .. }
        | Blocked::OverUserJobs { .. }
        | Blocked::OverBudget { .. }
        | Blocked::RetryBudget { .. }
        | Blocked::LentTooLong { .. } => division_message(cluster, blocked),
        Blocked::Fragmented { .. }
        | Blocked::MinimumRun { .. }
        | Blocked::ReclaimPending { .. }
        | Blocked::Reserved { .. }
        | Blocked::BehindReservation { .. } => plan_message(cluster, blocked),
        Blocked::Paused { tenant } => format!("{} is paused", tenant_name(cluster, tenant)),
        Blocked::CycleLimit { limit } => format!("the last cycle placed {}, as many as one may", plural(limit, "job")),
    }
}

/// What quotas, limits, caps and ledgers say.
fn division_message(cluster: &Cluster, blocked: Blocked) -> String {
    let pool_of = |pool| pool_name(cluster, pool);
    match blocked {
        Blocked::OverLimit { tenant, pool, limit, used, want } => format!(
            "{} holds {used} of its limit of {limit} in pool {}; this job needs {want}",
            tenant_name(cluster, tenant),
            pool_of(pool)
        ),
        Blocked::OverQuota { tenant, pool, quota, used, available, want } => format!(
            "{} holds {} (its quota is {quota}) in pool {} and could get {available} more, lent ones included; this job \
             needs {want}",
            tenant_name(cluster, tenant),
            gpus(used),
            pool_of(pool)
        ),
        Blocked::NonPreemptibleOverQuota { tenant, pool, quota, used, want } => format!(
            "non-preemptible jobs of {} hold {used} of its quota of {quota} in pool {}; this one needs {want}",
            tenant_name(cluster, tenant),
            pool_of(pool)
        ),
        Blocked::OverUserGpus { tenant, limit, used, want } => format!(
            "its user holds {used} of the {limit} GPUs that one user may hold in {}; this job needs {want}",
            tenant_name(cluster, tenant)
        ),
        Blocked::OverUserJobs { tenant, limit, running } => format!(
            "{running} jobs of its user run in {}, at most {limit} of one user may",
            tenant_name(cluster, tenant)
        ),
        Blocked::OverBudget { tenant, left, want, until } => format!(
            "it could use {} GPU-hours by its time limit, of the budget of {} {} are left until {}",
            hours(want),
            tenant_name(cluster, tenant),
            hours(left),
            moment(until)
        ),
        Blocked::RetryBudget { failures, limit } => {
            format!("it has failed {failures} times by itself; from {limit} on nobody is evicted for it any more")
        }
        Blocked::LentTooLong { pool, deadline, lendable, lent, want } => format!(
            "with its {}, {} in pool {} would be lent to jobs that may keep them longer than the {} s within which a lender \
             is to have its own back; those who can wait longer lend {lendable}",
            gpus(want),
            gpus(lent),
            pool_of(pool),
            deadline.0 / 1000
        ),
        _ => unreachable!("only refusals of the division come here"),
    }
}

/// What the planner says.
fn plan_message(cluster: &Cluster, blocked: Blocked) -> String {
    let pool_of = |pool| pool_name(cluster, pool);
    match blocked {
        Blocked::Fragmented { pool, want, reclaimable, until } => format!(
            "it is inside its quota and needs {}, but what others run inside theirs lies in the way in pool {} until {} at \
             the latest; {} could be taken back and would not help",
            gpus(want),
            pool_of(pool),
            moment(until),
            gpus(reclaimable)
        ),
        Blocked::MinimumRun { pool, want, until } => format!(
            "it is inside its quota and needs {}; what borrows them in pool {} has not run its minimum yet, enough of it \
             has at {}",
            gpus(want),
            pool_of(pool),
            moment(until)
        ),
        Blocked::ReclaimPending { pool, want, free, due } => format!(
            "{} in pool {} are promised to it, {} free already; what holds the rest is being stopped, until {} at the latest",
            gpus(want),
            pool_of(pool),
            are(free),
            moment(due)
        ),
        Blocked::Reserved { pool, want, idle, from } => format!(
            "{} in pool {} are set aside for it, {} idle now; by the limits of what runs it starts at {} at the latest",
            gpus(want),
            pool_of(pool),
            are(idle),
            moment(from)
        ),
        Blocked::BehindReservation { job, pool, idle, until } => format!(
            "{} idle in pool {} and set aside for job {job} from {} on: only what is over before then may run there",
            are(idle),
            pool_of(pool),
            moment(until)
        ),
        _ => unreachable!("only refusals of the planner come here"),
    }
}

fn blocked_remedy(blocked: Blocked) -> &'static str {
    match blocked {
        Blocked::NotEnoughGpus { .. } => "wait for running jobs to end, ask for fewer GPUs, or allow other GPU models",
        Blocked::NotEnoughSlots { .. } => "ask for smaller members, which fit more nodes, or wait for nodes to empty",
        Blocked::NoShare { .. } => "ask for a smaller part, allow other GPU models, or wait for running jobs to end",
        Blocked::NoDomain { .. } => "prefer the level instead of requiring it, or require a wider one",
        Blocked::NotEnoughMatching { .. } => "wait for those nodes, or ask for fewer labels or more nodes",
        Blocked::NotEnoughSegments { .. } => "make the segments smaller, or let them lie inside a wider level",
        Blocked::NotEnoughCpuOrMemory { .. } => "ask for less CPU or memory per member",
        Blocked::SearchLimit { .. } => "make the members more alike; it is searched for again when something is freed",
        Blocked::OverLimit { .. } => "wait for its other jobs to end, or have the limit raised: dure quota set",
        Blocked::OverQuota { .. } => {
            "wait for its other jobs or for lent GPUs, ask for fewer, or have the quota raised"
        }
        Blocked::NonPreemptibleOverQuota { .. } => {
            "submit it as preemptible to run on lent GPUs, or wait for the others to end"
        }
        Blocked::RetryBudget { .. } => "it starts when GPUs are free; mend it, and submit it anew",
        Blocked::LentTooLong { .. } => {
            "nothing for a job inside its quota: slow borrowers are taken back for it; a borrower starts with a shorter grace, \
             or in a tenant with a shorter minimum run"
        }
        Blocked::OverUserGpus { .. } | Blocked::OverUserJobs { .. } => {
            "wait for another job of the same user to end, or have the cap raised: dure quota set"
        }
        Blocked::OverBudget { .. } => {
            "ask for a shorter time limit; if it may be evicted it runs on what nobody else wants; an operator can bring \
             over what was left of the last period: dure quota carry"
        }
        Blocked::Fragmented { .. } => "ask for smaller members or fewer in one domain, or wait until then",
        Blocked::MinimumRun { .. } => "nothing: they are taken back then",
        Blocked::ReclaimPending { .. } => "nothing: it starts when the last of them is free",
        Blocked::Reserved { .. } => "nothing: it starts then, or sooner if what runs ends sooner",
        Blocked::BehindReservation { .. } => "ask for less time: --time",
        Blocked::Paused { .. } => "it goes on when new starts are allowed again: dure resume",
        Blocked::CycleLimit { .. } => "nothing: the next cycle goes on where it stopped",
    }
}

fn blocked_numbers(blocked: Blocked) -> Vec<(&'static str, u64)> {
    let n = u64::from;
    match blocked {
        Blocked::NotEnoughGpus { want, free, .. } => {
            vec![("want", n(want.rounded_up())), ("free", n(free.rounded_up()))]
        }
        Blocked::NotEnoughSlots { want, free, gpus_per_member, .. } => {
            vec![("want", n(want)), ("free", n(free)), ("gpus_per_member", u64::from(gpus_per_member))]
        }
        Blocked::NoShare { want, fit, part, .. } => {
            vec![("want", n(want)), ("fit", n(fit)), ("part_milli", part.counted().in_milli())]
        }
        Blocked::NoDomain { want, best, .. } => vec![("want", n(want)), ("best", n(best))],
        Blocked::NotEnoughMatching { want, fit, nodes, .. } => {
            vec![("want", n(want)), ("fit", n(fit)), ("nodes", n(nodes))]
        }
        Blocked::NotEnoughSegments { members, want, fit, .. } => {
            vec![("want", n(want)), ("fit", n(fit)), ("members", n(members))]
        }
        Blocked::NotEnoughCpuOrMemory { want, fit, .. } => vec![("want", n(want)), ("fit", n(fit))],
        Blocked::SearchLimit { steps, .. } => vec![("steps", n(steps))],
        Blocked::OverLimit { limit, used, want, .. } => {
            vec![("limit", n(limit.rounded_up())), ("used", n(used.rounded_up())), ("want", n(want.rounded_up()))]
        }
        Blocked::OverQuota { quota, used, available, want, .. } => {
            vec![
                ("quota", n(quota.rounded_up())),
                ("used", n(used.rounded_up())),
                ("available", n(available.rounded_up())),
                ("want", n(want.rounded_up())),
            ]
        }
        Blocked::NonPreemptibleOverQuota { quota, used, want, .. } => {
            vec![("quota", n(quota.rounded_up())), ("used", n(used.rounded_up())), ("want", n(want.rounded_up()))]
        }
        Blocked::OverUserGpus { limit, used, want, .. } => {
            vec![("limit", n(limit.rounded_up())), ("used", n(used.rounded_up())), ("want", n(want.rounded_up()))]
        }
        Blocked::RetryBudget { failures, limit } => vec![("failures", n(failures)), ("limit", n(limit))],
        Blocked::LentTooLong { deadline, lendable, lent, want, .. } => vec![
            ("deadline_ms", deadline.0),
            ("lendable", n(lendable.rounded_up())),
            ("lent", n(lent.rounded_up())),
            ("want", n(want.rounded_up())),
        ],
        Blocked::OverUserJobs { limit, running, .. } => vec![("limit", n(limit)), ("running", n(running))],
        Blocked::OverBudget { left, want, until, .. } => {
            vec![("left_gpu_ms", left.0), ("want_gpu_ms", want.0), ("until_ms", until.0)]
        }
        Blocked::Fragmented { want, reclaimable, until, .. } => {
            vec![("want", n(want.rounded_up())), ("reclaimable", n(reclaimable.rounded_up())), ("until_ms", until.0)]
        }
        Blocked::MinimumRun { want, until, .. } => vec![("want", n(want.rounded_up())), ("until_ms", until.0)],
        Blocked::ReclaimPending { want, free, due, .. } => {
            vec![("want", n(want.rounded_up())), ("free", n(free.rounded_up())), ("due_ms", due.0)]
        }
        Blocked::Reserved { want, idle, from, .. } => {
            vec![("want", n(want.rounded_up())), ("idle", n(idle.rounded_up())), ("from_ms", from.0)]
        }
        Blocked::BehindReservation { job, idle, until, .. } => {
            vec![("job", job.0), ("idle", n(idle.rounded_up())), ("until_ms", until.0)]
        }
        Blocked::Paused { .. } => Vec::new(),
        Blocked::CycleLimit { limit } => vec![("limit", n(limit))],
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
        Change::Pool(pool) => ("POOL", format!("in pool {}", pool_name(cluster, pool))),
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
    i64::try_from(time.0)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| "the end of time".to_owned(), |moment| moment.to_string())
}

/// GPU-hours with one decimal.
fn hours(time: GpuTime) -> String {
    let tenths = time.0 / 360_000;
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// `1 GPU`, `2 GPUs`.
pub fn gpus(count: Gpus) -> String {
    if count == Gpus::whole(1) { "1 GPU".to_owned() } else { format!("{count} GPUs") }
}

fn plural(count: u32, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// What a member asks for of one GPU.
fn part_of(cluster: &Cluster, pool: PoolIndex, part: Part) -> String {
    match part {
        Part::Whole => "all".to_owned(),
        Part::Milli(milli) => format!("{milli}/1000"),
        Part::Slice(slice) => match slice.name(&cluster.pool(pool).model) {
            Some(name) => format!("a slice {name}"),
            None => format!("a slice of {} compute and {} memory slices", slice.compute, slice.memory),
        },
    }
}

fn are(count: Gpus) -> String {
    if count == Gpus::whole(1) { "1 is".to_owned() } else { format!("{count} are") }
}

fn pool_name(cluster: &Cluster, pool: PoolIndex) -> &str {
    &cluster.pool(pool).name
}

fn tenant_name(cluster: &Cluster, tenant: TenantIndex) -> String {
    if tenant == TenantIndex::ROOT {
        "the cluster".to_owned()
    } else {
        format!("tenant {}", cluster.tenant(tenant).name)
    }
}

#[cfg(test)]
mod tests;
