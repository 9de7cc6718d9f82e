//! Every reason in words, side by side.

use dure_core::gpu::GpuSet;
use dure_core::ids::{BookingId, JobId};
use dure_core::input::{BookingDraft, Dates, Input, NodeDraft, QuotaDraft, TenantDraft};
use dure_core::node::{Capacity, Location};
use dure_core::units::{CpuMilli, Gpus, MemoryMib};
use dure_core::{Policy, decide};
use expect_test::expect;

use super::*;

fn cluster() -> Cluster {
    let mut cluster = Cluster::new(Policy::standard());
    let quota = QuotaDraft { quota: Gpus::whole(8), ..Default::default() };
    let tenant = TenantDraft { name: "fusion".into(), create: true, quotas: vec![quota], ..Default::default() };
    let gpus = GpuSet::first(8);
    let islands = gpus.iter().map(|_| gpus).collect();
    let (cpu, memory) = (CpuMilli::ZERO, MemoryMib::ZERO);
    let node = NodeDraft {
        name: "n0".into(),
        model: "NVIDIA H200".into(),
        location: Location::default(),
        capacity: Capacity { gpus, islands, layouts: Box::default(), cpu, memory, labels: Box::default() },
        bad: GpuSet::EMPTY,
        boot_id: "b".into(),
    };
    let race = BookingDraft {
        name: "race".into(),
        from: Time(2),
        maintenance: true,
        nodes: vec!["n0".into()],
        ..BookingDraft::default()
    };
    for input in [
        Input::DefinePool { name: "h200".into(), model: "NVIDIA H200".into(), gpus_per_node: 8 },
        Input::SetTenant(tenant),
        Input::NodeHello(node),
        Input::Book(race),
    ] {
        decide(&mut cluster, input, None, Time(1), &mut Vec::new()).expect("it is accepted");
    }
    cluster
}

fn all() -> Vec<Blocker> {
    let (pool, tenant, booking) = (PoolIndex(0), TenantIndex(1), BookingId(1));
    let (quota, limit, used, want) = (Gpus::whole(8), Gpus::whole(12), Gpus::whole(7), Gpus::whole(16));
    let gates = [
        Gate::Held,
        Gate::Dependencies { open: 1 },
        Gate::Dependencies { open: 3 },
        Gate::NotBefore { time: Time(1_800_000_000_000) },
        Gate::ArrayCap { cap: 10 },
        Gate::ArrayCap { cap: 0 },
    ];
    let blocked = [
        Blocked::NotEnoughGpus { pool, want, free: Gpus::whole(1) },
        Blocked::NotEnoughSlots { pool, want: 2, free: 1, gpus_per_member: 8 },
        Blocked::NoShare { pool, want: 4, fit: 1, part: dure_core::request::Part::Milli(500) },
        Blocked::NoDomain { pool, level: Level::Leaf, want: 4, best: 3 },
        Blocked::NotEnoughMatching { pool, want: 4, fit: 1, nodes: 3 },
        Blocked::NotEnoughSegments { pool, level: Level::Leaf, members: 4, want: 4, fit: 3 },
        Blocked::NotEnoughCpuOrMemory { pool, want: 4, fit: 1 },
        Blocked::SearchLimit { pool, steps: 20_000 },
        Blocked::OverUserGpus { tenant, limit, used, want },
        Blocked::RetryBudget { failures: 4, limit: 3 },
        Blocked::LentTooLong { pool, deadline: dure_core::units::Span(300_000), lendable: used, lent: limit, want },
        Blocked::KeptWhole { pool, level: Level::Leaf, want: 2, may: 0, clean: 3 },
        Blocked::OverUserJobs { tenant, limit: 4, running: 4 },
        Blocked::OverBudget {
            tenant,
            left: dure_core::units::GpuTime(3_600_000),
            want: dure_core::units::GpuTime(9_000_000),
            until: Time(1_800_000_000_000),
        },
        Blocked::OverLimit { tenant, pool, limit, used, want },
        Blocked::OverQuota { tenant, pool, quota, used, available: Gpus::whole(1), want },
        Blocked::NonPreemptibleOverQuota { tenant, pool, quota, used, want },
        Blocked::Fragmented { pool, want, reclaimable: Gpus::whole(3), until: Time(1_800_000_000_000) },
        Blocked::MinimumRun { pool, want, until: Time(1_800_000_000_000) },
        Blocked::TooDear {
            pool,
            want,
            loss: dure_core::units::GpuTime(9_000_000),
            saved: dure_core::units::GpuTime(3_600_000),
            until: Time(1_800_000_000_000),
        },
        Blocked::ReclaimPending { pool, want, free: Gpus::whole(1), due: Time(1_800_000_000_000) },
        Blocked::SpareSought { pool, held: Gpus::whole(8), want, until: Time(1_800_000_000_000) },
        Blocked::Reserved { pool, want, idle: Gpus::whole(1), from: Time(1_800_000_000_000) },
        Blocked::BehindReservation { job: JobId(7), pool, idle: Gpus::whole(2), until: Time(1_800_000_000_000) },
        Blocked::Booked { booking, pool, idle: Gpus::whole(8), from: Time(1_800_000_000_000), until: None },
        Blocked::Booked {
            booking: BookingId(9),
            pool,
            idle: Gpus::whole(1),
            from: Time(1_800_000_000_000),
            until: Some(Time(1_800_000_060_000)),
        },
        Blocked::AwaitsBooking { booking, from: Time(1_800_000_000_000) },
        Blocked::Paused { tenant },
        Blocked::Paused { tenant: TenantIndex::ROOT },
        Blocked::CycleLimit { limit: 2000 },
    ];
    gates
        .into_iter()
        .map(Blocker::Gate)
        .chain(blocked.into_iter().map(Blocker::Blocked))
        .chain([Blocker::NotTried])
        .collect()
}

