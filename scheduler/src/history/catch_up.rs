//! Brings a history to the end of the journal: after a start, after a crash, or from nothing.
//!
//! In: a history that ends anywhere, and a journal. Out: the history at the journal's end. The state at the history's end
//! comes from the newest snapshot that does not lie behind it, else from the journal's beginning; where neither is kept any
//! more the history has a gap, which it states. One that is not this journal's goes back to the journal's beginning first.

use dure_core::ids::Seq;
use dure_core::{Cluster, Policy};

use super::fold::Historian;
use super::rewind;
use super::store::HistoryError;
use crate::journal::{FoundSnapshot, Snapshot};
use crate::recover::{RecoverError, Recovered, apply_seen};
use crate::source::{Source, SourceError, Turns};

/// Why a history was not brought to the end.
#[derive(Debug, thiserror::Error)]
pub enum CatchUpError {
    /// It cannot be written.
    #[error("{0}")]
    History(#[from] HistoryError),
    /// The journal cannot be read, or folded.
    #[error("{0}")]
    Journal(#[from] RecoverError),
}

impl From<SourceError> for CatchUpError {
    fn from(err: SourceError) -> Self {
        Self::Journal(err.into())
    }
}

/// Fills `historian` from `source` to its present end.
///
/// # Errors
/// [`CatchUpError`]; what was filled by then stays.
pub fn catch_up<S: Source + ?Sized>(historian: &mut Historian, source: &S, policy: Policy) -> Result<(), CatchUpError> {
    let head = source.last_position().map_err(RecoverError::from)?;
    let (at, time) = historian.written();
    if let Some(parted) = rewind::parted(source, head, at, time)? {
        let beginning = source.beginning().map_err(RecoverError::from)?;
        let Recovered { cluster, head: from, time, .. } = state_at(beginning, policy.clone())?;
        tracing::warn!(
            %parted,
            from = from.0 + 1,
            "the history is not the journal's: one of them was restored; what the journal keeps is told again"
        );
        historian.go_back(&cluster, from, time)?;
    }
    if historian.position() >= head {
        return Ok(());
    }
    let snapshot = source.snapshot_up_to(historian.position()).map_err(RecoverError::from)?;
    let is_known = snapshot.is_some();
    let start = match snapshot {
        Some(snapshot) => Some(snapshot),
        None => source.beginning().map_err(RecoverError::from)?,
    };
    let Recovered { mut cluster, head: from, time, .. } = state_at(start, policy)?;
    if !is_known && from > historian.position() {
        tracing::warn!(
            from = historian.position().0 + 1,
            to = from.0,
            "the journal does not hold these positions any more: the history has a gap"
        );
        historian.recall()?;
        historian.skip_to(&cluster, from, time);
    }
    for turn in Turns::from(source, Seq(from.0 + 1)) {
        let turn = turn?;
        let see = &mut |cluster: &Cluster, seq: u64, event: &dure_core::event::Event| {
            historian.see(cluster, seq, turn.time, event);
        };
        apply_seen(&mut cluster, turn.time, turn.first_seq, &turn.events, see)?;
        historian.turn(&turn)?;
    }
    historian.write()?;
    Ok(())
}

/// Whether `historian` can be filled from the state at `at` on: it ends there or beyond, and is of this journal. One for
/// which nobody can tell is brought to the end by [`catch_up`], which says why.
pub(crate) fn joins<S: Source + ?Sized>(historian: &Historian, source: &S, at: Seq) -> bool {
    let (written, time) = historian.written();
    let parted = || {
        let head = source.last_position().map_err(RecoverError::from).map_err(CatchUpError::from)?;
        rewind::parted(source, head, written, time).map_err(CatchUpError::from)
    };
    written >= at && parted().is_ok_and(|parted| parted.is_none())
}

fn state_at(snapshot: Option<Snapshot>, policy: Policy) -> Result<Recovered, RecoverError> {
    Recovered::from_snapshot(FoundSnapshot { snapshot, damaged: Vec::new() }, policy)
}
