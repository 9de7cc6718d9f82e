//! A lease as bytes: protobuf, so that an agent reads what an older or newer one wrote.
//!
//! Comes in: `LeaseRecord`. Goes out: bytes, and back. Fields are added, never renumbered; what is missing or unknown
//! makes a record damaged, never something else than it was.

use std::sync::Arc;

use dure_proto::v1;
use prost::Message as _;

use crate::{
    convert,
    model::{JournalSeq, LeaseRecord, MemberId, Recorded, StopRequest},
};

#[derive(Clone, PartialEq, prost::Message)]
struct Wire {
    #[prost(uint64, tag = "1")]
    job_id: u64,
    #[prost(uint32, tag = "2")]
    attempt: u32,
    #[prost(uint32, tag = "3")]
    member: u32,
    #[prost(uint32, tag = "4")]
    sequence: u32,
    #[prost(uint64, tag = "5")]
    seq: u64,
    #[prost(string, tag = "6")]
    boot_id: String,
    #[prost(message, optional, tag = "7")]
    launch: Option<v1::Launch>,
    /// 1 prepared, 2 started, 3 stopping, 4 gone.
    #[prost(uint32, tag = "8")]
    state: u32,
    #[prost(message, optional, tag = "9")]
    stop: Option<v1::Stop>,
    #[prost(message, optional, tag = "10")]
    exit: Option<v1::Exit>,
}

pub(super) fn encode(record: &LeaseRecord) -> Vec<u8> {
    let (state, stop, exit) = match &record.state {
        Recorded::Prepared => (1, None, None),
        Recorded::Started => (2, None, None),
        Recorded::Stopping(stop) => (3, Some(v1::Stop { reason: stop.reason.clone(), grace_ms: stop.grace_ms }), None),
        Recorded::Gone(exit) => (4, None, Some(convert::exit_to_wire(exit))),
    };
    let wire = Wire {
        job_id: record.id.job,
        attempt: record.id.attempt,
        member: record.id.member,
        sequence: record.sequence,
        seq: record.seq.0,
        boot_id: record.boot_id.clone(),
        launch: record.launch.as_deref().cloned(),
        state,
        stop,
        exit,
    };
    wire.encode_to_vec()
}

pub(super) fn decode(bytes: &[u8]) -> Result<LeaseRecord, String> {
    let wire = Wire::decode(bytes).map_err(|err| err.to_string())?;
    let state = match (wire.state, wire.stop, wire.exit) {
        (1, _, _) => Recorded::Prepared,
        (2, _, _) => Recorded::Started,
        (3, Some(stop), _) => Recorded::Stopping(StopRequest { reason: stop.reason, grace_ms: stop.grace_ms }),
        (4, _, Some(exit)) => Recorded::Gone(convert::exit_from_wire(exit)),
        (state, _, _) => return Err(format!("state {state} is unknown or incomplete")),
    };
    if wire.launch.is_none() && !matches!(state, Recorded::Gone(_)) {
        return Err("a member that may run has no launch".to_owned());
    }
    Ok(LeaseRecord {
        id: MemberId { job: wire.job_id, attempt: wire.attempt, member: wire.member },
        sequence: wire.sequence,
        seq: JournalSeq(wire.seq),
        boot_id: wire.boot_id,
        launch: wire.launch.map(Arc::new),
        state,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Exit, How};

    fn record(state: Recorded) -> LeaseRecord {
        LeaseRecord {
            id: MemberId { job: 7, attempt: 2, member: 3 },
            sequence: 2,
            seq: JournalSeq(99),
            boot_id: "boot".to_owned(),
            launch: Some(Arc::new(v1::Launch { gpus: vec![1, 2], job_name: "train".to_owned(), ..Default::default() })),
            state,
        }
    }

    #[test]
    fn every_state_comes_back_as_it_was() {
        let end = Exit {
            timed_out: true,
            started_ms: 5,
            ended_ms: 9,
            detail: "memory".to_owned(),
            how: How::Signal(9),
            ..Exit::never_ran("")
        };
        for state in [
            Recorded::Prepared,
            Recorded::Started,
            Recorded::Stopping(StopRequest { reason: "evicted".to_owned(), grace_ms: 30 }),
            Recorded::Gone(end),
            Recorded::Gone(Exit::never_ran("no such file")),
            Recorded::Gone(Exit::unknown("the node was restarted")),
        ] {
            let lease = record(state);
            assert_eq!(decode(&encode(&lease)), Ok(lease));
        }
    }

    #[test]
    fn garbage_and_half_a_record_are_refused() {
        let bytes = encode(&record(Recorded::Started));
        assert!(decode(&bytes[..bytes.len() - 3]).is_err());
        assert!(decode(b"\xff\xff\xff").is_err());
        assert!(decode(b"").is_err(), "an empty file is no lease");
    }
}
