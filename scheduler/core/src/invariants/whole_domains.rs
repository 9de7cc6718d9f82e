//! Promised domains are placeable: they are counted as they are, and in every clean one a gang of whole nodes has its place
//! once what is lent is taken back.
//!
//! Source: HiveD (Zhao et al., OSDI'20), section 3.3, "the number of cells left is never less than the number owed", with
//! guests and scavengers as its opportunistic jobs. That no start leaves fewer clean domains than others are promised and
//! do not use is asked of two states (`shortages`): nodes that are lost, and quotas, may.

use std::collections::BTreeMap;

use super::{Check, ensure};
use crate::admit::fits::domain_of;
use crate::cluster::Cluster;
use crate::ids::{PoolIndex, TenantIndex};
use crate::job::Job;
use crate::node::Node;
use crate::place::{PlaceIndex, Scratch};
use crate::request::{Constraints, Part, Request, Shape};
use crate::tenant::DomainQuota;
use crate::topology::Topology;
use crate::units::{CpuMilli, MemoryMib};
use crate::whole::is_sound;

pub(super) fn check(cluster: &Cluster) -> Check {
    let guests = cluster.jobs.iter().filter(|job| job.live_attempt().is_some_and(|attempt| attempt.guest));
    for guest in guests {
        ensure(guest.spec.preemptible, || format!("job {} is a guest, and must not be evicted", guest.id))?;
    }
    (0..cluster.pools.len()).map(PoolIndex::of).try_for_each(|pool| check_pool(cluster, pool))
}

/// What somebody is promised in a pool; all are promised domains of one kind.
fn kind(cluster: &Cluster, pool: PoolIndex) -> Option<DomainQuota> {
    cluster.tenants.iter().find_map(|tenant| tenant.quota_in(pool).domains)
}

fn check_pool(cluster: &Cluster, pool: PoolIndex) -> Check {
    let (Some(kind), Some(said)) = (kind(cluster, pool), cluster.whole_domains(pool)) else {
        return ensure(kind(cluster, pool).is_none(), || format!("pool {pool} has promises, and nothing is counted"));
    };
    let is_same = |other: DomainQuota| (other.level, other.nodes) == (kind.level, kind.nodes);
    let others = cluster.tenants.iter().filter_map(|tenant| tenant.quota_in(pool).domains);
    ensure(others.clone().all(is_same), || format!("pool {pool} has promises of several kinds"))?;
    let mut by_domain: BTreeMap<_, Vec<&Node>> = BTreeMap::new();
    for node in cluster.nodes.iter().filter(|node| node.pool == pool) {
        by_domain.entry(domain_of(node, Some(kind.level))).or_default().push(node);
    }
    let (mut whole, mut clean, mut used) = (0, 0, vec![0; cluster.tenants.len()]);
    for nodes in by_domain.values() {
        let owners: Vec<(&Node, Vec<TenantIndex>)> = nodes.iter().map(|node| (*node, staying(cluster, node))).collect();
        let sound = || owners.iter().filter(|(node, _)| is_sound(node));
        let is_whole = sound().count() >= kind.nodes as usize;
        let all: Vec<TenantIndex> = sound().flat_map(|(_, owners)| owners).copied().collect();
        whole += u32::from(is_whole);
        clean += u32::from(is_whole && all.is_empty());
        for tenant in cluster.tenants.iter().filter(|_| is_whole && !all.is_empty()) {
            used[tenant.index.at()] += u32::from(all.iter().all(|owner| cluster.is_within(*owner, tenant.index)));
        }
    }
    ensure((said.whole, said.clean) == (whole, clean) && said.used == used, || {
        format!("pool {pool}: {said:?}, counted {whole} whole, {clean} clean, used {used:?}")
    })?;
    check_places(cluster, pool, kind, clean)
}

/// The tenants of what is there to stay on a node.
fn staying(cluster: &Cluster, node: &Node) -> Vec<TenantIndex> {
    let lies_here = |job: &&Job| {
        let members = job.attempt.as_deref().into_iter().flat_map(|attempt| &attempt.members);
        let mut held = members.filter(|member| member.placed.node == node.index);
        let is_resident = node.residents.iter().any(|resident| resident.job == job.id);
        let is_outside = job.attempt.as_deref().is_some_and(|attempt| attempt.guest || attempt.scavenger);
        let promise = cluster.promise(job.id);
        let is_promised = promise.is_some_and(|promise| promise.members.iter().any(|placed| placed.node == node.index));
        is_promised || held.next().is_some() && is_resident && !is_outside
    };
    cluster.jobs.iter().filter(lies_here).map(|job| job.spec.tenant).collect()
}

/// So many gangs of whole nodes find a place one after the other in the pool without guests and scavengers.
fn check_places(cluster: &Cluster, pool: PoolIndex, kind: DomainQuota, clean: u32) -> Check {
    let topology = Topology::compile(&cluster.nodes).expect("names were checked when the nodes joined");
    let nodes: Vec<Node> =
        cluster.nodes.iter().map(|node| Node { reserved: Default::default(), ..node.clone() }).collect();
    let mut index = PlaceIndex::build(&topology, &nodes);
    for resident in nodes.iter().flat_map(|node| &node.residents) {
        let Some(job) = cluster.job(resident.job) else { continue };
        if let Some(attempt) = job.attempt.as_deref().filter(|attempt| attempt.is_outside()) {
            index.release(&[attempt.members[resident.member.at()].placed], &job.spec.request);
        }
    }
    let request = Request {
        shape: Shape::Equal { members: kind.nodes, gpus: cluster.pool(pool).gpus_per_node },
        pools: [pool].into(),
        cpu: CpuMilli::ZERO,
        memory: MemoryMib::ZERO,
        required: Some(kind.level),
        preferred: None,
        distinct_nodes: false,
        only: Constraints::default(),
        part: Part::Whole,
    };
    for at in 0..clean {
        let found = index.place(&request, pool, &[], 1_000, &mut Scratch::default());
        match found {
            Ok(members) => index.take(&members, &request),
            Err(why) => return Err(format!("pool {pool} has {clean} clean domains, but of {at} on: {why:?}")),
        }
    }
    Ok(())
}

/// By pool and tenant with promises below it, how many whole domains those below are promised and do not use beyond what there
/// is for them.
pub fn shortages(cluster: &Cluster) -> BTreeMap<(PoolIndex, TenantIndex), u32> {
    let mut found = BTreeMap::new();
    for pool in (0..cluster.pools.len()).map(PoolIndex::of) {
        let Some(said) = cluster.whole_domains(pool) else { continue };
        let unused = |tenant: TenantIndex| {
            let promised = cluster.tenant(tenant).quota_in(pool).domains.map_or(0, |domains| domains.count);
            promised.saturating_sub(said.used[tenant.at()])
        };
        for tenant in &cluster.tenants {
            let there = if tenant.parent.is_none() { said.clean } else { unused(tenant.index) };
            let wanted: u32 = tenant.children.iter().map(|child| unused(*child)).sum();
            found.insert((pool, tenant.index), wanted.saturating_sub(there));
        }
    }
    found
}
