//! Nodes: lost, back, dead, drained, closed, changed.

use expect_test::expect;

use super::check;

#[test]
fn a_lost_node_breaks_gangs_and_leaves_single_jobs_in_peace() {
    check(
        "
        node   n0 n1 n2 gpus=8
        tenant a quota=24
        run    a/g 2x4 on n0 n1 | a/s 1x4 on n0
        silent n0
        lose   n0
        exit   g.1 sig15       # the rest of the gang is gone, but n0 is silent
        cycle
        why    g
        why    s
        return n0              # the same boot: it may still run
        exit   g.0 sig15
        cycle
        exit   s 0
        ",
        expect![[r#"
            n0 is Suspect
            n0 is Lost
            stop a/g: NodeLost
            over a/g: NodeLost
            why g: AwaitingProof(NodeLost): 
            why s: Running: 
            n0 is Ready
            again a/g at the front
            place a/g -> n1[0-3] n1[4-7] (attempt 2)
            over a/s: Completed
            end a/s: Completed"#]],
    );
}

#[test]
fn a_new_boot_is_proof() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=16
        run    a/g 2x4 on n0 n1 | a/s 1x4 on n0
        lose   n0
        exit   g.1 sig15
        return n0 boot=b2
        cycle
        ",
        expect![[r#"
            n0 is Lost
            stop a/g: NodeLost
            over a/g: NodeLost
            n0 rebooted as b2
            proven dead a/g.0
            again a/g at the front
            proven dead a/s.0
            over a/s: NodeLost
            again a/s at the front
            n0 is Ready
            place a/g -> n0[0-3] n0[4-7] (attempt 2)
            place a/s -> n1[0-3] (attempt 2)"#]],
    );
}

#[test]
fn an_operators_word_is_proof() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=16
        run    a/s 1x4 on n0
        confirm-dead n0
        lose   n0
        confirm-dead n0
        cycle
        exit   s 0             # of the new attempt
        confirm-dead n0
        ",
        expect![[r#"
            refused: NodeNotLost { name: "n0" }
            n0 is Lost
            proven dead a/s.0
            over a/s: NodeLost
            again a/s at the front
            place a/s -> n1[0-3] (attempt 2)
            over a/s: Completed
            end a/s: Completed"#]],
    );
}

#[test]
fn a_gang_lost_whole_waits_for_word() {
    check(
        "
        node   n0 n1 n2 gpus=8
        tenant a quota=24
        run    a/g 2x8 on n0 n1
        lose   n0
        lose   n1
        why    g
        cancel g
        cancel g
        confirm-dead n0
        return n1
        exit   g.1 sig15
        ",
        expect![[r#"
            n0 is Lost
            stop a/g: NodeLost
            n1 is Lost
            over a/g: NodeLost
            why g: AwaitingProof(NodeLost): 
            stop a/g: Cancelled
            proven dead a/g.0
            n1 is Ready
            end a/g: Cancelled"#]],
    );
}

#[test]
fn drain_waits_or_evicts() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=16
        run    a/x 1x4 on n0 | a/g 2x4 on n0 n1
        drain  n0
        queued a/y 1x4
        cycle
        drain  n0 evict
        exit   x sig15
        exit   g sig15
        cycle
        resume n0
        cycle
        ",
        expect![[r#"
            n0 is draining
            place a/y -> n1[4-7]
            stop a/x: Drained
            stop a/g: Drained
            over a/x: Drained
            again a/x at the front
            over a/g: Drained
            again a/g at the front
            place a/x -> n1[0-3] (attempt 2)
            blocked g: NotEnoughGpus { gpu, want: 8, free: 0 }
            n0 is open
            place a/g -> n0[0-3] n0[4-7] (attempt 2)"#]],
    );
}

#[test]
fn a_closed_node_takes_nothing_new() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=8
        cordon n0
        cordon n0
        queued a/x 1x1
        cycle
        resume n0
        silent n0
        cycle
        return n0
        cycle
        ",
        expect![[r#"
            n0 is cordoned
            blocked x: NotEnoughGpus { gpu, want: 1, free: 0 }
            n0 is open
            n0 is Suspect
            blocked x: NotEnoughGpus { gpu, want: 1, free: 0 }
            n0 is Ready
            place a/x -> n0[0]"#]],
    );
}

#[test]
fn one_bad_gpu_leaves_seven() {
    check(
        "
        node   n0 gpus=8 bad=3
        tenant a quota=8
        queued a/x 1x7 | a/y 1x1
        cycle
        bad    n0
        cycle
        ",
        expect![[r#"
            place a/x -> n0[0-2,4-7]
            blocked y: NotEnoughGpus { gpu, want: 1, free: 0 }
            fenced n0[]
            place a/y -> n0[3]"#]],
    );
}

#[test]
fn a_node_comes_back_with_something_else() {
    check(
        "
        node   n0 gpus=8
        node   n1 gpus=8
        tenant a quota=16
        run    a/x 1x4 on n0
        node   n0 gpus=4 boot=b2
        queued a/y 1x8 | a/z 1x8
        cycle
        ",
        expect![[r#"
            place a/x -> n1[0-3] (attempt 2)
            blocked y: NotEnoughGpus { gpu, want: 8, free: 4 }
            blocked z: NotEnoughGpus { gpu, want: 8, free: 4 }"#]],
    );
}

#[test]
fn nodes_that_make_no_sense_are_refused() {
    check(
        "
        node   n0 gpus=8
        return a/b
        return n1 leaf=x/y
        ",
        expect![[r#"
            refused: BadNode { name: "a/b", why: "the node name \"a/b\" holds white space, a control character or '/': leave it out" }
            refused: BadNode { name: "n1", why: "node \"n1\": the name \"x/y\" of its Leaf domain holds white space, a control character or '/': leave it out" }"#]],
    );
}
