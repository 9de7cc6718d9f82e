//! A refusal of the core in words: its code, the field at fault, what is wrong with the values, what to do about it.
//! Each is one exhaustive match.

use dure_core::ids::JobId;
use dure_core::rejected::Refusal;
use dure_core::request::Level;
use dure_core::units::{GpuTime, Gpus, Span, Time};
use tonic::Code;

use super::{booking, calendar, domains};
use crate::grpc::text::{gpus, hours, level_name, moment, span};

/// What to do about an id that is not known.
const FORGOTTEN: &str = "check the id: a job that ended long ago is forgotten";

/// Names that are listed before the rest is counted.
const MAX_LISTED: usize = 12;

/// The code: `NotFound` and `FailedPrecondition` where the state could have been another, `InvalidArgument` where the
/// request itself is at fault, `ResourceExhausted` for what is full now.
pub(super) fn code(why: &Refusal) -> Code {
    match why {
        Refusal::QueueFull { .. }
        | Refusal::TooManyTenants { .. }
        | Refusal::TooManyUsers { .. }
        | Refusal::OverUserSubmitted { .. }
        | Refusal::TooManyClasses { .. } => Code::ResourceExhausted,
        Refusal::Booking(why) => booking::code(why),
        Refusal::Calendar(why) => calendar::code(why),
        Refusal::RequestIdReused { .. } => Code::AlreadyExists,
        Refusal::UnknownTenant { .. }
        | Refusal::UnknownJob { .. }
        | Refusal::UnknownNode { .. }
        | Refusal::UnknownDependency { .. } => Code::NotFound,
        Refusal::TenantHasChildren { .. }
        | Refusal::TenantHasJobs { .. }
        | Refusal::NoPool
        | Refusal::GangTooLarge { .. }
        | Refusal::GangNeverFits { .. }
        | Refusal::OnlyInstances { .. }
        | Refusal::OverLimitForEver { .. }
        | Refusal::NonPreemptibleOverQuota { .. }
        | Refusal::DependencyNeverSatisfied { .. }
        | Refusal::WrongPhase { .. }
        | Refusal::CannotMove { .. }
        | Refusal::NodeNotLost { .. }
        | Refusal::OverJobGpus { .. }
        | Refusal::OverJobTime { .. }
        | Refusal::NoBudget { .. }
        | Refusal::NothingToCarry { .. }
        | Refusal::ChildrenAboveParent { .. }
        | Refusal::Domains(_) => Code::FailedPrecondition,
        Refusal::NoJobs
        | Refusal::TooManyJobs { .. }
        | Refusal::BadTenantName { .. }
        | Refusal::NoMembers
        | Refusal::NoGpus { .. }
        | Refusal::TooManyMembers { .. }
        | Refusal::MemberTooLarge { .. }
        | Refusal::PartOfSeveralGpus { .. }
        | Refusal::PartWith { .. }
        | Refusal::BadShare { .. }
        | Refusal::UnknownProfile { .. }
        | Refusal::UnknownModel { .. }
        | Refusal::UnknownPool { .. }
        | Refusal::UnknownPriority { .. }
        | Refusal::TimeLimitTooLong { .. }
        | Refusal::BadTimeMin { .. }
        | Refusal::GraceTooLong { .. }
        | Refusal::HoldTooLong { .. }
        | Refusal::EmptyArray
        | Refusal::ArrayTooLarge { .. }
        | Refusal::TooManyDependencies { .. }
        | Refusal::DependencyOutsideCall { .. }
        | Refusal::DependencyCycle { .. }
        | Refusal::PreferredAboveRequired
        | Refusal::BadConstraint { .. }
        | Refusal::NameTooLong { .. }
        | Refusal::BadNode { .. }
        | Refusal::ZeroWeight
        | Refusal::BudgetPeriodTooShort { .. }
        | Refusal::IdleTooShort { .. }
        | Refusal::QuotaTooLarge { .. }
        | Refusal::LimitBelowQuota { .. }
        | Refusal::PoolNamedTwice { .. }
        | Refusal::LendLimitAboveQuota { .. } => Code::InvalidArgument,
    }
}

