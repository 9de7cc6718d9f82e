//! Random events: every kind, every part, within what the core can hold.

mod bookings;
mod plans;

use std::sync::Arc;

use dure_core::budget::{Budget, Grant};
use dure_core::calendar::{DatedKey, DatedQuota};
use dure_core::caps::Caps;
use dure_core::decay::Meter;
use dure_core::event::{Event, TenantChange};
use dure_core::gpu::GpuSet;
use dure_core::idle::{IdleAction, IdleNotice, IdleRule};
use dure_core::ids::{
    AttemptNumber, BlobId, BookingId, ForecastId, JobId, MemberIndex, NodeIndex, PoolIndex, PriorityIndex, TenantIndex,
    UserIndex,
};
use dure_core::job::{
    ArrayProgress, ArraySpec, Attempt, Checkpoint, Dependency, DependencyKind, Exit, ExitHow, Job, JobSpec, Member,
    MemberPhase, Outcome, Phase, StopReason, Usage,
};
use dure_core::mig::Layout;
use dure_core::node::{Capacity, Contact, Location, Node, SetAside};
use dure_core::place::{Faded, Need};
use dure_core::placement::{Placed, Portion};
use dure_core::reply::Reply;
use dure_core::request::{Constraints, LabelRule, Level, Part, Request, Segment, Shape};
use dure_core::tenant::{DomainQuota, Quota, UserLedger};
use dure_core::units::{CpuMilli, GpuTime, Gpus, MemoryMib, Span, Time};
use proptest::collection::{btree_set, vec};
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

use self::bookings::booking_event;
use self::plans::{drop_cause, promise, reservation, wanted};

/// Short, empty, or of letters that take more than one byte.
fn text() -> impl Strategy<Value = Box<str>> {
    "[a-z/한0-9]{0,12}".prop_map(String::into_boxed_str)
}

fn job() -> impl Strategy<Value = JobId> {
    any::<u64>().prop_map(JobId)
}

fn attempt_number() -> impl Strategy<Value = AttemptNumber> {
    any::<u32>().prop_map(AttemptNumber)
}

fn member_index() -> impl Strategy<Value = MemberIndex> {
    any::<u32>().prop_map(MemberIndex)
}

fn node() -> impl Strategy<Value = NodeIndex> {
    any::<u32>().prop_map(NodeIndex)
}

fn pool() -> impl Strategy<Value = PoolIndex> {
    any::<u8>().prop_map(PoolIndex)
}

fn tenant() -> impl Strategy<Value = TenantIndex> {
    any::<u16>().prop_map(TenantIndex)
}

fn user() -> impl Strategy<Value = UserIndex> {
    any::<u32>().prop_map(UserIndex)
}

fn time() -> impl Strategy<Value = Time> {
    any::<u64>().prop_map(Time)
}

fn span() -> impl Strategy<Value = Span> {
    any::<u64>().prop_map(Span)
}

fn gpus() -> impl Strategy<Value = Gpus> {
    any::<u32>().prop_map(Gpus::whole)
}

fn gpu_set() -> impl Strategy<Value = GpuSet> {
    any::<u32>().prop_map(GpuSet)
}

fn outcome() -> impl Strategy<Value = Outcome> {
    use Outcome::{
        Cancelled, Completed, DependencyFailed, Drained, Evicted, Failed, Idle, LaunchFailed, NodeLost, Resized,
        TimedOut,
    };
    let all = [
        Completed,
        Failed,
        Cancelled,
        TimedOut,
        LaunchFailed,
        NodeLost,
        Evicted,
        Drained,
        Resized,
        DependencyFailed,
        Idle,
    ];
    select(all.to_vec())
}

fn stop_reason() -> impl Strategy<Value = StopReason> {
    use StopReason::{
        Cancelled, Drained, Evicted, GangBroken, Idle, LaunchDeadline, NodeLost, Resized, ScriptEnded, TimeLimit,
    };
    select(vec![
        Cancelled,
        TimeLimit,
        GangBroken,
        LaunchDeadline,
        NodeLost,
        Evicted,
        Drained,
        Resized,
        ScriptEnded,
        Idle,
    ])
}

fn idle_action() -> impl Strategy<Value = IdleAction> {
    select(vec![IdleAction::Ignore, IdleAction::Notify, IdleAction::Requeue, IdleAction::Cancel])
}

fn idle_rule() -> impl Strategy<Value = IdleRule> {
    (span(), span(), idle_action()).prop_map(|(after, notice, action)| IdleRule { after, notice, action })
}

