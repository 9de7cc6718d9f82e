//! What a replay writes: placements, report, timeline, and the input as it was replayed.

use std::{collections::BTreeMap, io::Write, path::Path};

use dure_core::units::Span;
use dure_replay::{
    division,
    measure::Measured,
    report::{Figures, Report, report},
    trace::{self, TraceJob},
};

use super::{ReplayArgs, input::Input, run::Played};
use crate::{dev::paced::create, failure::Failure, show::Out, span};

/// Writes what was asked for, and shows the table.
pub(super) fn write(args: &ReplayArgs, input: &Input, played: &Played, out: Out) -> Result<(), Failure> {
    let (quotas, step) = (division::quotas(&input.missions), args.timeline.as_ref().map(|_| Span(args.step.0)));
    let settings = settings(args);
    let (mut report, measured) = report(&played.replayed, &input.jobs, &input.nodes, &quotas, settings, step);
    report.estimates = played.fared;
    let failed = |path: &Path, err: csv::Error| Failure::Failed(format!("{}: {err}", path.display()));
    if let Some(path) = &args.placements {
        let rows = &played.replayed.rows;
        trace::write_placements(create(path)?, rows, &input.jobs, &input.nodes).map_err(|err| failed(path, err))?;
    }
    if let Some(path) = &args.nodes_out {
        trace::write_nodes(create(path)?, &input.nodes).map_err(|err| failed(path, err))?;
    }
    if let Some(path) = &args.jobs_out {
        let as_run = |(job, run): (&TraceJob, &Span)| TraceJob { duration: *run, ..job.clone() };
        let jobs: Vec<TraceJob> = input.jobs.iter().zip(&played.replayed.durations).map(as_run).collect();
        trace::write_jobs(create(path)?, &jobs).map_err(|err| failed(path, err))?;
    }
    if let Some(path) = &args.missions_out {
        trace::write_missions(create(path)?, &input.missions).map_err(|err| failed(path, err))?;
    }
    if let Some(path) = &args.timeline {
        timeline(path, &measured).map_err(|err| failed(path, err))?;
    }
    let json = serde_json::to_string_pretty(&report).map_err(|err| Failure::Failed(err.to_string()))?;
    if let Some(path) = &args.report {
        let mut file = create(path)?;
        writeln!(file, "{json}").and_then(|()| file.flush()).map_err(Failure::from)?;
    }
    if out.is_json() { out.line(&json) } else { out.text(&table(&report, played, out)) }
}

/// What was replayed and how; files by their names, so that another machine gives the same digest.
fn settings(args: &ReplayArgs) -> BTreeMap<String, String> {
    let name = |path: &Option<std::path::PathBuf>| {
        path.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    };
    let mut settings: BTreeMap<String, String> = [
        ("jobs", name(&args.jobs)),
        ("nodes", name(&args.nodes)),
        ("journal", name(&args.journal)),
        ("missions", name(&args.missions)),
        ("inject", name(&args.inject)),
        ("policy", format!("{:?}", args.policy)),
        ("run_times", format!("{:?}", args.run_times)),
        ("without", args.without.iter().map(|rule| format!("{rule:?}")).collect::<Vec<_>>().join(" ")),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_lowercase()))
    .into();
    if args.partitioned {
        settings.insert("partitioned".to_owned(), "yes".to_owned());
    }
    if args.copies > 1 {
        settings.insert("copies".to_owned(), format!("{} every {} s", args.copies, args.shift.0 / 1_000));
    }
    if args.inject.is_some() {
        settings.insert("seed".to_owned(), args.seed.to_string());
    }
    settings.retain(|_, value| !value.is_empty());
    settings
}

