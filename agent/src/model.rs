//! The agent's own words: members, orders, leases, exits, reports.
//!
//! Comes in: nothing; these are plain values that the pure core, the stores, the launchers and the session share.
//! Goes out: nothing. This part must never do IO, read a clock, or know how a value looks on the wire (`convert.rs`
//! does that). The launch itself is carried as the message it came in: the core moves it, only the launcher reads it.

use std::{fmt, str::FromStr, sync::Arc};

pub use dure_proto::v1::Launch;

/// A scheduler's term of leadership. Higher is newer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct Epoch(pub u64);

/// A position in the scheduler's journal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct JournalSeq(pub u64);

/// Milliseconds since the Unix epoch, or of any clock that only ever rises; the core compares, it does not interpret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct Millis(pub u64);

/// One member of one attempt of one job: what a lease, a shim and a report belong to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct MemberId {
    /// The job.
    pub job: u64,
    /// The run of the job, from 1.
    pub attempt: u32,
    /// The rank inside the gang, from 0.
    pub member: u32,
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.job, self.attempt, self.member)
    }
}

/// A text that is no `job.attempt.member`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("\"{0}\" is no member: expected job.attempt.member, as in 17.1.0")]
pub struct NotAMember(pub String);

impl FromStr for MemberId {
    type Err = NotAMember;

    fn from_str(text: &str) -> Result<Self, NotAMember> {
        let refuse = || NotAMember(text.to_owned());
        let mut parts = text.split('.');
        let mut part = || parts.next().ok_or_else(refuse);
        let id = Self {
            job: part()?.parse().map_err(|_| refuse())?,
            attempt: part()?.parse().map_err(|_| refuse())?,
            member: part()?.parse().map_err(|_| refuse())?,
        };
        if parts.next().is_some() { Err(refuse()) } else { Ok(id) }
    }
}

/// How a member ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum How {
    /// It left by itself with this code.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// It never ran: why.
    LaunchFailure(String),
    /// It is dead, how it ended is not known: why not.
    Unknown(String),
}

/// The end of a member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exit {
    /// How it ended.
    pub how: How,
    /// It was stopped because its time limit was over.
    pub timed_out: bool,
    /// Start, milliseconds since the Unix epoch; 0: it never ran.
    pub started_ms: u64,
    /// End, milliseconds since the Unix epoch; 0: not known.
    pub ended_ms: u64,
    /// What the kernel refused it (memory, processes), in words; empty: nothing.
    pub detail: String,
    /// The kernel ended processes of it: they wanted more memory than it may have.
    pub out_of_memory: bool,
}

impl Exit {
    /// The end of a member that never ran.
    pub fn never_ran(why: impl Into<String>) -> Self {
        Self {
            how: How::LaunchFailure(why.into()),
            timed_out: false,
            started_ms: 0,
            ended_ms: 0,
            detail: String::new(),
            out_of_memory: false,
        }
    }

    /// The end of a member that is dead without a word.
    pub fn unknown(why: impl Into<String>) -> Self {
        Self { how: How::Unknown(why.into()), ..Self::never_ran("") }
    }
}

/// The wish that a member ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StopRequest {
    /// Why, in the scheduler's word (cancelled, evicted, ...).
    pub reason: String,
    /// Time between TERM and KILL, in milliseconds; 0: KILL at once.
    pub grace_ms: u64,
}

/// What an order wants.
#[derive(Clone, PartialEq, Debug)]
pub enum Want {
    /// Prepare the member; start it too when the launch says so.
    Launch(Arc<Launch>),
    /// All members are prepared: start. Carries the launch again for an agent that lost it.
    Go(Arc<Launch>),
    /// End the member, or never begin it.
    Stop(StopRequest),
    /// It goes on as it is: the Hello said that this was obeyed.
    Keep,
}

/// One order of the scheduler. Its identity is (member, sequence): obeyed once, in rising order.
#[derive(Clone, PartialEq, Debug)]
pub struct Order {
    /// The leader who sends it: a gate, no part of the identity.
    pub epoch: Epoch,
    /// The journal position that made it durable.
    pub seq: JournalSeq,
    /// Whom it is about.
    pub id: MemberId,
    /// Rising per member: 1 launch, 2 go, 3 stop.
    pub sequence: u32,
    /// What is wanted.
    pub want: Want,
}

/// The scheduler's first word on a stream: who leads, and all that shall be on this node.
#[derive(Clone, PartialEq, Debug)]
pub struct Welcome {
    /// The leader's epoch.
    pub epoch: Epoch,
    /// The journal position the lists below rest on.
    pub seq: JournalSeq,
    /// Which store the scheduler leads.
    pub store_id: String,
    /// Everything that shall exist here.
    pub wanted: Vec<Order>,
    /// Members whose end is recorded already.
    pub settled: Vec<MemberId>,
}

/// The highest leader this agent has obeyed; on disk before it is obeyed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EpochMark {
    /// The highest epoch.
    pub epoch: Epoch,
    /// The highest journal position seen under it.
    pub seq: JournalSeq,
    /// Its store.
    pub store_id: String,
}

/// What the disk says about a member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Recorded {
    /// Waits at the barrier; nothing was started.
    Prepared,
    /// The shim may have been started.
    Started,
    /// As `Started`, and it shall end.
    Stopping(StopRequest),
    /// The process group is gone; the end waits to be acknowledged.
    Gone(Exit),
}

/// One lease as it lies on disk.
#[derive(Clone, PartialEq, Debug)]
pub struct LeaseRecord {
    /// Whose.
    pub id: MemberId,
    /// The highest order obeyed for it.
    pub sequence: u32,
    /// The journal position of that order.
    pub seq: JournalSeq,
    /// The boot of the node under which it was made.
    pub boot_id: String,
    /// What to start; absent when the first order for it was a stop.
    pub launch: Option<Arc<Launch>>,
    /// How far it came.
    pub state: Recorded,
}

/// What a report says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum News {
    /// Ready for the barrier.
    Prepared,
    /// Runs, with this process id.
    Started(u32),
    /// It says that it can go on from this step of its own count; when it said so.
    Checkpoint(u64, Millis),
    /// The process group is gone: the GPUs are free.
    Gone(Exit),
}

/// What happened to a member; sent again until its id is acknowledged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// Its identity, unique over restarts of the agent.
    pub report_id: u64,
    /// Whom it is about.
    pub id: MemberId,
    /// What happened.
    pub news: News,
}
