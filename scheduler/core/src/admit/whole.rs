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
    of_others: Vec<usize>,
}

impl Way {
    /// None where nothing is kept from it.
    #[inline]
    pub(crate) fn of(cluster: &Cluster, wish: &Wish<'_>, pool: PoolIndex) -> Option<Self> {
        let kept = cluster.kept(pool)?;
        let may = may_break(cluster, kept, wish, pool);
        let is_kept = |owner: TenantIndex| is_kept_from(cluster, kept, owner, wish.tenant, pool);
        let domains = || kept.domains.iter().enumerate();
        let users = domains().filter_map(|(at, domain)| Some((at, domain.user()?)));
        let of_others: Vec<usize> = users.filter(|(_, user)| is_kept(*user)).map(|(at, _)| at).collect();
        let clean = domains().filter(|(_, domain)| domain.is_clean).map(|(at, _)| at).collect();
        let is_free = of_others.is_empty() && may >= kept.clean;
        (!is_free).then_some(Self { pool, may, clean, of_others })
    }

    /// The positions of the domains of others, and of the clean ones that are not `opened`.
    fn bars(&self, cluster: &Cluster, is_opened: impl Fn(usize) -> bool) -> Positions {
        let mut bars = Positions::default();
        let Some(kept) = cluster.kept(self.pool) else { return bars };
        let clean = self.clean.iter().filter(|domain| !is_opened(**domain));
        self.of_others.iter().chain(clean).for_each(|domain| bars.add(kept.positions(*domain)));
        bars
    }

    /// What is barred so that it breaks into nothing.
    fn all_bars(&self, cluster: &Cluster) -> Positions {
        self.bars(cluster, |_| false)
    }

    /// What is barred before it is known where it goes: if it may break into some clean domain, all are open.
    pub(crate) fn first_bars(&self, cluster: &Cluster) -> Positions {
        self.bars(cluster, |_| self.may > 0)
    }

    /// What is barred where it would break into more than it may: as many clean domains as it may are open, those with most
    /// room.
    pub(crate) fn closer_bars(&self, cluster: &Cluster, index: &PlaceIndex) -> Positions {
        let Some(kept) = cluster.kept(self.pool) else { return Positions::default() };
        let room = |domain: &usize| Reverse(index.free_in(self.pool, kept.positions(*domain)));
        let mut opened = self.clean.clone();
        opened.sort_by_cached_key(|domain| (room(domain), *domain));
        opened.truncate(self.may as usize);
        self.bars(cluster, |domain| opened.contains(&domain))
    }

    /// How many clean domains it would break into there, and how many domains of others it would enter.
    fn breaks(&self, cluster: &Cluster, index: &PlaceIndex, members: &[Placed]) -> (u32, u32) {
        let Some(kept) = cluster.kept(self.pool) else { return (0, 0) };
        let domains = kept.domains_of(index, members);
        let count = |of: &[usize]| domains.iter().filter(|domain| of.binary_search(domain).is_ok()).count() as u32;
        (count(&self.clean), count(&self.of_others))
    }

    /// Whether it may stay there.
    pub(crate) fn allows(&self, cluster: &Cluster, index: &PlaceIndex, members: &[Placed]) -> bool {
        let (clean, others) = self.breaks(cluster, index, members);
        clean <= self.may && others == 0
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

/// Whether a domain that is used below `owner` would be used no more, if `tenant` came into it as well, and somebody would want
/// another for it.
fn is_kept_from(cluster: &Cluster, kept: &Kept, owner: TenantIndex, tenant: TenantIndex, pool: PoolIndex) -> bool {
    let mut losing = cluster.chain(owner).take_while(|above| !cluster.is_within(tenant, above.index));
    losing.any(|above| above.quota_in(pool).domains.is_some_and(|domains| kept.used(above.index) <= domains.count))
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
    if !is_all(&stays) && way.may > 0 {
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
