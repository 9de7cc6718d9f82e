//! Shim and agent alone, for the tests of this crate: what `dure shim DIR` and `dure agent --config FILE` run in the
//! product, in processes of their own that can be killed.

use std::{path::Path, process::ExitCode};

use dure_agent::AgentConfig;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next().as_deref().and_then(|word| word.to_str()) {
        Some("shim") => dure_agent::shim::main(args),
        Some("agent") => agent(args.next().as_deref().map(Path::new)),
        _ => ExitCode::from(2),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn agent(config: Option<&Path>) -> ExitCode {
    let Some(config) = config else { return ExitCode::from(2) };
    let config = match AgentConfig::load(config) {
        Ok(config) => config,
        Err(err) => {
            eprintln!("{err}");
            return ExitCode::from(2);
        }
    };
    match dure_agent::run(config, std::future::pending()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("{err}");
            ExitCode::FAILURE
        }
    }
}
