//! What quotas, limits, caps, ledgers and the lending rule say.

use dure_core::ids::{PoolIndex, TenantIndex};
use dure_core::request::Level;
use dure_core::units::{GpuTime, Gpus, Span, Time};

use super::{Names, Reason, gpus, level_name, moment};

const RAISE_A_CAP: &str = "wait for another job of the same user to end, or have the cap raised: dure quota set";

pub(super) fn over_limit(
    names: Names<'_>,
    tenant: TenantIndex,
    pool: PoolIndex,
    [limit, used, want]: [Gpus; 3],
) -> Reason {
    let (next, tenant, pool) = (names.next_quota(tenant, pool), names.tenant(tenant), names.pool(pool));
    let message = format!("{tenant} holds {used} of its limit of {limit} in pool {pool}; this job needs {want}{next}");
    let remedy = "wait for its other jobs to end, or have the limit raised: dure quota set";
    Reason::new(message, remedy).gpus("limit", limit).gpus("used", used).gpus("want", want)
}

pub(super) fn over_quota(
    names: Names<'_>,
    tenant: TenantIndex,
    pool: PoolIndex,
    [quota, used, available, want]: [Gpus; 4],
) -> Reason {
    let next = names.next_quota(tenant, pool);
    let (tenant, pool, holds) = (names.tenant(tenant), names.pool(pool), gpus(used));
    let message = format!(
        "{tenant} holds {holds} (its quota is {quota}) in pool {pool} and could get {available} more, lent ones included; \
         this job needs {want}{next}"
    );
    let remedy = "wait for its other jobs or for lent GPUs, ask for fewer, or have the quota raised";
    Reason::new(message, remedy).gpus("quota", quota).gpus("used", used).gpus("available", available).gpus("want", want)
}

pub(super) fn fixed_over_quota(
    names: Names<'_>,
    tenant: TenantIndex,
    pool: PoolIndex,
    [quota, used, want]: [Gpus; 3],
) -> Reason {
    let (next, tenant, pool) = (names.next_quota(tenant, pool), names.tenant(tenant), names.pool(pool));
    let message = format!(
        "non-preemptible jobs of {tenant} hold {used} of its quota of {quota} in pool {pool}; this one needs {want}{next}"
    );
    let remedy = "submit it as preemptible to run on lent GPUs, or wait for the others to end";
    Reason::new(message, remedy).gpus("quota", quota).gpus("used", used).gpus("want", want)
}

pub(super) fn kept_whole(names: Names<'_>, pool: PoolIndex, level: Level, [want, may, clean]: [u32; 3]) -> Reason {
    let (pool, level) = (names.pool(pool), level_name(level));
    let message = format!(
        "where there is room in pool {pool} it would break into {} that are kept whole ({level}); of {clean} in which nothing \
         is there to stay it may break into {may}, the others are promised to other tenants",
        super::plural(want, "domain")
    );
    let remedy = "submit it as preemptible to run there until it is taken back, ask for fewer GPUs, or wait for other jobs to end";
    Reason::new(message, remedy).number("want", want).number("may", may).number("clean", clean)
}

pub(super) fn user_gpus(names: Names<'_>, tenant: TenantIndex, [limit, used, want]: [Gpus; 3]) -> Reason {
    let tenant = names.tenant(tenant);
    let message =
        format!("its user holds {used} of the {limit} GPUs that one user may hold in {tenant}; this job needs {want}");
    Reason::new(message, RAISE_A_CAP).gpus("limit", limit).gpus("used", used).gpus("want", want)
}

pub(super) fn user_jobs(names: Names<'_>, tenant: TenantIndex, limit: u32, running: u32) -> Reason {
    let tenant = names.tenant(tenant);
    let message = format!("{running} jobs of its user run in {tenant}, at most {limit} of one user may");
    Reason::new(message, RAISE_A_CAP).number("limit", limit).number("running", running)
}

pub(super) fn over_budget(names: Names<'_>, tenant: TenantIndex, left: GpuTime, want: GpuTime, until: Time) -> Reason {
    let (tenant, could, remain, end) = (names.tenant(tenant), hours(want), hours(left), moment(until));
    let message = format!(
        "it could use {could} GPU-hours by its time limit, of the budget of {tenant} {remain} are left until {end}"
    );
    let remedy = "ask for a shorter time limit; if it may be evicted it runs on what nobody else wants; an operator can bring \
                  over what was left of the last period: dure quota carry";
    Reason::new(message, remedy).number("left_gpu_ms", left.0).number("want_gpu_ms", want.0).number("until_ms", until.0)
}

pub(super) fn failed_too_often(failures: u32, limit: u32) -> Reason {
    let message =
        format!("it has failed {failures} times by itself; from {limit} on nobody is evicted for it any more");
    let remedy = "it starts when GPUs are free; mend it, and submit it anew";
    Reason::new(message, remedy).number("failures", failures).number("limit", limit)
}

pub(super) fn lent_too_long(
    names: Names<'_>,
    pool: PoolIndex,
    deadline: Span,
    [lendable, lent, want]: [Gpus; 3],
) -> Reason {
    let (pool, its, would, seconds) = (names.pool(pool), gpus(want), gpus(lent), deadline.0 / 1000);
    let message = format!(
        "with its {its}, {would} in pool {pool} would be lent to jobs that may keep them longer than the {seconds} s within \
         which a lender is to have its own back; those who can wait longer lend {lendable}"
    );
    let remedy = "nothing for a job inside its quota: slow borrowers are taken back for it; a borrower starts with a shorter \
                  grace, or in a tenant with a shorter minimum run";
    Reason::new(message, remedy)
        .number("deadline_ms", deadline.0)
        .gpus("lendable", lendable)
        .gpus("lent", lent)
        .gpus("want", want)
}

pub(super) fn paused(names: Names<'_>, tenant: TenantIndex) -> Reason {
    let remedy = "it goes on when new starts are allowed again: dure resume";
    Reason::new(format!("{} is paused", names.tenant(tenant)), remedy)
}

/// GPU-hours with one decimal.
pub(super) fn hours(time: GpuTime) -> String {
    let tenths = time.0 / 360_000;
    format!("{}.{}", tenths / 10, tenths % 10)
}
