//! When it pays to take back what was lent, and when it waits for the deadline.

use expect_test::expect;

use super::check;

#[test]
fn a_young_borrower_goes_at_once() {
    check(
        "
        node   n0 gpus=8
        tenant prod quota=8 | dev quota=0
        run    dev/a 1x8 on n0 limit=10h
        tick   10m
        queued prod/p 1x8
        cycle                  # 10 min and a restart are lost, p would wait 10 h
        ",
        expect![[r#"
            promise prod/p -> n0[0-7] by +150s
            stop dev/a: Evicted for prod/p
            blocked p: ReclaimPending { gpu, want: 8, free: 0, due +150s }"#]],
    );
}

#[test]
fn who_is_nearly_done_is_let_be_until_the_deadline() {
    check(
        "
        node   n0 gpus=8
        tenant prod quota=8 within=2h | dev quota=0
        run    dev/a 1x8 on n0 limit=10h
        tick   6h
        queued prod/p 1x8
        cycle                  # 6 h would be lost, and a is over in 4 h at the latest
        tick   1h
        cycle
        tick   57m
        cycle
        tick   1m
        cycle                  # early enough that a is gone by the deadline
        ",
        expect![[r#"
            blocked p: TooDear { gpu, want: 8, GPU-seconds lost 180000, saved 115680, until +7050s }
            blocked p: TooDear { gpu, want: 8, GPU-seconds lost 208800, saved 86880, until +3450s }
            blocked p: TooDear { gpu, want: 8, GPU-seconds lost 236160, saved 59520, until +30s }
            promise prod/p -> n0[0-7] by +150s
            stop dev/a: Evicted for prod/p
            blocked p: ReclaimPending { gpu, want: 8, free: 0, due +150s }"#]],
    );
}

#[test]
fn what_is_saved_counts_against_a_borrower_no_more() {
    check(
        "
        node   n0 n1 gpus=8
        tenant prod quota=16 within=2h | dev quota=0
        run    dev/a 1x8 on n0 limit=10h
        tick   1m
        run    dev/b 1x8 on n1 limit=10h
        tick   6h
        checkpoint a 40
        tick   10m
        queued prod/p 1x8
        cycle                  # b is younger, but a has saved its work
        ",
        expect![[r#"
            checkpoint dev/a 40
            promise prod/p -> n0[0-7] by +150s
            stop dev/a: Evicted for prod/p
            blocked p: ReclaimPending { gpu, want: 8, free: 0, due +150s }"#]],
    );
}

#[test]
fn a_small_job_is_not_worth_a_large_gang() {
    check(
        "
        node   n0 n1 gpus=8
        tenant prod quota=1 within=20h | dev quota=0
        run    dev/big 2x8 on n0 n1 limit=10h
        tick   2h
        queued prod/p 1x1
        cycle                  # 16 GPUs x (2 h and a restart) against 1 GPU x 8 h
        queued prod/q 1x1      # another of its class changes nothing
        cycle
        tick   7h
        cycle
        ",
        expect![[r#"
            blocked p: TooDear { gpu, want: 1, GPU-seconds lost 129600, saved 28860, until +71850s }
            blocked p: TooDear { gpu, want: 1, GPU-seconds lost 129600, saved 28860, until +28890s }
            blocked q: TooDear { gpu, want: 1, GPU-seconds lost 129600, saved 28860, until +28890s }
            blocked p: TooDear { gpu, want: 1, GPU-seconds lost 532800, saved 3660, until +3690s }
            blocked q: TooDear { gpu, want: 1, GPU-seconds lost 532800, saved 3660, until +3690s }"#]],
    );
}

#[test]
fn without_a_deadline_patience_has_an_end_as_well() {
    check(
        "
        node   n0 gpus=8
        tenant prod quota=8 | dev quota=0
        run    dev/a 1x8 on n0 limit=100h
        tick   60h
        queued prod/p 1x8
        cycle
        tick   24h
        cycle
        ",
        expect![[r#"
            blocked p: TooDear { gpu, want: 8, GPU-seconds lost 1735200, saved 1152480, until +86400s }
            promise prod/p -> n0[0-7] by +150s
            stop dev/a: Evicted for prod/p
            blocked p: ReclaimPending { gpu, want: 8, free: 0, due +150s }"#]],
    );
}

#[test]
fn a_higher_class_of_the_own_tenant_does_not_wait_for_it() {
    check(
        "
        node   n0 gpus=8
        tenant prod quota=8 within=2h | dev quota=0
        run    dev/a 1x7 on n0 limit=10h
        run    prod/low 1x1 on n0 prio=low
        tick   6h
        queued prod/p 1x1
        cycle                  # a is too dear, low is not
        ",
        expect![[r#"
            promise prod/p -> n0[7] by +150s
            stop prod/low: Evicted for prod/p
            blocked p: ReclaimPending { gpu, want: 1, free: 0, due +150s }"#]],
    );
}
