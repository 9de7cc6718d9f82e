//! Durable throughput of both engines in one run, on one disk: batches of events of 400 bytes, one commit after the other.
//!
//! SQLite and the three members of etcd take turns, round by round, so that a noisy machine is noisy for both. What is
//! compared is the ratio.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Args;
use dure_scheduler::{
    etcd::local::{LocalError, LocalEtcd},
    journal::{Batch, EmbeddedEngine, Engine, OpenOptions, ReplicatedEngine},
};

use super::{disk, failed, folder, report::Report};
use crate::failure::Failure;

/// Bytes of one event, half of which do not compress.
const EVENT_BYTES: usize = 400;
/// Events of one commit.
const SIZES: [u32; 3] = [1, 16, 128];

/// How long.
#[derive(Debug, Args)]
pub(crate) struct StoreArgs {
    /// Rounds; both engines run in each
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Milliseconds of one engine with one size in one round
    #[arg(long, default_value_t = 500, value_name = "MS")]
    span: u64,
    /// Where to write
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Commits of one engine with one size.
#[derive(Default)]
struct Measured {
    events: u64,
    spent: Duration,
    millis: Vec<f64>,
}

impl Measured {
    fn rate(&self) -> f64 {
        self.events as f64 / self.spent.as_secs_f64().max(f64::EPSILON)
    }
}

/// Runs it.
pub(super) fn run(args: &StoreArgs) -> Result<Report, Failure> {
    let mut report = Report::default();
    let folder = folder(args.dir.as_deref())?;
    disk::measure(folder.path(), &mut report)?;
    let members = folder.path().join("etcd");
    std::fs::create_dir(&members).map_err(failed)?;
    let cluster = match LocalEtcd::start(&members, 3) {
        Ok(cluster) => Some(cluster),
        Err(err @ LocalError::NotInstalled) => {
            eprintln!("only SQLite is measured: {err}");
            None
        }
        Err(err) => return Err(failed(err)),
    };
    let mut engines: Vec<(&str, Box<dyn Engine>)> = vec![("sqlite", sqlite(folder.path())?)];
    if let Some(cluster) = &cluster {
        let etcd = cluster.client("/bench").map_err(failed)?;
        let engine = ReplicatedEngine::open(&etcd, OpenOptions::default()).map_err(failed)?;
        engines.push(("etcd", Box::new(engine)));
    }
    let mut measured: Vec<[Measured; SIZES.len()]> = engines.iter().map(|_| Default::default()).collect();
    for _ in 0..args.rounds {
        for ((_, engine), measured) in engines.iter_mut().zip(&mut measured) {
            for (events, measured) in SIZES.into_iter().zip(measured) {
                commits(engine.as_mut(), events, Duration::from_millis(args.span), measured)?;
            }
        }
    }
    for ((name, _), measured) in engines.iter().zip(&mut measured) {
        for (events, measured) in SIZES.into_iter().zip(measured) {
            report.add(format!("{name}, {events} events a commit"), measured.rate(), "events/s");
            report.latencies(&format!("{name}, {events} events a commit"), &mut measured.millis);
        }
    }
    if let [sqlite, etcd] = &measured[..] {
        for (at, events) in SIZES.into_iter().enumerate() {
            report.add(format!("etcd as a part of sqlite, {events} events"), etcd[at].rate() / sqlite[at].rate(), "");
        }
    }
    for (_, engine) in engines {
        engine.close().map_err(failed)?;
    }
    Ok(report)
}

fn sqlite(dir: &Path) -> Result<Box<dyn Engine>, Failure> {
    Ok(Box::new(EmbeddedEngine::open(&dir.join("sqlite"), OpenOptions::default()).map_err(failed)?))
}

/// Commits batches of so many events for so long.
fn commits(engine: &mut dyn Engine, events: u32, span: Duration, measured: &mut Measured) -> Result<(), Failure> {
    let payload = payload(events);
    let began = Instant::now();
    while began.elapsed() < span {
        let (first_seq, epoch) = (engine.head().seq + 1, engine.epoch());
        let batch = Batch { first_seq, count: events, epoch, payload: payload.clone() };
        let started = Instant::now();
        engine.append(&[batch], &[]).map_err(failed)?;
        measured.millis.push(started.elapsed().as_secs_f64() * 1_000.0);
        measured.events += u64::from(events);
        engine.maintain(None).map_err(failed)?;
    }
    measured.spent += began.elapsed();
    Ok(())
}

/// Half of it does not compress.
fn payload(events: u32) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    (0..events as usize * EVENT_BYTES)
        .map(|at| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            if at % 2 == 0 { state as u8 } else { 7 }
        })
        .collect()
}
