//! Deadlines are for those who could hear of them: after an absence of the scheduler, or of an agent, they begin anew.

use expect_test::expect;

use super::check;

#[test]
fn after_an_absence_what_is_waited_for_gets_its_time_anew() {
    check(
        "
        node   n0 n1 gpus=8
        tenant prod quota=8 | dev quota=0
        run    dev/b 1x8 on n1 grace=10s
        run    dev/a 1x8 on n0 grace=10s
        queued prod/p 1x8
        cycle
        tick   200s
        back
        cycle                  # nobody is to blame for what nobody told it
        return n0
        tick   60s
        return n0              # its agent was gone: it hears of the stop now
        tick   129s
        cycle
        tick   1s
        cycle                  # told, heard all the time, and late
        ",
        expect![[r#"
            promise prod/p -> n0[0-7] by +130s
            stop dev/a: Evicted for prod/p
            blocked p: ReclaimPending { gpu, want: 8, free: 0, due +130s }
            deadlines are counted anew
            promise renewed prod/p by +130s
            blocked p: ReclaimPending { gpu, want: 8, free: 0, due +130s }
            promise renewed prod/p by +130s
            blocked p: ReclaimPending { gpu, want: 8, free: 0, due +1s }
            promise dropped prod/p: Late
            n0 is draining
            promise prod/p -> n1[0-7] by +130s
            stop dev/b: Evicted for prod/p
            blocked p: ReclaimPending { gpu, want: 8, free: 0, due +130s }"#]],
    );
}

#[test]
fn an_agent_that_connects_again_and_again_does_not_put_a_promise_off_for_ever() {
    check(
        "
        node   n0 n1 gpus=8
        tenant prod quota=8 | dev quota=0
        run    dev/b 1x8 on n1 grace=10s
        run    dev/a 1x8 on n0 grace=10s
        queued prod/p 1x8
        cycle                  # 130 s; at most four times that
        tick   129s
        return n0
        tick   129s
        return n0
        tick   129s
        return n0              # 387 s have passed: 133 are left
        tick   1s
        return n0
        tick   2s
        return n0
        tick   100s
        return n0              # 490 s: it stays at 520
        tick   29s
        return n0
        cycle
        tick   1s
        cycle
        ",
        expect![[r#"
            promise prod/p -> n0[0-7] by +130s
            stop dev/a: Evicted for prod/p
            blocked p: ReclaimPending { gpu, want: 8, free: 0, due +130s }
            promise renewed prod/p by +130s
            promise renewed prod/p by +130s
            promise renewed prod/p by +130s
            promise renewed prod/p by +130s
            promise renewed prod/p by +130s
            blocked p: ReclaimPending { gpu, want: 8, free: 0, due +1s }
            promise dropped prod/p: Late
            n0 is draining
            promise prod/p -> n1[0-7] by +130s
            stop dev/b: Evicted for prod/p
            blocked p: ReclaimPending { gpu, want: 8, free: 0, due +130s }"#]],
    );
}

#[test]
fn schedulers_that_come_back_again_and_again_do_not_put_a_promise_off_for_ever() {
    check(
        "
        node   n0 n1 gpus=8
        tenant prod quota=8 | dev quota=0
        run    dev/b 1x8 on n1 grace=10s
        run    dev/a 1x8 on n0 grace=10s
        queued prod/p 1x8
        cycle                  # 130 s; at most four times that
        tick   129s
        back
        tick   129s
        back
        tick   1s
        return n0              # an agent takes of the same
        tick   128s
        back                   # 387 s have passed: nothing is left, it stays at 517
        tick   100s
        back
        return n0
        tick   29s
        back
        cycle
        tick   1s
        cycle
        ",
        expect![[r#"
            promise prod/p -> n0[0-7] by +130s
            stop dev/a: Evicted for prod/p
            blocked p: ReclaimPending { gpu, want: 8, free: 0, due +130s }
            deadlines are counted anew
            promise renewed prod/p by +130s
            deadlines are counted anew
            promise renewed prod/p by +130s
            promise renewed prod/p by +130s
            deadlines are counted anew
            promise renewed prod/p by +130s
            deadlines are counted anew
            deadlines are counted anew
            blocked p: ReclaimPending { gpu, want: 8, free: 0, due +1s }
            promise dropped prod/p: Late
            n0 is draining
            promise prod/p -> n1[0-7] by +130s
            stop dev/b: Evicted for prod/p
            blocked p: ReclaimPending { gpu, want: 8, free: 0, due +130s }"#]],
    );
}

#[test]
fn a_scheduler_that_was_away_blames_nobody_for_what_it_did_not_hear() {
    check(
        "
        node   n0 gpus=8
        tenant prod quota=8 | dev quota=0
        run    dev/a 1x8 on n0 grace=10s
        queued prod/p 1x8
        cycle
        tick   129s
        return n0
        tick   1000s
        back
        cycle
        tick   129s
        return n0              # counted from when the scheduler came back
        cycle
        ",
        expect![[r#"
            promise prod/p -> n0[0-7] by +130s
            stop dev/a: Evicted for prod/p
            blocked p: ReclaimPending { gpu, want: 8, free: 0, due +130s }
            promise renewed prod/p by +130s
            promise renewed prod/p by +130s
            blocked p: ReclaimPending { gpu, want: 8, free: 0, due +130s }
            promise renewed prod/p by +130s
            blocked p: ReclaimPending { gpu, want: 8, free: 0, due +130s }"#]],
    );
}

#[test]
fn under_another_clock_nobody_is_over_a_limit_that_is_not_reached() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=8
        queued a/p 1x2 limit=10m
        queued a/q 1x2 limit=10m
        cycle
        prepared p
        started p
        tick   5s
        away   1h              # the next scheduler's clock, say
        tick   0s
        tick   9m
        tick   1m              # q was to be launched by now, counted from then
        started q
        tick   1h              # p is over its limit, as counted from then, and its shim did not end it
        ",
        expect![[r#"
            place a/p -> n0[0-1]
            place a/q -> n0[2-3]
            deadlines are counted anew
            stop a/q: LaunchDeadline
            stop a/p: TimeLimit"#]],
    );
}

#[test]
fn a_gang_is_late_where_it_still_runs() {
    check(
        "
        node   n0 n1 n2 gpus=4
        tenant prod quota=4 | dev quota=0
        run    dev/a 2x4 on n0 n1 grace=10s
        run    dev/b 1x4 on n2 grace=10s
        queued prod/p 1x4
        cycle
        exit   a.0 0
        tick   130s
        cycle                  # n0 did as it was told
        ",
        expect![[r#"
            promise prod/p -> n0[0-3] by +130s
            stop dev/a: Evicted for prod/p
            blocked p: ReclaimPending { gpu, want: 4, free: 0, due +130s }
            promise dropped prod/p: Late
            n1 is draining
            promise prod/p -> n2[0-3] by +130s
            stop dev/b: Evicted for prod/p
            blocked p: ReclaimPending { gpu, want: 4, free: 0, due +130s }"#]],
    );
}

#[test]
fn after_a_restore_no_attempt_has_the_number_of_a_lost_one() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=8
        submit a/p 1x4 retries=9
        cycle
        exit   p 1
        restored 1             # what was given since the backup is not known
        tick   2s
        cycle
        exit   p 1             # its second try
        tick   5s
        restored 2
        cycle
        submit a/q 1x4
        cycle
        ",
        expect![[r#"
            submit a/p
            place a/p -> n0[0-3]
            over a/p: Failed
            again a/p +2s, own fault
            CountersRestored { next_job: j1000, next_start: 1, skipped_attempts: a1000 }
            eligible a/p
            place a/p -> n0[0-3] (attempt 1001)
            over a/p: Failed
            again a/p +4s, own fault
            eligible a/p
            CountersRestored { next_job: j2000, next_start: 2, skipped_attempts: a2000 }
            place a/p -> n0[0-3] (attempt 2001)
            submit a/q
            place a/q -> n0[4-7] (attempt 2001)"#]],
    );
}
