//! What can go wrong with a journal, and what the caller can do about it.
//!
//! In: failures of SQLite, of files and of checks. Out: one enum whose variants say what to do; its text names the
//! place, the numbers and the remedy. It never hides damage behind a general IO error.

use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A failure of the journal. `Clone`, because the first one is repeated to everybody who comes later.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// The store has lost or changed something it had acknowledged. Give up: never lead on it.
    #[error(
        "journal {} is damaged: {}; it must not lead: keep the directory, restore the newest backup with `dure restore`",
        dir.display(), list(findings)
    )]
    Damaged {
        /// Directory of the store.
        dir: PathBuf,
        /// What is wrong, in order of position; at most [`super::chain::MAX_FINDINGS`].
        findings: Vec<Finding>,
    },
    /// No space left. Fix (free space), then start again: the process that saw it acknowledges nothing more.
    #[error(
        "the file system of journal {} is full ({detail}): free some space there, then start the scheduler again",
        dir.display()
    )]
    DiskFull {
        /// Directory of the store.
        dir: PathBuf,
        /// What was being done, and the system's own words.
        detail: String,
    },
    /// An earlier write failed and its outcome is unknown. Give up: stop the process, start it anew.
    #[error("journal takes no more writes after its first failure ({cause}): stop, repair the cause, start again")]
    Poisoned {
        /// The first failure.
        cause: Arc<JournalError>,
    },
    /// Another scheduler leads on this directory. Fix: stop it, or use another directory.
    #[error(
        "journal {} is led by another scheduler (process {}): stop that one first, or give this one its own data directory",
        dir.display(), holder.map_or("unknown".to_owned(), |pid| pid.to_string())
    )]
    AlreadyLed {
        /// Directory of the store.
        dir: PathBuf,
        /// Process id the holder wrote, where readable.
        holder: Option<u32>,
    },
    /// The leadership that this engine held is gone. Give up: step down at once.
    #[error("leadership over journal {} is lost ({detail}): stop this scheduler", dir.display())]
    LeadershipLost {
        /// Directory of the store.
        dir: PathBuf,
        /// How it was noticed.
        detail: String,
    },
    /// A batch does not follow the head. A fault of the caller; poisons.
    #[error("batch starts at position {got}, the journal expects {expected}: this process is out of step, restart it")]
    WrongPosition {
        /// Head + 1.
        expected: u64,
        /// What the batch said.
        got: u64,
    },
    /// A batch was decided under another epoch. A fault of the caller; poisons.
    #[error("batch is of epoch {got}, this leadership is epoch {held}: this process is out of step, restart it")]
    WrongEpoch {
        /// The engine's epoch.
        held: u64,
        /// The batch's epoch.
        got: u64,
    },
    /// A batch without events. A fault of the caller; poisons.
    #[error("batch at position {first_seq} holds no events: append only turns that decided something")]
    EmptyBatch {
        /// Where it was to start.
        first_seq: u64,
    },
    /// A batch, blob or snapshot above its limit. Fix: make it smaller.
    #[error("{what} of {bytes} bytes is above the limit of {limit} bytes: split it or refuse it at the edge")]
    TooLarge {
        /// `batch`, `blob` or `snapshot`.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A snapshot that cannot be published; nothing is lost, the journal goes on.
    #[error("snapshot at position {seq} is refused: {why}; make a newer one")]
    BadSnapshot {
        /// Its position.
        seq: u64,
        /// Why.
        why: String,
    },
    /// The store was written by a newer version. Fix: use the newer binary.
    #[error("journal {} has format {found}, this binary knows up to {known}: use the newer binary", dir.display())]
    NewerFormat {
        /// Directory of the store.
        dir: PathBuf,
        /// Format of the store.
        found: i64,
        /// Newest known format.
        known: i64,
    },
    /// A target directory that is not empty. Fix: name another, or force.
    #[error("directory {} is not empty: name an empty directory, or restore with force (what is there is kept aside)", dir.display())]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
    },
    /// A directory without a journal. Fix: name the right one.
    #[error("directory {} holds no journal: name the directory of the journal or of a backup", dir.display())]
    NoStore {
        /// The directory.
        dir: PathBuf,
    },
    /// Files or SQLite failed in another way (permissions, IO errors). Fix what the detail says, then start again.
    #[error("journal {}: {doing} failed: {detail}; check the disk and the permissions, then start again", dir.display())]
    Storage {
        /// Directory of the store.
        dir: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// The system's own words.
        detail: String,
    },
    /// The journal was moved to another engine. Fix: use that one.
    #[error("journal {} was moved to {to}: name that one in the configuration", dir.display())]
    Moved {
        /// Where it was.
        dir: PathBuf,
        /// Where it is.
        to: String,
    },
    /// Positions that lie before the oldest snapshot kept. Fix: start from a snapshot.
    #[error(
        "positions before {kept_from} are no longer kept: start from a snapshot, or read the history: dure history attempts --output csv"
    )]
    Truncated {
        /// The first position that is kept.
        kept_from: u64,
    },
    /// The writer thread has been closed. A fault of the caller.
    #[error("the journal writer is closed: nothing can be appended any more")]
    Closed,
}

