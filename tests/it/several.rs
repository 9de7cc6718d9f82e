//! Several schedulers on a real etcd of three members: the leader is killed, paused, and hands over, and etcd fails, under
//! load. `dure bench failover` is what an operator would run; it fails when anything was lost or doubled.

use dure_tests::cli::Said;
use dure_tests::wait::soon;

/// Runs the bench in a small size; none where etcd is not installed.
async fn failover(fault: &str, times: u32) -> Option<Said> {
    let times = times.to_string();
    let args =
        ["bench", "failover", "--fault", fault, "--kills", &times, "--agents", "20", "--rate", "40", "--calm", "1"];
    let mut command = tokio::process::Command::new(crate::DURE);
    let output = command.args(args).kill_on_drop(true).output();
    // Each fault has a bound of its own in the bench.
    let bound = std::time::Duration::from_secs(240);
    let output = tokio::time::timeout(bound, output).await.expect("the bench ends").expect("dure starts");
    let said = Said::from(output);
    if said.err.contains("etcd is not installed") {
        println!("skipped: etcd is not installed");
        return None;
    }
    Some(said)
}

async fn survives(fault: &str, times: u32) {
    let Some(said) = failover(fault, times).await else { return };
    assert_eq!(said.code, 0, "{fault}: {said:#?}");
    assert!(said.out.contains("acknowledged jobs lost"), "{said:#?}");
    println!("{fault}:\n{}", said.out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_when_leaders_are_killed() {
    survives("kill", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_when_a_leader_is_paused_and_goes_on() {
    survives("pause", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_refused_when_a_leader_hands_over() {
    survives("handover", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_a_member_of_etcd_is_killed() {
    survives("etcd-kill", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_a_member_of_etcd_is_slow() {
    survives("etcd-slow", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_etcd_loses_its_quorum_and_has_it_back() {
    survives("quorum", 1).await;
}

#[tokio::test]
async fn a_scheduler_alone_says_that_it_leads_and_cannot_hand_over() {
    use dure_tests::cluster::Cluster;
    use dure_tests::setup::{Setup, Who};
    let cluster = Cluster::start(crate::DURE, Setup { nodes: 0, ..Setup::default() }).await;
    let said = soon("leader", cluster.dure(Who::Ana, &["scheduler", "leader"])).await;
    assert_eq!((said.code, said.out.trim()), (0, "one scheduler, which leads"), "{said:?}");
    let said = soon("handover", cluster.dure(Who::Op, &["scheduler", "handover"])).await;
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("nobody to hand over to"), "{said:?}");
    let said = soon("handover", cluster.dure(Who::Ana, &["scheduler", "handover"])).await;
    assert!(said.code == 1 && said.err.contains("hand over the leadership"), "a member may not: {said:?}");
}

/// Row 14 of FAULTS.md: as many streams as a large site has nodes. The bench ends when each agent has a session again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_4_000_agents_that_come_back_at_once_loses_nothing() {
    let args = ["bench", "storm", "--agents", "4000", "--storms", "1"];
    let mut command = tokio::process::Command::new(crate::DURE);
    let output = command.args(args).kill_on_drop(true).output();
    let output = tokio::time::timeout(std::time::Duration::from_secs(300), output).await;
    let said = Said::from(output.expect("the bench ends").expect("dure starts"));
    assert_eq!(said.code, 0, "{said:#?}");
    assert!(said.out.contains("acknowledged jobs lost"), "{said:#?}");
    println!("{}", said.out);
}
