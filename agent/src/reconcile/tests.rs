//! The core by example: one line in, the actions out.

use std::sync::Arc;

use dure_proto::v1::MigSlice;
use expect_test::{Expect, expect};

use super::*;
use crate::model::{How, Launch, News, Report, StopRequest, Want};

const ID: MemberId = MemberId { job: 7, attempt: 1, member: 0 };

fn launch(gpus: &[u32], start_at_once: bool) -> Arc<Launch> {
    Arc::new(Launch { gpus: gpus.to_vec(), start_at_once, ..Launch::default() })
}

fn order(id: MemberId, sequence: u32, want: Want) -> Input {
    Input::Order(Order { epoch: Epoch(1), seq: JournalSeq(u64::from(sequence)), id, sequence, want })
}

fn stop(grace_ms: u64) -> Want {
    Want::Stop(StopRequest { reason: "cancelled".to_owned(), grace_ms })
}

fn exit(code: i32) -> Exit {
    Exit { how: How::Code(code), started_ms: 1, ended_ms: 2, ..Exit::never_ran("") }
}

/// A core that obeys epoch 1.
fn core() -> Leases {
    Leases::recover("boot".to_owned(), EpochMark { epoch: Epoch(1), ..EpochMark::default() }, Vec::new(), 1).0
}

fn show(actions: &[Action]) -> String {
    let line = |action: &Action| match action {
        Action::PersistEpoch(mark) => format!("epoch {} seq {}", mark.epoch.0, mark.seq.0),
        Action::WriteLease { record, version } => {
            let state = match &record.state {
                Recorded::Prepared => "prepared".to_owned(),
                Recorded::Started => "started".to_owned(),
                Recorded::Stopping(request) => format!("stopping grace={}", request.grace_ms),
                Recorded::Gone(exit) => format!("gone {:?}", exit.how),
            };
            format!("write {} v{version} {state}", record.id)
        }
        Action::Stage { id, .. } => format!("stage {id}"),
        Action::StartShim { id, .. } => format!("start {id}"),
        Action::Adopt { id, same_boot, seal } => format!("adopt {id} same_boot={same_boot} seal={seal}"),
        Action::Stop { id, request } => format!("stop {id} grace={}", request.grace_ms),
        Action::Send(Report { report_id, id, news }) => match news {
            News::Prepared => format!("report {report_id}: {id} prepared"),
            News::Started(pid) => format!("report {report_id}: {id} started {pid}"),
            News::Checkpoint(step, _) => format!("report {report_id}: {id} checkpoint {step}"),
            News::Gone(exit) => format!("report {report_id}: {id} gone {:?}", exit.how),
        },
        Action::RemoveLease(id) => format!("remove {id}"),
        Action::HangUp(why) => format!("hang up: {why}"),
        Action::Note(note) => format!("note {note:?}"),
    };
    actions.iter().map(|action| line(action) + "\n").collect()
}

/// Feeds the inputs; writes complete at once.
fn check(core: &mut Leases, inputs: Vec<Input>, expected: Expect) {
    let mut log = String::new();
    for input in inputs {
        let mut waiting = VecDeque::from([input]);
        while let Some(input) = waiting.pop_front() {
            let actions = core.handle(Millis(0), input);
            log += &show(&actions);
            waiting.extend(actions.into_iter().filter_map(|action| match action {
                Action::WriteLease { record, version } => Some(Input::LeaseSynced { id: record.id, version }),
                Action::PersistEpoch(mark) => Some(Input::EpochSynced(mark)),
                _ => None,
            }));
        }
    }
    expected.assert_eq(&log);
}

