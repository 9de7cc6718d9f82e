//! The desk where the output of jobs is read: a reader asks, the session of the node carries the question and the answer.
//!
//! Beside the owner of the cluster, not through it: output never holds up a turn.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dure_proto::v1;
use dure_proto::v1::scheduler_message::Kind;
use tokio::sync::mpsc;

use super::{Outgoing, say};

/// Chunks that wait for a reader; a slower one is cut off.
const MAX_WAITING_CHUNKS: usize = 64;
/// Reads that run at once, over all nodes.
const MAX_READS: usize = 1024;

/// Why a read did not begin.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The node's agent has no session: come back when it has.
    #[error("node {0} is not connected; its logs can be read when its agent is back")]
    NotConnected(String),
    /// Too many reads: come back later.
    #[error("{MAX_READS} logs are being read; try again in a moment")]
    TooMany,
}

#[derive(Default)]
pub(super) struct Desk {
    pub(super) agents: BTreeMap<String, (u64, Outgoing)>,
    reads: BTreeMap<u64, mpsc::Sender<v1::LogData>>,
    /// Programs beside members: the node, and the way to who listens.
    pub(super) execs: BTreeMap<u64, (String, mpsc::Sender<v1::ExecOutput>)>,
}

/// The desk. Cheap to clone.
#[derive(Clone, Default)]
pub struct LogDesk {
    desk: Arc<Mutex<Desk>>,
    next_read: Arc<AtomicU64>,
}

/// A read under way; dropping it tells the agent to stop.
pub struct LogReading {
    /// What the agent sends.
    pub chunks: mpsc::Receiver<v1::LogData>,
    read_id: u64,
    node: String,
    desk: LogDesk,
}

impl LogDesk {
    pub(super) fn lock(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn next_id(&self) -> u64 {
        self.next_read.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A session has begun.
    pub(super) fn opened(&self, node: &str, session: u64, outgoing: Outgoing) {
        self.lock().agents.insert(node.to_owned(), (session, outgoing));
    }

    /// A session is over.
    pub(super) fn closed(&self, node: &str, session: u64) {
        let mut desk = self.lock();
        if desk.agents.get(node).is_some_and(|(current, _)| *current == session) {
            desk.agents.remove(node);
            // The agent ends the programs of a session with it; dropping the senders tells who listens.
            desk.execs.retain(|_, (of, _)| of != node);
        }
    }

    /// An agent has read something. A reader that is too slow, or gone, is forgotten.
    pub(super) fn arrived(&self, data: v1::LogData) {
        let (read_id, end) = (data.read_id, data.end);
        let mut desk = self.lock();
        let fell_behind = desk.reads.get(&read_id).is_some_and(|reader| reader.try_send(data).is_err());
        if fell_behind || end {
            desk.reads.remove(&read_id);
        }
    }

    /// Asks the agent of `node` for output. `read_id` of the question is filled in.
    ///
    /// # Errors
    /// `NotConnected` or `TooMany`.
    pub fn open(&self, node: &str, mut read: v1::LogRead) -> Result<LogReading, LogError> {
        let read_id = self.next_id();
        read.read_id = read_id;
        let (sender, chunks) = mpsc::channel(MAX_WAITING_CHUNKS);
        let mut desk = self.lock();
        if desk.reads.len() >= MAX_READS {
            return Err(LogError::TooMany);
        }
        let not_connected = || LogError::NotConnected(node.to_owned());
        let (_, outgoing) = desk.agents.get(node).ok_or_else(not_connected)?;
        outgoing.tell(say(Kind::LogRead(read))).map_err(|_| not_connected())?;
        desk.reads.insert(read_id, sender);
        drop(desk);
        Ok(LogReading { chunks, read_id, node: node.to_owned(), desk: self.clone() })
    }
}

impl Drop for LogReading {
    fn drop(&mut self) {
        let mut desk = self.desk.lock();
        if desk.reads.remove(&self.read_id).is_some()
            && let Some((_, outgoing)) = desk.agents.get(&self.node)
        {
            // A full or closed session is about to be renewed; the agent forgets its reads with it.
            drop(outgoing.tell(say(Kind::LogStop(v1::LogStop { read_id: self.read_id }))));
        }
    }
}
