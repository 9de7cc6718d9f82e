//! Durable submits per second over gRPC: one by one from many connections, and in batches.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;
use dure_proto::v1::{JobSpec, jobs_client::JobsClient};
use tokio::task::JoinSet;

use super::{
    disk, failed, folder, load,
    members::{Members, Store},
    report::Report,
};
use crate::{context::Authed, failure::Failure};

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
    /// Where the journal lies; etcd has three members on this node
    #[arg(long, value_enum, default_value = "sqlite")]
    store: Store,
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
    let mut members = Members::start(folder.path(), args.store, 1, 1).await?;
    members.start_agents(1).await?;
    let measured = both(args, &members, &mut report).await;
    members.stop().await;
    measured.map(|()| report)
}

async fn both(args: &SubmitArgs, members: &Members, report: &mut Report) -> Result<(), Failure> {
    for (name, connections, batch) in
        [("one by one", args.connections, 1), ("batches", args.batch_connections, args.batch)]
    {
        let clients: Result<Vec<_>, Failure> = (0..connections).map(|_| members.jobs()).collect();
        let (jobs, took, mut millis) = hammer(clients?, batch, Duration::from_secs(args.seconds)).await?;
        report.add(format!("{name} ({connections} connections): durable submits"), jobs as f64 / took, "jobs/s");
        report.latencies(&format!("{name}: answer"), &mut millis);
    }
    Ok(())
}

/// Every client submits as fast as it is answered; gives jobs, seconds and the latency of every call.
async fn hammer(
    clients: Vec<JobsClient<Authed>>,
    batch: usize,
    span: Duration,
) -> Result<(usize, f64, Vec<f64>), Failure> {
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for mut client in clients {
        tasks.spawn(async move {
            let jobs: Vec<JobSpec> = vec![load::job(load::GPUS, FOR_EVER_MS); batch];
            let mut millis = Vec::new();
            while started.elapsed() < span {
                let request = load::call(jobs.clone())?;
                let sent = Instant::now();
                client.submit(request).await.map_err(|status| failed(status.message()))?;
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
