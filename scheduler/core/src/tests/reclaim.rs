//! Taking back what was lent: who is evicted for whom, and who is not.

use expect_test::expect;

use super::check;

#[test]
fn what_was_lent_comes_back() {
    check(
        "
        node   n0 gpus=8
        tenant prod quota=6 | dev quota=2
        run    dev/a 1x2 on n0 | dev/b 1x3 on n0 | dev/c 1x3 on n0
        tick   60s
        queued prod/p 1x4
        cycle                  # the youngest borrowed are not enough alone: b and c go, a is dev's own
        why    p
        exit   c 0
        cycle
        exit   b sig15
        cycle                  # p has what it was promised, and b waits at the front
        usage  dev
        usage  prod
        ",
        expect![[r#"
            promise prod/p -> n0[2-5] by +150s
            stop dev/c: Evicted for prod/p
            stop dev/b: Evicted for prod/p
            blocked p: ReclaimPending { gpu, want: 4, free: 0, due +150s }
            why p: Waiting: ReclaimPending { gpu, want: 4, free: 0, due +150s }
            over dev/c: Evicted
            again dev/c at the front
            blocked c: NotEnoughGpus { gpu, want: 3, free: 2 }
            blocked p: ReclaimPending { gpu, want: 4, free: 1, due +150s }
            over dev/b: Evicted
            again dev/b at the front
            place prod/p -> n0[2-5]
            blocked b: NotEnoughGpus { gpu, want: 3, free: 1 }
            blocked c: NotEnoughGpus { gpu, want: 3, free: 1 }
            usage dev: used 2, fixed 0, borrowed 0; GPU-seconds own 0, borrowed 360
            usage prod: used 4, fixed 0, borrowed 0; GPU-seconds own 0, borrowed 0"#]],
    );
}

#[test]
fn nobody_is_evicted_if_it_does_not_help() {
    check(
        "
        node   n0 n1 gpus=8
        tenant prod quota=8 | dev quota=8
        run    dev/a 1x7 on n0 fixed | dev/b 1x1 on n1 fixed | dev/c 1x7 on n1
        queued prod/p 1x8
        cycle                  # c is borrowed, but a node would not be whole without it
        ",
        expect!["blocked p: Fragmented { gpu, want: 8, reclaimable: 7, until +86490s }"],
    );
}

#[test]
fn fixed_jobs_on_every_node_are_named_with_their_end() {
    check(
        "
        node   n0 n1 n2 gpus=8
        tenant prod quota=3 | dev quota=21
        run    dev/a 1x7 on n0 fixed limit=2h | dev/b 1x7 on n1 fixed limit=3h | dev/c 1x7 on n2 fixed limit=4h
        queued prod/p 1x3      # 3 GPUs are free and its own, one on each node
        cycle
        tick   1h
        cycle
        ",
        expect![[r#"
            blocked p: Fragmented { gpu, want: 3, reclaimable: 0, until +7290s }
            blocked p: Fragmented { gpu, want: 3, reclaimable: 0, until +3690s }"#]],
    );
}

#[test]
fn a_gang_larger_than_the_quota_is_borrowed_whole() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=8 | b quota=8
        run    a/big 2x6 on n0 n1
        usage  a
        queued b/b1 1x8
        cycle                  # all of big goes for b1, one node is enough for it
        ",
        expect![[r#"
            usage a: used 12, fixed 0, borrowed 12; GPU-seconds own 0, borrowed 0
            promise b/b1 -> n0[0-7] by +150s
            stop a/big: Evicted for b/b1
            blocked b1: ReclaimPending { gpu, want: 8, free: 2, due +150s }"#]],
    );
}

#[test]
fn the_least_is_lost() {
    check(
        "
        node   n0 n1 n2 gpus=8
        tenant prod quota=16 | dev quota=8
        run    dev/own 1x8 on n0
        run    dev/old 1x8 on n1
        tick   1h
        run    dev/young 1x4 on n2 | dev/younger 1x4 on n2
        tick   1m
        queued prod/p 1x8
        cycle                  # two young ones cost less than the old one
        ",
        expect![[r#"
            promise prod/p -> n2[0-7] by +150s
            stop dev/younger: Evicted for prod/p
            stop dev/young: Evicted for prod/p
            blocked p: ReclaimPending { gpu, want: 8, free: 0, due +150s }"#]],
    );
}

#[test]
fn a_minimum_run_ends_without_any_event() {
    check(
        "
        node   n0 gpus=8
        tenant prod quota=8 | dev quota=0 min-run=10m
        run    dev/a 1x8 on n0
        tick   1m
        queued prod/p 1x8
        cycle
        tick   8m
        cycle
        tick   1m
        cycle
        ",
        expect![[r#"
            blocked p: MinimumRun { gpu, want: 8, until +540s }
            blocked p: MinimumRun { gpu, want: 8, until +60s }
            promise prod/p -> n0[0-7] by +150s
            stop dev/a: Evicted for prod/p
            blocked p: ReclaimPending { gpu, want: 8, free: 0, due +150s }"#]],
    );
}

#[test]
fn freed_gpus_are_held_for_the_beneficiary() {
    check(
        "
        node   n0 n1 gpus=8
        tenant prod quota=16 | dev quota=0
        run    dev/a 1x8 on n0 | dev/b 1x8 on n1
        queued prod/p 2x8
        cycle
        exit   a sig15
        queued dev/c 1x8 | prod/q 1x1
        cycle                  # n0 is free, and nobody else gets it
        exit   b sig15
        cycle
        ",
        expect![[r#"
            promise prod/p -> n0[0-7] n1[0-7] by +150s
            stop dev/b: Evicted for prod/p
            stop dev/a: Evicted for prod/p
            blocked p: ReclaimPending { gpu, want: 16, free: 0, due +150s }
            over dev/a: Evicted
            again dev/a at the front
            blocked a: NotEnoughGpus { gpu, want: 8, free: 0 }
            blocked p: ReclaimPending { gpu, want: 16, free: 8, due +150s }
            blocked c: NotEnoughGpus { gpu, want: 8, free: 0 }
            blocked q: NotEnoughGpus { gpu, want: 1, free: 0 }
            over dev/b: Evicted
            again dev/b at the front
            place prod/p -> n0[0-7] n1[0-7]
            blocked a: NotEnoughGpus { gpu, want: 8, free: 0 }
            blocked b: NotEnoughGpus { gpu, want: 8, free: 0 }
            blocked c: NotEnoughGpus { gpu, want: 8, free: 0 }
            blocked q: NotEnoughGpus { gpu, want: 1, free: 0 }"#]],
    );
}

#[test]
fn a_promise_is_dropped_with_its_cause() {
    check(
        "
        node   n0 n1 gpus=8
        tenant prod quota=8 | dev quota=0
        run    dev/a 1x8 on n0 | dev/b 1x8 on n1
        queued prod/p 1x8
        cycle
        hold   p
        cycle
        release p
        exit   b sig15
        exit   a 0
        cycle
        prepared b
        started b
        queued prod/q 1x8 | prod/r 1x4
        exit   p 0
        cordon n0
        cycle                  # q gets what b borrows
        resume n0
        cycle
        cordon n1
        cycle                  # n1 is closed
        cancel q
        cycle
        ",
        expect![[r#"
            promise prod/p -> n1[0-7] by +150s
            stop dev/b: Evicted for prod/p
            blocked p: ReclaimPending { gpu, want: 8, free: 0, due +150s }
            promise dropped prod/p: NotWanted
            hold prod/p
            blocked p: Held
            release prod/p
            over dev/b: Evicted
            again dev/b at the front
            over dev/a: Completed
            end dev/a: Completed
            place prod/p -> n0[0-7]
            place dev/b -> n1[0-7], borrowed (attempt 2)
            over prod/p: Completed
            end prod/p: Completed
            n0 is cordoned
            promise prod/q -> n1[0-7] by +150s
            stop dev/b: Evicted for prod/q
            blocked q: ReclaimPending { gpu, want: 8, free: 0, due +150s }
            blocked r: NotEnoughGpus { gpu, want: 4, free: 0 }
            n0 is open
            place prod/r -> n0[0-3], borrowed
            blocked q: ReclaimPending { gpu, want: 8, free: 0, due +150s }
            n1 is cordoned
            promise dropped prod/q: NodeClosed
            blocked q: NotEnoughGpus { gpu, want: 8, free: 4 }
            end prod/q: Cancelled"#]],
    );
}

#[test]
fn who_does_not_stop_in_time_is_not_waited_for() {
    check(
        "
        node   n0 n1 gpus=8
        tenant prod quota=8 | dev quota=0
        run    dev/a 1x8 on n0 grace=10s
        tick   1s
        run    dev/b 1x8 on n1 grace=10s
        queued prod/p 1x8
        cycle
        tick   129s
        cycle
        tick   1s
        cycle                  # b hangs: a goes instead
        ",
        expect![[r#"
            promise prod/p -> n1[0-7] by +130s
            stop dev/b: Evicted for prod/p
            blocked p: ReclaimPending { gpu, want: 8, free: 0, due +130s }
            blocked p: ReclaimPending { gpu, want: 8, free: 0, due +1s }
            promise dropped prod/p: Late
            n1 is draining
            promise prod/p -> n0[0-7] by +130s
            stop dev/a: Evicted for prod/p
            blocked p: ReclaimPending { gpu, want: 8, free: 0, due +130s }"#]],
    );
}

#[test]
fn reclaim_stays_below_the_lowest_common_ancestor() {
    check(
        "
        node   n0 n1 gpus=8
        tenant m quota=8 | m/x quota=4 | m/y quota=4 | other quota=4
        run    m/y/y1 1x4 on n0 | m/y/y2 1x4 on n0 | other/o1 1x8 on n1
        queued m/x/x1 1x4
        cycle                  # m has all that is its own: what y took of x comes back, other's loan does not matter
        ",
        expect![[r#"
            promise m/x/x1 -> n0[4-7] by +150s
            stop m/y/y2: Evicted for m/x/x1
            blocked x1: ReclaimPending { gpu, want: 4, free: 0, due +150s }"#]],
    );
}

#[test]
fn a_lender_takes_everything_back_at_once() {
    check(
        "
        node   n0 n1 gpus=8
        tenant prod quota=16 | dev quota=0
        run    dev/a 1x4 on n0 | dev/b 1x4 on n0 | dev/c 1x4 on n1 | dev/d 1x4 on n1
        queued prod/p 1x4 array=5
        cycle
        exit   a sig15
        exit   b sig15
        exit   c sig15
        exit   d sig15
        cycle
        ",
        expect![[r#"
            promise prod/p[0] -> n1[4-7] by +150s
            stop dev/d: Evicted for prod/p[0]
            promise prod/p[1] -> n1[0-3] by +150s
            stop dev/c: Evicted for prod/p[1]
            promise prod/p[2] -> n0[4-7] by +150s
            stop dev/b: Evicted for prod/p[2]
            promise prod/p[3] -> n0[0-3] by +150s
            stop dev/a: Evicted for prod/p[3]
            blocked p: NotEnoughGpus { gpu, want: 4, free: 0 }
            blocked p[0]: ReclaimPending { gpu, want: 4, free: 0, due +150s }
            blocked p[1]: ReclaimPending { gpu, want: 4, free: 0, due +150s }
            blocked p[2]: ReclaimPending { gpu, want: 4, free: 0, due +150s }
            blocked p[3]: ReclaimPending { gpu, want: 4, free: 0, due +150s }
            over dev/a: Evicted
            again dev/a at the front
            over dev/b: Evicted
            again dev/b at the front
            over dev/c: Evicted
            again dev/c at the front
            over dev/d: Evicted
            again dev/d at the front
            place prod/p[0] -> n1[4-7]
            place prod/p[1] -> n1[0-3]
            place prod/p[2] -> n0[4-7]
            place prod/p[3] -> n0[0-3]
            blocked a: NotEnoughGpus { gpu, want: 4, free: 0 }
            blocked b: NotEnoughGpus { gpu, want: 4, free: 0 }
            blocked c: NotEnoughGpus { gpu, want: 4, free: 0 }
            blocked d: NotEnoughGpus { gpu, want: 4, free: 0 }
            blocked p: NotEnoughGpus { gpu, want: 4, free: 0 }"#]],
    );
}

#[test]
fn evictions_do_not_use_up_the_attempts() {
    check(
        "
        policy attempts=1
        node   n0 gpus=8
        tenant prod quota=8 | dev quota=0
        run    dev/a 1x8 on n0
        queued prod/p 1x8
        cycle
        exit   a sig15
        cycle
        exit   p 0
        cycle
        exit   a 1
        ",
        expect![[r#"
            promise prod/p -> n0[0-7] by +150s
            stop dev/a: Evicted for prod/p
            blocked p: ReclaimPending { gpu, want: 8, free: 0, due +150s }
            over dev/a: Evicted
            again dev/a at the front
            place prod/p -> n0[0-7]
            blocked a: NotEnoughGpus { gpu, want: 8, free: 0 }
            over prod/p: Completed
            end prod/p: Completed
            place dev/a -> n0[0-7], borrowed (attempt 2)
            over dev/a: Failed
            end dev/a: Failed"#]],
    );
}

#[test]
fn a_higher_class_takes_from_a_lower_one_of_its_tenant() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=8 | b quota=0
        run    a/low1 1x4 on n0 prio=low | a/norm 1x4 on n0
        queued a/high 1x4 prio=high | a/norm2 1x4
        cycle                  # norm2 evicts nobody of its own class
        exit   low1 sig15
        cycle
        ",
        expect![[r#"
            promise a/high -> n0[4-7] by +150s
            stop a/norm: Evicted for a/high
            blocked high: ReclaimPending { gpu, want: 4, free: 0, due +150s }
            blocked norm2: NotEnoughGpus { gpu, want: 4, free: 0 }
            over a/low1: Failed
            end a/low1: Failed
            place a/norm2 -> n0[0-3], borrowed
            blocked high: ReclaimPending { gpu, want: 4, free: 0, due +150s }"#]],
    );
}

#[test]
fn who_took_from_others_is_not_taken_from_in_turn() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=4 | b quota=4
        run    b/b1 1x4 on n0 | b/b2 1x4 on n0
        queued a/a1 1x4
        cycle
        exit   b2 sig15
        cycle                  # b2 waits: b has its quota, and a1 is inside a's
        prepared a1
        started a1
        tick   1h
        cycle
        exit   b1 0
        cycle                  # now b2 is inside b's
        ",
        expect![[r#"
            promise a/a1 -> n0[4-7] by +150s
            stop b/b2: Evicted for a/a1
            blocked a1: ReclaimPending { gpu, want: 4, free: 0, due +150s }
            over b/b2: Evicted
            again b/b2 at the front
            place a/a1 -> n0[4-7]
            blocked b2: NotEnoughGpus { gpu, want: 4, free: 0 }
            blocked b2: NotEnoughGpus { gpu, want: 4, free: 0 }
            over b/b1: Completed
            end b/b1: Completed
            place b/b2 -> n0[0-3] (attempt 2)"#]],
    );
}

#[test]
fn a_quota_cut_makes_the_newest_borrowed_and_leaves_an_overhang() {
    check(
        "
        policy no-plan-in-time
        node   n0 n1 gpus=8
        tenant a quota=12 | b quota=4
        run    a/fixed 1x4 on n0 fixed | a/old 1x4 on n0 | a/new 1x4 on n1 | b/b1 1x4 on n1
        quota  a quota=2
        quota  b quota=14
        queued b/b2 1x8
        cycle                  # fixed passes a's quota and stays; old and new are borrowed, but leave no whole node
        queued b/b3 1x4 | b/b4 1x4
        cycle                  # both that are borrowed go, the newest first
        ",
        expect![[r#"
            changed a
            changed b
            blocked b2: Fragmented { gpu, want: 8, reclaimable: 8, until +86490s }
            promise b/b3 -> n1[0-3] by +150s
            stop a/new: Evicted for b/b3
            promise b/b4 -> n0[4-7] by +150s
            stop a/old: Evicted for b/b4
            blocked b2: Fragmented { gpu, want: 8, reclaimable: 8, until +86490s }
            blocked b3: ReclaimPending { gpu, want: 4, free: 0, due +150s }
            blocked b4: ReclaimPending { gpu, want: 4, free: 0, due +150s }"#]],
    );
}

#[test]
fn a_gang_is_not_helped_by_gpus_in_the_wrong_place() {
    check(
        "
        policy no-plan-in-time
        node   n0 n1 gpus=8 leaf=l0
        node   n2 n3 gpus=8 leaf=l1
        tenant prod quota=16 | dev quota=16
        run    dev/d0 1x8 on n0 fixed | dev/d2 1x8 on n2 fixed | dev/e1 1x8 on n1 | dev/e3 1x8 on n3
        queued prod/p 2x8 inside=leaf
        cycle                  # two nodes could be freed, but in two leaves
        queued prod/q 2x8
        cycle
        ",
        expect![[r#"
            blocked p: Fragmented { gpu, want: 16, reclaimable: 16, until +86490s }
            promise prod/q -> n1[0-7] n3[0-7] by +150s
            stop dev/e3: Evicted for prod/q
            stop dev/e1: Evicted for prod/q
            blocked p: Fragmented { gpu, want: 16, reclaimable: 16, until +86490s }
            blocked q: ReclaimPending { gpu, want: 16, free: 0, due +150s }"#]],
    );
}

#[test]
fn a_team_without_a_quota_of_its_own_claims_by_its_mission() {
    check(
        "
        node   n0 gpus=8
        tenant m quota=4 | m/x weight=1 | m/y weight=1 | other quota=4
        run    other/o1 1x4 on n0 | other/o2 1x4 on n0
        queued m/x/x1 1x4 | m/y/y1 1x4
        cycle                  # one of them is inside m's quota
        ",
        expect![[r#"
            promise m/x/x1 -> n0[4-7] by +150s
            stop other/o2: Evicted for m/x/x1
            blocked x1: ReclaimPending { gpu, want: 4, free: 0, due +150s }
            blocked y1: NotEnoughGpus { gpu, want: 4, free: 0 }"#]],
    );
}

#[test]
fn cpu_is_taken_back_with_the_gpus_and_held() {
    check(
        "
        node   n0 gpus=8 cpu=16
        tenant prod quota=4 | dev quota=2
        run    dev/a 1x1 on n0 cpu=2 | dev/b 1x1 on n0 cpu=8 limit=1h | dev/c 1x1 on n0 cpu=6
        queued prod/p 1x2 cpu=7
        cycle                  # GPUs are free, CPU is not: c borrows, but 6 are not enough
        queued prod/q 1x2 cpu=6
        cycle
        exit   c sig15
        queued dev/d 1x1 cpu=1
        cycle                  # nothing is left for d
        ",
        expect![[r#"
            blocked p: Fragmented { gpu, want: 2, reclaimable: 1, until +3690s }
            promise prod/q -> n0[2-3] by +150s
            stop dev/c: Evicted for prod/q
            blocked p: Fragmented { gpu, want: 2, reclaimable: 1, until +3690s }
            blocked q: ReclaimPending { gpu, want: 2, free: 1, due +150s }
            over dev/c: Evicted
            again dev/c at the front
            place prod/q -> n0[2-3]
            blocked c: NotEnoughCpuOrMemory { gpu, want: 1, fit: 0 }
            blocked p: Fragmented { gpu, want: 2, reclaimable: 1, until +3690s }
            blocked d: NotEnoughCpuOrMemory { gpu, want: 1, fit: 0 }"#]],
    );
}

#[test]
fn a_node_that_is_only_silent_keeps_what_it_promised() {
    check(
        "
        node   n0 gpus=8
        tenant prod quota=8 | dev quota=0
        run    dev/a 1x8 on n0
        queued prod/p 1x8
        cycle
        silent n0
        exit   a sig15
        cycle
        return n0
        cycle
        ",
        expect![[r#"
            promise prod/p -> n0[0-7] by +150s
            stop dev/a: Evicted for prod/p
            blocked p: ReclaimPending { gpu, want: 8, free: 0, due +150s }
            n0 is Suspect
            over dev/a: Evicted
            again dev/a at the front
            blocked a: NotEnoughGpus { gpu, want: 8, free: 0 }
            blocked p: ReclaimPending { gpu, want: 8, free: 8, due +150s }
            n0 is Ready
            place prod/p -> n0[0-7]
            blocked a: NotEnoughGpus { gpu, want: 8, free: 0 }"#]],
    );
}

#[test]
fn nobody_is_evicted_to_let_a_borrower_come_inside() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=8 | b quota=8
        run    a/low 1x4 on n0 prio=low | a/large 1x6 on n1 | a/high 1x4 on n0 prio=high | b/b1 1x2 on n1
        usage  a
        queued a/next 1x4 prio=high
        cycle                  # without low, large would be inside, and high and next would borrow
        ",
        expect![[r#"
            usage a: used 14, fixed 0, borrowed 6; GPU-seconds own 0, borrowed 0
            blocked next: NotEnoughGpus { gpu, want: 4, free: 0 }"#]],
    );
}

#[test]
fn gangs_that_do_not_fit_beside_fixed_jobs_are_told_the_bound() {
    check(
        "
        node   n0 n1 n2 n3 n4 n5 n6 n7 gpus=8
        tenant prod quota=8 | dev quota=56
        tenant big quota=0
        run    dev/a 1x7 on n0 fixed limit=1h | dev/b 1x7 on n1 fixed limit=2h | dev/c 1x7 on n2 fixed limit=3h
        run    dev/d 1x7 on n3 fixed limit=4h | dev/e 1x7 on n4 fixed limit=5h | dev/f 1x7 on n5 fixed limit=6h
        run    dev/g 1x7 on n6 fixed limit=7h | dev/h 1x7 on n7 fixed limit=8h
        quota  dev quota=0
        quota  prod quota=64
        queued prod/gang 8x8
        cycle                  # eight GPUs are idle and all of them prod's, but on no node are there eight
        explain gang
        ",
        expect![[r#"
            changed dev
            changed prod
            blocked gang: Fragmented { gpu, want: 64, reclaimable: 0, until +28890s }
            explain gang:
              Fragmented { gpu, want: 64, reclaimable: 0, until +28890s }
              NotEnoughGpus { gpu, want: 64, free: 8 }
              Reserved { gpu, want: 64, idle: 8, from +28890s }
              rank prod 1/1 (0 of 64), normal, user 1/1 (0), age 0s
              waits for dev/a (7) ToItsEnd until +3690s
              waits for dev/b (7) ToItsEnd until +7290s
              waits for dev/c (7) ToItsEnd until +10890s
              waits for dev/d (7) ToItsEnd until +14490s
              waits for dev/e (7) ToItsEnd until +18090s
              waits for dev/f (7) ToItsEnd until +21690s
              waits for dev/g (7) ToItsEnd until +25290s
              waits for dev/h (7) ToItsEnd until +28890s
              room by +28890s
              starts now with 1 GPUs per member"#]],
    );
}

#[test]
fn a_job_that_fails_again_and_again_takes_from_nobody() {
    check(
        "
        node   n0 gpus=8
        tenant prod quota=8 | dev quota=0
        run    prod/p 1x8 on n0 retries=9
        exit   p 1
        tick   1h
        cycle
        prepared p
        started p
        exit   p 1
        tick   1h
        cycle
        prepared p
        started p
        exit   p 1
        run    dev/d 1x8 on n0
        tick   1h
        cycle                  # three failures of its own: d is left in peace
        explain p
        exit   d 0
        cycle
        ",
        expect![[r#"
            over prod/p: Failed
            again prod/p +2s, own fault
            eligible prod/p
            place prod/p -> n0[0-7] (attempt 2)
            over prod/p: Failed
            again prod/p +4s, own fault
            eligible prod/p
            place prod/p -> n0[0-7] (attempt 3)
            over prod/p: Failed
            again prod/p +8s, own fault
            eligible prod/p
            blocked p: NotEnoughGpus { gpu, want: 8, free: 0 }
            explain p:
              RetryBudget { 3 of 3 }
              NotEnoughGpus { gpu, want: 8, free: 0 }
              Reserved { gpu, want: 8, idle: 0, from +82890s }
              rank prod 1/1 (0 of 8), normal, user 1/1 (0), age 10800s
              waits for dev/d (8) ToItsEnd until +82890s
              room by +82890s
            over dev/d: Completed
            end dev/d: Completed
            place prod/p -> n0[0-7] (attempt 4)"#]],
    );
}

#[test]
fn a_gpu_at_fault_is_not_the_jobs_failure() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=16 budget=100/24h
        queued a/p 1x4 limit=2h | a/q 1x4 limit=2h
        cycle
        prepared p
        started p
        prepared q
        started q
        tick   1h
        bad    n0 3
        exit   p 134
        exit   q 134
        budget a               # p's hour is refunded and p goes to the front; q failed by itself
        cycle
        ",
        expect![[r#"
            place a/p -> n0[0-3]
            place a/q -> n0[4-7]
            fenced n0[3]
            over a/p: GpuFault
            again a/p at the front away from n0
            over a/q: Failed
            end a/q: Failed
            budget a: 100 GPU-hours until +82800s: spent 4, committed 0, left 96, refunded 4, carried 0, unspent 0
            place a/p -> n1[0-3] (attempt 2)"#]],
    );
}
