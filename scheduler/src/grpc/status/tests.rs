//! Every refusal as its caller sees it, side by side; and the details that go with it.

use dure_core::ids::JobId;
use dure_core::rejected::{BookingRefusal, CalendarRefusal, DomainsFault};
use dure_core::request::Level;
use dure_core::units::{GpuTime, Gpus, Span, Time};
use expect_test::expect;

use super::*;

fn of_jobs() -> Vec<Refusal> {
    let (tenant, job) = (Box::<str>::from("fusion"), JobId(7));
    let known: Vec<Box<str>> = (0..14).map(|at| format!("m{at}").into()).collect();
    vec![
        Refusal::NoJobs,
        Refusal::TooManyJobs { count: 1001, limit: 1000 },
        Refusal::QueueFull { limit: 2_000_000 },
        Refusal::TooManyUsers { limit: 5 },
        Refusal::NoMembers,
        Refusal::NoGpus { member: 2 },
        Refusal::TooManyMembers { members: 5000, limit: 4096 },
        Refusal::MemberTooLarge { gpus: 9, largest: 8 },
        Refusal::GangTooLarge { want: Gpus::whole(24), capacity: Gpus::whole(16) },
        Refusal::GangNeverFits { want: 4, best: 2, level: Some(Level::Leaf) },
        Refusal::GangNeverFits { want: 4, best: 2, level: None },
        Refusal::OnlyInstances { pool: "h100".into(), known: vec!["1g.10gb".into(), "3g.40gb".into()] },
        Refusal::OverLimitForEver { tenant: tenant.clone(), want: Gpus::whole(24), limit: Gpus::whole(16) },
        Refusal::NonPreemptibleOverQuota { tenant: tenant.clone(), want: Gpus::whole(1), quota: Gpus::whole(0) },
        Refusal::UnknownModel { name: "x".into(), known: known.clone() },
        Refusal::NoPool,
        Refusal::UnknownPriority { name: "top".into(), known: Vec::new() },
        Refusal::TimeLimitTooLong { limit: Span(90_061_000), longest: Span(1500) },
        Refusal::BadTimeMin { least: Span(7_200_000), limit: Span(3_600_000) },
        Refusal::GraceTooLong { grace: Span(3_600_000), longest: Span(0) },
        Refusal::HoldTooLong { hold: Span(7_200_000), longest: Span(3_600_000) },
        Refusal::EmptyArray,
        Refusal::ArrayTooLarge { size: 2, limit: 1 },
        Refusal::TooManyDependencies { count: 65, limit: 64 },
        Refusal::UnknownDependency { job },
        Refusal::DependencyOutsideCall { index: 3, count: 2 },
        Refusal::DependencyCycle { jobs: vec![0, 2, 1] },
        Refusal::DependencyNeverSatisfied { job },
        Refusal::PreferredAboveRequired,
        Refusal::BadConstraint { field: "constraint", value: "rack=r9".into(), why: "no node of the pool matches it" },
        Refusal::TooManyClasses { limit: 4096 },
        Refusal::NameTooLong { field: "name", length: 200, limit: 128 },
        Refusal::UnknownJob { job },
        Refusal::WrongPhase { job, phase: "running", verb: "hold" },
        Refusal::RequestIdReused { id: "r-1".into() },
        Refusal::OverJobGpus { tenant: tenant.clone(), want: Gpus::whole(24), limit: Gpus::whole(16) },
        Refusal::OverJobTime { tenant: tenant.clone(), limit: Span(7_200_000), longest: Span(3_600_000) },
        Refusal::OverUserSubmitted { tenant: tenant.clone(), submitted: 100, limit: 100 },
        Refusal::NoBudget { tenant: tenant.clone() },
        Refusal::NothingToCarry { tenant: tenant.clone(), want: GpuTime(7_200_000), unspent: GpuTime(3_960_000) },
        Refusal::BudgetPeriodTooShort { period: Span(1000), shortest: Span(3_600_000) },
        Refusal::IdleTooShort { after: Span(1000), shortest: Span(5_000) },
    ]
}

