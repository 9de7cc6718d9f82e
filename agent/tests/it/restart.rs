//! The agent dies, the node reboots, the scheduler changes: nothing runs twice, nothing is forgotten.

use std::{collections::BTreeMap, fs, time::Duration};

use dure_proto::v1::{LeasePhase, exit::How, order::What};

use crate::harness::{Node, Scheduler, how, key, launch, lives, order, pid_in, script, stop, until};

/// Waits for the file `go` beside the state folder and leaves with 6.
fn waiting(node: &Node) -> (String, std::path::PathBuf) {
    let go = node.dir.path().join("go");
    (format!("while ! test -e {}; do sleep 0.01; done; exit 6", go.display()), go)
}

#[tokio::test]
async fn a_killed_agent_finds_its_member_again_and_learns_its_exit_code() {
    let mut scheduler = Scheduler::start().await;
    let node = Node::new(&scheduler);
    let (text, go) = waiting(&node);
    let agent = node.spawn();
    let mut session = scheduler.welcome().await;
    session.order(launch(1, script(&text))).await;
    let pid = session.started().await;
    agent.kill();
    session.closed().await;
    assert!(lives(pid), "the member outlives its agent");
    let agent = node.spawn();
    let mut session = scheduler.accept().await;
    assert_eq!(session.hello.leases.len(), 1);
    assert_eq!(session.hello.leases[0].phase(), LeasePhase::Running);
    session.welcome(1, vec![launch(1, script(&text))], Vec::new()).await;
    assert_eq!(session.started().await, pid, "the same process, not another one");
    fs::write(&go, "").expect("writes");
    assert_eq!(how(&session.gone().await), How::Code(6));
    agent.kill();
}

#[tokio::test]
async fn an_end_while_the_agent_was_away_is_reported_until_it_is_acknowledged() {
    let mut scheduler = Scheduler::start().await;
    let node = Node::new(&scheduler);
    let (text, go) = waiting(&node);
    let agent = node.spawn();
    let mut session = scheduler.welcome().await;
    session.order(launch(1, script(&text))).await;
    session.started().await;
    agent.kill();
    fs::write(&go, "").expect("writes");
    until("the shim's last word", || node.member_dir(1).join("exit.json").exists()).await;
    for _ in 0..2 {
        let agent = node.spawn();
        let mut session = scheduler.accept().await;
        session.welcome(1, vec![launch(1, script(&text))], Vec::new()).await;
        let exit = loop {
            if let Some(dure_proto::v1::report::What::Gone(exit)) = session.report().await.what {
                break exit;
            }
        };
        assert_eq!(how(&exit), How::Code(6));
        agent.kill();
    }
    let agent = node.spawn();
    let session = scheduler.accept().await;
    session.welcome(1, Vec::new(), vec![key(1)]).await;
    until("what the scheduler has settled is removed", || !node.member_dir(1).exists()).await;
    agent.kill();
}

#[tokio::test]
async fn a_stop_reaches_a_member_that_was_adopted() {
    let mut scheduler = Scheduler::start().await;
    let node = Node::new(&scheduler);
    let agent = node.start();
    let mut session = scheduler.welcome().await;
    session.order(launch(1, script("sleep 1000"))).await;
    let pid = session.started().await;
    agent.crash().await;
    let _agent = node.start();
    let mut session = scheduler.accept().await;
    session.welcome(1, vec![launch(1, script("sleep 1000")), stop(1, 5_000)], Vec::new()).await;
    assert_eq!(how(&session.gone().await), How::Signal(15));
    assert!(!lives(pid));
}

#[tokio::test]
async fn a_killed_shim_takes_nothing_with_it_but_all_is_ended() {
    let mut scheduler = Scheduler::start().await;
    let node = Node::new(&scheduler);
    let _agent = node.start();
    let mut session = scheduler.welcome().await;
    let file = node.dir.path().join("daemon");
    let text = format!("(setsid sh -c 'echo $$ > {}; exec sleep 1000' &); exec sleep 1000", file.display());
    session.order(launch(1, script(&text))).await;
    let main = session.started().await;
    let daemon = pid_in(&file).await;
    let shim: serde_json::Value =
        serde_json::from_slice(&fs::read(node.member_dir(1).join("shim.json")).expect("is there")).expect("is JSON");
    let shim = i32::try_from(shim["pid"].as_i64().expect("a number")).expect("a process id");
    rustix::process::kill_process(rustix::process::Pid::from_raw(shim).expect("not 0"), rustix::process::Signal::KILL)
        .expect("kills");
    let exit = session.gone().await;
    assert_eq!(how(&exit), How::Unknown("its shim was killed; all of it was ended".to_owned()));
    assert!(exit.started_ms > 0);
    assert!(!lives(main) && !lives(daemon), "what the shim left was ended before it was called gone");
}