#[test]
fn through_the_barrier_to_the_acknowledged_end() {
    check(
        &mut core(),
        vec![
            order(ID, 1, Want::Launch(launch(&[0], false))),
            order(ID, 1, Want::Launch(launch(&[0], false))),
            order(ID, 2, Want::Go(launch(&[0], false))),
            order(ID, 2, Want::Go(launch(&[0], false))),
            Input::Started { id: ID, pid: 42 },
            Input::Gone { id: ID, exit: exit(3) },
            Input::Acked(vec![1, 2, 3]),
            order(ID, 1, Want::Launch(launch(&[0], true))),
        ],
        expect![[r#"
            write 7.1.0 v1 prepared
            report 1: 7.1.0 prepared
            note OrderRepeated(MemberId { job: 7, attempt: 1, member: 0 })
            write 7.1.0 v2 started
            start 7.1.0
            note OrderRepeated(MemberId { job: 7, attempt: 1, member: 0 })
            report 2: 7.1.0 started 42
            write 7.1.0 v3 gone Code(3)
            report 3: 7.1.0 gone Code(3)
            epoch 1 seq 2
            remove 7.1.0
            note OrderRepeated(MemberId { job: 7, attempt: 1, member: 0 })
        "#]],
    );
}

#[test]
fn a_gang_of_one_starts_without_a_barrier_and_a_go_starts_what_was_lost() {
    let other = MemberId { member: 1, ..ID };
    check(
        &mut core(),
        vec![
            order(ID, 1, Want::Launch(launch(&[0], true))),
            order(other, 2, Want::Go(launch(&[1], false))),
            order(other, 1, Want::Launch(launch(&[1], false))),
        ],
        expect![[r#"
            write 7.1.0 v1 started
            start 7.1.0
            write 7.1.1 v1 started
            start 7.1.1
            note OrderRepeated(MemberId { job: 7, attempt: 1, member: 1 })
        "#]],
    );
}

#[test]
fn a_stop_ends_what_runs_and_forbids_what_does_not() {
    let [lost, prepared] = [1, 2].map(|member| MemberId { member, ..ID });
    check(
        &mut core(),
        vec![
            order(lost, 3, stop(5)),
            order(lost, 1, Want::Launch(launch(&[1], true))),
            order(prepared, 1, Want::Launch(launch(&[2], false))),
            order(prepared, 3, stop(5)),
            order(prepared, 2, Want::Go(launch(&[2], false))),
            order(ID, 1, Want::Launch(launch(&[0], true))),
            Input::Started { id: ID, pid: 9 },
            order(ID, 3, stop(30)),
            order(ID, 4, stop(0)),
        ],
        expect![[r#"
            write 7.1.1 v1 gone LaunchFailure("stopped before it was started")
            report 1: 7.1.1 gone LaunchFailure("stopped before it was started")
            note OrderRepeated(MemberId { job: 7, attempt: 1, member: 1 })
            write 7.1.2 v1 prepared
            report 2: 7.1.2 prepared
            write 7.1.2 v2 gone LaunchFailure("stopped before it was started (cancelled)")
            report 3: 7.1.2 gone LaunchFailure("stopped before it was started (cancelled)")
            note OrderRepeated(MemberId { job: 7, attempt: 1, member: 2 })
            write 7.1.0 v1 started
            start 7.1.0
            report 4: 7.1.0 started 9
            write 7.1.0 v2 stopping grace=30
            stop 7.1.0 grace=30
            write 7.1.0 v3 stopping grace=0
            stop 7.1.0 grace=0
        "#]],
    );
}

#[test]
fn a_stop_while_the_lease_is_being_written_starts_nothing() {
    let mut core = core();
    let written = core.handle(Millis(0), order(ID, 1, Want::Launch(launch(&[0], true))));
    assert_eq!(show(&written), "write 7.1.0 v1 started\n");
    assert_eq!(
        show(&core.handle(Millis(0), order(ID, 3, stop(0)))),
        "write 7.1.0 v2 gone LaunchFailure(\"stopped before it was started (cancelled)\")\n"
    );
    assert!(core.handle(Millis(0), Input::LeaseSynced { id: ID, version: 1 }).is_empty());
    assert_eq!(core.handle(Millis(0), Input::LeaseSynced { id: ID, version: 2 }).len(), 1);
}

#[test]
fn an_old_epoch_is_refused_and_a_new_one_waits_for_the_disk() {
    let mut core = core();
    let order = |epoch| {
        let want = Want::Launch(launch(&[0], true));
        Input::Order(Order { epoch: Epoch(epoch), seq: JournalSeq(5), id: ID, sequence: 1, want })
    };
    assert!(matches!(core.handle(Millis(0), order(0))[..], [Action::Note(Note::EpochRefused { .. })]));
    assert_eq!(show(&core.handle(Millis(0), order(4))), "epoch 4 seq 0\n");
    assert!(core.handle(Millis(0), order(4)).is_empty(), "held");
    assert!(matches!(core.handle(Millis(0), order(1))[..], [Action::Note(Note::EpochRefused { .. })]));
    let mark = EpochMark { epoch: Epoch(4), ..EpochMark::default() };
    let obeyed = core.handle(Millis(0), Input::EpochSynced(mark));
    assert!(show(&obeyed).starts_with("write 7.1.0 v1 started\nnote OrderRepeated"));
    let welcome =
        Welcome { epoch: Epoch(3), seq: JournalSeq(0), store_id: String::new(), wanted: Vec::new(), settled: vec![ID] };
    let refused = core.handle(Millis(0), Input::Welcome(welcome));
    assert!(show(&refused).ends_with("hang up: epoch 3 is over, 4 was obeyed\n"));
    assert_eq!(core.len(), 1, "its list of settled members does not count either");
}

#[test]
fn an_epoch_that_cannot_be_written_is_not_obeyed() {
    let mut core = core();
    let want = Want::Launch(launch(&[0], true));
    let order = Order { epoch: Epoch(2), seq: JournalSeq(5), id: ID, sequence: 1, want };
    core.handle(Millis(0), Input::Order(order));
    let failed = core.handle(Millis(0), Input::EpochFailed("disk full".to_owned()));
    assert_eq!(show(&failed), "hang up: the leader's epoch could not be written to disk: disk full\n");
    assert!(core.is_empty());
    assert_eq!(core.mark().epoch, Epoch(1));
}

#[test]
fn what_the_scheduler_does_not_know_is_left_alone_and_what_it_has_settled_goes() {
    let [unknown, settled, wanted] = [0, 1, 2].map(|member| MemberId { member, ..ID });
    let mut core = core();
    for (gpu, id) in [(0, unknown), (1, settled), (2, wanted)] {
        for action in core.handle(Millis(0), order(id, 1, Want::Launch(launch(&[gpu], true)))) {
            if let Action::WriteLease { record, version } = action {
                core.handle(Millis(0), Input::LeaseSynced { id: record.id, version });
            }
        }
        core.handle(Millis(0), Input::Started { id, pid: gpu });
    }
    let Input::Order(wanted) = order(wanted, 1, Want::Launch(launch(&[2], true))) else { return };
    let welcome = Welcome {
        epoch: Epoch(1),
        seq: JournalSeq(9),
        store_id: "s".to_owned(),
        wanted: vec![wanted],
        settled: vec![settled],
    };
    check(
        &mut core,
        vec![Input::Acked(vec![1, 2, 3]), Input::Welcome(welcome), Input::Gone { id: settled, exit: exit(0) }],
        expect![[r#"
            note Quarantined(MemberId { job: 7, attempt: 1, member: 0 })
            write 7.1.1 v2 stopping grace=0
            note OrderRepeated(MemberId { job: 7, attempt: 1, member: 2 })
            stop 7.1.1 grace=0
            write 7.1.1 v3 gone Code(0)
            epoch 1 seq 9
            remove 7.1.1
        "#]],
    );
    let quarantined: Vec<bool> = core.view().iter().map(|view| view.quarantined).collect();
    assert_eq!(quarantined, [true, false]);
}

#[test]
fn a_gpu_that_is_held_is_not_given_away() {
    let next = MemberId { attempt: 2, ..ID };
    check(
        &mut core(),
        vec![order(ID, 1, Want::Launch(launch(&[0, 3], true))), order(next, 1, Want::Launch(launch(&[3], true)))],
        expect![[r#"
            write 7.1.0 v1 started
            start 7.1.0
            write 7.2.0 v1 gone LaunchFailure("GPU 3 is held by member 7.1.0 on this node: it must end first")
            report 1: 7.2.0 gone LaunchFailure("GPU 3 is held by member 7.1.0 on this node: it must end first")
        "#]],
    );
}

#[test]
fn what_is_left_of_a_gpu_is_given_away() {
    let member = |member| MemberId { member, ..ID };
    let part = |milli, first: Option<u32>, gpu| {
        let mig = first.map(|first_slice| MigSlice { profile: "1g.10gb".to_owned(), first_slice });
        let whole = launch(&[gpu], true);
        Want::Launch(Arc::new(Launch { gpu_milli: milli, mig, ..Launch::clone(&whole) }))
    };
    check(
        &mut core(),
        vec![
            order(member(0), 1, part(600, None, 0)),
            order(member(1), 1, part(400, None, 0)),
            order(member(2), 1, part(1, None, 0)),
            order(member(3), 1, part(125, Some(4), 1)),
            order(member(4), 1, part(125, Some(5), 1)),
            order(member(5), 1, part(125, Some(5), 1)),
            order(member(6), 1, part(125, None, 1)),
            order(member(7), 1, part(0, None, 1)),
        ],
        expect![[r#"
            write 7.1.0 v1 started
            start 7.1.0
            write 7.1.1 v1 started
            start 7.1.1
            write 7.1.2 v1 gone LaunchFailure("GPU 0 is held by member 7.1.1 on this node: it must end first")
            report 1: 7.1.2 gone LaunchFailure("GPU 0 is held by member 7.1.1 on this node: it must end first")
            write 7.1.3 v1 started
            start 7.1.3
            write 7.1.4 v1 started
            start 7.1.4
            write 7.1.5 v1 gone LaunchFailure("GPU 1 is held by member 7.1.4 on this node: it must end first")
            report 2: 7.1.5 gone LaunchFailure("GPU 1 is held by member 7.1.4 on this node: it must end first")
            write 7.1.6 v1 gone LaunchFailure("GPU 1 is held by member 7.1.3 on this node: it must end first")
            report 3: 7.1.6 gone LaunchFailure("GPU 1 is held by member 7.1.3 on this node: it must end first")
            write 7.1.7 v1 gone LaunchFailure("GPU 1 is held by member 7.1.3 on this node: it must end first")
            report 4: 7.1.7 gone LaunchFailure("GPU 1 is held by member 7.1.3 on this node: it must end first")
        "#]],
    );
}

#[test]
fn a_restart_adopts_what_may_run_and_gives_up_what_a_reboot_has_ended() {
    let record = |member, boot_id: &str, state| LeaseRecord {
        id: MemberId { member, ..ID },
        sequence: 2,
        seq: JournalSeq(8),
        boot_id: boot_id.to_owned(),
        launch: Some(launch(&[member], false)),
        state,
    };
    let stopping = Recorded::Stopping(StopRequest { reason: "evicted".to_owned(), grace_ms: 7 });
    let (mut core, actions) = Leases::recover(
        "boot".to_owned(),
        EpochMark { epoch: Epoch(1), ..EpochMark::default() },
        vec![
            record(0, "boot", Recorded::Prepared),
            record(1, "boot", Recorded::Started),
            record(2, "boot", stopping),
            record(3, "boot", Recorded::Gone(exit(5))),
            record(4, "earlier", Recorded::Prepared),
            record(5, "earlier", Recorded::Started),
        ],
        100,
    );
    expect![[r#"
        report 100: 7.1.0 prepared
        adopt 7.1.1 same_boot=true seal=false
        adopt 7.1.2 same_boot=true seal=true
        report 101: 7.1.3 gone Code(5)
        write 7.1.4 v1 gone Unknown("the node was restarted before it started")
        adopt 7.1.5 same_boot=false seal=false
    "#]]
    .assert_eq(&show(&actions));
    assert_eq!(core.mark().seq, JournalSeq(8), "what was obeyed counts as seen");
    let [started, stopping] = [1, 2].map(|member| MemberId { member, ..ID });
    check(
        &mut core,
        vec![
            Input::NotStarted(started),
            Input::Started { id: started, pid: 1 },
            Input::Started { id: stopping, pid: 2 },
        ],
        expect![[r#"
            start 7.1.1
            report 102: 7.1.1 started 1
            stop 7.1.2 grace=7
            report 103: 7.1.2 started 2
        "#]],
    );
}

#[test]
fn reports_come_again_until_they_are_acknowledged() {
    let mut core = core();
    core.handle(Millis(0), order(ID, 3, stop(0)));
    core.handle(Millis(10), Input::LeaseSynced { id: ID, version: 1 });
    let at = |core: &mut Leases, ms| show(&core.handle(Millis(ms), Input::Tick)).lines().count();
    assert_eq!(
        [at(&mut core, 11), at(&mut core, 10 + REPORT_RETRY_MS), at(&mut core, 20 + REPORT_RETRY_MS)],
        [0, 1, 0]
    );
    core.handle(Millis(0), Input::Acked(vec![99, 1, 1]));
    assert!(core.is_empty());
    assert_eq!(at(&mut core, 10 * REPORT_RETRY_MS), 0);
}

#[test]
fn a_disk_that_refuses_starts_nothing_and_tells_an_end_only_when_it_cannot_come_back() {
    let failed = |version, untouched| Input::LeaseFailed { id: ID, version, error: "full".to_owned(), untouched };
    let mut fresh = core();
    fresh.handle(Millis(0), order(ID, 1, Want::Launch(launch(&[0], true))));
    assert!(
        show(&fresh.handle(Millis(0), failed(1, true)))
            .ends_with("report 1: 7.1.0 gone LaunchFailure(\"its lease could not be written to disk: full\")\n")
    );
    let mut doubtful = core();
    doubtful.handle(Millis(0), order(ID, 1, Want::Launch(launch(&[0], true))));
    assert!(matches!(doubtful.handle(Millis(0), failed(1, false))[..], [Action::Note(_)]));
    let again = doubtful.handle(Millis(0), Input::Tick);
    assert!(show(&again).starts_with("write 7.1.0 v2 gone"), "the end must reach the disk first");
    assert_eq!(doubtful.handle(Millis(0), Input::LeaseSynced { id: ID, version: 2 }).len(), 1);
}

#[test]
fn a_later_leader_may_launch_what_an_earlier_one_saw_end() {
    let mut core = core();
    let launch_at = |epoch: u64, sequence: u32| {
        let want = Want::Launch(launch(&[0], true));
        Input::Order(Order { epoch: Epoch(epoch), seq: JournalSeq(u64::from(sequence)), id: ID, sequence, want })
    };
    core.handle(Millis(0), launch_at(1, 1));
    core.handle(Millis(0), Input::LeaseSynced { id: ID, version: 1 });
    core.handle(Millis(0), Input::Gone { id: ID, exit: exit(0) });
    core.handle(Millis(0), Input::LeaseSynced { id: ID, version: 2 });
    core.handle(Millis(0), Input::Acked(vec![1]));
    assert!(core.is_empty(), "{:?}", core.view());
    // Late orders of the same leader start nothing.
    expect!["note OrderRepeated(MemberId { job: 7, attempt: 1, member: 0 })\n"]
        .assert_eq(&show(&core.handle(Millis(0), launch_at(1, 2))));
    // The journal was restored to before the end: its leader means it.
    let mark = EpochMark { epoch: Epoch(2), ..core.mark() };
    core.handle(Millis(0), launch_at(2, 1));
    expect!["write 7.1.0 v1 started\n"].assert_eq(&show(&core.handle(Millis(0), Input::EpochSynced(mark))));
}

/// What was removed is forgotten when a later leader comes; from then on its epoch alone keeps late orders out: before it is
/// on disk, when it cannot be written, and after a restart.
#[test]
fn after_a_later_leader_has_come_a_late_order_for_what_was_removed_starts_nothing() {
    let welcome = |epoch: u64| {
        let (wanted, settled) = (Vec::new(), Vec::new());
        Input::Welcome(Welcome { epoch: Epoch(epoch), seq: JournalSeq(60), store_id: String::new(), wanted, settled })
    };
    // Under epoch 1, with a sequence that is higher than any that was obeyed.
    let late = || order(ID, 50, Want::Launch(launch(&[0], true)));
    let refused = "note EpochRefused { got: Epoch(1), highest: Epoch(2) }\n";
    let ended = || {
        let mut core = core();
        core.handle(Millis(0), order(ID, 1, Want::Launch(launch(&[0], true))));
        core.handle(Millis(0), Input::LeaseSynced { id: ID, version: 1 });
        core.handle(Millis(0), Input::Gone { id: ID, exit: exit(0) });
        core.handle(Millis(0), Input::LeaseSynced { id: ID, version: 2 });
        core.handle(Millis(0), Input::Acked(vec![1]));
        core.handle(Millis(0), Input::EpochSynced(EpochMark { epoch: Epoch(1), seq: JournalSeq(1), ..core.mark() }));
        assert!(core.is_empty(), "its end is acknowledged");
        core
    };
    let mut core = ended();
    let again = "note OrderRepeated(MemberId { job: 7, attempt: 1, member: 0 })\n";
    assert_eq!(show(&core.handle(Millis(0), late())), again, "the same leader's late order");
    assert_eq!(show(&core.handle(Millis(0), welcome(2))), "epoch 2 seq 50\n");
    assert_eq!(show(&core.handle(Millis(0), late())), refused, "the epoch is on its way to the disk");
    let mut failed = ended();
    failed.handle(Millis(0), welcome(2));
    failed.handle(Millis(0), Input::EpochFailed("disk full".to_owned()));
    assert_eq!(show(&failed.handle(Millis(0), late())), refused, "the disk may have it all the same");
    let mark = EpochMark { epoch: Epoch(2), ..core.mark() };
    core.handle(Millis(0), Input::EpochSynced(mark.clone()));
    assert_eq!(show(&core.handle(Millis(0), late())), refused, "the epoch is obeyed");
    let (mut restarted, _) = Leases::recover("boot".to_owned(), mark, Vec::new(), 10);
    assert_eq!(show(&restarted.handle(Millis(0), late())), refused, "after a restart");
    let hung_up = show(&restarted.handle(Millis(0), welcome(1)));
    assert_eq!(hung_up, format!("{refused}hang up: epoch 1 is over, 2 was obeyed\n"));
}

#[test]
fn what_is_kept_goes_on_and_what_is_not_here_is_no_start() {
    let other = MemberId { member: 1, ..ID };
    check(
        &mut core(),
        vec![
            order(ID, 1, Want::Launch(launch(&[0], true))),
            order(ID, 1, Want::Keep),
            Input::Started { id: ID, pid: 9 },
            order(ID, 2, Want::Keep),
            order(other, 1, Want::Keep),
        ],
        expect![[r#"
            write 7.1.0 v1 started
            start 7.1.0
            note OrderRepeated(MemberId { job: 7, attempt: 1, member: 0 })
            report 1: 7.1.0 started 9
            note OrderRepeated(MemberId { job: 7, attempt: 1, member: 0 })
            hang up: the scheduler relies on member 7.1.1, which is not here any more
        "#]],
    );
}