fn of_the_rest() -> Vec<Refusal> {
    let at = |hours: u64| Time(1_796_083_200_000 + hours * 3_600_000);
    let name = Box::<str>::from("fusion");
    vec![
        Refusal::UnknownTenant { name: name.clone() },
        Refusal::TenantHasChildren { name: name.clone() },
        Refusal::TenantHasJobs { name: name.clone() },
        Refusal::BadTenantName { name: "a//b".into(), why: "each part of the path has 1 to 128 characters" },
        Refusal::TooManyTenants { limit: 10_000 },
        Refusal::UnknownPool { name: "x".into(), known: vec!["h200".into()] },
        Refusal::ZeroWeight,
        Refusal::QuotaTooLarge { gpus: Gpus::whole(11), limit: Gpus::whole(10) },
        Refusal::LimitBelowQuota { limit: Gpus::whole(1), quota: Gpus::whole(2) },
        Refusal::LendLimitAboveQuota { lend_limit: Gpus::whole(3), quota: Gpus::whole(2) },
        Refusal::ChildrenAboveParent { parent: "".into(), children: Gpus::whole(9), quota: Gpus::whole(8), from: None },
        Refusal::ChildrenAboveParent {
            parent: name.clone(),
            children: Gpus::whole(9),
            quota: Gpus::whole(8),
            from: Some(at(0)),
        },
        Refusal::Domains(DomainsFault::AnotherKind {
            pool: "h200".into(),
            tenant: name.clone(),
            level: Level::Leaf,
            nodes: 32,
        }),
        Refusal::Domains(DomainsFault::NoSuch { pool: "h200".into(), level: Level::Leaf, nodes: 64, widest: 32 }),
        Refusal::Domains(DomainsFault::AboveQuota { domains: 4, needs: Gpus::whole(1024), quota: Gpus::whole(640) }),
        Refusal::Domains(DomainsFault::AboveParent { parent: name.clone(), children: 4, domains: 3, from: None }),
        Refusal::Domains(DomainsFault::TooMany {
            pool: "h200".into(),
            level: Level::Node,
            nodes: 1,
            promised: 9,
            there: 8,
            from: Some(at(0)),
        }),
        Refusal::Domains(DomainsFault::TooMany {
            pool: "h200".into(),
            level: Level::Leaf,
            nodes: 32,
            promised: 9,
            there: 8,
            from: None,
        }),
        Refusal::PoolNamedTwice { name: "h200".into() },
        Refusal::Calendar(CalendarRefusal::DateInThePast { from: at(0), now: at(1) }),
        Refusal::Calendar(CalendarRefusal::EndsBeforeItBegins { from: at(1), until: at(0) }),
        Refusal::Calendar(CalendarRefusal::DatedQuotasOverlap {
            tenant: name.clone(),
            from: at(0),
            until: Some(at(1)),
        }),
        Refusal::Calendar(CalendarRefusal::DatedQuotasOverlap { tenant: name.clone(), from: at(0), until: None }),
        Refusal::Calendar(CalendarRefusal::TooManyDatedQuotas { limit: 1_000 }),
        Refusal::Calendar(CalendarRefusal::NoDatedQuota { tenant: name.clone(), from: at(0), known: vec![at(1)] }),
        Refusal::UnknownNode { name: "n9".into() },
        Refusal::NodeNotLost { name: "n1".into() },
        Refusal::BadNode { name: "n1".into(), why: "it has no name".into() },
    ]
}

