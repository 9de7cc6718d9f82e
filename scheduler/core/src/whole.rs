//! Whole domains: what is guaranteed in units of the topology, and which domains are kept for it.
//!
//! A tenant may be promised whole domains of one level of a pool, beside GPUs. A domain is clean while nothing in it is there
//! to stay: guests (`Attempt::guest`) and scavengers can be taken back and do not count, everything else does. A domain in
//! which everything that stays is below one tenant is used by that tenant and by all above it, and counts against their
//! promises. Nodes that are closed, faulty or not heard are as good as not there, and so is what lies on them: a domain
//! counts as long as enough others are left.
//! After HiveD (Zhao et al., OSDI'20): in a pool there are as many clean domains as are promised and not used, and below
//! a tenant as many as its own promise has left. `admit/whole.rs` refuses what would break that.
//!
//! In: nodes that change, quotas. Out: by pool how many domains are clean, by tenant how many are used. Derived; it costs
//! nothing in pools where nobody is promised whole domains.
//! It must never count a domain whose nodes are closed, faulty or too few.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::cluster::Cluster;
use crate::ids::{JobId, NodeIndex, PoolIndex, TenantIndex};
use crate::job::Job;
use crate::jobs::Jobs;
use crate::node::Node;
use crate::place::PlaceIndex;
use crate::placement::Placed;
use crate::promise::Promise;
use crate::request::Level;
use crate::tenant::Tenant;

/// A node, as far as it matters for the domain that it is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Standing {
    /// All of its GPUs could be had.
    is_sound: bool,
    /// The lowest tenant below which everything is that stays here; absent: nothing stays.
    owner: Option<TenantIndex>,
}

/// A domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Domain {
    /// Enough sound nodes.
    is_whole: bool,
    /// Enough sound nodes, and nothing stays on any of them.
    pub(crate) is_clean: bool,
    /// The lowest tenant below which everything is that stays here: with all above it uses the domain up. Absent where
    /// nothing stays, and where nodes are too few.
    pub(crate) user: Option<TenantIndex>,
}

/// The domains of one pool in which some are promised.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Kept {
    /// Of which level.
    pub(crate) level: Level,
    /// Nodes without which a domain does not count.
    pub(crate) nodes: u32,
    /// First position of each domain, then the number of nodes.
    starts: Vec<usize>,
    /// By position.
    standings: Vec<Standing>,
    /// In the order of positions.
    pub(crate) domains: Vec<Domain>,
    /// How many are clean.
    pub(crate) clean: u32,
    /// By tenant, how many are used below it.
    used: Vec<u32>,
}

/// How it stands with the domains of a pool in which some are promised.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WholeDomains {
    /// Of which level.
    pub level: Level,
    /// Nodes without which a domain does not count.
    pub nodes: u32,
    /// Domains that have so many that are sound, used or not.
    pub whole: u32,
    /// Domains in which nothing is there to stay.
    pub clean: u32,
    /// Promised to missions and not used by them: where more than are clean, so many are short.
    pub unused: u32,
    /// By tenant, how many are used below it.
    pub used: Vec<u32>,
}

/// Level and nodes of the domains that are promised in a pool: all of them have the same.
type Kind = (Level, u32);

/// All pools in which whole domains are promised.
#[derive(Clone, Debug, Default)]
pub(crate) struct Whole {
    /// By pool.
    kinds: Vec<Option<Kind>>,
    /// By pool, as old as the index.
    pools: Vec<Option<Kept>>,
}

impl Whole {
    /// Whether nobody is promised any.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// Whether whole domains are promised in a pool.
    #[inline]
    pub(crate) fn keeps(&self, pool: PoolIndex) -> bool {
        self.kinds.get(pool.at()).is_some_and(Option::is_some)
    }
}

impl Kept {
    /// The positions of a domain.
    pub(crate) fn positions(&self, domain: usize) -> Range<usize> {
        self.starts[domain]..self.starts[domain + 1]
    }

