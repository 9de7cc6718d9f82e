//! What is kept once snapshots have replaced it. Pure: positions and times in, decisions out; the engines carry them out.
//!
//! The newest snapshots are what recovery needs. Behind them a what-if or a history that is made anew reads the past: it
//! begins at a snapshot, the base, and some between the base and the newest are kept so that the base can move on.

use std::collections::{BTreeMap, BTreeSet};

use super::{Blob, BlobId, Kept, SNAPSHOTS_KEPT};

/// Snapshots between base and newest lie at least this part of the kept time apart.
const SPACINGS: u64 = 8;

/// What is to become of the visible snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Those that stay, newest first.
    pub(crate) visible: Vec<u64>,
    /// The batches up to here may go; none: they are kept from where they begin now.
    pub(crate) base: Option<u64>,
}

/// Plans for snapshots (position, time), newest first. `base` is where the kept batches begin now, 0 at the very beginning;
/// `bytes` is what the journal takes.
pub(crate) fn plan(snapshots: &[(u64, u64)], base: u64, bytes: u64, kept: Kept) -> Plan {
    let newest = snapshots.first().map_or(0, |(_, created)| *created);
    let (needed, rest) = snapshots.split_at(snapshots.len().min(SNAPSHOTS_KEPT));
    // Never behind the older of those that recovery may need.
    let may_be_base =
        |seq: u64| seq > base && rest.iter().chain(needed.get(SNAPSHOTS_KEPT - 1)).any(|(at, _)| *at == seq);
    let old = newest.checked_sub(kept.span_ms);
    let by_age = snapshots.iter().find(|(_, created)| old.is_some_and(|old| *created <= old)).map(|(seq, _)| *seq);
    let mut moved = by_age.filter(|seq| may_be_base(*seq));
    if bytes > kept.bytes {
        // Events are taken to be of one size: as many must go as there are bytes too many.
        let events = snapshots.first().map_or(0, |(newest, _)| newest.saturating_sub(base));
        let surplus = u128::from(events) * u128::from(bytes - kept.bytes) / u128::from(bytes);
        let from = base + u64::try_from(surplus).unwrap_or(events);
        let able = || snapshots.iter().rev().map(|(seq, _)| *seq).filter(|seq| may_be_base(*seq));
        moved = moved.max(able().find(|seq| *seq >= from).or(able().next_back()));
    }
    let begins = moved.unwrap_or(base);
    let spacing = kept.span_ms / SPACINGS;
    let mut visible: Vec<u64> = Vec::new();
    let mut last = None;
    for (seq, created) in rest.iter().rev().filter(|(seq, _)| *seq >= begins) {
        let is_far = last.is_none_or(|last: u64| created.saturating_sub(last) >= spacing);
        if *seq == begins || (kept != Kept::ALL && is_far) {
            visible.push(*seq);
            last = Some(*created);
        }
    }
    visible.extend(needed.iter().rev().map(|(seq, _)| *seq));
    visible.reverse();
    Plan { visible, base: moved }
}

/// Which blobs nobody names any more.
#[derive(Debug, Default)]
pub(crate) struct Named {
    /// Where each was named last, since the last sweep began.
    since: BTreeMap<BlobId, u64>,
    /// Nothing of before is known here.
    opened_at: u64,
    sweep: Option<Sweep>,
}

/// A walk through all blobs.
#[derive(Debug)]
struct Sweep {
    /// The state here names these and no others.
    seq: u64,
    named: BTreeSet<BlobId>,
    after: Option<BlobId>,
}

impl Named {
    /// Opened at this head.
    pub(crate) fn opened(at: u64) -> Self {
        Self { opened_at: at, ..Self::default() }
    }

    /// Events up to `seq` name these.
    pub(crate) fn note(&mut self, blobs: &[Blob], seq: u64) {
        self.since.extend(blobs.iter().map(|blob| (blob.id(), seq)));
    }

