//! `dure backup | restore | export`: on the files of a scheduler, on its own node.

use std::{
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand, ValueEnum};
use dure_scheduler::{
    Config,
    etcd::Etcd,
    export::{ExportOptions, ExportedJob, placements},
    journal::{self, JournalReader, Reader, ReplicatedReader, RestoreOptions, transfer},
};

use crate::failure::Failure;

/// No agent has seen an epoch beyond: each start of a scheduler takes one, each restore a million.
const MAX_EPOCH: u64 = 10_000_000_000;

/// Copy the journal of a scheduler, running or not
#[derive(Debug, Args)]
#[command(
    after_help = "The folder `ca` beside the journal signs the nodes' certificates: copy it yourself, to a safe place."
)]
pub(crate) struct BackupArgs {
    /// Where to: an empty or new folder
    #[arg(value_name = "DIR")]
    to: PathBuf,
    /// The scheduler's folder
    #[arg(long, value_name = "DIR", required_unless_present = "config")]
    data_dir: Option<PathBuf>,
    /// The configuration of one of several schedulers: their journal lies in etcd
    #[arg(long, value_name = "FILE", conflicts_with = "data_dir")]
    config: Option<PathBuf>,
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
    #[arg(long, value_name = "EPOCH", default_value_t = 0, hide_default_value = true,
        value_parser = clap::value_parser!(u64).range(..=MAX_EPOCH))]
    min_epoch: u64,
}

/// What can be exported.
#[derive(Debug, Subcommand)]
pub(crate) enum ExportCommand {
    /// Who ran where and when, as CSV
    Placements {
        /// The scheduler's folder; it may run
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// Where to [default: standard output]
        #[arg(short, long = "out", value_name = "FILE")]
        out: Option<PathBuf>,
        /// Jobs by their names instead of their ids
        #[arg(long)]
        names: bool,
    },
}

/// Where a scheduler keeps its journal.
fn journal_of(data_dir: &Path) -> PathBuf {
    data_dir.join("journal")
}

/// A reader of a scheduler's journal: by its folder, or by the configuration of one of several schedulers.
pub(crate) fn reader(of: &Path) -> Result<Box<dyn Reader>, Failure> {
    let named = |err: &dyn std::fmt::Display| Failure::Failed(format!("{}: {err}", of.display()));
    if !of.is_file() {
        return Ok(Box::new(JournalReader::open(&journal_of(of)).map_err(|err| named(&err))?));
    }
    let config = Config::load(of).map_err(failed)?;
    match &config.etcd {
        Some(settings) => {
            let etcd = Etcd::new(settings.connection()).map_err(|err| named(&err))?;
            Ok(Box::new(ReplicatedReader::open(&etcd).map_err(|err| named(&err))?))
        }
        None => Ok(Box::new(JournalReader::open(&journal_of(&config.data_dir)).map_err(|err| named(&err))?)),
    }
}

fn failed(err: impl std::fmt::Display) -> Failure {
    Failure::Failed(err.to_string())
}

/// `dure backup`.
pub(crate) fn backup(args: BackupArgs) -> Result<(), Failure> {
    let config = args.config.as_deref().map(Config::load).transpose().map_err(failed)?;
    let etcd = config.as_ref().and_then(|config| config.etcd.as_ref());
    let (of, head) = match etcd {
        Some(settings) => {
            let etcd = Etcd::new(settings.connection()).map_err(failed)?;
            let reader = ReplicatedReader::open(&etcd).map_err(failed)?;
            (etcd.place(), transfer::copy_to_sqlite(&reader, &args.to).map_err(failed)?.head)
        }
        None => {
            let data_dir = args.data_dir.or(config.map(|config| config.data_dir)).unwrap_or_default();
            let reader = JournalReader::open(&journal_of(&data_dir)).map_err(failed)?;
            (data_dir, reader.backup(&args.to).map_err(failed)?.head)
        }
    };
    println!("backup of {} in {}: whole up to position {}", of.display(), args.to.display(), head.seq);
    Ok(())
}

/// What can be done with a store.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Move the journal from the scheduler's folder to etcd, or back; no scheduler may run
    Move {
        /// A configuration with both `data_dir` and `[etcd]`
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Where to
        #[arg(long, value_enum)]
        to: Engine,
    },
}

