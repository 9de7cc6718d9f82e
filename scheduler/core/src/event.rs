//! Facts, in the past tense: the vocabulary of the journal.
//!
//! An event carries the decision (which GPUs, which id), never the rule behind it, so that an old journal keeps its
//! meaning when the rules change. `apply` is the only reader.

use smallvec::SmallVec;

use crate::booking::Booking;
use crate::budget::{Budget, Grant};
use crate::calendar::{DatedKey, DatedQuota};
use crate::caps::Caps;
use crate::decay::Meter;
use crate::gpu::GpuSet;
use crate::idle::{IdleNotice, IdleRule};
use crate::ids::{
    AttemptNumber, BookingId, ForecastId, JobId, MemberIndex, NodeIndex, PoolIndex, TenantIndex, UserIndex,
};
use crate::job::{Exit, Job, JobSpec, Outcome, StopReason, Usage};
use crate::node::{Capacity, Contact, Location, Node};
use crate::place::{Faded, Need};
use crate::placement::Members;
use crate::promise::{DropCause, Promise};
use crate::reply::Reply;
use crate::reserve::Reservation;
use crate::tenant::{Quota, UserLedger};
use crate::units::{GpuTime, Span, Time};
use crate::wanted::Wanted;

/// What changes of a tenant; absent: stays.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct TenantChange {
    /// Share of the surplus.
    pub weight: Option<u32>,
    /// Time limit of jobs that state none.
    pub default_time_limit: Option<Span>,
    /// How long an attempt runs before it may be evicted.
    pub min_run: Option<Span>,
    /// What single users and jobs may have, as a whole.
    pub caps: Option<Caps>,
    /// The budget in each period, or that there is none any more.
    pub budget: Option<Option<Grant>>,
    /// How long its jobs wait inside its quota before lent GPUs are taken back for them.
    pub reclaim_within: Option<Span>,
    /// What is done about attempts whose GPUs do no work.
    pub idle: Option<IdleRule>,
    /// The new quotas of the pools that are named.
    pub quotas: Vec<(PoolIndex, Quota)>,
    /// The forecast that it was approved on. It changes nothing, and is not part of the state.
    pub forecast: Option<ForecastId>,
}

