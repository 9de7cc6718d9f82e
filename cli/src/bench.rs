//! `dure bench`: what the machine here makes of the scheduler. A bench, not a test: it measures and judges nothing.
//!
//! Reading order: `report` (figures as a table or JSON), `disk` (an fdatasync of this disk, beside every latency),
//! `submit`, `launch` and `agent` (over gRPC, against a scheduler in this process), `recovery`, `memory` and `cycle` (the journal and
//! the core). Run a release build; numbers of a debug build say nothing.

mod agent;
mod cycle;
mod disk;
mod failover;
mod history;
mod launch;
mod load;
mod members;
mod memory;
mod packing;
mod recovery;
mod report;
mod store;
mod storm;
mod submit;
mod what_if;

use clap::Subcommand;

use crate::{dev::cluster, failure::Failure, serve, show::Out};

/// Measure the scheduler on this machine
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Durable submits per second, one by one and in batches
    Submit(submit::SubmitArgs),
    /// From submit to launched, with many agents
    Launch(launch::LaunchArgs),
    /// CPU and memory of an agent with 8 GPUs and 8 jobs that run
    Agent(agent::AgentArgs),
    /// Three schedulers whose leader is ended again and again, under load
    Failover(failover::FailoverArgs),
    /// Thousands of agents that come back at once
    Storm(storm::StormArgs),
    /// Recovery of a long journal, with a snapshot and without
    Recovery(recovery::RecoveryArgs),
    /// Durable events per second in SQLite and in etcd, side by side
    Store(store::StoreArgs),
    /// One cycle over a long queue: nanoseconds a placement, in the core alone
    Cycle(cycle::CycleArgs),
    /// How well shares and whole GPUs are packed, on the data of FGD (ATC'23)
    Packing(packing::PackingArgs),
    /// What-ifs and start estimates of a live scheduler over a long queue, and what they cost its turns
    WhatIf(what_if::WhatIfArgs),
    /// Memory per pending job
    Memory(memory::MemoryArgs),
}

/// Runs a bench.
pub(crate) fn run(command: BenchCommand, out: Out) -> Result<(), Failure> {
    if cfg!(debug_assertions) {
        eprintln!("note: this is a debug build; measure with cargo run --release");
    }
    serve::log("error");
    let runtime = serve::runtime()?;
    let report = match command {
        BenchCommand::Submit(args) => runtime.block_on(submit::run(&args)),
        BenchCommand::Launch(args) => runtime.block_on(launch::run(&args)),
        BenchCommand::Agent(args) => runtime.block_on(agent::run(&args)),
        BenchCommand::Failover(args) => runtime.block_on(failover::run(&args)),
        BenchCommand::Storm(args) => runtime.block_on(storm::run(&args)),
        BenchCommand::Recovery(args) => recovery::run(&args),
        BenchCommand::Store(args) => store::run(&args),
        BenchCommand::Cycle(args) => cycle::run(&args),
        BenchCommand::Packing(args) => packing::run(&args),
        BenchCommand::WhatIf(args) => runtime.block_on(what_if::run(&args)),
        BenchCommand::Memory(args) => runtime.block_on(memory::run(&args)),
    };
    runtime.shutdown_timeout(cluster::STOP_WITHIN);
    report?.print(out)
}

/// A folder for a bench, on the disk that is to be measured.
fn folder(dir: Option<&std::path::Path>) -> Result<tempfile::TempDir, Failure> {
    let made = match dir {
        Some(dir) => tempfile::Builder::new().prefix("dure-bench-").tempdir_in(dir),
        None => tempfile::Builder::new().prefix("dure-bench-").tempdir(),
    };
    made.map_err(|err| Failure::Failed(format!("no folder for the bench: {err}: name another with --dir")))
}

fn failed(err: impl std::fmt::Display) -> Failure {
    Failure::Failed(err.to_string())
}
