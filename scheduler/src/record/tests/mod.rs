//! Round trips, old bytes, and bytes that are not ours.

mod golden;
mod strategies;

use std::collections::BTreeSet;

use dure_core::ids::Seq;
use dure_core::{Cluster, Policy};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use super::*;
use strategies::event;

/// One name per kind of event; a new kind does not compile until it is here.
fn kind(event: &Event) -> &'static str {
    macro_rules! names {
        ($($name:ident),+ $(,)?) => {
            match event { $(Event::$name { .. } => stringify!($name),)+ }
        };
    }
    names!(
        PoolDefined,
        TenantDefined,
        TenantChanged,
        Paused,
        UserSeen,
        BudgetPeriodBegan,
        BudgetCarried,
        QuotaDated,
        QuotaBegan,
        QuotaEnded,
        BookingMade,
        BookingCleared,
        BookingBegan,
        BookingEnded,
        BookingCancelled,
        NodeJoined,
        NodeChanged,
        NodeContact,
        NodeRebooted,
        NodeCordoned,
        NodeSpared,
        GpusFenced,
        JobSubmitted,
        JobHeld,
        JobReleased,
        JobEligible,
        ArrayIndexStarted,
        ArrayStopped,
        JobPlaced,
        MemberPrepared,
        GangReleased,
        MemberStarted,
        MemberGone,
        MemberProven,
        AttemptStopping,
        AttemptEnded,
        Promised,
        PromiseRenewed,
        CountedAnew,
        PromiseDropped,
        SurvivorsHeld,
        Planned,
        WantedBack,
        JobCheckpointed,
        JobIdle,
        JobBusy,
        AvoidanceLifted,
        JobRequeued,
        JobEnded,
        JobForgotten,
        RequestAnswered,
        CountersRestored,
        TenantRestored,
        UserRestored,
        NodeRestored,
        JobRestored,
        PromiseRestored,
        WorkloadRestored,
    )
}

/// How many kinds there are: the length of the list in `kind`.
const KINDS: usize = 58;

#[test]
fn random_events_are_of_every_kind() {
    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeSet::new();
    for _ in 0..3000 {
        seen.insert(kind(&event().new_tree(&mut runner).expect("a tree").current()));
    }
    assert_eq!(seen.len(), KINDS, "{seen:?}");
}

proptest! {
    #[test]
    fn decodes_what_it_encodes(time in any::<u64>(), events in vec(event(), 0..12)) {
        let bytes = encode(Time(time), &events);
        prop_assert_eq!(decode(&bytes), Ok((Time(time), events)));
    }

    #[test]
    fn is_the_message_of_the_schema(time in any::<u64>(), events in vec(event(), 0..6)) {
        let bytes = encode(Time(time), &events);
        let records = events.iter().map(encode::record).collect();
        prop_assert_eq!(bytes, v1::Batch { time_ms: time, events: records, calls: Vec::new() }.encode_to_vec());
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
        let _ = SnapshotReader::open(&bytes).map(|(_, batches)| batches.count());
    }

    #[test]
    fn a_changed_byte_never_panics(events in vec(event(), 1..4), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = encode(Time(1), &events);
        let at = at.index(bytes.len());
        bytes[at] = to;
        let _ = decode(&bytes);
    }

    #[test]
    fn a_cut_payload_is_never_taken_for_a_whole_one(events in vec(event(), 1..4), at in any::<prop::sample::Index>()) {
        let bytes = encode(Time(1), &events);
        let cut = at.index(bytes.len());
        // Between two events the cut leaves a well-formed payload: the journal's count and checksum tell it apart.
        if let Ok((_, fewer)) = decode(&bytes[..cut]) {
            prop_assert!(fewer.len() < events.len());
            prop_assert_eq!(&fewer[..], &events[..fewer.len()]);
        }
    }
}

fn event_bytes(wire: v1::record::Event) -> Vec<u8> {
    v1::Batch {
        time_ms: 1,
        events: vec![v1::Record { event: None }, v1::Record { event: Some(wire) }],
        calls: Vec::new(),
    }
    .encode_to_vec()
}

fn fault_of(wire: v1::record::Event) -> String {
    // The first record is of an unknown kind; the second is looked at alone.
    let both = event_bytes(wire.clone());
    let first = decode(&both).expect_err("an unknown kind");
    assert_eq!(first, RecordError::Event { index: 0, fault: Fault::UnknownEvent });
    let alone =
        v1::Batch { time_ms: 1, events: vec![v1::Record { event: Some(wire) }], calls: Vec::new() }.encode_to_vec();
    decode(&alone).expect_err("a fault").to_string()
}

