//! A refused input: which field, which value, and what it would take. Text is made in the shell.

use crate::ids::JobId;
use crate::request::Level;
use crate::units::{GpuTime, Gpus, Span, Time};

/// Why an input was refused. Nothing of it was done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejected {
    /// In a Submit: which of its jobs.
    pub job: Option<u32>,
    /// Why.
    pub why: Refusal,
}

impl From<Refusal> for Rejected {
    fn from(why: Refusal) -> Self {
        Self { job: None, why }
    }
}

/// Why a quota cannot have the whole domains that are asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // As for those of `Refusal`.
pub enum DomainsFault {
    AnotherKind {
        pool: Box<str>,
        /// Who has the others.
        tenant: Box<str>,
        level: Level,
        nodes: u32,
    },
    NoSuch {
        pool: Box<str>,
        level: Level,
        nodes: u32,
        /// Nodes of the widest domain of the level.
        widest: u32,
    },
    AboveQuota {
        domains: u32,
        /// The GPUs of so many domains.
        needs: Gpus,
        quota: Gpus,
    },
    AboveParent {
        parent: Box<str>,
        children: u32,
        domains: u32,
        /// The date of the calendar from which it would be so; absent: now.
        from: Option<Time>,
    },
    TooMany {
        pool: Box<str>,
        level: Level,
        nodes: u32,
        promised: u32,
        there: u32,
        /// The date of the calendar from which it would be so; absent: now.
        from: Option<Time>,
    },
}

/// The reason of a refusal.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // The names of the fields are their meaning; the shell's messages spell them out.
pub enum Refusal {
    /// A part of a GPU is asked for together with several GPUs a member.
    PartOfSeveralGpus {
        /// GPUs of the largest member.
        gpus: u8,
    },
    /// A part of a GPU is asked for together with what parts do not keep.
    PartWith {
        /// The field.
        what: &'static str,
    },
    /// A move of a job's attempt that does not run any more, or may not be stopped.
    CannotMove {
        job: JobId,
        /// The attempt that was to move.
        attempt: u32,
    },
    /// Whole GPUs, or shares of one, are asked for where every GPU is cut into MIG instances.
    OnlyInstances {
        /// Where.
        pool: Box<str>,
        /// The profiles of the instances that are there.
        known: Vec<Box<str>>,
    },
    /// A share is not between 1 and 999 thousandths.
    BadShare {
        /// As asked for.
        milli: u16,
    },
    /// No pool that the job may use has this MIG profile.
    UnknownProfile {
        /// As asked for.
        name: Box<str>,
        /// Those that the pools have.
        known: Vec<Box<str>>,
    },
    NoJobs,
    TooManyJobs {
        count: usize,
        limit: u32,
    },
    QueueFull {
        limit: u32,
    },
    UnknownTenant {
        name: Box<str>,
    },
    TenantHasChildren {
        name: Box<str>,
    },
    TenantHasJobs {
        name: Box<str>,
    },
    BadTenantName {
        name: Box<str>,
        why: &'static str,
    },
    TooManyTenants {
        limit: u32,
    },
    TooManyUsers {
        limit: u32,
    },
    NoMembers,
    NoGpus {
        member: u32,
    },
    TooManyMembers {
        members: u32,
        limit: u32,
    },
    MemberTooLarge {
        gpus: u32,
        largest: u32,
    },
    GangTooLarge {
        want: Gpus,
        capacity: Gpus,
    },
    GangNeverFits {
        want: u32,
        best: u32,
        level: Option<crate::request::Level>,
    },
    OverLimitForEver {
        tenant: Box<str>,
        want: Gpus,
        limit: Gpus,
    },
    NonPreemptibleOverQuota {
        tenant: Box<str>,
        want: Gpus,
        quota: Gpus,
    },
    UnknownModel {
        name: Box<str>,
        known: Vec<Box<str>>,
    },
    NoPool,
    UnknownPool {
        name: Box<str>,
        known: Vec<Box<str>>,
    },
    UnknownPriority {
        name: Box<str>,
        known: Vec<Box<str>>,
    },
    TimeLimitTooLong {
        limit: Span,
        longest: Span,
    },
    /// The least limit is 0, or above the limit.
    BadTimeMin {
        least: Span,
        limit: Span,
    },
    GraceTooLong {
        grace: Span,
        longest: Span,
    },
    HoldTooLong {
        hold: Span,
        longest: Span,
    },
    EmptyArray,
    ArrayTooLarge {
        size: u32,
        limit: u32,
    },
    TooManyDependencies {
        count: usize,
        limit: u32,
    },
    UnknownDependency {
        job: JobId,
    },
    DependencyOutsideCall {
        index: u32,
        count: usize,
    },
    DependencyCycle {
        jobs: Vec<u32>,
    },
    DependencyNeverSatisfied {
        job: JobId,
    },
    PreferredAboveRequired,
    TooManyClasses {
        limit: u32,
    },
    NameTooLong {
        field: &'static str,
        length: usize,
        limit: usize,
    },
    UnknownJob {
        job: JobId,
    },
    WrongPhase {
        job: JobId,
        phase: &'static str,
        verb: &'static str,
    },
    BadConstraint {
        field: &'static str,
        value: Box<str>,
        why: &'static str,
    },
    UnknownNode {
        name: Box<str>,
    },
    NodeNotLost {
        name: Box<str>,
    },
    BadNode {
        name: Box<str>,
        why: Box<str>,
    },
    ZeroWeight,
    QuotaTooLarge {
        gpus: Gpus,
        limit: Gpus,
    },
    LimitBelowQuota {
        limit: Gpus,
        quota: Gpus,
    },
    LendLimitAboveQuota {
        lend_limit: Gpus,
        quota: Gpus,
    },
    ChildrenAboveParent {
        parent: Box<str>,
        children: Gpus,
        quota: Gpus,
        /// The date of the calendar from which it would be so; absent: now.
        from: Option<Time>,
    },
    Domains(DomainsFault),
    PoolNamedTwice {
        name: Box<str>,
    },
    /// A dated quota cannot be set or cancelled so.
    Calendar(CalendarRefusal),
    /// Nodes cannot be booked so, or a job names a booking that is not for it.
    Booking(BookingRefusal),
    RequestIdReused {
        id: Box<str>,
    },
    OverJobGpus {
        tenant: Box<str>,
        want: Gpus,
        limit: Gpus,
    },
    OverJobTime {
        tenant: Box<str>,
        limit: Span,
        longest: Span,
    },
    OverUserSubmitted {
        tenant: Box<str>,
        submitted: u32,
        limit: u32,
    },
    NoBudget {
        tenant: Box<str>,
    },
    NothingToCarry {
        tenant: Box<str>,
        want: GpuTime,
        unspent: GpuTime,
    },
    IdleTooShort {
        after: Span,
        shortest: Span,
    },
    BudgetPeriodTooShort {
        period: Span,
        shortest: Span,
    },
}

