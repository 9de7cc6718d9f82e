//! The golden file: bytes of this version as they were written once. They decode to the same events for ever.
//!
//! `v1.bin` is one payload with an event of every kind, `v1.txt` what it says. Bytes are only ever added to it: a payload
//! may be continued by another one, so that `extend_the_golden_file` appends the kinds that are new.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use dure_core::booking::{Booking, Purpose, Stage};
use dure_core::budget::{Budget, Grant};
use dure_core::calendar::{DatedKey, DatedQuota};
use dure_core::caps::Caps;
use dure_core::decay::Meter;
use dure_core::event::TenantChange;
use dure_core::gpu::GpuSet;
use dure_core::idle::{IdleAction, IdleNotice, IdleRule};
use dure_core::ids::{
    AttemptNumber, BlobId, BookingId, ForecastId, JobId, MemberIndex, NodeIndex, PoolIndex, PriorityIndex, TenantIndex,
    UserIndex,
};
use dure_core::job::{
    ArrayProgress, ArraySpec, Attempt, Dependency, DependencyKind, Exit, ExitHow, Job, JobSpec, Member, MemberPhase,
    Outcome, Phase, StopReason, Usage,
};
use dure_core::mig::{Layout, Slice};
use dure_core::node::{Capacity, Contact, Location, Node, SetAside};
use dure_core::place::{Faded, Need};
use dure_core::placement::Placed;
use dure_core::promise::{DropCause, Promise};
use dure_core::reply::Reply;
use dure_core::request::{Constraints, LabelRule, Level, Request, Segment, Shape};
use dure_core::reserve::Reservation;
use dure_core::tenant::{DomainQuota, Quota, UserLedger};
use dure_core::units::{CpuMilli, GpuTime, Gpus, MemoryMib, Span};
use dure_core::wanted::Wanted;
use expect_test::expect_file;

use super::*;

const GOLDEN: &[u8] = include_bytes!("../golden/v1.bin");
const WRITTEN_AT: Time = Time(1_700_000_000_000);

#[test]
fn old_bytes_mean_what_they_meant() {
    let (time, events) = decode(GOLDEN).expect("a payload of this version decodes for ever");
    assert_eq!(time, WRITTEN_AT);
    assert_eq!(events, samples());
    let text: String = events.iter().map(|event| format!("{event:#?}\n")).collect();
    expect_file!["../golden/v1.txt"].assert_eq(&text);
}

#[test]
fn the_golden_file_holds_every_kind() {
    let (_, events) = decode(GOLDEN).expect("it decodes");
    let kinds: BTreeSet<&str> = events.iter().map(kind).collect();
    assert_eq!(kinds.len(), KINDS, "append the missing kinds with extend_the_golden_file: {kinds:?}");
}

/// What is in the file stays as it is. After a kind of event was added, EXTEND_GOLDEN=1 appends its sample.
#[test]
fn extend_the_golden_file() {
    let (_, known) = decode(GOLDEN).expect("it decodes");
    let samples = samples();
    assert_eq!(known[..], samples[..known.len()], "samples are only ever added, at the end");
    if std::env::var_os("EXTEND_GOLDEN").is_none() {
        assert_eq!(known.len(), samples.len(), "EXTEND_GOLDEN=1 appends the new samples");
        return;
    }
    let mut bytes = GOLDEN.to_vec();
    bytes.extend(encode(WRITTEN_AT, &samples[known.len()..]));
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/record/golden/v1.bin");
    std::fs::write(path, bytes).expect("written");
}

fn location() -> Location {
    Location { site: "seoul".into(), spine: "s1".into(), leaf: "l3".into(), nvlink: "".into() }
}

fn capacity() -> Capacity {
    Capacity {
        gpus: GpuSet::first(4),
        islands: [GpuSet(0b0011), GpuSet(0b0011), GpuSet(0b1100), GpuSet(0b1100)].into(),
        layouts: Box::default(),
        cpu: CpuMilli(64_000),
        memory: MemoryMib(512 << 10),
        labels: Default::default(),
    }
}

