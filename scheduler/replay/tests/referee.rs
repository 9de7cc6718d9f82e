//! Real jobs, judged from outside: needs the traces (`DURE_TRACES`) and python3, else says that it was skipped.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use dure_core::invariants;
use dure_core::units::Time;
use dure_replay::baseline::{self, Rule};
use dure_replay::division::Division;
use dure_replay::drive::Drive;
use dure_replay::report::report;
use dure_replay::trace::{self, TraceJob, TraceNode};

/// Instants between two checks of all invariants, which are slow.
const CHECK_EVERY: u64 = 500;

fn traces() -> Option<PathBuf> {
    let Some(traces) = std::env::var_os("DURE_TRACES").map(PathBuf::from) else {
        eprintln!("skipped: DURE_TRACES not set");
        return None;
    };
    // Tests run in the folder of their crate, the variable is set in that of the workspace.
    let from_workspace = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(&traces);
    let found = [traces.clone(), from_workspace()].into_iter().find(|path| path.is_dir());
    if found.is_none() {
        eprintln!("skipped: DURE_TRACES is {}, which is no folder", traces.display());
    }
    found
}

/// The referee's figures; none where it cannot run.
fn judge(referee: &Path, nodes: &[TraceNode], jobs: &[TraceJob], drive: &Drive<'_>) -> Option<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let create = |name: &str| File::create(path(name)).expect("a file");
    trace::write_nodes(create("n.csv"), nodes).expect("written");
    trace::write_jobs(create("j.csv"), jobs).expect("written");
    trace::write_placements(create("p.csv"), drive.rows(), jobs, nodes).expect("written");
    let mut python = Command::new("python3");
    python.arg(referee).arg("--complete").arg("--tolerance").arg("0.001");
    for (flag, name) in [("--nodes", "n.csv"), ("--jobs", "j.csv"), ("--placements", "p.csv")] {
        python.arg(flag).arg(path(name));
    }
    let Ok(judged) = python.output() else {
        eprintln!("skipped: python3 cannot be started");
        return None;
    };
    let figures = String::from_utf8_lossy(&judged.stdout).into_owned();
    assert!(judged.status.success(), "{figures}{}", String::from_utf8_lossy(&judged.stderr));
    Some(figures)
}

fn replay(from: u64, to: u64, spared: usize) {
    let Some(traces) = traces() else { return };
    let mut nodes = trace::read_nodes(&traces.join("nodes/philly_vc_352x8.csv.gz")).expect("the nodes");
    nodes.truncate(nodes.len() - spared);
    let jobs = trace::read_jobs(&traces.join("jobs/philly_12vc.csv.gz")).expect("the jobs");
    let jobs = trace::window(jobs, Time(from * 1000), Time(to * 1000));
    let mut drive = Drive::new(&nodes, &jobs, &Division::Pools).expect("it can be replayed");
    while drive.turn().expect("every job ends") {
        if drive.turns() % CHECK_EVERY == 0 {
            invariants::check_all(drive.cluster()).expect("what always holds");
        }
    }
    if let Some(figures) = judge(&traces.join("../referee.py"), &nodes, &jobs, &drive) {
        println!("{figures}");
    }
}

/// Mean completion and mean wait in whole seconds, of the window and the tenants that the published figures are of.
fn baseline_figures(traces: &Path, rule: Rule, partitioned: bool, nodes: usize) -> (u64, u64) {
    let mut all = trace::read_nodes(&traces.join("nodes/philly_vc_352x8.csv.gz")).expect("the nodes");
    let tenants: BTreeSet<String> = all.iter().map(|node| node.pool.clone()).collect();
    all.truncate(nodes);
    let jobs = trace::read_jobs(&traces.join("jobs/philly_12vc.csv.gz")).expect("the jobs");
    let mut jobs = trace::window(jobs, Time(4_062_780_000), Time(9_336_720_001));
    jobs.retain(|job| tenants.contains(&job.tenant));
    let replayed = baseline::run(&all, &jobs, rule, partitioned, |_| ()).expect("it can be replayed");
    let (report, _) = report(&replayed, &jobs, &all, &BTreeMap::new(), BTreeMap::new(), None);
    (report.all.completion_s.mean.round() as u64, report.all.wait_s.mean.round() as u64)
}

#[test]
fn the_published_figures_are_found_again() {
    let Some(traces) = traces() else { return };
    // To the second where the pools are the tenants' own; on one pool of 1,200 GPUs, which carries more than it can, to 1 %.
    assert_eq!(baseline_figures(&traces, Rule::Fifo, true, 352), (26_853, 4_178));
    assert_eq!(baseline_figures(&traces, Rule::Sjf, true, 352), (23_245, 571));
    let (completion, _) = baseline_figures(&traces, Rule::Sjf, false, 150);
    assert!(completion.abs_diff(38_587) * 100 <= 38_587, "{completion} s");
    let (completion, _) = baseline_figures(&traces, Rule::Fifo, false, 150);
    assert!(completion.abs_diff(878_418) * 100 <= 878_418, "{completion} s");
}

#[test]
fn a_window_of_philly() {
    replay(8_000_000, 8_200_000, 0);
}

#[test]
fn a_window_of_philly_on_too_few_nodes() {
    replay(8_000_000, 8_200_000, 302);
}
