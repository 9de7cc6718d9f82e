//! Nodes that are kept for a period to come, by example. An attempt counts as over 3 and a half minutes after its limit: the
//! deadline of its launch, its grace and a slack.

use expect_test::expect;

use super::check;

#[test]
fn maintenance_waits_for_what_ends_and_lets_in_what_is_over_before() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=32
        run    a/old 1x8 on n0 limit=10m
        book   rack from=1h until=2h nodes=n0 maintenance
        submit a/long 1x8 limit=2h | a/more 1x8 limit=2h | a/short 1x4 limit=30m
        cycle                  # long has n1, old n0
        prepared long
        started long
        why    more
        tick   10m
        exit   old 0
        cycle                  # more would run into it
        why    more
        explain more
        prepared short
        started short
        tick   30m
        exit   short 0
        tick   20m
        cycle
        why    more
        tick   1h
        cycle
        ",
        expect![[r#"
            rack keeps n0 from +3600s until +7200s for maintenance
            submit a/long
            submit a/more
            submit a/short
            place a/long -> n1[0-7]
            blocked more: NotEnoughGpus { gpu, want: 8, free: 0 }
            blocked short: NotEnoughGpus { gpu, want: 4, free: 0 }
            why more: Waiting, 0 before it of 2: NotEnoughGpus { gpu, want: 8, free: 0 }; Reserved { gpu, want: 8, idle: 0, from +7200s }
            over a/old: Completed
            end a/old: Completed
            place a/short -> n0[0-3]
            blocked more: NotEnoughGpus { gpu, want: 8, free: 0 }
            why more: Waiting, 0 before it of 1: NotEnoughGpus { gpu, want: 8, free: 0 }; Reserved { gpu, want: 8, idle: 4, from +6600s }; Booked { gpu, by rack, idle: 4, from +3000s until +6600s }
            explain more:
              NotEnoughGpus { gpu, want: 8, free: 0 }
              Reserved { gpu, want: 8, idle: 4, from +6600s }
              Booked { gpu, by rack, idle: 4, from +3000s until +6600s }
              rank a 1/1 (12 of 32), normal, user 1/1 (12015), age 600s
              waits for a/long (8) ToItsEnd until +6690s
              room by +6690s
              starts with priority high after 1 evictions (8 GPUs)
            over a/short: Completed
            end a/short: Completed
            rack clears
            rack begins
            blocked more: NotEnoughGpus { gpu, want: 8, free: 0 }
            why more: Waiting, 0 before it of 1: NotEnoughGpus { gpu, want: 8, free: 0 }; Reserved { gpu, want: 8, idle: 8, from +3600s }; Booked { gpu, by rack, idle: 8, from +0s until +3600s }
            forget old
            forget short
            booking is over
            place a/more -> n0[0-7]"#]],
    );
}

#[test]
fn what_would_run_into_it_is_stopped_by_its_grace_before() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=8 | b quota=8
        run    a/p 1x8 on n0 grace=2m limit=5h
        run    b/q 1x4 on n1 limit=10m
        book   move from=1h until=2h nodes=n0,n1 maintenance
        exit   q 0
        tick   55m
        tick   1m              # grace and kill bound before it begins
        exit   p 0
        cycle
        tick   4m
        cycle
        tick   1h
        cycle
        ",
        expect![[r#"
            move keeps n0 n1 from +3600s until +7200s for maintenance, clears +3360s
            over b/q: Completed
            end b/q: Completed
            move clears
            stop a/p: Drained
            over a/p: Drained
            again a/p at the front
            blocked p: NotEnoughGpus { gpu, want: 8, free: 0 }
            forget q
            move begins
            blocked p: NotEnoughGpus { gpu, want: 8, free: 0 }
            booking is over
            place a/p -> n1[0-7] (attempt 2)"#]],
    );
}