fn idle_notice() -> impl Strategy<Value = IdleNotice> {
    (time(), time(), idle_action(), time()).prop_map(|(since, at, action, due)| IdleNotice { since, at, action, due })
}

fn contact() -> impl Strategy<Value = Contact> {
    select(vec![Contact::Ready, Contact::Suspect, Contact::Lost])
}

fn level() -> impl Strategy<Value = Level> {
    select(Level::ALL.to_vec())
}

fn quota() -> impl Strategy<Value = Quota> {
    let domains =
        (level(), 1..100u32, 1..1000u32).prop_map(|(level, nodes, count)| DomainQuota { level, nodes, count });
    let all = (of(gpus()), of(gpus()), of(gpus()), of(domains));
    all.prop_map(|(quota, limit, lend_limit, domains)| Quota { quota, limit, lend_limit, domains })
}

fn usage() -> impl Strategy<Value = Usage> {
    (any::<u64>(), any::<u64>()).prop_map(|(own, borrowed)| Usage { own: GpuTime(own), borrowed: GpuTime(borrowed) })
}

fn meter() -> impl Strategy<Value = Meter> {
    (any::<u64>(), gpus(), time()).prop_map(|(amount, rate, at)| Meter { amount, rate, at })
}

fn location() -> impl Strategy<Value = Location> {
    (text(), text(), text(), text()).prop_map(|(site, spine, leaf, nvlink)| Location { site, spine, leaf, nvlink })
}

/// Islands of GPUs, and how each is cut; none is: nothing is said.
fn islands() -> impl Strategy<Value = (Vec<GpuSet>, Box<[Layout]>)> {
    let sizes: Vec<_> = dure_core::mig::profiles("H200").iter().map(|(_, slice)| *slice).collect();
    let instances = vec((proptest::sample::select(sizes), 0..7u8), 0..4);
    let cut = instances.prop_map(|list| {
        list.into_iter().fold(Layout::BARE, |cut, (slice, start)| cut.with(slice, start).unwrap_or(cut))
    });
    vec((gpu_set(), prop_oneof![Just(Layout::WHOLE), cut]), 0..=32).prop_map(|list| {
        let (islands, layouts): (Vec<GpuSet>, Vec<Layout>) = list.into_iter().unzip();
        let is_cut = layouts.iter().any(|layout| layout.is_cut());
        (islands, if is_cut { layouts.into() } else { Box::default() })
    })
}

fn capacity() -> impl Strategy<Value = Capacity> {
    (gpu_set(), islands(), any::<u64>(), any::<u64>(), vec((text(), text()), 0..3)).prop_map(
        |(gpus, (islands, layouts), cpu, memory, labels)| Capacity {
            gpus,
            islands: islands.into(),
            layouts,
            cpu: CpuMilli(cpu),
            memory: MemoryMib(memory),
            labels: labels.into(),
        },
    )
}

fn placed() -> impl Strategy<Value = Placed> {
    let whole = (node(), 1..=u32::MAX).prop_map(|(node, gpus)| Placed::whole(node, GpuSet(gpus)));
    let of_one = (node(), 0..32usize, part()).prop_map(|(node, gpu, part)| {
        let start = |slice: dure_core::mig::Slice| slice.starts()[gpu % slice.starts().len()];
        let portion = match part {
            Part::Slice(slice) => Portion::Slice { slice, start: start(slice) },
            Part::Whole | Part::Milli(_) => dure_core::parts::Cut::none(gpu).portion(part).unwrap_or_default(),
        };
        Placed { node, gpus: GpuSet::single(gpu), portion }
    });
    prop_oneof![whole, of_one]
}

fn part() -> impl Strategy<Value = Part> {
    let slices: Vec<_> = dure_core::mig::profiles("H200").iter().map(|(_, slice)| Part::Slice(*slice)).collect();
    prop_oneof![Just(Part::Whole), (1..1000u16).prop_map(Part::Milli), select(slices)]
}

fn exit() -> impl Strategy<Value = Exit> {
    let how = prop_oneof![
        any::<i32>().prop_map(ExitHow::Code),
        any::<i32>().prop_map(ExitHow::Signal),
        text().prop_map(ExitHow::LaunchFailed),
        text().prop_map(ExitHow::Unknown),
    ];
    let said = (any::<bool>(), any::<bool>(), text());
    (how, said).prop_map(|(how, (timed_out, out_of_memory, detail))| Exit { how, timed_out, out_of_memory, detail })
}

