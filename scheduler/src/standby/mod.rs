//! One of several schedulers: it stands by with a warm core, leads when the leader key is its own, and stands by again.
//!
//! In: the configuration, etcd, the word to stop. Out: a scheduler that serves while it leads, and says who leads while it
//! does not. A leadership that ends, however it ends, costs this process nothing but the leadership: the next one starts
//! from a core that is built anew from the journal. It never serves what it has not followed to the journal's end.

mod authority;
mod spent;
pub(crate) mod took;
mod warm;

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dure_core::ids::Seq;
use tokio::sync::{mpsc, watch};

use crate::auth::Tokens;
use crate::config::Config;
use crate::etcd::Etcd;
use crate::grpc::seat::{AnswerHandOver, Seat};
use crate::journal::{JournalError, OpenOptions, ReplicatedEngine, ReplicatedReader};
use crate::leadership::{Candidate, HeldKey, Others, Readiness, Standing, await_ready};
use crate::metrics::Metrics;
use crate::start::{Ground, Left, Opened, Running, StartError, follower_config, keeping};
use took::Took;
use warm::{Following, Making, Ready};

/// After a handover the others have so many leases to take the leadership; if none does, it is taken up again.
const LEASES_LEFT_TO_OTHERS: u32 = 3;
/// A leadership that ended badly is not sought again sooner than this.
const REST: Duration = Duration::from_millis(200);
/// How long a leader that is asked to hand over waits for one that stands by to be ready; then it goes on leading.
const SUCCESSOR_WITHIN: Duration = Duration::from_secs(10);
/// The same for a process that is told to end; then it ends all the same.
const SUCCESSOR_BEFORE_END: Duration = Duration::from_secs(5);
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
    let member = Member { ground, etcd, candidate, instance, address, lease: settings.lease(), stopping };
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
    instance: String,
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
    /// No leadership of this process would end better.
    Broken(String),
}

/// A leadership that was won, and what it begins with.
struct Won {
    key: HeldKey,
    following: Following,
    took: Took,
}

impl Member {
    async fn serve(&self) -> Result<(), StartError> {
        let (mut not_before, mut left) = (None, None);
        loop {
            let Some(won) = self.stand_by(not_before, left).await? else { return Ok(()) };
            let ended;
            (ended, left) = self.lead(won).await?;
            not_before = match ended {
                Ended::Told => return Ok(()),
                Ended::HandedOver => Some(Instant::now() + self.lease * LEASES_LEFT_TO_OTHERS),
                Ended::Lost(why) => {
                    tracing::warn!(why, "this scheduler leads no more and stands by");
                    Some(Instant::now() + REST)
                }
                Ended::Broken(why) => return Err(StartError::Ended(why)),
            };
        }
    }

    /// Follows the journal and says who leads, until this process leads; none when it is to end.
    async fn stand_by(&self, not_before: Option<Instant>, left: Option<Left>) -> Result<Option<Won>, StartError> {
        let (stop, stopping) = watch::channel(false);
        let serving = self.ground.stand_by(Seat::Following(self.candidate.seen()), stopping)?;
        let (ready, is_ready) = watch::channel(Readiness::Behind);
        let following = warm::follow(self.making(), left, ready)?;
        let standing = Standing::announce(&self.etcd, self.lease, &self.instance, is_ready.clone());
        let mut told = self.stopping.clone();
        tracing::info!(address = self.address, "standing by");
        let mut followed = is_ready.clone();
        let key = tokio::select! {
            () = async { while followed.changed().await.is_ok() {} } => {
                return Err(StartError::Stopped("the thread that follows the journal has failed".to_owned()));
            }
            key = self.candidate.stand(not_before, is_ready) => Some(key),
            _ = told.wait_for(|stop| *stop) => None,
        };
        drop(standing);
        let took = Took::from_now();
        stop.send_replace(true);
        // Those who wait here for an answer have it; connections end, and come back to the leader's server.
        let serving_ends = serving.end(LAST_REFUSALS);
        let Some(key) = key else {
            serving_ends.await;
            tokio::task::spawn_blocking(move || following.stop()).await.ok();
            return Ok(None);
        };
        tokio::spawn(serving_ends);
        Ok(Some(Won { key, following, took }))
    }

    /// What the warm cores are made with.
    fn making(&self) -> Making {
        let (config, refusals) = (self.ground.config.clone(), self.ground.refusals.clone());
        Making {
            etcd: self.etcd.clone(),
            policy: config.core_policy(),
            config: follower_config(&config),
            keep: Box::new(move |store_id: &str| keeping(&config, store_id, refusals.clone())),
        }
    }

