//! Virtual time, what is to happen when, and the dice.

use std::collections::BTreeMap;

/// Milliseconds since the world began.
pub(super) type Ms = u64;

/// The one source of chance: the same seed, the same throws.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number (SplitMix64, Steele, Lea and Flood, OOPSLA 2014).
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `sides`; 0 when there are none.
    pub(super) fn below(&mut self, sides: u64) -> u64 {
        if sides == 0 { 0 } else { self.next() % sides }
    }

    /// A number in `from..=to`.
    pub(super) fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    /// True `in_thousand` times of a thousand.
    pub(super) fn chance(&mut self, in_thousand: u64) -> bool {
        self.below(1000) < in_thousand
    }

    /// One of `choices`, if there is any.
    pub(super) fn pick<'c, T>(&mut self, choices: &'c [T]) -> Option<&'c T> {
        choices.get(self.below(choices.len() as u64) as usize)
    }
}

/// What is to happen, in order of time, and at the same time in the order in which it was put down.
pub(super) struct Agenda<E> {
    now: Ms,
    put: u64,
    entries: BTreeMap<(Ms, u64), E>,
}

impl<E> Agenda<E> {
    pub(super) fn new() -> Self {
        Self { now: 0, put: 0, entries: BTreeMap::new() }
    }

    pub(super) fn now(&self) -> Ms {
        self.now
    }

    /// Puts down an event for `at`, or for now if that is past.
    pub(super) fn put(&mut self, at: Ms, event: E) {
        self.put += 1;
        self.entries.insert((at.max(self.now), self.put), event);
    }

    /// Moves time on to the next event.
    pub(super) fn take(&mut self) -> Option<E> {
        let ((at, _), event) = self.entries.pop_first()?;
        self.now = at;
        Some(event)
    }
}
