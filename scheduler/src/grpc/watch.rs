//! Watch: what has happened since a position, out of the journal, then what happens, as it happens.
//!
//! In: the events that the owner of the cluster publishes once they are durable. Out: one stream per watcher, in order,
//! without gaps, of what the watcher may see. A watcher that does not keep up is told so and cut off: it never holds up
//! the others, and goes on from the position of the last event that it has seen.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use dure_core::event::Event;
use dure_core::ids::Seq;
use dure_core::units::Time;
use dure_proto::v1;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc};
use tokio_stream::Stream;
use tonic::Status;

use super::convert::{self, job_event};
use super::limits::{CATCH_UP, MAX_BATCHES_BEHIND, MAX_EVENTS_WAITING, MAX_WATCHERS, STALL_DEADLINE};
use super::request;
use super::server::Services;
use super::status::{self, Violation, busy};
use crate::auth::Visible;
use crate::journal::JournalError;

/// An event of the journal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recorded {
    /// Its position.
    pub seq: Seq,
    /// When it happened.
    pub time: Time,
    /// What happened.
    pub event: Event,
}

/// The journal as watchers read it.
pub trait Past: Send + Sync + 'static {
    /// The durable events after a position, oldest first, at most `limit`; empty at the end. May block.
    ///
    /// # Errors
    /// Those of reading the journal.
    fn events(&self, after: Seq, limit: usize) -> Result<Vec<Recorded>, JournalError>;
}

/// Where watchers listen. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Watchers {
    events: broadcast::Sender<Arc<Vec<v1::JobEvent>>>,
    places: Arc<Semaphore>,
}

impl Default for Watchers {
    fn default() -> Self {
        Self::new()
    }
}

impl Watchers {
    /// Nobody watches yet.
    pub fn new() -> Self {
        Self { events: broadcast::Sender::new(MAX_BATCHES_BEHIND), places: Arc::new(Semaphore::new(MAX_WATCHERS)) }
    }

    /// Shows events to all who watch. They are durable, and in order.
    pub fn publish(&self, events: Vec<v1::JobEvent>) {
        // Without watchers there is nobody to tell.
        drop(self.events.send(Arc::new(events)));
    }

    /// Everything that is published from now on.
    pub fn subscribe(&self) -> Live {
        self.events.subscribe()
    }
}

/// What is published: one batch of events for each turn that had any.
pub type Live = broadcast::Receiver<Arc<Vec<v1::JobEvent>>>;

/// What a watcher sees.
#[derive(Clone, Debug)]
struct Filter {
    visible: Visible,
    tenant: String,
    job_id: u64,
    user: String,
}

impl Filter {
    fn shows(&self, event: &v1::JobEvent) -> bool {
        self.visible.shows(&event.tenant)
            && convert::is_within(&event.tenant, &self.tenant)
            && (self.job_id == 0 || self.job_id == event.job_id)
            && (self.user.is_empty() || self.user == event.user)
    }
}

/// The stream of one watcher.
#[derive(Debug)]
pub struct Events {
    events: mpsc::Receiver<Result<v1::JobEvent, Status>>,
    _place: OwnedSemaphorePermit,
}

impl Stream for Events {
    type Item = Result<v1::JobEvent, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_recv(context)
    }
}

/// Begins to watch.
pub(super) async fn watch(services: &Services, visible: Visible, asked: v1::WatchRequest) -> Result<Events, Status> {
    let v1::WatchRequest { after_seq, tenant, job_id, user } = asked;
    request::name("tenant", &tenant)?;
    request::name("user", &user)?;
    let place = services.watchers.places.clone().try_acquire_owned();
    let place = place.map_err(|_| busy(format!("{MAX_WATCHERS} watchers are connected; try again in a moment")))?;
    // Before the journal is read: what is made durable after this is seen here, what was before is read there.
    let live = services.watchers.subscribe();
    let ((), position) = services.handle.read(|_, _| ()).await?;
    if after_seq > position.seq.0 {
        let problem =
            format!("{after_seq} lies after the end of the journal at {}; use 0 to watch from now on", position.seq);
        return Err(Violation::new("after_seq", problem).into());
    }
    let (out, events) = mpsc::channel(MAX_EVENTS_WAITING + 1);
    let last_word = out.clone().try_reserve_owned().map_err(|_| Status::internal("a new stream has no room"))?;
    let filter = Filter { visible, tenant, job_id, user };
    let last = if after_seq == 0 { position.seq } else { Seq(after_seq) };
    let watcher = Watcher { services: services.clone(), filter, last, out };
    tokio::spawn(async move {
        let (ended, last) = watcher.run(live, position.seq).await;
        match ended {
            Ended::Gone => {}
            Ended::TooSlow => drop(last_word.send(Ok(dropped(last)))),
            Ended::Failed(status) => drop(last_word.send(Err(status))),
        }
    });
    Ok(Events { events, _place: place })
}

