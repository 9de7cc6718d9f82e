//! Every knob and limit of the core, with unit and reason. There is no `Default`: the shell states each value.

use crate::units::{Gpus, Span};

/// A class of priority inside a tenant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PriorityClass {
    /// As users write it.
    pub name: Box<str>,
}

/// A mistake made on purpose, so that a search for mistakes can prove that it finds them. Only the simulator makes any.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// What was freed wakes nobody who waits for room.
    LostWakeUp,
    /// A gang's barrier opens when all members but one are prepared.
    GangCountOffByOne,
    /// A lost node is taken for a dead one.
    NoProofOfDeath,
}

/// Limits and rules. A change of policy never changes what the journal means, only what is decided next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Lowest first; the place is the `PriorityIndex`.
    pub priorities: Vec<PriorityClass>,
    /// Place in `priorities` of the class of jobs that name none.
    pub default_priority: u8,
    /// Jobs in one Submit: bounds one turn.
    pub max_jobs_per_submit: u32,
    /// Jobs that wait, arrays counted once: bounds memory.
    pub max_pending_jobs: u32,
    /// Members of one gang: bounds one event.
    pub max_members: u32,
    /// Indices of one array.
    pub max_array_size: u32,
    /// Dependencies of one job.
    pub max_dependencies: u32,
    /// Distinct requests that wait at once: bounds a cycle.
    pub max_classes: u32,
    /// What was tried in vain is not tried again before something changed. Off, every class is tried in every cycle, which
    /// costs time and places nothing more.
    pub remember_refusals: bool,
    /// Placements in one cycle: bounds a turn and its batch; the rest goes on in the next turn.
    pub max_placements_per_cycle: u32,
    /// Placements in one cycle, in members of their gangs.
    pub max_members_per_cycle: u32,
    /// Longest time limit that a job may ask for.
    pub max_time_limit: Span,
    /// Where neither job nor tenant states one.
    pub default_time_limit: Span,
    /// From TERM to KILL where the job states none.
    pub default_grace: Span,
    /// Longest grace that a job may ask for.
    pub max_grace: Span,
    /// Runs of one job, all reasons together; then it has failed.
    pub max_attempts: u32,
    /// A gang that has not started after this long is stopped and queued again.
    pub launch_deadline: Span,
    /// After the agent's own time limit and grace: then the scheduler orders the stop itself.
    pub time_limit_slack: Span,
    /// First wait before a job is tried again after a failed launch; doubles each time up to `max_backoff`.
    pub backoff: Span,
    /// Longest wait between two attempts.
    pub max_backoff: Span,
    /// How long an ended job stays in memory.
    pub keep_ended: Span,
    /// Ended jobs in memory at once; the oldest go first.
    pub max_ended: u32,
    /// Answers to request ids that are remembered; the oldest go first.
    pub max_requests: u32,
    /// Half-life of the usage that orders borrowers and users.
    pub half_life: Span,
    /// What was asked for is expected again, by half as much after each such span; at least an eighth of it passes before that
    /// makes a difference. It decides between places that fit, never whether something starts.
    pub learn_half_life: Span,
    /// Steps of the search for a place for unequal members.
    pub search_steps: u32,
    /// Plans to make room are made at most this often.
    pub plan_interval: Span,
    /// Jobs for which room is sought in one cycle: bounds a turn.
    pub max_plans_per_cycle: u32,
    /// Blocked jobs hold reservations, and reclaim waits for what ends by itself in time.
    pub plan_in_time: bool,
    /// Reservations are planned anew at most this often.
    pub reserve_interval: Span,
    /// Though nothing happened, what waits is planned anew after this: what should have ended has not, users' shares decay.
    pub reserve_refresh: Span,
    /// A job that has waited less holds no reservation.
    pub reserve_after: Span,
    /// So many of the first blocked jobs hold reservations, beside the first of each mission.
    pub max_reservations: u32,
    /// Moments that are looked at for one reservation: bounds a turn.
    pub max_timeline_steps: u32,
    /// Jobs that are tried on what is set aside, in one cycle: bounds a turn.
    pub max_backfill_per_cycle: u32,
    /// How old the reason may be for which no plan was found, where nothing else is looked for; none: it is not worked out
    /// at all, which virtual time does without.
    pub plan_reasons: Option<Span>,
    /// How long a job that waits inside its quota lets borrowers be whose eviction costs more than its wait, where no tenant
    /// above it has a deadline.
    pub reclaim_patience: Span,
    /// What a restart costs an evicted attempt, beside the work since its last checkpoint.
    pub restart_cost: Span,
    /// An elastic gang that runs with fewer members than it may have starts again with more only after it has run this long.
    pub grow_after: Span,
    /// Promises at once; 0: nothing is taken back.
    pub max_promises: u32,
    /// After so many failures of its own a job waits for free GPUs: nobody is evicted for it any more.
    pub max_evicting_failures: u32,
    /// Longest time for which a job may have what is left of its places held after it lost a node.
    pub max_hold_survivors: Span,
    /// So many nodes of a pool, by its name, are kept free for gangs that lost one.
    pub spares: Vec<(Box<str>, u32)>,
    /// How long an evicted attempt may take beyond its grace: then other GPUs are looked for.
    pub kill_bound: Span,
    /// How long an attempt runs before it may be evicted, where no tenant above states it.
    pub default_min_run: Span,
    /// Shortest period of a budget: bounds the events after a long silence.
    pub min_budget_period: Span,
    /// How long a job waits inside its quota before lent GPUs are taken back for it, where no tenant above states it.
    pub default_reclaim_within: Span,
    /// Depth of the tenant tree below the root.
    pub max_tenant_depth: u32,
    /// Dated quotas in the calendar at most.
    pub max_dated_quotas: u32,
    /// Bookings that are not over at most.
    pub max_bookings: u32,
    /// How long ahead a booking may begin.
    pub max_booking_ahead: Span,
    /// Tenants.
    pub max_tenants: u32,
    /// Users.
    pub max_users: u32,
    /// Largest quota or limit that may be set: guards against slips of the pen.
    pub max_quota: Gpus,
    /// None, everywhere but in the simulator.
    pub flaw: Option<Flaw>,
}

