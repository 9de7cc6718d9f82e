//! One member from launch to end, in every way it can end.

use dure_proto::v1::{LogRead, Payload, exit::How, order::What};

use crate::harness::{Node, Scheduler, how, launch, lives, order, pid_in, script, soon, stop, until, variables};

#[tokio::test]
async fn a_script_runs_with_its_gpus_and_ranks_and_its_exit_code_comes_back() {
    let mut scheduler = Scheduler::start().await;
    let node = Node::new(&scheduler);
    let _agent = node.start();
    let mut session = scheduler.welcome().await;
    let inventory = session.hello.inventory.clone().expect("says what it has");
    assert_eq!((session.hello.node.as_str(), session.hello.boot_id.as_str()), ("n0", "boot-1"));
    assert_eq!(inventory.gpus.len(), 8);
    let mut wanted = script("#!/bin/bash\nenv\necho oops >&2\nexit 3\n");
    wanted.gpus = vec![2, 5];
    session.order(launch(17, wanted)).await;
    let pid = session.started().await;
    assert!(pid > 0);
    let exit = session.gone().await;
    assert_eq!(how(&exit), How::Code(3));
    assert!(!exit.timed_out && exit.started_ms > 0 && exit.ended_ms >= exit.started_ms);
    let read = LogRead { read_id: 1, job_id: 17, attempt: 1, ..LogRead::default() };
    let (out, _) = session.log(read).await;
    let env = variables(&out);
    let uuids = format!("{},{}", inventory.gpus[2].uuid, inventory.gpus[5].uuid);
    assert_eq!(env.get("CUDA_VISIBLE_DEVICES"), Some(&uuids.as_str()));
    assert_eq!((env["RANK"], env["WORLD_SIZE"], env["SLURM_JOB_ID"]), ("0", "1", "17"));
    assert!(!env.keys().any(|name| name.starts_with("CARGO")), "the agent's own environment stays with it");
    let (err, _) = session.log(LogRead { stderr: true, ..read }).await;
    assert_eq!(err, "oops\n");
    until("the lease is removed after the acknowledgement", || !node.member_dir(17).exists()).await;
}

#[tokio::test]
async fn a_gang_waits_at_the_barrier_until_go() {
    let mut scheduler = Scheduler::start().await;
    let node = Node::new(&scheduler);
    let _agent = node.start();
    let mut session = scheduler.welcome().await;
    let mut wanted = script("exit 0");
    wanted.start_at_once = false;
    session.order(launch(1, wanted.clone())).await;
    session.prepared().await;
    assert!(!node.member_dir(1).join("shim.json").exists(), "nothing is started before go");
    session.order(order(1, 2, What::Go(wanted.clone()))).await;
    session.order(order(1, 2, What::Go(wanted))).await;
    session.started().await;
    assert_eq!(how(&session.gone().await), How::Code(0));
}

#[tokio::test]
async fn a_stop_at_the_barrier_starts_nothing() {
    let mut scheduler = Scheduler::start().await;
    let node = Node::new(&scheduler);
    let _agent = node.start();
    let mut session = scheduler.welcome().await;
    let mut wanted = script("exit 0");
    wanted.start_at_once = false;
    session.order(launch(1, wanted.clone())).await;
    session.prepared().await;
    session.order(stop(1, 0)).await;
    let expected = How::LaunchFailure("stopped before it was started (cancelled)".to_owned());
    assert_eq!(how(&session.gone().await), expected);
    // A stop for what was never heard of is answered too.
    session.order(stop(2, 0)).await;
    assert_eq!(how(&session.gone().await), How::LaunchFailure("stopped before it was started".to_owned()));
}

#[tokio::test]
async fn a_signal_is_reported_as_a_signal() {
    let mut scheduler = Scheduler::start().await;
    let node = Node::new(&scheduler);
    let _agent = node.start();
    let mut session = scheduler.welcome().await;
    session.order(launch(1, script("kill -SEGV $$"))).await;
    assert_eq!(how(&session.gone().await), How::Signal(11));
}

