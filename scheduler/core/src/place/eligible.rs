//! Which nodes of a pool a request may use at all: by their labels, and by the nodes that it names.
//!
//! In: the rules of a request. Out: a bit for each position. The counters of the index know nothing of it: they stay an
//! upper bound, and nodes are looked at one by one. Plain requests never come here.

use super::Home;
use crate::ids::{NodeIndex, PoolIndex};
use crate::node::Node;
use crate::request::{Constraints, LabelRule};

/// Bits of a word.
const WORD: usize = u64::BITS as usize;

/// The labels of the nodes of one pool.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct LabelRows {
    /// Nodes.
    count: usize,
    /// Key, value, and the positions that have it; sorted.
    rows: Vec<(Box<str>, Box<str>, Vec<u64>)>,
}

impl LabelRows {
    /// Reads the labels of `nodes`, which stand in the order of positions.
    pub(super) fn of<'n>(nodes: impl ExactSizeIterator<Item = &'n Node>) -> Self {
        let count = nodes.len();
        let mut rows: std::collections::BTreeMap<(Box<str>, Box<str>), Vec<u64>> = Default::default();
        for (at, node) in nodes.enumerate() {
            for (key, value) in &node.capacity.labels {
                let row = rows.entry((key.clone(), value.clone())).or_insert_with(|| vec![0; count.div_ceil(WORD)]);
                row[at / WORD] |= 1 << (at % WORD);
            }
        }
        Self { count, rows: rows.into_iter().map(|((key, value), row)| (key, value, row)).collect() }
    }

    /// Keeps in `mask` only what satisfies `rule`.
    fn apply(&self, rule: &LabelRule, mask: &mut [u64]) {
        let first = self.rows.partition_point(|(key, ..)| **key < *rule.key);
        let of_key = self.rows[first..].iter().take_while(|(key, ..)| *key == rule.key);
        let wanted = |value: &str| rule.values.is_empty() || rule.values.iter().any(|other| **other == *value);
        for (at, word) in mask.iter_mut().enumerate() {
            let has = of_key.clone().filter(|(_, value, _)| wanted(value)).fold(0, |has, (.., row)| has | row[at]);
            *word &= if rule.negated { !has } else { has };
        }
    }

    /// Fills `mask` with the positions that `only` allows; false where it says nothing of nodes and all are allowed.
    pub(super) fn fill(&self, only: &Constraints, pool: PoolIndex, homes: &[Home], mask: &mut Vec<u64>) -> bool {
        mask.clear();
        if !only.says_which_nodes() {
            return false;
        }
        let place =
            |node: &NodeIndex| homes.get(node.at()).filter(|home| home.pool == pool).map(|home| home.at as usize);
        mask.resize(self.count.div_ceil(WORD), if only.include.is_empty() { u64::MAX } else { 0 });
        for at in only.include.iter().filter_map(place) {
            mask[at / WORD] |= 1 << (at % WORD);
        }
        for at in only.exclude.iter().filter_map(place) {
            mask[at / WORD] &= !(1 << (at % WORD));
        }
        for rule in &only.labels {
            self.apply(rule, mask);
        }
        true
    }
}

/// Whether a position is in a mask.
#[inline]
pub(super) fn allows(mask: &[u64], at: usize) -> bool {
    mask[at / WORD] >> (at % WORD) & 1 == 1
}
