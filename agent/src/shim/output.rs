//! The member's output: from two pipes into its log folder, with an upper bound, and into the files that the job chose.
//!
//! Comes in: what the process writes. Goes out: segments named by the place of their first byte in the stream (`out.0`,
//! `out.67108864`, ...), the newest `log_limit_bytes` of each stream; and a copy, whole, where the job has named a file.
//! A job's file is opened as the job's user, and never read. This part must never wait: the pipes are read only when they
//! have something.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, PipeReader, PipeWriter, Read as _, Write as _},
    os::{fd::AsFd, unix::fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::{account, files::ShimSpec};
use crate::{isolation::account::Account, logs};

/// Bytes moved at once.
const CHUNK: usize = 64 * 1024;
/// Chunks moved before other events are looked at.
const CHUNKS_PER_TURN: usize = 16;
/// Parts that the bound is cut into: the oldest goes as a whole.
const SEGMENTS: u64 = 4;

/// One stream of the process.
pub(super) struct Stream {
    /// None when every writer is gone.
    pub(super) pipe: Option<PipeReader>,
    kept: Segments,
    copy: Option<File>,
}

/// Both streams.
pub(super) struct Output {
    pub(super) streams: [Stream; 2],
    chunk: Vec<u8>,
}

impl Output {
    /// The streams, and the ends that the process writes to (standard output, standard error).
    pub(super) fn open(spec: &ShimSpec) -> io::Result<(Self, PipeWriter, PipeWriter)> {
        let account = spec.entry.confinement.account.as_ref();
        fs::create_dir_all(&spec.logs).map_err(|err| named(&spec.logs, &err))?;
        let (out, stdout) = Stream::open(spec, false, spec.stdout_copy.as_deref(), account)?;
        let (err, stderr) = Stream::open(spec, true, spec.stderr_copy.as_deref(), account)?;
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

    /// A line of the shim's own at the end of the standard error.
    pub(super) fn remark(&mut self, words: &str) {
        self.streams[1].keep(format!("[dure: {words}]\n").as_bytes());
    }
}

fn named(path: &Path, err: &io::Error) -> io::Error {
    io::Error::new(err.kind(), format!("{}: {err}", path.display()))
}

impl Stream {
    fn open(
        spec: &ShimSpec,
        stderr: bool,
        copy: Option<&Path>,
        user: Option<&Account>,
    ) -> io::Result<(Self, PipeWriter)> {
        let kept = Segments::new(&spec.logs, logs::stream_name(stderr), spec.log_limit_bytes)?;
        let open = |path: &Path| {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            OpenOptions::new().append(true).create(true).mode(0o640).open(path)
        };
        let copy = copy.map(|path| account::acting_as(user, || open(path)).map_err(|err| named(path, &err)));
        let copy = copy.transpose()?;
        let (reader, writer) = io::pipe()?;
        // Only our end: the process keeps an ordinary blocking pipe.
        rustix::io::ioctl_fionbio(reader.as_fd(), true)?;
        Ok((Self { pipe: Some(reader), kept, copy }, writer))
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

    /// A full disk costs the log, not the job.
    fn keep(&mut self, bytes: &[u8]) {
        let _ = self.kept.write(bytes);
        if let Some(copy) = &mut self.copy {
            let _ = copy.write_all(bytes);
        }
    }
}

/// The newest bytes of a stream, in a few files.
struct Segments {
    dir: PathBuf,
    name: &'static str,
    /// Bytes of one file.
    size: u64,
    file: File,
    /// Free bytes in it.
    left: u64,
    /// Bytes of the stream so far.
    total: u64,
    /// First bytes of the files, the oldest first.
    starts: VecDeque<u64>,
}

impl Segments {
    fn new(dir: &Path, name: &'static str, limit: u64) -> io::Result<Self> {
        let size = (limit / SEGMENTS).max(1);
        let file = Self::begin(dir, name, 0)?;
        Ok(Self { dir: dir.to_owned(), name, size, file, left: size, total: 0, starts: VecDeque::from([0]) })
    }

    fn begin(dir: &Path, name: &str, start: u64) -> io::Result<File> {
        let path = logs::segment(dir, name, start);
        OpenOptions::new().append(true).create(true).mode(0o640).open(&path).map_err(|err| named(&path, &err))
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.left == 0 {
                self.turn()?;
            }
            let count = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            let (now, later) = bytes.split_at(count);
            // What could not be written counts all the same: places in the stream stay true.
            let written = self.file.write_all(now);
            (self.left, self.total, bytes) = (self.left - count as u64, self.total + count as u64, later);
            written?;
        }
        Ok(())
    }

    fn turn(&mut self) -> io::Result<()> {
        self.file = Self::begin(&self.dir, self.name, self.total)?;
        self.left = self.size;
        self.starts.push_back(self.total);
        while self.starts.len() as u64 > SEGMENTS
            && let Some(oldest) = self.starts.pop_front()
        {
            fs::remove_file(logs::segment(&self.dir, self.name, oldest))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_bytes_are_kept_within_the_bound() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut segments = Segments::new(dir.path(), "out", 40).expect("begins");
        for number in 0..100 {
            segments.write(format!("{number:03}\n").as_bytes()).expect("writes");
        }
        let found = logs::segments(dir.path(), "out").expect("lists");
        let sizes: Vec<u64> = found.iter().map(|start| file_size(dir.path(), *start)).collect();
        assert_eq!((found, sizes), (vec![360, 370, 380, 390], vec![10, 10, 10, 10]));
        let newest = fs::read_to_string(logs::segment(dir.path(), "out", 390)).expect("reads");
        assert_eq!(newest, "7\n098\n099\n");
    }

    fn file_size(dir: &Path, start: u64) -> u64 {
        fs::metadata(logs::segment(dir, "out", start)).expect("is there").len()
    }
}
