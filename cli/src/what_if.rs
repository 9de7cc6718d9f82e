//! `dure what-if`: a copy of the state of a journal, run forward as it is and with a change; or its history, replayed.
//!
//! Comes in: the folder of a scheduler (running or not; nothing is written there), and the change. Goes out: per mission what
//! it gets before and after, the digest that names this forecast, and for a job when and where it would start.

use std::{collections::BTreeMap, path::PathBuf};

use clap::Args;
use dure_core::{
    Cluster,
    ids::BlobId,
    input::{JobDraft, PartDraft, QuotaDraft, TenantDraft},
    request::Shape,
    units::{CpuMilli, Gpus, MemoryMib, Span},
};
use dure_replay::{
    division::{self},
    drive::{Drive, DriveOptions},
    forecast::{self, Change, Outlook, Trial, WhatIf},
    report::{Figures, report},
    trace::{self, Mission},
};
use dure_scheduler::{journal::JournalReader, recorded};
use serde_json::json;

use crate::{failure::Failure, show::Out, span, span::UserSpan, when};

/// What another quota, node or job would do, on a copy of a journal
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dure what-if --data-dir /var/lib/dure --quota fusion=640 --quota solar=320
  dure what-if --data-dir /var/lib/dure --remove-node n17 --remove-node n18
  dure what-if --data-dir /var/lib/dure --job fusion:16x8:4h
  dure what-if --data-dir /var/lib/dure --last 30d --quota fusion=640")]
pub(crate) struct WhatIfArgs {
    /// The scheduler's folder; it may run
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Another quota, in the first pool
    #[arg(long, value_name = "TENANT=GPUS", value_parser = quota)]
    quota: Vec<(String, u32)>,
    /// A node that is taken away
    #[arg(long, value_name = "NODE")]
    remove_node: Vec<String>,
    /// A further job: tenant, members x GPUs, time limit
    #[arg(long, value_name = "TENANT:MxG:SPAN", value_parser = job)]
    job: Option<AskedJob>,
    /// Replay the history of so long a time instead of looking ahead
    #[arg(long, value_name = "SPAN", conflicts_with_all = ["remove_node", "job"])]
    last: Option<UserSpan>,
    /// How far to look ahead
    #[arg(long, value_name = "SPAN", default_value = "90d")]
    horizon: UserSpan,
}

/// A job that is not submitted.
#[derive(Clone, Debug)]
struct AskedJob {
    tenant: String,
    members: u32,
    gpus: u8,
    limit: Span,
}

fn quota(text: &str) -> Result<(String, u32), String> {
    let wrong = || "expected TENANT=GPUS, as in fusion=640".to_owned();
    let (tenant, gpus) = text.split_once('=').ok_or_else(wrong)?;
    Ok((tenant.to_owned(), gpus.parse().map_err(|_| wrong())?))
}

fn job(text: &str) -> Result<AskedJob, String> {
    let wrong = || "expected TENANT:MEMBERSxGPUS:SPAN, as in fusion:16x8:4h".to_owned();
    let mut parts = text.split(':');
    let (Some(tenant), Some(shape), Some(limit), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(wrong());
    };
    let (members, gpus) = shape.split_once('x').ok_or_else(wrong)?;
    let limit: UserSpan = limit.parse().map_err(|_| wrong())?;
    let (members, gpus) = (members.parse().map_err(|_| wrong())?, gpus.parse().map_err(|_| wrong())?);
    Ok(AskedJob { tenant: tenant.to_owned(), members, gpus, limit: Span(limit.0) })
}

impl AskedJob {
    fn draft(&self) -> JobDraft {
        JobDraft {
            tenant: self.tenant.as_str().into(),
            user: "what-if".into(),
            name: "what-if".into(),
            shape: Shape::Equal { members: self.members, gpus: self.gpus },
            part: PartDraft::Whole,
            gpu_models: Vec::new(),
            cpu: CpuMilli::ZERO,
            memory: MemoryMib::ZERO,
            required: None,
            preferred: None,
            distinct_nodes: false,
            priority: "".into(),
            preemptible: true,
            time_limit: self.limit,
            grace: None,
            array: None,
            after: Vec::new(),
            held: false,
            not_before: None,
            max_retries: 0,
            payload: BlobId::default(),
            only: Default::default(),
        }
    }
}

/// `dure what-if`.
pub(crate) fn run(args: WhatIfArgs, out: Out) -> Result<(), Failure> {
    let failed = |err: &dyn std::fmt::Display| Failure::Failed(format!("{}: {err}", args.data_dir.display()));
    let reader = JournalReader::open(&args.data_dir.join("journal")).map_err(|err| failed(&err))?;
    if let Some(last) = args.last {
        return replayed(&args, &reader, Span(last.0), out);
    }
    let (cluster, now, learned) = recorded::remembered(&reader).map_err(|err| failed(&err))?;
    let refused = |why| Failure::Failed(format!("refused: {}", dure_scheduler::grpc::status::rejected_text(&why)));
    let drafts: Vec<JobDraft> = args.job.iter().map(AskedJob::draft).collect();
    let trials = match drafts.is_empty() {
        true => Vec::new(),
        false => forecast::trial(&cluster, drafts.clone(), now, &learned).map_err(refused)?,
    };
    let change = Change {
        tenants: tenants(&cluster, &args.quota)?,
        nodes_out: args.remove_node.iter().map(|node| node.as_str().into()).collect(),
        nodes_in: Vec::new(),
        jobs: drafts,
    };
    let seen = forecast::what_if(&cluster, change, now, &learned, Span(args.horizon.0)).map_err(refused)?;
    show(&seen, &trials, out)
}

