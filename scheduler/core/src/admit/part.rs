//! What members get of their GPUs: a share or a slice as it is asked for becomes one that placement knows.
//!
//! In: the draft and the pools that it may use. Out: the part, and the pools in which it means the same.

use crate::cluster::Cluster;
use crate::ids::PoolIndex;
use crate::input::{JobDraft, PartDraft};
use crate::mig::{self, Slice};
use crate::parts::WHOLE;
use crate::rejected::Refusal;
use crate::request::{Part, Shape};

/// Resolves the part of a draft. Of the pools those are kept whose model has the slice, in the size that the first has.
pub(super) fn resolve(
    cluster: &Cluster,
    draft: &JobDraft,
    pools: Box<[PoolIndex]>,
) -> Result<(Part, Box<[PoolIndex]>), Refusal> {
    if draft.part == PartDraft::Whole {
        return Ok((Part::Whole, pools));
    }
    let of_one = matches!(draft.shape, Shape::Equal { gpus: 1, .. });
    if !of_one {
        return Err(Refusal::PartOfSeveralGpus { gpus: draft.shape.largest() });
    }
    let only = &draft.only;
    let unkept = [
        (only.exclusive, "exclusive"),
        (only.spread.is_some(), "spread"),
        (only.segment.is_some(), "segment"),
        (only.least.is_some(), "min_members"),
    ];
    if let Some((_, what)) = unkept.into_iter().find(|(is_asked, _)| *is_asked) {
        return Err(Refusal::PartWith { what });
    }
    match &draft.part {
        PartDraft::Whole => Ok((Part::Whole, pools)),
        PartDraft::Milli(milli) if (1..WHOLE).contains(milli) => Ok((Part::Milli(*milli), pools)),
        PartDraft::Milli(milli) => Err(Refusal::BadShare { milli: *milli }),
        PartDraft::Profile(name) => {
            let slice_in = |pool: &PoolIndex| Slice::named(&cluster.pool(*pool).model, name);
            let Some(slice) = pools.iter().find_map(slice_in) else {
                let of_pool = |pool: &PoolIndex| mig::profiles(&cluster.pool(*pool).model).iter();
                let mut known: Vec<Box<str>> = pools.iter().flat_map(of_pool).map(|(name, _)| (*name).into()).collect();
                known.sort_unstable();
                known.dedup();
                return Err(Refusal::UnknownProfile { name: name.clone(), known });
            };
            let same = pools.iter().copied().filter(|pool| slice_in(pool) == Some(slice));
            Ok((Part::Slice(slice), same.collect()))
        }
    }
}