#[tokio::test]
async fn a_stop_gives_the_grace_and_then_kills() {
    let mut scheduler = Scheduler::start().await;
    let node = Node::new(&scheduler);
    let _agent = node.start();
    let mut session = scheduler.welcome().await;
    let ready = node.dir.path().join("ready");
    let ready_text = ready.display();
    let obedient = format!("trap 'exit 7' TERM; echo $$ > {ready_text}.1; while :; do sleep 0.01; done");
    let stubborn = format!("trap '' TERM; echo $$ > {ready_text}.2; while :; do sleep 0.01; done");
    session.order(launch(1, script(&obedient))).await;
    session.started().await;
    pid_in(&ready.with_extension("1")).await;
    session.order(stop(1, 60_000)).await;
    assert_eq!(how(&session.gone().await), How::Code(7));
    session.order(launch(2, script(&stubborn))).await;
    session.started().await;
    let pid = pid_in(&ready.with_extension("2")).await;
    session.order(stop(2, 100)).await;
    let exit = session.gone().await;
    assert_eq!((how(&exit), exit.timed_out), (How::Signal(9), false));
    assert!(!lives(pid));
}

#[tokio::test]
async fn the_time_limit_ends_it_without_any_word_of_the_scheduler() {
    let mut scheduler = Scheduler::start().await;
    let node = Node::new(&scheduler);
    let _agent = node.start();
    let mut session = scheduler.welcome().await;
    let mut wanted = script("sleep 1000");
    wanted.time_limit_ms = 200;
    session.order(launch(1, wanted)).await;
    let exit = session.gone().await;
    assert_eq!((how(&exit), exit.timed_out), (How::Signal(15), true));
    assert!(exit.ended_ms - exit.started_ms >= 200);
    let mut wanted = script("trap '' TERM; while :; do sleep 0.01; done");
    (wanted.time_limit_ms, wanted.grace_ms) = (100, 100);
    session.order(launch(2, wanted)).await;
    let exit = session.gone().await;
    assert_eq!((how(&exit), exit.timed_out), (How::Signal(9), true));
}

#[tokio::test]
async fn what_a_member_leaves_behind_is_gone_before_it_is_reported_gone() {
    let mut scheduler = Scheduler::start().await;
    let node = Node::new(&scheduler);
    let _agent = node.start();
    let mut session = scheduler.welcome().await;
    let file = node.dir.path().join("daemon");
    // Forked twice, in a session of its own, deaf to TERM: what a badly behaved framework does.
    let text = format!(
        "(setsid sh -c 'trap \"\" TERM HUP; echo $$ > {0}; while :; do sleep 0.01; done' &) \n\
         while ! test -s {0}; do sleep 0.01; done; exit 4",
        file.display()
    );
    session.order(launch(1, script(&text))).await;
    assert_eq!(how(&session.gone().await), How::Code(4));
    let pid = pid_in(&file).await;
    assert!(!lives(pid), "process {pid} outlived its member");
}

#[tokio::test]
async fn what_cannot_run_says_why() {
    let mut scheduler = Scheduler::start().await;
    let node = Node::new(&scheduler);
    let _agent = node.start();
    let mut session = scheduler.welcome().await;
    let failure = |exit| match how(&exit) {
        How::LaunchFailure(why) => why,
        other => panic!("expected a launch failure, got {other:?}"),
    };
    let mut wanted = script("");
    let payload = |args: &[&str], workdir: &str| Payload {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        workdir: workdir.to_owned(),
        ..Payload::default()
    };
    wanted.payload = Some(payload(&["/no/such/program"], ""));
    session.order(launch(5, wanted.clone())).await;
    let why = failure(session.gone().await);
    assert!(why.contains("cannot start \"/no/such/program\"") && why.contains("No such file"), "{why}");
    // As a shell has it: the job has failed, and no other node is tried.
    wanted.payload = Some(payload(&["no-such-program"], ""));
    session.order(launch(1, wanted.clone())).await;
    assert_eq!(how(&session.gone().await), How::Code(127));
    let read = LogRead { read_id: 1, job_id: 1, attempt: 1, stderr: true, ..LogRead::default() };
    let (err, _) = session.log(read).await;
    assert!(err.contains("cannot start \"no-such-program\"") && err.contains("No such file"), "{err}");
    wanted.payload = Some(payload(&["true"], "/no/such/folder"));
    session.order(launch(2, wanted.clone())).await;
    let why = failure(session.gone().await);
    assert!(why.starts_with("workdir \"/no/such/folder\" is no folder on node n0"), "{why}");
    wanted.payload = Some(payload(&[], ""));
    session.order(launch(3, wanted.clone())).await;
    assert!(failure(session.gone().await).contains("the command is empty"));
    wanted.gpus = vec![9];
    session.order(launch(4, wanted)).await;
    assert_eq!(failure(session.gone().await), "GPU 9 is not usable on node n0: it has 8 GPUs");
}

