//! Who leads, among several schedulers on etcd: one key under a lease. The revision that created the key is the epoch.
//!
//! In: what etcd answers, and time. Out: a leadership that everybody asks before letting something out (`tenure`), and who
//! leads where this process does not. `machine` decides, synchronously; this file and `candidate` carry its words to etcd and
//! back, on a thread of their own: no write of the journal stands in the way of a renewal. Holding the key is only the
//! permission to try: what fences a deposed leader is the compare in every transaction, and the epoch that agents keep.

mod candidate;
mod machine;
mod standing;
mod tenure;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dure_proto::etcd::{PutRequest, RequestOp, TxnRequest, request_op::Request, response_op::Response};
use dure_proto::journal::v1::StoredLeader;
use prost::Message as _;

pub use candidate::{Candidate, Seen, SeenLeader};
pub use machine::{Leadership, Step};
pub use standing::{Others, Readiness, Standing, await_ready};
pub use tenure::Tenure;

use crate::etcd::{Etcd, EtcdError, Patience};
use crate::journal::JournalError;

/// How long one campaign, or giving the key up, may be tried.
const PATIENCE: Duration = Duration::from_secs(2);

/// The leader key, held by this process and renewed by a task of its own.
#[derive(Clone, Debug)]
pub struct HeldKey {
    etcd: Etcd,
    lease: i64,
    given_up: Arc<AtomicBool>,
    /// The revision that created the key: what every transaction compares.
    pub revision: i64,
    /// Whether it is still held.
    pub tenure: Tenure,
}

impl HeldKey {
    /// Ends the leadership at once, for this process and for those that wait. May block for a moment.
    pub fn give_up(&self) {
        self.tenure.end("it was given up");
        if self.given_up.swap(true, Ordering::SeqCst) {
            return;
        }
        let (etcd, lease) = (self.etcd.clone(), self.lease);
        let revoked = self.etcd.block(async move { etcd.revoke(lease, Patience::of(PATIENCE)).await });
        if let Err(err) = revoked {
            tracing::warn!(error = %err, "the leader key could not be given up: its lease runs out by itself");
        }
    }
}

/// Why the leader key is not held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotHeld {
    /// Somebody else holds it.
    Taken { leader: StoredLeader, revision: i64, lease: i64 },
    /// Nobody knows.
    Etcd(EtcdError),
}

impl NotHeld {
    pub(crate) fn into_journal(self, etcd: &Etcd) -> JournalError {
        match self {
            NotHeld::Taken { .. } => JournalError::AlreadyLed { dir: etcd.place(), holder: None },
            NotHeld::Etcd(err) => crate::journal::replicated::storage(etcd, "campaigning", err),
        }
    }
}

/// Tries once to become the leader, from a thread that may block.
pub(crate) fn hold(etcd: &Etcd, lease: Duration, instance: &str, address: &str) -> Result<HeldKey, NotHeld> {
    let me = StoredLeader { instance: instance.to_owned(), address: address.to_owned() };
    let campaigning = etcd.clone();
    let held = etcd.block(async move { Ok(campaign(&campaigning, lease, &me).await) });
    held.unwrap_or_else(|err| Err(NotHeld::Etcd(err)))
}

/// Tries once to become the leader: puts the key under a new lease, if there is none.
pub(crate) async fn campaign(etcd: &Etcd, lease: Duration, me: &StoredLeader) -> Result<HeldKey, NotHeld> {
    let seconds = i64::try_from(lease.as_secs().max(1)).unwrap_or(i64::MAX);
    let asked = Instant::now();
    let (id, granted) = etcd.grant(seconds, Patience::of(PATIENCE)).await.map_err(NotHeld::Etcd)?;
    let key = etcd.keys().leader();
    let put = PutRequest { key: key.clone().into(), value: me.encode_to_vec().into(), lease: id };
    let request = TxnRequest {
        compare: vec![crate::journal::replicated::created_at(key.clone(), 0)],
        success: vec![RequestOp { request: Some(Request::RequestPut(put)) }],
        failure: vec![crate::journal::replicated::get(key)],
    };
    let answer = match etcd.txn(request, Patience::of(PATIENCE)).await {
        Ok(answer) => answer,
        Err(err) => {
            // It may have gone through: then the key goes with the lease.
            let _ = etcd.revoke(id, Patience::of(PATIENCE)).await;
            return Err(NotHeld::Etcd(err));
        }
    };
    let won = answer.header.as_ref().map_or(0, |header| header.revision);
    if answer.succeeded {
        return Ok(keep(etcd, id, won, asked, granted));
    }
    let found = answer.responses.into_iter().find_map(|answer| match answer.response {
        Some(Response::ResponseRange(range)) => range.kvs.into_iter().next(),
        Some(Response::ResponsePut(_) | Response::ResponseDeleteRange(_)) | None => None,
    });
    match found {
        // An earlier try of this very campaign went through.
        Some(found) if found.lease == id => Ok(keep(etcd, id, found.create_revision, asked, granted)),
        Some(found) => {
            let _ = etcd.revoke(id, Patience::of(PATIENCE)).await;
            let leader = StoredLeader::decode(found.value).unwrap_or_default();
            Err(NotHeld::Taken { leader, revision: found.create_revision, lease: found.lease })
        }
        None => Err(NotHeld::Etcd(EtcdError::Silent("the leader key has just gone".to_owned()))),
    }
}

/// Renews the lease of a key from now on, until the leadership ends.
fn keep(etcd: &Etcd, lease: i64, revision: i64, asked: Instant, seconds: i64) -> HeldKey {
    let span = Duration::from_secs(seconds.unsigned_abs());
    let tenure = Tenure::leased(asked, span);
    let held = HeldKey {
        etcd: etcd.clone(),
        lease,
        given_up: Arc::new(AtomicBool::new(false)),
        revision,
        tenure: tenure.clone(),
    };
    let renewing = etcd.clone();
    etcd.spawn(async move {
        let mut leadership = Leadership::new(asked, span);
        while tenure.holds() {
            match leadership.step(Instant::now()) {
                Step::Wait(span) => tokio::time::sleep(span).await,
                Step::Ended => tenure.end("etcd has not renewed the lease in time"),
                Step::Renew => {
                    let asked = Instant::now();
                    match renewing.renew(lease, leadership.renewal_deadline()).await {
                        Ok(0) => tenure.end("the lease has run out"),
                        Ok(seconds) => {
                            let span = Duration::from_secs(seconds.unsigned_abs());
                            leadership.renewed(asked, span);
                            tenure.extend(asked + span);
                        }
                        Err(err) => tracing::warn!(error = %err, "the lease was not renewed"),
                    }
                }
            }
        }
    });
    held
}