/// Why a dated quota cannot be set or cancelled so.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // The names of the fields are their meaning; the shell's messages spell them out.
pub enum CalendarRefusal {
    DateInThePast {
        from: Time,
        now: Time,
    },
    EndsBeforeItBegins {
        from: Time,
        until: Time,
    },
    DatedQuotasOverlap {
        tenant: Box<str>,
        /// The dates of the one that is there.
        from: Time,
        until: Option<Time>,
    },
    TooManyDatedQuotas {
        limit: u32,
    },
    NoDatedQuota {
        tenant: Box<str>,
        from: Time,
        /// When those that there are begin.
        known: Vec<Time>,
    },
}

/// Why nodes cannot be booked so, or a booking cannot be named.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // The names of the fields are their meaning; the shell's messages spell them out.
pub enum BookingRefusal {
    TooMany {
        limit: u32,
    },
    BadName {
        name: Box<str>,
    },
    NameTaken {
        name: Box<str>,
        /// When the one of this name begins.
        from: Time,
    },
    Unknown {
        name: Box<str>,
        known: Vec<Box<str>>,
    },
    InThePast {
        from: Time,
        now: Time,
    },
    TooFarAhead {
        from: Time,
        latest: Time,
    },
    EndsBeforeItBegins {
        from: Time,
        until: Time,
    },
    /// Without an end nodes are booked for maintenance only.
    WithoutEnd,
    /// Neither nodes nor their number.
    WithoutNodes,
    NamedAndCounted,
    /// Maintenance is for no tenant's jobs.
    MaintenanceForJobs,
    /// All jobs of everybody may run there as it is.
    ForAll,
    /// Who may book for a mission only names it.
    ForNoMission,
    NodeBooked {
        node: Box<str>,
        /// The booking that is there.
        booking: Box<str>,
        from: Time,
        until: Option<Time>,
    },
    TooFewNodes {
        pool: Box<str>,
        want: u32,
        /// Nodes of the pool.
        all: u32,
        /// Those of them that could be booked then.
        have: u32,
    },
    /// A job runs on the node beyond the begin, and must not be stopped for this.
    InTheWay {
        node: Box<str>,
        job: JobId,
        /// By then it is over, by its limit.
        until: Time,
        /// It must not be evicted; else it runs inside the quota of another mission.
        fixed: bool,
    },
    OverQuota {
        tenant: Box<str>,
        want: Gpus,
        /// Booked for the tenant then already.
        booked: Gpus,
        quota: Gpus,
        at: Time,
    },
    ForNobody {
        name: Box<str>,
    },
    ForOthers {
        name: Box<str>,
        /// For whom it is.
        tenant: Box<str>,
    },
    /// The nodes of the booking that the job names never hold it.
    TooSmall {
        name: Box<str>,
        nodes: u32,
    },
}

impl From<BookingRefusal> for Refusal {
    fn from(why: BookingRefusal) -> Self {
        Self::Booking(why)
    }
}

impl From<BookingRefusal> for Rejected {
    fn from(why: BookingRefusal) -> Self {
        Refusal::from(why).into()
    }
}

impl From<CalendarRefusal> for Refusal {
    fn from(why: CalendarRefusal) -> Self {
        Self::Calendar(why)
    }
}
