//! What has changed that can lift a refusal, and when: in which pool something was freed, whose share of what was divided anew.
//!
//! Comes in: every change that can help somebody, told by `apply`. Goes out: whether one has come since a class was refused.
//! Derived: no fact depends on it, and a core that has just been restored knows of nothing and has refused nobody.

use crate::blocked::{Blocked, Wake};
use crate::cluster::Cluster;
use crate::ids::{NodeIndex, PoolIndex, TenantIndex};
use crate::request::Request;

/// A point in the order of changes.
pub(crate) type Stamp = u64;

/// Everything that could lead to another plan, or to a start beside it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Versions {
    pub(crate) free: Stamp,
    pub(crate) division: Stamp,
    pub(crate) queue: u64,
}

/// When what last changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct News {
    /// The last change of any kind.
    now: Stamp,
    free: Stamp,
    division: Stamp,
    /// The last change of the division that may concern every pool and tenant.
    everybody: Stamp,
    /// How often an attempt turned out to end sooner than was known.
    sooner: Stamp,
    /// By pool: GPUs became free, a node opened, what was set aside is for others.
    freed: Vec<Stamp>,
    /// By pool: the most GPUs free on a node that became freer, since backfill looked last.
    pub(crate) grown: Vec<u32>,
    /// By pool: somebody holds less of it, or may have more.
    divided: Vec<Stamp>,
    /// By tenant: it holds less itself, or may have more.
    tenants: Vec<Stamp>,
}

impl News {
    /// The last change.
    #[inline]
    pub(crate) fn now(&self) -> Stamp {
        self.now
    }

    /// Changes whenever an attempt turns out to end sooner than was known.
    #[inline]
    pub(crate) fn sooner(&self) -> Stamp {
        self.sooner
    }

    /// Changes whenever something was freed.
    #[inline]
    pub(crate) fn free(&self) -> Stamp {
        self.free
    }

    /// Changes whenever somebody may have more.
    #[inline]
    pub(crate) fn division(&self) -> Stamp {
        self.division
    }

    /// As if nobody had told that something was freed.
    pub(crate) fn deaf(&self) -> Self {
        Self { freed: Vec::new(), ..self.clone() }
    }

    /// Whether something was freed in `pool` since.
    #[inline]
    pub(crate) fn has_freed(&self, pool: PoolIndex, since: Stamp) -> bool {
        at(&self.freed, pool.at()) > since
    }

    /// Whether a node of `pool` that became freer, since backfill looked last, has so many GPUs free.
    pub(crate) fn has_grown(&self, pool: PoolIndex, gpus: u32) -> bool {
        self.grown.get(pool.at()).is_some_and(|most| *most >= gpus)
    }

    /// Whether a tenant itself holds less since, or may have more.
    #[inline]
    pub(crate) fn is_relieved(&self, tenant: TenantIndex, since: Stamp) -> bool {
        at(&self.tenants, tenant.at()) > since
    }

    /// Whether the division changed since for all.
    #[inline]
    pub(crate) fn is_divided_anew(&self, since: Stamp) -> bool {
        self.everybody > since
    }

    /// Whether what refused a class in a tenant may be lifted since; `why` is what it was refused for.
    pub(crate) fn may_lift(&self, request: &Request, why: &Blocked, since: Stamp) -> bool {
        if self.now <= since {
            return false;
        }
        if self.everybody > since {
            return true;
        }
        let in_pool = |pool: PoolIndex| self.has_freed(pool, since) || at(&self.divided, pool.at()) > since;
        if request.pools.len() > 1 {
            // It was refused in each of them, for whatever reason; what a cap or a budget counts may lie in any other.
            let is_relieved = matches!(why.wake(), Wake::Tenant(tenant) if at(&self.tenants, tenant.at()) > since);
            return is_relieved || request.pools.iter().any(|pool| in_pool(*pool));
        }
        match why.wake() {
            Wake::Room(pool) => self.has_freed(pool, since),
            Wake::Tenant(tenant) => at(&self.tenants, tenant.at()) > since,
            Wake::Division(pool) => in_pool(pool),
            Wake::Plan | Wake::Cycle => true,
        }
    }
}

#[inline]
fn at(stamps: &[Stamp], at: usize) -> Stamp {
    stamps.get(at).copied().unwrap_or(0)
}

fn set(stamps: &mut Vec<Stamp>, at: usize, stamp: Stamp) {
    if at >= stamps.len() {
        stamps.resize(at + 1, 0);
    }
    stamps[at] = stamp;
}

impl Cluster {
    /// The state, as far as plans depend on it.
    #[inline]
    pub(crate) fn versions(&self) -> Versions {
        Versions { free: self.news.free, division: self.news.division, queue: self.queue_version }
    }

    /// After GPUs of a pool became free, or a node of it opened: what found no room may find it now.
    pub(crate) fn freed(&mut self, pool: PoolIndex) {
        self.grew(pool, u32::MAX);
    }

    /// As `freed`, on a node.
    #[inline]
    pub(crate) fn freed_on(&mut self, node: NodeIndex) {
        let node = &self.nodes[node.at()];
        let free = node.free().count().rounded_up();
        self.grew(node.pool, free);
    }

    /// A node has so many GPUs free.
    fn grew(&mut self, pool: PoolIndex, free: u32) {
        let news = &mut self.news;
        if pool.at() >= news.grown.len() {
            news.grown.resize(pool.at() + 1, 0);
        }
        let most = &mut news.grown[pool.at()];
        *most = free.max(*most);
        news.now += 1;
        news.free = news.now;
        set(&mut news.freed, pool.at(), news.now);
    }

    /// As `freed`, in every pool.
    pub(crate) fn freed_everywhere(&mut self) {
        (0..self.pools.len()).for_each(|pool| self.freed(PoolIndex::of(pool)));
    }

    /// After somebody holds less of a pool, or less of it is lent, or it can lend more: what the division refused there may be
    /// admitted now.
    pub(crate) fn divided(&mut self, pool: PoolIndex) {
        let news = &mut self.news;
        news.now += 1;
        news.division = news.now;
        set(&mut news.divided, pool.at(), news.now);
    }

    /// After `tenant` itself holds less, or may have more: what its own bounds refused may be admitted now.
    pub(crate) fn relieved(&mut self, tenant: TenantIndex) {
        let news = &mut self.news;
        news.now += 1;
        news.division = news.now;
        set(&mut news.tenants, tenant.at(), news.now);
    }

    /// As `relieved`, for the tenant and all above it.
    pub(crate) fn relieved_all(&mut self, tenant: TenantIndex) {
        let mut next = Some(tenant);
        while let Some(tenant) = next {
            self.relieved(tenant);
            next = self.tenants[tenant.at()].parent;
        }
    }

    /// After an attempt turns out to end sooner than was known: who must leave something for others may be admitted now.
    #[inline]
    pub(crate) fn ends_sooner(&mut self) {
        self.news.sooner += 1;
    }

    /// After a change of the division that may concern everybody.
    pub(crate) fn divided_anew(&mut self) {
        let news = &mut self.news;
        news.now += 1;
        (news.division, news.everybody) = (news.now, news.now);
    }
}
