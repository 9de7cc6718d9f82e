//! The warm core: a thread that follows the journal, so that whoever takes over has little left to read.
//!
//! In: the journal in etcd. Out: the state at some position near its end, with the chain proven up to there. That etcd is
//! silent is no reason to stop; a journal that is damaged or does not follow from the state is.

use std::sync::mpsc::{RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use dure_core::event::Event;
use dure_core::{Cluster, Policy};

use crate::etcd::Etcd;
use crate::etcd::keys::Range;
use crate::follower::Keeping;
use crate::history::Historian;
use crate::journal::replicated::Followed;
use crate::journal::{FoundSnapshot, JournalError, Reader, ReplicatedReader};
use crate::recover::{RecoverError, Recovered};
use crate::source::{DurableBatch, SourceError};
use crate::start::StartError;

/// How often the journal is read when no watch says that there is more.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What was followed, and the state there; nothing where no journal was seen yet.
#[derive(Debug, Default)]
pub(super) struct Warm {
    at: Option<(Followed, Recovered)>,
    historian: Option<Historian>,
}

/// Opens the history of the store with this id, for the warm core to fill.
pub(super) type Keep = Box<dyn Fn(&str) -> Option<Keeping> + Send>;

/// The thread.
pub(super) struct Following {
    wake: SyncSender<Word>,
    thread: JoinHandle<Warm>,
    watch: tokio::task::JoinHandle<()>,
}

enum Word {
    Look,
    Stop,
}

impl From<SourceError> for StartError {
    fn from(err: SourceError) -> Self {
        StartError::Recover(RecoverError::Source(err))
    }
}

/// Starts to follow.
pub(super) fn follow(etcd: &Etcd, policy: Policy, keep: Keep) -> Result<Following, StartError> {
    // One word to look is enough, however many there were.
    let (wake, words) = sync_channel(1);
    let following = etcd.clone();
    let run = move || {
        let mut warm = Warm::default();
        loop {
            if let Err(err) = warm.catch_up(&following, &policy) {
                tracing::warn!(error = %err, "the journal is not followed: what was built is given up");
                warm = Warm::default();
            }
            warm.keep_history(&keep);
            match words.recv_timeout(LOOK_EVERY) {
                Ok(Word::Look) | Err(RecvTimeoutError::Timeout) => {}
                Ok(Word::Stop) | Err(RecvTimeoutError::Disconnected) => return warm,
            }
        }
    };
    let thread = std::thread::Builder::new().name("standby".to_owned()).spawn(run).map_err(StartError::Thread)?;
    let (watching, watched) = (etcd.clone(), wake.clone());
    let watch = etcd.spawn(async move {
        loop {
            if let Ok(mut changes) = watching.watch(Range::one(watching.keys().head())).await {
                while let Ok(Some(_)) = changes.message().await {
                    if let Err(TrySendError::Disconnected(_)) = watched.try_send(Word::Look) {
                        return;
                    }
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    });
    Ok(Following { wake, thread, watch })
}

impl Following {
    /// Ends the thread; what it has built.
    pub(super) fn stop(self) -> Warm {
        self.watch.abort();
        drop(self.wake.send(Word::Stop)); // a thread that is gone needs no word
        self.thread.join().unwrap_or_default()
    }
}

impl Warm {
    /// Opens the history where it is not open yet, and writes what it holds back.
    fn keep_history(&mut self, keep: &Keep) {
        let Some((followed, _)) = &self.at else { return };
        match &mut self.historian {
            Some(historian) => {
                if let Err(err) = historian.write() {
                    tracing::error!(error = %err, "the history stands still until this scheduler is followed anew");
                    self.historian = None;
                }
            }
            None => {
                let reader: Box<dyn Reader> = Box::new(followed.reader().clone());
                self.historian = keep(&format!("{:?}", reader.store_id())).and_then(|keeping| keeping.begin(&reader));
            }
        }
    }

    /// Follows to the present end. That there is no journal yet, or that etcd is silent, is no error.
    fn catch_up(&mut self, etcd: &Etcd, policy: &Policy) -> Result<(), StartError> {
        match self.try_catch_up(etcd, policy) {
            Err(StartError::Journal(JournalError::Storage { .. })) => Ok(()),
            other => other,
        }
    }

    fn try_catch_up(&mut self, etcd: &Etcd, policy: &Policy) -> Result<(), StartError> {
        if self.at.is_none() {
            let Some(reader) = ReplicatedReader::open_or_new(etcd)? else { return Ok(()) };
            let mut followed = Followed::cold(reader)?;
            let found = FoundSnapshot { snapshot: followed.take_snapshot(), damaged: Vec::new() };
            self.at = Some((followed, Recovered::from_snapshot(found, policy.clone())?));
        }
        let Some((followed, recovered)) = &mut self.at else { return Ok(()) };
        let historian = &mut self.historian;
        followed.catch_up(|batch| {
            let turn = DurableBatch::decode(&batch)?;
            let see = &mut |cluster: &Cluster, seq: u64, event: &Event| {
                if let Some(historian) = historian {
                    historian.see(cluster, seq, turn.time, event);
                }
            };
            recovered.take_seen(&turn, see)?;
            if let Some(Err(err)) = historian.as_mut().map(|historian| historian.turn(&turn)) {
                tracing::error!(error = %err, "the history stands still until this scheduler is followed anew");
                *historian = None;
            }
            Ok::<_, StartError>(())
        })?;
        Ok(())
    }

    /// Follows to the end, for whoever holds the leader key; from the beginning where nothing was followed yet.
    pub(super) fn finish(mut self, etcd: &Etcd, policy: Policy) -> Result<(Option<Followed>, Recovered), StartError> {
        if let Err(err) = self.try_catch_up(etcd, &policy) {
            // What was followed may have been overtaken by a truncation: once more from the newest snapshot.
            tracing::warn!(error = %err, "the journal is read anew");
            self.at = None;
            self.try_catch_up(etcd, &policy)?;
        }
        match self.at {
            Some((followed, recovered)) => Ok((Some(followed), recovered)),
            None => Ok((None, Recovered::from_snapshot(FoundSnapshot::default(), policy)?)),
        }
    }
}