/// Path of the field in its message; empty when no single field is at fault.
pub(super) fn field(why: &Refusal) -> &'static str {
    match why {
        Refusal::NoJobs | Refusal::TooManyJobs { .. } | Refusal::QueueFull { .. } => "jobs",
        Refusal::UnknownTenant { .. }
        | Refusal::TenantHasChildren { .. }
        | Refusal::TenantHasJobs { .. }
        | Refusal::BadTenantName { .. }
        | Refusal::TooManyTenants { .. }
        | Refusal::OverUserSubmitted { .. }
        | Refusal::NoBudget { .. }
        | Refusal::OverLimitForEver { .. } => "tenant",
        Refusal::TooManyUsers { .. } => "user",
        Refusal::NoMembers | Refusal::TooManyMembers { .. } => "shape.members",
        Refusal::PartOfSeveralGpus { .. } | Refusal::PartWith { .. } | Refusal::BadShare { .. } => "shape.gpu_milli",
        Refusal::UnknownProfile { .. } | Refusal::OnlyInstances { .. } => "shape.mig_profile",
        Refusal::NoGpus { .. } | Refusal::MemberTooLarge { .. } => "shape.gpus_per_member",
        Refusal::GangTooLarge { .. }
        | Refusal::GangNeverFits { .. }
        | Refusal::TooManyClasses { .. }
        | Refusal::OverJobGpus { .. } => "shape",
        Refusal::NonPreemptibleOverQuota { .. } => "non_preemptible",
        Refusal::UnknownModel { .. } | Refusal::NoPool => "gpu_models",
        Refusal::UnknownPool { .. } | Refusal::PoolNamedTwice { .. } => "quotas.pool",
        Refusal::Calendar(why) => calendar::field(why),
        Refusal::UnknownPriority { .. } => "priority",
        Refusal::TimeLimitTooLong { .. } | Refusal::OverJobTime { .. } => "time_limit_ms",
        Refusal::BadTimeMin { .. } => "time_min_ms",
        Refusal::NothingToCarry { .. } => "gpu_ms",
        Refusal::BudgetPeriodTooShort { .. } => "budget.period_ms",
        Refusal::IdleTooShort { .. } => "idle.after_ms",
        Refusal::GraceTooLong { .. } => "grace_ms",
        Refusal::HoldTooLong { .. } => "hold_survivors_ms",
        Refusal::EmptyArray | Refusal::ArrayTooLarge { .. } => "array.size",
        Refusal::TooManyDependencies { .. }
        | Refusal::UnknownDependency { .. }
        | Refusal::DependencyOutsideCall { .. }
        | Refusal::DependencyCycle { .. }
        | Refusal::DependencyNeverSatisfied { .. } => "dependencies",
        Refusal::PreferredAboveRequired => "preferred_level",
        Refusal::BadConstraint { field, .. } => field,
        Refusal::NameTooLong { field, .. } => field,
        Refusal::UnknownJob { .. } | Refusal::WrongPhase { .. } | Refusal::CannotMove { .. } => "job_id",
        Refusal::UnknownNode { .. } | Refusal::NodeNotLost { .. } | Refusal::BadNode { .. } => "name",
        Refusal::ZeroWeight => "weight",
        Refusal::QuotaTooLarge { .. } | Refusal::ChildrenAboveParent { .. } => "quotas.quota",
        Refusal::Domains(_) => "quotas.domains",
        Refusal::LimitBelowQuota { .. } => "quotas.limit",
        Refusal::LendLimitAboveQuota { .. } => "quotas.lend_limit",
        Refusal::Booking(why) => booking::field(why),
        Refusal::RequestIdReused { .. } => "request_id",
    }
}