    /// The domain of a position.
    pub(crate) fn domain_of(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at) - 1
    }

    /// The domains in which members lie, each once.
    pub(crate) fn domains_of(&self, index: &PlaceIndex, members: &[Placed]) -> Vec<usize> {
        let mut found: Vec<usize> =
            members.iter().map(|placed| self.domain_of(index.position(placed.node).1)).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// How many domains are used below a tenant.
    pub(crate) fn used(&self, tenant: TenantIndex) -> u32 {
        self.used.get(tenant.at()).copied().unwrap_or(0)
    }

    /// Counts a domain anew; true when it is another than before. O(nodes of the domain).
    fn count(&mut self, domain: usize, tenants: &[Tenant]) -> bool {
        let standings = &self.standings[self.starts[domain]..self.starts[domain + 1]];
        let sound = || standings.iter().filter(|standing| standing.is_sound);
        let is_whole = sound().count() >= self.nodes as usize;
        let owners = sound().filter_map(|standing| standing.owner);
        let user = owners.reduce(|one, other| common(tenants, one, other)).filter(|_| is_whole);
        let now = Domain { is_whole, is_clean: is_whole && user.is_none(), user };
        let before = std::mem::replace(&mut self.domains[domain], now);
        self.clean = self.clean + u32::from(now.is_clean) - u32::from(before.is_clean);
        if before.user != now.user {
            self.used.resize(tenants.len().max(self.used.len()), 0);
            above(tenants, before.user).for_each(|tenant| self.used[tenant.at()] -= 1);
            above(tenants, now.user).for_each(|tenant| self.used[tenant.at()] += 1);
        }
        before != now
    }
}

/// A tenant and all above it.
fn above(tenants: &[Tenant], tenant: Option<TenantIndex>) -> impl Iterator<Item = TenantIndex> {
    std::iter::successors(tenant, |tenant| tenants[tenant.at()].parent)
}

/// The lowest tenant that both are, or are below.
fn common(tenants: &[Tenant], one: TenantIndex, other: TenantIndex) -> TenantIndex {
    let mut found =
        above(tenants, Some(one)).filter(|above_one| above(tenants, Some(other)).any(|it| it == *above_one));
    found.next().unwrap_or(TenantIndex::ROOT)
}

/// Whether what a job holds is there to stay: nobody takes it back for whoever is promised whole domains.
pub(crate) fn stays(job: &Job) -> bool {
    !job.attempt.as_deref().is_some_and(|attempt| attempt.is_outside())
}

/// Whether all GPUs of a node could be had if nothing ran there.
pub(crate) fn is_sound(node: &Node) -> bool {
    let has_all = node.bad.is_empty() && !node.capacity.is_cut() && !node.capacity.gpus.is_empty();
    node.is_open() && !node.spare && !node.booked.kept && has_all
}

fn standing(node: &Node, jobs: &Jobs, promises: &BTreeMap<JobId, Promise>, tenants: &[Tenant]) -> Standing {
    let mut residents: Vec<JobId> = node.residents.iter().map(|resident| resident.job).collect();
    residents.dedup();
    let held = residents.into_iter().filter_map(|id| jobs.get(id)).filter(|job| stays(job)).map(|job| job.spec.tenant);
    let is_promised = !node.promised.gpus.is_empty();
    let lies_here = |promise: &Promise| promise.members.iter().any(|placed| placed.node == node.index);
    let promised = promises.iter().filter(|(_, promise)| is_promised && lies_here(promise));
    let promised = promised.filter_map(|(id, _)| jobs.get(*id)).map(|job| job.spec.tenant);
    Standing { is_sound: is_sound(node), owner: held.chain(promised).reduce(|one, other| common(tenants, one, other)) }
}

impl Cluster {
    /// The domains of a pool in which some are promised; none while the index is to be built anew.
    #[inline]
    pub(crate) fn kept(&self, pool: PoolIndex) -> Option<&Kept> {
        self.whole.pools.get(pool.at())?.as_ref().filter(|_| !self.index_is_stale)
    }

