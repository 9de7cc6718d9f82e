//! A node of the core, and what is known of it beyond the journal -> the wire.

use dure_core::Cluster;
use dure_core::mig::Layout;
use dure_core::node::{Contact, Node};
use dure_proto::v1;

use super::{booking, job};
use crate::live::LiveNode;

/// A node. Its position is for the caller to fill in.
pub fn node(cluster: &Cluster, node: &Node, live: Option<&LiveNode>, with_telemetry: bool) -> v1::Node {
    let state = match node.contact {
        Contact::Ready => v1::NodeState::Ready,
        Contact::Suspect => v1::NodeState::Suspect,
        Contact::Lost => v1::NodeState::Lost,
    };
    v1::Node {
        name: node.name.to_string(),
        state: state.into(),
        cordoned: node.cordoned,
        draining: node.draining,
        spare: node.spare,
        bookings: booking::of_node(cluster, node),
        pool: cluster.pool(node.pool).name.to_string(),
        gpus: node.capacity.gpus.len(),
        gpus_free: node.free().len(),
        gpus_bad: node.bad.len(),
        site: node.location.site.to_string(),
        spine: node.location.spine.to_string(),
        leaf: node.location.leaf.to_string(),
        nvlink_domain: node.location.nvlink.to_string(),
        boot_id: node.boot_id.to_string(),
        last_heard_ms: live.map_or(0, |live| live.last_heard.0),
        connected: live.is_some_and(|live| live.connected),
        jobs: residents(cluster, node),
        telemetry: live.filter(|_| with_telemetry).and_then(|live| live.telemetry.clone()),
        cpu_milli: node.capacity.cpu.0,
        memory_mib: node.capacity.memory.0,
        agent_version: live.map_or_else(String::new, |live| live.agent_version.clone()),
        position: None,
        mig: instances(cluster, node),
        unknown_leases: live.map_or_else(Vec::new, |live| {
            let key = |&(job_id, attempt, member)| v1::LeaseKey { job_id, attempt, member };
            live.unknown_leases.iter().map(key).collect()
        }),
        labels: node.capacity.labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
    }
}

/// What its GPUs are cut into.
fn instances(cluster: &Cluster, node: &Node) -> Vec<v1::NodeMig> {
    let of_gpu = |(gpu, layout): (usize, &Layout)| {
        let named = move |(slice, start)| job::named(cluster, node.index, slice, start);
        layout.instances().map(move |instance| v1::NodeMig { gpu: gpu as u32, slice: Some(named(instance)) })
    };
    node.capacity.layouts.iter().enumerate().flat_map(of_gpu).collect()
}

fn residents(cluster: &Cluster, node: &Node) -> Vec<v1::NodeJob> {
    let of_resident = |resident: &dure_core::node::Resident| {
        let attempt = cluster.job(resident.job)?.attempt.as_deref()?;
        let member = attempt.members.get(resident.member.at())?;
        Some(v1::NodeJob {
            job_id: resident.job.0,
            attempt: attempt.number.0,
            member: resident.member.0,
            gpus: member.placed.gpus.iter().map(|gpu| gpu as u32).collect(),
            gpu_milli: job::part_milli(&member.placed),
            mig: job::mig_slice(cluster, &member.placed),
        })
    };
    node.residents.iter().filter_map(of_resident).collect()
}