/// What is wrong, with the values.
pub(super) fn problem(why: &Refusal) -> String {
    match why {
        Refusal::NoJobs => "the call holds no job".to_owned(),
        Refusal::TooManyJobs { count, limit } => format!("{count} jobs in one call, at most {limit}"),
        Refusal::QueueFull { limit } => format!("{limit} jobs wait already, which is the limit"),
        Refusal::UnknownTenant { name } => format!("there is no tenant {name:?}"),
        Refusal::TenantHasChildren { name } => format!("tenant {name:?} has tenants below it; jobs belong to leaves"),
        Refusal::TenantHasJobs { name } => format!("tenant {name:?} has jobs: nothing can be defined below it"),
        Refusal::BadTenantName { name, why } => format!("{name:?} is no name for a tenant: {why}"),
        Refusal::TooManyTenants { limit } => format!("there are {limit} tenants, which is the limit"),
        Refusal::TooManyUsers { limit } => format!("{limit} users have been seen, which is the limit"),
        Refusal::NoMembers => "a gang of 0 members".to_owned(),
        Refusal::NoGpus { member } => format!("member {member} asks for 0 GPUs"),
        Refusal::TooManyMembers { members, limit } => format!("{members} members, at most {limit}"),
        Refusal::PartOfSeveralGpus { gpus } => part_of_several(*gpus),
        Refusal::PartWith { what } => format!("a part of a GPU together with {what}"),
        Refusal::BadShare { milli } => format!("{milli} thousandths of a GPU"),
        Refusal::UnknownProfile { name, known } => unknown_profile(name, known),
        Refusal::OnlyInstances { pool, known } => only_instances(pool, known),
        Refusal::MemberTooLarge { gpus, largest } => member_too_large(*gpus, *largest),
        Refusal::GangTooLarge { want, capacity } => gang_too_large(*want, *capacity),
        Refusal::GangNeverFits { want, best, level } => never_fits(*want, *best, *level),
        Refusal::UnknownModel { name, known } => format!("no pool has GPU model {name:?}, there is {}", list(known)),
        Refusal::NoPool => "the cluster has no pool yet".to_owned(),
        Refusal::UnknownPool { name, known } => format!("there is no pool {name:?}, there is {}", list(known)),
        Refusal::UnknownPriority { name, known } => format!("no priority class {name:?}, there is {}", list(known)),
        Refusal::TimeLimitTooLong { limit, longest } => longer(*limit, *longest),
        Refusal::BadTimeMin { least, limit } => bad_time_min(*least, *limit),
        Refusal::GraceTooLong { grace, longest } => longer(*grace, *longest),
        Refusal::HoldTooLong { hold, longest } => longer(*hold, *longest),
        Refusal::EmptyArray => "an array of 0 indices".to_owned(),
        Refusal::ArrayTooLarge { size, limit } => format!("an array of {size} indices, at most {limit}"),
        Refusal::TooManyDependencies { count, limit } => format!("{count} dependencies, at most {limit}"),
        Refusal::UnknownDependency { job } => format!("there is no job {job}"),
        Refusal::DependencyOutsideCall { index, count } => format!("job {index} of a call that holds {count}"),
        Refusal::DependencyCycle { jobs } => cyclic(jobs),
        Refusal::DependencyNeverSatisfied { job } => format!("job {job} has ended otherwise: this could never start"),
        Refusal::BadConstraint { value, why, .. } => format!("{value:?}: {why}"),
        Refusal::PreferredAboveRequired => "the preferred level is wider than the required one".to_owned(),
        Refusal::TooManyClasses { limit } => format!("{limit} kinds of requests wait already, which is the limit"),
        Refusal::NameTooLong { length, limit, .. } => format!("{length} bytes, at most {limit}"),
        Refusal::UnknownJob { job } => unknown_job(*job),
        Refusal::WrongPhase { job, phase, verb } => format!("job {job} is {phase}: {verb} is for jobs that wait"),
        Refusal::CannotMove { job, attempt } => cannot_move(*job, *attempt),
        Refusal::UnknownNode { name } => format!("there is no node {name:?}"),
        Refusal::NodeNotLost { name } => format!("node {name:?} is not lost: its agent is heard"),
        Refusal::BadNode { name, why } => format!("node {name:?} cannot join: {why}"),
        Refusal::ZeroWeight => "a weight of 0".to_owned(),
        Refusal::QuotaTooLarge { gpus, limit } => format!("{gpus} GPUs, at most {limit}"),
        Refusal::LimitBelowQuota { limit, quota } => format!("a limit of {limit} below the quota of {quota}"),
        Refusal::LendLimitAboveQuota { lend_limit, quota } => format!("{lend_limit} to lend of a quota of {quota}"),
        Refusal::ChildrenAboveParent { parent, children, quota, from } => above(parent, *children, *quota, *from),
        Refusal::Domains(fault) => domains::problem(fault),
        Refusal::PoolNamedTwice { name } => format!("pool {name:?} is named twice"),
        Refusal::Calendar(why) => calendar::problem(why),
        Refusal::OverJobGpus { tenant, want, limit } => over_job_gpus(tenant, *want, *limit),
        Refusal::OverJobTime { tenant, limit, longest } => over_job_time(tenant, *limit, *longest),
        Refusal::OverUserSubmitted { tenant, submitted, limit } => over_submitted(tenant, *submitted, *limit),
        Refusal::NoBudget { tenant } => format!("tenant {tenant:?} has no budget"),
        Refusal::NothingToCarry { tenant, want, unspent } => nothing_to_carry(tenant, *want, *unspent),
        Refusal::BudgetPeriodTooShort { period, shortest } => too_short(*period, *shortest),
        Refusal::IdleTooShort { after, shortest } => too_short(*after, *shortest),
        Refusal::OverLimitForEver { tenant, want, limit } => over_limit(tenant, *want, *limit),
        Refusal::NonPreemptibleOverQuota { tenant, want, quota } => fixed_over_quota(tenant, *want, *quota),
        Refusal::Booking(why) => booking::problem(why),
        Refusal::RequestIdReused { id } => format!("{id:?} was used for a request with another content"),
    }
}

