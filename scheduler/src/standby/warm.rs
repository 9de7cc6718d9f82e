//! The warm cores: a thread that follows the journal, so that whoever takes over has little left to read.
//!
//! In: the journal in etcd, or what the last leadership of this process has left of it. Out: the state near its end, twice:
//! in the core that will lead, and in the one that follows that and keeps the history; with the chain proven up to there.
//! What costs time by the size of the state is done here, before this process may lead, and never after. That etcd is
//! silent is no reason to stop; a journal that is damaged or does not follow from the state is.

use std::sync::mpsc::{RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dure_core::{Cluster, Policy};
use tokio::sync::watch;

use crate::etcd::Etcd;
use crate::etcd::keys::Range;
use crate::follower::{self, FollowerConfig, Keeping};
use crate::history::joins;
use crate::journal::replicated::Followed;
use crate::journal::{FoundSnapshot, JournalError, Reader, ReplicatedReader};
use crate::leadership::Readiness;
use crate::recover::{RecoverError, Recovered, apply_all};
use crate::source::{DurableBatch, SourceError};
use crate::start::{Left, StartError};

/// How often the journal is read when no watch says that there is more.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often the history is written, unless much waits.
const WRITE_HISTORY_EVERY: Duration = Duration::from_millis(500);
/// After a leadership the core that would lead again is made only then: whoever leads now opens its doors meanwhile.
const REST: Duration = Duration::from_secs(1);
/// A journal that cannot be followed so often in a row is for whoever leads to report.
const MAX_FAILURES: u32 = 2;

/// Opens the history of the store with this id, for the second core to fill.
pub(super) type Keep = Box<dyn Fn(&str) -> Option<Keeping> + Send>;

/// What the cores are made with.
pub(super) struct Making {
    pub(super) etcd: Etcd,
    pub(super) policy: Policy,
    pub(super) config: FollowerConfig,
    pub(super) keep: Keep,
}

/// What was followed; nothing where no journal was seen yet.
#[derive(Default)]
pub(super) struct Warm {
    cores: Option<Cores>,
    /// No first core is made before, unless it is needed.
    rests_until: Option<Instant>,
}

/// Two cores at one position.
struct Cores {
    followed: Followed,
    /// The one that will lead; made as soon as the other one has reached the journal's end.
    first: Option<Cluster>,
    second: follower::Following,
    replayed: u64,
}

/// What a leader begins with.
pub(super) struct Ready {
    pub(super) followed: Option<Followed>,
    pub(super) recovered: Recovered,
    pub(super) second: follower::Following,
}

/// The thread.
pub(super) struct Following {
    wake: SyncSender<Word>,
    thread: JoinHandle<(Making, Warm)>,
    watch: tokio::task::JoinHandle<()>,
}

enum Word {
    Look,
    Stop,
}

/// How far it is to the journal's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reached {
    /// The cores stand there, or there is no journal.
    End,
    /// Nobody knows, or the first core is not made yet.
    Unknown,
}

impl From<SourceError> for StartError {
    fn from(err: SourceError) -> Self {
        StartError::Recover(RecoverError::Source(err))
    }
}

