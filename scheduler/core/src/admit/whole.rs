//! Which whole domains may a start break into? As many as are left when everybody else has what it is promised.
//!
//! In: what asks, and how many domains are clean and used (`whole`). Out: a place outside the domains that are kept for
//! others; or, for what can be taken back in time, one inside them as a guest; or why there is none. What starts inside its
//! quota may break into domains of its own promise, which are used then. At every tenant above it with promises below, what
//! is left is no less than what its other children are promised and do not use. Where nodes are lost there may be less than
//! was promised: nobody is refused what is left of its own promise for that.
//! It must cost nothing where nobody is promised whole domains.

use std::cmp::Reverse;

use crate::admit::lending;
use crate::admit::start::{Refused, Site, Wish};
use crate::blocked::Blocked;
use crate::cluster::Cluster;
use crate::ids::{PoolIndex, TenantIndex};
use crate::place::{PlaceIndex, Positions};
use crate::placement::{Members, Placed};
use crate::plan;
use crate::request::Level;
use crate::tenant::Tenant;
use crate::whole::Kept;

/// What a start may break into.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pool: PoolIndex,
    /// Clean domains that it may break into.
    may: u32,
    /// All clean domains.
    clean: Vec<usize>,
    /// Domains that others use up, and would want others for.
    of_others: Vec<Used>,
}

/// The domains that a tenant uses up which is promised some.
#[derive(Clone, Debug)]
struct Used {
    domains: Vec<usize>,
    /// So many it uses beyond what it is promised: others may come into no more of them.
    spare: u32,
}

impl Way {
    /// None where nothing is kept from it.
    #[inline]
    pub(crate) fn of(cluster: &Cluster, wish: &Wish<'_>, pool: PoolIndex) -> Option<Self> {
        let kept = cluster.kept(pool)?;
        let may = may_break(cluster, kept, wish, pool);
        let others = cluster.tenants.iter().filter(|other| !cluster.is_within(wish.tenant, other.index));
        let of_others: Vec<Used> = others.filter_map(|other| Used::by(cluster, kept, other, pool)).collect();
        let domains = kept.domains.iter().enumerate();
        let clean = domains.filter(|(_, domain)| domain.is_clean).map(|(at, _)| at).collect();
        let is_free = of_others.is_empty() && may >= kept.clean;
        (!is_free).then_some(Self { pool, may, clean, of_others })
    }

    /// Whether there is anything that it may break into.
    fn opens(&self) -> bool {
        self.may > 0 || self.of_others.iter().any(|used| used.spare > 0)
    }

    /// What is barred so that it breaks into nothing.
    fn all_bars(&self, cluster: &Cluster) -> Positions {
        self.bars(cluster, &[])
    }

    /// What is barred before it is known where it goes: what may be broken into is open, however much of it may.
    pub(crate) fn first_bars(&self, cluster: &Cluster) -> Positions {
        let lent = self.of_others.iter().filter(|used| used.spare > 0).flat_map(|used| &used.domains);
        let clean = self.clean.iter().filter(|_| self.may > 0);
        let opened: Vec<usize> = clean.chain(lent).copied().collect();
        self.bars(cluster, &opened)
    }

    /// What is barred where it would break into more than it may: as much as it may is open, that with most room.
    pub(crate) fn closer_bars(&self, cluster: &Cluster, index: &PlaceIndex) -> Positions {
        let Some(kept) = cluster.kept(self.pool) else { return Positions::default() };
        let room = |domain: &usize| Reverse(index.free_in(self.pool, kept.positions(*domain)));
        let widest = |domains: &[usize], most: u32| {
            let mut domains = domains.to_vec();
            domains.sort_by_cached_key(|domain| (room(domain), *domain));
            domains.truncate(most as usize);
            domains
        };
        let mut opened = widest(&self.clean, self.may);
        opened.extend(self.of_others.iter().flat_map(|used| widest(&used.domains, used.spare)));
        self.bars(cluster, &opened)
    }

    /// The domains of others and the clean ones, but for those `opened`; what one of the others keeps stays barred.
    fn bars(&self, cluster: &Cluster, opened: &[usize]) -> Positions {
        let mut bars = Positions::default();
        let Some(kept) = cluster.kept(self.pool) else { return bars };
        let mut bar = |domain: &usize| bars.add(kept.positions(*domain));
        let is_barred = |domain: &&usize| !opened.contains(domain);
        self.clean.iter().filter(is_barred).for_each(&mut bar);
        for used in &self.of_others {
            used.domains.iter().filter(|domain| used.spare == 0 || is_barred(domain)).for_each(&mut bar);
        }
        bars
    }

    /// How many clean domains it would break into there, and how many domains of others it would enter beyond what they can
    /// do without.
    fn breaks(&self, cluster: &Cluster, index: &PlaceIndex, members: &[Placed]) -> (u32, u32) {
        let Some(kept) = cluster.kept(self.pool) else { return (0, 0) };
        let domains = kept.domains_of(index, members);
        let count = |of: &[usize]| domains.iter().filter(|domain| of.binary_search(domain).is_ok()).count() as u32;
        let others = self.of_others.iter().map(|used| count(&used.domains).saturating_sub(used.spare));
        (count(&self.clean), others.max().unwrap_or(0))
    }

    /// Whether it may stay there.
    pub(crate) fn allows(&self, cluster: &Cluster, index: &PlaceIndex, members: &[Placed]) -> bool {
        let (clean, others) = self.breaks(cluster, index, members);
        clean <= self.may && others == 0
    }
}

