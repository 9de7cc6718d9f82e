//! From submit to launched: many agents, each on its own TLS stream, jobs at a steady rate.
//!
//! Launched means: a watcher of the API has seen that the member runs, which is after its start was reported and made
//! durable. Jobs come by the clock, whether earlier ones were answered or not.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use clap::Args;
use dure_proto::v1::{JobEvent, WatchRequest};
use tokio::{
    sync::oneshot,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use super::{disk, failed, folder, load, report::Report};
use crate::{
    dev::{cluster::Cluster, session::Session},
    failure::Failure,
};

/// Connections that submit.
const CONNECTIONS: usize = 16;
/// Jobs that have not run after this long are given up.
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);
/// How often the end is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How many agents and jobs.
#[derive(Debug, Args)]
pub(crate) struct LaunchArgs {
    /// Agents, each with 8 GPUs
    #[arg(long, default_value_t = 1_000)]
    agents: u32,
    /// Jobs in a second
    #[arg(long, default_value_t = 1_000)]
    rate: u32,
    /// Seconds
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// How long each job runs, in milliseconds
    #[arg(long, default_value_t = 1_000)]
    run_ms: u64,
    /// Where the journal is written
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// When jobs were called for, and when they were seen to run.
#[derive(Default)]
struct Times {
    sent: HashMap<u64, Instant>,
    placed: HashMap<u64, Instant>,
    running: HashMap<u64, Instant>,
}

type Shared = Arc<Mutex<Times>>;

fn with<T>(times: &Shared, use_it: impl FnOnce(&mut Times) -> T) -> T {
    use_it(&mut times.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Runs it.
pub(super) async fn run(args: &LaunchArgs) -> Result<Report, Failure> {
    let mut report = Report::default();
    let folder = folder(args.dir.as_deref())?;
    disk::measure(folder.path(), &mut report)?;
    let started = Instant::now();
    let cluster = load::cluster(folder.path(), args.agents, true).await?;
    report.add(format!("{} agents joined over TLS", args.agents), started.elapsed().as_secs_f64(), "s");
    let measured = measure(args, &cluster, &mut report).await;
    cluster.stop().await?;
    measured.map(|()| report)
}

async fn measure(args: &LaunchArgs, cluster: &Cluster, report: &mut Report) -> Result<(), Failure> {
    let times = Shared::default();
    let (opened, open) = oneshot::channel();
    let watcher = tokio::spawn(watch(cluster.another_session().await?, times.clone(), opened));
    open.await.map_err(|_| failed("the watch ended before it began"))?;
    let mut sessions = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        sessions.push(cluster.another_session().await?);
    }
    let jobs = args.rate * args.seconds;
    let mut answers = submit(args, sessions, &times).await?;
    let last = Instant::now();
    while with(&times, |times| times.running.len()) < jobs as usize && last.elapsed() < GIVE_UP_AFTER {
        sleep(LOOK_EVERY).await;
    }
    watcher.abort();
    let since = |seen: &HashMap<u64, Instant>, sent: &HashMap<u64, Instant>| -> Vec<f64> {
        let waits = seen.iter().filter_map(|(job, at)| Some(at.duration_since(*sent.get(job)?)));
        waits.map(|wait| wait.as_secs_f64() * 1_000.0).collect()
    };
    let (mut placed, mut running) =
        with(&times, |times| (since(&times.placed, &times.sent), since(&times.running, &times.sent)));
    report.add("jobs launched", running.len() as f64, "jobs");
    report.add("jobs submitted", f64::from(jobs), "jobs");
    report.latencies("submit to durable answer", &mut answers);
    report.latencies("submit to placed, as seen by a watcher", &mut placed);
    report.latencies("submit to launched, as seen by a watcher", &mut running);
    if running.len() < jobs as usize {
        return Err(Failure::Failed(format!(
            "{} of {jobs} jobs ran within {} s",
            running.len(),
            GIVE_UP_AFTER.as_secs()
        )));
    }
    Ok(())
}

/// Submits by the clock; gives the latency of every answer.
async fn submit(args: &LaunchArgs, sessions: Vec<Session>, times: &Shared) -> Result<Vec<f64>, Failure> {
    let start = Instant::now();
    let mut calls = JoinSet::new();
    for number in 0..args.rate * args.seconds {
        sleep_until(start + Duration::from_secs_f64(f64::from(number) / f64::from(args.rate))).await;
        let session = sessions[number as usize % sessions.len()].clone();
        let (request, times) = (load::call(vec![load::job(1, args.run_ms)])?, times.clone());
        calls.spawn(async move {
            let sent = Instant::now();
            let answer = session.jobs_as(load::MISSION, load::USER)?.submit(request).await;
            let answer = answer.map_err(|status| session.refused(status))?.into_inner();
            with(&times, |times| times.sent.insert(answer.first_job_id, sent));
            Ok::<_, Failure>(sent.elapsed().as_secs_f64() * 1_000.0)
        });
    }
    let mut millis = Vec::new();
    while let Some(done) = calls.join_next().await {
        millis.push(done.map_err(failed)??);
    }
    Ok(millis)
}

async fn watch(session: Session, times: Shared, opened: oneshot::Sender<()>) -> Result<(), Failure> {
    let mut opened = Some(opened);
    let mut after_seq = 0;
    loop {
        let request = WatchRequest { after_seq, ..WatchRequest::default() };
        let mut stream = session.jobs().watch(request).await.map_err(|status| session.refused(status))?.into_inner();
        if let Some(opened) = opened.take() {
            // Whoever waits for it has its own bound.
            let _ = opened.send(());
        }
        while let Ok(Some(event)) = stream.message().await {
            after_seq = after_seq.max(event.seq);
            take(&times, &event);
        }
    }
}

fn take(times: &Shared, event: &JobEvent) {
    let now = Instant::now();
    with(times, |times| match event.kind.as_str() {
        "placed" => drop(times.placed.entry(event.job_id).or_insert(now)),
        "running" => drop(times.running.entry(event.job_id).or_insert(now)),
        _ => {}
    });
}
