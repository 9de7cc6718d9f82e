//! The work that is expected, learned from the requests seen: what a place costs those who come later.
//!
//! In: requests as they are submitted, and what nodes there are. Out: for a node before and after a member, how much of
//! what is left of it becomes useless for the expected work. What was asked for fades by half in each half-life, in steps, so
//! that the work of the last weeks counts, and of older one only what there was much of.
//!
//! After FGD (Weng et al., "Beware of Fragmentation", ATC'23), which counts for each kind of expected member what is left on
//! a node that the member cannot use. Here three counts are added, in thousandths of a GPU and exactly:
//! FGD's own; what is left when as many members of the kind as fit are put on the node, which sees CPU and memory that run
//! out before the GPUs do; and what is lost in the end of a GPU that is cut, when it is filled by the best tenth of the
//! shares expected. A kind that few pools can hold weighs more: what it can use is kept for it.
//! It must never depend on anything but the requests, their order and the nodes, and knows no cluster by heart.

use std::collections::BTreeMap;

use super::space::{Judge, Space};
use crate::decay;
use crate::ids::PoolIndex;
use crate::parts::WHOLE;
use crate::request::{Part, Request};
use crate::units::Span;

/// Kinds of members that are judged by; of more those that are asked for most.
const MAX_EXPECTED: usize = 512;

/// Kinds of members that are remembered; of more those that are asked for most.
const MAX_REMEMBERED: usize = 4_096;

/// Steps in which what was asked for fades by half.
pub(crate) const STEPS_PER_HALF_LIFE: u64 = 8;

/// One member, in the fixed point of `Faded`.
const MEMBER: u64 = 1 << 16;

/// What has faded below this is forgotten when there is no room: a sixteenth of a member.
const FORGOTTEN: u64 = MEMBER / 16;

/// Bits of `Faded` that make no difference for what is expected.
const SPARE_BITS: u32 = 8;

/// Counts are read to so many leading bits, so that what is expected changes seldom.
const EXACT_BITS: u32 = 3;

/// The sum of all prices.
const PRICES: u64 = 1 << 20;

/// Of the shares expected those that fill a cut GPU best are counted on: one in so many.
const BEST_OF: u64 = 10;

/// Fractions of thousandths in the table of what is lost.
const FINE: i64 = 64;

/// What a kind of member needs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Need {
    /// GPUs.
    pub gpus: u8,
    /// Of each of them, in thousandths.
    pub milli: u16,
    /// Thousandths of a CPU.
    pub cpu: i64,
    /// MiB.
    pub memory: i64,
    /// Bit p: pool p will do.
    pub pools: u64,
}

/// Members of a kind that were asked for, fading.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Faded {
    /// In 2^-16ths of a member, as of `step`.
    pub amount: u64,
    /// Eighths of a half-life since the beginning of time.
    pub step: u64,
}

impl Faded {
    /// What is left of it in a later step.
    fn at(self, step: u64) -> u64 {
        let steps = Span(step.saturating_sub(self.step));
        let kept = decay::factor(steps, Span(STEPS_PER_HALF_LIFE));
        ((u128::from(self.amount) * u128::from(kept)) >> 48) as u64
    }

    /// With so many members more, asked for in `step`.
    fn and(self, members: u32, step: u64) -> Self {
        let step = step.max(self.step);
        Self { amount: self.at(step).saturating_add(u64::from(members) * MEMBER), step }
    }
}

/// A kind of member, and what it costs when it finds no room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Expected {
    need: Need,
    /// How many are expected, roughly.
    weight: u64,
    price: i64,
}

/// Nodes alike in all that they have when nothing runs.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// One of them, empty.
    pub space: Space,
    /// How many there are.
    pub nodes: u32,
}

/// What is expected: as much of everything as was asked for lately. What was asked for is part of the state; what is made of it
/// is derived, and made anew at fixed points (the start of a cycle), so that the same state leads to the same choice.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Members of each kind.
    counts: BTreeMap<Need, Faded>,
    /// What was made of the counts when they were last looked at.
    expected: Vec<Expected>,
    /// For 0 to 1000 thousandths left of a cut GPU what is lost of them in the end, in `FINE`ths.
    lost: Vec<i64>,
    version: u64,
    has_parts: bool,
    kinds: Vec<Kind>,
    /// Counts or nodes have changed since.
    is_stale: bool,
    /// The step as of which the counts were last looked at.
    looked_at: u64,
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            counts: BTreeMap::new(),
            expected: Vec::new(),
            lost: vec![0; WHOLE as usize + 1],
            version: 1,
            has_parts: false,
            kinds: Vec::new(),
            is_stale: false,
            looked_at: 0,
        }
    }
}

