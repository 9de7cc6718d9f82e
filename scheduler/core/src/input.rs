//! What can happen: everything that makes the core decide. Names are still names here; the core resolves them.

use crate::budget::Grant;
use crate::caps::Caps;
use crate::gpu::GpuSet;
use crate::idle::IdleRule;
use crate::ids::{AttemptNumber, BlobId, ForecastId, JobId, MemberIndex, NodeIndex};
use crate::job::{ArraySpec, DependencyKind, Exit};
use crate::node::{Capacity, Location};
use crate::request::{LabelRule, Level, Segment, Shape};
use crate::units::{CpuMilli, GpuTime, Gpus, MemoryMib, Span, Time};

/// Makes a mutation idempotent: the same key with the same digest is answered as the first time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequestKey {
    /// Whose request.
    pub user: Box<str>,
    /// The id that the user chose.
    pub id: Box<str>,
    /// Digest of the request's content.
    pub digest: u64,
}

/// On what a submitted job depends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DependencyOn {
    /// A job that exists.
    Job(JobId),
    /// Another job of the same Submit, by its place there.
    InCall(u32),
}

/// What a job asks of nodes and domains beside room, with names.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConstraintsDraft {
    /// All of them must hold of every node.
    pub labels: Vec<LabelRule>,
    /// Only these nodes; empty: any.
    pub include: Vec<Box<str>>,
    /// None of these nodes.
    pub exclude: Vec<Box<str>>,
    /// Whole nodes: every member gets one, with all its GPUs.
    pub exclusive: bool,
    /// Deal the members out over the domains of this level.
    pub spread: Option<Level>,
    /// Groups of members that must stay together.
    pub segment: Option<Segment>,
    /// Start with fewer members than the shape says, but not with fewer than these.
    pub least: Option<u32>,
}

/// What a member is to get of its GPUs, as it is asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum PartDraft {
    /// All of them.
    #[default]
    Whole,
    /// So many thousandths of one GPU.
    Milli(u16),
    /// A MIG profile by name, as `3g.40gb`.
    Profile(Box<str>),
}

/// A job as it is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JobDraft {
    /// Path of the tenant.
    pub tenant: Box<str>,
    /// Who submits it.
    pub user: Box<str>,
    /// As the user calls it.
    pub name: Box<str>,
    /// The gang.
    pub shape: Shape,
    /// What members get of their GPUs; for other than whole ones the shape has one GPU each.
    pub part: PartDraft,
    /// Names of pools or GPU models, in order of preference; empty: any pool.
    pub gpu_models: Vec<Box<str>>,
    /// CPU of each member; 0 = not limited.
    pub cpu: CpuMilli,
    /// Memory of each member; 0 = not limited.
    pub memory: MemoryMib,
    /// One domain of this level must hold it.
    pub required: Option<Level>,
    /// A level to try first.
    pub preferred: Option<Level>,
    /// Every member on a node of its own.
    pub distinct_nodes: bool,
    /// What else must hold.
    pub only: ConstraintsDraft,
    /// Name of the priority class; empty: the default.
    pub priority: Box<str>,
    /// Whether it may be evicted.
    pub preemptible: bool,
    /// 0: the default.
    pub time_limit: Span,
    /// The limit may be lowered to this where that lets it start earlier; absent: never.
    pub time_min: Option<Span>,
    /// Absent: the default.
    pub grace: Option<Span>,
    /// Set for an array.
    pub array: Option<ArraySpec>,
    /// What must end first.
    pub after: Vec<(DependencyKind, DependencyOn)>,
    /// Held from the start.
    pub held: bool,
    /// Not before this.
    pub not_before: Option<Time>,
    /// Tries after a failure of its own.
    pub max_retries: u32,
    /// How long what is left of its places is held for it after a node or a GPU of it was lost; 0: not at all.
    pub hold_survivors: Span,
    /// Its script runs on its first member alone.
    pub batch: bool,
    /// Name of the booking that it may run in, and nowhere else; empty: none.
    pub booking: Box<str>,
    /// What it runs.
    pub payload: BlobId,
}