fn shape() -> impl Strategy<Value = Shape> {
    prop_oneof![
        (1..100_000u32, 1..=32u8).prop_map(|(members, gpus)| Shape::Equal { members, gpus }),
        vec(1..=32u8, 2..10).prop_map(|list| Shape::Unequal(list.into())),
    ]
}

fn constraints() -> impl Strategy<Value = Constraints> {
    let rule = (text(), vec(text(), 0..3), any::<bool>()).prop_map(|(key, values, negated)| LabelRule {
        key,
        values: values.into(),
        negated,
    });
    let nodes = || vec(any::<u32>().prop_map(NodeIndex), 0..3);
    let segment = (1..100u32, level()).prop_map(|(members, level)| Segment { members, level });
    (vec(rule, 0..3), nodes(), nodes(), of(level()), of(segment), of(1..100u32)).prop_map(
        |(labels, include, exclude, spread, segment, least)| Constraints {
            labels: labels.into(),
            include: include.into(),
            exclude: exclude.into(),
            spread,
            segment,
            least,
        },
    )
}

fn request() -> impl Strategy<Value = Request> {
    let limits = (any::<u64>(), any::<u64>());
    (shape(), part(), vec(pool(), 1..4), limits, of(level()), of(level()), any::<bool>(), constraints()).prop_map(
        |(shape, part, pools, (cpu, memory), required, preferred, distinct_nodes, only)| Request {
            part,
            shape,
            pools: pools.into(),
            cpu: CpuMilli(cpu),
            memory: MemoryMib(memory),
            required,
            preferred,
            distinct_nodes,
            only,
        },
    )
}

fn dependency() -> impl Strategy<Value = Dependency> {
    let kinds = vec![DependencyKind::AfterOk, DependencyKind::AfterAny, DependencyKind::AfterNotOk];
    (job(), select(kinds)).prop_map(|(job, kind)| Dependency { job, kind })
}

fn spec() -> impl Strategy<Value = JobSpec> {
    let who = (tenant(), user(), text(), any::<u8>());
    let how = (request(), any::<bool>(), span(), span(), any::<u32>());
    let array = of((any::<u32>(), any::<u32>()).prop_map(|(size, cap)| ArraySpec { size, cap }));
    (who, how, array, vec(dependency(), 0..4), any::<[u8; 16]>()).prop_map(|(who, how, array, after, payload)| {
        let (tenant, user, name, priority) = who;
        let (request, preemptible, time_limit, grace, max_retries) = how;
        JobSpec {
            tenant,
            user,
            name,
            request: Arc::new(request),
            priority: PriorityIndex(priority),
            preemptible,
            time_limit,
            time_min: (max_retries % 7 == 1).then_some(grace),
            grace,
            array,
            after: after.into(),
            max_retries,
            batch: max_retries % 2 == 1,
            hold_survivors: Span(u64::from(max_retries) / 3),
            booking: (max_retries % 5 == 1).then_some(BookingId(max_retries)),
            payload: BlobId(payload),
        }
    })
}

fn restored_node() -> impl Strategy<Value = Node> {
    let names = (text(), location(), text());
    let state = (contact(), time(), any::<bool>(), any::<bool>(), gpu_set());
    (node(), pool(), names, capacity(), state).prop_map(|(index, pool, names, capacity, state)| {
        let (name, location, boot_id) = names;
        let (contact, contact_since, cordoned, draining, bad) = state;
        Node {
            index,
            name,
            pool,
            location,
            capacity,
            boot_id,
            contact,
            contact_since,
            cordoned,
            draining,
            spare: cordoned,
            booked: Default::default(),
            bad,
            // Comes with the jobs.
            taken: GpuSet::EMPTY,
            parts: dure_core::parts::Parts::default(),
            cpu_taken: CpuMilli::ZERO,
            memory_taken: MemoryMib::ZERO,
            residents: dure_core::node::Residents::new(),
            promised: SetAside::default(),
            reserved: SetAside::default(),
        }
    })
}

fn member() -> impl Strategy<Value = Member> {
    use MemberPhase::{Gone, Ordered, Prepared, Running};
    (placed(), select(vec![Ordered, Prepared, Running, Gone]), of(exit())).prop_map(|(placed, phase, exit)| Member {
        placed,
        phase,
        exit,
    })
}

