//! Reading a member's output from its node.
//!
//! Comes in: which member, which stream, from where. Goes out: chunks in order, then an end or an error.
//! The path is made from ids here, never taken from a request. The reader waits for the receiver: a slow one slows
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

/// Where the output of a member is kept, or linked from.
pub fn path(state_dir: &Path, id: MemberId, stderr: bool) -> PathBuf {
    state_dir.join("logs").join(format!("{id}.{}", if stderr { "err" } else { "out" }))
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
        let path = path(state_dir, id, read.stderr);
        let mut file = loop {
            let ended = has_ended(&member_dir);
            match File::open(&path).await {
                Ok(file) => break file,
                // A member that has not begun has no log yet.
                Err(err) if err.kind() == io::ErrorKind::NotFound && read.follow && !ended => sleep(FOLLOW_LOOK).await,
                Err(err) if err.kind() == io::ErrorKind::NotFound && !ended => {
                    self.send(LogData { end: true, ..self.data() }).await;
                    return Ok(());
                }
                Err(err) if err.kind() == io::ErrorKind::NotFound => {
                    let why =
                        format!("member {id} has no log on this node: it wrote none here, or it was removed by age");
                    return Err(io::Error::new(err.kind(), why));
                }
                Err(err) => return Err(err),
            }
            if self.to.is_closed() {
                return Ok(());
            }
        };
        let length = file.metadata().await?.len();
        let from_end = if read.tail_bytes > 0 { length.saturating_sub(read.tail_bytes) } else { 0 };
        let mut offset = file.seek(SeekFrom::Start(read.offset.max(from_end))).await?;
        let mut chunk = vec![0; LOG_CHUNK];
        loop {
            // Looked at before the read: what was written before the end is read after it was seen.
            let last = !read.follow || has_ended(&member_dir);
            loop {
                let count = file.read(&mut chunk).await?;
                if count == 0 {
                    break;
                }
                if !self.send(LogData { offset, data: chunk[..count].to_vec(), ..self.data() }).await {
                    return Ok(());
                }
                offset += count as u64;
            }
            if last {
                self.send(LogData { offset, end: true, ..self.data() }).await;
                return Ok(());
            }
            if self.to.is_closed() {
                return Ok(());
            }
            sleep(FOLLOW_LOOK).await;
        }
    }
}

fn has_ended(member_dir: &Path) -> bool {
    !member_dir.exists() || member_dir.join("exit.json").exists()
}
