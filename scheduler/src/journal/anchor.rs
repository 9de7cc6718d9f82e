//! The head anchor: a second, small file that remembers how long the journal was.
//!
//! In: the head after each commit. Out: on opening, the newest head that was written here. SQLite may cut a damaged log
//! without a word; a chain shorter than the anchor tells. Two slots in two pages are written in turn, each with a
//! checksum, so that a torn write never loses both. It never runs ahead of the journal: it is written after the commit.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::chain::Hash;
use super::{Head, JournalError, StoreId};

/// Name of the anchor file in the store's directory.
pub const ANCHOR_FILE: &str = "anchor";
/// How often the anchor is synced to disk at most; between syncs it is safe against a crash of the process only.
pub const SYNC_EVERY: Duration = Duration::from_secs(1);

const MAGIC: &[u8; 8] = b"DUREANC1";
/// Magic 8, generation 8, seq 8, epoch of the head 8, epoch 8, store id 16, hash 32, CRC-32 4.
const SLOT_BYTES: usize = 92;
const SLOT_OFFSETS: [u64; 2] = [0, 4096];

/// What the anchor remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    /// Which store it belongs to.
    pub store_id: StoreId,
    /// The newest head written.
    pub head: Head,
    /// The newest epoch granted, at least `head.epoch`.
    pub epoch: u64,
}

/// An anchor file that is open for writing.
#[derive(Debug)]
pub(crate) struct AnchorFile {
    dir: PathBuf,
    file: File,
    generation: u64,
    dirty: bool,
    synced_at: Instant,
}

fn encode(generation: u64, anchor: &Anchor) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[0..8].copy_from_slice(MAGIC);
    slot[8..16].copy_from_slice(&generation.to_le_bytes());
    slot[16..24].copy_from_slice(&anchor.head.seq.to_le_bytes());
    slot[24..32].copy_from_slice(&anchor.head.epoch.to_le_bytes());
    slot[32..40].copy_from_slice(&anchor.epoch.to_le_bytes());
    slot[40..56].copy_from_slice(&anchor.store_id.0);
    slot[56..88].copy_from_slice(&anchor.head.hash.0);
    let crc = crc32fast::hash(&slot[..88]);
    slot[88..92].copy_from_slice(&crc.to_le_bytes());
    slot
}