fn of_bookings() -> Vec<Refusal> {
    let at = |hours: u64| Time(1_796_083_200_000 + hours * 3_600_000);
    let (name, fusion, node) = (Box::<str>::from("race"), Box::<str>::from("fusion"), Box::<str>::from("n1"));
    let all = vec![
        BookingRefusal::TooMany { limit: 1_000 },
        BookingRefusal::BadName { name: "a b".into() },
        BookingRefusal::NameTaken { name: name.clone(), from: at(0) },
        BookingRefusal::Unknown { name: "x".into(), known: vec![name.clone()] },
        BookingRefusal::InThePast { from: at(0), now: at(1) },
        BookingRefusal::TooFarAhead { from: at(1), latest: at(0) },
        BookingRefusal::EndsBeforeItBegins { from: at(1), until: at(0) },
        BookingRefusal::WithoutEnd,
        BookingRefusal::WithoutNodes,
        BookingRefusal::NamedAndCounted,
        BookingRefusal::MaintenanceForJobs,
        BookingRefusal::ForAll,
        BookingRefusal::ForNoMission,
        BookingRefusal::NodeBooked { node: node.clone(), booking: name.clone(), from: at(0), until: Some(at(1)) },
        BookingRefusal::NodeBooked { node: node.clone(), booking: name.clone(), from: at(0), until: None },
        BookingRefusal::TooFewNodes { pool: "h200".into(), want: 16, all: 20, have: 12 },
        BookingRefusal::InTheWay { node: node.clone(), job: JobId(7), until: at(2), fixed: true },
        BookingRefusal::InTheWay { node, job: JobId(7), until: at(2), fixed: false },
        BookingRefusal::OverQuota {
            tenant: fusion.clone(),
            want: Gpus::whole(64),
            booked: Gpus::whole(8),
            quota: Gpus::whole(64),
            at: at(0),
        },
        BookingRefusal::ForNobody { name: name.clone() },
        BookingRefusal::ForOthers { name: name.clone(), tenant: fusion },
        BookingRefusal::TooSmall { name, nodes: 2 },
    ];
    all.into_iter().map(Refusal::Booking).collect()
}

