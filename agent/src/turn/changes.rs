//! Which verdicts on GPUs have changed since the scheduler was told.
//!
//! Comes in: a sample. Goes out: the GPUs whose verdict or reason is not the one that was told last. Pure.

use std::collections::BTreeMap;

use dure_proto::v1::GpuInventory;

use crate::inventory::{GpuFacts, GpuSample, Health, gpu_to_wire};

/// What the scheduler was told on this stream. The default tells everything that is not ok.
#[derive(Default)]
pub(super) struct Changes {
    told: BTreeMap<u32, Health>,
}

impl Changes {
    pub(super) fn since_last(&mut self, facts: &[GpuFacts], sample: &[GpuSample]) -> Vec<GpuInventory> {
        let mut changes = Vec::new();
        for gpu in sample {
            let index = gpu.telemetry.index;
            let told = self.told.entry(index).or_default();
            if *told == gpu.health {
                continue;
            }
            *told = gpu.health.clone();
            if let Some(facts) = facts.iter().find(|facts| facts.index == index) {
                changes.push(gpu_to_wire(facts, &gpu.health));
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::Verdict;

    #[test]
    fn each_change_is_told_once() {
        let facts = [GpuFacts { index: 0, uuid: "GPU-a".to_owned(), ..GpuFacts::default() }];
        let sample =
            |verdict| [GpuSample { health: Health { verdict, reason: "r".to_owned() }, ..GpuSample::default() }];
        let mut changes = Changes::default();
        let mut told = |verdict| changes.since_last(&facts, &sample(verdict)).len();
        assert_eq!([told(Verdict::Bad), told(Verdict::Bad), told(Verdict::Ok), told(Verdict::Ok)], [1, 0, 1, 0]);
        assert_eq!(Changes::default().since_last(&facts, &[GpuSample::default()]), []);
    }
}
