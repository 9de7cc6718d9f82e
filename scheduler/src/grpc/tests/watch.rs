//! Watch: from the journal into what happens, without gaps; scopes; and the slow watcher.

use std::time::Duration;

use dure_core::ids::{AttemptNumber, JobId, MemberIndex, NodeIndex};
use dure_core::input::{Input, MemberReport};
use dure_core::job::{Exit, ExitHow};
use dure_proto::v1;
use dure_proto::v1::jobs_server::Jobs as _;
use tokio_stream::StreamExt as _;

use super::{World, ana, by, identity, operator, spec, submit};
use crate::auth::{Identity, Role};
use crate::grpc::limits::MAX_BATCHES_BEHIND;
use crate::grpc::watch::Events;

const BOUND: Duration = Duration::from_secs(20);

async fn watch(world: &World, who: &Identity, request: v1::WatchRequest) -> Events {
    world.services.watch(by(who, request)).await.expect("it may").into_inner()
}

async fn next(events: &mut Events) -> v1::JobEvent {
    let event = tokio::time::timeout(BOUND, events.next()).await.expect("it comes in time");
    event.expect("the stream goes on").expect("no error")
}

async fn kinds(events: &mut Events, count: usize) -> Vec<String> {
    let mut found = Vec::new();
    for _ in 0..count {
        let event = next(events).await;
        found.push(format!("{} {} {:?}", event.job_id, event.kind, event.phase()));
    }
    found
}

/// Runs the only member of a job on n0 or n1 to its end.
async fn run_to_end(world: &World, job: u64) {
    let look = move |cluster: &dure_core::Cluster, _: &_| {
        let attempt = cluster.job(JobId(job)).and_then(|job| job.attempt.as_deref()).expect("it was placed");
        (attempt.members[0].placed.node, attempt.number)
    };
    let ((node, attempt), _) = world.services.handle.read(look).await.expect("it is read");
    let gone = MemberReport::Gone(Exit::of(ExitHow::Code(0)));
    for report in [MemberReport::Started, gone] {
        world.decide(report_of(node, job, attempt, report)).await;
    }
}

fn report_of(node: NodeIndex, job: u64, attempt: AttemptNumber, report: MemberReport) -> Input {
    Input::MemberReported { node, job: JobId(job), attempt, member: MemberIndex(0), report }
}

const LIFE: [&str; 5] =
    ["submitted Pending", "placed Launching", "running Running", "attempt_ended Stopping", "ended Completed"];

fn life(job: u64) -> Vec<String> {
    LIFE.iter().map(|kind| format!("{job} {kind}")).collect()
}

#[tokio::test]
async fn the_past_is_followed_by_the_present_without_gaps() {
    let world = World::new().await;
    world.services.submit(by(&ana(), submit(vec![spec("fusion/plasma", 1)]))).await.expect("accepted");
    run_to_end(&world, 1).await;
    let mut events = watch(&world, &ana(), v1::WatchRequest { after_seq: 1, ..Default::default() }).await;
    assert_eq!(kinds(&mut events, 5).await, life(1), "what has happened");
    world.services.submit(by(&ana(), submit(vec![spec("fusion/plasma", 1)]))).await.expect("accepted");
    run_to_end(&world, 2).await;
    assert_eq!(kinds(&mut events, 5).await, life(2), "what happens");
}

#[tokio::test]
async fn a_watch_goes_on_after_the_last_event_seen() {
    let world = World::new().await;
    world.services.submit(by(&ana(), submit(vec![spec("fusion/plasma", 1)]))).await.expect("accepted");
    run_to_end(&world, 1).await;
    let mut first = watch(&world, &ana(), v1::WatchRequest { after_seq: 1, ..Default::default() }).await;
    next(&mut first).await;
    let seen = next(&mut first).await.seq;
    let mut second = watch(&world, &ana(), v1::WatchRequest { after_seq: seen, ..Default::default() }).await;
    assert_eq!(kinds(&mut second, 3).await, life(1)[2..]);
    let beyond = v1::WatchRequest { after_seq: 1_000_000, ..Default::default() };
    let refused = world.services.watch(by(&ana(), beyond)).await.expect_err("no such position");
    assert!(refused.message().contains("lies after the end of the journal"), "{}", refused.message());
}

#[tokio::test]
async fn a_watch_from_before_what_is_kept_is_told_where_to_begin() {
    let world = World::new().await;
    world.services.submit(by(&ana(), submit(vec![spec("fusion/plasma", 1)]))).await.expect("accepted");
    run_to_end(&world, 1).await;
    *world.store.kept_from.lock().expect("no test panics in here") = 3;
    let mut events = watch(&world, &ana(), v1::WatchRequest { after_seq: 1, ..Default::default() }).await;
    let refused = tokio::time::timeout(BOUND, events.next()).await.expect("it comes in time");
    let refused = refused.expect("a last word").expect_err("position 2 is gone");
    assert_eq!(refused.code(), tonic::Code::OutOfRange, "{refused}");
    assert!(refused.message().contains("watch from 2 on"), "{refused}");
    let mut events = watch(&world, &ana(), v1::WatchRequest { after_seq: 2, ..Default::default() }).await;
    next(&mut events).await;
}

#[tokio::test]
async fn a_watcher_sees_what_it_may_and_asks_for() {
    let world = World::new().await;
    let sun = identity("sun", Role::Pd, &["solar"]);
    let mut hers = watch(&world, &sun, v1::WatchRequest::default()).await;
    let mut one = watch(&world, &operator(), v1::WatchRequest { job_id: 2, ..Default::default() }).await;
    let mut ana_only = watch(&world, &operator(), v1::WatchRequest { user: "ana".into(), ..Default::default() }).await;
    world.services.submit(by(&ana(), submit(vec![spec("fusion/plasma", 1)]))).await.expect("accepted");
    world.services.submit(by(&sun, submit(vec![spec("solar", 1)]))).await.expect("accepted");
    world.services.submit(by(&ana(), submit(vec![spec("fusion/plasma", 1)]))).await.expect("accepted");
    assert_eq!(kinds(&mut hers, 2).await, life(2)[..2]);
    assert_eq!(kinds(&mut one, 2).await, life(2)[..2]);
    assert_eq!(kinds(&mut ana_only, 4).await, [&life(1)[..2], &life(3)[..2]].concat());
    let denied = world.services.watch(by(&identity("n0", Role::Agent, &[]), v1::WatchRequest::default())).await;
    assert_eq!(denied.expect_err("an agent").code(), tonic::Code::PermissionDenied);
}

#[tokio::test]
async fn a_slow_watcher_is_told_and_cut_off() {
    let world = World::new().await;
    let mut events = watch(&world, &operator(), v1::WatchRequest::default()).await;
    world.services.submit(by(&ana(), submit(vec![spec("fusion/plasma", 1)]))).await.expect("accepted");
    let first = next(&mut events).await;
    let after = first.seq + 2;
    let flood = |at: usize| v1::JobEvent { seq: after + at as u64, kind: "flood".into(), ..Default::default() };
    for at in 0..MAX_BATCHES_BEHIND * 2 {
        world.services.watchers.publish(vec![flood(at)]);
    }
    let mut last = first;
    loop {
        let event = tokio::time::timeout(BOUND, events.next()).await.expect("it comes in time");
        let Some(event) = event else { break };
        last = event.expect("no error");
    }
    assert_eq!(last.kind, "dropped");
    assert!(last.seq < flood(MAX_BATCHES_BEHIND * 2).seq && last.detail.contains("after_seq"), "{last:?}");
}
