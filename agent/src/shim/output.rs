//! The member's output: from two pipes into two files, with an upper bound.
//!
//! Comes in: what the process writes. Goes out: at most `log_limit_bytes` of each stream, then one line that says so;
//! the rest is read and dropped, so that the process never blocks on it.
//! This part must never wait: the pipes are read only when they have something.

use std::{
    fs::{File, OpenOptions},
    io::{self, PipeReader, PipeWriter, Read as _, Write as _},
    os::{fd::AsFd, unix::fs::OpenOptionsExt as _},
    path::Path,
};

use super::files::ShimSpec;

/// Bytes moved at once.
const CHUNK: usize = 64 * 1024;
/// Chunks moved before other events are looked at.
const CHUNKS_PER_TURN: usize = 16;

/// One stream of the process.
pub(super) struct Stream {
    /// None when every writer is gone.
    pub(super) pipe: Option<PipeReader>,
    file: File,
    left: u64,
    cut: bool,
}

/// Both streams.
pub(super) struct Output {
    pub(super) streams: [Stream; 2],
    chunk: Vec<u8>,
}

impl Output {
    /// The streams, and the ends that the process writes to (standard output, standard error).
    pub(super) fn open(spec: &ShimSpec) -> io::Result<(Self, PipeWriter, PipeWriter)> {
        let (out, stdout) = Stream::open(&spec.stdout, spec.log_limit_bytes)?;
        let (err, stderr) = Stream::open(&spec.stderr, spec.log_limit_bytes)?;
        Ok((Self { streams: [out, err], chunk: vec![0; CHUNK] }, stdout, stderr))
    }

    /// Moves what is there; true when there may be more.
    pub(super) fn pump(&mut self) -> bool {
        let mut more = false;
        for stream in &mut self.streams {
            more |= stream.pump(&mut self.chunk);
        }
        more
    }

    /// Moves all that is left, after the last writer has ended.
    pub(super) fn drain(&mut self) {
        while self.pump() {}
    }
}

impl Stream {
    fn open(path: &Path, limit: u64) -> io::Result<(Self, PipeWriter)> {
        let named = |err: io::Error| io::Error::new(err.kind(), format!("{}: {err}", path.display()));
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(named)?;
        }
        let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path).map_err(named)?;
        let (reader, writer) = io::pipe()?;
        // Only our end: the process keeps an ordinary blocking pipe.
        rustix::io::ioctl_fionbio(reader.as_fd(), true)?;
        Ok((Self { pipe: Some(reader), file, left: limit, cut: false }, writer))
    }

    fn pump(&mut self, chunk: &mut [u8]) -> bool {
        for _ in 0..CHUNKS_PER_TURN {
            let Some(pipe) = &mut self.pipe else { return false };
            match pipe.read(chunk) {
                Ok(0) => self.pipe = None,
                Ok(count) => self.keep(&chunk[..count]),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }

    fn keep(&mut self, bytes: &[u8]) {
        let keep = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= keep as u64;
        // A full disk costs the log, not the job.
        let _ = self.file.write_all(&bytes[..keep]);
        if keep < bytes.len() && !self.cut {
            self.cut = true;
            let _ = self.file.write_all(b"\n[dure: the log is full, the rest is dropped]\n");
        }
    }
}
