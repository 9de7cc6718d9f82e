//! Durable submits per second over gRPC: one by one from many connections, and in batches.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;
use dure_proto::v1::JobSpec;
use tokio::task::JoinSet;

use super::{disk, failed, folder, load, report::Report};
use crate::{
    dev::{cluster::Cluster, session::Session},
    failure::Failure,
};

/// Long enough that nothing ends during the bench.
const FOR_EVER_MS: u64 = 3_600_000;

/// How much is submitted.
#[derive(Debug, Args)]
pub(crate) struct SubmitArgs {
    /// Connections that submit one by one
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Connections that submit in batches
    #[arg(long, default_value_t = 8)]
    batch_connections: usize,
    /// Jobs in a batch
    #[arg(long, default_value_t = 1_000)]
    batch: usize,
    /// Seconds of each of the two
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Where the journal is written
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs it.
pub(super) async fn run(args: &SubmitArgs) -> Result<Report, Failure> {
    let mut report = Report::default();
    let folder = folder(args.dir.as_deref())?;
    disk::measure(folder.path(), &mut report)?;
    // One node, which the first job fills: what is measured is the way in, not placement.
    let cluster = load::cluster(folder.path(), 1, false).await?;
    let measured = both(args, &cluster, &mut report).await;
    cluster.stop().await?;
    measured.map(|()| report)
}

async fn both(args: &SubmitArgs, cluster: &Cluster, report: &mut Report) -> Result<(), Failure> {
    for (name, connections, batch) in
        [("one by one", args.connections, 1), ("batches", args.batch_connections, args.batch)]
    {
        let mut sessions = Vec::with_capacity(connections);
        for _ in 0..connections {
            sessions.push(cluster.another_session().await?);
        }
        let (jobs, took, mut millis) = hammer(sessions, batch, Duration::from_secs(args.seconds)).await?;
        report.add(format!("{name} ({connections} connections): durable submits"), jobs as f64 / took, "jobs/s");
        report.latencies(&format!("{name}: answer"), &mut millis);
    }
    Ok(())
}

/// Every session submits as fast as it is answered; gives jobs, seconds and the latency of every call.
async fn hammer(sessions: Vec<Session>, batch: usize, span: Duration) -> Result<(usize, f64, Vec<f64>), Failure> {
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for session in sessions {
        tasks.spawn(async move {
            let mut client = session.jobs_as(load::MISSION, load::USER)?;
            let jobs: Vec<JobSpec> = vec![load::job(load::GPUS, FOR_EVER_MS); batch];
            let mut millis = Vec::new();
            while started.elapsed() < span {
                let request = load::call(jobs.clone())?;
                let sent = Instant::now();
                client.submit(request).await.map_err(|status| session.refused(status))?;
                millis.push(sent.elapsed().as_secs_f64() * 1_000.0);
            }
            Ok::<_, Failure>(millis)
        });
    }
    let mut all = Vec::new();
    while let Some(done) = tasks.join_next().await {
        all.extend(done.map_err(failed)??);
    }
    Ok((all.len() * batch, started.elapsed().as_secs_f64(), all))
}
