//! What NVML says once: the GPUs of a node, how they are joined, and the MIG instances they are cut into.
//!
//! Comes in: NVML. Goes out: facts, in the order of NVML's indices. A GPU that does not answer keeps its place with an
//! empty UUID. This part must never list a MIG instance whose place on the GPU it does not know.

use nvml_wrapper::{Device, Nvml, error::NvmlError};

use crate::{
    inventory::{
        GpuFacts, MigFacts,
        links::{self, Ends},
    },
    sys,
};

/// NVLinks of one GPU (NVML_NVLINK_MAX_LINKS).
const MAX_LINKS: u32 = 18;
/// NVML_GPU_FABRIC_STATE_COMPLETED: the GPU has been registered with its fabric.
const REGISTERED: u8 = 3;
const MIB: u64 = 1_024 * 1_024;

/// The GPUs, and the bus of each.
pub(super) fn find(nvml: &Nvml) -> Result<(Vec<GpuFacts>, Vec<String>), NvmlError> {
    let mut all = Vec::new();
    let mut ends = Vec::new();
    for index in 0..nvml.device_count()? {
        let mut facts = GpuFacts { index, ..GpuFacts::default() };
        let mut own = Ends { bus_id: String::new(), remote: Vec::new() };
        // A GPU that is lost keeps its place, so that the indices of the others keep theirs.
        if let Ok(gpu) = nvml.device_by_index(index) {
            facts.uuid = gpu.uuid().unwrap_or_default();
            facts.minor = gpu.minor_number().ok();
            facts.model = gpu.name().unwrap_or_default();
            facts.memory_mib = gpu.memory_info().map_or(0, |memory| memory.total / MIB);
            facts.numa_node = gpu.numa_node_id().unwrap_or(0);
            facts.mig = gpu.mig_mode().is_ok_and(|mode| mode.current == 1);
            facts.fabric = fabric(&gpu);
            own.bus_id = gpu.pci_info().map(|pci| pci.bus_id).unwrap_or_default();
            own.remote = remote_ends(&gpu);
            facts.nvlinks = u32::try_from(own.remote.len()).unwrap_or(MAX_LINKS);
            if facts.mig {
                facts.mig_instances = mig_instances(&gpu, &facts);
            }
        }
        all.push(facts);
        ends.push(own);
    }
    for (facts, peers) in all.iter_mut().zip(links::peers(&ends)) {
        facts.nvlink_peers = peers;
    }
    Ok((all, ends.into_iter().map(|end| end.bus_id).collect()))
}

fn remote_ends(gpu: &Device<'_>) -> Vec<Option<String>> {
    let links = (0..MAX_LINKS).map(|link| gpu.link_wrapper_for(link));
    let active = links.filter(|link| link.is_active().unwrap_or(false));
    active.map(|link| link.remote_pci_info().ok().map(|pci| pci.bus_id)).collect()
}

/// The NVLink domain that reaches beyond the node, as `CLUSTER-UUID.CLIQUE`; none where NVLink ends at the node.
fn fabric(gpu: &Device<'_>) -> Option<String> {
    let fabric = sys::nvml::fabric(gpu).ok()?;
    let named = fabric.state == REGISTERED && fabric.cluster != [0; 16];
    named.then(|| format!("{}.{}", hyphenated(&fabric.cluster), fabric.clique))
}

fn hyphenated(uuid: &[u8; 16]) -> String {
    let parts = [&uuid[..4], &uuid[4..6], &uuid[6..8], &uuid[8..10], &uuid[10..]];
    let hex = |part: &[u8]| part.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    parts.map(hex).join("-")
}

/// The MIG instances of a GPU, by first slice.
fn mig_instances(gpu: &Device<'_>, facts: &GpuFacts) -> Vec<MigFacts> {
    let mut instances = Vec::new();
    for place in 0..gpu.mig_device_count().unwrap_or(0) {
        // Numbers without an instance are not found.
        let Ok(mig) = gpu.mig_device_by_index(place) else { continue };
        match mig_instance(gpu, &mig) {
            Ok(instance) => instances.push(instance),
            Err(why) => tracing::warn!(gpu = facts.index, place, why, "a MIG instance is not offered"),
        }
    }
    instances.sort_by_key(|instance: &MigFacts| instance.first_slice);
    instances
}

fn mig_instance(gpu: &Device<'_>, mig: &Device<'_>) -> Result<MigFacts, String> {
    let name = mig.name().map_err(|err| err.to_string())?;
    let (_, profile) = name.split_once(" MIG ").ok_or_else(|| format!("\"{name}\" names no profile"))?;
    if profile.contains("c.") {
        return Err(format!(
            "\"{profile}\" is a part of a GPU instance: make one compute instance over the whole of it"
        ));
    }
    let uuid = mig.uuid().map_err(|err| err.to_string())?;
    let place = sys::nvml::gpu_instance(gpu, mig)
        .map_err(|err| format!("where it lies on the GPU only root may ask, or the driver does not say: {err}"))?;
    Ok(MigFacts { profile: profile.to_owned(), first_slice: place.first_slice, gpu_instance: place.number, uuid })
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_uuid_is_written_as_nvidia_writes_it() {
        let bytes = std::array::from_fn(|place| u8::try_from(place).expect("below 16") * 17);
        assert_eq!(super::hyphenated(&bytes), "00112233-4455-6677-8899-aabbccddeeff");
    }
}
