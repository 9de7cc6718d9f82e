//! A job, its phases, and its attempts.

use std::collections::BTreeSet;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::idle::IdleNotice;
use crate::ids::{
    AttemptNumber, BlobId, BookingId, JobId, MemberIndex, NodeIndex, PoolIndex, PriorityIndex, TenantIndex, UserIndex,
};
use crate::placement::Placed;
use crate::queue::Queued;
use crate::request::Request;
use crate::units::{GpuTime, Gpus, Span, Time};

/// Nodes that a job keeps away from after a launch failed there; the oldest is forgotten first.
pub const MAX_AVOIDED_NODES: usize = 4;

/// What was submitted, names resolved.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct JobSpec {
    /// The leaf tenant that pays.
    pub tenant: TenantIndex,
    /// Who submitted it.
    pub user: UserIndex,
    /// As the user calls it; need not be unique.
    pub name: Box<str>,
    /// What it asks of placement.
    pub request: Arc<Request>,
    /// Its class of priority.
    pub priority: PriorityIndex,
    /// Whether it may be evicted (and may therefore run on borrowed GPUs).
    pub preemptible: bool,
    /// Longest run of one attempt.
    pub time_limit: Span,
    /// The limit of an attempt may be lowered to this where that lets it start now; not above `time_limit`.
    pub time_min: Option<Span>,
    /// From TERM to KILL.
    pub grace: Span,
    /// Set for an array.
    pub array: Option<ArraySpec>,
    /// Jobs that must end first, each once.
    pub after: Box<[Dependency]>,
    /// How often it is tried again after it failed by itself.
    pub max_retries: u32,
    /// Its script runs on its first member alone: when that ends, the job does.
    pub batch: bool,
    /// How long what is left of its places is held for it after a node or a GPU of it was lost; 0: not at all.
    pub hold_survivors: Span,
    /// The booking that it may run in, and nowhere else while that is there.
    pub booking: Option<BookingId>,
    /// What it runs.
    pub payload: BlobId,
}

impl JobSpec {
    /// The shortest limit that an attempt of it may get.
    #[inline]
    pub fn least_limit(&self) -> Span {
        self.time_min.unwrap_or(self.time_limit)
    }
}

/// An array: `size` indices, at most `cap` of them under way at once (0 = no cap).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ArraySpec {
    /// Indices 0 to `size` - 1.
    pub size: u32,
    /// At most this many started and not ended; 0 = no cap.
    pub cap: u32,
}

/// When a dependency lets the job go.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum DependencyKind {
    /// The other has completed.
    AfterOk,
    /// The other has ended.
    AfterAny,
    /// The other has ended and not completed.
    AfterNotOk,
}

impl DependencyKind {
    /// Whether a job that ended with `outcome` satisfies it; if not, it never will be.
    pub fn satisfied_by(self, outcome: Outcome) -> bool {
        match self {
            DependencyKind::AfterOk => outcome == Outcome::Completed,
            DependencyKind::AfterAny => true,
            DependencyKind::AfterNotOk => outcome != Outcome::Completed,
        }
    }
}

/// One job that must end first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Dependency {
    /// Its id.
    pub job: JobId,
    /// How it must end.
    pub kind: DependencyKind,
}

/// How an attempt or a job ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Outcome {
    /// Every member exited with 0.
    Completed,
    /// A member exited with another code or by a signal.
    Failed,
    /// By its user or an operator.
    Cancelled,
    /// Its time limit was over.
    TimedOut,
    /// A member could not be started, or the gang did not come together in time.
    LaunchFailed,
    /// A node under it was lost or restarted.
    NodeLost,
    /// Its GPUs went back to their owner.
    Evicted,
    /// An operator emptied its node.
    Drained,
    /// It starts again with more members: an elastic gang that grows.
    Resized,
    /// A job that it depends on ended in the other way: it never ran.
    DependencyFailed,
    /// A member ended badly while a GPU under it was fenced for its health.
    GpuFault,
    /// Its GPUs did no work for longer than its tenant allows.
    Idle,
}

