//! After a restore: what was given since the backup is not known, and is never given again.

use dure_core::ids::{AttemptNumber, Epoch, JobId};
use dure_core::input::Input;

use super::StartError;
use crate::auth::Caller;
use crate::handle::{CallError, Handle, Position};
use crate::journal::backup::EPOCH_JUMP;

/// Ids of jobs from one restore to the next.
const JOBS_OF_A_RESTORE: u64 = 1_000_000_000;
/// Numbers of attempts of each job from one restore to the next.
const ATTEMPTS_OF_A_RESTORE: u32 = 100_000;

/// Nothing may be submitted before this is durable.
pub(super) fn skip_ids(
    handle: &Handle,
    restore_floor: Epoch,
) -> Result<impl Future<Output = Result<((), Position), CallError>> + use<>, StartError> {
    let skip = skipped_ids(restore_floor);
    tracing::warn!(?skip, "the journal was restored: ids go on after a gap");
    let skip = handle.ask(Caller::scheduler("restore"), skip, None, Vec::new(), |_, _| ());
    skip.map_err(|err| StartError::Stopped(err.to_string()))
}

/// What is left out after a restore: agents may hold leases of jobs that were submitted after the backup, and of attempts
/// that were begun; an id means one job, and one attempt of it, for ever. Each restore has a range of its own, whatever
/// backup it is of: the epoch leaps at each, and counts them, where the store that is replaced or the operator says how far
/// it has come.
pub fn skipped_ids(restore_floor: Epoch) -> Input {
    let restores = restore_floor.0 / EPOCH_JUMP + 1;
    let attempts = u32::try_from(restores).unwrap_or(u32::MAX).saturating_mul(ATTEMPTS_OF_A_RESTORE);
    let next_job = JobId(restores.saturating_mul(JOBS_OF_A_RESTORE));
    Input::SkipIds { next_job, attempts: AttemptNumber(attempts) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_restores_never_share_an_id_whatever_backups_they_are_of() {
        let ranges: Vec<(JobId, AttemptNumber)> = (0..10_000)
            .map(|restores| match skipped_ids(Epoch(restores * EPOCH_JUMP + restores % 77)) {
                Input::SkipIds { next_job, attempts } => (next_job, attempts),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(ranges[0], (JobId(JOBS_OF_A_RESTORE), AttemptNumber(ATTEMPTS_OF_A_RESTORE)));
        assert!(ranges.is_sorted_by(|one, next| {
            next.0.0 - one.0.0 == JOBS_OF_A_RESTORE && next.1.0 - one.1.0 == ATTEMPTS_OF_A_RESTORE
        }));
    }
}
