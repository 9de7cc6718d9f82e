//! Every limit of the face, with its unit and its reason.

use std::time::Duration;

/// Largest message taken, in bytes: a full Submit of small jobs, or a few with large scripts.
pub const MAX_MESSAGE: usize = 4 << 20;
/// Largest message given, in bytes: a full page of nodes with telemetry.
pub const MAX_ANSWER: usize = 32 << 20;
/// Jobs in one Submit: bounds one turn.
pub const MAX_JOBS_PER_CALL: usize = 1000;
/// Largest script, in bytes.
pub const MAX_SCRIPT: usize = 256 << 10;
/// All names and values of an environment together, in bytes.
pub const MAX_ENV: usize = 64 << 10;
/// Arguments of a command.
pub const MAX_ARGS: usize = 4096;
/// All arguments of a command together, in bytes.
pub const MAX_ARGS_BYTES: usize = 128 << 10;
/// Longest path, in bytes: that of Linux.
pub const MAX_PATH: usize = 4096;
/// Mounts of one container.
pub const MAX_MOUNTS: usize = 64;
/// Members of an unequal gang that are looked at; the policy's own limit lies at or below it.
pub const MAX_UNEQUAL: usize = 65_536;
/// Nodes that one booking names.
pub const MAX_NAMED_NODES: usize = 20_000;
/// GPU models of one job.
pub const MAX_MODELS: usize = 16;
/// Longest request id, in bytes.
pub const MAX_REQUEST_ID: usize = 64;
/// Longest name or filter, in bytes.
pub const MAX_NAME: usize = 512;
/// Longest reason of an operator, in bytes.
pub const MAX_REASON: usize = 512;
/// Phases in one filter.
pub const MAX_PHASES: usize = 32;
/// Entries of a page where the caller states none.
pub const DEFAULT_PAGE: u32 = 100;
/// Entries of a page.
pub const MAX_PAGE: u32 = 1000;
/// Jobs looked at in one turn on behalf of one List.
pub const MAX_SCAN: usize = 20_000;
/// Turns on behalf of one List; then the page ends early and its token goes on.
pub const MAX_SCANS: usize = 16;
/// Rows of one usage report.
pub const MAX_USAGE_ROWS: usize = 100_000;
/// Watch calls at once.
pub const MAX_WATCHERS: usize = 1024;
/// Batches of events that a watcher may be behind.
pub const MAX_BATCHES_BEHIND: usize = 1024;
/// Events that wait for one watcher's connection.
pub const MAX_EVENTS_WAITING: usize = 256;
/// Events read from the journal at a time for a watcher that catches up.
pub const CATCH_UP: usize = 4096;
/// Chunks of a log that wait for one reader's connection.
pub const MAX_CHUNKS_WAITING: usize = 16;
/// Streams of one connection, an unanswered call being one: HTTP/2 has the client wait with more.
pub const MAX_STREAMS: u32 = 1024;
/// All headers of a request together, in bytes.
pub const MAX_HEADERS: u32 = 16 << 10;
/// Streams that a client may reset before they were accepted: guards against rapid reset.
pub const MAX_PENDING_RESETS: usize = 64;
/// Time for an answer, or for the beginning of a stream.
pub const CALL_DEADLINE: Duration = Duration::from_secs(60);
/// Time for a TLS handshake.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// A silent connection is asked whether it lives after this long.
pub const KEEPALIVE_EVERY: Duration = Duration::from_secs(20);
/// And closed when it does not say so within this.
pub const KEEPALIVE_DEADLINE: Duration = Duration::from_secs(10);
/// After which a turned-away caller may come back.
pub const COME_BACK_AFTER: Duration = Duration::from_millis(250);
/// After which somebody may have made room on a full disk.
pub const ROOM_WITHIN: Duration = Duration::from_secs(30);
/// A watcher whose connection takes nothing for this long is cut off.
pub const STALL_DEADLINE: Duration = Duration::from_secs(30);