#[test]
fn the_nodes_that_lose_least_are_chosen() {
    check(
        "
        node   n0 n1 n2 n3 n4 gpus=8
        tenant a quota=16 | b quota=0 | c quota=16
        run    a/fixed 1x8 on n0 fixed limit=5h
        run    a/own 1x8 on n1 limit=5h
        run    b/lent 1x8 on n2 limit=5h
        run    a/short 1x8 on n3 limit=10m
        tick   1m
        book   one from=1h until=2h count=1 maintenance
        book   two from=1h until=2h count=1 maintenance
        book   three from=1h until=2h count=1 maintenance
        book   four from=1h until=2h count=1 maintenance
        book   five from=1h until=2h count=1 maintenance
        book   five from=1h until=2h count=1 maintenance force
        book   five from=2h until=3h nodes=n0 maintenance
        ",
        expect![[r#"
            one keeps n4 from +3600s until +7200s for maintenance
            two keeps n3 from +3600s until +7200s for maintenance
            three keeps n2 from +3600s until +7200s for maintenance, clears +3450s
            four keeps n1 from +3600s until +7200s for maintenance, clears +3450s
            refused: Booking(TooFewNodes { pool: "gpu x8", want: 1, all: 5, have: 0 })
            five keeps n0 from +3600s until +7200s for maintenance, clears +3450s
            refused: Booking(NameTaken { name: "five", from: 3660000ms })"#]],
    );
}

#[test]
fn a_campaign_is_for_those_who_name_it() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=16 | b quota=0
        book   race from=1h until=2h nodes=n0 tenant=a
        submit a/in 1x4 booking=race limit=3h | a/out 1x8 limit=3h | b/other 1x8 limit=3h
        cycle
        prepared out
        started out
        why    in
        tick   1h
        cycle
        why    other
        prepared in
        started in
        tick   1h              # it runs on
        cycle
        exit   in 0
        cycle
        ",
        expect![[r#"
            race keeps n0 from +3600s until +7200s for those of a that name it
            submit a/in
            submit a/out
            submit b/other
            place a/out -> n1[0-7]
            blocked in: AwaitsBooking { race, from +3600s }
            blocked other: NotEnoughGpus { gpu, want: 8, free: 0 }
            why in: Waiting, 0 before it of 1: AwaitsBooking { race, from +3600s }
            race clears
            race begins
            place a/in -> n0[0-3]
            blocked other: NotEnoughGpus { gpu, want: 8, free: 0 }
            why other: Waiting, 0 before it of 1: NotEnoughGpus { gpu, want: 8, free: 0 }; Booked { gpu, by race, idle: 4, from +0s until +3600s }
            booking is over
            blocked other: NotEnoughGpus { gpu, want: 8, free: 4 }
            over a/in: Completed
            end a/in: Completed
            place b/other -> n0[0-7], borrowed"#]],
    );
}

#[test]
fn or_for_all_of_its_tenant_who_may_come_before() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=16 | b quota=0
        run    b/there 1x8 on n0 limit=5h
        book   race from=1h until=2h nodes=n0,n1 tenant=a all
        submit a/first 1x8 limit=3h | b/long 1x4 limit=3h
        cycle
        prepared first
        started first
        tick   58m
        exit   there 0
        submit a/second 1x8 limit=3h
        cycle
        tick   2m
        cycle
        tick   1h
        cycle
        ",
        expect![[r#"
            race keeps n0 n1 from +3600s until +7200s for all of a, clears +3450s
            submit a/first
            submit b/long
            place a/first -> n1[0-7]
            blocked long: NotEnoughGpus { gpu, want: 4, free: 0 }
            race clears
            stop b/there: Drained
            over b/there: Drained
            again b/there at the front
            submit a/second
            place a/second -> n0[0-7]
            blocked there: NotEnoughGpus { gpu, want: 8, free: 0 }
            blocked long: NotEnoughGpus { gpu, want: 4, free: 0 }
            stop a/second: LaunchDeadline
            race begins
            blocked there: NotEnoughGpus { gpu, want: 8, free: 0 }
            blocked long: NotEnoughGpus { gpu, want: 4, free: 0 }
            booking is over
            blocked there: NotEnoughGpus { gpu, want: 8, free: 0 }
            blocked long: NotEnoughGpus { gpu, want: 4, free: 0 }"#]],
    );
}

#[test]
fn a_dated_drain_lets_what_runs_there_run_on() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=8
        run    a/p 1x4 on n0 limit=5h fixed
        book   drain-n0 from=1h nodes=n0 maintenance running
        submit a/long 1x4 limit=2h | a/short 1x4 limit=10m
        cycle
        exit   short 0
        tick   1h
        cycle
        exit   p 0
        resume n0
        cycle
        ",
        expect![[r#"
            drain-n0 keeps n0 from +3600s for maintenance
            submit a/long
            submit a/short
            place a/short -> n0[4-7]
            blocked long: NotEnoughGpus { gpu, want: 4, free: 0 }
            over a/short: Completed
            end a/short: Completed
            forget short
            b1 clears
            b1 begins
            n0 is draining
            booking is over
            blocked long: NotEnoughGpus { gpu, want: 4, free: 0 }
            over a/p: Completed
            end a/p: Completed
            n0 is open
            place a/long -> n0[0-3]"#]],
    );
}

#[test]
fn what_cannot_be_booked_is_refused() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=8 | b quota=8
        run    a/p 1x8 on n0 limit=5h
        run    b/q 1x4 on n1 limit=5h fixed
        tick   1m
        policy bookings=2
        book   x from=1h nodes=n0 tenant=a
        book   x from=1h until=30m nodes=n0 maintenance
        book   x from=10000h until=10001h nodes=n0 maintenance
        book   x/y from=1h until=2h nodes=n0 maintenance
        book   x from=1h until=2h maintenance
        book   x from=1h until=2h nodes=n0 count=1 maintenance
        book   x from=1h until=2h nodes=n7 maintenance
        book   x from=1h until=2h nodes=n0 tenant=c
        book   x from=1h until=2h nodes=n0 maintenance tenant=a
        book   x from=1h until=2h nodes=n0 all
        book   x from=1h until=2h nodes=n1 maintenance
        book   x from=1h until=2h count=3 maintenance
        book   x from=1h until=2h nodes=n0 maintenance own
        book   x from=1h until=2h nodes=n0 tenant=b own
        book   x from=1h until=2h nodes=n0 tenant=a own
        book   x from=3h until=4h nodes=n1 tenant=a
        book   y from=1h until=2h nodes=n1 tenant=a own
        book   y from=90m until=3h nodes=n0 maintenance
        book   y from=2h until=3h nodes=n0 maintenance
        book   z from=3h until=4h nodes=n0 maintenance
        submit a/r 1x8 booking=z
        submit b/r 1x8 booking=x
        submit a/r 2x8 booking=x
        submit a/r 1x8 booking=y
        cancel-booking z
        ",
        expect![[r#"
            refused: Booking(WithoutEnd)
            refused: Booking(EndsBeforeItBegins { from: 3660000ms, until: 1860000ms })
            refused: Booking(TooFarAhead { from: 36000060000ms, latest: 34560060000ms })
            refused: Booking(BadName { name: "x/y" })
            refused: Booking(WithoutNodes)
            refused: Booking(NamedAndCounted)
            refused: UnknownNode { name: "n7" }
            refused: UnknownTenant { name: "c" }
            refused: Booking(MaintenanceForJobs)
            refused: Booking(ForAll)
            refused: Booking(InTheWay { node: "n1", job: j2, until: 18090000ms, fixed: true })
            refused: Booking(TooFewNodes { pool: "gpu x8", want: 3, all: 2, have: 1 })
            refused: Booking(InTheWay { node: "n0", job: j1, until: 18090000ms, fixed: false })
            refused: Booking(InTheWay { node: "n0", job: j1, until: 18090000ms, fixed: false })
            x keeps n0 from +3600s until +7200s for those of a that name it, clears +3450s
            refused: Booking(NameTaken { name: "x", from: 3660000ms })
            refused: Booking(InTheWay { node: "n1", job: j2, until: 18090000ms, fixed: true })
            refused: Booking(NodeBooked { node: "n0", booking: "x", from: 3660000ms, until: Some(7260000ms) })
            y keeps n0 from +7200s until +10800s for maintenance, clears +7050s
            refused: Booking(TooMany { limit: 2 })
            refused job 0: Booking(Unknown { name: "z", known: ["x", "y"] })
            refused job 0: Booking(ForOthers { name: "x", tenant: "a" })
            refused job 0: Booking(TooSmall { name: "x", nodes: 1 })
            refused job 0: Booking(ForNobody { name: "y" })
            refused: Booking(Unknown { name: "z", known: ["x", "y"] })"#]],
    );
}

#[test]
fn who_named_a_booking_that_is_cancelled_is_like_any_other() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=16
        book   race from=1h until=2h nodes=n0 tenant=a
        submit a/p 1x8 booking=race array=3
        cycle
        cancel-booking race
        cycle
        ",
        expect![[r#"
            race keeps n0 from +3600s until +7200s for those of a that name it
            submit a/p
            blocked p: AwaitsBooking { race, from +3600s }
            booking is cancelled
            place a/p[0] -> n0[0-7]
            place a/p[1] -> n1[0-7]
            blocked p: NotEnoughGpus { gpu, want: 8, free: 0 }"#]],
    );
}

#[test]
fn the_plan_in_time_reckons_with_what_is_booked() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=16
        run    a/p 1x8 on n0 limit=10m
        book   off from=1h until=2h nodes=n1 maintenance
        submit a/long 2x8 limit=2h | a/short 2x8 limit=20m
        cycle                  # short fits before it, long after
        plan
        tick   10m
        exit   p 0
        cycle
        ",
        expect![[r#"
            off keeps n1 from +3600s until +7200s for maintenance
            submit a/long
            submit a/short
            blocked long: NotEnoughGpus { gpu, want: 16, free: 0 }
            blocked short: BehindReservation { gpu, of a/long, idle: 8, until +7200s }
            reserve a/long -> n0[0-7] n1[0-7] from +7200s
            reserve a/short -> n0[0-7] n1[0-7] from +690s
            over a/p: Completed
            end a/p: Completed
            place a/short -> n0[0-7] n1[0-7]
            blocked long: NotEnoughGpus { gpu, want: 16, free: 0 }"#]],
    );
}

#[test]
fn a_promise_that_would_run_into_it_is_dropped() {
    check(
        "
        node   n0 n1 gpus=8
        tenant a quota=16 | b quota=0
        run    b/q 1x8 on n0 limit=5h
        run    a/r 1x8 on n1 limit=5h
        submit a/p 1x8 limit=5h
        cycle
        book   off from=1h until=2h nodes=n0 maintenance
        exit   q 0
        cycle
        ",
        expect![[r#"
            submit a/p
            promise a/p -> n0[0-7] by +150s
            stop b/q: Evicted for a/p
            blocked p: ReclaimPending { gpu, want: 8, free: 0, due +150s }
            off keeps n0 from +3600s until +7200s for maintenance
            over b/q: Evicted
            again b/q at the front
            promise dropped a/p: Booked
            blocked q: NotEnoughGpus { gpu, want: 8, free: 0 }
            blocked p: NotEnoughGpus { gpu, want: 8, free: 0 }"#]],
    );
}

#[test]
fn what_is_launched_during_an_absence_is_reckoned_by_the_time_that_it_has_then() {
    check(
        "
        node   n0 gpus=8
        tenant a quota=8
        queued a/p 1x8 limit=1m
        cycle                  # over at +270s, if it has started in its first time for launching
        away   300s
        book   off from=100s until=2h nodes=n0 maintenance
        tick   100s            # it may start still, and would run into it
        ",
        expect![[r#"
            place a/p -> n0[0-7]
            deadlines are counted anew
            off keeps n0 from +100s until +7200s for maintenance, clears +0s
            off clears
            stop a/p: Drained
            off begins"#]],
    );
}
