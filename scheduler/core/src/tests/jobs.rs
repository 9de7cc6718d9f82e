//! Jobs: dependencies, hold, begin, retries, requests, limits of a cycle and of memory.

use expect_test::expect;

use super::check;

#[test]
fn dependencies_let_go_or_end() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=8
        run    a/r 1x1 on n0 | a/s 1x1 on n0
        queued a/ok 1x1 after=ok:r | a/any 1x1 after=any:r | a/notok 1x1 after=notok:r | a/both 1x1 after=ok:r,any:s
        cycle
        exit   r 0
        cycle
        exit   s 1
        cycle
        ",
        expect![[r#"
            blocked ok: Dependencies { open: 1 }
            blocked any: Dependencies { open: 1 }
            blocked notok: Dependencies { open: 1 }
            blocked both: Dependencies { open: 2 }
            over a/r: Completed
            end a/r: Completed
            end a/notok: DependencyFailed
            place a/ok -> n0[0]
            place a/any -> n0[2]
            blocked both: Dependencies { open: 1 }
            over a/s: Failed
            end a/s: Failed
            place a/both -> n0[1]"#]],
    );
}

#[test]
fn a_failure_ends_the_chain_in_order() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=8
        run    a/r 1x1 on n0
        queued a/c2 1x1 after=ok:c1 | a/c1 1x1 after=ok:r | a/c3 1x1 after=ok:c2 | a/tidy 1x1 after=notok:c3
        exit   r 1
        cycle
        ",
        expect![[r#"
            over a/r: Failed
            end a/r: Failed
            end a/c1: DependencyFailed
            end a/c2: DependencyFailed
            end a/c3: DependencyFailed
            place a/tidy -> n0[0]"#]],
    );
}

#[test]
fn dependents_end_in_the_order_of_their_ids() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=8
        run    a/r 1x1 on n0
        queued a/d1 1x1 after=ok:r | a/d2 1x1 after=ok:r | a/d3 1x1 after=ok:r | a/d4 1x1 after=ok:r
        cancel d1              # whoever waited first is gone: that reorders nothing
        exit   r 1
        ",
        expect![[r#"
            end a/d1: Cancelled
            over a/r: Failed
            end a/r: Failed
            end a/d2: DependencyFailed
            end a/d3: DependencyFailed
            end a/d4: DependencyFailed"#]],
    );
}

#[test]
fn dependencies_that_cannot_be() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=8
        run    a/r 1x1 on n0
        exit   r 1
        submit a/x 1x1 after=ok:r
        submit a/x 1x1 after=ok:x
        submit a/x 1x1 after=any:z | a/y 1x1 after=ok:x | a/z 1x1 after=ok:y
        submit a/x 1x1 | a/y 1x1 after=ok:x,notok:x
        submit a/x 1x1 after=any:r,notok:r
        cycle
        ",
        expect![[r#"
            over a/r: Failed
            end a/r: Failed
            refused job 0: DependencyNeverSatisfied { job: j1 }
            refused job 0: DependencyCycle { jobs: [0] }
            refused job 0: DependencyCycle { jobs: [0, 1, 2] }
            refused job 1: DependencyNeverSatisfied { job: j2 }
            submit a/x
            place a/x -> n0[0]"#]],
    );
}

#[test]
fn the_strictest_of_two_dependencies_counts() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=8
        run    a/r 1x1 on n0
        queued a/x 1x1 after=any:r,notok:r | a/y 1x1 after=any:r,ok:r
        exit   r 0
        cycle
        ",
        expect![[r#"
            over a/r: Completed
            end a/r: Completed
            end a/x: DependencyFailed
            place a/y -> n0[0]"#]],
    );
}

#[test]
fn hold_and_release() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=8
        queued a/x 1x1 held | a/y 1x1
        hold   y
        hold   y
        cycle
        release x
        cycle
        release x
        why    y
        cancel y
        hold   y
        ",
        expect![[r#"
            hold a/y
            blocked x: Held
            blocked y: Held
            release a/x
            place a/x -> n0[0]
            blocked y: Held
            refused: WrongPhase { job: j1, phase: "launching", verb: "release" }
            why y: Waiting: Held
            end a/y: Cancelled
            refused: WrongPhase { job: j2, phase: "ended", verb: "hold" }"#]],
    );
}

#[test]
fn not_before() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=8
        queued a/x 1x1 begin=10s | a/y 1x1 begin=10s held
        cycle
        tick   9s
        cycle
        tick   1s
        cycle
        cancel y
        ",
        expect![[r#"
            blocked x: NotBefore +10s
            blocked y: Held
            blocked x: NotBefore +1s
            blocked y: Held
            eligible a/x
            eligible a/y
            place a/x -> n0[0]
            blocked y: Held
            end a/y: Cancelled"#]],
    );
}

