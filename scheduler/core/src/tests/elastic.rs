//! Elastic gangs: they shrink before anybody is evicted, and grow again while nobody waits.

use expect_test::expect;

use super::check;

#[test]
fn a_gang_shrinks_before_anybody_is_evicted() {
    check(
        "
        node   n0 n1 n2 gpus=8
        tenant prod quota=8 | dev quota=0
        queued dev/e 2x8 least=1
        cycle
        prepared e
        started e
        tick   10m
        run    dev/young 1x8 on n2
        queued prod/p 1x8
        cycle                  # young would lose less, but e can do without a member
        exit   e sig15
        cycle                  # p has what it gave up, and e starts again where it was
        ",
        expect![[r#"
            place dev/e -> n0[0-7] n1[0-7], borrowed
            go dev/e
            promise prod/p -> n1[0-7] by +150s
            stop dev/e: Evicted for prod/p
            blocked p: ReclaimPending { gpu, want: 8, free: 0, due +150s }
            over dev/e: Evicted
            again dev/e at the front
            promise dev/e -> n0[0-7] by +120s
            place dev/e -> n0[0-7], borrowed (attempt 2)
            place prod/p -> n1[0-7]"#]],
    );
}

#[test]
fn where_shrinking_is_not_enough_others_go_as_well() {
    check(
        "
        node   n0 n1 n2 gpus=8
        tenant prod quota=24 | dev quota=0
        queued dev/e 2x8 least=1
        cycle
        prepared e
        started e
        run    dev/a 1x8 on n2
        tick   1m
        queued prod/p 2x8
        cycle
        queued prod/q 1x8
        cycle                  # what e keeps is its own until it runs again
        ",
        expect![[r#"
            place dev/e -> n0[0-7] n1[0-7], borrowed
            go dev/e
            promise prod/p -> n1[0-7] n2[0-7] by +150s
            stop dev/e: Evicted for prod/p
            stop dev/a: Evicted for prod/p
            blocked p: ReclaimPending { gpu, want: 16, free: 0, due +150s }
            blocked p: ReclaimPending { gpu, want: 16, free: 0, due +150s }
            blocked q: NotEnoughGpus { gpu, want: 8, free: 0 }"#]],
    );
}

#[test]
fn a_gang_gives_up_no_more_than_is_wanted() {
    check(
        "
        node   n0 n1 n2 n3 gpus=8
        tenant prod quota=16 | dev quota=0
        queued dev/e 4x8 least=1
        cycle
        prepared e
        started e
        tick   10m
        queued prod/p 1x4
        cycle
        exit   e sig15
        cycle                  # its last member went
        ",
        expect![[r#"
            place dev/e -> n0[0-7] n1[0-7] n2[0-7] n3[0-7], borrowed
            go dev/e
            promise prod/p -> n3[0-3] by +150s
            stop dev/e: Evicted for prod/p
            blocked p: ReclaimPending { gpu, want: 4, free: 0, due +150s }
            over dev/e: Evicted
            again dev/e at the front
            promise dev/e -> n0[0-7] n1[0-7] n2[0-7] by +120s
            place dev/e -> n0[0-7] n1[0-7] n2[0-7], borrowed (attempt 2)
            place prod/p -> n3[0-3]"#]],
    );
}

#[test]
fn what_a_gang_keeps_is_lost_when_it_is_not_free() {
    check(
        "
        node   n0 n1 gpus=8
        tenant prod quota=8 | dev quota=0
        queued dev/e 2x8 least=1
        cycle
        prepared e
        started e
        queued prod/p 1x8
        cycle
        cordon n0
        exit   e sig15
        cycle
        ",
        expect![[r#"
            place dev/e -> n0[0-7] n1[0-7], borrowed
            go dev/e
            promise prod/p -> n1[0-7] by +150s
            stop dev/e: Evicted for prod/p
            blocked p: ReclaimPending { gpu, want: 8, free: 0, due +150s }
            n0 is cordoned
            over dev/e: Evicted
            again dev/e at the front
            place prod/p -> n1[0-7]
            blocked e: NotEnoughGpus { gpu, want: 8, free: 0 }"#]],
    );
}

#[test]
fn a_gang_grows_while_nobody_waits() {
    check(
        "
        node   n0 n1 gpus=8
        tenant dev quota=16
        run    dev/a 1x8 on n1
        queued dev/e 2x8 least=1 limit=10h
        cycle
        prepared e
        started e
        exit   a 0
        cycle                  # it has not run for long enough
        tick   15m
        cycle                  # 8 GPUs for the rest of 10 h against what it lost and a restart
        exit   e sig15
        cycle
        ",
        expect![[r#"
            place dev/e -> n0[0-7]
            over dev/a: Completed
            end dev/a: Completed
            stop dev/e: Resized
            over dev/e: Resized
            again dev/e at the front
            promise dev/e -> n0[0-7] n1[0-7] by +120s
            place dev/e -> n0[0-7] n1[0-7] (attempt 2)"#]],
    );
}

#[test]
fn a_gang_that_is_nearly_done_does_not_grow() {
    check(
        "
        node   n0 n1 gpus=8
        tenant dev quota=16
        run    dev/a 1x8 on n1
        queued dev/e 2x8 least=1 limit=1h
        cycle
        prepared e
        started e
        tick   50m
        exit   a 0
        cycle
        tick   1m
        cycle
        ",
        expect![[r#"
            place dev/e -> n0[0-7]
            over dev/a: Completed
            end dev/a: Completed"#]],
    );
}

#[test]
fn a_gang_grows_only_as_its_limit_allows() {
    check(
        "
        node   n0 n1 n2 gpus=8
        tenant dev quota=16 limit=16
        run    dev/a 1x8 on n1
        queued dev/e 3x8 least=1 limit=10h
        cycle
        prepared e
        started e
        tick   15m
        cycle                  # a is there still
        exit   a 0
        cycle
        exit   e sig15
        cycle
        ",
        expect![[r#"
            place dev/e -> n0[0-7]
            over dev/a: Completed
            end dev/a: Completed
            stop dev/e: Resized
            over dev/e: Resized
            again dev/e at the front
            promise dev/e -> n0[0-7] n1[0-7] by +120s
            place dev/e -> n0[0-7] n1[0-7] (attempt 2)"#]],
    );
}

#[test]
fn a_gang_grows_beside_those_who_cannot_use_what_is_idle() {
    check(
        "
        node   n0 n1 gpus=8 model=H100
        node   m0 gpus=8 model=A100
        tenant dev pool=H100 quota=16
        tenant prod pool=A100 quota=8
        run    dev/a 1x8 on n1 | prod/b 1x8 on m0
        queued dev/e 2x8 least=1 limit=10h model=H100 | prod/w 1x8 model=A100
        cycle
        prepared e
        started e
        tick   15m
        exit   a 0
        cycle                  # w waits for its pool: n1 is of no use to it
        queued prod/v 1x4 model=H100
        cycle
        exit   e sig15
        cycle                  # v came meanwhile, and takes nothing of what e has
        ",
        expect![[r#"
            place dev/e -> n0[0-7]
            blocked w: NotEnoughGpus { A100, want: 8, free: 0 }
            over dev/a: Completed
            end dev/a: Completed
            stop dev/e: Resized
            blocked w: NotEnoughGpus { A100, want: 8, free: 0 }
            place prod/v -> n1[0-3], borrowed
            blocked w: NotEnoughGpus { A100, want: 8, free: 0 }
            over dev/e: Resized
            again dev/e at the front
            promise dev/e -> n0[0-7] by +120s
            place dev/e -> n0[0-7] (attempt 2)
            blocked w: NotEnoughGpus { A100, want: 8, free: 0 }"#]],
    );
}

#[test]
fn a_gang_does_not_grow_where_somebody_waits_for_its_places() {
    check(
        "
        node   n0 n1 n2 gpus=8
        tenant dev quota=24 | prod quota=0
        run    dev/a 1x8 on n1
        queued dev/e 3x8 least=2 limit=10h
        cycle
        prepared e
        started e
        queued prod/p 3x8 | prod/q 1x8 limit=1h
        cycle
        tick   15m
        exit   a 0
        cycle                  # p has all three nodes from e's limit on, and q is over before that
        plan
        ",
        expect![[r#"
            place dev/e -> n0[0-7] n2[0-7]
            go dev/e
            blocked p: NotEnoughGpus { gpu, want: 24, free: 0 }
            blocked q: NotEnoughGpus { gpu, want: 8, free: 0 }
            over dev/a: Completed
            end dev/a: Completed
            place prod/q -> n1[0-7], borrowed
            blocked p: NotEnoughGpus { gpu, want: 24, free: 0 }
            reserve prod/p -> n0[0-7] n1[0-7] n2[0-7] from +35190s"#]],
    );
}
