//! Reading a member's output from its node.
//!
//! Comes in: which member, which stream, from where. Goes out: chunks in order, then an end or an error.
//! The path is made from ids here, never taken from a request, and nothing that a job could have put there is read. The reader waits for the receiver: a slow one slows
//! only itself. This part must never change a log.

use std::{
    io::{self, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};

use dure_proto::v1::{AgentMessage, LogData, LogRead, agent_message::Kind};
use tokio::{
    fs::File,
    io::{AsyncReadExt as _, AsyncSeekExt as _},
    sync::mpsc,
    time::sleep,
};

use crate::model::MemberId;

/// Logs read at once on one node.
pub const MAX_LOG_READS: usize = 64;
/// Bytes in one chunk.
pub const LOG_CHUNK: usize = 64 * 1024;
/// How often a followed log is looked at for more.
const FOLLOW_LOOK: Duration = Duration::from_millis(100);

/// The folder of a member's output.
pub fn folder(state_dir: &Path, id: MemberId) -> PathBuf {
    state_dir.join("logs").join(id.to_string())
}

/// The name of a stream in that folder.
pub fn stream_name(stderr: bool) -> &'static str {
    if stderr { "err" } else { "out" }
}

/// The file that begins at byte `start` of a stream.
pub fn segment(folder: &Path, name: &str, start: u64) -> PathBuf {
    folder.join(format!("{name}.{start}"))
}

/// First bytes of the files that are kept of a stream, rising.
pub fn segments(folder: &Path, name: &str) -> io::Result<Vec<u64>> {
    let mut starts = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?.file_name();
        starts
            .extend(entry.to_str().and_then(|entry| entry.strip_prefix(name)?.strip_prefix('.')?.parse::<u64>().ok()));
    }
    starts.sort_unstable();
    Ok(starts)
}

/// Sends the log to `to` until its end, or, when followed, until the member has ended. Ends early when nobody listens.
pub(crate) async fn read(state_dir: PathBuf, read: LogRead, to: mpsc::Sender<AgentMessage>) {
    let reader = Reader { id: read.read_id, to };
    if let Err(err) = reader.run(&state_dir, &read).await {
        reader.send(LogData { error: err.to_string(), end: true, ..reader.data() }).await;
    }
}

/// The answer to a read that cannot be served.
pub(crate) fn refusal(read_id: u64, why: &str) -> AgentMessage {
    let data = LogData { read_id, end: true, error: why.to_owned(), ..LogData::default() };
    AgentMessage { kind: Some(Kind::LogData(data)) }
}

struct Reader {
    id: u64,
    to: mpsc::Sender<AgentMessage>,
}

impl Reader {
    fn data(&self) -> LogData {
        LogData { read_id: self.id, ..LogData::default() }
    }

    async fn send(&self, data: LogData) -> bool {
        self.to.send(AgentMessage { kind: Some(Kind::LogData(data)) }).await.is_ok()
    }

    async fn run(&self, state_dir: &Path, read: &LogRead) -> io::Result<()> {
        let id = MemberId { job: read.job_id, attempt: read.attempt, member: read.member };
        let member_dir = state_dir.join("members").join(id.to_string());
        let folder = folder(state_dir, id);
        let name = stream_name(read.stderr);
        let starts = loop {
            let ended = has_ended(&member_dir);
            match segments(&folder, name) {
                Ok(starts) if !starts.is_empty() => break starts,
                Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
                // A member that has not begun has no log yet.
                _ if read.follow && !ended => sleep(FOLLOW_LOOK).await,
                _ if !ended => {
                    self.send(LogData { end: true, ..self.data() }).await;
                    return Ok(());
                }
                _ => {
                    let why =
                        format!("member {id} has no log on this node: it wrote none here, or it was removed by age");
                    return Err(io::Error::new(io::ErrorKind::NotFound, why));
                }
            }
            if self.to.is_closed() {
                return Ok(());
            }
        };
        let newest = starts.last().copied().unwrap_or(0);
        let length = newest + tokio::fs::metadata(segment(&folder, name, newest)).await?.len();
        let from_end = if read.tail_bytes > 0 { length.saturating_sub(read.tail_bytes) } else { 0 };
        let mut place = Place { folder, name, offset: read.offset.max(from_end), open: None };
        let mut chunk = vec![0; LOG_CHUNK];
        loop {
            // Looked at before the read: what was written before the end is read after it was seen.
            let last = !read.follow || has_ended(&member_dir);
            loop {
                let count = place.read(&mut chunk).await?;
                if count == 0 {
                    break;
                }
                let data = chunk[..count].to_vec();
                if !self.send(LogData { offset: place.offset - count as u64, data, ..self.data() }).await {
                    return Ok(());
                }
            }
            if last {
                self.send(LogData { offset: place.offset, end: true, ..self.data() }).await;
                return Ok(());
            }
            if self.to.is_closed() {
                return Ok(());
            }
            sleep(FOLLOW_LOOK).await;
        }
    }
}

/// A place in a stream whose oldest parts may go at any time.
struct Place {
    folder: PathBuf,
    name: &'static str,
    offset: u64,
    /// First byte of the open file.
    open: Option<(u64, File)>,
}

impl Place {
    /// The next bytes; none at the end of what is there. What is gone is left out: the offset tells.
    async fn read(&mut self, chunk: &mut [u8]) -> io::Result<usize> {
        if let Some((_, file)) = &mut self.open {
            let count = file.read(chunk).await?;
            self.offset += count as u64;
            if count > 0 {
                return Ok(count);
            }
        }
        let starts = segments(&self.folder, self.name)?;
        let holds = starts.iter().rev().find(|start| **start <= self.offset).or(starts.first());
        let Some(start) = holds.copied().filter(|start| self.open.as_ref().is_none_or(|(open, _)| open < start)) else {
            return Ok(0);
        };
        self.offset = self.offset.max(start);
        let mut file = match File::open(segment(&self.folder, self.name, start)).await {
            Ok(file) => file,
            // It went meanwhile: the next look finds a later one.
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(err) => return Err(err),
        };
        file.seek(SeekFrom::Start(self.offset - start)).await?;
        let count = file.read(chunk).await?;
        self.offset += count as u64;
        self.open = Some((start, file));
        Ok(count)
    }
}

fn has_ended(member_dir: &Path) -> bool {
    !member_dir.exists() || member_dir.join("exit.json").exists()
}
