//! The pipe in which a job reports how far it has saved its work.
//!
//! A job writes lines to the file that `DURE_REPORT` names, from any language: `checkpoint 1200` says that it can go on
//! from step 1200 of its own count. Comes in: what is written there. Goes out: the newest step.
//! This part must never believe more than a number, nor keep more than one line.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{OpenOptionsExt as _, chown},
    path::Path,
};

use rustix::fs::{CWD, Mode, OFlags};

use crate::isolation::account::Account;

/// The longest line that means anything.
const MAX_LINE: usize = 256;
/// Bytes taken at one look; a job that writes more is read more slowly.
const MAX_LOOK: usize = 16 * 1024;

pub(super) struct ReportPipe {
    pub(super) fifo: File,
    /// A line without its end yet.
    line: Vec<u8>,
}

impl ReportPipe {
    /// Makes the pipe; its folder belongs to us, the pipe to the job's user.
    pub(super) fn lay(path: &Path, account: Option<&Account>) -> io::Result<Self> {
        match rustix::fs::mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(err) => return Err(err.into()),
        }
        if let Some(account) = account {
            chown(path, Some(account.uid), Some(account.gid))?;
        }
        // Open for writing too: otherwise the end of the first writer would look like the end of the pipe.
        let flags = (OFlags::NONBLOCK | OFlags::NOFOLLOW).bits();
        let fifo = OpenOptions::new().read(true).write(true).custom_flags(flags.cast_signed()).open(path)?;
        Ok(Self { fifo, line: Vec::new() })
    }

    /// The newest step that was reported since the last look.
    pub(super) fn newest(&mut self) -> Option<u64> {
        let mut bytes = vec![0; MAX_LOOK];
        let mut newest = None;
        let count = self.fifo.read(&mut bytes).unwrap_or(0);
        for byte in &bytes[..count] {
            if *byte == b'\n' {
                newest = parse(&self.line).or(newest);
                self.line.clear();
            } else if self.line.len() < MAX_LINE {
                self.line.push(*byte);
            }
        }
        newest
    }
}

/// `checkpoint STEP`.
fn parse(line: &[u8]) -> Option<u64> {
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    match (words.next(), words.next(), words.next()) {
        (Some("checkpoint"), Some(step), None) => step.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn the_newest_whole_line_counts_and_nonsense_does_not() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("report");
        let mut pipe = ReportPipe::lay(&path, None).expect("lays it");
        let mut job = OpenOptions::new().write(true).open(&path).expect("a job opens it");
        job.write_all(b"checkpoint 5\ncheckpoint 7\nhello\ncheckpoint x\ncheckpoint 9").expect("writes");
        assert_eq!(pipe.newest(), Some(7));
        assert_eq!(pipe.newest(), None);
        job.write_all(b"\n").expect("writes");
        assert_eq!(pipe.newest(), Some(9));
        job.write_all(&[b'x'; 4_000]).expect("writes");
        job.write_all(b"\ncheckpoint 10\r\n").expect("writes");
        assert_eq!(pipe.newest(), Some(10));
    }
}
