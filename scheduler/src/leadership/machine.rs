//! When to renew, and when the leadership is over: by the holder's own clock, which is never later than etcd's. Pure.

use std::time::{Duration, Instant};

/// Renewals within one lease: several may fail before it runs out.
const RENEWALS: u32 = 5;

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing, for so long.
    Wait(Duration),
    /// Ask for a renewal.
    Renew,
    /// Step down: the lease may have run out.
    Ended,
}

/// A leadership under a lease.
#[derive(Clone, Copy, Debug)]
pub struct Leadership {
    span: Duration,
    until: Instant,
    renew_at: Instant,
}

impl Leadership {
    /// Won by a request that was sent at `asked`; the lease counts from its arrival, which is later.
    pub fn new(asked: Instant, span: Duration) -> Self {
        Self { span, until: asked + span, renew_at: asked + span / RENEWALS }
    }

    /// What is due at `now`. What has ended does not begin again.
    pub fn step(&mut self, now: Instant) -> Step {
        if now >= self.until {
            return Step::Ended;
        }
        if now >= self.renew_at {
            self.renew_at = now + self.span / RENEWALS;
            return Step::Renew;
        }
        Step::Wait((self.renew_at - now).min(self.until - now))
    }

    /// A renewal that was asked for at `asked` was granted.
    pub fn renewed(&mut self, asked: Instant, span: Duration) {
        self.span = span;
        self.until = self.until.max(asked + span);
        self.renew_at = asked + span / RENEWALS;
    }

    /// How long one renewal may be waited for.
    pub fn renewal_deadline(&self) -> Duration {
        self.span / 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(2);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn it_renews_in_time_and_lasts_while_it_is_renewed() {
        let start = Instant::now();
        let mut leadership = Leadership::new(start, LEASE);
        let mut now = start;
        let mut renewals = 0;
        while now < start + ms(60_000) {
            match leadership.step(now) {
                Step::Wait(span) => now += span,
                Step::Renew => {
                    let asked = now;
                    now += ms(300); // a slow answer
                    leadership.renewed(asked, LEASE);
                    renewals += 1;
                }
                Step::Ended => panic!("ended at {:?}", now - start),
            }
        }
        assert!((140..=160).contains(&renewals), "{renewals}");
    }

    #[test]
    fn without_an_answer_it_ends_no_later_than_the_lease_of_the_last_request() {
        let start = Instant::now();
        let mut leadership = Leadership::new(start, LEASE);
        assert_eq!(leadership.step(start + ms(400)), Step::Renew);
        leadership.renewed(start + ms(400), LEASE);
        let (mut now, mut asked) = (start + ms(400), 0);
        loop {
            match leadership.step(now) {
                Step::Wait(span) => now += span,
                Step::Renew => {
                    now += leadership.renewal_deadline();
                    asked += 1;
                }
                Step::Ended => break,
            }
        }
        assert!(asked >= 2);
        assert!(now >= start + ms(2_400) && now < start + ms(2_400) + leadership.renewal_deadline());
    }

    #[test]
    fn a_process_that_was_paused_for_longer_than_its_lease_ends_at_its_first_look() {
        let start = Instant::now();
        let mut leadership = Leadership::new(start, LEASE);
        assert_eq!(leadership.step(start + ms(30_000)), Step::Ended);
        assert_eq!(leadership.step(start + ms(30_001)), Step::Ended);
    }
}