/// A fact.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    /// A pool exists from now on.
    PoolDefined {
        /// Its index: the next one.
        pool: PoolIndex,
        /// Its name, unique.
        name: Box<str>,
        /// GPU model as NVML names it.
        model: Box<str>,
        /// GPUs of each of its nodes.
        gpus_per_node: u8,
    },
    /// A tenant exists from now on.
    TenantDefined {
        /// Its index: the next one.
        tenant: TenantIndex,
        /// The tenant above it.
        parent: TenantIndex,
        /// Full path.
        name: Box<str>,
    },
    /// Quotas, weight or defaults of a tenant changed.
    TenantChanged {
        /// Which.
        tenant: TenantIndex,
        /// What of it.
        change: TenantChange,
    },
    /// New starts stopped (or go on) in a tenant and below it; in the root: everywhere.
    Paused {
        /// Where.
        tenant: TenantIndex,
        /// Stopped, or going on.
        paused: bool,
    },
    /// The next period of a tenant's budget began, where the last one ended.
    BudgetPeriodBegan {
        /// Whose.
        tenant: TenantIndex,
    },
    /// An operator brought over what was left of the period before.
    BudgetCarried {
        /// Whose.
        tenant: TenantIndex,
        /// How much of it.
        gpu_time: GpuTime,
    },
    /// A tenant is to have another quota from a date on.
    QuotaDated {
        /// Whose, when, and what.
        dated: DatedQuota,
    },
    /// The date came: a dated quota is in force.
    QuotaBegan {
        /// Which.
        key: DatedKey,
    },
    /// A dated quota is over, or was cancelled: where it was in force the standing one holds again.
    QuotaEnded {
        /// Which.
        key: DatedKey,
    },
    /// Nodes are kept for a period to come.
    BookingMade {
        /// All of it.
        booking: Box<Booking>,
    },
    /// What would run into a booking is told to go from here on.
    BookingCleared {
        /// Which.
        booking: BookingId,
    },
    /// A booking holds from here on.
    BookingBegan {
        /// Which.
        booking: BookingId,
    },
    /// A booking is over: its nodes are everybody's again.
    BookingEnded {
        /// Which.
        booking: BookingId,
    },
    /// An operator took a booking back, whether it had begun or not.
    BookingCancelled {
        /// Which.
        booking: BookingId,
    },
    /// A user was seen for the first time.
    UserSeen {
        /// Its index: the next one.
        user: UserIndex,
        /// Its name.
        name: Box<str>,
    },
    /// A node appeared for the first time.
    NodeJoined {
        /// Its index: the next one.
        node: NodeIndex,
        /// Its name.
        name: Box<str>,
        /// Its pool.
        pool: PoolIndex,
        /// Where it stands.
        location: Location,
        /// What it has.
        capacity: Capacity,
        /// The boot that its agent speaks from.
        boot_id: Box<str>,
    },
    /// A known node has something else than before, or stands elsewhere.
    NodeChanged {
        /// Which.
        node: NodeIndex,
        /// Its pool.
        pool: PoolIndex,
        /// Where it stands.
        location: Location,
        /// What it has.
        capacity: Capacity,
    },
    /// A node is heard, or is not.
    NodeContact {
        /// Which.
        node: NodeIndex,
        /// How it is now.
        contact: Contact,
    },
    /// A node came back from another boot: nothing of before runs there.
    NodeRebooted {
        /// Which.
        node: NodeIndex,
        /// The new boot.
        boot_id: Box<str>,
    },
    /// An operator closed or opened a node.
    NodeCordoned {
        /// Which.
        node: NodeIndex,
        /// Closed, or open.
        cordoned: bool,
        /// Being emptied as well.
        draining: bool,
    },
    /// The set of GPUs of a node that are fenced for their health changed.
    GpusFenced {
        /// Which node.
        node: NodeIndex,
        /// All that are fenced now.
        bad: GpuSet,
    },
    /// A job was accepted.
    JobSubmitted {
        /// Its id: the next one.
        job: JobId,
        /// What was submitted.
        spec: Box<JobSpec>,
        /// Held from the start.
        held: bool,
        /// Not before this.
        not_before: Option<Time>,
    },
    /// Its user or an operator holds a waiting job.
    JobHeld {
        /// Which.
        job: JobId,
    },
    /// A hold was lifted.
    JobReleased {
        /// Which.
        job: JobId,
    },
    /// The time came before which a job was not to be tried.
    JobEligible {
        /// Which.
        job: JobId,
    },
    /// An index of an array became a job of its own.
    ArrayIndexStarted {
        /// The array.
        array: JobId,
        /// Which index: the next one.
        index: u32,
        /// Its job: the next id.
        job: JobId,
    },
    /// An array was cancelled: no further index starts.
    ArrayStopped {
        /// Which.
        array: JobId,
    },
    /// A job got its GPUs: a new attempt.
    JobPlaced {
        /// Which job.
        job: JobId,
        /// The attempt: the next one.
        attempt: AttemptNumber,
        /// Where its GPUs are.
        pool: PoolIndex,
        /// By rank.
        members: Members,
        /// It did not fit into a budget: it lies above every quota, and commits nothing.
        scavenger: bool,
        /// It lies in domains that are kept whole for others: it is always borrowed.
        guest: bool,
        /// Its limit, where that is lower than its job's: so it is over before others want the GPUs.
        lowered: Option<Span>,
    },
    /// A member is ready to start.
    MemberPrepared {
        /// Which job.
        job: JobId,
        /// Its attempt.
        attempt: AttemptNumber,
        /// Which member.
        member: MemberIndex,
    },
    /// Every member of a gang is ready: all may start.
    GangReleased {
        /// Which job.
        job: JobId,
        /// Its attempt.
        attempt: AttemptNumber,
    },
    /// A member's process runs.
    MemberStarted {
        /// Which job.
        job: JobId,
        /// Its attempt.
        attempt: AttemptNumber,
        /// Which member.
        member: MemberIndex,
    },
    /// A member's process is gone, as its agent says.
    MemberGone {
        /// Which job.
        job: JobId,
        /// Its attempt.
        attempt: AttemptNumber,
        /// Which member.
        member: MemberIndex,
        /// How it ended.
        exit: Exit,
    },
    /// A member on a lost node is proven dead from outside: a new boot, a fence, an operator's word.
    MemberProven {
        /// Which job.
        job: JobId,
        /// Its attempt.
        attempt: AttemptNumber,
        /// Which member.
        member: MemberIndex,
    },
    /// A job has saved what it had done: a later attempt can go on from there.
    JobCheckpointed {
        /// Which job.
        job: JobId,
        /// Its attempt.
        attempt: AttemptNumber,
        /// In the job's own count; higher than before.
        step: u64,
    },
    /// A job keeps away from no node any more: those it kept away from are better than none.
    AvoidanceLifted {
        /// Which job.
        job: JobId,
    },
    /// No GPU of an attempt has done any work for as long as its tenant allows.
    JobIdle {
        /// Which job.
        job: JobId,
        /// Its attempt.
        attempt: AttemptNumber,
        /// Since when, and what happens when.
        notice: IdleNotice,
    },
    /// An attempt that was idle works again.
    JobBusy {
        /// Which job.
        job: JobId,
        /// Its attempt.
        attempt: AttemptNumber,
    },
    /// GPUs are held for a waiting job, which gets them when all are free.
    Promised {
        /// For which job.
        job: JobId,
        /// Where.
        pool: PoolIndex,
        /// By rank.
        members: Members,
        /// If they are not all free by then, others are looked for.
        due: Time,
    },
    /// A gang lost nodes or GPUs, and its attempt is over: what is left of its places is held for it while others are sought
    /// for the rest.
    SurvivorsHeld {
        /// For which job.
        job: JobId,
        /// The ranks whose places are lost, in order; those of all others are held.
        lost: SmallVec<[MemberIndex; 2]>,
        /// If there is no place for them by then, nothing is held any more.
        until: Time,
    },
    /// A node is kept free for gangs that lost one, or is not any more.
    NodeSpared {
        /// Which.
        node: NodeIndex,
        /// Kept free.
        spare: bool,
    },
    /// The scheduler was away: launch deadlines and time limits are counted from now on. Who runs is not over its limit
    /// because the scheduler's clock is another one than before; its shim ends it in time.
    CountedAnew {
        /// From when on.
        since: Time,
    },
    /// The time of a promise is counted anew: an agent, or the scheduler, was away.
    PromiseRenewed {
        /// For which job it is.
        job: JobId,
        /// If its GPUs are not all free by then, others are looked for.
        due: Time,
        /// However often agents connect anew, it is not put off beyond this.
        latest: Time,
    },
    /// GPUs are not held for a job any more, and it did not get them.
    PromiseDropped {
        /// For which job they were.
        job: JobId,
        /// Why.
        why: DropCause,
    },
    /// The plan in time was made anew: exactly this is set aside from now on.
    Planned {
        /// The first in the order of precedence first.
        reservations: Vec<Reservation>,
    },
    /// Jobs came to wait inside the quota of their tenant for what is lent, or do so no more.
    WantedBack {
        /// What is wanted back from now on, each with the time since when.
        begun: Vec<(Wanted, Time)>,
        /// What is not any more.
        over: Vec<Wanted>,
    },
    /// An attempt is being stopped.
    AttemptStopping {
        /// Which job.
        job: JobId,
        /// Its attempt.
        attempt: AttemptNumber,
        /// Why.
        reason: StopReason,
        /// For an eviction: who gets the GPUs.
        beneficiary: Option<JobId>,
        /// So many of its first members start again where they are; 0: it is not an elastic gang that shrinks.
        keeps: u32,
    },
    /// An attempt is over. Its GPUs are free, but for those of members that nobody has proven dead.
    AttemptEnded {
        /// Which job.
        job: JobId,
        /// Its attempt.
        attempt: AttemptNumber,
        /// How.
        outcome: Outcome,
    },
    /// A job whose attempt is over waits again.
    JobRequeued {
        /// Which.
        job: JobId,
        /// Before all others in its place.
        front: bool,
        /// Not before this.
        not_before: Option<Time>,
        /// A node to keep away from.
        avoid: Option<NodeIndex>,
        /// The attempt counts as the job's own failure.
        own_fault: bool,
    },
    /// A job is over.
    JobEnded {
        /// Which.
        job: JobId,
        /// How.
        outcome: Outcome,
    },
    /// An ended job left memory.
    JobForgotten {
        /// Which.
        job: JobId,
    },
    /// A mutation was answered: its repetition gets the same answer.
    RequestAnswered {
        /// Whose request.
        user: Box<str>,
        /// Its id.
        id: Box<str>,
        /// Of its content.
        digest: u64,
        /// The answer.
        reply: Reply,
    },
    /// In snapshots, and once after a backup was restored: counters.
    CountersRestored {
        /// The next job's id.
        next_job: JobId,
        /// The next place in the order of starts.
        next_start: u64,
        /// Numbers of attempts up to here are not given any more.
        skipped_attempts: AttemptNumber,
    },
    /// Only in snapshots: what a tenant has had.
    TenantRestored {
        /// Which.
        tenant: TenantIndex,
        /// Since the beginning.
        total: Usage,
        /// Above quota, decayed.
        excess: Meter,
        /// Its budget in this period.
        budget: Option<Budget>,
    },
    /// Only in snapshots: what a user has had in a tenant.
    UserRestored {
        /// Where.
        tenant: TenantIndex,
        /// Who.
        user: UserIndex,
        /// All of it; what is held now comes with the jobs.
        ledger: UserLedger,
    },
    /// Only in snapshots: a node as it is; what is taken comes with the jobs.
    NodeRestored {
        /// All of it.
        node: Box<Node>,
    },
    /// Only in snapshots: a job as it is.
    JobRestored {
        /// All of it.
        job: Box<Job>,
    },
    /// Only in snapshots: a promise as it is.
    PromiseRestored {
        /// For which job.
        job: JobId,
        /// All of it.
        promise: Box<Promise>,
    },
    /// Only in snapshots, after the jobs: what was asked for until now, as it fades. Instead of what the jobs ask for.
    WorkloadRestored {
        /// Each kind of member once, rising.
        kinds: Vec<(Need, Faded)>,
    },
}