    /// Begins a sweep: the state at `seq` names these and no others. A state of before the opening says too little.
    pub(crate) fn begin(&mut self, seq: u64, named: BTreeSet<BlobId>) {
        if seq >= self.opened_at {
            self.since.retain(|_, at| *at > seq);
            self.sweep = Some(Sweep { seq, named, after: None });
        }
    }

    /// Where the walk goes on; none when there is none.
    pub(crate) fn walk(&self) -> Option<Option<BlobId>> {
        self.sweep.as_ref().map(|sweep| sweep.after)
    }

    /// Of the next blobs of the walk, those that may go. No blobs: the walk is over.
    pub(crate) fn step(&mut self, next: &[BlobId]) -> Vec<BlobId> {
        let Some(sweep) = &mut self.sweep else { return Vec::new() };
        let Some(last) = next.last() else {
            self.sweep = None;
            return Vec::new();
        };
        sweep.after = Some(*last);
        let goes = |id: &&BlobId| !sweep.named.contains(id) && self.since.get(id).is_none_or(|at| *at <= sweep.seq);
        next.iter().filter(goes).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400_000;

    fn daily(days: u64) -> Vec<(u64, u64)> {
        (1..=days).rev().map(|day| (day * 100, day * DAY)).collect()
    }

    #[test]
    fn without_a_bound_the_two_newest_stay_and_all_batches() {
        let plan = plan(&daily(5), 0, u64::MAX, Kept::ALL);
        assert_eq!(plan, Plan { visible: vec![500, 400], base: None });
    }

    #[test]
    fn the_base_moves_by_age_and_some_snapshots_between_stay() {
        let kept = Kept { span_ms: 16 * DAY, bytes: u64::MAX };
        assert_eq!(plan(&daily(10), 0, 0, kept).base, None, "nothing is old yet");
        let late = plan(&daily(40), 0, 0, kept);
        assert_eq!(late.base, Some(2_400), "sixteen days before the newest");
        assert_eq!(late.visible, [4_000, 3_900, 3_800, 3_600, 3_400, 3_200, 3_000, 2_800, 2_600, 2_400]);
        let kept_on = plan(&late.visible.iter().map(|seq| (*seq, seq / 100 * DAY)).collect::<Vec<_>>(), 2_400, 0, kept);
        assert_eq!(kept_on, Plan { base: None, ..late }, "it is stable");
    }

    #[test]
    fn the_base_moves_by_size_as_far_as_it_must_and_never_past_what_recovery_needs() {
        let kept = Kept { span_ms: u64::MAX - 1, bytes: 10 };
        assert_eq!(plan(&[(500, 5), (400, 4), (100, 1)], 0, 11, kept).base, Some(100), "a tenth must go");
        assert_eq!(plan(&[(500, 5), (400, 4), (100, 1)], 0, 20, kept).base, Some(400), "half of it must");
        assert_eq!(plan(&[(500, 5), (400, 4), (100, 1)], 100, 11, kept).base, Some(400));
        assert_eq!(plan(&[(500, 5), (400, 4)], 400, 11, kept), Plan { visible: vec![500, 400], base: None });
        assert_eq!(plan(&[(500, 5)], 0, 11, kept), Plan { visible: vec![500], base: None });
        assert_eq!(plan(&[], 0, 11, kept), Plan { visible: vec![], base: None });
    }

    #[test]
    fn a_blob_that_was_named_again_meanwhile_stays() {
        let blob = |byte| Blob::new(vec![byte]).expect("it is small");
        let (a, b, c) = (blob(1), blob(2), blob(3));
        let mut named = Named::opened(5);
        named.note(&[a.clone(), b.clone()], 7);
        named.begin(4, BTreeSet::new());
        assert_eq!(named.walk(), None, "a state of before the opening says too little");
        named.begin(9, BTreeSet::from([a.id()]));
        named.note(std::slice::from_ref(&c), 12);
        assert_eq!(named.step(&[a.id(), b.id(), c.id()]), [b.id()]);
        assert_eq!(named.walk(), Some(Some(c.id())));
        assert_eq!(named.step(&[]), []);
        assert_eq!(named.walk(), None);
    }
}