fn spec(shape: Shape) -> JobSpec {
    JobSpec {
        tenant: TenantIndex(3),
        user: UserIndex(1),
        name: "학습".into(),
        request: Arc::new(Request {
            part: dure_core::request::Part::Whole,
            shape,
            pools: [PoolIndex(1), PoolIndex(0)].into(),
            cpu: CpuMilli(8000),
            memory: MemoryMib(65_536),
            required: Some(Level::Spine),
            preferred: Some(Level::Leaf),
            distinct_nodes: true,
            only: Default::default(),
        }),
        priority: PriorityIndex(2),
        preemptible: true,
        time_limit: Span::seconds(3600),
        time_min: None,
        grace: Span::seconds(30),
        array: Some(ArraySpec { size: 100, cap: 8 }),
        after: [
            Dependency { job: JobId(5), kind: DependencyKind::AfterOk },
            Dependency { job: JobId(6), kind: DependencyKind::AfterNotOk },
        ]
        .into(),
        max_retries: 2,
        batch: false,
        hold_survivors: Span::ZERO,
        booking: None,
        payload: BlobId([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]),
    }
}

fn placed(node: u32, gpus: u32) -> Placed {
    Placed::whole(NodeIndex(node), GpuSet(gpus))
}

fn usage() -> Usage {
    Usage { own: GpuTime(123_456), borrowed: GpuTime(789) }
}

fn meter() -> Meter {
    Meter { amount: 1 << 40, rate: Gpus::whole(12), at: Time(1_699_999_999_000) }
}

fn division() -> Vec<Event> {
    let quota = Quota {
        quota: Some(Gpus::whole(64)),
        limit: Some(Gpus::whole(128)),
        lend_limit: Some(Gpus::whole(0)),
        ..Quota::default()
    };
    let change = TenantChange {
        weight: Some(3),
        default_time_limit: Some(Span::seconds(7200)),
        quotas: vec![(PoolIndex(0), quota), (PoolIndex(1), Quota::default())],
        ..TenantChange::default()
    };
    vec![
        Event::PoolDefined { pool: PoolIndex(1), name: "b200".into(), model: "NVIDIA B200".into(), gpus_per_node: 8 },
        Event::TenantDefined { tenant: TenantIndex(3), parent: TenantIndex(1), name: "fusion/plasma".into() },
        Event::TenantChanged { tenant: TenantIndex(3), change },
        Event::Paused { tenant: TenantIndex::ROOT, paused: true },
        Event::UserSeen { user: UserIndex(1), name: "kim".into() },
    ]
}

fn nodes() -> Vec<Event> {
    let node = NodeIndex(300);
    vec![
        Event::NodeJoined {
            node,
            name: "gpu-300".into(),
            pool: PoolIndex(1),
            location: location(),
            capacity: capacity(),
            boot_id: "b-1".into(),
        },
        Event::NodeChanged { node, pool: PoolIndex(0), location: location(), capacity: capacity() },
        Event::NodeContact { node, contact: Contact::Suspect },
        Event::NodeRebooted { node, boot_id: "b-2".into() },
        Event::NodeCordoned { node, cordoned: true, draining: true },
        Event::GpusFenced { node, bad: GpuSet(0b1000) },
    ]
}

fn jobs() -> Vec<Event> {
    let job = JobId(1000);
    vec![
        Event::JobSubmitted {
            job,
            spec: Box::new(spec(Shape::Equal { members: 4, gpus: 8 })),
            held: true,
            not_before: Some(Time(1_700_000_060_000)),
        },
        Event::JobHeld { job },
        Event::JobReleased { job },
        Event::JobEligible { job },
        Event::ArrayIndexStarted { array: job, index: 7, job: JobId(1001) },
        Event::ArrayStopped { array: job },
        Event::JobRequeued {
            job,
            front: true,
            not_before: Some(Time(1_700_000_002_000)),
            avoid: Some(NodeIndex(300)),
            own_fault: true,
        },
        Event::JobEnded { job, outcome: Outcome::DependencyFailed },
        Event::JobForgotten { job },
    ]
}

fn attempts() -> Vec<Event> {
    let (job, attempt, member) = (JobId(1000), AttemptNumber(2), MemberIndex(1));
    vec![
        Event::JobPlaced {
            job,
            attempt,
            pool: PoolIndex(1),
            members: [placed(300, 0b1111), placed(301, 0b0101)].into_iter().collect(),
            scavenger: false,
            guest: false,
            lowered: None,
        },
        Event::MemberPrepared { job, attempt, member },
        Event::GangReleased { job, attempt },
        Event::MemberStarted { job, attempt, member },
        Event::MemberGone { job, attempt, member, exit: Exit::of(ExitHow::Code(-1)) },
        Event::MemberProven { job, attempt, member },
        Event::AttemptStopping { job, attempt, reason: StopReason::Evicted, beneficiary: Some(JobId(999)), keeps: 0 },
        Event::AttemptEnded { job, attempt, outcome: Outcome::Evicted },
    ]
}

