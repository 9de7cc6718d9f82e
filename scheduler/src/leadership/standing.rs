//! What those that stand by say of themselves in etcd: whether they could lead at once.
//!
//! In: the word of the warm core. Out: a key per process, under a lease of its own, that a leader reads before it hands
//! over. It is only a word: what decides who leads is the leader key alone.

use std::time::{Duration, Instant};

use dure_proto::etcd::{PutRequest, RequestOp, TxnRequest, request_op::Request};
use tokio::sync::watch;

use super::{Leadership, PATIENCE, Step};
use crate::etcd::{Etcd, EtcdError, Patience};

/// After a failure of etcd.
const AGAIN: Duration = Duration::from_millis(500);
/// How often a leader looks whether somebody could lead.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Others that are looked at.
const MAX_OTHERS: i64 = 64;
const READY: &[u8] = b"ready";
const BEHIND: &[u8] = b"behind";

/// How far a process that stands by is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Readiness {
    /// It has not followed the journal to its end yet.
    #[default]
    Behind,
    /// It could lead at once.
    Ready,
    /// It cannot follow the journal, again and again: it stands for the leadership all the same, for whoever leads to
    /// report what is wrong, but no leader lets go for it.
    Stuck,
}

/// Those that stand by, as a leader sees them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Others {
    /// Nobody stands by.
    None,
    /// Nobody has followed the journal to its end yet.
    Behind,
    /// At least one could lead at once.
    Ready,
}

/// Says that a process stands by, and whether it is ready, until this is dropped.
#[derive(Debug)]
pub struct Standing {
    over: watch::Sender<bool>,
}

impl Standing {
    /// From now on, for the process `instance`.
    pub fn announce(etcd: &Etcd, lease: Duration, instance: &str, ready: watch::Receiver<Readiness>) -> Self {
        let (over, is_over) = watch::channel(false);
        let said = Said { etcd: etcd.clone(), key: etcd.keys().standing(instance), lease, ready, is_over };
        etcd.spawn(said.keep());
        Self { over }
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.over.send_replace(true);
    }
}

/// Who stands by, but for the process `instance`, which asks.
///
/// # Errors
/// [`EtcdError`].
async fn others(etcd: &Etcd, instance: &str) -> Result<Others, EtcdError> {
    let own = etcd.keys().standing(instance);
    let answer = etcd.range(etcd.keys().all_standing(), MAX_OTHERS, false, Patience::of(PATIENCE)).await?;
    let words: Vec<_> = answer.kvs.into_iter().filter(|found| found.key != own).map(|found| found.value).collect();
    Ok(match words.iter().any(|word| *word == READY) {
        true => Others::Ready,
        false if words.is_empty() => Others::None,
        false => Others::Behind,
    })
}

/// Waits until one of the others is ready, at most so long: what was seen last.
///
/// # Errors
/// As `others`.
pub async fn await_ready(etcd: &Etcd, instance: &str, within: Duration) -> Result<Others, EtcdError> {
    let until = Instant::now() + within;
    loop {
        let seen = others(etcd, instance).await?;
        if seen != Others::Behind || Instant::now() >= until {
            return Ok(seen);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The key, and what it says.
struct Said {
    etcd: Etcd,
    key: Vec<u8>,
    lease: Duration,
    ready: watch::Receiver<Readiness>,
    is_over: watch::Receiver<bool>,
}

impl Said {
    async fn keep(mut self) {
        while !*self.is_over.borrow() {
            let asked = Instant::now();
            let seconds = i64::try_from(self.lease.as_secs().max(1)).unwrap_or(i64::MAX);
            let kept = match self.etcd.grant(seconds, Patience::of(PATIENCE)).await {
                Ok((lease, granted)) => {
                    let kept = self.keep_under(lease, asked, Duration::from_secs(granted.unsigned_abs())).await;
                    // The key goes with it; it would by itself.
                    let _ = self.etcd.revoke(lease, Patience::of(PATIENCE)).await;
                    kept
                }
                Err(err) => Err(err),
            };
            if let Err(err) = kept {
                tracing::warn!(error = %err, "etcd does not know that this scheduler stands by");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    /// Until it is over, or the lease is.
    async fn keep_under(&mut self, lease: i64, asked: Instant, span: Duration) -> Result<(), EtcdError> {
        let mut term = Leadership::new(asked, span);
        self.say(lease).await?;
        loop {
            match term.step(Instant::now()) {
                Step::Wait(span) => {
                    let is_over = async { drop(self.is_over.wait_for(|over| *over).await) };
                    let changed = tokio::select! {
                        changed = self.ready.changed() => Some(changed),
                        () = is_over => return Ok(()),
                        () = tokio::time::sleep(span) => None,
                    };
                    match changed {
                        Some(Ok(())) => self.say(lease).await?,
                        // Whoever followed the journal is gone, and this process will not lead.
                        Some(Err(_)) => return self.is_over.wait_for(|over| *over).await.map_or(Ok(()), |_| Ok(())),
                        None => {}
                    }
                }
                Step::Ended => return Err(EtcdError::Silent("the lease was not renewed in time".to_owned())),
                Step::Renew => {
                    let asked = Instant::now();
                    match self.etcd.renew(lease, term.renewal_deadline()).await {
                        Ok(0) => return Err(EtcdError::Silent("the lease has run out".to_owned())),
                        Ok(seconds) => term.renewed(asked, Duration::from_secs(seconds.unsigned_abs())),
                        Err(err) => tracing::debug!(error = %err, "the lease was not renewed"),
                    }
                }
            }
        }
    }

    async fn say(&mut self, lease: i64) -> Result<(), EtcdError> {
        let word = match *self.ready.borrow_and_update() {
            Readiness::Ready => READY,
            Readiness::Behind | Readiness::Stuck => BEHIND,
        };
        let put = PutRequest { key: self.key.clone().into(), value: word.into(), lease };
        let success = vec![RequestOp { request: Some(Request::RequestPut(put)) }];
        let request = TxnRequest { compare: Vec::new(), success, failure: Vec::new() };
        self.etcd.txn(request, Patience::of(PATIENCE)).await.map(drop)
    }
}
