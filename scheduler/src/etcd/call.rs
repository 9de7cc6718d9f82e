//! One request, any member: the tries, their deadlines, and what an error of a member means.

use std::future::Future;
use std::time::{Duration, Instant};

use dure_proto::etcd::{
    CompactionRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, RangeRequest, RangeResponse,
    TxnRequest, TxnResponse,
};
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::keys::Range;
use super::{Etcd, EtcdError};

/// The first try's deadline; each later one has twice as long, up to `LONGEST_TRY`.
const FIRST_TRY: Duration = Duration::from_millis(500);
const LONGEST_TRY: Duration = Duration::from_secs(4);
/// Between two tries, once every member has been asked.
const BETWEEN: Duration = Duration::from_millis(50);

/// How long a request may be tried.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    until: Instant,
}

impl Patience {
    /// For this long from now on.
    pub fn of(span: Duration) -> Self {
        Self { until: Instant::now() + span }
    }

    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
}

/// What an error of one member means for the request.
fn meaning(status: &Status) -> EtcdError {
    let text = || format!("{:?}: {}", status.code(), status.message());
    match status.code() {
        Code::ResourceExhausted if status.message().contains("database space exceeded") => EtcdError::NoSpace(text()),
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::Unimplemented
        | Code::OutOfRange
        | Code::FailedPrecondition => EtcdError::Refused(text()),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => EtcdError::Silent(text()),
    }
}

impl Etcd {
    /// Asks one member after the other until one answers or patience ends. Only for requests that may be repeated.
    async fn any<T, F>(&self, patience: Patience, ask: impl Fn(Channel) -> F) -> Result<T, EtcdError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let mut deadline = FIRST_TRY;
        let mut last = "no time was left to ask".to_owned();
        for turn in 0_usize.. {
            let left = patience.left();
            if left.is_zero() {
                break;
            }
            let (member, channel) = self.channel(turn);
            match tokio::time::timeout(deadline.min(left), ask(channel)).await {
                Ok(Ok(answer)) => {
                    self.answered(member);
                    return Ok(answer);
                }
                Ok(Err(status)) => match meaning(&status) {
                    EtcdError::Silent(why) => last = why,
                    decided => return Err(decided),
                },
                Err(_) => last = format!("no answer within {deadline:?}"),
            }
            if (turn + 1) % self.members() == 0 {
                deadline = (deadline * 2).min(LONGEST_TRY);
                tokio::time::sleep(BETWEEN.min(patience.left())).await;
            }
        }
        Err(EtcdError::Silent(last))
    }

    /// A transaction, tried at one member after the other: its compare must make a repetition visible.
    ///
    /// # Errors
    /// [`EtcdError`]; after [`EtcdError::Silent`] it may have taken effect.
    pub async fn txn(&self, request: TxnRequest, patience: Patience) -> Result<TxnResponse, EtcdError> {
        self.any(patience, |channel| {
            let request = request.clone();
            async move { Self::kv(channel).txn(request).await.map(tonic::Response::into_inner) }
        })
        .await
    }

    /// The keys of a range and their values (empty when `keys_only`), in order, at most `limit` (0: all).
    ///
    /// # Errors
    /// [`EtcdError`].
    pub async fn range(
        &self,
        range: Range,
        limit: i64,
        keys_only: bool,
        patience: Patience,
    ) -> Result<RangeResponse, EtcdError> {
        let request = RangeRequest { key: range.key.into(), range_end: range.end.into(), limit, keys_only };
        self.any(patience, |channel| {
            let request = request.clone();
            async move { Self::kv(channel).range(request).await.map(tonic::Response::into_inner) }
        })
        .await
    }

    /// Forgets all versions of keys before `revision`. That it was done already is no error.
    ///
    /// # Errors
    /// [`EtcdError`].
    pub async fn compact(&self, revision: i64, patience: Patience) -> Result<(), EtcdError> {
        let asked = self.any(patience, |channel| async move {
            let request = CompactionRequest { revision, physical: false };
            Self::kv(channel).compact(request).await.map(drop)
        });
        match asked.await {
            Err(EtcdError::Refused(why)) if why.contains("has been compacted") => Ok(()),
            other => other,
        }
    }

    /// A new lease of so many seconds: its id, and the seconds that were granted.
    ///
    /// # Errors
    /// [`EtcdError`].
    pub async fn grant(&self, seconds: i64, patience: Patience) -> Result<(i64, i64), EtcdError> {
        let granted = self
            .any(patience, |channel| async move {
                let request = LeaseGrantRequest { ttl: seconds, id: 0 };
                Self::lease(channel).lease_grant(request).await.map(tonic::Response::into_inner)
            })
            .await?;
        Ok((granted.id, granted.ttl))
    }

    /// Ends a lease and deletes the keys under it. A lease that is over is no error.
    ///
    /// # Errors
    /// [`EtcdError`].
    pub async fn revoke(&self, id: i64, patience: Patience) -> Result<(), EtcdError> {
        let asked = self.any(patience, |channel| async move {
            Self::lease(channel).lease_revoke(LeaseRevokeRequest { id }).await.map(drop)
        });
        match asked.await {
            Err(EtcdError::Refused(why)) if why.contains("NotFound") => Ok(()),
            other => other,
        }
    }

    /// Renews a lease: asks all members at once, since one that hangs must not cost the leadership. Gives the seconds from
    /// the asking on; 0 when the lease is over.
    ///
    /// # Errors
    /// [`EtcdError::Silent`] when no member answered within `deadline`.
    pub async fn renew(&self, id: i64, deadline: Duration) -> Result<i64, EtcdError> {
        let mut asked = JoinSet::new();
        for turn in 0..self.members() {
            let (member, channel) = self.channel(turn);
            asked.spawn(async move { (member, keep_alive(channel, id).await) });
        }
        let mut last = format!("no renewal within {deadline:?}");
        let first = async {
            while let Some(done) = asked.join_next().await {
                match done {
                    Ok((_, Ok(seconds))) => return Some(seconds),
                    Ok((_, Err(status))) => last = status.message().to_owned(),
                    Err(err) => last = err.to_string(),
                }
            }
            None
        };
        match tokio::time::timeout(deadline, first).await {
            Ok(Some(seconds)) => Ok(seconds),
            Ok(None) | Err(_) => Err(EtcdError::Silent(last)),
        }
    }
}

async fn keep_alive(channel: Channel, id: i64) -> Result<i64, Status> {
    // A renewal is a stream of one request.
    let request = tokio_stream::once(LeaseKeepAliveRequest { id });
    let mut answers = Etcd::lease(channel).lease_keep_alive(request).await?.into_inner();
    match answers.message().await? {
        Some(answer) => Ok(answer.ttl),
        None => Err(Status::unavailable("the member closed the stream")),
    }
}
