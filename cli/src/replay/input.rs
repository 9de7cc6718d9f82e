//! What is replayed: nodes, jobs, missions, faults.

use std::path::Path;

use dure_core::units::{Span, Time};
use dure_replay::{
    division::{self, Division},
    drive,
    faults::{self, Fault, Faults},
    trace::{self, Mission, TraceError, TraceJob, TraceNode},
};

use super::ReplayArgs;
use crate::failure::Failure;

/// All of it.
pub(super) struct Input {
    /// The nodes.
    pub(super) nodes: Vec<TraceNode>,
    /// The jobs, by time.
    pub(super) jobs: Vec<TraceJob>,
    /// What their tenants have.
    pub(super) missions: Vec<Mission>,
    /// What breaks.
    pub(super) faults: Vec<Fault>,
}

/// What can be wrong with a file is the user's to mend.
fn usage(err: TraceError) -> Failure {
    Failure::Usage(err.to_string())
}

/// Reads everything.
pub(super) fn read(args: &ReplayArgs) -> Result<Input, Failure> {
    let (all_nodes, jobs, recorded) = match &args.journal {
        Some(folder) => history(folder, args.nodes.as_deref())?,
        None => {
            let path = |path: &Option<std::path::PathBuf>| path.clone().unwrap_or_default();
            let nodes = trace::read_nodes(&path(&args.nodes)).map_err(usage)?;
            (nodes, trace::read_jobs(&path(&args.jobs)).map_err(usage)?, Vec::new())
        }
    };
    let all_nodes = copies_of(&all_nodes, args.node_copies);
    let mut nodes = all_nodes.clone();
    nodes.truncate(args.first_nodes.unwrap_or(usize::MAX));
    let time = |seconds: f64| Time((seconds * 1_000.0) as u64);
    let window = args.window.map_or((Time(0), Time::NEVER), |window| (time(window.from), time(window.to)));
    let mut jobs = trace::window(jobs, window.0, window.1);
    jobs.retain(|job| args.tenants.is_empty() || args.tenants.contains(&job.tenant));
    if args.copies > 1 {
        jobs = trace::copies(&jobs, args.copies, Span(args.shift.0));
    }
    if jobs.is_empty() {
        return Err(Failure::Usage("no job is left to replay: see --window and --tenants".to_owned()));
    }
    let division = match &args.missions {
        Some(path) => Division::Missions(trace::read_missions(path).map_err(usage)?),
        None if !recorded.is_empty() => Division::Missions(recorded),
        None if all_nodes.iter().any(|node| !node.pool.is_empty()) => Division::Pools,
        None => Division::Equal,
    };
    let names = drive::tenant_names(&jobs);
    let missions = division::missions(&division, &names, &all_nodes, &nodes);
    let faults = match &args.inject {
        Some(path) => match faults::read(path, &nodes).map_err(usage)? {
            Faults::Listed(listed) => listed,
            Faults::Rates(rates) => {
                let last = jobs.iter().map(|job| job.submit + job.duration).max().unwrap_or(Time(0));
                faults::draw(&rates, &nodes, jobs[0].submit, last, args.seed)
            }
        },
        None => Vec::new(),
    };
    Ok(Input { nodes, jobs, missions, faults })
}

/// `times` the nodes, each copy under names of its own.
fn copies_of(nodes: &[TraceNode], times: usize) -> Vec<TraceNode> {
    let copy = |number: usize| {
        nodes.iter().map(move |node| match number {
            0 => node.clone(),
            _ => TraceNode { name: format!("{}~{}", node.name, number + 1), ..node.clone() },
        })
    };
    (0..times.max(1)).flat_map(copy).collect()
}

type History = (Vec<TraceNode>, Vec<TraceJob>, Vec<Mission>);

/// What a journal says, with other nodes if there are any.
fn history(folder: &Path, nodes: Option<&Path>) -> Result<History, Failure> {
    let failed = |err: &dyn std::fmt::Display| Failure::Failed(format!("{}: {err}", folder.display()));
    let reader = crate::offline::reader(folder)?;
    let recorded = dure_scheduler::recorded::recorded(&reader).map_err(|err| failed(&err))?;
    let nodes = match nodes {
        Some(path) => trace::read_nodes(path).map_err(usage)?,
        None => recorded.nodes,
    };
    Ok((nodes, recorded.jobs, recorded.missions))
}
