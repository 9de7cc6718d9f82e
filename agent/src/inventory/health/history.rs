//! What is known of each GPU over the lives of the agent: a file per GPU, named by its UUID, and one more (`UUID.memory`) when
//! the test of its memory has failed.
//!
//! Comes in: records. Goes out: files, and the records that an earlier life has left. A person who has reset a GPU, or
//! changed it, removes its files. A file that cannot be read counts as none; one that cannot be written is said once.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{BadRecord, Judge, Record};
use crate::durable;

/// The folder of the files, for one boot of the node.
#[derive(Clone, Debug)]
pub(in crate::inventory) struct History {
    dir: PathBuf,
    boot_id: String,
}

/// One GPU's judge with what of it is on disk.
#[derive(Clone, Debug)]
pub(in crate::inventory) struct Kept {
    pub(in crate::inventory) judge: Judge,
    path: PathBuf,
    written: Record,
    failed: bool,
}

impl History {
    pub(in crate::inventory) fn new(state_dir: &Path, boot_id: &str) -> Self {
        Self { dir: state_dir.join("health"), boot_id: boot_id.to_owned() }
    }

    /// Goes on with a GPU.
    pub(in crate::inventory) fn open(&self, uuid: &str) -> Kept {
        let path = self.dir.join(uuid);
        // One that could not even be named is not followed over restarts: its name is empty.
        let text = fs::read_to_string(&path).unwrap_or_default();
        let written: Record = toml::from_str(&text).unwrap_or_else(|err| {
            tracing::warn!(path = %path.display(), error = %err, "a record of a GPU's health cannot be read");
            Record::default()
        });
        Kept { judge: Judge::recover(written.clone(), &self.boot_id), path, written, failed: false }
    }

    /// Why the test of its memory has failed earlier in this boot of the node.
    pub(in crate::inventory) fn memory_fault(&self, uuid: &str) -> Option<String> {
        let path = self.memory_file(uuid);
        let text = fs::read_to_string(&path).ok()?;
        match toml::from_str::<BadRecord>(&text) {
            Ok(bad) => (bad.boot_id == self.boot_id).then_some(bad.reason),
            Err(err) => {
                tracing::warn!(path = %path.display(), error = %err, "a failed test of a GPU's memory cannot be read");
                None
            }
        }
    }

    /// The test of its memory has failed: that is known until the node boots anew, when it is tested again.
    pub(in crate::inventory) fn keep_memory_fault(&self, uuid: &str, reason: &str) {
        let (path, bad) =
            (self.memory_file(uuid), BadRecord { boot_id: self.boot_id.clone(), reason: reason.to_owned() });
        let text = toml::to_string(&bad).expect("texts are TOML");
        if let Err(err) = durable::create_dir(&self.dir).and_then(|()| durable::replace(&path, text.as_bytes())) {
            tracing::error!(path = %path.display(), error = %err, "a failed test of a GPU's memory is not kept");
        }
    }

    fn memory_file(&self, uuid: &str) -> PathBuf {
        self.dir.join(format!("{uuid}.memory"))
    }

    /// Writes what has changed.
    pub(in crate::inventory) fn keep(&self, uuid: &str, kept: &mut Kept) {
        let record = kept.judge.record(&self.boot_id);
        if uuid.is_empty() || record == kept.written {
            return;
        }
        let text = toml::to_string(&record).expect("numbers and texts are TOML");
        match durable::create_dir(&self.dir).and_then(|()| durable::replace(&kept.path, text.as_bytes())) {
            Ok(()) => (kept.written, kept.failed) = (record, false),
            Err(err) if !kept.failed => {
                kept.failed = true;
                tracing::error!(path = %kept.path.display(), error = %err, "a GPU's health is not kept");
            }
            Err(_) => {}
        }
    }
}
