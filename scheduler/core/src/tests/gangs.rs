//! Gangs: barrier, whole or not at all, broken members, launches that fail.

use expect_test::expect;

use super::check;

#[test]
fn the_barrier_opens_when_all_are_prepared() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=16
        queued a/g 2x8
        cycle
        prepared g.1
        prepared g.1
        prepared g.0
        started g.0
        why    g
        started g.1
        why    g
        exit   g.0 0
        exit   g.1 0
        ",
        expect![[r#"
            place a/g -> n0[0-7] n1[0-7]
            go a/g
            why g: Launching: 
            why g: Running: 
            over a/g: Completed
            end a/g: Completed"#]],
    );
}

#[test]
fn a_gang_that_does_not_fit_holds_nothing() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=16
        run    a/r 1x1 on n0
        queued a/g 2x8 | a/s 1x8
        cycle                  # the gang waits whole; the small one goes by
        exit   r 0
        exit   s 0
        cycle
        ",
        expect![[r#"
            place a/s -> n1[0-7]
            blocked g: NotEnoughGpus { gpu, want: 16, free: 15 }
            over a/r: Completed
            end a/r: Completed
            over a/s: Completed
            end a/s: Completed
            place a/g -> n0[0-7] n1[0-7]"#]],
    );
}

#[test]
fn unequal_members() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=16
        queued a/g 8+4 | a/h 4+4
        cycle
        ",
        expect![[r#"
            place a/g -> n0[0-7] n1[0-3]
            blocked h: NotEnoughGpus { gpu, want: 8, free: 4 }"#]],
    );
}