fn attempt() -> impl Strategy<Value = Attempt> {
    let times = (time(), of(time()), of(time()), time(), of(span()));
    let ends = (of(outcome()), of(0..4096u32), of(outcome()), of(node()));
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), of(idle_notice()));
    (attempt_number(), pool(), vec(member(), 1..4), times, any::<u64>(), flags, ends).prop_map(
        |(
            number,
            pool,
            members,
            times,
            start_order,
            (released, borrowed, scavenger, guest, idle),
            (broken, broken_by, outcome, suspect),
        )| {
            let (placed_at, started_at, ended_at, charged_at, lowered) = times;
            Attempt {
                number,
                pool,
                lowered,
                members: members.into(),
                placed_at,
                start_order,
                started_at,
                ended_at,
                released,
                borrowed,
                scavenger,
                guest,
                charged_at,
                broken,
                broken_by: broken_by.map(MemberIndex),
                suspect,
                keeps: 0,
                idle,
                outcome,
            }
        },
    )
}

fn phase() -> impl Strategy<Value = Phase> {
    prop_oneof![
        select(vec![Phase::Waiting, Phase::Launching, Phase::Running, Phase::Spread]),
        stop_reason().prop_map(Phase::Stopping),
        outcome().prop_map(Phase::AwaitingProof),
        outcome().prop_map(Phase::Ended),
    ]
}

fn progress() -> impl Strategy<Value = ArrayProgress> {
    (any::<u32>(), btree_set(job(), 0..4), any::<u32>(), any::<u32>(), any::<bool>()).prop_map(
        |(next, live, completed, failed, cancelled)| ArrayProgress { next, live, completed, failed, cancelled },
    )
}

fn restored_job() -> impl Strategy<Value = Job> {
    let times = (time(), of(time()), of(time()));
    let flags = (any::<bool>(), any::<bool>());
    let counts = (any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>());
    let array = (of(progress()), of((job(), any::<u32>())));
    let past = (of(attempt()), vec(node(), 0..4), usage(), of(checkpoint()));
    (job(), spec(), phase(), times, flags, counts, array, past).prop_map(
        |(id, spec, phase, times, (held, front), counts, (progress, index_of), (attempt, avoid, usage, checkpoint))| {
            let (submitted_at, ended_at, not_before) = times;
            let (open_dependencies, attempts, failures, displaced) = counts;
            Job {
                id,
                spec,
                phase,
                submitted_at,
                ended_at,
                held,
                not_before,
                open_dependencies,
                front,
                // Follows from the rest.
                queued: None,
                attempts,
                failures,
                displaced,
                attempt: attempt.map(Box::new),
                avoid: avoid.into(),
                progress: progress.map(Box::new),
                index_of,
                usage,
                checkpoint,
            }
        },
    )
}

fn checkpoint() -> impl Strategy<Value = Checkpoint> {
    (attempt_number(), any::<u64>(), time()).prop_map(|(attempt, step, at)| Checkpoint { attempt, step, at })
}

fn caps() -> impl Strategy<Value = Caps> {
    (of(gpus()), of(any::<u32>()), of(any::<u32>()), of(gpus()), of(span())).prop_map(
        |(user_gpus, user_running, user_submitted, job_gpus, job_time)| Caps {
            user_gpus,
            user_running,
            user_submitted,
            job_gpus,
            job_time,
        },
    )
}

fn grant() -> impl Strategy<Value = Grant> {
    (any::<u64>(), 1..u64::MAX)
        .prop_map(|(gpu_time, period)| Grant { gpu_time: GpuTime(gpu_time), period: Span(period) })
}

fn budget() -> impl Strategy<Value = Budget> {
    let part = || any::<u64>().prop_map(GpuTime);
    (grant(), time(), part(), part(), part(), part()).prop_map(
        |(grant, began_at, spent, refunded, carried, unspent)| Budget {
            grant,
            began_at,
            spent,
            refunded,
            carried,
            unspent,
        },
    )
}

fn reply() -> impl Strategy<Value = Reply> {
    prop_oneof![
        (job(), any::<u32>()).prop_map(|(first, count)| Reply::Submitted { first, count }),
        job().prop_map(Reply::Job),
        tenant().prop_map(Reply::Tenant),
        node().prop_map(Reply::Node),
        any::<u32>().prop_map(|booking| Reply::Booking(BookingId(booking))),
        Just(Reply::Done),
    ]
}

