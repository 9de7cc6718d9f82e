//! The engine's twin in memory, for tests and the simulator: same contract, no disk, failures on demand.
//!
//! In: the same calls as the embedded engine, and faults planted by the test. Out: the same answers and errors. The store
//! outlives its engine, so that a crash is: drop the engine, open another. It reads no clock and no randomness.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::chain::{ChainCheck, Depth, Row, genesis, seal};
use super::snapshot::{Stored, check_size};
use super::{
    Batch, Blob, BlobId, Engine, Finding, FoundSnapshot, Head, JournalError, OpenOptions, ReadLimit, SNAPSHOTS_KEPT,
    Snapshot, SnapshotInfo, StoreId,
};

/// How a write is to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is written.
    Refused,
    /// Nothing is written: no space left.
    DiskFull,
    /// Everything is written and durable, but the answer is an error.
    LostAnswer,
    /// Of several batches the first ones are written and durable, as where each is a transaction of its own; of anything
    /// else, nothing. The answer is an error.
    Torn,
}

/// How much of a write lands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lands {
    Whole,
    /// The first half of its batches.
    Half,
}

#[derive(Default)]
struct State {
    epoch: u64,
    /// Epochs below this one belong to what a restore gave up.
    floor: u64,
    rows: Vec<Row>,
    anchor: Option<Head>,
    blobs: BTreeMap<BlobId, Vec<u8>>,
    chunks: BTreeMap<(u64, u32), Vec<u8>>,
    snapshots: Vec<Stored>,
    led: bool,
    /// Writes until the fault strikes, and the fault.
    faults: VecDeque<(u64, Fault)>,
    slow: Option<Box<dyn FnMut() + Send>>,
}

impl State {
    /// The end of the rows.
    fn end(&self) -> Option<Head> {
        self.rows.last().map(|row| Head { seq: row.batch.last_seq(), hash: row.hash, epoch: row.batch.epoch })
    }
}

/// What a disk would be: shared, and there after a crash.
#[derive(Clone)]
pub struct MemoryStore {
    id: StoreId,
    state: Arc<Mutex<State>>,
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryStore").field("id", &self.id).finish_non_exhaustive()
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new(id: StoreId) -> Self {
        MemoryStore { id, state: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a write fail after `writes` further ones have succeeded. Several faults strike one after the other.
    pub fn fail_after(&self, writes: u64, fault: Fault) {
        self.state().faults.push_back((writes, fault));
    }

    /// Takes back the faults that have not struck.
    pub fn heal(&self) {
        self.state().faults.clear();
    }

    /// Runs `wait` in front of every write: a slow disk.
    pub fn slow(&self, wait: impl FnMut() + Send + 'static) {
        self.state().slow = Some(Box::new(wait));
    }

    /// Loses the last `batches` batches although they were acknowledged, as a damaged log does.
    pub fn cut_tail(&self, batches: usize) {
        let mut state = self.state();
        let left = state.rows.len().saturating_sub(batches);
        state.rows.truncate(left);
    }

    /// As [`Self::cut_tail`], and never into the newest snapshot; how many were lost.
    pub fn lose_tail(&self, batches: usize) -> usize {
        let mut state = self.state();
        let snapshot = state.snapshots.last().map_or(0, |stored| stored.info.seq);
        let kept = state.rows.iter().filter(|row| row.batch.last_seq() <= snapshot).count();
        let left = state.rows.len().saturating_sub(batches).max(kept);
        let lost = state.rows.len() - left;
        state.rows.truncate(left);
        lost
    }

    /// Another engine may lead from now on; the one that does can write nothing more.
    pub fn depose(&self) {
        self.state().led = false;
    }

    /// Takes what is left for the whole, as a restore of a backup that ends here does.
    pub fn restore(&self) {
        let mut state = self.state();
        state.anchor = state.end();
        state.epoch += super::backup::EPOCH_JUMP;
        state.floor = state.epoch + 1;
    }

    /// The content of a blob.
    pub fn blob(&self, id: BlobId) -> Option<Vec<u8>> {
        self.state().blobs.get(&id).cloned()
    }

    /// Flips one bit of the payload of the batch with this index.
    pub fn flip_batch(&self, index: usize) {
        if let Some(byte) = self.state().rows.get_mut(index).and_then(|row| row.batch.payload.first_mut()) {
            *byte ^= 1;
        }
    }

    /// Flips one bit of the snapshot at a position.
    pub fn flip_snapshot(&self, seq: u64) {
        if let Some(byte) = self.state().chunks.get_mut(&(seq, 0)).and_then(|chunk| chunk.first_mut()) {
            *byte ^= 1;
        }
    }

    fn dir(&self) -> &'static Path {
        Path::new("memory")
    }
}

/// The engine over a [`MemoryStore`], leading.
#[derive(Debug)]
pub struct MemoryEngine {
    store: MemoryStore,
    epoch: u64,
    head: Head,
    poison: Option<Arc<JournalError>>,
    damaged_snapshots: Vec<u64>,
}

impl MemoryEngine {
    /// As [`super::EmbeddedEngine::open`].
    ///
    /// # Errors
    /// As [`super::EmbeddedEngine::open`].
    pub fn open(store: &MemoryStore, options: OpenOptions) -> Result<Self, JournalError> {
        let mut state = store.state();
        if state.led {
            return Err(JournalError::AlreadyLed { dir: store.dir().to_owned(), holder: None });
        }
        let (found, damaged) = newest_sound(&state);
        let start = found.map_or(genesis(store.id), |(stored, _)| stored.head);
        let mut check = ChainCheck::after(start, Depth::Hash);
        state.rows.iter().filter(|row| row.batch.first_seq > start.seq).for_each(|row| check.follow(row));
        let head = check.head();
        match state.anchor {
            Some(anchor) if anchor.seq > head.seq => {
                check.find(Finding::Missing { from: head.seq + 1, to: anchor.seq, proof: "the anchor has seen them" });
            }
            Some(_) | None => {}
        }
        if let Some(finding) = options.witness.and_then(|witness| Finding::behind_witness(head.seq, witness)) {
            check.find(finding);
        }
        if !check.findings.is_empty() {
            return Err(JournalError::damaged(store.dir(), check.findings));
        }
        state.snapshots.retain(|stored| !damaged.contains(&stored.info.seq));
        state.epoch += 1;
        state.led = true;
        let epoch = state.epoch;
        drop(state);
        Ok(MemoryEngine { store: store.clone(), epoch, head, poison: None, damaged_snapshots: damaged })
    }