#[tokio::test]
async fn after_a_reboot_everything_older_is_dead() {
    let mut scheduler = Scheduler::start().await;
    let mut node = Node::new(&scheduler);
    let agent = node.start();
    let mut session = scheduler.welcome().await;
    let mut waits = script("exit 0");
    (waits.start_at_once, waits.gpus) = (false, vec![1]);
    session.order(launch(1, script("sleep 1000"))).await;
    let pid = session.started().await;
    session.order(launch(2, waits)).await;
    session.prepared().await;
    agent.crash().await;
    // What a reboot does to processes.
    rustix::process::kill_process_group(
        rustix::process::Pid::from_raw(i32::try_from(pid).expect("a process id")).expect("not 0"),
        rustix::process::Signal::KILL,
    )
    .expect("kills");
    until("its shim has ended", || node.member_dir(1).join("exit.json").exists()).await;
    fs::remove_file(node.member_dir(1).join("exit.json")).expect("a reboot comes before the last word");
    node.config.boot_id = Some("boot-2".to_owned());
    let _agent = node.start();
    let mut session = scheduler.welcome().await;
    assert_eq!(session.hello.boot_id, "boot-2");
    let mut ends = Vec::new();
    for _ in 0..2 {
        let How::Unknown(why) = how(&session.gone().await) else { panic!("it cannot be known how they ended") };
        ends.push(why);
    }
    ends.sort();
    assert_eq!(ends, ["the node was restarted before it started", "the node was restarted while it ran"]);
}

#[tokio::test]
async fn an_epoch_once_obeyed_is_remembered_over_a_restart() {
    let mut scheduler = Scheduler::start().await;
    let node = Node::new(&scheduler);
    let agent = node.start();
    let mut session = scheduler.accept().await;
    assert_eq!(session.hello.highest_epoch, 0);
    session.welcome(5, Vec::new(), Vec::new()).await;
    let mut wanted = launch(1, script("sleep 1000"));
    (wanted.epoch, wanted.seq) = (5, 77);
    session.order(wanted).await;
    session.started().await;
    agent.crash().await;
    let _agent = node.start();
    let mut session = scheduler.accept().await;
    assert_eq!((session.hello.highest_epoch, session.hello.highest_seq), (5, 77));
    assert_eq!(session.hello.store_id, "store");
    // A leader of the past is left at once, and its list of settled members counts for nothing.
    session.welcome(4, Vec::new(), vec![key(1)]).await;
    session.closed().await;
    let mut session = scheduler.accept().await;
    assert_eq!(session.hello.leases.len(), 1);
    session.welcome(6, Vec::new(), vec![key(1)]).await;
    until("the newer leader's word ends it", || !node.member_dir(1).exists()).await;
    let mut late = stop(2, 0);
    late.epoch = 5;
    session.order(late).await;
    let mut now = stop(3, 0);
    now.epoch = 6;
    session.order(now).await;
    let report = loop {
        let report = session.report().await;
        if report.job_id != 1 {
            break report;
        }
    };
    assert_eq!(report.job_id, 3, "orders of an older epoch are not obeyed, whoever sends them");
}

#[tokio::test]
async fn a_lease_that_the_scheduler_does_not_know_is_left_alone() {
    let mut scheduler = Scheduler::start().await;
    let node = Node::new(&scheduler);
    let agent = node.start();
    let mut session = scheduler.welcome().await;
    let (text, go) = waiting(&node);
    session.order(launch(1, script(&text))).await;
    let pid = session.started().await;
    agent.crash().await;
    let _agent = node.start();
    let mut session = scheduler.accept().await;
    session.welcome(2, Vec::new(), Vec::new()).await;
    let mut other = script("exit 0");
    other.gpus = vec![1];
    let mut other = launch(2, other);
    other.epoch = 2;
    session.order(other).await;
    let mut ended = false;
    while !ended {
        let report = session.report().await;
        ended = report.job_id == 2 && matches!(report.what, Some(dure_proto::v1::report::What::Gone(_)));
        session.ack(&report).await;
    }
    assert!(lives(pid), "the scheduler's ignorance is no order to kill");
    fs::write(&go, "").expect("writes");
    assert_eq!(how(&session.gone().await), How::Code(6));
}

