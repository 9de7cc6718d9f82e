//! `dure backup | restore`: on the files of a scheduler, on its own node.

use std::path::PathBuf;

use clap::Args;
use dure_scheduler::journal::{self, JournalReader, RestoreOptions};

use crate::failure::Failure;

/// Copy the journal of a scheduler, running or not
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// Where to: an empty or new folder
    #[arg(value_name = "DIR")]
    to: PathBuf,
    /// The scheduler's folder
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
}

/// Put a backup in the place of a journal; the scheduler must not run
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The backup
    #[arg(value_name = "DIR")]
    from: PathBuf,
    /// The scheduler's folder
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Replace a journal that is there; it is moved aside, not deleted
    #[arg(long)]
    force: bool,
    /// The highest epoch that any agent reports, where you know it
    #[arg(long, value_name = "EPOCH", default_value_t = 0, hide_default_value = true)]
    min_epoch: u64,
}

fn failed(err: impl std::fmt::Display) -> Failure {
    Failure::Failed(err.to_string())
}

/// `dure backup`.
pub(crate) fn backup(args: BackupArgs) -> Result<(), Failure> {
    let report = JournalReader::open(&args.data_dir).and_then(|reader| reader.backup(&args.to)).map_err(failed)?;
    println!(
        "backup of {} in {}: whole up to position {}",
        args.data_dir.display(),
        args.to.display(),
        report.head.seq
    );
    Ok(())
}

/// `dure restore`.
pub(crate) fn restore(args: RestoreArgs) -> Result<(), Failure> {
    let options = RestoreOptions { force: args.force, min_epoch: args.min_epoch };
    let report = journal::restore(&args.from, &args.data_dir, options).map_err(failed)?;
    println!(
        "restored {} up to position {}; what was acknowledged after it is lost",
        args.data_dir.display(),
        report.head.seq
    );
    if let Some(replaced) = report.replaced {
        println!("the journal that was there lies in {}", replaced.display());
    }
    println!("next: start the scheduler; agents show what they still run as unknown leases");
    Ok(())
}
