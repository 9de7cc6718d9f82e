//! A reconnect storm: many agents on streams of their own (plaintext, on loopback) lose their scheduler at once, while jobs are submitted.
//!
//! The scheduler is killed and started again at its address. Measured: until every agent has a session again, and how long
//! submits take meanwhile, counted from the moment at which the scheduler serves.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use tokio::time::{Instant, sleep};

use super::{
    disk, folder, load,
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
    let (mut back, mut submits) = (Vec::new(), Vec::new());
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
            if client.submit(request).await.is_ok() {
                submits.push(sent.elapsed().as_secs_f64() * 1_000.0);
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
    members.stop().await;
    Ok(report)
}
