//! Rows of bits with summary words, the ground that the placement index stands on.
//!
//! In: single bits switched on and off. Out: the next bit that is on in a row, found without looking at empty words, and
//! `Buckets`, which sort things by a small number and find the next number that has any.
//! It must never allocate after it is made, and two that hold the same bits must be equal word for word.

/// How many bits a word holds.
const WORD: usize = u64::BITS as usize;

/// `rows` bit sets over the columns 0 to `columns` - 1. One summary bit per word: the word is not zero.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct BitRows {
    /// Words of one row.
    stride: usize,
    /// Summary words of one row.
    summary_stride: usize,
    /// Row after row.
    words: Vec<u64>,
    /// Row after row.
    summary: Vec<u64>,
}

impl BitRows {
    /// All bits off.
    pub(super) fn new(rows: usize, columns: usize) -> Self {
        let stride = columns.div_ceil(WORD).max(1);
        let summary_stride = stride.div_ceil(WORD);
        Self { stride, summary_stride, words: vec![0; rows * stride], summary: vec![0; rows * summary_stride] }
    }

    /// Switches a bit on; it may be on already.
    #[inline]
    pub(super) fn insert(&mut self, row: usize, column: usize) {
        let word = column / WORD;
        self.words[row * self.stride + word] |= 1 << (column % WORD);
        self.summary[row * self.summary_stride + word / WORD] |= 1 << (word % WORD);
    }

    /// Switches a bit off.
    #[inline]
    pub(super) fn remove(&mut self, row: usize, column: usize) {
        let word = column / WORD;
        let bits = &mut self.words[row * self.stride + word];
        *bits &= !(1 << (column % WORD));
        if *bits == 0 {
            self.summary[row * self.summary_stride + word / WORD] &= !(1 << (word % WORD));
        }
    }

    /// Whether no bit of a row is on.
    #[inline]
    pub(super) fn is_row_empty(&self, row: usize) -> bool {
        self.summary[row * self.summary_stride..][..self.summary_stride].iter().all(|bits| *bits == 0)
    }

    /// Switches all bits of a row off and says which were on, in rising order.
    #[inline]
    pub(super) fn drain(&mut self, row: usize, mut each: impl FnMut(usize)) {
        let words = &mut self.words[row * self.stride..][..self.stride];
        for (at, summary) in self.summary[row * self.summary_stride..][..self.summary_stride].iter_mut().enumerate() {
            let mut filled = std::mem::take(summary);
            while filled != 0 {
                let word = at * WORD + filled.trailing_zeros() as usize;
                let mut bits = std::mem::take(&mut words[word]);
                while bits != 0 {
                    each(word * WORD + bits.trailing_zeros() as usize);
                    bits &= bits - 1;
                }
                filled &= filled - 1;
            }
        }
    }

    /// Whether a bit is on.
    pub(super) fn contains(&self, row: usize, column: usize) -> bool {
        self.words[row * self.stride + column / WORD] >> (column % WORD) & 1 == 1
    }

    /// The first column from `from` on, below `end`, that is on in `row`.
    #[inline]
    pub(super) fn next_in(&self, row: usize, from: usize, end: usize) -> Option<usize> {
        if from >= end {
            return None;
        }
        let words = &self.words[row * self.stride..][..self.stride];
        let word = from / WORD;
        let bits = words[word] & (u64::MAX << (from % WORD));
        if bits != 0 {
            let column = word * WORD + bits.trailing_zeros() as usize;
            return (column < end).then_some(column);
        }
        let word = self.next_word(row, word + 1, end.div_ceil(WORD))?;
        let column = word * WORD + words[word].trailing_zeros() as usize;
        (column < end).then_some(column)
    }

    /// The first word from `from` on, below `end`, that is not zero.
    #[inline]
    fn next_word(&self, row: usize, from: usize, end: usize) -> Option<usize> {
        if from >= end {
            return None;
        }
        let summary = &self.summary[row * self.summary_stride..][..self.summary_stride];
        let mut at = from / WORD;
        let mut bits = summary[at] & (u64::MAX << (from % WORD));
        while bits == 0 {
            at += 1;
            if at * WORD >= end {
                return None;
            }
            bits = summary[at];
        }
        let word = at * WORD + bits.trailing_zeros() as usize;
        (word < end).then_some(word)
    }

