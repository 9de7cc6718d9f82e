//! Nodes that fall silent, are lost, come back, are started anew, are closed: what runs there is never run twice.

use dure_proto::v1::{Job, JobPhase, NodeActionRequest, NodeState};
use dure_tests::client::Caller;
use dure_tests::cluster::Cluster;
use dure_tests::drafts::{await_file, note, noted, script};
use dure_tests::process::{self, lives};
use dure_tests::setup::{Setup, Who};
use dure_tests::wait::until;
use rustix::process::Signal;

/// Silence is noticed soon.
fn impatient(nodes: u32) -> Setup {
    let liveness = "heartbeat = \"100ms\"\nsuspect_after = \"1s\"\nlost_after = \"3s\"";
    Setup { nodes, liveness, ..Setup::default() }
}

fn nodes_of(job: &Job) -> Vec<String> {
    job.attempt.iter().flat_map(|attempt| &attempt.members).map(|member| member.node.clone()).collect()
}

fn number(name: &str) -> usize {
    name[1..].parse().expect("nodes are named n0, n1, ...")
}

async fn node_command(cluster: &Cluster, args: &[&str]) {
    let said = cluster.dure(Who::Op, args).await;
    assert_eq!(said.code, 0, "{args:?}: {said:?}");
}

/// Other work goes on: the scheduler had every chance to start the waiting one too.
async fn others_run(caller: &Caller) {
    let id = caller.submit(script("solar", 1, 1, "true")).await;
    assert_eq!(caller.ended(id).await.phase(), JobPhase::Completed);
}

/// The node is switched off: its agent, its shims, its members.
fn switch_off(cluster: &mut Cluster, node: usize) {
    cluster.kill_agent(node);
    process::kill_all(&cluster.path(&format!("agents/n{node}")));
}

#[tokio::test]
async fn a_silent_node_keeps_its_job_and_comes_back_with_it() {
    let mut cluster = Cluster::start(crate::DURE, impatient(2)).await;
    let caller = cluster.caller(Who::Ana);
    let (notes, end) = (cluster.path("notes"), cluster.path("end"));
    let id = caller.submit(script("fusion", 1, 8, &format!("{}\n{}", note(&notes), await_file(&end)))).await;
    until("it runs", || noted(&notes).len() == 1).await;
    let name = nodes_of(&caller.phase(id, JobPhase::Running).await).remove(0);
    cluster.agent_process(number(&name)).signal(Signal::STOP);
    cluster.node_is(&name, "is suspect", |node| node.state() == NodeState::Suspect).await;
    let early = NodeActionRequest { name: name.clone(), ..NodeActionRequest::default() };
    let status = cluster.caller(Who::Op).nodes().confirm_dead(early).await.expect_err("it is not lost yet");
    assert_eq!(status.code(), tonic::Code::FailedPrecondition, "{status:?}");
    cluster.node_is(&name, "is lost", |node| node.state() == NodeState::Lost).await;
    others_run(&caller).await;
    let job = caller.job(id).await.expect("it is there");
    assert_eq!((job.phase(), job.attempts), (JobPhase::Running, 1), "it is left in peace: {job:#?}");
    assert!(lives(noted(&notes)[0].pid));
    cluster.agent_process(number(&name)).signal(Signal::CONT);
    cluster.node_is(&name, "is back", |node| node.state() == NodeState::Ready && node.connected).await;
    std::fs::write(&end, "").expect("writes");
    let job = caller.ended(id).await;
    assert_eq!((job.phase(), job.attempts, job.exit_code), (JobPhase::Completed, 1, Some(0)));
    assert_eq!(noted(&notes).len(), 1, "it ran once");
}

/// A gang over two nodes of four, one of which is lost; the job, the lost node, and the process that still runs there.
async fn gang_with_a_lost_node(cluster: &mut Cluster, caller: &Caller) -> (u64, usize, u32) {
    let (notes, end) = (cluster.path("notes"), cluster.path("end"));
    let text = format!("{}\nif [ $DURE_ATTEMPT = 1 ]; then {}; fi", note(&notes), await_file(&end));
    let id = caller.submit(script("fusion", 2, 8, &text)).await;
    until("both members run", || noted(&notes).len() == 2).await;
    let lost = number(&nodes_of(&caller.phase(id, JobPhase::Running).await)[1]);
    let pid_of = |member| noted(&notes).iter().find(|run| run.member == member).expect("it runs").pid;
    cluster.agent_process(lost).signal(Signal::STOP);
    let job = caller.phase(id, JobPhase::AwaitingProof).await;
    assert_eq!(job.attempts, 1);
    assert!(!lives(pid_of(0)), "the survivor was stopped");
    assert!(lives(pid_of(1)), "nobody could stop the other");
    others_run(caller).await;
    let job = caller.job(id).await.expect("it is there");
    assert_eq!((job.phase(), job.attempts), (JobPhase::AwaitingProof, 1), "no new attempt without proof: {job:#?}");
    assert_eq!(job.reason_code, "AWAITING_PROOF");
    (id, lost, pid_of(1))
}

