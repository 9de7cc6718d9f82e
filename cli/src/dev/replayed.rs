//! A cluster for a job file: its tenants become missions, its users get tokens, then `paced` drives it.

use std::{collections::BTreeSet, fmt::Write as _, net::SocketAddr, path::Path};

use dure_core::units::Gpus;
use dure_proto::v1::JobPhase;
use dure_replay::trace::{self, Mission};
use dure_scheduler::{
    export::{ExportOptions, placements},
    journal::JournalReader,
};

use super::{
    DevArgs, Folder, LauncherChoice, MODEL,
    cluster::{Cluster, Launcher, Spec, node_name},
    stoppable,
};
use crate::{
    dev::paced::{self, FileTime, Followed, Plan, PlanOptions},
    failure::Failure,
    show::Out,
};

/// Replays `--jobs` and writes what was asked for; fails when a job did not complete.
pub(super) async fn run(args: DevArgs, out: Out) -> Result<(), Failure> {
    if args.launcher != LauncherChoice::Simulated {
        let why = "a job file says how long jobs ran, not what: add --launcher simulated";
        return Err(Failure::Usage(format!("--jobs: {why}")));
    }
    let plan = plan(&args)?;
    let folder = Folder::new(args.data_dir.clone())?;
    let spec = Spec {
        config: config(&args, &plan)?,
        listen: args.listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0))),
        data_dir: folder.path().to_owned(),
        nodes: args.nodes,
        gpus: args.gpus,
        launcher: Launcher::Simulated,
        isolated: false,
        users: plan.speakers(),
        tls: false,
    };
    if let Some(path) = &args.outputs.jobs_out {
        paced::write_jobs(path, &plan)?;
    }
    if let Some(path) = &args.outputs.nodes_out {
        let names: Vec<String> = (0..args.nodes).map(node_name).collect();
        paced::write_nodes(path, &names, MODEL, args.gpus)?;
    }
    let cluster = Cluster::start(spec).await?;
    let mut followed = Vec::new();
    let done = stoppable(async {
        cluster.ready().await?;
        followed = paced::run(cluster.session(), &plan).await?;
        Ok(())
    })
    .await;
    let journal = cluster.journal().await;
    let stopped = cluster.stop().await;
    done.and(stopped)?;
    if let Some(path) = &args.outputs.placements {
        export(path, &journal, FileTime::new(&plan, &followed))?;
    }
    out.text(&paced::summary(&plan, &followed, out))?;
    judge(&plan, &followed, out)
}

fn plan(args: &DevArgs) -> Result<Plan, Failure> {
    let path = args.jobs.as_deref().unwrap_or(Path::new(""));
    let rows = trace::read_jobs(path).map_err(|err| Failure::Usage(err.to_string()))?;
    let options = PlanOptions {
        window: args.window,
        max_duration_s: args.max_duration,
        speedup: args.speedup,
        gpus_per_node: args.gpus,
    };
    Plan::new(rows, options).map_err(|why| Failure::Usage(format!("--jobs {}: {why}", path.display())))
}

/// The scheduler's configuration: one pool, and a mission for every tenant, with equal quotas or those of the file.
fn config(args: &DevArgs, plan: &Plan) -> Result<String, Failure> {
    let tenants: BTreeSet<&str> = plan.tenants();
    let gpus = u64::from(args.nodes) * u64::from(args.gpus);
    // Hundreds of agents share this process: silence means a busy node here, and their heartbeats take its time.
    let liveness = "[liveness]\nheartbeat = \"5s\"\nsuspect_after = \"60s\"\nlost_after = \"600s\"\n";
    let mut text = format!(
        "data_dir = \".\"\n{liveness}[[pool]]\nname = \"pool\"\nmodel = {}\ngpus_per_node = {}\n",
        quoted(MODEL),
        args.gpus
    );
    let equal = Gpus::whole(u32::try_from(gpus / tenants.len().max(1) as u64).unwrap_or(u32::MAX));
    let mission = |tenant: &str| Mission { tenant: tenant.to_owned(), quota: equal, ..Mission::default() };
    let given = match &args.missions {
        Some(path) => trace::read_missions(path).map_err(|err| Failure::Usage(err.to_string()))?,
        None => tenants.iter().map(|tenant| mission(tenant)).collect(),
    };
    if let Some(tenant) = tenants.iter().find(|tenant| !given.iter().any(|mission| mission.tenant == **tenant)) {
        let why = format!("tenant {tenant} of the job file is not in it: add a line");
        return Err(Failure::Usage(format!("--missions: {why}")));
    }
    for Mission { tenant, quota, limit, lend_limit, weight, .. } in given {
        let _ = write!(text, "[[tenant]]\nname = {}\nquota = {quota}\n", quoted(&tenant));
        if let Some(lent) = lend_limit {
            let _ = writeln!(text, "lend_limit = {lent}");
        }
        if let Some(weight) = weight {
            let _ = writeln!(text, "weight = {weight}");
        }
        if let Some(limit) = limit {
            let _ = writeln!(text, "limit = {limit}");
        }
    }
    Ok(text)
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Writes the placements of a journal in the file's time.
pub(super) fn export(path: &Path, journal: &Path, time: FileTime) -> Result<(), Failure> {
    let failed = |err: &dyn std::fmt::Display| Failure::Failed(format!("--placements {}: {err}", path.display()));
    let reader = JournalReader::open(journal).map_err(|err| failed(&err))?;
    let options = ExportOptions { job: &|job| job.name.to_owned(), seconds: &|at| time.seconds(at.0) };
    placements(&reader, paced::create(path)?, &options).map(drop).map_err(|err| failed(&err))
}

fn judge(plan: &Plan, followed: &[Followed], out: Out) -> Result<(), Failure> {
    let bad = plan.jobs.iter().zip(followed).filter(|(_, seen)| seen.end != Some(JobPhase::Completed));
    let bad: Vec<&str> = bad.map(|(job, _)| job.row.id.as_str()).collect();
    if bad.is_empty() {
        return out.line(&format!("all {} jobs completed", plan.jobs.len()));
    }
    let shown = bad.iter().take(10).copied().collect::<Vec<_>>().join(", ");
    Err(Failure::Failed(format!("{} of {} jobs did not complete: {shown}", bad.len(), plan.jobs.len())))
}
