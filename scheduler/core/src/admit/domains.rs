//! Whole domains in a quota: of one kind in each pool, inside the quota's GPUs, and not more than there are.
//!
//! In: what an operator asks for. Out: level, nodes and count, or why not. The sums are kept as those of GPUs are: what is
//! promised below a tenant never exceeds its own promise, and that of all missions what is installed, now and at every date
//! of the calendar. What runs is not looked at: where it lies in the way the promise is short until it is over, and says so.

use std::collections::{BTreeMap, BTreeSet};

use crate::admit::calendar::Edit;
use crate::admit::fits::domain_of;
use crate::calendar::among;
use crate::cluster::Cluster;
use crate::ids::{PoolIndex, TenantIndex};
use crate::input::{DomainsDraft, QuotaDraft};
use crate::rejected::{DomainsFault, Refusal};
use crate::request::Level;
use crate::tenant::DomainQuota;
use crate::units::{Gpus, Time};

/// What a draft asks for.
///
/// # Errors
/// No such domains, another kind than others have in the pool, or more GPUs than the quota has.
pub(super) fn check(
    cluster: &Cluster,
    tenant: Option<TenantIndex>,
    pool: PoolIndex,
    draft: &QuotaDraft,
) -> Result<Option<DomainQuota>, Refusal> {
    let Some(DomainsDraft { level, count, nodes }) = draft.domains.filter(|domains| domains.count > 0) else {
        return Ok(None);
    };
    let (name, known) = (&cluster.pool(pool).name, kind_of_others(cluster, tenant, draft.dates.is_some(), pool));
    let same = known.as_ref().map(|(_, kind)| *kind).filter(|kind| kind.level == level);
    let widest = || sizes(cluster, pool, level).into_iter().max().unwrap_or(0);
    let nodes = nodes.unwrap_or_else(|| same.map_or_else(widest, |kind| kind.nodes));
    if let Some((tenant, kind)) = known
        && (kind.level, kind.nodes) != (level, nodes)
    {
        return Err(Refusal::Domains(DomainsFault::AnotherKind {
            pool: name.clone(),
            tenant,
            level: kind.level,
            nodes: kind.nodes,
        }));
    }
    if nodes == 0 || nodes > widest() {
        return Err(Refusal::Domains(DomainsFault::NoSuch { pool: name.clone(), level, nodes, widest: widest() }));
    }
    let each = u64::from(nodes) * u64::from(cluster.pool(pool).gpus_per_node);
    let needs = Gpus::whole(u32::try_from(each * u64::from(count)).unwrap_or(u32::MAX));
    if needs > draft.quota {
        return Err(Refusal::Domains(DomainsFault::AboveQuota { domains: count, needs, quota: draft.quota }));
    }
    Ok(Some(DomainQuota { level, nodes, count }))
}

/// The kind that is promised in the pool already, now or at a date to come, and to whom; not what the draft replaces.
fn kind_of_others(
    cluster: &Cluster,
    tenant: Option<TenantIndex>,
    is_dated: bool,
    pool: PoolIndex,
) -> Option<(Box<str>, DomainQuota)> {
    let is_other = |other: &TenantIndex| is_dated || tenant != Some(*other);
    let tenants = || cluster.tenants().iter().map(|tenant| tenant.index);
    let standing = tenants().filter(is_other).map(|other| (other, cluster.standing(other, pool)));
    let in_pool = cluster.calendar().filter(|dated| dated.key.pool == pool);
    let dated = in_pool.map(|dated| (dated.key.tenant, dated.quota));
    let mut all = standing.chain(dated).filter_map(|(other, quota)| Some((other, quota.domains?)));
    all.next().map(|(other, domains)| (cluster.tenant(other).name.clone(), domains))
}

/// How many nodes each domain of a level has in a pool, whatever their state.
fn sizes(cluster: &Cluster, pool: PoolIndex, level: Level) -> Vec<u32> {
    let mut sizes = BTreeMap::new();
    for node in cluster.nodes().iter().filter(|node| node.pool == pool) {
        *sizes.entry(domain_of(node, Some(level))).or_insert(0) += 1;
    }
    sizes.into_values().collect()
}

/// Whether the domains that are promised below each tenant still never exceed its own promise, from `now` on, and those of
/// a mission that is to have some, with all others, what is installed.
///
/// # Errors
/// Where they do.
pub(super) fn check_sums(cluster: &Cluster, edit: &Edit, now: Time) -> Result<(), Refusal> {
    let Edit { tenant, parent, pool, .. } = *edit;
    let in_pool = cluster.calendar().filter(|dated| dated.key.pool == pool).chain(&edit.dated);
    let dates = in_pool.flat_map(|dated| [dated.key.from].into_iter().chain(dated.until));
    let times: BTreeSet<Time> = dates.filter(|time| *time > now).chain([now]).collect();
    for at in times {
        let edited = among(edit.dated.iter(), edit.standing, at).domains;
        let count_of = |of: TenantIndex| {
            let quota = || cluster.quota_at(of, pool, at).domains;
            let domains = if tenant == Some(of) { edited } else { quota() };
            domains.map_or(0, |domains| domains.count)
        };
        let below = |above: TenantIndex| -> u32 {
            let known: u32 = cluster.tenant(above).children.iter().map(|child| count_of(*child)).sum();
            let is_new = tenant.is_none() && above == parent;
            known + edited.filter(|_| is_new).map_or(0, |domains| domains.count)
        };
        let from = Some(at).filter(|at| *at > now);
        for above in [Some(parent), tenant].into_iter().flatten().filter(|above| *above != TenantIndex::ROOT) {
            let (parent, children, domains) = (cluster.tenant(above).name.clone(), below(above), count_of(above));
            if children > domains {
                return Err(Refusal::Domains(DomainsFault::AboveParent { parent, children, domains, from }));
            }
        }
        if let Some(DomainQuota { level, nodes, .. }) = edited.filter(|_| parent == TenantIndex::ROOT) {
            let there = sizes(cluster, pool, level).into_iter().filter(|size| *size >= nodes).count() as u32;
            let (promised, pool) = (below(TenantIndex::ROOT), cluster.pool(pool).name.clone());
            if promised > there {
                return Err(Refusal::Domains(DomainsFault::TooMany { pool, level, nodes, promised, there, from }));
            }
        }
    }
    Ok(())
}
