//! One of several schedulers: it stands by with a warm core, leads when the leader key is its own, and stands by again.
//!
//! In: the configuration, etcd, the word to stop. Out: a scheduler that serves while it leads, and says who leads while it
//! does not. A leadership that ends, however it ends, costs this process nothing but the leadership: the next one starts
//! from a core that is built anew from the journal. It never serves what it has not followed to the journal's end.

mod authority;
mod spent;
mod warm;

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use crate::auth::Tokens;
use crate::config::Config;
use crate::etcd::Etcd;
use crate::grpc::seat::Seat;
use crate::journal::{JournalError, OpenOptions, ReplicatedEngine};
use crate::leadership::{Candidate, HeldKey};
use crate::metrics::Metrics;
use crate::start::{Ground, Opened, Running, StartError, keeping};
use warm::Warm;

/// After a handover the others have so many leases to take the leadership; if none does, it is taken up again.
const LEASES_LEFT_TO_OTHERS: u32 = 3;
/// A leadership that ended badly is not sought again sooner than this.
const REST: Duration = Duration::from_millis(200);
/// How long the answers of a standby may take to leave when it begins to lead.
const LAST_REFUSALS: Duration = Duration::from_millis(20);

/// Runs one of several schedulers until `told` is ready; a leader hands over then.
///
/// # Errors
/// Each says what to change. A leadership that is lost is no error.
pub async fn serve(config: Config, told: impl Future<Output = ()>) -> Result<(), StartError> {
    config.check()?;
    let settings = config.etcd.clone().ok_or_else(|| StartError::Refused {
        what: "etcd".to_owned(),
        why: "one of several schedulers needs this section".to_owned(),
    })?;
    let etcd = Etcd::new(settings.connection()).map_err(|err| StartError::Stopped(err.to_string()))?;
    std::fs::create_dir_all(&config.data_dir)
        .map_err(|err| JournalError::file(&config.data_dir, "creating the directory", &err))?;
    let (instance, _lock) = instance(&config.data_dir)?;
    let tokens = match &config.tokens {
        Some(path) => Tokens::load_shared(path, spent::in_etcd(&etcd))?,
        None => Tokens::in_memory(),
    };
    let ground = Ground::prepare(config, tokens, Arc::new(Metrics::new())).await?;
    if ground.config.uses_tls() {
        authority::agree(&etcd, ground.authority()).await?;
    }
    let (stop, stopping) = watch::channel(false);
    ground.serve_metrics(stopping.clone()).await?;
    let address = ground.config.advertise.clone().unwrap_or_default();
    let candidate = Candidate::new(etcd.clone(), settings.lease(), &instance, &address);
    let member = Member { ground, etcd, candidate, address, lease: settings.lease(), stopping };
    tokio::pin!(told);
    let outcome = {
        let serving = member.serve();
        tokio::pin!(serving);
        tokio::select! {
            outcome = &mut serving => outcome,
            () = &mut told => {
                stop.send_replace(true);
                serving.await
            }
        }
    };
    // Closing the way to etcd blocks for nothing, but its thread must not end inside the runtime.
    tokio::task::spawn_blocking(move || drop(member)).await.ok();
    outcome
}

/// This process among the others.
struct Member {
    ground: Ground,
    etcd: Etcd,
    candidate: Candidate,
    address: String,
    lease: Duration,
    stopping: watch::Receiver<bool>,
}

/// How a leadership ended.
enum Ended {
    /// The process is to end.
    Told,
    /// It was handed over.
    HandedOver,
    /// It was lost.
    Lost(String),
}

impl Member {
    async fn serve(&self) -> Result<(), StartError> {
        let mut not_before = None;
        loop {
            let Some((key, warm)) = self.stand_by(not_before).await? else { return Ok(()) };
            let ended = self.lead(key, warm).await?;
            not_before = match ended {
                Ended::Told => return Ok(()),
                Ended::HandedOver => Some(Instant::now() + self.lease * LEASES_LEFT_TO_OTHERS),
                Ended::Lost(why) => {
                    tracing::warn!(why, "this scheduler leads no more and stands by");
                    Some(Instant::now() + REST)
                }
            };
        }
    }

