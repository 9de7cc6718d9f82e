//! A spare is free: nothing is held, promised or set aside on it, and they are counted.
//!
//! Source: design 5.2, "when nodes are lost the spares go first".

use super::{Check, ensure};
use crate::cluster::Cluster;

pub(super) fn check(cluster: &Cluster) -> Check {
    let spares = || cluster.nodes.iter().filter(|node| node.spare);
    for node in spares() {
        let is_free = node.residents.is_empty() && node.promised.gpus.is_empty() && node.reserved.gpus.is_empty();
        ensure(is_free, || format!("node {} is a spare, and {:?} are held on it", node.name, node.taken))?;
    }
    let counted = spares().count();
    ensure(counted == cluster.spare_nodes as usize, || {
        format!("{} nodes are spares, counted {counted}", cluster.spare_nodes)
    })
}