    /// How it stands with the domains of a pool in which some are promised; none where nobody is promised any.
    pub fn whole_domains(&self, pool: PoolIndex) -> Option<WholeDomains> {
        if self.index_is_stale && self.whole.keeps(pool) {
            let mut copy = self.clone();
            copy.refresh_index();
            return copy.whole_domains(pool);
        }
        let kept = self.kept(pool)?;
        Some(WholeDomains {
            level: kept.level,
            nodes: kept.nodes,
            whole: kept.domains.iter().filter(|domain| domain.is_whole).count() as u32,
            clean: kept.clean,
            unused: self.missions().map(|mission| self.unused_domains(mission, kept, pool)).sum(),
            used: self.tenants.iter().map(|tenant| kept.used(tenant.index)).collect(),
        })
    }

    /// How many whole domains a tenant is promised in a pool and does not use.
    pub(crate) fn unused_domains(&self, tenant: &Tenant, kept: &Kept, pool: PoolIndex) -> u32 {
        let promised = tenant.quota_in(pool).domains.map_or(0, |domains| domains.count);
        promised.saturating_sub(kept.used(tenant.index))
    }

    /// Whether a tenant, or one above it, is promised whole domains of a pool that it does not use.
    pub(crate) fn has_unused_domains(&self, tenant: TenantIndex, pool: PoolIndex) -> bool {
        let Some(kept) = self.kept(pool) else { return false };
        self.chain(tenant).any(|above| self.unused_domains(above, kept, pool) > 0)
    }

    /// After any change of a node, or of what is held or promised there.
    #[inline]
    pub(crate) fn recount_domain(&mut self, node: NodeIndex) {
        if !self.whole.pools.is_empty() && !self.index_is_stale {
            self.recount_domain_of(node);
        }
    }

    fn recount_domain_of(&mut self, node: NodeIndex) {
        let Self { whole, nodes, jobs, promises, tenants, index, .. } = self;
        let node = &nodes[node.at()];
        let Some(Some(kept)) = whole.pools.get_mut(node.pool.at()) else { return };
        let (_, at) = index.position(node.index);
        let now = standing(node, jobs, promises, tenants);
        if std::mem::replace(&mut kept.standings[at], now) != now && kept.count(kept.domain_of(at), tenants) {
            let pool = node.pool;
            self.divided(pool);
        }
    }

    /// After quotas changed: the kinds of domains that are promised. True when they are others than before.
    pub(crate) fn recount_kinds(&mut self) -> bool {
        let in_pool = |pool: PoolIndex| self.tenants.iter().find_map(|tenant| tenant.quota_in(pool).domains);
        let kind = |pool: usize| in_pool(PoolIndex::of(pool)).map(|domains| (domains.level, domains.nodes));
        let mut kinds: Vec<Option<Kind>> = (0..self.pools.len()).map(kind).collect();
        while kinds.last().is_some_and(Option::is_none) {
            kinds.pop();
        }
        let is_changed = self.whole.kinds != kinds;
        self.whole.kinds = kinds;
        is_changed
    }

    /// Counts all domains of all pools in which some are promised; the index is fresh.
    pub(crate) fn count_domains(&mut self) {
        let Self { whole, nodes, jobs, promises, tenants, index, .. } = self;
        let count = |(pool, kind): (usize, &Option<Kind>)| {
            let (pool, (level, least)) = (PoolIndex::of(pool), (*kind)?);
            let starts = index.starts(pool, level);
            let standing = |node: &NodeIndex| standing(&nodes[node.at()], jobs, promises, tenants);
            let standings = index.nodes_of(pool).iter().map(standing).collect();
            let domains = vec![Domain::default(); starts.len() - 1];
            let (clean, used) = (0, vec![0; tenants.len()]);
            let mut kept = Kept { level, nodes: least, starts, standings, domains, clean, used };
            (0..kept.domains.len()).for_each(|domain| _ = kept.count(domain, tenants));
            Some(kept)
        };
        let now = whole.kinds.iter().enumerate().map(count).collect();
        let before = std::mem::replace(&mut whole.pools, now);
        let domains = |pools: &[Option<Kept>], pool: usize| Some(pools.get(pool)?.as_ref()?.domains.clone());
        let is_changed = |pool: &usize| domains(&before, *pool) != domains(&self.whole.pools, *pool);
        let changed: Vec<usize> = (0..self.whole.pools.len()).filter(is_changed).collect();
        changed.into_iter().for_each(|pool| self.divided(PoolIndex::of(pool)));
    }
}