fn timeline(path: &Path, measured: &Measured) -> Result<(), csv::Error> {
    let file = std::fs::File::create(path)?;
    let mut csv = csv::Writer::from_writer(std::io::BufWriter::new(file));
    csv.write_record(["time_s", "tenant", "gpus_used", "gpus_above_quota", "jobs_waiting", "gpus_waiting"])?;
    for sample in &measured.samples {
        let seconds = format!("{}.{:03}", sample.time.0 / 1_000, sample.time.0 % 1_000);
        for (tenant, [used, above, jobs, gpus]) in measured.tenants.keys().zip(&sample.tenants) {
            let [used, above, jobs, gpus] = [used, above, jobs, gpus].map(ToString::to_string);
            csv.write_record([&seconds, tenant, &used, &above, &jobs, &gpus])?;
        }
    }
    Ok(csv.flush()?)
}

fn table(report: &Report, played: &Played, out: Out) -> String {
    let mut rows = out.table(&[
        "tenant",
        "quota>",
        "jobs>",
        "wait mean>",
        "p50>",
        "p95>",
        "p99>",
        "completion>",
        "slowdown>",
        "own gpu-h>",
        "borrowed>",
        "evicted>",
        "faults>",
        "owed>",
        "evictions>",
    ]);
    let time = |seconds: f64| span::human((seconds * 1_000.0) as u64);
    let mut row = |name: &str, of: &Figures| {
        rows.row([
            name.to_owned(),
            of.quota.to_string(),
            of.started.to_string(),
            time(of.wait_s.mean),
            time(of.wait_s.p50),
            time(of.wait_s.p95),
            time(of.wait_s.p99),
            time(of.completion_s.mean),
            format!("{:.1}", of.mean_slowdown),
            format!("{:.0}", of.own_gpu_hours),
            format!("{:.0}", of.borrowed_gpu_hours),
            format!("{:.0}", of.evicted_gpu_hours),
            format!("{:.0}", of.faulted_gpu_hours),
            format!("{:.1}", of.quota_breach_gpu_hours),
            of.evictions.to_string(),
        ]);
    };
    report.tenants.iter().for_each(|(name, of)| row(name, of));
    row("(all)", &report.all);
    let mut text = rows.text();
    let (wait, completion) = (report.all.wait_s.mean, report.all.completion_s.mean);
    text.push_str(&format!(
        "{} nodes, {} GPUs, {} held; {} of the idle ones on nodes in part taken; mean wait {wait:.1} s, completion \
         {completion:.1} s\n",
        report.nodes,
        report.gpus,
        percent(report.utilisation),
        percent(report.fragmentation),
    ));
    close(report, played, &mut text);
    text
}

/// What stands below the table.
fn close(report: &Report, played: &Played, text: &mut String) {
    let time = |seconds: f64| span::human((seconds * 1_000.0) as u64);
    if let Some(part) = report.gangs_in_one_leaf {
        text.push_str(&format!("{} of {} gangs on several nodes inside one leaf\n", percent(part), report.all.gangs));
    }
    if let Some(fared) = &report.estimates {
        text.push_str(&format!(
            "{} jobs were told when they would start: {} did by their P90, {} by their P50; median error {}, by limits alone {} \
             (median wait {}); {} were told nothing\n",
            fared.promises,
            percent(fared.by_p90),
            percent(fared.by_p50),
            time(fared.p50_median_error_s),
            time(fared.limits_median_error_s),
            time(fared.median_wait_s),
            fared.untold,
        ));
    }
    if report.refused_jobs > 0 {
        let named: Vec<&str> = report.refused.iter().take(5).map(|(job, _)| job.as_str()).collect();
        text.push_str(&format!("{} jobs were refused, for one {}\n", report.refused_jobs, named.join(", ")));
    }
    let memory = peak_bytes().map_or_else(String::new, |bytes| format!(", {} MiB at the most", bytes >> 20));
    text.push_str(&format!("{:.2} s for {} instants{memory}\n", played.seconds, report.turns));
    text.push_str(&format!("digest {}\n", report.digest));
}

fn percent(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}

/// The most memory that this process has held, where the system says it.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? << 10)
}