#[test]
fn every_fault_names_its_field_and_value() {
    use v1::record::Event as Wire;
    let contact = Wire::NodeContact(v1::NodeContact { node: 1, contact: 9 });
    assert_eq!(
        fault_of(contact),
        "event 0 of the payload: NodeContact.contact has the unknown value 9: a newer version wrote it; use the newer binary"
    );
    let placed = Wire::JobPlaced(v1::JobPlaced { job: 1, attempt: 1, pool: 256, ..Default::default() });
    assert_eq!(
        fault_of(placed),
        "event 0 of the payload: JobPlaced.pool is 256, it must lie between 0 and 255: it is damaged; restore a backup"
    );
    let nowhere = Wire::JobPlaced(v1::JobPlaced { job: 1, attempt: 1, pool: 0, ..Default::default() });
    assert!(fault_of(nowhere).contains("JobPlaced.members is 0, it must lie between 1 and"));
    let ended = Wire::JobEnded(v1::JobEnded { job: 1, outcome: 0 });
    assert!(fault_of(ended).contains("JobEnded.outcome is missing"));
    let submitted = Wire::JobSubmitted(Box::default());
    assert!(fault_of(submitted).contains("JobSubmitted.spec is missing"));
    let overflowing = v1::Request {
        shape: Some(v1::Shape { members: u32::MAX, gpus: 2, member_gpus: Vec::new() }),
        pools: vec![0],
        ..v1::Request::default()
    };
    let spec = v1::JobSpec { request: Some(overflowing), ..v1::JobSpec::default() };
    let submitted = Wire::JobSubmitted(Box::new(v1::JobSubmitted { spec: Some(spec), ..Default::default() }));
    assert!(fault_of(submitted).contains("Shape.members is 4294967295"));
}

#[test]
fn snapshot_tells_what_is_wrong_with_it() {
    let cluster = Cluster::new(Policy::standard());
    let bytes = encode_snapshot(&cluster, Seq(7), Time(9)).expect("small");
    let (header, batches) = SnapshotReader::open(&bytes).expect("a header");
    assert_eq!((header.seq, header.time), (Seq(7), Time(9)));
    let events: Vec<Event> = batches.flat_map(|batch| batch.expect("a batch")).collect();
    assert_eq!(events, cluster.snapshot().collect::<Vec<_>>());
    for cut in 0..bytes.len() {
        let outcome =
            SnapshotReader::open(&bytes[..cut]).and_then(|(_, batches)| batches.collect::<Result<Vec<_>, _>>());
        outcome.expect_err("a snapshot that is cut anywhere is no snapshot");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    let outcome = SnapshotReader::open(&longer).and_then(|(_, batches)| batches.collect::<Result<Vec<_>, _>>());
    assert_eq!(outcome, Err(SnapshotError::Malformed { why: "something follows its end" }));
    let newer = v1::SnapshotHeader { format: SNAPSHOT_FORMAT + 1, seq: 1, time_ms: 1 };
    let part = v1::SnapshotPart { part: Some(v1::snapshot_part::Part::Header(newer)) };
    let newer = SnapshotReader::open(&part.encode_length_delimited_to_vec()).map(drop);
    assert_eq!(newer, Err(SnapshotError::NewerFormat { found: 2 }));
}

/// The bytes of a call as they were written once; they mean the same for ever, and change no event beside them.
#[test]
fn calls_travel_beside_the_events() {
    let call = CallRecord {
        user: "ana".into(),
        role: "member".into(),
        origin: "10.0.0.7".into(),
        method: "Jobs/Cancel".into(),
        tenant: "fusion".into(),
        job: 7,
        what: "job 7".into(),
        reason: "no use".into(),
        events: 2,
    };
    let events = [Event::JobForgotten { job: dure_core::ids::JobId(1) }];
    let bytes = encode_with_calls(Time(5), &events, std::slice::from_ref(&call));
    let recorded = decode_with_calls(&bytes).expect("it decodes");
    assert_eq!(recorded, Recorded { time: Time(5), events: events.to_vec(), calls: vec![call.clone()] });
    assert_eq!(decode(&bytes).expect("it decodes"), (Time(5), events.to_vec()));
    expect_test::expect!["0805120582030208011a3f0a03616e6112066d656d6265721a0831302e302e302e37220b4a6f62732f43616e63656c2a06667573696f6e30073a056a6f62203742066e6f207573654802"].assert_eq(&hex::encode(&bytes));
    let long = CallRecord { what: "ä".repeat(600).into(), ..call };
    let cut = decode_with_calls(&encode_with_calls(Time(5), &[], &[long])).expect("it decodes");
    assert_eq!(cut.calls[0].what.len(), 512);
}