fn decode(slot: &[u8; SLOT_BYTES]) -> Option<(u64, Anchor)> {
    let number = |at: usize| -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&slot[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    if &slot[..8] != MAGIC || crc32fast::hash(&slot[..88]).to_le_bytes() != slot[88..] {
        return None;
    }
    let mut store_id = [0; 16];
    store_id.copy_from_slice(&slot[40..56]);
    let mut hash = [0; 32];
    hash.copy_from_slice(&slot[56..88]);
    let head = Head { seq: number(16), hash: Hash(hash), epoch: number(24) };
    Some((number(8), Anchor { store_id: StoreId(store_id), head, epoch: number(32) }))
}

fn newest_slot(file: &File) -> io::Result<Option<(u64, Anchor)>> {
    let mut newest: Option<(u64, Anchor)> = None;
    for offset in SLOT_OFFSETS {
        let mut slot = [0; SLOT_BYTES];
        match file.read_exact_at(&mut slot, offset) {
            Ok(()) => {}
            Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => continue,
            Err(err) => return Err(err),
        }
        let Some(found) = decode(&slot) else { continue };
        if newest.is_none_or(|(generation, _)| found.0 > generation) {
            newest = Some(found);
        }
    }
    Ok(newest)
}

fn sound(dir: &Path, file: &File) -> Result<(u64, Anchor), JournalError> {
    newest_slot(file)
        .map_err(|err| JournalError::file(dir, "reading the anchor", &err))?
        .ok_or_else(|| JournalError::facts(dir, "the anchor file has no readable slot"))
}

/// Reads the anchor of a store; `None` when there is no such file.
///
/// # Errors
/// [`JournalError::Damaged`] when neither slot is readable.
pub fn read_anchor(dir: &Path) -> Result<Option<Anchor>, JournalError> {
    match File::open(dir.join(ANCHOR_FILE)) {
        Ok(file) => sound(dir, &file).map(|(_, anchor)| Some(anchor)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(JournalError::file(dir, "opening the anchor", &err)),
    }
}

/// Makes names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), JournalError> {
    File::open(dir)
        .and_then(|file| file.sync_all())
        .map_err(|err| JournalError::file(dir, "syncing the directory", &err))
}

/// Creates the anchor whole or not at all, and durable; replaces one that is there.
pub(crate) fn create_anchor(dir: &Path, anchor: &Anchor) -> Result<(), JournalError> {
    let fresh = dir.join("anchor.new");
    let write = || -> io::Result<()> {
        let file = File::create(&fresh)?;
        file.write_all_at(&encode(1, anchor), SLOT_OFFSETS[1])?;
        file.write_all_at(&[0; SLOT_BYTES], SLOT_OFFSETS[0])?;
        file.sync_all()?;
        std::fs::rename(&fresh, dir.join(ANCHOR_FILE))
    };
    write().map_err(|err| JournalError::file(dir, "creating the anchor", &err))?;
    sync_dir(dir)
}

impl AnchorFile {
    /// Opens the anchor that must be there.
    pub(crate) fn open(dir: &Path) -> Result<Self, JournalError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(dir.join(ANCHOR_FILE))
            .map_err(|err| JournalError::file(dir, "opening the anchor", &err))?;
        let (generation, _) = sound(dir, &file)?;
        Ok(AnchorFile { dir: dir.to_owned(), file, generation, dirty: false, synced_at: Instant::now() })
    }

    /// Writes the other slot; not synced yet.
    pub(crate) fn write(&mut self, anchor: &Anchor) -> Result<(), JournalError> {
        let generation = self.generation + 1;
        let offset = SLOT_OFFSETS[(generation % 2) as usize];
        self.file
            .write_all_at(&encode(generation, anchor), offset)
            .map_err(|err| JournalError::file(&self.dir, "writing the anchor", &err))?;
        self.generation = generation;
        self.dirty = true;
        Ok(())
    }

    /// Syncs what was written when [`SYNC_EVERY`] has passed since the last time.
    pub(crate) fn sync_if_due(&mut self) -> Result<bool, JournalError> {
        if self.synced_at.elapsed() < SYNC_EVERY {
            return Ok(false);
        }
        self.sync()?;
        Ok(true)
    }

    /// Syncs what was written.
    pub(crate) fn sync(&mut self) -> Result<(), JournalError> {
        if self.dirty {
            self.file.sync_data().map_err(|err| JournalError::file(&self.dir, "syncing the anchor", &err))?;
            self.dirty = false;
        }
        self.synced_at = Instant::now();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anchor(seq: u64) -> Anchor {
        Anchor { store_id: StoreId([3; 16]), head: Head { seq, hash: Hash([seq as u8; 32]), epoch: 2 }, epoch: 5 }
    }

    fn store() -> (tempfile::TempDir, AnchorFile) {
        let dir = tempfile::tempdir().expect("temporary directory");
        create_anchor(dir.path(), &anchor(0)).expect("created");
        let file = AnchorFile::open(dir.path()).expect("opened");
        (dir, file)
    }

    #[test]
    fn remembers_the_newest_across_reopening() {
        let (dir, mut file) = store();
        for seq in 1..=5 {
            file.write(&anchor(seq)).expect("written");
            assert_eq!(read_anchor(dir.path()).expect("readable"), Some(anchor(seq)));
        }
        drop(file);
        let mut file = AnchorFile::open(dir.path()).expect("opened again");
        file.write(&anchor(6)).expect("written");
        file.sync().expect("synced");
        assert_eq!(read_anchor(dir.path()).expect("readable"), Some(anchor(6)));
    }

    #[test]
    fn a_torn_write_of_one_slot_leaves_the_one_before() {
        for cut in 0..SLOT_BYTES {
            let (dir, mut file) = store();
            file.write(&anchor(1)).expect("written");
            file.write(&anchor(2)).expect("written");
            let torn = encode(4, &anchor(3));
            file.file.write_all_at(&torn[..cut], SLOT_OFFSETS[0]).expect("torn write");
            let found = read_anchor(dir.path()).expect("readable").expect("there");
            // A cut in the middle of slot 0 may spare it only while nothing of it has changed yet.
            assert!(found == anchor(2) || found == anchor(1), "cut {cut}: {found:?}");
        }
    }

    #[test]
    fn both_slots_lost_is_damage_and_no_file_is_none() {
        let (dir, file) = store();
        file.file.write_all_at(&[0; 8192], 0).expect("zeroed");
        assert!(read_anchor(dir.path()).expect_err("no slot").is_damage());
        std::fs::remove_file(dir.path().join(ANCHOR_FILE)).expect("removed");
        assert_eq!(read_anchor(dir.path()).expect("no file is fine"), None);
    }
}
