//! How members are stopped: their own signal and hook, TERM, KILL; warnings; and what they report as saved.

use std::fs;

use dure_proto::v1::{Launch, Signals, exit::How, report};

use crate::harness::{Node, Scheduler, how, launch, lives, pid_in, script, stop, until};

const USR1: u32 = 10;

fn with(signals: Signals, text: &str) -> Launch {
    let mut launch = script(text);
    launch.payload.as_mut().expect("a script").signals = Some(signals);
    launch
}

#[tokio::test]
async fn its_own_signal_comes_first_and_a_report_ends_the_wait() {
    let mut scheduler = Scheduler::start().await;
    let node = Node::new(&scheduler);
    let _agent = node.start();
    let mut session = scheduler.welcome().await;
    let signals = Signals { stop: USR1, stop_ms: 300_000, ..Signals::default() };
    // The script's own shell handles no signal: it must not die of it while its program saves.
    let program = "trap 'echo asked >> said; echo checkpoint 42 > $DURE_REPORT' USR1
        trap 'echo term >> said; exit 0' TERM; echo $$ > ready; while :; do sleep 0.02; done";
    let text = format!("echo checkpoint 7 > $DURE_REPORT; sh -c '{}'; exit $?", program.replace('\'', "'\\''"));
    session.order(launch(1, with(signals, &text))).await;
    session.started().await;
    let mut steps = Vec::new();
    let mut asked = false;
    let exit = loop {
        let report = session.report().await;
        session.ack(&report).await;
        match report.what {
            Some(report::What::Checkpoint(checkpoint)) => {
                assert!(checkpoint.at_ms > 1_600_000_000_000);
                steps.push(checkpoint.step);
            }
            Some(report::What::Gone(exit)) => break exit,
            other => panic!("unexpected: {other:?}"),
        }
        if !asked {
            pid_in(&node.config.state_dir.join("work/1.1.0/ready")).await;
            session.order(stop(1, 600_000)).await;
            asked = true;
        }
    };
    assert_eq!(steps, [7, 42]);
    let said = fs::read_to_string(node.config.state_dir.join("work/1.1.0/said")).expect("is there");
    assert_eq!(said, "asked\nterm\n");
    assert!(matches!(how(&exit), How::Code(0 | 143) | How::Signal(15)), "{exit:?}");
}

#[tokio::test]
async fn what_is_left_after_the_script_has_the_rest_of_the_grace() {
    let mut scheduler = Scheduler::start().await;
    let node = Node::new(&scheduler);
    let _agent = node.start();
    let mut session = scheduler.welcome().await;
    let saver = "trap 'sleep 0.3; echo saved > saved; exit 0' TERM; echo $$ > ready; while :; do sleep 0.02; done";
    session.order(launch(2, script(&format!("sh -c \"{saver}\" & wait", saver = saver.replace('$', "\\$"))))).await;
    let work = node.config.state_dir.join("work/2.1.0");
    let pid = pid_in(&work.join("ready")).await;
    session.order(stop(2, 20_000)).await;
    session.gone().await;
    assert_eq!(fs::read_to_string(work.join("saved")).expect("it had time to save"), "saved\n");
    assert!(!lives(pid));
}

#[tokio::test]
async fn the_hook_runs_beside_the_job_before_term() {
    let mut scheduler = Scheduler::start().await;
    let node = Node::new(&scheduler);
    let _agent = node.start();
    let mut session = scheduler.welcome().await;
    let hook = ["/bin/sh", "-c", "test -n \"$DURE_JOB_ID\" && echo hook >> said; echo checkpoint 9 > $DURE_REPORT"];
    let signals = Signals { stop_ms: 300_000, hook: hook.map(str::to_owned).into(), ..Signals::default() };
    let text = "trap 'echo term >> said; exit 3' TERM; echo $$ > ready; while :; do sleep 0.02; done";
    session.order(launch(3, with(signals, text))).await;
    let work = node.config.state_dir.join("work/3.1.0");
    pid_in(&work.join("ready")).await;
    session.order(stop(3, 600_000)).await;
    assert_eq!(how(&session.gone().await), How::Code(3));
    assert_eq!(fs::read_to_string(work.join("said")).expect("is there"), "hook\nterm\n");
}

