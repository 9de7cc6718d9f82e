//! `dure generate`: a synthetic workload as trace files.

use std::path::PathBuf;

use clap::Args;
use dure_replay::{
    generate::{Workload, generate},
    trace,
};

use crate::{dev::paced::create, failure::Failure};

/// Draw a workload of 12 missions with published shapes
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  dure generate --gpus 8000 --days 30 --seed 1 --jobs jobs.csv --nodes nodes.csv --missions missions.csv
  dure replay --jobs jobs.csv --nodes nodes.csv --missions missions.csv")]
pub(crate) struct GenerateArgs {
    /// GPUs of the cluster
    #[arg(long, default_value_t = 8_000, value_parser = clap::value_parser!(u32).range(8..=1_000_000))]
    gpus: u32,
    /// How long jobs come
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3_650))]
    days: u32,
    /// GPU-time that the jobs ask for, in percent of what there is
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    load: u32,
    /// The same seed gives the same workload
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the jobs go
    #[arg(long, value_name = "CSV")]
    jobs: PathBuf,
    /// Where the nodes go
    #[arg(long, value_name = "CSV")]
    nodes: Option<PathBuf>,
    /// Where the missions go
    #[arg(long, value_name = "CSV")]
    missions: Option<PathBuf>,
}

/// `dure generate`.
pub(crate) fn run(args: GenerateArgs) -> Result<(), Failure> {
    let GenerateArgs { gpus, days, load, seed, .. } = args;
    let drawn = generate(Workload { gpus, days, load, seed });
    let failed = |err: csv::Error| Failure::Failed(err.to_string());
    trace::write_jobs(create(&args.jobs)?, &drawn.jobs).map_err(failed)?;
    if let Some(path) = &args.nodes {
        trace::write_nodes(create(path)?, &drawn.nodes).map_err(failed)?;
    }
    if let Some(path) = &args.missions {
        trace::write_missions(create(path)?, &drawn.missions).map_err(failed)?;
    }
    println!("{} jobs of 12 missions on {} nodes", drawn.jobs.len(), drawn.nodes.len());
    Ok(())
}
