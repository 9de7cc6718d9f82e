//! The core by example: a cluster in one text, what became of it in the other.

mod absence;
mod arrays;
mod bookings;
mod calendar;
mod constraints;
mod deadlines;
mod defrag;
mod division;
mod eager;
mod elastic;
mod evictions;
mod explain;
mod gangs;
mod idle;
mod in_time;
mod jobs;
mod ledgers;
mod lending;
mod nodes;
mod parts;
mod plan;
mod reclaim;
mod survivors;
mod time_min;
mod whole;
mod whole_histories;

use expect_test::Expect;

use crate::fixture;

#[allow(clippy::needless_pass_by_value)] // An `Expect` is written where it is used.
fn check(text: &str, expected: Expect) {
    expected.assert_eq(&fixture::run(text));
}
