//! Time limits of jobs whose file states none, by one rule.

use dure_core::units::Span;

const MINUTE: u64 = 60;
const HOUR: u64 = 3600;
const DAY: u64 = 86_400;

/// The limits that people choose, in seconds.
const USUAL: [u64; 14] = [
    15 * MINUTE,
    HOUR,
    2 * HOUR,
    4 * HOUR,
    8 * HOUR,
    12 * HOUR,
    DAY,
    2 * DAY,
    4 * DAY,
    7 * DAY,
    14 * DAY,
    30 * DAY,
    60 * DAY,
    120 * DAY,
];

/// The limit of a job that ran for `duration` and stated none: the least of the usual ones that is at least twice as long.
///
/// People state round numbers and far more than they use: half of what was asked for is a generous guess (Mu'alem and
/// Feitelson, IEEE TPDS 12(6), 2001, section 4).
pub fn derived(duration: Span) -> Span {
    let twice = Span(duration.0.saturating_mul(2));
    USUAL.iter().map(|seconds| Span::seconds(*seconds)).find(|usual| *usual >= twice).unwrap_or(twice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_usual_limit_that_is_twice_as_long() {
        let seconds = |run| derived(Span::seconds(run)).0 / 1000;
        assert_eq!(
            [seconds(0), seconds(450), seconds(451), seconds(HOUR), seconds(DAY)],
            [900, 900, 3600, 7200, 2 * DAY]
        );
        assert_eq!(seconds(100 * DAY), 200 * DAY);
    }
}
