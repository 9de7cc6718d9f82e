//! Standing for the leadership: tries when the key is free, says who holds it when it is not, and comes back.

use std::time::{Duration, Instant};

use dure_proto::journal::v1::StoredLeader;
use prost::Message as _;
use tokio::sync::watch;

use super::{HeldKey, NotHeld, Readiness, campaign};
use crate::etcd::keys::Range;
use crate::etcd::{Etcd, Patience};

/// How long a look at the leader key may take.
const LOOK: Duration = Duration::from_secs(2);
/// After a failure of etcd, or a key that went while it was looked at.
const AGAIN: Duration = Duration::from_millis(100);

/// Who leads, as far as a scheduler knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenLeader {
    /// Where it is reached; empty while nobody leads, or nobody knows.
    pub address: String,
    /// The revision that created its key.
    pub revision: i64,
}

/// Who leads, always the newest word.
pub type Seen = watch::Receiver<SeenLeader>;

/// A scheduler that stands for the leadership.
#[derive(Debug)]
pub struct Candidate {
    etcd: Etcd,
    lease: Duration,
    me: StoredLeader,
    seen: watch::Sender<SeenLeader>,
}

impl Candidate {
    /// One process: `instance` is the same after a restart in the same folder, and no other process has it at a time.
    pub fn new(etcd: Etcd, lease: Duration, instance: &str, address: &str) -> Self {
        let me = StoredLeader { instance: instance.to_owned(), address: address.to_owned() };
        Self { etcd, lease, me, seen: watch::Sender::new(SeenLeader::default()) }
    }

    /// Who leads.
    pub fn seen(&self) -> Seen {
        self.seen.subscribe()
    }

    /// Waits until this process leads. It does not try while it is behind: one that is ready could lead sooner; nor
    /// before `not_before`, unless another one has led meanwhile.
    pub async fn stand(&self, mut not_before: Option<Instant>, mut ready: watch::Receiver<Readiness>) -> HeldKey {
        // If it has led itself until now, it must send nobody to itself.
        self.seen.send_replace(SeenLeader::default());
        let mut has_gone = false;
        loop {
            // The transaction of a campaign looks as well.
            let looked = if std::mem::take(&mut has_gone) { Ok(None) } else { self.look().await };
            let looked = match looked {
                Ok(None)
                    if *ready.borrow_and_update() == Readiness::Behind
                        || not_before.is_some_and(|time| Instant::now() < time) =>
                {
                    self.seen.send_replace(SeenLeader::default());
                    AGAIN
                }
                Ok(None) => match campaign(&self.etcd, self.lease, &self.me).await {
                    Ok(held) => {
                        let leader = SeenLeader { address: self.me.address.clone(), revision: held.revision };
                        self.seen.send_replace(leader);
                        return held;
                    }
                    Err(NotHeld::Taken { .. }) => Duration::ZERO,
                    Err(NotHeld::Etcd(err)) => {
                        tracing::warn!(error = %err, "no campaign");
                        AGAIN
                    }
                },
                Ok(Some(wait)) => {
                    // Another one has taken it. Who gives it up next may mean this process.
                    not_before = None;
                    wait
                }
                Err(err) => {
                    // Whoever was seen last may be long gone, and callers would be sent there for ever.
                    self.seen.send_replace(SeenLeader::default());
                    tracing::warn!(error = %err, "who leads cannot be seen");
                    AGAIN
                }
            };
            tokio::select! {
                gone = self.await_change(looked) => has_gone = gone,
                Ok(()) = ready.changed() => {}
            }
        }
    }

    /// `None` when nobody leads; else how long to wait for a word before looking again.
    async fn look(&self) -> Result<Option<Duration>, crate::etcd::EtcdError> {
        let range = Range::one(self.etcd.keys().leader());
        let answer = self.etcd.range(range, 1, false, Patience::of(LOOK)).await?;
        let Some(found) = answer.kvs.into_iter().next() else { return Ok(None) };
        let leader = StoredLeader::decode(found.value).unwrap_or_default();
        if leader.instance == self.me.instance {
            // Left behind by this process, or by its predecessor in the same folder, which is dead.
            self.etcd.revoke(found.lease, Patience::of(LOOK)).await?;
            return Ok(None);
        }
        let seen = SeenLeader { address: leader.address, revision: found.create_revision };
        self.seen.send_if_modified(|known| {
            let is_new = *known != seen;
            *known = seen;
            is_new
        });
        Ok(Some(self.lease))
    }

    /// Until the leader key changes, or `longest`: a watch may miss what a look will see. Whether a key that was held has gone.
    async fn await_change(&self, longest: Duration) -> bool {
        let changed = async {
            match self.etcd.watch(Range::one(self.etcd.keys().leader())).await {
                // The first message says that the watch is there; what changed before it must be looked at.
                Ok(mut changes) => {
                    if let Ok(Some(_)) = changes.message().await
                        && self.is_held().await
                    {
                        // A watch that breaks off is a reason to look as well.
                        return matches!(changes.message().await, Ok(Some(_)));
                    }
                }
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
            false
        };
        tokio::time::timeout(longest, changed).await.unwrap_or(false)
    }

    async fn is_held(&self) -> bool {
        let range = Range::one(self.etcd.keys().leader());
        let answer = self.etcd.range(range, 1, true, Patience::of(LOOK)).await;
        answer.is_ok_and(|answer| !answer.kvs.is_empty())
    }
}