#[tokio::test]
async fn a_warning_comes_before_the_time_limit() {
    let mut scheduler = Scheduler::start().await;
    let node = Node::new(&scheduler);
    let _agent = node.start();
    let mut session = scheduler.welcome().await;
    let signals = Signals { limit: USR1, limit_before_ms: 59_000, ..Signals::default() };
    let text = "trap 'echo warned > warned; exit 4' USR1; while :; do sleep 0.02; done";
    let limited = Launch { time_limit_ms: 60_000, ..with(signals, text) };
    session.order(launch(4, limited)).await;
    let exit = session.gone().await;
    assert_eq!((how(&exit), exit.timed_out), (How::Code(4), false));
    let warned = node.config.state_dir.join("work/4.1.0/warned");
    until("the warning is there", || warned.exists()).await;
}

#[tokio::test]
async fn the_sites_prolog_and_epilog_run_around_the_member_and_see_nothing_of_the_job() {
    let mut scheduler = Scheduler::start().await;
    let mut node = Node::new(&scheduler);
    let dir = node.dir.path().display().to_string();
    let sh = |text: String| vec!["/bin/sh".to_owned(), "-c".to_owned(), text];
    node.config.hooks.prolog =
        sh(format!("test $DURE_JOB_ID != 6 || exit 4; echo prolog ${{EVIL-clean}} >> {dir}/order"));
    node.config.hooks.epilog = sh(format!("echo epilog $DURE_JOB_ID >> {dir}/order; test $DURE_JOB_ID != 7"));
    let _agent = node.start();
    let mut session = scheduler.welcome().await;
    let mut wanted = script(&format!("echo member >> {dir}/order"));
    wanted.payload.as_mut().expect("a script").env.insert("EVIL".to_owned(), "of the job".to_owned());
    session.order(launch(5, wanted)).await;
    assert_eq!(how(&session.gone().await), How::Code(0));
    let order = fs::read_to_string(node.dir.path().join("order")).expect("is there");
    assert_eq!(order, "prolog clean\nmember\nepilog 5\n");
    session.order(launch(6, script("true"))).await;
    let How::LaunchFailure(why) = how(&session.gone().await) else { panic!("it ran") };
    assert!(why.contains("the node's prolog /bin/sh failed: exit status: 4"), "{why}");
    session.order(launch(7, script("true"))).await;
    let exit = session.gone().await;
    assert!(how(&exit) == How::Code(0) && exit.detail.contains("the node's epilog /bin/sh failed"), "{exit:?}");
}

#[tokio::test]
async fn a_node_that_fails_a_check_offers_no_gpu_until_it_passes() {
    let mut scheduler = Scheduler::start().await;
    let mut node = Node::new(&scheduler);
    let checks = node.dir.path().join("checks");
    fs::create_dir(&checks).expect("makes it");
    let mended = node.dir.path().join("mended");
    let check = checks.join("10-fan");
    fs::write(&check, format!("#!/bin/sh\ntest -e {} || {{ echo no fan; exit 1; }}\n", mended.display()))
        .expect("writes");
    fs::set_permissions(&check, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it is ours");
    (node.config.checks.dir, node.config.checks.again_s) = (checks, 1);
    let _agent = node.start();
    let mut session = scheduler.welcome().await;
    let gpus = session.hello.inventory.clone().expect("is there").gpus;
    assert!(gpus.len() == 8 && gpus.iter().all(|gpu| gpu.health == "bad"), "{gpus:?}");
    assert!(
        gpus[0].health_reason.contains("the node: check 10-fan failed") && gpus[0].health_reason.contains("no fan")
    );
    fs::write(&mended, "").expect("writes");
    loop {
        let well = session.heartbeat().await.health_changes;
        if well.iter().any(|gpu| gpu.health == "ok") {
            break;
        }
    }
}
