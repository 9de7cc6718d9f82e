//! A reconnect storm: many agents on streams of their own (plaintext, on loopback) lose their scheduler at once, while jobs are submitted.
//!
//! The scheduler is killed and started again at its address. Measured: until every agent has a session again, and how long
//! submits take meanwhile, counted from the moment at which the scheduler serves. No acknowledged job may be lost: then the
//! bench fails.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use dure_proto::v1::GetJobRequest;
use tokio::time::{Instant, sleep};
use tonic::Code;

use super::{
    disk, failed, folder, load,
    members::{Members, Store},
    report::Report,
};
use crate::failure::Failure;

/// Between two submits.
const SUBMIT_EVERY: Duration = Duration::from_millis(10);

/// How many.
#[derive(Debug, Args)]
pub(crate) struct StormArgs {
    /// Agents, each with 8 GPUs and a stream of its own
    #[arg(long, default_value_t = 4_000)]
    agents: u32,
    /// How often
    #[arg(long, default_value_t = 3)]
    storms: u32,
    /// Where the journal is written
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs it.
pub(super) async fn run(args: &StormArgs) -> Result<Report, Failure> {
    let mut report = Report::default();
    let folder = folder(args.dir.as_deref())?;
    disk::measure(folder.path(), &mut report)?;
    let mut members = Members::start(folder.path(), Store::Sqlite, 1, args.agents).await?;
    let joined = members.start_agents(args.agents).await?;
    report.add(format!("{} agents joined", args.agents), joined.as_secs_f64(), "s");
    let (mut back, mut submits, mut acked) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..args.storms {
        members.kill(0);
        members.restart(0)?;
        members.leader().await?;
        let serving = Instant::now();
        let mut client = members.jobs()?;
        let joining = members.joined(args.agents);
        tokio::pin!(joining);
        loop {
            let request = load::call(vec![load::job(1, 1)])?;
            let sent = Instant::now();
            if let Ok(answer) = client.submit(request).await {
                submits.push(sent.elapsed().as_secs_f64() * 1_000.0);
                acked.push(answer.into_inner().first_job_id);
            }
            tokio::select! {
                joined = &mut joining => break joined?,
                () = sleep(SUBMIT_EVERY) => {}
            }
        }
        back.push(serving.elapsed().as_secs_f64() * 1_000.0);
    }
    report.latencies("scheduler serves to all agents back", &mut back);
    report.add("the same, longest", back.last().copied().unwrap_or_default(), "ms");
    report.latencies("submit to durable answer meanwhile", &mut submits);
    let lost = lost(&members, &acked).await?;
    report.add("jobs acknowledged meanwhile", acked.len() as f64, "jobs");
    report.add("acknowledged jobs lost", lost as f64, "jobs");
    members.stop().await;
    if lost == 0 { Ok(report) } else { Err(failed(format!("{lost} acknowledged jobs lost"))) }
}

/// How many of these jobs the scheduler does not know.
async fn lost(members: &Members, acked: &[u64]) -> Result<usize, Failure> {
    let mut client = members.jobs()?;
    let mut lost = 0;
    for job_id in acked {
        match client.get(GetJobRequest { job_id: *job_id, with_payload: false }).await {
            Ok(_) => {}
            Err(status) if status.code() == Code::NotFound => lost += 1,
            Err(status) => return Err(failed(status.message())),
        }
    }
    Ok(lost)
}
