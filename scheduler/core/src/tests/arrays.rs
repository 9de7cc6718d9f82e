//! Arrays: one object until an index starts.

use expect_test::expect;

use super::check;

#[test]
fn a_cap_bounds_what_is_under_way() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=8
        queued a/x 1x1 array=4%2
        queued a/next 1x1 after=ok:x
        cycle
        why    x
        started x[0]
        exit   x[0] 0
        cycle
        exit   x[1] 0
        exit   x[2] 0
        cycle
        exit   x[3] 0
        cycle
        ",
        expect![[r#"
            place a/x[0] -> n0[0]
            place a/x[1] -> n0[1]
            blocked x: ArrayCap { cap: 2 }
            blocked next: Dependencies { open: 1 }
            why x: Waiting: ArrayCap { cap: 2 }
            over a/x[0]: Completed
            end a/x[0]: Completed
            place a/x[2] -> n0[0]
            blocked x: ArrayCap { cap: 2 }
            blocked next: Dependencies { open: 1 }
            over a/x[1]: Completed
            end a/x[1]: Completed
            over a/x[2]: Completed
            end a/x[2]: Completed
            place a/x[3] -> n0[0]
            blocked next: Dependencies { open: 1 }
            over a/x[3]: Completed
            end a/x[3]: Completed
            end a/x: Completed
            place a/next -> n0[0]"#]],
    );
}

#[test]
fn one_failed_index_fails_the_array() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=8
        queued a/x 1x4 array=2
        queued a/ok 1x1 after=ok:x | a/any 1x1 after=any:x
        cycle
        exit   x[1] 0
        exit   x[0] 1
        cycle
        ",
        expect![[r#"
            place a/x[0] -> n0[0-3]
            place a/x[1] -> n0[4-7]
            blocked ok: Dependencies { open: 1 }
            blocked any: Dependencies { open: 1 }
            over a/x[1]: Completed
            end a/x[1]: Completed
            over a/x[0]: Failed
            end a/x[0]: Failed
            end a/x: Failed
            end a/ok: DependencyFailed
            place a/any -> n0[0]"#]],
    );
}

#[test]
fn cancel_stops_the_array_and_its_indices() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=8
        queued a/x 1x4 array=9
        queued a/y 1x4 array=9 held
        cycle
        cancel y
        cancel x[0]
        exit   x[0] sig15
        cycle
        cancel x
        exit   x[1] sig15
        exit   x[2] sig15
        cancel x
        ",
        expect![[r#"
            place a/x[0] -> n0[0-3]
            place a/x[1] -> n0[4-7]
            blocked x: NotEnoughGpus { gpu, want: 4, free: 0 }
            blocked y: Held
            stop array a/y
            end a/y: Cancelled
            stop a/x[0]: Cancelled
            over a/x[0]: Cancelled
            end a/x[0]: Cancelled
            place a/x[2] -> n0[0-3]
            blocked x: NotEnoughGpus { gpu, want: 4, free: 0 }
            stop array a/x
            stop a/x[1]: Cancelled
            stop a/x[2]: Cancelled
            over a/x[1]: Cancelled
            end a/x[1]: Cancelled
            over a/x[2]: Cancelled
            end a/x[2]: Cancelled
            end a/x: Cancelled"#]],
    );
}

#[test]
fn a_held_array_starts_no_further_index() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=8
        queued a/x 1x4 array=3
        cycle
        hold   x
        exit   x[0] 0
        cycle
        release x
        cycle
        ",
        expect![[r#"
            place a/x[0] -> n0[0-3]
            place a/x[1] -> n0[4-7]
            blocked x: NotEnoughGpus { gpu, want: 4, free: 0 }
            hold a/x
            over a/x[0]: Completed
            end a/x[0]: Completed
            blocked x: Held
            release a/x
            place a/x[2] -> n0[0-3]"#]],
    );
}

#[test]
fn an_index_that_lost_its_node_goes_first() {
    check(
        "
        node   n0 n1 gpus=4
        tenant a quota=8
        queued a/x 1x4 array=9
        cycle
        started x[0]
        return n0 boot=b2
        cycle
        ",
        expect![[r#"
            place a/x[0] -> n0[0-3]
            place a/x[1] -> n1[0-3]
            blocked x: NotEnoughGpus { gpu, want: 4, free: 0 }
            n0 rebooted as b2
            proven dead a/x[0].0
            over a/x[0]: NodeLost
            again a/x[0] at the front
            place a/x[0] -> n0[0-3] (attempt 2)
            blocked x: NotEnoughGpus { gpu, want: 4, free: 0 }"#]],
    );
}
