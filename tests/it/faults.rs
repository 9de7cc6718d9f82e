//! The network between agent and scheduler fails for shorter and for longer than the deadlines; a fence command is asked.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use dure_proto::v1::{JobPhase, NodeState};
use dure_tests::cluster::Cluster;
use dure_tests::drafts::{await_file, note, noted, script};
use dure_tests::process::lives;
use dure_tests::proxy::Proxy;
use dure_tests::setup::{Setup, Who};
use dure_tests::wait::until;

/// Silence is noticed soon.
const LIVENESS: &str = "heartbeat = \"100ms\"\nsuspect_after = \"1s\"\nlost_after = \"3s\"";

/// A cluster whose agents speak through a proxy each.
async fn behind_proxies(nodes: u32) -> (Cluster, Vec<Proxy>) {
    let mut cluster = Cluster::prepare(crate::DURE, Setup { nodes, liveness: LIVENESS, ..Setup::default() });
    cluster.start_scheduler();
    cluster.serving().await;
    let proxies: Vec<Proxy> = (0..nodes).map(|_| Proxy::start(&cluster.socket())).collect();
    for (number, proxy) in proxies.iter().enumerate() {
        cluster.agent(number).scheduler = vec![format!("http://{}", proxy.address())];
        cluster.start_agent(number);
    }
    cluster.ready().await;
    (cluster, proxies)
}

#[tokio::test]
async fn a_late_network_and_a_short_cut_change_nothing() {
    let (cluster, proxies) = behind_proxies(1).await;
    let caller = cluster.caller(Who::Ana);
    let (notes, end) = (cluster.path("notes"), cluster.path("end"));
    let id = caller.submit(script("fusion", 1, 8, &format!("{}\n{}", note(&notes), await_file(&end)))).await;
    caller.phase(id, JobPhase::Running).await;
    proxies[0].delay(Duration::from_millis(150));
    proxies[0].cut(true, true);
    tokio::time::sleep(Duration::from_millis(700)).await; // the cut itself, shorter than suspect_after
    proxies[0].cut(false, false);
    std::fs::write(&end, "").expect("writes");
    let job = caller.ended(id).await;
    assert_eq!((job.phase(), job.attempts), (JobPhase::Completed, 1));
    assert_eq!(noted(&notes).len(), 1, "it ran once");
}

#[tokio::test]
async fn a_node_cut_off_keeps_its_job_and_reports_its_end_when_it_is_back() {
    for (to, back) in [(true, true), (true, false)] {
        let (cluster, proxies) = behind_proxies(2).await;
        let caller = cluster.caller(Who::Ana);
        let (notes, end) = (cluster.path("notes"), cluster.path("end"));
        let id = caller.submit(script("fusion", 1, 8, &format!("{}\n{}", note(&notes), await_file(&end)))).await;
        let job = caller.phase(id, JobPhase::Running).await;
        let name = job.attempt.expect("it has one").members[0].node.clone();
        let number: usize = name[1..].parse().expect("nodes are named n0, n1");
        proxies[number].cut(to, back);
        cluster.node_is(&name, "is lost", |node| node.state() == NodeState::Lost).await;
        let pid = noted(&notes)[0].pid;
        assert!(lives(pid), "what runs runs on");
        std::fs::write(&end, "").expect("writes");
        until("it ends while its node is cut off", || !lives(pid)).await;
        let job = caller.job(id).await.expect("it is there");
        assert_eq!((job.phase(), job.attempts), (JobPhase::Running, 1), "nobody knows, and nothing is started anew");
        proxies[number].cut(false, false);
        proxies[number].break_all();
        let job = caller.ended(id).await;
        assert_eq!((job.phase(), job.attempts, job.exit_code), (JobPhase::Completed, 1, Some(0)), "{to} {back}");
        assert_eq!(noted(&notes).len(), 1, "it ran once");
    }
}

#[tokio::test]
async fn the_fence_command_is_believed_only_when_it_says_dead() {
    let setup = Setup { nodes: 4, liveness: LIVENESS, ..Setup::default() };
    let mut cluster = Cluster::prepare(crate::DURE, setup);
    // Says what the file beside it says; `dead` only after it has killed all that names the node's folder.
    let (command, word, asked) = (cluster.path("fence"), cluster.path("word"), cluster.path("asked"));
    let text = format!(
        "#!/bin/sh\necho $1 >> {asked}\nword=$(cat {word})\nif [ \"$word\" = dead ]; then\n\
         for p in /proc/[0-9]*; do if tr '\\0' '\\n' < $p/environ 2>/dev/null | grep -q {agents}/$1/; then kill -9 ${{p#/proc/}}; \
         elif tr '\\0' '\\n' < $p/cmdline 2>/dev/null | grep -q {agents}/$1/; then kill -9 ${{p#/proc/}}; fi; done\nfi\necho $word\n",
        asked = asked.display(),
        word = word.display(),
        agents = cluster.path("agents").display(),
    );
    std::fs::write(&command, text).expect("writes");
    std::fs::set_permissions(&command, std::fs::Permissions::from_mode(0o755)).expect("made executable");
    std::fs::write(&word, "perhaps\n").expect("writes");
    let config = std::fs::read_to_string(cluster.path("scheduler.toml")).expect("it was written");
    let fence = format!("[fence]\ncommand = [\"{}\"]\ntimeout = \"20s\"\nagain_after = \"1s\"\n", command.display());
    let config = config.replacen("[liveness]", &format!("{fence}[liveness]"), 1);
    std::fs::write(cluster.path("scheduler.toml"), config).expect("writes");
    cluster.start_scheduler();
    cluster.serving().await;
    cluster.start_agents();
    cluster.ready().await;
    let caller = cluster.caller(Who::Ana);
    let (notes, end) = (cluster.path("notes"), cluster.path("end"));
    let text = format!("{}\nif [ $DURE_ATTEMPT = 1 ]; then {}; fi", note(&notes), await_file(&end));
    let id = caller.submit(script("fusion", 2, 8, &text)).await;
    until("both members run", || noted(&notes).len() == 2).await;
    let job = caller.phase(id, JobPhase::Running).await;
    let lost = job.attempt.expect("it has one").members[1].node.clone();
    cluster.agent_process(lost[1..].parse().expect("a number")).signal(rustix::process::Signal::STOP);
    let asked_twice =
        || std::fs::read_to_string(&asked).unwrap_or_default().lines().filter(|node| *node == lost).count() >= 2;
    until("the fence command was asked twice", asked_twice).await;
    let job = caller.job(id).await.expect("it is there");
    assert_eq!((job.phase(), job.attempts), (JobPhase::AwaitingProof, 1), "perhaps is no proof");
    std::fs::write(&word, "dead\n").expect("writes");
    let job = caller.ended(id).await;
    assert_eq!((job.phase(), job.attempts), (JobPhase::Completed, 2), "{job:#?}");
}
