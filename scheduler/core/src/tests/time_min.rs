//! Limits that may be lowered, by example. An attempt counts as over 3 and a half minutes after its limit: the deadline of its
//! launch, its grace and a slack.

use expect_test::expect;

use super::check;

#[test]
fn a_limit_is_lowered_to_what_is_left_before_a_reservation() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=32
        run    a/old 1x8 on n0 limit=3h
        policy plan-in-time
        submit a/big 2x8 limit=1h
        cycle
        plan
        submit a/long 1x8 limit=6h | a/four 1x8 limit=6h least-limit=4h | a/two 1x8 limit=6h least-limit=2h
        cycle
        explain four
        ",
        expect![[r#"
            submit a/big
            blocked big: NotEnoughGpus { gpu, want: 16, free: 8 }
            reserve a/big -> n0[0-7] n1[0-7] from +10890s
            submit a/long
            submit a/four
            submit a/two
            place a/two -> n1[0-7], limit 10680s
            blocked big: NotEnoughGpus { gpu, want: 16, free: 8 }
            blocked long: NotEnoughGpus { gpu, want: 8, free: 0 }
            blocked four: NotEnoughGpus { gpu, want: 8, free: 0 }
            explain four:
              NotEnoughGpus { gpu, want: 8, free: 0 }
              rank a 1/1 (16 of 32), normal, user 1/1 (16000), age 0s
              not even with a limit of 14400s"#]],
    );
}

#[test]
fn where_nothing_is_in_the_way_a_job_has_its_full_limit() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=32
        submit a/two 1x8 limit=6h least-limit=2h
        cycle
        ",
        expect![[r#"
            submit a/two
            place a/two -> n0[0-7]"#]],
    );
}