    /// One write: waits, fails or applies, as planted.
    fn write(&mut self, apply: impl FnOnce(&mut State, Lands)) -> Result<(), JournalError> {
        if let Some(cause) = &self.poison {
            return Err(JournalError::Poisoned { cause: cause.clone() });
        }
        let slow = self.store.state().slow.take();
        if let Some(mut wait) = slow {
            wait(); // outside the lock: it may look at the store
            self.store.state().slow.get_or_insert(wait);
        }
        let mut state = self.store.state();
        if !state.led || state.epoch != self.epoch {
            let (dir, detail) = (self.store.dir().to_owned(), format!("epoch {} is over", self.epoch));
            drop(state);
            return Err(self.poison(JournalError::LeadershipLost { dir, detail }));
        }
        let fault = match state.faults.front_mut() {
            Some((0, fault)) => Some(*fault),
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        };
        if fault.is_some() {
            state.faults.pop_front();
        }
        match fault {
            None => {
                apply(&mut state, Lands::Whole);
                return Ok(());
            }
            Some(Fault::LostAnswer) => apply(&mut state, Lands::Whole),
            Some(Fault::Torn) => apply(&mut state, Lands::Half),
            Some(Fault::Refused | Fault::DiskFull) => {}
        }
        drop(state);
        let (dir, detail) = (self.store.dir().to_owned(), "planted".to_owned());
        Err(self.poison(match fault {
            Some(Fault::DiskFull) => JournalError::DiskFull { dir, detail },
            Some(Fault::Refused | Fault::LostAnswer | Fault::Torn) | None => {
                JournalError::Storage { dir, doing: "appending", detail }
            }
        }))
    }

    fn poison(&mut self, err: JournalError) -> JournalError {
        self.poison.get_or_insert_with(|| Arc::new(err.clone()));
        err
    }
}

/// The newest snapshot that holds, with its content, and the newer ones that do not.
fn newest_sound(state: &State) -> (Option<(Stored, Vec<u8>)>, Vec<u64>) {
    let mut damaged = Vec::new();
    for stored in state.snapshots.iter().rev() {
        let seq = stored.info.seq;
        let bytes: Vec<u8> =
            state.chunks.range((seq, 0)..=(seq, u32::MAX)).flat_map(|(_, chunk)| chunk.clone()).collect();
        if crc32fast::hash(&bytes) == stored.info.content_crc {
            return (Some((*stored, bytes)), damaged);
        }
        damaged.push(seq);
    }
    (None, damaged)
}

/// What the store knows about the place of a snapshot, or why it cannot be published.
fn stored_snapshot(state: &State, id: StoreId, info: &SnapshotInfo) -> Result<Stored, String> {
    let rows = &state.rows;
    let head = rows.iter().find(|row| row.batch.last_seq() == info.seq).map(|row| Head {
        seq: info.seq,
        hash: row.hash,
        epoch: row.batch.epoch,
    });
    let Some(head) = head else {
        let end = rows.last().map_or(genesis(id).seq, |row| row.batch.last_seq());
        return Err(format!("no batch ends there (head {end})"));
    };
    let stored = state.chunks.range((info.seq, 0)..=(info.seq, u32::MAX));
    let (chunks, bytes) = stored.fold((0u32, 0u64), |(n, sum), (_, chunk)| (n + 1, sum + chunk.len() as u64));
    match state.snapshots.last() {
        Some(newest) if newest.info.seq >= info.seq => {
            Err(format!("there is one at position {} already", newest.info.seq))
        }
        Some(_) | None if (chunks, bytes) != (info.chunks, info.bytes) => {
            Err(format!("{chunks} chunks of {bytes} bytes are stored, {} of {} belong to it", info.chunks, info.bytes))
        }
        Some(_) | None => Ok(Stored { info: *info, head }),
    }
}

impl Engine for MemoryEngine {
    fn store_id(&self) -> StoreId {
        self.store.id
    }

    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn head(&self) -> Head {
        self.head
    }

