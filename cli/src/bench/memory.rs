//! Memory per pending job: what the core alone holds, and a whole scheduler whose jobs have scripts and environments.

use std::path::{Path, PathBuf};

use clap::Args;
use dure_proto::v1::{JobSpec, Payload};

use super::{failed, folder, history::History, load, report::Report};
use crate::{dev::cluster::Cluster, failure::Failure};

/// Jobs in one call.
const BATCH: usize = 1_000;
/// Jobs in one call when each has 12 KiB: below the largest message.
const PAYLOAD_BATCH: usize = 200;
/// Bytes of a script.
const SCRIPT: usize = 4 << 10;
/// Bytes of an environment.
const ENVIRONMENT: usize = 8 << 10;
/// Long enough that nothing ends during the bench.
const FOR_EVER_MS: u64 = 3_600_000;

/// How many jobs.
#[derive(Debug, Args)]
pub(crate) struct MemoryArgs {
    /// Jobs that wait
    #[arg(long, default_value_t = 1_000_000)]
    jobs: usize,
    /// Jobs that wait in a whole scheduler, each with a script of 4 KiB and an environment of 8 KiB
    #[arg(long, default_value_t = 20_000)]
    payload_jobs: usize,
    /// Where the journal is written
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs it.
pub(super) async fn run(args: &MemoryArgs) -> Result<Report, Failure> {
    let mut report = Report::default();
    // The jobs of the core stay: what was freed would hide what is taken next.
    let _kept = core(args, &mut report)?;
    let folder = folder(args.dir.as_deref())?;
    let cluster = load::cluster(folder.path(), 1, false).await?;
    let measured = payloads(args.payload_jobs, &cluster, folder.path(), &mut report).await;
    cluster.stop().await?;
    measured.map(|()| report)
}

/// A whole scheduler: its own core and the one that follows the journal.
async fn payloads(jobs: usize, cluster: &Cluster, dir: &Path, report: &mut Report) -> Result<(), Failure> {
    let session = cluster.session();
    let mut client = session.jobs_as(load::MISSION, load::USER)?;
    // One call first, so that buffers and caches are there.
    let submit = async |client: &mut dure_proto::v1::jobs_client::JobsClient<_>, from: usize| {
        let specs = (from..from + PAYLOAD_BATCH).map(heavy).collect::<Result<_, _>>()?;
        client.submit(load::call(specs)?).await.map(drop).map_err(|status| session.refused(status))
    };
    submit(&mut client, 0).await?;
    let (before, on_disk) = (resident_bytes()?, disk_bytes(dir)?);
    let calls = jobs.div_ceil(PAYLOAD_BATCH).max(1);
    for call in 1..=calls {
        submit(&mut client, call * PAYLOAD_BATCH).await?;
    }
    let count = (calls * PAYLOAD_BATCH) as f64;
    report.add("pending jobs with 4 KiB script and 8 KiB environment", count, "jobs");
    report.add(
        "process memory per such job (two cores)",
        resident_bytes()?.saturating_sub(before) as f64 / count,
        "bytes",
    );
    report.add("disk per such job", disk_bytes(dir)?.saturating_sub(on_disk) as f64 / count, "bytes");
    Ok(())
}

/// A job whose script and environment are like no other's.
fn heavy(number: usize) -> Result<JobSpec, Failure> {
    let mut random = [0; 64];
    getrandom::fill(&mut random).map_err(failed)?;
    let filler = |bytes: usize| format!("{number}-{}", hex::encode(random)).repeat(bytes / 128).into_bytes();
    let mut script = b"#!/bin/sh\n# ".to_vec();
    script.extend(filler(SCRIPT));
    script.truncate(SCRIPT);
    let value = String::from_utf8(filler(ENVIRONMENT)).map_err(failed)?;
    let mut job = load::job(load::GPUS, FOR_EVER_MS);
    let payload = job.payload.get_or_insert_default();
    payload.env.insert("FILLER".to_owned(), value.chars().take(ENVIRONMENT).collect());
    *payload = Payload { script, args: Vec::new(), ..payload.clone() };
    Ok(job)
}

fn disk_bytes(dir: &Path) -> Result<u64, Failure> {
    let mut total = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        total += if meta.is_dir() { disk_bytes(&entry.path())? } else { meta.len() };
    }
    Ok(total)
}

fn core(args: &MemoryArgs, report: &mut Report) -> Result<History, Failure> {
    let mut history = History::new(1)?;
    let before = resident_bytes()?;
    for _ in 0..args.jobs.div_ceil(BATCH) {
        history.submit(BATCH)?;
        history.events.clear();
    }
    let per_job = resident_bytes()?.saturating_sub(before) as f64 / f64::from(history.cluster.waiting().max(1));
    report.add("pending jobs", f64::from(history.cluster.waiting()), "jobs");
    report.add("core state per pending job", per_job, "bytes");
    Ok(history)
}

/// What this process holds in memory now.
pub(super) fn resident_bytes() -> Result<u64, Failure> {
    let text = std::fs::read_to_string("/proc/self/status").map_err(failed)?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.map(|kib| kib * 1_024).ok_or_else(|| failed("/proc/self/status has no VmRSS"))
}
