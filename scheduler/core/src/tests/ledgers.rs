//! Budgets, caps and checkpoints by example.

use expect_test::expect;

use super::check;

#[test]
fn a_budget_counts_what_is_committed_and_the_rest_scavenges() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=16 budget=16/24h | b quota=0
        queued a/p 1x8 limit=1h | a/q 1x8 limit=1h
        cycle                  # 16 GPU-hours are committed
        prepared p
        started p
        prepared q
        started q
        budget a
        tick   30m
        exit   p 0
        budget a               # 4 are spent, 4 are free again
        queued a/r 1x8 limit=1h | a/s 1x8 limit=1h fixed | a/t 1x4 limit=1h
        cycle                  # r does not fit: it comes last, as a scavenger; t fits
        explain s
        usage  a
        ",
        expect![[r#"
            place a/p -> n0[0-7]
            place a/q -> n1[0-7]
            budget a: 16 GPU-hours until +86400s: spent 0, committed 16, left 0, refunded 0, carried 0, unspent 0
            over a/p: Completed
            end a/p: Completed
            budget a: 16 GPU-hours until +84600s: spent 4, committed 8, left 4, refunded 0, carried 0, unspent 0
            place a/t -> n0[0-3]
            blocked r: OverBudget { a, left: 0, want: 28800 GPU-seconds, until +84600s }
            blocked s: OverBudget { a, left: 0, want: 28800 GPU-seconds, until +84600s }
            explain s:
              OverBudget { a, left: 0, want: 28800 GPU-seconds, until +84600s }
              BehindReservation { gpu, of a/r, idle: 0, until +1890s }
              NotEnoughGpus { gpu, want: 8, free: 4 }
              rank a 1/1 (12 of 16), normal, user 1/1 (12047), age 0s
              waits for a/t (4) ToItsEnd until +3810s
              room by +3810s
            usage a: used 12, fixed 0, borrowed 0; GPU-seconds own 14400, borrowed 0"#]],
    );
}

#[test]
fn a_fixed_job_over_budget_speaks_for_itself_alone() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=8 budget=4/24h
        queued a/long 1x4 limit=2h fixed | a/short 1x4 limit=1h fixed
        cycle                  # alike but for the limit: 8 GPU-hours do not fit, 4 do
        explain long
        prepared short
        started short
        tick   15m
        exit   short 0
        queued a/next 1x2 limit=1h fixed
        cycle                  # 3 are left: next takes 2 of them
        ",
        expect![[r#"
            place a/short -> n0[0-3]
            blocked long: OverBudget { a, left: 0, want: 28800 GPU-seconds, until +86400s }
            explain long:
              OverBudget { a, left: 0, want: 28800 GPU-seconds, until +86400s }
              rank a 1/1 (4 of 8), normal, user 1/1 (4000), age 0s
              starts now with preemptible
            over a/short: Completed
            end a/short: Completed
            place a/next -> n0[0-1]
            blocked long: OverBudget { a, left: 3600, want: 28800 GPU-seconds, until +85500s }"#]],
    );
}

#[test]
fn who_is_inside_its_budget_takes_from_scavengers() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=8 | a/x quota=4 budget=1/24h | a/y quota=4
        queued a/x/s 1x8 limit=1h
        cycle
        prepared s
        started s
        queued a/y/p 1x4 limit=1h
        cycle
        exit   s sig15
        cycle
        ",
        expect![[r#"
            place a/x/s -> n0[0-7], scavenging
            promise a/y/p -> n0[0-3] by +150s
            stop a/x/s: Evicted for a/y/p
            blocked p: ReclaimPending { gpu, want: 4, free: 0, due +150s }
            over a/x/s: Evicted
            again a/x/s at the front
            place a/y/p -> n0[0-3]
            blocked s: OverBudget { a/x, left: 3600, want: 28800 GPU-seconds, until +86400s }"#]],
    );
}

#[test]
fn a_period_ends_and_what_was_left_is_brought_over_by_hand() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=8 budget=10/2h
        queued a/p 1x2 limit=2h fixed
        cycle
        prepared p
        started p
        tick   90m
        queued a/q 1x2 limit=3h
        queued a/r 1x2 limit=1h fixed
        cycle                  # 4 of 10 are committed: 3 hours of q are 6, and then r does not fit
        prepared q
        started q
        budget a
        tick   30m
        exit   p 0
        budget a               # p used 4 in the old period; q has used 1 in it and may use 5 in the new one
        carry  a hours=20
        carry  a hours=4
        carry  b
        budget a
        cycle                  # r fits now
        prepared r
        started r
        tick   1h
        exit   r 0
        budget a
        quota  a budget=none
        budget a
        ",
        expect![[r#"
            place a/p -> n0[0-1]
            place a/q -> n0[2-3]
            blocked r: OverBudget { a, left: 0, want: 7200 GPU-seconds, until +1800s }
            budget a: 10 GPU-hours until +1800s: spent 0, committed 10, left 0, refunded 0, carried 0, unspent 0
            next budget period of a
            over a/p: Completed
            end a/p: Completed
            budget a: 10 GPU-hours until +7200s: spent 0, committed 5, left 5, refunded 0, carried 0, unspent 5
            refused: NothingToCarry { tenant: "a", want: 72000000GPUms, unspent: 18000000GPUms }
            carried 4 GPU-hours for a
            refused: UnknownTenant { name: "b" }
            budget a: 10 GPU-hours until +7200s: spent 0, committed 5, left 9, refunded 0, carried 4, unspent 1
            place a/r -> n0[0-1]
            forget p
            over a/r: Completed
            end a/r: Completed
            budget a: 10 GPU-hours until +3600s: spent 2, committed 5, left 7, refunded 0, carried 4, unspent 1
            changed a
            budget a: none"#]],
    );
}

