//! Who is next, and who may: quota, limit, lend limit, borrowing, order between and inside tenants.

use expect_test::expect;

use super::check;

#[test]
fn under_quota_goes_first_and_the_emptiest_of_them() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=4 | b quota=8 | c quota=4
        run    a/a0 1x4 on n0 | b/b0 1x2 on n0
        queued a/a1 1x2
        queued b/b1 1x2 | b/b2 1x2
        queued c/c1 1x2 | c/c2 1x2
        cycle                  # a is at its quota: it comes last; c has nothing, b a quarter
        ",
        expect![[r#"
            place c/c1 -> n0[6-7]
            place b/b1 -> n1[0-1]
            place b/b2 -> n1[2-3]
            place c/c2 -> n1[4-5]
            place a/a1 -> n1[6-7], borrowed"#]],
    );
}

#[test]
fn borrowers_share_by_weight() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=0 weight=1 | b quota=0 weight=3
        queued a/a 1x1 array=9
        queued b/b 1x1 array=9
        cycle
        usage a
        usage b
        ",
        expect![[r#"
            place a/a[0] -> n0[0], borrowed
            place b/b[0] -> n0[1], borrowed
            place b/b[1] -> n0[2], borrowed
            place b/b[2] -> n0[3], borrowed
            place a/a[1] -> n0[4], borrowed
            place b/b[3] -> n0[5], borrowed
            place b/b[4] -> n0[6], borrowed
            place b/b[5] -> n0[7], borrowed
            blocked a: NotEnoughGpus { gpu, want: 1, free: 0 }
            blocked b: NotEnoughGpus { gpu, want: 1, free: 0 }
            usage a: used 2, fixed 0, borrowed 2; GPU-seconds own 0, borrowed 0
            usage b: used 6, fixed 0, borrowed 6; GPU-seconds own 0, borrowed 0"#]],
    );
}