impl Used {
    /// None where nothing is promised to the tenant, or used by it.
    fn by(cluster: &Cluster, kept: &Kept, tenant: &Tenant, pool: PoolIndex) -> Option<Self> {
        let promised = tenant.quota_in(pool).domains.filter(|_| kept.used(tenant.index) > 0)?.count;
        let is_of = |user: TenantIndex| cluster.is_within(user, tenant.index);
        let domains = kept.domains.iter().enumerate().filter(|(_, domain)| domain.user.is_some_and(is_of));
        let domains: Vec<usize> = domains.map(|(at, _)| at).collect();
        Some(Self { domains, spare: kept.used(tenant.index).saturating_sub(promised) })
    }
}

/// The clean domains that a start may break into.
fn may_break(cluster: &Cluster, kept: &Kept, wish: &Wish<'_>, pool: PoolIndex) -> u32 {
    let is_own = !plan::would_borrow(cluster, wish.tenant, pool, wish.gpus());
    let unused = |tenant: &Tenant| cluster.unused_domains(tenant, kept, pool);
    let mut may = kept.clean;
    let mut below = cluster.tenant(wish.tenant);
    while let Some(parent) = below.parent.map(|parent| cluster.tenant(parent)) {
        let children = parent.children.iter().map(|child| cluster.tenant(*child));
        let all: u32 = children.map(unused).sum();
        let own = if is_own { unused(below) } else { 0 };
        if all > own {
            let there = if parent.parent.is_none() { kept.clean } else { unused(parent) };
            may = may.min(there.saturating_sub(all - own).max(own));
        }
        below = parent;
    }
    may
}

/// Whether it can be taken back for whoever is promised whole domains, as soon as he was promised what is lent.
fn may_be_guest(cluster: &Cluster, wish: &Wish<'_>, pool: PoolIndex) -> bool {
    let returns = || lending::return_time(cluster, wish.tenant, wish.grace);
    let is_soon = || lending::deadlines(cluster, pool).into_iter().all(|deadline| returns() <= deadline);
    wish.preemptible && (!cluster.has_deadlines || is_soon())
}

/// What is barred to a start that is to stay where it is placed; none where nothing is, or where it may be a guest.
pub(crate) fn bars(cluster: &Cluster, wish: &Wish<'_>, pool: PoolIndex) -> Option<Positions> {
    let way = Way::of(cluster, wish, pool)?;
    (!may_be_guest(cluster, wish, pool)).then(|| way.first_bars(cluster))
}

/// A place in `pool`, and whether it is one of a guest. The most members count; of equally many first those outside what is
/// kept for others.
///
/// # Errors
/// Why there is none; `KeptWhole` where there is one in domains that are kept for others.
pub(crate) fn place(
    site: &mut impl Site,
    pool: PoolIndex,
    most: u32,
    scavenger: bool,
) -> Result<(Members, bool), Refused> {
    let way = Way::of(site.cluster(), &site.wish(), pool).filter(|_| !scavenger);
    let Some(way) = way else {
        let found = site.place(pool, most, scavenger);
        return found.map(|members| (members, false)).map_err(|why| refused(site, why));
    };
    let is_all = |found: &Option<Members>| found.as_ref().is_some_and(|members| members.len() >= most as usize);
    let mut stays = among(site, &way, most, way.all_bars(site.cluster()));
    if !is_all(&stays) && way.opens() {
        stays = larger(stays, among(site, &way, most, way.first_bars(site.cluster())));
    }
    if let Some(members) = stays.take_if(|members| members.len() >= most as usize) {
        return Ok((members, false));
    }
    let anywhere = match site.place(pool, most, scavenger) {
        Ok(members) => members,
        Err(why) => return stays.map(|members| (members, false)).ok_or_else(|| refused(site, why)),
    };
    let cluster = site.cluster();
    if way.allows(cluster, &cluster.index, &anywhere) {
        let members = larger(stays, Some(anywhere)).expect("there is one");
        return Ok((members, false));
    }
    let guest = may_be_guest(cluster, &site.wish(), pool).then_some(&anywhere);
    match (stays, guest) {
        (Some(members), guest) if guest.is_none_or(|guest| guest.len() <= members.len()) => Ok((members, false)),
        (_, Some(_)) => Ok((anywhere, true)),
        (_, None) => Err(Refused::Admission(way.kept_whole(cluster, &anywhere))),
    }
}

impl Way {
    fn kept_whole(&self, cluster: &Cluster, members: &[Placed]) -> Blocked {
        let level = cluster.kept(self.pool).map_or(Level::Node, |kept| kept.level);
        let (clean, others) = self.breaks(cluster, &cluster.index, members);
        Blocked::KeptWhole {
            pool: self.pool,
            level,
            want: clean + others,
            may: self.may,
            clean: self.clean.len() as u32,
        }
    }
}

/// A place outside the barred positions where it may stay; where it would break into too much the bars are drawn closer.
fn among(site: &mut impl Site, way: &Way, most: u32, bars: Positions) -> Option<Members> {
    let members = outside(site, way, most, &bars)?;
    let cluster = site.cluster();
    if way.allows(cluster, &cluster.index, &members) {
        return Some(members);
    }
    let bars = way.closer_bars(cluster, &cluster.index);
    outside(site, way, most, &bars)
}

fn outside(site: &mut impl Site, way: &Way, most: u32, bars: &Positions) -> Option<Members> {
    site.index().bar(way.pool, bars);
    let found = site.place(way.pool, most, false);
    site.index().unbar(way.pool);
    found.ok()
}

fn larger(one: Option<Members>, other: Option<Members>) -> Option<Members> {
    let is_larger = |other: &Members| one.as_ref().is_none_or(|one| one.len() < other.len());
    if other.as_ref().is_some_and(is_larger) { other } else { one }
}

fn refused(site: &impl Site, why: Blocked) -> Refused {
    if site.is_choosy() { Refused::Alone(why) } else { Refused::Placement(why) }
}
