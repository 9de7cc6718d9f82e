//! Tenants: the tree of missions, projects and teams, with what each may have, has, and has had.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use crate::budget::Budget;
use crate::caps::Caps;
use crate::decay::Meter;
use crate::idle::IdleRule;
use crate::ids::{JobId, PoolIndex, TenantIndex, UserIndex};
use crate::job::Usage;
use crate::queue::Queue;
use crate::request::Level;
use crate::sorted::Sorted;
use crate::units::{GpuTime, Gpus, Span, Time};

/// Whole domains of one level: so many, each with so many nodes at least.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DomainQuota {
    /// Of which level.
    pub level: Level,
    /// Nodes without which a domain does not count; at least 1.
    pub nodes: u32,
    /// How many domains; at least 1.
    pub count: u32,
}

/// What a tenant may have of one pool.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Quota {
    /// Guaranteed; absent: it shares what is guaranteed to the tenant above it.
    pub quota: Option<Gpus>,
    /// Ceiling, borrowed GPUs included; absent: none.
    pub limit: Option<Gpus>,
    /// At most this much of its idle quota may be used by others; absent: all of it.
    pub lend_limit: Option<Gpus>,
    /// The part of the guarantee that comes in whole domains; absent: none does.
    pub domains: Option<DomainQuota>,
}

/// What a tenant holds of one pool, everything below it included.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Held {
    /// All of it, promises included.
    pub used: Gpus,
    /// The part of `used` that is promised and that its jobs do not hold yet.
    pub promised: Gpus,
    /// The part held by jobs that must not be evicted.
    pub fixed: Gpus,
    /// The part of attempts that lie above the quota (kept for missions only).
    pub borrowed: Gpus,
}

/// What one user has and has had in one tenant.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct UserLedger {
    /// GPUs held now.
    pub used: Gpus,
    /// GPUs held, decayed.
    pub recent: Meter,
    /// GPU-time since the beginning.
    pub total: Usage,
    /// Jobs submitted, an array counted once.
    pub jobs: u64,
    /// Jobs that hold GPUs now. Counted from the jobs, and never part of a record.
    pub running: u32,
    /// Jobs that have not ended, an array counted once and each started index of it. Counted likewise.
    pub submitted: u32,
}

/// Place of an attempt among those of its mission: the last are the first to be above the quota.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RunningKey {
    /// Those that must not be evicted come first.
    pub preemptible: bool,
    /// Then by the order in which they got their GPUs.
    pub start_order: u64,
    /// The job.
    pub job: JobId,
}

/// A tenant.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// Its own index.
    pub index: TenantIndex,
    /// Full path, as `fusion/plasma/edge`; empty for the root.
    pub name: Box<str>,
    /// The tenant above it; none for the root.
    pub parent: Option<TenantIndex>,
    /// Below the root = 0; a mission has depth 1.
    pub depth: u32,
    /// Tenants right below it, in order of definition.
    pub children: Vec<TenantIndex>,
    /// Share of the surplus, relative to its siblings; at least 1.
    pub weight: u32,
    /// For its jobs that state none; absent: the tenant's above.
    pub default_time_limit: Option<Span>,
    /// How long an attempt runs before it may be evicted; absent: as the tenant's above.
    pub min_run: Option<Span>,
    /// What single users and jobs may have here and below.
    pub caps: Caps,
    /// GPU-time that it may use in a period, everything below included; absent: as much as it gets.
    pub budget: Option<Budget>,
    /// What the attempts under way may still use of the budget, by their limits. Counted from them.
    pub committed: GpuTime,
    /// How long its jobs wait inside its quota before lent GPUs are taken back for them; absent: as the tenant's above.
    pub reclaim_within: Option<Span>,
    /// What is done about attempts whose GPUs do no work; absent: as the tenant's above.
    pub idle: Option<IdleRule>,
    /// Nothing new starts here or below.
    pub paused: bool,
    /// By pool.
    pub quotas: Vec<Quota>,
    /// By pool.
    pub held: Vec<Held>,
    /// GPUs held above quota, decayed: orders borrowers.
    pub excess: Meter,
    /// GPU-time since the beginning, everything below included.
    pub total: Usage,
    /// Jobs in this tenant's own queue and below it: 0 lets the order pass by.
    pub queued: usize,
    /// Attempts that hold GPUs in this tenant and below it.
    pub running: u32,
    /// Its own attempts that hold GPUs, by class of priority. Counted from the jobs, and never part of a record.
    pub running_in_class: SmallVec<[u32; 4]>,
    /// Its own pending jobs.
    pub queue: Queue,
    /// Its own users.
    pub users: BTreeMap<UserIndex, UserLedger>,
    /// For a mission: the attempts under it that hold GPUs, in the order in which they count against its quota.
    pub attempts: Sorted<RunningKey>,
}

impl Tenant {
    /// A tenant that has nothing yet.
    pub fn new(index: TenantIndex, name: Box<str>, parent: Option<TenantIndex>, depth: u32, pools: usize) -> Self {
        Self {
            index,
            name,
            parent,
            depth,
            children: Vec::new(),
            weight: 1,
            default_time_limit: None,
            min_run: None,
            caps: Caps::default(),
            budget: None,
            committed: GpuTime::ZERO,
            reclaim_within: None,
            idle: None,
            paused: false,
            quotas: vec![Quota::default(); pools],
            held: vec![Held::default(); pools],
            excess: Meter::default(),
            total: Usage::default(),
            queued: 0,
            running: 0,
            running_in_class: SmallVec::new(),
            queue: Queue::default(),
            users: BTreeMap::new(),
            attempts: Sorted::default(),
        }
    }

    /// GPUs held in all pools.
    pub fn used(&self) -> Gpus {
        self.held.iter().map(|held| held.used).sum()
    }

    /// GPUs guaranteed in all pools; none where it shares the quota of the tenant above it.
    pub fn quota(&self) -> Gpus {
        self.quotas.iter().filter_map(|quota| quota.quota).sum()
    }

    /// GPUs held above quota, pool by pool.
    pub fn above_quota(&self) -> Gpus {
        self.held.iter().zip(&self.quotas).map(|(held, quota)| held.used.less(quota.quota.unwrap_or_default())).sum()
    }

    /// What it took above its quota: GPUs, now and decayed, in thousandths. Over its weight this orders borrowers.
    pub fn above_quota_milli(&self, now: Time, half_life: Span) -> u64 {
        crate::order::share::of_borrower(self, now, half_life)
    }

    /// What it may have of `pool`.
    pub fn quota_in(&self, pool: PoolIndex) -> Quota {
        self.quotas.get(pool.at()).copied().unwrap_or_default()
    }

    /// What it has of `pool`.
    pub fn held_in(&self, pool: PoolIndex) -> Held {
        self.held.get(pool.at()).copied().unwrap_or_default()
    }

    /// The last part of its name.
    pub fn short_name(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or(&self.name)
    }
}