/// Why an attempt is being stopped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum StopReason {
    /// By its user or an operator.
    Cancelled,
    /// Its time limit is over.
    TimeLimit,
    /// A member ended badly: the rest has no purpose.
    GangBroken,
    /// The script of a batch job has ended well: so do the members that it was given.
    ScriptEnded,
    /// The gang did not come together before its deadline.
    LaunchDeadline,
    /// A node under it is lost.
    NodeLost,
    /// Its GPUs go back to their owner; who gets them is named in the event.
    Evicted,
    /// An operator empties its node.
    Drained,
    /// An elastic gang grows: it starts again with more members.
    Resized,
    /// Its GPUs do no work.
    Idle,
}

impl StopReason {
    /// What the attempt has come to when it was stopped for this; `broken` is how the first bad member ended.
    pub fn outcome(self, broken: Outcome) -> Outcome {
        match self {
            StopReason::Cancelled => Outcome::Cancelled,
            StopReason::TimeLimit => Outcome::TimedOut,
            StopReason::GangBroken => broken,
            StopReason::ScriptEnded => Outcome::Completed,
            StopReason::LaunchDeadline => Outcome::LaunchFailed,
            StopReason::NodeLost => Outcome::NodeLost,
            StopReason::Evicted => Outcome::Evicted,
            StopReason::Drained => Outcome::Drained,
            StopReason::Resized => Outcome::Resized,
            StopReason::Idle => Outcome::Idle,
        }
    }
}

/// How a member's process ended.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum ExitHow {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It never ran.
    LaunchFailed(Box<str>),
    /// It is dead; how it ended was lost with its node.
    Unknown(Box<str>),
}

/// The end of a member.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Exit {
    /// How.
    pub how: ExitHow,
    /// The agent stopped it at its time limit.
    pub timed_out: bool,
    /// The kernel ended processes of it: they wanted more memory than it may have.
    pub out_of_memory: bool,
    /// What else is known of its end, in its agent's words; empty: nothing.
    pub detail: Box<str>,
}

impl Exit {
    /// An end of which no more is known.
    pub fn of(how: ExitHow) -> Self {
        Self { how, timed_out: false, out_of_memory: false, detail: "".into() }
    }

    /// What this exit alone makes of the attempt.
    pub fn outcome(&self) -> Outcome {
        match &self.how {
            _ if self.timed_out => Outcome::TimedOut,
            ExitHow::Code(0) => Outcome::Completed,
            ExitHow::Code(_) | ExitHow::Signal(_) => Outcome::Failed,
            ExitHow::LaunchFailed(_) => Outcome::LaunchFailed,
            ExitHow::Unknown(_) => Outcome::NodeLost,
        }
    }
}

/// Where a member is in its life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum MemberPhase {
    /// Its order is out.
    Ordered,
    /// Its agent is ready to start it.
    Prepared,
    /// Its process runs.
    Running,
    /// Its process is proven gone.
    Gone,
}

/// One member of an attempt.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Member {
    /// Where it is.
    pub placed: Placed,
    /// How far it is.
    pub phase: MemberPhase,
    /// How it ended; only when `Gone`, and not when it was proven dead from outside.
    pub exit: Option<Exit>,
}

/// What a job has saved.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Checkpoint {
    /// The attempt that said so.
    pub attempt: AttemptNumber,
    /// In the job's own count.
    pub step: u64,
    /// When it said so.
    pub at: Time,
}

