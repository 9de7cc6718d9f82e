//! What an agent says its node has, as the core takes it.

use std::collections::BTreeMap;

use dure_core::admit::MAX_NAME;
use dure_core::gpu::{GpuSet, MAX_GPUS_PER_NODE};
use dure_core::input::NodeDraft;
use dure_core::mig::{Layout, Slice};
use dure_core::node::{Capacity, Labels, Location};
use dure_core::units::{CpuMilli, MemoryMib};
use dure_proto::v1::{GpuInventory, Hello, Inventory};

/// Most labels of a node.
const MAX_LABELS: usize = 64;

/// A node as its agent describes it; the topology file, where it knows the node, says where it stands.
///
/// # Errors
/// A sentence for the agent's operator.
pub fn node_draft(hello: &Hello, topology: &BTreeMap<String, Location>) -> Result<NodeDraft, String> {
    let inventory = hello.inventory.as_ref().ok_or("the agent's Hello carries no inventory")?;
    let gpus = &inventory.gpus;
    if gpus.len() > MAX_GPUS_PER_NODE {
        return Err(format!("node {} has {} GPUs; at most {MAX_GPUS_PER_NODE} are supported", hello.node, gpus.len()));
    }
    for (at, gpu) in gpus.iter().enumerate() {
        if gpu.index as usize != at {
            return Err(format!("node {} lists GPU {} in place {at}; list them 0, 1, 2, ...", hello.node, gpu.index));
        }
    }
    let model = gpus.first().map_or("none", |gpu| gpu.model.as_str());
    if let Some(other) = gpus.iter().find(|gpu| gpu.model != model) {
        return Err(format!("node {} mixes GPU models {model:?} and {:?}; a node has one", hello.node, other.model));
    }
    let stated = Location {
        site: inventory.site.as_str().into(),
        spine: inventory.spine.as_str().into(),
        leaf: inventory.leaf.as_str().into(),
        nvlink: inventory.nvlink_domain.as_str().into(),
    };
    Ok(NodeDraft {
        name: hello.node.as_str().into(),
        model: model.into(),
        location: topology.get(&hello.node).cloned().unwrap_or(stated),
        capacity: Capacity {
            gpus: GpuSet::first(gpus.len()),
            islands: islands(gpus),
            layouts: layouts(&hello.node, inventory),
            cpu: CpuMilli(inventory.cpu_milli),
            memory: MemoryMib(inventory.memory_mib),
            labels: labels(&hello.node, inventory)?,
        },
        bad: bad_gpus(gpus),
        boot_id: hello.boot_id.as_str().into(),
    })
}

/// How each GPU is cut. An instance that the scheduler has no name or no place for is left out, and nothing lies on it: its
/// GPU is in nobody's hands but for the instances that are known.
fn layouts(node: &str, inventory: &Inventory) -> Box<[Layout]> {
    if inventory.gpus.iter().all(|gpu| !gpu.mig) {
        return Box::default();
    }
    let of = |gpu: &GpuInventory| {
        let instances = inventory.mig_instances.iter().filter(|instance| gpu.mig && instance.gpu == gpu.index);
        instances.fold(if gpu.mig { Layout::BARE } else { Layout::WHOLE }, |layout, instance| {
            let (profile, first_slice) = (instance.profile.as_str(), instance.first_slice);
            let slice = Slice::named(&gpu.model, profile);
            let start = u8::try_from(first_slice).ok();
            let next = slice.zip(start).and_then(|(slice, start)| layout.with(slice, start));
            next.unwrap_or_else(|| {
                tracing::warn!(
                    node,
                    gpu = gpu.index,
                    profile,
                    first_slice,
                    "a MIG instance of no known profile is left out"
                );
                layout
            })
        })
    };
    inventory.gpus.iter().map(of).collect()
}

/// The labels of a node, sorted by key.
fn labels(node: &str, inventory: &Inventory) -> Result<Labels, String> {
    if inventory.labels.len() > MAX_LABELS {
        return Err(format!("node {node} has {} labels; at most {MAX_LABELS} are taken", inventory.labels.len()));
    }
    let is_long = |(key, value): &(&String, &String)| key.is_empty() || key.len().max(value.len()) > MAX_NAME;
    if let Some((key, _)) = inventory.labels.iter().find(is_long) {
        return Err(format!("node {node}: label {key:?}: a key has 1 to {MAX_NAME} bytes, a value at most as many"));
    }
    let mut labels: Vec<(Box<str>, Box<str>)> =
        inventory.labels.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect();
    labels.sort_unstable();
    Ok(labels.into_boxed_slice())
}

/// The GPUs called bad.
pub fn bad_gpus(gpus: &[GpuInventory]) -> GpuSet {
    gpus.iter()
        .filter(|gpu| gpu.health == "bad" && (gpu.index as usize) < MAX_GPUS_PER_NODE)
        .map(|gpu| gpu.index as usize)
        .collect()
}

/// For each GPU the GPUs that NVLink joins to it, directly or through others, itself included.
fn islands(gpus: &[GpuInventory]) -> Box<[GpuSet]> {
    let mut islands: Vec<GpuSet> = (0..gpus.len()).map(GpuSet::single).collect();
    for (at, gpu) in gpus.iter().enumerate() {
        for peer in gpu.nvlink_peers.iter().map(|peer| *peer as usize).filter(|peer| *peer < gpus.len()) {
            let joined = islands[at].with(islands[peer]);
            for member in joined.iter() {
                islands[member] = joined;
            }
        }
    }
    islands.into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_gpus_are_taken_as_the_agent_lists_them() {
        let gpu =
            |index, mig| GpuInventory { index, mig, model: "NVIDIA H100 80GB HBM3".to_owned(), ..Default::default() };
        let instance = |gpu, profile: &str, first_slice| dure_proto::v1::MigInstance {
            gpu,
            profile: profile.to_owned(),
            first_slice,
            uuid: String::new(),
        };
        let inventory = Inventory {
            gpus: vec![gpu(0, false), gpu(1, true), gpu(2, true)],
            mig_instances: vec![
                instance(1, "1g.10gb+me", 0),
                instance(1, "1g.10gb", 1),
                instance(1, "3g.40gb", 4),
                instance(1, "2g.20gb", 5),
                instance(0, "7g.80gb", 0),
            ],
            ..Default::default()
        };
        assert_eq!(format!("{:?}", layouts("n0", &inventory)), "[whole, 1:1g/1,4:3g/4, bare]");
        let whole = Inventory { gpus: vec![gpu(0, false)], ..Default::default() };
        assert!(layouts("n0", &whole).is_empty());
    }

    #[test]
    fn islands_follow_links_in_either_direction() {
        let gpu =
            |index: u32, peers: &[u32]| GpuInventory { index, nvlink_peers: peers.to_vec(), ..Default::default() };
        let found = islands(&[gpu(0, &[1]), gpu(1, &[]), gpu(2, &[3]), gpu(3, &[2]), gpu(4, &[])]);
        assert_eq!(format!("{found:?}"), "[0-1, 0-1, 2-3, 2-3, 4]");
    }
}