#[test]
fn the_node_that_is_free_for_longest_is_found() {
    check(
        "
        node   n0 n1 n2 gpus=8
        tenant a quota=32
        book   first from=3h until=9h nodes=n0 maintenance
        book   later from=5h until=9h nodes=n2 maintenance
        book   second from=4h until=9h nodes=n1 maintenance
        submit a/two 1x8 limit=6h least-limit=2h
        cycle
        submit a/gang 2x8 limit=6h least-limit=2h
        cycle
        submit a/full 1x8 limit=2h
        cycle
        ",
        expect![[r#"
            first keeps n0 from +10800s until +32400s for maintenance
            later keeps n2 from +18000s until +32400s for maintenance
            second keeps n1 from +14400s until +32400s for maintenance
            submit a/two
            place a/two -> n2[0-7], limit 17790s
            submit a/gang
            place a/gang -> n0[0-7] n1[0-7], limit 10590s
            submit a/full
            blocked full: NotEnoughGpus { gpu, want: 8, free: 0 }"#]],
    );
}

#[test]
fn the_next_attempt_begins_with_the_full_limit() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=8
        tenant b quota=8
        book   rack from=3h until=4h nodes=n1 maintenance
        submit a/own 1x8 limit=9h fixed
        cycle
        submit a/two 1x8 limit=6h least-limit=2h
        cycle
        prepared two
        started two
        prepared own
        started own
        exit   own 0
        drain  n1 evict
        exit   two 0
        cycle
        ",
        expect![[r#"
            rack keeps n1 from +10800s until +14400s for maintenance
            submit a/own
            place a/own -> n0[0-7]
            submit a/two
            place a/two -> n1[0-7], borrowed, limit 10590s
            over a/own: Completed
            end a/own: Completed
            n1 is draining
            stop a/two: Drained
            over a/two: Drained
            again a/two at the front
            place a/two -> n0[0-7] (attempt 2)"#]],
    );
}

#[test]
fn the_timer_ends_an_attempt_at_its_own_limit_and_a_budget_commits_no_more() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=8 budget=1000/720h
        book   rack from=3h until=4h nodes=n0 maintenance
        submit a/two 1x8 limit=6h least-limit=2h
        cycle
        budget a
        prepared two
        started two
        tick   2h
        tick   56m
        tick   2m
        budget a
        ",
        expect![[r#"
            rack keeps n0 from +10800s until +14400s for maintenance
            submit a/two
            place a/two -> n0[0-7], limit 10590s
            budget a: 1000 GPU-hours until +2592000s: spent 0, committed 23.533, left 976.466, refunded 0, carried 0, unspent 0
            stop a/two: TimeLimit
            budget a: 1000 GPU-hours until +2581320s: spent 0, committed 23.533, left 976.466, refunded 0, carried 0, unspent 0"#]],
    );
}

#[test]
fn each_index_of_an_array_has_a_limit_of_its_own() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=32
        book   first from=3h until=9h nodes=n0 maintenance
        book   later from=5h until=9h nodes=n1 maintenance
        submit a/each 1x8 limit=6h least-limit=2h array=3
        cycle
        ",
        expect![[r#"
            first keeps n0 from +10800s until +32400s for maintenance
            later keeps n1 from +18000s until +32400s for maintenance
            submit a/each
            place a/each[0] -> n1[0-7], limit 17790s
            place a/each[1] -> n0[0-7], limit 10590s
            blocked each: NotEnoughGpus { gpu, want: 8, free: 0 }"#]],
    );
}

#[test]
fn a_refusal_of_a_long_job_does_not_keep_a_shorter_limit_from_being_tried() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=32
        run    a/old 1x8 on n0 limit=3h
        policy plan-in-time
        submit a/big 2x8 limit=1h
        cycle
        submit a/long 1x8 limit=4h
        cycle
        submit a/four 1x8 limit=6h least-limit=4h
        cycle
        submit a/two 1x8 limit=6h least-limit=2h
        cycle
        ",
        expect![[r#"
            submit a/big
            blocked big: NotEnoughGpus { gpu, want: 16, free: 8 }
            submit a/long
            blocked big: NotEnoughGpus { gpu, want: 16, free: 8 }
            blocked long: NotEnoughGpus { gpu, want: 8, free: 0 }
            submit a/four
            blocked big: NotEnoughGpus { gpu, want: 16, free: 8 }
            blocked long: NotEnoughGpus { gpu, want: 8, free: 0 }
            blocked four: NotEnoughGpus { gpu, want: 8, free: 0 }
            submit a/two
            place a/two -> n1[0-7], limit 10680s
            blocked big: NotEnoughGpus { gpu, want: 16, free: 8 }
            blocked long: NotEnoughGpus { gpu, want: 8, free: 0 }
            blocked four: NotEnoughGpus { gpu, want: 8, free: 0 }"#]],
    );
}

#[test]
fn a_job_whose_turn_comes_before_a_booking_is_planned_with_its_least_limit() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=32
        policy plan-in-time
        run    a/old 1x8 on n0 limit=1h
        book   rack from=4h until=9h nodes=n0 maintenance
        submit a/long 1x8 limit=6h
        cycle
        plan
        cancel long
        submit a/two 1x8 limit=6h least-limit=2h
        cycle
        plan
        tick   1h
        exit   old 0
        cycle
        ",
        expect![[r#"
            rack keeps n0 from +14400s until +32400s for maintenance
            submit a/long
            blocked long: NotEnoughGpus { gpu, want: 8, free: 0 }
            reserve a/long -> n0[0-7] from +32400s
            end a/long: Cancelled
            submit a/two
            blocked two: NotEnoughGpus { gpu, want: 8, free: 0 }
            reserve a/two -> n0[0-7] from +3690s
            forget long
            over a/old: Completed
            end a/old: Completed
            place a/two -> n0[0-7], limit 10590s"#]],
    );
}

#[test]
fn a_least_limit_is_more_than_nothing_and_not_above_the_limit() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=8 time=1h
        submit a/none 1x1 limit=2h least-limit=0s
        submit a/over 1x1 least-limit=2h
        submit a/same 1x1 least-limit=1h
        ",
        expect![[r#"
            refused job 0: BadTimeMin { least: 0ms, limit: 7200000ms }
            refused job 0: BadTimeMin { least: 7200000ms, limit: 3600000ms }
            submit a/same"#]],
    );
}

#[test]
fn a_budget_that_refuses_the_full_limit_speaks_for_that_job_alone() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=16 budget=20/720h
        tenant b quota=16
        run    b/old 1x8 on n0 limit=3h
        policy plan-in-time
        submit b/big 2x8 limit=1h
        cycle
        submit a/six 1x8 limit=6h least-limit=1h fixed
        cycle
        submit a/two 1x8 limit=2h fixed
        cycle
        ",
        expect![[r#"
            submit b/big
            blocked big: NotEnoughGpus { gpu, want: 16, free: 8 }
            submit a/six
            blocked big: NotEnoughGpus { gpu, want: 16, free: 8 }
            blocked six: OverBudget { a, left: 72000, want: 172800 GPU-seconds, until +2592000s }
            submit a/two
            place a/two -> n1[0-7]
            blocked big: NotEnoughGpus { gpu, want: 16, free: 8 }
            blocked six: OverBudget { a, left: 14400, want: 172800 GPU-seconds, until +2592000s }"#]],
    );
}

#[test]
fn what_would_help_is_tried_with_the_least_limit() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=32
        run    a/old 1x8 on n0 limit=3h
        policy plan-in-time
        submit a/big 2x8 limit=1h
        cycle
        submit a/gang 2x8 limit=6h least-limit=2h
        cycle
        explain gang
        ",
        expect![[r#"
            submit a/big
            blocked big: NotEnoughGpus { gpu, want: 16, free: 8 }
            submit a/gang
            blocked big: NotEnoughGpus { gpu, want: 16, free: 8 }
            blocked gang: BehindReservation { gpu, of a/big, idle: 8, until +10890s }
            explain gang:
              BehindReservation { gpu, of a/big, idle: 8, until +10890s }
              NotEnoughGpus { gpu, want: 16, free: 0 }
              BehindReservation { gpu, of a/big, idle: 8, until +10890s }
              rank a 1/1 (8 of 32), normal, user 1/1 (8000), age 0s
              not even with a limit of 7200s
              starts now with 1 members
              starts now with 4 GPUs per member"#]],
    );
}