/// The engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// Several schedulers on etcd
    Etcd,
    /// One scheduler on its own folder
    Sqlite,
}

/// `dure store`.
pub(crate) fn store(command: StoreCommand) -> Result<(), Failure> {
    let StoreCommand::Move { config, to } = command;
    let config = Config::load(&config).map_err(failed)?;
    let settings = config.etcd.as_ref();
    let settings = settings.ok_or_else(|| Failure::Usage("--config: it has no section [etcd]".to_owned()))?;
    let etcd = Etcd::new(settings.connection()).map_err(failed)?;
    let dir = journal_of(&config.data_dir);
    let (moved, to, next) = match to {
        Engine::Etcd => (transfer::to_etcd(&dir, &etcd), etcd.place(), "start the schedulers with this configuration"),
        Engine::Sqlite => (
            transfer::to_sqlite(&etcd, &dir),
            dir,
            "remove [etcd] and advertise from the configuration, then start one scheduler",
        ),
    };
    let moved = moved.map_err(failed)?;
    println!("moved to {}: {} batches and {} blobs", to.display(), moved.batches, moved.blobs);
    println!("the head is the same in both: position {}, hash {}", moved.head.seq, hex::encode(moved.head.hash.0));
    println!("next: {next}");
    Ok(())
}

/// `dure restore`.
pub(crate) fn restore(args: RestoreArgs) -> Result<(), Failure> {
    let options = RestoreOptions { force: args.force, min_epoch: args.min_epoch };
    let to = journal_of(&args.data_dir);
    let report = journal::restore(&args.from, &to, options).map_err(failed)?;
    println!("restored {} up to position {}; what was acknowledged after it is lost", to.display(), report.head.seq);
    if let Some(replaced) = report.replaced {
        println!("the journal that was there lies in {}", replaced.display());
    }
    println!(
        "next: start the scheduler; what nodes still run and this journal does not know keeps its GPUs: dure nodes NODE shows it"
    );
    Ok(())
}

/// `dure export`.
pub(crate) fn export(command: ExportCommand) -> Result<(), Failure> {
    let ExportCommand::Placements { data_dir, out, names } = command;
    let reader = JournalReader::open(&journal_of(&data_dir)).map_err(failed)?;
    let label = |job: ExportedJob<'_>| if names { job.name.to_owned() } else { job.id.to_string() };
    let options = ExportOptions { job: &label, seconds: &|time| time.0 as f64 / 1_000.0 };
    let to: Box<dyn Write> = match &out {
        Some(path) => {
            Box::new(std::fs::File::create(path).map_err(|err| failed(format!("{}: {err}", path.display())))?)
        }
        None => Box::new(std::io::stdout().lock()),
    };
    placements(&reader, BufWriter::new(to), &options).map(drop).map_err(failed)
}

#[cfg(test)]
mod tests {
    use dure_scheduler::journal::{Batch, EmbeddedEngine, Engine, OpenOptions};

    use super::*;

    #[test]
    fn a_backup_is_restored_and_a_journal_that_is_there_is_not_overwritten() {
        let dir = tempfile::tempdir().expect("a folder");
        let (data_dir, copy, other) = (dir.path().join("data"), dir.path().join("copy"), dir.path().join("other"));
        let mut engine = EmbeddedEngine::open(&journal_of(&data_dir), OpenOptions::default()).expect("opens");
        let batch = Batch { first_seq: 1, count: 1, epoch: engine.epoch(), payload: vec![1, 2, 3] };
        engine.append(&[batch], &[]).expect("appends");
        // The scheduler goes on while it is copied.
        backup(BackupArgs { to: copy.clone(), data_dir: Some(data_dir.clone()), config: None }).expect("copies");
        let again =
            |data_dir: PathBuf| restore(RestoreArgs { from: copy.clone(), data_dir, force: false, min_epoch: 0 });
        again(other.clone()).expect("restores");
        assert_eq!(JournalReader::open(&journal_of(&other)).and_then(|reader| reader.head()).expect("reads").seq, 1);
        assert_eq!(again(other).expect_err("is there").exit_code(), 1);
        drop(engine);
    }
}
