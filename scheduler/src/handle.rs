//! How the services talk to the one task that owns the cluster.
//!
//! A call is run inside a turn, and its answer leaves when everything that it rests on is durable: reads, refusals and
//! repeated requests as well.

use dure_core::input::{Input, RequestKey};
use dure_core::rejected::Rejected;
use dure_core::reply::Reply;
use dure_core::{Cluster, ids::Epoch, ids::Seq};
use tokio::sync::{mpsc, oneshot};

use crate::auth::Caller;
use crate::journal::Blob;
use crate::live::Live;
use crate::room::Room;

/// Calls that wait for a turn; more are refused with a hint to come back.
pub const MAX_WAITING_CALLS: usize = 16_384;

/// What an answer rests on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    /// Everything up to here is durable.
    pub seq: Seq,
    /// The term of the leader that answers.
    pub epoch: Epoch,
}

/// Why a call has no answer of its own.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The core refused it; nothing was done.
    #[error("refused")]
    Rejected(Rejected),
    /// Too many calls wait; nothing was done; come back.
    #[error("the scheduler has {MAX_WAITING_CALLS} calls waiting; try again in a moment")]
    Overloaded,
    /// The journal's disk is nearly full; nothing was done; come back when there is room.
    #[error(
        "the disk of the scheduler's journal is nearly full: nothing new is taken until an operator makes room; what runs goes on"
    )]
    NoRoom,
    /// The scheduler stops, or its journal failed; whether the call took effect is unknown: repeat it with its request id.
    #[error("the scheduler is not able to make anything durable: {0}")]
    Stopped(String),
}

/// The part of a call that runs inside the turn. It gives the part that runs when the turn is durable (or is not).
pub type InTurn = Box<dyn FnOnce(&Cluster, &Live) -> WhenDurable + Send>;
/// The same, for a mutation, which has been decided by then.
pub type Decided = Box<dyn FnOnce(&Cluster, Result<Reply, Rejected>) -> WhenDurable + Send>;
/// The part of a call that runs when its turn is durable, or when that has become impossible.
pub type WhenDurable = Box<dyn FnOnce(Result<Position, String>) + Send>;

/// A call on its way to a turn.
pub enum Call {
    /// Looks at the state.
    Read(InTurn),
    /// Changes it.
    Mutate(Box<Mutation>),
}

/// A call that changes the state.
pub struct Mutation {
    /// Who calls.
    pub by: Caller,
    /// What happens.
    pub input: Input,
    /// Makes it idempotent.
    pub key: Option<RequestKey>,
    /// Blobs that become durable with it.
    pub blobs: Vec<Blob>,
    /// What to answer.
    pub then: Decided,
}

/// A way to the owner of the cluster. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    calls: mpsc::Sender<Call>,
    room: Room,
}

impl Handle {
    /// A handle, and the end at which the owner takes the calls.
    pub fn new() -> (Self, mpsc::Receiver<Call>) {
        let (calls, taken) = mpsc::channel(MAX_WAITING_CALLS);
        (Self { calls, room: Room::default() }, taken)
    }

    /// Whether the journal's disk has room: while it has not, little is taken.
    pub fn room(&self) -> &Room {
        &self.room
    }

    /// Looks at the state (and at what is known only while the process lives: telemetry, sessions) inside a turn.
    ///
    /// `look` must be quick: it holds up the turn.
    ///
    /// # Errors
    /// `Overloaded` or `Stopped`.
    pub async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Cluster, &Live) -> T + Send + 'static,
    ) -> Result<(T, Position), CallError> {
        let (answer, answered) = oneshot::channel();
        self.send(Call::Read(Box::new(move |cluster, live| {
            let seen = look(cluster, live);
            Box::new(move |durable| drop(answer.send(durable.map(|position| (seen, position)))))
        })))?;
        answered.await.map_err(|_| stopped())?.map_err(CallError::Stopped)
    }

    /// Has `input` decided inside a turn, on behalf of `by`. `look` sees the state right after it.
    ///
    /// # Errors
    /// `Rejected` when the core refuses it; `NoRoom`, `Overloaded` or `Stopped`.
    pub async fn mutate<T: Send + 'static>(
        &self,
        by: Caller,
        input: Input,
        key: Option<RequestKey>,
        blobs: Vec<Blob>,
        look: impl FnOnce(&Cluster, Reply) -> T + Send + 'static,
    ) -> Result<(T, Position), CallError> {
        self.ask(by, input, key, blobs, look)?.await
    }

    /// The same, sent before anybody waits for the answer: it comes before whatever is sent later.
    ///
    /// # Errors
    /// `NoRoom`, `Overloaded` or `Stopped`.
    pub(crate) fn ask<T, F>(
        &self,
        by: Caller,
        input: Input,
        key: Option<RequestKey>,
        blobs: Vec<Blob>,
        look: F,
    ) -> Result<impl Future<Output = Result<(T, Position), CallError>> + Send + use<T, F>, CallError>
    where
        T: Send + 'static,
        F: FnOnce(&Cluster, Reply) -> T + Send + 'static,
    {
        // What makes room, and what the scheduler does itself, goes on.
        let goes_on = matches!(input, Input::Cancel(_)) || by == Caller::scheduler(&by.method);
        if self.room.is_low() && !goes_on {
            return Err(CallError::NoRoom);
        }
        let (answer, answered) = oneshot::channel();
        let then: Decided = Box::new(move |cluster, decided| {
            let seen = decided.map(|reply| look(cluster, reply));
            Box::new(move |durable| drop(answer.send(durable.map(|position| (seen, position)))))
        });
        self.send(Call::Mutate(Box::new(Mutation { by, input, key, blobs, then })))?;
        Ok(async move {
            let (seen, position) = answered.await.map_err(|_| stopped())?.map_err(CallError::Stopped)?;
            Ok((seen.map_err(CallError::Rejected)?, position))
        })
    }

    fn send(&self, call: Call) -> Result<(), CallError> {
        self.calls.try_send(call).map_err(|failed| match failed {
            mpsc::error::TrySendError::Full(_) => CallError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => stopped(),
        })
    }
}

fn stopped() -> CallError {
    CallError::Stopped("it is shutting down".into())
}
