//! Under which leaders the journal was written, near its end.
//!
//! In: the epoch of every batch that is read. Out: how far a leader can have come. What an agent says that it has obeyed is
//! held against that: a position beyond was acknowledged and is lost, though others may stand there meanwhile.

use std::collections::VecDeque;

use dure_core::ids::{Epoch, Seq};

/// Terms that are remembered. Of older ones an agent that comes back is believed.
const MAX_TERMS: usize = 64;

/// The first position of each of the last terms, rising in both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms(VecDeque<(Epoch, Seq)>);

impl Terms {
    /// A batch that begins at `first` was written under `epoch`.
    pub fn wrote(&mut self, epoch: Epoch, first: Seq) {
        if self.0.back().is_none_or(|(last, _)| *last < epoch) {
            self.0.push_back((epoch, first));
            if self.0.len() > MAX_TERMS {
                self.0.pop_front();
            }
        }
    }

    /// No leader up to `epoch` has written beyond this position, where the journal ends at `head`.
    pub fn end_of(&self, epoch: Epoch, head: Seq) -> Seq {
        let next = self.0.iter().find(|(term, _)| *term > epoch);
        next.map_or(head, |(_, first)| Seq(first.0.saturating_sub(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_ends_where_the_next_one_begins() {
        let mut terms = Terms::default();
        assert_eq!(terms.end_of(Epoch(3), Seq(9)), Seq(9), "an empty journal was read");
        for (epoch, first) in [(3, 1), (3, 5), (4, 11), (7, 21), (7, 30)] {
            terms.wrote(Epoch(epoch), Seq(first));
        }
        let ends = [2, 3, 4, 5, 6, 7, 8].map(|epoch| terms.end_of(Epoch(epoch), Seq(40)).0);
        assert_eq!(ends, [0, 10, 20, 20, 20, 40, 40]);
        for epoch in 8..200 {
            terms.wrote(Epoch(epoch), Seq(100 + epoch));
        }
        assert_eq!(terms.0.len(), MAX_TERMS);
        assert_eq!(terms.end_of(Epoch(4), Seq(400)), Seq(235), "the oldest that is remembered");
    }
}