/// What a tenant is to have; absent: stays.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TenantDraft {
    /// Path.
    pub name: Box<str>,
    /// Define it when it is unknown.
    pub create: bool,
    /// Share of the surplus.
    pub weight: Option<u32>,
    /// Time limit of jobs that state none.
    pub default_time_limit: Option<Span>,
    /// How long an attempt runs before it may be evicted.
    pub min_run: Option<Span>,
    /// What single users and jobs may have, as a whole.
    pub caps: Option<Caps>,
    /// GPU-time in each period, or that there is no budget any more.
    pub budget: Option<Option<Grant>>,
    /// How long its jobs wait inside its quota before lent GPUs are taken back for them.
    pub reclaim_within: Option<Span>,
    /// What is done about attempts whose GPUs do no work.
    pub idle: Option<IdleRule>,
    /// By name of the pool (empty: the first pool): quota, limit, lend limit.
    pub quotas: Vec<QuotaDraft>,
    /// The forecast that the change was approved on.
    pub forecast: Option<ForecastId>,
}

/// The quota of one pool as it is asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct QuotaDraft {
    /// Name of the pool; empty: the first one.
    pub pool: Box<str>,
    /// Guaranteed GPUs.
    pub quota: Gpus,
    /// Ceiling.
    pub limit: Option<Gpus>,
    /// Most that is lent.
    pub lend_limit: Option<Gpus>,
    /// The part of the guarantee that comes in whole domains.
    pub domains: Option<DomainsDraft>,
    /// When it holds; absent: from now on, whenever no dated one does.
    pub dates: Option<Dates>,
}

/// Nodes as they are to be booked: named, or so many of a pool.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BookingDraft {
    /// Its name, as jobs and operators call it.
    pub name: Box<str>,
    /// From then on.
    pub from: Time,
    /// Until then; absent, for maintenance only: the nodes are drained then.
    pub until: Option<Time>,
    /// These nodes; empty: `count` of `pool`.
    pub nodes: Vec<Box<str>>,
    /// So many nodes, those on which least is lost; 0: those that are named.
    pub count: u32,
    /// Name of the pool of those; empty: the first one.
    pub pool: Box<str>,
    /// Nobody runs there.
    pub maintenance: bool,
    /// Whose jobs run there; empty: everybody's.
    pub tenant: Box<str>,
    /// All jobs of the tenant; else only those that name the booking.
    pub all_jobs: bool,
    /// What would run into it runs on to its limit, instead of being stopped in time.
    pub spares_running: bool,
    /// What must not be evicted is stopped as well.
    pub force: bool,
    /// By who may only book for the tenant's mission: inside its quota, and at nobody's expense but its own and that of
    /// borrowers.
    pub inside_quota: bool,
}

/// Whole domains as they are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DomainsDraft {
    /// Of which level.
    pub level: Level,
    /// How many; 0: none.
    pub count: u32,
    /// Nodes without which a domain does not count; absent: as for others in the pool, else those of the widest domain.
    pub nodes: Option<u32>,
}

/// When a quota holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dates {
    /// From then on.
    pub from: Time,
    /// Until then; absent: for good.
    pub until: Option<Time>,
}

/// A node as its agent describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeDraft {
    /// Its name.
    pub name: Box<str>,
    /// GPU model as NVML names it; one model per node.
    pub model: Box<str>,
    /// Where it stands.
    pub location: Location,
    /// What it has.
    pub capacity: Capacity,
    /// GPUs that its agent calls bad.
    pub bad: GpuSet,
    /// The boot that its agent speaks from.
    pub boot_id: Box<str>,
}

