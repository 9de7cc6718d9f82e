//! Leases on disk: one folder per member, the lease in it, and the epoch beside them.
//!
//! Comes in: records. Goes out: files, replaced by rename after a sync, with their folder synced after that.
//! This part must never touch what others keep in a member's folder, except to remove the whole folder with its lease.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{LeaseStore, StoreError, Stored, record};
use crate::{
    durable,
    model::{Epoch, EpochMark, JournalSeq, LeaseRecord, MemberId},
};

const LEASE_FILE: &str = "lease";
const MARK_FILE: &str = "epoch.json";

/// Leases under a state folder: `members/JOB.ATTEMPT.MEMBER/lease` and `epoch.json`.
pub struct DiskStore {
    members: PathBuf,
    mark: PathBuf,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Mark {
    epoch: u64,
    seq: u64,
    store_id: String,
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> StoreError + '_ {
    move |source| StoreError::Io { path: path.to_owned(), source }
}

impl DiskStore {
    /// Opens or makes the store under `state_dir`.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let members = state_dir.join("members");
        durable::create_dir(&members).map_err(io_at(&members))?;
        Ok(Self { members, mark: state_dir.join(MARK_FILE) })
    }

    /// The folder of one member.
    pub fn member_dir(&self, id: MemberId) -> PathBuf {
        self.members.join(id.to_string())
    }

    fn load_mark(&self) -> Result<EpochMark, StoreError> {
        let bytes = match fs::read(&self.mark) {
            Ok(bytes) => bytes,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(EpochMark::default()),
            Err(err) => return Err(io_at(&self.mark)(err)),
        };
        let mark: Mark = serde_json::from_slice(&bytes)
            .map_err(|err| StoreError::Damaged { path: self.mark.clone(), why: err.to_string() })?;
        Ok(EpochMark { epoch: Epoch(mark.epoch), seq: JournalSeq(mark.seq), store_id: mark.store_id })
    }

    fn load_lease(dir: &Path) -> Result<Option<LeaseRecord>, StoreError> {
        let path = dir.join(LEASE_FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            // A folder whose lease never was written, or was removed first: nothing runs in it.
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                fs::remove_dir_all(dir).map_err(io_at(dir))?;
                return Ok(None);
            }
            Err(err) => return Err(io_at(&path)(err)),
        };
        let lease = record::decode(&bytes).map_err(|why| StoreError::Damaged { path: path.clone(), why })?;
        if dir.file_name().is_none_or(|name| *name != *lease.id.to_string()) {
            let why = format!("it belongs to member {}, not to its folder", lease.id);
            return Err(StoreError::Damaged { path, why });
        }
        Ok(Some(lease))
    }
}

impl LeaseStore for DiskStore {
    fn load(&self) -> Result<Stored, StoreError> {
        let mut leases = Vec::new();
        for entry in fs::read_dir(&self.members).map_err(io_at(&self.members))? {
            let entry = entry.map_err(io_at(&self.members))?;
            if entry.file_type().map_err(io_at(&entry.path()))?.is_dir() {
                leases.extend(Self::load_lease(&entry.path())?);
            }
        }
        leases.sort_by_key(|lease| lease.id);
        Ok(Stored { mark: self.load_mark()?, leases })
    }

    fn write_mark(&self, mark: &EpochMark) -> Result<(), StoreError> {
        let mark = Mark { epoch: mark.epoch.0, seq: mark.seq.0, store_id: mark.store_id.clone() };
        let bytes = serde_json::to_vec(&mark).expect("numbers and a string are always JSON");
        durable::replace(&self.mark, &bytes).map_err(io_at(&self.mark))
    }

    fn write(&self, record: &LeaseRecord) -> Result<(), StoreError> {
        let dir = self.member_dir(record.id);
        durable::create_dir(&dir).map_err(io_at(&dir))?;
        durable::put(&dir.join(LEASE_FILE), &record::encode(record)).map_err(io_at(&dir))?;
        durable::sync_dir(&dir).map_err(|source| StoreError::InDoubt { path: dir.join(LEASE_FILE), source })
    }

    fn remove(&self, id: MemberId) -> Result<(), StoreError> {
        let dir = self.member_dir(id);
        // The lease first: a folder without one is swept at the next start.
        for result in [fs::remove_file(dir.join(LEASE_FILE)), fs::remove_dir_all(&dir)] {
            match result {
                Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(io_at(&dir)(err)),
                _ => {}
            }
        }
        Ok(())
    }

    fn is_immediate(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Exit, Recorded};

    fn lease(job: u64) -> LeaseRecord {
        LeaseRecord {
            id: MemberId { job, attempt: 1, member: 0 },
            sequence: 3,
            seq: JournalSeq(4),
            boot_id: "b".to_owned(),
            launch: None,
            state: Recorded::Gone(Exit::never_ran("test")),
        }
    }

    #[test]
    fn what_was_written_is_there_after_a_restart() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mark = EpochMark { epoch: Epoch(9), seq: JournalSeq(12), store_id: "s".to_owned() };
        let store = DiskStore::open(dir.path()).expect("opens");
        assert_eq!(store.load().expect("loads"), Stored::default());
        store.write_mark(&mark).expect("writes");
        for job in [12, 3, 7] {
            store.write(&lease(job)).expect("writes");
        }
        store.remove(lease(7).id).expect("removes");
        store.remove(lease(7).id).expect("removing twice is fine");
        fs::create_dir(store.member_dir(lease(99).id)).expect("a folder without a lease");
        let again = DiskStore::open(dir.path()).expect("opens");
        assert_eq!(again.load().expect("loads"), Stored { mark, leases: vec![lease(3), lease(12)] });
        assert!(!again.member_dir(lease(99).id).exists(), "a folder without a lease is swept");
    }

    #[test]
    fn a_damaged_lease_stops_the_start_and_names_the_file() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let store = DiskStore::open(dir.path()).expect("opens");
        store.write(&lease(5)).expect("writes");
        fs::write(store.member_dir(lease(5).id).join(LEASE_FILE), b"\xff\xff").expect("damages it");
        let message = store.load().expect_err("refuses").to_string();
        assert!(message.contains("members/5.1.0/lease is damaged"), "{message}");
    }
}
