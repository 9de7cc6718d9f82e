//! How much one caller may ask: a token bucket per identity.
//!
//! In: who calls, and the time. Out: go on, or come back after so long. Pure: the layer reads the clock. Who has no
//! credential has the bucket of the address. Agents are not counted: what they say is bounded by their sessions.

use std::collections::BTreeMap;

use super::caller::Caller;
use super::identity::Role;

/// Buckets that are kept; beyond that those that are full again are forgotten, and at worst all.
const MAX_BUCKETS: usize = 16_384;
/// Operators and auditors keep the cluster and watch it for all: they may ask so many times as much.
const KEEPERS_TIMES: u64 = 10;
/// One call, in the unit that is counted: a thousandth.
const CALL: u64 = 1_000;

/// How fast a bucket fills, and how much it holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Calls in a second.
    pub per_second: u32,
    /// Calls that it holds when full.
    pub burst: u32,
}

/// Thousandths of calls left, and when that was so.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: u64,
    at_ms: u64,
}

/// All buckets.
#[derive(Debug)]
pub struct Buckets {
    rate: Rate,
    buckets: BTreeMap<(Box<str>, &'static str), Bucket>,
}

impl Buckets {
    /// All full.
    pub fn new(rate: Rate) -> Self {
        Self { rate, buckets: BTreeMap::new() }
    }

    /// Takes a call out of the caller's bucket.
    ///
    /// # Errors
    /// When it is empty: after how many milliseconds there is a call in it again.
    pub fn take(&mut self, by: &Caller, now_ms: u64) -> Result<(), u64> {
        if by.role == Role::Agent.name() {
            return Ok(());
        }
        let is_keeper = by.role == Role::Operator.name() || by.role == Role::Auditor.name();
        let times = if is_keeper { KEEPERS_TIMES } else { 1 };
        // Thousandths of calls in a millisecond are calls in a second.
        let (fill, full) = (u64::from(self.rate.per_second) * times, u64::from(self.rate.burst) * times * CALL);
        if self.buckets.len() >= MAX_BUCKETS {
            self.forget(now_ms);
        }
        let who = if by.user.is_empty() { by.origin.clone() } else { by.user.clone() };
        let bucket = self.buckets.entry((who, by.role)).or_insert(Bucket { left: full, at_ms: now_ms });
        let passed = now_ms.saturating_sub(bucket.at_ms);
        *bucket = Bucket { left: full.min(bucket.left.saturating_add(passed.saturating_mul(fill))), at_ms: now_ms };
        match bucket.left.checked_sub(CALL) {
            Some(left) => {
                bucket.left = left;
                Ok(())
            }
            None => Err((CALL - bucket.left).div_ceil(fill.max(1))),
        }
    }

    /// Whoever has not called for as long as it takes to fill a bucket has a full one again.
    fn forget(&mut self, now_ms: u64) {
        let to_fill = u64::from(self.rate.burst) * CALL / u64::from(self.rate.per_second.max(1));
        self.buckets.retain(|_, bucket| now_ms.saturating_sub(bucket.at_ms) < to_fill);
        if self.buckets.len() >= MAX_BUCKETS {
            self.buckets.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(user: &str, role: Role) -> Caller {
        Caller { user: user.into(), role: role.name(), origin: "10.0.0.1".into(), ..Caller::default() }
    }

    fn taken(buckets: &mut Buckets, who: &Caller, calls: u32, now_ms: u64) -> usize {
        (0..calls).filter(|_| buckets.take(who, now_ms).is_ok()).count()
    }

    #[test]
    fn a_burst_then_the_rate_each_for_itself() {
        let mut buckets = Buckets::new(Rate { per_second: 10, burst: 20 });
        let (ana, bo) = (by("ana", Role::Member), by("bo", Role::Member));
        assert_eq!(taken(&mut buckets, &ana, 100, 0), 20);
        assert_eq!(buckets.take(&ana, 0), Err(100), "a tenth of a second later there is one");
        assert_eq!(buckets.take(&ana, 50), Err(50));
        assert_eq!(buckets.take(&ana, 100), Ok(()));
        assert_eq!(taken(&mut buckets, &bo, 100, 100), 20, "nobody pays for another");
        assert_eq!(taken(&mut buckets, &ana, 100, 1_100), 10);
        assert_eq!(taken(&mut buckets, &ana, 100, 1_000_000), 20, "never more than a burst");
        assert_eq!(taken(&mut buckets, &by("op", Role::Operator), 300, 0), 200);
        assert_eq!(taken(&mut buckets, &by("n0", Role::Agent), 300, 0), 300, "agents are not counted");
        let nobody = Caller { user: "".into(), role: "", ..ana };
        assert_eq!(taken(&mut buckets, &nobody, 100, 0), 20, "by address");
    }

    #[test]
    fn the_buckets_are_bounded() {
        let mut buckets = Buckets::new(Rate { per_second: 10, burst: 20 });
        for user in 0..3 * MAX_BUCKETS as u64 {
            buckets.take(&by(&user.to_string(), Role::Member), user).expect("its first call");
            assert!(buckets.buckets.len() <= MAX_BUCKETS);
        }
    }
}