/// The tenants with their new quotas; all else of them stays.
fn tenants(cluster: &Cluster, quotas: &[(String, u32)]) -> Result<Vec<TenantDraft>, Failure> {
    let draft = |(name, gpus): &(String, u32)| {
        let tenant = cluster.find_tenant(name).map(|tenant| cluster.tenant(tenant));
        let tenant = tenant.ok_or_else(|| Failure::Usage(format!("--quota {name}: there is no such tenant")))?;
        let now = tenant.quotas.first().copied().unwrap_or_default();
        let quota = QuotaDraft {
            quota: Gpus::whole(*gpus),
            limit: now.limit,
            lend_limit: now.lend_limit,
            ..QuotaDraft::default()
        };
        Ok(TenantDraft { name: name.as_str().into(), quotas: vec![quota], ..TenantDraft::default() })
    };
    quotas.iter().map(draft).collect()
}

/// The history of the last so long, under the missions as they were last and as they would be.
fn replayed(args: &WhatIfArgs, reader: &JournalReader, last: Span, out: Out) -> Result<(), Failure> {
    let failed = |err: &dyn std::fmt::Display| Failure::Failed(err.to_string());
    let found = recorded::recorded(reader).map_err(|err| failed(&err))?;
    let from = dure_core::units::Time(found.until.0.saturating_sub(last.0));
    let jobs = trace::window(found.jobs, from, dure_core::units::Time::NEVER);
    if jobs.is_empty() {
        return Err(Failure::Failed("no job of that time has ended: name a longer one with --last".to_owned()));
    }
    let mut changed = found.missions.clone();
    for (name, gpus) in &args.quota {
        let mission = changed.iter_mut().find(|mission| mission.tenant == *name);
        let mission = mission.ok_or_else(|| Failure::Usage(format!("--quota {name}: there is no such mission")))?;
        mission.quota = Gpus::whole(*gpus);
    }
    let run = |missions: Vec<Mission>| {
        let quotas = division::quotas(&missions);
        let drive = Drive::with(&found.nodes, &jobs, missions, DriveOptions::default());
        let replayed = drive.and_then(Drive::run).map_err(|err| failed(&err))?;
        Ok::<_, Failure>(report(&replayed, &jobs, &found.nodes, &quotas, BTreeMap::new(), None).0)
    };
    let (before, after) = (run(found.missions.clone())?, run(changed)?);
    let outlook = |(name, of): (&String, &Figures)| {
        let outlook = Outlook {
            quota: u32::try_from(of.quota).unwrap_or(u32::MAX),
            waiting: of.jobs,
            started: of.started,
            wait_s: of.wait_s,
            evictions: of.evictions,
            lost_gpu_hours: of.evicted_gpu_hours,
        };
        (name.clone(), outlook)
    };
    let seen = WhatIf {
        before: before.tenants.iter().map(outlook).collect(),
        after: after.tenants.iter().map(outlook).collect(),
        digest: after.digest,
    };
    show(&seen, &[], out)
}

fn show(seen: &WhatIf, trials: &[Trial], out: Out) -> Result<(), Failure> {
    if out.is_json() {
        let trial = |trial: &Trial| {
            let ms = |time: Option<dure_core::units::Time>| time.map(|time| time.0);
            json!({ "p50_ms": ms(trial.estimate.p50), "p90_ms": ms(trial.estimate.p90), "nodes": trial.nodes })
        };
        let jobs: Vec<_> = trials.iter().map(trial).collect();
        return out.line(&json!({ "missions": seen, "jobs": jobs }).to_string());
    }
    let mut rows =
        out.table(&["mission", "quota>", "jobs>", "start>", "mean wait>", "p95>", "evictions>", "lost gpu-h>"]);
    let time = |seconds: f64| span::human((seconds * 1_000.0) as u64);
    let both = |a: String, b: String| if a == b { a } else { format!("{a} -> {b}") };
    let names = seen.before.keys().chain(seen.after.keys().filter(|name| !seen.before.contains_key(*name)));
    for name in names {
        let (a, b) =
            (seen.before.get(name).copied().unwrap_or_default(), seen.after.get(name).copied().unwrap_or_default());
        rows.row([
            name.clone(),
            both(a.quota.to_string(), b.quota.to_string()),
            both(a.waiting.to_string(), b.waiting.to_string()),
            both(a.started.to_string(), b.started.to_string()),
            both(time(a.wait_s.mean), time(b.wait_s.mean)),
            both(time(a.wait_s.p95), time(b.wait_s.p95)),
            both(a.evictions.to_string(), b.evictions.to_string()),
            both(format!("{:.1}", a.lost_gpu_hours), format!("{:.1}", b.lost_gpu_hours)),
        ]);
    }
    let mut text = rows.text();
    for trial in trials {
        let at = |time: Option<dure_core::units::Time>| {
            time.map_or("not within the horizon".to_owned(), |at| when::shown(at.0))
        };
        text.push_str(&format!(
            "the job would start {} (P50), {} (P90), on {}\n",
            at(trial.estimate.p50),
            at(trial.estimate.p90),
            trial.nodes.join(",")
        ));
    }
    text.push_str(&format!("digest {}\n", seen.digest));
    out.text(&text)
}