/// One thing that is wrong with a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Positions that no batch covers although later ones (or the anchor, or an agent) prove that they were written.
    Missing {
        /// First missing position.
        from: u64,
        /// Last missing position known.
        to: u64,
        /// What proves that they existed.
        proof: &'static str,
    },
    /// A batch whose checksum, hash or place in the chain is wrong.
    Broken {
        /// First position of the batch.
        from: u64,
        /// Last position of the batch.
        to: u64,
        /// What does not hold.
        why: &'static str,
    },
    /// The file cannot be read on after this position.
    Unreadable {
        /// Last position that was read well.
        after: u64,
        /// The storage library's own words.
        detail: String,
    },
    /// A blob whose content does not hash to its id.
    Blob {
        /// The id, in hex.
        id: String,
    },
    /// The small facts of the store (id, epoch) or its anchor file are wrong or missing.
    Facts {
        /// What does not hold.
        why: String,
    },
}

impl Finding {
    /// The positions between a head and a higher position that an agent obeyed.
    pub(crate) fn behind_witness(head: u64, witness: u64) -> Option<Finding> {
        (witness > head).then_some(Finding::Missing { from: head + 1, to: witness, proof: "an agent obeyed them" })
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Finding::Missing { from, to, proof } => write!(f, "positions {from} to {to} are missing ({proof})"),
            Finding::Broken { from, to, why } => write!(f, "positions {from} to {to} are broken ({why})"),
            Finding::Unreadable { after, detail } => write!(f, "unreadable after position {after} ({detail})"),
            Finding::Blob { id } => write!(f, "blob {id} has other content than its id says"),
            Finding::Facts { why } => write!(f, "{why}"),
        }
    }
}

fn list(findings: &[Finding]) -> String {
    findings.iter().map(Finding::to_string).collect::<Vec<_>>().join("; ")
}

impl JournalError {
    pub(crate) fn damaged(dir: &Path, findings: Vec<Finding>) -> Self {
        JournalError::Damaged { dir: dir.to_owned(), findings }
    }

    pub(crate) fn facts(dir: &Path, why: impl Into<String>) -> Self {
        Self::damaged(dir, vec![Finding::Facts { why: why.into() }])
    }

    /// A file operation that failed.
    pub(crate) fn file(dir: &Path, doing: &'static str, err: &std::io::Error) -> Self {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        match err.kind() {
            StorageFull | QuotaExceeded => {
                JournalError::DiskFull { dir: dir.to_owned(), detail: format!("{doing}: {err}") }
            }
            _ => JournalError::Storage { dir: dir.to_owned(), doing, detail: err.to_string() },
        }
    }

    /// A SQLite call that failed. Whatever is not the fault of disk space, permissions, locks or memory can only come
    /// from content that this crate did not write, and is damage.
    pub(crate) fn sqlite(dir: &Path, doing: &'static str, after: u64, err: &rusqlite::Error) -> Self {
        use rusqlite::ErrorCode as Code;
        let detail = format!("{doing}: {err}");
        match err.sqlite_error_code() {
            Some(Code::DiskFull) => JournalError::DiskFull { dir: dir.to_owned(), detail },
            Some(
                Code::SystemIoFailure
                | Code::CannotOpen
                | Code::PermissionDenied
                | Code::DatabaseBusy
                | Code::DatabaseLocked
                | Code::OperationInterrupted
                | Code::FileLockingProtocolFailed
                | Code::OutOfMemory
                | Code::NoLargeFileSupport,
            ) => JournalError::Storage { dir: dir.to_owned(), doing, detail: err.to_string() },
            _ => Self::damaged(dir, vec![Finding::Unreadable { after, detail }]),
        }
    }

    /// Whether the store itself is wrong, so that starting again cannot help.
    pub fn is_damage(&self) -> bool {
        match self {
            JournalError::Damaged { .. } => true,
            JournalError::Poisoned { cause } => cause.is_damage(),
            JournalError::DiskFull { .. }
            | JournalError::AlreadyLed { .. }
            | JournalError::LeadershipLost { .. }
            | JournalError::WrongPosition { .. }
            | JournalError::WrongEpoch { .. }
            | JournalError::EmptyBatch { .. }
            | JournalError::TooLarge { .. }
            | JournalError::BadSnapshot { .. }
            | JournalError::NewerFormat { .. }
            | JournalError::NotEmpty { .. }
            | JournalError::NoStore { .. }
            | JournalError::Storage { .. }
            | JournalError::Truncated { .. }
            | JournalError::Moved { .. }
            | JournalError::Closed => false,
        }
    }
}
