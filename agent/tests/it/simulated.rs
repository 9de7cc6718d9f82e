//! Simulated nodes: many agents in one process, each with its own stream.

use dure_agent::{
    AgentConfig,
    config::{GpuSource, LauncherKind},
};
use dure_proto::v1::{Launch, Payload, exit::How};

use crate::harness::{Scheduler, how, launch, soon, stop};

const NODES: u64 = 200;

fn simulated(scheduler: &Scheduler, node: u64) -> AgentConfig {
    let mut config = AgentConfig::new(format!("n{node}"), &scheduler.endpoint, format!("/nonexistent/n{node}"));
    config.gpus = GpuSource::Simulated { count: 8, model: "H100".to_owned(), memory_mib: 81_559 };
    config.launcher = LauncherKind::Simulated;
    config
}

fn timed(duration_ms: u64, code: i32) -> Launch {
    let env = [("DURE_SIM_DURATION_MS", duration_ms.to_string()), ("DURE_SIM_EXIT_CODE", code.to_string())];
    let env = env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let payload = Some(Payload { env, ..Payload::default() });
    Launch { payload, gpus: vec![0], start_at_once: true, ..Launch::default() }
}

#[tokio::test]
async fn many_nodes_run_their_members_and_touch_no_disk() {
    let mut scheduler = Scheduler::start().await;
    for node in 0..NODES {
        tokio::spawn(dure_agent::run(simulated(&scheduler, node), std::future::pending()));
    }
    let mut sessions = Vec::new();
    for _ in 0..NODES {
        sessions.push(scheduler.welcome().await);
    }
    for (job, session) in (1..).zip(&sessions) {
        session.order(launch(job, timed(20, 4))).await;
    }
    for mut session in sessions {
        let exit = soon("an end", session.gone()).await;
        assert_eq!(how(&exit), How::Code(4));
        assert!(exit.ended_ms >= exit.started_ms + 20);
    }
    assert!(!std::path::Path::new("/nonexistent").exists());
}

#[tokio::test]
async fn limits_stops_and_load_are_simulated_too() {
    let mut scheduler = Scheduler::start().await;
    tokio::spawn(dure_agent::run(simulated(&scheduler, 0), std::future::pending()));
    let mut session = scheduler.welcome().await;
    let mut limited = timed(1_000_000, 0);
    limited.time_limit_ms = 20;
    session.order(launch(1, limited)).await;
    let exit = session.gone().await;
    assert_eq!((how(&exit), exit.timed_out), (How::Signal(15), true));
    session.order(launch(2, timed(1_000_000, 0))).await;
    session.started().await;
    let heartbeat = session.heartbeat().await;
    assert_eq!(heartbeat.telemetry.expect("is there").gpus[0].utilisation, 90);
    session.order(stop(2, 0)).await;
    let exit = session.gone().await;
    assert_eq!((how(&exit), exit.timed_out), (How::Signal(9), false));
}