#[test]
fn inside_one_leaf() {
    check(
        "
        node   n0 n1 gpus=8 leaf=l0
        node   n2 n3 gpus=8 leaf=l1
        tenant a quota=32
        run    a/r 1x1 on n0
        queued a/g 2x8 inside=leaf | a/h 2x8 inside=leaf
        submit a/i 3x8 inside=leaf
        cycle
        ",
        expect![[r#"
            refused job 0: GangNeverFits { want: 3, best: 2, level: Some(Leaf) }
            place a/g -> n2[0-7] n3[0-7]
            blocked h: NotEnoughGpus { gpu, want: 16, free: 15 }"#]],
    );
}

#[test]
fn a_failed_member_stops_the_gang() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=16
        run    a/g 2x8 on n0 n1
        exit   g.1 1
        exit   g.0 sig9
        ",
        expect![[r#"
            stop a/g: GangBroken
            over a/g: Failed
            end a/g: Failed"#]],
    );
}

#[test]
fn the_end_of_a_batch_script_ends_the_members_that_it_was_given() {
    check(
        "
        node   n0 n1 n2 gpus=8
        tenant a quota=24
        queued a/g 3x8 batch
        cycle
        prepared g
        started g.0
        started g.1
        started g.2
        exit   g.0 0
        exit   g.1 sig9        # it did not end by itself: that is no failure of the job
        exit   g.2 0
        queued a/h 3x8 batch
        cycle
        prepared h
        started h.0
        started h.1
        started h.2
        exit   h.0 3           # the script's own code is the job's
        exit   h.1 sig15
        exit   h.2 sig15
        ",
        expect![[r#"
            place a/g -> n0[0-7] n1[0-7] n2[0-7]
            go a/g
            stop a/g: ScriptEnded
            over a/g: Completed
            end a/g: Completed
            place a/h -> n0[0-7] n1[0-7] n2[0-7]
            go a/h
            stop a/h: GangBroken
            over a/h: Failed
            end a/h: Failed"#]],
    );
}

#[test]
fn a_member_that_ends_well_leaves_the_rest_alone() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=16
        queued a/g 2x8
        cycle
        prepared g
        exit   g.0 0           # it was faster than the report of its start
        started g.1
        why    g
        lose   n0              # nothing of it is left there
        exit   g.1 0
        ",
        expect![[r#"
            place a/g -> n0[0-7] n1[0-7]
            go a/g
            why g: Running: 
            n0 is Lost
            over a/g: Completed
            end a/g: Completed"#]],
    );
}

#[test]
fn a_failed_launch_is_tried_elsewhere() {
    check(
        "
        node   n0 n1 n2 gpus=8
        tenant a quota=24
        queued a/g 2x8
        cycle
        prepared g.0
        exit   g.1 launch
        exit   g.0 launch      # stopped before it started: not its node's fault
        cycle
        tick   1s
        cycle
        tick   1s
        cycle
        ",
        expect![[r#"
            place a/g -> n0[0-7] n1[0-7]
            stop a/g: GangBroken
            over a/g: LaunchFailed
            again a/g +2s away from n1
            blocked g: NotBefore +2s
            blocked g: NotBefore +1s
            eligible a/g
            place a/g -> n0[0-7] n2[0-7] (attempt 2)"#]],
    );
}

#[test]
fn a_gang_that_does_not_come_together_is_tried_elsewhere() {
    check(
        "
        node   n0 n1 n2 gpus=8
        tenant a quota=24
        queued a/g 2x8
        cycle
        prepared g.0
        tick   119s
        tick   1s
        exit   g launch
        tick   2s
        cycle
        ",
        expect![[r#"
            place a/g -> n0[0-7] n1[0-7]
            stop a/g: LaunchDeadline
            over a/g: LaunchFailed
            again a/g +2s away from n1
            eligible a/g
            place a/g -> n0[0-7] n2[0-7] (attempt 2)"#]],
    );
}

#[test]
fn what_keeps_away_from_a_node_speaks_for_itself_alone() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=16
        queued a/g 1x8
        cycle
        exit   g launch
        cordon n1
        tick   2s
        queued a/h 1x8
        cycle                  # g keeps away from the only open node; h, alike, does not
        ",
        expect![[r#"
            place a/g -> n0[0-7]
            over a/g: LaunchFailed
            again a/g +2s away from n0
            n1 is cordoned
            eligible a/g
            place a/h -> n0[0-7]
            blocked g: NotEnoughGpus { gpu, want: 8, free: 0 }"#]],
    );
}

#[test]
fn a_suspect_node_is_better_than_none() {
    check(
        "
        node   n0 gpus=8
        node   n1 gpus=4
        tenant a quota=8
        queued a/g 1x8
        cycle
        exit   g launch
        tick   2s
        cycle
        ",
        expect![[r#"
            place a/g -> n0[0-7]
            over a/g: LaunchFailed
            again a/g +2s
            eligible a/g
            place a/g -> n0[0-7] (attempt 2)"#]],
    );
}

#[test]
fn attempts_are_bounded() {
    check(
        "
        policy attempts=2
        node   n0 n1 n2 gpus=8
        tenant a quota=8
        queued a/g 1x8
        cycle
        exit   g launch
        tick   2s
        cycle
        exit   g launch
        ",
        expect![[r#"
            place a/g -> n0[0-7]
            over a/g: LaunchFailed
            again a/g +2s away from n0
            eligible a/g
            place a/g -> n1[0-7] (attempt 2)
            over a/g: LaunchFailed
            end a/g: LaunchFailed"#]],
    );
}

#[test]
fn time_limit_and_a_member_stopped_by_its_agent() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=8
        run    a/g 1x4 on n0 limit=60s grace=5s | a/h 1x4 on n0 limit=60s grace=5s
        tick   60s
        exit   g timeout       # the agent's own clock
        tick   64s
        tick   1s              # 60 s + grace + slack: the scheduler's
        exit   h sig9
        ",
        expect![[r#"
            over a/g: TimedOut
            end a/g: TimedOut
            stop a/h: TimeLimit
            over a/h: TimedOut
            end a/h: TimedOut"#]],
    );
}

#[test]
fn cpu_and_memory_count() {
    check(
        "
        node   n0 gpus=8 cpu=16000 memory=1024
        tenant a quota=8
        queued a/c 2x1 cpu=12000 | a/d 1x1 cpu=12000 | a/e 1x1 cpu=4000 memory=1024 | a/f 1x1
        cycle
        ",
        expect![[r#"
            place a/d -> n0[0]
            place a/e -> n0[1]
            place a/f -> n0[2]
            blocked c: NotEnoughCpuOrMemory { gpu, want: 2, fit: 1 }"#]],
    );
}