    fn append(&mut self, batches: &[Batch], blobs: &[Blob]) -> Result<Head, JournalError> {
        if let (None, Err(err)) = (&self.poison, super::check_append(&self.head, self.epoch, batches)) {
            return Err(self.poison(err));
        }
        let mut head = self.head;
        let rows: Vec<Row> = batches
            .iter()
            .map(|batch| {
                let prev_hash = head.hash;
                let (crc, after) = seal(&head, batch);
                head = after;
                Row { batch: batch.clone(), crc, prev_hash, hash: after.hash }
            })
            .collect();
        self.write(|state, lands| {
            let landed = match lands {
                Lands::Whole => rows.len(),
                Lands::Half => rows.len() / 2,
            };
            state.rows.extend(rows.into_iter().take(landed));
            for blob in blobs {
                state.blobs.entry(blob.id()).or_insert_with(|| blob.bytes().to_vec());
            }
            state.anchor = state.end();
        })?;
        self.head = head;
        Ok(head)
    }

    fn read(&self, from_seq: u64, limit: ReadLimit) -> Result<Vec<Batch>, JournalError> {
        let state = self.store.state();
        let mut check: Option<ChainCheck> = None;
        let (mut batches, mut bytes) = (Vec::new(), 0);
        for row in state.rows.iter().filter(|row| row.batch.last_seq() >= from_seq.max(1)) {
            if batches.len() >= limit.batches.max(1) || (!batches.is_empty() && bytes >= limit.bytes) {
                break;
            }
            let first = row.batch.first_seq.min(from_seq.max(1));
            check.get_or_insert_with(|| ChainCheck::from_position(first, Depth::Checksum)).follow(row);
            bytes += row.batch.payload.len();
            batches.push(row.batch.clone());
        }
        match check {
            Some(check) if !check.findings.is_empty() => Err(JournalError::damaged(self.store.dir(), check.findings)),
            Some(_) | None => Ok(batches),
        }
    }

    fn read_blob(&self, id: BlobId) -> Result<Option<Vec<u8>>, JournalError> {
        Ok(self.store.state().blobs.get(&id).cloned())
    }

    fn newest_snapshot(&self) -> Result<FoundSnapshot, JournalError> {
        let (found, mut damaged) = newest_sound(&self.store.state());
        damaged.extend(&self.damaged_snapshots);
        let snapshot =
            found.map(|(stored, bytes)| Snapshot { seq: stored.info.seq, created_ms: stored.info.created_ms, bytes });
        Ok(FoundSnapshot { snapshot, damaged })
    }

    fn put_snapshot_chunk(&mut self, seq: u64, index: u32, bytes: &[u8]) -> Result<(), JournalError> {
        let bytes = bytes.to_vec();
        self.write(|state, lands| {
            if lands == Lands::Half {
                return;
            }
            if index == 0 {
                state.chunks.retain(|(at, _), _| *at != seq);
            }
            state.chunks.insert((seq, index), bytes);
        })
    }

    fn publish_snapshot(&mut self, info: &SnapshotInfo) -> Result<(), JournalError> {
        check_size(info)?;
        let stored = stored_snapshot(&self.store.state(), self.store.id, info)
            .map_err(|why| JournalError::BadSnapshot { seq: info.seq, why })?;
        self.write(|state, lands| {
            if lands == Lands::Half {
                return;
            }
            state.snapshots.push(stored);
            let surplus = state.snapshots.len().saturating_sub(SNAPSHOTS_KEPT);
            state.snapshots.drain(..surplus);
        })
    }

    /// Blobs are small here, and stay.
    fn release_blobs(&mut self, _seq: u64, _named: BTreeSet<BlobId>) {}

    fn maintain(&mut self, unfinished: Option<u64>) -> Result<bool, JournalError> {
        let hidden = {
            let state = self.store.state();
            let visible = |seq: u64| state.snapshots.iter().any(|stored| stored.info.seq == seq);
            state.chunks.keys().find(|(seq, _)| !visible(*seq) && Some(*seq) != unfinished).copied()
        };
        match (hidden, &self.poison) {
            (None, None) => Ok(false),
            (Some(_), _) | (None, Some(_)) => {
                self.write(|state, _| hidden.map_or((), |key| drop(state.chunks.remove(&key)))).map(|()| true)
            }
        }
    }

    fn restore_floor(&self) -> u64 {
        self.store.state().floor
    }

    fn close(self: Box<Self>) -> Result<Head, JournalError> {
        match &self.poison {
            Some(cause) => Err(JournalError::Poisoned { cause: cause.clone() }),
            None => Ok(self.head),
        }
    }
}

impl Drop for MemoryEngine {
    fn drop(&mut self) {
        let mut state = self.store.state();
        if state.epoch == self.epoch {
            state.led = false;
        }
    }
}