#[test]
fn failures_are_retried_with_back_off() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=8
        run    a/x 1x8 on n0 retries=2
        exit   x 1
        cycle
        tick   2s
        cycle
        started x
        exit   x 1
        tick   4s
        cycle
        started x
        exit   x 1
        ",
        expect![[r#"
            over a/x: Failed
            again a/x +2s, own fault
            blocked x: NotBefore +2s
            eligible a/x
            place a/x -> n0[0-7] (attempt 2)
            over a/x: Failed
            again a/x +4s, own fault
            eligible a/x
            place a/x -> n0[0-7] (attempt 3)
            over a/x: Failed
            end a/x: Failed"#]],
    );
}

#[test]
fn a_repeated_request_is_answered_as_before() {
    check(
        "
        policy requests=2
        node   n0 gpus=8
        tenant a quota=8
        request r1 submit a/x 1x1
        request r1 submit a/x 1x1
        request r1 submit a/x 1x2
        request r2 submit b/x 1x1
        request r2 submit a/y 1x1
        request r3 cancel y
        request r1 submit a/z 1x1
        ",
        expect![[r#"
            submit a/x
            answer Submitted { first: j1, count: 1 }
            answer Submitted { first: j1, count: 1 }
            refused: RequestIdReused { id: "r1" }
            refused job 0: UnknownTenant { name: "b" }
            submit a/y
            answer Submitted { first: j2, count: 1 }
            end a/y: Cancelled
            answer Job(j2)
            submit a/z
            answer Submitted { first: j3, count: 1 }"#]],
    );
}

#[test]
fn a_cycle_stops_at_its_limit_and_goes_on() {
    check(
        "
        policy cycle=2
        node   n0 gpus=8
        tenant a quota=8
        queued a/x 1x1 | a/y 1x1 | a/z 1x1
        cycle
        cycle
        ",
        expect![[r#"
            place a/x -> n0[0]
            place a/y -> n0[1]
            blocked z: NotTried
            place a/z -> n0[2]"#]],
    );
}

#[test]
fn cancel_at_every_stage() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=8
        queued a/x 1x2 | a/y 1x2 | a/w 1x1 held | a/d 1x1 after=any:x
        run    a/z 1x2 on n0
        cancel w
        cycle
        prepared x
        started x
        cancel x
        cancel x
        exit   x sig15
        cancel y
        exit   y launch
        exit   z 0
        cancel z
        cycle
        ",
        expect![[r#"
            end a/w: Cancelled
            place a/x -> n0[2-3]
            place a/y -> n0[4-5]
            blocked d: Dependencies { open: 1 }
            stop a/x: Cancelled
            over a/x: Cancelled
            end a/x: Cancelled
            stop a/y: Cancelled
            over a/y: Cancelled
            end a/y: Cancelled
            over a/z: Completed
            end a/z: Completed
            place a/d -> n0[0]"#]],
    );
}

#[test]
fn ended_jobs_are_forgotten() {
    check(
        "
        policy ended=1
        node   n0 gpus=8
        tenant a quota=8
        run    a/x 1x1 on n0 | a/y 1x1 on n0
        queued a/z 1x1 held after=any:y
        exit   y 0
        exit   x 0
        tick   1s
        tick   1h
        ",
        expect![[r#"
            over a/y: Completed
            end a/y: Completed
            over a/x: Completed
            end a/x: Completed
            forget y
            forget x"#]],
    );
}

#[test]
fn what_can_never_run_is_refused() {
    check(
        "
        node   n0 n1 gpus=8 leaf=l0
        node   n2 gpus=8 leaf=l1
        tenant a quota=24 | a/x weight=1
        submit a/x/j 1x9
        submit a/x/j 4x8
        submit a/x/j 5x6
        submit a/x/j 3x8 inside=leaf
        submit a/x/j 0x8
        submit a/x/j 1x0
        submit a/x/j 4+0
        submit a/j 1x1
        submit nobody/j 1x1
        submit a/x/j 1x1 array=0
        submit a/x/j 1x1 array=100001
        submit a/x/j 1x1 prio=godlike
        submit a/x/j 1x1 limit=721h
        submit a/x/j 1x1 | a/x/k 1x9
        ",
        expect![[r#"
            refused job 0: MemberTooLarge { gpus: 9, largest: 8 }
            refused job 0: GangTooLarge { want: 32 GPUs, capacity: 24 GPUs }
            refused job 0: GangTooLarge { want: 30 GPUs, capacity: 24 GPUs }
            refused job 0: GangNeverFits { want: 3, best: 2, level: Some(Leaf) }
            refused job 0: NoMembers
            refused job 0: NoGpus { member: 0 }
            refused job 0: NoGpus { member: 1 }
            refused job 0: TenantHasChildren { name: "a" }
            refused job 0: UnknownTenant { name: "nobody" }
            refused job 0: EmptyArray
            refused job 0: ArrayTooLarge { size: 100001, limit: 100000 }
            refused job 0: UnknownPriority { name: "godlike", known: ["low", "normal", "high", "urgent"] }
            refused job 0: TimeLimitTooLong { limit: 2595600000ms, longest: 2592000000ms }
            refused job 1: MemberTooLarge { gpus: 9, largest: 8 }"#]],
    );
}
