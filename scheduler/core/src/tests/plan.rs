//! The plan in time: what is set aside for whom, and what may run there before. An attempt is over by its limit, its grace
//! (30 s) and the agent's slack (60 s); one that is placed now may also take its launch deadline (120 s).

use expect_test::expect;

use super::check;

#[test]
fn the_first_blocked_gang_is_not_starved_by_small_jobs() {
    check(
        "
        policy plan-in-time
        node   n0 n1 gpus=8
        tenant prod quota=16
        run    prod/a 1x8 on n0 limit=1h | prod/b 1x4 on n1 limit=2h
        queued prod/gang 2x8 limit=1h
        cycle
        plan                   # when b is over by its limit, all of both nodes
        submit prod/long 1x4 limit=3h | prod/short 1x4 limit=1h
        cycle                  # long would still run by then, short is over before
        why    long
        exit   a 0
        submit prod/more 1x4 limit=2h | prod/little 1x4 limit=30m
        cycle
        exit   b 0
        exit   short 0
        exit   little 0
        cycle                  # sooner than planned, and nobody came before it
        ",
        expect![[r#"
            blocked gang: NotEnoughGpus { gpu, want: 16, free: 4 }
            reserve prod/gang -> n0[0-7] n1[0-7] from +7290s
            submit prod/long
            submit prod/short
            place prod/short -> n1[4-7]
            blocked gang: NotEnoughGpus { gpu, want: 16, free: 4 }
            blocked long: BehindReservation { gpu, of prod/gang, idle: 0, until +7290s }
            why long: Waiting, 1 before it of 2: BehindReservation { gpu, of prod/gang, idle: 0, until +7290s }; NotEnoughGpus { gpu, want: 4, free: 0 }
            over prod/a: Completed
            end prod/a: Completed
            submit prod/more
            submit prod/little
            place prod/little -> n0[0-3]
            blocked gang: NotEnoughGpus { gpu, want: 16, free: 0 }
            blocked long: BehindReservation { gpu, of prod/gang, idle: 4, until +7290s }
            blocked more: BehindReservation { gpu, of prod/gang, idle: 4, until +7290s }
            over prod/b: Completed
            end prod/b: Completed
            over prod/short: Completed
            end prod/short: Completed
            over prod/little: Completed
            end prod/little: Completed
            place prod/gang -> n0[0-7] n1[0-7]
            blocked long: NotTried
            blocked more: NotTried"#]],
    );
}

#[test]
fn reservations_follow_the_topology() {
    check(
        "
        policy plan-in-time
        node   n0 n1 gpus=8 leaf=l0
        node   n2 n3 gpus=8 leaf=l1
        tenant prod quota=32
        run    prod/a 1x8 on n0 limit=1h | prod/b 1x8 on n1 limit=4h | prod/c 1x8 on n2 limit=2h | prod/d 1x8 on n3 limit=3h
        queued prod/gang 2x8 inside=leaf limit=1h
        cycle
        plan                   # two nodes are free after 2 h, but not under one leaf
        ",
        expect![[r#"
            blocked gang: NotEnoughGpus { gpu, want: 16, free: 0 }
            reserve prod/gang -> n2[0-7] n3[0-7] from +10890s"#]],
    );
}

#[test]
fn a_later_reservation_waits_for_the_one_before_it() {
    check(
        "
        policy plan-in-time
        node   n0 gpus=8
        tenant prod quota=8 | dev quota=0
        run    dev/a 1x8 on n0 limit=1h
        policy heads=3 restart=9h
        queued prod/p 1x8 limit=1h | dev/b 1x4 limit=1h | dev/c 1x8 limit=1h
        quota  prod within=100h
        cycle
        plan
        ",
        expect![[r#"
            changed prod
            blocked p: TooDear { gpu, want: 8, GPU-seconds lost 259200, saved 29280, until +359850s }
            blocked b: NotEnoughGpus { gpu, want: 4, free: 0 }
            blocked c: NotEnoughGpus { gpu, want: 8, free: 0 }
            reserve prod/p -> n0[0-7] from +3690s
            reserve dev/b -> n0[0-3] from +7500s
            reserve dev/c -> n0[0-7] from +11310s"#]],
    );
}

#[test]
fn each_mission_holds_a_reservation() {
    check(
        "
        policy plan-in-time
        node   n0 n1 gpus=8
        tenant prod quota=8 within=100h | dev quota=8 within=100h
        policy heads=0
        run    prod/a 1x8 on n0 limit=1h | dev/b 1x8 on n1 limit=2h
        queued prod/p 1x8 limit=1h | prod/q 1x8 limit=1h | dev/d 1x8 limit=1h
        cycle
        plan                   # neither q, nor anything more of prod
        ",
        expect![[r#"
            blocked p: NotEnoughGpus { gpu, want: 8, free: 0 }
            blocked q: BehindReservation { gpu, of prod/p, idle: 0, until +3690s }
            blocked d: NotEnoughGpus { gpu, want: 8, free: 0 }
            reserve prod/p -> n0[0-7] from +3690s
            reserve dev/d -> n1[0-7] from +7290s"#]],
    );
}

#[test]
fn a_limit_is_part_of_the_plan() {
    check(
        "
        policy plan-in-time
        node   n0 n1 gpus=8
        tenant prod quota=8 limit=8
        run    prod/a 1x4 on n0 limit=1h | prod/b 1x4 on n0 limit=2h
        queued prod/p 1x8 limit=1h
        cycle
        plan                   # n1 is free, but prod may not have it before both are over
        ",
        expect![[r#"
            blocked p: OverLimit { prod, limit: 8, used: 8, want: 8 }
            reserve prod/p -> n0[0-7] from +7290s"#]],
    );
}

#[test]
fn what_starts_inside_its_quota_comes_before_borrowers() {
    check(
        "
        policy plan-in-time
        node   n0 n1 gpus=8
        tenant prod quota=12 | dev quota=4
        run    dev/a 1x4 on n0 limit=10h | dev/b 1x8 on n1 limit=1h
        queued dev/gang 1x8 limit=5h
        cycle
        plan                   # a borrower holds n1 from the time on at which b is over
        exit   b 0
        submit dev/more 1x4 limit=20h | prod/p 1x8 limit=20h
        cycle
        ",
        expect![[r#"
            blocked gang: NotEnoughGpus { gpu, want: 8, free: 4 }
            reserve dev/gang -> n1[0-7] from +3690s
            over dev/b: Completed
            end dev/b: Completed
            submit dev/more
            submit prod/p
            place dev/more -> n0[4-7], borrowed
            place dev/gang -> n1[0-7], borrowed
            blocked p: NotEnoughGpus { gpu, want: 8, free: 4 }"#]],
    );
}

#[test]
fn lent_gpus_come_back_by_the_deadline_and_not_before() {
    check(
        "
        policy plan-in-time restart=20h
        node   n0 gpus=8
        tenant prod quota=8 within=1h | dev quota=0
        run    dev/a 1x4 on n0 limit=10h | dev/b 1x4 on n0 limit=30m
        queued prod/p 1x4 limit=1h
        cycle                  # b is over in time: nobody is evicted
        plan
        submit prod/q 1x8 limit=1h
        cancel p
        cycle
        plan                   # a is not: it is told so early that it is gone by then
        tick   20m
        submit dev/c 1x4 limit=10h
        exit   b 0
        cycle                  # c is back by then as well, and may use what is idle until then
        prepared c
        started c
        tick   38m
        cycle
        exit   a sig15
        exit   c sig15
        cycle
        ",
        expect![[r#"
            blocked p: TooDear { gpu, want: 4, GPU-seconds lost 288000, saved 7440, until +3450s }
            reserve prod/p -> n0[4-7] from +1890s
            submit prod/q
            end prod/p: Cancelled
            blocked q: TooDear { gpu, want: 8, GPU-seconds lost 576000, saved 288480, until +3450s }
            reserve prod/q -> n0[0-7] from +3600s, taken back
            submit dev/c
            over dev/b: Completed
            end dev/b: Completed
            place dev/c -> n0[4-7], borrowed
            blocked q: TooDear { gpu, want: 8, GPU-seconds lost 292800, saved 278880, until +2250s }
            promise prod/q -> n0[0-7] by +150s
            stop dev/c: Evicted for prod/q
            stop dev/a: Evicted for prod/q
            blocked q: ReclaimPending { gpu, want: 8, free: 0, due +150s }
            over dev/a: Evicted
            again dev/a at the front
            over dev/c: Evicted
            again dev/c at the front
            place prod/q -> n0[0-7]
            blocked a: NotEnoughGpus { gpu, want: 4, free: 0 }
            blocked c: NotEnoughGpus { gpu, want: 4, free: 0 }"#]],
    );
}

#[test]
fn what_others_keep_back_is_lent_to_nobody() {
    check(
        "
        policy plan-in-time restart=90h
        node   n0 n1 gpus=8
        tenant keep quota=8 lend=0 | prod quota=8 within=900h | dev quota=0
        run    dev/a 1x4 on n0 limit=1h | dev/b 1x4 on n0 limit=2h
        queued prod/gang 1x8 limit=1h
        cycle
        plan                   # n1 is idle, and half of it could be had if keep lent it: both a and b must be over
        exit   a 0
        submit dev/long 1x4 limit=10h
        cycle                  # it would leave 4 of all that may be had to the gang
        submit dev/short 1x4 limit=30m
        cycle
        ",
        expect![[r#"
            blocked gang: TooDear { gpu, want: 8, GPU-seconds lost 2592000, saved 29280, until +3239850s }
            reserve prod/gang -> n0[0-7] from +7290s
            over dev/a: Completed
            end dev/a: Completed
            submit dev/long
            blocked gang: TooDear { gpu, want: 8, GPU-seconds lost 1296000, saved 58080, until +7290s }
            blocked long: BehindReservation { gpu, of prod/gang, idle: 4, until +7290s }
            submit dev/short
            place dev/short -> n0[0-3], borrowed
            blocked gang: TooDear { gpu, want: 8, GPU-seconds lost 1296000, saved 58080, until +7290s }
            blocked long: OverQuota { dev, quota: 0, used: 8, available: 0, want: 4 }"#]],
    );
}

#[test]
fn reclaim_delays_no_reservation_of_an_earlier_job() {
    check(
        "
        policy plan-in-time restart=90m
        node   n0 n1 gpus=8
        tenant first quota=8 within=100h | second quota=8 within=3h | dev quota=0
        run    dev/a 1x8 on n0 limit=1h
        cordon n1
        queued first/y 1x8 limit=1h
        cycle
        plan
        submit second/x 1x8 limit=9h
        cycle
        tick   2m
        cycle                  # for x it pays to have a evicted, but where it runs y comes first
        plan
        ",
        expect![[r#"
            n1 is cordoned
            blocked y: TooDear { gpu, want: 8, GPU-seconds lost 43200, saved 29280, until +359850s }
            reserve first/y -> n0[0-7] from +3690s
            submit second/x
            blocked y: TooDear { gpu, want: 8, GPU-seconds lost 43200, saved 29280, until +3690s }
            blocked x: TooDear { gpu, want: 8, GPU-seconds lost 43200, saved 29280, until +10650s }
            blocked y: TooDear { gpu, want: 8, GPU-seconds lost 43200, saved 29280, until +3570s }
            blocked x: TooDear { gpu, want: 8, GPU-seconds lost 43200, saved 29280, until +10530s }
            reserve first/y -> n0[0-7] from +3570s
            reserve second/x -> n0[0-7] from +7380s"#]],
    );
}

#[test]
fn a_date_of_the_calendar_is_a_time_to_begin() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=8 limit=8
        quota  a quota=16 limit=16 from=1h until=9h
        run    a/r 1x8 on n0
        queued a/w 1x8
        cycle
        plan
        tick   1h
        cycle
        ",
        expect![[r#"
            a is to have 16 from +3600s until +32400s
            blocked w: OverLimit { a, limit: 8, used: 8, want: 8 }
            reserve a/w -> n1[0-7] from +3600s
            dated quota of a begins
            place a/w -> n1[0-7]"#]],
    );
}
