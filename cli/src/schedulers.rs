//! `dure scheduler`: one scheduler, or one of several; and who of them leads.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use dure_proto::v1::{HandOverRequest, LeaderRequest};

use crate::{context::Context, failure::Failure, show::Out};

/// Run the scheduler, or see and change which of several leads
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub(crate) struct SchedulerArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Option<SchedulerCommand>,
}

/// What there is to do about several schedulers.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum SchedulerCommand {
    /// Say which scheduler leads
    Leader,
    /// Have another scheduler lead: nothing that was taken is lost, and what runs runs on
    Handover,
}

/// Runs the commands that ask the schedulers.
pub(crate) async fn run(command: SchedulerCommand, context: &Context, out: Out) -> Result<(), Failure> {
    let mut client = context.schedulers().await?;
    let refused = |status| context.refused(status);
    match command {
        SchedulerCommand::Leader => {
            let leader = client.leader(LeaderRequest {}).await.map_err(refused)?.into_inner();
            let text = match (leader.here, leader.address.as_str()) {
                (true, "") => "one scheduler, which leads".to_owned(),
                (false, "") => "this scheduler sees nobody lead at the moment".to_owned(),
                (_, address) => address.to_owned(),
            };
            out.line(&text)
        }
        SchedulerCommand::Handover => {
            client.hand_over(HandOverRequest {}).await.map_err(refused)?;
            out.line("handed over")
        }
    }
}