#[tokio::test]
async fn the_agent_comes_back_to_a_scheduler_that_was_away() {
    let mut scheduler = Scheduler::start().await;
    let mut node = Node::new(&scheduler);
    let mut second = Scheduler::start().await;
    node.config.scheduler.push(second.endpoint.clone());
    let token = node.dir.path().join("token");
    fs::write(&token, "secret\n").expect("writes");
    node.config.token_file = Some(token);
    let _agent = node.start();
    let mut session = scheduler.welcome().await;
    assert_eq!(session.token.as_deref(), Some("Bearer secret"));
    let mut wanted = script("exit 2");
    wanted.start_at_once = false;
    session.order(launch(1, wanted.clone())).await;
    session.prepared().await;
    drop(session);
    drop(scheduler);
    let mut session = second.accept().await;
    assert_eq!(session.hello.leases[0].phase(), LeasePhase::Prepared);
    session.welcome(2, vec![launch(1, wanted.clone())], Vec::new()).await;
    let mut go = order(1, 2, What::Go(wanted));
    go.epoch = 2;
    session.order(go).await;
    assert_eq!(how(&session.gone().await), How::Code(2));
}

#[tokio::test]
async fn an_agent_that_is_killed_at_any_moment_starts_each_member_once_and_reports_each_end() {
    const JOBS: u64 = 8;
    const KILLS: u64 = 25;
    let mut scheduler = Scheduler::start().await;
    let node = Node::new(&scheduler);
    let starts = node.dir.path().join("starts");
    fs::create_dir(&starts).expect("makes it");
    let wanted = |job: u64| {
        let text = format!("echo $$ >> {}/{job}; sleep 0.{job}; exit {job}", starts.display());
        let mut wanted = script(&text);
        wanted.gpus = vec![u32::try_from(job - 1).expect("small")];
        launch(job, wanted)
    };
    let mut ended = BTreeMap::new();
    for round in 0..=KILLS {
        let agent = node.spawn();
        let mut session = scheduler.accept().await;
        let settled = ended.keys().map(|job| key(*job)).collect();
        let open = (1..=JOBS).filter(|job| !ended.contains_key(job)).map(wanted).collect();
        session.welcome(1, open, settled).await;
        // Later each time, so that every stage is met.
        let (mut survivor, mut kill) = (Some(agent), None);
        if round < KILLS {
            let agent = survivor.take().expect("it was put there");
            kill = Some(tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(3 * round)).await;
                agent.kill();
            }));
        }
        while ended.len() < JOBS as usize || kill.is_some() {
            let Some(report) = session.report_or_end().await else { break };
            if let Some(dure_proto::v1::report::What::Gone(exit)) = report.what {
                let before = ended.insert(report.job_id, how(&exit));
                assert!(before.is_none_or(|before| before == how(&exit)), "an end does not change");
            }
        }
        if let Some(kill) = kill {
            kill.await.expect("kills");
        }
        drop(survivor);
    }
    for job in 1..=JOBS {
        assert_eq!(ended[&job], How::Code(i32::try_from(job).expect("small")), "job {job}");
        let started = fs::read_to_string(starts.join(job.to_string())).expect("it has started");
        assert_eq!(started.lines().count(), 1, "job {job} started by processes {started:?}");
    }
}

#[tokio::test]
async fn a_state_folder_has_one_agent() {
    let mut scheduler = Scheduler::start().await;
    let node = Node::new(&scheduler);
    let _agent = node.start();
    let _session = scheduler.welcome().await;
    let second = dure_agent::run(node.config.clone(), std::future::pending()).await;
    let message = second.expect_err("must be refused").to_string();
    assert!(message.contains("another agent is using it"), "{message}");
}
