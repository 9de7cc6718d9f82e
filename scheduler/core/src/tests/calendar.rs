//! Quotas that hold from a date on, by example.

use expect_test::expect;

use super::check;

#[test]
fn a_campaign_gets_gpus_for_a_time_and_gives_them_back() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=12 | b quota=4
        quota  a quota=4  from=1h until=2h
        quota  b quota=12 from=1h until=2h
        run    a/p 1x8 on n0 | a/q 1x4 on n1
        queued b/r 1x8 | b/s 1x4
        cycle                  # s fits into what b has today
        prepared s
        started s
        usage  a
        tick   1h              # now it is b that has 12
        cycle
        usage  a
        tick   1h
        usage  a
        ",
        expect![[r#"
            a is to have 4 from +3600s until +7200s
            b is to have 12 from +3600s until +7200s
            place b/s -> n1[4-7]
            blocked r: NotEnoughGpus { gpu, want: 8, free: 4 }
            usage a: used 12, fixed 0, borrowed 0; GPU-seconds own 0, borrowed 0
            dated quota of a begins
            dated quota of b begins
            promise b/r -> n0[0-7] by +150s
            stop a/p: Evicted for b/r
            blocked r: ReclaimPending { gpu, want: 8, free: 0, due +150s }
            usage a: used 12, fixed 0, borrowed 8; GPU-seconds own 28800, borrowed 0
            dated quota of a is over
            dated quota of b is over
            usage a: used 12, fixed 0, borrowed 0; GPU-seconds own 28800, borrowed 28800"#]],
    );
}

#[test]
fn what_was_promised_while_a_quota_held_is_not_lent_after_it() {
    check(
        "
        node   n0 gpus=4
        tenant a quota=1 within=1s | b quota=0 | c quota=0
        quota  c quota=4 from=0s until=1m
        tick   1s
        run    b/slow 1x4 on n0
        submit c/p 1x4
        cycle                  # it is inside its quota: what is lent comes back
        tick   1m              # and then it is not
        exit   slow 0
        cycle                  # a could not have its own back in time
        ",
        expect![[r#"
            c is to have 4 from +0s until +60s
            dated quota of c begins
            submit c/p
            promise c/p -> n0[0-3] by +150s
            stop b/slow: Evicted for c/p
            blocked p: ReclaimPending { gpu, want: 4, free: 0, due +150s }
            dated quota of c is over
            over b/slow: Evicted
            again b/slow at the front
            promise dropped c/p: NotAllowed
            blocked slow: LentTooLong { gpu, deadline: 1s, lendable: 3, lent: 4, want: 4 }
            blocked p: LentTooLong { gpu, deadline: 1s, lendable: 3, lent: 4, want: 4 }"#]],
    );
}

#[test]
fn what_must_not_be_evicted_may_wait_for_a_date() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=2
        submit a/p 1x4 fixed   # more than it ever gets
        quota  a quota=6 from=1h
        submit a/p 1x4 fixed
        cycle
        tick   1h              # for good
        cycle
        ",
        expect![[r#"
            refused job 0: NonPreemptibleOverQuota { tenant: "a", want: 4 GPUs, quota: 2 GPUs }
            a is to have 6 from +3600s
            submit a/p
            blocked p: NonPreemptibleOverQuota { a, quota: 2, used: 0, want: 4 }
            dated quota of a begins
            place a/p -> n0[4-7]"#]],
    );
}

#[test]
fn the_standing_quota_may_change_while_a_dated_one_holds() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=4
        quota  a quota=12 from=1h until=2h
        tick   1h
        quota  a quota=6       # from the end of the dated one on
        run    a/p 1x8 on n0
        usage  a
        quota  a quota=2 from=30m   # for good, and seen at the end as well
        tick   1h
        usage  a
        ",
        expect![[r#"
            a is to have 12 from +3600s until +7200s
            dated quota of a begins
            changed a
            usage a: used 8, fixed 0, borrowed 0; GPU-seconds own 0, borrowed 0
            a is to have 2 from +1800s
            dated quota of a begins
            dated quota of a is over
            usage a: used 8, fixed 0, borrowed 8; GPU-seconds own 28800, borrowed 0"#]],
    );
}

#[test]
fn one_in_force_can_be_cancelled() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=4
        quota  a quota=8 from=1h until=2h
        cancel-quota a from=30m
        tick   1h
        cancel-quota a from=0s
        run    a/p 1x8 on n0
        usage  a
        tick   1h              # nothing is due any more
        ",
        expect![[r#"
            a is to have 8 from +3600s until +7200s
            refused: Calendar(NoDatedQuota { tenant: "a", from: 1800000ms, known: [3600000ms] })
            dated quota of a begins
            dated quota of a is over
            usage a: used 8, fixed 0, borrowed 8; GPU-seconds own 0, borrowed 0"#]],
    );
}

#[test]
fn dates_that_contradict_are_refused() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=12 | a/x quota=6 | a/y quota=6
        quota  a/x quota=8 from=1h until=2h      # y has 6 of the 12 then
        quota  a/y quota=4 from=1h until=2h
        quota  a/x quota=8 from=1h until=3h      # y has 6 again before it is over
        quota  a/x quota=8 from=1h until=2h
        cancel-quota a/y from=1h                 # x needs what y gives
        quota  a/y quota=6 limit=6               # the standing one: as it was
        quota  a quota=11                        # too little today
        quota  a quota=11 from=90m               # enough while 8 and 4 hold? no
        quota  a/x quota=2 from=90m until=4h     # while it has 8
        quota  a/x quota=2 from=2h until=4h      # right after it
        quota  a/x quota=2 from=2h               # two begin at once
        quota  a/x quota=2 from=6h until=5h
        tick   1h
        ",
        expect![[r#"
            refused: ChildrenAboveParent { parent: "a", children: 14 GPUs, quota: 12 GPUs, from: Some(3600000ms) }
            a/y is to have 4 from +3600s until +7200s
            refused: ChildrenAboveParent { parent: "a", children: 14 GPUs, quota: 12 GPUs, from: Some(7200000ms) }
            a/x is to have 8 from +3600s until +7200s
            refused: ChildrenAboveParent { parent: "a", children: 14 GPUs, quota: 12 GPUs, from: Some(3600000ms) }
            changed a/y
            refused: ChildrenAboveParent { parent: "a", children: 12 GPUs, quota: 11 GPUs, from: None }
            refused: ChildrenAboveParent { parent: "a", children: 12 GPUs, quota: 11 GPUs, from: Some(5400000ms) }
            refused: Calendar(DatedQuotasOverlap { tenant: "a/x", from: 3600000ms, until: Some(7200000ms) })
            a/x is to have 2 from +7200s until +14400s
            refused: Calendar(DatedQuotasOverlap { tenant: "a/x", from: 7200000ms, until: Some(14400000ms) })
            refused: Calendar(EndsBeforeItBegins { from: 21600000ms, until: 18000000ms })
            dated quota of a/x begins
            dated quota of a/y begins"#]],
    );
}
