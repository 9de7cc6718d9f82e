//! The desk where the output of jobs is read: a reader asks, the session of the node carries the question and the answer.
//!
//! Beside the owner of the cluster, not through it: output never holds up a turn.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dure_proto::v1;
use dure_proto::v1::scheduler_message::Kind;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::{Outgoing, say};

/// Chunks that wait for a reader. One that follows and is slower misses some; one that reads a whole log is cut off, and
/// goes on from where it was.
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
    reads: BTreeMap<u64, Reader>,
    /// Programs beside members: the node, and the way to who listens.
    pub(super) execs: BTreeMap<u64, (String, mpsc::Sender<v1::ExecOutput>)>,
}

/// Who reads.
struct Reader {
    chunks: mpsc::Sender<v1::LogData>,
    /// Room for the word that the log is over, however slow the reader.
    last_word: Option<mpsc::OwnedPermit<v1::LogData>>,
    follows: bool,
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

    /// A session has begun. One whose stream was opened before that of another one is refused by the owner.
    pub(super) fn opened(&self, node: &str, session: u64, outgoing: Outgoing) {
        let mut desk = self.lock();
        if desk.agents.get(node).is_none_or(|(current, _)| *current < session) {
            desk.agents.insert(node.to_owned(), (session, outgoing));
        }
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

    /// An agent has read something. A reader that is gone, or that reads a whole log and is too slow, is forgotten.
    pub(super) fn arrived(&self, data: v1::LogData) {
        let (read_id, end) = (data.read_id, data.end || !data.error.is_empty());
        let mut desk = self.lock();
        let Some(reader) = desk.reads.get_mut(&read_id) else { return };
        let is_over = match reader.chunks.try_send(data) {
            Ok(()) => end,
            Err(TrySendError::Full(missed)) if reader.follows => {
                if end && let Some(room) = reader.last_word.take() {
                    // Its place says how much was missed.
                    let offset = missed.offset + missed.data.len() as u64;
                    drop(room.send(v1::LogData { offset, data: Vec::new(), ..missed }));
                }
                end
            }
            Err(TrySendError::Full(_) | TrySendError::Closed(_)) => true,
        };
        if is_over {
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
        let (sender, chunks) = mpsc::channel(MAX_WAITING_CHUNKS + 1);
        let (last_word, follows) = (sender.clone().try_reserve_owned().ok(), read.follow);
        let mut desk = self.lock();
        if desk.reads.len() >= MAX_READS {
            return Err(LogError::TooMany);
        }
        let not_connected = || LogError::NotConnected(node.to_owned());
        let (_, outgoing) = desk.agents.get(node).ok_or_else(not_connected)?;
        outgoing.tell(say(Kind::LogRead(read))).map_err(|_| not_connected())?;
        desk.reads.insert(read_id, Reader { chunks: sender, last_word, follows });
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

#[cfg(test)]
mod tests {
    use super::*;

    fn data(offset: u64, end: bool) -> v1::LogData {
        v1::LogData { read_id: 1, offset, data: vec![b'x'; 10], end, error: String::new() }
    }

    fn reading(desk: &LogDesk, follow: bool) -> (LogReading, Outgoing) {
        let (outgoing, _orders) = Outgoing::new();
        desk.opened("n0", 1, outgoing.clone());
        (desk.open("n0", v1::LogRead { follow, ..Default::default() }).expect("it begins"), outgoing)
    }

    #[test]
    fn a_slow_follower_misses_the_middle_and_hears_of_the_end() {
        let desk = LogDesk::default();
        let (mut reading, _outgoing) = reading(&desk, true);
        let chunks = 3 * MAX_WAITING_CHUNKS as u64;
        (0..chunks).for_each(|at| desk.arrived(data(at * 10, at == chunks - 1)));
        let got: Vec<v1::LogData> = std::iter::from_fn(|| reading.chunks.try_recv().ok()).collect();
        assert_eq!(got.len(), MAX_WAITING_CHUNKS + 1, "never more than there is room for");
        let last = got.last().expect("the last word");
        assert!(last.end && last.offset == chunks * 10 && last.data.is_empty(), "{last:?}");
        assert!(desk.lock().reads.is_empty());
    }

    #[test]
    fn a_slow_reader_of_a_whole_log_is_cut_off_and_misses_nothing() {
        let desk = LogDesk::default();
        let (mut reading, _outgoing) = reading(&desk, false);
        (0..3 * MAX_WAITING_CHUNKS as u64).for_each(|at| desk.arrived(data(at * 10, false)));
        let got: Vec<u64> = std::iter::from_fn(|| reading.chunks.try_recv().ok()).map(|chunk| chunk.offset).collect();
        assert!(got.iter().enumerate().all(|(at, offset)| *offset == at as u64 * 10), "without a gap: {got:?}");
        assert!(desk.lock().reads.is_empty(), "and it is over: it goes on from where it was");
    }
}
