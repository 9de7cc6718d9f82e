//! Tests of the journal: the contract on both engines, crashes, damage, full disks, the writer, backups.

mod backup;
mod contract;
mod crash;
mod damage;
mod disk_full;
mod replicated;
mod retention;
mod transfer;
mod writer;

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::*;
use crate::etcd::Etcd;
use crate::etcd::local::{LocalError, LocalEtcd};

/// A place that outlives its engines: a directory or a memory store.
trait Place {
    fn open(&self, options: OpenOptions) -> Result<Box<dyn Engine>, JournalError>;

    fn lead(&self) -> Box<dyn Engine> {
        self.open(OpenOptions::default()).expect("a sound store opens")
    }
}

struct Disk(tempfile::TempDir);

impl Disk {
    fn new() -> Self {
        Disk(tempfile::tempdir().expect("temporary directory"))
    }

    fn dir(&self) -> &Path {
        self.0.path()
    }
}

impl Place for Disk {
    fn open(&self, options: OpenOptions) -> Result<Box<dyn Engine>, JournalError> {
        EmbeddedEngine::open(self.dir(), options).map(|engine| Box::new(engine) as Box<dyn Engine>)
    }
}

impl Place for MemoryStore {
    fn open(&self, options: OpenOptions) -> Result<Box<dyn Engine>, JournalError> {
        MemoryEngine::open(self, options).map(|engine| Box::new(engine) as Box<dyn Engine>)
    }
}

/// Runs one test on every engine; without etcd it says so and runs on the others.
fn on_each(test: impl Fn(&dyn Place)) {
    test(&Disk::new());
    test(&MemoryStore::new(StoreId([9; 16])));
    if let Some(remote) = Remote::new() {
        test(&remote);
    }
}

/// A store of its own in a cluster of three members that the tests share while any of them runs.
struct Remote {
    etcd: Etcd,
    _cluster: Arc<SharedEtcd>,
}

struct SharedEtcd {
    // Dropped in this order: the members end before their folder goes.
    cluster: LocalEtcd,
    _dir: tempfile::TempDir,
}

static SHARED: Mutex<Weak<SharedEtcd>> = Mutex::new(Weak::new());
static STORES: AtomicU32 = AtomicU32::new(0);

impl Remote {
    fn new() -> Option<Self> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let cluster = match shared.upgrade() {
            Some(cluster) => cluster,
            None => {
                let dir = tempfile::tempdir().expect("temporary directory");
                let cluster = match LocalEtcd::start(dir.path(), 3) {
                    Ok(cluster) => cluster,
                    Err(err @ LocalError::NotInstalled) => {
                        println!("skipped on etcd: {err}");
                        return None;
                    }
                    Err(err) => panic!("{err}"),
                };
                let cluster = Arc::new(SharedEtcd { cluster, _dir: dir });
                *shared = Arc::downgrade(&cluster);
                cluster
            }
        };
        let prefix = format!("/store-{}", STORES.fetch_add(1, Ordering::Relaxed));
        let etcd = cluster.cluster.client(&prefix).expect("a way to etcd");
        Some(Self { etcd, _cluster: cluster })
    }
}

impl Place for Remote {
    fn open(&self, options: OpenOptions) -> Result<Box<dyn Engine>, JournalError> {
        ReplicatedEngine::open(&self.etcd, options).map(|engine| Box::new(engine) as Box<dyn Engine>)
    }
}

/// Bytes that follow from a number, hard to compress and easy to compare.
fn bytes_of(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    (0..len).map(|_| random.next() as u8).collect()
}

/// The batch that every test puts at a position.
fn batch_at(first_seq: u64, epoch: u64) -> Batch {
    let count = (first_seq % 5 + 1) as u32;
    Batch { first_seq, count, epoch, payload: bytes_of(first_seq, 100 * count as usize) }
}

fn blob_at(first_seq: u64) -> Blob {
    Blob::new(bytes_of(!first_seq, 300)).expect("below the limit")
}

/// Appends `n` batches, one commit each, every third with a blob.
fn append(engine: &mut dyn Engine, n: usize) {
    for _ in 0..n {
        let batch = batch_at(engine.head().seq + 1, engine.epoch());
        let blobs: Vec<Blob> =
            batch.first_seq.is_multiple_of(3).then(|| blob_at(batch.first_seq)).into_iter().collect();
        engine.append(&[batch], &blobs).expect("a sound store takes a batch");
    }
}

fn read_all(engine: &dyn Engine) -> Result<Vec<Batch>, JournalError> {
    let mut all = Vec::new();
    loop {
        let from = all.last().map_or(1, |batch: &Batch| batch.last_seq() + 1);
        let limit = ReadLimit { batches: 64, bytes: 1 << 20 };
        let next = match engine.read(from, limit) {
            // What a snapshot replaces may be gone.
            Err(JournalError::Truncated { kept_from }) if all.is_empty() => engine.read(kept_from, limit)?,
            read => read?,
        };
        if next.is_empty() {
            return Ok(all);
        }
        all.extend(next);
    }
}

/// Whether what is read is exactly what the tests put at those positions, up to `seq` at least.
fn assert_whole(engine: &dyn Engine, seq: u64) {
    let batches = read_all(engine).expect("readable");
    let mut next = batches.first().map_or(1, |batch| batch.first_seq);
    for batch in &batches {
        assert_eq!(*batch, batch_at(next, batch.epoch));
        next = batch.last_seq() + 1;
    }
    assert!(next > seq, "positions up to {seq} were acknowledged, the journal ends before {next}");
    assert_eq!(next - 1, engine.head().seq);
}

/// A small xorshift generator: tests repeat exactly.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("target directory");
    for entry in std::fs::read_dir(from).expect("listing") {
        let entry = entry.expect("entry");
        if entry.file_type().expect("type").is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
        }
    }
}