    async fn lead(&self, won: Won) -> Result<(Ended, Option<Left>), StartError> {
        let key = won.key.clone();
        let (opened, mut took) = match self.open(won).await {
            Ok(opened) => opened,
            Err(err) => {
                tokio::task::spawn_blocking(move || key.give_up()).await.ok();
                return match err {
                    // Only these pass by themselves; whatever else is wrong needs an operator.
                    StartError::Journal(err) if !err.is_damage() => Ok((Ended::Lost(err.to_string()), None)),
                    other => Err(other),
                };
            }
        };
        let (hand_over, mut asked) = mpsc::channel(1);
        let seat = |epoch| Seat::Leading { address: self.address.clone(), epoch, hand_over };
        let tenure = opened.tenure.clone();
        let mut running: Running = match self.ground.lead(opened, seat, Some(self.candidate.seen()), &mut took).await {
            Ok(running) => running,
            // It was lost again before it had begun.
            Err(StartError::Stopped(why)) if !tenure.holds() => return Ok((Ended::Lost(why), None)),
            Err(other) => return Err(other),
        };
        tracing::info!(took_ms = took.all_ms(), steps = took.steps(), "the leadership was taken over");
        let mut told = self.stopping.clone();
        let ended = tokio::select! {
            why = running.ended() => match why {
                why if why.passes() => Ended::Lost(why.to_string()),
                why => Ended::Broken(why.to_string()),
            },
            () = self.handed_over(&mut asked) => Ended::HandedOver,
            () = async {
                drop(told.wait_for(|stop| *stop).await); // a sender that is gone means the same
                self.others_within(SUCCESSOR_BEFORE_END).await;
            } => Ended::Told,
        };
        let mut took = Took::from_now();
        let (leaving, left) = running.close(&mut took).await;
        tracing::info!(took_ms = took.all_ms(), steps = took.steps(), "the leadership was given up");
        if matches!(ended, Ended::Told) {
            leaving.end().await;
        } else {
            // Meanwhile this process stands by, and tells those who come here who leads.
            tokio::spawn(leaving.end());
        }
        Ok((ended, left))
    }

    /// Until a call has this scheduler hand over and another one could lead at once. First the successor is ready, then
    /// this one lets go.
    async fn handed_over(&self, asked: &mut mpsc::Receiver<AnswerHandOver>) {
        while let Some(answer) = asked.recv().await {
            let refusal = match self.others_within(SUCCESSOR_WITHIN).await {
                Some(Others::Ready) => None,
                Some(Others::Behind) => Some(format!(
                    "no scheduler that stands by has followed the journal to its end within {} s: try again in a moment",
                    SUCCESSOR_WITHIN.as_secs()
                )),
                Some(Others::None) => {
                    Some("no other scheduler stands by: start one, or stop this one to have it end".to_owned())
                }
                None => Some("etcd does not say who stands by: try again in a moment".to_owned()),
            };
            let is_handed_over = refusal.is_none();
            drop(answer.send(refusal.map_or(Ok(()), Err))); // whoever asked may have gone away
            if is_handed_over {
                return;
            }
        }
        std::future::pending().await // nobody can ask any more
    }

    /// Waits for another scheduler that could lead; none where etcd does not say.
    async fn others_within(&self, within: Duration) -> Option<Others> {
        let (etcd, instance) = (self.etcd.clone(), self.instance.clone());
        let seen = self.etcd.spawn(async move { await_ready(&etcd, &instance, within).await }).await;
        seen.ok()?.inspect_err(|err| tracing::warn!(error = %err, "who stands by cannot be seen")).ok()
    }

    /// From warm cores and the leader key to a journal that can be written.
    async fn open(&self, won: Won) -> Result<(Opened, Took), StartError> {
        let (etcd, config) = (self.etcd.clone(), self.ground.config.clone());
        let refusals = self.ground.refusals.clone();
        let opening = tokio::task::spawn_blocking(move || {
            let Won { key, following, mut took } = won;
            let tenure = key.tenure.clone();
            // Nobody else appends any more: what is read now is the end.
            let Ready { followed, recovered, mut second } = following.finish()?;
            took.step("caught_up");
            let reader = followed.as_ref().map(|followed| followed.reader().clone());
            let engine = ReplicatedEngine::lead(&etcd, key, followed, OpenOptions::default())?;
            second.leads(Seq(engine.last_snapshot()?));
            took.step("engine_opened");
            let reader = reader.map_or_else(|| ReplicatedReader::open(&etcd), Ok)?;
            let opened =
                Opened::begin(&config, Box::new(engine), recovered, second, Box::new(reader), tenure, refusals)?;
            took.step("begun");
            Ok((opened, took))
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

#[cfg(test)]
mod tests;