fn tenant_change() -> impl Strategy<Value = TenantChange> {
    let spans = (of(span()), of(span()), of(span()), of(idle_rule()));
    let rules = (of(any::<u32>()), spans, of(caps()), of(of(grant())), of(any::<[u8; 32]>()));
    (rules, vec((pool(), quota()), 0..4)).prop_map(|((weight, spans, caps, budget, forecast), quotas)| {
        let (default_time_limit, min_run, reclaim_within, idle) = spans;
        let forecast = forecast.map(ForecastId);
        TenantChange { weight, default_time_limit, min_run, reclaim_within, idle, caps, budget, quotas, forecast }
    })
}

fn dated_key() -> impl Strategy<Value = DatedKey> {
    (tenant(), pool(), time()).prop_map(|(tenant, pool, from)| DatedKey { tenant, pool, from })
}

fn division_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (pool(), text(), text(), any::<u8>()).prop_map(|(pool, name, model, gpus_per_node)| Event::PoolDefined {
            pool,
            name,
            model,
            gpus_per_node
        }),
        (tenant(), tenant(), text()).prop_map(|(tenant, parent, name)| Event::TenantDefined { tenant, parent, name }),
        (tenant(), tenant_change()).prop_map(|(tenant, change)| Event::TenantChanged { tenant, change }),
        (tenant(), any::<bool>()).prop_map(|(tenant, paused)| Event::Paused { tenant, paused }),
        (user(), text()).prop_map(|(user, name)| Event::UserSeen { user, name }),
        tenant().prop_map(|tenant| Event::BudgetPeriodBegan { tenant }),
        (tenant(), any::<u64>()).prop_map(|(tenant, time)| Event::BudgetCarried { tenant, gpu_time: GpuTime(time) }),
        (dated_key(), of(time()), quota(), of(quota())).prop_map(|(key, until, quota, standing)| Event::QuotaDated {
            dated: DatedQuota { key, until, quota, standing },
        }),
        dated_key().prop_map(|key| Event::QuotaBegan { key }),
        dated_key().prop_map(|key| Event::QuotaEnded { key }),
        (text(), text(), any::<u64>(), reply()).prop_map(|(user, id, digest, reply)| Event::RequestAnswered {
            user,
            id,
            digest,
            reply
        }),
    ]
}

fn node_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (node(), text(), pool(), location(), capacity(), text()).prop_map(
            |(node, name, pool, location, capacity, boot_id)| {
                Event::NodeJoined { node, name, pool, location, capacity, boot_id }
            }
        ),
        (node(), pool(), location(), capacity()).prop_map(|(node, pool, location, capacity)| Event::NodeChanged {
            node,
            pool,
            location,
            capacity
        }),
        (node(), contact()).prop_map(|(node, contact)| Event::NodeContact { node, contact }),
        (node(), text()).prop_map(|(node, boot_id)| Event::NodeRebooted { node, boot_id }),
        (node(), any::<bool>(), any::<bool>()).prop_map(|(node, cordoned, draining)| Event::NodeCordoned {
            node,
            cordoned,
            draining
        }),
        (node(), any::<bool>()).prop_map(|(node, spare)| Event::NodeSpared { node, spare }),
        (node(), gpu_set()).prop_map(|(node, bad)| Event::GpusFenced { node, bad }),
    ]
}

fn job_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (job(), spec().prop_map(Box::new), any::<bool>(), of(time()))
            .prop_map(|(job, spec, held, not_before)| Event::JobSubmitted { job, spec, held, not_before }),
        job().prop_map(|job| Event::JobHeld { job }),
        job().prop_map(|job| Event::JobReleased { job }),
        job().prop_map(|job| Event::JobEligible { job }),
        (job(), any::<u32>(), job()).prop_map(|(array, index, job)| Event::ArrayIndexStarted { array, index, job }),
        job().prop_map(|array| Event::ArrayStopped { array }),
        (job(), any::<bool>(), of(time()), of(node()), any::<bool>()).prop_map(
            |(job, front, not_before, avoid, own_fault)| {
                Event::JobRequeued { job, front, not_before, avoid, own_fault }
            }
        ),
        (job(), outcome()).prop_map(|(job, outcome)| Event::JobEnded { job, outcome }),
        job().prop_map(|job| Event::JobForgotten { job }),
    ]
}