fn bad_time_min(least: Span, limit: Span) -> String {
    format!("a limit of {} may not be lowered to {}", span(limit), span(least))
}

fn longer(stated: Span, longest: Span) -> String {
    format!("{} is longer than {}", span(stated), span(longest))
}

fn too_short(stated: Span, shortest: Span) -> String {
    format!("{}, the shortest is {}", span(stated), span(shortest))
}

fn cyclic(jobs: &[u32]) -> String {
    format!("jobs {} of the call wait for each other in a circle", circle(jobs))
}

fn part_of_several(each: u8) -> String {
    format!("a part of a GPU for members of {}", gpus(Gpus::whole(each.into())))
}

fn unknown_profile(name: &str, known: &[Box<str>]) -> String {
    format!("no GPU model here has the slice {name:?}, there is {}", list(known))
}

fn only_instances(pool: &str, known: &[Box<str>]) -> String {
    let of =
        if known.is_empty() { "in MIG mode".to_owned() } else { format!("cut into MIG instances ({})", list(known)) };
    format!("every GPU of pool {pool:?} that the job may use is {of}")
}

fn member_too_large(asked: u32, largest: u32) -> String {
    format!("a member asks for {}, the largest node has {largest}", gpus(Gpus::whole(asked)))
}

fn gang_too_large(want: Gpus, capacity: Gpus) -> String {
    format!("the gang asks for {}, the pools that it may use have {capacity}", gpus(want))
}

fn over_job_gpus(tenant: &str, want: Gpus, limit: Gpus) -> String {
    format!("the gang asks for {}, one job of {tenant:?} may have {limit}", gpus(want))
}