#[test]
fn every_reason_says_what_is_in_the_way_and_what_would_help() {
    let cluster = cluster();
    let line = |why: &Blocker| {
        let v1::Blocker { code, message, remedy, numbers } = blocker(&cluster, why);
        format!("{code}: {message} | {remedy} | {numbers:?}\n")
    };
    expect![[r#"
        HELD: it is held | release it: dure release | {}
        DEPENDENCY: 1 job that it depends on has not ended as it asks for | it goes on by itself when they have | {"open": 1}
        DEPENDENCY: 3 jobs that it depends on have not ended as it asks for | it goes on by itself when they have | {"open": 3}
        NOT_BEFORE: it is not to start before 2027-01-15T08:00:00Z | it goes on by itself at that time | {"not_before_ms": 1800000000000}
        ARRAY_CAP: the array has as many indices under way as its cap of 10 allows | it goes on when one of them ends; a higher cap lets more run at once | {"cap": 10}
        ARRAY_CAP: all indices of the array have started | nothing: it ends when they have | {"cap": 0}
        NOT_ENOUGH_GPUS: it needs 16 GPUs, 1 is free in pool h200 | wait for running jobs to end, ask for fewer GPUs, or allow other GPU models | {"free": 1, "want": 16}
        NOT_ENOUGH_SLOTS: it needs room for 2 members of 8 GPUs each, there is room for 1 in pool h200 | ask for smaller members, which fit more nodes, or wait for nodes to empty | {"free": 1, "gpus_per_member": 8, "want": 2}
        NO_SHARE: it needs 500/1000 of one GPU for 4 members, pool h200 has GPUs with so much left for 1 | ask for a smaller part, allow other GPU models, or wait for running jobs to end | {"fit": 1, "part_milli": 500, "want": 4}
        NO_DOMAIN: it needs room for 4 members inside one leaf, the best one of pool h200 has room for 3 | prefer the level instead of requiring it, or require a wider one | {"best": 3, "want": 4}
        NOT_ENOUGH_MATCHING: it needs room for 4 members, the 3 nodes of pool h200 that match its labels and node lists have room for 1 | wait for those nodes, or ask for fewer labels or more nodes | {"fit": 1, "nodes": 3, "want": 4}
        NOT_ENOUGH_SEGMENTS: it needs room for 4 segments of 4 members, each inside one leaf; pool h200 has room for 3 | make the segments smaller, or let them lie inside a wider level | {"fit": 3, "members": 4, "want": 4}
        NOT_ENOUGH_CPU_OR_MEMORY: it needs CPU and memory beside the GPUs for 4 members, pool h200 has room for 1 | ask for less CPU or memory per member | {"fit": 1, "want": 4}
        SEARCH_LIMIT: the search for a place in pool h200 was ended after 20000 steps | make the members more alike; it is searched for again when something is freed | {"steps": 20000}
        OVER_USER_GPUS: its user holds 7 of the 12 GPUs that one user may hold in tenant fusion; this job needs 16 | wait for another job of the same user to end, or have the cap raised: dure quota set | {"limit": 12, "used": 7, "want": 16}
        RETRY_BUDGET: it has failed 4 times by itself; from 3 on nobody is evicted for it any more | it starts when GPUs are free; mend it, and submit it anew | {"failures": 4, "limit": 3}
        LENT_TOO_LONG: with its 16 GPUs, 12 GPUs in pool h200 would be lent to jobs that may keep them longer than the 300 s within which a lender is to have its own back; those who can wait longer lend 7 | nothing for a job inside its quota: slow borrowers are taken back for it; a borrower starts with a shorter grace, or in a tenant with a shorter minimum run | {"deadline_ms": 300000, "lendable": 7, "lent": 12, "want": 16}
        KEPT_WHOLE: where there is room in pool h200 it would break into 2 domains that are kept whole (leaf); of 3 in which nothing is there to stay it may break into 0, the others are promised to other tenants | submit it as preemptible to run there until it is taken back, ask for fewer GPUs, or wait for other jobs to end | {"clean": 3, "may": 0, "want": 2}
        OVER_USER_JOBS: 4 jobs of its user run in tenant fusion, at most 4 of one user may | wait for another job of the same user to end, or have the cap raised: dure quota set | {"limit": 4, "running": 4}
        OVER_BUDGET: it could use 2.5 GPU-hours by its time limit, of the budget of tenant fusion 1.0 are left until 2027-01-15T08:00:00Z | ask for a shorter time limit; if it may be evicted it runs on what nobody else wants; an operator can bring over what was left of the last period: dure quota carry | {"left_gpu_ms": 3600000, "until_ms": 1800000000000, "want_gpu_ms": 9000000}
        OVER_LIMIT: tenant fusion holds 7 of its limit of 12 in pool h200; this job needs 16 | wait for its other jobs to end, or have the limit raised: dure quota set | {"limit": 12, "used": 7, "want": 16}
        OVER_QUOTA: tenant fusion holds 7 GPUs (its quota is 8) in pool h200 and could get 1 more, lent ones included; this job needs 16 | wait for its other jobs or for lent GPUs, ask for fewer, or have the quota raised | {"available": 1, "quota": 8, "used": 7, "want": 16}
        NON_PREEMPTIBLE_OVER_QUOTA: non-preemptible jobs of tenant fusion hold 7 of its quota of 8 in pool h200; this one needs 16 | submit it as preemptible to run on lent GPUs, or wait for the others to end | {"quota": 8, "used": 7, "want": 16}
        FRAGMENTED: it is inside its quota and needs 16 GPUs, but what others run inside theirs lies in the way in pool h200 until 2027-01-15T08:00:00Z at the latest; 3 GPUs could be taken back and would not help | ask for smaller members or fewer in one domain, or wait until then | {"reclaimable": 3, "until_ms": 1800000000000, "want": 16}
        MINIMUM_RUN: it is inside its quota and needs 16 GPUs; what borrows them in pool h200 has not run its minimum yet, enough of it has at 2027-01-15T08:00:00Z | nothing: they are taken back then | {"until_ms": 1800000000000, "want": 16}
        TOO_DEAR: it is inside its quota and needs 16 GPUs; to take them back now in pool h200 would lose 2.5 GPU-hours of work to spare it 1.0 of waiting; they come back whatever that costs from 2027-01-15T08:00:00Z on | nothing: they are taken back then, or sooner if it pays; a shorter deadline: dure quota set --reclaim-within | {"loss_gpu_ms": 9000000, "saved_gpu_ms": 3600000, "until_ms": 1800000000000, "want": 16}
        RECLAIM_PENDING: 16 GPUs in pool h200 are promised to it, 1 is free already; what holds the rest is being stopped, until 2027-01-15T08:00:00Z at the latest | nothing: it starts when the last of them is free | {"due_ms": 1800000000000, "free": 1, "want": 16}
        SPARE_SOUGHT: it lost a node or a GPU: what is left of its places (8 GPUs in pool h200) is held for it until 2027-01-15T08:00:00Z, and 16 GPUs are sought in place of the rest | nothing: it starts there as soon as a spare or a free node will do, or is placed anew then | {"held": 8, "until_ms": 1800000000000, "want": 16}
        RESERVED: 16 GPUs in pool h200 are set aside for it, 1 is idle now; by the limits of what runs it starts at 2027-01-15T08:00:00Z at the latest | nothing: it starts then, or sooner if what runs ends sooner | {"from_ms": 1800000000000, "idle": 1, "want": 16}
        BEHIND_RESERVATION: 2 are idle in pool h200 and set aside for job 7 from 2027-01-15T08:00:00Z on: only what is over before then may run there | ask for less time: --time | {"idle": 2, "job": 7, "until_ms": 1800000000000}
        BOOKED: 8 are idle in pool h200 on nodes that reservation race keeps from 2027-01-15T08:00:00Z: only what is over before then may run there | ask for less time: --time; see the reservations: dure reservation | {"from_ms": 1800000000000, "idle": 8}
        BOOKED: 1 is idle in pool h200 on nodes that reservation that is over keeps from 2027-01-15T08:00:00Z until 2027-01-15T08:01:00Z: only what is over before then may run there | ask for less time: --time; see the reservations: dure reservation | {"from_ms": 1800000000000, "idle": 1, "until_ms": 1800000060000}
        AWAITS_BOOKING: it runs in reservation race alone, which begins at 2027-01-15T08:00:00Z | nothing: it is looked at then; to run elsewhere submit it without --reservation | {"from_ms": 1800000000000}
        PAUSED: tenant fusion is paused | it goes on when new starts are allowed again: dure resume | {}
        PAUSED: the cluster is paused | it goes on when new starts are allowed again: dure resume | {}
        CYCLE_LIMIT: the last cycle placed 2000 jobs, as many as one may | nothing: the next cycle goes on where it stopped | {"limit": 2000}
        NOT_TRIED: nothing is known to stand in its way; it waits for its turn | nothing: it is looked at in the next cycle | {}
    "#]].assert_eq(&all().iter().map(line).collect::<String>());
}

#[test]
fn every_code_is_listed_once() {
    let mut given: Vec<&str> = all().iter().map(code).collect();
    given.sort_unstable();
    given.dedup();
    let mut listed = CODES.to_vec();
    listed.sort_unstable();
    assert_eq!(given, listed);
}

#[test]
fn a_quota_to_come_is_told() {
    let mut cluster = cluster();
    let dates = Some(Dates { from: Time(1_800_000_000_000), until: None });
    let quota = QuotaDraft { quota: Gpus::whole(24), limit: Some(Gpus::whole(32)), dates, ..Default::default() };
    let draft = TenantDraft { name: "fusion".into(), quotas: vec![quota], ..Default::default() };
    decide(&mut cluster, Input::SetTenant(draft), None, Time(1), &mut Vec::new()).expect("it is accepted");
    let (tenant, pool, quota) = (TenantIndex(1), PoolIndex(0), Gpus::whole(8));
    let why = Blocked::NonPreemptibleOverQuota { tenant, pool, quota, used: quota, want: Gpus::whole(16) };
    expect!["non-preemptible jobs of tenant fusion hold 8 of its quota of 8 in pool h200; this one needs 16; from 2027-01-15T08:00:00Z on its quota is 24, its limit 32"].assert_eq(&blocker(&cluster, &Blocker::Blocked(why)).message);
}