fn restored() -> Vec<Event> {
    let node = Node {
        index: NodeIndex(300),
        name: "gpu-300".into(),
        pool: PoolIndex(1),
        location: location(),
        capacity: capacity(),
        boot_id: "b-2".into(),
        contact: Contact::Lost,
        contact_since: Time(1_699_999_990_000),
        cordoned: true,
        draining: false,
        spare: false,
        booked: Default::default(),
        bad: GpuSet(0b1000),
        taken: GpuSet::EMPTY,
        parts: dure_core::parts::Parts::default(),
        cpu_taken: CpuMilli::ZERO,
        memory_taken: MemoryMib::ZERO,
        residents: dure_core::node::Residents::new(),
        promised: SetAside::default(),
        reserved: SetAside::default(),
    };
    let member = |node, phase, exit| Member { placed: placed(node, 0b11), phase, exit };
    let killed = Exit { timed_out: true, ..Exit::of(ExitHow::Signal(9)) };
    let unknown = Exit::of(ExitHow::Unknown("node lost".into()));
    let never_ran = Exit::of(ExitHow::LaunchFailed("no image".into()));
    let attempt = Attempt {
        number: AttemptNumber(2),
        pool: PoolIndex(1),
        lowered: None,
        members: [
            member(300, MemberPhase::Gone, Some(killed)),
            member(301, MemberPhase::Gone, Some(unknown)),
            member(302, MemberPhase::Gone, Some(never_ran)),
            member(303, MemberPhase::Prepared, None),
        ]
        .into_iter()
        .collect(),
        placed_at: Time(1_699_999_000_000),
        start_order: 41,
        started_at: Some(Time(1_699_999_001_000)),
        ended_at: Some(Time(1_699_999_900_000)),
        released: true,
        borrowed: true,
        scavenger: false,
        guest: false,
        charged_at: Time(1_699_999_900_000),
        broken: Some(Outcome::Failed),
        broken_by: None,
        keeps: 0,
        idle: None,
        suspect: Some(NodeIndex(302)),
        outcome: Some(Outcome::NodeLost),
    };
    let job = Job {
        id: JobId(1000),
        spec: spec(Shape::Unequal([2, 2, 1].into())),
        phase: Phase::AwaitingProof(Outcome::NodeLost),
        submitted_at: Time(1_699_990_000_000),
        ended_at: None,
        held: false,
        not_before: Some(Time(1_700_000_002_000)),
        open_dependencies: 1,
        front: true,
        queued: None,
        attempts: 2,
        failures: 1,
        displaced: 0,
        attempt: Some(Box::new(attempt)),
        avoid: [NodeIndex(300), NodeIndex(7)].into_iter().collect(),
        progress: Some(Box::new(ArrayProgress {
            next: 3,
            live: [JobId(1001), JobId(1002)].into(),
            completed: 1,
            failed: 0,
            cancelled: true,
        })),
        index_of: Some((JobId(900), 4)),
        usage: usage(),
        checkpoint: None,
    };
    let ledger =
        UserLedger { used: Gpus::whole(8), recent: meter(), total: usage(), jobs: 17, ..UserLedger::default() };
    vec![
        Event::CountersRestored { next_job: JobId(2000), next_start: 42, skipped_attempts: AttemptNumber(0) },
        Event::TenantRestored { tenant: TenantIndex(3), total: usage(), excess: meter(), budget: None },
        Event::UserRestored { tenant: TenantIndex(3), user: UserIndex(1), ledger },
        Event::NodeRestored { node: Box::new(node) },
        Event::JobRestored { job: Box::new(job) },
    ]
}

/// One event of every kind, in the order of the file. New ones go to the end.
fn samples() -> Vec<Event> {
    let answered = Event::RequestAnswered {
        user: "kim".into(),
        id: "r-1".into(),
        digest: 0xdead_beef,
        reply: Reply::Submitted { first: JobId(1000), count: 2 },
    };
    let mut samples = division();
    samples.extend(nodes());
    samples.extend(jobs());
    samples.extend(attempts());
    samples.push(answered);
    samples.extend(restored());
    samples.extend(promises());
    samples.extend(ledgers());
    samples.extend(constrained());
    samples.extend(plans());
    samples.extend(approved());
    samples.extend(idle());
    samples.extend(wanted_back());
    samples.extend(cut());
    samples.extend(dated());
    samples.push(learned());
    samples.extend(survivors());
    samples.extend(renewed());
    samples.push(Event::CountedAnew { since: WRITTEN_AT });
    samples.extend(bookings());
    samples.extend(whole_domains());
    samples.extend(lowered());
    samples
}