    /// The last column of `row` that is on. Goes through the words of the row: for short rows.
    fn last(&self, row: usize) -> Option<usize> {
        let words = &self.words[row * self.stride..][..self.stride];
        let word = words.iter().rposition(|bits| *bits != 0)?;
        Some(word * WORD + (WORD - 1 - words[word].leading_zeros() as usize))
    }
}

/// Things 0 to `things` - 1 sorted by a number; number 0 is not kept.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Buckets {
    things: usize,
    numbers: usize,
    /// Row = number.
    sorted: BitRows,
    /// One row: the numbers that have any.
    filled: BitRows,
}

impl Buckets {
    /// Nothing kept; numbers go up to `highest`.
    pub(super) fn new(things: usize, highest: usize) -> Self {
        let numbers = highest + 1;
        Self { things, numbers, sorted: BitRows::new(numbers, things), filled: BitRows::new(1, numbers) }
    }

    /// The number of `thing` was `old` and is `new`.
    #[inline]
    pub(super) fn shift(&mut self, thing: usize, old: usize, new: usize) {
        if old == new {
            return;
        }
        if old != 0 {
            self.sorted.remove(old, thing);
            if self.sorted.is_row_empty(old) {
                self.filled.remove(0, old);
            }
        }
        if new != 0 {
            self.sorted.insert(new, thing);
            self.filled.insert(0, new);
        }
    }

    /// The lowest number from `from` on that has any.
    #[inline]
    pub(super) fn next_number(&self, from: usize) -> Option<usize> {
        self.filled.next_in(0, from, self.numbers)
    }

    /// The highest number that has any.
    #[inline]
    pub(super) fn last_number(&self) -> Option<usize> {
        self.filled.last(0)
    }

    /// The highest number below `below` that has any.
    pub(super) fn previous_number(&self, below: usize) -> Option<usize> {
        (1..below.min(self.numbers)).rev().find(|number| self.filled.contains(0, *number))
    }

    /// The first thing from `from` on with exactly this number.
    #[inline]
    pub(super) fn next(&self, number: usize, from: usize) -> Option<usize> {
        self.sorted.next_in(number, from, self.things)
    }

    /// Whether `thing` is kept under `number`.
    pub(super) fn contains(&self, number: usize, thing: usize) -> bool {
        self.sorted.contains(number, thing)
    }

    /// Numbers go up to here.
    #[inline]
    pub(super) fn highest(&self) -> usize {
        self.numbers - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_over_empty_words() {
        let mut rows = BitRows::new(2, 20_000);
        rows.insert(1, 3);
        rows.insert(1, 64 * 64 * 2 + 5);
        rows.insert(1, 19_999);
        assert_eq!(rows.next_in(0, 0, 20_000), None);
        assert_eq!(rows.next_in(1, 0, 20_000), Some(3));
        assert_eq!(rows.next_in(1, 4, 20_000), Some(8197));
        assert_eq!(rows.next_in(1, 4, 8197), None);
        assert_eq!(rows.next_in(1, 8198, 20_000), Some(19_999));
        rows.remove(1, 3);
        assert!(!rows.is_row_empty(1));
        let mut drained = Vec::new();
        rows.drain(1, |column| drained.push(column));
        assert_eq!(drained, [8197, 19_999]);
        assert!(rows.is_row_empty(1));
        assert_eq!(rows, BitRows::new(2, 20_000));
    }

    #[test]
    fn buckets_go_up_and_down() {
        let mut buckets = Buckets::new(300, 511);
        buckets.shift(7, 0, 5);
        buckets.shift(299, 0, 5);
        buckets.shift(8, 0, 511);
        assert_eq!(buckets.next_number(0), Some(5));
        assert_eq!((buckets.next(5, 0), buckets.next(5, 8)), (Some(7), Some(299)));
        assert_eq!((buckets.last_number(), buckets.previous_number(511)), (Some(511), Some(5)));
        buckets.shift(7, 5, 0);
        buckets.shift(299, 5, 6);
        assert_eq!(buckets.next_number(1), Some(6));
        buckets.shift(299, 6, 0);
        buckets.shift(8, 511, 0);
        assert_eq!(buckets, Buckets::new(300, 511));
    }
}