/// Starts to follow, from what the last leadership has left where it has left something. `ready` is told how
/// far that is.
pub(super) fn follow(
    making: Making,
    left: Option<Left>,
    ready: watch::Sender<Readiness>,
) -> Result<Following, StartError> {
    // One word to look is enough, however many there were.
    let (wake, words) = sync_channel(1);
    let watching = making.etcd.clone();
    let run = move || {
        let mut warm = Warm::from(left, &making);
        let (mut failures, mut wrote) = (0, Instant::now());
        loop {
            match warm.catch_up(&making) {
                Ok(Reached::End) => {
                    failures = 0;
                    ready.send_replace(Readiness::Ready);
                }
                Ok(Reached::Unknown) => {}
                Err(err) => {
                    tracing::warn!(error = %err, "the journal is not followed: what was built is given up");
                    warm = Warm::default();
                    failures += 1;
                    ready.send_replace(if failures >= MAX_FAILURES { Readiness::Stuck } else { Readiness::Behind });
                }
            }
            if wrote.elapsed() >= WRITE_HISTORY_EVERY {
                wrote = Instant::now();
                warm.write_history();
            }
            match words.recv_timeout(LOOK_EVERY) {
                Ok(Word::Look) | Err(RecvTimeoutError::Timeout) => {}
                Ok(Word::Stop) | Err(RecvTimeoutError::Disconnected) => return (making, warm),
            }
        }
    };
    let thread = std::thread::Builder::new().name("standby".to_owned()).spawn(run).map_err(StartError::Thread)?;
    let (etcd, watched) = (watching.clone(), wake.clone());
    let watch = watching.spawn(async move {
        loop {
            if let Ok(mut changes) = etcd.watch(Range::one(etcd.keys().head())).await {
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
    /// Ends the thread, and follows to the end for whoever holds the leader key; from the beginning where nothing was
    /// followed yet. May block.
    pub(super) fn finish(self) -> Result<Ready, StartError> {
        let (making, warm) = self.end()?;
        warm.finish(&making)
    }

    /// Ends the thread; what it has followed.
    pub(super) fn end(self) -> Result<(Making, Warm), StartError> {
        self.watch.abort();
        drop(self.wake.send(Word::Stop)); // a thread that is gone needs no word
        self.thread.join().map_err(|_| StartError::Stopped("the warm cores have failed".to_owned()))
    }

    /// Ends the thread; of what it has followed only the history is of use any more.
    pub(super) fn stop(self) {
        if let Ok((_, mut warm)) = self.end() {
            warm.write_history();
        }
    }
}

impl Warm {
    fn from(left: Option<Left>, making: &Making) -> Self {
        let rests_until = left.as_ref().map(|_| Instant::now() + REST);
        let cores = left.and_then(|Left { head, following: second }| match ReplicatedReader::open(&making.etcd) {
            Ok(reader) => Some(Cores { followed: Followed::after(reader, head), first: None, second, replayed: 0 }),
            Err(err) => {
                tracing::warn!(error = %err, "the journal is read anew");
                None
            }
        });
        Self { cores, rests_until }
    }

    /// Whether the first core is made, and how many events were read.
    #[cfg(test)]
    pub(super) fn touched(&self) -> Option<(bool, u64)> {
        self.cores.as_ref().map(|cores| (cores.first.is_some(), cores.replayed))
    }

    fn write_history(&mut self) {
        if let Some(cores) = &mut self.cores {
            cores.second.write_history();
        }
    }

    /// Follows to the present end. That there is no journal yet, or that etcd is silent, is no error.
    fn catch_up(&mut self, making: &Making) -> Result<Reached, StartError> {
        match self.try_catch_up(making) {
            Err(StartError::Journal(JournalError::Storage { .. })) => Ok(Reached::Unknown),
            other => other,
        }
    }

    fn try_catch_up(&mut self, making: &Making) -> Result<Reached, StartError> {
        if self.cores.is_none() {
            let Some(reader) = ReplicatedReader::open_or_new(&making.etcd)? else { return Ok(Reached::End) };
            self.cores = Some(Cores::cold(reader, making)?);
        }
        let Some(cores) = &mut self.cores else { return Ok(Reached::End) };
        cores.catch_up()?;
        if cores.first.is_none() {
            if self.rests_until.is_some_and(|until| Instant::now() < until) {
                return Ok(Reached::Unknown);
            }
            cores.first = Some(cores.second.cluster().clone());
            // That took its time.
            cores.catch_up()?;
        }
        Ok(Reached::End)
    }

    pub(super) fn finish(mut self, making: &Making) -> Result<Ready, StartError> {
        if let Err(err) = self.try_catch_up(making) {
            // What was followed may have been overtaken by a truncation: once more from the newest snapshot.
            tracing::warn!(error = %err, "the journal is read anew");
            self.cores = None;
            self.try_catch_up(making)?;
        }
        let Some(Cores { followed, first, second, replayed }) = self.cores else {
            let recovered = Recovered::from_snapshot(FoundSnapshot::default(), making.policy.clone())?;
            let second = follower::Following::new(&recovered, making.config);
            return Ok(Ready { followed: None, recovered, second });
        };
        let recovered = Recovered {
            cluster: first.unwrap_or_else(|| second.cluster().clone()),
            head: second.head(),
            time: second.time(),
            events_replayed: replayed,
            from_snapshot: None,
            terms: second.terms().clone(),
            passed_over: Vec::new(),
        };
        Ok(Ready { followed: Some(followed), recovered, second })
    }
}

impl Cores {
    /// At the newest snapshot, or the first event; with the history.
    fn cold(reader: ReplicatedReader, making: &Making) -> Result<Self, StartError> {
        let mut followed = Followed::cold(reader)?;
        let found = FoundSnapshot { snapshot: followed.take_snapshot(), damaged: Vec::new() };
        let recovered = Recovered::from_snapshot(found, making.policy.clone())?;
        let at = recovered.head;
        for (seq, why) in &recovered.passed_over {
            tracing::warn!(seq = seq.0, why, "a snapshot could not be used");
        }
        let mut second = follower::Following::alone(recovered, making.config);
        let reader: Box<dyn Reader> = Box::new(followed.reader().clone());
        if let Some(keeping) = (making.keep)(&format!("{:?}", reader.store_id())) {
            // One that ends beyond the snapshot is filled on the way; any other one is brought here first.
            let historian =
                if joins(&keeping.historian, &reader, at) { Some(keeping.historian) } else { keeping.begin(&reader) };
            historian.into_iter().for_each(|historian| second.keeps(historian));
        }
        Ok(Self { followed, first: None, second, replayed: 0 })
    }

    fn catch_up(&mut self) -> Result<(), StartError> {
        let Self { followed, first, second, replayed } = self;
        followed.catch_up(|batch| {
            let turn = DurableBatch::decode(&batch)?;
            if let Some(first) = first {
                apply_all(first, turn.time, turn.first_seq, &turn.events)?;
            }
            second.follow(&turn)?;
            *replayed += turn.events.len() as u64;
            Ok::<_, StartError>(())
        })?;
        Ok(())
    }
}