impl Policy {
    /// The values for a cluster of thousands of GPUs; the shell overrides single ones from its configuration.
    pub fn standard() -> Self {
        let class = |name: &str| PriorityClass { name: name.into() };
        Self {
            priorities: vec![class("low"), class("normal"), class("high"), class("urgent")],
            default_priority: 1,
            max_jobs_per_submit: 1000,
            max_pending_jobs: 2_000_000,
            max_members: 4096,
            max_array_size: 100_000,
            max_dependencies: 64,
            max_classes: 4096,
            remember_refusals: true,
            max_placements_per_cycle: 2000,
            max_members_per_cycle: 8000,
            max_time_limit: Span::seconds(30 * 86_400),
            default_time_limit: Span::seconds(86_400),
            default_grace: Span::seconds(30),
            max_grace: Span::seconds(3600),
            max_attempts: 10,
            launch_deadline: Span::seconds(120),
            time_limit_slack: Span::seconds(60),
            backoff: Span::seconds(2),
            max_backoff: Span::seconds(300),
            keep_ended: Span::seconds(3600),
            max_ended: 200_000,
            max_requests: 100_000,
            half_life: Span::seconds(7 * 86_400),
            learn_half_life: Span::seconds(14 * 86_400),
            search_steps: 20_000,
            plan_interval: Span(200),
            max_plans_per_cycle: 8,
            plan_in_time: true,
            reserve_interval: Span::seconds(60),
            reserve_refresh: Span::seconds(300),
            reserve_after: Span::ZERO,
            max_reservations: 8,
            max_timeline_steps: 20_000,
            max_backfill_per_cycle: 50,
            plan_reasons: Some(Span::seconds(60)),
            reclaim_patience: Span::seconds(86_400),
            restart_cost: Span::seconds(900),
            grow_after: Span::seconds(900),
            max_promises: 1000,
            max_evicting_failures: 3,
            max_hold_survivors: Span::seconds(3600),
            spares: Vec::new(),
            kill_bound: Span::seconds(120),
            default_min_run: Span::ZERO,
            min_budget_period: Span::seconds(3600),
            default_reclaim_within: Span::ZERO,
            max_tenant_depth: 4,
            max_dated_quotas: 1_000,
            max_bookings: 1_000,
            max_booking_ahead: Span::seconds(400 * 86_400),
            max_tenants: 10_000,
            max_users: 100_000,
            max_quota: Gpus::whole(10_000_000),
            flaw: None,
        }
    }
}
