//! What-ifs and start estimates of a live scheduler over a long queue, and what they cost its turns.
//!
//! A scheduler in this process, with simulated agents, runs a drawn workload of 12 missions until so many of its jobs wait.
//! Then jobs are submitted at a steady rate, first alone, and then with one what-if after the other beside them.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use dure_proto::v1::{JobSpec, ListTenantsRequest, Payload, QuotaChange, Shape, WhatIfRequest, WhatIfResponse};
use dure_replay::{
    generate::{Workload, generate},
    trace::TraceJob,
};
use tokio::time::{Instant, sleep, sleep_until};

use super::{failed, folder, load, report::Report};
use crate::{dev::cluster::Cluster, failure::Failure};

/// Jobs in one call.
const BATCH: usize = 500;
/// Jobs that are submitted in a second while it is measured.
const RATE: u32 = 50;
/// GPU-time that the drawn jobs ask for, in percent of what there is.
const LOAD: u32 = 300;
/// The queue is looked at so often while it is filled and settles.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// And has settled when its length changes by less than a hundredth between two looks so far apart.
const SETTLE: Duration = Duration::from_secs(2);
/// The mission that loses half of its quota in the question.
const ASKED: &str = "fusion";

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct WhatIfArgs {
    /// GPUs of the cluster
    #[arg(long, default_value_t = 8_000)]
    gpus: u32,
    /// Jobs that wait when the question is asked
    #[arg(long, default_value_t = 10_000)]
    pending: u32,
    /// Seconds of each of the two measurements
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Seed of the drawn workload
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the journal is written
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs it.
pub(super) async fn run(args: &WhatIfArgs) -> Result<Report, Failure> {
    let drawn = generate(Workload { gpus: args.gpus, days: 30, load: LOAD, seed: args.seed });
    let missions: Vec<(String, u32)> =
        drawn.missions.iter().map(|mission| (mission.tenant.clone(), mission.quota.rounded_up())).collect();
    let folder = folder(args.dir.as_deref())?;
    let cluster = load::cluster_of(folder.path(), args.gpus / load::GPUS, false, &missions).await?;
    let measured = measure(args, &cluster, &drawn.jobs, &missions).await;
    cluster.stop().await?;
    measured
}

async fn measure(
    args: &WhatIfArgs,
    cluster: &Cluster,
    jobs: &[TraceJob],
    missions: &[(String, u32)],
) -> Result<Report, Failure> {
    fill(args, cluster, jobs).await?;
    let mut report = Report::default();
    report.add("GPUs", f64::from(args.gpus), "");
    report.add("jobs waiting", waiting(cluster).await? as f64, "");
    let span = Duration::from_secs(args.seconds);
    let (alone, mut answers) = watched(cluster, submits(cluster, span)).await?;
    report.latencies("submit to durable answer, alone", &mut answers);
    alone.add("alone", &mut report);
    let quota = missions.iter().find(|(name, _)| name == ASKED).map_or(0, |(_, quota)| quota / 2);
    let beside = async { tokio::try_join!(submits(cluster, span), what_ifs(cluster, quota, span)) };
    let (with, (mut answers, (mut took, seen))) = watched(cluster, beside).await?;
    report.latencies("submit to durable answer, beside what-ifs", &mut answers);
    with.add("beside what-ifs", &mut report);
    report.add("what-ifs answered", took.len() as f64, "");
    report.latencies("what-if, before and after, one at a time", &mut took);
    let started = |of: fn(&dure_proto::v1::MissionOutlook) -> u64| seen.missions.iter().map(of).sum::<u64>() as f64;
    report.add("jobs that start, before", started(|of| of.before.map_or(0, |of| of.started)), "");
    report.add("jobs that start, after", started(|of| of.after.map_or(0, |of| of.started)), "");
    report.add("answers cut short", f64::from(u8::from(seen.cut_short)), "");
    let fared = cluster.session().forecasts().calibration(dure_proto::v1::CalibrationRequest::default()).await;
    let took = fared.map_err(|status| cluster.session().refused(status))?.into_inner().took_ms;
    report.add("start estimates in the background, P50 and P90", took as f64, "ms");
    Ok(report)
}

/// Submits the drawn jobs, as fast as they are taken, until enough of them wait.
async fn fill(args: &WhatIfArgs, cluster: &Cluster, jobs: &[TraceJob]) -> Result<(), Failure> {
    let session = cluster.session();
    let mut client = session.jobs();
    let mut batches = jobs.chunks(BATCH);
    let wanted = u64::from(args.pending);
    loop {
        let before = waiting(cluster).await?;
        if before >= wanted {
            sleep(SETTLE).await;
            let after = waiting(cluster).await?;
            if after >= wanted && before.abs_diff(after) * 100 < after {
                return Ok(());
            }
            continue;
        }
        let missing = usize::try_from(wanted - before).unwrap_or(BATCH).div_ceil(BATCH);
        for _ in 0..missing {
            let batch = batches.next();
            let batch =
                batch.ok_or_else(|| failed(format!("the workload never has {wanted} jobs waiting: ask for fewer")))?;
            let call = load::call(batch.iter().map(spec).collect())?;
            client.submit(call).await.map_err(|status| session.refused(status))?;
        }
        sleep(LOOK_EVERY).await;
    }
}

/// A drawn job as it is submitted: full nodes, or a part of one.
fn spec(job: &TraceJob) -> JobSpec {
    let members = job.gpus.div_ceil(load::GPUS).max(1);
    JobSpec {
        tenant: job.tenant.clone(),
        name: job.name.clone(),
        shape: Some(Shape { members, gpus_per_member: job.gpus.min(load::GPUS), ..Shape::default() }),
        time_limit_ms: job.limit.map_or(0, |limit| limit.0.min(30 * 86_400_000)),
        payload: Some(Payload {
            args: vec!["simulated".to_owned()],
            env: [("DURE_SIM_DURATION_MS".to_owned(), job.duration.0.to_string())].into(),
            ..Payload::default()
        }),
        ..JobSpec::default()
    }
}

async fn waiting(cluster: &Cluster) -> Result<u64, Failure> {
    let session = cluster.session();
    let all = session.tenants().list(ListTenantsRequest::default()).await;
    Ok(all.map_err(|status| session.refused(status))?.into_inner().tenants.iter().map(|of| of.pending_jobs).sum())
}

/// Submits by the clock for so long; the latency of every answer.
async fn submits(cluster: &Cluster, span: Duration) -> Result<Vec<f64>, Failure> {
    let (session, start) = (cluster.another_session().await?, Instant::now());
    let mut client = session.jobs();
    let mut millis = Vec::new();
    for number in 0..span.as_secs() as u32 * RATE {
        sleep_until(start + Duration::from_secs_f64(f64::from(number) / f64::from(RATE))).await;
        let job = JobSpec { tenant: ASKED.to_owned(), ..load::job(1, 60_000) };
        let sent = Instant::now();
        client.submit(load::call(vec![job])?).await.map_err(|status| session.refused(status))?;
        millis.push(sent.elapsed().as_secs_f64() * 1_000.0);
    }
    Ok(millis)
}

/// One what-if after the other for so long; how long each took, and the last answer.
async fn what_ifs(cluster: &Cluster, quota: u32, span: Duration) -> Result<(Vec<f64>, WhatIfResponse), Failure> {
    let (session, start) = (cluster.another_session().await?, Instant::now());
    let (mut millis, mut last) = (Vec::new(), WhatIfResponse::default());
    while start.elapsed() < span {
        let change = QuotaChange { tenant: ASKED.to_owned(), quota: Some(quota), ..QuotaChange::default() };
        let request = WhatIfRequest { quotas: vec![change], ..WhatIfRequest::default() };
        let sent = Instant::now();
        let seen = session.forecasts().what_if(request).await.map_err(|status| session.refused(status))?;
        millis.push(sent.elapsed().as_secs_f64() * 1_000.0);
        last = seen.into_inner();
    }
    Ok((millis, last))
}

/// Turns by how long they took: upper bounds in seconds, and how many took no longer.
struct Turns(Vec<(f64, f64)>);

impl Turns {
    async fn now(cluster: &Cluster) -> Self {
        let text = cluster.metrics().await;
        let bucket = |line: &str| {
            let (bound, count) = line.strip_prefix("dure_turn_seconds_bucket{le=\"")?.split_once("\"} ")?;
            Some((bound.parse().unwrap_or(f64::INFINITY), count.parse().ok()?))
        };
        Self(text.lines().filter_map(bucket).collect())
    }

    fn since(&self, before: &Turns) -> Turns {
        Turns(self.0.iter().zip(&before.0).map(|((bound, after), (_, before))| (*bound, after - before)).collect())
    }

    fn add(&self, how: &str, report: &mut Report) {
        let all = self.0.last().map_or(0.0, |(_, all)| *all);
        report.add(format!("turns, {how}"), all, "");
        for (name, share) in [("p50", 0.5), ("p99", 0.99), ("longest", 1.0)] {
            let bound = self.0.iter().find(|(_, count)| *count >= all * share).map_or(0.0, |(bound, _)| *bound);
            report.add(format!("turn, {how}, {name}, at most"), bound * 1_000.0, "ms");
        }
    }
}

async fn watched<T>(cluster: &Cluster, what: impl Future<Output = Result<T, Failure>>) -> Result<(Turns, T), Failure> {
    let before = Turns::now(cluster).await;
    let done = what.await?;
    Ok((Turns::now(cluster).await.since(&before), done))
}