fn bookings() -> Vec<Event> {
    let booking = BookingId(7);
    let until = Some(Time(WRITTEN_AT.0 + 86_400_000));
    let campaign = Booking {
        id: booking,
        name: "race".into(),
        nodes: [NodeIndex(7), NodeIndex(300)].into(),
        from: Time(WRITTEN_AT.0 + 3_600_000),
        until,
        purpose: Purpose::Jobs { tenant: TenantIndex(3), all: true },
        evicts: true,
        clears_at: Time(WRITTEN_AT.0 + 3_000_000),
        made_at: WRITTEN_AT,
        stage: Stage::Ahead,
    };
    let (until, purpose, stage) = (None, Purpose::Maintenance, Stage::Cleared);
    let drain = Booking { until, purpose, evicts: false, stage, ..campaign.clone() };
    let invited = JobSpec { booking: Some(booking), ..spec(Shape::Equal { members: 4, gpus: 8 }) };
    let reply = Reply::Booking(booking);
    vec![
        Event::BookingMade { booking: Box::new(campaign) },
        Event::BookingMade { booking: Box::new(drain) },
        Event::BookingCleared { booking },
        Event::BookingBegan { booking },
        Event::BookingEnded { booking },
        Event::BookingCancelled { booking },
        Event::PromiseDropped { job: JobId(1000), why: DropCause::Booked },
        Event::JobSubmitted { job: JobId(1000), spec: Box::new(invited), held: false, not_before: None },
        Event::RequestAnswered { user: "kim".into(), id: "r-2".into(), digest: 1, reply },
    ]
}

fn dated() -> Vec<Event> {
    let key = DatedKey { tenant: TenantIndex(3), pool: PoolIndex(1), from: WRITTEN_AT };
    let quota = Quota { quota: Some(Gpus::whole(160)), limit: Some(Gpus::whole(320)), ..Quota::default() };
    let until = Some(Time(WRITTEN_AT.0 + 86_400_000));
    vec![
        Event::QuotaDated { dated: DatedQuota { key, until, quota, standing: Some(Quota::default()) } },
        Event::QuotaDated { dated: DatedQuota::new(key, None, quota) },
        Event::QuotaBegan { key },
        Event::QuotaEnded { key },
        Event::CountersRestored { next_job: JobId(9), next_start: 4, skipped_attempts: AttemptNumber(1000) },
    ]
}

fn constrained() -> Vec<Event> {
    let labels = [("gen", "b"), ("rack", "r1")].map(|(key, value)| (key.into(), value.into())).into();
    let joined = Event::NodeJoined {
        node: NodeIndex(301),
        name: "gpu-0301".into(),
        pool: PoolIndex(1),
        location: location(),
        capacity: Capacity { labels, ..capacity() },
        boot_id: "boot-1".into(),
    };
    let rule = |key: &str, values: &[&str], negated| LabelRule {
        key: key.into(),
        values: values.iter().map(|value| (*value).into()).collect(),
        negated,
    };
    let only = Constraints {
        labels: [rule("gen", &["a", "b"], false), rule("old", &[], true)].into(),
        include: [NodeIndex(300), NodeIndex(301)].into(),
        exclude: [NodeIndex(7)].into(),
        spread: Some(Level::Leaf),
        segment: Some(Segment { members: 4, level: Level::Nvlink }),
        least: Some(2),
    };
    let plain = spec(Shape::Equal { members: 8, gpus: 4 });
    let request = Request { only, ..(*plain.request).clone() };
    let spec = Box::new(JobSpec { request: Arc::new(request), ..plain });
    vec![joined, Event::JobSubmitted { job: JobId(1010), spec, held: false, not_before: None }]
}

