//! Survivors: a gang that lost a node keeps the others while a spare is sought; spares are for nobody else.

use expect_test::expect;

use super::check;

#[test]
fn a_spare_takes_the_place_of_a_lost_node_as_soon_as_that_is_dead() {
    check(
        "
        node   n0 n1 n2 n3 gpus=8
        tenant a quota=32 | b quota=0
        policy spares=1
        run    a/g 3x8 on n0 n1 n2 hold=10m
        submit b/other 1x8              # the last free node is a spare: not for it
        cycle
        why    other
        silent n1
        lose   n1
        exit   g.0 sig15
        exit   g.2 sig15
        cycle
        why    other                    # and what the survivors leave is not for it either
        why    g
        confirm-dead n1
        cycle
        tick   +20m
        ",
        expect![[r#"
            submit b/other
            n3 is a spare
            blocked other: NotEnoughGpus { gpu, want: 8, free: 0 }
            why other: Waiting, 0 before it of 1: NotEnoughGpus { gpu, want: 8, free: 0 }; Reserved { gpu, want: 8, idle: 0, from +86490s }
            n1 is Suspect
            n1 is Lost
            stop a/g: NodeLost
            over a/g: NodeLost
            hold survivors of a/g without 1 for +600s
            blocked other: NotEnoughGpus { gpu, want: 8, free: 0 }
            why other: Waiting, 0 before it of 1: NotEnoughGpus { gpu, want: 8, free: 0 }
            why g: AwaitingProof(NodeLost): 
            proven dead a/g.1
            again a/g at the front
            n3 is no spare
            place a/g -> n0[0-7] n3[0-7] n2[0-7] (attempt 2)
            blocked other: NotEnoughGpus { gpu, want: 8, free: 0 }
            stop a/g: LaunchDeadline"#]],
    );
}

#[test]
fn without_a_spare_a_free_node_will_do_the_nearest_first() {
    check(
        "
        node   n0 n1 gpus=8 leaf=l0
        node   n2 gpus=8 leaf=l1
        node   n3 gpus=8 leaf=l0
        tenant a quota=32
        run    a/g 2x8 on n0 n1 hold=10m
        lose   n1
        exit   g.0 sig15
        return n1 boot=b2
        cordon n1
        cycle
        ",
        expect![[r#"
            n1 is Lost
            stop a/g: NodeLost
            over a/g: NodeLost
            hold survivors of a/g without 1 for +600s
            n1 rebooted as b2
            proven dead a/g.1
            again a/g at the front
            n1 is Ready
            n1 is cordoned
            place a/g -> n0[0-7] n3[0-7] (attempt 2)"#]],
    );
}

#[test]
fn a_gpu_that_is_fenced_costs_one_member_its_place_and_the_rest_start_where_they_were() {
    check(
        "
        node   n0 n1 n2 gpus=8
        tenant a quota=24 | b quota=0
        run    a/g 4x4 on n0 n0 n1 n1 hold=5m | b/x 1x8 on n2
        submit b/y 1x4
        bad    n0 1
        exit   g.0 1
        exit   g.1 sig15
        exit   g.2 sig15
        exit   g.3 sig15
        why    g
        cycle
        explain g
        exit   x 0
        cycle
        ",
        expect![[r#"
            submit b/y
            fenced n0[1]
            stop a/g: GangBroken
            over a/g: GpuFault
            hold survivors of a/g without 0 for +300s
            again a/g at the front away from n0
            why g: Waiting: SpareSought { gpu, held: 12, want: 4, until: +300s }
            blocked g: SpareSought { gpu, held: 12, want: 4, until: +300s }
            blocked y: NotEnoughGpus { gpu, want: 4, free: 3 }
            explain g:
              SpareSought { gpu, held: 12, want: 4, until: +300s }
              rank a 1/2 (12 of 24), normal, at the front, user 1/1 (0), age 0s
            over b/x: Completed
            end b/x: Completed
            place a/g -> n2[4-7] n0[4-7] n1[0-3] n1[4-7] (attempt 2)
            place b/y -> n2[0-3], borrowed"#]],
    );
}

#[test]
fn when_nothing_comes_in_time_the_gang_is_placed_anew() {
    check(
        "
        node   n0 n1 n2 gpus=8
        tenant a quota=24 | b quota=8
        run    a/g 2x8 on n0 n1 hold=1m | b/x 1x8 on n2
        submit b/y 1x8
        bad    n0 0-7
        exit   g.0 1
        exit   g.1 sig15
        cycle
        tick   +59s
        cycle
        tick   +1s
        cycle
        bad    n0
        cycle
        ",
        expect![[r#"
            submit b/y
            fenced n0[0-7]
            stop a/g: GangBroken
            over a/g: GpuFault
            hold survivors of a/g without 0 for +60s
            again a/g at the front away from n0
            blocked g: SpareSought { gpu, held: 8, want: 8, until: +60s }
            blocked y: NotEnoughGpus { gpu, want: 8, free: 0 }
            blocked g: SpareSought { gpu, held: 8, want: 8, until: +1s }
            blocked y: NotEnoughGpus { gpu, want: 8, free: 0 }
            promise dropped a/g: NoSpare
            place b/y -> n1[0-7], borrowed
            blocked g: NotEnoughGpus { gpu, want: 16, free: 8 }
            fenced n0[]
            blocked g: NotEnoughGpus { gpu, want: 16, free: 0 }"#]],
    );
}

#[test]
fn what_is_borrowed_is_not_held() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=0 | b quota=16
        run    a/g 2x8 on n0 n1 hold=10m
        submit b/y 1x8
        bad    n0 0-7
        exit   g.0 1
        exit   g.1 sig15
        cycle
        ",
        expect![[r#"
            submit b/y
            fenced n0[0-7]
            stop a/g: GangBroken
            over a/g: GpuFault
            again a/g at the front
            place b/y -> n1[0-7]
            blocked g: NotEnoughGpus { gpu, want: 16, free: 0 }"#]],
    );
}

#[test]
fn cancelling_or_holding_it_lets_go_of_what_is_held() {
    check(
        "
        node   n0 n1 n2 gpus=8
        tenant a quota=24
        run    a/g 2x8 on n0 n1 hold=10m | a/h 1x8 on n2
        submit a/y 1x8
        lose   n1
        exit   g.0 sig15
        cycle
        cancel g
        cycle
        ",
        expect![[r#"
            submit a/y
            n1 is Lost
            stop a/g: NodeLost
            over a/g: NodeLost
            hold survivors of a/g without 1 for +600s
            blocked y: NotEnoughGpus { gpu, want: 8, free: 0 }
            promise dropped a/g: NotWanted
            stop a/g: Cancelled
            place a/y -> n0[0-7]"#]],
    );
}

#[test]
fn what_must_lie_together_is_put_together_again() {
    check(
        "
        node   n0 n1 n2 gpus=8 leaf=l0
        node   n3 n4 n5 gpus=8 leaf=l1
        tenant a quota=48
        run    a/g 2x8 on n0 n1 inside=leaf hold=10m | a/h 1x8 on n2
        submit a/y 2x8
        bad    n1 0
        exit   g.1 1
        exit   g.0 sig15
        cycle                           # leaf l1 has room, but not for one member alone
        why    g
        exit   h 0
        cycle
        ",
        expect![[r#"
            submit a/y
            fenced n1[0]
            stop a/g: GangBroken
            over a/g: GpuFault
            hold survivors of a/g without 1 for +600s
            again a/g at the front away from n1
            place a/y -> n3[0-7] n4[0-7]
            blocked g: SpareSought { gpu, held: 8, want: 8, until: +600s }
            why g: Waiting: SpareSought { gpu, held: 8, want: 8, until: +600s }
            over a/h: Completed
            end a/h: Completed
            place a/g -> n0[0-7] n2[0-7] (attempt 2)"#]],
    );
}

#[test]
fn an_elastic_gang_goes_on_with_the_members_that_it_has() {
    check(
        "
        node   n0 n1 n2 gpus=8
        tenant a quota=24
        run    a/g 3x8 on n0 n1 n2 least=2 hold=10m
        submit a/y 1x8
        bad    n1 0
        exit   g.1 1
        exit   g.0 sig15
        exit   g.2 sig15
        cycle
        ",
        expect![[r#"
            submit a/y
            fenced n1[0]
            stop a/g: GangBroken
            over a/g: GpuFault
            hold survivors of a/g without 1 for +600s
            again a/g at the front away from n1
            place a/g -> n0[0-7] n2[0-7] (attempt 2)
            blocked y: NotEnoughGpus { gpu, want: 8, free: 7 }"#]],
    );
}

#[test]
fn spares_are_made_of_free_nodes_and_lie_in_different_leaves() {
    check(
        "
        node   n0 n1 gpus=8 leaf=l0
        node   n2 n3 gpus=8 leaf=l1
        tenant a quota=32
        policy spares=2
        submit a/x 1x8
        cycle
        submit a/y 2x8
        cycle
        why    y
        bad    n1 0                     # not fit for it any more
        cycle
        policy spares=1
        exit   x 0
        cycle
        ",
        expect![[r#"
            submit a/x
            n3 is a spare
            n1 is a spare
            place a/x -> n0[0-7]
            submit a/y
            blocked y: NotEnoughGpus { gpu, want: 16, free: 8 }
            why y: Waiting, 0 before it of 1: NotEnoughGpus { gpu, want: 16, free: 8 }; Reserved { gpu, want: 16, idle: 8, from +86610s }
            fenced n1[0]
            n1 is no spare
            blocked y: NotEnoughGpus { gpu, want: 16, free: 7 }
            over a/x: Completed
            end a/x: Completed
            place a/y -> n0[0-7] n2[0-7]"#]],
    );
}

#[test]
fn a_hold_longer_than_the_policy_allows_is_refused() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=8
        submit a/x 1x8 hold=2h
        ",
        expect!["refused job 0: HoldTooLong { hold: 7200000ms, longest: 3600000ms }"],
    );
}