async fn second_attempt_completes(cluster: &Cluster, caller: &Caller, id: u64) {
    let job = caller.ended(id).await;
    assert_eq!((job.phase(), job.attempts), (JobPhase::Completed, 2), "{job:#?}");
    let mut runs: Vec<_> = noted(&cluster.path("notes")).iter().map(|run| (run.attempt, run.member)).collect();
    runs.sort_unstable();
    assert_eq!(runs, [(1, 0), (1, 1), (2, 0), (2, 1)]);
}

#[tokio::test]
async fn a_gang_on_a_lost_node_waits_for_an_operators_word() {
    let mut cluster = Cluster::start(crate::DURE, impatient(4)).await;
    let caller = cluster.caller(Who::Ana);
    let (id, lost, _) = gang_with_a_lost_node(&mut cluster, &caller).await;
    switch_off(&mut cluster, lost);
    let name = format!("n{lost}");
    node_command(&cluster, &["node", "confirm-dead", &name, "--reason", "switched off"]).await;
    second_attempt_completes(&cluster, &caller, id).await;
    assert!(!nodes_of(&caller.job(id).await.expect("it is there")).contains(&name));
}

#[tokio::test]
async fn a_new_boot_proves_that_the_old_members_are_dead() {
    let mut cluster = Cluster::start(crate::DURE, impatient(4)).await;
    let caller = cluster.caller(Who::Ana);
    let (id, lost, _) = gang_with_a_lost_node(&mut cluster, &caller).await;
    switch_off(&mut cluster, lost);
    cluster.agent(lost).boot_id = Some("boot-2".to_owned());
    cluster.start_agent(lost);
    second_attempt_completes(&cluster, &caller, id).await;
    cluster.node_is(&format!("n{lost}"), "is back", |node| node.boot_id == "boot-2" && node.gpus_free == 8).await;
}

#[tokio::test]
async fn an_agent_that_comes_back_stops_its_part_of_a_broken_gang() {
    let mut cluster = Cluster::start(crate::DURE, impatient(4)).await;
    let caller = cluster.caller(Who::Ana);
    let (id, lost, pid) = gang_with_a_lost_node(&mut cluster, &caller).await;
    cluster.agent_process(lost).signal(Signal::CONT);
    second_attempt_completes(&cluster, &caller, id).await;
    assert!(!lives(pid), "the old member was gone before the new attempt");
}

#[tokio::test]
async fn cordon_drain_and_resume_do_what_they_say() {
    let cluster = Cluster::start(crate::DURE, Setup { nodes: 2, ..Setup::default() }).await;
    let caller = cluster.caller(Who::Ana);
    let (notes, end) = (cluster.path("notes"), cluster.path("end"));
    let text = format!("{}\n{}", note(&notes), await_file(&end));
    node_command(&cluster, &["node", "cordon", "n0", "--reason", "new fans"]).await;
    let first = caller.submit(script("fusion", 1, 8, &text)).await;
    assert_eq!(nodes_of(&caller.phase(first, JobPhase::Running).await), ["n1"]);
    let second = caller.submit(script("fusion", 1, 8, &text)).await;
    others_wait(&caller, second).await;
    until("the first runs", || noted(&notes).len() == 1).await;
    node_command(&cluster, &["node", "drain", "n1", "--evict"]).await;
    cluster.node_is("n1", "is empty", |node| node.draining && node.jobs.is_empty()).await;
    let job = caller.job_is(first, "waits again", |job| job.phase() == JobPhase::Pending).await;
    assert_eq!((job.attempts, lives(noted(&notes)[0].pid)), (1, false));
    node_command(&cluster, &["node", "resume", "n0"]).await;
    // It was there first, and goes to the front.
    assert_eq!(nodes_of(&caller.phase(first, JobPhase::Running).await), ["n0"]);
    node_command(&cluster, &["node", "drain", "n0"]).await;
    let job = caller.job(first).await.expect("it is there");
    assert_eq!((job.phase(), job.attempts), (JobPhase::Running, 2), "it may end in peace");
    node_command(&cluster, &["node", "resume", "n1"]).await;
    assert_eq!(nodes_of(&caller.phase(second, JobPhase::Running).await), ["n1"]);
    std::fs::write(&end, "").expect("writes");
    assert_eq!(caller.ended(first).await.phase(), JobPhase::Completed);
    assert_eq!(caller.ended(second).await.phase(), JobPhase::Completed);
    cluster.node_is("n0", "is empty", |node| node.draining && node.jobs.is_empty()).await;
}

/// A job waits while a later one in another tenant is looked at as well.
async fn others_wait(caller: &Caller, id: u64) {
    let job = caller.job_is(id, "says why it waits", |job| !job.reason_code.is_empty()).await;
    assert_eq!((job.phase(), job.reason_code.as_str()), (JobPhase::Pending, "NOT_ENOUGH_GPUS"), "{job:#?}");
}
