//! Quotas in whole domains: what is promised stays placeable, whoever starts, borrows or comes back.

use expect_test::expect;

use super::check;

/// Non-preemptible jobs of 7 GPUs on every node: without a promise of whole nodes a gang inside its quota waits for them.
#[test]
fn without_whole_nodes_a_gang_is_fragmented() {
    check(
        "
        node   n0 n1 n2 n3 gpus=8
        tenant prod quota=16 | dev quota=28
        queued dev/a 1x7 fixed | dev/b 1x7 fixed | dev/c 1x7 fixed
        cycle
        queued prod/p 2x8
        cycle
        ",
        expect![[r#"
            place dev/a -> n0[0-6]
            place dev/b -> n1[0-6]
            place dev/c -> n2[0-6]
            blocked p: Fragmented { gpu, want: 16, reclaimable: 0, until +86610s }"#]],
    );
}

#[test]
fn with_whole_nodes_it_is_not() {
    check(
        "
        node   n0 n1 n2 n3 gpus=8
        tenant prod quota=16 domains=node:2 | dev quota=28
        queued dev/a 1x7 fixed | dev/b 1x7 fixed | dev/c 1x7 fixed
        cycle                  # c would break into a node that prod is promised
        why    c
        queued prod/p 2x8
        cycle
        explain c
        ",
        expect![[r#"
            place dev/a -> n0[0-6]
            place dev/b -> n1[0-6]
            blocked c: KeptWhole { gpu, Node, want: 1, may: 0 of 2 }
            why c: Waiting, 0 before it of 1: KeptWhole { gpu, Node, want: 1, may: 0 of 2 }; Reserved { gpu, want: 7, idle: 0, from +86610s }
            place prod/p -> n2[0-7] n3[0-7]
            blocked c: NotEnoughGpus { gpu, want: 7, free: 2 }
            explain c:
              NotEnoughGpus { gpu, want: 7, free: 2 }
              Reserved { gpu, want: 7, idle: 0, from +86610s }
              rank dev 1/1 (14 of 28), normal, user 1/1 (14000), age 0s
              waits for dev/a (7) ToItsEnd until +86610s
              room by +86610s
              starts now with 1 GPUs per member"#]],
    );
}

#[test]
fn what_can_be_taken_back_may_lie_there() {
    check(
        "
        node   n0 n1 n2 n3 gpus=8
        tenant prod quota=16 domains=node:2 | dev quota=28
        queued dev/a 1x7 fixed | dev/b 1x7 fixed | dev/c 1x7 | dev/d 1x7
        cycle                  # c and d are guests, though dev is inside its quota
        exit   a 0
        cycle                  # and stay guests
        tick   60s
        usage  dev
        queued prod/p 2x8
        cycle                  # one node is free by now, d leaves the other
        exit   d sig15
        cycle                  # and waits: no guest of its own mission goes for it
        ",
        expect![[r#"
            place dev/a -> n0[0-6]
            place dev/b -> n1[0-6]
            place dev/c -> n2[0-6], guest
            place dev/d -> n3[0-6], guest
            over dev/a: Completed
            end dev/a: Completed
            usage dev: used 21, fixed 7, borrowed 14; GPU-seconds own 0, borrowed 0
            promise prod/p -> n0[0-7] n3[0-7] by +150s
            stop dev/d: Evicted for prod/p
            blocked p: ReclaimPending { gpu, want: 16, free: 9, due +150s }
            over dev/d: Evicted
            again dev/d at the front
            place prod/p -> n0[0-7] n3[0-7]
            blocked d: NotEnoughGpus { gpu, want: 7, free: 2 }"#]],
    );
}

#[test]
fn the_owner_breaks_its_own_domains() {
    check(
        "
        node   n0 n1 gpus=8 leaf=l0
        node   n2 n3 gpus=8 leaf=l1
        node   n4 n5 gpus=8 leaf=l2
        node   n6 n7 gpus=8 leaf=l3
        tenant prod quota=48 domains=leaf:2 | dev quota=16 | late quota=16 domains=leaf:1
        queued prod/a 1x1 fixed
        cycle                  # it uses one leaf of prod's own
        queued dev/b 2x8 inside=leaf fixed
        cycle                  # one leaf was nobody's; two are promised still
        queued prod/p 2x8 inside=leaf fixed | prod/q 2x8 inside=leaf fixed
        cycle                  # a and p are both of prod's leaves: q would have the one of late
        ",
        expect![[r#"
            place prod/a -> n0[0]
            place dev/b -> n2[0-7] n3[0-7]
            place prod/p -> n4[0-7] n5[0-7]
            blocked q: KeptWhole { gpu, Leaf, want: 1, may: 0 of 1 }"#]],
    );
}

#[test]
fn the_small_jobs_of_others_stay_out_of_a_domain_that_is_used() {
    check(
        "
        node   n0 n1 gpus=8 leaf=l0
        node   n2 n3 gpus=8 leaf=l1
        tenant prod quota=16 domains=leaf:1 | dev quota=16
        queued prod/a 1x8 fixed | dev/b 1x8 fixed
        cycle
        queued dev/c 1x8 fixed | dev/d 1x4 fixed
        cycle                  # d's quota is used up, and prod's leaf is prod's
        exit   a 0
        queued prod/p 2x8 inside=leaf
        cycle
        ",
        expect![[r#"
            place prod/a -> n0[0-7]
            place dev/b -> n2[0-7]
            place dev/c -> n3[0-7]
            blocked d: NonPreemptibleOverQuota { dev, quota: 16, used: 16, want: 4 }
            over prod/a: Completed
            end prod/a: Completed
            place prod/p -> n0[0-7] n1[0-7]
            blocked d: NonPreemptibleOverQuota { dev, quota: 16, used: 16, want: 4 }"#]],
    );
}

#[test]
fn below_a_mission_its_domains_are_divided_again() {
    check(
        "
        node   n0 n1 n2 n3 n4 n5 gpus=8
        tenant m quota=32 domains=node:3 | m/x quota=16 domains=node:2 | m/y quota=16 domains=node:1 | dev quota=16
        queued m/x/a 1x1 fixed | dev/b 3x5 fixed
        cycle                  # a uses one of three nodes of m's: five are left, of which b may break into three
        queued m/x/c 2x5 fixed | m/x/d 1x5 fixed
        cycle                  # c and a are three of x's: there is one too many
        why    c
        why    d
        queued m/y/e 1x8
        cycle                  # what y was promised below m is y's
        ",
        expect![[r#"
            place m/x/a -> n0[0]
            place dev/b -> n1[0-4] n2[0-4] n3[0-4]
            place m/x/c -> n0[1-5] n4[0-4]
            blocked d: Fragmented { gpu, want: 5, reclaimable: 0, until +86610s }
            why c: Launching: 
            why d: Waiting, 0 before it of 1: Fragmented { gpu, want: 5, reclaimable: 0, until +86610s }; KeptWhole { gpu, Node, want: 1, may: 0 of 1 }; Reserved { gpu, want: 5, idle: 0, from +86610s }
            place m/y/e -> n5[0-7]
            blocked d: Fragmented { gpu, want: 5, reclaimable: 0, until +86610s }"#]],
    );
}

#[test]
fn a_lost_node_makes_a_promise_short_and_refuses_nobody_what_is_left() {
    check(
        "
        node   n0 n1 n2 gpus=8
        tenant prod quota=16 domains=node:2 | dev quota=8
        queued dev/a 1x1 fixed
        cycle
        silent n1
        queued prod/p 1x1 fixed | dev/b 1x8
        cycle                  # two nodes are promised, and one is left: b is a guest there
        queued prod/q 1x8
        cycle
        return n1
        cycle
        ",
        expect![[r#"
            place dev/a -> n0[0]
            n1 is Suspect
            place prod/p -> n0[1]
            place dev/b -> n2[0-7], guest
            promise prod/q -> n2[0-7] by +150s
            stop dev/b: Evicted for prod/q
            blocked q: ReclaimPending { gpu, want: 8, free: 0, due +150s }
            n1 is Ready
            blocked q: ReclaimPending { gpu, want: 8, free: 0, due +150s }"#]],
    );
}

#[test]
fn what_lies_on_a_lost_node_is_not_there() {
    check(
        "
        node   n0 n1 gpus=8 leaf=l0
        node   n2 n3 gpus=8 leaf=l1
        node   n4 n5 gpus=8 leaf=l2
        tenant prod quota=16 domains=leaf:2x1 | dev quota=32
        queued dev/a 1x8 fixed
        cycle
        silent n0
        lose   n0
        queued prod/p 1x1 fixed
        cycle                  # the rest of a's leaf is a clean leaf of one node, and p uses it up
        queued dev/b 1x8 fixed | dev/c 1x8 fixed | dev/d 1x8 fixed
        cycle                  # two leaves are left, one of which is promised
        queued prod/q 1x8 fixed
        cycle
        ",
        expect![[r#"
            place dev/a -> n0[0-7]
            n0 is Suspect
            n0 is Lost
            place prod/p -> n1[0]
            place dev/b -> n2[0-7]
            place dev/c -> n3[0-7]
            blocked d: KeptWhole { gpu, Leaf, want: 1, may: 0 of 1 }
            place prod/q -> n4[0-7]
            blocked d: KeptWhole { gpu, Leaf, want: 1, may: 0 of 0 }"#]],
    );
}

#[test]
fn a_promise_can_be_kept_or_is_refused() {
    check(
        "
        node   n0 n1 gpus=8 leaf=l0
        node   n2 n3 gpus=8 leaf=l1
        node   n4 gpus=8 leaf=l2
        quota  a quota=16 domains=leaf:2
        quota  a quota=48 domains=leaf:3
        quota  a quota=48 domains=leaf:3x9
        quota  a quota=48 domains=leaf:3x1
        quota  a quota=32 domains=leaf:2
        quota  b quota=8 domains=node:1
        quota  b quota=8 domains=leaf:1x1
        quota  b quota=16 domains=leaf:1
        quota  a/c quota=16 domains=leaf:3
        quota  a/c quota=16 domains=leaf:1
        quota  a quota=32
        quota  a quota=16 domains=leaf:1 from=1h until=2h
        quota  b quota=16 domains=leaf:1 from=1h until=2h
        quota  b quota=16 domains=leaf:1 from=1h until=3h
        ",
        expect![[r#"
            refused: Domains(AboveQuota { domains: 2, needs: 32 GPUs, quota: 16 GPUs })
            refused: Domains(TooMany { pool: "gpu x8", level: Leaf, nodes: 2, promised: 3, there: 2, from: None })
            refused: Domains(NoSuch { pool: "gpu x8", level: Leaf, nodes: 9, widest: 2 })
            changed a
            changed a
            refused: Domains(AnotherKind { pool: "gpu x8", tenant: "a", level: Leaf, nodes: 2 })
            refused: Domains(AnotherKind { pool: "gpu x8", tenant: "a", level: Leaf, nodes: 2 })
            refused: Domains(TooMany { pool: "gpu x8", level: Leaf, nodes: 2, promised: 3, there: 2, from: None })
            refused: Domains(AboveQuota { domains: 3, needs: 48 GPUs, quota: 16 GPUs })
            changed a/c
            refused: Domains(AboveParent { parent: "a", children: 1, domains: 0, from: None })
            a is to have 16 from +3600s until +7200s
            b is to have 16 from +3600s until +7200s
            refused: Calendar(DatedQuotasOverlap { tenant: "b", from: 3600000ms, until: Some(7200000ms) })"#]],
    );
}

#[test]
fn nobody_is_a_guest_where_nothing_is_promised_any_more() {
    check(
        "
        node   n0 n1 gpus=8
        tenant prod quota=8 domains=node:1 | dev quota=8
        queued dev/a 1x5 fixed | dev/b 1x3
        cycle
        queued dev/c 1x3
        cycle
        exit   b 0
        cycle
        usage  dev
        tenant prod quota=8
        usage  dev
        ",
        expect![[r#"
            place dev/a -> n0[0-4]
            place dev/b -> n0[5-7]
            place dev/c -> n1[0-2], guest
            over dev/b: Completed
            end dev/b: Completed
            usage dev: used 8, fixed 5, borrowed 3; GPU-seconds own 0, borrowed 0
            usage dev: used 8, fixed 5, borrowed 0; GPU-seconds own 0, borrowed 0"#]],
    );
}

#[test]
fn who_comes_back_too_late_is_no_guest() {
    check(
        "
        node   n0 n1 gpus=8
        tenant prod quota=8 domains=node:1 within=10m | dev quota=13 min-run=1h
        queued dev/a 1x5 fixed
        cycle
        queued dev/b 1x8
        cycle
        tenant dev min-run=0s
        cycle
        ",
        expect![[r#"
            place dev/a -> n0[0-4]
            blocked b: KeptWhole { gpu, Node, want: 1, may: 0 of 1 }
            place dev/b -> n1[0-7], guest"#]],
    );
}
