//! "Not now" as a value: why a job that was tried did not start, with the numbers. Text is made in the shell.

use crate::ids::{BookingId, JobId, PoolIndex, TenantIndex};
use crate::request::{Level, Part};
use crate::units::{GpuTime, Gpus, Span, Time};

/// Why a request could not start now.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Blocked {
    /// The pool has fewer free GPUs than the gang needs.
    NotEnoughGpus {
        /// Where it looked.
        pool: PoolIndex,
        /// What the gang needs.
        want: Gpus,
        /// What is free on nodes that may be used.
        free: Gpus,
    },
    /// Enough GPUs are free, but not in the shape of the gang: too few nodes have enough of them.
    NotEnoughSlots {
        /// Where it looked.
        pool: PoolIndex,
        /// Members that need a place.
        want: u32,
        /// Places of the member's size that are free.
        free: u32,
        /// GPUs of a member.
        gpus_per_member: u8,
    },
    /// Enough of the GPUs is left, but not in pieces of the size that members ask for.
    NoShare {
        /// Where it looked.
        pool: PoolIndex,
        /// Members that need a place.
        want: u32,
        /// Members for which a GPU has enough left.
        fit: u32,
        /// What each of them asks for.
        part: Part,
    },
    /// No single domain of the required level has room.
    NoDomain {
        /// Where it looked.
        pool: PoolIndex,
        /// The level that the job requires.
        level: Level,
        /// Members that need a place.
        want: u32,
        /// The most that one domain of the level has room for.
        best: u32,
    },
    /// GPUs would be free, but CPU or memory beside them is not.
    NotEnoughCpuOrMemory {
        /// Where it looked.
        pool: PoolIndex,
        /// Members that need a place.
        want: u32,
        /// Members for which there is room, CPU and memory counted.
        fit: u32,
    },
    /// GPUs would be free, but not enough of them on nodes with the labels that the job asks for, or that it names.
    NotEnoughMatching {
        /// Where it looked.
        pool: PoolIndex,
        /// Members that need a place.
        want: u32,
        /// Members for which there is room on nodes that match.
        fit: u32,
        /// Nodes that match, full or not.
        nodes: u32,
    },
    /// Room for all members, but not for groups that stay together.
    NotEnoughSegments {
        /// Where it looked.
        pool: PoolIndex,
        /// Each group inside one domain of this level.
        level: Level,
        /// Members of a group.
        members: u32,
        /// Groups that need a place.
        want: u32,
        /// Groups for which there is room.
        fit: u32,
    },
    /// The search for unequal members was cut off; this is not a proof that there is no place.
    SearchLimit {
        /// Where it looked.
        pool: PoolIndex,
        /// Steps taken.
        steps: u32,
    },
    /// The tenant (or one above it) would pass its ceiling.
    OverLimit {
        /// Whose ceiling.
        tenant: TenantIndex,
        /// In which pool.
        pool: PoolIndex,
        /// The ceiling.
        limit: Gpus,
        /// Held now.
        used: Gpus,
        /// What the gang needs.
        want: Gpus,
    },
    /// The tenant's quota is used up, and the others lend no more.
    OverQuota {
        /// Whose quota.
        tenant: TenantIndex,
        /// In which pool.
        pool: PoolIndex,
        /// Its quota.
        quota: Gpus,
        /// Held now.
        used: Gpus,
        /// Quota left plus what may be borrowed now.
        available: Gpus,
        /// What the gang needs.
        want: Gpus,
    },
    /// Its user would hold more GPUs here than one user may.
    OverUserGpus {
        /// Whose cap.
        tenant: TenantIndex,
        /// The cap.
        limit: Gpus,
        /// Held or promised now.
        used: Gpus,
        /// What the gang needs.
        want: Gpus,
    },
    /// Its user runs as many jobs here as one user may.
    OverUserJobs {
        /// Whose cap.
        tenant: TenantIndex,
        /// The cap.
        limit: u32,
        /// Running now.
        running: u32,
    },
    /// What it could use by its time limit does not fit into what is left of a budget, and it must not be evicted or there
    /// is nothing that nobody else wants.
    OverBudget {
        /// Whose budget.
        tenant: TenantIndex,
        /// What is left and not committed.
        left: GpuTime,
        /// What it could use.
        want: GpuTime,
        /// Then the next period begins.
        until: Time,
    },
    /// It would leave more GPUs lent for longer than some lender can wait than the others can spare.
    LentTooLong {
        /// In which pool.
        pool: PoolIndex,
        /// How soon that lender is to have what it lent back.
        deadline: Span,
        /// What those who can wait longer lend.
        lendable: Gpus,
        /// What would be borrowed for longer.
        lent: Gpus,
        /// What the gang needs.
        want: Gpus,
    },
    /// It has failed so often by itself that nobody is evicted for it any more: it waits for what becomes free.
    RetryBudget {
        /// Attempts that failed by the job's own fault.
        failures: u32,
        /// From so many on.
        limit: u32,
    },
    /// A job that must not be evicted starts inside quota only.
    NonPreemptibleOverQuota {
        /// Whose quota.
        tenant: TenantIndex,
        /// In which pool.
        pool: PoolIndex,
        /// Its quota.
        quota: Gpus,
        /// Held by non-preemptible jobs now.
        used: Gpus,
        /// What the gang needs.
        want: Gpus,
    },
    /// The job is inside its quota, but though everything is given back that was lent, the rest does not have its shape:
    /// what others run inside their quotas, or must not be evicted, lies in the way.
    Fragmented {
        /// Where it looked.
        pool: PoolIndex,
        /// What the gang needs.
        want: Gpus,
        /// What could be taken back now, and would not help.
        reclaimable: Gpus,
        /// By then enough of what lies in the way is over, by its limits.
        until: Time,
    },
    /// There is room, but only in whole domains that others are promised and do not use.
    KeptWhole {
        /// In which pool.
        pool: PoolIndex,
        /// The level of the domains.
        level: Level,
        /// Such domains that its place would break into.
        want: u32,
        /// Clean domains that it may break into.
        may: u32,
        /// Clean domains: what is in them can be taken back.
        clean: u32,
    },
    /// The job is inside its quota, and what it may take back has not run its minimum yet.
    MinimumRun {
        /// Where it looked.
        pool: PoolIndex,
        /// What the gang needs.
        want: Gpus,
        /// Then enough of it has.
        until: Time,
    },
    /// The job is inside its quota, and what it may take back would lose more than its wait costs: it is taken back at the
    /// deadline, or earlier if that pays.
    TooDear {
        /// Where it looked.
        pool: PoolIndex,
        /// What the gang needs.
        want: Gpus,
        /// GPU-time that the victims would lose.
        loss: GpuTime,
        /// GPU-time that the gang waits until as much ends by itself, by the limits of what runs.
        saved: GpuTime,
        /// Then it is taken back whatever that costs.
        until: Time,
    },
    /// GPUs are promised to the job, and some of them are still being given back.
    ReclaimPending {
        /// Where they are.
        pool: PoolIndex,
        /// All that is promised.
        want: Gpus,
        /// The part that is free already.
        free: Gpus,
        /// If the rest is not free by then, others are looked for.
        due: Time,
    },
    /// What is left of the places of a gang that lost nodes is held for it, and another place is sought for the rest.
    SpareSought {
        /// Where.
        pool: PoolIndex,
        /// GPUs that are held.
        held: Gpus,
        /// GPUs that are sought.
        want: Gpus,
        /// Then nothing is held any more, and it is placed anew.
        until: Time,
    },
    /// GPUs are set aside for the job: by the limits of what runs it starts there at the latest.
    Reserved {
        /// Where they are.
        pool: PoolIndex,
        /// All that is set aside.
        want: Gpus,
        /// The part of it that is idle now.
        idle: Gpus,
        /// When all of it is free.
        from: Time,
    },
    /// GPUs are idle, but set aside for another: only what is over before then may run there.
    BehindReservation {
        /// For whom.
        job: JobId,
        /// Where they are.
        pool: PoolIndex,
        /// How many of them are idle.
        idle: Gpus,
        /// When they are wanted.
        until: Time,
    },
    /// GPUs are idle on nodes that are booked for others: only what is over before the booking begins may run there.
    Booked {
        /// Which booking.
        booking: BookingId,
        /// Where they are.
        pool: PoolIndex,
        /// How many of them are idle.
        idle: Gpus,
        /// When it begins.
        from: Time,
        /// When it is over; absent: its nodes are drained at its begin.
        until: Option<Time>,
    },
    /// It names a booking that has not begun.
    AwaitsBooking {
        /// Which.
        booking: BookingId,
        /// When it begins.
        from: Time,
    },
    /// The tenant, one above it, or the cluster is paused.
    Paused {
        /// Who; the root for the cluster.
        tenant: TenantIndex,
    },
    /// The cycle placed as many jobs as it may; the next turn goes on.
    CycleLimit {
        /// Jobs per cycle.
        limit: u32,
    },
}