fn plans() -> Vec<Event> {
    let reservation = Reservation {
        job: JobId(1000),
        pool: PoolIndex(1),
        members: [placed(300, 0xff), placed(7, 0b11)].into_iter().collect(),
        cpu: CpuMilli(8000),
        memory: MemoryMib(65_536),
        from: Time(1_700_003_600_000),
        until: Time(1_700_090_000_000),
        is_own: true,
        reclaims: true,
    };
    let tenant = TenantIndex(3);
    let change = TenantChange { reclaim_within: Some(Span::seconds(3600)), ..TenantChange::default() };
    vec![Event::Planned { reservations: vec![reservation] }, Event::TenantChanged { tenant, change }]
}

fn idle() -> Vec<Event> {
    let (job, attempt, tenant) = (JobId(1000), AttemptNumber(3), TenantIndex(3));
    let rule = IdleRule { after: Span::seconds(1_800), notice: Span::seconds(300), action: IdleAction::Requeue };
    let since = Time(WRITTEN_AT.0 - 1_800_000);
    let notice = IdleNotice { since, at: WRITTEN_AT, action: rule.action, due: Time(WRITTEN_AT.0 + 300_000) };
    vec![
        Event::TenantChanged { tenant, change: TenantChange { idle: Some(rule), ..TenantChange::default() } },
        Event::JobIdle { job, attempt, notice },
        Event::JobBusy { job, attempt },
        Event::AttemptStopping { job, attempt, reason: StopReason::Idle, beneficiary: None, keeps: 0 },
        Event::AttemptEnded { job, attempt, outcome: Outcome::Idle },
    ]
}

fn wanted_back() -> Vec<Event> {
    let wanted = Wanted { tenant: TenantIndex(3), pool: PoolIndex(1), gpus: Gpus::whole(16), preemptible: true };
    let begun = vec![(wanted, Time(1_700_000_000_000))];
    vec![Event::WantedBack { begun, over: vec![Wanted { preemptible: false, ..wanted }] }]
}

/// Shares of 300 thousandths, and members of eight GPUs.
fn learned() -> Event {
    let need = Need { gpus: 1, milli: 300, cpu: 4_000, memory: 16_384, pools: 0b11 };
    let whole = Need { gpus: 8, milli: 1_000, cpu: 0, memory: 0, pools: 1 };
    let faded = Faded { amount: 3 << 16, step: 11_244 };
    Event::WorkloadRestored { kinds: vec![(need, faded), (whole, Faded { amount: 77_777, ..faded })] }
}

/// A node whose GPUs are cut anew, and a job that keeps away from it no longer.
fn cut() -> Vec<Event> {
    let with =
        |layout: Layout, (compute, memory), start| layout.with(Slice { compute, memory }, start).expect("is legal");
    let halves = with(with(Layout::WHOLE, (3, 4), 0), (3, 4), 4);
    let layouts = [Layout::WHOLE, Layout::BARE, halves, with(Layout::WHOLE, (1, 1), 6)].into();
    let capacity = Capacity { layouts, ..capacity() };
    vec![
        Event::NodeChanged { node: NodeIndex(2), pool: PoolIndex(0), location: location(), capacity },
        Event::AvoidanceLifted { job: JobId(1000) },
    ]
}

fn approved() -> Vec<Event> {
    let quota = Quota { quota: Some(Gpus::whole(32)), ..Quota::default() };
    let (quotas, forecast) = (vec![(PoolIndex(0), quota)], Some(ForecastId([7; 32])));
    let change = TenantChange { quotas, forecast, ..TenantChange::default() };
    vec![Event::TenantChanged { tenant: TenantIndex(3), change }]
}

fn ledgers() -> Vec<Event> {
    let (job, attempt, tenant) = (JobId(1000), AttemptNumber(3), TenantIndex(3));
    let caps = Caps {
        user_gpus: Some(Gpus::whole(64)),
        user_running: Some(8),
        user_submitted: Some(100),
        job_gpus: Some(Gpus::whole(32)),
        job_time: Some(Span::seconds(86_400)),
    };
    let grant = Grant { gpu_time: GpuTime(3_600_000_000), period: Span::seconds(30 * 86_400) };
    let gpu_time = GpuTime(7_200_000);
    let budget = Budget {
        spent: gpu_time,
        refunded: GpuTime(1),
        carried: GpuTime(2),
        unspent: GpuTime(3),
        ..Budget::new(grant, WRITTEN_AT)
    };
    let changed = |caps, budget| {
        let change = TenantChange { caps, budget, ..TenantChange::default() };
        Event::TenantChanged { tenant, change }
    };
    let members = [placed(300, 0b1111)].into_iter().collect();
    vec![
        changed(Some(caps), Some(Some(grant))),
        changed(Some(Caps::default()), Some(None)),
        Event::BudgetPeriodBegan { tenant },
        Event::BudgetCarried { tenant, gpu_time },
        Event::JobPlaced { job, attempt, pool: PoolIndex(1), members, scavenger: true, guest: false, lowered: None },
        Event::JobCheckpointed { job, attempt, step: 12_000 },
        Event::TenantRestored { tenant, total: usage(), excess: meter(), budget: Some(budget) },
    ]
}

