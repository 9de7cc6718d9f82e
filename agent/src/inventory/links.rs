//! From NVLink's ends to pairs of GPUs.
//!
//! Comes in: for each GPU its own bus id and, for each active link, the bus id at the other end.
//! Goes out: for each GPU the indices of the GPUs it reaches. An end that is no GPU of this node is a switch, and all
//! GPUs with a link to a switch reach each other. Pure.

/// One GPU's bus id and what its active links lead to; `None` where NVML does not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The GPU's own bus id.
    pub bus_id: String,
    /// Bus id at the other end of each active link.
    pub remote: Vec<Option<String>>,
}

/// Peers of each GPU, rising; indexed as `gpus` is.
pub fn peers(gpus: &[Ends]) -> Vec<Vec<u32>> {
    let position = |bus_id: &str| gpus.iter().position(|gpu| same_bus(&gpu.bus_id, bus_id));
    let switched = |gpu: &Ends| gpu.remote.iter().any(|end| end.as_deref().is_none_or(|end| position(end).is_none()));
    let direct = |from: &Ends, to: &Ends| from.remote.iter().flatten().any(|end| same_bus(end, &to.bus_id));
    let reaches = |a: &Ends, b: &Ends| direct(a, b) || direct(b, a) || (switched(a) && switched(b));
    (0..gpus.len())
        .map(|own| {
            let others = (0..gpus.len()).filter(|other| *other != own && reaches(&gpus[own], &gpus[*other]));
            others.map(|other| u32::try_from(other).expect("a node has a handful of GPUs")).collect()
        })
        .collect()
}

/// NVML writes the domain with four digits or with eight, and letters in either case.
pub(super) fn same_bus(a: &str, b: &str) -> bool {
    fn tail(id: &str) -> String {
        let (domain, rest) = id.split_once(':').unwrap_or(("0", id));
        format!("{}:{}", domain.trim_start_matches('0'), rest.to_ascii_lowercase())
    }
    tail(a) == tail(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(own: u8, ends: &[Option<u8>]) -> Ends {
        let name = |bus: u8| format!("0000:{bus:02X}:00.0");
        Ends { bus_id: format!("00000000:{own:02x}:00.0"), remote: ends.iter().map(|end| end.map(name)).collect() }
    }

    #[test]
    fn direct_links_join_pairs_and_a_switch_joins_all_on_it() {
        let pairs = [gpu(1, &[Some(2)]), gpu(2, &[Some(1)]), gpu(0xa, &[Some(0xb)]), gpu(0xb, &[])];
        assert_eq!(peers(&pairs), [vec![1], vec![0], vec![3], vec![2]]);
        let switched = [gpu(1, &[Some(0xf0), None]), gpu(2, &[Some(0xf1)]), gpu(3, &[])];
        assert_eq!(peers(&switched), [vec![1], vec![0], vec![]]);
    }
}
