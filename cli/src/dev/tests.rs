//! A real scheduler with simulated nodes, and the commands of users against it.

use clap::Parser;
use dure_core::units::{Span, Time};
use dure_replay::trace::TraceJob;

use super::*;
use crate::{
    args::{Cli, Command},
    context::{Context, Flags},
    dev::paced::{self, FileTime, Plan, PlanOptions},
    submit, watch,
};

/// A cluster of two nodes with 8 GPUs; without a token one is its operator.
async fn cluster(dir: &std::path::Path) -> Cluster {
    let config = format!(
        "data_dir = \".\"\nlocal_operator = \"kim\"\n[[pool]]\nname = \"h200\"\nmodel = \"{MODEL}\"\ngpus_per_node = 8\n\
         [[tenant]]\nname = \"fusion\"\nquota = 8\n[[tenant]]\nname = \"solar\"\nquota = 8\n"
    );
    let users = ["fusion", "solar"].map(|mission| (mission.to_owned(), "lee".to_owned()));
    let spec = Spec {
        config,
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        data_dir: dir.to_owned(),
        nodes: 2,
        gpus: 8,
        launcher: Launcher::Simulated,
        isolated: false,
        users: users.into(),
        tls: false,
    };
    let cluster = Cluster::start(spec).await.expect("starts");
    cluster.ready().await.expect("both nodes join");
    cluster
}

fn context(cluster: &Cluster) -> Context {
    Context::find(&Flags { server: Some(cluster.server().to_owned()), ..Flags::default() }).expect("no files")
}

/// Runs a command line of a user.
async fn type_in(context: &Context, line: &str) -> Result<(), Failure> {
    let cli = Cli::try_parse_from(line.split(' ')).expect(line);
    let out = Out::plain();
    match cli.command {
        Command::Submit(args) => submit::run(*args, context, out).await,
        command => crate::speak(command, context, out).await,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_submit_see_steer_and_wait() {
    let dir = tempfile::tempdir().expect("a folder");
    let cluster = cluster(dir.path()).await;
    let context = context(&cluster);
    let file = dir.path().join("jobs.jsonl");
    let lines = "{\"tenant\":\"fusion\",\"members\":2,\"gpus-per-member\":8,\"command\":[\"x\"]}\n\
                 {\"tenant\":\"solar\",\"depend\":\"afterok:+0\",\"command\":[\"x\"]}\n\
                 {\"tenant\":\"solar\",\"array\":\"0-3%2\",\"command\":[\"x\"],\"env\":{\"DURE_SIM_DURATION_MS\":\"20\"}}\n";
    std::fs::write(&file, lines).expect("writes");
    type_in(&context, &format!("dure submit --wait --file {}", file.display())).await.expect("all complete");
    let ended = watch::until_ended(&context, &[1, 2, 3]).await.expect("ended");
    assert_eq!(ended.iter().map(|job| job.phase()).collect::<Vec<_>>(), [dure_proto::v1::JobPhase::Completed; 3]);
    let failed = type_in(&context, "dure submit -A solar --wait --env DURE_SIM_EXIT_CODE=7 -- x").await;
    assert!(failed.expect_err("fails").text().contains("failed (exit code 7)"));
    for line in [
        "dure submit -A solar --hold -J later -- x",
        "dure queue --all",
        "dure queue -J later",
        "dure job 3_2",
        "dure explain 1",
        "dure nodes",
        "dure nodes n1",
        "dure node cordon n1",
        "dure node resume n1",
        "dure quota show",
        "dure quota set solar --limit 12",
        "dure usage --by-user",
        "dure pause solar",
        "dure resume solar",
        "dure cancel 1",
    ] {
        type_in(&context, line).await.unwrap_or_else(|failure| panic!("{line}: {}", failure.text()));
    }
    for (line, what) in [
        ("dure submit -A nowhere -- x", "nowhere"),
        ("dure submit -A solar --gpus 0 -- x", "0 GPUs"),
        ("dure job 99", "99"),
        ("dure job 3_9", "indices 0 to 3"),
        ("dure job 1_0", "no array"),
        ("dure nodes n9", "n9"),
        ("dure quota set solar --quota 1 --limit 0", "limit"),
    ] {
        let failure = type_in(&context, line).await.expect_err(line);
        assert!(failure.text().contains(what) && failure.exit_code() == 1, "{line}: {}", failure.text());
    }
    cluster.end_jobs().await;
    cluster.stop().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_file_is_replayed_and_its_times_hold() {
    let dir = tempfile::tempdir().expect("a folder");
    let cluster = cluster(dir.path()).await;
    let row = |number: u32| TraceJob {
        id: format!("t-{number}"),
        submit: Time((1_000 + u64::from(number) * 10) * 1_000),
        duration: Span::seconds(30),
        gpus: [1, 12, 4][number as usize % 3],
        gpu_milli: 1_000,
        // Of one mission: nobody takes back what another has borrowed, so every job runs once.
        tenant: "fusion".to_owned(),
        user: "lee".to_owned(),
        ..TraceJob::default()
    };
    let options = PlanOptions { window: None, max_duration_s: None, speedup: 500.0, gpus_per_node: 8 };
    let plan = Plan::new((0..30).map(row).collect(), options).expect("plans");
    let followed = paced::run(cluster.session(), &plan).await.expect("replays");
    let journal = cluster.journal().await;
    cluster.stop().await.expect("stops");
    let time = FileTime::new(&plan, &followed);
    for (job, seen) in plan.jobs.iter().zip(&followed) {
        assert_eq!(seen.end, Some(dure_proto::v1::JobPhase::Completed), "{}", job.row.id);
        assert!(
            time.seconds(seen.placed_ms) + 0.001 >= job.row.submit.0 as f64 / 1_000.0,
            "{} is placed before its time",
            job.row.id
        );
        assert!(seen.ended_ms - seen.placed_ms >= job.run_ms, "{} runs too short", job.row.id);
    }
    let csv = dir.path().join("placements.csv");
    replayed::export(&csv, &journal, time).expect("exports");
    let text = std::fs::read_to_string(&csv).expect("is there");
    let count = |event: &str| text.lines().filter(|line| line.split(',').nth(1) == Some(event)).count();
    // A job of 12 GPUs has two members, each with a row.
    assert_eq!((count("start"), count("end")), (40, 30), "{text}");
}
