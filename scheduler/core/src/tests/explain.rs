//! Why a job waits, in full: all that refuses it, its rank, whose GPUs it waits for, and what would let it start.

use expect_test::expect;

use super::check;

#[test]
fn all_that_is_in_the_way_is_told_with_its_amounts() {
    check(
        "
        node   n0 n1 n2 gpus=8
        tenant m quota=12 limit=16 | m/x quota=8 limit=8 | m/y quota=4 | other quota=12
        run    m/x/a 1x4 on n0 limit=1h | m/y/b 1x4 on n0 limit=3h | other/o 1x8 on n1 fixed limit=2h
        queued m/x/p 2x4 fixed begin=5m user=lee
        tick   1m
        cycle
        explain p              # a gate, a limit, a quota: nothing is left out
        ",
        expect![[r#"
            blocked p: NotBefore +240s
            explain p:
              NotBefore +240s
              OverLimit { m/x, limit: 8, used: 4, want: 8 }
              OverQuota { m/x, quota: 8, used: 4, available: 4, want: 8 }
              rank m 1/1 (8 of 12), m/x 1/1 (4 of 8), normal, user 1/1 (0), age 60s
              waits for m/x/a (4) ToItsEnd until +3630s
              room by +3630s"#]],
    );
}

#[test]
fn a_smaller_gang_would_start_now() {
    check(
        "
        node   n0 n1 n2 n3 gpus=8 leaf=l0
        node   n4 n5 gpus=8 leaf=l1
        tenant a quota=48
        run    a/r 1x8 on n0 limit=30m | a/s 1x8 on n4 limit=2h
        queued a/q 4x8 inside=leaf | a/w 6x8
        cycle
        explain q
        explain w
        ",
        expect![[r#"
            blocked q: NoDomain { gpu, Leaf, want: 4, best: 3 }
            blocked w: BehindReservation { gpu, of a/q, idle: 24, until +1890s }
            explain q:
              NoDomain { gpu, Leaf, want: 4, best: 3 }
              Reserved { gpu, want: 32, idle: 24, from +1890s }
              rank a 1/1 (16 of 48), normal, user 1/1 (16000), age 0s
              waits for a/r (8) ToItsEnd until +1890s
              room by +1890s
              starts now with 3 members
              starts now with 4 GPUs per member
              starts now with inside Spine
              starts now with prefer Leaf
              starts with priority high after 1 evictions (8 GPUs)
            explain w:
              BehindReservation { gpu, of a/q, idle: 24, until +1890s }
              NotEnoughGpus { gpu, want: 48, free: 8 }
              Reserved { gpu, want: 48, idle: 32, from +88500s }
              rank a 1/1 (16 of 48), normal, user 1/1 (16000), age 0s
              starts now with 1 members
              starts now with 1 GPUs per member"#]],
    );
}

#[test]
fn a_required_level_could_be_preferred() {
    check(
        "
        node   n0 n1 gpus=8 leaf=l0
        node   n2 n3 gpus=8 leaf=l1
        tenant a quota=32
        run    a/r 1x8 on n0 limit=30m | a/s 1x8 on n2 limit=2h
        queued a/q 2x8 inside=leaf
        cycle
        explain q
        ",
        expect![[r#"
            blocked q: NoDomain { gpu, Leaf, want: 2, best: 1 }
            explain q:
              NoDomain { gpu, Leaf, want: 2, best: 1 }
              Reserved { gpu, want: 16, idle: 8, from +1890s }
              rank a 1/1 (16 of 32), normal, user 1/1 (16000), age 0s
              waits for a/r (8) ToItsEnd until +1890s
              room by +1890s
              starts now with 1 members
              starts now with 4 GPUs per member
              starts now with inside Spine
              starts now with prefer Leaf
              starts with priority high after 1 evictions (8 GPUs)"#]],
    );
}

#[test]
fn a_borrower_waits_for_those_who_borrow() {
    check(
        "
        node   n0 n1 gpus=8
        tenant prod quota=8 | dev quota=4 | base quota=4
        run    dev/a 1x8 on n0 limit=1h | dev/b 1x4 on n1 limit=2h | base/c 1x4 on n1 fixed limit=3h
        queued prod/p 1x8
        explain p              # before the cycle: what the planner will do
        cycle
        explain p              # after it: who is being stopped
        queued base/d 1x4 | prod/f 1x4 fixed
        cycle
        explain d
        explain f
        ",
        expect![[r#"
            explain p:
              NotEnoughGpus { gpu, want: 8, free: 0 }
              rank prod 1/1 (0 of 8), normal, user 1/1 (0), age 0s
              waits for dev/a (8) Reclaimable until +3690s
            promise prod/p -> n0[0-7] by +150s
            stop dev/a: Evicted for prod/p
            blocked p: ReclaimPending { gpu, want: 8, free: 0, due +150s }
            explain p:
              ReclaimPending { gpu, want: 8, free: 0, due +150s }
              rank prod 1/1 (above quota 0/1), normal, user 1/1 (0), age 0s
              waits for dev/a (8) Stopping until +90s
              room by +150s
            blocked p: ReclaimPending { gpu, want: 8, free: 0, due +150s }
            blocked d: NotEnoughGpus { gpu, want: 4, free: 0 }
            blocked f: NotEnoughGpus { gpu, want: 4, free: 0 }
            explain d:
              NotEnoughGpus { gpu, want: 4, free: 0 }
              Reserved { gpu, want: 4, idle: 0, from +10890s }
              rank base 2/2 (above quota 0/1), normal, user 1/1 (4000), age 0s
              waits for base/c (4) ToItsEnd until +10890s
              room by +10890s
            explain f:
              NotEnoughGpus { gpu, want: 4, free: 0 }
              Reserved { gpu, want: 4, idle: 0, from +7290s }
              rank prod 1/2 (above quota 0/1), normal, user 1/1 (0), age 0s
              waits for dev/b (4) ToItsEnd until +7290s
              room by +7290s"#]],
    );
}

#[test]
fn less_cpu_another_pool_or_a_higher_class_would_do() {
    check(
        "
        node   n0 gpus=8 model=A cpu=16
        node   n1 gpus=8 model=B
        tenant a quota=8 pool=A
        tenant a quota=4 pool=B
        tenant b quota=4 pool=B
        run    a/r 1x4 on n0 cpu=12 limit=1h | a/s 1x2 on n1 limit=1h fixed
        queued a/p 1x4 model=A cpu=8 | a/u 1x4 model=B fixed
        cycle
        explain p
        explain u
        ",
        expect![[r#"
            blocked p: NotEnoughCpuOrMemory { A, want: 1, fit: 0 }
            blocked u: NonPreemptibleOverQuota { a, quota: 4, used: 2, want: 4 }
            explain p:
              NotEnoughCpuOrMemory { A, want: 1, fit: 0 }
              Reserved { A, want: 4, idle: 0, from +3690s }
              rank a 1/1 (6 of 12), normal, user 1/1 (6000), age 0s
              waits for a/r (4) ToItsEnd until +3690s
              room by +3690s
              starts now with cpu 4 memory 0
              starts now with pool B
              starts with priority high after 1 evictions (4 GPUs)
            explain u:
              NonPreemptibleOverQuota { a, quota: 4, used: 2, want: 4 }
              Reserved { B, want: 4, idle: 2, from +3690s }
              rank a 1/1 (6 of 12), normal, user 1/1 (6000), age 0s
              starts now with 2 GPUs per member
              starts now with pool A
              starts now with preemptible"#]],
    );
}