#[test]
fn who_borrowed_before_waits() {
    check(
        "
        node   n0 gpus=4
        tenant a quota=0 | b quota=0
        run    a/old 1x4 on n0
        tick   24h
        exit   old 0
        queued a/a1 1x2 | a/a2 1x2
        queued b/b1 1x2 | b/b2 1x2
        cycle                  # a used what was idle for a day
        ",
        expect![[r#"
            over a/old: Completed
            end a/old: Completed
            place b/b1 -> n0[0-1], borrowed
            place a/a1 -> n0[2-3], borrowed
            blocked a2: NotEnoughGpus { gpu, want: 2, free: 0 }
            blocked b2: NotEnoughGpus { gpu, want: 2, free: 0 }"#]],
    );
}

#[test]
fn inside_a_tenant_priority_then_share_then_age() {
    check(
        "
        node   n0 gpus=5
        tenant a quota=5
        run    a/r 1x1 on n0 user=kim
        queued a/k1 1x1 user=kim | a/k2 1x1 user=kim prio=high | a/l1 1x1 user=lee | a/l2 1x1 user=lee | a/l3 1x1 user=lee prio=low
        cycle
        ",
        expect![[r#"
            place a/k2 -> n0[1]
            place a/l1 -> n0[2]
            place a/l2 -> n0[3]
            place a/k1 -> n0[4]
            blocked l3: NotEnoughGpus { gpu, want: 1, free: 0 }"#]],
    );
}

#[test]
fn what_is_not_lent_stays() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=8 lend=2 | b quota=8
        queued b/b1 1x8 | b/b2 1x2 | b/b3 1x1
        cycle                  # of a's 8 only 2 are lent
        queued a/a1 1x6 | a/a2 1x1
        cycle                  # what was kept back is there
        ",
        expect![[r#"
            place b/b1 -> n0[0-7]
            place b/b2 -> n1[0-1], borrowed
            blocked b3: OverQuota { b, quota: 8, used: 10, available: 0, want: 1 }
            place a/a1 -> n1[2-7]
            promise a/a2 -> n1[0] by +150s
            stop b/b2: Evicted for a/a2
            blocked b3: NotTried
            blocked a2: ReclaimPending { gpu, want: 1, free: 0, due +150s }"#]],
    );
}

#[test]
fn limits_hold_at_every_level() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=8 limit=10 | a/x quota=2 limit=4 | a/y quota=6
        queued a/x/x1 1x4 | a/x/x2 1x1
        queued a/y/y1 1x6 | a/y/y2 1x1
        submit a/x/x3 1x5
        cycle
        ",
        expect![[r#"
            refused job 0: OverLimitForEver { tenant: "a/x", want: 5 GPUs, limit: 4 GPUs }
            place a/x/x1 -> n0[0-3]
            place a/y/y1 -> n1[0-5], borrowed
            blocked x2: OverLimit { a/x, limit: 4, used: 4, want: 1 }
            blocked y2: OverLimit { a, limit: 10, used: 10, want: 1 }"#]],
    );
}

#[test]
fn fixed_jobs_start_inside_quota_only() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=4 | b quota=12
        queued a/a1 1x3 fixed | a/a2 1x2 fixed | a/a3 1x8
        submit a/a4 1x5 fixed
        cycle
        usage  a
        exit   a1 0
        cycle                  # a2 is inside now, and pushes a3 out of the quota
        usage  a
        ",
        expect![[r#"
            refused job 0: NonPreemptibleOverQuota { tenant: "a", want: 5 GPUs, quota: 4 GPUs }
            place a/a1 -> n0[0-2]
            place a/a3 -> n1[0-7], borrowed
            blocked a2: NonPreemptibleOverQuota { a, quota: 4, used: 3, want: 2 }
            usage a: used 11, fixed 3, borrowed 8; GPU-seconds own 0, borrowed 0
            over a/a1: Completed
            end a/a1: Completed
            place a/a2 -> n0[2-3]
            usage a: used 10, fixed 2, borrowed 8; GPU-seconds own 0, borrowed 0"#]],
    );
}

#[test]
fn fixed_jobs_need_a_quota() {
    check(
        "
        node   n0 gpus=8
        tenant a weight=1 | b quota=4 | b/x weight=1
        submit a/a1 1x1 fixed
        submit b/x/b1 1x4 fixed | b/x/b2 1x1 fixed
        submit a/a2 1x1
        cycle
        ",
        expect![[r#"
            refused job 0: NonPreemptibleOverQuota { tenant: "a", want: 1 GPUs, quota: 0 GPUs }
            submit b/x/b1
            submit b/x/b2
            submit a/a2
            place b/x/b1 -> n0[0-3]
            place a/a2 -> n0[4], borrowed
            blocked b2: NonPreemptibleOverQuota { b, quota: 4, used: 4, want: 1 }"#]],
    );
}

#[test]
fn a_quota_cut_leaves_an_overhang() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=8 | b quota=8
        run    a/a1 1x4 on n0 fixed | a/a2 1x4 on n0
        tick   10s
        quota  a quota=2
        usage  a
        queued a/a3 1x1 fixed | a/a4 1x1
        cycle
        tick   10s
        exit   a1 0
        exit   a2 0
        usage  a
        ",
        expect![[r#"
            changed a
            usage a: used 8, fixed 4, borrowed 8; GPU-seconds own 80, borrowed 0
            place a/a4 -> n1[0]
            blocked a3: NonPreemptibleOverQuota { a, quota: 2, used: 4, want: 1 }
            over a/a1: Completed
            end a/a1: Completed
            over a/a2: Completed
            end a/a2: Completed
            usage a: used 1, fixed 0, borrowed 0; GPU-seconds own 80, borrowed 80"#]],
    );
}

#[test]
fn quotas_that_contradict_are_refused() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=8 | a/x quota=6
        quota  a/y quota=4
        quota  a quota=4
        quota  a/x quota=6 limit=5
        quota  a/x quota=6 lend=7
        quota  a/x weight=0
        quota  nobody/x quota=1
        quota  a/x pool=nothing quota=1
        ",
        expect![[r#"
            refused: ChildrenAboveParent { parent: "a", children: 10 GPUs, quota: 8 GPUs, from: None }
            refused: ChildrenAboveParent { parent: "a", children: 6 GPUs, quota: 4 GPUs, from: None }
            refused: LimitBelowQuota { limit: 5 GPUs, quota: 6 GPUs }
            refused: LendLimitAboveQuota { lend_limit: 7 GPUs, quota: 6 GPUs }
            refused: ZeroWeight
            refused: UnknownTenant { name: "nobody" }
            refused: UnknownPool { name: "nothing", known: ["gpu x8"] }"#]],
    );
}

#[test]
fn paused_tenants_start_nothing() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=4 | a/x weight=1 | b quota=4
        queued a/x/a1 1x1
        queued b/b1 1x1
        pause  a
        cycle
        unpause a
        pause
        cycle
        unpause
        cycle
        ",
        expect![[r#"
            paused a
            place b/b1 -> n0[0]
            blocked a1: Paused { a }
            unpaused a
            paused cluster
            blocked a1: Paused { cluster }
            unpaused cluster
            place a/x/a1 -> n0[1]"#]],
    );
}

#[test]
fn gpus_lost_with_their_jobs_do_not_take_away_what_is_free() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=16 | b quota=0
        run    a/a1 1x8 on n0
        lose   n0
        queued a/a2 1x8
        cycle                  # n1 is free: that n0 is lost with what it holds changes nothing
        ",
        expect![[r#"
            n0 is Lost
            place a/a2 -> n1[0-7]"#]],
    );
}

#[test]
fn fenced_gpus_that_are_held_do_not_take_away_what_is_free() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=8
        run    a/a1 1x4 on n0
        bad    n0 0-3
        queued a/a2 1x4
        cycle
        exit   a1 0
        queued a/a3 1x1
        cycle                  # what was fenced is not used again
        bad    n0
        cycle
        ",
        expect![[r#"
            fenced n0[0-3]
            place a/a2 -> n0[4-7]
            over a/a1: Completed
            end a/a1: Completed
            blocked a3: NotEnoughGpus { gpu, want: 1, free: 0 }
            fenced n0[]
            place a/a3 -> n0[0]"#]],
    );
}

#[test]
fn several_pools_in_order_of_preference() {
    check(
        "
        node   h0 gpus=8 model=H100
        node   a0 gpus=8 model=A100
        tenant t pool=H100 quota=4 limit=4
        quota  t pool=A100 quota=8 limit=8
        queued t/j1 1x4 model=H100,A100 | t/j2 1x4 model=H100,A100 | t/j3 1x4 model=H100 | t/j4 1x4 model=A100,H100
        cycle                  # j1 takes H100 to the limit; j2 falls back; j3 names no other
        submit t/j5 1x1 model=V100
        ",
        expect![[r#"
            changed t
            place t/j1 -> h0[0-3]
            place t/j2 -> a0[0-3]
            place t/j4 -> a0[4-7]
            blocked j3: OverLimit { t, limit: 4, used: 4, want: 4 }
            refused job 0: UnknownModel { name: "V100", known: ["H100 x8", "A100 x8"] }"#]],
    );
}

#[test]
fn want_of_quota_in_one_pool_hides_no_room_in_another() {
    check(
        "
        node   h0 gpus=8 model=H100
        node   a0 a1 gpus=8 model=A100
        tenant t pool=H100 quota=0 limit=0
        quota  t pool=A100 quota=16
        run    t/g 2x8 on a0 a1
        lose   a0
        exit   g.1 sig15
        run    t/r 1x8 on a1
        return a0              # what g had there may still run
        queued t/j 1x4 model=H100,A100
        cycle
        cancel g
        exit   g.0 sig15
        cycle                  # only GPUs became free; no quota has changed
        ",
        expect![[r#"
            changed t
            a0 is Lost
            stop t/g: NodeLost
            over t/g: NodeLost
            a0 is Ready
            blocked j: OverLimit { t, limit: 0, used: 0, want: 4 }
            stop t/g: Cancelled
            end t/g: Cancelled
            place t/j -> a0[0-3]"#]],
    );
}

#[test]
fn a_refusal_of_one_tenant_is_none_of_another() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=4 limit=4 | b quota=4
        queued a/a1 1x3 | a/a2 1x3
        queued b/b1 1x3
        cycle
        ",
        expect![[r#"
            place a/a1 -> n0[0-2]
            place b/b1 -> n0[3-5]
            blocked a2: OverLimit { a, limit: 4, used: 3, want: 3 }"#]],
    );
}

#[test]
fn a_limit_is_checked_though_others_ask_for_the_same() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=4 limit=4 | b quota=4
        queued b/b1 1x6
        submit a/a1 1x6
        ",
        expect![[r#"refused job 0: OverLimitForEver { tenant: "a", want: 6 GPUs, limit: 4 GPUs }"#]],
    );
}

#[test]
fn when_nodes_are_down_what_is_left_is_shared_in_proportion() {
    check(
        "
        node   n0 n1 n2 gpus=8
        tenant a quota=16 | b quota=8
        lose   n1
        lose   n2
        submit a/p 1x1 array=12 | b/q 1x1 array=12
        cycle                  # 24 are promised and 8 exist: the emptier by its quota first, 2 for a to each for b
        usage  a
        usage  b
        ",
        expect![[r#"
            n1 is Lost
            n2 is Lost
            submit a/p
            submit b/q
            place a/p[0] -> n0[0]
            place b/q[0] -> n0[1]
            place a/p[1] -> n0[2]
            place a/p[2] -> n0[3]
            place b/q[1] -> n0[4]
            place a/p[3] -> n0[5]
            place a/p[4] -> n0[6]
            place b/q[2] -> n0[7]
            blocked p: NotEnoughGpus { gpu, want: 1, free: 0 }
            blocked q: Fragmented { gpu, want: 1, reclaimable: 0, until +86610s }
            usage a: used 5, fixed 0, borrowed 0; GPU-seconds own 0, borrowed 0
            usage b: used 3, fixed 0, borrowed 0; GPU-seconds own 0, borrowed 0"#]],
    );
}
