//! The journal and the state in it, put to work for a scheduler that leads.

use std::path::PathBuf;
use std::sync::Arc;

use dure_core::ids::Epoch;
use dure_core::units::Span;
use tokio::sync::mpsc;

use super::StartError;
use crate::clock::Clock;
use crate::config::Config;
use crate::follower::{Follower, FollowerConfig, Following, Keeping};
use crate::history::{Historian, HistoryStore, Refusals};
use crate::journal::{
    EmbeddedEngine, Engine, JournalError, JournalReader, JournalWriter, OpenOptions, Reader, WriterLimits,
};
use crate::leadership::Tenure;
use crate::recover::{Recovered, recover};

/// In etcd what lies before the older snapshot is deleted, and what is left must stay small: a few minutes' worth.
const REPLICATED_SNAPSHOT_EVENTS: u64 = 200_000;
/// See `REPLICATED_SNAPSHOT_EVENTS`.
const REPLICATED_SNAPSHOT_SPAN: Span = Span::seconds(120);

pub(crate) fn follower_config(config: &Config) -> FollowerConfig {
    let (mut snapshot_events, mut snapshot_span) = (config.snapshot.every_events, config.snapshot.every);
    if config.etcd.is_some() {
        snapshot_events = snapshot_events.min(REPLICATED_SNAPSHOT_EVENTS);
        snapshot_span = snapshot_span.min(REPLICATED_SNAPSHOT_SPAN);
    }
    FollowerConfig { snapshot_events, snapshot_span, ..FollowerConfig::standard() }
}

/// Opens the history for whoever fills it. One that cannot be opened stops nothing.
pub(crate) fn keeping(config: &Config, store_id: &str, refusals: Refusals) -> Option<Keeping> {
    let store = HistoryStore::open(&HistoryStore::path_in(&config.data_dir), store_id);
    match store.and_then(|store| Historian::new(store, config.retention(), refusals)) {
        Ok(historian) => Some(Keeping { historian, policy: config.core_policy() }),
        Err(err) => {
            tracing::error!(error = %err, "no history is kept until the next start");
            None
        }
    }
}

/// The journal and the state in it.
pub(crate) struct Opened {
    pub(super) recovered: Recovered,
    /// Nothing was written since the journal was restored from a backup.
    pub(super) restored: bool,
    pub(super) restore_floor: Epoch,
    pub(super) clock: Clock,
    pub(super) epoch: Epoch,
    pub(super) store_id: String,
    pub(crate) tenure: Tenure,
    pub(super) writer: Arc<JournalWriter>,
    pub(super) reports: mpsc::UnboundedReceiver<crate::journal::Report>,
    pub(super) follower: Follower,
    pub(super) reader: Box<dyn Reader>,
}

pub(super) fn journal_dir(config: &Config) -> PathBuf {
    config.data_dir.join("journal")
}

pub(super) fn open(config: &Config, refusals: Refusals) -> Result<Opened, StartError> {
    let journal = journal_dir(config);
    let engine = EmbeddedEngine::open(&journal, OpenOptions::default())?.keeping(config.journal_kept());
    let recovered = recover(&engine, config.core_policy())?;
    let reader = Box::new(JournalReader::open(&journal)?);
    let second = Following::new(&recovered, follower_config(config));
    Opened::begin(config, Box::new(engine), recovered, second, reader, Tenure::unbounded(), refusals)
}

impl Opened {
    /// Puts a leading engine and the state at its end, in two cores, to work. Nothing in here may cost time by the size of
    /// the state: nobody leads meanwhile.
    pub(crate) fn begin(
        config: &Config,
        engine: Box<dyn Engine>,
        recovered: Recovered,
        second: Following,
        reader: Box<dyn Reader>,
        tenure: Tenure,
        refusals: Refusals,
    ) -> Result<Self, StartError> {
        let (epoch, store_id) = (Epoch(engine.epoch()), format!("{:?}", engine.store_id()));
        let restore_floor = Epoch(engine.restore_floor());
        let restored = engine.head().epoch < engine.restore_floor();
        for (seq, why) in &recovered.passed_over {
            tracing::warn!(seq = seq.0, why, "a snapshot could not be used");
        }
        let (head, jobs) = (recovered.head, recovered.cluster.jobs().len());
        tracing::info!(head = head.0, jobs, events = recovered.events_replayed, "the journal was recovered");
        let clock = Clock::start(recovered.time);
        let (reported, reports) = mpsc::unbounded_channel();
        let report = move |report| drop(reported.send(report)); // a pump that is gone needs no reports
        let writer = Arc::new(JournalWriter::start(engine, WriterLimits::default(), report)?);
        let sink = {
            let writer = Arc::downgrade(&writer);
            Box::new(move |snapshot, named| {
                let closed = Err(JournalError::Closed);
                writer.upgrade().map_or(closed, |writer| writer.snapshot_naming(snapshot, named))
            })
        };
        let keeping = if second.keeps_history() { None } else { keeping(config, &store_id, refusals) };
        let follower = Follower::start(second, Box::new(reader.reopen()?), sink, keeping)?;
        Ok(Self {
            recovered,
            restored,
            restore_floor,
            clock,
            epoch,
            store_id,
            tenure,
            writer,
            reports,
            follower,
            reader,
        })
    }
}