impl Workload {
    /// So many members of `request` are asked for, in a step.
    pub fn note(&mut self, request: &Request, members: u32, step: u64) {
        // Instances are of no use to anybody else, so that nothing is lost by any choice among them.
        if matches!(request.part, Part::Slice(_)) {
            return;
        }
        let count = self.counts.entry(Need::of(request)).or_default();
        *count = count.and(members, step);
        self.is_stale = true;
        if self.counts.len() > MAX_REMEMBERED {
            self.make_room(step);
        }
    }

    /// Forgets what has faded; of what is left, the rarest down to three quarters of the limit.
    fn make_room(&mut self, step: u64) {
        self.counts.retain(|_, count| count.at(step) >= FORGOTTEN);
        let most = MAX_REMEMBERED / 4 * 3;
        if self.counts.len() > most {
            let mut by_count: Vec<(u64, Need)> =
                self.counts.iter().map(|(need, count)| (count.at(step), *need)).collect();
            by_count.sort_unstable();
            by_count.truncate(self.counts.len() - most);
            for (_, need) in by_count {
                self.counts.remove(&need);
            }
        }
    }

    /// What is remembered, for snapshots.
    pub(crate) fn remembered(&self) -> impl Iterator<Item = (Need, Faded)> {
        self.counts.iter().map(|(need, count)| (*need, *count))
    }

    /// Remembers exactly this.
    pub(crate) fn restore(&mut self, remembered: &[(Need, Faded)]) {
        self.counts = remembered.iter().copied().collect();
        self.is_stale = true;
    }

    /// Whether parts of GPUs are expected: else whole GPUs are all alike.
    pub fn expects_parts(&self) -> bool {
        self.has_parts
    }

    /// The nodes are these from now on.
    pub fn set_kinds(&mut self, kinds: Vec<Kind>) {
        self.kinds = kinds;
        self.expected.clear();
        self.is_stale = true;
    }

    /// Takes over what was noted by another, before the nodes changed.
    pub fn take_over(&mut self, other: Workload) {
        self.counts = other.counts;
        self.version = other.version + 1;
        self.expected.clear();
        self.is_stale = true;
    }

    /// Learns from the counts as they are in `step`. Costs nothing where they have not changed, and little where no parts of
    /// GPUs are asked for.
    pub fn refresh(&mut self, step: u64) {
        let is_later = std::mem::replace(&mut self.looked_at, step) != step;
        if !std::mem::take(&mut self.is_stale) && !is_later {
            return;
        }
        let weight = |count: &Faded| rough(count.at(step) >> SPARE_BITS);
        let is_part = |(need, count): (&Need, &Faded)| need.milli < WHOLE && need.gpus > 0 && weight(count) > 0;
        if !self.counts.iter().any(is_part) {
            if std::mem::take(&mut self.has_parts) {
                self.expected.clear();
                self.set_prices();
            }
            return;
        }
        self.has_parts = true;
        let mut kinds: Vec<(u64, Need)> = self.counts.iter().map(|(need, count)| (weight(count), *need)).collect();
        kinds.retain(|(weight, _)| *weight > 0);
        if kinds.len() > MAX_EXPECTED {
            kinds.sort_unstable_by(|one, other| other.cmp(one));
            kinds.truncate(MAX_EXPECTED);
        }
        kinds.sort_unstable_by_key(|(_, need)| *need);
        let known = self.expected.iter().map(|expected| (expected.weight, expected.need));
        if kinds.iter().copied().eq(known) {
            return;
        }
        self.expected =
            kinds.iter().map(|(weight, need)| Expected { need: *need, weight: *weight, price: 0 }).collect();
        self.set_prices();
    }

    /// Sets prices and losses by what is expected.
    fn set_prices(&mut self) {
        self.version += 1;
        let all: i64 = self.kinds.iter().map(|kind| kind.space.total() * i64::from(kind.nodes)).sum();
        let sum: u128 = self.expected.iter().map(|expected| u128::from(expected.weight)).sum();
        for expected in &mut self.expected {
            if expected.need.gpus == 0 {
                expected.price = 0;
                continue;
            }
            let usable = |kind: &Kind| expected.need.usable(&kind.space) * i64::from(kind.nodes);
            let usable: i64 = self.kinds.iter().map(usable).sum();
            // 1 / sqrt(part of the pools that it can use), in 256ths, at most ten.
            let part =
                ((u128::from(usable.unsigned_abs()) << 32).checked_div(all.unsigned_abs().into())).unwrap_or(1 << 32);
            let scarce = ((1u128 << 24) / u128::from(u64::isqrt(part as u64)).max(1)).clamp(256, 2_560);
            let price = u128::from(expected.weight) * u128::from(PRICES) * scarce / (sum.max(1) << 8);
            expected.price = price as i64;
        }
        self.lost = lost(&self.expected);
    }
}