/// What can lift a refusal: until it comes, the class that was refused is not tried again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Wake {
    /// Something becomes free in this pool.
    Room(PoolIndex),
    /// This tenant holds less, or may have more.
    Tenant(TenantIndex),
    /// Anybody holds less of this pool, or may have or lends more of it.
    Division(PoolIndex),
    /// Promises or reservations change, or what runs ends earlier than they reckon with.
    Plan,
    /// The next cycle.
    Cycle,
}

impl Blocked {
    /// What can lift it.
    pub fn wake(&self) -> Wake {
        match *self {
            Self::NotEnoughGpus { pool, .. }
            | Self::NotEnoughSlots { pool, .. }
            | Self::NoShare { pool, .. }
            | Self::NoDomain { pool, .. }
            | Self::NotEnoughCpuOrMemory { pool, .. }
            | Self::NotEnoughMatching { pool, .. }
            | Self::NotEnoughSegments { pool, .. }
            | Self::SearchLimit { pool, .. } => Wake::Room(pool),
            Self::OverLimit { tenant, .. }
            | Self::OverUserGpus { tenant, .. }
            | Self::OverUserJobs { tenant, .. }
            | Self::OverBudget { tenant, .. }
            | Self::NonPreemptibleOverQuota { tenant, .. }
            | Self::Paused { tenant } => Wake::Tenant(tenant),
            Self::OverQuota { pool, .. } | Self::LentTooLong { pool, .. } | Self::KeptWhole { pool, .. } => {
                Wake::Division(pool)
            }
            Self::RetryBudget { .. }
            | Self::Fragmented { .. }
            | Self::MinimumRun { .. }
            | Self::TooDear { .. }
            | Self::ReclaimPending { .. }
            | Self::SpareSought { .. }
            | Self::Reserved { .. }
            | Self::BehindReservation { .. }
            | Self::Booked { .. }
            | Self::AwaitsBooking { .. } => Wake::Plan,
            Self::CycleLimit { .. } => Wake::Cycle,
        }
    }