/// One run of a job.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Attempt {
    /// From 1.
    pub number: AttemptNumber,
    /// Where its GPUs are.
    pub pool: PoolIndex,
    /// Its limit, where that is lower than its job's.
    pub lowered: Option<Span>,
    /// By rank.
    pub members: SmallVec<[Member; 1]>,
    /// When its GPUs were allocated.
    pub placed_at: Time,
    /// Place in the order in which attempts got their GPUs: the later borrows first.
    pub start_order: u64,
    /// When its last member started.
    pub started_at: Option<Time>,
    /// When its GPUs were given back.
    pub ended_at: Option<Time>,
    /// The barrier is open: every member was prepared and may start.
    pub released: bool,
    /// Lies above its mission's quota.
    pub borrowed: bool,
    /// It did not fit into a budget above it: it is always borrowed, and the first to go.
    pub scavenger: bool,
    /// It lies in domains that are kept whole for others: it is always borrowed.
    pub guest: bool,
    /// Its GPU-time is charged up to here.
    pub charged_at: Time,
    /// How the first member that ended badly ended.
    pub broken: Option<Outcome>,
    /// Which member that was: the others were only stopped after it.
    pub broken_by: Option<MemberIndex>,
    /// Where the launch first went wrong: the node of the first member that could not be started, or that was not ready at
    /// the deadline.
    pub suspect: Option<NodeIndex>,
    /// While it is being stopped: so many of its first members start again where they are. The others give way.
    pub keeps: u32,
    /// What it was told because its GPUs do no work.
    pub idle: Option<IdleNotice>,
    /// How it ended.
    pub outcome: Option<Outcome>,
}

impl Attempt {
    /// A record to be filled in, with room for so many members.
    pub(crate) fn blank(members: usize) -> Self {
        Self {
            number: AttemptNumber(0),
            pool: PoolIndex(0),
            lowered: None,
            members: SmallVec::with_capacity(members),
            placed_at: Time(0),
            start_order: 0,
            started_at: None,
            ended_at: None,
            released: false,
            borrowed: false,
            scavenger: false,
            guest: false,
            charged_at: Time(0),
            broken: None,
            broken_by: None,
            suspect: None,
            keeps: 0,
            idle: None,
            outcome: None,
        }
    }

    /// All GPUs of all members.
    pub fn gpus(&self) -> Gpus {
        self.members.iter().map(|member| member.placed.held()).sum()
    }

    /// Whether it is borrowed whatever is left of its mission's quota.
    pub fn is_outside(&self) -> bool {
        self.scavenger || self.guest
    }

    /// Members not proven gone.
    pub fn alive(&self) -> impl Iterator<Item = (MemberIndex, &Member)> {
        self.members
            .iter()
            .enumerate()
            .filter(|(_, member)| member.phase != MemberPhase::Gone)
            .map(|(rank, member)| (MemberIndex::of(rank), member))
    }

    /// Whether every member is proven gone.
    pub fn is_gone(&self) -> bool {
        self.alive().next().is_none()
    }
}

/// Where a job is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Phase {
    /// It holds nothing: held, gated, or in the queue.
    Waiting,
    /// Its GPUs are allocated; its members are being prepared.
    Launching,
    /// Every member runs.
    Running,
    /// It is being stopped.
    Stopping(StopReason),
    /// Its attempt is over but for members on lost nodes, which nobody has proven dead.
    AwaitingProof(Outcome),
    /// An array all of whose indices have started and not all ended.
    Spread,
    /// It is over.
    Ended(Outcome),
}

impl Phase {
    /// Whether it holds GPUs, or may.
    pub fn is_active(self) -> bool {
        matches!(self, Phase::Launching | Phase::Running | Phase::Stopping(_) | Phase::AwaitingProof(_))
    }
}

/// What an array has come to.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct ArrayProgress {
    /// The next index to start.
    pub next: u32,
    /// Jobs of indices that have started and not ended.
    pub live: BTreeSet<JobId>,
    /// Indices that completed.
    pub completed: u32,
    /// Indices that ended in any other way.
    pub failed: u32,
    /// It was cancelled: no further index starts.
    pub cancelled: bool,
}

/// GPU-time inside and above the mission's quota.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Usage {
    /// Inside.
    pub own: GpuTime,
    /// Above, on GPUs that others lent.
    pub borrowed: GpuTime,
}

impl Usage {
    /// Adds `gpu_time` to one of the two.
    pub fn add(&mut self, gpu_time: GpuTime, borrowed: bool) {
        if borrowed {
            self.borrowed += gpu_time;
        } else {
            self.own += gpu_time;
        }
    }
}