fn whole_domains() -> Vec<Event> {
    let (job, attempt, tenant, pool) = (JobId(1000), AttemptNumber(4), TenantIndex(3), PoolIndex(1));
    let domains = DomainQuota { level: Level::Leaf, nodes: 32, count: 4 };
    let quota = Quota { quota: Some(Gpus::whole(1024)), domains: Some(domains), ..Quota::default() };
    let change = TenantChange { quotas: vec![(pool, quota)], ..TenantChange::default() };
    let members = [placed(300, 0b1111)].into_iter().collect();
    vec![
        Event::TenantChanged { tenant, change },
        Event::JobPlaced { job, attempt, pool, members, scavenger: false, guest: true, lowered: None },
    ]
}

fn lowered() -> Vec<Event> {
    let (job, attempt, pool) = (JobId(1000), AttemptNumber(5), PoolIndex(1));
    let members = [placed(300, 0b1111)].into_iter().collect();
    let lowered = Some(Span::seconds(2700));
    let flexible = JobSpec { time_min: Some(Span::seconds(1800)), ..spec(Shape::Equal { members: 1, gpus: 4 }) };
    vec![
        Event::JobSubmitted { job, spec: Box::new(flexible), held: false, not_before: None },
        Event::JobPlaced { job, attempt, pool, members, scavenger: false, guest: false, lowered },
    ]
}

fn survivors() -> Vec<Event> {
    let (job, until) = (JobId(1000), Time(1_700_000_750_000));
    let lost = || [MemberIndex(1), MemberIndex(4)].into_iter().collect();
    let members = [placed(300, 0xff)].into_iter().collect();
    let (pool, sought) = (PoolIndex(1), lost());
    let (made_at, span) = (WRITTEN_AT, until.since(WRITTEN_AT));
    let latest = Promise::latest(made_at, span);
    let promise = Promise { pool, members, made_at, start_order: 43, due: until, span, latest, sought };
    let shape = Shape::Equal { members: 4, gpus: 8 };
    let holds = JobSpec { hold_survivors: Span::seconds(600), ..spec(shape) };
    vec![
        Event::NodeSpared { node: NodeIndex(300), spare: true },
        Event::SurvivorsHeld { job, lost: lost(), until },
        Event::PromiseDropped { job, why: DropCause::NoSpare },
        Event::PromiseRestored { job, promise: Box::new(promise) },
        Event::JobSubmitted { job, spec: Box::new(holds), held: false, not_before: None },
    ]
}

fn renewed() -> Vec<Event> {
    let (job, due, latest) = (JobId(1000), Time(1_700_000_900_000), Time(1_700_001_000_000));
    let members = [placed(300, 0xff)].into_iter().collect();
    let (pool, span, sought) = (PoolIndex(1), Span::seconds(130), Default::default());
    let promise = Promise { pool, members, made_at: WRITTEN_AT, start_order: 44, due, span, latest, sought };
    vec![Event::PromiseRenewed { job, due, latest }, Event::PromiseRestored { job, promise: Box::new(promise) }]
}

fn promises() -> Vec<Event> {
    let (job, due) = (JobId(1000), Time(1_700_000_150_000));
    let members = || [placed(300, 0xff), placed(7, 0b11)].into_iter().collect();
    let (pool, sought) = (PoolIndex(1), Default::default());
    let (made_at, span) = (WRITTEN_AT, due.since(WRITTEN_AT));
    let latest = Promise::latest(made_at, span);
    let promise = Promise { pool, members: members(), made_at, start_order: 41, due, span, latest, sought };
    let change = TenantChange { min_run: Some(Span::seconds(600)), ..TenantChange::default() };
    vec![
        Event::Promised { job, pool: PoolIndex(1), members: members(), due },
        Event::PromiseDropped { job, why: DropCause::Late },
        Event::PromiseRestored { job, promise: Box::new(promise) },
        Event::TenantChanged { tenant: TenantIndex(3), change },
    ]
}
