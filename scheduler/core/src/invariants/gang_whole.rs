//! A gang is placed whole, in the shape it asked for and in one pool, and no member is let go before all are prepared.
//!
//! Source: design, promise 3. An agent that starts a member without leave breaks the second half; the core then believes
//! what it is told, so that only a gang of which no member has started is judged.

use super::{Check, ensure};
use crate::cluster::Cluster;
use crate::ids::AttemptNumber;
use crate::job::MemberPhase;

pub(super) fn check(cluster: &Cluster) -> Check {
    for job in cluster.jobs.iter() {
        let Some(attempt) = job.live_attempt() else { continue };
        let shape = &job.spec.request.shape;
        let of = |what: &str| format!("job {} attempt {}: {what}", job.id, attempt.number);
        let (least, most) = (job.spec.request.least_members() as usize, shape.members() as usize);
        ensure((least..=most).contains(&attempt.members.len()), || of("members are missing"))?;
        for (rank, member) in attempt.members.iter().enumerate() {
            let (want, got) = (u32::from(shape.gpus_of(rank)), member.placed.gpus.len());
            ensure(want == got, || of(&format!("member {rank} wants {want} GPUs and holds {got}")))?;
        }
        let pools = &job.spec.request.pools;
        ensure(pools.contains(&attempt.pool), || of(&format!("pool {} is not one it asked for", attempt.pool)))?;
        let all_prepared = attempt.members.iter().all(|member| member.phase >= MemberPhase::Prepared);
        ensure(!attempt.released || attempt.members.len() == 1 || all_prepared, || {
            of("the barrier opened before every member was prepared")
        })?;
        // Restores leave a gap in the numbers, which the count of tries has not.
        let is_last = match cluster.skipped_attempts {
            AttemptNumber(0) => attempt.number.0 == job.attempts,
            AttemptNumber(_) => attempt.number.0 >= job.attempts,
        };
        ensure(is_last, || of("the attempt under way is not the last one"))?;
    }
    Ok(())
}
