//! `dure scheduler` and `dure agent`: the long-running parts, until TERM or Ctrl-C.

use std::path::{Path, PathBuf};

use clap::Args;
use dure_agent::AgentConfig;
use dure_scheduler::Config;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::{failure::Failure, show};

/// Where the settings are.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Logs to standard error: RUST_LOG decides, else this level.
pub(crate) fn log(level: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let colour = show::colour_on(&std::io::stderr());
    // Only the first call of a process counts.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour).try_init();
}

/// Ready at TERM or Ctrl-C.
pub(crate) async fn told_to_stop() {
    let (Ok(mut term), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        tracing::error!("signals cannot be received; end this process with KILL");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// A runtime with a thread per core.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// `dure scheduler`.
pub(crate) fn scheduler(config: &Path) -> Result<(), Failure> {
    log("info");
    let config = Config::load(config).map_err(|err| Failure::Usage(err.to_string()))?;
    if config.etcd.is_some() {
        let served = runtime()?.block_on(dure_scheduler::standby::serve(config, told_to_stop()));
        return served.map_err(|err| Failure::Failed(err.to_string()));
    }
    runtime()?.block_on(async {
        let mut running = dure_scheduler::start(config).await.map_err(|err| Failure::Failed(err.to_string()))?;
        let ended = tokio::select! {
            () = told_to_stop() => None,
            why = running.ended() => Some(why),
        };
        running.stop().await;
        ended.map_or(Ok(()), |why| Err(Failure::Failed(why.to_string())))
    })
}

/// `dure agent`.
pub(crate) fn agent(args: ServeArgs) -> Result<(), Failure> {
    log("info");
    let config = AgentConfig::load(&args.config).map_err(|err| Failure::Usage(err.to_string()))?;
    runtime()?.block_on(dure_agent::run(config, told_to_stop())).map_err(|err| Failure::Failed(err.to_string()))
}