#[test]
fn refusals_of_bookings() {
    expect![[r#"
        ResourceExhausted name: there are 1000 reservations, which is the limit; cancel some (dure reservation cancel), or raise max_bookings in [policy] of the scheduler's configuration
        InvalidArgument name: "a b" is no name for a reservation: 1 to 128 letters, digits, dots, dashes and underscores are; use such a name
        AlreadyExists name: "race" is there already, from 2026-12-01T00:00:00Z; use another name, or cancel that one first: dure reservation cancel
        NotFound booking: there is no reservation "x", there is "race"; see them: dure reservation
        FailedPrecondition from_ms: 2026-12-01T00:00:00Z is before now, 2026-12-01T01:00:00Z; name a time to come
        FailedPrecondition from_ms: 2026-12-01T01:00:00Z is too far ahead, the latest is 2026-12-01T00:00:00Z; name an earlier one, or raise max_booking_ahead in [policy] of the scheduler's configuration
        InvalidArgument until_ms: from 2026-12-01T01:00:00Z until 2026-12-01T00:00:00Z; end it later
        InvalidArgument until_ms: nodes without an end are for maintenance only; say when it ends: --until
        InvalidArgument nodes: neither nodes nor their number; name them (--nodes), or say how many: --count and --pool
        InvalidArgument nodes: nodes, and their number as well; say the one or the other
        InvalidArgument maintenance: maintenance, and a tenant or its jobs as well; leave the tenant out, or the maintenance
        InvalidArgument tenant: all jobs of everybody; name the tenant: --tenant
        InvalidArgument tenant: none; you may book for your own missions only; name the mission: --tenant
        FailedPrecondition nodes: node "n1" is kept by reservation "race" from 2026-12-01T00:00:00Z until 2026-12-01T01:00:00Z; name other nodes or times, or cancel that one first: dure reservation cancel
        FailedPrecondition nodes: node "n1" is kept by reservation "race" from 2026-12-01T00:00:00Z on; name other nodes or times, or cancel that one first: dure reservation cancel
        FailedPrecondition count: 16 nodes of pool "h200", which has 20; 12 of them could be kept then; ask for fewer, or for another time: dure nodes shows what keeps them
        FailedPrecondition nodes: job 7 on node "n1" runs until 2026-12-01T02:00:00Z by its limit, and must not be evicted; begin after its end or name other nodes; an operator may --force it
        FailedPrecondition nodes: job 7 on node "n1" runs until 2026-12-01T02:00:00Z by its limit, and lies inside the quota of another mission; begin after its end or name other nodes; an operator may --force it
        FailedPrecondition count: 64 GPUs beside 8 that are kept already for "fusion" at 2026-12-01T00:00:00Z, its quota is 64; ask for fewer nodes, or have an operator book them or raise the quota
        FailedPrecondition booking: reservation "race" is maintenance: nobody runs there; leave it out, or name another
        FailedPrecondition booking: reservation "race" is for jobs of "fusion"; leave it out, or name another
        FailedPrecondition booking: the 2 nodes of reservation "race" could not hold the gang though they were empty; ask for less, or leave the reservation out
    "#]].assert_eq(&lines(of_bookings()));
}

fn lines(refusals: Vec<Refusal>) -> String {
    refusals.into_iter().map(|why| refused(&why.into())).map(|s| format!("{:?} {}\n", s.code(), s.message())).collect()
}

#[test]
fn refusals_of_jobs() {
    expect![[r#"
        InvalidArgument jobs: the call holds no job; put in at least one
        InvalidArgument jobs: 1001 jobs in one call, at most 1000; split the call
        ResourceExhausted jobs: 2000000 jobs wait already, which is the limit; wait for jobs to start, or cancel some
        ResourceExhausted user: 5 users have been seen, which is the limit; raise the limit in [policy] of the scheduler's configuration
        InvalidArgument shape.members: a gang of 0 members; use at least 1
        InvalidArgument shape.gpus_per_member: member 2 asks for 0 GPUs; use at least 1
        InvalidArgument shape.members: 5000 members, at most 4096; ask for fewer, larger members
        InvalidArgument shape.gpus_per_member: a member asks for 9 GPUs, the largest node has 8; spread the GPUs over more members
        FailedPrecondition shape: the gang asks for 24 GPUs, the pools that it may use have 16; ask for fewer GPUs, or allow other GPU models
        FailedPrecondition shape: 4 members, but even when empty no leaf has room for more than 2; ask for fewer or smaller members, or require a wider level
        FailedPrecondition shape: 4 members, but even when empty the cluster has room for 2 only; ask for fewer or smaller members, or require a wider level
        FailedPrecondition shape.mig_profile: every GPU of pool "h100" that the job may use is cut into MIG instances ("1g.10gb", "3g.40gb"); ask for instances (--gpus-mig PROFILE), or allow other GPU models
        FailedPrecondition tenant: the gang asks for 24 GPUs, the limit of "fusion" is 16; ask for fewer GPUs, or have the limit raised: dure quota set
        FailedPrecondition non_preemptible: a non-preemptible gang of 1 GPU, the quota of "fusion" is 0; submit it as preemptible or smaller, or have the quota raised
        InvalidArgument gpu_models: no pool has GPU model "x", there is "m0", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "m9", "m10", "m11" and 2 more; use one of these
        FailedPrecondition gpu_models: the cluster has no pool yet; define a [[pool]] in the scheduler's configuration, or let the first node join
        InvalidArgument priority: no priority class "top", there is none; use one of these
        InvalidArgument time_limit_ms: 1d 1h 1m 1s is longer than 1500ms; ask for less
        InvalidArgument time_min_ms: a limit of 1h may not be lowered to 2h; use a span of more than 0 and not above the time limit, or leave it out
        InvalidArgument grace_ms: 1h is longer than 0s; ask for less
        InvalidArgument hold_survivors_ms: 2h is longer than 1h; ask for less
        InvalidArgument array.size: an array of 0 indices; use at least 1
        InvalidArgument array.size: an array of 2 indices, at most 1; split the array
        InvalidArgument dependencies: 65 dependencies, at most 64; let a job in between wait for some of them
        NotFound dependencies: there is no job 7; check the id: a job that ended long ago is forgotten
        InvalidArgument dependencies: job 3 of a call that holds 2; count the jobs of the call from 0
        InvalidArgument dependencies: jobs 0 > 2 > 1 > 0 of the call wait for each other in a circle; take one of the dependencies out
        FailedPrecondition dependencies: job 7 has ended otherwise: this could never start; take the dependency out, or depend on its end in any way: afterany
        InvalidArgument preferred_level: the preferred level is wider than the required one; prefer a level at or below the required one
        InvalidArgument constraint: "rack=r9": no node of the pool matches it; see the labels and places of the nodes: dure nodes NODE
        ResourceExhausted shape: 4096 kinds of requests wait already, which is the limit; wait for jobs to start, or cancel some
        InvalidArgument name: 200 bytes, at most 128; shorten it
        NotFound job_id: there is no job 7; check the id: a job that ended long ago is forgotten
        FailedPrecondition job_id: job 7 is running: hold is for jobs that wait; cancel it instead: dure cancel
        AlreadyExists request_id: "r-1" was used for a request with another content; use a new request id for a new request
        FailedPrecondition shape: the gang asks for 24 GPUs, one job of "fusion" may have 16; ask for fewer GPUs, or have the cap raised: dure quota set --job-gpus
        FailedPrecondition time_limit_ms: 2h is longer than the 1h that one job of "fusion" may run; ask for less, or have the cap raised: dure quota set --job-time
        ResourceExhausted tenant: 100 jobs of this user have not ended in "fusion", at most 100 may be there; wait for some to end, or use an array
        FailedPrecondition tenant: tenant "fusion" has no budget; set one first: dure quota set --budget
        FailedPrecondition gpu_ms: 2.0 GPU-hours for "fusion", of the last period 1.1 are left; carry over at most that; see dure quota show --budget
        InvalidArgument budget.period_ms: 1s, the shortest is 1h; use a longer one
        InvalidArgument idle.after_ms: 1s, the shortest is 5s; use a longer one, or --idle-action ignore for none
    "#]].assert_eq(&lines(of_jobs()));
}

#[test]
fn refusals_of_tenants_and_nodes() {
    expect![[r#"
        NotFound tenant: there is no tenant "fusion"; see the tenants: dure quota show; an operator defines a new one: dure quota set --create
        FailedPrecondition tenant: tenant "fusion" has tenants below it; jobs belong to leaves; name one of the tenants below it
        FailedPrecondition tenant: tenant "fusion" has jobs: nothing can be defined below it; cancel them or let them end first
        InvalidArgument tenant: "a//b" is no name for a tenant: each part of the path has 1 to 128 characters; use a path as in fusion/plasma
        ResourceExhausted tenant: there are 10000 tenants, which is the limit; raise the limit in [policy] of the scheduler's configuration
        InvalidArgument quotas.pool: there is no pool "x", there is "h200"; use one of these
        InvalidArgument weight: a weight of 0; use at least 1
        InvalidArgument quotas.quota: 11 GPUs, at most 10; check the number
        InvalidArgument quotas.limit: a limit of 1 below the quota of 2; set the limit to the quota or above, or leave it out
        InvalidArgument quotas.lend_limit: 3 to lend of a quota of 2; lend at most the quota, or leave it out to lend all
        FailedPrecondition quotas.quota: the quotas of all missions would be 9, the cluster has 8; lower another quota below it, or raise its own first
        FailedPrecondition quotas.quota: from 2026-12-01T00:00:00Z on the quotas below "fusion" would be 9, its own is 8; lower another quota below it, or raise its own first
        FailedPrecondition quotas.domains: "fusion" is promised leaf domains of 32 nodes in pool h200, and a pool has one kind; ask for the same, or take the others away first
        FailedPrecondition quotas.domains: a leaf with 64 nodes; the widest leaf has 32 nodes of pool h200; name a level whose domains have nodes of this pool, and no more nodes than the widest
        FailedPrecondition quotas.domains: 4 whole domains are 1024 GPUs, the quota is 640; raise the quota in the same request, or ask for fewer domains
        FailedPrecondition quotas.domains: 4 whole domains would be promised below "fusion", its own are 3; give the tenant above whole domains first, or ask for fewer
        FailedPrecondition quotas.domains: from 2026-12-01T00:00:00Z on 9 whole nodes would be promised in pool h200, there are 8; ask for fewer, or for domains with fewer nodes (as leaf=4x31)
        FailedPrecondition quotas.domains: 9 leaf domains of 32 nodes would be promised in pool h200, there are 8; ask for fewer, or for domains with fewer nodes (as leaf=4x31)
        InvalidArgument quotas.pool: pool "h200" is named twice; name each pool once in a request
        FailedPrecondition dated_quotas.from_ms: 2026-12-01T00:00:00Z is before now, 2026-12-01T01:00:00Z; name a date to come; for a change from now on leave the dates out
        InvalidArgument dated_quotas.until_ms: from 2026-12-01T01:00:00Z until 2026-12-01T00:00:00Z; end it later
        FailedPrecondition dated_quotas.from_ms: "fusion" has another dated quota in this pool then: from 2026-12-01T00:00:00Z until 2026-12-01T01:00:00Z; cancel that one first (dure quota cancel), or name other dates
        FailedPrecondition dated_quotas.from_ms: "fusion" has another dated quota in this pool then: from 2026-12-01T00:00:00Z for good; cancel that one first (dure quota cancel), or name other dates
        ResourceExhausted dated_quotas.from_ms: the calendar holds 1000 dated quotas, which is the limit; cancel some (dure quota cancel), or raise max_dated_quotas in [policy] of the scheduler's configuration
        NotFound from_ms: no quota of "fusion" begins at 2026-12-01T00:00:00Z, there is "2026-12-01T01:00:00Z"; see the dates: dure quota calendar
        NotFound name: there is no node "n9"; see the nodes: dure nodes
        FailedPrecondition name: node "n1" is not lost: its agent is heard; drain it instead: dure node drain
        InvalidArgument name: node "n1" cannot join: it has no name; correct the agent's configuration and start it again
    "#]].assert_eq(&lines(of_the_rest()));
}

#[test]
fn details_carry_the_field_or_the_time_to_come_back() {
    let rejected = Rejected { job: Some(3), why: Refusal::EmptyArray };
    let details = refused(&rejected).get_error_details();
    let violation = &details.bad_request().expect("a field is at fault").field_violations[0];
    assert_eq!(
        (violation.field.as_str(), violation.description.as_str()),
        ("jobs[3].array.size", "an array of 0 indices; use at least 1")
    );
    let busy = Status::from(CallError::Overloaded);
    assert_eq!(busy.code(), Code::ResourceExhausted);
    let retry = busy.get_error_details().retry_info().and_then(|info| info.retry_delay);
    assert_eq!(retry, Some(COME_BACK_AFTER));
    let full = refused(&Refusal::QueueFull { limit: 5 }.into());
    assert_eq!(full.get_error_details().quota_failure().expect("a limit").violations[0].subject, "jobs");
    let state = refused(&Refusal::ZeroWeight.into());
    assert!(state.get_error_details().precondition_failure().is_none());
    let stopped = Status::from(CallError::Stopped("the disk is full".into()));
    assert_eq!(stopped.code(), Code::Unavailable);
    assert!(stopped.message().contains("the disk is full") && stopped.message().contains("request id"));
    let two = invalid(&[Violation::new("a", "is bad"), Violation::new("b", "too").inside("jobs[1]")]);
    assert_eq!(two.message(), "a: is bad | jobs[1].b: too");
}
