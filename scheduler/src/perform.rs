//! Effects -> the world: answers, messages to agents, watch events. Called only with effects whose position is durable.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use dure_core::ids::{BlobId, NodeIndex};
use dure_proto::v1;
use dure_proto::v1::order::What;
use dure_proto::v1::scheduler_message::Kind;
use prost::Message as _;

use crate::agents::say;
use crate::effect::Effect;
use crate::grpc::watch::Watchers;
use crate::handle::Position;
use crate::journal::JournalError;
use crate::turn::Scheduler;

/// Payloads that are kept at hand, in bytes: what was just submitted is launched next.
const MAX_CACHED_BYTES: usize = 64 << 20;

/// Reads a blob of the journal.
pub type ReadBlob = Box<dyn FnMut(crate::journal::BlobId) -> Result<Option<Vec<u8>>, JournalError> + Send>;

/// Payloads by id: those at hand, else from the journal.
pub struct Payloads {
    read: ReadBlob,
    cached: BTreeMap<BlobId, Arc<v1::Payload>>,
    order: VecDeque<(BlobId, usize)>,
    bytes: usize,
    /// The journal did not answer: it is asked again with the next effects, and nobody waits for it once more now.
    is_silent: bool,
}

impl Payloads {
    /// Nothing at hand.
    pub fn new(read: ReadBlob) -> Self {
        Self { read, cached: BTreeMap::new(), order: VecDeque::new(), bytes: 0, is_silent: false }
    }

    /// Keeps an encoded payload at hand. What cannot be decoded was refused when it was submitted.
    pub fn keep(&mut self, id: BlobId, bytes: &[u8]) {
        if self.cached.contains_key(&id) {
            return;
        }
        let Ok(payload) = v1::Payload::decode(bytes) else { return };
        self.cached.insert(id, Arc::new(payload));
        self.order.push_back((id, bytes.len()));
        self.bytes += bytes.len();
        while self.bytes > MAX_CACHED_BYTES {
            let Some((oldest, size)) = self.order.pop_front() else { break };
            self.cached.remove(&oldest);
            self.bytes -= size;
        }
    }

    fn get(&mut self, id: BlobId) -> Option<Arc<v1::Payload>> {
        if !self.cached.contains_key(&id) && !self.is_silent {
            match (self.read)(crate::journal::BlobId(id.0)) {
                Ok(Some(bytes)) => self.keep(id, &bytes),
                Ok(None) => tracing::error!(blob = ?id, "a payload is missing from the journal"),
                Err(err) => {
                    tracing::error!(blob = ?id, error = %err, "a payload cannot be read");
                    self.is_silent = matches!(err, JournalError::Storage { .. } | JournalError::Closed);
                }
            }
        }
        self.cached.get(&id).cloned()
    }
}

/// Carries out effects.
pub struct Performer {
    /// Where payloads come from.
    pub payloads: Payloads,
    /// Who is shown what happens.
    pub watchers: Watchers,
}

impl Performer {
    /// Carries out `effects`, all of which rest on durable positions.
    pub fn perform(&mut self, scheduler: &mut Scheduler, effects: Vec<Effect>, position: Position) {
        self.payloads.is_silent = false;
        for effect in effects {
            match effect {
                Effect::Answer(answer) => answer(Ok(position)),
                Effect::Tell(node, message) => tell(scheduler, node, *message),
                Effect::Order(node, order, payload) => {
                    if let Some(order) = self.complete(*order, payload) {
                        tell(scheduler, node, say(Kind::Order(order)));
                    }
                }
                // A later session of the node has said another Hello, and this answers an earlier one: what is wanted may
                // have changed with it, and the agent would obey.
                Effect::Welcome(node, session, ..) if scheduler.session(node) != Some(session) => {}
                Effect::Welcome(node, _, mut welcome, wanted) => {
                    let complete = |(order, payload)| self.complete(order, payload);
                    welcome.wanted = wanted.into_iter().filter_map(complete).collect();
                    tell(scheduler, node, say(Kind::Welcome(*welcome)));
                }
                Effect::Hang(_, outgoing) => {
                    outgoing.cut(tonic::Status::aborted("a later session of the same node has taken this one's place"));
                }
                Effect::Publish(events) => self.watchers.publish(events),
            }
        }
    }

    /// The order with its payload. Without its payload a launch is worth nothing: the deadline for launches sees to it.
    fn complete(&mut self, mut order: v1::Order, payload: Option<BlobId>) -> Option<v1::Order> {
        if let (Some(id), Some(What::Launch(launch) | What::Go(launch))) = (payload, order.what.as_mut()) {
            launch.payload = Some(self.payloads.get(id)?.as_ref().clone());
        }
        Some(order)
    }
}

/// Says something to an agent. One that does not take it in is cut off: it comes back and is told everything anew.
fn tell(scheduler: &mut Scheduler, node: NodeIndex, message: v1::SchedulerMessage) {
    let Some(outgoing) = scheduler.outgoing(node) else { return };
    if outgoing.tell(message).is_err() {
        tracing::warn!(node = %scheduler.cluster().node(node).name, "the agent does not read: its session is cut off");
        scheduler.cut_off(node);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_journal_that_is_silent_is_asked_once_for_all_that_waits() {
        let asked = Arc::new(AtomicU32::new(0));
        let counted = asked.clone();
        let silent = move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            Err(JournalError::Closed)
        };
        let mut payloads = Payloads::new(Box::new(silent));
        assert!((0..100).all(|id| payloads.get(BlobId([id; 16])).is_none()));
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        payloads.is_silent = false;
        assert!(payloads.get(BlobId([1; 16])).is_none());
        assert_eq!(asked.load(Ordering::Relaxed), 2, "the next time it is asked again");
    }
}