fn over_job_time(tenant: &str, limit: Span, longest: Span) -> String {
    format!("{} is longer than the {} that one job of {tenant:?} may run", span(limit), span(longest))
}

fn over_submitted(tenant: &str, submitted: u32, limit: u32) -> String {
    format!("{submitted} jobs of this user have not ended in {tenant:?}, at most {limit} may be there")
}

fn nothing_to_carry(tenant: &str, want: GpuTime, unspent: GpuTime) -> String {
    format!("{} GPU-hours for {tenant:?}, of the last period {} are left", hours(want), hours(unspent))
}

fn over_limit(tenant: &str, want: Gpus, limit: Gpus) -> String {
    format!("the gang asks for {}, the limit of {tenant:?} is {limit}", gpus(want))
}

fn fixed_over_quota(tenant: &str, want: Gpus, quota: Gpus) -> String {
    format!("a non-preemptible gang of {}, the quota of {tenant:?} is {quota}", gpus(want))
}

/// What to do about it.
pub(super) fn remedy(why: &Refusal) -> &'static str {
    match why {
        Refusal::NoJobs => "put in at least one",
        Refusal::TooManyJobs { .. } => "split the call",
        Refusal::QueueFull { .. } | Refusal::TooManyClasses { .. } => "wait for jobs to start, or cancel some",
        Refusal::UnknownTenant { .. } => {
            "see the tenants: dure quota show; an operator defines a new one: dure quota set --create"
        }
        Refusal::TenantHasChildren { .. } => "name one of the tenants below it",
        Refusal::TenantHasJobs { .. } => "cancel them or let them end first",
        Refusal::BadTenantName { .. } => "use a path as in fusion/plasma",
        Refusal::TooManyTenants { .. } | Refusal::TooManyUsers { .. } => {
            "raise the limit in [policy] of the scheduler's configuration"
        }
        Refusal::NoMembers | Refusal::NoGpus { .. } | Refusal::EmptyArray | Refusal::ZeroWeight => "use at least 1",
        Refusal::TooManyMembers { .. } => "ask for fewer, larger members",
        Refusal::PartOfSeveralGpus { .. } => "ask for one GPU per member, of which it gets the part",
        Refusal::PartWith { .. } => "ask for whole GPUs, or leave it out",
        Refusal::BadShare { .. } => "use 1 to 999; for a whole GPU leave the share out",
        Refusal::UnknownProfile { .. } => "name a profile of the GPU models that the job may use",
        Refusal::OnlyInstances { .. } => "ask for instances (--gpus-mig PROFILE), or allow other GPU models",
        Refusal::MemberTooLarge { .. } => "spread the GPUs over more members",
        Refusal::GangTooLarge { .. } => "ask for fewer GPUs, or allow other GPU models",
        Refusal::GangNeverFits { .. } => "ask for fewer or smaller members, or require a wider level",
        Refusal::OverLimitForEver { .. } => "ask for fewer GPUs, or have the limit raised: dure quota set",
        Refusal::NonPreemptibleOverQuota { .. } => "submit it as preemptible or smaller, or have the quota raised",
        Refusal::UnknownModel { .. } | Refusal::UnknownPool { .. } | Refusal::UnknownPriority { .. } => {
            "use one of these"
        }
        Refusal::NoPool => "define a [[pool]] in the scheduler's configuration, or let the first node join",
        Refusal::TimeLimitTooLong { .. } | Refusal::GraceTooLong { .. } | Refusal::HoldTooLong { .. } => "ask for less",
        Refusal::BadTimeMin { .. } => "use a span of more than 0 and not above the time limit, or leave it out",
        Refusal::ArrayTooLarge { .. } => "split the array",
        Refusal::TooManyDependencies { .. } => "let a job in between wait for some of them",
        Refusal::UnknownDependency { .. } | Refusal::UnknownJob { .. } => FORGOTTEN,
        Refusal::DependencyOutsideCall { .. } => "count the jobs of the call from 0",
        Refusal::DependencyCycle { .. } => "take one of the dependencies out",
        Refusal::DependencyNeverSatisfied { .. } => {
            "take the dependency out, or depend on its end in any way: afterany"
        }
        Refusal::BadConstraint { .. } => "see the labels and places of the nodes: dure nodes NODE",
        Refusal::PreferredAboveRequired => "prefer a level at or below the required one",
        Refusal::NameTooLong { .. } => "shorten it",
        Refusal::WrongPhase { .. } => "cancel it instead: dure cancel",
        Refusal::CannotMove { .. } => "look at a new plan: dure defrag",
        Refusal::UnknownNode { .. } => "see the nodes: dure nodes",
        Refusal::NodeNotLost { .. } => "drain it instead: dure node drain",
        Refusal::BadNode { .. } => "correct the agent's configuration and start it again",
        Refusal::QuotaTooLarge { .. } => "check the number",
        Refusal::LimitBelowQuota { .. } => "set the limit to the quota or above, or leave it out",
        Refusal::LendLimitAboveQuota { .. } => "lend at most the quota, or leave it out to lend all",
        Refusal::ChildrenAboveParent { .. } => "lower another quota below it, or raise its own first",
        Refusal::Domains(fault) => domains::remedy(fault),
        Refusal::PoolNamedTwice { .. } => "name each pool once in a request",
        Refusal::Calendar(why) => calendar::remedy(why),
        Refusal::OverJobGpus { .. } => "ask for fewer GPUs, or have the cap raised: dure quota set --job-gpus",
        Refusal::OverJobTime { .. } => "ask for less, or have the cap raised: dure quota set --job-time",
        Refusal::OverUserSubmitted { .. } => "wait for some to end, or use an array",
        Refusal::NoBudget { .. } => "set one first: dure quota set --budget",
        Refusal::NothingToCarry { .. } => "carry over at most that; see dure quota show --budget",
        Refusal::BudgetPeriodTooShort { .. } => "use a longer one",
        Refusal::IdleTooShort { .. } => "use a longer one, or --idle-action ignore for none",
        Refusal::Booking(why) => booking::remedy(why),
        Refusal::RequestIdReused { .. } => "use a new request id for a new request",
    }
}