/// Why a watch is over.
enum Ended {
    /// Its reader has gone.
    Gone,
    /// Its reader does not keep up.
    TooSlow,
    /// It cannot go on.
    Failed(Status),
}

/// The last event of a watcher that was too slow.
fn dropped(last: Seq) -> v1::JobEvent {
    let detail = format!("the watcher did not keep up; go on with after_seq {last}");
    v1::JobEvent { seq: last.0, kind: "dropped".to_owned(), detail, ..Default::default() }
}

struct Watcher {
    services: Services,
    filter: Filter,
    /// Everything up to here was looked at, and shown where it was to be.
    last: Seq,
    out: mpsc::Sender<Result<v1::JobEvent, Status>>,
}

impl Watcher {
    /// Why it ended, and up to where it came.
    async fn run(mut self, live: Live, head: Seq) -> (Ended, Seq) {
        let ended = match self.catch_up(head).await {
            Ok(()) => self.follow(live).await.err().unwrap_or(Ended::Gone),
            Err(ended) => ended,
        };
        (ended, self.last)
    }

    /// Shows what the journal holds, to its end and at least to `head`.
    async fn catch_up(&mut self, head: Seq) -> Result<(), Ended> {
        if self.last >= head {
            return Ok(());
        }
        loop {
            let (past, after) = (self.services.past.clone(), self.last);
            let read = tokio::task::spawn_blocking(move || past.events(after, CATCH_UP)).await;
            let failed = |why: String| Ended::Failed(Status::internal(format!("the journal cannot be read: {why}")));
            let recorded = read.map_err(|err| failed(err.to_string()))?.map_err(|err| match err {
                JournalError::Truncated { kept_from } => Ended::Failed(status::kept_no_longer(after, kept_from)),
                other => failed(other.to_string()),
            })?;
            let Some(last) = recorded.last().map(|recorded| recorded.seq) else { return Ok(()) };
            let shown = self.services.handle.read(move |cluster, _| {
                let event = |recorded: &Recorded| job_event(cluster, recorded.seq.0, recorded.time, &recorded.event);
                recorded.iter().filter_map(event).collect::<Vec<_>>()
            });
            let (mut events, _) = shown.await.map_err(|err| Ended::Failed(err.into()))?;
            once_running(&mut events);
            for event in events {
                self.show(event).await?;
            }
            self.last = last;
        }
    }

    /// Shows what happens.
    async fn follow(&mut self, mut live: Live) -> Result<(), Ended> {
        loop {
            let batch = tokio::select! {
                batch = live.recv() => batch,
                () = self.out.closed() => return Err(Ended::Gone),
            };
            let batch = batch.map_err(|err| match err {
                RecvError::Lagged(_) => Ended::TooSlow,
                RecvError::Closed => Ended::Failed(Status::unavailable("the scheduler stops; watch again")),
            })?;
            let from = self.last.0;
            for event in batch.iter().filter(|event| event.seq > from) {
                self.show(event.clone()).await?;
            }
            self.last = batch.last().map_or(self.last, |event| self.last.max(Seq(event.seq)));
        }
    }

    async fn show(&mut self, event: v1::JobEvent) -> Result<(), Ended> {
        if !self.filter.shows(&event) {
            return Ok(());
        }
        let seq = Seq(event.seq);
        match tokio::time::timeout(STALL_DEADLINE, self.out.send(Ok(event))).await {
            Ok(Ok(())) => {
                self.last = seq;
                Ok(())
            }
            Ok(Err(_)) => Err(Ended::Gone),
            Err(_) => Err(Ended::TooSlow),
        }
    }
}

/// Members that started in the same instant are all taken for the last one when the journal is read later: one of them
/// stands for the start of the job.
fn once_running(events: &mut Vec<v1::JobEvent>) {
    let mut seen = BTreeSet::new();
    events.retain(|event| event.kind != "running" || seen.insert((event.job_id, event.attempt)));
}