    /// When it may be lifted though nothing happens before, where that is known.
    pub fn until(&self) -> Option<Time> {
        match *self {
            Self::OverBudget { until, .. }
            | Self::Fragmented { until, .. }
            | Self::MinimumRun { until, .. }
            | Self::TooDear { until, .. }
            | Self::ReclaimPending { due: until, .. }
            | Self::SpareSought { until, .. }
            | Self::Reserved { from: until, .. }
            | Self::BehindReservation { until, .. }
            | Self::AwaitsBooking { from: until, .. } => Some(until),
            Self::Booked { until, .. } => until,
            Self::NotEnoughGpus { .. }
            | Self::NotEnoughSlots { .. }
            | Self::NoShare { .. }
            | Self::NoDomain { .. }
            | Self::NotEnoughCpuOrMemory { .. }
            | Self::NotEnoughMatching { .. }
            | Self::NotEnoughSegments { .. }
            | Self::SearchLimit { .. }
            | Self::OverLimit { .. }
            | Self::OverUserGpus { .. }
            | Self::OverUserJobs { .. }
            | Self::NonPreemptibleOverQuota { .. }
            | Self::OverQuota { .. }
            | Self::LentTooLong { .. }
            | Self::KeptWhole { .. }
            | Self::RetryBudget { .. }
            | Self::Paused { .. }
            | Self::CycleLimit { .. } => None,
        }
    }

    /// Whether it depends on a place, so that nobody knows of it who has not tried.
    pub fn is_of_place(&self) -> bool {
        self.is_of_placement() || matches!(self, Self::KeptWhole { .. })
    }

    /// Whether placement said so: it holds whoever asks.
    pub fn is_of_placement(&self) -> bool {
        matches!(self.wake(), Wake::Room(_))
    }
}

/// Why a job is not even tried.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Gate {
    /// Its user or an operator holds it.
    Held,
    /// Jobs it depends on have not ended.
    Dependencies {
        /// How many.
        open: u32,
    },
    /// Not before this time.
    NotBefore {
        /// When.
        time: Time,
    },
    /// The array already has as many indices under way as it may.
    ArrayCap {
        /// Its cap.
        cap: u32,
    },
}