#[tokio::test]
async fn a_command_gets_its_arguments_and_a_gpu_that_is_held_is_refused() {
    let mut scheduler = Scheduler::start().await;
    let node = Node::new(&scheduler);
    let _agent = node.start();
    let mut session = scheduler.welcome().await;
    let mut wanted = script("");
    wanted.payload = Some(Payload {
        args: vec!["sh".into(), "-c".into(), "exit $1".into(), "x".into(), "5".into()],
        ..Payload::default()
    });
    session.order(launch(1, wanted)).await;
    assert_eq!(how(&session.gone().await), How::Code(5));
    session.order(launch(2, script("sleep 1000"))).await;
    session.started().await;
    session.order(launch(3, script("exit 0"))).await;
    let expected = "GPU 0 is held by member 2.1.0 on this node: it must end first";
    assert_eq!(how(&session.gone().await), How::LaunchFailure(expected.to_owned()));
    session.order(stop(2, 0)).await;
    assert_eq!(how(&session.gone().await), How::Signal(9));
}

#[tokio::test]
async fn many_members_at_once_all_start_and_end() {
    let mut scheduler = Scheduler::start().await;
    let node = Node::new(&scheduler);
    let _agent = node.start();
    let mut session = scheduler.welcome().await;
    const MEMBERS: u64 = 60;
    for job in 0..MEMBERS {
        let mut wanted = script(&format!("#!/bin/sh\nexit {job}"));
        wanted.gpus = Vec::new();
        session.order(launch(job + 1, wanted)).await;
    }
    let mut codes = Vec::new();
    soon("all ends", async {
        while codes.len() < MEMBERS as usize {
            let report = session.report().await;
            session.ack(&report).await;
            if let Some(dure_proto::v1::report::What::Gone(exit)) = report.what {
                assert_eq!(how(&exit), How::Code(report.job_id as i32 - 1));
                codes.push(report.job_id);
            }
        }
    })
    .await;
    codes.sort_unstable();
    assert_eq!(codes, (1..=MEMBERS).collect::<Vec<_>>());
}

#[tokio::test]
async fn heartbeats_carry_telemetry_and_changes_of_health() {
    let mut scheduler = Scheduler::start().await;
    let node = Node::new(&scheduler);
    let _agent = node.start();
    let mut session = scheduler.welcome().await;
    let first = session.heartbeat().await;
    let second = session.heartbeat().await;
    assert_eq!(second.number, first.number + 1);
    let telemetry = first.telemetry.expect("is there");
    assert_eq!((telemetry.gpus.len(), telemetry.gpus[0].temperature_c), (8, 32));
    assert!(first.health_changes.is_empty());
    let library = node.config.state_dir.join("fake-nvml").join(dure_agent::fake::LIBRARY_NAME);
    dure_agent::fake::write_conf(&library, "seed n0\ngpus 8\nlost 6").expect("writes");
    soon("the change of health", async {
        loop {
            let heartbeat = session.heartbeat().await;
            if let Some(change) = heartbeat.health_changes.first() {
                assert_eq!((change.index, change.health.as_str()), (6, "bad"));
                return;
            }
        }
    })
    .await;
}