/// As for a job that is not in memory.
pub(super) fn unknown_job(job: JobId) -> String {
    format!("there is no job {job}")
}

fn cannot_move(job: JobId, attempt: u32) -> String {
    format!("attempt {attempt} of job {job} has ended, or may not be stopped now")
}

fn never_fits(want: u32, best: u32, level: Option<Level>) -> String {
    match level {
        Some(level) => {
            format!("{want} members, but even when empty no {} has room for more than {best}", level_name(level))
        }
        None => format!("{want} members, but even when empty the cluster has room for {best} only"),
    }
}

fn above(parent: &str, children: Gpus, quota: Gpus, from: Option<Time>) -> String {
    let when = from.map(|from| format!("from {} on ", moment(from))).unwrap_or_default();
    if parent.is_empty() {
        format!("{when}the quotas of all missions would be {children}, the cluster has {quota}")
    } else {
        format!("{when}the quotas below {parent:?} would be {children}, its own is {quota}")
    }
}

pub(super) fn list(names: &[Box<str>]) -> String {
    let listed = names.iter().take(MAX_LISTED).map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => "none".to_owned(),
        count if count > MAX_LISTED => format!("{listed} and {} more", count - MAX_LISTED),
        _ => listed,
    }
}

/// As `0 > 3 > 0`.
fn circle(jobs: &[u32]) -> String {
    let shown = jobs.iter().take(MAX_LISTED).chain(jobs.first());
    shown.map(u32::to_string).collect::<Vec<_>>().join(" > ")
}
