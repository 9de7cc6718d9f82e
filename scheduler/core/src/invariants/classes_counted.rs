//! A class exists exactly while a job waits in it, counts its jobs, and differs from every other.
//!
//! Source: design 5.1, "requests alike in everything placement can see form one class".

use std::collections::BTreeMap;

use super::{Check, ensure};
use crate::cluster::Cluster;
use crate::ids::ClassIndex;

pub(super) fn check(cluster: &Cluster) -> Check {
    let mut counted: BTreeMap<ClassIndex, u32> = BTreeMap::new();
    for job in cluster.jobs.iter() {
        if let Some(class) = cluster.class_of(job) {
            *counted.entry(class).or_default() += 1;
        }
    }
    let said: BTreeMap<ClassIndex, u32> = cluster.classes.iter().map(|(class, entry)| (class, entry.jobs)).collect();
    ensure(said == counted, || format!("classes count {said:?}, there are {counted:?}"))?;
    ensure(cluster.classes.len() == counted.len(), || "a class is named twice, or not at all".into())?;
    for (class, entry) in cluster.classes.iter() {
        let found = cluster.classes.find(&entry.key);
        ensure(found == Some(class), || format!("class {class:?} is found as {found:?}"))?;
    }
    Ok(())
}
