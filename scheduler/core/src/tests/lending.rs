//! What is lent comes back in time: slow borrowers and lenders that cannot wait.

use expect_test::expect;

use super::check;

#[test]
fn who_returns_late_borrows_only_of_those_who_can_wait() {
    check(
        "
        node   n0 n1 n2 gpus=8
        tenant a quota=8 within=5m | b quota=8 within=2h | slow quota=4 min-run=30m | fast quota=4
        queued slow/s 1x4 array=4
        queued fast/f 1x4 array=4
        cycle                  # slow has its own 4 and may borrow the 8 of b; the 8 of a are for fast
        explain s
        usage  slow
        ",
        expect![[r#"
            place slow/s[0] -> n0[0-3]
            place fast/f[0] -> n0[4-7]
            place slow/s[1] -> n1[0-3], borrowed
            place fast/f[1] -> n1[4-7], borrowed
            place slow/s[2] -> n2[0-3], borrowed
            place fast/f[2] -> n2[4-7], borrowed
            blocked s: LentTooLong { gpu, deadline: 300s, lendable: 8, lent: 12, want: 4 }
            blocked f: NotEnoughGpus { gpu, want: 4, free: 0 }
            explain s:
              LentTooLong { gpu, deadline: 300s, lendable: 8, lent: 12, want: 4 }
              NotEnoughGpus { gpu, want: 4, free: 0 }
              Reserved { gpu, want: 4, idle: 0, from +86610s }
              rank slow 1/2 (above quota 8000/1), normal, user 1/1 (12000), age 0s
              waits for slow/s[0] (4) ToItsEnd until +86610s
              room by +86610s
            usage slow: used 12, fixed 0, borrowed 8; GPU-seconds own 0, borrowed 0"#]],
    );
}

#[test]
fn a_lender_takes_back_its_own_before_it_takes_anothers() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=8 within=5m | b quota=8 within=2h | slow quota=0 min-run=30m
        run    slow/s 1x8 on n0
        queued b/p 1x4
        cycle                  # 8 GPUs are idle: a's, who cannot wait for slow; b takes back what it lent itself
        tick   30m
        cycle
        exit   s sig15
        cycle
        queued a/q 1x8
        cycle                  # and a has all of its own at once
        ",
        expect![[r#"
            blocked p: MinimumRun { gpu, want: 4, until +1800s }
            promise b/p -> n0[0-3] by +150s
            stop slow/s: Evicted for b/p
            blocked p: ReclaimPending { gpu, want: 4, free: 0, due +150s }
            over slow/s: Evicted
            again slow/s at the front
            place b/p -> n0[0-3]
            blocked s: LentTooLong { gpu, deadline: 300s, lendable: 4, lent: 8, want: 8 }
            place a/q -> n1[0-7]
            blocked s: LentTooLong { gpu, deadline: 300s, lendable: 4, lent: 8, want: 8 }"#]],
    );
}

#[test]
fn an_overhang_is_nobodys_to_lend() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=8 within=5m | b quota=8 within=2h | slow quota=0 min-run=30m
        run    b/fixed 1x8 on n0 fixed
        quota  b quota=4
        quota  slow quota=4
        queued slow/s 1x4 | slow/t 1x4
        cycle                  # s is inside quota, but b holds 4 of it for good: t would be a's
        quota  b quota=8 within=2h
        ",
        expect![[r#"
            changed b
            changed slow
            place slow/s -> n1[0-3]
            blocked t: LentTooLong { gpu, deadline: 300s, lendable: 0, lent: 4, want: 4 }
            changed b"#]],
    );
}

#[test]
fn a_node_that_does_not_stop_in_time_is_emptied() {
    check(
        "
        node   n0 n1 gpus=8
        tenant prod quota=8 | dev quota=0
        run    dev/a 1x8 on n0 grace=10s
        tick   1s
        run    dev/b 1x8 on n1 grace=10s
        queued prod/p 1x8
        cycle
        tick   130s
        cycle                  # b hangs: its node gets nothing new, and a goes instead
        exit   a sig15
        cycle
        exit   b sig15
        queued dev/c 1x8
        cycle
        ",
        expect![[r#"
            promise prod/p -> n1[0-7] by +130s
            stop dev/b: Evicted for prod/p
            blocked p: ReclaimPending { gpu, want: 8, free: 0, due +130s }
            promise dropped prod/p: Late
            n1 is draining
            promise prod/p -> n0[0-7] by +130s
            stop dev/a: Evicted for prod/p
            blocked p: ReclaimPending { gpu, want: 8, free: 0, due +130s }
            over dev/a: Evicted
            again dev/a at the front
            place prod/p -> n0[0-7]
            blocked a: NotEnoughGpus { gpu, want: 8, free: 0 }
            over dev/b: Evicted
            again dev/b at the front
            blocked a: NotEnoughGpus { gpu, want: 8, free: 0 }
            blocked b: NotEnoughGpus { gpu, want: 8, free: 0 }
            blocked c: NotEnoughGpus { gpu, want: 8, free: 0 }"#]],
    );
}

#[test]
fn who_was_told_before_the_claim_is_gone_by_its_own_bound() {
    check(
        "
        node   n0 gpus=8
        tenant b quota=2 within=20m | c quota=2 within=4m | d quota=0 min-run=2m
        run    d/s 1x2 on n0 | d/t 1x2 on n0
        queued b/p 1x2
        tick   2m
        bad    n0 4-7          # nothing else is idle
        cycle                  # both are told, and have 150 s: what is left of the node is b's and c's
        tick   2m
        queued c/q 1x2
        cycle                  # what t leaves is promised to c: its 150 s began two minutes ago
        tick   29s
        exit   t sig15
        exit   s sig15
        cycle                  # both lenders have theirs
        ",
        expect![[r#"
            fenced n0[4-7]
            promise b/p -> n0[0-1] by +150s
            stop d/t: Evicted for b/p
            stop d/s: Evicted for b/p
            blocked p: ReclaimPending { gpu, want: 2, free: 0, due +150s }
            promise c/q -> n0[2-3] by +150s
            blocked p: ReclaimPending { gpu, want: 2, free: 0, due +30s }
            blocked q: ReclaimPending { gpu, want: 2, free: 0, due +150s }
            over d/t: Evicted
            again d/t at the front
            over d/s: Evicted
            again d/s at the front
            place b/p -> n0[0-1]
            place c/q -> n0[2-3]
            blocked s: LentTooLong { gpu, deadline: 240s, lendable: 0, lent: 2, want: 2 }
            blocked t: LentTooLong { gpu, deadline: 240s, lendable: 0, lent: 2, want: 2 }"#]],
    );
}

#[test]
fn what_a_fixed_start_pushes_out_of_the_quota_is_lent_as_well() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=2 within=5m | slow quota=4 lend=0 min-run=30m
        queued slow/own 1x3
        cycle
        queued slow/f 1x2 fixed
        cycle                  # inside its quota, but then own would be borrowed whole, and only 2 are in nobody's quota
        explain f
        ",
        expect![[r#"
            place slow/own -> n0[0-2]
            blocked f: LentTooLong { gpu, deadline: 300s, lendable: 2, lent: 3, want: 2 }
            explain f:
              LentTooLong { gpu, deadline: 300s, lendable: 2, lent: 3, want: 2 }
              Reserved { gpu, want: 2, idle: 0, from +86610s }
              rank slow 1/1 (3 of 4), normal, user 1/1 (3000), age 0s
              starts now with 1 GPUs per member
              starts now with preemptible"#]],
    );
}