/// What an agent says of one member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MemberReport {
    /// Ready to start.
    Prepared,
    /// Its process runs.
    Started,
    /// It says that its job can go on from here, whatever becomes of this attempt.
    Checkpointed {
        /// In the job's own count.
        step: u64,
    },
    /// Its process is gone.
    Gone(Exit),
}

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// A pool of the configuration. Known ones are left alone.
    DefinePool {
        /// Its name.
        name: Box<str>,
        /// GPU model as NVML names it.
        model: Box<str>,
        /// GPUs of each node.
        gpus_per_node: u8,
    },
    /// Define or change a tenant.
    SetTenant(TenantDraft),
    /// Take a dated quota off the calendar; one in force ends.
    CancelDatedQuota {
        /// Path.
        tenant: Box<str>,
        /// Name of the pool; empty: the first one.
        pool: Box<str>,
        /// When it begins.
        from: Time,
    },
    /// Keep nodes for a period to come.
    Book(BookingDraft),
    /// Take a booking back.
    CancelBooking {
        /// Its name.
        name: Box<str>,
    },
    /// Stop new starts, or let them go on; an empty name: everywhere.
    Pause {
        /// Path.
        tenant: Box<str>,
        /// Stop, or go on.
        paused: bool,
    },
    /// Bring over what is left of a tenant's last budget period.
    CarryBudget {
        /// Path.
        tenant: Box<str>,
        /// How much of it; absent: all.
        gpu_time: Option<GpuTime>,
    },
    /// Accept these jobs, all or none.
    Submit(Vec<JobDraft>),
    /// End a job.
    Cancel(JobId),
    /// Hold a waiting job.
    Hold(JobId),
    /// Lift a hold.
    Release(JobId),
    /// Close a node.
    Cordon {
        /// Its name.
        node: Box<str>,
    },
    /// Close a node and empty it.
    Drain {
        /// Its name.
        node: Box<str>,
        /// Stop what runs there instead of waiting for its end.
        evict: bool,
    },
    /// Stop running jobs so that they run closer together: the moves of a `Defrag`, all or none.
    Defragment(Vec<(JobId, AttemptNumber)>),
    /// Open a node again.
    Resume {
        /// Its name.
        node: Box<str>,
    },
    /// An operator or a fence command says that a lost node runs nothing.
    ConfirmDead {
        /// Its name.
        node: Box<str>,
    },
    /// An agent has connected (again). What it holds comes as reports of its own.
    NodeHello(NodeDraft),
    /// A node's health changed.
    NodeHealth {
        /// Which.
        node: NodeIndex,
        /// All GPUs that are bad now.
        bad: GpuSet,
    },
    /// A node was not heard for the shorter deadline.
    NodeSilent(NodeIndex),
    /// A node was not heard for the longer deadline.
    NodeLost(NodeIndex),
    /// An agent says something of a member. Repetitions and reports of the past are harmless.
    MemberReported {
        /// Where; a report from another node than the member's is ignored.
        node: NodeIndex,
        /// Which job.
        job: JobId,
        /// Its attempt.
        attempt: AttemptNumber,
        /// Which member.
        member: MemberIndex,
        /// What.
        report: MemberReport,
    },
    /// No GPU of an attempt was seen at work later than this, and all of them were looked at.
    NoGpuWork {
        /// Which job.
        job: JobId,
        /// Its attempt.
        attempt: AttemptNumber,
        /// The last moment of work.
        since: Time,
    },
    /// Time has passed: see `Cluster::next_timer`.
    Tick,
    /// The same for dated quotas alone: while it is not known yet what happened meanwhile, nothing else is taken for late.
    TickDates,
    /// The scheduler was not there until now: it has just taken over, or stood still. What it ordered may not have been
    /// heard, so that what waits for that gets its time anew.
    CameBack,
    /// What was never given here may have been given before the journal was restored: what comes next gets an id beyond.
    SkipIds {
        /// No job gets an id below this one.
        next_job: JobId,
        /// No attempt of any job gets a number up to this one.
        attempts: AttemptNumber,
    },
}