impl Need {
    fn of(request: &Request) -> Self {
        let milli = match request.part {
            Part::Whole => WHOLE,
            Part::Milli(milli) => milli,
            Part::Slice(slice) => slice.milli(),
        };
        Self {
            gpus: request.shape.largest(),
            milli,
            cpu: i64::try_from(request.cpu.0).unwrap_or(i64::MAX),
            memory: i64::try_from(request.memory.0).unwrap_or(i64::MAX),
            pools: request.pools.iter().fold(0, |mask, pool| mask | 1 << (pool.at() % 64)),
        }
    }

    fn may_use(&self, pool: PoolIndex) -> bool {
        self.pools >> (pool.at() % 64) & 1 == 1
    }

    /// What FGD counts: all that is left where the member does not fit, else what is left of GPUs with too little.
    fn fragments(&self, space: &Space, total: i64) -> i64 {
        let fits = self.may_use(space.pool)
            && space.cpu >= self.cpu
            && space.memory >= self.memory
            && space.with_left(self.milli) >= u32::from(self.gpus);
        if !fits {
            return total;
        }
        space.lefts().iter().filter(|left| **left < self.milli).map(|left| i64::from(*left)).sum()
    }

    /// Thousandths that members of the kind use when as many as fit are put on the node.
    fn usable(&self, space: &Space) -> i64 {
        if !self.may_use(space.pool) || self.gpus == 0 || self.milli == 0 {
            return 0;
        }
        let by_gpus = if self.milli < WHOLE {
            space.lefts().iter().map(|left| i64::from(*left / self.milli)).sum()
        } else {
            i64::from(space.with_left(WHOLE)) / i64::from(self.gpus)
        };
        let beside = |left: i64, each: i64| left.max(0).checked_div(each).unwrap_or(i64::MAX);
        let members = by_gpus.min(beside(space.cpu, self.cpu)).min(beside(space.memory, self.memory));
        members * i64::from(self.gpus) * i64::from(self.milli)
    }
}

impl Judge for Workload {
    fn version(&self) -> u64 {
        self.version
    }

    fn cost(&self, before: &Space, after: &Space) -> i64 {
        let (all_before, all_after) = (before.total(), after.total());
        let mut sum = 0;
        for expected in self.expected.iter().filter(|expected| expected.price > 0) {
            let need = &expected.need;
            let count = |space: &Space, all: i64| 2 * need.fragments(space, all) + (all - need.usable(space)).max(0);
            sum += expected.price * (count(after, all_after) - count(before, all_before));
        }
        let lost = |space: &Space| -> i64 {
            let cut = space.lefts().iter().filter(|left| **left < WHOLE);
            cut.map(|left| self.lost[*left as usize]).sum()
        };
        // What is as good for all that is expected is decided by what is left: the less, the better.
        let priced = sum + 2 * (PRICES as i64 / FINE) * (lost(after) - lost(before));
        (priced << 16).saturating_add(all_after.min(u16::MAX.into()))
    }
}

/// What is lost in the end of a cut GPU, by what is left of it: it is filled by those of the shares expected that leave the
/// least, the best tenth of all; where fewer fit, the rest of the tenth adds nothing.
fn lost(expected: &[Expected]) -> Vec<i64> {
    let shares = expected.iter().filter(|expected| expected.need.gpus == 1 && expected.need.milli < WHOLE);
    let mut by_milli: Vec<(u16, u64)> = shares.map(|expected| (expected.need.milli, expected.weight)).collect();
    by_milli.sort_unstable();
    by_milli.dedup_by(|next, sum| {
        next.0 == sum.0 && {
            sum.1 += next.1;
            true
        }
    });
    let all: u64 = by_milli.iter().map(|(_, weight)| weight).sum();
    let mut used = vec![0i64; WHOLE as usize + 1];
    let mut options: Vec<(i64, u64)> = Vec::with_capacity(by_milli.len());
    for left in 1..=WHOLE {
        options.clear();
        let fitting = by_milli.iter().take_while(|(milli, _)| *milli <= left);
        options.extend(fitting.map(|(milli, w)| (i64::from(*milli) * FINE + used[(left - milli) as usize], *w)));
        options.sort_unstable_by(|one, other| other.cmp(one));
        let want = all / BEST_OF;
        let mut rest = want;
        let mut sum = 0i128;
        for (filled, weight) in &options {
            let counted = (*weight).min(rest);
            sum += i128::from(*filled) * i128::from(counted);
            rest -= counted;
        }
        used[left as usize] = sum.checked_div(want.into()).unwrap_or(0) as i64;
    }
    used.iter().enumerate().map(|(left, used)| left as i64 * FINE - used).collect()
}

/// A count to its leading bits.
fn rough(count: u64) -> u64 {
    let spare = (u64::BITS - count.leading_zeros()).saturating_sub(EXACT_BITS);
    count >> spare << spare
}
