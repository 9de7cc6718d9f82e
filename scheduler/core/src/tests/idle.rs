//! Allocations whose GPUs do no work: notice, then what the tenant chose.

use expect_test::expect;

use super::check;

#[test]
fn a_notice_comes_first_and_then_what_the_tenant_chose() {
    check(
        "
        node   n0 gpus=8
        tenant m quota=8 idle=30m/5m/cancel | m/hard | m/kind idle=30m/5m/requeue | m/free idle=1h/0s/ignore
        run    m/hard/a 1x2 on n0 | m/kind/b 1x2 on n0 | m/free/c 1x2 on n0
        tick   29m
        no-work a for=29m      # too early for a word
        tick   1m
        no-work a for=30m
        no-work b for=30m
        no-work c for=30m
        no-work a for=30m      # once is enough
        tick   4m
        no-work a for=34m
        tick   1m
        no-work a for=35m
        no-work b for=35m
        exit   a sig15
        exit   b sig15
        ",
        expect![[r#"
            idle m/hard/a for 1800 s: Cancel at +300s
            idle m/kind/b for 1800 s: Requeue at +300s
            stop m/hard/a: Idle
            stop m/kind/b: Idle
            over m/hard/a: Idle
            end m/hard/a: Idle
            over m/kind/b: Idle
            again m/kind/b +2s"#]],
    );
}

#[test]
fn work_withdraws_the_notice_and_a_late_word_is_no_work() {
    check(
        "
        node   n0 gpus=8
        tenant m quota=8 idle=30m/5m/cancel
        run    m/a 1x8 on n0
        tick   40m
        no-work a for=30m
        tick   1m
        no-work a for=25m      # the same idling, told with a delay of its agent
        tick   4m
        no-work a for=2m       # it has worked since
        tick   10m
        no-work a for=12m
        tick   20m
        no-work a for=32m
        tick   5m
        no-work a for=1s
        ",
        expect![[r#"
            idle m/a for 1800 s: Cancel at +300s
            busy m/a
            idle m/a for 1920 s: Cancel at +300s
            busy m/a"#]],
    );
}

#[test]
fn what_it_did_before_it_ran_does_not_count_and_no_rule_is_no_notice() {
    check(
        "
        node   n0 gpus=8
        tenant m quota=8 idle=30m/5m/notify | other
        queued m/a 1x4 | other/b 1x4
        cycle
        prepared a
        prepared b
        tick   2m
        no-work a for=1m       # it waits at the barrier, or loads its image
        started a
        started b
        tick   29m
        no-work a for=31m
        no-work b for=31m
        tick   1m
        no-work a for=32m
        no-work b for=32m
        tick   10m
        no-work a for=42m      # told is told: notify is no more than that
        tick   1m
        quota  m idle=1s/5m/notify
        ",
        expect![[r#"
            place m/a -> n0[0-3]
            place other/b -> n0[4-7], borrowed
            stop m/a: LaunchDeadline
            stop other/b: LaunchDeadline
            refused: IdleTooShort { after: 1000ms, shortest: 5000ms }"#]],
    );
}