/// A job and all that the scheduler knows of it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// What was submitted.
    pub spec: JobSpec,
    /// Where it is in its life.
    pub phase: Phase,
    /// When it was accepted.
    pub submitted_at: Time,
    /// When it ended.
    pub ended_at: Option<Time>,
    /// Held by its user or an operator.
    pub held: bool,
    /// Not to be tried before this.
    pub not_before: Option<Time>,
    /// Dependencies that have not been satisfied yet.
    pub open_dependencies: u32,
    /// Goes before all that wait in the same place: it lost its GPUs through no fault of its own.
    pub front: bool,
    /// Its place in the queue, while it is in it.
    pub queued: Option<Queued>,
    /// Attempts so far.
    pub attempts: u32,
    /// Attempts that failed by the job's own fault.
    pub failures: u32,
    /// Attempts that ended because their GPUs went to others or their node was emptied.
    pub displaced: u32,
    /// The attempt under way, or the last one.
    pub attempt: Option<Box<Attempt>>,
    /// Nodes it keeps away from.
    pub avoid: SmallVec<[NodeIndex; 2]>,
    /// Set for an array.
    pub progress: Option<Box<ArrayProgress>>,
    /// Set for a started index of an array: the array, and which index.
    pub index_of: Option<(JobId, u32)>,
    /// What it has used, all attempts together.
    pub usage: Usage,
    /// The last checkpoint that it has reported.
    pub checkpoint: Option<Checkpoint>,
}

impl Job {
    /// Whether the job may be tried, as far as it alone is concerned.
    pub fn is_eligible(&self) -> bool {
        self.phase == Phase::Waiting
            && !self.held
            && self.open_dependencies == 0
            && self.not_before.is_none()
            && !self.is_capped()
    }

    /// Whether it is an array that has as many indices under way as it may, or none left to start.
    pub fn is_capped(&self) -> bool {
        match (&self.spec.array, &self.progress) {
            (Some(array), Some(progress)) => {
                progress.next >= array.size || (array.cap > 0 && progress.live.len() as u32 >= array.cap)
            }
            _ => false,
        }
    }

    /// The GPUs that it (or the next index of it) needs at least.
    pub fn gpus(&self) -> Gpus {
        self.spec.request.least_gpus()
    }

    /// Indices of an array that have not started; 1 for any other waiting job.
    pub fn waiting_count(&self) -> u32 {
        match (&self.spec.array, &self.progress) {
            (Some(array), Some(progress)) if !progress.cancelled => array.size - progress.next,
            (Some(_), _) => 0,
            (None, _) => u32::from(self.phase == Phase::Waiting),
        }
    }

    /// The attempt that holds GPUs, if one does.
    pub fn live_attempt(&self) -> Option<&Attempt> {
        self.attempt.as_deref().filter(|_| self.phase.is_active())
    }

    /// The longest run of an attempt of it.
    #[inline]
    pub fn limit_of(&self, attempt: &Attempt) -> Span {
        attempt.lowered.unwrap_or(self.spec.time_limit)
    }

    /// Up to when the work of an attempt is kept if it is stopped: its last checkpoint, else its start.
    pub fn kept_until(&self, attempt: &Attempt) -> Time {
        let of_attempt = self.checkpoint.filter(|checkpoint| checkpoint.attempt == attempt.number);
        let start = attempt.started_at.unwrap_or(attempt.placed_at);
        of_attempt.map_or(start, |checkpoint| checkpoint.at)
    }

    /// How the member ended that ended badly first; else the first, by rank, that ended badly, or ended at all. Of a job that
    /// completed how the first one ended: where that ran the script, the others were stopped with it.
    pub fn exit(&self) -> Option<&Exit> {
        let attempt = self.attempt.as_deref()?;
        if self.phase == Phase::Ended(Outcome::Completed) {
            return attempt.members.first()?.exit.as_ref();
        }
        let first = attempt.broken_by.and_then(|member| attempt.members.get(member.at())?.exit.as_ref());
        let exits = || attempt.members.iter().filter_map(|member| member.exit.as_ref());
        first.or_else(|| exits().find(|exit| exit.outcome() != Outcome::Completed)).or_else(|| exits().next())
    }
}