    /// Follows the journal and says who leads, until this process leads; none when it is to end.
    async fn stand_by(&self, not_before: Option<Instant>) -> Result<Option<(HeldKey, Warm)>, StartError> {
        let (stop, stopping) = watch::channel(false);
        let serving = self.ground.stand_by(Seat::Following(self.candidate.seen()), stopping)?;
        let following = {
            let (config, refusals) = (self.ground.config.clone(), self.ground.refusals.clone());
            let keep = Box::new(move |store_id: &str| keeping(&config, store_id, refusals.clone()));
            warm::follow(&self.etcd, self.ground.config.core_policy(), keep)?
        };
        let mut told = self.stopping.clone();
        tracing::info!(address = self.address, "standing by");
        let key = tokio::select! {
            key = self.candidate.stand(not_before) => Some(key),
            _ = told.wait_for(|stop| *stop) => None,
        };
        stop.send_replace(true);
        let warm = tokio::task::spawn_blocking(move || following.stop()).await;
        let warm = warm.map_err(|err| StartError::Stopped(err.to_string()))?;
        // Those who wait here for an answer have it; connections end, and come back to the leader's server.
        serving.end(LAST_REFUSALS).await;
        Ok(key.zip(Some(warm)))
    }

    async fn lead(&self, key: HeldKey, warm: Warm) -> Result<Ended, StartError> {
        let opened = self.open(key.clone(), warm).await;
        let opened = match opened {
            Ok(opened) => opened,
            Err(err) => {
                let given_up = key.clone();
                tokio::task::spawn_blocking(move || given_up.give_up()).await.ok();
                return match err {
                    // Only these pass by themselves; whatever else is wrong needs an operator.
                    StartError::Journal(err) if !err.is_damage() => Ok(Ended::Lost(err.to_string())),
                    other => Err(other),
                };
            }
        };
        let (hand_over, mut asked) = mpsc::channel(1);
        let seat = |epoch| Seat::Leading { address: self.address.clone(), epoch, hand_over };
        let mut running: Running = self.ground.lead(opened, seat).await?;
        let mut told = self.stopping.clone();
        let ended = tokio::select! {
            why = running.ended() => Ended::Lost(why.to_string()),
            Some(()) = asked.recv() => Ended::HandedOver,
            _ = told.wait_for(|stop| *stop) => Ended::Told,
        };
        let leaving = running.close().await;
        if matches!(ended, Ended::Told) {
            leaving.end().await;
        } else {
            // Meanwhile this process stands by, and tells those who come here who leads.
            tokio::spawn(leaving.end());
        }
        Ok(ended)
    }

    /// From a warm core and the leader key to a journal that can be written.
    async fn open(&self, key: HeldKey, warm: Warm) -> Result<Opened, StartError> {
        let (etcd, config) = (self.etcd.clone(), self.ground.config.clone());
        let refusals = self.ground.refusals.clone();
        let opening = tokio::task::spawn_blocking(move || {
            let tenure = key.tenure.clone();
            // Nobody else appends any more: what is read now is the end.
            let (followed, recovered) = warm.finish(&etcd, config.core_policy())?;
            let engine = ReplicatedEngine::lead(&etcd, key, followed, OpenOptions::default())?;
            let reader = Box::new(crate::journal::ReplicatedReader::open(&etcd)?);
            Opened::begin(&config, Box::new(engine), recovered, reader, tenure, refusals)
        });
        opening.await.map_err(|err| StartError::Stopped(err.to_string()))?
    }
}

/// The name of this process among the schedulers: kept in its folder, and locked there, so that a successor in the same
/// folder knows that whatever its predecessor left in etcd belongs to a dead process.
fn instance(dir: &Path) -> Result<(String, File), StartError> {
    let fault = |err: std::io::Error| JournalError::file(dir, "taking the lock", &err);
    let path = dir.join("instance");
    let file = File::options().read(true).append(true).create(true).open(&path).map_err(fault)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(JournalError::AlreadyLed { dir: dir.to_owned(), holder: None }.into());
        }
        Err(TryLockError::Error(err)) => return Err(fault(err).into()),
    }
    let known = std::fs::read_to_string(&path).map_err(fault)?;
    if !known.trim().is_empty() {
        return Ok((known.trim().to_owned(), file));
    }
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|err| StartError::Stopped(err.to_string()))?;
    let name = hex::encode(bytes);
    std::io::Write::write_all(&mut &file, name.as_bytes()).and_then(|()| file.sync_all()).map_err(fault)?;
    Ok((name, file))
}
