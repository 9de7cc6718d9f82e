//! Usage that fades: a rate in GPUs, integrated over time with a half-life. Integers only, so that every machine agrees.

use crate::units::{Gpus, Span, Time};

/// 1.0 in the fixed point of this file.
const ONE: u64 = 1 << 48;
/// ln 2 times 2^48.
const LN_2: u128 = 195_103_586_505_167;
/// log2(e) in 1/1024ths: the integral of 2^-x from 0 to infinity is 1/ln 2 = log2(e).
const LOG2_E: u128 = 1477;

/// `2^(-i/64)` for i in 0..=64, times 2^48.
const TABLE: [u64; 65] = table();

/// By repeated multiplication with `2^(-1/64)`, whose value times 2^48 is a constant of mathematics.
const fn table() -> [u64; 65] {
    const STEP: u128 = 278_442_931_975_302;
    let mut out = [ONE; 65];
    let mut at = 1;
    while at < 65 {
        out[at] = ((out[at - 1] as u128 * STEP) >> 48) as u64;
        at += 1;
    }
    out
}

/// `2^(-span / half_life)` times 2^48.
pub(crate) fn factor(span: Span, half_life: Span) -> u64 {
    let halves = span.0 / half_life.0;
    if halves >= 48 {
        return 0;
    }
    let rest = u128::from(span.0 % half_life.0) * 64;
    let entry = (rest / u128::from(half_life.0)) as usize;
    // Below 1/64th of a half-life, 1 - e^-y by its series: a straight line between the entries would make many small steps
    // fade less than one large one.
    let y = (rest % u128::from(half_life.0)) * LN_2 / (u128::from(half_life.0) * 64);
    let square = (y * y) >> 48;
    let fall = y - square / 2 + ((square * y) >> 48) / 6;
    let kept = (u128::from(TABLE[entry]) * (u128::from(ONE) - fall)) >> 48;
    kept as u64 >> halves
}

/// A decayed amount, in thousandths of a GPU-half-life: a steady use of `n` GPUs tends to n * 1000 * log2(e).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Meter {
    /// The amount at `at`, times 2^16.
    pub amount: u64,
    /// GPUs held since `at`.
    pub rate: Gpus,
    /// When the amount was last brought up to date.
    pub at: Time,
}

impl Meter {
    /// The amount at `now`, in thousandths of a GPU-half-life.
    pub fn value(&self, now: Time, half_life: Span) -> u64 {
        self.raw(now, half_life) >> 16
    }

    /// Goes on with `rate` GPUs from `now`.
    pub fn set_rate(&mut self, rate: Gpus, now: Time, half_life: Span) {
        self.amount = self.raw(now, half_life);
        self.rate = rate;
        self.at = now;
    }

    fn raw(&self, now: Time, half_life: Span) -> u64 {
        // Within a cycle time stands still.
        if now <= self.at {
            return self.amount;
        }
        let kept = factor(now.since(self.at), half_life);
        let old = (u128::from(self.amount) * u128::from(kept)) >> 48;
        let full = (u128::from(self.rate.in_milli()) * LOG2_E) << 16 >> 10;
        let new = (full * u128::from(ONE - kept)) >> 48;
        u64::try_from(old + new).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Span = Span::seconds(86_400);

    #[test]
    fn the_table_ends_at_a_half() {
        assert!(TABLE[64].abs_diff(ONE / 2) < 200, "{}", TABLE[64].abs_diff(ONE / 2));
    }

    #[test]
    fn steady_use_tends_to_its_rate_and_fades_by_half() {
        let mut meter = Meter::default();
        meter.set_rate(Gpus::whole(100), Time(0), DAY);
        let full = meter.value(Time(40 * DAY.0), DAY);
        assert!(full.abs_diff(144_227) < 100, "{full}");
        meter.set_rate(Gpus::whole(0), Time(40 * DAY.0), DAY);
        assert!(meter.value(Time(41 * DAY.0), DAY).abs_diff(full / 2) < 10);
    }

    #[test]
    fn many_small_steps_agree_with_one_large_step() {
        let mut small = Meter::default();
        small.set_rate(Gpus::whole(8), Time(0), DAY);
        for ms in (0..DAY.0).step_by(10_000) {
            small.set_rate(Gpus::whole(8), Time(ms), DAY);
        }
        let mut large = Meter::default();
        large.set_rate(Gpus::whole(8), Time(0), DAY);
        let (a, b) = (small.value(Time(DAY.0), DAY), large.value(Time(DAY.0), DAY));
        assert!(a.abs_diff(b) <= 8, "{a} {b}");
    }
}
