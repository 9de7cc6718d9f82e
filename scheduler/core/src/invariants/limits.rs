//! The limit of an attempt is its job's, or a lower one that is not below the least that the job may have.
//!
//! Source: Slurm, sbatch(1), `--time-min`: "the job may have its --time limit lowered to a value no lower than --time-min".

use super::{Check, ensure};
use crate::cluster::Cluster;
use crate::units::Span;

pub(super) fn check(cluster: &Cluster) -> Check {
    cluster.jobs.iter().try_for_each(|job| {
        let (least, limit) = (job.spec.least_limit(), job.spec.time_limit);
        ensure(Span::ZERO < least && least <= limit, || format!("job {} may have {least} to {limit}", job.id))?;
        let lowered = job.attempt.as_deref().and_then(|attempt| attempt.lowered);
        ensure(lowered.is_none_or(|lowered| least <= lowered && lowered < limit), || {
            format!("job {} may have {least} to {limit}, and has {lowered:?}", job.id)
        })
    })
}