#[test]
fn what_hardware_destroys_is_refunded() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=8 budget=100/24h
        queued a/p 1x8 limit=4h
        cycle
        prepared p
        started p
        tick   1h
        checkpoint p 100
        checkpoint p 90
        tick   1h
        lose   n0
        confirm-dead n0
        budget a               # 8 of 16 GPU-hours were after the last checkpoint
        ",
        expect![[r#"
            place a/p -> n0[0-7]
            checkpoint a/p 100
            n0 is Lost
            proven dead a/p.0
            over a/p: NodeLost
            again a/p at the front
            budget a: 100 GPU-hours until +79200s: spent 8, committed 0, left 92, refunded 8, carried 0, unspent 0"#]],
    );
}

#[test]
fn a_user_may_have_so_much_and_no_more() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=16 user-gpus=6 | a/x quota=8 user-jobs=2 user-submitted=4 | a/y quota=8 job-gpus=4 job-time=2h
        queued a/x/p 1x2 | a/x/q 1x2 | a/x/r 1x1 user=lee
        submit a/x/s 1x1 | a/x/t 1x1 | a/x/u 1x1
        submit a/x/s 1x1 | a/x/t 1x1
        submit a/y/v 1x8
        submit a/y/v 1x2 limit=3h
        submit a/y/v 1x4 limit=1h
        cycle                  # s and t: kim runs two; v: kim would hold 8; r is lee's
        explain s
        explain v
        exit   p 0
        cycle                  # one more may run, of the older class; v still is too much
        quota  a no-caps
        cycle
        ",
        expect![[r#"
            refused job 2: OverUserSubmitted { tenant: "a/x", submitted: 4, limit: 4 }
            submit a/x/s
            submit a/x/t
            refused job 0: OverJobGpus { tenant: "a/y", want: 8 GPUs, limit: 4 GPUs }
            refused job 0: OverJobTime { tenant: "a/y", limit: 10800000ms, longest: 7200000ms }
            submit a/y/v
            place a/x/p -> n0[0-1]
            place a/y/v -> n0[2-5]
            place a/x/r -> n0[6]
            blocked q: OverUserGpus { a, limit: 6, used: 6, want: 2 }
            blocked s: OverUserGpus { a, limit: 6, used: 6, want: 1 }
            blocked t: OverUserGpus { a, limit: 6, used: 6, want: 1 }
            explain s:
              OverUserGpus { a, limit: 6, used: 6, want: 1 }
              rank a 1/1 (7 of 16), a/x 1/1 (3 of 8), normal, user 1/1 (2000), age 0s
            explain v:
            over a/x/p: Completed
            end a/x/p: Completed
            place a/x/q -> n0[0-1]
            blocked s: OverUserGpus { a, limit: 6, used: 6, want: 1 }
            blocked t: OverUserGpus { a, limit: 6, used: 6, want: 1 }
            changed a
            place a/x/s -> n0[7]
            blocked t: OverUserJobs { a/x, limit: 2, running: 2 }"#]],
    );
}

#[test]
fn who_saved_its_work_loses_least() {
    check(
        "
        node   n0 n1 gpus=8
        tenant prod quota=8 | dev quota=0
        run    dev/old 1x8 on n0
        tick   2h
        run    dev/young 1x8 on n1
        tick   30m
        checkpoint old 7
        tick   10m
        queued prod/p 1x8
        cycle                  # old has saved all but ten minutes, young would lose forty
        ",
        expect![[r#"
            checkpoint dev/old 7
            promise prod/p -> n0[0-7] by +150s
            stop dev/old: Evicted for prod/p
            blocked p: ReclaimPending { gpu, want: 8, free: 0, due +150s }"#]],
    );
}

#[test]
fn who_was_refused_as_a_scavenger_starts_when_it_is_paid_for() {
    check(
        "
        node   n0 gpus=4
        tenant a quota=4 budget=4/1h lend=0 within=1s
        queued a/p 1x2 limit=2h
        cycle
        prepared p
        started p
        queued a/q 1x2 limit=1h
        cycle                  # 4 of 4 are committed, and nobody lends to a scavenger
        tick   1h
        cycle                  # a new period: p may use 2 of it, and q the others
        ",
        expect![[r#"
            place a/p -> n0[0-1]
            blocked q: OverBudget { a, left: 0, want: 7200 GPU-seconds, until +3600s }
            next budget period of a
            place a/q -> n0[2-3]"#]],
    );
}