fn attempt_event() -> impl Strategy<Value = Event> {
    let one = || (job(), attempt_number(), member_index());
    prop_oneof![
        (job(), attempt_number(), pool(), vec(placed(), 1..6), any::<bool>(), any::<bool>(), of(span())).prop_map(
            |(job, attempt, pool, members, scavenger, guest, lowered)| Event::JobPlaced {
                job,
                attempt,
                pool,
                members: members.into(),
                scavenger,
                guest,
                lowered
            }
        ),
        (job(), attempt_number(), any::<u64>()).prop_map(|(job, attempt, step)| Event::JobCheckpointed {
            job,
            attempt,
            step
        }),
        (job(), attempt_number(), idle_notice()).prop_map(|(job, attempt, notice)| Event::JobIdle {
            job,
            attempt,
            notice
        }),
        (job(), attempt_number()).prop_map(|(job, attempt)| Event::JobBusy { job, attempt }),
        job().prop_map(|job| Event::AvoidanceLifted { job }),
        one().prop_map(|(job, attempt, member)| Event::MemberPrepared { job, attempt, member }),
        (job(), attempt_number()).prop_map(|(job, attempt)| Event::GangReleased { job, attempt }),
        one().prop_map(|(job, attempt, member)| Event::MemberStarted { job, attempt, member }),
        (one(), exit()).prop_map(|((job, attempt, member), exit)| Event::MemberGone { job, attempt, member, exit }),
        one().prop_map(|(job, attempt, member)| Event::MemberProven { job, attempt, member }),
        (job(), attempt_number(), stop_reason(), of(job()), 0..9u32).prop_map(
            |(job, attempt, reason, beneficiary, keeps)| Event::AttemptStopping {
                job,
                attempt,
                reason,
                beneficiary,
                keeps
            }
        ),
        (job(), pool(), vec(placed(), 1..6), time()).prop_map(|(job, pool, members, due)| Event::Promised {
            job,
            pool,
            members: members.into(),
            due
        }),
        (job(), vec(member_index(), 1..4), time()).prop_map(|(job, lost, until)| Event::SurvivorsHeld {
            job,
            lost: lost.into(),
            until
        }),
        vec(reservation(), 0..3).prop_map(|reservations| Event::Planned { reservations }),
        (vec((wanted(), time()), 0..3), vec(wanted(), 0..3))
            .prop_map(|(begun, over)| Event::WantedBack { begun, over }),
        time().prop_map(|since| Event::CountedAnew { since }),
        (job(), time(), time()).prop_map(|(job, due, latest)| Event::PromiseRenewed { job, due, latest }),
        (job(), drop_cause()).prop_map(|(job, why)| Event::PromiseDropped { job, why }),
        (job(), attempt_number(), outcome()).prop_map(|(job, attempt, outcome)| Event::AttemptEnded {
            job,
            attempt,
            outcome
        }),
    ]
}

fn need() -> impl Strategy<Value = Need> {
    let beside = (0..i64::MAX, 0..i64::MAX);
    (0..33u8, 0..1001u16, beside, any::<u64>()).prop_map(|(gpus, milli, (cpu, memory), pools)| Need {
        gpus,
        milli,
        cpu,
        memory,
        pools,
    })
}

fn faded() -> impl Strategy<Value = Faded> {
    (any::<u64>(), any::<u64>()).prop_map(|(amount, step)| Faded { amount, step })
}

fn restored_event() -> impl Strategy<Value = Event> {
    let ledger = (gpus(), meter(), usage(), any::<u64>()).prop_map(|(used, recent, total, jobs)| UserLedger {
        used,
        recent,
        total,
        jobs,
        ..UserLedger::default()
    });
    prop_oneof![
        (job(), any::<u64>(), any::<u32>()).prop_map(|(next_job, next_start, skipped)| {
            Event::CountersRestored { next_job, next_start, skipped_attempts: AttemptNumber(skipped) }
        }),
        (tenant(), usage(), meter(), of(budget())).prop_map(|(tenant, total, excess, budget)| Event::TenantRestored {
            tenant,
            total,
            excess,
            budget
        }),
        (tenant(), user(), ledger).prop_map(|(tenant, user, ledger)| Event::UserRestored { tenant, user, ledger }),
        restored_node().prop_map(|node| Event::NodeRestored { node: Box::new(node) }),
        restored_job().prop_map(|job| Event::JobRestored { job: Box::new(job) }),
        (job(), promise()).prop_map(|(job, promise)| Event::PromiseRestored { job, promise: Box::new(promise) }),
        vec((need(), faded()), 0..4).prop_map(|kinds| Event::WorkloadRestored { kinds }),
    ]
}

/// Any event.
pub(super) fn event() -> impl Strategy<Value = Event> {
    prop_oneof![division_event(), booking_event(), node_event(), job_event(), attempt_event(), restored_event()]
}
