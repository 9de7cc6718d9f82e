//! Nodes that are kept for a period to come, with real agents: who runs there, who waits, and what both are told.

use dure_proto::v1::{CreateBookingRequest, ExplainRequest, JobPhase, JobSpec};
use dure_tests::client::Caller;
use dure_tests::cluster::Cluster;
use dure_tests::drafts::{await_file, script};
use dure_tests::setup::{Setup, Who};
use dure_tests::wait::until_some;
use tonic::Code;

/// All codes for which a job waits.
async fn codes(caller: &Caller, job_id: u64) -> Vec<String> {
    let told = caller.jobs().explain(ExplainRequest { job_id }).await.expect("it is explained").into_inner();
    told.blockers.into_iter().map(|blocker| format!("{}: {}", blocker.code, blocker.message)).collect()
}

async fn node_of(caller: &Caller, job: u64) -> String {
    let running = caller.phase(job, JobPhase::Running).await;
    running.attempt.expect("it runs").members[0].node.clone()
}

#[tokio::test]
async fn a_campaign_has_its_node_and_others_are_told_so() {
    let cluster = Cluster::start(crate::DURE, Setup { nodes: 2, ..Setup::default() }).await;
    let caller = cluster.caller(Who::Ana);
    let end = cluster.path("end");
    let create = ["reservation", "create", "race", "--from", "now+5s", "--until", "now+1h", "--nodes", "n0"];
    let said = cluster.dure(Who::Op, &[&create[..], &["--tenant", "fusion", "--reason", "the race"]].concat()).await;
    assert_eq!(said.code, 0, "{said:?}");
    let member = cluster.dure(Who::Ana, &[&create[..], &["--tenant", "fusion"]].concat()).await;
    assert!(member.code == 1 && member.err.contains("book nodes for"), "a member books nothing: {member:?}");

    let inside = JobSpec { booking: "race".to_owned(), ..script("fusion", 1, 4, &await_file(&end)) };
    let inside = caller.submit(inside).await;
    let told = codes(&caller, inside).await;
    assert!(told.iter().any(|why| why.contains("AWAITS_BOOKING") && why.contains("race")), "{told:?}");
    let first = caller.submit(script("fusion", 1, 8, &await_file(&end))).await;
    assert_eq!(node_of(&caller, first).await, "n1", "by its limit it would run into the reservation of n0");
    let second = caller.submit(script("solar", 1, 8, &await_file(&end))).await;
    assert_eq!(node_of(&caller, inside).await, "n0", "it starts when its reservation begins");
    let told = codes(&caller, second).await;
    assert!(told.iter().any(|why| why.starts_with("BOOKED") && why.contains("race")), "{told:?}");

    let listed = cluster.dure(Who::Ana, &["reservation"]).await.out;
    assert!(listed.contains("race") && listed.contains("active") && listed.contains("fusion, by name"), "{listed}");
    let node = cluster.dure(Who::Ana, &["nodes", "n0"]).await.out;
    assert!(node.contains("reserved:   race from"), "{node}");
    let wrong = JobSpec { booking: "race".to_owned(), ..script("solar", 1, 1, "true") };
    let refused = caller.try_submit("", vec![wrong]).await.expect_err("it is for fusion");
    assert_eq!((refused.code(), refused.message().contains("booking")), (Code::FailedPrecondition, true), "{refused}");

    std::fs::write(&end, "").expect("writes");
    for job in [inside, first, second] {
        assert_eq!(caller.ended(job).await.phase(), JobPhase::Completed);
    }
    let said = cluster.dure(Who::Op, &["reservation", "cancel", "race"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    // The history is filled a moment later.
    until_some("both are in the audit", || async {
        let audit = cluster.dure(Who::Op, &["audit"]).await.out;
        let has = |words: &str| audit.contains(words);
        (has("Bookings/Create") && has("the race") && has("reservation race is cancelled")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn maintenance_and_dated_drains_are_empty_in_time() {
    let policy = "default_grace = \"1s\"\nbackoff = \"100ms\"\nlaunch_deadline = \"5s\"\ntime_limit_slack = \"1s\"";
    let cluster = Cluster::start(crate::DURE, Setup { nodes: 1, policy, ..Setup::default() }).await;
    let (caller, operator) = (cluster.caller(Who::Ana), cluster.caller(Who::Op));
    let long = caller.submit(script("fusion", 1, 4, "exec sleep 300")).await;
    caller.phase(long, JobPhase::Running).await;
    let said = cluster.dure(
        Who::Op,
        &["reservation", "create", "fans", "--maintenance", "--nodes", "n0", "--from", "now+6s", "--until", "now+12s"],
    );
    let said = said.await;
    assert_eq!(said.code, 0, "{said:?}");
    // What is over before may start; what is not may not.
    let brief = caller.submit(JobSpec { time_limit_ms: 20_000, ..script("fusion", 1, 4, "true") }).await;
    let told = codes(&caller, brief).await;
    assert!(told.iter().any(|why| why.starts_with("BOOKED")), "it is not over before by its limit: {told:?}");
    cluster.node_is("n0", "is under maintenance", |node| node.bookings.iter().any(|booking| booking.begun)).await;
    let stopped = caller.job(long).await.expect("it is known");
    assert_eq!(stopped.phase(), JobPhase::Pending, "it was stopped in time: {stopped:#?}");
    let again = caller.job_is(long, "runs again", |job| job.phase() == JobPhase::Running && job.attempts == 2).await;
    assert_eq!(again.attempts, 2, "when it was over");
    assert_eq!(caller.ended(brief).await.phase(), JobPhase::Completed);

    let said = cluster.dure(Who::Op, &["node", "drain", "n0", "--at", "now+2s"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let listed = cluster.dure(Who::Op, &["reservation"]).await.out;
    assert!(listed.contains("drain-n0") && listed.contains("then drained"), "{listed}");
    let twice = CreateBookingRequest { name: "x".to_owned(), nodes: vec!["n0".to_owned()], ..Default::default() };
    let from_ms = now_ms() + 60_000;
    let twice = CreateBookingRequest { maintenance: true, from_ms, ..twice };
    let refused = operator.bookings().create(twice).await.expect_err("it is kept for good");
    assert!(refused.message().contains("drain-n0"), "{refused}");
    let drained = cluster.node_is("n0", "is drained", |node| node.draining).await;
    assert_eq!((drained.jobs.len(), drained.bookings.len()), (1, 0), "what runs there runs on: {drained:#?}");
}

#[tokio::test]
async fn a_limit_that_may_be_lowered_ends_before_a_reservation() {
    let policy = "default_grace = \"1s\"\nlaunch_deadline = \"2s\"\ntime_limit_slack = \"1s\"";
    let cluster = Cluster::start(crate::DURE, Setup { nodes: 1, policy, ..Setup::default() }).await;
    let caller = cluster.caller(Who::Ana);
    let create = ["reservation", "create", "fans", "--maintenance", "--nodes", "n0", "--from", "now+12s"];
    let said = cluster.dure(Who::Op, &[&create[..], &["--until", "now+1h"]].concat()).await;
    assert_eq!(said.code, 0, "{said:?}");
    let submit = ["submit", "-A", "fusion", "--gpus", "4", "--time", "1h", "--parsable"];
    let command = ["--", "sleep", "300"];
    let long = cluster.dure(Who::Ana, &[&submit[..], &["--time-min", "50m"], &command].concat()).await;
    let brief = cluster.dure(Who::Ana, &[&submit[..], &["--time-min", "1s"], &command].concat()).await;
    let id = |said: &str| said.trim().parse::<u64>().expect("an id");
    let ended = caller.ended(id(&brief.out)).await;
    assert_eq!(ended.phase(), JobPhase::TimedOut, "it ended at the limit that it got, before the hour: {ended:#?}");
    let limit = ended.attempt.expect("it ran").time_limit_ms;
    assert!((1_000..=9_000).contains(&limit), "{limit} ms, over 4 s before the reservation begins at the latest");
    let shown = cluster.dure(Who::Ana, &["job", brief.out.trim()]).await.out;
    assert!(shown.contains("(asked 1h00m, at least 1.0s)"), "{shown}");
    let told = cluster.dure(Who::Ana, &["explain", long.out.trim()]).await.out;
    assert!(told.contains("not even with its least time limit of 50m00s"), "{told}");
    let wrong = JobSpec { time_min_ms: 120_001, ..script("fusion", 1, 1, "true") };
    let refused = caller.try_submit("", vec![wrong]).await.expect_err("it is above the limit");
    assert!(refused.message().contains("time_min_ms"), "{refused}");
}

/// Milliseconds since 1970.
fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    u64::try_from(now.as_millis()).expect("before the end of time")
}
